"""The evidence appendix: one row per measurement, its value in one line with sample size and interval."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import singledispatch
from statistics import median
from typing import Any

from netdiag.evidence import Run
from netdiag.report.figures import counted, duration, loss, percent, proportion, stamp
from netdiag.report.model import EvidenceRow
from netdiag.report.places import names_only
from netdiag.report.reproduce import reproduce
from probes.balancer import BalancerMeasurement, BalancerView, CheckedBackend
from probes.database import DatabaseMeasurement, HeldSession, Phase, Waterfall
from probes.host import HostMeasurement
from probes.idle import IdleConnection, IdleMeasurement
from probes.latency import LatencyMeasurement, LossCount, RttSummary
from probes.loss import LossMeasurement
from probes.model import Failure, Measurement, MeasurementOutcome, Outcome
from probes.mtu import DirectionMtu, MtuMeasurement
from probes.names import DnsQuery, NamesMeasurement
from probes.path import Hop, PathMeasurement
from probes.ports import PortResult, PortsMeasurement, PortState
from probes.replication import Look, ReplicationMeasurement, known_end
from probes.routing import RoutingMeasurement

Numbers = dict[str, str]  # measurement id -> "E1"


def numbers(run: Run) -> Numbers:
    """E-numbers in the order of the measurements' ids."""
    return {measurement.id: f"E{index}" for index, measurement in enumerate(run.evidence, start=1)}


def evidence_rows(run: Run) -> tuple[EvidenceRow, ...]:
    """Every measurement, those that did not come about included."""
    numbered = numbers(run)
    return tuple(_row(numbered[measurement.id], measurement) for measurement in run.evidence)


def _row(number: str, measurement: Measurement[Any]) -> EvidenceRow:
    source = f"{measurement.vantage} ({measurement.source})" if measurement.source else measurement.vantage
    return EvidenceRow(
        number=number,
        measurement=measurement.id,
        probe=measurement.probe,
        source=source,
        target=where(measurement),
        time=stamp(measurement.started),
        value=value_line(measurement),
        reproduce=reproduce(measurement),
    )


def where(measurement: Measurement[Any]) -> str:
    """``endpoint host:port`` with the address in brackets, each only where it says something more."""
    target = measurement.target
    host = f"[{target.host}]" if ":" in target.host else target.host
    place = host if target.port is None else f"{host}:{target.port}"
    name = f"{target.endpoint} " if target.endpoint and not names_only(target.endpoint, target.host) else ""
    return f"{name}{place} ({target.address})" if target.address not in (None, target.host) else f"{name}{place}"


def value_line(measurement: Measurement[Any]) -> str:
    """What the measurement found, in one line; for one that did not come about, why."""
    found = describe(measurement.data) if measurement.data is not None else None
    if measurement.outcome is MeasurementOutcome.MEASURED:
        return found or "measured"
    return "; ".join(
        part for part in (f"{measurement.outcome}: {measurement.reason or 'no reason given'}", found) if part
    )


@singledispatch
def describe(data: object) -> str | None:
    """A measurement's data in one line; None for a type that this report does not know."""
    count = getattr(data, "loss", None)  # a loss measurement, whatever its type is called
    rtt = getattr(data, "rtt", None)
    parts = (
        loss(count) if isinstance(count, LossCount) else None,
        rtt_line(rtt) if isinstance(rtt, RttSummary) else None,
    )
    return "; ".join(part for part in parts if part) or None


@describe.register
def _latency(data: LatencyMeasurement) -> str:
    return f"{data.method}: {rtt_line(data.rtt)}; {loss(data.loss)}"


@describe.register
def _loss(data: LossMeasurement) -> str:
    ratio = data.ratio_answered
    asked = f"; more than {percent(ratio)}: {data.answer}" if ratio is not None else ""
    return f"{data.method}: {loss(data.loss)}{asked} (stopped: {data.stop_reason})"


def rtt_line(rtt: RttSummary) -> str:
    """``p50 4.1 ms, p95 5 ms, min 3.9 ms (n=10)``."""
    if not rtt.n:
        return "no round-trip time (n=0)"
    return f"p50 {duration(rtt.p50_s)}, p95 {duration(rtt.p95_s)}, min {duration(rtt.minimum_s)} (n={rtt.n:,})"


@describe.register
def _names(data: NamesMeasurement) -> str:
    asked = sorted({query.resolver for query in data.queries})
    answers = (_resolver(name, [q for q in data.queries if q.resolver == name]) for name in asked)
    return "; ".join((f"{data.name}: {_system(data)}", *answers))


def _system(data: NamesMeasurement) -> str:
    system = data.system
    if system is None:
        return "getaddrinfo not asked"
    if system.failure is not None:
        return f"getaddrinfo {_why(system.failure)} after {duration(system.seconds)}"
    return f"getaddrinfo {', '.join(system.addresses) or 'no address'} in {duration(system.seconds)}"


def _resolver(name: str, queries: list[DnsQuery]) -> str:
    answered = [query.seconds for query in queries if query.outcome is Outcome.ANSWERED]
    words = _tally(query.rcode or str(query.outcome) for query in queries)
    pace = f", p50 {duration(median(answered))}" if answered else ""
    return f"{name}: {words} (n={len(queries)}){pace}"


def _tally(words: Iterable[str]) -> str:
    counted = sorted(Counter(words).items(), key=lambda pair: (-pair[1], pair[0]))
    return ", ".join(f"{count} {word}" for word, count in counted)


def _why(failure: Failure) -> str:
    return failure.sqlstate or failure.errno or str(failure.kind)


@describe.register
def _ports(data: PortsMeasurement) -> str:
    return "; ".join(_port(result, _opened(data, result)) for result in data.ports) or "no port was tried"


def _opened(data: PortsMeasurement, result: PortResult) -> int:
    mine = (attempt for attempt in data.attempts if attempt.port == result.port)
    return sum(attempt.handshake.outcome is Outcome.ANSWERED for attempt in mine)


def _port(result: PortResult, opened: int) -> str:
    control = " (control)" if result.control else ""
    by = f" by {result.answered_by}" if result.answered_by and result.state is not PortState.OPEN else ""
    return f"port {result.port}{control} {result.state}{by} ({opened} of {result.attempts} connected)"


@describe.register
def _path(data: PathMeasurement) -> str:
    last = next((hop for hop in reversed(data.hops) if _hop_address(hop)), None)
    tries = sum(len(hop.replies) for hop in data.hops)
    flow = f", flow {data.flow}" if data.flow else ""
    if data.reached:
        return f"reached at hop {data.reached_ttl} (n={tries}{flow})"
    heard = f"last answer from hop {last.ttl} ({_hop_address(last)})" if last else "no hop answered"
    return f"not reached ({data.end_reason}): {heard} (n={tries}{flow})"


@describe.register
def _host(data: HostMeasurement) -> str:
    table, counters = data.conntrack, data.conntrack.counters
    dropped = f", {counters.drop:,} dropped since the host began" if counters and counters.drop is not None else ""
    return f"connection tracking: {table.entries or 0:,} of {table.limit or 0:,} entries{dropped}"


@describe.register
def _routing(data: RoutingMeasurement) -> str:
    if data.sessions is not None:
        standing = sum(session.state == "up" for session in data.sessions)
        others = "; ".join(
            f"{s.name} {s.bgp_state or s.state} since {s.since}{f': {s.last_error}' if s.last_error else ''}"
            for s in data.sessions
            if s.state != "up"
        )
        return f"{standing} of {len(data.sessions)} BGP sessions up" + (f"; {others}" if others else "")
    asked = {query.address for query in data.queries}
    known = {hop.address for hop in data.hops if hop.origin}
    path = " ".join("?" if asn is None else f"AS{asn}" for asn in data.as_path) or "no hop"
    return f"{path} ({len(known)} of {len(asked)} addresses known to {data.zone})"


def _hop_address(hop: Hop) -> str | None:
    return next((reply.address for reply in hop.replies if reply.address), None)


@describe.register
def _mtu(data: MtuMeasurement) -> str:
    local = f"local MTU {data.local_mtu:,} bytes; " if data.local_mtu else ""
    sizes, connections = counted(len(data.datagrams), "size"), counted(len(data.segments), "connection")
    ways = f"to target: {_direction(data.to_target)}; from target: {_direction(data.from_target)}"
    return f"{local}{ways} (n={sizes}, {connections})"


def _direction(way: DirectionMtu) -> str:
    facts = (
        f"{way.largest_delivered:,} bytes arrive" if way.largest_delivered is not None else None,
        f"{way.smallest_lost:,} do not" if way.smallest_lost is not None else None,
        f"MTU {way.signalled_mtu:,} told by {way.signalled_by or 'an unknown hop'}" if way.signalled_mtu else None,
        "black hole" if way.black_hole else None,
        f"cannot tell a black hole: {way.reason or 'no reason given'}" if way.black_hole is None else None,
    )
    return ", ".join(fact for fact in facts if fact) or "nothing seen"


@describe.register
def _balancer(data: BalancerMeasurement) -> str:
    checks = (_check(backend) for backend in data.backends)
    told = [*checks, *([_balancer_view(data.view)] if data.view else [])]
    return "; ".join(told) or "nothing was asked"


def _check(backend: CheckedBackend) -> str:
    sent = [attempt for attempt in backend.attempts if attempt.passed is not None]
    passed = sum(attempt.passed is True for attempt in sent)
    ended = _tally(
        f"{attempt.phase} ({attempt.status or (_why(attempt.failure) if attempt.failure else attempt.outcome)})"
        for attempt in sent
        if not attempt.passed
    )
    return f"{backend.url}: {passed} of {len(sent)} checks pass" + (f", failed in {ended}" if ended else "")


def _balancer_view(view: BalancerView) -> str:
    if view.servers:
        shown = (f"{server.name} {server.status}" for server in view.servers[:8])
        return f"the balancer's view: {', '.join(shown)} (n={len(view.servers)})"
    why = _why(view.failure) if view.failure else f"status {view.status}"
    return f"the balancer's view was not read ({why})"


@describe.register
def _idle(data: IdleMeasurement) -> str:
    if data.failure is not None:
        return f"no connection held: {_why(data.failure)}"
    held = ", ".join(f"{duration(c.idle_s)} {_afterwards(c)}" for c in data.idle)
    control = f"with keepalives {_afterwards(data.control)}" if data.control else None
    fresh = f"fresh ones beside them: {_tally(str(c.end) for c in data.fresh)}" if data.fresh else None
    manner = "sessions" if data.logged_in else "connections before login"
    return "; ".join(part for part in (f"{manner} idle for {held} (n={len(data.idle)})", control, fresh) if part)


def _afterwards(connection: IdleConnection) -> str:
    resent = f" ({connection.retransmits} times sent again)" if connection.retransmits else ""
    return f"{connection.end}{resent}"


@describe.register
def _replication(data: ReplicationMeasurement) -> str:
    ended = f"ended by {_why(data.failure)}" if data.failure else None
    refused = counted(len(data.refused), "question") + " refused" if data.refused else None
    told = _look(data.looks[-1]) if data.looks else str(data.kind) if data.kind else None
    looks = f"(n={counted(len(data.looks), 'look')})" if data.looks else None
    return "; ".join(part for part in (" ".join(p for p in (told, looks) if p), refused, ended) if part)


def _look(look: Look) -> str:
    if look.standby is None:
        fed = f", feeds {counted(len(look.senders), 'standby')}" if look.senders is not None else ""
        return f"{'a primary' if look.in_recovery is False else 'of unknown role'}{fed}"
    standby, end = look.standby, known_end(look)
    receiver = {True: "a WAL receiver", False: "no WAL receiver", None: "a WAL receiver not told of"}[standby.receiving]
    waits = f", {max(0, end - standby.replayed):,} bytes to replay" if end is not None and standby.replayed else ""
    age = f", last commit {duration(standby.commit_age_s)} old" if standby.commit_age_s is not None else ""
    return f"a standby with {receiver}{waits}{', replay paused' if standby.paused else ''}{age}"


@describe.register
def _database(data: DatabaseMeasurement) -> str:
    held = f"; {_held(data.held)}" if data.held else ""
    return f"{attempts_line(data.attempts, data.credentials)}{held}"


def attempts_line(attempts: tuple[Waterfall, ...], credentials: bool) -> str:
    """How many connection attempts passed, in which phase the others ended, and each phase's median."""
    sent = [attempt for attempt in attempts if attempt.outcome is not Outcome.NOT_SENT]
    if not sent:
        return f"no attempt was sent (of {len(attempts)} due)"
    passed = sum(succeeded(attempt) for attempt in sent)
    ended = _tally(_ending(attempt) for attempt in sent if not succeeded(attempt))
    depth = "" if credentials else " without credentials, up to TLS"
    phases = phase_medians(attempts)
    return "; ".join(part for part in (f"{proportion(passed, len(sent))} ok{depth}", ended, phases) if part)


def succeeded(attempt: Waterfall) -> bool:
    """Every phase that was due passed."""
    return attempt.outcome is Outcome.ANSWERED and attempt.failed_phase is None


def _ending(attempt: Waterfall) -> str:
    why = f" ({_why(attempt.failure)})" if attempt.failure else ""
    return f"{attempt.outcome} in {attempt.failed_phase or 'no phase named'}{why}"


def phase_medians(attempts: tuple[Waterfall, ...]) -> str:
    """``p50 tcp 1.2 ms, startup 4 ms`` over the phases that were answered; empty where none was."""
    timings: dict[Phase, list[float]] = {phase: [] for phase in Phase}
    for timing in (timing for attempt in attempts for timing in attempt.phases):
        if timing.outcome is Outcome.ANSWERED:
            timings[timing.phase].append(timing.seconds)
    told = ", ".join(f"{phase} {duration(median(found))}" for phase, found in timings.items() if found)
    return f"p50 {told}" if told else ""


def _held(held: HeldSession) -> str:
    answered = sum(exchange.seconds is not None for exchange in held.exchanges)
    again = sum(exchange.retransmits for exchange in held.exchanges)
    cut = f", cut: {_why(held.failure)}" if held.failure else ""
    told = f"held {duration(held.seconds)}: {answered} of {len(held.exchanges)} exchanges answered"
    return f"{told}, {counted(again, 'retransmission')}{cut}"
