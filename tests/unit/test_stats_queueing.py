"""A queue told from jitter and from routes, over hundreds of seeded simulations of each."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from math import factorial
from random import Random

import pytest

from netdiag.diagnosis.rules.congestion import Delay, is_queue
from netdiag.diagnosis.rules.link import delay_limit
from probes.stats.queueing import cut_at_releases, losses_when_quick, losses_when_slow, strokes, swing
from tests.unit.queues import NO_QUEUE, SENT, TOKEN_BUCKETS_MS, congested, filling, in_parts, lossy, on_and_off

RUNS = 300


def is_told_a_queue(rtts: Sequence[float | None]) -> bool:
    parts = tuple(map(tuple, in_parts(rtts)))
    sent = tuple(map(tuple, in_parts(SENT[: len(rtts)])))
    floor = min(rtt for rtt in rtts if rtt is not None)
    return is_queue(Delay(method="icmp", parts=parts, sent=sent, evidence=("x",)), delay_limit(floor))


@pytest.mark.parametrize(("share", "stays"), [(0.0, 0.0), (0.1, 0.0), (0.1, 0.7)])
@pytest.mark.parametrize("kind", NO_QUEUE)
def test_what_is_no_queue_is_hardly_ever_told_one(kind: str, share: float, stays: float) -> None:
    """Without loss, with loss at random, and with loss in bursts. Over 2,000 of each: see docs of the rule's page."""
    draws = [Random(f"{kind} {share} {stays} {seed}") for seed in range(RUNS // 3)]
    told = sum(is_told_a_queue(lossy(draw, NO_QUEUE[kind](draw), share, stays)) for draw in draws)
    assert told <= 2


def test_a_queue_that_builds_up_and_drains_is_told_in_half_of_the_runs() -> None:
    """Of 24 s with 120 echoes: the price of hardly ever telling one that is none."""
    told = sum(is_told_a_queue(congested(Random(seed))) for seed in range(RUNS))
    assert told >= 0.4 * RUNS


def test_queues_longer_than_the_gap_between_samples_are_told_mostly_and_shorter_ones_seldom() -> None:
    """Of any length, surplus and duration: what a sample every 200 ms can follow."""
    long, short = ((0.4, 1.5), (0.02, 0.1))
    told = {
        span: sum(is_told_a_queue(on_and_off(Random(seed), *span)) for seed in range(RUNS)) for span in (long, short)
    }
    assert told[long] >= 0.6 * RUNS
    assert told[short] <= 0.2 * RUNS


def test_a_queue_that_fills_before_our_eyes_is_told_mostly() -> None:
    told = sum(is_told_a_queue(filling(Random(seed))) for seed in range(RUNS))
    assert told >= 0.6 * RUNS


@pytest.mark.parametrize(("bucket", "rises", "passages"), [("400 ms", 3, 3), ("250 ms", 0, 6)])
def test_a_real_token_bucket_that_fills_faster_than_samples_come_is_told(
    bucket: str, rises: int, passages: int
) -> None:
    rows = TOKEN_BUCKETS_MS[bucket].split("\n")[1:-1]
    parts = tuple(tuple(max(float(ms), 0.02) / 1000 for ms in row.split()) for row in rows)
    sent = tuple(tuple((0.2 if number else 0.1) * n for n in range(len(part))) for number, part in enumerate(parts))
    found = Delay(method="icmp", parts=parts, sent=sent, evidence=("x",))
    assert is_queue(found, delay_limit(0.00002))
    assert found.swing is not None
    assert (found.swing.rises, found.swing.passages) == (rises, passages)
    assert min(found.swing.rises_chance, found.swing.passages_chance) < 0.0005


TOP, FLOOR = [1.0] * 5, [0.0] * 5


@pytest.mark.parametrize(
    ("climb", "rises"),
    [
        ([0.3, 0.6], 1),
        ([0.3, 0.6, 0.8], 1),
        ([0.5], 0),  # out by one route and back by the other
        ([], 0),
        ([0.5, 0.51], 0),  # a level between
        ([0.6, 0.3], 0),
        ([0.3, 0.6, 0.05], 0),
    ],
)
def test_a_rise_goes_from_the_floor_by_steps_to_a_level_at_the_top(climb: list[float], rises: int) -> None:
    found = swing([FLOOR + climb + TOP])
    assert found is not None
    assert found.rises == rises


@pytest.mark.parametrize(
    ("steps", "passages"),
    [
        ([0.2, 0.5, 0.7, 0.35, 0.85], 10),
        ([0.5] * 5, 0),  # out by one route and back by the other
        ([0.2, 0.5, 0.8, 0.2, 0.5, 0.8], 0),  # three levels between
    ],
)
def test_passages_go_either_way_over_steps_that_keep_to_no_levels(steps: list[float], passages: int) -> None:
    found = swing([[value for step in steps for value in (*FLOOR, step, *TOP, 1.05 - step)] + FLOOR, TOP * 2])
    assert found is not None
    assert found.passages == passages


def test_a_pause_is_no_rise_and_what_lies_anywhere_makes_rises_likely() -> None:
    """Of a pause the first answer waits longest; of jitter samples lie between floor and top at any time."""
    paused = swing([[*FLOOR, 1.0, 0.75, 0.5, 0.25] * 6])
    assert paused is not None
    assert paused.rises == 0
    climbs = swing([[*FLOOR, 0.3, 0.6, *TOP] * 3])
    among = swing([[*FLOOR, 0.3, 0.6, *TOP] * 3 + [0.5, 0.2, 0.7, 0.3] * 12])
    assert climbs is not None
    assert among is not None
    assert climbs.rises == among.rises == 3
    assert climbs.rises_chance < 0.0005 < among.rises_chance


def test_the_neighbour_ratio_is_one_for_independent_samples_and_near_zero_for_a_ramp() -> None:
    found = swing([[float(n) for n in range(40)]])
    assert found is not None
    assert found.neighbour_ratio < 0.1
    ratios = [swing([[Random(f"{s}{n}").random() for n in range(60)]]) for s in range(200)]
    assert abs(sum(r.neighbour_ratio for r in ratios if r) / 200 - 1) < 0.03


def test_samples_of_two_measurements_and_beside_a_loss_are_no_neighbours() -> None:
    whole = swing([[1.0, 5.0, 1.0, 5.0]])
    apart = swing([[1.0], [5.0], [1.0, None, 5.0]])
    assert whole is not None
    assert whole.neighbour_ratio > 1
    assert apart is None


def test_turning_points_of_independent_samples_are_two_of_three() -> None:
    """Bienayme, by counting: of the six orders of three values four have their extreme in the middle."""
    turning = sum((b - a) * (c - b) < 0 for a, b, c in permutations((1, 2, 3)))
    assert turning / factorial(3) == pytest.approx(2 / 3)


@pytest.mark.parametrize("values", [[], [1.0], [2.0] * 30, [2.0] * 30 + [3.0]])
def test_nothing_is_said_of_too_little_or_of_what_never_moves(values: list[float]) -> None:
    assert swing([values]) is None


def lossy_when_slow(draw: Random, rtts: list[float], chance: dict[bool, float]) -> list[list[float | None]]:
    """Loses with the chance that goes with being above the median."""
    middle = sorted(rtts)[len(rtts) // 2]
    return [[None if draw.random() < chance[rtt > middle] else rtt for rtt in part] for part in in_parts(rtts)]


def share_tied(chance: dict[bool, float]) -> float:
    draws = [Random(seed) for seed in range(RUNS)]
    found = [losses_when_slow(lossy_when_slow(draw, congested(draw), chance)) for draw in draws]
    return sum(losses is not None and losses.p_value <= 0.02 for losses in found) / RUNS


def test_losses_of_a_full_queue_are_tied_to_its_delay_and_others_are_not() -> None:
    assert share_tied({False: 0.0, True: 0.3}) >= 0.35
    assert share_tied({False: 0.1, True: 0.1}) <= 0.05


def test_without_a_loss_or_with_hardly_anything_else_nothing_is_said() -> None:
    assert losses_when_slow([[0.1, 0.2, 0.3]]) is None
    assert losses_when_slow([[None, None, 0.3]]) is None
    assert losses_when_slow([[None]]) is None


def test_answers_that_were_let_go_together_tell_of_one_moment() -> None:
    """Sent 200 ms apart, answered at once when the machine went on; a queue's answers keep apart."""
    sent = [0.0, 0.2, 0.4, 0.6, 0.8]
    assert cut_at_releases([0.65, 0.45, 0.25, 0.05, 0.05], sent) == [[0.65], [0.45], [0.25], [0.05, 0.05]]
    assert cut_at_releases([0.65, None, 0.25, 0.05], sent[:4]) == [[0.65, None], [0.25], [0.05]]
    drained = [0.65, 0.55, 0.45, 0.35, 0.25]
    assert cut_at_releases(drained, sent) == [drained]
    assert cut_at_releases([], []) == [[]]


def test_strokes_of_a_clock_are_heard_whatever_its_period_and_not_in_a_queue() -> None:
    woken = [strokes(in_parts(NO_QUEUE["a radio that saves power"](Random(n))), in_parts(SENT)) for n in range(100)]
    queued = [strokes(in_parts(congested(Random(n))), in_parts(SENT)) for n in range(100)]
    assert sorted(woken)[20] > 0.5
    assert max(queued) < 0.4
    assert strokes([[0.05] * 120], [SENT]) < 0.1
    assert strokes([[0.05, 0.07]], [SENT[:2]]) == 0.0


def test_losses_between_quick_round_trips_are_counted_apart() -> None:
    parts = [[0.05, None, 0.05, 0.3, None, 0.05], [None, 0.05, 0.05, None, None, 0.06]]
    assert losses_when_quick(parts, 0.1) == (3, 5)
    assert losses_when_quick([[], [0.05]], 0.1) == (0, 0)
