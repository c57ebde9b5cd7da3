"""The link emulator's arithmetic and chance, against formulas. No sockets, and time is a number."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby, pairwise
from random import Random, SystemRandom

import pytest

from netdiag.lab.emulator import Direction, DropReason, LinkSettings, Window

FRAMES = 60_000
SIGMAS = 5.0  # one false alarm in 1.7 million


@pytest.fixture
def dice() -> Iterator[Random]:
    seed = SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")  # noqa: T201
    return Random(seed)


def direction(*settings: LinkSettings, seed: int = 1, now: float = 0.0) -> Direction:
    made = Direction("left-to-right", seed)
    made.put_in_force(settings, now=now)
    return made


def losses(way: Direction, count: int = FRAMES) -> list[bool]:
    return [way.offer(100, n * 1e-3) is DropReason.LOSS for n in range(count)]


def due(way: Direction, now: float, length: int = 1000) -> float:
    (when,) = way.offer(length, now)
    return when


def test_a_plain_wire_lets_everything_pass_at_once() -> None:
    way = Direction("left-to-right", 1)
    assert [way.offer(1514, t, 1500) for t in (1.0, 2.0)] == [(1.0,), (2.0,)]


def test_independent_loss_has_the_set_ratio_and_no_memory(dice: Random) -> None:
    loss = dice.uniform(0.005, 0.5)
    lost = losses(direction(LinkSettings(loss=loss), seed=dice.getrandbits(32)))
    assert sum(lost) / FRAMES == pytest.approx(loss, abs=SIGMAS * math.sqrt(loss * (1 - loss) / FRAMES))
    after_loss = [here for before, here in pairwise(lost) if before]
    error = SIGMAS * math.sqrt(loss * (1 - loss) / len(after_loss))
    assert sum(after_loss) / len(after_loss) == pytest.approx(loss, abs=error)


def test_gilbert_loss_has_the_set_ratio_and_mean_burst(dice: Random) -> None:
    loss, burst = dice.uniform(0.02, 0.3), dice.uniform(2.0, 15.0)
    lost = losses(direction(LinkSettings(loss=loss, burst=burst), seed=dice.getrandbits(32)))
    leave = 1 / burst
    enter = loss * leave / (1 - loss)
    # Effective sample size of a two-state chain with lag-one correlation 1 - p - r.
    independent = FRAMES * (enter + leave) / (2 - enter - leave)
    assert sum(lost) / FRAMES == pytest.approx(loss, abs=SIGMAS * math.sqrt(loss * (1 - loss) / independent))
    runs = [len(list(run)) for bad, run in groupby(lost) if bad]
    geometric = math.sqrt(1 - leave) / leave
    assert sum(runs) / len(runs) == pytest.approx(burst, abs=SIGMAS * geometric / math.sqrt(len(runs)))


def test_elliott_loses_only_part_of_a_bad_spell(dice: Random) -> None:
    loss, inside, burst = dice.uniform(0.02, 0.2), dice.uniform(0.4, 0.9), dice.uniform(3.0, 10.0)
    lost = losses(direction(LinkSettings(loss=loss, burst=burst, burst_loss=inside), seed=dice.getrandbits(32)))
    bad, leave = loss / inside, 1 / burst
    enter = bad * leave / (1 - bad)
    independent = FRAMES * (enter + leave) / (2 - enter - leave)
    assert sum(lost) / FRAMES == pytest.approx(loss, abs=SIGMAS * math.sqrt(loss / independent))
    # P(lost | the one before was lost) = P(the spell goes on) * ratio inside.
    again = (1 - leave) * inside
    after_loss = [here for before, here in pairwise(lost) if before]
    error = SIGMAS * math.sqrt(again * (1 - again) / len(after_loss))
    assert sum(after_loss) / len(after_loss) == pytest.approx(again, abs=error)


def test_total_loss_loses_everything() -> None:
    assert all(losses(direction(LinkSettings(loss=1.0)), 1000))


def test_the_seed_decides_the_pattern_and_a_new_setting_starts_it_anew(dice: Random) -> None:
    seed, settings = dice.getrandbits(32), LinkSettings(loss=0.3)
    way = direction(settings, seed=seed)
    first = losses(way, 500)
    assert first == losses(direction(settings, seed=seed), 500)
    assert first != losses(direction(settings, seed=seed + 1), 500)
    way.put_in_force([settings], now=9.0)
    assert losses(way, 500) == first
    way.put_in_force([settings], now=9.0, seed=seed + 1)
    assert losses(way, 500) == losses(direction(settings, seed=seed + 1), 500)


def test_the_two_directions_of_one_seed_differ() -> None:
    there, back = Direction("left-to-right", 5), Direction("right-to-left", 5)
    for way in (there, back):
        way.put_in_force([LinkSettings(loss=0.5)], now=0.0)
    assert losses(there, 200) != losses(back, 200)


def test_the_pattern_of_loss_does_not_depend_on_the_other_stations() -> None:
    plain = LinkSettings(loss=0.2)
    busy = replace(plain, jitter_s=0.01, duplicate=0.5, reorder=0.5)
    assert losses(direction(plain), 2000) == losses(direction(busy), 2000)


def test_the_rate_is_a_transmitter_that_sends_one_frame_at_a_time(dice: Random) -> None:
    rate, delay = dice.uniform(1e5, 1e8), dice.uniform(0.0, 0.1)
    way = direction(LinkSettings(rate_bps=rate, delay_s=delay))
    lengths = [dice.randrange(60, 1515) for _ in range(50)]
    leaves = [due(way, 10.0, length) for length in lengths]
    expected = [10.0 + 8 * sum(lengths[: n + 1]) / rate + delay for n in range(50)]
    assert leaves == pytest.approx(expected, rel=1e-9)


def test_an_idle_transmitter_saves_nothing_up() -> None:
    way = direction(LinkSettings(rate_bps=8e6))
    assert due(way, 1.0) == pytest.approx(1.001)
    assert due(way, 5.0) == pytest.approx(5.001)


def test_a_full_queue_drops_and_drains_at_the_rate() -> None:
    way = direction(LinkSettings(rate_bps=8e6, queue_bytes=10_000))  # 1,000 bytes per millisecond
    outcomes = [way.offer(1000, 0.0) for _ in range(15)]
    assert [o is DropReason.QUEUE for o in outcomes] == [False] * 10 + [True] * 5
    assert way.offer(1000, 0.0009) is DropReason.QUEUE
    assert way.offer(1000, 0.0011) == pytest.approx((0.011,))


def test_overload_passes_exactly_the_rate(dice: Random) -> None:
    rate, load = dice.uniform(1e6, 1e7), dice.uniform(1.3, 3.0)
    way = direction(LinkSettings(rate_bps=rate, queue_bytes=20_000))
    step = 8 * 1000 / rate / load
    passed = sum(not isinstance(way.offer(1000, n * step), DropReason) for n in range(20_000))
    assert passed / 20_000 == pytest.approx(1 / load, rel=0.01)


def test_delay_and_jitter_stay_within_their_bounds_and_fill_them(dice: Random) -> None:
    delay, jitter = dice.uniform(0.0, 0.2), dice.uniform(0.001, 0.05)
    way = direction(LinkSettings(delay_s=delay, jitter_s=jitter), seed=dice.getrandbits(32))
    extra = [due(way, float(n)) - n - delay for n in range(5000)]  # a second apart: order never forces a wait
    assert min(extra) >= -1e-9
    assert max(extra) <= jitter + 1e-9
    spread = jitter / math.sqrt(12)
    assert sum(extra) / 5000 == pytest.approx(jitter / 2, abs=SIGMAS * spread / math.sqrt(5000))


def test_jitter_keeps_the_order() -> None:
    way = direction(LinkSettings(delay_s=0.01, jitter_s=0.02))
    leaves = [due(way, n * 1e-3) for n in range(2000)]
    assert leaves == sorted(leaves)


def test_ip_packets_above_the_size_vanish_and_nothing_else_does() -> None:
    way = direction(LinkSettings(mtu_drop_bytes=1400))
    assert way.offer(1414, 0.0, 1400) == (0.0,)
    assert way.offer(1415, 0.0, 1401) is DropReason.TOO_BIG
    assert way.offer(1514, 0.0, None) == (0.0,)


def test_duplicates_leave_with_their_original(dice: Random) -> None:
    ratio = dice.uniform(0.05, 0.9)
    way = direction(LinkSettings(duplicate=ratio, delay_s=0.5), seed=dice.getrandbits(32))
    outcomes = [way.offer(100, float(n)) for n in range(20_000)]
    twice = sum(o == (n + 0.5, n + 0.5) for n, o in enumerate(outcomes))
    assert twice + sum(o == (n + 0.5,) for n, o in enumerate(outcomes)) == 20_000
    assert twice / 20_000 == pytest.approx(ratio, abs=SIGMAS * math.sqrt(ratio * (1 - ratio) / 20_000))
    assert way.counters().duplicated == twice


def test_held_back_frames_are_counted_when_later_ones_have_passed(dice: Random) -> None:
    way = direction(LinkSettings(reorder=0.1, reorder_s=0.0155, delay_s=0.02), seed=dice.getrandbits(32))
    leaves = [(due(way, n * 1e-3), n + 1) for n in range(20_000)]
    held = sum(when > (n - 1) * 1e-3 + 0.03 for when, n in leaves)
    # RFC 4737: late is what a frame sent later has overtaken.
    late = sum(any(later < when for later, _ in leaves[n : n + 20]) for when, n in leaves)
    assert held / 20_000 == pytest.approx(0.1, abs=SIGMAS * math.sqrt(0.09 / 20_000))
    for _, ordinal in sorted(leaves):
        way.left(ordinal, 100)
    assert way.counters().reordered == late
    assert held - 15 <= late <= held  # the last ones have nobody behind them


def test_a_window_is_bad_for_its_part_of_every_period(dice: Random) -> None:
    start, offset = dice.uniform(0, 1e5), dice.uniform(0, 20)
    usual = LinkSettings(delay_s=0.025)
    fault = replace(usual, loss=1.0, window=Window(period_s=30, on_s=10, offset_s=offset))
    way = direction(usual, fault, now=start)
    for tenth in range(1, 1200):
        elapsed = tenth / 10 + 0.05
        bad = elapsed >= offset and (elapsed - offset) % 30 < 10
        outcome = way.offer(100, start + elapsed)
        assert outcome == (DropReason.LOSS if bad else (start + elapsed + 0.025,)), elapsed


def test_outside_of_the_only_window_the_link_is_a_plain_wire() -> None:
    way = direction(LinkSettings(delay_s=1.0, window=Window(period_s=10, on_s=5)))
    assert [due(way, t) for t in (1.0, 6.0, 11.0)] == [2.0, 6.0, 12.0]


def test_new_settings_do_not_wait_for_frames_of_the_old_ones() -> None:
    way = direction(LinkSettings(rate_bps=8000.0, delay_s=1.0))
    assert due(way, 0.0) == 2.0
    way.put_in_force([LinkSettings(delay_s=0.05)], now=0.1)
    assert due(way, 0.2) == pytest.approx(0.25)


def test_frames_that_left_half_a_millisecond_after_their_time_are_counted() -> None:
    way = direction()
    for ordinal, after in enumerate((0.0, 4e-4, 6e-4, 0.1), 1):
        way.offer(100, 1.0)
        way.left(ordinal, 100, after)
    assert way.counters().late == 2


def test_the_counters_balance(dice: Random) -> None:
    settings = LinkSettings(loss=0.1, rate_bps=1e6, queue_bytes=5000, duplicate=0.2, mtu_drop_bytes=900)
    way = direction(settings, seed=dice.getrandbits(32))
    under_way = []
    for n in range(5000):
        length = dice.randrange(60, 1000)
        outcome = way.offer(length, n * 3e-3, length - 14)
        if not isinstance(outcome, DropReason):
            under_way += [(n + 1, length)] * len(outcome)
    for ordinal, length in under_way[:-7]:
        way.left(ordinal, length)
    way.gave_up(DropReason.SEND)
    way.refuse(80, DropReason.CHECKSUM)
    way.overrun(3)
    seen = way.counters()
    assert (seen.received, seen.waiting, seen.forwarded) == (5004, 6, len(under_way) - 7)
    assert seen.received + seen.duplicated == seen.forwarded + seen.lost() + seen.waiting
    assert all(seen.dropped[reason] > 0 for reason in DropReason)
