"""lb.packet-loss: the balancer against its backends and neighbours. Newcombe's interval decides (see its own tests)."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from netdiag.diagnosis.engine import conclude
from netdiag.diagnosis.finding import Finding, FindingRole, NotMeasured, RuledOut, Severity
from netdiag.diagnosis.rules import balancer, link
from netdiag.plan.model import Baseline, Plan, VantagePlan
from tests.fakes import evidence as ev

RULE = next(rule for rule in balancer.RULES if rule.code == "lb.packet-loss")
LINK = next(rule for rule in link.RULES if rule.code == "link.loss")
LB = ev.endpoint("lb.example", name="ysql", role="load-balancer", region="us-east", backends=("east", "west"))
EAST = ev.endpoint("east.example", name="east", role="primary", region="us-east")
WEST = ev.endpoint("west.example", name="west", role="replica", region="us-west")
WEB = ev.endpoint("web.example", None, name="web", role="host", region="us-east", database=False, credentials=None)
ELSEWHERE = ev.endpoint("far.example", None, name="far", role="host", region="us-west", database=False)
ENDPOINTS = [LB, EAST, WEST, WEB, ELSEWHERE]


def at(endpoint, address):
    return ev.target(address, of=endpoint)


LB_AT, EAST_AT, WEST_AT = at(LB, "192.0.2.1"), at(EAST, "192.0.2.10"), at(WEST, "198.51.100.20")
WEB_AT, FAR_AT = at(WEB, "192.0.2.30"), at(ELSEWHERE, "198.51.100.40")


def losing(where, sent, lost, *, seed=1, method="tcp"):
    """``lost`` of ``sent`` packets at places drawn at random, no two of them side by side."""
    spots = random.Random(seed).sample(range(sent // 2), lost)
    gone = {2 * spot for spot in spots}
    return ev.latency([None if n in gone else 0.01 for n in range(sent)], at=where, method=method)


def world(*measurements, **plan):
    return ev.case(*measurements, endpoints=ENDPOINTS, vantage=VantagePlan(region="us-east"), **plan)


def only(case):
    (judgement,) = ev.judged(RULE, case)
    return judgement


WORLDS = {
    "balancer alone": (world(losing(LB_AT, 120, 12), losing(EAST_AT, 120, 0), losing(WEST_AT, 120, 1)), Finding),
    "against a host by ICMP": (world(losing(LB_AT, 120, 12), losing(WEB_AT, 100, 0, method="icmp")), Finding),
    "a far backend loses by itself": (
        world(losing(LB_AT, 120, 12), losing(EAST_AT, 120, 0), losing(WEST_AT, 120, 14)),
        Finding,
    ),
    "the near ones were hardly asked": (
        world(losing(LB_AT, 120, 12), losing(EAST_AT, 40, 0), losing(WEST_AT, 120, 14)),
        RuledOut,
    ),
    "all lose alike": (world(losing(LB_AT, 120, 12), losing(EAST_AT, 120, 11), losing(WEST_AT, 120, 13)), RuledOut),
    # Pooled the others lose half as much; yet one of them loses as much as the balancer does.
    "one loses as much": (world(losing(LB_AT, 120, 14), losing(EAST_AT, 120, 14), losing(WEST_AT, 400, 0)), RuledOut),
    "backends lose more": (world(losing(LB_AT, 120, 8), losing(EAST_AT, 120, 30), losing(WEST_AT, 120, 25)), RuledOut),
    "no loss at all": (world(losing(LB_AT, 120, 0), losing(EAST_AT, 120, 0)), RuledOut),
    "one packet lost": (world(losing(LB_AT, 120, 1), losing(EAST_AT, 120, 0)), RuledOut),
    "too few of the others": (world(losing(LB_AT, 120, 12), losing(EAST_AT, 20, 0)), NotMeasured),
    "others are blocked": (world(losing(LB_AT, 120, 12), ev.latency([None] * 120, at=EAST_AT)), NotMeasured),
    "blocked by TCP and heard by ICMP": (
        world(
            losing(LB_AT, 120, 12),
            ev.latency([None] * 120, at=EAST_AT),
            losing(EAST_AT, 100, 0, method="icmp"),
            losing(WEST_AT, 120, 14),
        ),
        Finding,
    ),
    "no others": (world(losing(LB_AT, 120, 12)), NotMeasured),
    "of another region": (world(losing(LB_AT, 120, 12), losing(FAR_AT, 200, 0, method="icmp")), NotMeasured),
    "of the other family": (world(losing(LB_AT, 120, 12), losing(at(EAST, "2001:db8::10"), 200, 0)), NotMeasured),
    "only ICMP": (world(losing(LB_AT, 120, 12, method="icmp"), losing(EAST_AT, 120, 0)), NotMeasured),
    "nothing": (world(), NotMeasured),
}


@pytest.mark.parametrize("name", WORLDS)
def test_what_is_said(name):
    case, expected = WORLDS[name]
    assert isinstance(only(case), expected)


@pytest.mark.parametrize("name", WORLDS)
def test_what_every_rule_keeps_to(name):
    case, _ = WORLDS[name]
    ev.assert_one_each(RULE, case)
    ev.assert_deterministic(RULE, case, seed=len(name))
    ev.assert_evidence_carries(RULE, case)


def test_the_figures_and_the_place_are_said():
    """Wilson of 12 of 120 is 5.8-16.7 %, of 1 of 240 0.07-2.3 %; Newcombe's square-and-add gives 5.0-16.3 points."""
    near = [replace(endpoint, region="us-east") for endpoint in ENDPOINTS]
    finding = only(replace(WORLDS["balancer alone"][0], plan=Plan(endpoints=tuple(near))))
    assert "loses 10% (95% CI 5.8-17%; 12 of 120)" in finding.statement
    assert "east 0 of 120, west 1 of 120" in finding.statement
    assert "That is 5% to 16% more" in finding.statement
    assert (finding.subject.endpoint, finding.subject.address) == ("ysql", "192.0.2.1")
    assert finding.severity is Severity.CRITICAL
    assert finding.confidence == 0.97


def test_it_explains_link_loss_at_the_same_address_and_at_no_other():
    case = world(losing(LB_AT, 120, 14), losing(EAST_AT, 400, 0), losing(WEST_AT, 120, 4, seed=3))
    diagnosis = conclude(case, [j for rule in (RULE, LINK) for j in ev.judged(rule, case)])
    roles = {(f.code, f.subject.address): f.role for f in diagnosis.findings}
    assert roles[("lb.packet-loss", "192.0.2.1")] is FindingRole.CAUSE
    assert roles[("link.loss", "192.0.2.1")] is FindingRole.CONSEQUENCE
    assert roles.get(("link.loss", "198.51.100.20"), FindingRole.CAUSE) is FindingRole.CAUSE


def test_a_port_that_drops_syns_while_echoes_pass_is_less_sure():
    case = world(losing(LB_AT, 120, 12), losing(LB_AT, 200, 0, method="icmp"), losing(EAST_AT, 120, 0))
    finding = only(case)
    assert finding.confidence == 0.7
    assert "accept queue" in finding.statement


def test_loss_that_the_baseline_allows_is_none():
    allowed = Baseline(source="us-east", target="us-east", loss=0.2)
    case = world(losing(LB_AT, 120, 12), losing(EAST_AT, 120, 0), baselines=(allowed,))
    assert isinstance(only(case), RuledOut)


@pytest.mark.parametrize("seed", range(10))
def test_equal_loss_everywhere_is_never_laid_at_the_balancers_door(seed):
    """A false alarm needs a draw beyond the 97.5th percentile; ten seeds that were looked at once stay as they are."""
    draw = random.Random(seed)
    ratio = draw.uniform(0.05, 0.15)
    measured = []
    for where in (LB_AT, EAST_AT, WEST_AT):
        measured.append(ev.latency([None if draw.random() < ratio else 0.01 for _ in range(300)], at=where))
    assert not isinstance(only(world(*measured)), Finding)


@pytest.mark.parametrize("seed", range(10))
def test_loss_of_6_to_15_percent_at_the_balancer_is_found(seed):
    draw = random.Random(seed)
    ratio = draw.uniform(0.06, 0.15)
    lossy = ev.latency([None if draw.random() < ratio else 0.01 for _ in range(300)], at=LB_AT)
    found = only(world(lossy, losing(EAST_AT, 120, 0), losing(WEST_AT, 120, 1)))
    assert isinstance(found, Finding)
