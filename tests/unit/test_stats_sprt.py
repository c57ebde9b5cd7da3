"""Wald's test: the textbook's approximations, exact error rates, and a simulation that shares no code with it."""

from __future__ import annotations

import random
from math import log

import pytest

from probes.stats.sprt import MARGIN, IndependentTest, boundaries, crossing, steps, wald_bound, wald_boundaries
from tests.unit.channels import channel

LOW, HIGH, ERROR = 0.005, 0.05, 0.01
# Wald's approximation, worked apart from this code (two decimals of ln 99 = 4.595 over the drift).
WALD = {0.0: 99, 0.005: 130, 0.01: 170, 0.02: 197, 0.05: 63, 0.10: 24, 0.15: 15, 0.30: 7}


def test_steps_by_hand():
    up, down = steps(0.01, 0.05)
    assert up == pytest.approx(1.609, abs=5e-4)
    assert down == pytest.approx(-0.0412, abs=5e-5)


@pytest.mark.parametrize("truth", WALD)
def test_wald_bound(truth):
    assert wald_bound(truth, LOW, HIGH, ERROR) == pytest.approx(WALD[truth], abs=0.55)


def test_wald_bound_where_the_ratio_has_no_drift():
    """There E[N] = limit^2 / E[Z^2]; it must be what the formula tends to from either side."""
    up, down = steps(LOW, HIGH)
    level = -down / (up - down)
    exact = log(99) ** 2 / (level * up**2 + (1 - level) * down**2)
    assert wald_bound(level, LOW, HIGH, ERROR) == pytest.approx(exact)
    assert wald_bound(level * 1.001, LOW, HIGH, ERROR) == pytest.approx(exact, rel=0.01)
    assert wald_bound(level * 0.999, LOW, HIGH, ERROR) == pytest.approx(exact, rel=0.01)


@pytest.mark.parametrize(("low", "high"), [(0.005, 0.05), (0.01, 0.1), (0.02, 0.2)])
@pytest.mark.parametrize("error", [0.01, 0.05])
def test_both_exact_errors_are_within_the_stated_one(low, high, error):
    limits = boundaries(low, high, error)
    assert crossing(low, low, high, limits, error).above <= MARGIN * error
    assert crossing(high, low, high, limits, error).below <= MARGIN * error
    assert crossing(low / 2, low, high, limits, error).above <= MARGIN * error
    assert limits.above <= wald_boundaries(MARGIN * error).above


@pytest.mark.parametrize("truth", WALD)
def test_the_mean_is_within_a_fifth_of_walds_bound(truth):
    limits = boundaries(LOW, HIGH, ERROR)
    assert crossing(truth, LOW, HIGH, limits, ERROR).packets <= 1.2 * wald_bound(truth, LOW, HIGH, ERROR)


def test_ratios_close_together_keep_walds_boundaries():
    assert boundaries(0.04, 0.05, 0.01) == wald_boundaries(MARGIN * 0.01)


def simulate(truth: float, runs: int, seed: int) -> tuple[dict[str, int], float]:
    source, answers, packets = random.Random(seed), {"above": 0, "below": 0}, 0
    for _ in range(runs):
        test = IndependentTest(LOW, HIGH, ERROR)
        fates = channel(truth, None, source)
        while test.answer == "undecided":
            test.tell(next(fates))
            packets += 1
        answers[test.answer] += 1
    return answers, packets / runs


@pytest.mark.parametrize("truth", [0.005, 0.05, 0.15])
def test_a_simulation_agrees_with_the_exact_sums(truth):
    answers, packets = simulate(truth, 2000, seed=8762)
    exact = crossing(truth, LOW, HIGH, boundaries(LOW, HIGH, ERROR), ERROR)
    assert answers["above"] / 2000 == pytest.approx(exact.above, abs=4 * (exact.above * exact.below / 2000) ** 0.5)
    assert packets == pytest.approx(exact.packets, rel=0.06)


def test_an_answer_stands():
    test = IndependentTest(LOW, HIGH, ERROR)
    for fate in (True, True, *[False] * 500):
        test.tell(fate)
    assert test.answer == "above"
