"""The wall clock is set while probes measure: with the injected Clock, nothing that is measured changes."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest

from netdiag.plan.model import Endpoint, Plan
from netdiag.runner import RunSettings, execute
from probes import latency, loss
from probes.exchanges import DatagramReply, EchoRequest, EchoSample, EchoSeries, Handshake, TimestampSource
from probes.model import Failure, FailureKind, Outcome, Target
from probes.net.engine.moment import Moment, round_trip, stepped
from probes.net.stamp import _Flight, _times
from tests.fakes.clock import FakeClock
from tests.fakes.network import ScriptedNetwork, context, open_handshake

TARGET = Target(host="db.example", address="192.0.2.10", port=5432)
STEPS = (timedelta(hours=-1), timedelta(hours=1))
HOUR_NS = 3600 * 10**9


def stepping(clock: FakeClock, step: timedelta) -> Callable[[Any], None]:
    """Sets the wall clock by ``step`` at every third thing that is asked."""
    asked = iter(range(10**6))

    def maybe(_request: Any) -> None:
        if next(asked) % 3 == 2:
            clock.wall_step += step

    return maybe


def network(step: timedelta) -> ScriptedNetwork:
    clock, source = FakeClock(), random.Random(7)
    set_clock = stepping(clock, step)

    def handshake(request: Any) -> Handshake:
        set_clock(request)
        return open_handshake(source.uniform(0.001, 0.2), retransmits=int(source.random() < 0.1))

    def echo(request: EchoRequest) -> EchoSeries:
        set_clock(request)
        samples = (
            EchoSample(sequence=n, sent_s=n * request.interval_s, outcome=Outcome.ANSWERED, rtt_s=source.uniform(0, 1))
            for n in range(request.count)
        )
        return EchoSeries(samples=tuple(samples), timestamp_source=TimestampSource.KERNEL_RX, socket="raw")

    def datagram(request: Any) -> DatagramReply:
        set_clock(request)
        failure = Failure(kind=FailureKind.REFUSED, operation="receive")
        return DatagramReply(outcome=Outcome.REFUSED, seconds=0.01, failure=failure)

    return ScriptedNetwork(clock, handshake=handshake, echo=echo, datagram=datagram)


@pytest.mark.parametrize("step", STEPS, ids=str)
@pytest.mark.parametrize("method", ["tcp", "icmp"])
async def test_a_probe_measures_the_same(method, step):
    async def measured(by: timedelta) -> tuple[object, object]:
        options = latency.LatencyOptions(method=method, count=30)
        delays = await latency.measure(context(network(by)), TARGET, options)
        verdict = loss.LossOptions(method=method, count=60)
        return delays, await loss.measure(context(network(by)), TARGET, verdict)

    assert await measured(step) == await measured(timedelta(0))


@pytest.mark.parametrize("step", STEPS, ids=str)
async def test_a_run_lasts_as_long_and_no_measurement_less_than_nothing(step):
    async def run(by: timedelta):
        scripted = network(by)
        plan = Plan(endpoints=(Endpoint(name="web", host="198.51.100.7", port=443),))
        return await execute(plan, RunSettings(quick=True), network=scripted, clock=scripted.clock)

    stepped_run, steady = await run(step), await run(timedelta(0))
    assert [m.id for m in stepped_run.evidence] == [m.id for m in steady.evidence]
    assert [m.duration_s for m in stepped_run.evidence] == [m.duration_s for m in steady.evidence]
    assert min(m.duration_s for m in stepped_run.evidence) >= 0
    assert [replace(m, started=steady.started) for m in stepped_run.evidence] == [
        replace(m, started=steady.started) for m in steady.evidence
    ]


def test_a_step_is_told_from_a_slew_and_from_waiting():
    begin = Moment(1000.0, 5 * HOUR_NS)
    assert not stepped(begin, Moment(1060.0, 5 * HOUR_NS + 60_000_000_000))
    assert not stepped(begin, Moment(1060.0, 5 * HOUR_NS + 60_030_000_000)), "500 ppm is what adjtime(3) slews by"
    for step in (-HOUR_NS, HOUR_NS, 5_000_000, -5_000_000):
        assert stepped(begin, Moment(1000.5, 5 * HOUR_NS + 500_000_000 + step))


@pytest.mark.parametrize("step_ns", [-HOUR_NS, HOUR_NS, 500_000_000, -500_000_000])
def test_an_echo_in_flight_keeps_its_round_trip(step_ns):
    """Sent at 1000 s, read 50.1 ms later; the kernel stamped the answer after the clock was set."""
    sent = Moment(1000.0, 5 * HOUR_NS)
    read = Moment(1000.0501, sent.wall_ns + 50_100_000)
    rtt_s, source = round_trip(sent, read, sent.wall_ns + 20_000, sent.wall_ns + 50_000_000 + step_ns)
    assert (rtt_s, source) == (pytest.approx(0.0501), TimestampSource.USER)


@pytest.mark.parametrize("step_ns", [-HOUR_NS, HOUR_NS, 5_000_000, -5_000_000])
def test_a_stamp_packet_in_flight_keeps_its_delay(step_ns):
    """The same for STAMP, whose T1 and T4 are put on the monotonic clock."""
    sent = Moment(1000.0, 5 * HOUR_NS)
    steady = _Flight(0, sent, transmit_ns=sent.wall_ns + 20_000, receive_ns=sent.wall_ns + 50_000_000)
    steady.read = Moment(1000.0501, sent.wall_ns + 50_100_000)
    t1, t4, source = _times(steady)
    assert (t4 - t1, source) == (pytest.approx(49_980_000, abs=2), TimestampSource.KERNEL_RX_TX)
    moved = replace(steady, receive_ns=sent.wall_ns + 50_000_000 + step_ns)
    moved.read = Moment(1000.0501, sent.wall_ns + 50_100_000 + step_ns)
    t1, t4, source = _times(moved)
    assert (t4 - t1, source) == (pytest.approx(50_100_000, abs=2), TimestampSource.USER)


@pytest.mark.parametrize("step_ns", [-HOUR_NS, HOUR_NS])
def test_a_step_between_two_packets_disturbs_neither(step_ns):
    """Each is on the monotonic clock, so that their distance is too."""
    flights = []
    for number, wall_ns in enumerate((5 * HOUR_NS, 5 * HOUR_NS + 100_000_000 + step_ns)):
        sent = Moment(1000.0 + number * 0.1, wall_ns)
        flight = _Flight(number, sent, transmit_ns=wall_ns + 20_000, receive_ns=wall_ns + 30_000_000)
        flight.read = Moment(sent.monotonic + 0.031, wall_ns + 31_000_000)
        flights.append(flight)
    times = [_times(flight) for flight in flights]
    assert [t4 - t1 for t1, t4, _ in times] == [pytest.approx(29_980_000, abs=2)] * 2
    assert [after[0] - before[0] for before, after in pairwise(times)] == [pytest.approx(100_000_000, abs=2)]


def test_a_hold_up_between_the_two_clocks_of_a_moment_neither_hides_the_kernels_stamp_nor_makes_an_rtt_negative():
    """On loopback a reply is there within microseconds, and the clocks of one moment may be as many apart."""
    sent, read = Moment(100.0, 5 * HOUR_NS), Moment(100.00004, 5 * HOUR_NS + 55_000)
    flight = _Flight(0, sent, transmit_ns=sent.wall_ns + 1_000, receive_ns=sent.wall_ns + 5_000, read=read)
    begun, ended, source = _times(flight)
    assert source is not TimestampSource.USER
    assert ended is not None
    assert 0 <= ended - begun <= 40_000
