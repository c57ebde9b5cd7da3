"""Whether a series of round-trip times rises and falls as a queue does: gradually, and with what is between.

Jitter is independent from sample to sample; a route that changes jumps from one level to another and has nothing in
between. A queue of many packets can neither appear nor vanish between two samples that are closer than it is long.
"""

from __future__ import annotations

from cmath import exp
from collections.abc import Sequence
from itertools import pairwise
from math import comb, pi, sqrt

from probes.model import value
from probes.stats.compare import change_points
from probes.stats.summaries import mean, nearest_rank

_ACROSS = 0.5  # of the range: less is a wobble on one level
_MOST_IN_ONE_STEP = 0.4  # of a rise: more is a jump with some jitter at both ends
_TOGETHER = 0.2  # of the gap between two sendings: answers that come closer were let go together
_STROKES_PER_S = tuple(1.4 + 0.05 * n for n in range(213))  # waits of 80 to 700 ms
_STROKE_SAMPLES = 40  # fewer follow a clock by chance, or while a queue builds up evenly

_LOW, _HIGH = 0.1, 0.9  # of the range: the floor's share of it, and where the top's begins
_LEAST_STEP = 0.05  # of the range: less is no step of a rise
_PLATEAU = 3  # samples at the top after a rise: a pause's answers lie on a fall, never on a level
_MOST_LEVELS = 3  # that a route may have between floor and top
_LEVEL = 0.15  # of the range: jitter that is wider than this lies anywhere
_STEPS_BETWEEN = 2  # samples in a rise: one alone may have gone by the old way and come back by the new one

Series = Sequence[float | None]  # in the order of sending; None: no round-trip time


@value
class Swing:
    """``smoothness``: standard deviations by which neighbours are more alike than independent samples would be, after
    every change of level is taken out. The other two bear jitter round any number of levels: ``turning_chance`` is that
    of so few turning points in the middle of the range, where independent samples turn at least every other time
    (Bienayme 1874: two of three), and ``ramp`` the most samples of one gradual rise or fall across it.
    """

    n: int
    floor: float
    top: float  # 95th percentile
    neighbour_ratio: float  # von Neumann (1941), as a share: 1 independent, 0 perfectly smooth
    smoothness: float
    turning_chance: float
    ramp: int
    rises: int = 0  # from the floor over steps between to a level at the top
    rises_chance: float = 1.0  # of so many, were the steps between only jitter that may fall anywhere
    passages: int = 0  # between the floor and a level at the top, either way, over one step or more at no fixed levels
    passages_chance: float = 1.0


def swing(parts: Sequence[Series], *, edge: float = 0.2) -> Swing | None:
    """Of all parts together; samples of two parts are no neighbours. ``edge``: share of the range that is still its
    floor, or its top. None for fewer than three values, and where all, or all but a few outliers, are the same."""
    values = sorted(rtt for part in parts for rtt in part if rtt is not None)
    ratio, top = _neighbour_ratio(parts), nearest_rank(values, 95)
    if len(values) < 3 or top is None or ratio is None or top == values[0]:
        return None
    alike, pairs = ratio
    runs, margin = _runs(parts, frozenset()), edge * (top - values[0])
    shares = [[(rtt - values[0]) / (top - values[0]) for rtt in run] for run in runs]
    rises, rises_chance = _rises(shares)
    passages, passages_chance = _passages(shares)
    return Swing(
        n=len(values),
        floor=values[0],
        top=top,
        neighbour_ratio=alike,
        smoothness=(1 - alike) * sqrt(pairs),
        turning_chance=_turning_chance(runs, values[0] + margin, top - margin),
        ramp=max(_ramp(run, sign, top - values[0]) for run in runs for sign in (1, -1)),
        rises=rises,
        rises_chance=rises_chance,
        passages=passages,
        passages_chance=passages_chance,
    )


def cut_at_releases(part: Series, sent: Sequence[float]) -> list[list[float | None]]:
    """Apart where an answer comes with the one before it: something stood still and let go of both (a paused machine, a
    radio that roams), so that they tell of one moment. A queue's answers keep apart by what else goes through it."""
    pieces: list[list[float | None]] = [[]]
    before: tuple[float, float] | None = None
    for rtt, at in zip(part, sent, strict=True):
        if rtt is not None:
            if before and at + rtt - sum(before) < _TOGETHER * (at - before[0]):
                pieces.append([])
            before = at, rtt
        pieces[-1].append(rtt)
    return pieces


def strokes(parts: Sequence[Series], sent: Sequence[Sequence[float]]) -> float:
    """How well answers keep to the strokes of one clock, as where they wait for a radio or a machine to wake: 0 to 1,
    less what the sending itself keeps to it. Squared resultants of the phases (Rayleigh 1919), each part on its own."""
    known = [
        [(at, at + rtt) for rtt, at in zip(part, times, strict=True) if rtt is not None]
        for part, times in zip(parts, sent, strict=True)
    ]
    total = sum(map(len, known))
    if total < _STROKE_SAMPLES:
        return 0.0
    scores = (sum(_kept(part, rate, 1) - _kept(part, rate, 0) for part in known) / total for rate in _STROKES_PER_S)
    return max(scores)


def _kept(part: Sequence[tuple[float, float]], rate: float, which: int) -> float:
    phases = sum(exp(2j * pi * rate * times[which]) for times in part)
    return abs(phases) ** 2 / len(part) if part else 0.0


def _turning_chance(runs: Sequence[Sequence[float]], low: float, high: float) -> float:
    """Of no more turning points among the samples within the bounds, were each one with a chance of a half."""
    triples = ((a, b, c) for run in runs for a, b, c in zip(run, run[1:], run[2:], strict=False))
    turns = [(b - a) * (c - b) <= 0 for a, b, c in triples if low < b < high]
    return float(sum(comb(len(turns), k) for k in range(sum(turns) + 1)) / 2 ** len(turns))


def _ramp(run: Sequence[float], sign: int, span: float) -> int:
    """Samples of the longest monotone stretch across half of ``span`` or more, none of whose steps is most of it."""
    best = start = 0
    for end in range(1, len(run) + 1):
        if end == len(run) or sign * (run[end] - run[end - 1]) <= 0:
            if _is_gradual(run[start:end], span):
                best = max(best, end - start)
            start = end
    return best


def _is_gradual(stretch: Sequence[float], span: float) -> bool:
    rise = abs(stretch[-1] - stretch[0])
    steps = [abs(b - a) for a, b in pairwise(stretch)]
    return bool(steps) and rise >= _ACROSS * span and max(steps) <= _MOST_IN_ONE_STEP * rise


def _rises(shares: Sequence[Sequence[float]]) -> tuple[int, float]:
    """A queue that is short beside the gaps between samples still shows steps whenever it fills, however seldom it
    does, and then stays full; a route that changes shows none, jitter has them anywhere."""
    climbs = [steps for run in shares for steps in _climbs(run)]
    rises = sum(len(steps) >= _STEPS_BETWEEN for steps in climbs)
    within = sum(len(steps) for steps in climbs if len(steps) >= _STEPS_BETWEEN)
    return rises, _chance(shares, len(climbs), rises, within, _STEPS_BETWEEN)


def _passages(shares: Sequence[Sequence[float]]) -> tuple[int, float]:
    """Rises, and falls from a level at the top as well, over a step or more, where these steps keep to no few levels:
    what goes out by one route and comes back by another, or over a third for a moment, does."""
    climbs = [steps for run in shares for way in (run, run[::-1]) for steps in _climbs(way)]
    middles = [step for steps in climbs for step in steps]
    crossed = sum(bool(steps) for steps in climbs)
    if _levels(middles) <= _MOST_LEVELS:
        return 0, 1.0
    return crossed, _chance(shares, len(climbs), crossed, len(middles), 1)


def _levels(shares: Sequence[float]) -> int:
    """Fewest levels, each a band of _LEVEL, that all of these lie in."""
    count, end = 0, 0.0
    for share in sorted(shares):
        if not count or share > end:
            count, end = count + 1, share + _LEVEL
    return count


def _chance(shares: Sequence[Sequence[float]], climbs: int, crossed: int, within: int, steps: int) -> float:
    """Of so many climbs over ``steps`` or more, were samples between floor and top as frequent in them as elsewhere."""
    between = sum(_LOW < share < _HIGH for run in shares for share in run)
    anywhere = ((1 + between - within) / (1 + sum(map(len, shares)))) ** steps
    fewer = sum(comb(climbs, k) * anywhere**k * (1 - anywhere) ** (climbs - k) for k in range(crossed))
    return max(0.0, 1 - fewer)


def _climbs(run: Sequence[float]) -> list[list[float]]:
    """The steps between of each climb from the floor to a level at the top, of shares of the range."""
    found: list[list[float]] = []
    steps: list[float] | None = None  # None: not come from the floor
    for index, share in enumerate(run):
        if share <= _LOW:
            steps = []
        elif share >= _HIGH:
            if steps is not None and _is_level(run[index : index + _PLATEAU]):
                found.append(steps)
            steps = None
        elif steps is not None:
            steps = [*steps, share] if share - run[index - 1] >= _LEAST_STEP else None
    return found


def _is_level(ahead: Sequence[float]) -> bool:
    return len(ahead) == _PLATEAU and min(ahead) >= _HIGH


def _neighbour_ratio(parts: Sequence[Series]) -> tuple[float, int] | None:
    """Mean squared difference of neighbours over twice the variance, and the number of pairs: 1 with a standard
    deviation of about 1/sqrt(pairs) where samples are independent, whatever their distribution."""
    values = [rtt for part in parts for rtt in part if rtt is not None]
    stretches = _runs(parts, frozenset(change.index for change in change_points(values)))
    offsets = [rtt - _middle(stretch) for stretch in stretches for rtt in stretch]
    steps = [b - a for stretch in stretches for a, b in pairwise(stretch)]
    centre = mean(offsets)
    if centre is None or not steps:
        return None
    spread = mean([(offset - centre) ** 2 for offset in offsets])
    if not spread:
        return None
    return sum(step * step for step in steps) / len(steps) / (2 * spread), len(steps)


def _runs(parts: Sequence[Series], cuts: frozenset[int]) -> list[list[float]]:
    """Neighbours in time: the parts, cut at each lost sample and before the values of these numbers."""
    runs: list[list[float]] = []
    index = 0
    for part in parts:
        runs.append([])
        for rtt in part:
            if rtt is None or index in cuts:
                runs.append([])
            if rtt is not None:
                runs[-1].append(rtt)
                index += 1
    return [run for run in runs if run]


def _middle(values: Sequence[float]) -> float:
    return nearest_rank(sorted(values), 50) or 0.0


@value
class Losses:
    """Round-trip times beside lost packets against the rest. ``p_value`` one-sided: beside losses they are longer."""

    lost: int
    beside: float  # medians
    rest: float
    p_value: float


def losses_when_slow(parts: Sequence[Series]) -> Losses | None:
    """None in a part is a loss here. Both losses and delays come in runs, so the pattern of losses is turned round
    against the delays by every number of samples: its true place must give more than nearly all others.

    The p-value is 1/n at best. None without a loss, or without delays enough.
    """
    series = [_beside(part, index) if rtt is None else rtt for part in parts for index, rtt in enumerate(part)]
    lost = [index for index, rtt in enumerate(rtt for part in parts for rtt in part) if rtt is None]
    known = [rtt for rtt in series if rtt is not None]
    if not lost or len(known) < len(series) or len(lost) * 2 > len(series):
        return None
    delays = [rtt for rtt in series if rtt is not None]
    places = set(lost)
    here = sum(delays[index] for index in lost)
    turned = (sum(delays[index - turn] for index in lost) for turn in range(1, len(delays)))
    return Losses(
        lost=len(lost),
        beside=_middle([delays[index] for index in lost]),
        rest=_middle([rtt for index, rtt in enumerate(delays) if index not in places]),
        p_value=(1 + sum(other >= here for other in turned)) / len(delays),
    )


def losses_when_quick(parts: Sequence[Series], limit: float) -> tuple[int, int]:
    """Lost and sent of the packets whose nearest answers before and after, in the same part, took no more: a queue that
    is longer than the gaps between samples loses none of these."""
    fates = [part[n] is None for part in parts for n in range(1, len(part) - 1) if _is_quick(part, n, limit)]
    return sum(fates), len(fates)


def _is_quick(part: Series, index: int, limit: float) -> bool:
    near = _nearest(part, index)
    return all(rtt is not None and rtt <= limit for rtt in near)


def _beside(part: Series, index: int) -> float | None:
    """The mean of the nearest round-trip times on both sides, where there are any."""
    return mean([rtt for rtt in _nearest(part, index) if rtt is not None])


def _nearest(part: Series, index: int) -> tuple[float | None, float | None]:
    before = next((rtt for rtt in reversed(part[:index]) if rtt is not None), None)
    return before, next((rtt for rtt in part[index + 1 :] if rtt is not None), None)
