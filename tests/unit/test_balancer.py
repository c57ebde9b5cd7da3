"""The balancer probe: its pure parts, and the whole against scripted connections."""

from __future__ import annotations

import random

import pytest

from probes.balancer import (
    MOST_SERVERS,
    BalancerOptions,
    CheckAttempt,
    CheckPhase,
    CheckSteps,
    check_address,
    failures_in_a_row,
    matches,
    measure,
    servers_in,
)
from probes.contract import ProbeUnavailable
from probes.exchanges import ConnectFailure, HostLookup
from probes.failures import timed_out
from probes.model import Failure, FailureKind, Outcome, Target
from probes.wire.http import HttpError
from tests.fakes.clock import FakeClock
from tests.fakes.network import ScriptedNetwork, context, failed_handshake
from tests.fakes.stream import CLOSE, ScriptedStream, after

URL = "http://{backend}:13000/health"
TARGET = Target(host="lb.example", port=5433, endpoint="ysql")
OK = b"HTTP/1.1 200 OK\r\nServer: yb\r\nContent-Length: 0\r\n\r\n"
UNAVAILABLE = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
CSV = (
    "# pxname,svname,qcur,status,lastchg,check_status,check_code,check_duration,last_chk,addr,\n"
    "ysql,FRONTEND,,OPEN,,,,,,,\n"
    "databases,db-east,0,DOWN,3,L4CON,,0,Connection refused,192.0.2.1:5433,\n"
    "databases,db-west,0,UP,9,L7OK,200,51,OK,[2001:db8::1]:5433,\n"
    "databases,BACKEND,0,UP,9,,,,,,\n"
)


def attempt(number: int, passed: bool | None) -> CheckAttempt:
    outcome = {True: Outcome.ANSWERED, False: Outcome.REFUSED, None: Outcome.NOT_SENT}[passed]
    return CheckAttempt(attempt=number, started_s=float(number), seconds=0.01, outcome=outcome, passed=passed)


def stepped(fates: list[bool | None], **options) -> list[bool | None]:
    """Of ``fates`` those that the steps asked for."""
    steps = CheckSteps(BalancerOptions(url=URL, **options))
    while (number := steps.next()) is not None and number <= len(fates):
        steps.tell(attempt(number, fates[number - 1]))
    return [a.passed for a in steps.attempts]


@pytest.mark.parametrize(
    ("fates", "asked"),
    [
        ([True] * 9, 3),
        ([False] * 9, 2),
        ([True, False, False, True], 3),
        ([True, True, False, False, True], 4),  # a row that has begun is seen to its end
        ([True, True, False, True, True], 4),
        ([False, True, False, True], 4),
        ([False, None, False, True], 3),  # what was not sent ends no row
        ([None] * 9, 3),
        ([False, None, None, None, None, None], 3),
    ],
)
def test_attempts_end_where_the_balancer_would_have_decided(fates, asked):
    assert stepped(fates, unhealthy=2, attempts=3) == fates[:asked]


@pytest.mark.parametrize("seed", range(20))
def test_the_longest_row_is_that_of_the_fates_as_text(seed):
    draw = random.Random(seed)
    fates = [draw.choice([True, False, False, None]) for _ in range(draw.randint(0, 30))]
    text = "".join("F" if fate is False else "P" for fate in fates if fate is not None)
    longest = max(map(len, text.split("P")), default=0)
    assert failures_in_a_row([attempt(n, fate) for n, fate in enumerate(fates)]) == longest


@pytest.mark.parametrize(
    ("matcher", "passing", "failing"),
    [("200", [200], [201, 199, 503]), ("200,204", [200, 204], [202]), ("200 - 399", [200, 302, 399], [400, 199])],
)
def test_a_matcher_takes_codes_and_ranges(matcher, passing, failing):
    assert all(matches(status, matcher) for status in passing)
    assert not any(matches(status, matcher) for status in failing)


@pytest.mark.parametrize("matcher", ["", "ok", "2xx", "200-", "200;204", "20000"])
def test_a_matcher_that_is_none_is_said(matcher):
    with pytest.raises(ProbeUnavailable):
        matches(200, matcher)


@pytest.mark.parametrize(
    ("url", "backend", "url_asked", "port", "path"),
    [
        (URL, "192.0.2.1", "http://192.0.2.1:13000/health", 13000, "/health"),
        (URL, "2001:db8::1", "http://[2001:db8::1]:13000/health", 13000, "/health"),
        ("https://{backend}/x?y=1", "192.0.2.1", "https://192.0.2.1/x?y=1", 443, "/x?y=1"),
        ("tcp://{backend}:5433", "192.0.2.1", "tcp://192.0.2.1:5433", 5433, "/"),
        ("http://user:secret@db.example/h", "192.0.2.1", "http://db.example/h", 80, "/h"),
    ],
)
def test_where_a_check_goes(url, backend, url_asked, port, path):
    at = check_address(url, backend)
    assert (at.url, at.port, at.path) == (url_asked, port, path)


@pytest.mark.parametrize("url", ["ftp://{backend}/", "tcp://{backend}", "http://", "http://h:99999/", "http://[::1/"])
def test_a_url_that_cannot_be_asked_is_said(url):
    with pytest.raises(ProbeUnavailable):
        check_address(url, "192.0.2.1")


def test_haproxys_rows_without_frontend_and_backend():
    east, west = servers_in(CSV)
    assert (east.name, east.status, east.check_status, east.check_code) == ("db-east", "DOWN", "L4CON", None)
    assert (east.last_check, east.address) == ("Connection refused", "192.0.2.1:5433")
    assert (west.status, west.check_code) == ("UP", 200)


def test_a_hostile_view_is_bounded_and_printable():
    rows = "".join(f"p,s{n},\x1b[2JUP,L7OK\n" for n in range(2 * MOST_SERVERS))
    found = servers_in("# pxname,svname,status,check_status\n" + rows)
    assert len(found) == MOST_SERVERS
    assert all(server.status == "UP" for server in found)


@pytest.mark.parametrize("text", ["", "<html>", "a,b\n1,2\n", "# pxname,svname\n"])
def test_what_is_no_csv_of_haproxys_is_an_error(text):
    with pytest.raises(HttpError):
        servers_in(text)


def test_short_and_long_rows_of_the_view_are_read():
    assert [s.status for s in servers_in("# pxname,svname,status\np,a\np,b,UP,more,fields\n")] == [None, "UP"]


# The whole probe


def world(answers, lookup=None):
    """``answers``: what each connection meets, in its order: steps of a stream, or a Failure of connecting."""
    clock, left = FakeClock(), list(answers)

    def connect(request):
        met = left.pop(0) if left else (OK,)
        if isinstance(met, Failure):
            outcome = Outcome.REFUSED if met.kind is FailureKind.REFUSED else Outcome.LOST
            raise ConnectFailure(met, failed_handshake(outcome, met, seconds=0.1))
        return ScriptedStream(clock, *met)

    return ScriptedNetwork(clock, stream=connect, lookup=lookup or (lambda host: pytest.fail("no look-up is due")))


async def probed(answers, *, seconds=60.0, lookup=None, **options):
    network = world(answers, lookup)
    given = {"url": URL, "backends": ("192.0.2.1",), "interval_s": 1.0, "timeout_s": 2.0} | options
    measured = await measure(context(network, seconds), TARGET, BalancerOptions(**given))
    return measured, network


REFUSED = Failure(kind=FailureKind.REFUSED, operation="connect", errno="ECONNREFUSED")


@pytest.mark.parametrize(
    ("met", "outcome", "phase", "status"),
    [
        ((UNAVAILABLE,), Outcome.ANSWERED, CheckPhase.STATUS, 503),
        ((CLOSE,), Outcome.FAILED, CheckPhase.RESPONSE, None),
        ((b"E\x00\x00\x00\x20SFATAL",), Outcome.FAILED, CheckPhase.RESPONSE, None),
        ((), Outcome.LOST, CheckPhase.RESPONSE, None),
        ((after(5.0, OK),), Outcome.LOST, CheckPhase.RESPONSE, None),
        (REFUSED, Outcome.REFUSED, CheckPhase.TCP, None),
        (timed_out("connect"), Outcome.LOST, CheckPhase.TCP, None),
    ],
)
async def test_a_check_that_fails_is_placed(met, outcome, phase, status):
    measured, _ = await probed([met, met, met])
    (backend,) = measured.backends
    assert [(a.outcome, a.phase, a.status, a.passed) for a in backend.attempts] == [(outcome, phase, status, False)] * 2
    assert backend.consecutive_failures == 2


async def test_a_check_that_passes_slowly_and_in_pieces_is_healthy():
    measured, network = await probed([(after(0.9, OK[:9]), after(0.9, OK[9:]))] * 3)
    (backend,) = measured.backends
    assert [a.passed for a in backend.attempts] == [True] * 3
    assert backend.attempts[0].server == "yb"
    assert backend.attempts[0].seconds == pytest.approx(1.8 + 0.01)  # the handshake's 10 ms included
    assert [r.port for r in network.asked] == [13000] * 3


async def test_attempts_begin_an_interval_apart_and_none_is_cut_by_the_deadline():
    measured, _ = await probed([(OK,)] * 3, interval_s=4.0)
    assert [a.started_s for a in measured.backends[0].attempts] == pytest.approx([0.0, 4.0, 8.0], abs=0.2)
    cut, _ = await probed([(OK,)] * 3, interval_s=4.0, seconds=5.0)
    assert [a.started_s for a in cut.backends[0].attempts] == [0.0]


async def test_a_tcp_check_is_the_handshake_alone():
    measured, _ = await probed([()] * 3, url="tcp://{backend}:5433")
    assert [a.passed for a in measured.backends[0].attempts] == [True] * 3


def looked_up(host):
    return HostLookup(name=host, seconds=0.01, addresses=("192.0.2.9",))


async def test_the_view_is_read_after_the_checks():
    body = CSV.encode()
    view = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    measured, network = await probed(
        [(OK,)] * 3 + [(view,)], stats="http://lb.example:8404/stats;csv", lookup=looked_up
    )
    assert [server.name for server in measured.view.servers] == ["db-east", "db-west"]
    assert (network.asked[-1].address, network.asked[-1].port) == ("192.0.2.9", 8404)


@pytest.mark.parametrize(
    ("met", "kind", "status"),
    [
        ((b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n",), None, 401),
        ((b"HTTP/1.1 200 OK\r\n\r\n<html>", CLOSE), FailureKind.PROTOCOL, 200),
        ((b"HTTP/1.1 200 OK\r\nContent-Length: 1000001\r\n\r\n",), FailureKind.PROTOCOL, None),
        (REFUSED, FailureKind.REFUSED, None),
    ],
)
async def test_a_view_that_is_not_told_is_data(met, kind, status):
    measured, _ = await probed([met], url=None, backends=(), stats="http://lb.example/;csv", lookup=looked_up)
    assert measured.view.servers == ()
    assert (measured.view.failure and measured.view.failure.kind, measured.view.status) == (kind, status)


@pytest.mark.parametrize(
    "options", [{"backends": ()}, {"url": None}, {"matcher": "fine"}, {"url": "gopher://{backend}/"}]
)
async def test_what_cannot_be_asked_is_unavailable(options):
    with pytest.raises(ProbeUnavailable):
        await probed([], **options)
