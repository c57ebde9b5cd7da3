"""What a diagnosis consists of: findings, what was ruled out and how, and what could not be told."""

from __future__ import annotations

from enum import StrEnum

from probes.model import value


class FindingRole(StrEnum):
    CAUSE = "cause"
    CONSEQUENCE = "consequence"  # explained by another finding and folded under it
    NOTE = "note"


class Severity(StrEnum):
    CRITICAL = "critical"
    WARNING = "warning"
    INFO = "info"


class Section(StrEnum):
    """The three headings of the report's Root Cause Analysis."""

    INFRASTRUCTURE = "network-infrastructure"
    CONFIGURATION = "network-configuration"
    DATABASE = "database-impact"


class Horizon(StrEnum):
    """The three headings of the report's Action Plan."""

    IMMEDIATE = "immediate"  # 0-4 hours
    SHORT_TERM = "short-term"  # 4-24 hours
    LONG_TERM = "long-term"  # 1-7 days


class Verdict(StrEnum):
    HEALTHY = "healthy"
    DEGRADED = "degraded"
    CRITICAL = "critical"
    UNKNOWN = "unknown"


@value
class Subject:
    """What a finding is about; only what applies is set."""

    source: str | None = None  # JSON: from
    target: str | None = None  # JSON: to
    endpoint: str | None = None
    address: str | None = None
    port: int | None = None
    name: str | None = None
    resolver: str | None = None
    hop: str | None = None
    direction: str | None = None
    flow: str | None = None
    size: int | None = None


@value
class Action:
    owner: str  # "network", "firewall", "dns", "database", "application", "load balancer", "on-call"
    horizon: Horizon
    step: str
    check: str  # the command that shows it worked


@value
class Finding:
    """``id`` is the code and its subject, so that the same evidence always gives the same id."""

    id: str
    code: str
    role: FindingRole
    severity: Severity
    confidence: float | None  # 0..1; None where no number can be given honestly
    section: Section
    subject: Subject
    statement: str  # one or two sentences with the measured figures
    evidence: tuple[str, ...]  # measurement ids
    would_refute: str
    actions: tuple[Action, ...] = ()
    explains: tuple[str, ...] = ()  # ids of findings folded under this one
    beside: tuple[str, ...] = ()  # codes that its own evidence shows to have another cause: never folded under it


@value
class RuledOut:
    """A cause that the evidence speaks against."""

    code: str
    subject: Subject
    statement: str
    smallest_fault: str  # the smallest fault that the measurement would have seen
    evidence: tuple[str, ...]  # never empty: without its evidence the line is a NotMeasured


@value
class NotMeasured:
    """A question left open, with what it would take to answer it."""

    code: str
    subject: Subject
    statement: str
    remedy: str


Judgement = Finding | RuledOut | NotMeasured


@value
class Diagnosis:
    verdict: Verdict
    findings: tuple[Finding, ...]  # ranked: causes by severity and confidence, consequences after their causes
    ruled_out: tuple[RuledOut, ...]
    not_measured: tuple[NotMeasured, ...]
