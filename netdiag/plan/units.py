"""Durations and ratios as people write them: "50ms", "2s", "0.1%"; seconds and 0..1 as netdiag counts."""

from __future__ import annotations

import re

_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Zµ]*)\s*")
_RATIO = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(%?)\s*")
LONGEST_BUDGET_S = 7 * 86400.0  # of a run; a mistyped unit must not keep one going for months
DURATION_PATTERN = r"^\s*\d+(\.\d+)?\s*(us|µs|ms|s|m|h|d)\s*$"
RATIO_PATTERN = r"^\s*\d+(\.\d+)?\s*%\s*$"


def parse_duration(text: str) -> float:
    """Seconds. Raises ValueError with what to write instead: a number without a unit is refused."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError('not a duration; write a number and a unit, such as "50ms", "2s" or "1m"')
    number, unit = float(match[1]), match[2].replace("µ", "u")
    if not unit:
        raise ValueError(f'a duration needs its unit; write "{match[1]}ms" or "{match[1]}s"')
    if unit not in _UNITS:
        raise ValueError(f"unknown unit; the units of time are {', '.join(_UNITS)}")
    # Through the shortest decimal, so that "50ms" is 0.05 and not 0.05000000000000001.
    return float(f"{number * _UNITS[unit]:.12g}")


def parse_ratio(text: str) -> float:
    """A ratio 0..1 from a percentage. Raises ValueError: without the % sign 1 could mean 1 or 100 percent."""
    match = _RATIO.fullmatch(text)
    if match is None:
        raise ValueError('not a percentage; write it such as "0.1%"')
    if not match[2]:
        raise ValueError(f'a ratio is written in percent; write "{match[1]}%"')
    ratio = float(f"{float(match[1]) / 100:.12g}")
    if ratio > 1.0:
        raise ValueError("more than 100%")
    return ratio
