"""Fixed-sample intervals against published numbers and exact enumeration."""

from __future__ import annotations

from math import comb

import pytest

from probes.stats.intervals import newcombe, normal_quantile, wilson


@pytest.mark.parametrize(("level", "z"), [(0.90, 1.644854), (0.95, 1.959964), (0.99, 2.575829)])
def test_normal_quantile(level, z):
    assert normal_quantile(level) == pytest.approx(z, abs=1e-6)


@pytest.mark.parametrize(
    ("lost", "sent", "low", "high"),
    [
        (0, 10, 0.0, 27.8),
        (0, 50, 0.0, 7.1),
        (0, 100, 0.0, 3.7),
        (1, 20, 0.9, 23.6),
        (5, 100, 2.2, 11.2),
        (10, 100, 5.5, 17.4),
        (15, 100, 9.3, 23.3),
        (50, 1000, 3.8, 6.5),
    ],
)
def test_wilson(lost, sent, low, high):
    interval = wilson(lost, sent)
    assert interval is not None
    assert interval.low * 100 == pytest.approx(low, abs=0.05)
    assert interval.high * 100 == pytest.approx(high, abs=0.05)


def test_nothing_sent_says_nothing():
    assert wilson(0, 0) is None
    assert newcombe(0, 0, 1, 10) is None
    assert newcombe(1, 10, 0, 0) is None


def test_wilson_mirrors_and_reaches_the_ends():
    few, many = wilson(3, 40), wilson(37, 40)
    assert few is not None
    assert many is not None
    assert many.low == pytest.approx(1 - few.high)
    assert wilson(40, 40).high == 1.0
    assert wilson(0, 40).low == 0.0


# Newcombe, Statistics in Medicine 17 (1998) 873-890, table II, method 10 (examples a, b, e, g).
@pytest.mark.parametrize(
    ("a", "m", "b", "n", "low", "high"),
    [
        (56, 70, 48, 80, 0.0524, 0.3339),
        (9, 10, 3, 10, 0.1705, 0.8090),
        (5, 56, 0, 29, -0.0381, 0.1926),
        (10, 10, 0, 10, 0.6075, 1.0000),
    ],
)
def test_newcombe(a, m, b, n, low, high):
    interval = newcombe(a, m, b, n)
    assert interval is not None
    assert interval.low == pytest.approx(low, abs=5e-5)
    assert interval.high == pytest.approx(high, abs=5e-5)


@pytest.mark.parametrize("ratio", [0.02, 0.05, 0.15, 0.5])
def test_wilson_covers_as_it_says_on_average(ratio):
    """Exact: the probability of each count times whether its interval holds the truth, averaged over sizes."""
    covered = [
        sum(
            comb(n, k) * ratio**k * (1 - ratio) ** (n - k)
            for k in range(n + 1)
            if (i := wilson(k, n)) is not None and i.low <= ratio <= i.high
        )
        for n in range(50, 151, 5)
    ]
    assert sum(covered) / len(covered) == pytest.approx(0.95, abs=0.012)
