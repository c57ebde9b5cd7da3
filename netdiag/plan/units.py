"""Durations, ratios and sizes as people write them: "50ms", "0.1%", "16MiB"; seconds, 0..1, bytes as netdiag counts."""

from __future__ import annotations

import re

_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Zµ]*)\s*")
_SIZES = {"kB": 1000, "MB": 1000**2, "GB": 1000**3, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_RATIO = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(%?)\s*")
LONGEST_BUDGET_S = 7 * 86400.0  # of a run; a mistyped unit must not keep one going for months
DURATION_PATTERN = r"^\s*\d+(\.\d+)?\s*(us|µs|ms|s|m|h|d)\s*$"
LARGEST_BULK = 1 << 30  # bytes that one bulk read may carry
SIZE_PATTERN = r"^\s*\d+(\.\d+)?\s*(kB|MB|GB|KiB|MiB|GiB)\s*$"
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


def parse_size(text: str) -> int:
    """Bytes. Raises ValueError with what to write instead."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError('not a size; write a number and a unit, such as "16MiB"')
    if match[2] not in _SIZES:
        raise ValueError(f"a size needs its unit; the units are {', '.join(_SIZES)}")
    return round(float(match[1]) * _SIZES[match[2]])


def parse_bulk(text: str) -> int:
    """Bytes of a bulk read. Raises ValueError also for none, and for more than it may carry."""
    size = parse_size(text)
    if not 0 < size <= LARGEST_BULK:
        raise ValueError(f"must be more than nothing and at most {LARGEST_BULK >> 30}GiB")
    return size


def mebibytes(size: int) -> int:
    """Of so many bytes, rounded up."""
    return -(-size // (1 << 20))
