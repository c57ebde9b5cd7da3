"""The report against its golden texts, the escalation summary's shape, and the rules of folding and citing."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from netdiag.diagnosis.finding import Action, FindingRole, Horizon, Subject, Verdict
from netdiag.evidence import Evidence
from netdiag.plan.model import Ticket
from netdiag.report import json, markdown, text
from netdiag.report.compile import compile_report
from netdiag.report.evidence_rows import where
from netdiag.report.places import place
from netdiag.report.summary import five_lines
from probes.model import Target
from tests.unit.golden import worlds
from tests.unit.golden.worlds import WORLDS

GOLDEN = Path(__file__).parent / "golden"

# Each heading of the escalation summary with the number of dashes below it, copied from ce1006.txt.
ESCALATION = (
    ("Issue Description:", 17),
    ("Root Cause Analysis:", 19),
    ("1. Network Infrastructure Issues:", None),
    ("2. Network Configuration:", None),
    ("3. Impact on Database:", None),
    ("Technical Details:", 17),
    ("Impact Assessment:", 17),
    ("Action Plan:", 12),
    ("1. Immediate (0-4 hours):", None),
    ("2. Short-term (4-24 hours):", None),
    ("3. Long-term (1-7 days):", None),
    ("Current Status:", 15),
    ("Customer Sentiment:", 18),
    ("Next Steps:", 11),
)
HEADER = ("Customer:", "Priority:", "Status:", "Created:", "Escalated:")
LABELS = (
    "- Network Latency:",
    "- Packet Loss:",
    "- Affected Regions:",
    "- Load Balancer:",
    "- Database Connections:",
    "- Business Impact:",
    "- Affected Users:",
    "- Revenue Impact:",
    "- SLA Violation:",
)
FOOTER = ("Escalation Level:", "Assigned Engineer:", "Customer Contact:", "Ruled Out:", "Not Measured:", "Evidence:")


@pytest.mark.parametrize("name", WORLDS)
def test_golden(name):
    report = compile_report(*WORLDS[name]())
    assert text.render(report) == (GOLDEN / f"{name}.txt").read_text(encoding="utf-8")
    assert markdown.render(report) == (GOLDEN / f"{name}.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", WORLDS)
def test_shape_of_the_escalation_summary(name):
    lines = text.render(compile_report(*WORLDS[name]())).splitlines()
    assert lines[1] == "=" * (len(lines[0]) + 1)
    places = []
    for heading, dashes in ESCALATION:
        at = lines.index(heading, places[-1] + 1 if places else 0)
        assert dashes is None or lines[at + 1] == "-" * dashes
        places.append(at)
    assert places == sorted(places)
    in_order([*HEADER, *LABELS, *FOOTER], lines)


def in_order(prefixes, lines):
    rest = iter(lines)
    for prefix in prefixes:
        assert any(line.startswith(prefix) for line in rest), prefix


@pytest.mark.parametrize("name", WORLDS)
def test_markdown_has_the_same_headings_in_the_same_order(name):
    found = re.findall(r"^#{2,3} (.*)$", markdown.render(compile_report(*WORLDS[name]())), re.MULTILINE)
    wanted = [heading.rstrip(":") for heading, _ in ESCALATION]
    assert found == [*wanted, "Ruled Out", "Not Measured", "Evidence"]


@pytest.mark.parametrize("name", WORLDS)
def test_json_round_trip(name):
    report = compile_report(*WORLDS[name]())
    assert json.restore(json.builtins(report)) == report
    assert json.render(report) == json.render(compile_report(*WORLDS[name]()))


@pytest.mark.parametrize("name", WORLDS)
def test_only_commands_and_heads_of_evidence_are_wider_than_a_page(name):
    body = text.render(compile_report(*WORLDS[name]())).split("\nEvidence:\n")[0]
    assert max(len(line) for line in body.splitlines()) <= 110


@pytest.mark.parametrize("name", WORLDS)
@pytest.mark.parametrize("width", [60, 80, 110])
def test_a_narrower_page_says_the_same_words(name, width):
    report = compile_report(*WORLDS[name]())
    narrow = text.render(report, width)
    assert sorted(narrow.split()) == sorted(text.render(report).split())
    body = narrow.partition("\nEvidence:\n")[0]
    assert max(len(line) for line in body.splitlines() if len(line.split()) > 1) <= max(width, len(report.title))


def test_consequences_are_folded_once_under_their_cause():
    report = compile_report(*worlds.critical())
    infrastructure, configuration, database = report.root_causes
    assert [len(cause.consequences) for cause in infrastructure.items] == [2, 0]
    assert [len(cause.consequences) for cause in configuration.items] == [1, 0]
    assert database.items == ()
    assert database.nothing == "No cause of its own; 3 consequences folded under what caused it."
    rendered = text.render(report)
    assert rendered.count("Results over 1,336 bytes stall.") == 1


def test_a_consequence_of_a_consequence_stands_under_the_same_cause_and_a_circle_ends():
    run, diagnosis = worlds.critical()
    chained = []
    for finding in diagnosis.findings:
        explains = {"lb.packet-loss": ("db.unresponsive",), "db.unresponsive": ("db.connection-cut",)}
        circle = {"db.connection-cut": ("db.unresponsive",)}
        chained.append(replace(finding, explains=(explains | circle).get(finding.id, finding.explains)))
    report = compile_report(run, replace(diagnosis, findings=tuple(chained)))
    folded = report.root_causes[0].items[0].consequences
    assert [line.text.split()[0] for line in folded] == ["4", "Open"]


def test_a_consequence_that_nothing_explains_is_not_lost():
    run, diagnosis = worlds.critical()
    alone = tuple(f for f in diagnosis.findings if f.role is FindingRole.CONSEQUENCE)
    database = compile_report(run, replace(diagnosis, findings=alone)).root_causes[2]
    assert len(database.items) == 3
    assert "[consequence, critical, 0.98]" in text.render(compile_report(run, replace(diagnosis, findings=alone)))


def test_one_owners_step_stands_once_at_its_earliest_horizon():
    plan = compile_report(*worlds.critical()).action_plan
    assert [[step.owner for step in group.items] for group in plan] == [["application", "dns"], ["load balancer"], []]
    run, diagnosis = worlds.critical()
    late = tuple(
        replace(f, actions=tuple(replace(a, horizon=Horizon.LONG_TERM) for a in f.actions))
        if f.code == "lb.packet-loss"
        else f
        for f in diagnosis.findings
    )
    plan = compile_report(run, replace(diagnosis, findings=late)).action_plan
    assert [len(group.items) for group in plan] == [1, 0, 2]


def test_same_step_for_two_owners_is_two_steps():
    run, diagnosis = worlds.critical()
    first = diagnosis.findings[0]
    actions = tuple(
        Action(owner=owner, horizon=Horizon.IMMEDIATE, step="Look", check="true") for owner in ("network", "database")
    )
    findings = (replace(first, actions=actions),)
    plan = compile_report(run, replace(diagnosis, findings=findings)).action_plan
    assert [step.owner for step in plan[0].items] == ["network", "database"]


def test_evidence_does_not_depend_on_the_order_of_completion():
    run, diagnosis = worlds.critical()
    turned = replace(run, evidence=Evidence(tuple(reversed(run.evidence.measurements))))
    assert compile_report(turned, diagnosis) == compile_report(run, diagnosis)


def test_every_measurement_is_in_the_appendix_with_a_command():
    run, diagnosis = worlds.silent()
    rows = compile_report(run, diagnosis).evidence.items
    assert [row.measurement for row in rows] == [m.id for m in run.evidence]
    assert [row.number for row in rows] == [f"E{n}" for n in range(1, len(rows) + 1)]
    assert all(row.reproduce for row in rows)
    assert rows[1].value == "unavailable: no ICMP socket is allowed"


def test_no_ticket_invents_nothing():
    report = compile_report(*worlds.ticketless())
    assert report.title == "netdiag - Network Diagnosis Summary"
    assert {line.text for line in (*report.header, *report.footer)} == {"not given"}
    assert report.current_status.nothing == report.sentiment.nothing == "not given"


def test_description_opens_with_verdict_cause_place_confidence_then_the_ticket():
    description = compile_report(*worlds.critical()).description
    assert re.match(r"Verdict: critical\. Cause: .*9\.8%.* Place: ysql 198.*5433\. Confidence: 0\.98\.", description[0])
    assert description[1] == f"Reported: {worlds.TICKET.summary}"
    assert "Partial: the run ended early (budget)" in description[2]


def test_healthy_says_what_it_would_have_caught():
    # Independent: 0.05 ** (1/3) = 0.3684; the last handshake leaves at 1.8 s, the first connection at 4.0 s.
    caught = compile_report(*worlds.healthy()).description[1]
    assert "63.2% of attempts" in caught
    assert "in the 3 database connections to 198.18.1.30:5433" in caught
    assert "outage of 2.2 s" in caught


def test_healthy_of_nothing_excludes_nothing():
    run, diagnosis = worlds.ticketless()
    caught = compile_report(run, replace(diagnosis, verdict=Verdict.HEALTHY)).description[1]
    assert caught == "No attempt on a service was made, so no fault of one can be excluded."


def test_one_attempt_cannot_tell_how_short():
    attempt = worlds.measurement("database", worlds.EAST, worlds.database(worlds.good_attempts(1), worlds.EAST))
    diagnosis = replace(worlds.healthy()[1], ruled_out=())
    caught = compile_report(worlds.run(attempt), diagnosis).description[1]
    assert "95% of attempts" in caught
    assert "Shortest: cannot tell" in caught


@pytest.mark.parametrize("name", WORLDS)
def test_five_lines(name):
    lines = five_lines(compile_report(*WORLDS[name]())).splitlines()
    assert [line.split(":")[0] for line in lines] == ["Verdict", "Cause", "Place", "Confidence", "Do now"]


def test_an_empty_ticket_id_is_no_id():
    run, diagnosis = worlds.ticketless()
    empty = replace(run, plan=replace(run.plan, ticket=Ticket(id="")))
    assert compile_report(empty, diagnosis).title.startswith("netdiag - ")


@pytest.mark.parametrize(
    ("subject", "words"),
    [
        (Subject(), "not localised"),
        (Subject(source="us-east", target="us-west"), "us-east -> us-west"),
        (Subject(endpoint="db", address="2001:db8::1", port=5433), "db [2001:db8::1]:5433"),
        (Subject(target="db", endpoint="db", hop="3 (198.18.0.1)"), "db, hop 3 (198.18.0.1)"),
        (Subject(endpoint="db:1", address="db", port=1), "db:1"),
        (Subject(target="192.0.2.1:1", endpoint="192.0.2.1:1", address="192.0.2.1", port=1), "192.0.2.1:1"),
        (Subject(resolver="198.18.1.53", name="db.example"), "name db.example, resolver 198.18.1.53"),
    ],
)
def test_place(subject, words):
    assert place(subject) == words


@pytest.mark.parametrize("data", [object(), {"loss": 3, "samples": [1]}, SimpleNamespace(samples=[1], rtt=2, loss=3)])
def test_a_third_party_measurement_shows_its_outcome_only(data):
    stranger = worlds.measurement("weather", Target(host="db.example"), data)
    row = compile_report(worlds.run(stranger), worlds.silent()[1]).evidence.items[0]
    assert (row.value, row.reproduce) == ("measured", "netdiag probe weather db.example")


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (Target(host="192.0.2.1", address="192.0.2.1", port=1, endpoint="192.0.2.1:1"), "192.0.2.1:1"),
        (Target(host="2001:db8::1", port=1, endpoint="[2001:db8::1]:1"), "[2001:db8::1]:1"),
        (Target(host="db", address="192.0.2.1", endpoint="db"), "db (192.0.2.1)"),
        (Target(host="db", port=1, endpoint="ysql"), "ysql db:1"),
    ],
)
def test_a_target_is_named_once(target, words):
    assert where(worlds.measurement("path", target, None)) == words
