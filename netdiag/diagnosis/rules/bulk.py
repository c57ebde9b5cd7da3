"""Bulk reads that stop on the way, as a backup would.

A stall is no progress, with its proofs: an answer is due, this side reads, and no byte came. Either nobody acknowledges
what this side sends into the silence, or somebody does and the server says that it waits to write (or has written all).
It takes two reads, none that was carried farther, and small questions beside them that are answered.
"""

from __future__ import annotations

from collections.abc import Iterator

from netdiag.diagnosis.finding import (
    Action,
    Finding,
    FindingRole,
    Horizon,
    Judgement,
    NotMeasured,
    RuledOut,
    Section,
    Severity,
)
from netdiag.diagnosis.rule import Case, Rule
from netdiag.diagnosis.rules.link import loss_fires, loss_limit, pooled_loss
from netdiag.diagnosis.rules.paths import paths
from netdiag.diagnosis.rules.subjects import Place, database_places, finding_id, ids, milliseconds, seconds
from netdiag.diagnosis.rules.waterfalls import login_check
from netdiag.diagnosis.thresholds import BULK_MOVED, BULK_READS, BULK_RETRANSMITS, BULK_SILENCE_S, LIKELY
from probes.bulk import MEBIBYTE, STALLED, Activity, BulkEnd, BulkMeasurement, BulkRead
from probes.model import Failure, Measurement, value

CODE = "db.backup-stall"
USUAL = 16  # MiB
_WRITES, _WROTE = ("active", "ClientWrite"), ("idle", "ClientRead")


@value
class Told:
    """All bulk reads of one place."""

    place: Place
    measured: tuple[Measurement[BulkMeasurement], ...]

    @property
    def all(self) -> tuple[BulkRead, ...]:
        return tuple(read for m in self.measured if m.data for read in m.data.reads)

    @property
    def stopped(self) -> tuple[BulkRead, ...]:
        """Those that came to a halt on the way, whatever the reason."""
        return tuple(r for r in self.all if r.end in (*STALLED, BulkEnd.RESET))

    @property
    def flowing(self) -> tuple[BulkRead, ...]:
        return tuple(r for r in self.all if r.end in (BulkEnd.COMPLETE, BulkEnd.UNFINISHED))

    @property
    def farthest(self) -> int:
        return max((r.moved for r in self.flowing), default=0)


def judge(case: Case) -> Iterator[Judgement]:
    for place in database_places(case):
        yield _judge(case, _told(case, place))


def _told(case: Case, place: Place) -> Told:
    """This endpoint's own measurements; another endpoint's of the same address and port where it has none."""
    there = case.evidence.of(BulkMeasurement, address=place.address, port=place.port) if place.address else ()
    own = tuple(m for m in there if m.target.endpoint in (place.endpoint.name, None)) or there
    return Told(place=place, measured=own)


def _judge(case: Case, told: Told) -> Judgement:
    if not told.all:
        return _unread(case, told)
    if not told.stopped:
        return _carried(told) if told.farthest > BULK_MOVED else _undone(told)
    doubt = _doubt(case, told)
    return _finding(told) if doubt is None else _undecided(told, doubt)


# What else it may be


def _doubt(case: Case, told: Told) -> str | None:
    """The look-alike that the evidence leaves open; None where it leaves none."""
    stopped = told.stopped
    if min(r.moved for r in stopped) < BULK_MOVED:
        return "it stopped at the first packets of full size: that is their size (mtu.black-hole), not the amount"
    if any(r.moved > min(s.moved for s in stopped) for r in told.flowing):
        return "another was carried farther: one way of several, or a passing interruption"
    if len(stopped) < BULK_READS:
        return f"that is {len(stopped)} of the {BULK_READS} that it takes"
    if not _served_beside(told):
        return "a small question beside it was not answered: the whole way was interrupted, or the server hangs"
    return next((doubt for doubt in (_open(case, told.place, read) for read in stopped) if doubt), None)


def _served_beside(told: Told) -> bool:
    beside = [
        b for m in told.measured if m.data and any(r in told.stopped for r in m.data.reads) for b in m.data.beside
    ]
    return bool(beside) and all(b.failure is None for b in beside)


def _open(case: Case, place: Place, read: BulkRead) -> str | None:
    if read.end is BulkEnd.RESET:
        return None
    if read.silent_s < BULK_SILENCE_S:
        return f"{seconds(read.silent_s)} without a byte are too few"
    if read.end is BulkEnd.SILENT:
        few = (read.retransmits or 0) < BULK_RETRANSMITS
        return "what was sent into the silence was not sent again often enough" if few else None
    if not read.activity:
        return "the server did not say what it was doing: it may be slow to produce"
    if not _delivers(read.activity[-1]):
        return f"the server itself was not done: {_doing(read.activity[-1])}"
    return "packets are lost on the way (link.loss)" if _loses(case, place) else None


def _delivers(activity: Activity) -> bool:
    """It waits for its bytes to be taken, or has handed over all of them."""
    return (activity.state, activity.wait_event) in (_WRITES, _WROTE)


def _doing(activity: Activity) -> str:
    wait = f"waits for {activity.wait_event_type}/{activity.wait_event}" if activity.wait_event else "runs"
    return f"it {wait} ({activity.state})"


def _loses(case: Case, place: Place) -> bool:
    path = next((p for p in paths(case) if (p.address, p.port) == (place.address, place.port)), None)
    if path is None:
        return False
    limit = loss_limit(case, path)
    losses = (pooled_loss(case, path, method) for method in ("tcp", "icmp"))
    return any(loss is not None and loss_fires(loss, limit) for loss in losses)


def _undecided(told: Told, doubt: str) -> NotMeasured:
    read = told.stopped[0]
    return NotMeasured(
        code=CODE,
        subject=told.place.subject,
        statement=f"A bulk read from {told.place.label} {_stop(read)} after {volume(read.moved)}, but {doubt}.",
        remedy=f"Run `{_check(told.place, USUAL)}`.",
    )


# What is known


def volume(size: int) -> str:
    for unit, least in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= least:
            return f"{size / least:.3g} {unit}" if size < 999.5 * least else f"{size / least:.0f} {unit}"
    return f"{size} bytes"


def _check(place: Place, mebibytes: int) -> str:
    return f"{login_check(place, 'bulk')} --set mebibytes={mebibytes}"


def _stop(read: BulkRead) -> str:
    return "was reset" if read.end is BulkEnd.RESET else "stalled"


def _finding(told: Told) -> Finding:
    place = told.place
    return Finding(
        id=finding_id(CODE, place.subject),
        code=CODE,
        role=FindingRole.CAUSE,
        severity=Severity.CRITICAL,  # no larger transfer gets through, whatever it is for
        confidence=LIKELY,  # two ways that died within seconds, and spared the third connection, look the same
        section=Section.DATABASE,
        subject=place.subject,
        statement=_statement(told),
        evidence=ids(told.measured),
        would_refute=f"A transfer of more than {volume(max(r.moved for r in told.stopped))} over one connection from "
        f"{place.label}.",
        actions=_actions(told),
    )


def _statement(told: Told) -> str:
    place, stopped = told.place, told.stopped
    reset = all(r.end is BulkEnd.RESET for r in stopped)
    moved = _range([r.moved for r in stopped])
    beside = sum(len(m.data.beside) for m in told.measured if m.data)
    fate = "are reset" if reset else "stall"
    return (
        f"Large transfers from {place.label} {fate} on the way: {len(stopped)} of {len(told.all)} bulk reads stopped "
        f"after {moved}{_proof(stopped)}. Small questions on a fresh connection beside them were answered "
        f"({beside} of {beside}). A backup, an export or a large result "
        f"{'fails' if reset else 'hangs until a timeout ends it'}."
    )


def _range(moved: list[int]) -> str:
    low, high = volume(min(moved)), volume(max(moved))
    return low if low == high else f"{low} and {high}" if len(moved) == 2 else f"{low} to {high}"


def _proof(stopped: tuple[BulkRead, ...]) -> str:
    stalled = [r for r in stopped if r.end in STALLED]
    if not stalled:
        return ""
    waited = seconds(min(r.silent_s for r in stalled))
    silent = [r for r in stalled if r.end is BulkEnd.SILENT]
    if silent:
        sent = sum(1 + (r.retransmits or 0) for r in silent)
        heard = f"what is sent there is not acknowledged either ({sent} packets)"
    else:
        heard = "what is sent there is acknowledged"
    return f", then no byte for {waited} or longer; {heard}{_servers_side(stalled)}"


def _servers_side(stalled: list[BulkRead]) -> str:
    last = [r.activity[-1] for r in stalled if r.activity]
    if not last or not all(_delivers(a) for a in last):
        return ""
    writes = any(a.wait_event == "ClientWrite" for a in last)
    return f"; the server {'waits to write (ClientWrite)' if writes else 'has handed over all of it'}"


def _actions(told: Told) -> tuple[Action, ...]:
    place, most = told.place, max(r.moved for r in told.stopped)
    check = _check(place, max(1, 2 * most // MEBIBYTE))
    acknowledged = all(r.end is BulkEnd.ACKNOWLEDGED for r in told.stopped)
    where = "proxy, balancer or inspecting firewall" if acknowledged else "firewall, NAT, VPN or traffic shaper"
    return (
        Action(
            owner="database",
            horizon=Horizon.IMMEDIATE,
            step="Back up on the database's own side of the fault: from a host behind it, or to storage there. Set "
            "tcp_user_timeout on server and client, so that a transfer that stalls fails in minutes. End what "
            "waits in ClientWrite: it holds its snapshot.",
            check=check,
        ),
        Action(
            owner="firewall",
            horizon=Horizon.SHORT_TERM,
            step=f"Look at the {where} before {place.label} for what ends a connection by its amount or length: byte "
            f"quotas, inspection limits, sequence checks without window scaling (RFC 7323), a full state table.",
            check=check,
        ),
    )


def _carried(told: Told) -> RuledOut:
    best = max(told.flowing, key=lambda r: r.moved)
    rate = best.moved / best.moving_s if best.moving_s > 0 else None
    return RuledOut(
        code=CODE,
        subject=told.place.subject,
        statement=f"A bulk read of {volume(best.moved)} from {told.place.label} kept moving{_speed(rate)}; its longest "
        f"pause was {milliseconds(best.longest_pause_s)}.",
        smallest_fault=f"somebody on the way who stops a connection within {volume(best.moved)}",
        evidence=ids(told.measured),
    )


def _speed(rate: float | None) -> str:
    """And what it means for a backup."""
    if rate is None:
        return ""
    hours = 10**9 / rate / 3600
    slow = f": a gigabyte takes {hours:.1f} hours" if hours >= 1 else ""
    return f" at {volume(round(rate))}/s{slow}"


def _undone(told: Told) -> NotMeasured:
    read = told.all[-1]
    return NotMeasured(
        code=CODE,
        subject=told.place.subject,
        statement=f"A bulk read from {told.place.label} ended after {volume(read.moved)} ({read.end}"
        f"{_said(read.failure)}): neither a stall nor its absence.",
        remedy=f"Run `{_check(told.place, USUAL)}`.",
    )


def _said(failure: Failure | None) -> str:
    words = (failure.sqlstate, failure.detail) if failure else ()
    return "".join(f", {word}" for word in words if word)


def _unread(case: Case, told: Told) -> NotMeasured:
    place = told.place
    reasons = [m.reason for m in case.evidence.unmeasured("bulk") if m.target.address == place.address and m.reason]
    reasons += [
        f"{m.data.failure.operation}{_said(m.data.failure)}" for m in told.measured if m.data and m.data.failure
    ]
    asked = case.plan.limits.bulk_read is not None
    idle = ": no login came about that it could follow" if asked else ": it is done only when asked for"
    why = f" ({reasons[0]})" if reasons else idle
    return NotMeasured(
        code=CODE,
        subject=place.subject,
        statement=f"No bulk read was made from {place.label}{why}.",
        remedy=f"Run again with --bulk-read {USUAL}MiB, or `{_check(place, USUAL)}`.",
    )


RULES = (
    Rule(
        code=CODE,
        section=Section.DATABASE,
        fires="Two bulk reads, none being carried farther, stop after more than the first packets: no byte comes, "
        "and what is sent is not acknowledged, or the server waits in ClientWrite; or they are reset. Small questions "
        "on a fresh connection beside them are answered.",
        quiet="A slow transfer that moves (loss, delay, a throttle), a stall at the first packets of full size "
        "(mtu.black-hole), a server that is slow to produce (pg_stat_activity), statement_timeout (57014), a read "
        "that stalls alone, an interruption or a hanging server (small questions fail too).",
        refuted_by="A larger transfer over one connection.",
        judge=judge,
    ),
)
