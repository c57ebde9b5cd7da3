"""Writes docs/reference from the code: ``make docs``. What the pages say, the code says; no page is edited by hand."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from docs.pages import commands, exit_codes, findings, json, plan, probes

REFERENCE = Path(__file__).parent / "reference"
NOTE = "<!-- Made from the code by `make docs`; edit the code, not this page. -->\n\n"

PAGES: dict[str, Callable[[], str]] = {
    "commands.md": commands.page,
    "plan.md": plan.page,
    "findings.md": findings.page,
    "json.md": json.page,
    "probes.md": probes.page,
    "exit-codes.md": exit_codes.page,
}


def content(name: str) -> str:
    return NOTE + PAGES[name]().rstrip("\n") + "\n"


def main() -> int:
    REFERENCE.mkdir(exist_ok=True)
    for name in PAGES:
        (REFERENCE / name).write_text(content(name), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
