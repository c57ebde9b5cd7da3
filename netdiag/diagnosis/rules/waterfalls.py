"""What became of every attempt to talk to a database: each one belongs to exactly one code, or to none.

SQLSTATE decides, text only refines: messages are localised (lc_messages), codes are not. The name of the file
"pg_hba.conf" stands untranslated in every language.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any
from urllib.parse import quote

from netdiag.diagnosis.finding import (
    Action,
    Finding,
    FindingRole,
    Judgement,
    NotMeasured,
    RuledOut,
    Section,
    Severity,
)
from netdiag.diagnosis.rule import Case
from netdiag.diagnosis.rules.subjects import Place, at, finding_id, ids, unseen_share
from probes.database import DatabaseMeasurement, Phase, Waterfall
from probes.model import Failure, FailureKind, Measurement, Outcome, value

PASSED, UNCONNECTED, LOCAL, NO_PASSWORD = "passed", "no TCP connection", "stopped by this host", "no password"

AUTH, HBA, LIMIT, STARTING = "db.auth-failed", "db.hba-rejected", "db.connection-limit", "db.starting"
NO_DATABASE, SERVER_ERROR, TLS, SILENT = "db.no-database", "db.server-error", "db.tls-invalid", "db.unresponsive"
PROTOCOL, BACKEND, CUT = "lb.wrong-protocol", "lb.backend-down", "db.connection-cut"

_BY_SQLSTATE = {"28P01": AUTH, "53300": LIMIT, "57P03": STARTING, "3D000": NO_DATABASE}
# PgBouncer says 08P01 to whatever it refuses, and its words are never translated (objects.c, client.c).
_POOLER = "08P01"
_BY_POOLERS_WORDS = (
    ("no such database", NO_DATABASE),
    ("authentication failed", AUTH),
    ("no such user", AUTH),
    ("no more connections allowed", LIMIT),
)
_BY_KIND = {
    FailureKind.LOCAL: LOCAL,
    FailureKind.CREDENTIALS: NO_PASSWORD,
    FailureKind.TLS: TLS,
    FailureKind.SERVER: SERVER_ERROR,
}
_CUT = (FailureKind.CLOSED, FailureKind.RESET)
_ROLE_TEXTS = ("authentication", "role ")  # English only; other languages fall back on what was asked before


@value
class Attempt:
    """One waterfall, the measurement that it is part of, and what became of it."""

    waterfall: Waterfall
    measurement: Measurement[DatabaseMeasurement]
    fate: str

    def passed(self, phase: Phase) -> bool:
        return any(t.phase is phase and t.outcome is Outcome.ANSWERED for t in self.waterfall.phases)

    @property
    def spoke_postgresql(self) -> bool:
        """A phase that only a PostgreSQL server can answer was answered, or an error came with its SQLSTATE."""
        answered = any(self.passed(phase) for phase in (Phase.SSL_REQUEST, Phase.TLS, Phase.STARTUP))
        return answered or bool(self.failure and self.failure.sqlstate)

    def seconds(self, phase: Phase) -> float | None:
        return next((t.seconds for t in self.waterfall.phases if t.phase is phase), None)

    @property
    def failure(self) -> Failure | None:
        return self.waterfall.failure

    @property
    def sslmode(self) -> str:
        """As measured; the plan's or libpq's default where the options do not say."""
        return str(self.measurement.options.get("sslmode", "prefer"))


def attempts_at(case: Case, place: Place) -> tuple[Attempt, ...]:
    """This endpoint's own attempts at the address; another endpoint's at the same one where it has none."""
    if place.address is None:
        return ()
    there = case.evidence.of(DatabaseMeasurement, address=place.address, port=place.port)
    own = tuple(m for m in there if m.target.endpoint in (place.endpoint.name, None)) or there
    attempts = tuple(
        Attempt(waterfall=waterfall, measurement=m, fate=fate(waterfall, place.endpoint.role == "load-balancer"))
        for m in own
        for waterfall in (m.data.attempts if m.data else ())
    )
    speaks = any(attempt.spoke_postgresql for attempt in attempts)
    return tuple(replace(a, fate=CUT) if speaks and _is_reset(a) else a for a in attempts)


def _is_reset(attempt: Attempt) -> bool:
    """A RST in the middle of the conversation, which no code of its own explains."""
    failure = attempt.failure
    return attempt.fate in (SILENT, BACKEND) and failure is not None and failure.kind is FailureKind.RESET


def unsuited(attempt: Attempt, wanted: str) -> str | None:
    """Why libpq would leave this session for another host's: target_session_attrs. None where it fits, where the
    attempt ended before the server said what it is, or before PostgreSQL 14, which does not say it by itself."""
    standby, read_only = attempt.waterfall.in_hot_standby, attempt.waterfall.default_read_only
    role = "a standby (in_hot_standby=on)" if standby else "a primary (in_hot_standby=off)"
    if standby is None:
        return None
    if (wanted == "standby" and not standby) or (wanted == "primary" and standby):
        return role
    writes = not (standby or read_only)
    if wanted == "read-write" and not writes:
        return role if standby else "read-only by its settings (default_transaction_read_only=on)"
    return "writable" if wanted == "read-only" and writes else None


def fate(waterfall: Waterfall, balancer: bool) -> str:
    """The one code that an attempt speaks for, or PASSED, UNCONNECTED, LOCAL, NO_PASSWORD."""
    failure = waterfall.failure
    if waterfall.failed_phase is None or failure is None:
        return PASSED
    if waterfall.failed_phase is Phase.TCP:
        return UNCONNECTED
    if waterfall.http_status is not None:
        return PROTOCOL
    if failure.sqlstate == "28000":
        return _invalid_authorization(waterfall, failure)
    if failure.sqlstate == _POOLER:
        said = (failure.detail or "").lower()
        return next((code for words, code in _BY_POOLERS_WORDS if words in said), SERVER_ERROR)
    if failure.sqlstate in _BY_SQLSTATE:
        return _BY_SQLSTATE[failure.sqlstate]
    if failure.kind is FailureKind.PROTOCOL:
        return SERVER_ERROR if _passed_startup(waterfall) else PROTOCOL
    if failure.kind in _CUT and balancer and _said_nothing(waterfall):
        return BACKEND
    return _BY_KIND.get(failure.kind, SILENT)


def _invalid_authorization(waterfall: Waterfall, failure: Failure) -> str:
    """28000 is both: pg_hba.conf says no before anything is asked; a method or a role says no with other words."""
    text = (failure.detail or "").lower()
    if "pg_hba" in text:
        return HBA
    if waterfall.authentication is not None or any(word in text for word in _ROLE_TEXTS):
        return AUTH
    return HBA


def _passed_startup(waterfall: Waterfall) -> bool:
    return any(t.phase is Phase.STARTUP and t.outcome is Outcome.ANSWERED for t in waterfall.phases)


def _said_nothing(waterfall: Waterfall) -> bool:
    """Not one phase behind TCP was answered."""
    return all(t.phase is Phase.TCP or t.outcome is not Outcome.ANSWERED for t in waterfall.phases)


def login_check(place: Place, probe: str = "database") -> str:
    """The command that connects as the application does; without a user it stops after TLS. Holds no password."""
    credentials = place.endpoint.credentials
    if credentials is None or credentials.user is None:
        return place.command(probe)
    where = at(place.endpoint.host, place.port)
    dbname = f"/{quote(credentials.dbname, safe='')}" if credentials.dbname else ""
    dsn = f"postgresql://{quote(credentials.user, safe='')}@{where}{dbname}?sslmode={credentials.sslmode}"
    return shlex.join(("netdiag", "probe", probe, dsn))


# One question asked of all attempts

Found = Callable[[Place, "Sample"], Judgement]


@value
class Sample:
    """The attempts that show a fault, among those that could have shown it."""

    hits: tuple[Attempt, ...]
    tested: tuple[Attempt, ...]

    @property
    def ids(self) -> tuple[str, ...]:
        return ids(a.measurement for a in self.tested)

    @property
    def severity(self) -> Severity:
        """Critical where no attempt got through, a warning where some did."""
        return Severity.CRITICAL if len(self.hits) == len(self.tested) else Severity.WARNING


def cause(
    code: str,
    section: Section,
    place: Place,
    sample: Sample,
    *,
    statement: str,
    confidence: float | None,
    would_refute: str,
    action: Action,
) -> Finding:
    """A cause at one place, as the sample shows it, with its one action."""
    return Finding(
        id=finding_id(code, place.subject),
        code=code,
        role=FindingRole.CAUSE,
        severity=sample.severity,
        confidence=confidence,
        section=section,
        subject=place.subject,
        statement=statement,
        evidence=sample.ids,
        would_refute=would_refute,
        actions=(action,),
    )


@value
class Question:
    """A code, which attempts could have shown it, what is said if none did, and what is found if one did."""

    code: str
    could_show: Callable[[Attempt], bool]
    fine: str  # "{n} of {n} ... {place}"
    found: Found
    needs_login: bool = True

    def ask(self, case: Case, place: Place) -> Judgement:
        attempts = attempts_at(case, place)
        hits = tuple(a for a in attempts if a.fate == self.code)
        tested = tuple(a for a in attempts if a.fate == self.code or (a.fate != LOCAL and self.could_show(a)))
        if hits:
            return self.found(place, Sample(hits=hits, tested=tested))
        if tested:
            return self._ruled_out(place, tested)
        return open_question(self.code, case, place, attempts, needs_login=self.needs_login)

    def _ruled_out(self, place: Place, tested: tuple[Attempt, ...]) -> RuledOut:
        n = len(tested)
        return RuledOut(
            code=self.code,
            subject=place.subject,
            statement=self.fine.format(n=n, place=place.label),
            smallest_fault=f"a fault that hits more than {unseen_share(n)} of the connections",
            evidence=ids(a.measurement for a in tested),
        )


def open_question(
    code: str, case: Case, place: Place, attempts: tuple[Attempt, ...], *, needs_login: bool = True
) -> NotMeasured:
    """Why nothing can be said of ``code``, and what would let it be said."""
    statement, remedy = _reason(case, place, attempts, needs_login)
    return NotMeasured(code=code, subject=place.subject, statement=statement, remedy=remedy)


def _reason(case: Case, place: Place, attempts: tuple[Attempt, ...], needs_login: bool) -> tuple[str, str]:
    if place.address is None:
        return f"{place.endpoint.host} has no known address.", "Make the name resolve first."
    if not attempts:
        why = _unmeasured_reason(case, place)
        return (
            f"No database connection to {place.label} was tried{why}.",
            f"Run `{place.command('database')}`.",
        )
    ends = Counter(a.fate for a in attempts)
    if set(ends) == {UNCONNECTED}:
        return f"None of {len(attempts)} connections to {place.label} got past TCP.", "Make the port answer first."
    if ends[NO_PASSWORD]:
        return _no_password(place, attempts)
    if needs_login and ends[PASSED]:
        text = f"No user is given, so the connections to {place.label} stop after SSLRequest and TLS."
        return text, "Give netdiag the application's own DSN."
    if set(ends) == {PASSED}:
        return f"No connection to {place.label} takes that step, as sslmode has it.", "Ask for TLS to have it measured."
    return f"No connection to {place.label} got that far: {_listed(ends)}.", "Settle what stops it, then run again."


def _no_password(place: Place, attempts: tuple[Attempt, ...]) -> tuple[str, str]:
    """What stopped this host: no password, or a method (Kerberos) whose ticket it lacks."""
    stopped = next(a for a in attempts if a.fate == NO_PASSWORD)
    if stopped.measurement.data is not None and stopped.measurement.data.coarse_reason is not None:
        method, detail = stopped.waterfall.authentication, stopped.failure.detail if stopped.failure else None
        text = f"{place.label} asks for {method} authentication, which libpq cannot give from here: {detail}."
        ticket = "Get this user a Kerberos ticket (kinit), then run again."
        return text, ticket if method in ("gss", "sspi") else "Run it where libpq knows this method."
    credentials = place.endpoint.credentials
    if credentials and credentials.password is not None:
        said = stopped.failure.detail if stopped.failure else None
        return f"At {place.label} {said or 'the password was not sent'}.", "Mend TLS, or ask for sslmode=require."
    why = credentials.password_from if credentials and credentials.password_from else "none is given"
    return f"{place.label} asks for a password, and {why}.", "Give it by ~/.pgpass (mode 0600) or PGPASSWORD."


def _unmeasured_reason(case: Case, place: Place) -> str:
    reasons: Iterable[Measurement[Any]] = case.evidence.unmeasured("database")
    found = next((m.reason for m in reasons if m.target.address == place.address and m.reason), None)
    return f" ({found})" if found else ""


def _listed(ends: Counter[str]) -> str:
    return ", ".join(f"{count} ended as {end}" for end, count in sorted(ends.items()))
