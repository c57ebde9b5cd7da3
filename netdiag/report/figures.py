"""Figures in words: durations, ratios with their intervals, counts. No locale; rounding happens only here."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

from probes.latency import LossCount
from probes.stats.intervals import wilson


def duration(seconds: float | None) -> str:
    """Three significant digits in microseconds, milliseconds, seconds or minutes; "no figure" for None."""
    if seconds is None:
        return "no figure"
    for unit, size in (("us", 1e-6), ("ms", 1e-3), ("s", 1.0)):
        if seconds < size * (999.5 if unit != "s" else 120):
            return f"{_significant(seconds / size)} {unit}"
    return f"{_significant(seconds / 60)} min"


def _significant(number: float) -> str:
    if number >= 100:
        return f"{number:,.0f}"
    digits = 1 if number >= 10 else 2
    return _bare(f"{number:.{digits}f}")


def _bare(text: str) -> str:
    return text.rstrip("0").rstrip(".") if "." in text else text


def percent(ratio: float | None) -> str:
    """``9.8%``; below 0.1 % two significant digits; "no figure" for None."""
    if ratio is None:
        return "no figure"
    hundredths = ratio * 100
    if hundredths == 0 or hundredths >= 0.1:
        near_one = 99.9 < hundredths < 100
        return f"{_bare(f'{hundredths:.{3 if near_one else 1}f}')}%"
    return f"{hundredths:.2g}%"


def share(count: int, total: int, low: float | None, high: float | None, level: float = 0.95) -> str:
    """``41 of 418, 9.8% (95% CI 7.1-13%)``."""
    if total <= 0:
        return f"{count:,} of {total:,}"
    interval = f" ({percent(level)} CI {percent(low)[:-1]}-{percent(high)})" if low is not None else ""
    return f"{count:,} of {total:,}, {percent(count / total)}{interval}"


def loss(count: LossCount) -> str:
    """Lost of sent with the interval; late, duplicate and unsent packets named where there are some."""
    head = f"{share(count.lost, count.sent, count.low, count.high, count.level)} lost"
    extras = (("late", count.late), ("duplicate", count.duplicates), ("not sent", count.not_sent))
    return "".join((head, *(f", {number:,} {word}" for word, number in extras if number)))


def stamp(moment: dt.datetime) -> str:
    """``2024-01-25T03:00:01Z``. A naive stamp is taken to be UTC."""
    aware = moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)
    return aware.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def proportion(count: int, total: int) -> str:
    """``share`` with its 95 % Wilson interval."""
    interval = wilson(count, total)
    return share(count, total, interval.low, interval.high) if interval else share(count, total, None, None)


def counted(number: int, what: str) -> str:
    """``1 size``, ``2,000 sizes``: a word whose plural takes an s."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def references(numbers: Sequence[str]) -> str:
    """``E1 E2 E3 E7`` as ``E1-E3 E7``: runs of three or more are drawn together."""
    runs: list[list[int]] = []
    for number in sorted({int(text.removeprefix("E")) for text in numbers}):
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return " ".join(_run(run) for run in runs)


def _run(run: Sequence[int]) -> str:
    return f"E{run[0]}-E{run[-1]}" if len(run) > 2 else " ".join(f"E{number}" for number in run)
