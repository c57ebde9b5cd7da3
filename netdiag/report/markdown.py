"""The report as GitHub-flavoured Markdown: the text's content and order, every word of it escaped."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from netdiag.report.figures import references
from netdiag.report.model import Cited, Detail, EvidenceRow, Line, Listing, Report, RootCause, Step
from netdiag.report.text import exclusion_text, gap_text, tag

T = TypeVar("T")

# Inline marks of CommonMark and its table, strike-through and mathematics extensions.
_INLINE = re.compile(r"[\\`*_\[\]<>|~&$]")
# What would open a heading, list, quote or underline where a text begins a block.
_OPENING = re.compile(r"^(?:[#+=:-]|\d+(?=[.)](?:\s|$)))")
# What GitHub turns into a link without being asked.
_AUTOLINK = re.compile(r":(?=//)|(?<=www)\.", re.IGNORECASE)

_COLUMNS = ("No.", "Probe", "From", "To", "UTC", "Value", "Measurement")


def render(report: Report) -> str:
    """The whole report, ending in a newline."""
    blocks = (
        (f"# {escape(report.title)}",),
        _labelled(report.header),
        _section("Issue Description", _paragraphs(report.description)),
        _section("Root Cause Analysis", _groups(report.root_causes, _root_cause)),
        _section("Technical Details", _each(report.technical_details, _detail)),
        _section("Impact Assessment", _each(report.impact, _detail)),
        _section("Action Plan", _groups(report.action_plan, _step)),
        _section("Current Status", _items(report.current_status, lambda text: (f"- {escape(text)}",))),
        _section("Customer Sentiment", _items(report.sentiment, lambda text: (f"- {escape(text)}",))),
        _section("Next Steps", _numbered(report.next_steps)),
        _labelled(report.footer),
        _section("Ruled Out", _items(report.ruled_out, lambda it: (_cited(exclusion_text(it), it.evidence),))),
        _section("Not Measured", _items(report.not_measured, lambda it: (f"- {escape(gap_text(it))}",))),
        _section("Evidence", _evidence(report.evidence)),
    )
    return "\n\n".join("\n".join(block) for block in blocks) + "\n"


def escape(text: str) -> str:
    """``text`` as Markdown that shows exactly these characters, wherever in a line or a table cell it stands."""
    inline = _INLINE.sub(r"\\\g<0>", text.strip())
    opened = _OPENING.sub(lambda match: _escaped_opening(match.group()), inline)
    return _AUTOLINK.sub(r"\\\g<0>", opened)


def _escaped_opening(mark: str) -> str:
    return f"{mark}\\" if mark.isdigit() else f"\\{mark}"


def code(text: str) -> str:
    """A code span that no backtick in ``text`` can close (CommonMark 6.1)."""
    fence = "`" * (1 + max((len(run) for run in re.findall(r"`+", text)), default=0))
    space = " " if "`" in text[:1] + text[-1:] else ""
    return f"{fence}{space}{text}{space}{fence}"


def _section(title: str, body: Iterable[str]) -> tuple[str, ...]:
    return f"## {title}", "", *body


def _labelled(lines: Iterable[Line]) -> tuple[str, ...]:
    return tuple(f"- **{escape(line.label)}:** {escape(line.text)}" for line in lines)


def _paragraphs(paragraphs: Iterable[str]) -> Iterator[str]:
    for index, paragraph in enumerate(paragraphs):
        if index:
            yield ""
        yield escape(paragraph)


def _cited(text: str, evidence: tuple[str, ...], indent: str = "") -> str:
    return f"{indent}- {escape(text)} {references(evidence)}".rstrip()


def _groups(groups: Iterable[Listing[T]], lay: Callable[[T], Iterable[str]]) -> Iterator[str]:
    for number, group in enumerate(groups, start=1):
        if number > 1:
            yield ""
        yield f"### {number}. {escape(group.title)}"
        yield ""
        yield from _items(group, lay)


def _items(listing: Listing[T], lay: Callable[[T], Iterable[str]]) -> Iterator[str]:
    if listing.nothing:
        yield f"- {escape(listing.nothing)}"
    yield from _each(listing.items, lay)


def _each(things: Iterable[T], lay: Callable[[T], Iterable[str]]) -> Iterator[str]:
    for thing in things:
        yield from lay(thing)


def _numbered(listing: Listing[str]) -> Iterator[str]:
    for number, text in enumerate(listing.items or (listing.nothing or "",), start=1):
        yield f"{number}. {escape(text)}"


def _root_cause(cause: RootCause) -> Iterator[str]:
    yield f"- {escape(cause.text)} **{escape(tag(cause))}** {references(cause.evidence)}".rstrip()
    for consequence in cause.consequences:
        yield _cited(f"Hence: {consequence.text}", consequence.evidence, "  ")


def _step(step: Step) -> Iterator[str]:
    check = f"; check: {code(step.check)}" if step.check else ""
    yield f"- {escape(step.text)} (owner: {escape(step.owner)}{check})"


def _detail(detail: Detail) -> Iterator[str]:
    label = f"- **{escape(detail.label)}:**"
    if len(detail.figures) == 1:
        yield _figure(label, detail.figures[0])
        return
    yield label
    for figure in detail.figures:
        yield _figure("  -", figure)


def _figure(label: str, figure: Cited) -> str:
    return f"{label} {escape(figure.text)} {references(figure.evidence)}".rstrip()


def _evidence(listing: Listing[EvidenceRow]) -> Iterator[str]:
    if listing.nothing:
        yield escape(listing.nothing)
        return
    yield f"| {' | '.join(_COLUMNS)} |"
    yield f"|{' --- |' * len(_COLUMNS)}"
    yield from (_table_row(row) for row in listing.items)
    yield from ("", "To reproduce:", "", "```sh")
    for row in listing.items:
        yield from (f"# {row.number}", row.reproduce)
    yield "```"


def _table_row(row: EvidenceRow) -> str:
    cells = (row.number, row.probe, row.source, row.target, row.time, row.value, row.measurement)
    return f"| {' | '.join(escape(cell) for cell in cells)} |"
