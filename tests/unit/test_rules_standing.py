"""Whether a session fell between two readings, against a BIRD that writes its times as lib/timer.c does."""

from __future__ import annotations

import datetime as dt
import random

import pytest

from netdiag.diagnosis.finding import Finding, RuledOut
from netdiag.diagnosis.rule import Case
from netdiag.diagnosis.rules import routing
from netdiag.diagnosis.rules.standing import Seen, fell_between
from netdiag.plan.model import Router
from probes.model import Measurement, Target
from probes.routing import RoutingMeasurement
from probes.wire.bird import BirdClock, BirdSession
from tests.fakes.evidence import case, judged, measured

ROUTER = Router(name="edge-east", bird="/run/bird.ctl")
FLAPPING = routing.RULES[1]
HOUR_S, DAY_S = 3600.0, 86_400.0
EPOCH = dt.datetime(2024, 1, 25, tzinfo=dt.UTC)


class Daemon:
    """Times in seconds of the monotonic clock since it was started; the wall clock is ``wall`` ahead of it."""

    def __init__(self, draw: random.Random) -> None:
        self.draw = draw
        self.turn_s = draw.choice((0.0, 0.0005, 0.02, 0.4))  # how long it is from one clock's reading to the other's
        self.wall = draw.uniform(0, 2 * DAY_S)
        self.zone_s = draw.randrange(-48, 57) * 900.0
        self.started = 0.0

    def written(self, moment: float, now: float) -> dt.datetime:
        unrest = self.draw.uniform(0, self.turn_s)
        return (EPOCH + dt.timedelta(seconds=moment + self.wall + self.zone_s + unrest)).replace(tzinfo=None)

    def since(self, moment: float, now: float) -> str:
        told = self.written(moment, now)
        return f"{told:%Y-%m-%d}" if now - moment >= 20 * HOUR_S else f"{told:%H:%M:%S.%f}"[:12]

    def seen(self, up: float, now: float, *, clock: bool = True) -> Seen:
        times = [self.written(moment, now).isoformat(" ", "milliseconds") for moment in (now, self.started)]
        return Seen(
            session=BirdSession(
                name="peer", state="up", since=self.since(up, now), info="Established", neighbor_as=65100
            ),
            clock=BirdClock(now=times[0], started=times[1]) if clock else None,
            at=EPOCH + dt.timedelta(seconds=now + self.wall),
        )


def readings(draw: random.Random, first: float) -> list[float]:
    moments = [first]
    while len(moments) < 8:
        moments.append(moments[-1] + draw.choice((5.0, 5.0, draw.uniform(4.5, 20))))
    return moments


def ages(draw: random.Random) -> float:
    return draw.choice((draw.uniform(0.001, 5), draw.uniform(1, HOUR_S), draw.uniform(1, 60 * HOUR_S)))


def router_case(history: list[Seen]) -> Case:
    made: list[Measurement[RoutingMeasurement]] = []
    for ordinal, seen in enumerate(history, start=1):
        data = RoutingMeasurement(
            zone=None, hops=(), as_path=(), queries=(), router=ROUTER.name, sessions=(seen.session,), clock=seen.clock
        )
        made.append(measured("routing", Target(host=ROUTER.name), data, ordinal=ordinal))
    return case(*made, routers=(ROUTER,), endpoints=())


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("clock", [True, False])
def test_a_session_that_stands_never_fell(seed: int, clock: bool) -> None:
    """2 x 2,000 histories of eight readings: any age, any zone, any unrest of the two clocks."""
    draw = random.Random(seed)
    for _ in range(100):
        daemon = Daemon(draw)
        up = draw.uniform(0, 40 * HOUR_S)
        history = [daemon.seen(up, now, clock=clock) for now in readings(draw, up + ages(draw))]
        (found,) = judged(FLAPPING, router_case(history))
        assert isinstance(found, RuledOut), f"seed {seed}: {[seen.session.since for seen in history]}"


@pytest.mark.parametrize("seed", range(20))
def test_a_step_of_the_wall_clock_is_no_fall(seed: int) -> None:
    """On or back, by a little or by hours; a host that slept; and the hour that summer takes or gives."""
    draw = random.Random(seed)
    for _ in range(100):
        daemon = Daemon(draw)
        up = draw.uniform(0, 40 * HOUR_S)
        history = []
        for now in readings(draw, up + ages(draw)):
            if draw.random() < 0.3:
                daemon.wall += draw.choice(
                    (draw.uniform(-3, 3), draw.uniform(-3000, 3000), draw.choice((-1, 1)) * HOUR_S)
                )
            history.append(daemon.seen(up, now))
        (found,) = judged(FLAPPING, router_case(history))
        assert isinstance(found, RuledOut), f"seed {seed}: {[seen.session.since for seen in history]}"


@pytest.mark.parametrize("seed", range(20))
def test_a_session_that_fell_unseen_did(seed: int) -> None:
    """However old it was, and while the wall clock steps as well."""
    draw = random.Random(seed)
    for _ in range(100):
        daemon = Daemon(draw)
        up, gap = draw.uniform(0, 40 * HOUR_S), draw.uniform(4.5, 20)
        first = up + draw.uniform(0.5, 60 * HOUR_S)
        before = daemon.seen(up, first)
        daemon.wall += draw.choice((0.0, draw.uniform(-3000, 3000)))
        again = first + draw.uniform(1.5, gap - 0.5)
        assert fell_between(before, daemon.seen(again, first + gap)), f"seed {seed}"


@pytest.mark.parametrize("seed", range(20))
def test_without_the_daemons_clock_an_hour_that_moves_on_tells(seed: int) -> None:
    draw = random.Random(seed)
    daemon = Daemon(draw)
    up, gap = draw.uniform(0, 40 * HOUR_S), draw.uniform(4.5, 20)
    first = up + draw.uniform(0.5, 19 * HOUR_S)
    again = first + draw.uniform(1.5, gap - 0.5)
    assert fell_between(daemon.seen(up, first, clock=False), daemon.seen(again, first + gap, clock=False)), (
        f"seed {seed}"
    )


def test_a_daemon_that_was_restarted_took_its_sessions_along() -> None:
    daemon = Daemon(random.Random(1))
    before = daemon.seen(50.0, 4000.0)
    daemon.started = 4002.0
    assert fell_between(before, daemon.seen(4004.0, 4007.0))


@pytest.mark.parametrize("since", ["25.01.2024", "?", "noon", "2024-01-26"])
def test_a_time_that_cannot_be_read_claims_nothing(since: str) -> None:
    daemon = Daemon(random.Random(2))
    before, after = daemon.seen(50.0, 4000.0), daemon.seen(50.0, 4005.0)
    odd = BirdSession(name="peer", state="up", since=since, info="Established")
    for one, other in ((before, after), (after, before)):
        blind = Seen(session=odd, clock=one.clock, at=one.at)
        assert not fell_between(blind, other)
        assert not fell_between(other, blind)


def test_what_fell_is_told() -> None:
    daemon = Daemon(random.Random(3))
    history = [daemon.seen(50.0, 400_000.0), daemon.seen(400_003.0, 400_005.0), daemon.seen(400_003.0, 400_010.0)]
    (found,) = judged(FLAPPING, router_case(history))
    assert isinstance(found, Finding)
    assert "changed 2 times" in found.statement
