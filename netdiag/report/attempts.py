"""Attempts on a service as one series, whatever probe made them: the base of availability and detection limits."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from netdiag.evidence import Run
from netdiag.report.evidence_rows import succeeded
from probes.database import DatabaseMeasurement
from probes.latency import LatencyMeasurement
from probes.loss import LossMeasurement
from probes.model import FailureKind, Measurement, Outcome, value
from probes.ports import PortsMeasurement

LEVEL = 0.95
_LOCAL = frozenset({FailureKind.LOCAL, FailureKind.CREDENTIALS})


@value
class Attempt:
    """An attempt that left this host. ``at_s``: seconds since the run's start (wall clock between measurements)."""

    address: str
    kind: str  # "database connections", "TCP handshakes", "ICMP echoes"
    at_s: float


@value
class Detection:
    """What the sampling would have seen. ``kind``, ``address``: the attempts of which there were fewest."""

    address: str
    kind: str
    attempts: int
    rarest: float  # share of attempts that a fault must hit to show at least once, at 95 %
    shortest_s: float | None  # an outage this long meets an attempt while the address was watched; None of one attempt
    watched_s: float  # from the first attempt to the last


def service_attempts(run: Run) -> tuple[tuple[bool, ...], tuple[str, ...], str]:
    """What the users meet: per attempt whether it went well; the measurements these come from; what they are called.

    Connections to the load balancer where it was measured, else to every database, else TCP handshakes, else the
    port probe's connections.
    """
    balancers = {endpoint.name for endpoint in run.plan.endpoints if endpoint.role == "load-balancer"}
    database = run.evidence.of(DatabaseMeasurement)
    through = tuple(m for m in database if m.target.endpoint in balancers)
    handshakes = tuple(m for m in run.evidence.of(LatencyMeasurement) if m.data and m.data.method == "tcp")
    choices: tuple[tuple[tuple[Measurement[Any], ...], str], ...] = (
        (through, "connection attempts through the load balancer"),
        (database, "connection attempts"),
        (handshakes, "TCP handshakes"),
        (run.evidence.of(PortsMeasurement), "TCP connections"),
    )
    for measurements, words in choices:
        found = tuple(good for m in measurements for good in _results(m.data))
        if found:
            return found, tuple(m.id for m in measurements), words
    return (), (), "connection attempts"


def _results(data: Any) -> Iterator[bool]:
    if not isinstance(data, PortsMeasurement):
        yield from (good for _, good in _sent(data))
        return
    for attempt in data.attempts:  # these have no time of their own
        if not attempt.control and attempt.handshake.outcome is not Outcome.NOT_SENT:
            yield attempt.handshake.outcome is Outcome.ANSWERED


def attempts_of(run: Run, measurement: Measurement[Any]) -> Iterator[Attempt]:
    """The attempts of one measurement that were really sent; nothing for a probe that makes none of this kind."""
    start = (measurement.started - run.started).total_seconds()
    for offset, _ in _sent(measurement.data):
        yield Attempt(address=measurement.target.label(), kind=_kind(measurement.data), at_s=start + offset)


def _kind(data: Any) -> str:
    if isinstance(data, DatabaseMeasurement):
        return "database connections"
    return "ICMP echoes" if getattr(data, "method", None) == "icmp" else "TCP handshakes"


def _sent(data: Any) -> Iterator[tuple[float, bool]]:
    if isinstance(data, DatabaseMeasurement):
        for attempt in data.attempts:
            local = attempt.failure is not None and attempt.failure.kind in _LOCAL
            if attempt.outcome is not Outcome.NOT_SENT and not local:
                yield attempt.started_s, succeeded(attempt)
        return
    for sample in data.samples if isinstance(data, LatencyMeasurement | LossMeasurement) else ():
        if sample.outcome is not Outcome.NOT_SENT and sample.sent_s is not None:
            yield sample.sent_s, sample.outcome is Outcome.ANSWERED


def rarest_fault(attempts: int, level: float = LEVEL) -> float:
    """The share of attempts p for which 1 - (1 - p)^n = level: a rarer fault may have hidden in n attempts."""
    return 1.0 - math.pow(1.0 - level, 1.0 / attempts)


def detection(run: Run) -> Detection | None:
    """The limits where the attempts were fewest: what holds there holds everywhere. None without attempts.

    How rare: by address and kind, for a handshake does not see a fault of the database. How short: by address, for
    an outage meets every kind.
    """
    attempts = [attempt for measurement in run.evidence.of(object) for attempt in attempts_of(run, measurement)]
    if not attempts:
        return None
    counted = Counter((attempt.address, attempt.kind) for attempt in attempts)
    (address, kind), fewest = min(counted.items(), key=lambda item: (item[1], item[0]))
    series = [sorted(a.at_s for a in attempts if a.address == name) for name in {a.address for a in attempts}]
    gaps = [_longest_gap(times) for times in series]
    return Detection(
        address=address,
        kind=kind,
        attempts=fewest,
        rarest=rarest_fault(fewest),
        shortest_s=None if None in gaps else max(gap for gap in gaps if gap is not None),
        watched_s=min(times[-1] - times[0] for times in series),
    )


def _longest_gap(times: list[float]) -> float | None:
    return max((later - earlier for earlier, later in pairwise(times)), default=None)
