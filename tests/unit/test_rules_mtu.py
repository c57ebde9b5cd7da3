"""mtu.black-hole and mtu.fragmentation: sizes from RFC 6691 (MSS = MTU - 40, IPv6 - 60), worked by hand."""

from __future__ import annotations

import random

import pytest

from netdiag.diagnosis.finding import Finding, FindingRole, NotMeasured, RuledOut, Severity
from netdiag.diagnosis.rules import mtu
from netdiag.plan.model import Baseline, VantagePlan
from probes.exchanges import DatagramReply
from probes.model import Outcome
from probes.mtu import DatagramTrial
from tests.fakes.evidence import assert_deterministic, assert_evidence_carries, assert_one_each, case, judged, target
from tests.fakes.path_evidence import sized, way

RULES = {rule.code: rule for rule in mtu.RULES}
HOLE, NARROW = RULES["mtu.black-hole"], RULES["mtu.fragmentation"]
WELL = way(1500, black_hole=False)
UNTRIED = way(None, reason="UDP to the target is filtered", method=None)


def directions(world):
    return {j.subject.direction: j for j in judged(HOLE, world)}


def test_a_black_hole_names_size_direction_and_mss():
    world = case(sized(way(1388, 1389, method="tcp-send"), WELL))
    found, back = directions(world)["to-target"], directions(world)["from-target"]
    assert isinstance(found, Finding)
    assert isinstance(back, RuledOut)
    assert found.severity is Severity.CRITICAL
    assert found.subject.size == 1388
    assert "Black hole above 1,388 bytes to 198.51.100.7:5432" in found.statement
    assert "over 1,336 bytes stall" in found.statement  # 1388 - 40 - 12 of timestamps
    assert "MSS on the path to 1348" in found.actions[0].step
    assert "1,389 bytes with DF" in found.would_refute


def test_the_reverse_direction_speaks_of_results():
    found = directions(case(sized(UNTRIED, way(1400, 1404))))
    assert isinstance(found["from-target"], Finding)
    assert "results and TLS certificates over 1,348" in found["from-target"].statement
    assert isinstance(found["to-target"], NotMeasured)


def test_ipv6_headers_are_longer():
    world = case(sized(way(1280, 1300), WELL, at=target("2001:db8::7")))
    assert "MSS on the path to 1220" in directions(world)["to-target"].actions[0].step


def test_the_datagrams_behind_it_are_counted():
    silent = DatagramReply(outcome=Outcome.LOST, seconds=1.0)
    trials = [DatagramTrial(packet_bytes=1500, replies=(silent,) * 3)]
    found = directions(case(sized(way(1400, 1500, method="udp-df"), WELL, datagrams=trials)))["to-target"]
    assert "3 of 3 datagrams of 1,500 bytes" in found.statement
    assert found.confidence == 0.9


def test_too_big_refutes_the_black_hole_and_becomes_a_note():
    signalled = way(1400, 1401, black_hole=True, signalled=1400, by="192.0.2.9")
    world = case(sized(signalled, WELL))
    assert isinstance(directions(world)["to-target"], RuledOut)
    (note,) = judged(NARROW, world)
    assert isinstance(note, Finding)
    assert (note.role, note.severity) == (FindingRole.NOTE, Severity.INFO)
    assert "192.0.2.9 narrows the path to 198.51.100.7:5432 to 1,400 bytes" in note.statement


def test_a_signal_that_does_not_explain_the_loss_does_not_refute():
    jumbo = way(1400, 1401, black_hole=True, signalled=1500, by="192.0.2.9")
    world = case(sized(jumbo, WELL, local_mtu=9001))
    found = directions(world)["to-target"]
    assert isinstance(found, Finding)
    assert "192.0.2.9 named 1,500 bytes, and the loss is below that" in found.statement
    assert judged(NARROW, world) == []


@pytest.mark.parametrize(
    "unknown",
    [
        way(None, 576, black_hole=True),  # nothing of any size came through
        way(1400, 1400, black_hole=True),  # the same size came and went
        way(1400, reason="it stalls with the smallest segments too: not a matter of size"),
        UNTRIED,
    ],
)
def test_what_is_no_matter_of_size_stays_open(unknown):
    assert isinstance(directions(case(sized(unknown, WELL)))["to-target"], NotMeasured)


def test_a_large_packet_that_arrives_refutes_the_black_hole():
    silent, arrived = (DatagramReply(outcome=o, seconds=1.0) for o in (Outcome.LOST, Outcome.REFUSED))
    lost, some = ((silent,) * 9, (*(silent,) * 9, arrived))
    for size, replies, fires in ((1401, lost, True), (1401, some, False), (1500, some, False), (1400, some, True)):
        trials = [DatagramTrial(packet_bytes=size, replies=replies)]
        found = directions(case(sized(way(1400, 1401, method="udp-df"), WELL, datagrams=trials)))["to-target"]
        assert isinstance(found, Finding if fires else NotMeasured), (size, fires)


def test_what_would_refute_it_names_both_sides_of_the_size():
    found = directions(case(sized(way(1400, 1404), WELL)))["to-target"]
    assert "1,404 bytes with DF that arrives" in found.would_refute
    assert "1,400 bytes that are lost more often than small ones" in found.would_refute


def test_large_packets_lost_at_random_are_no_black_hole_and_no_clean_bill():
    some = way(1500, black_hole=False, method="udp-df", partial="9 of 12 datagrams of 1500 bytes vanish")
    ruled = directions(case(sized(some, WELL)))["to-target"]
    assert isinstance(ruled, RuledOut)
    assert "Not all of them, though: 9 of 12 datagrams" in ruled.statement


def test_a_low_mss_is_no_fault():
    clamped = way(1360, black_hole=False)
    assert all(isinstance(j, RuledOut) for j in directions(case(sized(clamped, clamped))).values())


def test_a_declared_mtu_makes_a_signalled_narrowing_a_cause():
    world = case(
        sized(way(1400, black_hole=False, signalled=1400, by="192.0.2.9"), WELL),
        vantage=VantagePlan(region="us-east"),
        baselines=(Baseline(source="us-east", target="ysql", mtu=1500),),
    )
    (found,) = judged(NARROW, world)
    assert isinstance(found, Finding)
    assert (found.role, found.severity) == (FindingRole.CAUSE, Severity.WARNING)


def test_a_narrowing_that_the_baseline_expects_is_ruled_out():
    world = case(
        sized(way(1500, black_hole=False, signalled=1500, by="192.0.2.9"), WELL, local_mtu=9001),
        vantage=VantagePlan(region="us-east"),
        baselines=(Baseline(source="us-east", target="ysql", mtu=1500),),
    )
    assert [type(j) for j in judged(NARROW, world)] == [RuledOut]


@pytest.mark.parametrize("seed", range(30))
def test_a_hole_at_any_size_and_in_either_direction(seed):
    draw = random.Random(seed)
    size = draw.randint(600, 1499)
    narrow, forward = way(size, size + draw.randint(1, 8)), draw.random() < 0.5
    found = directions(case(sized(narrow, WELL) if forward else sized(WELL, narrow)))
    hole = found["to-target" if forward else "from-target"]
    assert isinstance(hole, Finding)
    assert hole.subject.size == size
    assert f"to {size - 40} " in hole.actions[0].step
    assert isinstance(found["from-target" if forward else "to-target"], RuledOut)


@pytest.mark.parametrize("code", sorted(RULES))
def test_judgements_keep_to_the_rules_of_every_rule(code):
    worlds = [
        case(),
        case(sized(WELL, WELL)),
        case(sized(way(1388, 1389), UNTRIED)),
        case(sized(way(1388, 1389), WELL), sized(WELL, way(1200, 1300), at=target("198.51.100.7"), ordinal=2)),
        case(sized(way(1400, black_hole=False, signalled=1400, by="192.0.2.9"), WELL)),
    ]
    for seed, world in enumerate(worlds):
        assert_one_each(RULES[code], world)
        assert_deterministic(RULES[code], world, seed)
    for world in worlds[:3] + worlds[4:]:
        assert_evidence_carries(RULES[code], world)


def test_a_search_cut_short_names_the_span_and_no_size_to_clamp_to():
    found = directions(case(sized(WELL, way(576, 1500))))["from-target"]
    assert isinstance(found, Finding)
    assert found.subject.size is None
    assert "somewhere between 576 and 1,500 bytes" in found.statement
    assert "536" not in found.actions[0].step
