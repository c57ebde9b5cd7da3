"""The report for machines: the ``report`` object of a run's JSON, and the report alone as a document."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from netdiag.report.model import Report


def builtins(report: Report) -> dict[str, Any]:
    """``report`` as dicts, lists, strings and numbers, keys in the order of the type."""
    encoded: dict[str, Any] = msgspec.to_builtins(report)
    return encoded


def restore(encoded: dict[str, Any]) -> Report:
    """The report that ``builtins`` gave. Raises msgspec.ValidationError for anything else; unknown keys are ignored."""
    return msgspec.convert(encoded, Report)


def render(report: Report) -> str:
    """The report alone as one JSON document, ending in a newline."""
    return json.dumps(builtins(report), ensure_ascii=False, indent=2) + "\n"
