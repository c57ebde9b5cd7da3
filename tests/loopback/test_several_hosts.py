"""Connection strings of several hosts against real servers: netdiag's verdict beside what psql itself makes of them."""

from __future__ import annotations

import os
import random
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from netdiag.lab.postgres import Server, find_binaries, free_port, postgres_server
from tests.command_line import Ran, run
from tests.loopback.test_shows_database import (
    bad_request,
    close_at_once,
    impostor,
    say_nothing,
)

pytestmark = pytest.mark.loopback

SEED = int(os.environ.get("NETDIAG_TEST_SEED", "1006"))
TIMEOUT_S = 2


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    setup = ("CREATE ROLE app LOGIN PASSWORD 'right'",)
    with postgres_server(hba=("host all all all scram-sha-256",), setup=setup) as started:
        yield started


@pytest.fixture(scope="module")
def barred() -> Iterator[Server]:
    with postgres_server(hba=("host all all all reject",), setup=("CREATE ROLE app LOGIN",)) as started:
        yield started


@contextmanager
def port_of(kind: str, server: Server, barred: Server) -> Iterator[int]:
    talks = {"closes": close_at_once, "web": bad_request, "mute": say_nothing}
    if kind in talks:
        with impostor(talks[kind]) as port:
            yield port
        return
    yield {"good": server.port, "barred": barred.port, "closed": free_port()}[kind]


def dsn(ports: list[int], settings: str = f"connect_timeout={TIMEOUT_S}") -> str:
    places = ",".join(f"127.0.0.1:{port}" for port in ports)
    return f"postgresql://app:right@{places}/postgres?{settings}"


def psql_connects(text: str) -> bool:
    command = [str(find_binaries() / "psql"), "-XAtqw", "-c", "SELECT 1", text]
    return subprocess.run(command, capture_output=True, timeout=60, check=False).returncode == 0


@pytest.mark.parametrize("draw", range(4))
def test_critical_exactly_where_psql_gets_no_connection(draw, server, barred):
    """Whatever the hosts are: degraded where psql finds one that serves, critical where it finds none."""
    rng = random.Random(f"{SEED}/{draw}")
    kinds = rng.choices(["good", "closed", "barred", "closes", "web", "mute"], weights=[3, 1, 1, 1, 1, 1], k=3)
    with ExitStack() as stack:
        ports = list(dict.fromkeys(stack.enter_context(port_of(kind, server, barred)) for kind in kinds))
        text = dsn(ports)
        connects = psql_connects(text)
        ran = run(text)
    flawed = set(kinds) != {"good"}
    expected = "critical" if not connects else "degraded" if flawed else "healthy"
    assert ran.document["verdict"] == expected, f"{kinds}, seed {SEED}/{draw}: {ran}"


def only(ran: Ran, code: str, status: int) -> str:
    assert (ran.causes, ran.status) == ([code], status), ran
    return str(ran.cause(code)["statement"])


def test_a_dead_host_before_a_good_one(server):
    statement = only(run(dsn([free_port(), server.port])), "db.port-closed", 1)
    assert f"libpq goes on to 127.0.0.1:{server.port} at once" in statement


def test_a_frozen_host_costs_connect_timeout(server):
    with postgres_server() as other:
        other.signal(signal.SIGSTOP)
        try:
            statement = only(run(dsn([other.port, server.port])), "db.unresponsive", 1)
        finally:
            other.signal(signal.SIGCONT)
    assert f"libpq goes on to 127.0.0.1:{server.port} after {TIMEOUT_S}.00 s" in statement


def test_a_frozen_host_without_connect_timeout_holds_libpq(server):
    with postgres_server() as other:
        other.signal(signal.SIGSTOP)
        try:
            statement = only(run(dsn([other.port, server.port], "application_name=x")), "db.unresponsive", 2)
        finally:
            other.signal(signal.SIGCONT)
    assert "waits here for ever" in statement


def test_a_wrong_password_is_one_cause_for_all_hosts(server):
    with postgres_server(hba=("host all all all scram-sha-256",), setup=("CREATE ROLE app LOGIN",)) as other:
        ran = run(dsn([server.port, other.port]).replace("right", "wrong"))
    assert f"The same at 127.0.0.1:{max(server.port, other.port)}" in only(ran, "db.auth-failed", 2) or (
        f"The same at 127.0.0.1:{min(server.port, other.port)}" in only(ran, "db.auth-failed", 2)
    )


@pytest.mark.parametrize(("wanted", "status"), [("read-write", 0), ("primary", 0), ("read-only", 2), ("standby", 2)])
def test_the_kind_of_session_that_the_dsn_asks_for(server, wanted, status):
    text = dsn([server.port], f"target_session_attrs={wanted}")
    assert psql_connects(text) == (status == 0)
    ran = run(text)
    assert (ran.causes, ran.status) == (["db.session-role"] if status else [], status), ran


def test_a_role_that_is_read_only_does_not_fit_read_write(server):
    server.sql("ALTER ROLE app SET default_transaction_read_only = on")
    try:
        text = dsn([server.port], "target_session_attrs=read-write")
        assert not psql_connects(text)
        assert "default_transaction_read_only=on" in only(run(text), "db.session-role", 2)
    finally:
        server.sql("ALTER ROLE app RESET default_transaction_read_only")
