"""This host's own connection-tracking table: host.conntrack-full.

Connection tracking makes an entry for the first packet of every connection, in the OUTPUT hook of this very host where
the packet is its own. Where there is no room, and nothing to evict, the packet is dropped: sendto(2) says EPERM of a
datagram or an echo, and connect(2) says nothing at all, so that the SYN looks lost. The kernel counts each drop.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

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
    Subject,
)
from netdiag.diagnosis.rule import Case, Rule
from netdiag.diagnosis.rules.handshakes import Answer, Tries, every_try
from netdiag.diagnosis.rules.paths import Sampled
from netdiag.diagnosis.rules.subjects import finding_id, percent
from netdiag.diagnosis.thresholds import CERTAIN, CONNTRACK_FULL, CONNTRACK_TRIES, LIKELY, POSSIBLE
from netdiag.evidence import Evidence
from probes.exchanges import ConntrackReading
from probes.host import HostMeasurement
from probes.latency import LatencyMeasurement
from probes.loss import LossMeasurement
from probes.model import Failure, Measurement, Outcome, value
from probes.names import DnsQuery, NamesMeasurement

CONNTRACK = "host.conntrack-full"
CHECK = "netdiag probe host localhost"
_REFUSED = "EPERM"  # what NF_DROP in a local hook becomes (net/netfilter/core.c)


@value
class Table:
    """The readings of one vantage. ``dropped`` and ``evicted``: during the run; None where that is not known."""

    entries: int  # at the fullest reading
    limit: int
    dropped: int | None
    evicted: int | None
    readings: int
    evidence: tuple[str, ...]

    @property
    def full(self) -> bool:
        return self.entries >= CONNTRACK_FULL * self.limit

    @property
    def shown(self) -> str:
        return f"{self.entries:,} of {self.limit:,} entries ({percent(self.entries / self.limit)})"


@value
class Toll:
    """What became of the first packets of this run's own connections, while the table was watched."""

    refused: int  # datagrams and echoes of which sendto(2) said EPERM
    unanswered: int  # SYNs, repeated ones included
    opened: int  # connections and queries that were answered
    uneven: bool  # everything failed at one address and nothing at another
    evidence: tuple[str, ...]

    @property
    def failed(self) -> int:
        return self.refused + self.unanswered

    @property
    def shown(self) -> str:
        silent = f"{self.unanswered} of its SYNs got no answer" if self.unanswered else ""
        denied = f"{self.refused} of its own datagrams and echoes were refused with {_REFUSED}" if self.refused else ""
        return " and ".join(part for part in (denied, silent) if part)


def judge_conntrack(case: Case) -> Iterator[Judgement]:
    measured = case.evidence.of(HostMeasurement)
    for vantage in sorted({m.vantage for m in measured}):
        own = Evidence(tuple(m for m in case.evidence if m.vantage == vantage))
        table = _table([m for m in measured if m.vantage == vantage])
        if table is not None:
            yield _judged(Subject(source=vantage), table, _toll(own))
    for vantage in sorted({m.vantage for m in case.evidence} - {m.vantage for m in measured}):
        yield _not_read(case, vantage)
    if not len(case.evidence):
        yield _not_read(case, case.plan.vantage.name)


def _table(measured: Iterable[Measurement[HostMeasurement]]) -> Table | None:
    read = [(m.id, m.data.conntrack) for m in measured if m.data is not None]
    known = [(r.entries, r.limit) for _, r in read if r.entries is not None and r.limit]
    if not known:
        return None
    entries, limit = max(known, key=lambda pair: (pair[0] / pair[1], pair[0]))
    readings = [reading for _, reading in read]
    return Table(
        entries=entries,
        limit=limit,
        dropped=_growth(readings, "drop"),
        evicted=_growth(readings, "early_drop"),
        readings=len(read),
        evidence=tuple(sorted(id_ for id_, _ in read)),
    )


def _growth(readings: Iterable[ConntrackReading], name: str) -> int | None:
    """Counters only rise: the order of the readings does not matter."""
    found = [getattr(reading.counters, name) for reading in readings if reading.counters is not None]
    counts = [count for count in found if count is not None]
    return max(counts) - min(counts) if len(counts) > 1 else None


def _toll(evidence: Evidence) -> Toll:
    addresses = sorted({m.target.address for m in evidence if m.target.address is not None})
    tries = [every_try(evidence, address) for address in addresses]
    queries = [(m.id, query) for m in evidence.of(NamesMeasurement) if m.data for query in m.data.queries]
    echoes = tuple(_refused_echoes(evidence))
    refused = [id_ for id_, query in queries if _is_refused(query.outcome, query.failure)] + list(echoes)
    refused += [t.measurement for every in tries for t in every.tries if _errno(t.failure) == _REFUSED]
    return Toll(
        refused=len(refused),
        unanswered=sum(map(_unanswered, tries)) + sum(_is_silent_connect(query) for _, query in queries),
        opened=sum(map(_opened, tries)) + sum(query.outcome is Outcome.ANSWERED for _, query in queries),
        uneven=any(map(_all_failed, tries)) and any(map(_all_opened, tries)),
        evidence=tuple(sorted({*refused, *(id_ for id_, _ in queries), *(id_ for t in tries for id_ in t.ids)})),
    )


def _refused_echoes(evidence: Evidence) -> Iterator[str]:
    kinds: tuple[type[Any], ...] = (LatencyMeasurement, LossMeasurement)
    measured: list[Sampled] = [m for kind in kinds for m in evidence.of(kind)]
    for m in measured:
        if m.data is not None and m.data.method == "icmp":
            yield from (m.id for sample in m.data.samples if _is_refused(sample.outcome, sample.failure))


def _is_refused(outcome: Outcome, failure: Failure | None) -> bool:
    return outcome is Outcome.NOT_SENT and _errno(failure) == _REFUSED


def _errno(failure: Failure | None) -> str | None:
    return failure.errno if failure is not None else None


def _is_silent_connect(query: DnsQuery) -> bool:
    return query.outcome is Outcome.LOST and query.failure is not None and query.failure.operation == "connect"


def _unanswered(tries: Tries) -> int:
    """SYNs: all of a silent attempt, and those before the last of one that was answered."""
    return sum(t.syns - (t.answer is not Answer.SILENT) for t in tries.tries if t.answer is not Answer.NOT_SENT)


def _opened(tries: Tries) -> int:
    return tries.sent - tries.count(Answer.SILENT)


def _all_failed(tries: Tries) -> bool:
    return len(tries.tries) >= CONNTRACK_TRIES and not _opened(tries)


def _all_opened(tries: Tries) -> bool:
    return len(tries.tries) >= CONNTRACK_TRIES and _opened(tries) == len(tries.tries) and not _unanswered(tries)


def _judged(subject: Subject, table: Table, toll: Toll) -> Judgement:
    confidence = _confidence(table, toll)
    if confidence is not None:
        return _finding(subject, table, toll, confidence)
    if table.full:
        return _near(subject, table, toll)
    if table.dropped is None and toll.failed:
        return NotMeasured(
            code=CONNTRACK,
            subject=subject,
            statement=f"The connection-tracking table held {table.shown} when it was read, but whether it dropped "
            f"anything in this run is not known, and {toll.shown}.",
            remedy="Read /proc/net/stat/nf_conntrack before and after a connection (column drop).",
        )
    return _has_room(subject, table, toll)


def _confidence(table: Table, toll: Toll) -> float | None:
    """How surely the full table is why connections of this run failed; None where it is not shown to be."""
    if not (table.full and toll.failed):
        return None
    if table.dropped is None:
        return _without_counters(table, toll)
    explained = table.dropped >= toll.failed and not toll.uneven
    if table.dropped and toll.refused:
        return CERTAIN if explained else LIKELY
    return LIKELY if explained else None


def _without_counters(table: Table, toll: Toll) -> float | None:
    if table.entries < table.limit or toll.uneven or toll.opened:
        return None
    return LIKELY if toll.refused else POSSIBLE


def _finding(subject: Subject, table: Table, toll: Toll, confidence: float) -> Finding:
    counted = (
        f"dropped {table.dropped:,} packets" if table.dropped is not None else "keeps no counters that can be read"
    )
    through = "nothing of this run got through" if not toll.opened else f"{toll.opened} others got through"
    return Finding(
        id=finding_id(CONNTRACK, subject),
        code=CONNTRACK,
        role=FindingRole.CAUSE,
        severity=Severity.WARNING if toll.opened else Severity.CRITICAL,
        confidence=confidence,
        section=Section.INFRASTRUCTURE,
        subject=subject,
        statement=f"This host's own connection-tracking table is full: {table.shown}, and in this run it {counted}. "
        f"{toll.shown[:1].upper()}{toll.shown[1:]}; {through}. New connections end here: the network has no part.",
        evidence=tuple(sorted({*table.evidence, *toll.evidence})),
        would_refute="The same failures while the drop column of /proc/net/stat/nf_conntrack stands still.",
        actions=(_relief(), _lasting()),
    )


def _relief() -> Action:
    return Action(
        owner="on-call",
        horizon=Horizon.IMMEDIATE,
        step="Raise net.netfilter.nf_conntrack_max (an entry takes some 300 bytes), then find who holds the entries: "
        "`conntrack -L | awk '{print $1, $4}' | sort | uniq -c | sort -rn | head`.",
        check=CHECK,
    )


def _lasting() -> Action:
    return Action(
        owner="on-call",
        horizon=Horizon.SHORT_TERM,
        step="Alert at 80 % of nf_conntrack_max; shorten nf_conntrack_tcp_timeout_established (5 days by default), "
        "pool connections, and exempt what needs no tracking with notrack.",
        check=CHECK,
    )


def _near(subject: Subject, table: Table, toll: Toll) -> Finding:
    """It may be why older, idle connections are forgotten, and it is the next incident; it is not this one."""
    evicted = f", {table.evicted:,} old entries evicted to make room" if table.evicted else ""
    failed = f" {toll.shown[:1].upper()}{toll.shown[1:]}, which the table does not account for." if toll.failed else ""
    dropped = f"{table.dropped:,} packets dropped" if table.dropped is not None else "drops not known"
    return Finding(
        id=finding_id(CONNTRACK, subject),
        code=CONNTRACK,
        role=FindingRole.NOTE,
        severity=Severity.INFO,
        confidence=CERTAIN,
        section=Section.INFRASTRUCTURE,
        subject=subject,
        statement=f"This host's connection-tracking table is nearly full: {table.shown}, in this run "
        f"{dropped}{evicted}.{failed} When it is full, new connections fail here.",
        evidence=tuple(sorted({*table.evidence, *toll.evidence})),
        would_refute="A reading below nine tenths of nf_conntrack_max.",
        actions=(_lasting(),),
    )


def _has_room(subject: Subject, table: Table, toll: Toll) -> RuledOut:
    if table.dropped is None:
        seen, smallest = "", "a table that is full at the moment of reading; drops were not counted"
    else:
        seen = f", and {table.dropped:,} packets were dropped by connection tracking during the run"
        smallest = "a table at nine tenths of its limit at any of the readings, with one packet dropped"
    filtered = f" What was refused with {_REFUSED} is a filter's doing." if toll.refused else ""
    return RuledOut(
        code=CONNTRACK,
        subject=subject,
        statement=f"This host's connection-tracking table held {table.shown} at the fullest of {table.readings} "
        f"readings{seen}.{filtered}",
        smallest_fault=smallest,
        evidence=table.evidence,
    )


def _not_read(case: Case, vantage: str | None) -> NotMeasured:
    asked = [m for m in case.evidence.unmeasured("host") if m.vantage == vantage]
    why = next((m.reason for m in asked if m.reason), "it was not asked for")
    return NotMeasured(
        code=CONNTRACK,
        subject=Subject(source=vantage),
        statement=f"How full the connection-tracking table of {vantage or 'this host'} is: {why}.",
        remedy=f"On that host: {CHECK}",
    )


RULES = (
    Rule(
        code=CONNTRACK,
        section=Section.INFRASTRUCTURE,
        fires="This host's connection-tracking table is at nine tenths of its limit or above, its drop counter rose "
        "during the run, and sends of ours were refused with EPERM or SYNs stayed silent, no more of them than were "
        "dropped. Without counters: it is at its limit, and nothing of the run got through.",
        quiet="It is full and everything works (a note); entries are evicted to make room (early_drop) or two packets "
        "of one flow race (insert_failed); a filter refuses sends while there is room; what fails at one address only.",
        refuted_by="The same failures while the drop column of /proc/net/stat/nf_conntrack stands still.",
        judge=judge_conntrack,
    ),
)
