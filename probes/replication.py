"""What a PostgreSQL server says of its own replication: received, replayed, paused; or written, and sent to whom.

How it is asked
1. One connection, one login. Each question is its own short READ ONLY transaction with a statement_timeout, so a
   function that this version lacks, or that this role may not call, loses its own answer only. Ages are taken on the
   server's own clock; no answer is compared with ours.
2. A primary is looked at once, a standby twice at least. The looks go on while no WAL receiver is seen twice in a row
   (``receiver_patience_s`` after the first at most), or what the first look knew of is not replayed
   (``replay_patience_s``): a wait is measured, not inferred from the age of a commit.
3. ``primary_conninfo`` holds a password: only whether it is set comes over the wire.
4. YugabyteDB (Raft per tablet) and Aurora (shared storage) ship no WAL; Aurora logs an error for each such question.
   Their replication is not asked about.
"""

from __future__ import annotations

import asyncio
from enum import StrEnum
from math import isfinite

from probes.contract import Context, Probe, ProbeUnavailable
from probes.exchanges import HandshakeRequest
from probes.failures import clean_text
from probes.model import Failure, FailureKind, NetworkFailure, Secret, Target, value
from probes.session import PostgresSession, UnsupportedAuthentication, read_only, tls_request

MOST_SENDERS = 64  # of one server that are kept
STATEMENT_TIMEOUT_MS = 2000  # the server gives up on a question before we do

Row = tuple[bytes | None, ...]


class Kind(StrEnum):
    """Whose replication it is."""

    POSTGRESQL = "postgresql"
    YUGABYTE = "yugabyte"
    AURORA = "aurora"


@value
class ReplicationOptions:
    """How to log in, as for the database probe; without a user nothing can be asked."""

    user: str | None = None
    password: Secret | None = None
    dbname: str | None = None  # None: the user's name, as libpq
    sslmode: str = "prefer"
    ssl_root_certificate: str | None = None
    ssl_certificate: str | None = None
    ssl_key: str | None = None
    channel_binding: str = "prefer"
    interval_s: float = 3.0  # between two looks
    receiver_patience_s: float = 15.0  # how long a standby is looked at that receives nothing
    replay_patience_s: float = 33.0  # ... that does not replay what the first look knew of
    timeout_s: float = 5.0  # of the login, and of each question


@value
class Receiver:
    """The WAL receiver's row. All but ``pid`` is None for a role without pg_read_all_stats (pg_monitor)."""

    pid: int | None
    status: str | None  # "streaming", "waiting", ...
    sender_host: str | None  # from PostgreSQL 11 on
    sender_port: int | None
    latest_end: int | None  # how far the sender's WAL went when it sent its last message
    message_age_s: float | None  # since the sender's last message


@value
class Standby:
    """Positions are bytes since the beginning of the WAL (an LSN as a number)."""

    received: int | None  # by streaming, and flushed
    replayed: int | None
    commit_age_s: float | None  # since the last commit that was replayed: the primary's clock to the standby's
    paused: bool | None
    receiving: bool | None  # a WAL receiver runs; None: not told
    receiver: Receiver | None = None


@value
class Sender:
    """One row of pg_stat_replication: who is sent WAL. Mostly None for a role without pg_read_all_stats."""

    application_name: str | None
    client_address: str | None
    state: str | None  # "streaming", "catchup", "startup", "backup"
    sync_state: str | None
    sent: int | None
    replayed: int | None
    replay_lag_s: float | None  # of the last commit that was confirmed, not of one that is stuck


@value
class Look:
    """``at_s`` is the offset from the first look. ``written`` is a primary's own position."""

    at_s: float
    in_recovery: bool | None
    written: int | None = None
    standby: Standby | None = None
    senders: tuple[Sender, ...] | None = None  # None: not told


@value
class StandbySettings:
    """None: hidden from this role, or not a setting before PostgreSQL 12."""

    told_to_stream: bool | None  # primary_conninfo is set
    restores: bool | None  # restore_command is set: WAL may come from an archive
    apply_delay_s: float | None  # recovery_min_apply_delay: behind on purpose
    receiver_timeout_s: float | None


@value
class ReplicationMeasurement:
    address: str
    port: int
    kind: Kind | None = None  # None: never logged in
    server_version: str | None = None
    settings: StandbySettings | None = None
    looks: tuple[Look, ...] = ()
    refused: tuple[Failure, ...] = ()  # questions that the server did not answer
    failure: Failure | None = None  # how the connection ended, if not by us


# Pure: when to look again


def known_end(look: Look) -> int | None:
    """The farthest position that the standby knows of: what it received, or what its sender told of."""
    standby = look.standby
    told = standby.receiver.latest_end if standby is not None and standby.receiver is not None else None
    known = [end for end in (standby.received if standby else None, told) if end is not None]
    return max(known, default=None)


def caught_up(first: Look, last: Look) -> bool | None:
    """Whether ``last`` has replayed what ``first`` knew of; None where a position is not told."""
    end, replayed = known_end(first), last.standby.replayed if last.standby is not None else None
    return None if end is None or replayed is None else replayed >= end


def keeps_receiving(before: Look, after: Look) -> bool | None:
    """One and the same WAL receiver at two looks; None where it is not told."""
    if before.standby is None or after.standby is None:
        return None
    if before.standby.receiving is None or after.standby.receiving is None:
        return None
    pids = [s.receiver.pid for s in (before.standby, after.standby) if s.receiver is not None]
    return len(pids) == 2 and pids[0] == pids[1]


class Looks:
    """A stepper: next() is when the next look is due, in seconds after the first, or None; tell() takes it."""

    def __init__(self, options: ReplicationOptions, *, delayed: bool) -> None:
        """``delayed``: a standby that is behind on purpose is not waited for."""
        self._options, self._delayed = options, delayed
        self._looks: list[Look] = []

    def next(self) -> float | None:
        if not self._looks:
            return 0.0
        due = self._looks[-1].at_s + self._options.interval_s
        return due if self._looks[-1].standby is not None and self._open(due) else None

    def tell(self, look: Look) -> None:
        self._looks.append(look)

    def result(self) -> tuple[Look, ...]:
        return tuple(self._looks)

    def _open(self, due: float) -> bool:
        """Whether a look at ``due`` could still settle something."""
        if len(self._looks) < 2:
            return True
        fed = keeps_receiving(self._looks[-2], self._looks[-1]) is not False
        level = caught_up(self._looks[0], self._looks[-1]) is not False or self._delayed
        return not (fed or due > self._options.receiver_patience_s) or not (
            level or due > self._options.replay_patience_s
        )


# Pure: questions, and their answers as values

ABOUT = "SELECT version(), to_regproc('pg_catalog.aurora_version') IS NOT NULL"
SETTINGS = (
    "SELECT name, setting FROM pg_settings WHERE name IN ('recovery_min_apply_delay', 'wal_receiver_timeout') "
    "UNION ALL SELECT name, (setting <> '')::text FROM pg_settings "
    "WHERE name IN ('primary_conninfo', 'restore_command')"
)
STATE = "SELECT pg_is_in_recovery()"
STANDBY = (
    "SELECT pg_wal_lsn_diff(pg_last_wal_receive_lsn(), '0/0'), pg_wal_lsn_diff(pg_last_wal_replay_lsn(), '0/0'), "
    "extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp()), "
    "CASE WHEN pg_is_in_recovery() THEN pg_is_wal_replay_paused() END"
)
# Through jsonb a column that this version lacks is NULL, and no error.
RECEIVER = (
    "SELECT pid, to_jsonb(r)->>'status', to_jsonb(r)->>'sender_host', to_jsonb(r)->>'sender_port', "
    "pg_wal_lsn_diff(latest_end_lsn, '0/0'), extract(epoch FROM clock_timestamp() - last_msg_receipt_time) "
    "FROM pg_stat_wal_receiver r"
)
WRITTEN = "SELECT CASE WHEN NOT pg_is_in_recovery() THEN pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0') END"
SENDERS = (
    "SELECT application_name, host(client_addr), state, sync_state, pg_wal_lsn_diff(sent_lsn, '0/0'), "
    "pg_wal_lsn_diff(replay_lsn, '0/0'), extract(epoch FROM replay_lag) "
    f"FROM pg_stat_replication ORDER BY pid LIMIT {MOST_SENDERS}"
)


def _text(raw: bytes | None) -> str | None:
    return None if raw is None else clean_text(raw)


def _flag(raw: bytes | None) -> bool | None:
    return None if raw is None else raw in (b"t", b"true")


def _number(raw: bytes | None) -> float | None:
    """None too for what is no number, or none that JSON has: an answer is not trusted."""
    try:
        number = None if raw is None else float(raw)
    except ValueError:
        return None
    return number if number is not None and isfinite(number) else None


def _whole(raw: bytes | None) -> int | None:
    try:
        return None if raw is None else int(raw)
    except ValueError:
        return None


def _one(rows: tuple[Row, ...] | None, columns: int) -> Row:
    """The first row, or as many NULLs."""
    return rows[0] if rows and len(rows[0]) == columns else (None,) * columns


def kind_of(server_version: str | None, about: Row) -> Kind:
    """A proxy may tell one version at startup and another by SELECT version(): either names YugabyteDB."""
    version, aurora = about
    if "-YB-" in (server_version or "") or "-YB-" in (_text(version) or ""):
        return Kind.YUGABYTE
    return Kind.AURORA if _flag(aurora) else Kind.POSTGRESQL


def settings_of(rows: tuple[Row, ...] | None) -> StandbySettings:
    found = {name: setting for name, setting in (row for row in rows or () if len(row) == 2)}
    delay, timeout = (_number(found.get(name)) for name in (b"recovery_min_apply_delay", b"wal_receiver_timeout"))
    return StandbySettings(
        told_to_stream=_flag(found.get(b"primary_conninfo")),
        restores=_flag(found.get(b"restore_command")),
        apply_delay_s=None if delay is None else delay / 1000,  # pg_settings has both in milliseconds
        receiver_timeout_s=None if timeout is None else timeout / 1000,
    )


def standby_of(positions: Row, receivers: tuple[Row, ...] | None) -> Standby:
    received, replayed, age, paused = positions
    return Standby(
        received=_whole(received),
        replayed=_whole(replayed),
        commit_age_s=_number(age),
        paused=_flag(paused),
        receiving=None if receivers is None else bool(receivers),
        receiver=_receiver(_one(receivers, 6)) if receivers else None,
    )


def _receiver(row: Row) -> Receiver:
    pid, status, host, port, end, age = row
    return Receiver(
        pid=_whole(pid),
        status=_text(status),
        sender_host=_text(host),
        sender_port=_whole(port),
        latest_end=_whole(end),
        message_age_s=_number(age),
    )


def sender_of(row: Row) -> Sender:
    name, address, state, sync, sent, replayed, lag = row
    return Sender(
        application_name=_text(name),
        client_address=_text(address),
        state=_text(state),
        sync_state=_text(sync),
        sent=_whole(sent),
        replayed=_whole(replayed),
        replay_lag_s=_number(lag),
    )


# The conversation


async def measure(context: Context, target: Target, options: ReplicationOptions) -> ReplicationMeasurement:
    """Raises ProbeUnavailable without a port, a user, or time. A login that fails is the measurement's ``failure``."""
    if target.port is None:
        raise ProbeUnavailable("no port to connect to")
    if options.user is None:
        raise ProbeUnavailable("no user is given: a server tells of its replication only after a login")
    if context.remaining() <= 0:
        raise ProbeUnavailable("the run's time was up before the connection")
    return await _Prober(context, target, target.port, options).measure(options.user)


class _Prober:
    def __init__(self, context: Context, target: Target, port: int, options: ReplicationOptions) -> None:
        self._context, self._clock, self._options = context, context.clock, options
        self._host, self._address, self._port = target.host, target.address or target.host, port
        self._session: PostgresSession | None = None
        self._version: str | None = None
        self._kind: Kind | None = None
        self._settings: StandbySettings | None = None
        self._looks: tuple[Look, ...] = ()
        self._refused: list[Failure] = []

    async def measure(self, user: str) -> ReplicationMeasurement:
        failure = None
        try:
            session = await self._log_in(user)
            await self._converse(session)
        except NetworkFailure as error:
            failure = self._ours(error.failure)
        finally:
            if self._session is not None:
                await self._session.terminate()
        return ReplicationMeasurement(
            address=self._address,
            port=self._port,
            kind=self._kind,
            server_version=self._version,
            settings=self._settings,
            looks=self._looks,
            refused=tuple(self._refused),
            failure=failure,
        )

    def _ours(self, failure: Failure) -> Failure:
        """A timeout that is the run's own end is not the server's silence."""
        if failure.kind is FailureKind.TIMEOUT and self._context.remaining() <= 0:
            return _local("the run's own time was up before the answer")
        return failure

    def _deadline(self) -> float:
        return min(self._clock.monotonic() + self._options.timeout_s, self._context.deadline)

    async def _log_in(self, user: str) -> PostgresSession:
        options = self._options
        timeout = min(options.timeout_s, self._context.remaining())
        request = HandshakeRequest(address=self._address, port=self._port, timeout_s=timeout)
        try:
            async with asyncio.timeout(self._context.remaining()):  # the network may hold it back for its rate ceiling
                stream = await self._context.network.open_stream(request)
        except TimeoutError:
            raise NetworkFailure(_local("the run's own time was up before the connection")) from None
        session = self._session = PostgresSession(stream, self._clock, binding=options.channel_binding)
        deadline = self._deadline()
        await session.negotiate_tls(options.sslmode, tls_request(self._host, options), deadline)
        try:
            facts = await session.start(user, options.password, options.dbname, deadline)
        except UnsupportedAuthentication as error:
            raise NetworkFailure(_local(f"authentication by {error.method} is not spoken here")) from None
        self._version = facts.server_version
        return session

    async def _converse(self, session: PostgresSession) -> None:
        self._kind = kind_of(self._version, (None, None))
        if self._kind is Kind.POSTGRESQL:
            self._kind = kind_of(self._version, _one(await self._ask(session, ABOUT), 2))
        if self._kind is not Kind.POSTGRESQL:
            return
        self._settings = settings_of(await self._ask(session, SETTINGS))
        await self._look_on(session, bool(self._settings.apply_delay_s))

    async def _look_on(self, session: PostgresSession, delayed: bool) -> None:
        looks = Looks(self._options, delayed=delayed)
        began = self._clock.monotonic()
        while (due := looks.next()) is not None and began + due < self._context.deadline:
            await self._clock.sleep(max(0.0, began + due - self._clock.monotonic()))
            looks.tell(await self._look(session, began))
            self._looks = looks.result()

    async def _look(self, session: PostgresSession, began: float) -> Look:
        at_s = self._clock.monotonic() - began
        in_recovery = _flag(_one(await self._ask(session, STATE), 1)[0])
        standby = written = None
        if in_recovery:
            positions = _one(await self._ask(session, STANDBY), 4)
            standby = standby_of(positions, await self._ask(session, RECEIVER))
        elif in_recovery is False:
            written = _whole(_one(await self._ask(session, WRITTEN), 1)[0])
        senders = None if standby is not None else await self._senders(session)
        return Look(at_s=at_s, in_recovery=in_recovery, written=written, standby=standby, senders=senders)

    async def _senders(self, session: PostgresSession) -> tuple[Sender, ...] | None:
        rows = await self._ask(session, SENDERS)
        return None if rows is None else tuple(sender_of(row) for row in rows if len(row) == 7)

    async def _ask(self, session: PostgresSession, sql: str) -> tuple[Row, ...] | None:
        """None where the server refuses this question; the next one finds the session of use."""
        statement = read_only(f"SET LOCAL statement_timeout = {STATEMENT_TIMEOUT_MS}; {sql}")
        try:
            return (await session.query(statement, self._deadline())).rows
        except NetworkFailure as error:
            if error.failure.kind is not FailureKind.SERVER:
                raise
            if error.failure not in self._refused:
                self._refused.append(error.failure)
            await session.query("ROLLBACK", self._deadline())  # a failed transaction refuses everything else
            return None


def _local(detail: str) -> Failure:
    return Failure(kind=FailureKind.LOCAL, operation="startup", detail=clean_text(detail))


PROBE = Probe(
    name="replication",
    schema="replication/1",
    summary="Ask a PostgreSQL server what it receives and replays as a standby, or whom it feeds as a primary",
    options=ReplicationOptions,
    measurement=ReplicationMeasurement,
    measure=measure,
)
