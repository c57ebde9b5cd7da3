"""Service-level arithmetic against the tables of the SRE Workbook, chapter 5."""

from __future__ import annotations

import pytest

from probes.stats.slo import (
    ALERTS,
    HOUR_S,
    Requests,
    burn_rate,
    compliance,
    error_budget_s,
    exhaustion_s,
    firing,
)

DAY_S = 24 * HOUR_S


@pytest.mark.parametrize(
    ("objective", "days", "minutes"),
    [(0.999, 30, 43.2), (0.999, 28, 40.3), (0.999, 7, 10.1), (0.999, 365.25, 8.766 * 60), (0.9999, 30, 4.3)],
)
def test_budget(objective, days, minutes):
    assert error_budget_s(objective, days * DAY_S) / 60 == pytest.approx(minutes, abs=0.05)


# Long window h, short window min, burn, error ratio at 99.9 %, hours to exhaustion.
TABLE = [(1, 5, 14.4, 0.0144, 50), (6, 30, 6, 0.006, 120), (24, 120, 3, 0.003, 240), (72, 360, 1, 0.001, 720)]


@pytest.mark.parametrize(("alert", "row"), list(zip(ALERTS, TABLE, strict=True)))
def test_the_workbooks_table(alert, row):
    hours, minutes, burn, ratio, exhausted = row
    assert (alert.long_s, alert.short_s) == (hours * HOUR_S, minutes * 60)
    assert alert.burn == pytest.approx(burn)
    assert burn_rate(ratio, 0.999) == pytest.approx(burn)
    assert exhaustion_s(burn) / HOUR_S == pytest.approx(exhausted)


@pytest.mark.parametrize(("ratio", "hours"), [(0.05, 14.4), (0.10, 7.2), (0.15, 4.8)])
def test_what_the_incident_burns(ratio, hours):
    assert exhaustion_s(burn_rate(ratio, 0.999)) / HOUR_S == pytest.approx(hours)


def test_nothing_fails_nothing_burns():
    assert exhaustion_s(burn_rate(0.0, 0.999)) is None
    assert exhaustion_s(2.0, left=0.5) == pytest.approx(7.5 * DAY_S)


def seen(**ratios: float) -> dict[float, Requests]:
    """``h1=0.02``: of 10,000 requests in that window."""
    lengths = {"m5": 300, "m30": 1800, "h1": 3600, "h2": 7200, "h6": 21600, "h24": DAY_S, "h72": 72 * HOUR_S}
    return {lengths[name]: Requests(failed=round(ratio * 10_000), total=10_000) for name, ratio in ratios.items()}


@pytest.mark.parametrize(
    ("windows", "burns"),
    [
        (seen(h1=0.0144, m5=0.0144), [14.4]),
        (seen(h1=0.02, m5=0.001), []),  # over: the short window says so
        (seen(h1=0.001, m5=0.5), []),  # a blip
        (seen(h1=0.05, m5=0.05, h6=0.01, m30=0.05), [14.4, 6.0]),
        (seen(h72=0.0012, h6=0.0012), [1.0]),
        ({}, []),
    ],
)
def test_both_windows_must_burn(windows, burns):
    assert [alert.burn for alert in firing(windows, 0.999)] == pytest.approx(burns)


def test_one_failure_of_three_wakes_nobody():
    few = {3600.0: Requests(failed=1, total=3), 300.0: Requests(failed=1, total=3)}
    assert firing(few, 0.999) == ()
    assert len(firing(few, 0.999, least=1)) == 1


@pytest.mark.parametrize(
    ("failed", "total", "said"),
    [(0, 0, "cannot tell"), (0, 100, "cannot tell"), (0, 5000, "met"), (5, 5000, "cannot tell"), (5, 100, "violated")],
)
def test_compliance(failed, total, said):
    """Wilson: 0 of 5,000 is at most 0.077 %; 5 of 100 at least 2.2 %."""
    assert compliance(Requests(failed=failed, total=total), 0.999) == said
