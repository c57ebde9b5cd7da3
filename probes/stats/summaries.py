"""Location and spread of a sample of durations. Every function gives None where the sample says nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import ceil, fsum, sqrt


def nearest_rank(ordered: Sequence[float], percent: float) -> float | None:
    """The smallest observed value that at least ``percent`` % of the sample does not exceed.

    ``ordered`` ascends; ``percent`` is 0 < percent <= 100. No interpolation: the result is a value that occurred.
    """
    if not ordered:
        return None
    return ordered[max(1, ceil(percent * len(ordered) / 100)) - 1]


def mean(values: Sequence[float]) -> float | None:
    return fsum(values) / len(values) if values else None


def sample_stdev(values: Sequence[float]) -> float | None:
    """Standard deviation with n - 1; None for fewer than two values."""
    if len(values) < 2:
        return None
    centre = fsum(values) / len(values)
    return sqrt(fsum((v - centre) ** 2 for v in values) / (len(values) - 1))


def ipdv_mean_abs(delays: Mapping[int, float]) -> float | None:
    """Mean absolute delay variation between consecutive packets, in the unit of ``delays`` (sequence -> delay).

    RFC 3393 with the selection function "consecutive packets": a pair of which one packet has no delay is
    undefined and left out, so a gap in the sequence never pairs strangers. None where no pair is defined.
    """
    return mean(list(_steps(delays)))


def _steps(delays: Mapping[int, float]) -> Iterable[float]:
    for sequence in sorted(delays):
        if sequence + 1 in delays:
            yield abs(delays[sequence + 1] - delays[sequence])
