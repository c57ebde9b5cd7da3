"""Frozen values that every probe shares: who measures, what is measured, and how one attempt ended.

Units are SI throughout (seconds, bytes); "no data" is ``None``, never 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Generic, TypeVar, dataclass_transform

M = TypeVar("M")
T = TypeVar("T")


@dataclass_transform(frozen_default=True, kw_only_default=True)
def value(cls: type[T]) -> type[T]:
    """Make ``cls`` a frozen, slotted, keyword-only dataclass: the one kind of value netdiag has."""
    return dataclass(frozen=True, slots=True, kw_only=True)(cls)


class Outcome(StrEnum):
    """How one attempt ended. Every planned attempt ends in exactly one of these."""

    ANSWERED = "answered"
    LATE = "late"  # the answer came after the timeout: delay, not loss
    LOST = "lost"  # silence until the timeout
    REFUSED = "refused"  # a TCP RST, or a port-unreachable from the target itself
    REJECTED = "rejected"  # an ICMP "prohibited" (or port-unreachable) from something on the way
    UNREACHABLE = "unreachable"  # ICMP host/net unreachable, or no route
    EXPIRED = "expired"  # ICMP time exceeded: the TTL ran out at a router
    TOO_BIG = "too-big"  # ICMP fragmentation needed / packet too big
    FAILED = "failed"  # connected, but the conversation broke (see the Failure)
    NOT_SENT = "not-sent"  # a local reason: no permission, no buffer, no port. Never loss


class FailureKind(StrEnum):
    """What went wrong, in words a report can use."""

    TIMEOUT = "timeout"
    REFUSED = "refused"
    REJECTED = "rejected"
    UNREACHABLE = "unreachable"
    EXPIRED = "expired"
    TOO_BIG = "too-big"
    RESET = "reset"  # RST on an established connection
    CLOSED = "closed"  # FIN where bytes were due
    PROTOCOL = "protocol"  # bytes that the protocol does not allow
    SERVER = "server"  # the server said no, with a SQLSTATE or an rcode
    TLS = "tls"
    NAME = "name"  # getaddrinfo failed
    CREDENTIALS = "credentials"  # a local reason not to go on: no user, no password
    LOCAL = "local"  # this host could not send: permission, buffers, ports, descriptors


@value
class IcmpError:
    """An ICMP error that a probe's own packet drew (from the socket error queue, ip(7) IP_RECVERR)."""

    family: int  # 4 or 6
    type: int
    code: int
    offender: str | None  # address of the router or host that sent it
    mtu: int | None = None  # next-hop MTU in bytes, for "fragmentation needed" / "packet too big"


@value
class Failure:
    """Why an attempt has no good answer. A network failure is a result, not an exception."""

    kind: FailureKind
    operation: str  # "connect", "send", "receive", "tls", "resolve", ...
    errno: str | None = None  # symbolic: "ECONNREFUSED", "EAI_AGAIN"
    icmp: IcmpError | None = None
    sqlstate: str | None = None
    detail: str | None = None  # remote or library text: one line, printable, at most 200 characters


class NetworkFailure(Exception):
    """Raised inside ``net`` and steppers to carry a Failure up to the probe that records it."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(f"{failure.operation}: {failure.kind} {failure.errno or failure.detail or ''}".rstrip())
        self.failure = failure


class Secret:
    """A password or token. Prints, formats, pickles and encodes as ``***``; only reveal() gives it out."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return "***"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __reduce__(self) -> tuple[type[Secret], tuple[str]]:
        return (Secret, ("***",))


@value
class Vantage:
    """Where netdiag runs."""

    name: str
    region: str | None = None


@value
class Target:
    """What is measured. ``host`` is as the user wrote it; ``address`` is one resolved address of it."""

    host: str
    address: str | None = None
    port: int | None = None
    endpoint: str | None = None  # the plan's name for it

    def label(self) -> str:
        """``host``, ``host:port`` or ``[v6]:port``, the address where one is known."""
        where = self.address or self.host
        if self.port is None:
            return where
        return f"[{where}]:{self.port}" if ":" in where else f"{where}:{self.port}"


class MeasurementOutcome(StrEnum):
    MEASURED = "measured"
    UNAVAILABLE = "unavailable"  # the probe could not run at all (ProbeUnavailable): says nothing of the network
    INTERRUPTED = "interrupted"  # the run's deadline or a signal came first


@value
class Measurement(Generic[M]):
    """One run of one probe: the envelope of the evidence. ``data`` is the probe's own type."""

    id: str  # from vantage, probe, subject and ordinal, never from the order of completion
    probe: str
    schema: str  # "<probe>/<version>"
    vantage: str
    source: str | None  # local address the packets left from
    target: Target
    started: datetime  # UTC, for the timeline only; durations are monotonic
    duration_s: float
    options: Mapping[str, Any]  # the probe's Options as builtins, secrets already "***"
    timestamp_source: str  # "kernel-rx-tx", "kernel-rx", "tcp-info", "user"
    outcome: MeasurementOutcome
    reason: str | None = None  # why unavailable or interrupted
    data: M | None = None
