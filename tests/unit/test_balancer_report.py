"""A balancer's measurement in the report and in the saved run."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace

import pytest

from netdiag.report.evidence_rows import value_line
from netdiag.report.reproduce import reproduce
from netdiag.run_file import convert, journal_entry
from probes.balancer import BalancerMeasurement, BalancerView, CheckAttempt, CheckedBackend, CheckPhase, ServerView
from probes.model import Failure, FailureKind, Outcome, Target
from tests.fakes import evidence as ev

TARGET = Target(host="lb.example", port=5433, endpoint="ysql")
PASSED = CheckAttempt(attempt=1, started_s=0.0, seconds=0.01, outcome=Outcome.ANSWERED, passed=True, status=200)
SICK = replace(PASSED, attempt=2, passed=False, phase=CheckPhase.STATUS, status=503)
UNSENT = CheckAttempt(attempt=3, started_s=1.0, seconds=0.0, outcome=Outcome.NOT_SENT, passed=None)
VIEW = BalancerView(
    url="http://lb/stats;csv",
    seconds=0.01,
    outcome=Outcome.ANSWERED,
    status=200,
    servers=(ServerView(proxy="p", name="east", status="DOWN", check_status="L7STS", check_code=503, last_check=None),),
)


def backend(*attempts, url="http://192.0.2.10:13000/health", address="192.0.2.10", in_a_row=0):
    return CheckedBackend(
        address=address, port=13000, url=url, attempts=attempts, consecutive_failures=in_a_row
    )  # fmt: skip


def measured(*backends, view=None):
    data = BalancerMeasurement(matcher="200", unhealthy=2, backends=backends, view=view)
    return ev.measured("balancer", TARGET, data)


def test_the_row_has_each_backends_count_and_the_balancers_view():
    assert value_line(measured(backend(PASSED, SICK, UNSENT), view=VIEW)) == (
        "http://192.0.2.10:13000/health: 1 of 2 checks pass, failed in 1 status (503); "
        "the balancer's view: east DOWN (n=1)"
    )


def test_a_view_that_was_not_read_says_why():
    refused = Failure(kind=FailureKind.REFUSED, operation="connect", errno="ECONNREFUSED")
    unread = replace(VIEW, servers=(), status=None, failure=refused)
    assert value_line(measured(view=unread)) == "the balancer's view was not read (ECONNREFUSED)"
    assert value_line(measured(view=replace(unread, status=401, failure=None))).endswith("(status 401)")


CURL = r"-m 2 -o /dev/null -w '%{http_code}\n'"


@pytest.mark.parametrize(
    ("found", "command"),
    [
        (measured(backend(PASSED)), f"curl -sS {CURL} http://192.0.2.10:13000/health"),
        (
            measured(backend(PASSED), backend(SICK, url="http://192.0.2.11:13000/health", in_a_row=1)),
            f"curl -sS --connect-to ::192.0.2.10:13000 {CURL} http://192.0.2.11:13000/health",
        ),
        (
            measured(backend(PASSED, url="https://db.example:13000/h", address="2001:db8::1")),
            f"curl -sS -k --connect-to '::[2001:db8::1]:13000' {CURL} https://db.example:13000/h",
        ),
        (measured(backend(PASSED, url="tcp://192.0.2.10:13000")), "nc -vz -w 2 192.0.2.10 13000"),
        (measured(view=VIEW), f"curl -sS {CURL} 'http://lb/stats;csv'"),
        (ev.measured("balancer", TARGET, None), "netdiag probe balancer lb.example:5433"),
    ],
)  # fmt: skip
def test_the_command_asks_the_failing_backend_first(found, command):
    assert reproduce(found) == command


def test_a_hostile_path_stays_one_word():
    url = "http://192.0.2.10:13000/$(id);'x"
    assert shlex.split(reproduce(measured(backend(PASSED, url=url))))[-1] == url


def test_the_saved_data_is_read_back_as_it_was():
    found = measured(backend(PASSED, SICK, UNSENT), view=VIEW)
    saved = json.loads(journal_entry(found))
    assert convert(saved["data"], BalancerMeasurement) == found.data
