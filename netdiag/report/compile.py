"""Run and diagnosis to Report: pure, so that the same evidence gives the same report byte for byte."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

from netdiag.diagnosis.finding import (
    Action,
    Diagnosis,
    Finding,
    FindingRole,
    Horizon,
    NotMeasured,
    RuledOut,
    Section,
    Subject,
    Verdict,
)
from netdiag.evidence import Run
from netdiag.plan.model import Ticket
from netdiag.report.alike import Said, drawn_together
from netdiag.report.attempts import Detection, detection
from netdiag.report.evidence_rows import Numbers, evidence_rows, numbers
from netdiag.report.figures import duration, percent, stamp
from netdiag.report.impact import impact
from netdiag.report.model import (
    SCHEMA,
    Cited,
    Exclusion,
    Gap,
    Line,
    Listing,
    Report,
    RootCause,
    Step,
    Summary,
)
from netdiag.report.places import place
from netdiag.report.sanitize import cleaned
from netdiag.report.technical import technical_details
from probes.model import MeasurementOutcome

T = TypeVar("T")
NOT_GIVEN = "not given"
NEXT_STEPS_AT_MOST = 10  # what somebody reads

SECTIONS = (
    (Section.INFRASTRUCTURE, "Network Infrastructure Issues"),
    (Section.CONFIGURATION, "Network Configuration"),
    (Section.DATABASE, "Impact on Database"),
)
HORIZONS = (
    (Horizon.IMMEDIATE, "Immediate (0-4 hours)"),
    (Horizon.SHORT_TERM, "Short-term (4-24 hours)"),
    (Horizon.LONG_TERM, "Long-term (1-7 days)"),
)


def compile_report(run: Run, diagnosis: Diagnosis) -> Report:
    """The report of ``run`` as ``diagnosis`` judges it. What the plan does not give is called not given."""
    numbered, ticket = numbers(run), run.plan.ticket
    report = Report(
        schema=SCHEMA,
        title=f"{ticket.id} - Customer Escalation Summary" if ticket.id else "netdiag - Network Diagnosis Summary",
        ticket=ticket.id,
        header=_header(ticket),
        summary=_summary(run, diagnosis),
        description=_description(run, diagnosis),
        root_causes=_root_causes(diagnosis, numbered),
        technical_details=technical_details(run, diagnosis, numbered),
        impact=impact(run, diagnosis, numbered),
        action_plan=_action_plan(diagnosis),
        current_status=_listing("Current Status", ticket.current_status, NOT_GIVEN),
        sentiment=_listing("Customer Sentiment", ticket.sentiment, NOT_GIVEN),
        next_steps=_listing("Next Steps", _next_steps(diagnosis), "Nothing is left to check."),
        footer=_footer(ticket),
        ruled_out=_ruled_out(diagnosis, numbered),
        not_measured=_not_measured(diagnosis),
        evidence=_listing("Evidence", evidence_rows(run), "No measurement was made."),
    )
    return cleaned(report)


def _listing(title: str, items: Iterable[T], nothing: str) -> Listing[T]:
    held = tuple(items)
    return Listing(title=title, items=held, nothing=None if held else nothing)


def _lines(pairs: Sequence[tuple[str, object]]) -> tuple[Line, ...]:
    return tuple(Line(label=label, text=NOT_GIVEN if given is None else str(given)) for label, given in pairs)


def _header(ticket: Ticket) -> tuple[Line, ...]:
    return _lines(
        (
            ("Customer", ticket.customer),
            ("Priority", ticket.priority),
            ("Status", ticket.status),
            ("Created", ticket.created),
            ("Escalated", ticket.escalated),
        )
    )


def _footer(ticket: Ticket) -> tuple[Line, ...]:
    return _lines(
        (
            ("Escalation Level", ticket.level),
            ("Assigned Engineer", ticket.engineer),
            ("Customer Contact", ticket.contact),
        )
    )


# Verdict and description


def _causes(diagnosis: Diagnosis) -> tuple[Finding, ...]:
    return tuple(finding for finding in diagnosis.findings if finding.role is FindingRole.CAUSE)


def _summary(run: Run, diagnosis: Diagnosis) -> Summary:
    first = next(iter(_causes(diagnosis)), None)
    return Summary(
        verdict=diagnosis.verdict,
        cause=first.statement if first else _no_cause(diagnosis.verdict),
        place=place(first.subject) if first else "none",
        confidence=first.confidence if first else None,
        how_sure=_how_sure(run, diagnosis, first),
        action=_first_action(diagnosis),
    )


def _how_sure(run: Run, diagnosis: Diagnosis, cause: Finding | None) -> str:
    """The cause's confidence; of a healthy verdict, the rarest fault that it excludes."""
    if cause is not None:
        return "no honest number" if cause.confidence is None else f"{cause.confidence:.2f}"
    seen = detection(run) if diagnosis.verdict is Verdict.HEALTHY else None
    return "none" if seen is None else f"95% that no fault hits {percent(seen.rarest)} of attempts or more"


def _no_cause(verdict: Verdict) -> str:
    if verdict is Verdict.HEALTHY:
        return "none found"
    if verdict is Verdict.UNKNOWN:
        return "cannot tell: what was measured does not decide it"
    return "no single cause could be named"


def _first_action(diagnosis: Diagnosis) -> str:
    """The most urgent step of the best cause; else what would let us tell; else nothing."""
    order = list(Horizon)
    steps = [action for finding in _causes(diagnosis) for action in finding.actions]
    if steps:
        return min(steps, key=lambda action: order.index(action.horizon)).step
    open_question = next(iter(diagnosis.not_measured), None)
    if open_question and diagnosis.verdict is not Verdict.HEALTHY:
        return open_question.remedy
    return "measure again" if diagnosis.verdict is Verdict.UNKNOWN else "nothing"


def _description(run: Run, diagnosis: Diagnosis) -> tuple[str, ...]:
    reported = (f"Reported: {run.plan.ticket.summary}",) if run.plan.ticket.summary else ()
    caught = (_caught(detection(run)),) if diagnosis.verdict is Verdict.HEALTHY else ()
    return (_opening(run, diagnosis), *caught, *reported, _measured(run))


def _opening(run: Run, diagnosis: Diagnosis) -> str:
    summary = _summary(run, diagnosis)
    others = len(_causes(diagnosis)) - 1
    more = f" {others} more root cause{'s' if others > 1 else ''} below." if others > 0 else ""
    return (
        f"Verdict: {summary.verdict}. Cause: {_sentence(summary.cause)} "
        f"Place: {summary.place}. Confidence: {summary.how_sure}.{more}"
    )


def _sentence(text: str) -> str:
    stripped = text.rstrip()
    return stripped if stripped.endswith((".", "!", "?")) else f"{stripped}."


def _caught(seen: Detection | None) -> str:
    """What a healthy verdict is worth: the rarest and the shortest fault that the sampling would have met."""
    if seen is None:
        return "No attempt on a service was made, so no fault of one can be excluded."
    rarest = (
        f"Rarest fault it would have caught: one that hits {percent(seen.rarest)} of attempts or more "
        f"(95% sure to show in {_tries(seen)} to {seen.address}, the fewest of any kind)."
    )
    if seen.shortest_s is None:
        return f"{rarest} Shortest: cannot tell, an address was tried only once."
    return (
        f"{rarest} Shortest: an outage of {duration(seen.shortest_s)} (the longest gap between two attempts at one "
        f"address) within the {duration(seen.watched_s)} that every address was watched at the least."
    )


def _tries(seen: Detection) -> str:
    return f"the {seen.attempts:,} {seen.kind}" if seen.attempts > 1 else f"the only one of {seen.kind}"


def _measured(run: Run) -> str:
    region = f" (region {run.vantage.region})" if run.vantage.region else ""
    span = duration(max(0.0, (run.finished - run.started).total_seconds()))
    made = sum(m.outcome is MeasurementOutcome.MEASURED for m in run.evidence)
    partial = (
        f" Partial: the run ended early ({run.end_reason}); what is missing is under Not Measured and in the Evidence."
    )
    return (
        f"Measured from {run.vantage.name}{region}, {stamp(run.started)} to {stamp(run.finished)} (UTC, {span}): "
        f"{made} of {len(run.evidence)} measurements made.{partial if run.partial else ''}"
    )


# Root causes


def _root_causes(diagnosis: Diagnosis, numbered: Numbers) -> tuple[Listing[RootCause], ...]:
    folded = _folded(diagnosis)
    hidden = {finding.id for group in folded.values() for finding in group}
    heads = [finding for finding in diagnosis.findings if finding.id not in hidden]
    return tuple(
        _listing(
            title,
            (
                _root_cause(group, [one for head in group for one in folded.get(head.id, ())], numbered)
                for group in _twins([head for head in heads if head.section is section])
            ),
            _nothing_in(section, hidden, diagnosis),
        )
        for section, title in SECTIONS
    )


def _nothing_in(section: Section, hidden: set[str], diagnosis: Diagnosis) -> str:
    count = sum(finding.id in hidden and finding.section is section for finding in diagnosis.findings)
    if count:
        return f"No cause of its own; {count} consequence{'s' if count > 1 else ''} folded under what caused it."
    return "Nothing found; see Not Measured." if diagnosis.verdict is Verdict.UNKNOWN else "Nothing found."


def _folded(diagnosis: Diagnosis) -> dict[str, tuple[Finding, ...]]:
    """For each cause the consequences to print under it: each once, under the first cause that explains it.

    A consequence of a consequence stands under the same cause. One that no cause explains is not folded.
    """
    by_id = {finding.id: finding for finding in diagnosis.findings}
    taken: set[str] = set()
    groups: dict[str, tuple[Finding, ...]] = {}
    for cause in _causes(diagnosis):
        group = [by_id[name] for name in _explained(cause, by_id) if name not in taken]
        taken.update(finding.id for finding in group)
        groups[cause.id] = tuple(group)
    return groups


def _explained(cause: Finding, by_id: dict[str, Finding]) -> list[str]:
    """Ids of consequences reachable from ``cause``, nearest first; a circle ends where it closes."""
    found: list[str] = []
    queue = list(cause.explains)
    while queue:
        name = queue.pop(0)
        finding = by_id.get(name)
        if finding is not None and finding.role is FindingRole.CONSEQUENCE and name not in found:
            found.append(name)
            queue.extend(finding.explains)
    return found


def _twins(heads: Sequence[Finding]) -> list[list[Finding]]:
    """Findings that say the same of one resolver for one name after the other: one line for all of them."""
    groups: dict[object, list[Finding]] = {}
    for head in heads:
        same = (head.code, head.role, head.severity, head.subject.resolver)
        groups.setdefault(same if head.subject.resolver and head.subject.name else head.id, []).append(head)
    return list(groups.values())


def _root_cause(group: Sequence[Finding], folded: Sequence[Finding], numbered: Numbers) -> RootCause:
    finding = group[0]
    others = ", ".join(str(twin.subject.name) for twin in group[1:])
    return RootCause(
        code=finding.code,
        role=finding.role,
        text=f"{finding.statement} The same for {others}." if others else finding.statement,
        severity=finding.severity,
        confidence=min((twin.confidence for twin in group if twin.confidence is not None), default=None),
        evidence=_cite([name for twin in group for name in twin.evidence], numbered),
        consequences=tuple(Cited(text=one.statement, evidence=_cite(one.evidence, numbered)) for one in folded),
    )


def _cite(measurements: Iterable[str], numbered: Numbers) -> tuple[str, ...]:
    """E-numbers in the appendix's order, each once."""
    cited = {numbered[name] for name in measurements if name in numbered}
    return tuple(sorted(cited, key=lambda number: int(number[1:])))


# Actions


def _actions(diagnosis: Diagnosis) -> tuple[Action, ...]:
    """In the findings' rank order, each owner's step once: at the first place and the earliest horizon it has."""
    order = list(Horizon)
    kept: dict[tuple[str, str], Action] = {}
    for action in (action for finding in diagnosis.findings for action in finding.actions):
        known = kept.get((action.owner, action.step))
        if known is None or order.index(action.horizon) < order.index(known.horizon):
            kept[action.owner, action.step] = action
    return tuple(kept.values())


def _action_plan(diagnosis: Diagnosis) -> tuple[Listing[Step], ...]:
    actions = _actions(diagnosis)
    return tuple(
        _listing(
            title,
            (Step(owner=one.owner, text=one.step, check=one.check) for one in actions if one.horizon is horizon),
            "Nothing to do.",
        )
        for horizon, title in HORIZONS
    )


def _next_steps(diagnosis: Diagnosis) -> tuple[str, ...]:
    if diagnosis.verdict is Verdict.UNKNOWN and not diagnosis.findings and not diagnosis.not_measured:
        return ("Measure again: nothing could be judged.",)
    checks = (f"Check after the fix: {action.check}" for action in _actions(diagnosis) if action.check)
    remedies = (_spoken(gap.remedy) for gap in diagnosis.not_measured if gap.remedy)
    steps = tuple(dict.fromkeys((*checks, *remedies)))
    left = len(steps) - NEXT_STEPS_AT_MOST
    more = (f"{left} more open questions have their remedy under Not Measured.",) if left > 0 else ()
    return (*steps[:NEXT_STEPS_AT_MOST], *more, *_explained_by(diagnosis))


def _explained_by(diagnosis: Diagnosis) -> tuple[str, ...]:
    """Where the page of each cause is: nothing else in the report names their codes."""
    codes = tuple(dict.fromkeys(finding.code for finding in _causes(diagnosis)))
    if len(codes) > 1:
        return (f"Read what each cause means and what looks like it: netdiag explain CODE, for {', '.join(codes)}",)
    return tuple(f"Read what the cause means and what looks like it: netdiag explain {code}" for code in codes)


# What was excluded and what is missing


def _ruled_out(diagnosis: Diagnosis, numbered: Numbers) -> Listing[Exclusion]:
    def said(one: RuledOut) -> Said:
        return Said(subject=one.subject, texts=(one.code, one.statement, one.smallest_fault))

    lines = (
        Exclusion(
            code=group.first.code,
            text=_also(_about(group.first.statement, group.first.subject), group.others),
            smallest_fault=_sentence(group.first.smallest_fault),
            evidence=_cite([name for one in group.members for name in one.evidence], numbered),
        )
        for group in drawn_together(diagnosis.ruled_out, said)
    )
    return _listing("Ruled Out", lines, "Nothing could be ruled out.")


def _not_measured(diagnosis: Diagnosis) -> Listing[Gap]:
    """One line for all the questions that the same lack leaves open."""
    lacks: dict[tuple[str, str], list[NotMeasured]] = {}
    for one in diagnosis.not_measured:
        lacks.setdefault((_about(one.statement, one.subject), one.remedy), []).append(one)

    def said(lack: tuple[str, str]) -> Said:
        return Said(subject=lacks[lack][0].subject, texts=(*_codes(lacks[lack]), *lack))

    gaps = (
        Gap(codes=_codes(lacks[group.first]), text=_also(group.first[0], group.others), remedy=_spoken(group.first[1]))
        for group in drawn_together(tuple(lacks), said)
    )
    return _listing("Not Measured", gaps, "Nothing that was asked for.")


def _spoken(remedy: str) -> str:
    """A bare command as a sentence."""
    return f"Run {remedy}" if remedy.startswith("netdiag ") else remedy


def _codes(ones: Iterable[NotMeasured]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(one.code for one in ones))


def _also(text: str, others: Sequence[str]) -> str:
    return f"{_sentence(text)} The same for {', '.join(others)}." if others else _sentence(text)


def _about(statement: str, subject: Subject) -> str:
    """The statement alone: it names its subject; an empty one falls back on the place."""
    return statement.strip() or place(subject)
