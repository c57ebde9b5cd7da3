"""The echo engine's bookkeeping without a socket: what is due when, what belongs to what, what a clock step does."""

from __future__ import annotations

import random
import struct
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probes.exchanges import EchoRequest, EchoSeries, TimestampSource
from probes.model import Failure, FailureKind, IcmpError, Outcome
from probes.net.engine.flight import Flight
from probes.net.engine.messages import Quoted, Reply, Stamp
from probes.net.engine.moment import Moment, stepped, take_moment
from probes.net.engine.series import Series
from probes.net.sockets import packed_address
from probes.wire.icmp import echo_heads, encode_echo
from tests.fakes.clock import FakeClock

SECOND = 1_000_000_000
EPOCH = 1_700_000_000 * SECOND
TARGET = "192.0.2.1"


class Bench:
    """A series and its flight, on clocks that the test moves. ``step_s`` sets the wall clock on or back."""

    def __init__(self, seed: int = 1, **fields) -> None:
        request = EchoRequest(**{"address": TARGET, "count": 4, "interval_s": 0.2, "timeout_s": 1.0, **fields})
        self.now, self.step_s = 100.0, 0.0
        self.flight = Flight()
        self.series = Series(request, self.now, random.Random(seed))

    def moment(self, now: float | None = None) -> Moment:
        at = self.now if now is None else now
        return Moment(at, EPOCH + round((at + self.step_s) * SECOND))

    def send(self) -> None:
        self.now = max(self.now, self.series.due)
        self.flight.sent(self.series.sent(self.moment()))

    def stamp(self, number: int, after_s: float = 0.00001) -> None:
        self.flight.stamps([Stamp(number, self.moment(self.now + after_s).wall_ns)])

    def reply(self, sequence: int, *, stamped: bool = True, read_after_s: float = 0.0, **changes) -> bool:
        """Received now, read a little later."""
        stamp_ns = self.moment().wall_ns if stamped else None
        fields = {
            "sequence": sequence,
            "source": packed_address(TARGET),
            "payload": self.series.payload,
            "stamp_ns": stamp_ns,
        }
        return self.flight.reply(Reply(**{**fields, **changes}), self.moment(self.now + read_after_s)) is not None

    def result(self) -> EchoSeries:
        return self.series.result("datagram", TimestampSource.KERNEL_RX_TX)


def outcomes(series: EchoSeries) -> list[Outcome]:
    return [sample.outcome for sample in series.samples]


def test_each_reply_settles_its_own_echo_and_the_stamps_time_it():
    bench = Bench()
    delays = [0.01, 0.02, 0.03, 0.04]
    for sequence, delay_s in enumerate(delays):
        bench.send()
        bench.stamp(sequence, 0.0005)
        bench.now += delay_s + 0.0005
        assert bench.reply(sequence, read_after_s=0.015)  # lazily read: of no consequence
    found = bench.result()
    assert bench.series.finished
    assert [sample.rtt_s for sample in found.samples] == pytest.approx(delays)
    assert found.timestamp_source is TimestampSource.KERNEL_RX_TX


def test_late_is_not_lost_and_the_rest_is():
    bench = Bench(timeout_s=0.5)
    for _ in range(4):
        bench.send()
    bench.now += 0.3
    bench.reply(3)
    bench.now += 0.4
    bench.reply(2)
    assert outcomes(bench.result()) == [Outcome.LOST, Outcome.LOST, Outcome.LATE, Outcome.ANSWERED]
    assert not bench.series.finished
    assert bench.series.deadline == pytest.approx(bench.series.probes[-1].sent.monotonic + 1.0)


@given(st.permutations(range(8)))
def test_reordering_as_rfc_4737_counts_it(order):
    """Reordered: a later one of the sequence had arrived before, compared pair by pair."""
    bench = Bench(count=8)
    for _ in range(8):
        bench.send()
    for sequence in order:
        bench.reply(sequence)
    expected = sum(any(earlier > one for earlier in order[:at]) for at, one in enumerate(order))
    assert bench.result().reordered == expected


def test_duplicates_are_counted_and_change_nothing_else():
    bench = Bench(count=1)
    bench.send()
    bench.now += 0.01
    for _ in range(3):
        bench.reply(0)
        bench.now += 0.1
    found = bench.result()
    assert (found.samples[0].duplicates, found.reordered) == (2, 0)
    assert found.samples[0].rtt_s == pytest.approx(0.01)


@pytest.mark.parametrize(
    "changes",
    [{"source": packed_address("192.0.2.2")}, {"payload": b""}, {"payload": bytes(56)}, {"sequence": 7}],
    ids=["another-source", "no-payload", "another-payload", "another-sequence"],
)
def test_what_is_not_the_answer_settles_nothing(changes):
    bench = Bench(count=1)
    bench.send()
    assert not bench.reply(**{"sequence": 0, **changes})
    assert outcomes(bench.result()) == [Outcome.LOST]


@pytest.mark.parametrize("step_s", [-3600.0, -0.5, 0.5, 3600.0])
@pytest.mark.parametrize("read_after_s", [0.0, 0.02])
def test_a_step_of_the_wall_clock_changes_no_duration(step_s, read_after_s):
    bench = Bench(count=1)
    bench.send()
    bench.stamp(0)
    bench.now += 0.03
    bench.step_s = step_s
    bench.reply(0, read_after_s=read_after_s)
    (sample,) = bench.result().samples
    assert sample.rtt_s == pytest.approx(0.03 + read_after_s)  # our own clock's figure: never less than the truth
    assert bench.result().timestamp_source is TimestampSource.USER


def test_a_small_step_within_a_lazy_reading_is_seen():
    """8 ms on, read 20 ms after it came: the stamps alone would look possible."""
    bench = Bench(count=1)
    bench.send()
    bench.stamp(0)
    bench.now += 0.001
    bench.step_s = 0.008
    bench.reply(0, read_after_s=0.02)
    assert bench.result().timestamp_source is TimestampSource.USER


def test_slewing_is_no_step():
    """adjtime(3): 500 parts in a million."""
    before = Moment(0.0, EPOCH)
    for elapsed in (0.001, 1.0, 60.0):
        assert not stepped(before, Moment(elapsed, EPOCH + round(elapsed * 1.0005 * SECOND)))
        assert stepped(before, Moment(elapsed, EPOCH + round((elapsed * 1.0005 + 0.1) * SECOND)))


def test_without_stamps_the_label_says_so():
    bench = Bench(count=2)
    bench.send()
    bench.now += 0.01
    bench.reply(0)
    assert bench.result().timestamp_source is TimestampSource.KERNEL_RX
    bench.send()
    bench.reply(1, stamped=False)
    assert bench.result().timestamp_source is TimestampSource.USER


def test_a_stamp_from_before_the_packet_is_not_its_own():
    """After a failed send the numbers begin again; a stamp still under way then carries an older packet's number."""
    bench = Bench(count=2)
    bench.send()
    old = bench.moment().wall_ns
    bench.flight.restart_numbers()
    bench.send()
    bench.flight.stamps([Stamp(0, old)])
    assert [probe.transmit_ns for probe in bench.series.probes] == [None, None]


def test_an_icmp_error_settles_the_echo_that_it_quotes():
    bench = Bench(count=3)
    for _ in range(3):
        bench.send()
    icmp = IcmpError(family=4, type=11, code=0, offender="198.51.100.1")
    assert bench.flight.error(Quoted(1, b"", icmp, None), bench.moment()) is bench.series
    assert bench.flight.error(Quoted(2, b"another's", icmp, None), bench.moment()) is None
    assert outcomes(bench.result()) == [Outcome.LOST, Outcome.EXPIRED, Outcome.LOST]


@given(st.integers(0, 2**32), st.floats(0.001, 5), st.integers(2, 60))
def test_spacing_is_jittered_and_never_hasty(seed, interval_s, count):
    bench = Bench(seed, count=count, interval_s=interval_s)
    chance = random.Random(seed)
    times = []
    for _ in range(count):
        bench.now = max(bench.now, bench.series.due) + chance.choice([0.0, 0.0, 3 * interval_s])  # held back by pacing
        bench.flight.sent(bench.series.sent(bench.moment()))
        times.append(bench.now)
    gaps = [after - before for before, after in pairwise(times)]
    assert min(gaps) >= 0.5 * interval_s - 1e-6


def test_jitter_stays_within_a_tenth_of_the_interval_and_the_last_is_on_time():
    offsets = []
    for seed in range(200):
        bench = Bench(seed, count=5, interval_s=1.0)
        for _ in range(5):
            bench.send()
        offsets.append([probe.sent.monotonic - 100.0 - probe.sequence for probe in bench.series.probes])
    assert all(row[0] == 0.0 for row in offsets)
    assert all(abs(offset) <= 0.1 + 1e-9 for row in offsets for offset in row)
    assert max(row[4] for row in offsets) <= 1e-9
    assert max(row[2] for row in offsets) > 0.05 > -0.05 > min(row[2] for row in offsets)


def test_sequence_numbers_go_round_and_the_older_echo_gives_way():
    bench = Bench(count=1)
    bench.send()
    other = Series(EchoRequest(address=TARGET, count=65536, interval_s=0.0), bench.now, random.Random(2))
    for _ in range(65536):
        bench.flight.sent(other.sent(bench.moment()))
    assert len(bench.flight) == 65536
    assert not bench.reply(0), "answered by sequence, but the payload is another series'"
    assert bench.reply(0, payload=other.payload)
    bench.flight.forget(other)
    bench.flight.forget(bench.series)
    assert len(bench.flight) == 0


def test_a_driver_without_transmit_stamps_costs_no_memory_for_each_packet():
    flight = Flight()
    series = Series(EchoRequest(address=TARGET, count=20000, interval_s=0.0), 0.0, random.Random(1))
    for _ in range(20000):
        flight.sent(series.sent(Moment(0.0, EPOCH)))
    flight.stamps([Stamp(0, EPOCH + 1), Stamp(19999, EPOCH + 1)])  # the first was given up long ago
    assert series.probes[0].transmit_ns is None
    assert series.probes[19999].transmit_ns == EPOCH + 1


@given(st.sampled_from([4, 6]), st.integers(0, 65535), st.lists(st.integers(0, 65535), min_size=1), st.binary())
def test_headers_made_in_bulk_are_those_made_one_by_one(family, identifier, sequences, payload):
    head = echo_heads(family, identifier, payload)
    for sequence in sequences:
        bulk, single = head(sequence) + payload, encode_echo(family, identifier, sequence, payload)
        assert bulk[:2] + bulk[4:] == single[:2] + single[4:]
        if family == 4:  # 0 and 0xFFFF are the same number in one's complement
            assert ones_complement_sum(bulk) in (0, 0xFFFF)


def ones_complement_sum(data: bytes) -> int:
    """RFC 1071, the other way round: over a whole packet, checksum included, it is all ones."""
    padded = data + b"\0" * (len(data) % 2)
    return sum(struct.unpack(f"!{len(padded) // 2}H", padded)) % 0xFFFF


def test_what_could_not_be_sent_after_all_is_not_waited_for():
    bench = Bench(count=2)
    for _ in range(2):
        bench.send()
    bench.series.failed(bench.series.probes[1], Failure(kind=FailureKind.LOCAL, operation="send", errno="ENOBUFS"))
    bench.now += 0.01
    bench.reply(0)
    assert bench.series.finished
    assert outcomes(bench.result()) == [Outcome.ANSWERED, Outcome.NOT_SENT]


class HeldUp(FakeClock):
    """Each reading of it is followed by the next of the given pauses."""

    def __init__(self, pauses: list[float]) -> None:
        super().__init__()
        self._pauses = iter(pauses)

    def monotonic(self) -> float:
        before = super().monotonic()
        self.now += next(self._pauses, 0.0)
        return before


def test_a_process_held_up_between_two_clocks_sees_no_step():
    before = take_moment(HeldUp([]))
    clock = HeldUp([0.004, 0.02, 0.0, 0.0])
    after = take_moment(clock)
    assert after.monotonic == pytest.approx(before.monotonic + 0.024)


@pytest.mark.parametrize("count", [0, -1, 65537])
def test_impossible_counts(count):
    with pytest.raises(ValueError, match=str(count)):
        Bench(count=count)
