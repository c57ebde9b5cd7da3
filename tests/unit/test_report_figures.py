"""Figures against values from elsewhere: the SRE workbook's table, published Wilson bounds, brute force."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

import pytest

from netdiag.plan.model import Impact
from netdiag.report.attempts import rarest_fault, service_attempts
from netdiag.report.compile import compile_report
from netdiag.report.figures import counted, duration, percent, proportion, stamp
from netdiag.report.impact import attempts_to_show
from probes.database import Phase
from probes.model import Failure, FailureKind, Outcome
from probes.ports import PortState
from probes.stats.intervals import wilson
from tests.unit.golden import worlds


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (None, "no figure"),
        (0.0000123, "12.3 us"),
        (0.00412, "4.12 ms"),
        (0.0041, "4.1 ms"),
        (0.2141, "214 ms"),
        (0.9999, "1 s"),
        (5.0, "5 s"),
        (41.26, "41.3 s"),
        (100.0, "100 s"),
        (3600.0, "60 min"),
    ],
)
def test_duration(seconds, words):
    assert duration(seconds) == words


@pytest.mark.parametrize(
    ("ratio", "words"),
    [
        (None, "no figure"),
        (0.0, "0%"),
        (0.0004, "0.04%"),
        (0.098, "9.8%"),
        (0.999, "99.9%"),
        (0.9995, "99.95%"),
        (0.99999, "99.999%"),
        (1.0, "100%"),
    ],
)
def test_percent(ratio, words):
    assert percent(ratio) == words


@pytest.mark.parametrize(
    ("count", "total", "words"),
    [  # Wilson bounds as published: 0/100 3.7, 5/100 2.2-11.2, 10/100 5.5-17.4, 50/1000 3.8-6.5
        (0, 100, "0 of 100, 0% (95% CI 0-3.7%)"),
        (5, 100, "5 of 100, 5% (95% CI 2.2-11.2%)"),
        (10, 100, "10 of 100, 10% (95% CI 5.5-17.4%)"),
        (50, 1000, "50 of 1,000, 5% (95% CI 3.8-6.5%)"),
        (0, 0, "0 of 0"),
    ],
)
def test_proportion(count, total, words):
    assert proportion(count, total) == words


def test_stamp_is_utc():
    east = dt.timezone(dt.timedelta(hours=-5))
    assert stamp(dt.datetime(2024, 1, 25, 22, 0, 0, tzinfo=east)) == "2024-01-26T03:00:00Z"


def test_rarest_fault_is_the_rule_of_three():
    assert rarest_fault(1) == pytest.approx(0.95)
    assert rarest_fault(59) == pytest.approx(0.0495, abs=1e-4)  # 59: the classic sample size for 95/95
    for n in (100, 300, 1000):
        assert rarest_fault(n) == pytest.approx(3 / n, rel=0.02)


@pytest.mark.parametrize("target", [0.9, 0.99, 0.999])
def test_attempts_to_show_is_the_least_that_wilson_grants(target):
    needed = attempts_to_show(target)
    assert 1 - wilson(0, needed).high >= target
    assert 1 - wilson(0, needed - 1).high < target
    assert attempts_to_show(1.0) is None


def sla_line(failed, total, sla=0.999):
    attempts = tuple(
        worlds.waterfall(n, *((Phase.TCP, worlds.TIMEOUT) if n <= failed else ())) for n in range(1, total + 1)
    )
    evidence = worlds.measurement("database", worlds.EAST, worlds.database(attempts, worlds.EAST))
    plan = replace(worlds.PLAN, impact=Impact(users=20_000, revenue_per_day=100_000, sla=sla))
    impact = compile_report(worlds.run(evidence, plan=plan), worlds.silent()[1]).impact
    return {line.label: line.figures[0].text for line in impact}


@pytest.mark.parametrize(("failed", "burn", "hours"), [(5, "50x", "14.4"), (10, "100x", "7.2"), (15, "150x", "4.8")])
def test_burn_rates_of_the_sre_workbook(failed, burn, hours):
    line = sla_line(failed, 100)["SLA Violation"]
    assert "violated while measured" in line
    assert f"burn {burn}" in line
    assert f"lasts {hours} h" in line


def test_too_few_attempts_to_tell_and_enough():
    assert "too few attempts to tell (at least 3,838" in sla_line(0, 10)["SLA Violation"]
    assert "met while measured" in sla_line(0, 100, sla=0.9)["SLA Violation"]


def test_users_and_revenue_in_proportion():
    lines = sla_line(10, 100)
    assert lines["Affected Users"].startswith("~2,000 of 20,000 concurrent users")
    assert "(95% CI 1,105-3,487, n=100)" in lines["Affected Users"]  # Wilson 10/100: 0.05523-0.17437
    assert lines["Revenue Impact"].startswith("~10,000 of 100,000 daily revenue at risk")


def test_what_never_left_this_host_is_no_failure():
    local = Failure(kind=FailureKind.CREDENTIALS, operation="startup")
    attempts = (
        worlds.waterfall(1),
        worlds.waterfall(2, Phase.TCP, outcome=Outcome.NOT_SENT),
        worlds.waterfall(3, Phase.STARTUP, local),
    )
    run = worlds.run(worlds.measurement("database", worlds.EAST, worlds.database(attempts, worlds.EAST)))
    assert service_attempts(run)[0] == (True,)


def test_without_a_database_the_handshakes_count():
    run = worlds.run(worlds.measurement("latency", worlds.EAST, worlds.latency([0.01, None])))
    attempts, _, words = service_attempts(run)
    assert (attempts, words) == ((True, False), "TCP handshakes")
    echoes = worlds.run(worlds.measurement("latency", worlds.EAST, worlds.latency([None], method="icmp")))
    assert service_attempts(echoes)[0] == ()


def test_without_handshakes_the_port_probe_counts_and_its_controls_do_not():
    run = worlds.run(worlds.measurement("ports", worlds.EAST, worlds.ports(PortState.SILENT)))
    assert service_attempts(run) == ((False,) * 4, ("app-1/ports/198.18.1.30:5433/1",), "TCP connections")


@pytest.mark.parametrize(("number", "words"), [(0, "0 sizes"), (1, "1 size"), (2, "2 sizes"), (2000, "2,000 sizes")])
def test_one_is_no_plural(number, words):
    assert counted(number, "size") == words
