"""The machine's own network: probes.contract.Network with real sockets."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from probes.contract import Capability, Clock
from probes.exchanges import (
    BirdReply,
    BirdRequest,
    ConnectFailure,
    ConntrackReading,
    DatagramReply,
    DatagramRequest,
    DnsReply,
    DnsRequest,
    EchoRequest,
    EchoSeries,
    Handshake,
    HandshakeRequest,
    HostLookup,
    LocalRoute,
    ResolverConfig,
    StampRequest,
    StampSeries,
    Stream,
    TlsRequest,
)
from probes.failures import timed_out
from probes.net import conntrack, datagram, dns, lookup, privileges, resolver, route
from probes.net.echo import Echoes
from probes.net.pacing import Pacing
from probes.net.raw import RawStream
from probes.net.stream import TcpStream
from probes.net.tcp import Attempt, attempt

if TYPE_CHECKING:
    from probes.session import DatabaseSession  # with all of the PostgreSQL protocol


class KernelNetwork:
    """Every packet waits for the run's ceiling, every connection for its address's; waiting is never measured.

    ``packets_per_second`` counts packets over all targets, ``connections_per_second`` TCP connections to one address.
    A connect with its own TTL does not count as a connection: it is meant to die on the way. Retransmissions of the
    kernel are not paced.
    """

    def __init__(
        self,
        clock: Clock,
        packets_per_second: float = 200.0,
        connections_per_second: float = 5.0,
        resolver_path: Path = resolver.DEFAULT_PATH,
    ) -> None:
        self._clock = clock
        self._pacing = Pacing(clock, packets_per_second, connections_per_second)
        self._echoes = Echoes(clock, self._pacing)
        self._resolver_path = resolver_path

    async def lookup(self, host: str, timeout_s: float) -> HostLookup:
        """getaddrinfo in a thread of its own: the deadline holds, whatever the resolver does."""
        return await lookup.lookup(host, timeout_s, self._clock)

    async def handshake(self, request: HandshakeRequest) -> Handshake:
        """Connect and close at once. A missing route is UNREACHABLE, kind LOCAL (see probes.net.tcp)."""
        tried = await self._attempt(request)
        if tried.sock is not None:
            tried.sock.close()
        return tried.handshake

    async def open_stream(self, request: HandshakeRequest) -> Stream:
        """Raises ConnectFailure, a NetworkFailure that also has the Handshake."""
        tried = await self._attempt(request)
        if tried.sock is None:
            raise ConnectFailure(tried.handshake.failure or timed_out("connect"), tried.handshake)
        return TcpStream(RawStream(tried.sock, self._clock, tried.pending_errno), tried.handshake)

    def libpq_session(self, address: str, port: int, tls: TlsRequest, sslmode: str) -> DatabaseSession:
        """A conversation that libpq holds, for the authentication methods that netdiag does not speak."""
        from probes.net.libpq import LibpqSession

        return LibpqSession(self._clock, address, port, tls, sslmode)

    async def echo(self, request: EchoRequest) -> EchoSeries:
        """Raises ProbeUnavailable where neither kind of ICMP socket may be opened."""
        return await self._echoes.measure(request)

    async def stamp(self, request: StampRequest) -> StampSeries:
        """Raises ValueError where a packet would be shorter than STAMP's."""
        from probes.net.stamp import stamp  # few runs have a reflector to ask

        return await stamp(request, self._clock, self._pacing)

    async def datagram(self, request: DatagramRequest) -> DatagramReply:
        await self._pacing.packet()
        return await datagram.datagram(request, self._clock)

    async def dns(self, request: DnsRequest) -> DnsReply:
        """One message, one server, one transport; over TCP the time includes the handshake."""
        await self._pacing.packet()
        return await dns.exchange(request, self._clock)

    async def bird(self, request: BirdRequest) -> BirdReply:
        """No packet leaves this host."""
        from probes.net.bird import ask  # few plans name a router

        return await ask(request, self._clock)

    def resolver_config(self) -> ResolverConfig:
        return resolver.read_resolver_config(self._resolver_path)

    def local_route(self, address: str) -> LocalRoute:
        return route.local_route(address)

    def conntrack(self) -> ConntrackReading:
        return conntrack.read_conntrack()

    def capabilities(self) -> frozenset[Capability]:
        return privileges.capabilities()

    async def close(self) -> None:
        """Nothing is held between calls; here for symmetry with networks that hold something."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _attempt(self, request: HandshakeRequest) -> Attempt:
        if request.ttl is None:
            await self._pacing.connection(request.address)
        else:
            await self._pacing.packet()
        return await attempt(request, self._clock)
