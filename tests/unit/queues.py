"""Round-trip times of simulated paths: a bottleneck with a finite buffer, and what is no queue. Seeded, in seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from random import Random
from typing import TypeVar

T = TypeVar("T")

BASE_S = 0.05
PARTS = (20, 25, 25, 25, 25)  # as a run's echoes come
COUNT, INTERVAL_S = sum(PARTS), 0.2
SENT = [INTERVAL_S * (n + Random(n).uniform(-0.1, 0.1)) for n in range(sum(PARTS))]  # as the sampler does


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
    rtts: list[float] = []
    backlog = last = 0.0
    for now in arrivals(draw, rate, (COUNT + 1) * INTERVAL_S, loads):
        while len(rtts) < COUNT and SENT[len(rtts)] < now:
            waited = max(0.0, backlog - max(0.0, SENT[len(rtts)] - last))
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


def on_and_off(draw: Random, least_s: float, most_s: float) -> list[float]:
    """A queue that long, filled and drained by a load that comes for some seconds and goes, of any surplus."""
    buffer_s, surplus, drain = draw.uniform(least_s, most_s), draw.uniform(0.05, 1.0), draw.uniform(0.2, 1.0)
    on, period = draw.uniform(0.5, 10.0), draw.uniform(10.5, 20.0)
    waited, now, rtts = 0.0, -draw.uniform(0, period), list[float]()
    while len(rtts) < COUNT:
        if now >= SENT[len(rtts)]:
            rtts.append(BASE_S + waited + draw.uniform(0, 0.002))
            continue
        waited = min(buffer_s, max(0.0, waited + 0.005 * (surplus if now % period < on else -drain)))
        now += 0.005
    return rtts


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


def _wakes_up(draw: Random) -> list[float]:
    """A radio that saves power: an answer waits for the next stroke of its clock."""
    period, phase = draw.uniform(0.09, 0.6), draw.random()
    return [BASE_S + period - (at + phase * period) % period + draw.uniform(0, 0.002) for at in SENT]


def _stands_still(draw: Random) -> list[float]:
    """A machine that is paused, or a radio that roams, and then answers everything at once."""
    stops = [(draw.uniform(0, SENT[-1]), draw.uniform(0.3, 1.5)) for _ in range(draw.randint(1, 12))]
    held = [
        max([0.0] + [start + length - at for start, length in stops if start <= at < start + length]) for at in SENT
    ]
    return [BASE_S + max(0.0, wait) + draw.uniform(0, 0.003) for wait in held]


def _contended(draw: Random) -> list[float]:
    """A processor or a channel that others want at times: delays in bouts, each on its own."""
    rtts: list[float] = []
    busy = False
    for _ in SENT:
        busy = busy != (draw.random() < 0.1)
        rtts.append(BASE_S + (draw.expovariate(1 / 0.03) if busy else draw.uniform(0, 0.002)))
    return rtts


def _sent_again(draw: Random) -> list[float]:
    """A radio frame that is sent again, with a wait that doubles each time."""
    rtts: list[float] = []
    bad = False
    for _ in SENT:
        bad = draw.random() < 0.4 if draw.random() < 0.15 else bad
        tries = next((n for n in range(7) if draw.random() > (0.6 if bad else 0.1)), 7)
        rtts.append(BASE_S + sum(draw.uniform(0.0, 0.002 * 2**k) for k in range(tries + 1)))
    return rtts


def _many_levels(draw: Random) -> list[float]:
    """Several equal ways, and now and then another of them."""
    levels, chance = [draw.uniform(0, 0.15) for _ in range(draw.randint(3, 8))], draw.uniform(0.03, 0.5)
    rtts: list[float] = []
    level = levels[0]
    for _ in SENT:
        level = draw.choice(levels) if draw.random() < chance else level
        rtts.append(BASE_S + level + draw.gammavariate(1.5, 0.002))
    return rtts


def _each_way_by_itself(draw: Random) -> list[float]:
    """A route that flaps, the way out and the way back at moments of their own: a level between the two."""
    rise, out, period = draw.uniform(0.04, 0.4), draw.random(), draw.uniform(2.0, 8.0)
    lag, jitter = draw.uniform(0.0, 1.0), draw.uniform(0.0, 0.01)
    return [
        BASE_S + rise * (out * (at // period % 2) + (1 - out) * ((at - lag) // period % 2)) + draw.uniform(0, jitter)
        for at in SENT
    ]


def _explores(draw: Random) -> list[float]:
    """A route that flaps over two others, each of them taken for a moment before the longest (RFC 4271 9.2.1.1)."""
    middle, period, jitter = draw.uniform(0.02, 0.2), draw.uniform(4.0, 10.0), draw.uniform(0.0, 0.01)
    levels = (0.0, draw.uniform(0.0, middle), middle, middle + draw.uniform(0.02, 0.2))
    first, second = draw.uniform(0.1, 1.5), draw.uniform(0.1, 1.5)
    ends = (period / 2, period / 2 + first, period / 2 + first + second)
    return [BASE_S + levels[sum(at % period >= end for end in ends)] + draw.uniform(0, jitter) for at in SENT]


# Milliseconds of echoes as a run sent them, 0.1 s apart in the first part and 0.2 s in the others, through the kernel's
# token bucket, which one TCP flow fills now and then: 3 Mbit/s and 400 ms for four seconds of ten; 5 Mbit/s and 250 ms
# for three of eight, which is as long as a sample or two.
TOKEN_BUCKETS_MS = {
    "400 ms": """
404 402 400 402 384 295 181 93 43 50 48 48 33 44 40 39 33 36 41 39
0 0 0 0 0 0 0 0 0 0 0 188 337 405 401 405 407 399 401 400 400 407 407 400 401
409 407 261 76 45 43 39 38 35 35 34 34 0 0 0 0 0 0 0 0 0 0 0 0 0
0 0 0 0 88 310 412 411 411 412 410 411 408 411 408 407 403 404 399 406 403 403 406 318 120
46 48 46 35 46 38 45 38 39 34 34 0 0 0 0 0 0 0 0 0 0 0 0 0 0
0 0 0 0 0 0 269 336 407 405 407 402 404 399 405 395 364 361 364 362 358 362 357 319 136
46 47 37 37 33 35 36 36 42 8 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0
""",
    "250 ms": """
22 22 21 21 19 24 0 0 0 0 0 0 0 0 0 0 0 0 0 0
0 0 0 0 0 0 166 257 257 183 253 254 257 254 253 253 250 220 42 22 22 21 21 21 21
0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 225 256 255 235 247
251 248 256 252 245 132 21 22 22 22 21 21 22 0 0 0 0 0 0 0 0 0 0 0 0
0 0 0 47 250 254 257 253 240 239 247 244 247 238 245 154 22 21 21 21 21 22 20 0 0
0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 28 251 256 256 257 253
255 254 255 256 250 251 94 21 21 23 20 21 22 0 0 0 0 0 0 0 0 0 0 0 0
""",
}

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
    "a radio that saves power": _wakes_up,
    "a machine that stands still": _stands_still,
    "bouts of contention": _contended,
    "a radio that sends again": _sent_again,
    "several ways": _many_levels,
    "each way by itself": _each_way_by_itself,
    "a route that is sought": _explores,
}


def lossy(draw: Random, rtts: list[float], share: float, stays: float = 0.0) -> list[float | None]:
    """Loses that share, at random or in bursts (Gilbert 1960)."""
    out: list[float | None] = []
    bad = False
    for rtt in rtts:
        bad = draw.random() < (stays if bad and stays else share * (1 - stays) if stays else share)
        out.append(None if bad else rtt)
    return out


def in_parts(rtts: Sequence[T]) -> list[Sequence[T]]:
    """As a run has them: samples of two measurements are no neighbours."""
    parts, start = [], 0
    for size in PARTS:
        parts.append(rtts[start : start + size])
        start += size
    return [part for part in parts if part]
