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


def stopping_signals() -> list[signal.Signals]:
    """A terminal that is gone stops a run too, so that its files are written; not one that nohup protects."""
    hangup = [signal.SIGHUP] if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN else []
    return [signal.SIGINT, signal.SIGTERM, *hangup]


def measure(plan: Plan, settings: RunSettings, *listeners: Listener | None) -> Run:
    """The run of ``plan``. Ctrl-C, SIGTERM and SIGHUP stop it; it still comes back with the evidence so far."""
    run = asyncio.run(_until_stopped(plan, settings, listeners))
    return replace(run, plan=redacted(run.plan))


async def _until_stopped(plan: Plan, settings: RunSettings, listeners: Sequence[Listener | None]) -> Run:
    def tell(event: Event) -> None:
        for listener in listeners:
            if listener is not None:
                listener(event)

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    stopping = stopping_signals()
    for number in stopping:
        loop.add_signal_handler(number, stop.set)
    try:
        return await execute(plan, settings, tell, stop=stop)
    finally:
        _hold_on(loop, stopping)


def _hold_on(loop: asyncio.AbstractEventLoop, stopping: Sequence[signal.Signals]) -> None:
    """The report is on its way: a second Ctrl-C must not cost it. Closing the loop would bring back the default."""
    signal.pthread_sigmask(signal.SIG_BLOCK, stopping)
    for number in stopping:
        loop.remove_signal_handler(number)
        signal.signal(number, lambda _number, _frame: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, stopping)
