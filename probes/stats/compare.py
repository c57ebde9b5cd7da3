"""Two samples of delays compared without a model of their distribution: ranks, shift, and how much they overlap."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from math import erfc, exp, floor, sqrt

from probes.model import value
from probes.stats.intervals import normal_quantile


@value
class RankTest:
    """``u`` counts the pairs in which a is the greater, ties as halves. ``p_value`` is two-sided.

    ``cliffs_delta``: P(a > b) - P(a < b), -1..1. Consecutive delays are alike, and the p-value takes them for
    independent: compare block_medians() instead.
    """

    u: float
    z: float
    p_value: float
    cliffs_delta: float


@value
class Shift:
    """How much b is above a, with an interval: the Hodges-Lehmann estimate (1963)."""

    estimate: float
    low: float
    high: float
    level: float


def ranks(values: Sequence[float]) -> list[float]:
    """From 1; equal values share the mean of their ranks."""
    order = sorted(range(len(values)), key=values.__getitem__)
    found = [0.0] * len(values)
    start = 0
    while start < len(order):
        end = start
        while end < len(order) and values[order[end]] == values[order[start]]:
            end += 1
        for place in order[start:end]:
            found[place] = (start + 1 + end) / 2
        start = end
    return found


def mann_whitney(a: Sequence[float], b: Sequence[float]) -> RankTest | None:
    """Mann and Whitney (1947), normal approximation with the tie correction and a continuity correction of a half.

    Fair from about eight values each. None where a sample is empty or every value is the same.
    """
    n, m = len(a), len(b)
    pooled = [*a, *b]
    ties = sum(count**3 - count for count in Counter(pooled).values())
    total = n + m
    if not n or not m or ties == total**3 - total:
        return None
    u = sum(ranks(pooled)[:n]) - n * (n + 1) / 2
    spread = sqrt(n * m / 12 * (total + 1 - ties / (total * (total - 1))))
    away = u - n * m / 2
    z = (abs(away) - 0.5) / spread if away else -0.5 / spread
    return RankTest(
        u=u,
        z=z if away >= 0 else -z,
        p_value=min(1.0, erfc(z / sqrt(2))),
        cliffs_delta=2 * u / (n * m) - 1,
    )


def hodges_lehmann(a: Sequence[float], b: Sequence[float], level: float = 0.95) -> Shift | None:
    """The median of all differences b - a, and the order statistics of them that the rank test does not reject.

    Time and memory grow with the product of the sizes. None where a sample is empty.
    """
    n, m = len(a), len(b)
    if not n or not m:
        return None
    differences = sorted(y - x for x in a for y in b)
    outside = floor(n * m / 2 - normal_quantile(level) * sqrt(n * m * (n + m + 1) / 12))
    first = max(0, outside)
    return Shift(estimate=_median(differences), low=differences[first], high=differences[-1 - first], level=level)


def block_medians(values: Sequence[float], size: int) -> list[float]:
    """Of consecutive blocks of ``size``, a shorter rest left out: what is alike within a block becomes one value."""
    starts = range(0, len(values) - size + 1, size)
    return [_median(sorted(values[start : start + size])) for start in starts]


@value
class ChangePoint:
    """``index``: the first value of the new regime. ``p_value`` is approximate and slightly conservative."""

    index: int
    p_value: float
    before: float  # median
    after: float


def change_point(values: Sequence[float]) -> ChangePoint | None:
    """Where a series changed its level, if it did once: Pettitt (1979), by ranks, so that outliers move nothing.

    K = max |2 sum(ranks to t) - t (n + 1)|, p about 2 exp(-6 K^2 / (n^3 + n^2)). None for fewer than four values and
    where all are the same.
    """
    n = len(values)
    if n < 4 or min(values) == max(values):
        return None
    statistic = summed = 0.0
    index = 1
    for t, rank in enumerate(ranks(values)[:-1], start=1):
        summed += rank
        distance = abs(2 * summed - t * (n + 1))
        if distance > statistic:
            statistic, index = distance, t
    return ChangePoint(
        index=index,
        p_value=min(1.0, 2 * exp(-6 * statistic**2 / (n**3 + n**2))),
        before=_median(sorted(values[:index])),
        after=_median(sorted(values[index:])),
    )


def change_points(values: Sequence[float], error: float = 0.01, least: int = 8) -> list[ChangePoint]:
    """All of them, in order: each segment is cut where it changed with p <= ``error`` until none is.

    Segments shorter than 2 * ``least`` are not cut, nor is a piece shorter than ``least`` cut off.
    """
    cuts = sorted(_cuts(values, 0, error, least))
    if not cuts:
        return []
    edges = [0, *(cut for cut, _ in cuts), len(values)]
    medians = [_median(sorted(values[start:end])) for start, end in pairwise(edges)]
    return [
        ChangePoint(index=cut, p_value=p_value, before=before, after=after)
        for (cut, p_value), (before, after) in zip(cuts, pairwise(medians), strict=True)
    ]


def _cuts(values: Sequence[float], offset: int, error: float, least: int) -> list[tuple[int, float]]:
    found = change_point(values) if len(values) >= 2 * least else None
    if found is None or found.p_value > error or not least <= found.index <= len(values) - least:
        return []
    left = _cuts(values[: found.index], offset, error, least)
    right = _cuts(values[found.index :], offset + found.index, error, least)
    return [(offset + found.index, found.p_value), *left, *right]


def _median(ordered: Sequence[float]) -> float:
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
