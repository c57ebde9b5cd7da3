"""Intervals for a proportion and for the difference of two, for a sample size fixed beforehand."""

from __future__ import annotations

from functools import lru_cache
from math import sqrt

from probes.model import value


@value
class Interval:
    low: float
    high: float


@lru_cache(maxsize=32)
def normal_quantile(level: float) -> float:
    """z with P(|N(0,1)| <= z) = ``level``; 0 < level < 1."""
    from statistics import NormalDist  # decimal, fractions and random come with it: only when asked

    return NormalDist().inv_cdf((1 + level) / 2)


def wilson(lost: int, sent: int, level: float = 0.95) -> Interval | None:
    """Wilson's score interval (1927) for lost / sent; None when nothing was sent."""
    if sent == 0:
        return None
    z = normal_quantile(level)
    ratio, weight = lost / sent, z * z / sent
    centre = ratio + weight / 2
    half = z * sqrt(ratio * (1 - ratio) / sent + weight / (4 * sent))
    # At the ends the formula is exactly 0 and 1; in floating point it misses by an ulp.
    low = 0.0 if lost == 0 else (centre - half) / (1 + weight)
    high = 1.0 if lost == sent else (centre + half) / (1 + weight)
    return Interval(low=low, high=high)


def newcombe(lost_a: int, sent_a: int, lost_b: int, sent_b: int, level: float = 0.95) -> Interval | None:
    """Interval for ratio a - ratio b of two independent samples: Newcombe's hybrid score, method 10 (1998).

    None when either sample is empty.
    """
    a, b = wilson(lost_a, sent_a, level), wilson(lost_b, sent_b, level)
    if a is None or b is None:
        return None
    p, q = lost_a / sent_a, lost_b / sent_b
    return Interval(
        low=p - q - sqrt((p - a.low) ** 2 + (b.high - q) ** 2),
        high=p - q + sqrt((a.high - p) ** 2 + (q - b.low) ** 2),
    )
