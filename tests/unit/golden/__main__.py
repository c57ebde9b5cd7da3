"""Write the golden reports anew: python -m tests.unit.golden, then read the diff."""

from __future__ import annotations

from pathlib import Path

from netdiag.report import markdown, text
from netdiag.report.compile import compile_report
from tests.unit.golden.worlds import WORLDS

HERE = Path(__file__).parent

for name, world in WORLDS.items():
    report = compile_report(*world())
    (HERE / f"{name}.txt").write_text(text.render(report), encoding="utf-8")
    (HERE / f"{name}.md").write_text(markdown.render(report), encoding="utf-8")
