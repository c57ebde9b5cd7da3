"""bgp.route-change and bgp.flapping: what fires, what looks like it and must not, and what each judgement rests on."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from netdiag.diagnosis.causes import explains
from netdiag.diagnosis.engine import diagnose
from netdiag.diagnosis.finding import Finding, FindingRole, NotMeasured, RuledOut, Severity
from netdiag.diagnosis.rule import Case, Rule
from netdiag.diagnosis.rules import link, routing
from netdiag.plan.model import Baseline, Dns, Router, VantagePlan
from probes.model import Measurement, Target
from probes.path import PathMeasurement
from probes.routing import HopOrigin, RoutingMeasurement, as_path
from probes.wire.bird import BirdSession
from probes.wire.origin import Origin
from tests.fakes.evidence import (
    assert_deterministic,
    assert_evidence_carries,
    assert_one_each,
    case,
    endpoint,
    judged,
    latency,
    measured,
    path,
    target,
)

CHANGE, FLAPPING, ASYMMETRIC = routing.RULES
HERE = VantagePlan(region="us-east")
ADDRESS = "198.51.100.7"
FAR = endpoint(ADDRESS, name="db-west", region="us-west")
NORMAL = Baseline(source="us-east", target="us-west", rtt=0.050, as_path=(65010, 65100, 65020))
ZONE = Dns(origin_zone="origin.asn.example")
ROUTER = Router(name="edge-east", bird="/run/bird.ctl")
USUAL = (65010, 65100, 65100, 65020)
DETOUR = (65010, 65200, 65200, 65020)


def traced(*asns: int | tuple[int, ...] | None, ordinal: int = 1) -> Measurement[RoutingMeasurement]:
    """One hop per entry: a network, several (MOAS), or unknown."""
    origins = [
        None if asn is None else Origin(asns=asn if isinstance(asn, tuple) else (asn,), prefix="192.0.2.0/24")
        for asn in asns
    ]
    hops = tuple(HopOrigin(address=f"192.0.2.{n}", origin=o) for n, o in enumerate(origins, start=1))
    data = RoutingMeasurement(zone=ZONE.origin_zone, hops=hops, as_path=as_path(origins), queries=())
    return measured("routing", target(ADDRESS, of=FAR), data, ordinal=ordinal)


def session(state: str = "up", *, since: str = "10:00:00.000", asn: int = 65100, **more: object) -> BirdSession:
    up = state == "up"
    given = {
        "name": "transit_a", "state": state, "since": since, "info": "Established" if up else "Active",
        "bgp_state": "Established" if up else "Active", "neighbor": "198.18.100.2", "neighbor_as": asn,
        "local_as": 65010, "last_error": None if up else "BFD session down",
    }  # fmt: skip
    return BirdSession(**(given | more))


def router(*sessions: BirdSession, ordinal: int = 1) -> Measurement[RoutingMeasurement]:
    data = RoutingMeasurement(zone=None, hops=(), as_path=(), queries=(), router=ROUTER.name, sessions=sessions)
    return measured("routing", Target(host=ROUTER.name), data, ordinal=ordinal)


def world(*measurements: Measurement[object], **plan: object) -> Case:
    given = {"endpoints": (FAR,), "vantage": HERE, "baselines": (NORMAL,), "dns": ZONE}
    return case(*measurements, **(given | plan))


def only(rule: Rule, judged_case: Case):
    assert_one_each(rule, judged_case)
    assert_evidence_carries(rule, judged_case)
    assert_deterministic(rule, judged_case, seed=4)
    (judgement,) = judged(rule, judged_case)
    return judgement


def rtts(floor_s: float, seed: int = 1):
    draw = random.Random(seed)
    samples = [floor_s, *(floor_s + draw.uniform(0, 0.002) for _ in range(19))]
    return latency(samples, at=target(ADDRESS, of=FAR))


# bgp.route-change: fires


def test_another_network_and_a_longer_way() -> None:
    found = only(CHANGE, world(traced(*DETOUR), rtts(0.2)))
    assert isinstance(found, Finding)
    assert found.severity is Severity.CRITICAL  # four times the baseline
    assert found.confidence == 0.9
    assert "normal AS65010 AS65100 AS65020, now AS65010 AS65200 AS65020" in found.statement
    assert "from hop 2 (192.0.2.2) on" in found.statement
    assert "minimum RTT normal 50.0 ms, now 200.0 ms" in found.statement
    assert (found.subject.source, found.subject.target) == ("us-east", "us-west")
    assert len(found.evidence) == 2


def test_another_network_at_the_same_rtt_is_less_sure() -> None:
    found = only(CHANGE, world(traced(*DETOUR), rtts(0.05)))
    assert isinstance(found, Finding)
    assert (found.severity, found.confidence) == (Severity.WARNING, 0.7)


def test_the_router_agrees() -> None:
    judgements = judged(CHANGE, world(traced(*DETOUR), rtts(0.2), router(session("start")), routers=(ROUTER,)))
    (path,) = [j for j in judgements if j.subject.address]
    assert isinstance(path, Finding)
    assert path.confidence == 0.97
    assert "own session with AS65100 is down" in path.statement
    assert len(path.evidence) == 3


def test_unknown_hops_hide_no_stranger() -> None:
    found = only(CHANGE, world(traced(None, None, 65200, None, 65020), rtts(0.2)))
    assert isinstance(found, Finding)
    assert "now ? AS65200 ? AS65020" in found.statement


def test_the_same_networks_in_another_order() -> None:
    found = only(CHANGE, world(traced(65010, 65020, 65100), rtts(0.05)))
    assert isinstance(found, Finding)
    assert "hop 3" in found.statement


def test_a_session_that_is_down_with_its_error() -> None:
    found = only(CHANGE, world(router(session("start"), session(name="b", asn=65200)), routers=(ROUTER,), endpoints=()))
    assert isinstance(found, Finding)
    assert found.subject.name == "edge-east"
    assert found.confidence == 0.9  # its network is on a normal path
    assert "has lost 1 of 2 BGP sessions" in found.statement
    assert "BFD session down" in found.statement


def test_a_session_that_no_normal_path_needs_is_less_sure() -> None:
    spare = session("start", asn=65200, name="b")
    found = only(CHANGE, world(router(session(), spare), routers=(ROUTER,), endpoints=()))
    assert isinstance(found, Finding)
    assert found.confidence == 0.7


# bgp.route-change: quiet, refuted, and look-alikes


@pytest.mark.parametrize(
    "hops", [USUAL, (None, 65100, 65020), (65010, 65100, None, 65020), (65010, (65100, 7), 65100, 65020)]
)
def test_the_normal_path_is_ruled_out_whatever_is_unknown(hops) -> None:
    found = only(CHANGE, world(traced(*hops), rtts(0.05)))
    assert isinstance(found, RuledOut)


def test_queueing_on_the_same_path_is_no_route_change() -> None:
    """p95 is up, the networks are the same: region.latency says queue, and nothing explains it away."""
    busy = latency([0.05] * 10 + [0.3] * 10, at=target(ADDRESS, of=FAR))
    told = world(traced(*USUAL), busy)
    assert isinstance(only(CHANGE, told), RuledOut)
    (delay,) = [j for j in judged(link.RULES[0], told) if j.code == "region.latency"]
    assert isinstance(delay, Finding)
    assert "queue" in delay.statement


def test_a_longer_way_inside_the_same_networks_is_no_route_change() -> None:
    assert isinstance(only(CHANGE, world(traced(*USUAL), rtts(0.2))), RuledOut)


def test_other_hops_of_the_same_networks_are_no_change() -> None:
    """ECMP inside one AS: more and other hops, one AS path."""
    assert isinstance(only(CHANGE, world(traced(65010, 65100, 65100, 65100, 65100, 65020))), RuledOut)


def test_an_exchange_in_between_needs_the_rtt_too() -> None:
    exchange = traced(65010, 64999, 64999, 65100, 65020)
    assert isinstance(only(CHANGE, world(exchange, rtts(0.05))), NotMeasured)
    longer = only(CHANGE, world(exchange, rtts(0.2)))
    assert isinstance(longer, Finding)
    assert longer.confidence == 0.7


def test_a_path_that_misses_a_network_is_no_change_and_no_proof() -> None:
    found = only(CHANGE, world(traced(65010, None, 65020)))
    assert isinstance(found, NotMeasured)
    assert "AS65100 was not seen" in found.statement


def test_without_a_zone_it_is_not_measured_and_says_how() -> None:
    found = only(CHANGE, world(rtts(0.2), dns=Dns()))
    assert isinstance(found, NotMeasured)
    assert "origin_zone" in found.remedy


def test_without_a_normal_path_there_is_no_question() -> None:
    assert judged(CHANGE, world(traced(*DETOUR), baselines=(replace(NORMAL, as_path=()),))) == []
    assert judged(CHANGE, world(traced(*DETOUR), baselines=(replace(NORMAL, source="eu"),))) == []


def test_a_disabled_session_is_no_fault() -> None:
    disabled = session("down", name="b", last_error="Administratively down")
    found = only(CHANGE, world(router(session(), disabled), routers=(ROUTER,), endpoints=()))
    assert isinstance(found, RuledOut)
    assert "1 of 2 BGP sessions stand" in found.statement


@pytest.mark.parametrize("given", [ROUTER, Router(name="edge-east", frr="vtysh")])
def test_a_router_that_was_not_read_is_not_measured(given: Router) -> None:
    found = only(CHANGE, world(routers=(given,), endpoints=()))
    assert isinstance(found, NotMeasured)
    assert isinstance(only(FLAPPING, world(routers=(given,), endpoints=())), NotMeasured)


@pytest.mark.parametrize("seed", range(20))
def test_dropping_hops_of_the_normal_path_never_fires(seed: int) -> None:
    draw = random.Random(seed)
    networks = draw.sample(range(1, 60000), draw.randint(3, 8))
    hops = [asn if draw.random() < 0.5 else None for asn in networks for _ in range(draw.randint(1, 4))]
    baseline = replace(NORMAL, as_path=tuple(networks))
    (found,) = judged(CHANGE, world(traced(*hops), rtts(0.2), baselines=(baseline,)))
    assert not isinstance(found, Finding), f"seed {seed}"
    place = draw.randrange(len(hops))
    (found,) = judged(
        CHANGE, world(traced(*hops[:place], 60001, 60001, *hops[place:]), rtts(0.2), baselines=(baseline,))
    )
    assert isinstance(found, Finding), f"seed {seed}"


def test_it_explains_the_delay_at_its_address_alone() -> None:
    diagnosis = diagnose(world(traced(*DETOUR), rtts(0.2)))
    roles = {finding.code: finding.role for finding in diagnosis.findings}
    assert roles["bgp.route-change"] is FindingRole.CAUSE
    assert roles["region.latency"] is FindingRole.CONSEQUENCE
    cause, delay = (next(f for f in diagnosis.findings if f.code == c) for c in ("bgp.route-change", "region.latency"))
    assert not explains(cause, replace(delay, subject=replace(delay.subject, address="198.51.100.8")))


# bgp.flapping


def walked(flow: str | None, ordinal: int) -> Measurement[PathMeasurement]:
    """The walk whose hops a reading tells the networks of; ``flow`` None: by ICMP."""
    made = path(["192.0.2.1"], at=target(ADDRESS, of=FAR), ordinal=ordinal)
    assert made.data is not None
    flows = () if flow is None else (flow,)
    return replace(made, data=replace(made.data, method="tcp" if flow else "icmp", flow=flow, flows=flows))


@pytest.mark.parametrize("flow", [None, "192.0.2.1:40000 -> 198.51.100.7:5432"])
def test_a_path_that_goes_and_comes_back(flow: str | None) -> None:
    walks = [walked(flow, ordinal) for ordinal in (1, 2, 3)]
    told = world(traced(*USUAL), traced(*DETOUR, ordinal=2), traced(*USUAL, ordinal=3), *walks)
    found = only(FLAPPING, told)
    assert isinstance(found, Finding)
    assert found.confidence == 0.9
    assert len(found.evidence) == 3
    change = only(CHANGE, told)
    assert isinstance(change, NotMeasured)
    assert "bgp.flapping" in change.remedy


def test_one_step_is_a_change_and_not_flapping() -> None:
    told = world(traced(*USUAL), traced(*DETOUR, ordinal=2), traced(*DETOUR, ordinal=3), rtts(0.2))
    assert isinstance(only(FLAPPING, told), NotMeasured)
    assert isinstance(only(CHANGE, told), Finding)


def test_a_steady_path_is_ruled_out() -> None:
    assert isinstance(only(FLAPPING, world(*(traced(*USUAL, ordinal=n) for n in range(1, 12)))), RuledOut)


@pytest.mark.parametrize("seed", range(10))
def test_paths_of_equal_cost_through_two_networks_are_no_flap_and_no_change(seed: int) -> None:
    """Every walk over TCP has a port of its own: which way it goes is drawn anew, and the shorter one's RTT stays."""
    draw = random.Random(seed)
    for _ in range(200):
        ways = [draw.choice((USUAL, DETOUR)) for _ in range(draw.randint(2, 6))]
        ways[draw.randrange(len(ways))] = USUAL
        readings = [traced(*way, ordinal=n) for n, way in enumerate(ways, start=1)]
        walks = [walked(f"192.0.2.1:{40000 + n} -> {ADDRESS}:5432", n) for n in range(1, 1 + len(ways))]
        told = world(*readings, *walks, rtts(0.05))
        assert not any(isinstance(j, Finding) for rule in routing.RULES for j in judged(rule, told)), f"seed {seed}"


def test_equal_cost_says_so() -> None:
    walks = [walked(f"192.0.2.1:{40000 + n} -> {ADDRESS}:5432", n) for n in (1, 2, 3)]
    told = world(traced(*USUAL), traced(*DETOUR, ordinal=2), traced(*USUAL, ordinal=3), *walks)
    found = only(FLAPPING, told)
    assert isinstance(found, NotMeasured)
    assert "equal cost" in found.statement
    assert isinstance(only(CHANGE, told), RuledOut)


def test_equal_cost_does_not_hide_a_change_that_lifts_the_minimum() -> None:
    walks = [walked(f"192.0.2.1:{40000 + n} -> {ADDRESS}:5432", n) for n in (1, 2)]
    assert isinstance(only(CHANGE, world(traced(*USUAL), traced(*DETOUR, ordinal=2), *walks, rtts(0.2))), Finding)


@pytest.mark.parametrize("seed", range(20))
def test_hops_that_answer_now_and_then_are_no_flap_and_no_change(seed: int) -> None:
    """A policed hop, an exchange's LAN, several origins: each answers with a chance of its own, in every reading."""
    draw = random.Random(seed)
    for _ in range(100):
        networks = draw.sample(range(1, 60000), draw.randint(3, 7))
        hops: list[int | tuple[int, int]] = [asn for asn in networks for _ in range(draw.randint(1, 3))]
        for asn in draw.sample(range(60001, 64000), draw.randint(0, 2)):  # of exchanges: they stay
            hops.insert(draw.randint(1, len(hops) - 1), asn)
        chances = [draw.random() for _ in hops]
        readings = [
            traced(
                *(hop if draw.random() < chance else None for hop, chance in zip(hops, chances, strict=True)), ordinal=n
            )
            for n in range(1, draw.randint(3, 8))
        ]
        walks = [walked(None, n) for n in range(1, 1 + len(readings))]
        told = world(*readings, *walks, rtts(0.05), baselines=(replace(NORMAL, as_path=tuple(networks)),))
        assert not any(isinstance(j, Finding) for rule in routing.RULES for j in judged(rule, told)), f"seed {seed}"


@pytest.mark.parametrize("seed", range(10))
def test_hops_that_answer_now_and_then_do_not_hide_a_path_that_comes_and_goes(seed: int) -> None:
    draw = random.Random(seed)
    found = 0
    for _ in range(50):
        ways = [USUAL, DETOUR, USUAL, DETOUR, USUAL]
        readings = [
            traced(*(hop if draw.random() < 0.9 else None for hop in way), ordinal=n) for n, way in enumerate(ways, 1)
        ]
        told = world(*readings, *(walked(None, n) for n in range(1, 6)))
        found += any(isinstance(j, Finding) for j in judged(FLAPPING, told))
    assert found >= 30, f"seed {seed}"


def test_unknown_hops_between_are_no_flap() -> None:
    told = world(traced(*USUAL), traced(65010, None, ordinal=2), traced(*USUAL, ordinal=3), traced(*USUAL, ordinal=4))
    assert isinstance(only(FLAPPING, told), RuledOut)


def lone(*readings: BirdSession) -> Case:
    made = (router(one, ordinal=n) for n, one in enumerate(readings, start=1))
    return world(*made, routers=(ROUTER,), endpoints=())


def test_a_session_that_falls_and_comes_back() -> None:
    found = only(FLAPPING, lone(session(), session("start"), session(since="10:00:09.000")))
    assert isinstance(found, Finding)
    assert found.subject.name == "edge-east"
    assert found.confidence == 0.99
    assert "changed 2 times" in found.statement
    assert "BFD session down" in found.statement


def test_a_session_that_fell_unseen() -> None:
    assert isinstance(only(FLAPPING, lone(session(), session(since="10:00:09.000"))), Finding)


def test_a_session_old_enough_for_a_date_did_not_fall() -> None:
    assert isinstance(only(FLAPPING, lone(session(), session(since="2024-01-24"))), RuledOut)


def test_a_session_that_stays_down_is_a_change() -> None:
    told = lone(session("start"), session("start", since="10:00:05.000"), session("start", since="10:00:09.000"))
    assert isinstance(only(FLAPPING, told), RuledOut)
    assert isinstance(only(CHANGE, told), Finding)


def test_a_session_that_fell_once_is_undecided_and_a_change() -> None:
    told = lone(session(), session("start"), session("start"))
    assert isinstance(only(FLAPPING, told), NotMeasured)
    assert isinstance(only(CHANGE, told), Finding)


def test_a_flapping_session_that_is_down_at_last_is_told_once() -> None:
    told = lone(session("start"), session(), session("start"))
    assert isinstance(only(FLAPPING, told), Finding)
    assert isinstance(only(CHANGE, told), NotMeasured)


def test_one_turn_of_the_path_is_the_sessions_flapping() -> None:
    sessions = [router(s, ordinal=n) for n, s in enumerate([session(), session("start"), session()], start=1)]
    told = world(traced(*USUAL), traced(*DETOUR, ordinal=2), *sessions, routers=(ROUTER,))
    assert {type(j) for j in judged(FLAPPING, told)} == {Finding}
    assert not any(isinstance(j, Finding) for j in judged(CHANGE, told))
    assert_evidence_carries(FLAPPING, told)


def test_one_reading_is_not_enough() -> None:
    assert isinstance(only(FLAPPING, lone(session())), NotMeasured)
    assert isinstance(only(FLAPPING, world(traced(*USUAL))), NotMeasured)


# bgp.asymmetric


@pytest.mark.parametrize("seed", range(5))
def test_one_hop_that_answers_from_another_network_tells_of_the_way_back(seed) -> None:
    draw = random.Random(seed)
    stray, position = draw.randint(64512, 65009), draw.randint(1, 3)
    hops = [65010, 65100, 65100, 65020]
    hops.insert(position, stray)
    told = world(traced(*hops), rtts(draw.uniform(0.08, 0.4)))
    found = only(ASYMMETRIC, told)
    assert isinstance(found, Finding)
    assert (found.confidence, found.subject.direction) == (0.7, "from-target")
    assert f"hop {position + 1} answers from 192.0.2.{position + 1}, an address of AS{stray}" in found.statement
    assert isinstance(only(CHANGE, told), NotMeasured), "it is one or the other, never both"


def test_it_explains_the_lifted_minimum() -> None:
    run_case = world(traced(65010, 65100, 65200, 65020), rtts(0.2))
    (asymmetric,) = judged(ASYMMETRIC, run_case)
    (delay,) = [j for j in judged(link.RULES[0], run_case) if isinstance(j, Finding) and j.code == "region.latency"]
    assert explains(asymmetric, delay)


def test_a_minimum_as_usual_rules_out_a_longer_way_back() -> None:
    found = only(ASYMMETRIC, world(traced(65010, 65100, 65200, 65020), rtts(0.05)))
    assert isinstance(found, RuledOut)
    assert "of the same length does not show" in found.smallest_fault


@pytest.mark.parametrize("hops", [DETOUR, (65010, 65200, 65200, 65100, 65020), USUAL, (65010, None, None, 65020)])
def test_another_way_there_or_nothing_seen_is_no_asymmetry(hops) -> None:
    found = only(ASYMMETRIC, world(traced(*hops), rtts(0.2)))
    assert isinstance(found, NotMeasured)
    assert "netdiag reflect" in found.remedy
    assert found.remedy.endswith(f"netdiag probe stamp {ADDRESS}:862")


def test_a_way_that_comes_and_goes_is_not_called_asymmetric() -> None:
    odd = (65010, 65100, 65200, 65020)
    readings = [traced(*hops, ordinal=n) for n, hops in enumerate((USUAL, odd, USUAL, odd), start=1)]
    assert isinstance(only(ASYMMETRIC, world(*readings, rtts(0.2))), NotMeasured)
