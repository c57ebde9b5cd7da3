"""The sequential loss verdict where losses come in runs: Gilbert's channel (1960) of mean burst up to a stated length.

A packet that follows an arrival is lost with chance ``onset``, one that follows a loss arrives with chance
``relief``: loss = onset / (onset + relief), mean burst = 1 / relief. With Beta priors on both, the mixture of the
likelihood over all such channels, divided by the likelihood of any one of them, is a martingale with mean 1 where
that one is true. A claim about loss is excluded when the mixture exceeds the best channel *within the claim* by
1 / error (universal inference: Wasserman, Ramdas, Balakrishnan 2020): wrong with probability at most ``error`` for
every channel within it, whenever one stops. Independent loss of any ratio is always within.

The price is in "below". A channel of 5 % loss in bursts of 5 shows no loss at all in 100 packets once in three times;
no test may say "below 5 %" before 0.95 (1 - 0.0105)^(n - 1) < 1 %, n = 432. Fewer packets do where so much time passes
between them that bursts are shorter in packets: the time probed is what such a claim rests on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from math import inf, lgamma, log, sqrt

from probes.model import value
from probes.stats.intervals import Interval
from probes.stats.sequential import Answer

FIRST_LOST = 0.05  # prior chance that the first packet is lost
ONSET_PRIOR = (0.5, 40.0)  # a loss begins once in some tens of packets, or never
RELIEF_PRIOR = (0.5, 0.5)  # and ends at once, or lasts


@value
class Transitions:
    """Pairs of consecutive packets, by what became of them."""

    onsets: int = 0  # arrived, then lost
    calm: int = 0  # arrived, arrived
    reliefs: int = 0  # lost, arrived
    stays: int = 0  # lost, lost
    first: bool | None = None  # whether the very first packet was lost


def transitions(fates: Sequence[bool]) -> Transitions:
    """Of a sequence of fates, True: lost."""
    pairs = list(pairwise(fates))
    return Transitions(
        first=fates[0] if fates else None,
        onsets=pairs.count((False, True)),
        calm=pairs.count((False, False)),
        reliefs=pairs.count((True, False)),
        stays=pairs.count((True, True)),
    )


def log_likelihood(seen: Transitions, onset: float, relief: float) -> float:
    """Of every packet but the first, given the one before it."""
    return (
        _weighed(seen.onsets, onset)
        + _weighed(seen.calm, 1 - onset)
        + _weighed(seen.reliefs, relief)
        + _weighed(seen.stays, 1 - relief)
    )


def log_mixture(seen: Transitions) -> float:
    """ln of the likelihood averaged over the priors."""
    (a, b), (c, d) = ONSET_PRIOR, RELIEF_PRIOR
    first = 0.0 if seen.first is None else log(FIRST_LOST if seen.first else 1 - FIRST_LOST)
    onset = _log_beta(a + seen.onsets, b + seen.calm) - _log_beta(a, b)
    return first + onset + _log_beta(c + seen.reliefs, d + seen.stays) - _log_beta(c, d)


def best_at_most(seen: Transitions, ratio: float, mean_burst: float) -> float:
    """ln of what no channel with loss <= ``ratio`` gives more likelihood than; 0 < ratio < 1."""
    first = log(ratio) if seen.first else 0.0
    return first + max(_best_gilbert(seen, ratio, mean_burst, above=False), _best_independent(seen, ratio, above=False))


def best_at_least(seen: Transitions, ratio: float, mean_burst: float) -> float:
    """ln of what no channel with loss >= ``ratio`` gives more likelihood than; 0 < ratio < 1."""
    first = log(1 - ratio) if seen.first is False else 0.0
    return first + max(_best_gilbert(seen, ratio, mean_burst, above=True), _best_independent(seen, ratio, above=True))


def bursty_answer(seen: Transitions, low: float, high: float, error: float, mean_burst: float) -> Answer:
    """ "above": loss of at most ``low`` is excluded; "below": loss of at least ``high`` is; 0 < low <= high < 1."""
    reached = log_mixture(seen) + log(error)
    if reached >= best_at_most(seen, low, mean_burst):
        return "above"
    return "below" if reached >= best_at_least(seen, high, mean_burst) else "undecided"


def bursty_sequence(seen: Transitions, error: float, mean_burst: float) -> Interval | None:
    """The loss ratios not excluded, at whatever packet one looks.

    None where no channel with such bursts explains what was seen: its runs are longer than ``mean_burst`` allows.
    """
    reached = log_mixture(seen) + log(error)
    low = _border(lambda ratio: reached >= best_at_most(seen, ratio, mean_burst), holds_at=0.0)
    high = _border(lambda ratio: reached >= best_at_least(seen, ratio, mean_burst), holds_at=1.0)
    return Interval(low=low, high=high) if low <= high else None


class BurstyTest:
    """Told fate by fate (True: lost); ``answer`` stands once given. "above" is of ``low``, "below" of ``high``."""

    def __init__(self, low: float, high: float, error: float, mean_burst: float) -> None:
        self._question = (low, high, error, mean_burst)
        self._seen = Transitions()
        self._last: bool | None = None
        self.answer: Answer = "undecided"

    def tell(self, lost: bool) -> None:
        if self.answer != "undecided":
            return
        self._seen = _after(self._seen, self._last, lost)
        self._last = lost
        self.answer = bursty_answer(self._seen, *self._question)


def _after(seen: Transitions, last: bool | None, lost: bool) -> Transitions:
    if last is None:
        return replace(seen, first=lost)
    if last:
        return replace(seen, stays=seen.stays + 1) if lost else replace(seen, reliefs=seen.reliefs + 1)
    return replace(seen, onsets=seen.onsets + 1) if lost else replace(seen, calm=seen.calm + 1)


def _best_gilbert(seen: Transitions, ratio: float, mean_burst: float, *, above: bool) -> float:
    """Over relief >= 1 / mean_burst and onset on the stated side of odds * relief.

    The likelihood is concave. Its peak over the box is the answer if it lies on that side, else the peak on the line
    onset = odds * relief, where the derivative is a quadratic in relief.
    """
    odds, least = ratio / (1 - ratio), 1 / mean_burst
    onset = _share(seen.onsets, seen.calm, unseen=1.0 if above else 0.0)
    relief = max(least, _share(seen.reliefs, seen.stays, unseen=least if above else 1.0))
    if (onset >= odds * relief) if above else (onset <= odds * relief):
        return log_likelihood(seen, onset, relief)
    most = min(1.0, 1 / odds)
    if least > most:
        return -inf  # no onset is that frequent
    relief = min(most, max(least, _peak_on_line(seen, odds)))
    return log_likelihood(seen, min(1.0, odds * relief), relief)


def _peak_on_line(seen: Transitions, odds: float) -> float:
    """The relief that solves K (1 - cr)(1 - r) = c N r (1 - r) + L r (1 - cr): the smaller of two positive roots."""
    changes, total = seen.onsets + seen.reliefs, seen.onsets + seen.reliefs + seen.calm + seen.stays
    linear = changes * (1 + odds) + odds * seen.calm + seen.stays
    root = sqrt(max(0.0, linear * linear - 4 * odds * total * changes))
    return 2 * changes / (linear + root) if linear else 0.0


def _best_independent(seen: Transitions, ratio: float, *, above: bool) -> float:
    loss = _share(seen.onsets + seen.stays, seen.calm + seen.reliefs, unseen=ratio)
    loss = max(ratio, loss) if above else min(ratio, loss)
    return log_likelihood(seen, loss, 1 - loss)


def _border(excluded: Callable[[float], bool], *, holds_at: float) -> float:
    """Between the ratios excluded, which begin at ``holds_at`` if there are any, and the rest."""
    outside, inside = holds_at, 1.0 - holds_at
    for _ in range(50):
        middle = (outside + inside) / 2
        outside, inside = (middle, inside) if excluded(middle) else (outside, middle)
    return outside


def _share(hits: int, misses: int, *, unseen: float) -> float:
    return hits / (hits + misses) if hits + misses else unseen


def _weighed(count: int, chance: float) -> float:
    if not count:
        return 0.0
    return count * log(chance) if chance > 0 else -inf


def _log_beta(a: float, b: float) -> float:
    return lgamma(a) + lgamma(b) - lgamma(a + b)
