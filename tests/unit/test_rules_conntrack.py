"""A full table of this host's own connections, and what only looks like one."""

from __future__ import annotations

import dataclasses
import random

import pytest

from netdiag.diagnosis.causes import CONSEQUENCES
from netdiag.diagnosis.engine import conclude, folded
from netdiag.diagnosis.finding import Finding, FindingRole, NotMeasured, RuledOut, Severity
from netdiag.diagnosis.rules import conntrack
from netdiag.diagnosis.thresholds import CERTAIN
from probes.exchanges import ConntrackReading
from probes.host import HostMeasurement
from probes.model import Failure, FailureKind, Outcome, Target
from probes.names import DnsQuery
from probes.wire.conntrack import ConntrackCounters
from tests.fakes import evidence as ev

(RULE,) = conntrack.RULES
LIMIT = 262_144
DENIED = Failure(kind=FailureKind.LOCAL, operation="send", errno="EPERM")
SILENT = ev.unconnected(Outcome.LOST, syns=2)


def reading(ordinal, entries, *, drop=0, early_drop=0, insert_failed=0, counters=True):
    known = ConntrackCounters(drop=drop, early_drop=early_drop, insert_failed=insert_failed) if counters else None
    data = HostMeasurement(conntrack=ConntrackReading(entries=entries, limit=LIMIT, counters=known))
    return ev.measured("host", Target(host="test"), data, ordinal=ordinal)


def readings(entries, *, before=0, counters=True, **after):
    """Two readings: the counters begin at ``before`` and rise to what ``after`` says."""
    start = reading(1, entries, drop=before, early_drop=before, insert_failed=before, counters=counters)
    later = {name: before + rise for name, rise in after.items()}
    rest = {name: before for name in ("drop", "early_drop", "insert_failed") if name not in later}
    return start, reading(2, entries, counters=counters, **later, **rest)


def query(outcome, failure=None, transport="udp"):
    return DnsQuery(
        resolver="192.0.2.53", record_type="A", transport=transport, attempt=1, seconds=0.001, outcome=outcome,
        failure=failure, rcode="NOERROR" if outcome is Outcome.ANSWERED else None,
    )  # fmt: skip


def denied(count):
    return ev.names(addresses=(), queries=[query(Outcome.NOT_SENT, DENIED)] * count)


def echoes_denied(count):
    echoes = ev.latency([None] * count, method="icmp", lost=Outcome.NOT_SENT)
    samples = tuple(dataclasses.replace(sample, failure=DENIED) for sample in echoes.data.samples)
    return dataclasses.replace(echoes, data=dataclasses.replace(echoes.data, samples=samples))


def works(address="198.51.100.9", count=4):
    return ev.ports([ev.connected()] * count, at=ev.target(address))


def fails(count=4):
    return ev.ports([SILENT] * count)


FULL = LIMIT - 3
WORLDS = {
    "full": ([*readings(FULL, drop=40), denied(6), fails()], CERTAIN),
    "full, by addresses": ([*readings(FULL, drop=40), echoes_denied(20), fails()], CERTAIN),
    "full and silent": ([*readings(FULL, drop=9), fails(4)], 0.9),
    "full now and then": ([*readings(FULL, drop=500, before=7), denied(3), works(), fails(2)], CERTAIN),
    "one address fails": ([*readings(FULL, drop=500), works(), fails()], None),
    "one address fails, and sends are refused": ([*readings(FULL, drop=500), denied(2), works(), fails()], 0.9),
    "fewer drops than failures": ([*readings(FULL, drop=2), fails()], None),
    "full, all works": ([*readings(FULL), works()], None),
    "drops of others, all works": ([*readings(FULL, drop=90), works()], None),
    "evictions, all works": ([*readings(FULL, early_drop=4000), works()], None),
    "races": ([*readings(900, insert_failed=70), works(), fails(1)], None),
    "old drops": ([*readings(FULL, before=100_000), fails()], None),
    "a filter, half full": ([*readings(LIMIT // 2), denied(6), fails()], None),
    "a tracker's own drops": ([*readings(LIMIT // 2, drop=40), denied(6), fails()], None),
    "no counters, at the limit": ([*readings(LIMIT, counters=False), denied(6), fails()], 0.9),
    "no counters, silence": ([*readings(LIMIT, counters=False), fails()], 0.7),
    "no counters, some work": ([*readings(LIMIT, counters=False), denied(6), works()], None),
    "no counters, room": ([*readings(900, counters=False), fails()], None),
    "no counters, idle": ([*readings(900, counters=False), works()], None),
    "healthy": ([*readings(900), works()], None),
    "one reading": ([reading(1, 900), works()], None),
    "not there": ([ev.measured("host", Target(host="test"), None), fails()], None),
    "not asked": ([fails()], None),
    "nothing": ([], None),
}  # fmt: skip


def judged(name):
    return [j for j in ev.judged(RULE, ev.case(*WORLDS[name][0]))]


def finding(name):
    causes = [j for j in judged(name) if isinstance(j, Finding) and j.role is FindingRole.CAUSE]
    return causes[0] if causes else None


@pytest.mark.parametrize("name", WORLDS)
def test_what_every_rule_keeps_to(name):
    measurements, confidence = WORLDS[name]
    case = ev.case(*measurements)
    ev.assert_one_each(RULE, case)
    ev.assert_deterministic(RULE, case, seed=len(name))
    ev.assert_evidence_carries(RULE, case)
    found = finding(name)
    assert (found and found.confidence) == confidence


@pytest.mark.parametrize("name", ["not there", "not asked", "no counters, room"])
def test_what_cannot_be_read_is_not_measured(name):
    (judgement,) = judged(name)
    assert isinstance(judgement, NotMeasured)


def test_the_reason_why_it_was_not_read_is_said():
    (judgement,) = judged("not there")
    assert "not permitted" in judgement.statement


@pytest.mark.parametrize("name", ["healthy", "races", "a filter, half full", "one reading", "no counters, idle"])
def test_a_table_with_room_is_ruled_out_with_the_smallest_fault(name):
    (judgement,) = judged(name)
    assert isinstance(judgement, RuledOut)
    assert judgement.smallest_fault


def test_a_filter_is_named_where_sends_are_refused_while_there_is_room():
    (judgement,) = judged("a filter, half full")
    assert "a filter's doing" in judgement.statement


NOTES = ["full, all works", "evictions, all works", "drops of others, all works", "old drops", "one address fails"]


@pytest.mark.parametrize("name", NOTES)
def test_nearly_full_without_harm_of_ours_is_a_note_at_most(name):
    (note,) = judged(name)
    assert note.role is FindingRole.NOTE
    assert note.severity is Severity.INFO


def test_some_connections_that_work_make_it_a_warning():
    assert finding("full").severity is Severity.CRITICAL
    assert finding("full now and then").severity is Severity.WARNING


def test_from_nine_tenths_on_the_table_is_full_and_below_it_is_not():
    at, below = -(-LIMIT * 9 // 10), LIMIT * 9 // 10 - 1
    found = [ev.judged(RULE, ev.case(*readings(n, drop=40), denied(6), fails()))[0] for n in (at, below)]
    assert [isinstance(judgement, Finding) for judgement in found] == [True, False]


def other(code, confidence):
    subject = dataclasses.replace(finding("full").subject, source=None, endpoint="ysql", address="198.51.100.7")
    return dataclasses.replace(finding("full"), id=code, code=code, subject=subject, confidence=confidence)


@pytest.mark.parametrize("code", sorted(CONSEQUENCES[RULE.code]))
def test_what_it_explains_is_folded_under_it_wherever_it_is(code):
    roles = {f.code: f.role for f in folded([finding("full"), other(code, 0.9)])}
    assert roles[code] is FindingRole.CONSEQUENCE


def test_what_is_only_likely_takes_nothing_under_it():
    likely = finding("one address fails, and sends are refused")
    roles = {f.code: f.role for f in folded([likely, other("firewall.drop", 0.9)])}
    assert roles["firewall.drop"] is FindingRole.CAUSE


def test_a_route_that_a_router_says_is_missing_is_a_cause_of_its_own():
    roles = {f.code: f.role for f in folded([finding("full"), other("net.unreachable", CERTAIN)])}
    assert roles["net.unreachable"] is FindingRole.CAUSE


def test_the_whole_diagnosis_names_one_cause():
    from netdiag.diagnosis.catalogue import RULES

    case = ev.case(*WORLDS["full, by addresses"][0])
    diagnosis = conclude(case, [j for rule in RULES for j in rule.judge(case)])
    causes = {f.code for f in diagnosis.findings if f.role is FindingRole.CAUSE}
    assert causes == {RULE.code}


def test_each_vantage_answers_for_its_own_table():
    """A run joined of two: the full one is named, and the other's failures are not laid at its door."""
    full = [dataclasses.replace(m, vantage="a", id=f"a/{m.id}") for m in WORLDS["full"][0]]
    well = [dataclasses.replace(m, vantage="b", id=f"b/{m.id}") for m in WORLDS["healthy"][0]]
    found = ev.judged(RULE, ev.case(*full, *well))
    assert {j.subject.source: isinstance(j, Finding) for j in found} == {"a": True, "b": False}


@pytest.mark.parametrize("seed", range(40))
def test_whatever_the_figures_no_more_is_blamed_on_the_table_than_it_dropped(seed):
    draw = random.Random(seed)
    entries, dropped, silent = draw.randint(1, LIMIT), draw.randint(0, 40), draw.randint(1, 8)
    (judgement,) = ev.judged(RULE, ev.case(*readings(entries, before=draw.randint(0, 99), drop=dropped), fails(silent)))
    due = entries >= 0.9 * LIMIT and dropped >= 2 * silent  # two SYNs each
    assert (isinstance(judgement, Finding) and judgement.role is FindingRole.CAUSE) == due
