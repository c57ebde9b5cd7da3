"""lb.wrong-protocol and lb.backend-down, and the web server that is healthy."""

from __future__ import annotations

import random

import pytest

from netdiag.diagnosis.finding import Finding, NotMeasured, RuledOut, Severity
from netdiag.diagnosis.rules import balancer, database
from probes.database import Phase
from probes.model import FailureKind
from tests.fakes import evidence as ev

RULES = {rule.code: rule for rule in (*balancer.RULES, *database.RULES)}
PROTOCOL, BACKEND, SILENT = RULES["lb.wrong-protocol"], RULES["lb.backend-down"], RULES["db.unresponsive"]
BALANCER = ev.endpoint(name="front", role="load-balancer", database=False)


def only(rule, world):
    (judgement,) = ev.judged(rule, world)
    return judgement


def http(attempt=1, **more):
    given = {"http_status": "HTTP/1.1 400 Bad Request", "http_server": "awselb/2.0", "ssl_answer": "H"}
    return ev.waterfall(
        failed=Phase.SSL_REQUEST,
        kind=FailureKind.PROTOCOL,
        attempt=attempt,
        first_bytes="HTTP/1.1 400",
        **(given | more),
    )


def garbage(text="SSH-2.0-OpenSSH_9.2"):
    return ev.waterfall(failed=Phase.SSL_REQUEST, kind=FailureKind.PROTOCOL, first_bytes=text, detail="not PostgreSQL")


def closed(kind=FailureKind.CLOSED):
    return ev.waterfall(failed=Phase.SSL_REQUEST, kind=kind, ssl_answer=None)


def at_balancer(*attempts):
    return ev.case(ev.database(attempts, at=ev.target(of=BALANCER)), endpoints=[BALANCER])


WORLDS = {
    "healthy": at_balancer(ev.waterfall(), ev.waterfall()),
    "http": at_balancer(http(), http(2)),
    "garbage": at_balancer(garbage()),
    "closed": at_balancer(closed(), closed()),
    "reset": at_balancer(closed(FailureKind.RESET)),
    "stalled": at_balancer(ev.waterfall(failed=Phase.SSL_REQUEST, ssl_answer=None)),
    "some-closed": at_balancer(closed(), ev.waterfall(), ev.waterfall()),
    "nothing": ev.case(endpoints=[BALANCER]),
}
EXPECTED = {
    "healthy": set(),
    "http": {"lb.wrong-protocol"},
    "garbage": {"lb.wrong-protocol"},
    "closed": {"lb.backend-down"},
    "reset": {"lb.backend-down"},
    "stalled": {"db.unresponsive"},
    "some-closed": {"lb.backend-down"},
    "nothing": set(),
}


@pytest.mark.parametrize("name", WORLDS)
def test_one_world_one_cause(name):
    fired = {j.code for rule in RULES.values() for j in ev.judged(rule, WORLDS[name]) if isinstance(j, Finding)}
    assert fired == EXPECTED[name]


@pytest.mark.parametrize("name", WORLDS)
@pytest.mark.parametrize("rule", balancer.RULES, ids=lambda rule: rule.code)
def test_what_every_rule_keeps_to(rule, name):
    ev.assert_one_each(rule, WORLDS[name])
    ev.assert_deterministic(rule, WORLDS[name], seed=len(name))
    ev.assert_evidence_carries(rule, WORLDS[name])


def test_http_is_named_with_its_status_and_server():
    finding = only(PROTOCOL, WORLDS["http"])
    assert '"HTTP/1.1 400 Bad Request", Server: awselb/2.0' in finding.statement
    assert finding.confidence == 0.99
    assert finding.severity is Severity.CRITICAL


def test_bytes_of_another_protocol_are_shown_and_less_sure():
    finding = only(PROTOCOL, WORLDS["garbage"])
    assert '"SSH-2.0-OpenSSH_9.2"' in finding.statement
    assert finding.confidence < only(PROTOCOL, WORLDS["http"]).confidence


@pytest.mark.parametrize(("port", "declared", "fires"), [(443, False, False), (443, True, True), (5433, False, True)])
def test_a_web_server_is_healthy_unless_a_database_is_declared_or_the_port_is_one(port, declared, fires):
    place = ev.endpoint(port=port, role="load-balancer", database=declared)
    world = ev.case(ev.database([http()], at=ev.target(of=place)), endpoints=[place])
    assert any(isinstance(j, Finding) for j in ev.judged(PROTOCOL, world)) is fires


def test_a_close_without_a_byte_is_the_balancers_only_where_one_is_declared():
    plain = ev.case(ev.database([closed()]))
    assert ev.judged(BACKEND, plain) == []
    assert isinstance(only(SILENT, plain), Finding)
    assert isinstance(only(SILENT, WORLDS["closed"]), NotMeasured)


def test_a_close_behind_an_answer_is_no_missing_backend():
    world = at_balancer(ev.waterfall(failed=Phase.STARTUP, kind=FailureKind.CLOSED))
    assert isinstance(only(BACKEND, world), RuledOut)
    assert isinstance(only(SILENT, world), Finding)


@pytest.mark.parametrize("seed", range(6))
def test_a_share_of_dead_backends_is_a_warning_with_its_ratio(seed):
    draw = random.Random(seed)
    bad, good = draw.randint(1, 10), draw.randint(1, 10)
    attempts = [closed()] * bad + [ev.waterfall()] * good
    draw.shuffle(attempts)
    finding = only(BACKEND, at_balancer(*attempts))
    assert finding.statement.startswith(f"{bad} of {bad + good} (95% CI ")
    assert finding.severity is Severity.WARNING
