"""The idle probe against real servers: what they do with a connection that says nothing, and what they log about it."""

from __future__ import annotations

from contextlib import contextmanager

import pytest

from netdiag.lab.postgres import Server, debian_binaries, find_binaries, make_tls, postgres_server
from probes import idle
from probes.contract import Context, ProbeUnavailable
from probes.idle import IdleEnd, IdleMeasurement, IdleOptions, measure
from probes.model import FailureKind, Secret, Target, Vantage
from probes.net.clock import SystemClock
from probes.net.kernel import KernelNetwork
from tests.loopback.test_database_servers import quiet_log

pytestmark = pytest.mark.loopback
HBA = ("local all all trust", "host all all all scram-sha-256")
SETUP = ("CREATE ROLE app LOGIN PASSWORD 'right'",)
LOGIN = {"user": "app", "password": Secret("right"), "dbname": "postgres", "sslmode": "prefer"}
needs_tls = pytest.mark.skipif(debian_binaries() is None, reason="TLS needs Debian's PostgreSQL")


@contextmanager
def server(tls=None, **settings: str):
    binaries = debian_binaries() if tls else find_binaries()
    with postgres_server(binaries=binaries, tls=tls, hba=HBA, setup=SETUP, settings=settings) as made:
        yield made


async def ask(made: Server, *, seconds: float = 6.0, **options) -> IdleMeasurement:
    clock = SystemClock()
    async with KernelNetwork(clock) as network:
        context = Context(
            network=network, clock=clock, vantage=Vantage(name="test"), deadline=clock.monotonic() + seconds + 30
        )
        target = Target(host="localhost", address=made.host, port=made.port)
        return await measure(context, target, IdleOptions(seconds=seconds, **options))


def ends(found: IdleMeasurement) -> set[IdleEnd]:
    return {connection.end for connection in found.idle}


def slots(made: Server) -> int:
    return int(made.sql("SELECT count(*) FROM pg_stat_activity WHERE usename = 'app'"))


async def test_in_clear_each_ends_with_a_login_and_the_server_logs_nothing():
    with server() as made:
        before = len(made.log_text())
        found = await ask(made, **LOGIN)
        assert await quiet_log(made, before) == ""
    assert found.failure is None
    assert ends(found) == {IdleEnd.ANSWERED}
    assert found.control is not None
    assert found.control.end is IdleEnd.ANSWERED
    assert len(found.idle) >= 2


async def test_in_clear_without_a_user_there_is_nothing_to_ask():
    with server() as made:
        before = len(made.log_text())
        with pytest.raises(ProbeUnavailable, match="without a user"):
            await ask(made)
        assert await quiet_log(made, before) == ""


@needs_tls
async def test_under_tls_nobody_logs_in_and_the_server_logs_nothing(tmp_path):
    with server(make_tls(tmp_path), log_connections="on") as made:
        before = len(made.log_text())
        found = await ask(made)
        assert "authorized" not in made.log_text()[before:]
    assert ends(found) == {IdleEnd.ANSWERED}


async def test_connections_before_their_login_take_no_slot():
    """Not one is free beyond the superuser's own, and yet nobody is pushed out."""
    with server(max_connections="8", superuser_reserved_connections="2") as made:
        clock = SystemClock()
        seen = []

        class Counting(SystemClock):
            async def sleep(self, seconds: float) -> None:
                seen.append(slots(made))
                await super().sleep(seconds)

        async with KernelNetwork(clock) as network:
            context = Context(
                network=network, clock=Counting(), vantage=Vantage(name="test"), deadline=clock.monotonic() + 40
            )
            target = Target(host="localhost", address=made.host, port=made.port)
            await measure(context, target, IdleOptions(seconds=5.0, **LOGIN))
    assert seen
    assert max(seen) <= 1


async def test_a_server_that_closes_who_does_not_log_in_is_closed():
    with server(authentication_timeout="3s") as made:
        found = await ask(made, seconds=8.0, **LOGIN)
    assert {c.end for c in found.idle if c.idle_s > 5} == {IdleEnd.CLOSED}
    assert IdleEnd.SILENT not in ends(found)
    assert IdleEnd.RESET not in ends(found)


@needs_tls
@pytest.mark.parametrize("encrypted", [False, True])
async def test_sessions_are_held_where_slots_are_free_and_end_politely(encrypted, tmp_path, monkeypatch):
    monkeypatch.setattr(idle, "LOGIN_AFTER_S", 0.0)
    with server(make_tls(tmp_path) if encrypted else None) as made:
        before = len(made.log_text())
        found = await ask(made, **LOGIN)
        assert await quiet_log(made, before) == ""
    assert found.logged_in
    assert ends(found) == {IdleEnd.ANSWERED}


async def test_the_last_slots_are_left_alone(monkeypatch):
    monkeypatch.setattr(idle, "LOGIN_AFTER_S", 0.0)
    with server(max_connections="12") as made:
        with pytest.raises(ProbeUnavailable, match="slots to spare"):
            await ask(made, **LOGIN)
        assert slots(made) == 0


@needs_tls
async def test_a_session_that_the_server_ends_says_so(monkeypatch):
    monkeypatch.setattr(idle, "LOGIN_AFTER_S", 0.0)
    with server(idle_session_timeout="3s") as made:
        found = await ask(made, seconds=8.0, **LOGIN)
    closed = [c for c in found.idle if c.idle_s > 5]
    assert {c.end for c in closed} == {IdleEnd.CLOSED}
    assert {(c.failure.kind, c.failure.sqlstate) for c in closed if c.failure} == {(FailureKind.SERVER, "57P05")}
