"""The database connection as a waterfall: TCP, SSLRequest, TLS, startup/authentication, ready, two queries.

The probe speaks the protocol itself, since libpq's errors carry neither SQLSTATE nor phase. Each connection ends as a
client should end it: with Terminate once it is authenticated, and with a plain close before, which no server logs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from enum import StrEnum

from probes.contract import Context, Probe, ProbeUnavailable
from probes.exchanges import (
    ConnectFailure,
    Handshake,
    HandshakeRequest,
    TcpInfo,
    TimestampSource,
    TlsRequest,
    TlsSession,
)
from probes.failures import clean_text
from probes.model import Failure, FailureKind, NetworkFailure, Outcome, Secret, Target, value
from probes.session import (
    DatabaseSession,
    PostgresSession,
    SessionFacts,
    SpeaksLibpq,
    UnsupportedAuthentication,
    read_only,
    tls_request,
    tls_required,
)


class Phase(StrEnum):
    """In the order in which a connection passes through them."""

    TCP = "tcp"
    SSL_REQUEST = "ssl-request"
    TLS = "tls"
    STARTUP = "startup"  # StartupMessage -> AuthenticationOk: includes password exchange and the server's look-ups
    READY = "ready"  # AuthenticationOk -> ReadyForQuery: on YugabyteDB the catalogue reads
    FIRST_QUERY = "first-query"
    SECOND_QUERY = "second-query"


@value
class DatabaseOptions:
    """``user`` None: no credentials; the waterfall stops after SSLRequest/TLS, and says so."""

    user: str | None = None
    password: Secret | None = None
    dbname: str | None = None  # None: the user's name, as libpq
    sslmode: str = "prefer"  # libpq's: disable | allow | prefer | require | verify-ca | verify-full
    ssl_root_certificate: str | None = None
    ssl_certificate: str | None = None
    ssl_key: str | None = None
    ssl_negotiation: str = "postgres"  # or "direct" (libpq 17)
    channel_binding: str = "prefer"  # libpq's: disable | prefer | require
    attempts: int = 3
    interval_s: float = 0.2  # between connections to one address: 5 a second at most
    timeout_s: float = 5.0  # per attempt, all phases together
    query: str = "SELECT 1"
    hold_s: float = 0.0  # keep the last session this long and exchange Sync messages on it
    hold_interval_s: float = 0.1


@value
class PhaseTiming:
    phase: Phase
    seconds: float
    outcome: Outcome  # ANSWERED, or how the phase ended the attempt


@value
class Waterfall:
    """One connection attempt. Exactly one outcome; ``failed_phase`` is None where all phases that were due passed."""

    attempt: int
    started_s: float  # offset from the first attempt
    outcome: Outcome
    phases: tuple[PhaseTiming, ...]
    failed_phase: Phase | None
    failure: Failure | None
    handshake: Handshake
    ssl_answer: str | None = None  # "S", "N", "E", or another first byte as text ("H")
    first_bytes: str | None = None  # printable form of an unexpected answer, at most 64 characters
    http_status: str | None = None  # status line where an HTTP server answered
    http_server: str | None = None  # its Server header
    tls: TlsSession | None = None
    tls_inspected: TlsSession | None = None  # seen on a second, unverified connection after verification failed
    tls_given_up: Failure | None = (
        None  # sslmode=prefer, allow: how TLS failed; this connection is libpq's second, in clear
    )
    authentication: str | None = None  # "trust", "cleartext", "md5", "scram-sha-256", "scram-sha-256-plus", other
    server_version: str | None = None
    in_hot_standby: bool | None = None
    default_read_only: bool | None = None  # default_transaction_read_only; from PostgreSQL 14 on
    authenticated_as_superuser: bool | None = None
    backend_pid: int | None = None
    notices: tuple[str, ...] = ()
    info: TcpInfo | None = None  # at the end of the attempt


@value
class HeldExchange:
    at_s: float  # offset from the start of holding
    seconds: float | None
    retransmits: int  # our own, during this exchange


@value
class HeldSession:
    """One live session, a Sync every so often: loss and delay as an open connection sees them."""

    seconds: float
    exchanges: tuple[HeldExchange, ...]
    before: TcpInfo | None
    after: TcpInfo | None
    failure: Failure | None = None  # the session was cut


@value
class DatabaseMeasurement:
    address: str
    port: int
    credentials: bool
    attempts: tuple[Waterfall, ...]
    held: HeldSession | None = None
    coarse_reason: str | None = None  # why phases are coarser (libpq's connect_poll spoke instead of us)


HTTP_REQUEST = b"GET / HTTP/1.1\r\nHost: %b\r\nUser-Agent: netdiag\r\nConnection: close\r\n\r\n"
HTTP_HEAD_LIMIT = 8192
HTTP_PATIENCE_S = 2.0  # a web server answers a GET at once; a frozen database is not worth a longer wait
POLITE_TLS_S = 1.0

_OUTCOMES = {
    FailureKind.TIMEOUT: Outcome.LOST,
    FailureKind.REFUSED: Outcome.REFUSED,
    FailureKind.REJECTED: Outcome.REJECTED,
    FailureKind.UNREACHABLE: Outcome.UNREACHABLE,
    FailureKind.EXPIRED: Outcome.EXPIRED,
    FailureKind.TOO_BIG: Outcome.TOO_BIG,
    FailureKind.LOCAL: Outcome.NOT_SENT,
}
_OUT_OF_TIME = Failure(kind=FailureKind.LOCAL, operation="wait", detail="the run's own time was up before the answer")

_HELD_BACK = Handshake(
    outcome=Outcome.NOT_SENT,
    seconds=0.0,
    rtt_s=None,
    timestamp_source=TimestampSource.USER,
    syn_retransmits=None,
    source_address=None,
    source_port=None,
    failure=_OUT_OF_TIME,
)


async def measure(context: Context, target: Target, options: DatabaseOptions) -> DatabaseMeasurement:
    """``options.attempts`` connections one after another, as many as the context's deadline has room for.

    An attempt that the context's deadline cut short ends NOT_SENT with a LOCAL failure: the server was not given its
    time. Raises ProbeUnavailable without a port, or when no time is left for even one attempt.
    """
    if target.port is None:
        raise ProbeUnavailable("no port to connect to")
    if context.remaining() <= 0:
        raise ProbeUnavailable("the run's time was up before the first connection")
    return await _Prober(context, target, target.port, options).measure()


class _Prober:
    """One measurement: its attempts, the look behind an odd answer, and the session that is held."""

    def __init__(self, context: Context, target: Target, port: int, options: DatabaseOptions) -> None:
        self._context, self._clock = context, context.clock
        self._host, self._address, self._port = target.host, target.address or target.host, port
        self._options = options
        self._first_at: float | None = None
        self._kept: PostgresSession | None = None
        self._inspected = False
        self._http: tuple[str | None, str | None] | None = None  # what the GET drew, once asked
        self._coarse_reason: str | None = None
        self._tls_given_up: Failure | None = None

    async def measure(self) -> DatabaseMeasurement:
        try:
            attempts = await self._attempts()
            held = await self._hold() if self._kept is not None else None
        finally:
            await self._release()
        return DatabaseMeasurement(
            address=self._address,
            port=self._port,
            credentials=self._options.user is not None,
            attempts=attempts,
            held=held,
            coarse_reason=self._coarse_reason,
        )

    async def _attempts(self) -> tuple[Waterfall, ...]:
        done: list[Waterfall] = []
        for number in range(1, self._options.attempts + 1):
            if done:
                await self._pause()
            if done and self._context.remaining() <= 0:
                break
            waterfall = await self._attempt(number)
            if self._tls_given_up is None and _libpq_tries_in_clear(waterfall, self._options):
                self._tls_given_up = waterfall.failure
                await self._pause()
                waterfall = await self._attempt(number)
            done.append(await self._inspect(waterfall))
        return tuple(done)

    async def _pause(self) -> None:
        await self._clock.sleep(min(self._options.interval_s, self._context.remaining()))

    # One attempt.

    async def _attempt(self, number: int) -> Waterfall:
        record = _Record(now=self._clock.monotonic)
        session = await self._connect(record)
        self._first_at = record.started if self._first_at is None else self._first_at
        if session is not None:
            await self._converse_and_part(session, record)
        waterfall = record.waterfall(number, record.started - self._first_at)
        waterfall = replace(waterfall, tls_given_up=self._tls_given_up)
        short = self._context.deadline < record.started + self._options.timeout_s
        return _out_of_time(waterfall) if short else waterfall

    async def _connect(self, record: _Record) -> PostgresSession | None:
        timeout = min(self._options.timeout_s, self._context.remaining())
        request = HandshakeRequest(address=self._address, port=self._port, timeout_s=timeout)
        try:
            async with asyncio.timeout(self._context.remaining()):  # the network may hold it back for its rate ceiling
                stream = await self._context.network.open_stream(request)
        except ConnectFailure as error:
            record.connected(error.handshake, error.failure)
            return None
        except TimeoutError:
            record.connected(_HELD_BACK, _OUT_OF_TIME)
            return None
        record.connected(stream.handshake)
        record.deadline = min(record.started + self._options.timeout_s, self._context.deadline)
        record.session = PostgresSession(stream, self._clock, binding=self._options.channel_binding)
        record.session.guard_password = self._tls_given_up is not None
        return record.session

    async def _converse_and_part(self, session: PostgresSession, record: _Record) -> None:
        try:
            await self._converse(session, record)
        except NetworkFailure:
            pass  # recorded with its phase
        finally:
            record.info = session.stream.info()
            own = self._coarse_reason is None  # a session of libpq's cannot be held: it gives no Sync
            if own and record.failure is None and record.facts is not None and self._options.hold_s > 0:
                await self._keep(session)
            else:
                await session.terminate()

    async def _converse(self, session: PostgresSession, record: _Record) -> None:
        await self._encrypt(session, record)
        if self._options.user is None:
            return
        try:
            await self._log_in(session, record, self._options.user)
        except UnsupportedAuthentication as error:
            await self._through_libpq(record, error.method, self._options.user)

    async def _encrypt(self, session: PostgresSession, record: _Record) -> None:
        """Without a user SSLRequest is asked even where sslmode is "disable": it is the one polite question that
        tells a PostgreSQL from anything else."""
        mode = self._options.sslmode
        if (mode == "disable" or self._tls_given_up is not None) and self._options.user is not None:
            return
        if not self._direct() and await self._ask_for_tls(session, record) == "N":
            return
        if mode == "disable":
            await self._finish_tls_quietly(session)
            return
        with record.phase(Phase.TLS):
            await session.start_tls(self._tls_request(), record.deadline)

    async def _ask_for_tls(self, session: PostgresSession, record: _Record) -> str:
        with record.phase(Phase.SSL_REQUEST):
            return await session.request_ssl(record.deadline, required=tls_required(self._options.sslmode))

    def _direct(self) -> bool:
        """TLS from the first byte (PostgreSQL 17), which libpq too has only where TLS is required."""
        return self._options.ssl_negotiation == "direct" and tls_required(self._options.sslmode)

    async def _finish_tls_quietly(self, session: PostgresSession) -> None:
        """After "S" a server logs a client that leaves before the TLS handshake, and not one that leaves after it."""
        deadline = min(self._clock.monotonic() + POLITE_TLS_S, self._context.deadline)
        try:
            await session.stream.start_tls(TlsRequest(server_name=self._host), deadline)
        except NetworkFailure:
            return

    def _tls_request(self, verify: str | None = None) -> TlsRequest:
        request = tls_request(self._host, self._options)
        return replace(request, verify=verify or request.verify, alpn=("postgresql",) if self._direct() else ())

    async def _log_in(self, session: DatabaseSession, record: _Record, user: str) -> None:
        options, statement = self._options, _statement(self._options.query)
        with record.phase(Phase.STARTUP):
            await session.authenticate(user, options.password, options.dbname, record.deadline)
        with record.phase(Phase.READY):
            record.facts = await session.ready(record.deadline)
        with record.phase(Phase.FIRST_QUERY):
            await session.query(statement, record.deadline)
        with record.phase(Phase.SECOND_QUERY):
            await session.query(statement, record.deadline)

    async def _through_libpq(self, record: _Record, method: str, user: str) -> None:
        network = self._context.network
        if not isinstance(network, SpeaksLibpq):
            with record.phase(Phase.STARTUP):
                raise NetworkFailure(_unspoken(method))
        self._coarse_reason = f"{method} authentication is libpq's: startup includes a second connection's TCP and TLS"
        session = network.libpq_session(self._address, self._port, self._tls_request(), self._options.sslmode)
        try:
            await self._log_in(session, record, user)
        finally:
            await session.terminate()

    # The look behind an odd answer: one more connection, once in a measurement.

    async def _inspect(self, waterfall: Waterfall) -> Waterfall:
        odd = _may_be_http(waterfall)
        if odd and self._http is not None:
            return replace(waterfall, http_status=self._http[0], http_server=self._http[1])
        if self._inspected or self._context.remaining() <= 0:
            return waterfall
        if odd:
            self._http = await self._ask_http()
            return replace(waterfall, http_status=self._http[0], http_server=self._http[1])
        if _distrusted(waterfall, self._tls_request()):
            return replace(waterfall, tls_inspected=await self._unverified_tls())
        return waterfall

    async def _side_session(self) -> tuple[PostgresSession | None, float]:
        self._inspected = True
        await self._pause()
        record = _Record(now=self._clock.monotonic)
        return await self._connect(record), record.deadline

    async def _unverified_tls(self) -> TlsSession | None:
        session, deadline = await self._side_session()
        if session is None:
            return None
        try:
            if not self._direct():
                await session.request_ssl(deadline, required=True)
            return await session.start_tls(self._tls_request(verify="none"), deadline)
        except NetworkFailure:
            return None  # the attempt's own failure stands; there is just nothing more to show
        finally:
            await session.terminate()

    async def _ask_http(self) -> tuple[str | None, str | None]:
        session, deadline = await self._side_session()
        if session is None:
            return None, None
        deadline = min(deadline, self._clock.monotonic() + HTTP_PATIENCE_S)
        head = b""
        try:
            await session.stream.send(HTTP_REQUEST % self._host.encode("ascii", "replace"), deadline)
            while b"\r\n\r\n" not in head and len(head) < HTTP_HEAD_LIMIT:
                more = await session.stream.receive(HTTP_HEAD_LIMIT, deadline)
                head += more
                if not more:
                    break
        except NetworkFailure:
            pass  # whatever came until then is what there is
        finally:
            await session.terminate()
        return http_head(head)

    # The held session.

    async def _keep(self, session: PostgresSession) -> None:
        await self._release()
        self._kept = session

    async def _release(self) -> None:
        if self._kept is not None:
            await self._kept.terminate()
            self._kept = None

    async def _hold(self) -> HeldSession:
        assert self._kept is not None
        stream, started = self._kept.stream, self._clock.monotonic()
        holding = _Holding(session=self._kept, started=started, before=stream.info())
        end = min(started + self._options.hold_s, self._context.deadline)
        while self._clock.monotonic() < end and holding.failure is None:
            await self._exchange(holding)
            await self._clock.sleep(min(self._options.hold_interval_s, max(0.0, end - self._clock.monotonic())))
        return holding.result(self._clock.monotonic())

    async def _exchange(self, holding: _Holding) -> None:
        """One Sync. Silence beyond ``timeout_s`` counts as a cut, unless it is the run's time that was up."""
        sent = self._clock.monotonic()
        own = sent + self._options.timeout_s
        try:
            await holding.session.sync(min(own, self._context.deadline))
        except NetworkFailure as error:
            holding.exchanged(sent, None)
            if error.failure.kind is not FailureKind.TIMEOUT or own <= self._context.deadline:
                holding.failure = error.failure
        else:
            holding.exchanged(sent, self._clock.monotonic() - sent)


@dataclass
class _Record:
    """What one attempt has come to, filled in as it goes."""

    now: Callable[[], float]
    started: float = 0.0  # when the SYN left: waiting for the rate ceiling is not part of an attempt
    deadline: float = 0.0
    handshake: Handshake | None = None
    session: PostgresSession | None = None
    facts: SessionFacts | None = None
    phases: list[PhaseTiming] = field(default_factory=list)
    failed_phase: Phase | None = None
    failure: Failure | None = None
    info: TcpInfo | None = None

    def connected(self, handshake: Handshake, failure: Failure | None = None) -> None:
        self.started = self.now() - handshake.seconds
        self.handshake, self.info = handshake, handshake.info
        self._ended(Phase.TCP, handshake.seconds, handshake.outcome)
        if failure is not None:
            self.failed_phase, self.failure = Phase.TCP, failure

    @contextmanager
    def phase(self, phase: Phase) -> Iterator[None]:
        """Time a phase. A NetworkFailure ends the attempt here; UnsupportedAuthentication leaves no trace."""
        began = self.now()
        try:
            yield
        except NetworkFailure as error:
            self.failed_phase, self.failure = phase, error.failure
            self._ended(phase, self.now() - began, outcome_of(error.failure))
            raise
        self._ended(phase, self.now() - began, Outcome.ANSWERED)

    def _ended(self, phase: Phase, seconds: float, outcome: Outcome) -> None:
        self.phases.append(PhaseTiming(phase=phase, seconds=seconds, outcome=outcome))

    def waterfall(self, attempt: int, started_s: float) -> Waterfall:
        assert self.handshake is not None
        return Waterfall(
            attempt=attempt,
            started_s=started_s,
            outcome=self.phases[-1].outcome,
            phases=tuple(self.phases),
            failed_phase=self.failed_phase,
            failure=self.failure,
            handshake=self.handshake,
            ssl_answer=self.session.ssl_answer if self.session else None,
            first_bytes=self.session.first_bytes if self.session else None,
            tls=self.session.tls if self.session else None,
            authentication=self.session.authentication if self.session else None,
            server_version=self.facts.server_version if self.facts else None,
            in_hot_standby=self.facts.in_hot_standby if self.facts else None,
            default_read_only=self.facts.default_read_only if self.facts else None,
            authenticated_as_superuser=self.facts.superuser if self.facts else None,
            backend_pid=self.facts.backend_pid if self.facts else None,
            notices=self.facts.notices if self.facts else (),
            info=self.info,
        )


@dataclass
class _Holding:
    session: PostgresSession
    started: float
    before: TcpInfo | None
    failure: Failure | None = None
    exchanges: list[HeldExchange] = field(default_factory=list)
    _retransmits: int = 0

    def __post_init__(self) -> None:
        self._retransmits = self.before.total_retrans if self.before else 0

    def exchanged(self, sent: float, seconds: float | None) -> None:
        info = self.session.stream.info()
        total = info.total_retrans if info else self._retransmits
        self.exchanges.append(
            HeldExchange(at_s=sent - self.started, seconds=seconds, retransmits=total - self._retransmits)
        )
        self._retransmits = total

    def result(self, now: float) -> HeldSession:
        return HeldSession(
            seconds=now - self.started,
            exchanges=tuple(self.exchanges),
            before=self.before,
            after=self.session.stream.info(),
            failure=self.failure,
        )


def outcome_of(failure: Failure) -> Outcome:
    """How a phase ended that ended in ``failure``."""
    return _OUTCOMES.get(failure.kind, Outcome.FAILED)


def _libpq_tries_in_clear(waterfall: Waterfall, options: DatabaseOptions) -> bool:
    """As fe-connect.c has it: with prefer and allow, what fails under TLS is tried without (allow: was, before).

    Of the server's refusals only 28000, a pg_hba.conf that wants no TLS: the others would be the same again.
    """
    failure = waterfall.failure
    if options.user is None or options.sslmode not in ("prefer", "allow") or failure is None:
        return False
    if waterfall.failed_phase is Phase.TLS:
        return failure.kind in (FailureKind.TLS, FailureKind.CLOSED, FailureKind.RESET)
    return waterfall.failed_phase is Phase.STARTUP and waterfall.tls is not None and failure.sqlstate == "28000"


def _may_be_http(waterfall: Waterfall) -> bool:
    """An "H", or nothing at all: a server that reads lines waits for the end of one after eight bytes without it."""
    if (waterfall.first_bytes or "").startswith("H"):
        return True
    failure, mute = waterfall.failure, waterfall.ssl_answer is None and waterfall.first_bytes is None
    unanswered = failure is not None and failure.kind in (FailureKind.TIMEOUT, FailureKind.CLOSED, FailureKind.RESET)
    return mute and unanswered and waterfall.failed_phase is Phase.SSL_REQUEST


def http_head(head: bytes) -> tuple[str | None, str | None]:
    """Status line and Server header (RFC 9112) of an answer, or None for what it lacks."""
    status, *lines = head.split(b"\r\n\r\n")[0].split(b"\r\n")
    if not status.startswith(b"HTTP/"):
        return None, None
    headers = (line.partition(b":") for line in lines)
    servers = (setting for name, _, setting in headers if name.strip().lower() == b"server")
    server = next(servers, None)
    return clean_text(status), clean_text(server) if server is not None else None


def _unspoken(method: str) -> Failure:
    detail = f"the server asks for {method} authentication, which netdiag does not speak"
    return Failure(kind=FailureKind.CREDENTIALS, operation="startup", detail=clean_text(detail))


def _statement(query: str) -> str:
    return query if query == DatabaseOptions().query else read_only(query)


def _distrusted(waterfall: Waterfall, request: TlsRequest) -> bool:
    failure = waterfall.failure
    return (
        waterfall.failed_phase is Phase.TLS
        and failure is not None
        and failure.kind is FailureKind.TLS
        and request.verify != "none"
    )


def _out_of_time(waterfall: Waterfall) -> Waterfall:
    """The same attempt where a timeout was not the server's: the run's deadline came before the attempt's own."""
    if waterfall.failure is None or waterfall.failure.kind is not FailureKind.TIMEOUT:
        return waterfall
    last = replace(waterfall.phases[-1], outcome=Outcome.NOT_SENT)
    handshake = waterfall.handshake
    if waterfall.failed_phase is Phase.TCP:
        handshake = replace(handshake, outcome=Outcome.NOT_SENT, failure=_OUT_OF_TIME)
    return replace(
        waterfall,
        outcome=Outcome.NOT_SENT,
        failure=_OUT_OF_TIME,
        handshake=handshake,
        phases=(*waterfall.phases[:-1], last),
    )


PROBE = Probe(
    name="database",
    schema="database/1",
    summary="Connect to a PostgreSQL server as an application does, and time every phase",
    options=DatabaseOptions,
    measurement=DatabaseMeasurement,
    measure=measure,
)
