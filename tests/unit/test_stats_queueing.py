"""A queue told from jitter and from routes, over hundreds of seeded simulations of each."""

from __future__ import annotations

from itertools import permutations
from math import factorial
from random import Random

import pytest

from netdiag.diagnosis.rules.congestion import Delay, is_queue, limit_over
from probes.stats.queueing import losses_when_slow, swing
from tests.unit.queues import NO_QUEUE, congested, filling, in_parts

RUNS = 300


def is_told_a_queue(rtts: list[float]) -> bool:
    parts = tuple(map(tuple, in_parts(rtts)))
    return is_queue(Delay(method="icmp", parts=parts, evidence=("x",)), limit_over(min(rtts)))


@pytest.mark.parametrize("kind", NO_QUEUE)
def test_what_is_no_queue_is_hardly_ever_told_one(kind: str) -> None:
    told = sum(is_told_a_queue(NO_QUEUE[kind](Random(f"{kind} {seed}"))) for seed in range(RUNS))
    assert told <= 3  # one in a hundred


def test_a_queue_that_builds_up_and_drains_is_told_in_half_of_the_runs() -> None:
    """Of 24 s with 120 echoes: the price of hardly ever telling one that is none."""
    told = sum(is_told_a_queue(congested(Random(seed))) for seed in range(RUNS))
    assert told >= 0.4 * RUNS


def test_a_queue_that_fills_before_our_eyes_is_told_mostly() -> None:
    told = sum(is_told_a_queue(filling(Random(seed))) for seed in range(RUNS))
    assert told >= 0.6 * RUNS


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


@pytest.mark.parametrize("values", [[], [1.0], [2.0] * 30])
def test_nothing_is_said_of_too_little_or_of_what_never_moves(values: list[float]) -> None:
    assert swing([values]) is None


def lossy(draw: Random, rtts: list[float], chance: dict[bool, float]) -> list[list[float | None]]:
    """Loses with the chance that goes with being above the median."""
    middle = sorted(rtts)[len(rtts) // 2]
    return [[None if draw.random() < chance[rtt > middle] else rtt for rtt in part] for part in in_parts(rtts)]


def share_tied(chance: dict[bool, float]) -> float:
    draws = [Random(seed) for seed in range(RUNS)]
    found = [losses_when_slow(lossy(draw, congested(draw), chance)) for draw in draws]
    return sum(losses is not None and losses.p_value <= 0.02 for losses in found) / RUNS


def test_losses_of_a_full_queue_are_tied_to_its_delay_and_others_are_not() -> None:
    assert share_tied({False: 0.0, True: 0.3}) >= 0.35
    assert share_tied({False: 0.1, True: 0.1}) <= 0.05


def test_without_a_loss_or_with_hardly_anything_else_nothing_is_said() -> None:
    assert losses_when_slow([[0.1, 0.2, 0.3]]) is None
    assert losses_when_slow([[None, None, 0.3]]) is None
    assert losses_when_slow([[None]]) is None
