"""Wald's sequential probability ratio test (1945) for a loss ratio, losses taken for independent.

"At most ``low``" against "at least ``high``": the log-likelihood ratio is followed packet by packet until it leaves
(below, above). Wald's own boundaries, +-ln((1 - error) / error), waste packets: a single loss carries the ratio far
over the upper one. Here that boundary is as low as the exact chance of a false "above" allows, which is what brings
the mean close to Wald's bound, the number that no test with these errors can undercut.
"""

from __future__ import annotations

from functools import lru_cache
from math import log

from probes.model import value
from probes.stats.sequential import Answer

MARGIN = 0.8  # of the error: the rest is kept back, for no path's losses are independent to the last digit
_COARSE = 1.0  # of the step that one loss makes: with smaller steps there is little overshoot to gain from
_LEFT_OVER = 1e-3  # of the error: paths still undecided are counted as wrong and followed no longer


@value
class Boundaries:
    """Of the log-likelihood ratio; ``below`` < 0 < ``above``."""

    below: float
    above: float


@value
class Crossing:
    """Exact properties of a test at one true ratio; ``packets`` is the mean number until it answers."""

    above: float
    below: float
    packets: float


def steps(low: float, high: float) -> tuple[float, float]:
    """What one lost and one arrived packet add to the log-likelihood ratio, 0 < low < high < 1."""
    return log(high / low), log((1 - high) / (1 - low))


def wald_boundaries(error: float) -> Boundaries:
    limit = log((1 - error) / error)
    return Boundaries(below=-limit, above=limit)


@lru_cache(maxsize=16)
def boundaries(low: float, high: float, error: float) -> Boundaries:
    """Wald's lower boundary, and the lowest upper one whose false "above" at ``low`` is within MARGIN * ``error``.

    The chance of a false answer is largest at ``low`` and ``high`` themselves (monotone likelihood ratio).
    """
    error *= MARGIN
    wald = wald_boundaries(error)
    if steps(low, high)[0] < _COARSE:
        return wald
    refused, accepted = 0.0, wald.above
    for _ in range(12):
        middle = (refused + accepted) / 2
        if crossing(low, low, high, Boundaries(below=wald.below, above=middle), error).above <= error:
            accepted = middle
        else:
            refused = middle
    return Boundaries(below=wald.below, above=accepted)


def crossing(truth: float, low: float, high: float, limits: Boundaries, error: float) -> Crossing:
    """By summing over all paths at a true ratio of ``truth``; what is left over is counted as "above"."""
    up, down = steps(low, high)
    alive, above, below, packets, arrived_or_lost = {0: 1.0}, 0.0, 0.0, 0.0, 0
    while (remaining := sum(alive.values())) > _LEFT_OVER * error:
        packets += remaining
        arrived_or_lost += 1
        after: dict[int, float] = {}
        for lost, chance in alive.items():
            after[lost] = after.get(lost, 0.0) + chance * (1 - truth)
            after[lost + 1] = after.get(lost + 1, 0.0) + chance * truth
        ratio = {lost: lost * up + (arrived_or_lost - lost) * down for lost in after}
        above += sum(chance for lost, chance in after.items() if ratio[lost] >= limits.above)
        below += sum(chance for lost, chance in after.items() if ratio[lost] <= limits.below)
        alive = {lost: chance for lost, chance in after.items() if limits.below < ratio[lost] < limits.above}
    return Crossing(above=above + remaining, below=below, packets=packets)


def wald_bound(truth: float, low: float, high: float, error: float) -> float:
    """Wald's approximation to the mean number of packets that a test with these errors needs, 0 <= truth < 1.

    The overshoot is neglected. With h the root of E[exp(h Z)] = 1, "above" has the chance (1 - B^h) / (A^h - B^h).
    """
    up, down = steps(low, high)
    limit = log((1 - error) / error)
    drift = truth * up + (1 - truth) * down
    if truth == 0.0:
        return limit / -down
    if abs(drift) < 1e-9:
        return limit * limit / (truth * up * up + (1 - truth) * down * down)
    chance = _chance_above(truth, up, down, limit)
    return (chance * limit - (1 - chance) * limit) / drift


def _chance_above(truth: float, up: float, down: float, limit: float) -> float:
    from math import exp

    def moment(h: float) -> float:
        return truth * exp(h * up) + (1 - truth) * exp(h * down) - 1

    # The root other than 0 has the sign opposite to the drift's; beyond it the moment is positive again.
    outer = -1.0 if truth * up + (1 - truth) * down > 0 else 1.0
    while moment(outer) < 0:
        outer *= 2
    inner = outer / 2**40
    for _ in range(100):
        middle = (inner + outer) / 2
        inner, outer = (middle, outer) if moment(middle) < 0 else (inner, middle)
    return 1 / (1 + exp(min(700.0, outer * limit)))


class IndependentTest:
    """Told fate by fate (True: lost); ``answer`` stands once given. "above" is of ``low``, "below" of ``high``."""

    def __init__(self, low: float, high: float, error: float) -> None:
        self._limits = boundaries(low, high, error)
        self._up, self._down = steps(low, high)
        self._ratio = 0.0
        self.answer: Answer = "undecided"

    def tell(self, lost: bool) -> None:
        if self.answer != "undecided":
            return
        self._ratio += self._up if lost else self._down
        if self._ratio >= self._limits.above:
            self.answer = "above"
        elif self._ratio <= self._limits.below:
            self.answer = "below"
