"""Whether any host of a connection string has the kind of session that target_session_attrs asks for."""

from __future__ import annotations

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
from netdiag.diagnosis.rules.subjects import Place, finding_id, ids, places, unseen_share
from netdiag.diagnosis.rules.waterfalls import PASSED, Attempt, attempts_at, login_check, unsuited
from netdiag.diagnosis.thresholds import CERTAIN
from netdiag.plan.model import Alternatives

CODE = "db.session-role"
_ANY = ("any", "prefer-standby")  # prefer-standby takes whatever there is


def judge(case: Case) -> Iterator[Judgement]:
    asked = dict.fromkeys(e.alternatives for e in case.plan.endpoints if e.alternatives is not None)
    for choices in asked:
        if choices.target_session_attrs not in _ANY:
            yield _judge(case, choices)


def _judge(case: Case, choices: Alternatives) -> Judgement:
    hosts = [place for place in places(case) if place.endpoint.name in choices.hosts]
    sessions = [(place, a) for place in hosts for a in attempts_at(case, place) if a.fate == PASSED]
    told = [(place, a) for place, a in sessions if a.waterfall.in_hot_standby is not None]
    subject = Subject(endpoint=choices.hosts[0])
    if not told:
        return NotMeasured(
            code=CODE,
            subject=subject,
            statement=f"Whether {_hosts(choices)} can give a {choices.target_session_attrs} session: no server said "
            "what it is (no login, or older than PostgreSQL 14).",
            remedy="Give netdiag the application's own login.",
        )
    suited = [(place, a) for place, a in told if unsuited(a, choices.target_session_attrs) is None]
    return _suited(choices, subject, suited) if suited else _unsuited(choices, subject, told)


def _hosts(choices: Alternatives) -> str:
    return " or ".join(choices.hosts)


def _suited(choices: Alternatives, subject: Subject, suited: list[tuple[Place, Attempt]]) -> RuledOut:
    place, _ = suited[0]
    return RuledOut(
        code=CODE,
        subject=subject,
        statement=f"{place.label} gives the session that target_session_attrs={choices.target_session_attrs} asks for.",
        smallest_fault=f"a host that has the wrong role in more than {unseen_share(len(suited))} of the sessions",
        evidence=ids(attempt.measurement for _, attempt in suited),
    )


def _unsuited(choices: Alternatives, subject: Subject, told: list[tuple[Place, Attempt]]) -> Finding:
    wanted = choices.target_session_attrs
    seen = dict.fromkeys(f"{place.label} is {unsuited(attempt, wanted)}" for place, attempt in told)
    return Finding(
        id=finding_id(CODE, subject),
        code=CODE,
        role=FindingRole.CAUSE,
        severity=Severity.CRITICAL,
        confidence=CERTAIN,
        section=Section.DATABASE,
        subject=subject,
        statement=f"target_session_attrs={wanted} turns every session down that was had: {'; '.join(seen)}. "
        "Login and network are well: a client with this setting gets no connection.",
        evidence=ids(attempt.measurement for _, attempt in told),
        would_refute=f"A connection with target_session_attrs={wanted} through the same connection string.",
        actions=(
            Action(
                owner="database",
                horizon=Horizon.IMMEDIATE,
                step=f"See whether a failover is half done: promote the host that is meant to be {_meant(wanted)}, or "
                "name it in the DSN.",
                check=login_check(told[0][0]),
            ),
        ),
    )


def _meant(wanted: str) -> str:
    return "the primary" if wanted in ("read-write", "primary") else "the standby"


RULES = (
    Rule(
        code=CODE,
        section=Section.DATABASE,
        fires="The DSN's target_session_attrs asks for a role, and every session that was had is of the other one.",
        quiet="One host of the DSN fits; servers before PostgreSQL 14 and YugabyteDB on PostgreSQL 11 do not say it.",
        refuted_by="A connection with the same target_session_attrs.",
        judge=judge,
    ),
)
