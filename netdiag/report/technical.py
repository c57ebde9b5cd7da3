"""Technical Details: the measured figures, each with its sample size, what is normal, and the evidence."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

from netdiag.diagnosis.finding import Diagnosis, FindingRole, Subject, Verdict
from netdiag.evidence import Run
from netdiag.plan.model import Baseline, Endpoint
from netdiag.report.evidence_rows import Numbers, attempts_line, rtt_line, where
from netdiag.report.figures import counted, duration, loss, percent
from netdiag.report.model import Cited, Detail
from netdiag.report.sanitize import clean
from probes.database import DatabaseMeasurement, Waterfall
from probes.exchanges import TlsSession
from probes.latency import LatencyMeasurement
from probes.loss import LossMeasurement
from probes.model import Measurement
from probes.sampling import RttSample, loss_count, rtt_summary

NOT_MEASURED = "not measured"
Figures = Iterable[tuple[str, Sequence[Measurement[Any]]]]  # a line, and what it was measured by
Sampled = LatencyMeasurement | LossMeasurement


def technical_details(run: Run, diagnosis: Diagnosis, numbered: Numbers) -> tuple[Detail, ...]:
    """The five lines of the escalation summary, then the server's version and TLS."""
    return (
        _detail("Network Latency", _latencies(run), numbered),
        _detail("Packet Loss", _losses(run), numbered),
        Detail(label="Affected Regions", figures=(Cited(text=_regions(run, diagnosis)),)),
        _detail("Load Balancer", _balancers(run), numbered, _no_balancer(run)),
        _detail("Database Connections", _connections(run), numbered),
        _detail("Server Version", _per_address(run, _version), numbered),
        _detail("TLS", _per_address(run, _tls), numbered),
    )


def _detail(label: str, figures: Figures, numbered: Numbers, nothing: str = NOT_MEASURED) -> Detail:
    cited = tuple(
        Cited(text=text, evidence=tuple(numbered[measurement.id] for measurement in measurements))
        for text, measurements in figures
    )
    return Detail(label=label, figures=cited or (Cited(text=nothing),))


def _latencies(run: Run) -> Figures:
    for pool in _sampled(run):
        rtt = rtt_summary(_samples(pool))
        if rtt.n:
            normal = baseline(run, pool[0])
            usual = f" (normally {duration(normal.rtt)})" if normal and normal.rtt is not None else ""
            yield f"{_by_method(pool[0])}: {rtt_line(rtt)}{usual}", pool


def _losses(run: Run) -> Figures:
    for pool in _sampled(run):
        count = loss_count(_samples(pool))
        if count.sent:
            normal = baseline(run, pool[0])
            usual = f" (normally {percent(normal.loss)})" if normal and normal.loss is not None else ""
            yield f"{_by_method(pool[0])}: {loss(count)}{usual}", pool


def _sampled(run: Run) -> list[list[Measurement[Any]]]:
    """Every series of samples, pooled by what was asked and how: one place and method, one figure."""
    found = [m for m in run.evidence.of(object) if isinstance(m.data, Sampled)]
    return _pooled(found, lambda m: (where(m), _data(m).method))


def _samples(pool: Sequence[Measurement[Any]]) -> list[RttSample]:
    return [sample for measurement in pool for sample in _data(measurement).samples]


def _data(measurement: Measurement[Any]) -> Any:
    """Of a measurement that Evidence.of() gave: it has data, of the kind asked for."""
    return measurement.data


def _by_method(measurement: Measurement[Any]) -> str:
    return f"{where(measurement)} by {str(_data(measurement).method).upper()}"


def _pooled(
    measurements: Iterable[Measurement[Any]], key: Callable[[Measurement[Any]], Hashable]
) -> list[list[Measurement[Any]]]:
    """In the order in which the keys first occur."""
    pools: dict[Hashable, list[Measurement[Any]]] = {}
    for measurement in measurements:
        pools.setdefault(key(measurement), []).append(measurement)
    return list(pools.values())


def baseline(run: Run, measurement: Measurement[Any]) -> Baseline | None:
    """What the plan calls normal from this vantage to this target; a line that names the endpoint goes first."""
    here = {run.vantage.name, run.vantage.region} - {None}
    endpoint = endpoint_of(run, measurement.target.endpoint)
    if endpoint is None:
        return None
    ours = [line for line in run.plan.baselines if line.source in here]
    named = [line for line in ours if line.target == endpoint.name]
    regional = [line for line in ours if endpoint.region is not None and line.target == endpoint.region]
    return next(iter((*named, *regional)), None)


def endpoint_of(run: Run, name: str | None) -> Endpoint | None:
    return next((endpoint for endpoint in run.plan.endpoints if endpoint.name == name), None)


def _regions(run: Run, diagnosis: Diagnosis) -> str:
    """Of the subjects of causes and consequences, as the plan places them."""
    blamed = [finding.subject for finding in diagnosis.findings if finding.role is not FindingRole.NOTE]
    if not blamed:
        return NOT_MEASURED if diagnosis.verdict is Verdict.UNKNOWN else "none found affected"
    found = sorted({region for subject in blamed for region in _subject_regions(run, subject)})
    return " and ".join(found) if found else "not given"


def _subject_regions(run: Run, subject: Subject) -> set[str]:
    known = {endpoint.region for endpoint in run.plan.endpoints} | {run.vantage.region}
    names = (subject.endpoint, subject.source, subject.target)
    placed = {endpoint.region for name in names if (endpoint := endpoint_of(run, name))}
    return {region for region in placed | (set(names) & known) if region}


def _no_balancer(run: Run) -> str:
    declared = [endpoint.name for endpoint in run.plan.endpoints if endpoint.role == "load-balancer"]
    return f"{', '.join(declared)}: {NOT_MEASURED}" if declared else "none declared, and nothing answered as one"


def _databases(run: Run) -> list[tuple[list[Measurement[Any]], tuple[Waterfall, ...]]]:
    """Per place: the measurements of its database, and all their attempts."""
    pools = _pooled(run.evidence.of(DatabaseMeasurement), where)
    return [(pool, tuple(attempt for m in pool for attempt in _data(m).attempts)) for pool in pools]


def _balancers(run: Run) -> Figures:
    for pool, attempts in _databases(run):
        endpoint = endpoint_of(run, pool[0].target.endpoint)
        speaks_http = any(attempt.http_status for attempt in attempts)
        if speaks_http or (endpoint and endpoint.role == "load-balancer"):
            yield f"{where(pool[0])}: {_answer(attempts)}", pool


def _answer(attempts: tuple[Waterfall, ...]) -> str:
    """What the first attempt that drew an answer saw."""
    for attempt in attempts:
        if attempt.http_status:
            server = f", Server: {attempt.http_server}" if attempt.http_server else ""
            return f'answered HTTP to SSLRequest: "{clean(attempt.http_status, 100)}"{clean(server, 100)}'
        if attempt.first_bytes:
            return f'answered SSLRequest with "{clean(attempt.first_bytes, 64)}", which is not PostgreSQL'
        if attempt.server_version:
            return "passes PostgreSQL through"
        if attempt.ssl_answer in ("S", "N"):
            return f'answered SSLRequest with "{attempt.ssl_answer}", as PostgreSQL does'
    return f"no answer to SSLRequest in {counted(len(attempts), 'attempt')}"


def _connections(run: Run) -> Figures:
    for pool, attempts in _databases(run):
        credentials = any(_data(measurement).credentials for measurement in pool)
        yield f"{where(pool[0])}: {attempts_line(attempts, credentials)}", pool


def _per_address(run: Run, tell: Callable[[Waterfall], str | None]) -> Figures:
    """What the first attempt with something to tell says, for each address."""
    for pool, _ in _databases(run):
        for measurement in pool:
            told = next((text for attempt in _data(measurement).attempts if (text := tell(attempt))), None)
            if told:
                yield f"{where(measurement)}: {told}", (measurement,)
                break


def _version(attempt: Waterfall) -> str | None:
    if not attempt.server_version:
        return None
    standby = {True: ", in hot standby", False: ", not in hot standby", None: ""}[attempt.in_hot_standby]
    return f"{clean(attempt.server_version, 200)}{standby}"


def _tls(attempt: Waterfall) -> str | None:
    if attempt.tls:
        return _session(attempt.tls)
    if attempt.tls_inspected:
        return f"verification failed; unverified: {_session(attempt.tls_inspected)}"
    return "refused by the server" if attempt.ssl_answer == "N" else None


def _session(session: TlsSession) -> str:
    certificate = session.certificate
    if certificate is None:
        return f"{session.version}, {session.cipher}, no certificate seen"
    names = ", ".join(clean(name, 80) for name in certificate.names[:4]) or clean(certificate.subject, 80)
    more = f" and {len(certificate.names) - 4} more" if len(certificate.names) > 4 else ""
    signed = ", self-signed" if certificate.self_signed else ""
    dates = f"valid {certificate.not_before} to {certificate.not_after}"
    return f"{session.version}, {session.cipher}, certificate for {names}{more}{signed}, {dates}"
