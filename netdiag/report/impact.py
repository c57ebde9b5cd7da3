"""Impact Assessment: users, money and SLA in proportion to the measured share of failed attempts, with its interval.

Request-based throughout: attempts, not minutes. Packet loss is not request failure, TCP hides most of it.
"""

from __future__ import annotations

import math

from netdiag.diagnosis.finding import Diagnosis, FindingRole
from netdiag.evidence import Run
from netdiag.report.attempts import service_attempts
from netdiag.report.evidence_rows import Numbers
from netdiag.report.figures import percent, proportion
from netdiag.report.model import Cited, Detail
from probes.model import value
from probes.stats.intervals import normal_quantile, wilson

_MONTH_H = 720.0  # the SRE workbook's 30 days


@value
class FailureRatio:
    failed: int
    total: int
    low: float
    high: float
    words: str
    evidence: tuple[str, ...]

    @property
    def ratio(self) -> float:
        return self.failed / self.total


def impact(run: Run, diagnosis: Diagnosis, numbered: Numbers) -> tuple[Detail, ...]:
    """The four lines of Impact Assessment."""
    failure = failure_ratio(run, numbered)
    beyond = _beyond_the_count(diagnosis, failure)
    plan = run.plan.impact
    lines = (
        ("Business Impact", _business(run, failure, beyond)),
        ("Affected Users", _in_proportion(plan.users, "concurrent users", failure, beyond)),
        ("Revenue Impact", _in_proportion(plan.revenue_per_day, "daily revenue at risk", failure, beyond)),
        ("SLA Violation", _sla(plan.sla, failure)),
    )
    cited = failure.evidence if failure else ()
    return tuple(Detail(label=label, figures=(_figure(text, cited),)) for label, text in lines)


def _figure(text: str, evidence: tuple[str, ...]) -> Cited:
    return Cited(text=text, evidence=evidence if any(char.isdigit() for char in text) else ())


def failure_ratio(run: Run, numbered: Numbers) -> FailureRatio | None:
    """Failed attempts of those that the service was asked; None where none was made."""
    attempts, measurements, words = service_attempts(run)
    interval = wilson(failed := attempts.count(False), len(attempts))
    if interval is None:
        return None
    cited = tuple(numbered[name] for name in measurements)
    return FailureRatio(
        failed=failed, total=len(attempts), low=interval.low, high=interval.high, words=words, evidence=cited
    )


def _beyond_the_count(diagnosis: Diagnosis, failure: FailureRatio | None) -> str:
    """The cause that no counted attempt met: a black hole lets small connections through and stalls what follows."""
    causes = [finding.code for finding in diagnosis.findings if finding.role is FindingRole.CAUSE]
    return causes[0] if causes and failure is not None and failure.failed == 0 else ""


def _business(run: Run, failure: FailureRatio | None, beyond: str) -> str:
    level = f"{run.plan.ticket.priority} - " if run.plan.ticket.priority else ""
    if failure is None:
        return f"{level}not measured: no attempt on the service was made"
    counted = f"{level}{proportion(failure.failed, failure.total)} of the measured {failure.words} failed"
    return f"{counted}; what {beyond} does to them afterwards is not in this count" if beyond else counted


def _in_proportion(whole: float | None, of_what: str, failure: FailureRatio | None, beyond: str) -> str:
    if whole is None:
        return "not given"
    if failure is None:
        return f"{whole:,.0f} {of_what} as given; the share that is hit was not measured"
    if beyond:
        return f"{whole:,.0f} {of_what} as given; the share that {beyond} hits does not show in the attempts counted"
    low, high = whole * failure.low, whole * failure.high
    return (
        f"~{whole * failure.ratio:,.0f} of {whole:,.0f} {of_what}, if all meet the measured failure ratio of "
        f"{percent(failure.ratio)} (95% CI {low:,.0f}-{high:,.0f}, n={failure.total:,})"
    )


def _sla(target: float | None, failure: FailureRatio | None) -> str:
    if target is None:
        return "not given"
    if failure is None:
        return f"{percent(target)} uptime SLA; availability not measured"
    low, high = 1 - failure.high, 1 - failure.low
    measured = (
        f"{percent(target)} uptime SLA: measured availability {percent(1 - failure.ratio)} of {failure.total:,} "
        f"{failure.words} (95% CI {percent(low)[:-1]}-{percent(high)}), {_standing(target, low, high)}"
    )
    return f"{measured}{_burn(target, failure)}"


def _standing(target: float, low: float, high: float) -> str:
    if high < target:
        return "violated while measured"
    if low >= target:
        return "met while measured"
    needed = attempts_to_show(target)
    return "too few attempts to tell" + (
        f" (at least {needed:,} without a failure would show it met)" if needed else ""
    )


def attempts_to_show(target: float) -> int | None:
    """The fewest attempts whose Wilson lower bound, none having failed, is ``target``; None of 100 %."""
    # With no failure the lower bound is n / (n + z^2).
    square = normal_quantile(0.95) ** 2
    return math.ceil(square * target / (1 - target)) if target < 1 else None


def _burn(target: float, failure: FailureRatio) -> str:
    if target >= 1 or 1 - failure.low >= target:
        return ""
    rate = failure.ratio / (1 - target)
    return f"; at this rate (burn {rate:,.0f}x) a 30-day error budget lasts {_MONTH_H / rate:,.1f} h"
