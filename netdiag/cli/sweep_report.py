"""What a sweep says: JSON lines or a table that grows, the totals, and the one line of progress on a terminal."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from netdiag.cli.output import is_terminal, one_line
from probes.model import Measurement, MeasurementOutcome, Outcome

_REFRESH_S = 0.2
_WIDEST_TARGET = 60
_COUNTED = {Outcome.ANSWERED, Outcome.LATE, Outcome.LOST}
_COLUMNS = ("sent", "lost", "late", "min ms", "p50 ms", "max ms")


@dataclass
class Counts:
    """Totals over the targets so far; packets are those that LossCount counts."""

    targets: int
    finished: int = 0
    measured: int = 0
    answering: int = 0
    unreachable: int = 0
    silent: int = 0
    unsent: int = 0
    sent: int = 0
    lost: int = 0
    late: int = 0
    not_sent: int = 0

    def add(self, measurements: Sequence[Measurement[Any]]) -> None:
        taken: list[Any] = [m.data for m in measurements if m.outcome is MeasurementOutcome.MEASURED]
        self.finished += 1
        self.measured += len(taken) == len(measurements)
        self._sort(taken)
        for data in taken:
            self.sent += data.loss.sent
            self.lost += data.loss.lost
            self.late += data.loss.late
            self.not_sent += data.loss.not_sent

    def _sort(self, taken: Sequence[Any]) -> None:
        """Only a target to which something was sent, and from which nothing came, is silent."""
        outcomes = {sample.outcome for data in taken for sample in data.samples}
        if any(data.rtt.n for data in taken):
            self.answering += 1
        elif outcomes - {Outcome.LOST, Outcome.NOT_SENT}:
            self.unreachable += 1
        elif Outcome.LOST in outcomes:
            self.silent += 1
        elif outcomes:
            self.unsent += 1

    def document(self, duration_s: float) -> dict[str, Any]:
        return {
            "targets": self.targets,
            "measured": self.measured,
            "answering": self.answering,
            "unreachable": self.unreachable,
            "silent": self.silent,
            "unsent": self.unsent,
            "unmeasured": self.targets - self.measured,
            "packets": {"sent": self.sent, "lost": self.lost, "late": self.late, "not_sent": self.not_sent},
            "duration_s": round(duration_s, 3),
        }


class JsonLines:
    """One document per line: a netdiag.probe/1 for each target, and at last the summary."""

    def target(self, probe_document: dict[str, Any]) -> str:
        return msgspec.json.encode(probe_document).decode()

    def summary(self, summary: dict[str, Any]) -> str:
        return msgspec.json.encode(summary).decode()


class Table:
    """A row for each address; ``widest`` is the length of the longest target's name."""

    def __init__(self, widest: int) -> None:
        self._width = min(max(widest, len("target")), _WIDEST_TARGET)
        self._begun = False

    def target(self, probe_document: dict[str, Any]) -> str:
        rows = [self._row(measurement) for measurement in probe_document["measurements"]]
        if not self._begun:
            self._begun = True
            rows.insert(0, self._line("target", _COLUMNS))
        return "\n".join(rows)

    def summary(self, summary: dict[str, Any]) -> str:
        packets = summary["packets"]
        return (
            f"\n{summary['targets']} targets in {summary['duration_s']:.1f} s: {summary['answering']} answer,"
            f" {summary['silent']} are silent,{_if_any(summary['unreachable'], 'unreachable')}"
            f"{_if_any(summary['unsent'], 'not sent to')} {summary['unmeasured']} not measured;"
            f" {packets['lost']} of {packets['sent']} packets lost, {packets['late']} late,"
            f" {packets['not_sent']} not sent" + ("" if summary["end_reason"] == "finished" else " (ended early)")
        )

    def _row(self, measurement: dict[str, Any]) -> str:
        to, data = measurement["to"], measurement["data"]
        name = one_line(to["endpoint"])
        if data is None:
            return f"{name:<{self._width}}  {one_line(str(measurement['reason']))}"
        loss, rtt = data["loss"], data["rtt"]
        delays = [_milliseconds(rtt[key]) for key in ("minimum_s", "p50_s", "maximum_s")]
        line = self._line(name, (str(loss["sent"]), str(loss["lost"]), str(loss["late"]), *delays))
        line += "".join(f"  {reason}" for reason in _reasons(data["samples"]))
        return line if to["address"] == to["host"] else f"{line}  {to['address']}"

    def _line(self, name: str, cells: Sequence[str]) -> str:
        return f"{name:<{self._width}}" + "".join(f"{cell:>10}" for cell in cells)


class TerminalLine:
    """Progress on stderr where somebody looks on; wiped away before each result."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self._wanted = is_terminal(sys.stderr) and os.environ.get("TERM") != "dumb"
        self._shown_at: float | None = None
        self._visible = False

    def show(self) -> None:
        now = time.monotonic()
        if self._wanted and (self._shown_at is None or now - self._shown_at >= _REFRESH_S):
            self._shown_at, self._visible = now, True
            counts = self._counts
            self._write(f"{counts.finished} of {counts.targets} targets, {counts.answering} answer")

    def clear(self) -> None:
        if self._visible and is_terminal(sys.stdout):
            self._visible = False
            self._write("")

    def _write(self, text: str) -> None:
        try:
            sys.stderr.write(f"\r\x1b[K{text}")
            sys.stderr.flush()
        except OSError:
            self._wanted = False


def _reasons(samples: Sequence[dict[str, Any]]) -> list[str]:
    """Of attempts that are neither answered nor lost: how many, what became of them, and who or what says so."""
    told = Counter((s["outcome"], _teller(s["failure"])) for s in samples if s["outcome"] not in _COUNTED)
    return [one_line(f"{count} {outcome}{teller}") for (outcome, teller), count in told.items()]


def _teller(failure: dict[str, Any] | None) -> str:
    if failure is None:
        return ""
    if failure["icmp"] is not None:
        return f" by {failure['icmp']['offender']}"
    said = failure["errno"] or failure["detail"]
    return f" ({said})" if said else ""


def _if_any(count: int, what: str) -> str:
    return f" {count} {what}," if count else ""


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e3:.3f}"
