"""The waterfall against a scripted server: which phase is blamed, what is recorded, what is said to the server."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest

from probes.contract import ProbeUnavailable
from probes.database import PROBE, DatabaseOptions, Phase, http_head, measure
from probes.exchanges import Certificate, ConnectFailure, TcpInfo, TlsSession
from probes.failures import timed_out
from probes.model import Failure, FailureKind, Outcome, Secret, Target
from probes.session import PostgresSession, printable, read_only, verification
from probes.wire import postgres as wire
from tests.fakes.clock import FakeClock
from tests.fakes.network import ScriptedNetwork, context, failed_handshake, open_handshake
from tests.fakes.stream import CLOSE, ScriptedStream, after

TARGET = Target(host="db.example", address="192.0.2.9", port=5433)
TLS = TlsSession(
    version="TLSv1.3",
    cipher="TLS_AES_256_GCM_SHA384",
    certificate=Certificate(
        subject="CN=db",
        issuer="CN=ca",
        names=("db",),
        not_before="2024-01-01T00:00:00Z",
        not_after="2025-01-01T00:00:00Z",
        self_signed=False,
    ),
)
EXPIRED = Failure(kind=FailureKind.TLS, operation="tls", detail="certificate verify failed: certificate has expired")
RESET = Failure(kind=FailureKind.RESET, operation="receive", errno="ECONNRESET")


def message(kind: str, body: bytes) -> bytes:
    return kind.encode() + struct.pack("!I", len(body) + 4) + body


def error(sqlstate: str, text: str = "no", severity: str = "FATAL") -> bytes:
    fields = f"S{severity}\0V{severity}\0C{sqlstate}\0M{text}\0".encode()
    return message("E", fields + b"\0")


OK = message("R", struct.pack("!I", 0))
Z = message("Z", b"I")
READY = (
    message("S", b"server_version\x0015.12-YB-2025.1.0.0-b0\0")
    + message("S", b"in_hot_standby\0off\0")
    + message("S", b"is_superuser\0on\0")
    + message("N", b"SNOTICE\0C00000\0Mmind the gap\0\0")
    + message("K", struct.pack("!II", 4711, 1))
    + Z
)
ANSWER = message("T", b"\0\0") + message("D", b"\0\1\0\0\0\0011") + message("C", b"SELECT 1\0") + Z


class World:
    """A network of scripted streams, one per connection, in their order."""

    def __init__(self, *scripts, **stream_options) -> None:
        self.clock = FakeClock()
        self.streams: list[ScriptedStream] = []
        self._scripts = list(scripts)
        self._stream_options = stream_options
        self.network = ScriptedNetwork(self.clock, stream=self._open)

    def _open(self, request):
        script = self._scripts.pop(0) if len(self._scripts) > 1 else self._scripts[0]
        if isinstance(script, ConnectFailure):
            self.clock.now += script.handshake.seconds
            raise script
        steps, options = script if isinstance(script, tuple) else (script, {})
        stream = ScriptedStream(self.clock, *steps, **{**self._stream_options, **options})
        self.clock.now += stream.handshake.seconds
        self.streams.append(stream)
        return stream

    async def measure(self, seconds: float = 60.0, **options):
        return await measure(context(self.network, seconds), TARGET, DatabaseOptions(**{"attempts": 1, **options}))


def phases(waterfall) -> list[tuple[Phase, float, Outcome]]:
    return [(timing.phase, round(timing.seconds, 6), timing.outcome) for timing in waterfall.phases]


async def test_every_phase_has_its_own_time():
    steps = [
        after(0.05, b"S"),
        after(0.20, OK),
        after(0.70, READY),
        after(0.40, ANSWER),
        after(0.06, ANSWER),
    ]
    world = World(steps, tls=TLS, handshake=open_handshake(0.03))
    done = await world.measure(user="app")
    (waterfall,) = done.attempts
    answered = Outcome.ANSWERED
    assert phases(waterfall) == [
        (Phase.TCP, 0.03, answered),
        (Phase.SSL_REQUEST, 0.05, answered),
        (Phase.TLS, 0.0, answered),
        (Phase.STARTUP, 0.2, answered),
        (Phase.READY, 0.7, answered),
        (Phase.FIRST_QUERY, 0.4, answered),
        (Phase.SECOND_QUERY, 0.06, answered),
    ]
    assert (waterfall.outcome, waterfall.failure, waterfall.failed_phase) == (answered, None, None)
    assert (waterfall.server_version, waterfall.in_hot_standby, waterfall.authenticated_as_superuser) == (
        "15.12-YB-2025.1.0.0-b0",
        False,
        True,
    )
    assert (waterfall.backend_pid, waterfall.notices, waterfall.authentication) == (4711, ("mind the gap",), "trust")
    assert (waterfall.ssl_answer, waterfall.tls, done.credentials, done.held) == ("S", TLS, True, None)
    assert world.streams[0].sent == [
        wire.SSL_REQUEST,
        wire.startup_message(
            {"user": "app", "database": "app", "application_name": "netdiag", "client_encoding": "UTF8"}
        ),
        wire.query_message("SELECT 1"),
        wire.query_message("SELECT 1"),
        wire.TERMINATE,
    ]
    assert world.streams[0].closed


async def test_nothing_unknown_is_said_at_startup():
    """pgbouncer's default allows client_encoding and application_name, and refuses what it does not track."""
    world = World([b"N", OK + READY, ANSWER, ANSWER])
    await world.measure(user="app", dbname="db")
    startup = world.streams[0].sent[1][8:].split(b"\0")
    assert set(startup[0:-2:2]) == {b"user", b"database", b"client_encoding", b"application_name"}


@pytest.mark.parametrize("sslmode", ["disable", "allow", "prefer", "require"])
async def test_without_a_user_only_the_polite_question_is_asked(sslmode):
    world = World([b"S"], tls=TLS)
    done = await world.measure(sslmode=sslmode)
    (waterfall,) = done.attempts
    assert waterfall.outcome is Outcome.ANSWERED
    assert world.streams[0].sent == [wire.SSL_REQUEST]  # no startup, and no Terminate, which a server would log
    assert len(world.streams[0].tls_requests) == 1  # a server logs a client that leaves between "S" and the handshake
    expected = [Phase.TCP, Phase.SSL_REQUEST] + ([] if sslmode == "disable" else [Phase.TLS])
    assert [timing.phase for timing in waterfall.phases] == expected
    assert (done.credentials, world.streams[0].closed) == (False, True)


async def test_disable_with_a_user_says_nothing_of_tls():
    world = World([OK + READY, ANSWER, ANSWER])
    done = await world.measure(user="app", sslmode="disable")
    assert world.streams[0].sent[0][4:8] == struct.pack("!I", wire.PROTOCOL_3_0)
    assert done.attempts[0].ssl_answer is None
    assert done.attempts[0].outcome is Outcome.ANSWERED


@pytest.mark.parametrize(
    ("sslmode", "root", "verify"),
    [
        ("prefer", None, "none"),
        ("require", None, "none"),
        ("require", "ca.pem", "ca"),
        ("verify-ca", "ca.pem", "ca"),
        ("verify-full", None, "full"),
    ],
)
def test_what_sslmode_verifies(sslmode, root, verify):
    assert verification(sslmode, root) == verify


async def test_a_server_without_tls_where_tls_is_required():
    done = await World([b"N"]).measure(user="app", sslmode="require")
    (waterfall,) = done.attempts
    assert waterfall.failure is not None
    assert (waterfall.failed_phase, waterfall.failure.kind) == (Phase.SSL_REQUEST, FailureKind.TLS)
    assert waterfall.ssl_answer == "N"


BROKEN = Failure(kind=FailureKind.TLS, operation="tls", detail="wrong version number")
CLEARTEXT, MD5 = message("R", struct.pack("!I", 3)), message("R", struct.pack("!I", 5) + b"salt")


@pytest.mark.parametrize("sslmode", ["prefer", "allow"])
async def test_tls_that_fails_is_followed_by_the_connection_in_clear_that_libpq_would_make(sslmode):
    world = World(([b"S"], {"tls": BROKEN}), [OK + READY, ANSWER, ANSWER])
    done = await world.measure(user="app", sslmode=sslmode, attempts=3)
    assert [waterfall.outcome for waterfall in done.attempts] == [Outcome.ANSWERED] * 3
    assert [waterfall.tls_given_up for waterfall in done.attempts] == [BROKEN] * 3
    assert [stream.sent[0] == wire.SSL_REQUEST for stream in world.streams] == [True, False, False, False]


@pytest.mark.parametrize("asked", [CLEARTEXT, MD5])
async def test_no_password_goes_out_in_the_open_after_tls_failed(asked):
    world = World(([b"S"], {"tls": BROKEN}), [asked])
    done = await world.measure(user="app", password=Secret("hunter2"), sslmode="prefer")
    (waterfall,) = done.attempts
    assert waterfall.failure is not None
    assert (waterfall.failed_phase, waterfall.failure.kind) == (Phase.STARTUP, FailureKind.CREDENTIALS)
    assert b"hunter2" not in b"".join(part for stream in world.streams for part in stream.sent)
    assert all(len(stream.sent) == 1 for stream in world.streams), "an answer to the request for a password"


async def test_a_pg_hba_conf_that_wants_no_tls_gets_none():
    world = World(([b"S", error("28000", "no pg_hba.conf entry")], {"tls": TLS}), [OK + READY, ANSWER, ANSWER])
    (waterfall,) = (await world.measure(user="app", sslmode="prefer")).attempts
    assert (waterfall.outcome, waterfall.tls) == (Outcome.ANSWERED, None)
    assert waterfall.tls_given_up is not None
    assert waterfall.tls_given_up.sqlstate == "28000"


@pytest.mark.parametrize(
    ("sslmode", "user", "steps", "tls"),
    [
        ("require", "app", [b"S"], BROKEN),
        ("prefer", None, [b"S"], BROKEN),
        ("prefer", "app", [b"S", error("28P01")], TLS),
        ("prefer", "app", [b"S", error("53300")], TLS),
        ("prefer", "app", [b"N", error("28000")], None),
        ("prefer", "app", [b"S"], None),  # a stall: libpq's one timeout covers it all
    ],
)
async def test_where_libpq_makes_no_second_connection_there_is_none(sslmode, user, steps, tls):
    world = World((steps, {"tls": tls}))
    (waterfall,) = (await world.measure(user=user, password=Secret("x"), sslmode=sslmode)).attempts
    assert waterfall.tls_given_up is None
    assert len(world.streams) == 1


async def test_a_flood_of_notices_or_settings_ends_the_attempt():
    for flood in (message("N", b"SNOTICE\0C00000\0Mmore\0\0"), message("S", b"k\0v\0")):
        (waterfall,) = (await World([b"N", OK + flood * 10_001]).measure(user="app")).attempts
        assert waterfall.failure is not None
        assert (waterfall.failed_phase, waterfall.failure.kind) == (Phase.READY, FailureKind.PROTOCOL)


async def test_a_certificate_that_does_not_verify_is_looked_at_once():
    bad, unverified = ([b"S"], {"tls": EXPIRED}), ([b"S"], {"tls": TLS})
    world = World(bad, unverified, bad)
    done = await world.measure(user="app", sslmode="verify-full", attempts=3)
    assert [waterfall.failed_phase for waterfall in done.attempts] == [Phase.TLS] * 3
    assert [waterfall.tls_inspected for waterfall in done.attempts] == [TLS, None, None]
    assert [stream.tls_requests[0].verify for stream in world.streams] == ["full", "none", "full", "full"]
    assert done.attempts[0].tls is None


async def test_direct_tls_asks_for_the_protocol_by_name():
    world = World([OK + READY, ANSWER, ANSWER], tls=TLS)
    done = await world.measure(user="app", sslmode="require", ssl_negotiation="direct")
    assert world.streams[0].tls_requests[0].alpn == ("postgresql",)
    assert [timing.phase for timing in done.attempts[0].phases][:2] == [Phase.TCP, Phase.TLS]


SILENT = [
    (Phase.SSL_REQUEST, []),
    (Phase.TLS, [b"S"]),
    (Phase.STARTUP, [b"N"]),
    (Phase.READY, [b"N", OK]),
    (Phase.FIRST_QUERY, [b"N", OK + READY]),
    (Phase.SECOND_QUERY, [b"N", OK + READY, ANSWER]),
]


@pytest.mark.parametrize(("phase", "steps"), SILENT)
async def test_silence_is_blamed_on_its_phase(phase, steps):
    world = World(steps)
    (waterfall,) = (await world.measure(user="app", timeout_s=4.0)).attempts
    assert waterfall.failure is not None
    assert (waterfall.failed_phase, waterfall.outcome, waterfall.failure.kind) == (
        phase,
        Outcome.LOST,
        FailureKind.TIMEOUT,
    )
    assert waterfall.phases[-1].phase is phase
    assert sum(timing.seconds for timing in waterfall.phases) == pytest.approx(4.0)


@pytest.mark.parametrize("cut", [CLOSE, RESET])
@pytest.mark.parametrize(("phase", "steps"), [case for case in SILENT if case[0] is not Phase.TLS])
async def test_a_cut_is_blamed_on_its_phase(phase, steps, cut):
    (waterfall,) = (await World([*steps, cut]).measure(user="app")).attempts
    assert waterfall.failure is not None
    assert (waterfall.failed_phase, waterfall.outcome) == (phase, Outcome.FAILED)
    assert waterfall.failure.kind is (FailureKind.CLOSED if cut == CLOSE else FailureKind.RESET)


@pytest.mark.parametrize(
    ("steps", "phase", "sqlstate"),
    [
        ([error("53300", "sorry, too many clients already")], Phase.SSL_REQUEST, "53300"),
        ([b"N", error("28000")], Phase.STARTUP, "28000"),
        ([b"N", OK + error("3D000")], Phase.READY, "3D000"),
        ([b"N", OK, error("53300")], Phase.READY, "53300"),
        ([b"N", error("57P03")], Phase.STARTUP, "57P03"),
        ([b"N", OK + READY, error("42601", severity="ERROR") + Z], Phase.FIRST_QUERY, "42601"),
        ([b"N", OK + READY, ANSWER, error("57P01")], Phase.SECOND_QUERY, "57P01"),
    ],
)
async def test_what_the_server_refuses_carries_its_sqlstate(steps, phase, sqlstate):
    (waterfall,) = (await World(steps).measure(user="app")).attempts
    assert waterfall.failure is not None
    assert (waterfall.failed_phase, waterfall.failure.kind, waterfall.failure.sqlstate) == (
        phase,
        FailureKind.SERVER,
        sqlstate,
    )
    assert waterfall.outcome is Outcome.FAILED


async def test_an_old_server_that_refuses_ssl_in_plain_text():
    (waterfall,) = (await World([b"EFATAL:  no such thing\n\0"]).measure()).attempts
    assert waterfall.failure == Failure(kind=FailureKind.SERVER, operation="ssl-request", detail="no such thing")
    assert waterfall.ssl_answer == "E"


async def test_a_password_is_asked_for_and_there_is_none():
    world = World([b"N", message("R", struct.pack("!I", 3))])
    (waterfall,) = (await world.measure(user="app")).attempts
    assert waterfall.failure is not None
    assert (waterfall.failed_phase, waterfall.failure.kind) == (Phase.STARTUP, FailureKind.CREDENTIALS)
    assert waterfall.authentication == "cleartext"
    assert len(world.streams[0].sent) == 2  # SSLRequest and StartupMessage: neither password nor Terminate


async def test_a_server_that_repeats_the_password_does_not_get_it_into_the_record():
    ask, echo = message("R", struct.pack("!I", 3)), error("28P01", "password hunter2 is wrong\x1b[2J\nreally")
    (waterfall,) = (await World([b"N", ask, echo]).measure(user="app", password=Secret("hunter2"))).attempts
    assert "hunter2" not in repr(waterfall)
    assert waterfall.failure is not None
    assert waterfall.failure.detail == "password *** is wrong really"


async def test_what_only_libpq_speaks_is_said_where_there_is_no_libpq():
    (waterfall,) = (await World([b"N", message("R", struct.pack("!I", 7))]).measure(user="app")).attempts
    assert waterfall.failure is not None
    assert (waterfall.failed_phase, waterfall.failure.kind) == (Phase.STARTUP, FailureKind.CREDENTIALS)
    assert "gss" in (waterfall.failure.detail or "")


async def test_an_http_server_is_recognised_and_asked_who_it_is_once():
    refusal = b"HTTP/1.1 400 Bad request\r\nContent-length: 90\r\n\r\n<html>"
    page = b"HTTP/1.1 404 Not Found\r\nDate: now\r\nserver:  awselb/2.0\r\nX: " + b"y" * 200 + b"\r\n\r\n<html>"
    world = World([refusal], [page[:40], page[40:]], [refusal])
    done = await world.measure(user="app", attempts=2)
    first, second = done.attempts
    assert first.failure is not None
    assert (first.ssl_answer, first.failed_phase, first.failure.kind) == (
        "H",
        Phase.SSL_REQUEST,
        FailureKind.PROTOCOL,
    )
    assert (first.http_status, first.http_server) == ("HTTP/1.1 404 Not Found", "awselb/2.0")
    assert first.first_bytes is not None
    assert first.first_bytes.startswith("HTTP/1.1 400 Bad request\\x0d\\x0a")
    assert len(first.first_bytes) <= 64
    # Asked once; what was learnt holds for every attempt that met the same.
    assert (second.ssl_answer, second.http_status, len(world.streams)) == ("H", first.http_status, 3)
    assert world.streams[1].sent[0].startswith(b"GET / HTTP/1.1\r\nHost: db.example\r\n")


@pytest.mark.parametrize(
    ("answer", "shown"),
    [(b"SSH-2.0-OpenSSH\r\n", "SSH-2.0-OpenSSH\\x0d\\x0a"), (b"\x15\x03", "\\x15\\x03"), (b"N+", "N+")],
)
async def test_another_first_byte_is_kept_as_text_and_not_asked_again(answer, shown):
    world = World([answer])
    (waterfall,) = (await world.measure(user="app")).attempts
    assert waterfall.failure is not None
    assert (waterfall.failure.kind, waterfall.first_bytes) == (FailureKind.PROTOCOL, shown)
    assert len(world.streams) == 1


async def test_garbage_after_startup_is_kept_as_text():
    (waterfall,) = (await World([b"garbage, and more of it"]).measure(user="app", sslmode="disable")).attempts
    assert (waterfall.failed_phase, waterfall.first_bytes) == (Phase.STARTUP, "garbage, and more of it")


def refused(outcome: Outcome, kind: FailureKind, seconds: float = 0.1) -> ConnectFailure:
    failure = Failure(kind=kind, operation="connect")
    return ConnectFailure(failure, failed_handshake(outcome, failure, seconds))


@pytest.mark.parametrize(
    ("outcome", "kind"),
    [
        (Outcome.REFUSED, FailureKind.REFUSED),
        (Outcome.LOST, FailureKind.TIMEOUT),
        (Outcome.REJECTED, FailureKind.REJECTED),
        (Outcome.NOT_SENT, FailureKind.LOCAL),
    ],
)
async def test_a_handshake_that_fails_is_the_attempts_outcome(outcome, kind):
    done = await World(refused(outcome, kind)).measure(attempts=2)
    assert [waterfall.outcome for waterfall in done.attempts] == [outcome] * 2
    assert done.attempts[0].failure == Failure(kind=kind, operation="connect")
    assert phases(done.attempts[0]) == [(Phase.TCP, 0.1, outcome)]


async def test_connections_keep_their_distance():
    world = World([b"N"], handshake=open_handshake(0.05))
    done = await world.measure(attempts=4, interval_s=0.2)
    assert [round(waterfall.started_s, 6) for waterfall in done.attempts] == [0.0, 0.25, 0.5, 0.75]


async def test_the_runs_deadline_is_nobodys_fault():
    """An attempt that the run cut short was not given its time: it is neither lost nor refused."""
    world = World([after(0.1, b"N")], [])
    done = await world.measure(seconds=2.0, attempts=5, interval_s=0.5, timeout_s=5.0)
    first, second = done.attempts
    assert first.outcome is Outcome.ANSWERED
    assert second.failure is not None
    assert (second.outcome, second.failure.kind, second.phases[-1].outcome) == (
        Outcome.NOT_SENT,
        FailureKind.LOCAL,
        Outcome.NOT_SENT,
    )
    assert world.clock.monotonic() <= 1002.0 + 1e-9


async def test_a_handshake_that_the_run_cut_short_is_not_lost():
    timeout = ConnectFailure(timed_out("connect"), failed_handshake(Outcome.LOST, timed_out("connect"), 1.0))
    (waterfall,) = (await World(timeout).measure(seconds=1.0)).attempts
    assert (waterfall.outcome, waterfall.handshake.outcome) == (Outcome.NOT_SENT, Outcome.NOT_SENT)


async def test_no_port_and_no_time_are_unavailable():
    world = World([b"N"])
    with pytest.raises(ProbeUnavailable):
        await measure(context(world.network), replace(TARGET, port=None), DatabaseOptions())
    with pytest.raises(ProbeUnavailable):
        await measure(context(world.network, 0.0), TARGET, DatabaseOptions())


async def test_a_query_of_the_users_own_cannot_write():
    assert read_only("DELETE FROM t; ") == "BEGIN READ ONLY; DELETE FROM t; COMMIT"
    world = World([b"N", OK + READY, ANSWER, ANSWER])
    await world.measure(user="app", query="SELECT count(*) FROM t")
    assert world.streams[0].sent[2] == wire.query_message("BEGIN READ ONLY; SELECT count(*) FROM t; COMMIT")


# The held session.

LOG_IN = [b"N", OK + READY, ANSWER, ANSWER]
INFO = TcpInfo(
    state=1,
    rtt_s=0.01,
    rttvar_s=0.001,
    min_rtt_s=0.01,
    rto_s=0.2,
    snd_mss=1448,
    rcv_mss=536,
    advmss=1448,
    pmtu=1500,
    unacked=0,
    backoff=0,
    total_retrans=0,
    bytes_acked=0,
    bytes_received=0,
    bytes_retrans=0,
    data_segs_in=0,
    data_segs_out=0,
    rcv_ooopack=0,
    total_rto=0,
    notsent_bytes=0,
)


async def test_a_held_session_exchanges_sync_and_counts_retransmissions():
    infos = [replace(INFO, total_retrans=total) for total in (1, 1, 1, 3, 3, 3)]  # end of attempt, before, 4 syncs
    world = World([*LOG_IN, *[after(0.1, Z)] * 4], infos=infos)
    held = (await world.measure(user="app", hold_s=1.2, hold_interval_s=0.2)).held
    assert held is not None
    assert [(round(e.at_s, 6), round(e.seconds or -1, 6), e.retransmits) for e in held.exchanges] == [
        (0.0, 0.1, 0),
        (0.3, 0.1, 2),
        (0.6, 0.1, 0),
        (0.9, 0.1, 0),
    ]
    assert held.failure is None
    assert held.seconds == pytest.approx(1.2)
    assert world.streams[0].sent[-5:] == [wire.SYNC] * 4 + [wire.TERMINATE]
    assert (held.before, held.after) == (infos[1], infos[5])


@pytest.mark.parametrize(
    ("cut", "kind", "sqlstate"),
    [
        (CLOSE, FailureKind.CLOSED, None),
        (RESET, FailureKind.RESET, None),
        (error("57P01", "terminating connection"), FailureKind.SERVER, "57P01"),
        (after(99.0, Z), FailureKind.TIMEOUT, None),
    ],
)
async def test_a_cut_of_the_held_session_is_a_failure_of_it(cut, kind, sqlstate):
    held = (await World([*LOG_IN, Z, Z, cut]).measure(user="app", hold_s=30.0)).held
    assert held is not None
    assert held.failure is not None
    assert (held.failure.kind, held.failure.sqlstate) == (kind, sqlstate)
    assert [exchange.seconds is None for exchange in held.exchanges] == [False, False, True]


async def test_the_last_session_that_succeeded_is_held_and_only_one():
    world = World([*LOG_IN], [*LOG_IN, Z], [b"N", error("28000")])
    done = await world.measure(user="app", attempts=3, hold_s=0.05)
    assert done.held is not None
    assert [stream.sent.count(wire.SYNC) for stream in world.streams] == [0, 1, 0]
    assert all(stream.closed for stream in world.streams)
    assert [stream.sent[-1] == wire.TERMINATE for stream in world.streams] == [True, True, False]


async def test_the_runs_end_does_not_cut_a_held_session():
    held = (await World([*LOG_IN, Z]).measure(seconds=3.0, user="app", hold_s=30.0)).held
    assert held is not None
    assert held.failure is None
    assert held.exchanges[-1].seconds is None


# The session by itself, as other probes use it.


async def test_an_error_leaves_the_session_usable_and_progress_is_visible():
    clock = FakeClock()
    stream = ScriptedStream(clock, OK + READY, error("22012", severity="ERROR") + Z, ANSWER, message("D", b"\0\0")[:3])
    session = PostgresSession(stream, clock)
    facts = await session.start("app", None, None, clock.monotonic() + 5)
    assert facts.ready_at >= facts.authenticated_at
    with pytest.raises(Exception, match="server"):
        await session.query("SELECT 1/0", clock.monotonic() + 5)
    result = await session.query("SELECT 1", clock.monotonic() + 5)
    assert (result.rows, result.tag, result.received_bytes) == (((b"1",),), "SELECT 1", len(ANSWER))
    before = session.received_bytes
    with pytest.raises(Exception, match="timeout"):
        await session.query("SELECT 1", clock.monotonic() + 5)
    assert session.received_bytes == before + 3


async def test_terminate_never_raises():
    clock = FakeClock()
    stream = ScriptedStream(clock, OK + READY)
    session = PostgresSession(stream, clock)
    await session.start("app", None, None, clock.monotonic() + 5)

    async def broken(data: bytes, deadline: float) -> None:
        from probes.model import NetworkFailure

        raise NetworkFailure(RESET)

    stream.send = broken
    await session.terminate()
    assert stream.closed


def test_printable_is_ascii_and_short():
    assert printable(b"a\\\x1b\xff") == "a\\x5c\\x1b\\xff"
    assert len(printable(bytes(range(256)))) == 64


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"", (None, None)),
        (b"HTTP/1.0 200 OK\r\nServer: a\r\n\r\nServer: b", ("HTTP/1.0 200 OK", "a")),
        (b"HTTP/1.1 400 Bad\x1b[31m", ("HTTP/1.1 400 Bad", None)),
        (b"ICY 200 OK\r\n\r\n", (None, None)),
    ],
)
def test_the_head_of_an_http_answer(head, expected):
    assert http_head(head) == expected


def test_the_registry_finds_it():
    from probes.registry import load

    assert load("database") is PROBE
    assert PROBE.schema == "database/1"
