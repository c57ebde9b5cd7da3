"""libpq in the place of our own codec, for what it does not speak (GSSAPI, SSPI, OAuth): the same four steps, coarser.

libpq opens the connection itself, so authenticate() includes TCP and TLS. Its errors carry no SQLSTATE.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from psycopg import OperationalError, conninfo, pq

from probes.exchanges import TlsRequest
from probes.failures import clean_text, timed_out
from probes.model import Failure, FailureKind, NetworkFailure, Secret
from probes.session import QueryResult, SessionFacts

if TYPE_CHECKING:
    from probes.contract import Clock

T = TypeVar("T")

# The first fragment that libpq's (untranslated) message contains decides.
_KINDS = (
    ("FATAL:", FailureKind.SERVER),
    ("ERROR:", FailureKind.SERVER),
    ("SSL", FailureKind.TLS),
    ("certificate", FailureKind.TLS),
    ("server closed the connection", FailureKind.CLOSED),
    ("Connection refused", FailureKind.REFUSED),
    ("Connection reset", FailureKind.RESET),
    ("timed out", FailureKind.TIMEOUT),
    ("GSSAPI", FailureKind.CREDENTIALS),
    ("password", FailureKind.CREDENTIALS),
    ("authentication", FailureKind.CREDENTIALS),
)
_PARAMETERS = ("server_version", "in_hot_standby", "default_transaction_read_only", "is_superuser")


class LibpqSession:
    """authenticate(), ready(), query(), terminate(), as PostgresSession has them."""

    def __init__(self, clock: Clock, address: str, port: int, tls: TlsRequest, sslmode: str) -> None:
        self._clock, self._address, self._port, self._tls, self._sslmode = clock, address, port, tls, sslmode
        self._connection: pq.abc.PGconn | None = None
        self._wanted = pq.PollingStatus.WRITING  # what PQconnectPoll waits for; writing before its first call
        self._secret = ""
        self._authenticated_at = 0.0
        self._notices: list[str] = []

    async def authenticate(self, user: str, password: Secret | None, dbname: str | None, deadline: float) -> None:
        """Everything up to AuthenticationOk. Raises NetworkFailure."""
        self._secret = password.reveal() if password is not None else ""
        self._connection = pq.PGconn.connect_start(self._conninfo(user, dbname))
        self._connection.notice_handler = self._note
        past = (pq.ConnStatus.AUTH_OK, pq.ConnStatus.OK)
        while self._connection.status not in past and self._wanted is not pq.PollingStatus.OK:
            await self._poll("startup", deadline)
        self._authenticated_at = self._clock.monotonic()

    async def ready(self, deadline: float) -> SessionFacts:
        """Up to ReadyForQuery. Raises NetworkFailure."""
        while self._wanted is not pq.PollingStatus.OK:
            await self._poll("startup", deadline)
        connection = self._live()
        connection.nonblocking = 1
        return SessionFacts(
            authentication="libpq",
            parameters={name: text for name in _PARAMETERS if (text := self._parameter(name)) is not None},
            backend_pid=connection.backend_pid,
            notices=tuple(self._notices),
            authenticated_at=self._authenticated_at,
            ready_at=self._clock.monotonic(),
        )

    async def query(self, sql: str, deadline: float) -> QueryResult:
        """One simple Query. ``received_bytes`` counts the values alone. Raises NetworkFailure."""
        connection = self._live()
        self._call("query", connection.send_query, sql.encode())
        while self._call("query", connection.flush):
            await self._wait(pq.PollingStatus.WRITING, "query", deadline)
        rows, tag, failed = [], None, None
        while (result := await self._result(deadline)) is not None:  # to the end: only then is libpq idle again
            failed = self._refusal(result) or failed
            tag = result.command_status.decode() if result.command_status else tag
            rows += [tuple(result.get_value(row, at) for at in range(result.nfields)) for row in range(result.ntuples)]
        if failed is not None:
            raise failed
        size = sum(len(column) for row in rows for column in row if column is not None)
        return QueryResult(rows=tuple(rows), tag=tag, received_bytes=size)

    async def terminate(self) -> None:
        """libpq says Terminate itself. Never raises."""
        if self._connection is not None:
            self._connection.finish()

    def _conninfo(self, user: str, dbname: str | None) -> bytes:
        settings: dict[str, str | int | None] = {
            "host": self._tls.server_name,
            "hostaddr": self._address,
            "port": self._port,
            "user": user,
            "password": self._secret or None,
            "dbname": dbname or user,
            "sslmode": self._sslmode,
            "sslrootcert": self._tls.root_certificate,
            "sslcert": self._tls.client_certificate,
            "sslkey": self._tls.client_key,
            "application_name": "netdiag",
            "client_encoding": "UTF8",
            "max_protocol_version": "3.0" if pq.version() >= 180000 else None,  # poolers choke on 3.2
        }
        return conninfo.make_conninfo("", **settings).encode()

    async def _poll(self, operation: str, deadline: float) -> None:
        await self._wait(self._wanted, operation, deadline)
        self._wanted = pq.PollingStatus(self._live().connect_poll())
        if self._wanted is pq.PollingStatus.FAILED:
            raise self._failed(operation, self._live().error_message)

    async def _result(self, deadline: float) -> pq.abc.PGresult | None:
        connection = self._live()
        while connection.is_busy():
            await self._wait(pq.PollingStatus.READING, "query", deadline)
            self._call("query", connection.consume_input)
        return connection.get_result()

    def _refusal(self, result: pq.abc.PGresult) -> NetworkFailure | None:
        if result.status not in (pq.ExecStatus.FATAL_ERROR, pq.ExecStatus.BAD_RESPONSE):
            return None
        return self._failed("query", result.error_message, result.error_field(pq.DiagnosticField.SQLSTATE))

    async def _wait(self, wanted: pq.PollingStatus, operation: str, deadline: float) -> None:
        """Until libpq's socket, which it may replace between two polls, can be read or written."""
        loop, descriptor = asyncio.get_running_loop(), self._live().socket
        ready = asyncio.Event()
        reading = wanted is pq.PollingStatus.READING
        add, remove = (loop.add_reader, loop.remove_reader) if reading else (loop.add_writer, loop.remove_writer)
        add(descriptor, ready.set)
        try:
            await asyncio.wait_for(ready.wait(), max(0.0, deadline - self._clock.monotonic()))
        except TimeoutError:
            raise NetworkFailure(timed_out(operation)) from None
        finally:
            remove(descriptor)

    def _live(self) -> pq.abc.PGconn:
        if self._connection is None or self._connection.status == pq.ConnStatus.BAD:
            message = self._connection.error_message if self._connection is not None else b"not connected"
            raise self._failed("connect", message)
        return self._connection

    def _call(self, operation: str, function: Callable[..., T], *arguments: bytes) -> T:
        try:
            return function(*arguments)
        except OperationalError as error:
            raise self._failed(operation, str(error).encode()) from None

    def _failed(self, operation: str, message: bytes, sqlstate: bytes | None = None) -> NetworkFailure:
        text = message.decode("utf-8", "replace")
        text = text.replace(self._secret, "***") if self._secret else text
        kind = next((kind for fragment, kind in _KINDS if fragment in text), FailureKind.PROTOCOL)
        code = sqlstate.decode("ascii", "replace") if sqlstate else None
        return NetworkFailure(Failure(kind=kind, operation=operation, sqlstate=code, detail=clean_text(text)))

    def _note(self, result: pq.abc.PGresult) -> None:
        self._notices.append(clean_text(result.error_message))

    def _parameter(self, name: str) -> str | None:
        raw = self._live().parameter_status(name.encode())
        return None if raw is None else clean_text(raw)
