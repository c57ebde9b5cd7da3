"""Evidence of real incidents of the lab, judged again without it: scenario, seed and answer as when it was measured.

``evidence/SCENARIO-SEED.json.xz`` holds what one trial measured (netdiag.lab.accuracy_run --keep writes them). The
answer that is due comes from the scenario's file, drawn with the same seed; rules may change, the answer may not.
"""

from __future__ import annotations

import lzma
from functools import cache
from pathlib import Path

import pytest

from netdiag.diagnosis.engine import diagnose
from netdiag.diagnosis.finding import FindingRole
from netdiag.evidence import Run
from netdiag.lab.grade import grade, lines, named_by
from netdiag.lab.scenario import all_scenarios, scenario_named
from netdiag.lab.topology import two_regions
from netdiag.lab.trial import addresses_of
from netdiag.report.compile import compile_report
from netdiag.run_file import decode

FOLDER = Path(__file__).parent / "evidence"
FILES = sorted(FOLDER.glob("*.json.xz"))
ADDRESSES = addresses_of(two_regions())


@cache
def run_of(path: Path) -> Run:
    return decode(lzma.decompress(path.read_bytes()), path.name)


def scenario_and_seed(path: Path) -> tuple[str, int]:
    name, _, seed = path.name.removesuffix(".json.xz").rpartition("-")
    return name, int(seed)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name.removesuffix(".json.xz"))
def test_the_incident_is_still_judged_rightly(path: Path) -> None:
    name, seed = scenario_and_seed(path)
    diagnosis = diagnose(run_of(path))
    graded = grade(
        diagnosis.verdict.value, named_by(diagnosis), scenario_named(name).incident(seed).expected, ADDRESSES
    )
    assert graded.right, "\n".join(lines(graded))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name.removesuffix(".json.xz"))
def test_every_cause_rests_on_evidence_that_is_there(path: Path) -> None:
    run = run_of(path)
    diagnosis = diagnose(run)
    measured = {measurement.id for measurement in run.evidence}
    for judged in (*diagnosis.findings, *diagnosis.ruled_out):
        assert judged.evidence, judged
        assert set(judged.evidence) <= measured, judged
    assert compile_report(run, diagnosis)


@pytest.mark.parametrize("path", FILES[::6], ids=lambda path: path.name.removesuffix(".json.xz"))
def test_without_the_evidence_of_a_cause_it_is_not_named(path: Path) -> None:
    """The answer comes from what was measured: with nothing measured nothing is named, whatever the plan says."""
    from dataclasses import replace

    from netdiag.evidence import Evidence

    empty = diagnose(replace(run_of(path), evidence=Evidence(())))
    assert empty.findings == ()
    assert empty.verdict.value == "unknown"


def test_most_scenarios_that_have_a_rule_have_evidence() -> None:
    kept = {scenario_and_seed(path)[0] for path in FILES}
    ruled = {scenario.name for scenario in all_scenarios() if scenario.implemented}
    assert kept <= {scenario.name for scenario in all_scenarios()}
    assert len(kept & ruled) >= 0.8 * len(ruled)


@pytest.mark.parametrize(
    "path", [path for path in FILES if path.name.startswith("link-congestion")], ids=lambda p: p.name
)
def test_what_a_saturated_link_does_is_not_named_as_a_cause_beside_it(path: Path) -> None:
    causes = {finding.code for finding in diagnose(run_of(path)).findings if finding.role is FindingRole.CAUSE}
    assert causes == {"link.congestion"}
