"""The one page that the author of a probe reads.

A probe measures and classifies; it has no thresholds, prints nothing, opens no socket itself (it asks
``context.network``) and never retries a sample: a retry erases the symptom. ``measure`` raises
ProbeUnavailable only if it could not run at all; network trouble is data. It records every attempt.
What takes several steps is a stepper (see Stepper) without I/O, so that it can be tested without a network.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from enum import StrEnum
from typing import Any, Generic, Protocol, TypeVar

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
)
from probes.model import Target, Vantage, value

O = TypeVar("O")  # noqa: E741 - the contract's own name for "options"
M = TypeVar("M")
Request = TypeVar("Request", covariant=True)
Reply = TypeVar("Reply", contravariant=True)
Result = TypeVar("Result", covariant=True)


class Capability(StrEnum):
    """What a probe needs of this host beyond an ordinary user's sockets."""

    ICMP_ECHO = "icmp-echo"  # ping_group_range or CAP_NET_RAW
    IPV6 = "ipv6"


class ProbeUnavailable(Exception):
    """The probe could not run at all; the message says why and what would let it. Says nothing of the network."""


class Clock(Protocol):
    def monotonic(self) -> float:
        """Seconds; never steps back. All deadlines are on this scale."""

    def utc(self) -> datetime:
        """For the timeline only, never for a duration."""

    async def sleep(self, seconds: float) -> None: ...


class Network(Protocol):
    """Everything a probe may ask of the machine. ``probes.net.kernel.KernelNetwork`` is the real one.

    Nothing here raises for network trouble, but open_stream(), which raises NetworkFailure; each call keeps
    to the run's packet-rate ceiling. echo() raises ProbeUnavailable where ICMP sockets are not allowed.
    """

    async def lookup(self, host: str, timeout_s: float) -> HostLookup: ...

    async def handshake(self, request: HandshakeRequest) -> Handshake:
        """Connect and close at once."""

    async def open_stream(self, request: HandshakeRequest) -> Stream: ...

    async def echo(self, request: EchoRequest) -> EchoSeries: ...

    async def stamp(self, request: StampRequest) -> StampSeries: ...

    async def datagram(self, request: DatagramRequest) -> DatagramReply: ...

    async def dns(self, request: DnsRequest) -> DnsReply: ...

    async def bird(self, request: BirdRequest) -> BirdReply: ...

    def resolver_config(self) -> ResolverConfig: ...

    def local_route(self, address: str) -> LocalRoute: ...

    def conntrack(self) -> ConntrackReading: ...

    def capabilities(self) -> frozenset[Capability]: ...


@value
class Context:
    """What a probe is given: the machine, the time, and how long it may take (absolute, monotonic)."""

    network: Network
    clock: Clock
    vantage: Vantage
    deadline: float

    def remaining(self) -> float:
        """Seconds left before the deadline, never negative."""
        return max(0.0, self.deadline - self.clock.monotonic())


class Stepper(Protocol, Generic[Request, Reply, Result]):
    """A measurement of several steps as a pure state machine; the loop around it does the I/O."""

    def next(self) -> Request | None: ...

    def tell(self, reply: Reply) -> None: ...

    def result(self) -> Result: ...


@value
class Probe(Generic[O, M]):
    """A record, not a base class: everything the registry and the runner know of a probe."""

    name: str
    schema: str  # "<name>/<version>": changes when the measurement's meaning does
    summary: str
    options: type[O]  # frozen value with defaults
    measurement: type[M]
    measure: Callable[[Context, Target, O], Awaitable[M]]
    needs: frozenset[Capability] = frozenset()
    takes_s: Callable[[O], float] | None = None  # at most, by these options; None: less than any run has


AnyProbe = Probe[Any, Any]
