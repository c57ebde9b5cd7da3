"""The examples: their plans are valid, and their stored evidence still gives the stored report and findings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from examples.record import MTU, PASSWORD
from examples.regenerate import EXAMPLES, contents, folders
from netdiag.cli.main import invoke
from netdiag.plan.reader import read_plan

FIRST = EXAMPLES / "first-incident"
STALE = "the rules or the report have changed: run `python -m examples.regenerate` and read the difference"


@pytest.mark.parametrize("plan", sorted(EXAMPLES.glob("*/plan.toml")), ids=lambda path: path.parent.name)
def test_plan_is_valid(plan: Path):
    assert read_plan(plan, {}).warnings == ()


def test_escalation_plan_is_read_as_it_is_meant():
    plan = read_plan(EXAMPLES / "ce1006" / "plan.toml", {})
    assert [(e.name, e.role, e.host, e.port) for e in plan.endpoints] == [
        ("ysql", "load-balancer", "db.vantage.example", 5433),
        ("db-east", "primary", "db-east.vantage.example", 5433),
        ("db-west", "replica", "db-west.vantage.example", 5433),
    ]
    (baseline,) = plan.baselines
    assert (baseline.rtt, baseline.loss, baseline.as_path) == (0.050, 0.001, (65010, 65100, 65020))
    assert (plan.ticket.id, plan.impact.users, plan.impact.sla) == ("CE1006", 20_000, 0.999)


@pytest.mark.parametrize("folder", folders(), ids=lambda path: path.name)
def test_evidence_judged_again_gives_the_stored_bytes(folder: Path):
    stale = [name for name, content in contents(folder).items() if (folder / name).read_bytes() != content]
    assert stale == [], STALE


@pytest.mark.parametrize(("form", "name"), [("text", "report.txt"), ("markdown", "report.md"), ("json", "run.json")])
def test_replay_prints_the_stored_report(form: str, name: str, capsys: pytest.CaptureFixture[str]):
    status = invoke(["replay", str(FIRST / "run.json"), "--format", form])
    assert (status, capsys.readouterr().out) == (2, (FIRST / name).read_text("utf-8")), STALE


def test_first_incident_names_the_fault_that_was_made():
    causes = [f for f in json.loads((FIRST / "run.json").read_bytes())["findings"] if f["role"] == "cause"]
    assert {(f["code"], f["subject"]["size"]) for f in causes} == {("mtu.black-hole", MTU)}
    assert {f["subject"]["direction"] for f in causes} == {"to-target", "from-target"}


def test_the_whole_escalation_names_each_fault_that_was_made():
    """What the lab's scenario injects, and at which place; a consequence would be folded away by its cause."""
    found = json.loads((EXAMPLES / "ce1006-lab" / "run.json").read_bytes())["findings"]
    causes = {(f["code"], f["subject"].get("endpoint") or f["subject"].get("resolver")) for f in found}
    causes = {(code, where) for code, where in causes if any(f["code"] == code and f["role"] == "cause" for f in found)}
    assert causes >= {
        ("lb.packet-loss", "ysql"),
        ("link.loss", "db-west"),
        ("mtu.black-hole", "db-west"),
        ("dns.servfail", "198.18.1.54"),
        ("firewall.drop", "db-east"),
        ("lb.health-check-failing", "ysql"),
    }
    assert "bgp.route-change" in {code for code, _ in causes}


def test_no_example_is_larger_than_a_ticket_takes():
    assert [path for path in EXAMPLES.rglob("*.json") if path.stat().st_size > 1_000_000] == []


def test_the_password_is_in_no_file():
    assert [path.name for path in FIRST.iterdir() if PASSWORD.encode() in path.read_bytes()] == []
