"""Whether a BGP session that stands at two readings of a router fell between them. Pure.

1. A session is younger than the time between the readings if it fell and came back, and only then. BIRD tells no age
   but the hour since when; its own clock in the same reply makes an age of that.
2. The hour alone proves nothing. BIRD computes it anew for every reply and it moves by milliseconds each time, more
   while a table is loaded, and by every step of the wall clock (probes/wire/bird.py).
3. What was a date and is an hour now was older than the time format's limit (20 h by default), and is young.
4. Without the clock in both replies the hour must have moved by more than its unrest; with it too, for a session that
   came up as it was read.
"""

from __future__ import annotations

import datetime as dt
import re

from netdiag.diagnosis.thresholds import SINCE_MOVED_S
from probes.model import value
from probes.wire.bird import BirdClock, BirdSession

_DAY_S = 86_400.0
_HOURS_LIMIT_S = 20 * 3600.0  # BIRD's own: what is older is written as a date
_HOUR = re.compile(r"(?<!\d)(\d\d):(\d\d):(\d\d(?:\.\d+)?)$")
_DATE = re.compile(r"\d{4}-\d\d-\d\d")


@value
class Seen:
    """A session in one reading."""

    session: BirdSession
    clock: BirdClock | None
    at: dt.datetime


def fell_between(before: Seen, after: Seen) -> bool:
    """Both are up. False where the times cannot be read: then it is not known, and nothing is claimed."""
    elapsed, age = _elapsed_s(before, after), _age_s(after)
    if elapsed is None:
        return _hour_moved(before.session.since, after.session.since)
    return age is not None and age <= elapsed and _younger(before, age - elapsed)


def _younger(before: Seen, age_then_s: float) -> bool:
    """Than it was at the first reading: ``age_then_s`` is the age there of what stands at the second one."""
    age = _age_s(before)
    if age is None:
        return _DATE.fullmatch(before.session.since) is not None
    return SINCE_MOVED_S < (age - age_then_s) % _DAY_S < _DAY_S - SINCE_MOVED_S


def _elapsed_s(before: Seen, after: Seen) -> float | None:
    """By the daemon's uptime, which no step of the clock moves; by the wall clock where it was restarted."""
    first, second = _uptime_s(before.clock), _uptime_s(after.clock)
    if first is None or second is None:
        return None
    return second - first if second >= first else (after.at - before.at).total_seconds()


def _uptime_s(clock: BirdClock | None) -> float | None:
    """Both are written by the same clock in the same reply."""
    if clock is None:
        return None
    try:
        return (dt.datetime.fromisoformat(clock.now) - dt.datetime.fromisoformat(clock.started)).total_seconds()
    except (ValueError, TypeError):
        return None


def _age_s(seen: Seen) -> float | None:
    """None for a date alone, and where either is in another format."""
    since, now = _of_day_s(seen.session.since), _of_day_s(seen.clock.now) if seen.clock else None
    if since is None or now is None:
        return None
    age = (now - since) % _DAY_S
    return age if age <= _DAY_S - SINCE_MOVED_S else 0.0  # told after the clock was read


def _hour_moved(before: str, after: str) -> bool:
    """On by more than its unrest; back is a step of the clock."""
    first, second = _of_day_s(before), _of_day_s(after)
    return first is not None and second is not None and SINCE_MOVED_S < (second - first) % _DAY_S < _HOURS_LIMIT_S


def _of_day_s(text: str) -> float | None:
    found = _HOUR.search(text)
    return int(found[1]) * 3600 + int(found[2]) * 60 + float(found[3]) if found else None
