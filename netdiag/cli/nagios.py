"""One line as the monitoring plugins' API wants it: ``NETDIAG STATE - text | perfdata``. Pure.

https://www.monitoring-plugins.org/doc/guidelines.html: labels in single quotes, ``U`` where there is no value, the
whole under 4 kB (NRPE cuts there).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from statistics import median
from typing import TypeVar

from netdiag.cli.output import plugin_text
from netdiag.diagnosis.finding import Diagnosis, FindingRole, Verdict
from netdiag.evidence import Run
from netdiag.plan.model import Endpoint
from probes.database import DatabaseMeasurement, Phase
from probes.latency import LatencyMeasurement
from probes.model import Outcome
from probes.stats.summaries import nearest_rank

STATES = {
    Verdict.HEALTHY: "OK",
    Verdict.DEGRADED: "WARNING",
    Verdict.CRITICAL: "CRITICAL",
    Verdict.UNKNOWN: "UNKNOWN",
}
LONGEST = 3900  # bytes
M = TypeVar("M")
PHASES = (Phase.TCP, Phase.TLS, Phase.STARTUP, Phase.FIRST_QUERY)


def status_line(run: Run, diagnosis: Diagnosis) -> str:
    """No newline at its end; no newline, no second ``|`` inside."""
    line = f"NETDIAG {STATES[diagnosis.verdict]} - {plugin_text(status_text(run, diagnosis))} |"
    for item in perfdata(run):
        if len(line.encode()) + len(item.encode()) + 1 > LONGEST:
            break
        line += f" {item}"
    return line


def status_text(run: Run, diagnosis: Diagnosis) -> str:
    causes = [finding for finding in diagnosis.findings if finding.role is FindingRole.CAUSE]
    if causes:
        more = f" (and {len(causes) - 1} more)" if len(causes) > 1 else ""
        return f"{causes[0].code}: {causes[0].statement}{more}"
    if diagnosis.verdict is Verdict.UNKNOWN:
        why = diagnosis.not_measured[0].statement if diagnosis.not_measured else "nothing could be measured"
        return f"could not tell: {why}"
    endpoints, measured = len(run.plan.endpoints), len(run.evidence) - len(run.evidence.unmeasured())
    return f"{_count(endpoints, 'endpoint')} healthy, {_count(measured, 'measurement')}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' if number != 1 else ''}"


def perfdata(run: Run) -> Iterator[str]:
    """The same labels in every state, so that a graph has a gap and not a different series."""
    for endpoint in run.plan.endpoints:
        name = endpoint.name
        round_trips, sent, lost = _round_trips(run, endpoint)
        yield item(f"{name} rtt_p50", nearest_rank(round_trips, 50), "s")
        yield item(f"{name} rtt_p95", nearest_rank(round_trips, 95), "s")
        yield item(f"{name} loss", 100 * lost / sent if sent else None, "%", ";;;0;100")
        if endpoint.database:
            for phase in PHASES:
                yield item(f"{name} {phase}", _phase(run, endpoint, phase), "s")


def item(label: str, figure: float | None, unit: str, limits: str = ";;;0") -> str:
    """``'label'=value[UOM];warn;crit;min;max``; ``=``, ``'`` and ``|`` may not be in a label."""
    clean = plugin_text(label).translate(str.maketrans("='", "__"))
    return f"'{clean}'=U" if figure is None else f"'{clean}'={_decimal(figure)}{unit}{limits}"


def _decimal(figure: float) -> str:
    """Without exponent, which the API does not know."""
    text = f"{figure:.6f}".rstrip("0").rstrip(".")
    return text or "0"


def _of(run: Run, endpoint: Endpoint, kind: type[M]) -> list[M]:
    return [m.data for m in run.evidence.of(kind, endpoint=endpoint.name) if m.data is not None]


def _round_trips(run: Run, endpoint: Endpoint) -> tuple[list[float], int, int]:
    """Sorted RTTs, packets sent and lost, of the service's own protocol where it was measured, else of ICMP."""
    measured = _of(run, endpoint, LatencyMeasurement)
    chosen = [data for data in measured if data.method == "tcp"] or measured
    round_trips = sorted(s.rtt_s for data in chosen for s in data.samples if s.rtt_s is not None)
    return round_trips, sum(data.loss.sent for data in chosen), sum(data.loss.lost for data in chosen)


def _phase(run: Run, endpoint: Endpoint, phase: Phase) -> float | None:
    """Median seconds of one phase of the connection, over the attempts that passed it."""
    seconds = list(_passed(_of(run, endpoint, DatabaseMeasurement), phase))
    return median(seconds) if seconds else None


def _passed(measurements: Iterable[DatabaseMeasurement], phase: Phase) -> Iterator[float]:
    for data in measurements:
        for attempt in data.attempts:
            for timing in attempt.phases:
                if timing.phase is phase and timing.outcome is Outcome.ANSWERED:
                    yield timing.seconds
