"""findings.md: the page of every code, the rule's terms, and the numbers that rules decide by."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from itertools import pairwise

from docs.typed import cell, table, words
from netdiag.diagnosis import thresholds
from netdiag.diagnosis.catalogue import RULES
from netdiag.explain import codes
from netdiag.explain import page as page_of

INTRO = """# Findings

Each code with what it means, what looks like it, how netdiag tells them apart, how it is fixed, and how the fix is
checked. `netdiag explain CODE` prints the same page. How rules come to a verdict:
[how-a-verdict-is-reached.md](../explanation/how-a-verdict-is-reached.md)."""

SECTIONS = {
    "network-infrastructure": "1. Network Infrastructure Issues",
    "network-configuration": "2. Network Configuration",
    "database-impact": "3. Impact on Database",
}


def page() -> str:
    return "\n\n".join((INTRO, _index(), *(_demoted(page_of(code)) for code in codes()), _thresholds()))


def _index() -> str:
    section = {rule.code: SECTIONS[rule.section.value] for rule in RULES}
    rows = [(f"[{code}](#{_anchor(code)})", cell(_headline(code)), section.get(code, "")) for code in codes()]
    return table(("code", "in one line", "section of the report"), rows)


def _title(code: str) -> str:
    return page_of(code).splitlines()[0].removeprefix("# ")


def _headline(code: str) -> str:
    return _title(code).partition(": ")[2]


def _anchor(code: str) -> str:
    """As GitHub makes it: lower case, letters, digits, blanks to dashes; the rest goes."""
    return re.sub(r"[^\w\- ]", "", _title(code).lower()).replace(" ", "-")


def _demoted(text: str) -> str:
    """Headings one level down; a comment in a block of code is no heading."""
    blocks = text.rstrip("\n").split("```")
    blocks[::2] = [re.sub(r"^(#+) ", r"#\1 ", prose, flags=re.MULTILINE) for prose in blocks[::2]]
    return "```".join(blocks)


def _thresholds() -> str:
    rows = [(f"`{name}`", _figure(name), cell(reason)) for name, reason in _reasons()]
    intro = (
        "The numbers that the rules decide by, from `netdiag/diagnosis/thresholds.py`. Times are seconds, ratios 0..1."
    )
    return f"## Thresholds\n\n{intro}\n\n{table(('name', 'value', 'reason'), rows)}"


def _figure(name: str) -> str:
    figure = getattr(thresholds, name)
    return f"{figure:,}" if isinstance(figure, int) else f"{figure:,.6g}"


def _reasons() -> Iterator[tuple[str, str]]:
    """Each constant with the string that stands below it."""
    body = ast.parse(inspect.getsource(thresholds)).body
    for statement, remark in pairwise(body):
        if isinstance(statement, ast.Assign | ast.AnnAssign) and isinstance(remark, ast.Expr):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            text = remark.value.value if isinstance(remark.value, ast.Constant) else ""
            yield from ((target.id, words(str(text))) for target in targets if isinstance(target, ast.Name))
