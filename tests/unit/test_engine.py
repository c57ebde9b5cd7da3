"""Folding, ranking and the verdict, apart from any rule."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from netdiag.diagnosis.causes import CONSEQUENCES
from netdiag.diagnosis.engine import conclude, folded, ranked
from netdiag.diagnosis.finding import Finding, FindingRole, Section, Severity, Subject, Verdict
from netdiag.diagnosis.thresholds import CERTAIN, LIKELY
from tests.fakes import evidence as made


def finding(code: str, address: str = "198.51.100.7", **more: object) -> Finding:
    given: dict[str, object] = {
        "id": f"{code}:{address}",
        "code": code,
        "role": FindingRole.CAUSE,
        "severity": Severity.CRITICAL,
        "confidence": 0.9,
        "section": Section.INFRASTRUCTURE,
        "subject": Subject(endpoint="ysql", address=address, port=5432),
        "statement": "measured",
        "evidence": ("test/ports/1",),
        "would_refute": "an answer",
    }
    return Finding(**(given | more))  # type: ignore[arg-type]  # the keys are the test's own


def by_code(findings: list[Finding]) -> dict[str, Finding]:
    return {f.code: f for f in findings}


def test_a_consequence_is_folded_under_its_cause() -> None:
    out = by_code(folded([finding("db.unresponsive"), finding("mtu.black-hole")]))
    assert out["mtu.black-hole"].explains == ("db.unresponsive:198.51.100.7",)
    assert out["db.unresponsive"].role is FindingRole.CONSEQUENCE


def test_loss_explains_a_silence_only_where_that_is_in_doubt() -> None:
    sure = by_code(folded([finding("db.unresponsive", confidence=0.9), finding("link.loss")]))
    assert sure["db.unresponsive"].role is FindingRole.CAUSE
    doubtful = by_code(folded([finding("db.unresponsive", confidence=None), finding("link.loss")]))
    assert doubtful["db.unresponsive"].role is FindingRole.CONSEQUENCE


def test_a_balancers_loss_explains_a_failing_check_only_where_it_does_not_fail_from_here_too() -> None:
    loss = finding("lb.packet-loss")
    from_here = by_code(folded([loss, finding("lb.health-check-failing", confidence=CERTAIN)]))
    assert from_here["lb.health-check-failing"].role is FindingRole.CAUSE
    there_alone = by_code(folded([loss, finding("lb.health-check-failing", confidence=LIKELY)]))
    assert there_alone["lb.health-check-failing"].role is FindingRole.CONSEQUENCE


def test_the_same_codes_at_two_addresses_are_two_causes() -> None:
    out = folded([finding("db.unresponsive", "198.51.100.8"), finding("mtu.black-hole")])
    assert {f.role for f in out} == {FindingRole.CAUSE}


@pytest.mark.parametrize("code", ["link.loss", "bgp.flapping"])
def test_the_way_to_a_backend_explains_a_balancer_without_one(code: str) -> None:
    def roles(place: str, backends: tuple[str, ...]) -> FindingRole:
        cause = replace(finding(code), subject=Subject(endpoint=place, address="198.51.100.9"))
        closed = replace(finding("lb.backend-down"), subject=Subject(endpoint="ysql", address="198.51.100.7"))
        return by_code(folded([cause, closed], {"ysql": backends}))["lb.backend-down"].role

    assert roles("db-west", ("db-east", "db-west")) is FindingRole.CONSEQUENCE
    assert roles("db-west", ("db-east",)) is FindingRole.CAUSE  # none of its backends
    assert roles("ysql", ("db-east", "db-west")) is FindingRole.CAUSE  # the client's own way to the balancer


@pytest.mark.parametrize(
    ("place", "direction", "role"),
    [
        ("db-west", "from-target", FindingRole.CONSEQUENCE),
        ("db-west", None, FindingRole.CAUSE),  # small packets are lost on the way to the balancer
        ("db-else", "from-target", FindingRole.CAUSE),  # a black hole of another way
        ("ysql", "from-target", FindingRole.CAUSE),  # of that very way: a limit loses all, loss some
    ],
)
def test_a_black_hole_before_one_backend_explains_large_transfers_that_stall_at_the_balancer(
    place: str, direction: str | None, role: FindingRole
) -> None:
    hole = replace(finding("mtu.black-hole"), subject=Subject(endpoint=place, address="198.51.100.9"))
    some = Subject(endpoint="ysql", address="198.51.100.7", direction=direction)
    out = by_code(folded([hole, replace(finding("link.loss"), subject=some)], {"ysql": ("db-east", "db-west")}))
    assert out["link.loss"].role is role


def test_a_chain_is_folded_under_its_root() -> None:
    stale = finding("dns.stale-record")
    out = by_code(folded([finding("link.loss"), finding("firewall.drop"), stale]))
    assert set(out["dns.stale-record"].explains) == {"firewall.drop:198.51.100.7", "link.loss:198.51.100.7"}
    assert out["firewall.drop"].explains == ()


def test_a_note_explains_nothing() -> None:
    out = by_code(folded([finding("mtu.black-hole", role=FindingRole.NOTE), finding("db.unresponsive")]))
    assert out["db.unresponsive"].role is FindingRole.CAUSE


def test_no_code_explains_itself_by_a_circle() -> None:
    for code in CONSEQUENCES:
        seen, frontier = set(), [code]
        while frontier:
            for consequence in CONSEQUENCES.get(frontier.pop(), frozenset()):
                assert consequence != code
                if consequence not in seen:
                    seen.add(consequence)
                    frontier.append(consequence)


def test_the_order_of_the_rules_changes_nothing() -> None:
    findings = [
        finding(code) for code in ("db.slow", "link.loss", "firewall.drop", "dns.stale-record", "db.tls-invalid")
    ]
    expected = ranked(folded(findings))
    for seed in range(20):
        random.Random(seed).shuffle(findings)
        assert ranked(folded(findings)) == expected


def test_verdicts() -> None:
    answered = made.case(made.database([made.waterfall()]), endpoints=[made.endpoint("198.51.100.7")])
    silent = made.case(endpoints=[made.endpoint("198.51.100.7")])
    assert conclude(answered, []).verdict is Verdict.HEALTHY
    assert conclude(silent, []).verdict is Verdict.UNKNOWN
    assert conclude(answered, [finding("link.loss", severity=Severity.WARNING)]).verdict is Verdict.DEGRADED
    assert conclude(silent, [finding("firewall.drop")]).verdict is Verdict.CRITICAL
    assert conclude(answered, [finding("db.slow", role=FindingRole.NOTE)]).verdict is Verdict.HEALTHY


def test_an_open_port_is_not_a_database_that_speaks() -> None:
    opened = made.ports([made.connected()], at=made.target())
    database = made.case(opened, endpoints=[made.endpoint("198.51.100.7")])
    web = made.case(
        made.ports([made.connected()], at=made.target(port=443)),
        endpoints=[made.endpoint("198.51.100.7", port=443, database=False, role="host", credentials=None)],
    )
    assert conclude(database, []).verdict is Verdict.UNKNOWN
    assert conclude(web, []).verdict is Verdict.HEALTHY
