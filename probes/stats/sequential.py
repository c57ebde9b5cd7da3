"""A confidence sequence for a Bernoulli ratio: an interval that stays valid however and whenever one stops.

The beta-binomial mixture (Robbins 1970; Howard et al. 2021). With k losses in n packets and a Beta(a, b) prior,

    M(p) = B(a + k, b + n - k) / B(a, b) / (p^k (1 - p)^(n - k))

is a martingale with mean 1 when p is the true ratio, so by Ville's inequality it ever reaches 1 / error with
probability at most ``error``. The ratios for which it has not are the interval. Beta(0.5, 10) puts its weight on
the few per cent where network loss is asked about: 115 answered packets in a row exclude 5 % at an error of 1 %.

``lost`` and ``sent`` may be fractional. Losses are taken for independent; see markov.py for those that are not.
"""

from __future__ import annotations

from collections.abc import Callable
from math import lgamma, log, log1p
from typing import Literal, Protocol

from probes.stats.intervals import Interval

PRIOR = (0.5, 10.0)
Answer = Literal["above", "below", "undecided"]


class LossTest(Protocol):
    """Told the fate of packet after packet (True: lost) in order; ``answer`` stands once it is given."""

    answer: Answer

    def tell(self, lost: bool) -> None: ...


def _log_beta(a: float, b: float) -> float:
    return lgamma(a) + lgamma(b) - lgamma(a + b)


def log_mixture(lost: float, sent: float, ratio: float, prior: tuple[float, float] = PRIOR) -> float:
    """ln M(ratio), 0 < ratio < 1."""
    a, b = prior
    evidence = _log_beta(a + lost, b + sent - lost) - _log_beta(a, b)
    return evidence - lost * log(ratio) - (sent - lost) * log1p(-ratio)


def confidence_sequence(
    lost: float, sent: float, error: float = 0.01, prior: tuple[float, float] = PRIOR
) -> Interval | None:
    """The ratios not excluded after ``sent`` packets; None when nothing was sent."""
    if sent <= 0:
        return None
    peak, limit = lost / sent, -log(error)

    def excluded(ratio: float) -> bool:
        return log_mixture(lost, sent, ratio, prior) >= limit

    # M is lowest at the observed ratio and grows to either side. No loss: nothing below is excluded, and so at 1.
    low = 0.0 if lost <= 0 else _edge(excluded, outside=0.0, inside=peak)
    high = 1.0 if lost >= sent else _edge(excluded, outside=1.0, inside=peak)
    return Interval(low=low, high=high)


def _edge(excluded: Callable[[float], bool], *, outside: float, inside: float) -> float:
    """The border between excluded and not, by bisection to the last bit that matters."""
    for _ in range(60):
        middle = (outside + inside) / 2
        if excluded(middle):
            outside = middle
        else:
            inside = middle
    return outside


def answer(lost: float, sent: float, question: float, error: float = 0.01) -> Answer:
    """Is the ratio above ``question`` (0 < question < 1)? Wrong with probability at most ``error``, ever."""
    if sent <= 0 or log_mixture(lost, sent, question) < -log(error):
        return "undecided"
    return "above" if lost / sent > question else "below"


class MixtureTest:
    """answer() packet by packet: one ratio, no indifference between two. Losses taken for independent."""

    def __init__(self, question: float, error: float) -> None:
        self._question, self._error = question, error
        self._lost = self._sent = 0
        self.answer: Answer = "undecided"

    def tell(self, lost: bool) -> None:
        self._lost, self._sent = self._lost + lost, self._sent + 1
        if self.answer == "undecided":
            self.answer = answer(self._lost, self._sent, self._question, self._error)
