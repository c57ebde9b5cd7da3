"""The runner around a scripted network: deadlines, interruption, defects of a probe, progress."""

from __future__ import annotations

import asyncio

import pytest

from netdiag.plan.model import Credentials, Endpoint, Limits, Plan
from netdiag.runner import MeasurementFinished, RunSettings, Started, Watching, execute, watch_s
from probes.exchanges import DatagramReply
from probes.model import Failure, FailureKind, MeasurementOutcome, Outcome, Secret
from tests.fakes.clock import FakeClock
from tests.fakes.network import ScriptedNetwork, failed_handshake, open_handshake

WEB = Plan(endpoints=(Endpoint(name="web", host="198.51.100.7", port=443),))
QUICK = RunSettings(quick=True)


def network(clock: FakeClock) -> ScriptedNetwork:
    return ScriptedNetwork(
        clock,
        handshake=lambda request: open_handshake(0.01),
        datagram=lambda request: DatagramReply(
            outcome=Outcome.REFUSED, seconds=0.01, failure=Failure(kind=FailureKind.REFUSED, operation="receive")
        ),
    )


async def test_a_quick_run_measures_each_thing_once_and_is_complete() -> None:
    clock = FakeClock()
    run = await execute(WEB, QUICK, network=network(clock), clock=clock)
    assert (run.end_reason, run.partial) == ("complete", False)
    assert [m.id.split("/")[1] for m in run.evidence] == ["host", "host", "latency-tcp", "mtu", "ports"]
    assert {m.source for m in run.evidence if m.probe != "host"} == {"192.0.2.1"}


async def test_a_full_run_goes_on_sampling_until_the_watch_ends() -> None:
    clock, events = FakeClock(), []
    run = await execute(WEB, RunSettings(), events.append, network=network(clock), clock=clock)
    assert isinstance(events[0], Started)
    watching = next(index for index, event in enumerate(events) if isinstance(event, Watching))
    assert any(isinstance(event, MeasurementFinished) for event in events[watching:])
    assert 30 <= (run.finished - run.started).total_seconds() <= 45


async def test_the_budget_ends_the_run_and_says_so() -> None:
    clock = FakeClock()
    slow = ScriptedNetwork(clock, handshake=lambda request: failed_handshake(Outcome.LOST, seconds=1.5))
    run = await execute(WEB, RunSettings(budget_s=5.0), network=slow, clock=clock)
    assert run.partial
    assert run.end_reason == "budget"
    assert (run.finished - run.started).total_seconds() < 10


async def test_stop_ends_the_run_with_what_there_is() -> None:
    clock, stop = FakeClock(), asyncio.Event()

    def on_event(event: object) -> None:
        if isinstance(event, Watching):
            stop.set()

    run = await execute(WEB, RunSettings(), on_event, stop=stop, network=network(clock), clock=clock)
    assert run.end_reason == "interrupted"
    assert any(m.outcome is MeasurementOutcome.MEASURED for m in run.evidence)


async def test_a_defect_in_one_probe_costs_only_that_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock()
    broken = network(clock)
    broken._datagram = lambda request: 1 / 0  # type: ignore[assignment]  # the defect under test
    run = await execute(WEB, QUICK, network=broken, clock=clock)
    mtu = next(m for m in run.evidence if m.probe == "mtu")
    assert (mtu.outcome, mtu.reason) == (MeasurementOutcome.UNAVAILABLE, "internal error: ZeroDivisionError")
    assert run.end_reason == "complete"


async def test_a_step_of_the_wall_clock_changes_no_duration() -> None:
    import datetime as dt

    clock = FakeClock()
    scripted = network(clock)

    def stepped(request: object) -> object:
        clock.wall_step -= dt.timedelta(hours=1)
        return open_handshake(0.01)

    scripted._handshake = stepped  # type: ignore[assignment]
    run = await execute(WEB, QUICK, network=scripted, clock=clock)
    assert all(0 <= m.duration_s < 60 for m in run.evidence)


async def test_options_are_recorded_without_their_secrets() -> None:
    clock = FakeClock()
    credentials = Credentials(user="app", password=Secret("canary-7"), dbname="x")
    plan = Plan(
        endpoints=(Endpoint(name="db", host="198.51.100.7", port=5432, database=True, credentials=credentials),),
        limits=Limits(budget=20.0),
    )
    run = await execute(plan, QUICK, network=network(clock), clock=clock)
    assert "canary-7" not in repr(run.evidence.measurements)


@pytest.mark.parametrize(
    ("bulk", "budget", "watch"), [(None, 60.0, 35.0), (1, 60.0, 30.0), (1, 20.0, 0.0), (1, 200.0, 35.0)]
)
def test_the_watch_leaves_time_for_bulk_reads(bulk, budget, watch):
    assert watch_s(Plan(endpoints=(), limits=Limits(bulk_read=bulk)), budget) == watch
