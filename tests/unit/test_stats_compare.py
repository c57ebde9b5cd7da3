"""Ranks, shift and change points: textbook numbers, and series whose truth is set beforehand."""

from __future__ import annotations

import random
from math import comb, exp

import pytest

from probes.stats.compare import (
    block_medians,
    change_point,
    change_points,
    hodges_lehmann,
    mann_whitney,
    ranks,
)


def test_equal_values_share_their_ranks():
    assert ranks([3.0, 1.0, 3.0, 2.0, 3.0]) == [4.0, 1.0, 4.0, 2.0, 4.0]
    assert ranks([]) == []


def test_u_by_hand():
    """19, 22, 16 against 20, 11: five of the six pairs but (19, 20) and (16, 20) have the first greater."""
    found = mann_whitney([19.0, 22.0, 16.0], [20.0, 11.0])
    assert found.u == 4.0
    assert found.cliffs_delta == pytest.approx((4 - 2) / 6)


def test_alike_samples_are_not_told_apart():
    found = mann_whitney([1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0])
    assert (found.u, found.p_value, found.cliffs_delta) == (8.0, 1.0, 0.0)


def test_nothing_to_compare():
    assert mann_whitney([], [1.0]) is None
    assert mann_whitney([2.0, 2.0], [2.0]) is None
    assert hodges_lehmann([], [1.0]) is None


def test_shift_by_hand():
    """Differences 10-1, 10-2, 14-1, 14-2, 15-1, 15-2: sorted 8 9 12 13 13 14, median 12.5."""
    assert hodges_lehmann([1.0, 2.0], [10.0, 14.0, 15.0]).estimate == 12.5


def test_an_outlier_moves_the_shift_by_little():
    before, after = [0.050 + n / 1e4 for n in range(20)], [0.070 + n / 1e4 for n in range(19)] + [9.0]
    assert hodges_lehmann(before, after).estimate == pytest.approx(0.020, abs=2e-4)


def test_the_interval_of_the_shift_covers_the_truth_as_it_says():
    """19 of 20: over 400 pairs of samples, binomial P(fewer than 364) < 0.1 %."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # noqa: T201 - a failure must be repeatable
    source, covered = random.Random(seed), 0
    for _ in range(400):
        a = [source.expovariate(100) for _ in range(15)]
        b = [source.expovariate(100) + 0.02 for _ in range(15)]
        found = hodges_lehmann(a, b)
        covered += found.low <= 0.02 <= found.high
    assert covered >= 364


def test_the_test_is_wrong_as_often_as_it_says():
    """Same distribution, p <= 5 %: over 1,000 pairs of samples, binomial P(more than 75) < 0.1 %."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # noqa: T201 - a failure must be repeatable
    source = random.Random(seed)

    def sample() -> list[float]:
        return [source.lognormvariate(0, 1) for _ in range(12)]

    assert sum(mann_whitney(sample(), sample()).p_value <= 0.05 for _ in range(1000)) <= 75


def test_blocks():
    assert block_medians([1.0, 9.0, 2.0, 4.0, 4.0, 5.0, 7.0], 3) == [2.0, 4.0]
    assert block_medians([1.0], 3) == []


def test_one_step_by_hand():
    """Ranks 1 2 3 4 | 5 6 7 8: K = |2 (1+2+3+4) - 4 * 9| = 16."""
    found = change_point([1.0, 2.0, 3.0, 4.0, 15.0, 16.0, 17.0, 18.0])
    assert (found.index, found.before, found.after) == (4, 2.5, 16.5)
    assert found.p_value == pytest.approx(2 * exp(-6 * 256 / (512 + 64)))


def test_no_change_to_look_for():
    assert change_point([1.0, 2.0, 3.0]) is None
    assert change_point([5.0] * 50) is None
    assert change_points([]) == []


def test_a_detour_comes_and_goes():
    """50 ms, then 200 ms, then 50 ms again, with a heavy tail of queueing throughout."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # noqa: T201 - a failure must be repeatable
    source = random.Random(seed)
    floor = [0.050] * 60 + [0.200] * 60 + [0.050] * 60
    delays = [base + source.expovariate(200) + (source.random() < 0.02) for base in floor]
    found = change_points(delays, error=1e-4)
    assert [change.index for change in found] == pytest.approx([60, 120], abs=6), (
        "a spike at the edge belongs to either"
    )
    assert found[0].before == pytest.approx(0.053, abs=0.004)
    assert found[0].after == found[1].before == pytest.approx(0.203, abs=0.004)


def test_noise_alone_is_no_change():
    """p <= 1 % in 500 series of noise: binomial P(more than 13) < 0.1 %."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # noqa: T201 - a failure must be repeatable
    source = random.Random(seed)
    false = sum(bool(change_points([source.gauss(0, 1) for _ in range(60)], error=0.01)) for _ in range(500))
    assert sum(comb(500, k) * 0.01**k * 0.99 ** (500 - k) for k in range(14, 40)) < 0.001
    assert false <= 13
