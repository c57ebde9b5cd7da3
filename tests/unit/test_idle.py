"""The idle probe: which silences it tries, what it makes of an exchange, and its conversation with a scripted world."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

import pytest

from netdiag.run_file import builtins, convert
from probes.contract import ProbeUnavailable
from probes.exchanges import ConnectFailure, TlsSession
from probes.failures import timed_out
from probes.idle import (
    CARRIED,
    CLOSE_ENOUGH,
    KEEPALIVE_S,
    LOGIN_AFTER_S,
    MOST_STEPS,
    PROBE,
    SLOTS_TO_SPARE,
    IdleEnd,
    IdleMeasurement,
    IdleOptions,
    Ladder,
    end_of,
    measure,
)
from probes.model import Failure, FailureKind, NetworkFailure, Outcome, Secret, Target
from tests.fakes.clock import FakeClock
from tests.fakes.evidence import tcp_info
from tests.fakes.network import ScriptedNetwork, context, failed_handshake, open_handshake
from tests.unit.test_database_probe import OK, Z, error, message

TARGET = Target(host="db.example", address="192.0.2.9", port=5433)
RESET = Failure(kind=FailureKind.RESET, operation="receive", errno="ECONNRESET")
CLOSED = Failure(kind=FailureKind.CLOSED, operation="receive")
SILENCE = timed_out("receive")
LOGIN = IdleOptions(user="app", password=Secret("geheim"))
SEEDS = range(8)


# Which silence next


def climb(timeout_s: float, longest_s: float, *, patience_s: float = 5.0, end: IdleEnd = IdleEnd.SILENT) -> list[float]:
    """Every silence that is tried of a way that forgets after ``timeout_s``."""
    ladder, now, tried = Ladder(longest_s, float(KEEPALIVE_S)), 0.0, []
    while (gap := ladder.next(longest_s - now)) is not None:
        forgotten = gap >= timeout_s
        now += gap + patience_s * forgotten
        tried.append(gap)
        ladder.tell(gap, end if forgotten else IdleEnd.ANSWERED)
    return tried


@pytest.mark.parametrize("seed", SEEDS)
def test_silences_double_while_they_are_survived(seed):
    longest = random.Random(seed).uniform(12.0, 400.0)
    assert climb(2 * longest, longest) == [longest / 4, longest / 2]


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_forgotten_is_narrowed_within_the_time(seed):
    rng = random.Random(seed)
    longest = rng.uniform(16.0, 400.0)
    timeout = rng.uniform(KEEPALIVE_S * 1.5, longest / 4)
    tried = climb(timeout, longest)
    assert len(tried) <= MOST_STEPS
    assert tried[0] == longest / 4
    assert all(KEEPALIVE_S < gap < tried[0] for gap in tried[1:])
    assert sum(tried) + 5.0 * sum(gap >= timeout for gap in tried[:-1]) <= longest + 1e-6


def test_it_stops_when_it_is_close_enough():
    ladder = Ladder(24.0, 2.0)
    ladder.tell(8.0, IdleEnd.SILENT)
    ladder.tell(8.0 / CLOSE_ENOUGH + 0.1, IdleEnd.ANSWERED)
    assert ladder.next(24.0) is None


@pytest.mark.parametrize("end", [IdleEnd.CLOSED, IdleEnd.UNTOLD])
def test_a_peer_that_closes_is_not_asked_longer(end):
    assert len(climb(0.0, 24.0, end=end)) == 1


# What became of the bytes


BEFORE = tcp_info(bytes_acked=9, bytes_received=1)
UNHEARD = replace(BEFORE, unacked=1, total_retrans=4, backoff=3)


@pytest.mark.parametrize(
    ("failure", "after", "end"),
    [
        (None, BEFORE, IdleEnd.ANSWERED),
        (SILENCE, UNHEARD, IdleEnd.SILENT),
        (SILENCE, replace(UNHEARD, bytes_acked=None), IdleEnd.ACKNOWLEDGED),
        (SILENCE, replace(BEFORE, bytes_acked=20), IdleEnd.ACKNOWLEDGED),
        (SILENCE, replace(UNHEARD, sacked=1), IdleEnd.ACKNOWLEDGED),
        (SILENCE, replace(UNHEARD, bytes_received=20), IdleEnd.ACKNOWLEDGED),
        (SILENCE, None, IdleEnd.UNTOLD),
        (RESET, replace(BEFORE, state=7), IdleEnd.RESET),
        (RESET, replace(BEFORE, state=7, bytes_acked=20), IdleEnd.CLOSED),
        (RESET, replace(BEFORE, state=7, bytes_received=20), IdleEnd.CLOSED),
        (replace(RESET, errno="EPIPE"), BEFORE, IdleEnd.CLOSED),
        (CLOSED, BEFORE, IdleEnd.CLOSED),
        (Failure(kind=FailureKind.SERVER, operation="startup", sqlstate="28P01"), BEFORE, IdleEnd.ANSWERED),
        (Failure(kind=FailureKind.LOCAL, operation="wait"), UNHEARD, IdleEnd.UNTOLD),
        (Failure(kind=FailureKind.UNREACHABLE, operation="send"), UNHEARD, IdleEnd.UNTOLD),
    ],
)
def test_what_became_of_the_bytes(failure, after, end):
    assert end_of(failure, BEFORE, after) is end


# A scripted world


READY = message("R", b"\0\0\0\0") + message("K", (4711).to_bytes(4, "big") + b"\0\0\0\1") + Z


def row(*columns: bytes) -> bytes:
    body = b"".join(len(column).to_bytes(4, "big") + column for column in columns)
    return message("D", len(columns).to_bytes(2, "big") + body) + message("C", b"SELECT 1\0") + Z


@dataclass
class World:
    """A server and a way to it. ``forgets_s``: after so long a silence the way drops what comes, or answers by RST."""

    clock: FakeClock
    forgets_s: float = 1e9
    answer: Failure = SILENCE
    closes_s: float = 1e9  # the server's own timeout
    ends_at_s: float = 1e9  # every connection that is older than this moment is gone
    dead_at_s: float = 1e9  # nothing passes from then on, new connections neither
    ssl: bytes = b"S"
    spare: bytes = b"90"
    pid: bytes = b"4711"
    frozen: bool = False
    streams: list[Stream] = field(default_factory=list)

    def open(self, request):
        if self.since() >= self.dead_at_s:
            failure = timed_out("connect")
            raise ConnectFailure(failure, failed_handshake(Outcome.LOST, failure))
        self.streams.append(Stream(self, request.keepalive_s, self.clock.monotonic()))
        return self.streams[-1]

    def since(self) -> float:
        return self.clock.monotonic() - 1000.0


class Stream:
    def __init__(self, world: World, keepalive_s: int | None, now: float) -> None:
        self.world, self.keepalive_s, self.opened, self.last = world, keepalive_s, now, now
        self.handshake = open_handshake()
        self.said: list[bytes] = []
        self.lost = self.closed = False
        self._waiting, self._heard = b"", 0

    @property
    def quiet(self) -> float:
        now = self.world.clock.monotonic() - self.last
        return min(now, self.keepalive_s) if self.keepalive_s else now

    def _carried(self) -> bool:
        world = self.world
        older = self.opened - 1000.0 < world.ends_at_s <= world.since()
        self.lost = self.lost or self.quiet >= world.forgets_s or older or world.since() >= world.dead_at_s
        self.last = world.clock.monotonic()
        self._heard += not self.lost
        return not self.lost

    async def send(self, data: bytes, deadline: float) -> None:
        self.said.append(data)
        if not self._carried():
            return
        self._waiting += self.world_answer(data)

    def world_answer(self, data: bytes) -> bytes:
        if data[4:8] == b"\x04\xd2\x16\x2f":
            return self.world.ssl
        if self.world.frozen:
            return b""
        if data[:1] == b"Q":
            return row(self.world.pid, self.world.spare) if b"pg_backend_pid" in data else message("C", b"SET\0") + Z
        return Z if data[:1] == b"S" else READY if data[4:6] == b"\0\3" else b""

    async def receive(self, limit: int, deadline: float) -> bytes:
        if self.quiet >= self.world.closes_s:
            return b""
        await self._silence(deadline)
        data, self._waiting = self._waiting[:limit], self._waiting[limit:]
        return data

    async def _silence(self, deadline: float) -> None:
        if self.lost and self.world.answer is RESET:
            raise NetworkFailure(RESET)
        if not self._waiting:
            await self.world.clock.sleep(deadline - self.world.clock.monotonic())
            raise NetworkFailure(SILENCE)

    async def start_tls(self, request, deadline: float) -> TlsSession:
        self.said.append(b"ClientHello")
        if self._carried() and not self.world.frozen:
            return TlsSession(version="TLSv1.3", cipher="x", certificate=None)
        self._waiting = b""
        await self._silence(deadline)
        raise AssertionError("it was silent")

    def channel_binding(self) -> bytes | None:
        return None

    def info(self):
        if self.quiet >= self.world.closes_s:
            return tcp_info(state=8)
        return tcp_info(bytes_acked=self._heard, unacked=int(self.lost), total_retrans=4 * self.lost)

    async def close(self) -> None:
        self.closed = True


async def ask(options=None, *, seconds=60.0, target=TARGET, **world):
    clock = FakeClock()
    made = World(clock, **world)
    network = ScriptedNetwork(clock, stream=made.open)
    measurement = await measure(context(network, seconds), target, options or IdleOptions())
    assert all(stream.closed for stream in made.streams), "a connection was left open"
    return made, measurement


def ends(measurement):
    return {c.end for c in measurement.idle}


async def test_a_way_that_remembers():
    world, found = await ask()
    assert ends(found) == {IdleEnd.ANSWERED}
    assert found.control is not None
    assert found.control.end is IdleEnd.ANSWERED
    assert [round(c.idle_s) for c in found.idle] == [6, 12, 23, 24]
    assert not found.fresh
    assert [s.keepalive_s for s in world.streams] == [KEEPALIVE_S, None, None, None, None]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("answer", [SILENCE, RESET])
@pytest.mark.parametrize("ssl", [b"S", b"N"])
async def test_a_way_that_forgets_is_bracketed(seed, answer, ssl):
    timeout = random.Random(seed).uniform(2.5, 20.0)
    _, found = await ask(LOGIN, forgets_s=timeout, answer=answer, ssl=ssl)
    forgotten = [c.idle_s for c in found.idle if c.end in (IdleEnd.SILENT, IdleEnd.RESET)]
    kept = [c.idle_s for c in found.idle if c.end in CARRIED]
    assert len(forgotten) >= 2
    assert max(kept, default=0.0) < timeout <= min(forgotten)
    assert found.control is not None
    assert found.control.end is IdleEnd.ANSWERED
    assert found.fresh
    assert {f.end for f in found.fresh} == {IdleEnd.ANSWERED}


async def test_never_more_than_four_are_held_and_one_beside_them():
    open_now, most = 0, 0

    class Counting(World):
        def open(self, request):
            nonlocal open_now, most
            open_now = sum(not stream.closed for stream in self.streams) + 1
            most = max(most, open_now)
            return super().open(request)

    clock = FakeClock()
    world = Counting(clock, forgets_s=8.0)
    await measure(context(ScriptedNetwork(clock, stream=world.open)), TARGET, IdleOptions())
    assert most <= 6  # two asked at once, each with a fresh one beside it
    assert len(world.streams) <= 3 + 2 * (MOST_STEPS + 2)


async def test_what_ends_every_connection_ends_the_one_with_keepalives_too():
    _, found = await ask(ends_at_s=10.0)
    assert found.control is not None
    assert found.control.end is IdleEnd.SILENT


async def test_a_dead_way_serves_no_fresh_connection():
    _, found = await ask(dead_at_s=20.0)
    assert IdleEnd.SILENT in ends(found)
    assert {f.end for f in found.fresh} == {IdleEnd.UNTOLD}


async def test_a_server_that_closes_is_no_way_that_forgets():
    _, found = await ask(closes_s=10.0)
    assert ends(found) == {IdleEnd.ANSWERED, IdleEnd.CLOSED}


async def test_a_frozen_server_acknowledges():
    _, found = await ask(frozen=True)
    assert ends(found) == {IdleEnd.ACKNOWLEDGED}


async def test_nobody_logs_in_while_the_server_speaks_tls():
    world, found = await ask(LOGIN)
    assert not found.logged_in
    assert {data for stream in world.streams for data in stream.said[1:]} == {b"ClientHello"}


@pytest.mark.parametrize(
    ("options", "said"),
    [(IdleOptions(), "without a user"), (replace(LOGIN, sslmode="require"), "sslmode requires it")],
)
async def test_without_tls_a_user_is_needed_and_the_password_is_not_sent_in_clear_against_sslmode(options, said):
    with pytest.raises(ProbeUnavailable, match=said):
        await ask(options, ssl=b"N")


async def test_a_long_silence_takes_sessions():
    world, found = await ask(replace(LOGIN, seconds=350.0, sslmode="disable"), seconds=400.0, forgets_s=300.0)
    assert found.logged_in
    assert max(c.idle_s for c in found.idle) >= 349
    assert min(c.idle_s for c in found.idle if c.end is IdleEnd.SILENT) >= 300
    assert all(b"tcp_keepalives_idle" in s.said[2] for s in world.streams), "an orphan keeps its slot"


async def test_a_pooler_is_not_told_to_set_anything():
    world, _ = await ask(replace(LOGIN, seconds=60.0, sslmode="disable"), seconds=99.0, pid=b"1")
    assert not any(b"tcp_keepalives" in data for stream in world.streams for data in stream.said)


@pytest.mark.parametrize("spare", [str(SLOTS_TO_SPARE - 1).encode(), b"-1", b"?"])
async def test_the_last_slots_are_left_to_others(spare):
    with pytest.raises(ProbeUnavailable, match="slots to spare"):
        await ask(replace(LOGIN, seconds=60.0, sslmode="disable"), seconds=99.0, spare=spare)


async def test_a_long_silence_needs_a_user():
    with pytest.raises(ProbeUnavailable, match="takes a user"):
        await ask(IdleOptions(seconds=LOGIN_AFTER_S + 1), seconds=99.0)


async def test_without_a_port_or_without_time_nothing_is_opened():
    with pytest.raises(ProbeUnavailable, match="no port"):
        await ask(target=replace(TARGET, port=None))
    with pytest.raises(ProbeUnavailable, match="no time"):
        await ask(seconds=10.0)


async def test_a_port_that_does_not_answer_is_data():
    _, found = await ask(dead_at_s=0.0)
    assert found.failure is not None
    assert found.idle == ()


async def test_a_server_that_is_no_postgresql_is_data():
    _, found = await ask(ssl=b"HTTP/1.1 400")
    assert found.failure is not None
    assert found.failure.kind is FailureKind.PROTOCOL


async def test_the_runs_end_is_no_silence():
    _, found = await ask(IdleOptions(seconds=24.0, patience_s=5.0), seconds=30.0, forgets_s=8.0)
    assert found.longest_s == 20.0
    assert all(c.end in (IdleEnd.SILENT, IdleEnd.ANSWERED, IdleEnd.UNTOLD) for c in found.idle)


async def test_it_survives_a_saved_run():
    _, found = await ask(LOGIN, forgets_s=9.0)
    assert convert(builtins(found), IdleMeasurement) == found
    assert (PROBE.name, PROBE.schema) == ("idle", "idle/1")
    assert PROBE.takes_s is not None
    assert PROBE.takes_s(LOGIN) > LOGIN.seconds


async def test_the_servers_refusal_of_a_login_is_an_answer():
    class Refusing(Stream):
        def world_answer(self, data):
            return error("28P01") if data[4:6] == b"\0\3" else super().world_answer(data)

    class Guarded(World):
        def open(self, request):
            self.streams.append(Refusing(self, request.keepalive_s, self.clock.monotonic()))
            return self.streams[-1]

    clock = FakeClock()
    world = Guarded(clock, ssl=b"N")
    found = await measure(context(ScriptedNetwork(clock, stream=world.open)), TARGET, LOGIN)
    assert ends(found) == {IdleEnd.ANSWERED}
    assert OK in READY
