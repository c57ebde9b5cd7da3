"""What the application lives through where a connection string, or a name in it, leads to more than one place."""

from __future__ import annotations

import pytest

from netdiag.diagnosis.engine import diagnose
from netdiag.diagnosis.finding import Diagnosis, Severity, Verdict
from netdiag.evidence import Evidence, Run, Tool
from netdiag.plan.dsn import parse_target
from netdiag.plan.model import Endpoint, Plan
from probes.database import Phase
from probes.model import FailureKind, Measurement, Outcome, Target, Vantage
from tests.fakes import evidence as ev

ADDRESSES = ("198.51.100.1", "198.51.100.2", "198.51.100.3")
GOOD, CLOSED, SILENT, FROZEN, STARTING, BARRED, CUT = "good", "closed", "silent", "frozen", "starting", "barred", "cut"


def measured(endpoint: Endpoint, what: str) -> list[Measurement]:
    at = Target(host=endpoint.host, address=endpoint.host, port=endpoint.port, endpoint=endpoint.name)
    if what == CLOSED:
        return [ev.ports([ev.unconnected(Outcome.REFUSED)], at=at)]
    if what == SILENT:
        silent = [ev.unconnected(Outcome.LOST, syns=2)] * 4
        return [ev.ports(silent, {61000: [ev.unconnected(Outcome.REFUSED)]}, at=at)]
    attempt = {
        GOOD: ev.waterfall(in_hot_standby=False, default_read_only=False),
        FROZEN: ev.waterfall(failed=Phase.SSL_REQUEST, phase_s=2.0),
        STARTING: ev.waterfall(failed=Phase.STARTUP, kind=FailureKind.SERVER, sqlstate="57P03"),
        BARRED: ev.waterfall(failed=Phase.STARTUP, kind=FailureKind.SERVER, sqlstate="28000", detail="no pg_hba.conf"),
        CUT: ev.waterfall(failed=Phase.SSL_REQUEST, kind=FailureKind.CLOSED),
    }[what]
    return [ev.ports([ev.connected()], at=at), ev.database([attempt] * 3, at=at)]


def diagnosed(*hosts: str, settings: str = "connect_timeout=2", scheme: str = "postgresql") -> Diagnosis:
    """A DSN whose hosts are in these states, in its order."""
    places = ",".join(ADDRESSES[: len(hosts)])
    plan = Plan(endpoints=parse_target(f"{scheme}://{places}/db?user=app&{settings}", {}, None).endpoints)
    found = [m for endpoint, what in zip(plan.endpoints, hosts, strict=True) for m in measured(endpoint, what)]
    return judged(plan, found)


def judged(plan: Plan, found: list[Measurement]) -> Diagnosis:
    return diagnose(
        Run(
            run_id="test",
            tool=Tool(),
            plan=plan,
            vantage=Vantage(name="test"),
            started=ev.STARTED,
            finished=ev.STARTED,
            end_reason="complete",
            partial=False,
            privileges=(),
            evidence=Evidence(tuple(found)),
        )
    )


def only_statement(diagnosis: Diagnosis) -> str:
    (finding,) = diagnosis.findings
    return finding.statement


@pytest.mark.parametrize("dead", [CLOSED, SILENT, FROZEN, STARTING])
def test_a_dead_host_before_one_that_serves_is_lived_through(dead):
    diagnosis = diagnosed(dead, GOOD)
    assert diagnosis.verdict is Verdict.DEGRADED
    assert f"libpq goes on to {ADDRESSES[1]}:5432" in only_statement(diagnosis)


@pytest.mark.parametrize("dead", [CLOSED, SILENT, FROZEN, STARTING, BARRED, CUT])
def test_a_dead_host_behind_one_that_serves_is_never_met(dead):
    diagnosis = diagnosed(GOOD, dead)
    assert diagnosis.verdict is Verdict.DEGRADED
    assert f"The application does not meet it: libpq tries {ADDRESSES[0]}:5432 first" in only_statement(diagnosis)


@pytest.mark.parametrize("dead", [BARRED, CUT])
def test_libpq_does_not_get_past_an_answer_and_pgjdbc_does(dead):
    stopped = diagnosed(dead, GOOD)
    assert stopped.verdict is Verdict.CRITICAL
    assert f"does not go on to {ADDRESSES[1]}:5432, which would serve" in only_statement(stopped)
    assert diagnosed(dead, GOOD, scheme="jdbc:postgresql").verdict is Verdict.DEGRADED


@pytest.mark.parametrize("dead", [CLOSED, SILENT, FROZEN, STARTING, BARRED, CUT])
def test_where_no_host_serves_each_is_critical(dead):
    diagnosis = diagnosed(dead, CLOSED)
    assert diagnosis.verdict is Verdict.CRITICAL
    assert {finding.severity for finding in diagnosis.findings} == {Severity.CRITICAL}
    assert "still connects" not in " ".join(finding.statement for finding in diagnosis.findings)


def test_what_a_connect_costs_is_the_sum_of_the_timeouts_on_the_way():
    diagnosis = diagnosed(SILENT, FROZEN, GOOD, settings="connect_timeout=3")
    assert diagnosis.verdict is Verdict.DEGRADED
    assert all("after 6.00 s, each time" in finding.statement for finding in diagnosis.findings)
    assert "at once" in only_statement(diagnosed(CLOSED, GOOD))


def test_without_connect_timeout_silence_lasts_as_long_as_the_kernel_tries():
    diagnosis = diagnosed(SILENT, GOOD, settings="")
    assert diagnosis.verdict is Verdict.DEGRADED
    assert "no connect_timeout is set" in only_statement(diagnosis)
    assert "application" in {action.owner for action in diagnosis.findings[0].actions}


def test_without_connect_timeout_a_frozen_server_holds_libpq_for_ever():
    diagnosis = diagnosed(FROZEN, GOOD, settings="")
    assert diagnosis.verdict is Verdict.CRITICAL
    assert "waits here for ever" in only_statement(diagnosis)


def test_shuffled_hosts_are_met_in_their_share():
    diagnosis = diagnosed(GOOD, GOOD, CLOSED, settings="load_balance_hosts=random")
    assert diagnosis.verdict is Verdict.DEGRADED
    assert "1 connection in 3 tries this host first and goes on at once" in only_statement(diagnosis)


def test_a_host_that_was_not_measured_leaves_the_question_open():
    """Nothing is known of the first: whether the second is ever tried, nobody can say."""
    (first, second) = parse_target("postgresql://198.51.100.1,198.51.100.2/db?user=app", {}, None).endpoints
    diagnosis = judged(Plan(endpoints=(first, second)), measured(second, CLOSED))
    (finding,) = diagnosis.findings
    assert finding.severity is Severity.CRITICAL


def test_a_healthy_dsn_of_several_hosts_is_healthy():
    assert (diagnosed(GOOD, GOOD).verdict, diagnosed(GOOD, GOOD).findings) == (Verdict.HEALTHY, ())


def test_an_address_of_a_name_that_is_down_is_lived_through_as_a_host_is():
    (endpoint,) = parse_target("postgresql://app@db.example/db?connect_timeout=2", {}, None).endpoints
    order = ("2001:db8::1", "198.51.100.1")
    at = [Target(host="db.example", address=a, port=5432, endpoint=endpoint.name) for a in order]
    silent = ev.ports([ev.unconnected(Outcome.LOST, syns=2)] * 4, {61000: [ev.connected()]}, at=at[0])
    good = [ev.ports([ev.connected()], at=at[1]), ev.database([ev.waterfall()] * 3, at=at[1])]
    plan = Plan(endpoints=(endpoint,))
    diagnosis = judged(plan, [ev.names(addresses=order), silent, *good])
    assert diagnosis.verdict is Verdict.DEGRADED
    statement = next(finding.statement for finding in diagnosis.findings if finding.code == "firewall.drop")
    assert "Over IPv6 alone: 198.51.100.1:5432 of the same name is free of it." in statement
    assert "libpq goes on to 198.51.100.1:5432 after 2.00 s" in statement


# target_session_attrs


@pytest.mark.parametrize(
    ("wanted", "standby", "read_only", "fits"),
    [
        ("any", True, True, True),
        ("read-write", False, False, True),
        ("read-write", True, False, False),
        ("read-write", False, True, False),
        ("read-only", True, False, True),
        ("read-only", False, True, True),
        ("read-only", False, False, False),
        ("primary", False, True, True),
        ("primary", True, False, False),
        ("standby", True, False, True),
        ("standby", False, True, False),
        ("prefer-standby", False, False, True),
        ("read-write", None, None, True),  # before PostgreSQL 14 a server does not say
    ],
)
def test_each_kind_of_session_as_libpq_has_it(wanted, standby, read_only, fits):
    """fe-connect.c, CONNECTION_CHECK_TARGET."""
    (endpoint,) = parse_target(f"postgresql://app@198.51.100.1/db?target_session_attrs={wanted}", {}, None).endpoints
    at = Target(host=endpoint.host, address=endpoint.host, port=5432, endpoint=endpoint.name)
    attempts = [ev.waterfall(in_hot_standby=standby, default_read_only=read_only)] * 3
    diagnosis = judged(Plan(endpoints=(endpoint,)), [ev.ports([ev.connected()], at=at), ev.database(attempts, at=at)])
    codes = [finding.code for finding in diagnosis.findings]
    assert (diagnosis.verdict, codes) == ((Verdict.HEALTHY, []) if fits else (Verdict.CRITICAL, ["db.session-role"]))
    if standby is None:
        assert "db.session-role" in {gap.code for gap in diagnosis.not_measured}


def test_a_standby_beside_a_primary_is_passed_by_in_silence():
    endpoints = parse_target("postgresql://app@198.51.100.1,198.51.100.2/db?target_session_attrs=primary", {}, None)
    found = []
    for endpoint, standby in zip(endpoints.endpoints, (True, False), strict=True):
        at = Target(host=endpoint.host, address=endpoint.host, port=5432, endpoint=endpoint.name)
        attempts = [ev.waterfall(in_hot_standby=standby, default_read_only=False)] * 3
        found += [ev.ports([ev.connected()], at=at), ev.database(attempts, at=at)]
    diagnosis = judged(Plan(endpoints=endpoints.endpoints), found)
    assert (diagnosis.verdict, diagnosis.findings) == (Verdict.HEALTHY, ())
    without_the_primary = judged(Plan(endpoints=endpoints.endpoints), found[:2])
    assert [finding.code for finding in without_the_primary.findings] == ["db.session-role"]
