"""The command line against real PostgreSQL servers and against impostors on loopback.

Each fault yields its own code alone: whatever else is blamed is a false alarm, and fails.
"""

from __future__ import annotations

import datetime as dt
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import psycopg
import pytest

from netdiag.lab.postgres import Server, TlsFiles, debian_binaries, make_tls, postgres_server
from tests.command_line import Ran, netdiag, run

pytestmark = pytest.mark.loopback
needs_tls = pytest.mark.skipif(
    debian_binaries() is None, reason="needs a PostgreSQL with TLS (make debian installs it)"
)

SETUP = ("CREATE ROLE app LOGIN PASSWORD 'right'", "CREATE ROLE barred LOGIN PASSWORD 'right'")
HBA = ("host all barred all reject", "host all all all scram-sha-256")
LIMIT = 20  # max_connections


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with postgres_server(hba=HBA, setup=SETUP, settings={"max_connections": str(LIMIT)}) as started:
        yield started


def dsn(server: Server, user: str = "app", password: str | None = "right", dbname: str = "postgres") -> str:
    secret = f":{password}" if password else ""
    return f"postgresql://{user}{secret}@{server.host}:{server.port}/{dbname}"


def only(ran: Ran, code: str, status: int = 2) -> dict:
    """The one cause, at the place that was asked for, with nothing beside it."""
    assert (ran.causes, ran.status) == ([code], status), ran
    cause = ran.cause(code)
    assert cause["evidence"], ran
    assert not ran.stderr.count("Traceback"), ran
    return cause


def healthy(ran: Ran) -> None:
    assert (ran.causes, ran.status, ran.document["verdict"]) == ([], 0, "healthy"), ran


def phases(ran: Ran) -> set[tuple[str, str]]:
    """(phase, outcome) of all attempts."""
    attempts = [attempt for m in ran.measurements("database") for attempt in m["data"]["attempts"]]
    return {(timing["phase"], timing["outcome"]) for attempt in attempts for timing in attempt["phases"]}


def test_healthy(server):
    ran = run(dsn(server))
    healthy(ran)
    assert ran.found("consequence") == ran.found("note") == [], ran
    assert {"db.auth-failed", "db.hba-rejected", "db.connection-limit", "db.unresponsive"} <= ran.ruled_out()
    assert ("second-query", "answered") in phases(ran)


def test_healthy_by_a_name_with_an_address_that_nobody_listens_at(server, tmp_path):
    """``localhost`` is ::1 too where /etc/hosts says so; libpq takes the next address and nobody is harmed."""
    healthy(run(f"postgresql://app:right@localhost:{server.port}/postgres"))


def test_healthy_when_the_role_is_a_superuser_or_the_session_starts_read_only(server):
    server.sql("ALTER ROLE app SET default_transaction_read_only = on")
    try:
        healthy(run(dsn(server)))
    finally:
        server.sql("ALTER ROLE app RESET default_transaction_read_only")


def test_wrong_password(server):
    ran = run(dsn(server, password="wrong"))
    cause = only(ran, "db.auth-failed")
    assert cause["subject"] == {**cause["subject"], "address": server.host, "port": server.port}
    assert "28P01" in cause["statement"]
    assert cause["section"] == "database-impact"
    assert all(action["owner"] != "network" for action in cause["actions"])


def test_a_role_that_does_not_exist_looks_like_a_wrong_password(server):
    """PostgreSQL does not tell them apart on purpose; netdiag must not pretend to."""
    assert "28P01" in only(run(dsn(server, user="nobody-here")), "db.auth-failed")["statement"]


def test_pg_hba_rejects(server):
    cause = only(run(dsn(server, user="barred")), "db.hba-rejected")
    assert "28000" in cause["statement"]
    assert "127.0.0.1" in cause["statement"], "the address that the server sees"


def test_the_database_does_not_exist(server):
    assert "3D000" in only(run(dsn(server, dbname="missing")), "db.no-database")["statement"]


def test_all_slots_taken(server):
    with all_slots_taken(server):
        assert "53300" in only(run(dsn(server)), "db.connection-limit")["statement"]


def test_the_roles_own_limit(server):
    server.sql("ALTER ROLE app CONNECTION LIMIT 0")
    try:
        assert "53300" in only(run(dsn(server)), "db.connection-limit")["statement"]
    finally:
        server.sql("ALTER ROLE app CONNECTION LIMIT -1")


def test_a_stopped_postmaster_is_unresponsive_in_the_phase_it_owes(server):
    """The kernel goes on completing handshakes: only the phase after TCP shows it."""
    server.signal(signal.SIGSTOP)
    try:
        ran = run(f"{dsn(server)}?connect_timeout=2")
    finally:
        server.signal(signal.SIGCONT)
    cause = only(ran, "db.unresponsive")
    assert "ssl-request" in cause["statement"]
    assert phases(ran) == {("tcp", "answered"), ("ssl-request", "lost")}


def test_a_backend_that_waits_for_a_lock_is_unresponsive_in_a_later_phase(server):
    """A new backend reads the catalogue: with that locked, the server answers SSLRequest and then hangs."""
    with session(server, "postgres") as superuser:
        superuser.execute("LOCK pg_catalog.pg_database")
        ran = run(f"{dsn(server)}?connect_timeout=2")
    cause = only(ran, "db.unresponsive")
    assert "ssl-request" not in cause["statement"]
    assert ("startup", "lost") in phases(ran) or ("ready", "lost") in phases(ran)


def test_server_stopped():
    with postgres_server() as server:
        pass
    ran = run(dsn(server))
    cause = only(ran, "db.port-closed")
    assert cause["subject"]["port"] == server.port


def test_without_credentials_a_database_is_healthy_and_the_rest_is_said_to_be_open(server):
    ran = run(f"{server.host}:{server.port}")
    healthy(ran)
    assert "db.auth-failed" not in {finding["code"] for finding in ran.document["findings"]}


def test_without_credentials_on_a_declared_database_later_phases_are_not_measured(server):
    ran = run(f"postgresql://{server.host}:{server.port}")
    healthy(ran)
    assert {"db.auth-failed", "db.hba-rejected", "db.connection-limit"} <= ran.not_measured()
    assert not {"db.auth-failed", "db.hba-rejected", "db.connection-limit"} & ran.ruled_out()
    assert phases(ran) <= {("tcp", "answered"), ("ssl-request", "answered"), ("tls", "answered")}
    assert {m["options"].get("user") for m in ran.measurements("database")} == {None}, "an invented user was sent"


def test_a_user_without_a_password_is_no_failed_login(server):
    ran = run(dsn(server, password=None))
    healthy(ran)
    assert "db.auth-failed" in ran.not_measured()


# TLS


@pytest.fixture(scope="module")
def tls_server(tmp_path_factory) -> Iterator[tuple[Server, TlsFiles]]:
    files = make_tls(tmp_path_factory.mktemp("tls"))
    with postgres_server(tls=files, hba=HBA, setup=SETUP) as started:
        yield started, files


def verified(server: Server, host: str, files: TlsFiles, mode: str = "verify-full") -> str:
    return f"postgresql://app:right@{host}:{server.port}/postgres?sslmode={mode}&sslrootcert={files.authority}"


@needs_tls
def test_a_valid_certificate(tls_server):
    server, files = tls_server
    ran = run(verified(server, "127.0.0.1", files))
    healthy(ran)
    assert "db.tls-invalid" in ran.ruled_out()


@needs_tls
@pytest.mark.parametrize(
    ("names", "days", "mode", "said"),
    [
        (("127.0.0.1",), (-30, -1), "verify-full", "expired"),
        (("127.0.0.1",), (-30, -1), "verify-ca", "expired"),
        (("127.0.0.1",), (1, 30), "verify-full", "not yet valid"),
        (("db.elsewhere.example",), (-1, 30), "verify-full", "db.elsewhere.example"),
    ],
)
def test_a_bad_certificate_is_named_and_nothing_else_is(tmp_path, names, days, mode, said):
    now = dt.datetime.now(dt.UTC).replace(microsecond=0)
    valid = tuple(now + dt.timedelta(days=number) for number in days)
    files = make_tls(tmp_path, names, valid=valid)
    with postgres_server(tls=files, hba=HBA, setup=SETUP) as server:
        ran = run(verified(server, "127.0.0.1", files, mode))
    assert said in only(ran, "db.tls-invalid")["statement"]


@needs_tls
def test_an_expired_certificate_that_nobody_looks_at_is_a_note(tmp_path):
    now = dt.datetime.now(dt.UTC).replace(microsecond=0)
    files = make_tls(tmp_path, ("127.0.0.1",), valid=(now - dt.timedelta(days=30), now - dt.timedelta(days=1)))
    with postgres_server(tls=files, hba=HBA, setup=SETUP) as server:
        ran = run(f"{dsn(server)}?sslmode=require")
    healthy(ran)
    assert [note["code"] for note in ran.found("note")] == ["db.tls-invalid"]


@needs_tls
def test_an_unknown_authority(tls_server, tmp_path):
    server, _ = tls_server
    other = make_tls(tmp_path)
    only(run(verified(server, "127.0.0.1", other)), "db.tls-invalid")


def test_tls_demanded_of_a_server_without(server):
    only(run(f"{dsn(server)}?sslmode=require"), "db.tls-invalid")


# What is no PostgreSQL


@contextmanager
def impostor(talk: Callable[[socket.socket], None]) -> Iterator[int]:
    """Serves each connection by ``talk`` in a thread of its own until the block ends."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

        def serve(connection: socket.socket) -> None:
            with connection:
                try:
                    talk(connection)
                except OSError:
                    return

        threading.Thread(target=accept, daemon=True).start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)


@contextmanager
def web_server() -> Iterator[int]:
    class Quiet(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            """The test's output is not a server's log."""

        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

    with ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        yield web.server_address[1]
        web.shutdown()


def stranger_dsn(port: int, **settings: str) -> str:
    query = "&".join(f"{name}={text}" for name, text in {"connect_timeout": "2", **settings}.items())
    return f"postgresql://app:right@127.0.0.1:{port}/postgres?{query}"


def bad_request(connection: socket.socket) -> None:
    """As HAProxy and AWS's ALB answer an SSLRequest."""
    connection.recv(8)
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\nServer: awselb/2.0\r\nConnection: close\r\n\r\n")


def test_an_http_balancer_where_a_database_is_declared():
    with impostor(bad_request) as port:
        cause = only(run(stranger_dsn(port)), "lb.wrong-protocol")
    assert "HTTP/1.1 400" in cause["statement"]
    assert "awselb/2.0" in cause["statement"]


def test_a_real_web_server_where_a_database_is_declared():
    """Python's waits for a line's end, which the 8 bytes of an SSLRequest never bring."""
    with web_server() as port:
        ran = run(stranger_dsn(port))
    assert ran.causes in (["lb.wrong-protocol"], ["db.unresponsive"]), ran
    assert ran.status == 2


def test_a_web_server_where_none_is_declared_is_healthy():
    with web_server() as port:
        healthy(run(f"127.0.0.1:{port}"))


def garbage(connection: socket.socket) -> None:
    connection.recv(8)
    connection.sendall(bytes(range(128, 256)) * 64)


def close_at_once(connection: socket.socket) -> None:
    connection.shutdown(socket.SHUT_RDWR)


def reset_at_once(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def say_nothing(connection: socket.socket) -> None:
    while connection.recv(4096):
        pass


def ten_megabytes_of_error(connection: socket.socket) -> None:
    connection.recv(8)
    size = 10 << 20
    connection.sendall(b"E" + struct.pack("!I", size))
    for _ in range(size // 65536):
        connection.sendall(b"M" * 65536)


def error_without_end(connection: socket.socket) -> None:
    """Announces 200 bytes, sends them one by one, a byte in a second."""
    connection.recv(8)
    connection.sendall(b"E" + struct.pack("!I", 204))
    for _ in range(200):
        connection.sendall(b"S")
        time.sleep(1)


def ssh_banner(connection: socket.socket) -> None:
    connection.sendall(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n")
    say_nothing(connection)


def logged_in_and_flooded(kind: bytes, body: bytes) -> Callable[[socket.socket], None]:
    """AuthenticationOk, and then one message for ever."""
    message = kind + struct.pack("!I", len(body) + 4) + body

    def talk(connection: socket.socket) -> None:
        no_tls(connection)
        connection.sendall(b"R\0\0\0\x08\0\0\0\0")
        while True:
            connection.sendall(message * 500)

    return talk


def no_tls(connection: socket.socket) -> None:
    connection.recv(8)
    connection.sendall(b"N")
    connection.recv(4096)


def logged_in_and_silent(connection: socket.socket) -> None:
    no_tls(connection)
    connection.sendall(b"R\0\0\0\x08\0\0\0\0")
    say_nothing(connection)


def half_a_message(connection: socket.socket) -> None:
    no_tls(connection)
    connection.sendall(b"R\0\0\0")
    say_nothing(connection)


def a_tls_alert(connection: socket.socket) -> None:
    connection.recv(8)
    connection.sendall(b"\x15\x03\x01\x00\x02\x02\x46")


def yes_then_nothing(connection: socket.socket) -> None:
    connection.recv(8)
    connection.sendall(b"S")
    say_nothing(connection)


def no_then_nothing(connection: socket.socket) -> None:
    connection.recv(8)
    connection.sendall(b"N")
    say_nothing(connection)


@pytest.mark.parametrize(
    ("talk", "codes"),
    [
        (garbage, {"lb.wrong-protocol"}),
        (ten_megabytes_of_error, {"lb.wrong-protocol"}),
        (ssh_banner, {"lb.wrong-protocol"}),
        (close_at_once, {"db.unresponsive"}),
        (reset_at_once, {"db.unresponsive"}),
        (say_nothing, {"db.unresponsive"}),
        (error_without_end, {"db.unresponsive", "lb.wrong-protocol"}),
        (logged_in_and_flooded(b"N", b"SNOTICE\0C00000\0Mmore\0\0"), {"db.server-error"}),
        (logged_in_and_flooded(b"S", b"name\0setting\0"), {"db.server-error"}),
        (logged_in_and_flooded(b"T", b"\0\0"), {"db.unresponsive"}),
        (logged_in_and_silent, {"db.unresponsive"}),
        (half_a_message, {"db.unresponsive"}),
        (a_tls_alert, {"lb.wrong-protocol"}),
        (yes_then_nothing, {"db.unresponsive"}),
        (no_then_nothing, {"db.unresponsive"}),
    ],
)
def test_an_impostor_is_a_finding_and_the_budget_holds(talk, codes):
    begun = time.monotonic()
    with impostor(talk) as port:
        ran = run(stranger_dsn(port), budget="20s")
    assert time.monotonic() - begun < 20 + 5, "a hang past the budget"
    (code,) = ran.causes or ["none"]
    assert code in codes, ran
    only(ran, code)
    assert "\x1b" not in ran.stdout


def test_hostile_text_of_a_server_cannot_move_the_cursor():
    def talk(connection: socket.socket) -> None:
        connection.recv(8)
        text = b"SFATAL\0C28000\0M\x1b[2J\x1b]0;owned\x07no\rpg_hba.conf \xe2\x80\xae\0\0"
        connection.sendall(b"E" + struct.pack("!I", len(text) + 4) + text)

    with impostor(talk) as port:
        for form in ("text", "markdown"):
            ran = netdiag("run", stranger_dsn(port, sslmode="disable"), "--quick", "--format", form)
            assert ran.status == 2
            assert not {"\x1b", "\x07", "\r", "\u202e"} & set(ran.stdout)


# Help


def session(server: Server, user: str) -> psycopg.Connection[tuple[object, ...]]:
    """Over the local socket, which trusts everybody."""
    return psycopg.connect(host=str(server.data.parent), port=server.port, user=user, dbname="postgres")


@contextmanager
def all_slots_taken(server: Server) -> Iterator[None]:
    """Sessions of ``app`` until the server itself says that there is no room."""
    with ExitStack() as held:
        for _ in range(LIMIT + 1):
            try:
                held.enter_context(session(server, "app"))
            except psycopg.OperationalError:
                break
        else:
            raise RuntimeError("the server never ran out of slots")
        yield
