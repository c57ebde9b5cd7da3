"""The routers on the way, by TTL-limited TCP connects on one stable 5-tuple (no root), ICMP where allowed."""

from __future__ import annotations

from probes.model import Failure, Outcome, value


@value
class PathOptions:
    method: str = "tcp"  # "tcp" | "icmp"
    max_ttl: int = 30
    attempts: int = 2  # per TTL
    timeout_s: float = 1.0
    stop_after_silent: int = 5  # consecutive silent hops


@value
class HopReply:
    outcome: Outcome  # EXPIRED from a router; ANSWERED / REFUSED / REJECTED / ... from the end or a filter; LOST
    address: str | None
    rtt_s: float | None
    failure: Failure | None = None


@value
class Hop:
    ttl: int
    replies: tuple[HopReply, ...]


@value
class PathMeasurement:
    method: str
    address: str
    port: int | None
    flow: str | None  # "source:port -> destination:port": the 5-tuple that routers hash
    hops: tuple[Hop, ...]
    reached: bool  # the target itself answered (SYN-ACK, RST or echo reply)
    reached_ttl: int | None
    end_reason: str  # "reached", "silent", "rejected", "max-ttl", "deadline", "not-sent"
