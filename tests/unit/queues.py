"""Round-trip times of simulated paths: a bottleneck with a finite buffer, and what is no queue. Seeded, in seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from random import Random

BASE_S = 0.05
PARTS = (20, 25, 25, 25, 25)  # as a run's echoes come
COUNT, INTERVAL_S = sum(PARTS), 0.2


def arrivals(draw: Random, packets_per_s: float, seconds: float, loads: tuple[float, float]) -> Iterator[float]:
    """Poisson, at a load that changes every second or few between quiet and busy."""
    now, change, load = 0.0, 0.0, loads[0]
    while now < seconds:
        if now >= change:
            load = loads[draw.random() < 0.5] * draw.uniform(0.9, 1.1)
            change = now + draw.uniform(1.0, 4.0)
        now += draw.expovariate(load * packets_per_s)
        yield now


def bottleneck(draw: Random, loads: tuple[float, float]) -> list[float]:
    """Of probes through an M/D/1 queue (Lindley 1952) with a buffer of 150 to 400 ms that drops what does not fit."""
    rate = draw.uniform(100.0, 400.0)  # packets per second
    buffer_s = draw.uniform(0.15, 0.4)
    backlog, last, rtts = 0.0, 0.0, []
    for now in arrivals(draw, rate, (COUNT + 1) * INTERVAL_S, loads):
        while len(rtts) < COUNT and len(rtts) * INTERVAL_S < now:
            waited = max(0.0, backlog - (len(rtts) * INTERVAL_S - last))
            rtts.append(BASE_S + waited + draw.uniform(0, 0.001))
        backlog = max(0.0, backlog - (now - last))
        if backlog + 1 / rate <= buffer_s:
            backlog += 1 / rate
        last = now
    return rtts


def congested(draw: Random, busy: float | None = None) -> list[float]:
    return bottleneck(draw, (draw.uniform(0.3, 0.8), busy or draw.uniform(1.15, 1.6)))


def lightly_loaded(draw: Random) -> list[float]:
    return bottleneck(draw, (0.2, draw.uniform(0.3, 0.7)))


def filling(draw: Random) -> list[float]:
    """A surplus that fills the buffer once, over one to four seconds, and then keeps it full: the lab's."""
    start, slope, top = draw.uniform(0.01, 0.2), draw.uniform(0.015, 0.04), draw.uniform(0.3, 0.4)
    return [BASE_S + min(top, start + slope * n) + draw.uniform(0, 0.006) for n in range(20)]


def _independent(jitter: Callable[[Random], float]) -> Callable[[Random], list[float]]:
    return lambda draw: [BASE_S + jitter(draw) for _ in range(COUNT)]


def _levels(
    jitter: Callable[[Random], float], places: Callable[[Random], list[int]]
) -> Callable[[Random], list[float]]:
    """A route that changes at these samples, with independent jitter on it."""

    def path(draw: Random) -> list[float]:
        cuts, rise = [0, *places(draw), COUNT], draw.uniform(0.04, 0.12)
        return [
            BASE_S + rise * (number % 2) + jitter(draw)
            for number, (start, end) in enumerate(pairwise(cuts))
            for _ in range(end - start)
        ]

    return path


def _once(draw: Random) -> list[int]:
    return [draw.randrange(1, COUNT)]


def _flapping(draw: Random) -> list[int]:
    period = draw.randint(3, 25)
    return list(range(period, COUNT, period))


def _small(draw: Random) -> float:
    return draw.uniform(0, 0.004)


def _long_tail(draw: Random) -> float:
    return 0.010 * (draw.paretovariate(1.3) - 1)


def _gamma(draw: Random) -> float:
    return draw.gammavariate(1.5, 0.025)


NO_QUEUE: dict[str, Callable[[Random], list[float]]] = {
    "uniform jitter": _independent(lambda draw: draw.uniform(0, 0.06)),
    "gamma jitter": _independent(_gamma),
    "a heavy tail": _independent(_long_tail),
    "two paths, packet by packet": _independent(lambda draw: draw.choice((0, 0.06)) + draw.uniform(0, 0.008)),
    "a route change": _levels(_small, _once),
    "a route change with jitter": _levels(lambda draw: draw.gammavariate(1.5, 0.015), _once),
    "a route that flaps": _levels(_small, _flapping),
    "a route that flaps, with jitter": _levels(lambda draw: draw.gammavariate(1.5, 0.006), _flapping),
    "a light load": lightly_loaded,
}


def in_parts(rtts: list[float]) -> list[list[float]]:
    """As a run has them: samples of two measurements are no neighbours."""
    parts, start = [], 0
    for size in PARTS:
        parts.append(rtts[start : start + size])
        start += size
    return [part for part in parts if part]
