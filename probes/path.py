"""The routers on the way, by TTL-limited TCP connects on one stable 5-tuple (no root), ICMP where allowed."""

from __future__ import annotations

from collections.abc import Sequence

from probes.contract import Context, Probe, ProbeUnavailable
from probes.exchanges import EchoRequest, EchoSample, Handshake, HandshakeRequest
from probes.model import Failure, Outcome, Target, value

ADDRESS_TAKEN = frozenset({"EADDRNOTAVAIL", "EADDRINUSE"})
NEW_FLOWS_AT_MOST = 3


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
    source_port: int | None = None  # of this probe's flow (TCP)


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
    reached_ttl: int | None  # None where the target answered only at full TTL, behind silent hops
    end_reason: str  # "reached", "silent", "rejected", "unreachable", "max-ttl", "deadline", "not-sent"
    flows: tuple[str, ...] = ()  # every 5-tuple used, in order; more than one only where a port could not be kept


@value
class HopRequest:
    """``probes`` packets with this TTL; TCP sends one at a time and keeps to ``source_port`` (None: choose one)."""

    ttl: int
    probes: int
    source_port: int | None = None


@value
class HopAnswer:
    """What became of one HopRequest, and from where it was sent."""

    replies: tuple[HopReply, ...]
    source_address: str | None = None


class PathSteps:
    """Which TTL to ask next. A stepper: no I/O.

    1. TTLs rise one by one, ``attempts`` probes each, all on one 5-tuple (they cannot overlap: one port, one SYN).
    2. From the second silent hop in a row each hop gets a single probe: silence is what costs time.
    3. The first answer of the target, rejection or unreachable ends the walk: a connect that reaches a database
       is a real connection, so there is one.
    4. After ``stop_after_silent`` silent hops one last probe goes out with the largest TTL: it tells a path whose
       routers are silent from a path that ends.
    5. A 5-tuple that the kernel refuses (TIME_WAIT, taken) is given up for a new one, and both are recorded.
    """

    def __init__(self, address: str, port: int | None, options: PathOptions) -> None:
        self._address, self._port, self._options = address, port, options
        self._tcp = options.method == "tcp"
        self._ttl = 1
        self._hops: dict[int, list[HopReply]] = {}
        self._source_port: int | None = None
        self._flows: list[str] = []
        self._new_flows = 0
        self._silent_run = 0
        self._reached_ttl: int | None = None
        self._last_probe = False
        self._end_reason: str | None = None

    def next(self) -> HopRequest | None:
        if self._end_reason:
            return None
        return HopRequest(ttl=self._ttl, probes=1 if self._tcp else self._allowed(), source_port=self._source_port)

    def tell(self, answer: HopAnswer) -> None:
        if self._is_port_taken(answer):
            return
        replies = self._hops.setdefault(self._ttl, [])
        replies.extend(answer.replies)
        self._note_flow(answer)
        self._end_reason = self._end(answer)
        if not self._end_reason and len(replies) >= self._allowed():
            self._advance(replies)

    def result(self) -> PathMeasurement:
        return PathMeasurement(
            method=self._options.method,
            address=self._address,
            port=self._port if self._tcp else None,
            flow=self._flows[0] if self._flows else None,
            hops=tuple(Hop(ttl=ttl, replies=tuple(replies)) for ttl, replies in self._hops.items()),
            reached=self._end_reason == "reached",
            reached_ttl=self._reached_ttl,
            end_reason=self._end_reason or "deadline",
            flows=tuple(self._flows),
        )

    def _allowed(self) -> int:
        return 1 if self._silent_run or self._last_probe else self._options.attempts

    def _is_port_taken(self, answer: HopAnswer) -> bool:
        """True if the same TTL is to be asked again from another port."""
        taken = any(reply.failure and reply.failure.errno in ADDRESS_TAKEN for reply in answer.replies)
        if not taken or self._new_flows >= NEW_FLOWS_AT_MOST:
            return False
        self._new_flows += 1
        self._source_port = None
        self._hops.setdefault(self._ttl, []).extend(answer.replies)
        return True

    def _note_flow(self, answer: HopAnswer) -> None:
        for reply in answer.replies:
            if reply.source_port is None or answer.source_address is None:
                continue
            self._source_port = reply.source_port
            flow = f"{_endpoint(answer.source_address, reply.source_port)} -> {_endpoint(self._address, self._port)}"
            if flow not in self._flows:
                self._flows.append(flow)

    def _end(self, answer: HopAnswer) -> str | None:
        outcomes = {reply.outcome for reply in answer.replies}
        if outcomes & {Outcome.ANSWERED, Outcome.LATE, Outcome.REFUSED}:
            self._reached_ttl = None if self._last_probe else self._ttl
            return "reached"
        for outcome, reason in (
            (Outcome.REJECTED, "rejected"),
            (Outcome.UNREACHABLE, "unreachable"),
            (Outcome.NOT_SENT, "not-sent"),
        ):
            if outcome in outcomes:
                return reason
        return None

    def _advance(self, replies: Sequence[HopReply]) -> None:
        silent = all(reply.address is None for reply in replies)
        self._silent_run = self._silent_run + 1 if silent else 0
        if self._last_probe:
            self._end_reason = "silent"
        elif self._ttl >= self._options.max_ttl:
            self._end_reason = "max-ttl"
        elif self._silent_run >= self._options.stop_after_silent:
            self._last_probe, self._ttl = True, self._options.max_ttl
        else:
            self._ttl += 1


def _endpoint(address: str, port: int | None) -> str:
    host = f"[{address}]" if ":" in address else address
    return f"{host}:{port}"


def last_answering_hop(measurement: PathMeasurement) -> Hop | None:
    """The farthest hop that answered at all, the target included; a filter sits there or right behind it."""
    answering = [hop for hop in measurement.hops if any(reply.address for reply in hop.replies)]
    return max(answering, key=lambda hop: hop.ttl, default=None)


def _tcp_reply(handshake: Handshake, address: str) -> HopReply:
    """An answer of the target carries its address; an ICMP error its sender's; silence and local trouble none."""
    icmp = handshake.failure.icmp if handshake.failure else None
    from_target = handshake.outcome in (Outcome.ANSWERED, Outcome.REFUSED)
    answered_by = icmp.offender if icmp else address if from_target else None
    # Where a SYN was sent twice nobody can tell which one was answered (Karn): no RTT then.
    clean = answered_by is not None and not handshake.syn_retransmits
    rtt_s = (handshake.seconds if handshake.rtt_s is None else handshake.rtt_s) if clean else None
    return HopReply(
        outcome=handshake.outcome,
        address=answered_by,
        rtt_s=rtt_s,
        failure=handshake.failure,
        source_port=handshake.source_port,
    )


def _echo_reply(sample: EchoSample, address: str) -> HopReply:
    icmp = sample.failure.icmp if sample.failure else None
    from_target = sample.outcome in (Outcome.ANSWERED, Outcome.LATE)
    answered_by = icmp.offender if icmp else address if from_target else None
    return HopReply(outcome=sample.outcome, address=answered_by, rtt_s=sample.rtt_s, failure=sample.failure)


async def _ask_tcp(context: Context, address: str, port: int, request: HopRequest, timeout_s: float) -> HopAnswer:
    handshake = await context.network.handshake(
        HandshakeRequest(
            address=address,
            port=port,
            timeout_s=timeout_s,
            ttl=request.ttl,
            source_port=request.source_port,
            syn_count=1,
        )
    )
    return HopAnswer(replies=(_tcp_reply(handshake, address),), source_address=handshake.source_address)


async def _ask_icmp(context: Context, address: str, request: HopRequest, timeout_s: float) -> HopAnswer:
    series = await context.network.echo(
        EchoRequest(address=address, count=request.probes, timeout_s=timeout_s, ttl=request.ttl)
    )
    return HopAnswer(replies=tuple(_echo_reply(sample, address) for sample in series.samples))


async def measure(context: Context, target: Target, options: PathOptions) -> PathMeasurement:
    """Walk the path. A hop that cannot have its whole timeout before the deadline is not asked.

    Raises ProbeUnavailable where the target has no address, TCP has no port, or ICMP sockets are not allowed.
    """
    if options.method not in ("tcp", "icmp"):
        raise ProbeUnavailable(f"path knows the methods tcp and icmp, not {options.method!r}")
    if target.address is None or (options.method == "tcp" and target.port is None):
        raise ProbeUnavailable(f"path needs a resolved address, and a port for TCP; {target.label()} lacks one")
    steps = PathSteps(target.address, target.port, options)
    while (request := steps.next()) is not None and context.remaining() >= options.timeout_s:
        if options.method == "tcp" and target.port is not None:
            steps.tell(await _ask_tcp(context, target.address, target.port, request, options.timeout_s))
        else:
            steps.tell(await _ask_icmp(context, target.address, request, options.timeout_s))
    return steps.result()


PROBE = Probe(
    name="path",
    schema="path/1",
    summary="The routers on the way to the service port, on one stable 5-tuple, and where the path ends.",
    options=PathOptions,
    measurement=PathMeasurement,
    measure=measure,
)
