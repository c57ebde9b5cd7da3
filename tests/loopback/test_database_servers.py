"""The database probe against real PostgreSQL servers: what they say, in which phase, and what they log about us."""

from __future__ import annotations

import asyncio
import datetime as dt
import signal
from contextlib import ExitStack

import pytest

from netdiag.lab.postgres import (
    Server,
    debian_binaries,
    embedded_binaries,
    free_port,
    make_tls,
    postgres_server,
)
from probes.contract import Context
from probes.database import DatabaseMeasurement, DatabaseOptions, Phase, Waterfall, measure
from probes.exchanges import HandshakeRequest, TlsRequest
from probes.model import FailureKind, Outcome, Secret, Target, Vantage
from probes.net.clock import SystemClock
from probes.net.kernel import KernelNetwork
from probes.session import PostgresSession

pytestmark = pytest.mark.loopback

PASSWORD = Secret("Süß 10€ \u2168")
ALL = [Phase.STARTUP, Phase.READY, Phase.FIRST_QUERY, Phase.SECOND_QUERY]
ROLES = ("plain", "hashed", "salted", "free", "shut")
HBA = (
    "host all free all trust",
    "host all plain all password",
    "host all hashed all md5",
    "host all salted all scram-sha-256",
    "host all shut all reject",
)
SETUP = (
    *(f"CREATE ROLE {role} LOGIN" for role in ROLES),
    "SET password_encryption = 'md5'",
    f"ALTER ROLE hashed PASSWORD '{PASSWORD.reveal()}'",
    "SET password_encryption = 'scram-sha-256'",
    f"ALTER ROLE salted PASSWORD '{PASSWORD.reveal()}'",
    f"ALTER ROLE plain PASSWORD '{PASSWORD.reveal()}'",
)
BINARIES = [
    pytest.param(path, id=name, marks=[] if path else pytest.mark.skip(reason=f"no {name} PostgreSQL here"))
    for name, path in (("debian", debian_binaries()), ("embedded", embedded_binaries()))
]
needs_tls = pytest.mark.skipif(debian_binaries() is None, reason="no PostgreSQL with TLS here")


@pytest.fixture(scope="module", params=BINARIES)
def server(request):
    with postgres_server(binaries=request.param, hba=HBA, setup=SETUP) as running:
        yield running


@pytest.fixture(scope="module")
def certified(tmp_path_factory):
    """A server with TLS, its certificates, and a certificate that ended an hour ago for the same server."""
    place = tmp_path_factory.mktemp("tls")
    now = dt.datetime.now(dt.UTC).replace(microsecond=0)
    good = make_tls(place / "good")
    past = make_tls(place / "past", valid=(now - dt.timedelta(days=2), now - dt.timedelta(hours=1)))
    with ExitStack() as stack:
        servers = [stack.enter_context(postgres_server(tls=tls, hba=HBA, setup=SETUP)) for tls in (good, past)]
        yield (servers[0], good), (servers[1], past)


async def probe(server: Server, host: str = "localhost", budget: float = 30.0, **options) -> DatabaseMeasurement:
    clock = SystemClock()
    context = Context(
        network=KernelNetwork(clock, packets_per_second=1000, connections_per_second=1000),
        clock=clock,
        vantage=Vantage(name="test"),
        deadline=clock.monotonic() + budget,
    )
    chosen = {"attempts": 1, "dbname": "postgres", "interval_s": 0.01, **options}
    return await measure(context, Target(host=host, address=server.host, port=server.port), DatabaseOptions(**chosen))


async def attempt(server: Server, host: str = "localhost", **options) -> Waterfall:
    (waterfall,) = (await probe(server, host, **options)).attempts
    return waterfall


def reached(waterfall: Waterfall) -> list[Phase]:
    return [timing.phase for timing in waterfall.phases if timing.outcome is Outcome.ANSWERED]


def refusal(waterfall: Waterfall) -> tuple[Phase | None, FailureKind | None, str | None]:
    failure = waterfall.failure
    return (waterfall.failed_phase, failure.kind if failure else None, failure.sqlstate if failure else None)


@pytest.mark.parametrize(
    ("user", "password", "method"),
    [
        ("free", None, "trust"),
        ("plain", PASSWORD, "cleartext"),
        ("hashed", PASSWORD, "md5"),
        ("salted", PASSWORD, "scram-sha-256"),
    ],
)
async def test_every_way_to_log_in(server, user, password, method):
    waterfall = await attempt(server, user=user, password=password)
    assert waterfall.failure is None
    assert reached(waterfall) == [Phase.TCP, Phase.SSL_REQUEST, *ALL]
    assert (waterfall.authentication, waterfall.ssl_answer) == (method, "N")
    assert waterfall.server_version is not None
    assert waterfall.server_version.split()[0] == server.version
    assert (waterfall.in_hot_standby, waterfall.authenticated_as_superuser) == (False, False)


async def test_a_superuser_is_told_from_others(server):
    waterfall = await attempt(server, user="free")
    assert waterfall.authenticated_as_superuser is False
    server.sql("ALTER ROLE free SUPERUSER")
    try:
        assert (await attempt(server, user="free")).authenticated_as_superuser is True
    finally:
        server.sql("ALTER ROLE free NOSUPERUSER")


@pytest.mark.parametrize("user", ["plain", "hashed", "salted"])
async def test_a_wrong_password_is_28p01_at_startup(server, user):
    waterfall = await attempt(server, user=user, password=Secret("wr0ng-passw0rd"))
    assert refusal(waterfall) == (Phase.STARTUP, FailureKind.SERVER, "28P01")
    assert "wr0ng" not in repr(waterfall)


async def test_no_password_is_our_own_reason_to_stop(server):
    before = len(server.log_text())
    waterfall = await attempt(server, user="salted")
    assert refusal(waterfall) == (Phase.STARTUP, FailureKind.CREDENTIALS, None)
    assert waterfall.authentication == "scram-sha-256"
    assert await quiet_log(server, before) == ""


@pytest.mark.parametrize("user", ["shut", "nobody_knows_me"])
async def test_pg_hba_says_no_at_once(server, user):
    waterfall = await attempt(server, user=user, password=PASSWORD)
    assert refusal(waterfall) == (Phase.STARTUP, FailureKind.SERVER, "28000")
    assert waterfall.failure is not None
    assert "pg_hba.conf" in (waterfall.failure.detail or "")


async def test_an_unknown_database_is_told_after_authentication(server):
    waterfall = await attempt(server, user="free", dbname="no_such_db")
    assert refusal(waterfall) == (Phase.READY, FailureKind.SERVER, "3D000")
    assert reached(waterfall)[-1] is Phase.STARTUP


async def test_a_query_that_fails_is_the_first_querys(server):
    waterfall = await attempt(server, user="free", query="SELECT 1/0")
    assert refusal(waterfall) == (Phase.FIRST_QUERY, FailureKind.SERVER, "22012")


async def test_a_query_cannot_write(server):
    waterfall = await attempt(server, user="free", query="CREATE TEMP TABLE t (); DROP TABLE t; CREATE ROLE x")
    assert refusal(waterfall) == (Phase.FIRST_QUERY, FailureKind.SERVER, "25006")


async def quiet_log(server: Server, since: int) -> str:
    """What the log gained once the server had every chance to write: a marker of our own comes last."""
    await asyncio.to_thread(server.sql, "DO $$BEGIN RAISE LOG 'the marker'; END$$")
    gained, marker, _ = server.log_text()[since:].partition("the marker")
    assert marker
    return "\n".join(gained.splitlines()[:-1])  # the last is the beginning of the marker's own line


@pytest.mark.parametrize("sslmode", ["disable", "prefer", "require"])
async def test_without_credentials_the_server_logs_nothing(server, sslmode):
    before = len(server.log_text())
    done = await probe(server, attempts=5, sslmode=sslmode)
    assert [waterfall.ssl_answer for waterfall in done.attempts] == ["N"] * 5
    assert not done.credentials
    assert await quiet_log(server, before) == ""


@needs_tls
@pytest.mark.parametrize("sslmode", ["disable", "prefer", "require"])
async def test_without_credentials_a_server_with_tls_logs_nothing(certified, sslmode):
    (server, _), _ = certified
    before = len(server.log_text())
    done = await probe(server, attempts=5, sslmode=sslmode)
    assert [waterfall.ssl_answer for waterfall in done.attempts] == ["S"] * 5
    assert await quiet_log(server, before) == ""


async def test_the_log_would_have_shown_an_impolite_client(server):
    before = len(server.log_text())
    _, writer = await asyncio.open_connection(server.host, server.port)
    writer.write(b"GET / HTTP/1.0\r\n\r\n")
    await writer.drain()
    writer.close()
    await asyncio.sleep(0.2)
    assert "invalid length of startup packet" in await quiet_log(server, before)


async def test_sessions_end_with_a_goodbye(server):
    """PostgreSQL logs "unexpected EOF on client connection" for a client that just leaves inside a transaction."""
    server.sql("ALTER SYSTEM SET log_disconnections = on", "SELECT pg_reload_conf()")
    await asyncio.sleep(0.3)
    before = len(server.log_text())
    try:
        await probe(server, user="free", attempts=3)
        await asyncio.sleep(0.3)
        assert server.log_text()[before:].count("disconnection: session time") >= 3
        assert "unexpected EOF" not in server.log_text()[before:]
        assert server.sql("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'netdiag'") == "0"
    finally:
        server.sql("ALTER SYSTEM RESET log_disconnections", "SELECT pg_reload_conf()")


async def test_no_slot_is_left():
    settings = {"max_connections": "6", "superuser_reserved_connections": "3"}
    async with taken(settings, 3) as (server, _):
        waterfall = await attempt(server, user="free")
        assert refusal(waterfall)[1:] == (FailureKind.SERVER, "53300")
        assert waterfall.failed_phase in (Phase.STARTUP, Phase.READY)  # by version: before or after AuthenticationOk


async def test_slots_reserved_for_superusers_are_refused_after_authentication():
    """R0 first, then E 53300 "remaining connection slots are reserved"."""
    async with taken({"max_connections": "6", "superuser_reserved_connections": "3"}, 3) as (server, _):
        waterfall = await attempt(server, user="free")
        assert waterfall.failure is not None
        assert "reserved" in (waterfall.failure.detail or "")


class taken:
    """A server with ``count`` sessions of an ordinary user open."""

    def __init__(self, settings: dict[str, str], count: int) -> None:
        self._settings, self._count, self._stack = settings, count, ExitStack()

    async def __aenter__(self) -> tuple[Server, list[PostgresSession]]:
        server = self._stack.enter_context(postgres_server(hba=HBA, setup=SETUP, settings=self._settings))
        self._sessions = [await open_session(server) for _ in range(self._count)]
        return server, self._sessions

    async def __aexit__(self, *_) -> None:
        for session in self._sessions:
            await session.terminate()
        await asyncio.to_thread(self._stack.close)


async def open_session(server: Server, user: str = "free") -> PostgresSession:
    clock = SystemClock()
    network = KernelNetwork(clock, connections_per_second=1000)
    stream = await network.open_stream(HandshakeRequest(address=server.host, port=server.port))
    session = PostgresSession(stream, clock)
    await session.start(user, None, "postgres", clock.monotonic() + 20)
    return session


async def test_a_stopped_server_refuses():
    with postgres_server(hba=HBA) as server:
        server.stop()
        done = await probe(server, user="free", attempts=2)
    assert [(w.outcome, w.failed_phase) for w in done.attempts] == [(Outcome.REFUSED, Phase.TCP)] * 2


async def test_a_frozen_server_is_silent_after_tcp():
    """The kernel completes the handshake out of the backlog; nobody is there to speak."""
    with postgres_server(hba=HBA, setup=SETUP) as server:
        server.signal(signal.SIGSTOP)
        asked = await attempt(server, user="free", timeout_s=1.0)
        unasked = await attempt(server, user="free", sslmode="disable", timeout_s=1.0)
    assert (asked.failed_phase, asked.outcome, reached(asked)) == (Phase.SSL_REQUEST, Outcome.LOST, [Phase.TCP])
    assert (unasked.failed_phase, unasked.outcome) == (Phase.STARTUP, Outcome.LOST)


async def test_a_frozen_backend_is_silent_where_it_froze(server):
    """A lock in the query itself: the first answer never comes."""
    waterfall = await attempt(server, user="free", query="SELECT pg_sleep(30)", timeout_s=1.0)
    assert (waterfall.failed_phase, waterfall.outcome) == (Phase.FIRST_QUERY, Outcome.LOST)


# TLS.


@needs_tls
@pytest.mark.parametrize(
    ("user", "password", "method"),
    [("free", None, "trust"), ("hashed", PASSWORD, "md5"), ("salted", PASSWORD, "scram-sha-256-plus")],
)
async def test_every_way_to_log_in_under_tls(certified, user, password, method):
    (server, tls), _ = certified
    options = {"sslmode": "verify-full", "ssl_root_certificate": str(tls.authority)}
    waterfall = await attempt(server, user=user, password=password, **options)
    assert waterfall.failure is None
    assert reached(waterfall) == [Phase.TCP, Phase.SSL_REQUEST, Phase.TLS, *ALL]
    assert waterfall.authentication == method
    assert waterfall.tls is not None
    assert waterfall.tls.certificate is not None
    assert "localhost" in waterfall.tls.certificate.names


@needs_tls
async def test_the_server_agrees_that_the_session_is_encrypted(certified):
    (server, _), _ = certified
    clock = SystemClock()
    stream = await KernelNetwork(clock).open_stream(HandshakeRequest(address=server.host, port=server.port))
    session, deadline = PostgresSession(stream, clock), clock.monotonic() + 20
    await session.negotiate_tls("require", TlsRequest(server_name="localhost"), deadline)
    facts = await session.start("salted", PASSWORD, "postgres", deadline)
    result = await session.query(
        f"SELECT ssl, version FROM pg_stat_ssl WHERE pid = {facts.backend_pid} AND pid = pg_backend_pid()", deadline
    )
    await session.terminate()
    assert session.tls is not None
    assert result.rows == ((b"t", session.tls.version.encode()),)


@needs_tls
async def test_a_name_that_the_certificate_lacks(certified):
    (server, tls), _ = certified
    options = {"sslmode": "verify-full", "ssl_root_certificate": str(tls.authority)}
    waterfall = await attempt(server, host="db.vantage.example", user="free", **options)
    assert refusal(waterfall) == (Phase.TLS, FailureKind.TLS, None)
    assert waterfall.tls_inspected is not None
    assert waterfall.tls_inspected.certificate is not None
    assert waterfall.tls_inspected.certificate.names == ("localhost", "127.0.0.1")
    weaker = {**options, "sslmode": "verify-ca"}
    assert (await attempt(server, host="db.vantage.example", user="free", **weaker)).failure is None


@needs_tls
async def test_an_expired_certificate_shows_its_dates(certified):
    _, (server, tls) = certified
    options = {"sslmode": "verify-full", "ssl_root_certificate": str(tls.authority)}
    waterfall = await attempt(server, user="free", **options)
    assert refusal(waterfall) == (Phase.TLS, FailureKind.TLS, None)
    assert waterfall.failure is not None
    assert "expired" in (waterfall.failure.detail or "")
    assert waterfall.tls_inspected is not None
    shown = waterfall.tls_inspected.certificate
    assert shown is not None
    from cryptography import x509

    real = x509.load_pem_x509_certificate(tls.certificate.read_bytes())
    assert dt.datetime.fromisoformat(shown.not_after) == real.not_valid_after_utc
    assert dt.datetime.fromisoformat(shown.not_before) == real.not_valid_before_utc
    assert (await attempt(server, user="free", sslmode="require")).failure is None  # libpq does not look either


@needs_tls
async def test_hostssl_only_refuses_a_client_in_clear():
    tls_hba = ("hostssl all free all trust",)
    from pathlib import Path
    from tempfile import TemporaryDirectory

    with (
        TemporaryDirectory() as place,
        postgres_server(tls=make_tls(Path(place)), hba=tls_hba, setup=("CREATE ROLE free LOGIN",)) as server,
    ):
        clear = await attempt(server, user="free", sslmode="disable")
        allowed = await attempt(server, user="free", sslmode="allow")
    assert refusal(clear) == (Phase.STARTUP, FailureKind.SERVER, "28000")
    assert clear.failure is not None
    assert "no encryption" in (clear.failure.detail or "")
    assert allowed.failure is None


# The held session.


async def test_a_held_session_counts_what_the_server_saw(server):
    done = await probe(server, user="free", hold_s=0.6, hold_interval_s=0.1)
    held = done.held
    assert held is not None
    assert held.failure is None
    assert len(held.exchanges) >= 3
    assert all(exchange.seconds is not None and exchange.retransmits == 0 for exchange in held.exchanges)
    assert held.before is not None
    assert held.after is not None
    # A Sync is five bytes, its ReadyForQuery six: the kernel's own count of the connection.
    assert held.after.bytes_received is not None
    assert held.before.bytes_received is not None
    assert held.after.bytes_received - held.before.bytes_received == 6 * len(held.exchanges)


async def test_a_held_session_that_an_administrator_ends(server):
    async def end() -> None:
        await asyncio.sleep(0.5)
        await asyncio.to_thread(
            server.sql, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'netdiag'"
        )

    done, _ = await asyncio.gather(probe(server, user="free", hold_s=10.0, hold_interval_s=0.05), end())
    assert done.held is not None
    assert done.held.failure is not None
    assert (done.held.failure.kind, done.held.failure.sqlstate) == (FailureKind.SERVER, "57P01")
    assert done.held.exchanges[-1].seconds is None
    assert done.held.exchanges[-2].seconds is not None


# IPv6.


async def test_ipv6():
    with postgres_server(host="::1", hba=("host all all ::1/128 trust",), setup=("CREATE ROLE free LOGIN",)) as server:
        assert (await attempt(server, user="free")).failure is None
        assert free_port("::1") != server.port
