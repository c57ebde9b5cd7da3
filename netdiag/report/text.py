"""The report as plain text, in exactly the shape of the escalation summary: headings, underlines, order, bullets."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from netdiag.diagnosis.finding import FindingRole
from netdiag.report.figures import references
from netdiag.report.model import Detail, EvidenceRow, Exclusion, Gap, Line, Listing, Report, RootCause, Step
from probes.model import value

T = TypeVar("T")
WIDTH = 110  # of the report in a file or a pipe, whoever reads it

# The escalation summary underlines most headings one character short of their length, these three in full.
_FULL = frozenset({"Action Plan:", "Current Status:", "Next Steps:"})


def render(report: Report, width: int = WIDTH) -> str:
    """The whole report, ending in a newline. Heads and commands of the appendix are never wrapped, the rest is."""
    page = _Page(width=width)
    blocks: tuple[Iterable[str], ...] = (
        (report.title, "=" * (len(report.title) + 1)),
        _labelled(report.header),
        _section("Issue Description", page.paragraphs(report.description)),
        _section("Root Cause Analysis", page.groups(report.root_causes, page.root_cause)),
        _section("Technical Details", _each(report.technical_details, page.detail)),
        _section("Impact Assessment", _each(report.impact, page.detail)),
        _section("Action Plan", page.groups(report.action_plan, page.step)),
        _section("Current Status", page.items(report.current_status, page.bullet)),
        _section("Customer Sentiment", page.items(report.sentiment, page.bullet)),
        _section("Next Steps", page.numbered(report.next_steps)),
        _labelled(report.footer),
        _section("Ruled Out", page.items(report.ruled_out, page.exclusion)),
        _section("Not Measured", page.items(report.not_measured, page.gap)),
        _section("Evidence", page.items(report.evidence, page.row)),
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


def wrapped(prefix: str, text: str, width: int) -> list[str]:
    """``text`` behind ``prefix``, its further lines as far in; words are never broken. At least one line."""
    hang = " " * len(prefix)
    lines = textwrap.wrap(
        text, width, initial_indent=prefix, subsequent_indent=hang, break_long_words=False, break_on_hyphens=False
    )
    return lines or [prefix.rstrip()]


def _section(title: str, body: Iterable[str]) -> tuple[str, ...]:
    heading = f"{title}:"
    return heading, underline(heading), *body


def _labelled(lines: Iterable[Line]) -> tuple[str, ...]:
    return tuple(f"{line.label}: {line.text}" for line in lines)


def _each(things: Iterable[T], lay: Callable[[T], Iterable[str]]) -> Iterator[str]:
    for thing in things:
        yield from lay(thing)


@value
class _Page:
    """Lays single entries out as lines of at most ``width`` characters, as far as their words allow."""

    width: int

    def wrap(self, prefix: str, text: str, tail: str = "") -> list[str]:
        """``text`` behind ``prefix`` with a hanging indent; ``tail`` flush right on the last line, or below it."""
        lines = wrapped(prefix, text, self.width)
        room = self.width - len(lines[-1])
        if not tail:
            return lines
        if len(tail) + 2 <= room:
            return [*lines[:-1], lines[-1] + tail.rjust(room)]
        return [*lines, *(line.rjust(self.width) for line in textwrap.wrap(tail, self.width - len(prefix)))]

    def groups(self, groups: Iterable[Listing[T]], lay: Callable[[T], Iterable[str]]) -> Iterator[str]:
        for number, group in enumerate(groups, start=1):
            if number > 1:
                yield ""
            yield f"{number}. {group.title}:"
            yield from self.items(group, lay, indent="   ")

    def items(self, listing: Listing[T], lay: Callable[[T], Iterable[str]], indent: str = "") -> Iterator[str]:
        if listing.nothing:
            yield from self.wrap(f"{indent}- ", listing.nothing)
        for item in listing.items:
            yield from lay(item)

    def paragraphs(self, paragraphs: Iterable[str]) -> Iterator[str]:
        for index, paragraph in enumerate(paragraphs):
            if index:
                yield ""
            # A line of dashes alone, at the margin, would make a heading of the line above it.
            yield from (line if set(line) - set("-=") else f" {line}" for line in self.wrap("", paragraph))

    def bullet(self, text: str) -> list[str]:
        return self.wrap("- ", text)

    def numbered(self, listing: Listing[str]) -> Iterator[str]:
        for number, text in enumerate(listing.items or (listing.nothing or "",), start=1):
            yield from self.wrap(f"{number}. ", text)

    def root_cause(self, cause: RootCause) -> Iterator[str]:
        yield from self.wrap("   - ", cause.text, f"{tag(cause)} {references(cause.evidence)}".rstrip())
        for consequence in cause.consequences:
            yield from self.wrap("     - ", f"Hence: {consequence.text}", references(consequence.evidence))

    def step(self, step: Step) -> list[str]:
        return self.wrap("   - ", step_text(step))

    def detail(self, detail: Detail) -> Iterator[str]:
        if len(detail.figures) == 1:
            (only,) = detail.figures
            yield from self.wrap("- ", f"{detail.label}: {only.text}", references(only.evidence))
            return
        yield f"- {detail.label}:"
        for figure in detail.figures:
            yield from self.wrap("  - ", figure.text, references(figure.evidence))

    def exclusion(self, line: Exclusion) -> list[str]:
        return self.wrap("- ", exclusion_text(line), references(line.evidence))

    def gap(self, gap: Gap) -> list[str]:
        return self.wrap("- ", gap_text(gap))

    def row(self, row: EvidenceRow) -> Iterator[str]:
        head = f"{row.number:<4} "
        yield f"{head}{row.probe}  {row.source} -> {row.target}  {row.time}"
        yield from self.wrap(" " * len(head), row.value)
        yield f"{' ' * len(head)}id {row.measurement}"
        yield f"{' ' * len(head)}$ {row.reproduce}"
