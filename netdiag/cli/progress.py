"""What a terminal shows while a run goes on: on stderr, gone when the report comes."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from netdiag.cli.conclude import conclude
from netdiag.cli.output import is_terminal, one_line
from netdiag.runner import Event, Listener, MeasurementFinished, MeasurementStarted, Started, Watching

if TYPE_CHECKING:
    from rich.status import Status


@contextlib.contextmanager
def progress() -> Iterator[Listener | None]:
    """A listener for the runner's events, or None where nobody looks on (a pipe, cron, TERM=dumb)."""
    if not is_terminal(sys.stderr) or os.environ.get("TERM") == "dumb":
        yield None
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True)
    with console.status(Text("starting")) as status:
        yield Display(status).tell


class Display:
    """One line: how many measurements are in, which are under way, how much time is left."""

    def __init__(self, status: Status) -> None:
        self._status = status
        self._under_way: dict[str, str] = {}
        self._done = 0
        self._deadline = time.monotonic()

    def tell(self, event: Event) -> None:
        match event:
            case Started():
                self._deadline = time.monotonic() + event.budget_s
            case MeasurementStarted():
                self._under_way[event.id] = f"{event.probe} {event.target.label()}"
            case MeasurementFinished():
                self._done += 1
                self._under_way.pop(event.measurement.id, None)
            case Watching():
                self._first_verdict(event)
        self._show()

    def _first_verdict(self, event: Watching) -> None:
        from rich.text import Text

        told = conclude(event.run).report.summary
        line = f"First verdict: {told.verdict}. {told.cause} Watching on for rare faults; Ctrl-C ends with the report."
        self._status.console.print(Text(one_line(line)))

    def _show(self) -> None:
        from rich.text import Text

        left = max(0.0, self._deadline - time.monotonic())
        under_way = ", ".join(list(self._under_way.values())[:3])
        self._status.update(Text(one_line(f"{self._done} measured, {left:.0f} s left: {under_way}")))
