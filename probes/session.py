"""One PostgreSQL session over a Stream, phase by phase, so that each phase can be timed and blamed by itself.

Shared by the probes that speak to a database. Deadlines are absolute, on the context's monotonic clock. Every method
but terminate() raises NetworkFailure; what was learnt until then stays readable on the session.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from probes.exchanges import TlsRequest, TlsSession
from probes.failures import clean_text
from probes.model import Failure, FailureKind, NetworkFailure, Secret, value
from probes.wire.auth import Authentication, UnsupportedAuthentication
from probes.wire.postgres import (
    LONG_MESSAGE_LIMIT,
    SSL_REQUEST,
    SYNC,
    TERMINATE,
    AuthenticationRequest,
    BackendKeyData,
    CommandComplete,
    DataRow,
    ErrorResponse,
    Message,
    MessageReader,
    NegotiateProtocolVersion,
    NoticeResponse,
    ParameterStatus,
    ProtocolError,
    ReadyForQuery,
    query_message,
    startup_message,
)
from probes.wire.scram import ScramError

if TYPE_CHECKING:
    from probes.contract import Clock
    from probes.exchanges import Stream

__all__ = [
    "DatabaseSession",
    "PostgresSession",
    "QueryResult",
    "SessionFacts",
    "SpeaksLibpq",
    "SslAnswer",
    "UnsupportedAuthentication",
    "read_only",
    "tls_required",
    "verification",
]

FIRST_BYTES = 64  # of an unexpected answer that are kept
NOTICES = 20  # that are kept
ROWS = 100_000  # of one answer: no question of a probe has so many
ASIDES = 10_000  # notices and settings of one session: a server that says more of them says nothing else
TERMINATE_S = 0.5  # a goodbye is not worth waiting for

# Nothing else is said at startup. pgbouncer refuses every parameter that it does not track (08P01 "unsupported startup
# parameter: default_transaction_read_only"), and the same through "options"; these two it does track. What keeps a
# session from writing is what it asks: SELECT 1 writes nothing, and a query of the user's own goes out inside
# BEGIN READ ONLY ... COMMIT, which as one simple Query message is still one round trip (read_only()).
_STARTUP = {"application_name": "netdiag", "client_encoding": "UTF8"}

_TLS_MODES = frozenset({"allow", "prefer", "require", "verify-ca", "verify-full"})
_TLS_REQUIRED = frozenset({"require", "verify-ca", "verify-full"})
_FATAL = frozenset({"FATAL", "PANIC"})


@value
class SslAnswer:
    """``first``: "S", "N", or None where TLS was not asked for (sslmode=disable)."""

    first: str | None
    tls: TlsSession | None = None


@value
class SessionFacts:
    """``authenticated_at`` (AuthenticationOk) and ``ready_at`` (ReadyForQuery) are monotonic instants."""

    authentication: str
    parameters: Mapping[str, str]
    backend_pid: int | None
    notices: tuple[str, ...]
    authenticated_at: float
    ready_at: float

    @property
    def server_version(self) -> str | None:
        return self.parameters.get("server_version")

    @property
    def in_hot_standby(self) -> bool | None:
        """From PostgreSQL 14 on; None before."""
        return _boolean(self.parameters.get("in_hot_standby"))

    @property
    def default_read_only(self) -> bool | None:
        """From PostgreSQL 14 on; None before."""
        return _boolean(self.parameters.get("default_transaction_read_only"))

    @property
    def superuser(self) -> bool | None:
        return _boolean(self.parameters.get("is_superuser"))


@value
class QueryResult:
    rows: tuple[tuple[bytes | None, ...], ...]
    tag: str | None  # of the last command: "SELECT 1"
    received_bytes: int  # of the whole answer, protocol included


class DatabaseSession(Protocol):
    """The later phases: PostgresSession, or libpq in its place. All but terminate() raise NetworkFailure."""

    async def authenticate(self, user: str, password: Secret | None, dbname: str | None, deadline: float) -> None: ...

    async def ready(self, deadline: float) -> SessionFacts: ...

    async def query(self, sql: str, deadline: float) -> QueryResult: ...

    async def terminate(self) -> None: ...


@runtime_checkable
class SpeaksLibpq(Protocol):
    """A Network that can also let libpq speak, for authentication that PostgresSession does not know (GSSAPI, SSPI)."""

    def libpq_session(self, address: str, port: int, tls: TlsRequest, sslmode: str) -> DatabaseSession: ...


def tls_required(sslmode: str) -> bool:
    """Whether libpq would give up on a server without TLS."""
    return sslmode in _TLS_REQUIRED


def verification(sslmode: str, root_certificate: str | None) -> str:
    """TlsRequest.verify for an sslmode. As libpq has it, "require" with a root certificate at hand is "verify-ca";
    whether the file is there is the caller's to know."""
    if sslmode == "require" and root_certificate is not None:
        return "ca"
    return {"verify-ca": "ca", "verify-full": "full"}.get(sslmode, "none")


class LoginOptions(Protocol):
    """What the options of every probe that logs in say of TLS, as libpq names it."""

    @property
    def sslmode(self) -> str: ...
    @property
    def ssl_root_certificate(self) -> str | None: ...
    @property
    def ssl_certificate(self) -> str | None: ...
    @property
    def ssl_key(self) -> str | None: ...


def tls_request(server_name: str, options: LoginOptions) -> TlsRequest:
    root = options.ssl_root_certificate
    return TlsRequest(
        server_name=server_name,
        verify=verification(options.sslmode, root),
        root_certificate=None if root == "system" else root,
        client_certificate=options.ssl_certificate,
        client_key=options.ssl_key,
    )


class PostgresSession:
    """request_ssl() and start_tls(), or negotiate_tls(); authenticate() and ready(), or start(); then queries."""

    def __init__(
        self, stream: Stream, clock: Clock, long_limit: int = LONG_MESSAGE_LIMIT, *, binding: str = "prefer"
    ) -> None:
        """``long_limit``: the largest row that is accepted, bytes. ``binding``: libpq's channel_binding.

        ``guard_password``: answer no request that would send the password, or its MD5, in the open.
        """
        self.stream = stream
        self.guard_password = False
        self.ssl_answer: str | None = None
        self.first_bytes: str | None = None  # of an answer that is not PostgreSQL's, printable
        self.tls: TlsSession | None = None
        self.authentication: str | None = None
        self.received_bytes = 0  # after TLS, over the session's life: shows progress when a deadline cut a query
        self._clock = clock
        self._binding = binding
        self._reader = MessageReader(long_limit)
        self._parameters: dict[str, str] = {}
        self._pid: int | None = None
        self._notices: list[str] = []
        self._asides = 0
        self._authenticated_at: float | None = None
        self._password: Secret | None = None

    async def negotiate_tls(self, sslmode: str, tls_request: TlsRequest, deadline: float) -> SslAnswer:
        """SSLRequest and TLS as libpq's ``sslmode`` says; "disable" asks for nothing.

        "allow" goes like "prefer": TLS first is one connection where libpq's order may take two. Nothing falls back
        to clear text here, as libpq's "prefer" would on a second connection: that is for the caller to open.
        """
        if sslmode not in _TLS_MODES:
            return SslAnswer(first=None)
        first = await self.request_ssl(deadline, required=tls_required(sslmode))
        tls = await self.start_tls(tls_request, deadline) if first == "S" else None
        return SslAnswer(first=first, tls=tls)

    async def request_ssl(self, deadline: float, *, required: bool = False) -> str:
        """Send SSLRequest; "S" or "N". Another answer is a failure: SERVER for an "E", PROTOCOL for the rest."""
        await self.stream.send(SSL_REQUEST, deadline)
        # A server says one byte and waits. More at once is another protocol ("SSH-2.0-..."), or somebody on the way
        # who puts words before the encryption (CVE-2021-23222).
        answer = await self._receive(FIRST_BYTES, deadline, "ssl-request")
        self.ssl_answer = printable(answer[:1])
        if answer == b"N" and required:
            raise _failure(FailureKind.TLS, "ssl-request", "the server does not speak TLS and sslmode requires it")
        if answer[:1] == b"E":
            await self._refused_ssl(answer, deadline)
        if answer not in (b"S", b"N"):
            self.first_bytes = printable(answer)
            raise _failure(FailureKind.PROTOCOL, "ssl-request", f"not a PostgreSQL answer: {self.first_bytes}")
        return self.ssl_answer

    async def _refused_ssl(self, answer: bytes, deadline: float) -> None:
        self._reader.feed(answer)
        with self._protocol("ssl-request"):
            await self._next(deadline, "ssl-request")

    async def start_tls(self, request: TlsRequest, deadline: float) -> TlsSession:
        self.tls = await self.stream.start_tls(request, deadline)
        return self.tls

    async def start(self, user: str, password: Secret | None, dbname: str | None, deadline: float) -> SessionFacts:
        """authenticate() and ready()."""
        await self.authenticate(user, password, dbname, deadline)
        return await self.ready(deadline)

    async def authenticate(self, user: str, password: Secret | None, dbname: str | None, deadline: float) -> None:
        """StartupMessage -> AuthenticationOk. The SCRAM arithmetic is in this time: 2 ms at 4096 iterations.

        Raises UnsupportedAuthentication where the server wants what only libpq speaks, and NetworkFailure: CREDENTIALS
        when it wants a password and there is none (it is never sent an empty one), SERVER for its refusals.
        """
        self._password = password
        exchange = Authentication(
            user,
            password,
            None if self._binding == "disable" else self.stream.channel_binding(),
            bound=self._binding == "require",
            guarded=self.guard_password,
        )
        names = {"user": user, "database": dbname or user}
        with self._protocol("startup"):
            await self.stream.send(startup_message({**names, **_STARTUP}), deadline)
            while not exchange.done:
                await self._authentication_step(exchange, deadline)
        self._authenticated_at = self._clock.monotonic()

    async def _authentication_step(self, exchange: Authentication, deadline: float) -> None:
        message = await self._next(deadline, "startup")
        if isinstance(message, NegotiateProtocolVersion):
            return  # 3.0 is the oldest there is, so this only lists protocol options, and none was sent
        if not isinstance(message, AuthenticationRequest):
            raise ProtocolError(f"{type(message).__name__} before authentication")
        try:
            answer = exchange.tell(message)
        finally:
            self.authentication = exchange.method
        if answer:
            await self.stream.send(answer, deadline)

    async def ready(self, deadline: float) -> SessionFacts:
        """AuthenticationOk -> ReadyForQuery: the server opens the database (SERVER failures 3D000, 53300 come here)."""
        with self._protocol("startup"):
            while not isinstance(message := await self._next(deadline, "startup"), ReadyForQuery):
                if isinstance(message, BackendKeyData):
                    self._pid = message.pid
        return self._facts()

    def _facts(self) -> SessionFacts:
        now = self._clock.monotonic()
        return SessionFacts(
            authentication=self.authentication or "trust",
            parameters=MappingProxyType(dict(self._parameters)),
            backend_pid=self._pid,
            notices=tuple(self._notices),
            authenticated_at=now if self._authenticated_at is None else self._authenticated_at,
            ready_at=now,
        )

    async def query(self, sql: str, deadline: float) -> QueryResult:
        """One simple Query, to its ReadyForQuery. After an ERROR (not a FATAL) the session stays of use."""
        before, tag = self.received_bytes, None
        rows: list[tuple[bytes | None, ...]] = []
        with self._protocol("query"):
            await self.stream.send(query_message(sql), deadline)
            while not isinstance(message := await self._answer(deadline), ReadyForQuery):
                if isinstance(message, DataRow):
                    _bounded(rows)
                    rows.append(message.columns)
                elif isinstance(message, CommandComplete):
                    tag = message.tag
        return QueryResult(rows=tuple(rows), tag=tag, received_bytes=self.received_bytes - before)

    async def put(self, sql: str, deadline: float) -> None:
        """Send one simple Query, whose answer take() reads piece by piece."""
        with self._protocol("query"):
            await self.stream.send(query_message(sql), deadline)

    async def poke(self, deadline: float) -> None:
        """Send a Sync and wait for nothing: one more ReadyForQuery is due then, after all that was asked before."""
        await self.stream.send(SYNC, deadline)

    async def take(self, deadline: float) -> bool:
        """One message of what is due; True for a ReadyForQuery. Ask again after a TIMEOUT: no byte is lost."""
        with self._protocol("query"):
            return isinstance(await self._next(deadline, "query"), ReadyForQuery)

    async def _answer(self, deadline: float) -> Message:
        try:
            return await self._next(deadline, "query")
        except _ServerError as error:
            if not error.fatal:
                await self.drain(deadline)
            raise

    async def sync(self, deadline: float) -> None:
        """One Sync and its ReadyForQuery: the smallest exchange that the server's backend itself answers."""
        with self._protocol("sync"):
            await self.stream.send(SYNC, deadline)
        await self.drain(deadline, "sync")

    async def drain(self, deadline: float, operation: str = "query") -> None:
        """Read up to the next ReadyForQuery."""
        with self._protocol(operation):
            while not isinstance(await self._next(deadline, operation), ReadyForQuery):
                pass

    async def terminate(self) -> None:
        """Say goodbye where the server would understand it, and close. Never raises for the network's sake.

        Before AuthenticationOk a Terminate would be logged as a wrong message, whereas a close is not logged at all.
        """
        if self._authenticated_at is not None:
            with suppress(NetworkFailure):
                await self.stream.send(TERMINATE, self._clock.monotonic() + TERMINATE_S)
        with suppress(NetworkFailure):
            await self.stream.close()

    # What comes in.

    async def _next(self, deadline: float, operation: str) -> Message:
        """The next message that is not an aside; an ErrorResponse is raised."""
        while True:
            message = await self._read(deadline, operation)
            if isinstance(message, ErrorResponse):
                raise _ServerError(self._server_failure(message, operation), message.severity in _FATAL)
            if not isinstance(message, ParameterStatus | NoticeResponse):
                return message
            self._aside(message)

    def _aside(self, message: ParameterStatus | NoticeResponse) -> None:
        self._asides += 1
        if self._asides > ASIDES:
            raise ProtocolError(f"more than {ASIDES} notices and settings, and no end of them")
        if isinstance(message, ParameterStatus):
            self._parameters[clean_text(message.name)] = clean_text(message.setting)
        elif len(self._notices) < NOTICES:
            self._notices.append(clean_text(message.message))

    async def _read(self, deadline: float, operation: str) -> Message:
        while (message := self._reader.next()) is None:
            data = await self._receive(65536, deadline, operation)
            self.received_bytes += len(data)
            self._reader.feed(data)
        return message

    async def _receive(self, limit: int, deadline: float, operation: str) -> bytes:
        data = await self.stream.receive(limit, deadline)
        if not data:
            raise _failure(FailureKind.CLOSED, operation, "the server closed the connection")
        return data

    def _server_failure(self, error: ErrorResponse, operation: str) -> Failure:
        text = f"{error.message} ({error.detail})" if error.detail else error.message
        secret = self._password.reveal() if self._password is not None else ""
        if secret:  # a server that was given a password in clear can say it back
            text = text.replace(secret, "***")
        sqlstate = clean_text(error.sqlstate) if error.sqlstate else None
        return Failure(kind=FailureKind.SERVER, operation=operation, sqlstate=sqlstate, detail=clean_text(text))

    @contextmanager
    def _protocol(self, operation: str) -> Iterator[None]:
        try:
            yield
        except (ProtocolError, ScramError) as error:
            if self._authenticated_at is None and isinstance(error, ProtocolError):
                self.first_bytes = self.first_bytes or printable(self._reader.head(FIRST_BYTES)) or None
            raise _failure(FailureKind.PROTOCOL, operation, str(error)) from error


def _bounded(rows: Sequence[object]) -> None:
    if len(rows) >= ROWS:
        raise ProtocolError(f"more than {ROWS} rows in answer to one question")


def read_only(sql: str) -> str:
    """``sql`` inside a read-only transaction, as one simple Query: one round trip, and no write goes through."""
    return f"BEGIN READ ONLY; {sql.strip().rstrip(';')}; COMMIT"


def printable(data: bytes) -> str:
    """Remote bytes as ASCII, the rest as \\xNN: at most FIRST_BYTES characters."""
    text = "".join(chr(byte) if 0x20 <= byte < 0x7F and byte != 0x5C else f"\\x{byte:02x}" for byte in data)
    return text[:FIRST_BYTES]


class _ServerError(NetworkFailure):
    def __init__(self, failure: Failure, fatal: bool) -> None:
        super().__init__(failure)
        self.fatal = fatal


def _failure(kind: FailureKind, operation: str, detail: str) -> NetworkFailure:
    return NetworkFailure(Failure(kind=kind, operation=operation, detail=clean_text(detail)))


def _boolean(setting: str | None) -> bool | None:
    return None if setting is None else setting == "on"
