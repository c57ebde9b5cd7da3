"""Run the runner: signals, and secrets taken out of what it gives back."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Sequence
from dataclasses import replace

from netdiag.evidence import Run
from netdiag.plan.model import Plan
from netdiag.plan.redact import redacted
from netdiag.runner import Event, Listener, RunSettings, execute


def measure(plan: Plan, settings: RunSettings, *listeners: Listener | None) -> Run:
    """The run of ``plan``. Ctrl-C and SIGTERM stop it; it still comes back with the evidence so far."""
    run = asyncio.run(_until_stopped(plan, settings, listeners))
    return replace(run, plan=redacted(run.plan))


async def _until_stopped(plan: Plan, settings: RunSettings, listeners: Sequence[Listener | None]) -> Run:
    def tell(event: Event) -> None:
        for listener in listeners:
            if listener is not None:
                listener(event)

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    return await execute(plan, settings, tell, stop=stop)
