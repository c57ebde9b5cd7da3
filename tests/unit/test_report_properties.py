"""Random diagnoses over the golden runs: compiling and rendering never fails, and every citation is in the appendix."""

from __future__ import annotations

import re
from dataclasses import fields

from hypothesis import given, settings
from hypothesis import strategies as st

from netdiag.diagnosis.finding import (
    Action,
    Diagnosis,
    Finding,
    FindingRole,
    Horizon,
    NotMeasured,
    RuledOut,
    Section,
    Severity,
    Subject,
    Verdict,
)
from netdiag.report import json, markdown, text
from netdiag.report.compile import compile_report
from netdiag.report.summary import five_lines
from tests.unit.golden.worlds import WORLDS

RUNS = {name: world()[0] for name, world in WORLDS.items()}
IDS = tuple("abcdefg")
MEASUREMENTS = tuple(m.id for run in RUNS.values() for m in run.evidence)

texts = st.text(max_size=30)
citations = st.lists(st.sampled_from((*MEASUREMENTS, "no/such/measurement")), max_size=4).map(tuple)
numbers = {"port", "size"}
subjects = st.builds(
    Subject,
    **{
        field.name: st.none() | (st.integers(0, 65535) if field.name in numbers else texts) for field in fields(Subject)
    },
)
actions = st.builds(Action, owner=texts, horizon=st.sampled_from(Horizon), step=texts, check=texts)


def findings_of(identity):
    return st.builds(
        Finding,
        id=st.just(identity),
        code=texts,
        role=st.sampled_from(FindingRole),
        severity=st.sampled_from(Severity),
        confidence=st.none() | st.floats(0, 1),
        section=st.sampled_from(Section),
        subject=subjects,
        statement=st.just(f"statement {identity}") | texts.map(lambda s: f"statement {identity} {s}"),
        evidence=citations,
        would_refute=texts,
        actions=st.lists(actions, max_size=3).map(tuple),
        explains=st.lists(st.sampled_from((*IDS, "unknown")), max_size=3).map(tuple),
    )


findings = st.lists(st.sampled_from(IDS), unique=True, max_size=5).flatmap(
    lambda ids: st.tuples(*(findings_of(identity) for identity in ids))
)
excluded = st.builds(RuledOut, code=texts, subject=subjects, statement=texts, smallest_fault=texts, evidence=citations)
gaps = st.builds(NotMeasured, code=texts, subject=subjects, statement=texts, remedy=texts)
diagnoses = st.builds(
    Diagnosis,
    verdict=st.sampled_from(Verdict),
    findings=findings,
    ruled_out=st.lists(excluded, max_size=3).map(tuple),
    not_measured=st.lists(gaps, max_size=3).map(tuple),
)


@settings(deadline=None, max_examples=150)
@given(name=st.sampled_from(sorted(RUNS)), diagnosis=diagnoses)
def test_any_diagnosis_compiles_and_renders(name, diagnosis):
    report = compile_report(RUNS[name], diagnosis)
    assert compile_report(RUNS[name], diagnosis) == report
    assert json.restore(json.builtins(report)) == report
    assert text.render(report)
    assert markdown.render(report)
    assert five_lines(report).count("\n") == 4


@given(name=st.sampled_from(sorted(RUNS)), diagnosis=diagnoses)
@settings(deadline=None, max_examples=150)
def test_every_citation_is_in_the_appendix(name, diagnosis):
    report = compile_report(RUNS[name], diagnosis)
    rows = {row.number for row in report.evidence.items}
    assert cited(json.builtins(report)) <= rows


@given(name=st.sampled_from(sorted(RUNS)), diagnosis=diagnoses)
@settings(deadline=None, max_examples=150)
def test_every_finding_stands_in_the_report_exactly_once(name, diagnosis):
    report = compile_report(RUNS[name], diagnosis)
    heads = [cause for section in report.root_causes for cause in section.items]
    told = [line.text for cause in heads for line in (cause, *cause.consequences)]
    found = sorted(re.match(r"statement (\w)", line).group(1) for line in told)
    assert found == sorted(finding.id for finding in diagnosis.findings)


def cited(encoded):
    """Every E-number in an ``evidence`` list of strings, wherever it stands."""
    if isinstance(encoded, dict):
        here = encoded.get("evidence")
        own = {item for item in here if isinstance(item, str)} if isinstance(here, list) else set()
        return own.union(*(cited(item) for item in encoded.values()))
    if isinstance(encoded, list):
        return set().union(*(cited(item) for item in encoded))
    return set()
