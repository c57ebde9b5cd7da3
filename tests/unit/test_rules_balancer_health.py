"""lb.health-check-failing: a wrong check, a backend that is down, a balancer that cannot reach it, and look-alikes."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from netdiag.diagnosis.engine import conclude
from netdiag.diagnosis.finding import Finding, FindingRole, NotMeasured, RuledOut, Severity, Verdict
from netdiag.diagnosis.rules import balancer, health_checks
from netdiag.plan.model import Health
from probes.balancer import (
    BalancerMeasurement,
    BalancerView,
    CheckAttempt,
    CheckedBackend,
    CheckPhase,
    ServerView,
    failures_in_a_row,
)
from probes.database import Phase
from probes.model import Failure, FailureKind, Outcome, Target
from tests.fakes import evidence as ev

(RULE,) = health_checks.RULES
BACKEND_DOWN = next(rule for rule in balancer.RULES if rule.code == "lb.backend-down")
HEALTH = Health(url="http://{backend}:13000/health")
LB = ev.endpoint("lb.example", name="ysql", role="load-balancer", backends=("east", "west"), health=HEALTH)
EAST = ev.endpoint("east.example", name="east", role="primary")
WEST = ev.endpoint("west.example", name="west", role="replica")
ADDRESS = {"lb": "192.0.2.1", "east": "192.0.2.10", "west": "192.0.2.20"}
LB_AT, EAST_AT, WEST_AT = (ev.target(ADDRESS[name], of=of) for name, of in (("lb", LB), ("east", EAST), ("west", WEST)))

PASS = {"outcome": Outcome.ANSWERED, "passed": True, "status": 200}
MISMATCH = {"outcome": Outcome.ANSWERED, "passed": False, "phase": CheckPhase.STATUS, "status": 503}
LOCAL = {"outcome": Outcome.NOT_SENT, "passed": None, "phase": CheckPhase.TCP}


def failing(kind: FailureKind, outcome: Outcome, phase: CheckPhase, errno: str | None = None):
    failure = Failure(kind=kind, operation="connect", errno=errno)
    return {"outcome": outcome, "passed": False, "phase": phase, "failure": failure}


REFUSED = failing(FailureKind.REFUSED, Outcome.REFUSED, CheckPhase.TCP, "ECONNREFUSED")
SILENT = failing(FailureKind.TIMEOUT, Outcome.LOST, CheckPhase.TCP)
STALLED = failing(FailureKind.TIMEOUT, Outcome.LOST, CheckPhase.RESPONSE)
CLOSED = failing(FailureKind.CLOSED, Outcome.FAILED, CheckPhase.RESPONSE)


def checked(name, *fates, address=None, seconds=0.01):
    where = address or ADDRESS[name]
    attempts = tuple(
        CheckAttempt(attempt=number, started_s=number * 1.0, seconds=seconds, **fate)
        for number, fate in enumerate(fates, start=1)
    )
    return CheckedBackend(
        address=where,
        port=13000,
        url=f"http://{where}:13000/health",
        attempts=attempts,
        consecutive_failures=failures_in_a_row(attempts),
    )


def row(name, status, check="L7OK", code=200, **more):
    given = {"proxy": "databases", "check_status": check, "check_code": code, "last_check": None}
    return ServerView(name=name, status=status, **(given | more))


def asked(*backends, rows=None, unhealthy=2):
    view = None
    if rows is not None:
        view = BalancerView(url="http://lb/stats;csv", seconds=0.01, outcome=Outcome.ANSWERED, servers=rows, status=200)
    data = BalancerMeasurement(matcher="200", unhealthy=unhealthy, backends=backends, view=view)
    return ev.measured("balancer", Target(host=LB.host, port=LB.port, endpoint=LB.name), data)


def alive(at):
    return ev.database([ev.waterfall(), ev.waterfall(attempt=2)], at=at)


def dead(at):
    return ev.database([ev.unconnected_waterfall(ev.unconnected(Outcome.REFUSED))] * 2, at=at)


def turned_away(sqlstate, phase, at):
    return ev.database([ev.waterfall(failed=phase, kind=FailureKind.SERVER, sqlstate=sqlstate)] * 2, at=at)


def closing(at):
    return turned_away("57P03", Phase.STARTUP, at)


def full(at):
    return turned_away("53300", Phase.READY, at)


def wrong_password(at):
    return turned_away("28P01", Phase.STARTUP, at)


def world(*measurements, east=alive, west=alive, lb=LB, more=()):
    beside = [found(at) for found, at in ((east, EAST_AT), (west, WEST_AT)) if found]
    return ev.case(*measurements, *beside, *more, endpoints=[lb, EAST, WEST])


def of(rule, case, backend):
    (judgement,) = [j for j in ev.judged(rule, case) if j.subject.target == backend]
    return judgement


def kind(judgement):
    if isinstance(judgement, Finding):
        return str(judgement.role)
    return "ruled out" if isinstance(judgement, RuledOut) else "not measured"


WEST_FINE = checked("west", PASS, PASS, PASS)
WEST_UP = row("west", "UP")
CLOSES = ev.database([ev.waterfall(failed=Phase.SSL_REQUEST, kind=FailureKind.CLOSED, ssl_answer=None)] * 2, at=LB_AT)

KNOWN = ev.names(EAST.host, [ADDRESS["east"]])

# name: (world, what is said of "east")
WORLDS = {
    "healthy": (
        world(asked(checked("east", PASS, PASS, PASS), WEST_FINE, rows=(row("east", "UP"), WEST_UP))),
        "ruled out",
    ),
    "slow but in time": (world(asked(checked("east", PASS, PASS, PASS, seconds=1.9), WEST_FINE)), "ruled out"),
    "wrong status": (world(asked(checked("east", MISMATCH, MISMATCH), WEST_FINE)), "cause"),
    "wrong status, and it is shutting down": (
        world(asked(checked("east", MISMATCH, MISMATCH), WEST_FINE), east=closing),
        "note",
    ),
    "wrong status, and it is full": (
        world(asked(checked("east", MISMATCH, MISMATCH), WEST_FINE), east=full),
        "note",
    ),
    "wrong status, and our password is wrong": (
        world(asked(checked("east", MISMATCH, MISMATCH), WEST_FINE), east=wrong_password),
        "cause",
    ),
    "wrong port": (
        world(asked(checked("east", REFUSED, REFUSED), WEST_FINE, rows=(row("east", "DOWN", "L4CON", None), WEST_UP))),
        "cause",
    ),
    "wrong protocol": (world(asked(checked("east", CLOSED, CLOSED), WEST_FINE)), "cause"),
    "overloaded page": (world(asked(checked("east", STALLED, STALLED), WEST_FINE)), "cause"),
    "filtered, and the balancer too": (
        world(asked(checked("east", SILENT, SILENT), WEST_FINE, rows=(row("east", "DOWN", "L4TOUT", None), WEST_UP))),
        "cause",
    ),
    "filtered for us alone": (
        world(asked(checked("east", SILENT, SILENT), WEST_FINE, rows=(row("east", "UP"), WEST_UP))),
        "note",
    ),
    "filtered, no view": (world(asked(checked("east", SILENT, SILENT), WEST_FINE)), "not measured"),
    "filtered, no view, and closed": (world(asked(checked("east", SILENT, SILENT), WEST_FINE), more=[CLOSES]), "cause"),
    "balancer cannot reach": (
        world(asked(checked("east", PASS, PASS), WEST_FINE, rows=(row("east", "DOWN", "L4TOUT", None), WEST_UP))),
        "cause",
    ),
    "balancer asks another": (
        world(asked(checked("east", PASS, PASS), WEST_FINE, rows=(row("east", "DOWN", "L7STS", 404), WEST_UP))),
        "cause",
    ),
    "coming back": (
        world(asked(checked("east", PASS, PASS), WEST_FINE, rows=(row("east", "DOWN 1/2"), WEST_UP))),
        "note",
    ),
    "taken out by hand": (
        world(asked(checked("east", PASS, PASS), WEST_FINE, rows=(row("east", "MAINT", None, None), WEST_UP))),
        "ruled out",
    ),
    "database dead": (
        world(
            asked(checked("east", MISMATCH, MISMATCH), WEST_FINE, rows=(row("east", "DOWN", "L7STS", 503), WEST_UP)),
            east=dead,
        ),
        "note",
    ),
    "one of three": (world(asked(checked("east", PASS, MISMATCH, PASS), WEST_FINE)), "note"),
    "fails at one address": (
        world(
            asked(checked("east", PASS), checked("east", REFUSED, REFUSED, address="2001:db8::10"), WEST_FINE),
            more=[ev.latency([0.01], at=ev.target("2001:db8::10", of=EAST))],
        ),
        "note",
    ),
    "not sent": (world(asked(checked("east", LOCAL, LOCAL), WEST_FINE)), "not measured"),
    "only the view": (world(asked(rows=(row("east", "DOWN", "L4CON", None), WEST_UP))), "cause"),
    "by address alone": (
        world(
            asked(
                checked("east", PASS), WEST_FINE, rows=(row("s1", "DOWN", "L4TOUT", None, address="192.0.2.10:5433"),)
            )
        ),
        "cause",
    ),
    "somebody else's server": (
        world(asked(checked("east", PASS), WEST_FINE, rows=(row("other", "DOWN", "L4TOUT", None),))),
        "ruled out",
    ),
    "nothing": (world(), "not measured"),
}  # fmt: skip


@pytest.mark.parametrize("name", WORLDS)
def test_what_is_said(name):
    case, expected = WORLDS[name]
    assert kind(of(RULE, case, "east")) == expected


@pytest.mark.parametrize("name", WORLDS)
def test_what_every_rule_keeps_to(name):
    case, _ = WORLDS[name]
    ev.assert_one_each(RULE, case)
    ev.assert_deterministic(RULE, case, seed=len(name))
    ev.assert_evidence_carries(RULE, case)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("wrong status", "Target.ResponseCodeMismatch"),
        ("wrong port", "the port is the wrong one"),
        ("wrong protocol", "does not speak its protocol"),
        ("overloaded page", "Target.Timeout"),
        ("filtered, and the balancer too", "Target.Timeout"),
        ("balancer cannot reach", "look between the balancer and this backend"),
        ("balancer asks another", "its check is another one"),
    ],
)
def test_the_three_causes_are_told_apart(name, words):
    finding = of(RULE, WORLDS[name][0], "east")
    assert words in finding.statement
    assert finding.severity is Severity.WARNING
    assert "another backend is up" in finding.statement


def test_the_balancers_own_word_beside_a_failing_check_is_the_surest():
    names = ("wrong port", "wrong status", "filtered, no view, and closed")
    sure, less, guess = (of(RULE, WORLDS[name][0], "east").confidence for name in names)
    assert sure > less > guess


def test_without_the_services_own_answer_it_is_a_guess():
    case = world(asked(checked("east", MISMATCH, MISMATCH), WEST_FINE), east=None, more=[KNOWN])
    assert of(RULE, case, "east").confidence == 0.7


def test_no_backend_left_is_critical_and_explains_the_closed_connections():
    case = world(
        asked(
            checked("east", REFUSED, REFUSED),
            checked("west", MISMATCH, MISMATCH),
            rows=(row("east", "DOWN", "L4CON", None), row("west", "DOWN", "L7STS", 503)),
        ),
        more=[CLOSES],
    )
    findings = [j for rule in (RULE, BACKEND_DOWN) for j in ev.judged(rule, case)]
    diagnosis = conclude(case, findings)
    causes = {f.code for f in diagnosis.findings if f.role is FindingRole.CAUSE}
    assert causes == {"lb.health-check-failing"}
    assert {f.code for f in diagnosis.findings if f.role is FindingRole.CONSEQUENCE} == {"lb.backend-down"}
    assert {f.severity for f in diagnosis.findings if f.role is FindingRole.CAUSE} == {Severity.CRITICAL}
    assert diagnosis.verdict is Verdict.CRITICAL


def test_backends_that_are_really_down_leave_the_closed_connections_their_own_cause():
    both = (checked("east", MISMATCH, MISMATCH), checked("west", MISMATCH, MISMATCH))
    case = world(asked(*both), east=dead, west=dead, more=[CLOSES])
    diagnosis = conclude(case, [j for rule in (RULE, BACKEND_DOWN) for j in ev.judged(rule, case)])
    assert {f.code for f in diagnosis.findings if f.role is FindingRole.CAUSE} == {"lb.backend-down"}


@pytest.mark.parametrize("seed", range(8))
def test_as_many_in_a_row_as_the_plan_says_and_not_one_fewer(seed):
    unhealthy = random.Random(seed).randint(1, 10)
    at, below = (checked("east", *[MISMATCH] * n, *[PASS] * extra) for n, extra in ((unhealthy, 0), (unhealthy - 1, 1)))
    assert kind(of(RULE, world(asked(at, WEST_FINE, unhealthy=unhealthy)), "east")) == "cause"
    assert kind(of(RULE, world(asked(below, WEST_FINE, unhealthy=unhealthy)), "east")) != "cause"


def test_a_balancer_that_declares_neither_check_nor_view_is_not_asked_about():
    plain = replace(LB, health=None, backends=())
    assert ev.judged(RULE, world(lb=plain)) == []


def test_a_view_without_declared_backends_names_its_servers():
    viewed = replace(LB, health=None, stats="http://lb/stats;csv", backends=())
    case = world(asked(rows=(row("s1", "DOWN", "L4TOUT", None), row("s2", "UP"))), lb=viewed)
    assert (kind(of(RULE, case, "s1")), kind(of(RULE, case, "s2"))) == ("cause", "ruled out")


def test_no_backends_and_no_view_is_said_to_be_open():
    (judgement,) = ev.judged(RULE, world(lb=replace(LB, backends=())))
    assert isinstance(judgement, NotMeasured)
