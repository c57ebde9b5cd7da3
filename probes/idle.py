"""Connections that say nothing for a while, and whether somebody on the way still knows them afterwards.

How it is asked
1. What is held, at most four at once and all after a first exchange that worked (SSLRequest and its answer), so that
   none sits on a dead path or in a server's deferred accept: one control with TCP keepalives, two that stay quiet for
   the longest time, and one after the other some that stay quiet for shorter times and narrow the answer (Ladder).
2. Up to LOGIN_AFTER_S nobody logs in meanwhile: a connection before its login takes none of the server's slots, and
   PostgreSQL (authentication_timeout) and PgBouncer (client_login_timeout) give it a minute. Beyond that, sessions are
   held, where the server has slots to spare.
3. Then each is asked the next thing that a client would say: a ClientHello, or the login where the server has no TLS;
   in a session a Sync. A bare FIN or a keepalive would not do: connection tracking judges those by other rules.
4. SILENT is what the kernel says: the bytes are not acknowledged, however often they are sent. A peer that closed
   before it was asked is CLOSED; one whose kernel acknowledges and whose server says nothing is ACKNOWLEDGED.
5. While bytes stay unanswered, a fresh connection beside it has the same conversation. The control is asked last: what
   ends connections whatever their age (a restart, a failover) ends it too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from math import sqrt
from typing import Protocol

from probes.contract import Context, Probe, ProbeUnavailable
from probes.exchanges import HandshakeRequest, TcpInfo, TlsRequest
from probes.model import Failure, FailureKind, NetworkFailure, Secret, Target, value
from probes.session import PostgresSession, UnsupportedAuthentication, tls_request, tls_required

LOGIN_AFTER_S = 45.0  # longer than this a connection is not held without a login
KEEPALIVE_S = 2  # of the control
SHORTEST_S = 4.0  # a run with less time than this for the longest one has nothing to ask
FRESH_AFTER_S = 1.0  # bytes unanswered this long: is a fresh connection served meanwhile?
APART_S = 1.0  # between the two longest, so that one moment's loss or one free slot is not shared
RTOS = 8.5  # retransmissions come after 1, 3 and 7 of them: at least three are waited for
PATIENCE_LIMIT_S = 15.0
MOST_STEPS = 4  # of the ladder
CLOSE_ENOUGH = 1.3  # between what was forgotten and what was not
SLOTS_TO_SPARE = 10  # twice what is held at most
ESTABLISHED = 1  # include/net/tcp_states.h
GOODBYE_S = 0.2  # for what the peer said before it closed


class IdleEnd(StrEnum):
    """What became of the bytes that ended the silence."""

    ANSWERED = "answered"
    ACKNOWLEDGED = "acknowledged"  # by the peer's kernel; the server said nothing
    SILENT = "silent"  # not even acknowledged
    RESET = "reset"  # a RST came for them, and nothing before it
    CLOSED = "closed"  # the peer had closed before it was asked, or closed instead of an answer
    UNTOLD = "untold"  # this host or the run's time stopped it


CARRIED = (IdleEnd.ANSWERED, IdleEnd.ACKNOWLEDGED)
FORGOTTEN = (IdleEnd.SILENT, IdleEnd.RESET)


@value
class IdleOptions:
    """How to log in, as for the database probe. Without a user, connections are held as far as SSLRequest goes."""

    user: str | None = None
    password: Secret | None = None
    dbname: str | None = None  # None: the user's name, as libpq
    sslmode: str = "prefer"
    ssl_root_certificate: str | None = None
    ssl_certificate: str | None = None
    ssl_key: str | None = None
    channel_binding: str = "prefer"
    seconds: float = 24.0  # the longest silence
    patience_s: float = 5.0  # for the answer after it; longer where the path's retransmissions take longer
    timeout_s: float = 5.0  # of opening


@value
class IdleConnection:
    """One connection; times are offsets from the start of the measurement."""

    opened_s: float
    asked_s: float
    idle_s: float  # without a packet, before it was asked
    end: IdleEnd
    waited_s: float  # for the answer
    retransmits: int | None = None  # of the bytes that ended the silence
    failure: Failure | None = None


@value
class IdleMeasurement:
    address: str
    port: int
    logged_in: bool  # sessions were held; False: connections before their login
    longest_s: float  # as far as the run's time went
    idle: tuple[IdleConnection, ...]  # by their silence, the shortest first
    control: IdleConnection | None = None  # the same with TCP keepalives: opened first, asked last
    fresh: tuple[IdleConnection, ...] = ()  # opened while an idle one's bytes were unanswered
    failure: Failure | None = None  # why none could be held


class Ladder:
    """Which silence to try next: doubled while it is survived, then between what was survived and what was not."""

    def __init__(self, longest_s: float, survived_s: float) -> None:
        self._longest, self._low, self._high = longest_s, survived_s, longest_s
        self._found = self._stopped = False
        self._steps = 0

    def next(self, left_s: float) -> float | None:
        """``left_s``: how much time there is. None: nothing more to try."""
        if self._stopped or self._steps >= MOST_STEPS or self._high < CLOSE_ENOUGH * self._low:
            return None
        wanted = sqrt(self._low * self._high) if self._found else max(2 * self._low, self._longest / 4)
        gap = min(wanted, left_s) if self._found else wanted
        useful = self._low * sqrt(CLOSE_ENOUGH) < gap < self._longest
        return gap if useful and gap <= left_s else None

    def tell(self, gap_s: float, end: IdleEnd) -> None:
        self._steps += 1
        if end in CARRIED:
            self._low = max(self._low, gap_s)
        elif end in FORGOTTEN:
            self._high, self._found = min(self._high, gap_s), True
        else:
            self._stopped = True


def end_of(failure: Failure | None, before: TcpInfo | None, after: TcpInfo | None) -> IdleEnd:
    """What became of the bytes, from how the exchange ended and the kernel's account before and after it."""
    if failure is None:
        return IdleEnd.ANSWERED
    if failure.kind is FailureKind.RESET:  # EPIPE: a FIN came before the RST (tcp_reset() in CLOSE_WAIT)
        return IdleEnd.CLOSED if failure.errno == "EPIPE" or not _unheard(before, after) else IdleEnd.RESET
    if failure.kind is FailureKind.CLOSED:
        return IdleEnd.CLOSED
    if failure.kind is FailureKind.TIMEOUT and before is not None and after is not None:
        return IdleEnd.SILENT if after.unacked and _unheard(before, after) else IdleEnd.ACKNOWLEDGED
    said = (FailureKind.SERVER, FailureKind.PROTOCOL, FailureKind.TLS, FailureKind.CREDENTIALS)
    return IdleEnd.ANSWERED if failure.kind in said else IdleEnd.UNTOLD


def _unheard(before: TcpInfo | None, after: TcpInfo | None) -> bool:
    """Nothing was acknowledged, not even beyond a gap (the first of two packets may be too large), nothing came."""
    if before is None or after is None:
        return False
    return (
        not after.sacked and after.bytes_acked == before.bytes_acked and after.bytes_received == before.bytes_received
    )


class _Manner(Protocol):
    """How connections are opened, and how they are asked."""

    async def greet(self, session: PostgresSession, deadline: float) -> None: ...

    async def ask(self, session: PostgresSession, deadline: float) -> None: ...


@dataclass
class _BeforeLogin:
    options: IdleOptions
    host: str

    async def greet(self, session: PostgresSession, deadline: float) -> None:
        """Raises ProbeUnavailable where no question is left for later."""
        if await session.request_ssl(deadline) == "S":
            return
        if self.options.user is None:
            raise ProbeUnavailable("the server offers no TLS, and without a user there is nothing more to ask it")
        if tls_required(self.options.sslmode):
            raise ProbeUnavailable("the server offers no TLS, and sslmode requires it")

    async def ask(self, session: PostgresSession, deadline: float) -> None:
        """After "S" a server logs a client that leaves without TLS, and not one that leaves after it."""
        if session.ssl_answer == "S":
            await session.start_tls(TlsRequest(server_name=self.host), deadline)
            return
        assert self.options.user is not None
        with suppress(UnsupportedAuthentication):  # it has answered
            await session.start(self.options.user, self.options.password, self.options.dbname, deadline)


# Slots that are left to ordinary roles. Anybody may read pg_stat_database; of pg_stat_activity's rows only his own.
SPARE = (
    "SELECT pg_backend_pid(), current_setting('max_connections')::int "
    "- current_setting('superuser_reserved_connections')::int - sum(numbackends) FROM pg_stat_database"
)
# A session that nobody can tell of its end keeps its slot for two hours otherwise (tcp_keepalive_time).
ORPHANED = "SET tcp_keepalives_idle = {idle}; SET tcp_keepalives_interval = 10; SET tcp_keepalives_count = 3"


@dataclass
class _InSession:
    options: IdleOptions
    host: str

    async def greet(self, session: PostgresSession, deadline: float) -> None:
        options = self.options
        assert options.user is not None
        await session.negotiate_tls(options.sslmode, tls_request(self.host, options), deadline)
        try:
            facts = await session.start(options.user, options.password, options.dbname, deadline)
        except UnsupportedAuthentication as error:
            raise ProbeUnavailable(f"the server asks for {error.method} authentication, which is libpq's") from error
        rows = (await session.query(SPARE, deadline)).rows
        pid, spare = rows[0] if rows and len(rows[0]) == 2 else (None, None)
        if spare is None or not spare.isdigit() or int(spare) < SLOTS_TO_SPARE:
            raise ProbeUnavailable(f"the server has fewer than {SLOTS_TO_SPARE} slots to spare, or does not tell")
        if pid == str(facts.backend_pid).encode():  # a pooler would hand the settings on to somebody else
            await session.query(ORPHANED.format(idle=int(options.seconds) + 60), deadline)

    async def ask(self, session: PostgresSession, deadline: float) -> None:
        await session.sync(deadline)


@dataclass
class _Line:
    session: PostgresSession
    opened: float
    quiet_since: float


async def measure(context: Context, target: Target, options: IdleOptions) -> IdleMeasurement:
    """Raises ProbeUnavailable without a port, where the time is too short, and where a longer silence needs a login."""
    if target.port is None:
        raise ProbeUnavailable("no port to connect to")
    longest = min(options.seconds, context.remaining() - options.patience_s - options.timeout_s)
    if longest < SHORTEST_S:
        raise ProbeUnavailable(f"there is no time for a silence of {SHORTEST_S:g} s")
    if longest > LOGIN_AFTER_S and options.user is None:
        raise ProbeUnavailable(
            f"servers close a connection without a login after a minute: beyond {LOGIN_AFTER_S:g} s it takes a user"
        )
    return await _Prober(context, target, target.port, options, longest).measure()


class _Prober:
    def __init__(self, context: Context, target: Target, port: int, options: IdleOptions, longest: float) -> None:
        self._context, self._clock, self._options = context, context.clock, options
        self._address, self._port, self._longest = target.address or target.host, port, longest
        self._logged_in = longest > LOGIN_AFTER_S
        self._manner: _Manner = (_InSession if self._logged_in else _BeforeLogin)(options, target.host)
        self._start = self._clock.monotonic()
        self._lines: list[_Line] = []
        self._idle: list[IdleConnection] = []
        self._fresh: list[IdleConnection] = []

    async def measure(self) -> IdleMeasurement:
        try:
            control = await self._open(KEEPALIVE_S)
            await self._hold_all()
            asked = await self._ask(control, alone=True)
        except NetworkFailure as error:
            return self._result(None, error.failure)
        finally:
            for line in self._lines:
                await line.session.terminate()
        return self._result(asked, None)

    def _result(self, control: IdleConnection | None, failure: Failure | None) -> IdleMeasurement:
        return IdleMeasurement(
            address=self._address,
            port=self._port,
            logged_in=self._logged_in,
            longest_s=self._longest,
            idle=tuple(sorted(self._idle, key=lambda connection: connection.idle_s)),
            control=control,
            fresh=tuple(self._fresh),
            failure=failure,
        )

    async def _hold_all(self) -> None:
        pair = [await self._open(), await self._open()]
        async with asyncio.TaskGroup() as group:
            group.create_task(self._hold(pair[0], self._longest - APART_S))
            group.create_task(self._hold(pair[1], self._longest))
            group.create_task(self._climb(pair[0].quiet_since + self._longest))

    async def _climb(self, end: float) -> None:
        """One connection after the other; one that cannot be opened ends it, and leaves the longest ones be."""
        ladder = Ladder(self._longest, float(KEEPALIVE_S))
        while (gap := ladder.next(end - self._clock.monotonic())) is not None:
            try:
                line = await self._open()
            except (NetworkFailure, ProbeUnavailable):
                return
            held = await self._hold(line, gap)
            ladder.tell(held.idle_s, held.end)

    async def _hold(self, line: _Line, gap: float) -> IdleConnection:
        await self._clock.sleep(max(0.0, line.quiet_since + gap - self._clock.monotonic()))
        held = await self._ask(line)
        self._idle.append(held)
        await self._part(line)
        return held

    # One connection.

    async def _open(self, keepalive_s: int | None = None) -> _Line:
        timeout = min(self._options.timeout_s, self._context.remaining())
        request = HandshakeRequest(address=self._address, port=self._port, timeout_s=timeout, keepalive_s=keepalive_s)
        try:
            async with asyncio.timeout(self._context.remaining()):  # it may be held back for the rate ceiling
                stream = await self._context.network.open_stream(request)
        except TimeoutError:
            raise NetworkFailure(_OUT_OF_TIME) from None
        opened = self._clock.monotonic()
        session = PostgresSession(stream, self._clock, binding=self._options.channel_binding)
        line = _Line(session, opened, opened)
        self._lines.append(line)
        await self._manner.greet(session, min(opened + self._options.timeout_s, self._context.deadline))
        line.quiet_since = self._clock.monotonic()
        return line

    async def _part(self, line: _Line) -> None:
        self._lines.remove(line)
        await line.session.terminate()

    async def _ask(self, line: _Line, *, alone: bool = False) -> IdleConnection:
        """``alone``: whether a fresh connection is served meanwhile is of no interest."""
        asked, before = self._clock.monotonic(), line.session.stream.info()
        if before is not None and before.state != ESTABLISHED:
            goodbye = await self._failure(line.session.drain, asked + GOODBYE_S)
            return self._connection(line, asked, IdleEnd.CLOSED, goodbye or _CLOSED)
        witness = None if alone else asyncio.create_task(self._witness())
        try:
            failure = await self._question(line, asked + self._patience(before))
            after = line.session.stream.info()
            end = end_of(failure, before, after)
            held = self._connection(line, asked, end, failure, _resent(before, after))
            if witness is not None and end is IdleEnd.SILENT:
                await witness
        finally:
            await _ended(witness)
        if end is IdleEnd.RESET and not alone:
            await self._have_fresh()
        return held

    def _patience(self, info: TcpInfo | None) -> float:
        slow = RTOS * (info.rto_s or 0.0) if info else 0.0
        return min(max(self._options.patience_s, slow), PATIENCE_LIMIT_S)

    async def _question(self, line: _Line, own: float) -> Failure | None:
        """The run's own end is no silence of the network's."""
        failure = await self._failure(lambda deadline: self._manner.ask(line.session, deadline), own)
        cut_short = failure is not None and failure.kind is FailureKind.TIMEOUT and own > self._context.deadline
        return _OUT_OF_TIME if cut_short else failure

    async def _failure(self, step: Callable[[float], Awaitable[None]], own: float) -> Failure | None:
        try:
            await step(min(own, self._context.deadline))
        except NetworkFailure as error:
            return error.failure
        return None

    async def _witness(self) -> None:
        await self._clock.sleep(FRESH_AFTER_S)
        await self._have_fresh()

    async def _have_fresh(self) -> None:
        began = self._clock.monotonic()
        try:
            line = await self._open()
        except ProbeUnavailable:
            return
        except NetworkFailure as error:
            self._fresh.append(self._unopened(began, error.failure))
            return
        self._fresh.append(await self._ask(line, alone=True))
        await self._part(line)

    def _unopened(self, began: float, failure: Failure) -> IdleConnection:
        return IdleConnection(
            opened_s=began - self._start,
            asked_s=began - self._start,
            idle_s=0.0,
            end=IdleEnd.UNTOLD,
            waited_s=self._clock.monotonic() - began,
            failure=failure,
        )

    def _connection(
        self, line: _Line, asked: float, end: IdleEnd, failure: Failure | None, retransmits: int | None = None
    ) -> IdleConnection:
        return IdleConnection(
            opened_s=line.opened - self._start,
            asked_s=asked - self._start,
            idle_s=asked - line.quiet_since,
            end=end,
            waited_s=self._clock.monotonic() - asked,
            retransmits=retransmits,
            failure=failure,
        )


_OUT_OF_TIME = Failure(kind=FailureKind.LOCAL, operation="wait", detail="the run's own time was up before the answer")
_CLOSED = Failure(kind=FailureKind.CLOSED, operation="wait")


async def _ended(task: asyncio.Task[None] | None) -> None:
    """Its socket must not be closed under it."""
    if task is not None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _resent(before: TcpInfo | None, after: TcpInfo | None) -> int | None:
    return None if before is None or after is None else after.total_retrans - before.total_retrans


PROBE = Probe(
    name="idle",
    schema="idle/1",
    summary="Hold connections without a word for a while, and see whether the way still knows them",
    options=IdleOptions,
    measurement=IdleMeasurement,
    measure=measure,
    takes_s=lambda options: options.seconds + 60.0,
)
