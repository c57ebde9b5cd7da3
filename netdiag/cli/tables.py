"""A measurement as lines for the eye: its figures by name, its lists as small tables. Works for any probe's type."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any

from netdiag.cli.output import one_line
from netdiag.encoding import builtins
from probes.model import Measurement

MOST_ROWS = 40
WIDEST_CELL = 60
WIDEST_TABLE = 120  # a wider one is told row by row, for no terminal shows its columns as columns


def measurement_lines(measurement: Measurement[Any]) -> Iterator[str]:
    state = str(measurement.outcome) + (f": {one_line(measurement.reason)}" if measurement.reason else "")
    yield f"{measurement.probe} {measurement.target.label()}  {measurement.duration_s:.3f} s  {state}"
    if measurement.data is not None:
        yield from _fields(builtins(measurement.data), "  ")


def _fields(fields: dict[str, Any], indent: str) -> Iterator[str]:
    for name, item in sorted(fields.items(), key=lambda field: _is_table(field[1])):  # what is summed up goes first
        if isinstance(item, dict):
            yield f"{indent}{name}:"
            yield from _fields(item, indent + "  ")
        elif _is_table(item):
            yield f"{indent}{name}:"
            yield from _table([_row(row) for row in item], indent + "  ")
        elif item not in (None, [], ()):
            yield f"{indent}{name}: {_text(item)}"


def _is_table(item: Any) -> bool:
    return isinstance(item, list | tuple) and bool(item) and all(isinstance(row, dict) for row in item)


def _row(row: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """The scalars of one row, those of inner values under dotted names; what has no data is left out."""
    cells: dict[str, str] = {}
    for name, item in row.items():
        if isinstance(item, dict):
            cells |= _row(item, f"{prefix}{name}.")
        elif _is_table(item):
            cells[prefix + name] = " ".join("/".join(_row(inner).values()) for inner in item)
        elif item not in (None, [], ()):
            cells[prefix + name] = _text(item)
    return cells


def _text(item: Any) -> str:
    if isinstance(item, list | tuple):
        item = " ".join(str(part) for part in item)
    text = one_line(f"{item:.6g}" if isinstance(item, float) else str(item))
    return text if len(text) <= WIDEST_CELL else text[: WIDEST_CELL - 1] + "…"


def _table(rows: list[dict[str, str]], indent: str) -> Iterator[str]:
    shown = rows[:MOST_ROWS]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    widths = {name: max(len(name), *(len(row.get(name, "-")) for row in shown)) for name in columns}
    if len(indent) + sum(widths.values()) + 2 * (len(columns) - 1) <= WIDEST_TABLE:
        yield indent + "  ".join(name.ljust(widths[name]) for name in columns).rstrip()
        for row in shown:
            yield indent + "  ".join(row.get(name, "-").ljust(widths[name]) for name in columns).rstrip()
    else:
        for row in shown:
            yield from _paragraph(row, indent)
    if len(rows) > MOST_ROWS:
        yield f"{indent}... {len(rows) - MOST_ROWS} more (--format json has all)"


def _paragraph(row: dict[str, str], indent: str) -> list[str]:
    """``- name=value name=value ...``, as many lines as it takes."""
    pairs = " ".join(f"{name}={cell}" for name, cell in row.items())
    return textwrap.wrap(
        pairs,
        WIDEST_TABLE,
        initial_indent=f"{indent}- ",
        subsequent_indent=f"{indent}  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
