"""firewall.idle-timeout: what it claims, and what looks like it."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from netdiag.diagnosis.finding import Finding, NotMeasured, RuledOut, Severity
from netdiag.diagnosis.rules import idle
from netdiag.diagnosis.thresholds import ADVERSE_LOSS, IDLE_FORGOTTEN, IDLE_RETRANSMITS, LIKELY
from probes.database import Phase
from probes.idle import IdleConnection, IdleEnd, IdleMeasurement
from probes.model import Failure, FailureKind, Outcome
from tests.fakes import evidence as ev

(RULE,) = idle.RULES
SEEDS = range(6)


def held(idle_s, end=IdleEnd.ANSWERED, **given):
    silent = end is IdleEnd.SILENT
    waited = 5.0 if silent or end is IdleEnd.ACKNOWLEDGED else 0.01
    known = {"opened_s": 0.1, "asked_s": 0.1 + idle_s, "waited_s": waited, "retransmits": 5 if silent else 0}
    return IdleConnection(idle_s=idle_s, end=end, **(known | given))


def fresh(beside, end=IdleEnd.ANSWERED, after_s=1.0):
    at = beside.asked_s + after_s
    return replace(held(0.001, end), opened_s=at, asked_s=at)


def measured(*connections, control=IdleEnd.ANSWERED, beside=IdleEnd.ANSWERED, after_s=1.0, ordinal=1, **given):
    lost = [c for c in connections if c.end in (IdleEnd.SILENT, IdleEnd.RESET)]
    known = {
        "address": ev.target().address,
        "port": 5432,
        "logged_in": False,
        "longest_s": 24.0,
        "control": control and held(30.0, control),
        "fresh": tuple(fresh(c, beside, after_s) for c in lost),
    }
    data = IdleMeasurement(idle=tuple(sorted(connections, key=lambda c: c.idle_s)), **(known | given))
    return ev.measured("idle", ev.target(), data, ordinal=ordinal)


def world(*connections, more=(), **given):
    return ev.case(measured(*connections, **given), *more)


SILENT, RESET = IdleEnd.SILENT, IdleEnd.RESET
PAIR = (held(23.0, SILENT), held(24.0, SILENT))
BRACKET = (held(6.0), held(12.0, SILENT), *PAIR)
GOODBYE = Failure(kind=FailureKind.SERVER, operation="sync", sqlstate="57P05", detail="idle-session timeout")
UNANSWERED = ev.unconnected(Outcome.LOST, syns=4)
CUT = ev.waterfall(failed=Phase.FIRST_QUERY, kind=FailureKind.RESET)

WORLDS = {
    "silent": (world(*BRACKET), Finding),
    "silent, nothing shorter tried": (world(*PAIR), Finding),
    "a RST": (world(held(6.0), held(23.0, RESET), held(24.0, RESET), after_s=0.0), Finding),
    "both": (world(held(23.0, SILENT), held(24.0, RESET)), Finding),
    "beside a server that closes later": (world(*PAIR, held(30.0, IdleEnd.CLOSED)), Finding),
    "healthy": (world(held(6.0), held(12.0), held(23.0), held(24.0)), RuledOut),
    "one": (world(held(6.0), held(23.0), held(24.0, SILENT)), NotMeasured),
    "one alone": (world(held(6.0), held(24.0, SILENT)), NotMeasured),
    "one as idle is answered": (world(held(12.0, SILENT), held(23.0, SILENT), held(24.0)), NotMeasured),
    "a restart": (world(*BRACKET, control=RESET), NotMeasured),
    "a failover": (world(*BRACKET, control=SILENT), NotMeasured),
    "no control": (world(*BRACKET, control=None), NotMeasured),
    "everybody is cut off": (world(*BRACKET, beside=IdleEnd.UNTOLD), NotMeasured),
    "nobody fresh": (world(*BRACKET, fresh=()), NotMeasured),
    "fresh only afterwards": (world(*BRACKET, after_s=9.0), NotMeasured),
    "a way of several": (world(*BRACKET, more=[ev.ports([UNANSWERED, ev.connected()])]), NotMeasured),
    "lost and sent again": (world(*(held(s, waited_s=1.4, retransmits=3) for s in (6, 12, 23, 24))), RuledOut),
    "too short a silence": (
        world(held(23.0, SILENT, waited_s=2.0), held(24.0, SILENT, retransmits=IDLE_RETRANSMITS - 1)),
        NotMeasured,
    ),
    "resets of busy ones too": (
        world(held(23.0, RESET), held(24.0, RESET), after_s=0.0, more=[ev.database([CUT, ev.waterfall()])]),
        NotMeasured,
    ),
    "the server closes": (world(*(held(s, IdleEnd.CLOSED, failure=GOODBYE) for s in (23, 24))), NotMeasured),
    "the server hangs": (world(*(held(s, IdleEnd.ACKNOWLEDGED) for s in (6, 12, 23, 24))), NotMeasured),
    "behind a balancer": (
        world(held(6.0), *(held(s, IdleEnd.ACKNOWLEDGED) for s in (12, 23, 24)), control=IdleEnd.ACKNOWLEDGED),
        NotMeasured,
    ),
    "closed port": (world(control=None, failure=Failure(kind=FailureKind.REFUSED, operation="connect")), NotMeasured),
    "quick": (ev.case(ev.ports([ev.connected()])), NotMeasured),
    "unavailable": (ev.case(ev.measured("idle", ev.target(), None)), NotMeasured),
    "unresolved": (ev.case(), NotMeasured),
}


def only(case):
    (judgement,) = ev.judged(RULE, case)
    return judgement


@pytest.mark.parametrize("name", WORLDS)
def test_each_world_is_judged_rightly(name):
    case, kind = WORLDS[name]
    assert isinstance(only(case), kind), only(case)


@pytest.mark.parametrize("name", WORLDS)
def test_the_rule_keeps_its_promises(name):
    case, _ = WORLDS[name]
    ev.assert_one_each(RULE, case)
    ev.assert_deterministic(RULE, case, seed=7)
    ev.assert_evidence_carries(RULE, case)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_finding_states_the_bracket_and_the_remedy_below_it(seed):
    rng = random.Random(seed)
    low, high = rng.uniform(4.0, 9.0), rng.uniform(9.95, 20.0)
    found = only(world(held(low), held(high, SILENT), *PAIR))
    assert f"between {idle.seconds(low)} and {idle.seconds(high)}" in found.statement
    assert f"keepalives_idle={int(low / 2)} " in found.actions[0].step
    assert found.severity is Severity.WARNING
    assert found.confidence == LIKELY
    assert found.actions[0].check.endswith(f"seconds={-int(-2 * high // 1)}")


def test_nothing_shorter_survived_is_no_lower_bound():
    assert "after at most 23 s" in only(world(*PAIR)).statement


def test_a_reset_is_told_from_silence():
    silent = only(world(*BRACKET)).statement
    reset = only(world(held(23.0, RESET), held(24.0, RESET), after_s=0.0)).statement
    assert "hangs until TCP gives up" in silent
    assert "get no acknowledgement of their next bytes (18 packets, 5.0 s or longer each)" in silent
    assert "draw a RST" in reset
    assert "fails with a reset" in reset


def test_a_connection_that_is_answered_after_as_long_refutes():
    before = ev.case(measured(*BRACKET))
    after = ev.case(measured(*BRACKET), measured(held(12.5), ordinal=2))
    assert isinstance(only(before), Finding)
    assert "was answered" in only(after).statement
    assert isinstance(only(after), NotMeasured)


def test_loss_that_a_database_is_used_over_does_not_explain_so_much_silence():
    """As the threshold's own words have it: what the fewest packets that count are worth against chance."""
    packets = IDLE_FORGOTTEN * (1 + IDLE_RETRANSMITS)
    assert round(1 / (1 - 0.85**2) ** packets, -3) == 28_000
    assert 1 - (1 - (1 - ADVERSE_LOSS) ** 2) ** packets > LIKELY


def test_what_was_not_tried_is_said():
    found = only(world(held(6.0), held(24.0)))
    assert "quiet for 6.0 s to 24 s" in found.statement
    assert "seconds=360" in found.statement
    assert "within 24 s" in found.smallest_fault
    assert "seconds=360" in only(WORLDS["quick"][0]).remedy


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("the server closes", "idle-session timeout"),
        ("behind a balancer", "behind a balancer"),
        ("a failover", "every age"),
        ("everybody is cut off", "interrupted"),
        ("unavailable", "not permitted"),
    ],
)
def test_what_else_it_may_be_is_said(name, said):
    assert said in only(WORLDS[name][0]).statement


def test_another_endpoint_of_the_same_socket_is_judged_by_the_same_measurement():
    other = ev.endpoint(name="other")
    case = ev.case(measured(*BRACKET), endpoints=[ev.endpoint(), other])
    assert [type(j) for j in ev.judged(RULE, case)] == [Finding, Finding]
