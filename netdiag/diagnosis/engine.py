"""Rules -> ranked findings with consequences folded under their causes, and the verdict. Pure and deterministic."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from netdiag.diagnosis.causes import NO_BACKENDS, Backends, explains
from netdiag.diagnosis.finding import (
    Diagnosis,
    Finding,
    FindingRole,
    Judgement,
    NotMeasured,
    RuledOut,
    Severity,
    Verdict,
)
from netdiag.diagnosis.passage import weigh
from netdiag.diagnosis.rule import Case
from netdiag.diagnosis.rules.handshakes import tries_at
from netdiag.diagnosis.rules.sending import unsent
from netdiag.diagnosis.rules.subjects import addresses_of
from netdiag.diagnosis.twins import fold_twins, name_family
from netdiag.evidence import Run
from netdiag.plan.endpoints import is_address, is_database
from netdiag.plan.model import Endpoint
from probes.database import DatabaseMeasurement
from probes.latency import LatencyMeasurement
from probes.model import FailureKind, Outcome
from probes.names import NamesMeasurement
from probes.ports import PortsMeasurement, PortState

_SEVERITY_RANK = {Severity.CRITICAL: 0, Severity.WARNING: 1, Severity.INFO: 2}
_ROLE_RANK = {FindingRole.CAUSE: 0, FindingRole.CONSEQUENCE: 1, FindingRole.NOTE: 2}


def diagnose(run: Run) -> Diagnosis:
    """The same Run always gives an equal Diagnosis, whatever the order its measurements came in."""
    from netdiag.diagnosis.catalogue import RULES

    case = Case.of(run)
    return conclude(case, [judgement for rule in RULES for judgement in rule.judge(case)])


def conclude(case: Case, judgements: Iterable[Judgement]) -> Diagnosis:
    """Fold consequences and twins, weigh them against what serves beside them, rank, and sum up."""
    judged = list(judgements)
    backends = {endpoint.name: endpoint.backends for endpoint in case.plan.endpoints}
    apart = folded([j for j in judged if isinstance(j, Finding)], backends)
    findings = ranked(weigh(case, name_family(fold_twins(ranked(apart), case.plan), judged)))
    return Diagnosis(
        verdict=_verdict(case, findings),
        findings=findings,
        ruled_out=tuple(j for j in judged if isinstance(j, RuledOut)),
        not_measured=tuple(j for j in judged if isinstance(j, NotMeasured)),
    )


def folded(findings: list[Finding], backends: Backends = NO_BACKENDS) -> list[Finding]:
    """A finding that another explains becomes its consequence. A finding is folded under one cause only: the
    best-ranked; a consequence explains nothing further (its cause does)."""
    causes = list(ranked([f for f in findings if not _explained(f, findings, backends)]))
    out: dict[str, Finding] = {cause.id: cause for cause in causes}
    for finding in ranked([f for f in findings if f.id not in out]):
        cause = next((c for c in causes if _reaches(c, finding, findings, backends)), None)
        if cause is None or finding.role is FindingRole.NOTE:
            out[finding.id] = finding
            continue
        out[finding.id] = replace(finding, role=FindingRole.CONSEQUENCE)
        out[cause.id] = replace(out[cause.id], explains=(*out[cause.id].explains, finding.id))
    return list(out.values())


def _explained(finding: Finding, findings: list[Finding], backends: Backends) -> bool:
    others = (f for f in findings if f.role is FindingRole.CAUSE and f.id != finding.id)
    return any(explains(other, finding, backends) for other in others)


def _reaches(cause: Finding, finding: Finding, findings: list[Finding], backends: Backends) -> bool:
    """``cause`` explains ``finding``, directly or through findings that it explains."""
    if cause.role is not FindingRole.CAUSE:
        return False
    seen, frontier = {cause.id}, [cause]
    while frontier:
        step = frontier.pop()
        for other in findings:
            if other.id not in seen and explains(step, other, backends):
                if other.id == finding.id:
                    return True
                seen.add(other.id)
                frontier.append(other)
    return False


def ranked(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Causes first, by severity, then by confidence, then by id."""
    return tuple(
        sorted(
            findings,
            key=lambda f: (_ROLE_RANK[f.role], _SEVERITY_RANK[f.severity], -(f.confidence or 0.0), f.id),
        )
    )


def _verdict(case: Case, findings: tuple[Finding, ...]) -> Verdict:
    severities = {finding.severity for finding in findings if finding.role is FindingRole.CAUSE}
    if Severity.CRITICAL in severities:
        return Verdict.CRITICAL
    if Severity.WARNING in severities:
        return Verdict.DEGRADED
    healthy = bool(case.plan.endpoints) and all(
        answered(case, endpoint) and not held_back(case, endpoint) for endpoint in case.plan.endpoints
    )
    return Verdict.HEALTHY if healthy else Verdict.UNKNOWN


def held_back(case: Case, endpoint: Endpoint) -> bool:
    """This host refused to open some of the connections: what those would have met, nobody knows."""
    if endpoint.port is None:
        return False
    addresses = addresses_of(case.evidence, endpoint)
    return any(unsent(tries_at(case.evidence, address, endpoint.port)) for address in addresses)


def answered(case: Case, endpoint: Endpoint) -> bool:
    """Something of this endpoint answered as its kind should: without that, silence of the rules is not health.

    A database must have spoken: its kernel completes TCP handshakes whether it lives or not.
    """
    if is_database(endpoint) and endpoint.port is not None:
        return _database_spoke(case, endpoint)
    ports = case.evidence.of(PortsMeasurement, endpoint=endpoint.name)
    if any(m.data and m.data.ports[0].state is PortState.OPEN for m in ports):
        return True
    if any(m.data and m.data.rtt.n > 0 for m in case.evidence.of(LatencyMeasurement, endpoint=endpoint.name)):
        return True
    names = case.evidence.of(NamesMeasurement, host=endpoint.host)
    resolved = any(m.data and m.data.looked_up for m in names)
    return endpoint.port is None and not is_address(endpoint.host) and resolved


def _database_spoke(case: Case, endpoint: Endpoint) -> bool:
    """An attempt went as far as it was meant to, or as far as this host's missing password let it."""
    databases = case.evidence.of(DatabaseMeasurement, endpoint=endpoint.name)
    attempts = [attempt for m in databases if m.data for attempt in m.data.attempts]
    return any(
        attempt.outcome is Outcome.ANSWERED
        or (attempt.failure is not None and attempt.failure.kind is FailureKind.CREDENTIALS)
        for attempt in attempts
    )
