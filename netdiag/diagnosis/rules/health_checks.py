"""A balancer's health check that fails while what it checks is well: lb.health-check-failing.

How a backend is judged, in this order
1. The balancer's own word (its statistics) decides over the check asked again from here: it stands elsewhere.
2. Where the database at the backend does not answer either, or turns everybody away (57P03, 53300), the check tells
   the truth: a note, the fault is elsewhere.
3. Where the balancer says nothing and no packet of the check came back from the backend, a filter between this host
   and the check's port is as likely as a fault that the balancer sees: nothing is told, unless the balancer closes.
4. A check that fails at times, and never as often in a row as takes the backend out, is a note.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator

from netdiag.diagnosis.finding import (
    Action,
    Finding,
    FindingRole,
    Horizon,
    Judgement,
    NotMeasured,
    RuledOut,
    Section,
    Severity,
    Subject,
)
from netdiag.diagnosis.rule import Case, Rule
from netdiag.diagnosis.rules.subjects import addresses_of, finding_id, ids, is_database, places, ratio, unseen_share
from netdiag.diagnosis.rules.waterfalls import BACKEND, LIMIT, LOCAL, NO_PASSWORD, STARTING, Attempt, attempts_at
from netdiag.diagnosis.thresholds import CERTAIN, LIKELY, POSSIBLE
from netdiag.plan.model import Endpoint
from probes.balancer import BalancerMeasurement, CheckAttempt, CheckedBackend, CheckPhase, ServerView
from probes.model import Measurement, Outcome, value
from probes.ports import PortsMeasurement, PortState

HEALTH = "lb.health-check-failing"
_UNHEARD = frozenset({Outcome.LOST, Outcome.REJECTED, Outcome.UNREACHABLE, Outcome.EXPIRED})
_SERVES_NOBODY = frozenset({STARTING, LIMIT})
_TAKEN_OUT = ("MAINT", "DRAIN", "NOLB", "no check")


@value
class Service:
    """Whether what the check is about answers here. ``alive``: most attempts were answered; None: not known."""

    alive: bool | None
    told: str
    evidence: tuple[str, ...] = ()


@value
class Backend:
    """One backend of one balancer: the check asked again, the balancer's row, and the service itself."""

    balancer: Endpoint
    name: str
    checks: tuple[CheckedBackend, ...]  # by address; those without an attempt are left out
    unhealthy: int
    server: ServerView | None
    service: Service
    closes: tuple[str, ...]  # measurements in which the balancer closed without a byte: it has no live backend
    evidence: tuple[str, ...]  # of checks and row

    @property
    def subject(self) -> Subject:
        return Subject(source=self.balancer.name, target=self.name, endpoint=self.balancer.name)

    @property
    def attempts(self) -> tuple[CheckAttempt, ...]:
        return tuple(a for check in self.checks for a in check.attempts if a.passed is not None)

    @property
    def failed(self) -> tuple[CheckAttempt, ...]:
        return tuple(attempt for attempt in self.attempts if not attempt.passed)

    @property
    def fails(self) -> bool | None:
        """As often in a row as takes it out, at each of its addresses; None: not asked."""
        if not self.attempts:
            return None
        return all(check.consecutive_failures >= self.unhealthy for check in self.checks)

    @property
    def down(self) -> bool | None:
        """The balancer's word; None where it has none, or where an operator took the backend out."""
        status = self.server.status if self.server else None
        return None if status is None or status.startswith(_TAKEN_OUT) else status.startswith("DOWN")

    @property
    def coming_up(self) -> bool:
        """ "DOWN 1/2": checks pass again, and not yet as often as puts it back."""
        return self.server is not None and (self.server.status or "").startswith("DOWN ")

    @property
    def up(self) -> bool:
        return not self.down if self.down is not None else self.fails is not True

    @property
    def unheard(self) -> bool:
        return all(a.phase is CheckPhase.TCP and a.outcome in _UNHEARD for a in self.failed)


def judge(case: Case) -> Iterator[Judgement]:
    for balancer in case.plan.endpoints:
        if balancer.health is None and balancer.stats is None:
            continue
        backends = _backends(case, balancer)
        for backend in backends:
            another = any(other.up for other in backends if other is not backend)
            yield _judged(backend, another_up=another)
        if not backends:
            yield _nothing_asked(case, balancer)


# What is known of each backend


def _backends(case: Case, balancer: Endpoint) -> tuple[Backend, ...]:
    measured = case.evidence.of(BalancerMeasurement, endpoint=balancer.name)
    latest = max(measured, key=lambda m: (m.started, m.id), default=None)
    data = latest.data if latest else None
    declared = [endpoint for endpoint in case.plan.endpoints if endpoint.name in balancer.backends]
    if declared:
        return tuple(_backend(case, balancer, endpoint, measured, data) for endpoint in declared)
    rows = data.view.servers if data and data.view else ()
    return tuple(_bare(balancer, row, ids(measured)) for row in {row.name: row for row in rows}.values())


def _backend(
    case: Case,
    balancer: Endpoint,
    endpoint: Endpoint,
    measured: tuple[Measurement[BalancerMeasurement], ...],
    data: BalancerMeasurement | None,
) -> Backend:
    addresses = addresses_of(case.evidence, endpoint)
    rows = data.view.servers if data and data.view else ()
    return Backend(
        balancer=balancer,
        name=endpoint.name,
        checks=tuple(c for c in (data.backends if data else ()) if c.address in addresses and c.attempts),
        unhealthy=data.unhealthy if data else 0,
        server=next((row for row in rows if _is_row_of(row, endpoint, addresses)), None),
        service=_service(case, endpoint),
        closes=_closes(case, balancer),
        evidence=ids(measured),
    )


def _bare(balancer: Endpoint, row: ServerView, evidence: tuple[str, ...]) -> Backend:
    """A server that only the balancer names."""
    service = Service(alive=None, told="nothing is known of it but the balancer's word")
    return Backend(
        balancer=balancer, name=row.name, checks=(), unhealthy=0, server=row, service=service, closes=(),
        evidence=evidence,
    )  # fmt: skip


def _is_row_of(row: ServerView, endpoint: Endpoint, addresses: tuple[str, ...]) -> bool:
    names = {endpoint.name.lower(), endpoint.host.lower(), endpoint.host.lower().partition(".")[0]}
    told = (row.address or "").rpartition(":")[0].strip("[]")
    return row.name.lower() in names or told in addresses


def _closes(case: Case, balancer: Endpoint) -> tuple[str, ...]:
    at = [place for place in places(case) if place.endpoint.name == balancer.name]
    return ids(a.measurement for place in at for a in attempts_at(case, place) if a.fate == BACKEND)


def _service(case: Case, endpoint: Endpoint) -> Service:
    at = [place for place in places(case) if place.endpoint.name == endpoint.name]
    attempts = [a for place in at for a in attempts_at(case, place) if a.fate != LOCAL]
    if is_database(endpoint) and attempts:
        answered = sum(_answered(attempt) for attempt in attempts)
        refused = sum(attempt.fate in _SERVES_NOBODY for attempt in attempts)
        turned_away = f", and turns {refused} away (starting, closing or full)" if refused else ""
        return Service(
            alive=answered * 2 > len(attempts),
            told=f"the database there answers {ratio(answered, len(attempts))} connections{turned_away}",
            evidence=ids(a.measurement for a in attempts),
        )
    ports = case.evidence.of(PortsMeasurement, endpoint=endpoint.name)
    is_open = any(m.data and m.data.ports[0].state is PortState.OPEN for m in ports)
    if not ports or (is_open and is_database(endpoint)):
        return Service(alive=None, told="whether the service there answers was not measured")
    told = "its port is open" if is_open else "its port does not open"
    return Service(alive=is_open, told=told, evidence=ids(ports))


def _answered(attempt: Attempt) -> bool:
    """As a server that serves. A login that is refused is the login's own affair; others are let in."""
    return (attempt.spoke_postgresql or attempt.fate == NO_PASSWORD) and attempt.fate not in _SERVES_NOBODY


# What follows


def _judged(backend: Backend, *, another_up: bool) -> Judgement:
    fails, down = backend.fails, backend.down
    if fails is None and down is None:
        return _unknown(
            backend, f"Whether {backend.balancer.name}'s health check of {backend.name} passes was not measured."
        )
    if not fails and not down:
        return _passing(backend)
    if backend.service.alive is False and fails is not False:
        return _note(backend, f"{_seen(backend)}; {backend.service.told}: the check tells the truth.")
    if fails and down is False:
        return _note(backend, f"{_seen(backend)}: the check as the plan has it is not the balancer's, or fails here.")
    if fails and down is None and backend.unheard and not backend.closes:
        return _unknown(
            backend,
            f"{_seen(backend)}, and nothing came back: from here it cannot be told from a filter that only this host "
            "meets.",
        )
    if not fails and backend.coming_up:
        return _note(backend, f"{_seen(backend)}: checks pass again, it is coming back.")
    return _finding(backend, another_up=another_up)


def _seen(backend: Backend) -> str:
    """What the check gave here, and the balancer's row."""
    parts = []
    if backend.attempts:
        what = f"The health check of {backend.name} ({backend.checks[0].url}), asked again"
        share = ratio(len(backend.failed), len(backend.attempts))
        parts.append(f"{what}, fails {share} times ({_causes(backend)})" if backend.failed else f"{what}, passes")
    if backend.server is not None:
        told = " ".join(filter(None, (backend.server.check_status, str(backend.server.check_code or ""))))
        parts.append(
            f"balancer {backend.balancer.name} has {backend.name} {backend.server.status} ({told or 'no code'})"
        )
    return "; ".join(parts)


def _causes(backend: Backend) -> str:
    return ", ".join(sorted({_cause(attempt) for attempt in backend.failed}))


def _cause(attempt: CheckAttempt) -> str:
    if attempt.phase is CheckPhase.STATUS:
        return f"status {attempt.status}"
    why = attempt.failure.errno or attempt.failure.kind if attempt.failure else attempt.outcome
    return f"{attempt.phase}: {why}"


def _passing(backend: Backend) -> Judgement:
    if backend.failed:
        return _note(backend, f"{_seen(backend)}, never {backend.unhealthy} times in a row at every address.")
    n = len(backend.attempts)
    missed = f"a check that fails more than {unseen_share(n)} of the time" if n else "a check that failed before"
    return RuledOut(
        code=HEALTH,
        subject=backend.subject,
        statement=f"{_seen(backend)}.",
        smallest_fault=f"{missed}, or from where the balancer stands alone",
        evidence=backend.evidence,
    )


def _unknown(backend: Backend, statement: str) -> NotMeasured:
    return NotMeasured(
        code=HEALTH,
        subject=backend.subject,
        statement=statement,
        remedy="Declare health, backends and stats of the balancer in the plan; let this host reach them.",
    )


def _nothing_asked(case: Case, balancer: Endpoint) -> NotMeasured:
    reasons = [m.reason for m in case.evidence.unmeasured("balancer") if m.target.endpoint == balancer.name]
    why = f" ({reasons[0]})" if reasons and reasons[0] else ""
    return NotMeasured(
        code=HEALTH,
        subject=Subject(endpoint=balancer.name),
        statement=f"The health checks of balancer {balancer.name} were not asked again{why}.",
        remedy="Name its backends in the plan, and its stats where it tells them.",
    )


def _note(backend: Backend, statement: str) -> Finding:
    return Finding(
        id=finding_id(HEALTH, backend.subject),
        code=HEALTH,
        role=FindingRole.NOTE,
        severity=Severity.INFO,
        confidence=None,
        section=Section.INFRASTRUCTURE,
        subject=backend.subject,
        statement=statement,
        evidence=_evidence(backend),
        would_refute="The balancer's own view of this backend at that time.",
    )


def _evidence(backend: Backend) -> tuple[str, ...]:
    return tuple(sorted({*backend.evidence, *backend.service.evidence}))


def _finding(backend: Backend, *, another_up: bool) -> Finding:
    reading, step = _wrong_check(backend) if backend.fails else _unreached(backend)
    left = "another backend is up" if another_up else "no other backend is up"
    return Finding(
        id=finding_id(HEALTH, backend.subject),
        code=HEALTH,
        role=FindingRole.CAUSE,
        severity=Severity.WARNING if another_up else Severity.CRITICAL,
        confidence=_confidence(backend),
        section=Section.INFRASTRUCTURE,
        subject=backend.subject,
        statement=f"{_seen(backend)}; {backend.service.told}. {reading}; {left}.",
        evidence=tuple(sorted({*_evidence(backend), *(backend.closes if backend.fails else ())})),
        would_refute=f"The check answering as wanted {backend.unhealthy or 2} times in a row, asked on the balancer "
        "itself, and its row UP.",
        actions=(Action(owner="load balancer", horizon=Horizon.IMMEDIATE, step=step, check=_check(backend)),),
    )


def _confidence(backend: Backend) -> float:
    """Its own word and a live service are certain; the check from here alone is less; without the service, a guess."""
    if backend.service.alive is None or (backend.fails and backend.down is None and backend.unheard):
        return POSSIBLE
    return CERTAIN if backend.down and backend.fails else LIKELY


def _wrong_check(backend: Backend) -> tuple[str, str]:
    """Where the check itself fails, in the words of AWS's reason codes where it has one."""
    commonest = Counter((a.phase, a.outcome) for a in backend.failed).most_common(1)[0][0]
    phase, outcome = commonest
    if phase is CheckPhase.STATUS:
        return (
            "The server answers, and not with the status that is wanted (as Target.ResponseCodeMismatch)",
            "Compare the check's path and matcher with what the page answers; ask the page why.",
        )
    if phase is CheckPhase.TCP and outcome is Outcome.REFUSED:
        return (
            "Nothing listens on the check's port (as Target.FailedHealthChecks): the health page is down, or the port "
            "is the wrong one",
            "Start the health page again, or correct the check's port.",
        )
    if outcome is Outcome.LOST or phase is CheckPhase.TCP:
        return (
            "The check is not answered in time (as Target.Timeout): a filter before its port, or an overloaded page",
            "Let the balancer reach the check's port; ask the page how long it takes.",
        )
    return (
        "What answers at the check's port does not speak its protocol (as Target.FailedHealthChecks)",
        "Point the check at a port that speaks it: an HTTP check of a PostgreSQL port is closed without a byte.",
    )


def _unreached(backend: Backend) -> tuple[str, str]:
    said = (backend.server.check_status if backend.server else None) or ""
    if said.startswith(("L4", "L6TOUT", "L7TOUT")):
        return (
            "The balancer itself does not reach the check's port: look between the balancer and this backend",
            f"On the balancer, ask the check of {backend.name}; read the filters between the two.",
        )
    return (
        "The balancer gets another answer than this host: its check is another one, or is answered by source",
        f"Compare the balancer's configured check of {backend.name} with the plan's.",
    )


def _check(backend: Backend) -> str:
    if not backend.checks:
        return f"netdiag explain {HEALTH}"
    check = backend.checks[0]
    if check.url.startswith("tcp:"):
        return shlex.join(("nc", "-vz", "-w", "2", check.address, str(check.port)))
    insecure = ("-k",) if check.url.startswith("https:") else ()
    return shlex.join(("curl", "-sS", *insecure, "-m", "2", "-o", "/dev/null", "-w", r"%{http_code}\n", check.url))


RULES = (
    Rule(
        code=HEALTH,
        section=Section.INFRASTRUCTURE,
        fires="The balancer's own health check, asked again, fails as often in a row as takes a backend out, or the "
        "balancer's statistics say DOWN, while the database there answers.",
        quiet="The database does not answer either (the check tells the truth), the balancer has the backend UP, "
        "single checks fail, or nothing comes back and the balancer says nothing.",
        refuted_by="The check passing on the balancer itself, and its row UP.",
        judge=judge,
    ),
)
