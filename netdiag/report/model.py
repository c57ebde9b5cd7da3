"""The report as a value: what every renderer lays out and none of them adds to. All strings are clean plain text."""

from __future__ import annotations

from typing import Generic, TypeVar

from netdiag.diagnosis.finding import FindingRole, Severity, Verdict
from probes.model import value

SCHEMA = "netdiag.report/1"
T = TypeVar("T")


@value
class Listing(Generic[T]):
    """A headed list. ``nothing`` is the one line said instead where there are no items, else None."""

    title: str
    items: tuple[T, ...]
    nothing: str | None


@value
class Line:
    """``label: text``, as in the head of the report."""

    label: str
    text: str


@value
class Cited:
    """A statement and the evidence (E-numbers of the appendix) that it rests on."""

    text: str
    evidence: tuple[str, ...] = ()


@value
class RootCause:
    """One finding. ``consequences`` are the findings folded under it."""

    code: str
    role: FindingRole
    text: str
    severity: Severity
    confidence: float | None  # 0..1
    evidence: tuple[str, ...]
    consequences: tuple[Cited, ...] = ()


@value
class Detail:
    """One labelled line of Technical Details or Impact Assessment, with one or several figures."""

    label: str
    figures: tuple[Cited, ...]  # never empty: what was not measured says so


@value
class Step:
    owner: str
    text: str
    check: str  # the command that shows it worked


@value
class Exclusion:
    """A cause ruled out, and the smallest fault of its kind that would have been seen."""

    code: str
    text: str
    smallest_fault: str
    evidence: tuple[str, ...]


@value
class Gap:
    """What was not measured, and what would measure it."""

    codes: tuple[str, ...]  # every question that this leaves open
    text: str
    remedy: str


@value
class EvidenceRow:
    """One measurement in the appendix."""

    number: str  # "E1"
    measurement: str  # its id in the run's JSON
    probe: str
    source: str
    target: str
    time: str  # UTC, RFC 3339
    value: str  # with sample size and interval, or why there is none
    reproduce: str  # a shell command


@value
class Summary:
    """The five things that the on-call engineer needs."""

    verdict: Verdict
    cause: str
    place: str
    confidence: float | None  # 0..1, of the first cause
    how_sure: str  # the same in words; of a healthy verdict, what it excludes
    action: str


@value
class Report:
    """Sections in the order of the escalation summary, then what was ruled out, what is missing, and the evidence."""

    schema: str
    title: str
    ticket: str | None
    header: tuple[Line, ...]
    summary: Summary
    description: tuple[str, ...]  # paragraphs
    root_causes: tuple[Listing[RootCause], ...]
    technical_details: tuple[Detail, ...]
    impact: tuple[Detail, ...]
    action_plan: tuple[Listing[Step], ...]
    current_status: Listing[str]
    sentiment: Listing[str]
    next_steps: Listing[str]
    footer: tuple[Line, ...]  # escalation level, assigned engineer, customer contact
    ruled_out: Listing[Exclusion]
    not_measured: Listing[Gap]
    evidence: Listing[EvidenceRow]
