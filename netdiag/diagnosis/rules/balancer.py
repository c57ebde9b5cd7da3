"""A balancer, or anything else, that does not speak PostgreSQL where a database is declared; and one without backends.

A web server on a web port is healthy: these rules look only at databases' places.
"""

from __future__ import annotations

from collections.abc import Iterator

from netdiag.diagnosis.finding import Action, Finding, FindingRole, Horizon, Judgement, Section
from netdiag.diagnosis.rule import Case, Rule
from netdiag.diagnosis.rules.subjects import Place, database_places, finding_id, milliseconds, ratio
from netdiag.diagnosis.rules.waterfalls import BACKEND, PROTOCOL, Attempt, Question, Sample, login_check
from netdiag.diagnosis.thresholds import CERTAIN, LIKELY, POSSIBLE
from probes.database import Phase
from probes.model import FailureKind


def judge_protocol(case: Case) -> Iterator[Judgement]:
    for place in database_places(case):
        yield WRONG_PROTOCOL.ask(case, place)


def judge_backend(case: Case) -> Iterator[Judgement]:
    for place in database_places(case):
        if place.endpoint.role == "load-balancer":
            yield BACKEND_DOWN.ask(case, place)


# lb.wrong-protocol


def _wrong_protocol(place: Place, sample: Sample) -> Finding:
    web = next((a for a in sample.hits if _is_http(a)), None)
    said = _http_words(web) if web else _garbage_words(sample.hits[0])
    share = ratio(len(sample.hits), len(sample.tested))
    return _finding(
        PROTOCOL,
        place,
        sample,
        statement=f"{share} connections to {place.label} are answered {said}: no PostgreSQL client can work there.",
        confidence=CERTAIN if web else LIKELY,
        would_refute=f"One byte S or N from {place.label} in answer to SSLRequest.",
        action=_tcp_listener(place) if web else _right_service(place),
    )


def _is_http(attempt: Attempt) -> bool:
    waterfall = attempt.waterfall
    return waterfall.http_status is not None or (waterfall.first_bytes or "").startswith("HTTP/")


def _http_words(attempt: Attempt) -> str:
    waterfall = attempt.waterfall
    status = waterfall.http_status or waterfall.first_bytes
    server = f", Server: {waterfall.http_server}" if waterfall.http_server else ""
    return f'in HTTP ("{status}"{server})'


def _garbage_words(attempt: Attempt) -> str:
    waterfall, failure = attempt.waterfall, attempt.failure
    if waterfall.first_bytes:
        return f'with bytes that are not PostgreSQL\'s ("{_one_line(waterfall.first_bytes)}")'
    detail = failure.detail if failure and failure.detail else "no bytes on record"
    return f"against the PostgreSQL protocol ({detail})"


def _one_line(first_bytes: str) -> str:
    """Without the line's end, which the printable form spells out."""
    return first_bytes.removesuffix(r"\x0a").removesuffix(r"\x0d")


def _tcp_listener(place: Place) -> Action:
    return Action(
        owner="load balancer",
        horizon=Horizon.IMMEDIATE,
        step=f"Make the listener on {place.label} a TCP one (layer 4): an HTTP balancer cannot carry PostgreSQL.",
        check=login_check(place),
    )


def _right_service(place: Place) -> Action:
    return Action(
        owner="load balancer" if place.endpoint.role == "load-balancer" else "database",
        horizon=Horizon.IMMEDIATE,
        step=f"Find out which service listens on {place.label}; point the DSN or the listener at the database.",
        check=login_check(place),
    )


# lb.backend-down


def _backend_down(place: Place, sample: Sample) -> Finding:
    first = sample.hits[0]
    phase = first.waterfall.failed_phase or Phase.SSL_REQUEST
    after = first.seconds(phase)
    took = f" after {milliseconds(after)}" if after is not None else ""
    how = "reset" if first.failure and first.failure.kind is FailureKind.RESET else "closed"
    share = ratio(len(sample.hits), len(sample.tested))
    return _finding(
        BACKEND,
        place,
        sample,
        statement=f"{share} connections to balancer {place.label} complete TCP and are {how}{took} without a byte: "
        "no live backend behind it, the PROXY protocol to a server without it, or a listener that wants TLS first.",
        confidence=POSSIBLE,
        would_refute=f"The balancer's own status showing a live backend for {place.label} at that time.",
        action=Action(
            owner="load balancer",
            horizon=Horizon.IMMEDIATE,
            step="Read the balancer's view of its backends; connect to one directly; compare its health check with it.",
            check=login_check(place),
        ),
    )


def _finding(
    code: str,
    place: Place,
    sample: Sample,
    *,
    statement: str,
    confidence: float,
    would_refute: str,
    action: Action,
) -> Finding:
    return Finding(
        id=finding_id(code, place.subject),
        code=code,
        role=FindingRole.CAUSE,
        severity=sample.severity,
        confidence=confidence,
        section=Section.INFRASTRUCTURE,
        subject=place.subject,
        statement=statement,
        evidence=sample.ids,
        would_refute=would_refute,
        actions=(action,),
    )


WRONG_PROTOCOL = Question(
    code=PROTOCOL,
    could_show=lambda a: a.spoke_postgresql,
    fine="{n} of {n} connections to {place} were answered in the PostgreSQL protocol.",
    found=_wrong_protocol,
    needs_login=False,
)

BACKEND_DOWN = Question(
    code=BACKEND,
    could_show=lambda a: a.spoke_postgresql or a.fate == PROTOCOL,
    fine="{n} of {n} connections through balancer {place} were answered with bytes.",
    found=_backend_down,
    needs_login=False,
)

RULES = (
    Rule(
        code=PROTOCOL,
        section=Section.INFRASTRUCTURE,
        fires="Where a database is declared, or on port 5432, 5433 or 6432, something answers that is not PostgreSQL.",
        quiet="A web server on any other port, and silence or a close without a byte: those are other codes.",
        refuted_by="The byte S or N in answer to SSLRequest.",
        judge=judge_protocol,
    ),
    Rule(
        code=BACKEND,
        section=Section.INFRASTRUCTURE,
        fires="A declared load balancer accepts the connection and closes it without a byte.",
        quiet="The same from a place that is no balancer: that is db.unresponsive.",
        refuted_by="The balancer's own status showing a live backend.",
        judge=judge_backend,
    ),
)
