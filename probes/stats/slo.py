"""Service-level arithmetic: the error budget, how fast it burns, and when that is worth waking somebody.

Ratios of failed requests, not of lost packets: TCP hides most packet loss. SRE Workbook (2018), chapter 5.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from probes.model import value
from probes.stats.intervals import wilson

HOUR_S = 3600.0
PERIOD_S = 30 * 24 * HOUR_S

Compliance = Literal["met", "violated", "cannot tell"]


@value
class BurnAlert:
    """Fires where both windows burn at ``burn`` or more; the short one ends it soon after the fault does."""

    severity: str  # "page" | "ticket"
    long_s: float
    short_s: float
    burn: float


def burn_alert(severity: str, long_s: float, budget_used: float, period_s: float = PERIOD_S) -> BurnAlert:
    """The burn rate that uses ``budget_used`` of the period's budget within the long window; short is a twelfth."""
    return BurnAlert(severity=severity, long_s=long_s, short_s=long_s / 12, burn=budget_used * period_s / long_s)


ALERTS = (
    burn_alert("page", HOUR_S, 0.02),
    burn_alert("page", 6 * HOUR_S, 0.05),
    burn_alert("ticket", 24 * HOUR_S, 0.10),
    burn_alert("ticket", 72 * HOUR_S, 0.10),
)


def error_budget_s(objective: float, period_s: float = PERIOD_S) -> float:
    """Seconds of outage that ``objective`` (0.999) allows in a period."""
    return (1 - objective) * period_s


def burn_rate(error_ratio: float, objective: float) -> float:
    """1 uses up the budget exactly at the end of the period; objective < 1."""
    return error_ratio / (1 - objective)


def exhaustion_s(burn: float, period_s: float = PERIOD_S, left: float = 1.0) -> float | None:
    """Seconds until the budget, of which ``left`` (0..1) remains, is used up at this rate; None if never."""
    return left * period_s / burn if burn > 0 else None


@value
class Requests:
    failed: int
    total: int


def firing(
    windows: Mapping[float, Requests], objective: float, alerts: Sequence[BurnAlert] = ALERTS, least: int = 10
) -> tuple[BurnAlert, ...]:
    """The alerts of which both windows (seconds -> requests) burn fast enough.

    A window with fewer than ``least`` requests fires nothing: one failure of three is no burn rate.
    """
    return tuple(
        alert
        for alert in alerts
        if all(_burns(windows.get(seconds), objective, alert.burn, least) for seconds in (alert.long_s, alert.short_s))
    )


def _burns(seen: Requests | None, objective: float, burn: float, least: int) -> bool:
    if seen is None or seen.total < max(1, least):
        return False
    # One part in 10^9 of slack: 0.0144 / (1 - 0.999) is 14.399999999999986.
    return burn_rate(seen.failed / seen.total, objective) >= burn * (1 - 1e-9)


def compliance(seen: Requests, objective: float, level: float = 0.95) -> Compliance:
    """Whether the requests seen decide about the objective: Wilson's interval lies on one side of it, or not."""
    interval = wilson(seen.failed, seen.total, level)
    if interval is None:
        return "cannot tell"
    allowed = 1 - objective
    if interval.high <= allowed:
        return "met"
    return "violated" if interval.low > allowed else "cannot tell"
