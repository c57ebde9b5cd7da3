"""One probe of a database through a Line's router, while something else happens, and what its rule makes of it."""

from __future__ import annotations

import asyncio

from probes.contract import Context
from probes.model import Target, Vantage
from probes.net.clock import SystemClock
from probes.net.kernel import KernelNetwork
from tests.fakes import evidence as ev
from tests.kernel.netns import Line

PORT = 5432


def ask_database(made: Line, measure, options, *, deadline_s: float, meanwhile=None, after_s: float = 0.0):
    """The target, and what was measured; ``meanwhile`` is called ``after_s`` seconds into it."""

    async def asking():
        clock = SystemClock()
        async with KernelNetwork(clock) as network:
            context = Context(
                network=network, clock=clock, vantage=Vantage(name="test"), deadline=clock.monotonic() + deadline_s
            )
            target = Target(host=made.server_address, address=made.server_address, port=PORT, endpoint="db")
            task = asyncio.create_task(measure(context, target, options))
            if meanwhile is not None:
                await asyncio.sleep(after_s)
                await asyncio.to_thread(meanwhile)
            return target, await task

    return made.client.measure(asking)


def judged(rule, probe: str, target: Target, measurement):
    place = ev.endpoint(target.host, PORT, name="db")
    (judgement,) = rule.judge(ev.case(ev.measured(probe, target, measurement), endpoints=[place]))
    return judgement
