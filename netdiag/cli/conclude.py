"""A Run -> what is printed and saved: diagnosis, report and its renderings."""

from __future__ import annotations

from enum import StrEnum

from netdiag.cli.output import STATUS
from netdiag.diagnosis.engine import diagnose
from netdiag.diagnosis.finding import Diagnosis
from netdiag.evidence import Run
from netdiag.report.compile import compile_report
from netdiag.report.model import Report
from netdiag.run_file import encode
from probes.model import value


class Format(StrEnum):
    TEXT = "text"
    MARKDOWN = "markdown"
    JSON = "json"


@value
class Conclusion:
    run: Run
    diagnosis: Diagnosis
    report: Report

    @property
    def status(self) -> int:
        """The exit status that the verdict asks for."""
        return STATUS[self.diagnosis.verdict.value]

    def document(self) -> bytes:
        """The saved run, ``netdiag.run/1``."""
        return encode(self.run, self.diagnosis, self.report)

    def rendered(self, form: str, width: int | None = None) -> str:
        """``width``: of a terminal that shows the text; a file's and a pipe's is always the same."""
        from netdiag.report import markdown, text

        if form == Format.JSON:
            return self.document().decode()
        return (
            markdown.render(self.report) if form == Format.MARKDOWN else text.render(self.report, width or text.WIDTH)
        )

    def files(self) -> dict[str, bytes]:
        """File name -> content: what an incident's folder holds."""
        return {
            "report.txt": self.rendered(Format.TEXT).encode(),
            "report.md": self.rendered(Format.MARKDOWN).encode(),
            "run.json": self.document(),
        }

    def summary(self) -> str:
        from netdiag.report.summary import five_lines

        return five_lines(self.report)


def conclude(run: Run) -> Conclusion:
    diagnosis = diagnose(run)
    return Conclusion(run=run, diagnosis=diagnosis, report=compile_report(run, diagnosis))
