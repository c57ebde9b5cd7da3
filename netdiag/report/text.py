"""The report as plain text, in exactly the shape of the escalation summary: headings, underlines, order, bullets."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from netdiag.diagnosis.finding import FindingRole
from netdiag.report.figures import references
from netdiag.report.model import Cited, Detail, EvidenceRow, Exclusion, Gap, Line, Listing, Report, RootCause, Step

T = TypeVar("T")
WIDTH = 110

# The escalation summary underlines most headings one character short of their length, these three in full.
_FULL = frozenset({"Action Plan:", "Current Status:", "Next Steps:"})


def render(report: Report) -> str:
    """The whole report, ending in a newline. Commands in the appendix are never wrapped, everything else at WIDTH."""
    blocks = (
        (report.title, "=" * (len(report.title) + 1)),
        _labelled(report.header),
        _section("Issue Description", _paragraphs(report.description)),
        _section("Root Cause Analysis", _numbered_groups(report.root_causes, _root_cause)),
        _section("Technical Details", _each(report.technical_details, _detail)),
        _section("Impact Assessment", _each(report.impact, _detail)),
        _section("Action Plan", _numbered_groups(report.action_plan, _step)),
        _section("Current Status", _bullets(report.current_status)),
        _section("Customer Sentiment", _bullets(report.sentiment)),
        _section("Next Steps", _numbered(report.next_steps)),
        _labelled(report.footer),
        _section("Ruled Out", _items(report.ruled_out, _exclusion)),
        _section("Not Measured", _items(report.not_measured, _gap)),
        _section("Evidence", _items(report.evidence, _row)),
    )
    return "\n\n".join("\n".join(block) for block in blocks) + "\n"


def underline(heading: str) -> str:
    """The dashes below ``heading``, as many as the escalation summary has."""
    return "-" * (len(heading) if heading in _FULL else len(heading) - 1)


def tag(cause: RootCause) -> str:
    """``[critical, 0.98]``, with the role named where it is not a cause."""
    role = () if cause.role is FindingRole.CAUSE else (str(cause.role),)
    sure = () if cause.confidence is None else (f"{cause.confidence:.2f}",)
    return f"[{', '.join((*role, str(cause.severity), *sure))}]"


def step_text(step: Step) -> str:
    check = f"; check: {step.check}" if step.check else ""
    return f"{step.text} (owner: {step.owner}{check})"


def exclusion_text(line: Exclusion) -> str:
    return f"{line.code}: {line.text} Smallest visible fault: {line.smallest_fault}"


def gap_text(gap: Gap) -> str:
    return f"{', '.join(gap.codes)}: {gap.text} {gap.remedy}".strip()


def _section(title: str, body: Iterable[str]) -> tuple[str, ...]:
    heading = f"{title}:"
    return heading, underline(heading), *body


def _labelled(lines: Iterable[Line]) -> tuple[str, ...]:
    return tuple(f"{line.label}: {line.text}" for line in lines)


def _paragraphs(paragraphs: Iterable[str]) -> Iterator[str]:
    for index, paragraph in enumerate(paragraphs):
        if index:
            yield ""
        # A line of dashes alone, at the margin, would make a heading of the line above it.
        yield from (line if set(line) - set("-=") else f" {line}" for line in _wrap("", paragraph))


def _wrap(prefix: str, text: str, tail: str = "") -> list[str]:
    """``text`` behind ``prefix`` with a hanging indent; ``tail`` flush right on the last line, or below it."""
    hang = " " * len(prefix)
    lines = textwrap.wrap(
        text, WIDTH, initial_indent=prefix, subsequent_indent=hang, break_long_words=False, break_on_hyphens=False
    ) or [prefix.rstrip()]
    room = WIDTH - len(lines[-1])
    if not tail:
        return lines
    if len(tail) + 2 <= room:
        return [*lines[:-1], lines[-1] + tail.rjust(room)]
    return [*lines, *(line.rjust(WIDTH) for line in textwrap.wrap(tail, WIDTH - len(prefix)))]


def _numbered_groups(groups: Iterable[Listing[T]], lay: Callable[[T], Iterable[str]]) -> Iterator[str]:
    for number, group in enumerate(groups, start=1):
        if number > 1:
            yield ""
        yield f"{number}. {group.title}:"
        if group.nothing:
            yield f"   - {group.nothing}"
        for item in group.items:
            yield from lay(item)


def _items(listing: Listing[T], lay: Callable[[T], Iterable[str]]) -> Iterator[str]:
    if listing.nothing:
        yield f"- {listing.nothing}"
    for item in listing.items:
        yield from lay(item)


def _bullets(listing: Listing[str]) -> Iterator[str]:
    return _items(listing, lambda text: _wrap("- ", text))


def _numbered(listing: Listing[str]) -> Iterator[str]:
    for number, text in enumerate(listing.items or (listing.nothing or "",), start=1):
        yield from _wrap(f"{number}. ", text)


def _each(things: Iterable[T], lay: Callable[[T], Iterable[str]]) -> Iterator[str]:
    for thing in things:
        yield from lay(thing)


def _root_cause(cause: RootCause) -> Iterator[str]:
    yield from _wrap("   - ", cause.text, f"{tag(cause)} {references(cause.evidence)}".rstrip())
    for consequence in cause.consequences:
        yield from _wrap("     - ", f"Hence: {consequence.text}", references(consequence.evidence))


def _step(step: Step) -> Iterator[str]:
    yield from _wrap("   - ", step_text(step))


def _detail(detail: Detail) -> Iterator[str]:
    if len(detail.figures) == 1:
        yield from _figure(f"{detail.label}: ", detail.figures[0])
        return
    yield f"- {detail.label}:"
    for figure in detail.figures:
        yield from _wrap("  - ", figure.text, references(figure.evidence))


def _figure(label: str, figure: Cited) -> list[str]:
    return _wrap("- ", f"{label}{figure.text}", references(figure.evidence))


def _exclusion(line: Exclusion) -> Iterator[str]:
    yield from _wrap("- ", exclusion_text(line), references(line.evidence))


def _gap(gap: Gap) -> Iterator[str]:
    yield from _wrap("- ", gap_text(gap))


def _row(row: EvidenceRow) -> Iterator[str]:
    head = f"{row.number:<4} "
    yield f"{head}{row.probe}  {row.source} -> {row.target}  {row.time}"
    yield from _wrap(" " * len(head), row.value)
    yield f"{' ' * len(head)}id {row.measurement}"
    yield f"{' ' * len(head)}$ {row.reproduce}"
