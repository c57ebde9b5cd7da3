"""A bounded bulk read through a session, as a backup or an export makes it: how far it comes, and what stopped it.

How it is asked
1. Rows that the server makes up (``repeat`` over ``generate_series``) and that touch no table, in READ ONLY
   transactions of 64 KiB first, twice as much each time up to 4 MiB (Ramp). Each is asked for only when the last is in
   and the next has time, so that the end of the time finds nothing under way. What comes is counted and dropped.
2. A stall is no byte for a while, though an answer is due and this side reads. After SUSPECT_S a Sync is sent behind
   the question: the kernel tells whether anybody acknowledges it (TCP_INFO). SILENT: nobody, however often it is sent.
3. Meanwhile a fresh session beside it asks a small question, and what the server says of the stalled one
   (pg_stat_activity; a role may see its own): "ClientWrite" is a server that cannot get rid of its bytes.
4. Then a second bulk read is made: one that stalls alone may have lost a path of its own.
5. A server whose client is gone holds its snapshot until TCP gives up. So the stalled session is ended through the one
   beside it (pg_terminate_backend), found by a token in its query; a tcp_user_timeout does it where that one fails.
"""

from __future__ import annotations

import asyncio
import secrets
from contextlib import suppress
from enum import StrEnum

from probes.contract import Clock, Context, Probe, ProbeUnavailable
from probes.exchanges import Handshake, HandshakeRequest, Stream, TcpInfo, TlsRequest, TlsSession
from probes.failures import clean_text
from probes.model import Failure, FailureKind, NetworkFailure, Secret, Target, value
from probes.session import PostgresSession, UnsupportedAuthentication, read_only, tls_request

MEBIBYTE = 1 << 20
MOST_MEBIBYTES = 1024  # of one read
ROW_BYTES = 8000
FIRST_BYTES, LARGEST_BYTES = 64 << 10, 4 << 20  # of one question
TICK_S = 1.0  # how often a silence is looked at
SUSPECT_S = 3.0  # of silence: more than retransmissions after a loss or two take
RTOS = 8.5  # retransmissions of ours come after 1, 3 and 7 of them
PATIENCE_LIMIT_S = 25.0
AFTERWARDS_S = 5.0  # for what the server says of it, and for goodbyes
MOST_POINTS = 64  # of progress that are kept
ORPHAN_S = 40  # after which the server gives up a client whose kernel acknowledges nothing


class BulkEnd(StrEnum):
    COMPLETE = "complete"
    UNFINISHED = "unfinished"  # the time was up while it moved
    SILENT = "silent"  # no byte for a while, and what we send is not acknowledged
    ACKNOWLEDGED = "acknowledged"  # no byte for a while; what we send is acknowledged
    RESET = "reset"
    CLOSED = "closed"  # the peer closed
    REFUSED = "refused"  # the server said why, with a SQLSTATE
    UNTOLD = "untold"  # this host or the run's time stopped it


STALLED = (BulkEnd.SILENT, BulkEnd.ACKNOWLEDGED)


@value
class BulkOptions:
    """How to log in, as for the database probe; without a user nothing can be read."""

    user: str | None = None
    password: Secret | None = None
    dbname: str | None = None  # None: the user's name, as libpq
    sslmode: str = "prefer"
    ssl_root_certificate: str | None = None
    ssl_certificate: str | None = None
    ssl_key: str | None = None
    channel_binding: str = "prefer"
    mebibytes: int = 16  # to read, at most 1024
    seconds: float = 20.0  # that it may take while it moves
    patience_s: float = 12.0  # with a silence; longer where the path's retransmissions take longer
    timeout_s: float = 5.0  # of a login, and of a small question


@value
class Activity:
    """What the server said of the session that reads, in its own words (pg_stat_activity)."""

    at_s: float
    state: str | None
    wait_event_type: str | None
    wait_event: str | None


@value
class Progress:
    at_s: float
    moved: int


@value
class BulkRead:
    """One bulk read; times are offsets from the start of the measurement, sizes bytes."""

    began_s: float
    asked: int
    moved: int  # of the answers, protocol included
    moving_s: float  # from the first question to the last byte
    longest_pause_s: float  # without a byte, and ended by one
    end: BulkEnd
    silent_s: float  # at the end: since the last byte, or the question
    progress: tuple[Progress, ...] = ()
    retransmits: int | None = None  # of ours, during the silence
    kernel: TcpInfo | None = None  # of the socket, at the end
    activity: tuple[Activity, ...] = ()  # during a silence
    failure: Failure | None = None


@value
class Beside:
    """One small question on the session beside the stalled one; the first includes its connection and login."""

    at_s: float
    seconds: float
    failure: Failure | None = None


@value
class BulkMeasurement:
    address: str
    port: int
    reads: tuple[BulkRead, ...] = ()  # the second is there where the first stalled
    beside: tuple[Beside, ...] = ()
    failure: Failure | None = None  # why none was begun


# Pure: how much next, what came when, what it means


class Ramp:
    """How many bytes to ask for next."""

    def __init__(self, total: int) -> None:
        self._left, self._size, self._rate = total, FIRST_BYTES, 0.0

    def next(self, left_s: float) -> int | None:
        """None: all is read, or there is no time for as much as was asked first."""
        if self._left <= 0 or left_s <= 0:
            return None
        wanted = min(self._size, self._left)
        fits = int(self._rate * left_s / 2) if self._rate else wanted
        return min(wanted, fits) if fits >= min(FIRST_BYTES, wanted) else None

    def tell(self, size: int, seconds: float) -> None:
        self._left -= size
        self._rate = size / max(seconds, 1e-6)
        self._size = min(2 * self._size, LARGEST_BYTES)


class Pace:
    """When bytes came: few points, the longest pause, the last byte."""

    def __init__(self, start: float) -> None:
        self.start = self.last = self.heard = start
        self.moved, self.pause_s = 0, 0.0
        self._points: list[tuple[float, int]] = []
        self._gap_s = 0.0

    def ask(self, now: float) -> None:
        """A pause is counted from the question on."""
        self.last = now

    def tell(self, now: float, count: int) -> None:
        self.pause_s = max(self.pause_s, now - self.last)
        self.last = self.heard = now
        self.moved += count
        if not self._points or now - self._points[-1][0] >= self._gap_s:
            self._points.append((now, self.moved))
        if len(self._points) >= MOST_POINTS:
            self._gap_s = 2 * max(self._gap_s, (now - self.start) / MOST_POINTS)
            self._points = self._points[::2]

    def points(self) -> list[tuple[float, int]]:
        last = (self.heard, self.moved)
        return [*self._points, last] if self.moved and self._points[-1] != last else list(self._points)


def stalled_end(before: TcpInfo | None, after: TcpInfo | None) -> BulkEnd:
    """Of a silence: whether anybody acknowledged what was sent into it."""
    if before is None or after is None:
        return BulkEnd.UNTOLD
    heard = after.sacked or after.bytes_acked != before.bytes_acked
    return BulkEnd.SILENT if after.unacked and not heard else BulkEnd.ACKNOWLEDGED


def failed_end(failure: Failure) -> BulkEnd:
    if failure.kind is FailureKind.RESET:  # EPIPE: a FIN came before the RST (tcp_reset() in CLOSE_WAIT)
        return BulkEnd.CLOSED if failure.errno == "EPIPE" else BulkEnd.RESET
    if failure.kind is FailureKind.CLOSED:
        return BulkEnd.CLOSED
    return BulkEnd.REFUSED if failure.kind is FailureKind.SERVER else BulkEnd.UNTOLD


# What is said. Tokens are hexadecimal, so that nothing needs quoting.

BULK = "SELECT /* {token} */ repeat('x', {width}) FROM generate_series(1, {rows})"
MARKED = "FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND usename = current_user AND query LIKE '%{token}%'"
ACTIVITY = "SELECT state, wait_event_type, wait_event " + MARKED
END = "SELECT pg_terminate_backend(pid) " + MARKED
CANCEL = "SELECT pg_cancel_backend(pid) " + MARKED
# Not where a pooler stands between (its process ids are its own): the setting would be handed on to somebody else.
ORPHANED = (
    "SELECT set_config(name, '{seconds}s', false) FROM pg_settings "
    "WHERE name = 'tcp_user_timeout' AND pg_backend_pid() = {pid}"
)


def bulk_sql(size: int, token: str) -> str:
    rows = max(1, -(-size // ROW_BYTES))
    return read_only(BULK.format(token=token, width=ROW_BYTES, rows=rows))


class _Metered:
    """A Stream whose bytes are counted as they come."""

    def __init__(self, stream: Stream, clock: Clock) -> None:
        self.handshake: Handshake = stream.handshake
        self.pace = Pace(clock.monotonic())
        self._stream, self._clock = stream, clock

    async def send(self, data: bytes, deadline: float) -> None:
        await self._stream.send(data, deadline)

    async def receive(self, limit: int, deadline: float) -> bytes:
        data = await self._stream.receive(limit, deadline)
        if data:
            self.pace.tell(self._clock.monotonic(), len(data))
        return data

    async def start_tls(self, request: TlsRequest, deadline: float) -> TlsSession:
        return await self._stream.start_tls(request, deadline)

    def channel_binding(self) -> bytes | None:
        return self._stream.channel_binding()

    def info(self) -> TcpInfo | None:
        return self._stream.info()

    async def close(self) -> None:
        await self._stream.close()


class _Over(Exception):
    """The read is at its end, and no failure says why."""

    def __init__(self, end: BulkEnd) -> None:
        super().__init__(end)
        self.end = end


class _Reader:
    """One bulk read on a session of its own."""

    def __init__(self, prober: _Prober, session: PostgresSession, metered: _Metered, asked: int) -> None:
        self._prober, self._session, self._metered, self._asked = prober, session, metered, asked
        self._clock, self._options = prober.clock, prober.options
        self.token = f"netdiag-{secrets.token_hex(8)}"
        self.activity: list[Activity] = []
        self.end = BulkEnd.UNTOLD
        self._owed = 0  # answers that are due
        self._before: TcpInfo | None = None  # when bytes were sent into a silence
        self._failure: Failure | None = None
        self._kernel: TcpInfo | None = None
        self._ended = self._began = self._clock.monotonic()
        metered.pace = Pace(self._began)

    @property
    def pace(self) -> Pace:
        return self._metered.pace

    async def run(self) -> None:
        try:
            await self._read()
            self.end = BulkEnd.COMPLETE if self._asked <= self.pace.moved else BulkEnd.UNFINISHED
        except _Over as over:
            self.end = over.end
        except NetworkFailure as error:
            self.end, self._failure = failed_end(error.failure), error.failure
        finally:
            self._ended, self._kernel = self._clock.monotonic(), self._session.stream.info()

    async def _read(self) -> None:
        ramp, until = Ramp(self._asked), self._until
        while (size := ramp.next(until - self._clock.monotonic())) is not None:
            began = self._clock.monotonic()
            self.pace.ask(began)
            self._owed += 1
            await self._session.put(bulk_sql(size, self.token), began + self._options.timeout_s)
            await self._answers()
            ramp.tell(size, self._clock.monotonic() - began)

    @property
    def _until(self) -> float:
        return self._began + self._options.seconds

    async def _answers(self) -> None:
        while self._owed:
            try:
                self._owed -= await self._session.take(self._clock.monotonic() + TICK_S)
            except NetworkFailure as error:
                if error.failure.kind is not FailureKind.TIMEOUT:
                    raise
            await self._look()

    async def _look(self) -> None:
        """Raises _Over once the silence has lasted, or the time is up."""
        now = self._clock.monotonic()
        silent = now - self.pace.last
        if silent < SUSPECT_S:
            self._before = None
        elif self._before is None:
            await self._suspect(now)
        if self._before is not None and silent >= self._patience(self._before):
            raise _Over(stalled_end(self._before, self._session.stream.info()))
        if now >= self._prober.deadline or (silent < SUSPECT_S and now >= self._until):
            raise _Over(BulkEnd.UNTOLD if silent >= SUSPECT_S else BulkEnd.UNFINISHED)

    async def _suspect(self, now: float) -> None:
        self._before = self._session.stream.info()
        self._owed += 1
        await self._session.poke(now + TICK_S)
        self._prober.suspect(self)

    def _patience(self, info: TcpInfo) -> float:
        return min(max(self._options.patience_s, SUSPECT_S + RTOS * (info.rto_s or 0.0)), PATIENCE_LIMIT_S)

    @property
    def is_under_way(self) -> bool:
        return self._owed > 0 and self._failure is None

    async def drain(self, deadline: float) -> None:
        """What is still due after it was cancelled."""
        with suppress(NetworkFailure):
            while self._owed:
                await self._session.drain(deadline)
                self._owed -= 1

    def result(self, start: float) -> BulkRead:
        pace, after = self.pace, self._kernel
        resent = after.total_retrans - self._before.total_retrans if self._before and after else None
        return BulkRead(
            began_s=self._began - start,
            asked=self._asked,
            moved=pace.moved,
            moving_s=pace.heard - self._began,
            longest_pause_s=pace.pause_s,
            end=self.end,
            silent_s=self._ended - pace.last,
            progress=tuple(Progress(at_s=at - start, moved=moved) for at, moved in pace.points()),
            retransmits=resent,
            kernel=after,
            activity=tuple(self.activity),
            failure=self._failure,
        )


async def measure(context: Context, target: Target, options: BulkOptions) -> BulkMeasurement:
    """Raises ProbeUnavailable without a port, a user, or the time for a silence."""
    if target.port is None:
        raise ProbeUnavailable("no port to connect to")
    if options.user is None:
        raise ProbeUnavailable("a bulk read takes a login, and no user is given")
    if options.mebibytes > MOST_MEBIBYTES:
        raise ProbeUnavailable(f"more than {MOST_MEBIBYTES} MiB are not read")
    least = options.patience_s + SUSPECT_S + AFTERWARDS_S
    if context.remaining() < least:
        raise ProbeUnavailable(f"less than {least:.0f} s of the run's time were left for a bulk read")
    return await _Prober(context, target, target.port, options).measure()


class _Prober:
    def __init__(self, context: Context, target: Target, port: int, options: BulkOptions) -> None:
        self._context, self._target, self._port = context, target, port
        self.clock, self.options = context.clock, options
        self.deadline = context.deadline - AFTERWARDS_S / 2
        self._address = target.address or target.host
        self._start = self.clock.monotonic()
        self._sessions: list[PostgresSession] = []
        self._readers: list[_Reader] = []
        self._companion: asyncio.Task[None] | None = None
        self._beside: list[Beside] = []
        self._witness: PostgresSession | None = None
        self._lock = asyncio.Lock()  # one task at a time speaks on the session beside

    async def measure(self) -> BulkMeasurement:
        failure = None
        try:
            first = await self._reader(self.options.mebibytes * MEBIBYTE)
            await self._run(first)
            if first.end is BulkEnd.RESET:
                self.suspect(first)
            if self._companion is not None:
                await self._companion
        except NetworkFailure as error:
            failure = error.failure
        finally:
            await self._part()
        return BulkMeasurement(
            address=self._address,
            port=self._port,
            reads=tuple(reader.result(self._start) for reader in self._readers),
            beside=tuple(self._beside),
            failure=failure,
        )

    async def _part(self) -> None:
        if self._companion is not None:
            self._companion.cancel()
            await asyncio.gather(self._companion, return_exceptions=True)
        for session in self._sessions:
            await session.terminate()

    async def _run(self, reader: _Reader) -> None:
        await reader.run()
        if reader.end in STALLED:
            await self._look_at(reader)
            await self._have(END, reader)
        elif reader.end in (BulkEnd.UNFINISHED, BulkEnd.UNTOLD) and reader.is_under_way:
            await self._have(CANCEL, reader)
            await reader.drain(self.clock.monotonic() + TICK_S)

    # Beside a silence

    def suspect(self, reader: _Reader) -> None:
        """The first silence is looked at, and repeated; one of the second read is looked at in its end."""
        if self._companion is None:
            self._companion = asyncio.create_task(self._accompany(reader))

    async def _accompany(self, reader: _Reader) -> None:
        await self._look_at(reader)
        size = min(self.options.mebibytes * MEBIBYTE, max(2 * reader.pace.moved, MEBIBYTE))
        with suppress(NetworkFailure, ProbeUnavailable):
            await self._run(await self._reader(size))

    async def _look_at(self, reader: _Reader) -> None:
        rows = await self._have(ACTIVITY, reader)
        for state, kind, event in (row for row in rows if len(row) == 3):
            told = Activity(at_s=self._now(), state=_text(state), wait_event_type=_text(kind), wait_event=_text(event))
            reader.activity.append(told)

    async def _have(self, sql: str, reader: _Reader) -> tuple[tuple[bytes | None, ...], ...]:
        """A small question on the session beside; no row where it is not answered."""
        began, failure = self._now(), None
        rows: tuple[tuple[bytes | None, ...], ...] = ()
        async with self._lock:
            try:
                if self._witness is None:
                    self._witness, _ = await self._login()
                asked = read_only(sql.format(token=reader.token))
                rows = (await self._witness.query(asked, self._soon())).rows
            except NetworkFailure as error:
                self._witness, failure = None, error.failure  # an answer that comes late belongs to no later question
        self._beside.append(Beside(at_s=began, seconds=self._now() - began, failure=failure))
        return rows

    def _now(self) -> float:
        return self.clock.monotonic() - self._start

    # Sessions

    async def _reader(self, size: int) -> _Reader:
        session, metered = await self._login()
        reader = _Reader(self, session, metered, size)
        self._readers.append(reader)
        return reader

    def _soon(self) -> float:
        return min(self.clock.monotonic() + self.options.timeout_s, self._context.deadline)

    async def _login(self) -> tuple[PostgresSession, _Metered]:
        options = self.options
        assert options.user is not None
        metered = _Metered(await self._open(), self.clock)
        session = PostgresSession(metered, self.clock, binding=options.channel_binding)
        self._sessions.append(session)
        deadline = self._soon()
        await session.negotiate_tls(options.sslmode, tls_request(self._target.host, options), deadline)
        try:
            facts = await session.start(options.user, options.password, options.dbname, deadline)
        except UnsupportedAuthentication as error:
            raise ProbeUnavailable(f"the server asks for {error.method} authentication, which is libpq's") from error
        with suppress(NetworkFailure):  # without it, it takes longer until the server gives an orphan up
            await session.query(ORPHANED.format(seconds=ORPHAN_S, pid=facts.backend_pid or 0), deadline)
        return session, metered

    async def _open(self) -> Stream:
        timeout = min(self.options.timeout_s, self._context.remaining())
        request = HandshakeRequest(address=self._address, port=self._port, timeout_s=timeout)
        try:
            async with asyncio.timeout(self._context.remaining()):  # it may be held back for the rate ceiling
                return await self._context.network.open_stream(request)
        except TimeoutError:
            raise NetworkFailure(_OUT_OF_TIME) from None


_OUT_OF_TIME = Failure(kind=FailureKind.LOCAL, operation="wait", detail="the run's own time was up")


def _text(column: bytes | None) -> str | None:
    return None if column is None else clean_text(column.decode("utf-8", errors="replace"))


PROBE = Probe(
    name="bulk",
    schema="bulk/1",
    summary="Read many bytes that the server makes up, and see whether they all come; only when asked for",
    options=BulkOptions,
    measurement=BulkMeasurement,
    measure=measure,
    takes_s=lambda options: 2 * options.seconds + 2 * PATIENCE_LIMIT_S + 3 * options.timeout_s + AFTERWARDS_S,
)
