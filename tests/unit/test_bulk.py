"""The bulk probe: how much it asks for, what it makes of a silence, and its conversation with a scripted world."""

from __future__ import annotations

import itertools
import random
import re
from dataclasses import dataclass, field, replace

import pytest

from netdiag.run_file import builtins, convert
from probes.bulk import (
    FIRST_BYTES,
    LARGEST_BYTES,
    MEBIBYTE,
    MOST_MEBIBYTES,
    MOST_POINTS,
    PROBE,
    ROW_BYTES,
    SUSPECT_S,
    BulkEnd,
    BulkMeasurement,
    BulkOptions,
    Pace,
    Ramp,
    bulk_sql,
    failed_end,
    measure,
    stalled_end,
)
from probes.contract import ProbeUnavailable
from probes.exchanges import ConnectFailure
from probes.failures import timed_out
from probes.model import Failure, FailureKind, NetworkFailure, Outcome, Secret, Target
from tests.fakes.clock import FakeClock
from tests.fakes.evidence import tcp_info
from tests.fakes.network import ScriptedNetwork, context, failed_handshake, open_handshake
from tests.unit.test_database_probe import Z, error, message
from tests.unit.test_idle import READY

TARGET = Target(host="db.example", address="192.0.2.9", port=5433)
LOGIN = BulkOptions(user="app", password=Secret("geheim"), sslmode="disable", mebibytes=2)
RESET = Failure(kind=FailureKind.RESET, operation="receive", errno="ECONNRESET")
SEEDS = range(8)


# How much next


def climb(total: int, rate: float, seconds: float) -> list[int]:
    """Every size that is asked for of a way that carries ``rate`` bytes in a second."""
    ramp, left, asked = Ramp(total), seconds, []
    while (size := ramp.next(left)) is not None:
        asked.append(size)
        left -= size / rate
        ramp.tell(size, size / rate)
    return asked


@pytest.mark.parametrize("seed", SEEDS)
def test_a_fast_way_is_asked_for_all_of_it_in_doubled_steps(seed):
    total = random.Random(seed).randint(1, 64 * MEBIBYTE)
    asked = climb(total, 1e12, 20.0)
    assert sum(asked) == total
    assert max(asked) <= LARGEST_BYTES
    assert all(later <= 2 * earlier for earlier, later in itertools.pairwise(asked))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_slow_way_is_left_with_nothing_under_way(seed):
    rng = random.Random(seed)
    rate, seconds = 10 ** rng.uniform(4.2, 6.5), rng.uniform(10.0, 60.0)
    asked = climb(MOST_MEBIBYTES * MEBIBYTE, rate, seconds)
    assert asked[0] == FIRST_BYTES
    assert sum(asked) / rate <= max(seconds, FIRST_BYTES / rate)


def test_rows_cover_what_is_asked_for_and_touch_no_table():
    sql = bulk_sql(FIRST_BYTES, "netdiag-0")
    rows = int(re.findall(r"generate_series\(1, (\d+)\)", sql)[0])
    assert FIRST_BYTES <= rows * ROW_BYTES < FIRST_BYTES + ROW_BYTES
    assert sql.startswith("BEGIN READ ONLY; SELECT")


@pytest.mark.parametrize("seed", SEEDS)
def test_progress_is_kept_in_few_points_and_ends_with_the_last(seed):
    rng = random.Random(seed)
    pace, now, total = Pace(0.0), 0.0, 0
    gaps = [rng.expovariate(50.0) for _ in range(rng.randint(1, 5000))]
    for gap in gaps:
        now += gap
        total += (count := rng.randint(1, 9000))
        pace.tell(now, count)
    points = pace.points()
    assert len(points) <= MOST_POINTS
    assert points == sorted(points)
    assert points[-1] == (now, total)
    assert pace.pause_s == pytest.approx(max(gaps), rel=1e-6)


def test_the_time_before_a_question_is_no_pause():
    pace = Pace(0.0)
    pace.tell(1.0, 5)
    pace.ask(9.0)
    pace.tell(9.5, 5)
    assert pace.pause_s == 1.0


BEFORE = tcp_info(bytes_acked=9)
UNHEARD = replace(BEFORE, unacked=1, total_retrans=4)


@pytest.mark.parametrize(
    ("before", "after", "end"),
    [
        (BEFORE, UNHEARD, BulkEnd.SILENT),
        (BEFORE, replace(UNHEARD, sacked=1), BulkEnd.ACKNOWLEDGED),
        (BEFORE, replace(UNHEARD, bytes_acked=12), BulkEnd.ACKNOWLEDGED),
        (BEFORE, replace(BEFORE, bytes_acked=14), BulkEnd.ACKNOWLEDGED),
        (BEFORE, None, BulkEnd.UNTOLD),
        (None, UNHEARD, BulkEnd.UNTOLD),
    ],
)
def test_whether_a_silence_was_acknowledged(before, after, end):
    assert stalled_end(before, after) is end


@pytest.mark.parametrize(
    ("failure", "end"),
    [
        (RESET, BulkEnd.RESET),
        (replace(RESET, errno="EPIPE"), BulkEnd.CLOSED),
        (Failure(kind=FailureKind.CLOSED, operation="query"), BulkEnd.CLOSED),
        (Failure(kind=FailureKind.SERVER, operation="query", sqlstate="57014"), BulkEnd.REFUSED),
        (Failure(kind=FailureKind.LOCAL, operation="query"), BulkEnd.UNTOLD),
    ],
)
def test_what_ended_it(failure, end):
    assert failed_end(failure) is end


# A scripted world


def rows(*found: tuple[bytes, ...]) -> bytes:
    made = b""
    for columns in found:
        body = b"".join(len(column).to_bytes(4, "big") + column for column in columns)
        made += message("D", len(columns).to_bytes(2, "big") + body)
    return made + message("C", b"SELECT 1\0") + Z


@dataclass
class World:
    """A server, and a way that carries ``rate`` bytes in a second and stops each connection after ``stops_at``."""

    clock: FakeClock
    rate: float = 5e6
    stops_at: tuple[int, ...] = ()  # by the connections that read; the last for all that follow
    answer: Failure | None = None  # instead of silence
    acknowledges: bool = False
    wait: tuple[bytes, ...] | None = (b"active", b"Client", b"ClientWrite")
    mute_beside: bool = False
    pauses_s: float = 0.0  # once, after the first piece
    refuses: str | None = None
    streams: list[Stream] = field(default_factory=list)

    def open(self, request):
        if self.mute_beside and self.streams:
            failure = timed_out("connect")
            raise ConnectFailure(failure, failed_handshake(Outcome.LOST, failure))
        self.streams.append(Stream(self))
        return self.streams[-1]

    def limit(self, stream: Stream) -> int:
        readers = [other for other in self.streams if other.reads]
        return self.stops_at[min(readers.index(stream), len(self.stops_at) - 1)] if self.stops_at else 1 << 60


class Stream:
    def __init__(self, world: World) -> None:
        self.world, self.handshake = world, open_handshake()
        self.said: list[bytes] = []
        self.reads = self.closed = False
        self._waiting, self._bulk, self._carried, self._poked = b"", 0, 0, 0

    async def send(self, data: bytes, deadline: float) -> None:
        self.said.append(data)
        self._poked += data == b"S\0\0\0\x04"
        sized = re.search(rb"generate_series\(1, (\d+)\)", data)
        if sized and self.world.refuses:
            self._waiting += error(self.world.refuses) + Z
        elif sized:
            self.reads = True
            self._waiting += rows(*[(b"x" * ROW_BYTES,)] * int(sized[1]))
        elif data[:1] == b"S":
            self._waiting += Z
        else:
            self._waiting += self._small(data)

    def _small(self, data: bytes) -> bytes:
        if b"wait_event" in data:
            return rows(self.world.wait) if self.world.wait else rows()
        return rows((b"t",)) if data[:1] == b"Q" else READY if data[4:6] == b"\0\3" else b""

    async def receive(self, limit: int, deadline: float) -> bytes:
        clock, world = self.world.clock, self.world
        left = world.limit(self) - self._carried if self.reads else 1 << 60
        if self._carried > 65536 and world.pauses_s:
            world.pauses_s -= (slept := min(world.pauses_s, deadline - clock.monotonic()))
            await clock.sleep(slept)
            raise NetworkFailure(timed_out("receive"))
        data, self._waiting = self._waiting[: min(limit, max(0, left))], self._waiting[min(limit, max(0, left)) :]
        if data:
            self._carried += len(data) * self.reads
            await clock.sleep(len(data) / world.rate * self.reads)
            return data
        if world.answer is not None and left <= 0:
            raise NetworkFailure(world.answer)
        await clock.sleep(max(0.0, deadline - clock.monotonic()))
        raise NetworkFailure(timed_out("receive"))

    @property
    def stopped(self) -> bool:
        return self.reads and self._carried >= self.world.limit(self)

    def info(self):
        lost = self.stopped and self._poked and not self.world.acknowledges
        return tcp_info(bytes_acked=len(self.said) - (self._poked if lost else 0), unacked=int(lost), total_retrans=0)

    def channel_binding(self) -> bytes | None:
        return None

    async def close(self) -> None:
        self.closed = True


async def ask(options=LOGIN, *, seconds=90.0, target=TARGET, **world):
    clock = FakeClock()
    made = World(clock, **world)
    measurement = await measure(context(ScriptedNetwork(clock, stream=made.open), seconds), target, options)
    assert all(stream.closed for stream in made.streams), "a connection was left open"
    return made, measurement


async def test_a_way_that_carries_all_of_it():
    world, found = await ask()
    (read,) = found.reads
    assert read.end is BulkEnd.COMPLETE
    assert read.moved >= 2 * MEBIBYTE
    assert found.beside == ()
    assert len(world.streams) == 1
    assert world.streams[0].said[-1][:1] == b"X"


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("acknowledges", [False, True])
async def test_a_way_that_stops_after_an_amount_is_asked_twice(seed, acknowledges):
    amount = random.Random(seed).randint(20_000, MEBIBYTE)
    world, found = await ask(stops_at=(amount,), acknowledges=acknowledges)
    assert [r.end for r in found.reads] == [BulkEnd.ACKNOWLEDGED if acknowledges else BulkEnd.SILENT] * 2
    assert [r.moved for r in found.reads] == [amount] * 2
    assert all(LOGIN.patience_s <= r.silent_s < LOGIN.patience_s + 2 for r in found.reads)
    assert all(a.wait_event == "ClientWrite" for r in found.reads for a in r.activity)
    assert all(r.activity for r in found.reads)
    assert all(b.failure is None for b in found.beside)
    assert len(world.streams) == 3
    ended = [data for stream in world.streams for data in stream.said if b"pg_terminate_backend" in data]
    assert len(ended) == 2, "a server's session is left to wait for nobody"
    assert all(b"usename = current_user" in data for data in ended)


async def test_the_second_read_is_carried_farther_where_the_way_allows():
    _, found = await ask(stops_at=(300_000, 1 << 60))
    assert [r.end for r in found.reads] == [BulkEnd.SILENT, BulkEnd.COMPLETE]
    assert found.reads[1].moved > found.reads[0].moved


async def test_a_pause_that_ends_is_no_stall():
    _, found = await ask(pauses_s=2 * SUSPECT_S)
    assert found.reads[0].end is BulkEnd.COMPLETE
    assert found.reads[0].longest_pause_s >= SUSPECT_S


async def test_a_reset_is_repeated():
    _, found = await ask(stops_at=(200_000,), answer=RESET)
    assert [r.end for r in found.reads] == [BulkEnd.RESET] * 2
    assert found.beside


async def test_an_interruption_answers_no_small_question():
    _, found = await ask(stops_at=(200_000,), mute_beside=True)
    assert len(found.reads) == 1
    assert found.beside
    assert all(b.failure is not None for b in found.beside)


async def test_a_slow_way_ends_with_nothing_to_cancel():
    world, found = await ask(replace(LOGIN, mebibytes=64), rate=50_000.0)
    assert found.reads[0].end is BulkEnd.UNFINISHED
    assert found.reads[0].moving_s <= LOGIN.seconds
    assert len(world.streams) == 1


async def test_what_does_not_end_in_time_is_cancelled():
    world, found = await ask(rate=900.0)
    assert found.reads[0].end is BulkEnd.UNFINISHED
    assert any(b"pg_cancel_backend" in data for data in world.streams[1].said)


async def test_the_servers_own_word_is_kept():
    _, found = await ask(refuses="57014")
    (read,) = found.reads
    assert read.end is BulkEnd.REFUSED
    assert read.failure is not None
    assert read.failure.sqlstate == "57014"


async def test_the_runs_end_is_no_stall():
    _, found = await ask(seconds=34.5, stops_at=(4_000_000,), rate=180_000.0, options=replace(LOGIN, mebibytes=8))
    assert all(r.end in (BulkEnd.UNTOLD, BulkEnd.SILENT, BulkEnd.UNFINISHED) for r in found.reads)
    assert found.reads[0].end is BulkEnd.UNFINISHED


@pytest.mark.parametrize(
    ("options", "target", "seconds", "said"),
    [
        (BulkOptions(), TARGET, 90.0, "takes a login"),
        (LOGIN, replace(TARGET, port=None), 90.0, "no port"),
        (LOGIN, TARGET, 10.0, "were left"),
        (replace(LOGIN, mebibytes=MOST_MEBIBYTES + 1), TARGET, 90.0, "not read"),
    ],
)
async def test_what_it_does_not_begin_with(options, target, seconds, said):
    with pytest.raises(ProbeUnavailable, match=said):
        await ask(options, target=target, seconds=seconds)


async def test_it_survives_a_saved_run():
    _, found = await ask(stops_at=(90_000,))
    assert convert(builtins(found), BulkMeasurement) == found
    assert (PROBE.name, PROBE.schema) == ("bulk", "bulk/1")
    assert PROBE.takes_s is not None
    assert PROBE.takes_s(LOGIN) > 2 * LOGIN.patience_s
