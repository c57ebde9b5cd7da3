"""A run's evidence: what was measured, of which deployment, and how the run ended; and its versioned JSON.

Everything after the evidence (findings, report) is a pure function of a Run, so a saved run can be judged again
offline and give the same bytes.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from functools import cached_property
from typing import Any, TypeVar

from netdiag.plan.model import Plan
from probes.model import Measurement, MeasurementOutcome, Vantage, value

SCHEMA = "netdiag.run/1"
M = TypeVar("M")


class EvidenceError(Exception):
    """A saved run that cannot be read: one line saying what and where."""


class Evidence:
    """The run's measurements in the order of their ids, and selection among them."""

    def __init__(self, measurements: tuple[Measurement[Any], ...]) -> None:
        self.measurements = tuple(sorted(measurements, key=lambda m: m.id))

    def __iter__(self) -> Iterator[Measurement[Any]]:
        return iter(self.measurements)

    def __len__(self) -> int:
        return len(self.measurements)

    @cached_property
    def _measured(self) -> tuple[Measurement[Any], ...]:
        return tuple(m for m in self.measurements if m.outcome is MeasurementOutcome.MEASURED)

    def of(
        self,
        kind: type[M],
        *,
        address: str | None = None,
        port: int | None = None,
        host: str | None = None,
        endpoint: str | None = None,
    ) -> tuple[Measurement[M], ...]:
        """Measurements that succeeded in measuring, whose data is a ``kind``, narrowed by target."""
        wanted = {"address": address, "port": port, "host": host, "endpoint": endpoint}
        return tuple(
            m
            for m in self._measured
            if isinstance(m.data, kind)
            and all(want is None or getattr(m.target, key) == want for key, want in wanted.items())
        )

    def unmeasured(self, probe: str | None = None) -> tuple[Measurement[Any], ...]:
        """Measurements that were asked for and did not come about."""
        return tuple(
            m
            for m in self.measurements
            if m.outcome is not MeasurementOutcome.MEASURED and (probe is None or m.probe == probe)
        )

    def plus(self, *more: Measurement[Any]) -> Evidence:
        return Evidence((*self.measurements, *more))


@value
class Tool:
    name: str = "netdiag"
    version: str = "0"


@value
class Run:
    """One run of netdiag: the input of diagnosis and report."""

    run_id: str
    tool: Tool
    plan: Plan  # secrets removed
    vantage: Vantage
    started: dt.datetime
    finished: dt.datetime
    end_reason: str  # "complete", "budget", "interrupted"
    partial: bool
    privileges: tuple[str, ...]
    evidence: Evidence
