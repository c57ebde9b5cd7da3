"""A run that was never measured, for tests of what the command line does with one."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

from netdiag.diagnosis.finding import (
    Diagnosis,
    Finding,
    FindingRole,
    NotMeasured,
    Section,
    Severity,
    Subject,
    Verdict,
)
from netdiag.evidence import Evidence, Run, Tool
from netdiag.plan.model import Endpoint, Plan
from probes.exchanges import TimestampSource
from probes.latency import LatencyMeasurement, LossCount, RttSample, RttSummary
from probes.model import Measurement, MeasurementOutcome, Outcome, Target, Vantage

STARTED = dt.datetime(2024, 1, 25, 3, 0, 0, tzinfo=dt.UTC)
ENDPOINT = Endpoint(name="db:5432", host="db", port=5432)


def latency(*rtts: float | None) -> Measurement[LatencyMeasurement]:
    """One TCP latency measurement of ENDPOINT; None is a lost attempt."""
    samples = tuple(
        RttSample(sequence=i, sent_s=0.2 * i, outcome=Outcome.LOST if rtt is None else Outcome.ANSWERED, rtt_s=rtt)
        for i, rtt in enumerate(rtts)
    )
    lost = sum(rtt is None for rtt in rtts)
    nothing = {
        name: None
        for name in (
            "minimum_s",
            "mean_s",
            "p50_s",
            "p90_s",
            "p95_s",
            "p99_s",
            "maximum_s",
            "stdev_s",
            "ipdv_mean_abs_s",
        )
    }
    data = LatencyMeasurement(
        method="tcp",
        address="192.0.2.1",
        samples=samples,
        rtt=RttSummary(n=len(rtts) - lost, **nothing),
        loss=LossCount(
            sent=len(rtts), lost=lost, late=0, duplicates=0, not_sent=0, longest_run=0, ratio=None, low=None, high=None
        ),
        timestamp_source=TimestampSource.TCP_INFO,
    )
    return Measurement(
        id="app/latency-tcp/db:5432/192.0.2.1/1",
        probe="latency",
        schema="latency/1",
        vantage="app",
        source="192.0.2.9",
        target=Target(host="db", address="192.0.2.1", port=5432, endpoint="db:5432"),
        started=STARTED,
        duration_s=1.0,
        options={},
        timestamp_source="tcp-info",
        outcome=MeasurementOutcome.MEASURED,
        data=data,
    )


def a_run(*measurements: Measurement, plan: Plan | None = None) -> Run:
    return Run(
        run_id="20240125T030000Z-00000000",
        tool=Tool(version="0"),
        plan=plan or Plan(endpoints=(ENDPOINT,)),
        vantage=Vantage(name="app"),
        started=STARTED,
        finished=STARTED + dt.timedelta(seconds=2),
        end_reason="complete",
        partial=False,
        privileges=(),
        evidence=Evidence(measurements or (latency(0.01, 0.02, 0.03, None),)),
    )


CAUSE = Finding(
    id="db.port-closed@db",
    code="db.port-closed",
    role=FindingRole.CAUSE,
    severity=Severity.CRITICAL,
    confidence=0.9,
    section=Section.INFRASTRUCTURE,
    subject=Subject(endpoint="db:5432"),
    statement="10 of 10 attempts are answered by RST.",
    evidence=("app/latency-tcp/db:5432/192.0.2.1/1",),
    would_refute="an attempt that connects",
)
GAP = NotMeasured(code="mtu.black-hole", subject=Subject(), statement="no name resolves", remedy="name a resolver")


def diagnosis(verdict: Verdict, *statements: str) -> Diagnosis:
    findings = tuple(replace(CAUSE, id=f"{CAUSE.id}{i}", statement=text) for i, text in enumerate(statements))
    return Diagnosis(verdict=verdict, findings=findings, ruled_out=(), not_measured=(GAP,))
