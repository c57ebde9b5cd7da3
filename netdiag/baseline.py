"""What an earlier run says is normal: its figures become the baselines of a new run (``run --against``)."""

from __future__ import annotations

from dataclasses import replace
from statistics import median

from netdiag.evidence import Run
from netdiag.plan.model import Baseline, Plan
from probes.latency import LatencyMeasurement
from probes.mtu import MtuMeasurement


def against(plan: Plan, earlier: Run) -> Plan:
    """``plan`` with a baseline for every endpoint that ``earlier`` measured; the plan's own baselines win."""
    stated = {baseline.target for baseline in plan.baselines}
    source = plan.vantage.region or plan.vantage.name or earlier.vantage.name
    found = (
        _baseline(source, endpoint.name, endpoint.host, earlier)
        for endpoint in plan.endpoints
        if endpoint.name not in stated and endpoint.region not in stated
    )
    return replace(plan, baselines=(*plan.baselines, *(b for b in found if b is not None)))


def _baseline(source: str, endpoint: str, host: str, earlier: Run) -> Baseline | None:
    latencies = [
        m.data for m in earlier.evidence.of(LatencyMeasurement, host=host) if m.data and m.data.method == "tcp"
    ]
    medians = [latency.rtt.p50_s for latency in latencies if latency.rtt.p50_s is not None]
    if not medians:
        return None
    sent, lost = sum(latency.loss.sent for latency in latencies), sum(latency.loss.lost for latency in latencies)
    return Baseline(
        source=source,
        target=endpoint,
        rtt=median(medians),
        loss=lost / sent if sent else None,
        mtu=_mtu(host, earlier),
    )


def _mtu(host: str, earlier: Run) -> int | None:
    measured = [m.data for m in earlier.evidence.of(MtuMeasurement, host=host) if m.data]
    sizes = [d.largest_delivered for m in measured for d in (m.to_target, m.from_target) if d.largest_delivered]
    return min(sizes, default=None)
