"""A network whose every answer is a function that the test writes; what was asked is kept in ``asked``.

network = ScriptedNetwork(clock, handshake=lambda request: open_handshake(rtt_s=0.05))
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from probes.contract import Capability, Context, ProbeUnavailable
from probes.exchanges import (
    BirdReply,
    BirdRequest,
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
    TimestampSource,
)
from probes.model import Failure, FailureKind, Outcome, Vantage
from tests.fakes.clock import FakeClock


def unscripted(request: Any) -> Any:
    raise AssertionError(f"the test scripted no answer to {request!r}")


class ScriptedNetwork:
    def __init__(
        self,
        clock: FakeClock,
        *,
        lookup: Callable[[str], HostLookup] = unscripted,
        handshake: Callable[[HandshakeRequest], Handshake] = unscripted,
        stream: Callable[[HandshakeRequest], Stream] = unscripted,
        echo: Callable[[EchoRequest], EchoSeries] | None = None,
        stamp: Callable[[StampRequest], StampSeries] = unscripted,
        datagram: Callable[[DatagramRequest], DatagramReply] = unscripted,
        dns: Callable[[DnsRequest], DnsReply] = unscripted,
        bird: Callable[[BirdRequest], BirdReply] = unscripted,
        config: ResolverConfig | None = None,
        route: LocalRoute | None = None,
        conntrack: ConntrackReading | None = None,
        capabilities: frozenset[Capability] = frozenset(),
    ) -> None:
        self.clock = clock
        self.asked: list[Any] = []
        self._lookup, self._handshake, self._stream, self._echo = lookup, handshake, stream, echo
        self._stamp, self._datagram, self._dns = stamp, datagram, dns
        self._bird = bird
        self._config = config or ResolverConfig(nameservers=(), search=(), options=(), source="test")
        self._route = route or LocalRoute(source="192.0.2.1", mtu=1500)
        self._conntrack = conntrack or ConntrackReading(reason="not there")
        self._capabilities = capabilities

    async def lookup(self, host: str, timeout_s: float) -> HostLookup:
        self.asked.append(host)
        answer = self._lookup(host)
        await self.clock.sleep(answer.seconds)
        return answer

    async def handshake(self, request: HandshakeRequest) -> Handshake:
        self.asked.append(request)
        answer = self._handshake(request)
        await self.clock.sleep(answer.seconds)
        return answer

    async def open_stream(self, request: HandshakeRequest) -> Stream:
        self.asked.append(request)
        return self._stream(request)

    async def echo(self, request: EchoRequest) -> EchoSeries:
        self.asked.append(request)
        if self._echo is None:
            raise ProbeUnavailable("no ICMP socket is allowed here")
        answer = self._echo(request)
        await self.clock.sleep(request.count * request.interval_s)
        return answer

    async def stamp(self, request: StampRequest) -> StampSeries:
        self.asked.append(request)
        answer = self._stamp(request)
        await self.clock.sleep(request.count * request.interval_s)
        return answer

    async def datagram(self, request: DatagramRequest) -> DatagramReply:
        self.asked.append(request)
        answer = self._datagram(request)
        await self.clock.sleep(answer.seconds)
        return answer

    async def dns(self, request: DnsRequest) -> DnsReply:
        self.asked.append(request)
        answer = self._dns(request)
        await self.clock.sleep(answer.seconds)
        return answer

    async def bird(self, request: BirdRequest) -> BirdReply:
        self.asked.append(request)
        answer = self._bird(request)
        await self.clock.sleep(answer.seconds)
        return answer

    def resolver_config(self) -> ResolverConfig:
        return self._config

    def local_route(self, address: str) -> LocalRoute:
        return self._route

    def conntrack(self) -> ConntrackReading:
        return self._conntrack

    def capabilities(self) -> frozenset[Capability]:
        return self._capabilities


def context(network: ScriptedNetwork, seconds: float = 60.0) -> Context:
    return Context(
        network=network,
        clock=network.clock,
        vantage=Vantage(name="test"),
        deadline=network.clock.monotonic() + seconds,
    )


def open_handshake(rtt_s: float = 0.01, *, retransmits: int = 0) -> Handshake:
    return Handshake(
        outcome=Outcome.ANSWERED,
        seconds=rtt_s + retransmits,
        rtt_s=None if retransmits else rtt_s,
        timestamp_source=TimestampSource.TCP_INFO,
        syn_retransmits=retransmits,
        source_address="192.0.2.1",
        source_port=40000,
    )


def failed_handshake(outcome: Outcome, failure: Failure | None = None, seconds: float = 1.0) -> Handshake:
    return Handshake(
        outcome=outcome,
        seconds=seconds,
        rtt_s=None,
        timestamp_source=TimestampSource.USER,
        syn_retransmits=None,
        source_address="192.0.2.1",
        source_port=40000,
        failure=failure or Failure(kind=FailureKind.TIMEOUT, operation="connect"),
    )
