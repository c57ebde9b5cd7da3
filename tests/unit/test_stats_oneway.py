"""Offset, one-way delay and loss by direction: exchanges whose truth is set beforehand."""

from __future__ import annotations

import random

import pytest

from probes.stats.oneway import (
    FourStamps,
    SplitLoss,
    clock_offset,
    forward_delays,
    reverse_delays,
    split_loss,
)

MS = 1_000_000


def exchange(sequence: int, forward_ms: float, reverse_ms: float, offset_ms: float = 0.0, held_ms: float = 0.1):
    """Sent at 100 ms times its sequence by the sender's clock; the reflector's is ahead by ``offset_ms``."""
    t1 = sequence * 100 * MS
    t2 = t1 + round((forward_ms + offset_ms) * MS)
    t3 = t2 + round(held_ms * MS)
    t4 = t1 + round((forward_ms + held_ms + reverse_ms) * MS)
    return FourStamps(sequence=sequence, reflector_sequence=sequence, t1_ns=t1, t2_ns=t2, t3_ns=t3, t4_ns=t4)


def test_one_exchange_by_hand():
    one = exchange(0, 30, 20, offset_ms=1000)
    assert one.delay_ns == 50 * MS
    assert one.offset_ns == 1005 * MS
    offset = clock_offset([one])
    assert offset.ns == 1005 * MS
    assert offset.uncertainty_s == pytest.approx(0.025), "all of the delay might be in one direction"


def test_nothing_answered_has_no_offset():
    assert clock_offset([]) is None


def test_queues_disturb_neither_offset_nor_the_other_direction():
    """25 ms each way, forward queue of up to 80 ms in most exchanges; the clock is 3.2 s behind."""
    source = random.Random(8762)
    queue = {n: 0.0 if n % 7 == 0 else source.uniform(1, 80) for n in range(70)}
    exchanges = [exchange(n, 25 + queue[n], 25, offset_ms=-3200) for n in queue]
    offset = clock_offset(exchanges)
    assert offset.ns == -3200 * MS
    forward, reverse = forward_delays(exchanges, offset), reverse_delays(exchanges, offset)
    for n in queue:
        assert forward[n] == pytest.approx((25 + queue[n]) / 1000, abs=1e-9)
        assert reverse[n] == pytest.approx(0.025, abs=1e-9)


@pytest.mark.parametrize(("forward_ms", "reverse_ms"), [(10, 10), (40, 5), (1, 60)])
def test_the_true_offset_and_delays_are_within_the_uncertainty(forward_ms, reverse_ms):
    exchanges = [exchange(n, forward_ms, reverse_ms, offset_ms=500) for n in range(20)]
    offset = clock_offset(exchanges)
    assert abs(offset.ns / 1e9 - 0.5) <= offset.uncertainty_s
    assert abs(forward_delays(exchanges, offset)[0] - forward_ms / 1000) <= offset.uncertainty_s


def test_split_by_hand():
    """Of 0..9: 2 and 3 die on the way out, the replies to 5 and 6 on the way back, 9 somewhere."""
    replies = [(0, 0), (1, 1), (4, 2), (7, 5), (8, 6)]
    assert split_loss(10, replies) == SplitLoss(
        forward_sent=9, forward_lost=2, reverse_sent=7, reverse_lost=2, unattributed=1
    )


def test_duplicates_are_no_packets():
    """1 was doubled on the way out, the reply to 2 on the way back."""
    assert split_loss(3, [(0, 0), (1, 1), (1, 2), (2, 3), (2, 3)]) == SplitLoss(
        forward_sent=3, forward_lost=0, reverse_sent=3, reverse_lost=0, unattributed=0
    )


@pytest.mark.parametrize("replies", [[], [(0, 50)], [(3, 0), (5, 0), (6, 1)]])
def test_counters_that_cannot_be_this_sessions_tell_nothing(replies):
    assert split_loss(10, replies) is None


@pytest.mark.parametrize("seed", range(20))
def test_a_simulated_path_is_split_as_it_lost(seed):
    source = random.Random(seed)
    forward, reverse = source.uniform(0, 0.4), source.uniform(0, 0.4)
    out = [source.random() >= forward for _ in range(300)]
    back = [source.random() >= reverse for _ in range(300)]
    counter, replies, last = 0, [], 0
    for n in range(300):
        if out[n]:
            if back[n]:
                replies.append((n, counter))
                last = n
            counter += 1
    source.shuffle(replies)
    split = split_loss(300, replies)
    assert split.forward_lost == out[: last + 1].count(False)
    assert split.reverse_lost == sum(o and not b for o, b in zip(out[: last + 1], back, strict=False))
    assert split.unattributed == 299 - last
