"""Five lines for the terminal of somebody who was just woken up."""

from __future__ import annotations

from netdiag.report.model import Report


def five_lines(report: Report) -> str:
    """Verdict, cause, place, confidence, what to do now: five lines, no newline at the end."""
    told = report.summary
    pairs = (
        ("Verdict", str(told.verdict)),
        ("Cause", told.cause),
        ("Place", told.place),
        ("Confidence", told.how_sure),
        ("Do now", told.action),
    )
    return "\n".join(f"{label + ':':<12}{text}" for label, text in pairs)
