"""Schedule + network -> Evidence, under one absolute deadline, with progress events.

A probe that fails by itself never ends the run: it becomes a measurement that says so. Stopping (Ctrl-C, SIGTERM,
the budget) keeps what was measured and marks the run partial.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import secrets
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

from netdiag import __version__
from netdiag.encoding import builtins
from netdiag.evidence import Evidence, Run, Tool
from netdiag.plan.model import Plan
from netdiag.schedule import Request, Schedule, ScheduleSettings
from probes import registry
from probes.contract import Capability, Clock, Context, Network, ProbeUnavailable
from probes.model import Measurement, MeasurementOutcome, Target, Vantage, value

WATCH_S = 35.0  # long enough to catch a fault that is bad for 10 s in every 30
BULK_S = 30.0  # of the budget that the watch leaves to bulk reads, where they are asked for
GRACE_S = 1.0  # for a probe to end by itself once its deadline is reached
REPORT_RESERVE_S = 0.5  # of the budget, for judging and writing


@value
class RunSettings:
    quick: bool = False  # stop at the first verdict instead of watching on
    budget_s: float | None = None  # None: the plan's
    packets_per_second: float | None = None  # None: the plan's


@value
class Started:
    run: Run  # nothing measured yet
    budget_s: float


@value
class MeasurementStarted:
    id: str
    probe: str
    target: Target


@value
class MeasurementFinished:
    measurement: Measurement[Any]


@value
class Watching:
    """Nothing is left to ask: the evidence so far gives a first verdict, light sampling goes on."""

    run: Run
    until_s: float


Event = Started | MeasurementStarted | MeasurementFinished | Watching
Listener = Callable[[Event], None]


async def execute(
    plan: Plan,
    settings: RunSettings,
    on_event: Listener | None = None,
    *,
    stop: asyncio.Event | None = None,
    network: Network | None = None,
    clock: Clock | None = None,
) -> Run:
    """Measure ``plan``. ``stop``, once set, ends the run within a second with the evidence so far."""
    from probes.net.clock import SystemClock

    clock = clock or SystemClock()
    async with _network(plan, settings, clock, network) as machine:
        session = _Session(plan, settings, machine, clock, on_event or _ignore)
        return await session.run(stop or asyncio.Event())


@contextlib.asynccontextmanager
async def _network(plan: Plan, settings: RunSettings, clock: Clock, given: Network | None) -> AsyncIterator[Network]:
    if given is not None:
        yield given
        return
    from probes.net.kernel import KernelNetwork

    rate = settings.packets_per_second or plan.limits.packets_per_second
    machine = KernelNetwork(clock, packets_per_second=rate, connections_per_second=plan.limits.connections_per_second)
    try:
        yield machine
    finally:
        await machine.close()


def watch_s(plan: Plan, budget_s: float) -> float:
    """How long light sampling goes on; bulk reads come after it."""
    kept = BULK_S if plan.limits.bulk_read is not None else 0.0
    return min(WATCH_S, max(0.0, budget_s - kept))


def _ignore(event: Event) -> None:
    """Nobody listens."""


def _first(error: Exception) -> Exception:
    """Of a task group's errors the one that ended it."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


class _Session:
    """One run: which requests are under way, what came back, and when to stop."""

    def __init__(self, plan: Plan, settings: RunSettings, network: Network, clock: Clock, tell: Listener) -> None:
        self._plan, self._settings, self._network, self._clock, self._tell = plan, settings, network, clock, tell
        self._vantage = Vantage(name=plan.vantage.name or socket.gethostname(), region=plan.vantage.region)
        self._capabilities = network.capabilities()
        self._begun = clock.monotonic()
        self._started = clock.utc()
        self._run_id = f"{self._started:%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"
        self._budget_s = settings.budget_s or plan.limits.budget
        self._deadline = self._begun + self._budget_s - min(REPORT_RESERVE_S, self._budget_s / 4)
        self._evidence = Evidence(())
        self._tasks: dict[asyncio.Task[Measurement[Any]], Request] = {}
        self._watching = False

    async def run(self, stop: asyncio.Event) -> Run:
        self._tell(Started(run=self._result("interrupted"), budget_s=self._budget_s))
        schedule = self._schedule()
        stopper = asyncio.create_task(stop.wait())
        try:
            end_reason = await self._drive(schedule, stopper)
        finally:
            stopper.cancel()
            await self._abandon()
        return self._result(end_reason)

    def _schedule(self) -> Schedule:
        watch = 0.0 if self._settings.quick else watch_s(self._plan, self._budget_s)
        icmp = Capability.ICMP_ECHO in self._capabilities
        return Schedule(
            self._plan, ScheduleSettings(vantage=self._vantage.name, watch_s=watch, icmp=icmp, own_host=True)
        )

    async def _drive(self, schedule: Schedule, stopper: asyncio.Task[bool]) -> str:
        """Why the run ended: "complete", "budget" or "interrupted"."""
        while True:
            for request in schedule.next(self._evidence, self._clock.monotonic() - self._begun):
                self._start(request)
            self._announce(schedule)
            if not self._tasks:
                return "complete"
            remaining = self._deadline + GRACE_S - self._clock.monotonic()
            done, _ = await asyncio.wait(
                {*self._tasks, stopper}, timeout=max(0.0, remaining), return_when=asyncio.FIRST_COMPLETED
            )
            self._collect(done)
            if stopper in done:
                return "interrupted"
            if self._clock.monotonic() >= self._deadline:
                return "budget"

    def _announce(self, schedule: Schedule) -> None:
        if self._watching or not self._tasks or not schedule.settled(self._evidence):
            return
        self._watching = True
        self._tell(Watching(run=self._result("complete"), until_s=WATCH_S))

    def _start(self, request: Request) -> None:
        self._tell(MeasurementStarted(id=request.id, probe=request.probe, target=request.target))
        self._tasks[asyncio.create_task(self._measure(request))] = request

    def _collect(self, done: set[asyncio.Task[Any]]) -> None:
        for task in done & self._tasks.keys():
            del self._tasks[task]
            self._record(task.result())

    def _record(self, measurement: Measurement[Any]) -> None:
        self._evidence = self._evidence.plus(measurement)
        self._tell(MeasurementFinished(measurement=measurement))

    async def _abandon(self) -> None:
        """End what is still under way; each becomes a measurement that says it was interrupted."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            done, _ = await asyncio.wait(self._tasks, timeout=GRACE_S)
            self._collect(done)

    async def _measure(self, request: Request) -> Measurement[Any]:
        begun, started = self._clock.monotonic(), self._clock.utc()
        data, outcome, reason = None, MeasurementOutcome.MEASURED, None
        try:
            probe = registry.load(request.probe)
            context = Context(network=self._network, clock=self._clock, vantage=self._vantage, deadline=self._deadline)
            data = await probe.measure(context, request.target, request.options)
        except ProbeUnavailable as error:
            outcome, reason = MeasurementOutcome.UNAVAILABLE, str(error)
        except asyncio.CancelledError:
            outcome, reason = MeasurementOutcome.INTERRUPTED, "the run ended before this was measured"
        except Exception as error:  # a probe's own defect must not cost the other probes' evidence
            outcome, reason = MeasurementOutcome.UNAVAILABLE, f"internal error: {type(_first(error)).__name__}"
        return self._envelope(request, started, self._clock.monotonic() - begun, data, outcome, reason)

    def _envelope(
        self,
        request: Request,
        started: dt.datetime,
        duration_s: float,
        data: Any,
        outcome: MeasurementOutcome,
        reason: str | None,
    ) -> Measurement[Any]:
        address = request.target.address
        return Measurement(
            id=request.id,
            probe=request.probe,
            schema=registry.load(request.probe).schema,
            vantage=self._vantage.name,
            source=self._network.local_route(address).source if address else None,
            target=request.target,
            started=started,
            duration_s=round(duration_s, 6),
            options=builtins(request.options),
            timestamp_source=str(getattr(data, "timestamp_source", "user")),
            outcome=outcome,
            reason=reason,
            data=data,
        )

    def _result(self, end_reason: str) -> Run:
        return Run(
            run_id=self._run_id,
            tool=Tool(version=__version__),
            plan=self._plan,
            vantage=self._vantage,
            started=self._started,
            finished=self._clock.utc(),
            end_reason=end_reason,
            partial=end_reason != "complete",
            privileges=tuple(sorted(str(capability) for capability in self._capabilities)),
            evidence=self._evidence,
        )
