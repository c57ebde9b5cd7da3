"""A queue on the way as the rule judges it: with TCP's word, with the loss that goes with it, and its look-alikes."""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from random import Random

import pytest

from netdiag.diagnosis.causes import CONSEQUENCES
from netdiag.diagnosis.engine import conclude, folded
from netdiag.diagnosis.finding import Finding, FindingRole, NotMeasured, RuledOut, Severity
from netdiag.diagnosis.rules import congestion, link
from netdiag.plan.model import Baseline
from probes.database import HeldExchange, HeldSession
from probes.model import Outcome
from tests.fakes import evidence as ev
from tests.unit.queues import NO_QUEUE, PARTS, congested, filling, in_parts
from tests.unit.test_stats_queueing import is_told_a_queue

(RULE,) = congestion.RULES
NORMAL = {"baselines": (Baseline(source="test", target="ysql", rtt=0.05),)}


def first(path, wanted=True):
    """The first seed whose path a queue is told of, or is not."""
    return next(rtts for seed in range(200) if is_told_a_queue(rtts := path(Random(seed))) == wanted)


def echoes(rtts):
    """As a run has them, in measurements of their own."""
    parts = in_parts(rtts)
    measured = [ev.latency(part, method="icmp", ordinal=number) for number, part in enumerate(parts, start=1)]
    return [later(m, 0.2 * sum(PARTS[:number])) for number, m in enumerate(measured)]


def later(measurement, seconds):
    return dataclasses.replace(measurement, started=measurement.started + timedelta(seconds=seconds))


def handshakes(rtts):
    return ev.latency(rtts, method="tcp", ordinal=9)


def held(exchanges, *, begins=0.0, retransmits=0):
    """A live session with an exchange every 200 ms."""
    measurement = ev.database([ev.waterfall()])
    session = HeldSession(
        seconds=0.2 * len(exchanges),
        exchanges=tuple(
            HeldExchange(at_s=0.2 * n, seconds=took, retransmits=retransmits) for n, took in enumerate(exchanges)
        ),
        before=None,
        after=None,
    )
    data = dataclasses.replace(measurement.data, held=session)
    return later(dataclasses.replace(measurement, data=data, duration_s=0.2 * len(exchanges)), begins)


def world(rtts, tcp=None, *more, **plan):
    """TCP meets what the echoes meet, unless told otherwise."""
    return ev.case(*echoes(rtts), handshakes(rtts[:: max(1, len(rtts) // 20)] if tcp is None else tcp), *more, **plan)


def after_quiet(*more):
    """The few handshakes of the run were made before the queue came."""
    return ev.case(*echoes(QUEUE), later(handshakes(FLAT[:10]), -60), *more)


def partly(delivered=1400, lost=1500):
    """Large datagrams are lost more often than small ones, and some arrive."""
    seen = "9 of 15 datagrams of 1500 bytes vanish while one of 576 bytes arrives right after"
    return ev.mtu(to_target=dataclasses.replace(ev.direction(delivered=delivered, lost=lost), partial=seen))


def user_clock(measurement):
    return dataclasses.replace(measurement, timestamp_source="user")


QUEUE = first(lambda draw: congested(draw, busy=1.5))
RAMP = first(filling)
FLAT = [0.05 + 0.0001 * (n % 7) for n in range(sum(PARTS))]
FULL = [0.398 + 0.004 * (n % 3) for n in range(sum(PARTS))]
STEP = [0.05 if n < 60 else 0.13 for n in range(sum(PARTS))]
WORLDS = {
    "queue": (world(QUEUE), 0.7),
    "fills before our eyes, and TCP's": (world(RAMP), 0.9),
    "queue, and large ones lost": (world(QUEUE, None, partly()), 0.9),
    "always full": (world(FULL, None, partly(), **NORMAL), 0.7),
    "always full, no baseline": (world(FULL, None, partly()), None),
    "a longer way": (world(FULL, None, **NORMAL), None),
    "a longer way that loses at random": (world(FULL, [*[0.4, None] * 10], partly(), **NORMAL), None),
    "a policer": (world(FLAT, None, partly(), **NORMAL), None),
    "one change of route": (world(STEP, None, **NORMAL), None),
    "healthy": (world(FLAT, None, **NORMAL), None),
    "echoes answered when there is time": (world(QUEUE, FLAT), None),
    "handshakes before it, a session in it": (after_quiet(held(QUEUE)), 0.9),
    "handshakes before it, a session that is quick": (after_quiet(held(FLAT)), None),
    "handshakes before it, a session that is always slow": (after_quiet(held([0.4] * 120)), None),
    "handshakes before it, and nothing else": (after_quiet(), None),
    "handshakes before it, a session that sends again": (after_quiet(held(QUEUE, retransmits=1)), None),
    "echoes alone": (ev.case(*echoes(QUEUE)), None),
    "a busy host": (ev.case(*map(user_clock, echoes(QUEUE)), handshakes(QUEUE[::6])), None),
    "loss, flat": (world(FLAT, [0.05, 0.05, None, 0.05, None, None, 0.05, 0.05, 0.05, 0.05]), None),
    "too few": (ev.case(ev.latency([0.05, 0.2, 0.05, 0.2, 0.2, 0.05])), None),
    "nothing": (ev.case(), None),
    "all lost": (ev.case(ev.latency([None] * 10)), None),
    "loopback": (ev.case(ev.latency([0.001] * 10, at=ev.target("127.0.0.1"))), None),
    **{kind: (world(first(path, wanted=False)), None) for kind, path in NO_QUEUE.items()},
}


def only(name):
    (judgement,) = ev.judged(RULE, WORLDS[name][0])
    return judgement


@pytest.mark.parametrize("name", WORLDS)
def test_what_every_rule_keeps_to(name):
    case, confidence = WORLDS[name]
    ev.assert_one_each(RULE, case)
    ev.assert_deterministic(RULE, case, seed=len(name))
    ev.assert_evidence_carries(RULE, case)
    found = [j for j in ev.judged(RULE, case) if isinstance(j, Finding)]
    assert [finding.confidence for finding in found] == ([] if confidence is None else [confidence])


@pytest.mark.parametrize("name", ["healthy", "a policer", "a light load", "echoes answered when there is time"])
def test_a_path_without_a_queue_is_ruled_out_with_the_smallest_one(name):
    judgement = only(name)
    assert isinstance(judgement, RuledOut)
    assert "a queue that holds packets" in judgement.smallest_fault


@pytest.mark.parametrize(
    "name",
    [
        "echoes alone",
        "a busy host",
        "too few",
        "handshakes before it, and nothing else",
        "handshakes before it, a session that sends again",
        "handshakes before it, a session that is always slow",
        "nothing",
        "all lost",
        "gamma jitter",
    ],
)
def test_what_does_not_tell_is_not_measured(name):
    assert isinstance(only(name), NotMeasured)


def test_a_session_that_waits_when_the_echoes_do_is_cited():
    finding = only("handshakes before it, a session in it")
    assert "TCP exchanges beside slow echoes are slow" in finding.statement
    assert any("/database/" in name for name in finding.evidence)
    assert isinstance(only("handshakes before it, a session that is quick"), RuledOut)


def test_slow_echoes_beside_quick_tcp_are_said_to_be_the_hosts_own():
    assert "Slow echoes alone" in only("echoes answered when there is time").statement


def test_loss_is_told_with_the_round_trips_beside_it():
    """Where losses fall on slow moments they strengthen the finding; it names both figures."""
    found = []
    for draw in map(Random, range(60)):
        rtts = congested(draw)
        middle = sorted(rtts)[len(rtts) // 2]
        lossy = [None if rtt > middle and draw.random() < 0.3 else rtt for rtt in rtts]
        found += ev.judged(RULE, world(lossy, rtts[::6]))
    tied = [j for j in found if isinstance(j, Finding) and "What is lost is lost then" in j.statement]
    assert len(tied) >= 4
    assert {finding.confidence for finding in tied} == {0.9}


def test_three_times_the_normal_round_trip_is_critical():
    assert only("always full").severity is Severity.CRITICAL
    mild = [0.05 + (rtt - 0.05) / 3 for rtt in QUEUE]
    (judgement,) = ev.judged(RULE, world(mild))
    assert isinstance(judgement, RuledOut | NotMeasured) or judgement.severity is Severity.WARNING


@pytest.mark.parametrize("code", sorted(CONSEQUENCES[RULE.code] - {"lb.backend-down"}))
def test_what_a_queue_does_is_folded_under_it(code):
    queue = only("queue, and large ones lost")
    other = dataclasses.replace(queue, id=code, code=code, confidence=None)
    assert {f.code: f.role for f in folded([queue, other])}[code] is FindingRole.CONSEQUENCE


@pytest.mark.parametrize("name", ["queue, and large ones lost", "always full"])
def test_loss_and_delay_of_a_full_queue_are_not_causes_beside_it(name):
    case = WORLDS[name][0]
    diagnosis = conclude(case, [j for rule in (RULE, *link.RULES) for j in rule.judge(case)])
    assert [f.code for f in diagnosis.findings if f.role is FindingRole.CAUSE] == [RULE.code]
    assert "link.loss" in {f.code for f in diagnosis.findings}


@pytest.mark.parametrize("name", ["a longer way", "a longer way that loses at random", "one change of route"])
def test_a_longer_way_stays_what_it_is(name):
    case = WORLDS[name][0]
    diagnosis = conclude(case, [j for rule in (RULE, *link.RULES) for j in rule.judge(case)])
    assert "region.latency" in {f.code for f in diagnosis.findings if f.role is FindingRole.CAUSE}


def test_the_slow_server_is_no_queue():
    """Its kernel answers SYNs: the handshake has nothing of the server's own time, which the phases have."""
    slow = [ev.waterfall(phase_s=0.4, attempt=n) for n in range(6)]
    case = ev.case(ev.database(slow), *echoes(FLAT), handshakes(FLAT[::6]))
    assert isinstance(ev.judged(RULE, case)[0], RuledOut)


def judged_beside(case):
    (finding,) = (j for j in ev.judged(RULE, case) if isinstance(j, Finding))
    return finding


def test_loss_while_the_queue_is_empty_is_another_cause():
    """A queue at times, and one packet in three lost at any time: the loss is not folded under it."""
    tcp = [0.05 if n % 4 else 0.2 for n in range(40)] + [0.05, None, 0.05] * 10 + [0.05]
    queue = judged_beside(world(QUEUE, tcp))
    assert queue.beside == ("link.loss",)
    loss = dataclasses.replace(queue, id="loss", code="link.loss")
    assert {f.code: f.role for f in folded([queue, loss])}["link.loss"] is FindingRole.CAUSE
    assert "Between quick round trips" in queue.statement


def test_a_queue_drops_hardly_anything_between_quick_round_trips():
    """A small packet finds a full queue full for the part of the time that the surplus is."""
    found = []
    for draw in map(Random, range(150)):
        rtts = congested(draw)
        top = max(rtts)
        dropped = [None if rtt > top - 0.02 and draw.random() < 0.3 else rtt for rtt in rtts]
        found += [j for j in ev.judged(RULE, world(dropped, dropped[::2])) if isinstance(j, Finding)]
    assert len(found) >= 30
    assert sum("link.loss" in finding.beside for finding in found) <= 1


@pytest.mark.parametrize(("normal", "longer"), [(0.05, ()), (0.025, ("region.latency",))])
def test_a_queue_on_a_longer_way_is_told_with_it(normal, longer):
    """It was seen empty: what is left of the round trip then is the way's."""
    baselines = (Baseline(source="test", target="ysql", rtt=normal),)
    case = world(first(congested), None, baselines=baselines)
    assert judged_beside(case).beside == longer
    diagnosis = conclude(case, [j for rule in (RULE, *link.RULES) for j in rule.judge(case)])
    causes = {f.code for f in diagnosis.findings if f.role is FindingRole.CAUSE}
    assert causes == {RULE.code, *longer}


def test_a_queue_that_was_not_seen_empty_leaves_the_way_open():
    baselines = (Baseline(source="test", target="ysql", rtt=0.02),)
    finding = judged_beside(world(RAMP, None, baselines=baselines))
    assert finding.beside == ()
    assert "not seen empty" in finding.statement


@pytest.mark.parametrize(("phase_s", "itself"), [(0.9, ()), (8.0, ("db.slow",))])
def test_a_server_that_is_slow_beyond_the_queue_is_another_cause(phase_s, itself):
    slow = ev.database([ev.waterfall(phase_s=phase_s, attempt=n) for n in range(4)])
    assert judged_beside(world(QUEUE, None, slow)).beside == itself
    lossy = [None if n == 50 else rtt for n, rtt in enumerate(QUEUE)]
    assert "db.slow" not in judged_beside(world(lossy, QUEUE[::6], slow)).beside


@pytest.mark.parametrize("code", ["db.slow", "db.unresponsive"])
@pytest.mark.parametrize("severity", [Severity.WARNING, Severity.CRITICAL])
def test_a_balancer_waits_for_its_backend_behind_the_queue_but_serves_others(code, severity):
    queue = only("queue")
    subject = dataclasses.replace(queue.subject, endpoint="lb", address="192.0.2.9")
    late = dataclasses.replace(queue, id="late", code=code, subject=subject, severity=severity, confidence=0.9)
    roles = {f.code: f.role for f in folded([queue, late], {"lb": ("ysql",)})}
    consequence = severity is Severity.WARNING
    assert (roles[code] is FindingRole.CONSEQUENCE) is consequence
    assert {f.code: f.role for f in folded([queue, late], {"lb": ("other",)})}[code] is FindingRole.CAUSE


def test_a_backend_that_the_balancer_cannot_reach_is_the_queues_doing():
    queue = only("queue")
    subject = dataclasses.replace(queue.subject, endpoint="lb", address="192.0.2.9")
    down = dataclasses.replace(queue, id="down", code="lb.backend-down", subject=subject)
    assert {f.code: f.role for f in folded([queue, down], {"lb": ("ysql",)})}[down.code] is FindingRole.CONSEQUENCE


def twins(other, **plan):
    """Both addresses of one name: one whose queue is seen to fill, and one with these round trips."""
    there = ev.target("2001:db8::7")
    second = [ev.latency(other, method=method, ordinal=30, at=there) for method in ("icmp", "tcp")]
    return world(RAMP, None, *second, **plan)


def test_the_other_address_of_the_name_is_judged_by_the_queue_if_its_round_trips_are_the_same():
    shuffled = Random(4).sample(RAMP, len(RAMP))
    kinds = [type(judgement) for judgement in ev.judged(RULE, twins(shuffled))]
    assert kinds == [Finding, Finding]
    longer = [rtt + 0.03 for rtt in shuffled]
    assert [type(j) for j in ev.judged(RULE, twins(longer))] == [Finding, NotMeasured]


def test_refused_handshakes_have_round_trips_too():
    late = ev.latency([0.05] * 10)
    samples = tuple(dataclasses.replace(s, outcome=Outcome.REFUSED) for s in late.data.samples)
    refused = dataclasses.replace(late, data=dataclasses.replace(late.data, samples=samples))
    assert isinstance(ev.judged(RULE, ev.case(*echoes(FLAT), refused))[0], RuledOut)
