"""Scenarios as data: what the reader refuses, what a seed decides, and what the set that comes with netdiag covers."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from netdiag.cli.main import invoke
from netdiag.diagnosis.catalogue import RULES
from netdiag.diagnosis.causes import CONSEQUENCES
from netdiag.lab.draw import Choice, DrawError, Range, draw, fill, read_draw, references
from netdiag.lab.faults import Filter, Link, Service
from netdiag.lab.plan import plan_toml
from netdiag.lab.scenario import (
    Scenario,
    ScenarioError,
    all_scenarios,
    consequences,
    parse_scenario,
    scenario_named,
)
from netdiag.lab.topology import two_regions
from netdiag.plan.reader import parse_plan

# The codes of PRODUCT's mission table.
MISSION = {
    "lb.packet-loss", "link.congestion", "link.loss", "dns.resolver-down", "dns.servfail", "dns.nxdomain",
    "dns.stale-record", "dns.inconsistent", "dns.tcp-blocked", "dns.loss", "firewall.drop", "firewall.reject",
    "firewall.idle-timeout", "region.latency", "lb.health-check-failing", "lb.backend-down", "lb.wrong-protocol",
    "mtu.black-hole", "mtu.fragmentation", "bgp.route-change", "bgp.flapping", "bgp.asymmetric", "db.unresponsive",
    "db.slow", "db.port-closed", "db.connection-cut", "db.replica-down", "db.replication-lag", "db.backup-stall",
    "db.connection-limit", "host.port-exhaustion", "host.conntrack-full", "db.auth-failed", "db.hba-rejected",
    "db.tls-invalid",
}  # fmt: skip
GOOD = """
name = "one"
title = "The firewall drops SYNs"
row = 5

[draw]
place = { of = ["db-east", "db-west"] }
loss = { low = 0.05, high = 0.15 }

[[fault]]
kind = "filter"
at = "firewall"
to = "$place"
port = 5433

[[fault]]
kind = "link"
link = "transit-a"
loss = "$loss"

[expect]
verdict = "critical"
may = ["db.unresponsive"]

[[expect.must]]
code = "firewall.drop"
endpoint = "$place"
"""
ALL = all_scenarios()
SEEDS = [random.randrange(1 << 32) for _ in range(3)]  # printed in the tests' names


def test_a_scenario_is_read_with_its_draws_in_place() -> None:
    incident = parse_scenario(GOOD, "one.toml").incident(SEEDS[0])
    place, loss = incident.drawn["place"], incident.drawn["loss"]
    assert incident.faults == (Filter(at="firewall", to=place, port=5433), Link(link="transit-a", loss=loss))
    (must,) = incident.expected.must
    assert (must.code, must.endpoint) == ("firewall.drop", place)
    assert incident.expected.may == {"db.unresponsive"}


@pytest.mark.parametrize(
    ("written", "instead", "said"),
    [
        ("title =", "titel =", "one.toml: titel: unknown key; did you mean `title`?"),
        ('title = "The firewall drops SYNs"', "", "one.toml: the key `title` is missing"),
        ('name = "one"', 'name = "two"', "one.toml: name: must be the file's own name"),
        ("row = 5", "row = 22", "one.toml: row: must be a line of the mission table, 1 to 21"),
        ("row = 5", "row = true", "one.toml: row: has the wrong type"),
        ("row = 5", 'family = "ipx"', "one.toml: family: must be one of ipv4, ipv6, both"),
        ("low = 0.05, high = 0.15", "low = 0.5, high = 0.15", "one.toml: draw.loss: `low` and `high` must be"),
        ("low = 0.05, high = 0.15", "low = 0.5", "one.toml: draw.loss: must be { low"),
        ('of = ["db-east", "db-west"]', "of = []", "one.toml: draw.place: `of` must be a list of at least one"),
        ('kind = "filter"', 'kind = "filtr"', "one.toml: fault.kind: must be one of link, filter"),
        ("port = 5433", "prot = 5433", "one.toml: fault filter: prot: unknown key; did you mean `port`?"),
        ('at = "firewall"', "", "one.toml: fault filter: the key `at` is missing"),
        ("port = 5433", 'port = "5433"', "one.toml: fault filter: port: '5433' does not fit"),
        ("port = 5433", "port = true", "one.toml: fault filter: port: True does not fit"),
        ("port = 5433", 'answer = "shrug"', "one.toml: fault filter: answer: 'shrug' does not fit"),
        ('loss = "$loss"', 'loss = "$lost"', "one.toml: $lost is not drawn; there are loss, place"),
        ('verdict = "critical"', "", "one.toml: expect.verdict is missing"),
        ('verdict = "critical"', 'verdict = "bad"', "one.toml: expect.verdict: must be one of healthy"),
        ('may = ["db.unresponsive"]', 'may = ["db.tls-invalid"]', "one.toml: expect.may: db.tls-invalid is no"),
        ('may = ["db.unresponsive"]', 'must_not = ["firewall.drop"]', "one.toml: expect.must_not: firewall.drop is"),
        ('may = ["db.unresponsive"]', 'must_not = ["db.slow"]\nmay = ["db.slow"]', "expect.must_not: db.slow is"),
        ('endpoint = "$place"', 'endpont = "$place"', "one.toml: expect.must[0].endpont: unknown key; did you mean"),
        ('code = "firewall.drop"', "", "one.toml: expect.must[0].code is missing"),
        ("[expect]", "[expect", "one.toml: not TOML"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_with_file_and_key(written: str, instead: str, said: str) -> None:
    assert written in GOOD
    with pytest.raises(ScenarioError) as refused:
        parse_scenario(GOOD.replace(written, instead, 1), "one.toml")
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_healthy_scenario_allows_nothing() -> None:
    healthy = GOOD.replace('may = ["db.unresponsive"]', "").partition("[[expect.must]]")[0]
    assert parse_scenario(healthy, "one.toml").is_healthy
    with pytest.raises(ScenarioError, match=r"db\.unresponsive is no consequence of none"):
        parse_scenario(GOOD.partition("[[expect.must]]")[0], "one.toml")


# Draws


@pytest.mark.parametrize("seed", SEEDS)
def test_the_seed_decides_everything_and_nothing_else_does(seed: int) -> None:
    draws = {"loss": Range(low=0.05, high=0.15), "size": Range(low=1300, high=1400), "place": Choice(of=("a", "b"))}
    drawn = draw(draws, seed)
    assert drawn == draw(dict(reversed(draws.items())), seed)
    assert {name: drawn[name] for name in ("place", "loss")} == draw({n: draws[n] for n in ("loss", "place")}, seed)
    assert any(draw(draws, seed + step) != drawn for step in range(1, 5))


@pytest.mark.parametrize("seed", SEEDS)
def test_draws_fill_their_range_and_stay_in_it(seed: int) -> None:
    ratios = [draw({"x": Range(low=0.05, high=0.15)}, seed + step)["x"] for step in range(400)]
    sizes = [draw({"x": Range(low=3, high=6)}, seed + step)["x"] for step in range(400)]
    places = [draw({"x": Choice(of=("a", "b", "c"))}, seed + step)["x"] for step in range(400)]
    assert min(ratios) >= 0.05
    assert max(ratios) <= 0.15
    # Uniform: the mean of 400 has a standard error of 0.1/sqrt(12)/20 = 0.00144; seven of them.
    assert abs(sum(ratios) / 400 - 0.1) < 0.0101
    assert set(sizes) == {3, 4, 5, 6}
    assert all(isinstance(size, int) for size in sizes)
    assert set(places) == {"a", "b", "c"}


def test_names_are_filled_in_whole_with_their_type_and_in_text() -> None:
    drawn = {"host": "db-east", "port": 5433}
    found = {"port": "$port", "lines": ["host ${host} is $host:${port}"], "share": 0.5}
    assert fill(found, drawn) == {"port": 5433, "lines": ["host db-east is db-east:5433"], "share": 0.5}
    assert references(found) == {"host", "port"}
    with pytest.raises(DrawError, match=r"\$hots is not drawn"):
        fill("x $hots", drawn)


def test_a_bool_is_no_number() -> None:
    with pytest.raises(DrawError):
        read_draw({"low": False, "high": True})


# The set that comes with netdiag


def test_consequences_follow_the_cause_graph_to_its_end() -> None:
    reached = consequences({"dns.stale-record"})
    assert CONSEQUENCES["dns.stale-record"] < reached
    assert "link.loss" in reached  # by way of firewall.drop
    assert consequences(()) == frozenset()


@pytest.mark.parametrize("scenario", ALL, ids=lambda scenario: scenario.name)
@pytest.mark.parametrize("seed", SEEDS)
def test_every_seed_gives_an_incident(scenario: Scenario, seed: int) -> None:
    incident = scenario.incident(seed)
    assert len(incident.faults) == len(scenario.faults)
    assert {must.code for must in incident.expected.must} == scenario.codes


@pytest.mark.parametrize("scenario", ALL, ids=lambda scenario: scenario.name)
def test_every_draw_is_used(scenario: Scenario) -> None:
    assert references([*scenario.faults, scenario.expect]) >= scenario.draws.keys()


@pytest.mark.parametrize("scenario", ALL, ids=lambda scenario: scenario.name)
def test_what_has_no_rule_yet_says_so(scenario: Scenario) -> None:
    """``implemented`` is a fact about the catalogue, not an excuse."""
    assert scenario.implemented == (scenario.codes <= {rule.code for rule in RULES})


def test_every_code_with_a_rule_has_a_scenario() -> None:
    assert {rule.code for rule in RULES} <= {code for scenario in ALL for code in scenario.codes}


def test_every_code_of_the_mission_has_a_scenario() -> None:
    assert {code for scenario in ALL for code in scenario.codes} >= MISSION


def test_look_alikes_compounds_and_the_ticket_are_there() -> None:
    assert sum(scenario.is_healthy and bool(scenario.faults) for scenario in ALL) >= 8
    assert sum(len(scenario.expect.get("must", ())) > 1 for scenario in ALL) >= 8
    assert "ce1006" in {scenario.name for scenario in ALL}
    assert 6 <= sum(scenario.fast for scenario in ALL) <= 8
    assert {"both", "ipv6"} <= {scenario.family for scenario in ALL}


@pytest.mark.parametrize("scenario", ALL, ids=lambda scenario: scenario.name)
def test_the_plan_of_every_scenario_is_one_that_netdiag_reads(scenario: Scenario) -> None:
    family = {"ipv4": 4, "ipv6": 6, "both": None}[scenario.family]
    plan = parse_plan(f"{plan_toml(two_regions(), Path('/lab'), family)}\n{scenario.plan}", "plan.toml", {})
    assert {endpoint.name for endpoint in plan.endpoints} >= {"ysql", "db-east", "db-west"}
    assert {must["endpoint"] for must in scenario.expect.get("must", ()) if "$" not in must.get("endpoint", "$")} <= {
        endpoint.name for endpoint in plan.endpoints
    }
    assert plan.ticket.id == ("CE1006" if scenario.name == "ce1006" else None)


def test_every_host_link_and_service_that_a_fault_names_is_in_the_lab() -> None:
    topology = two_regions()
    hosts = {host.name for host in topology.hosts}
    emulated = {link.name for link in topology.emulated_links()}
    for scenario in ALL:
        for fault in scenario.incident(SEEDS[0]).faults:
            named = {getattr(fault, key, None) for key in ("host", "at", "to", "source")} - {None}
            assert named <= hosts, scenario.name
            if isinstance(fault, Link):
                assert fault.link in emulated, scenario.name
            if isinstance(fault, Service):
                assert fault.service in {"dns1", "dns2", "db-east", "db-west", "health-east", "health-west"}


def test_a_name_is_found_or_guessed() -> None:
    assert scenario_named("ce1006").name == "ce1006"
    with pytest.raises(ScenarioError, match="did you mean ce1006"):
        scenario_named("ce106")


# The command line, where no lab is needed


def test_the_list_names_every_scenario_and_what_is_due(capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["lab", "list"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert [row.split()[0] for row in rows] == [scenario.name for scenario in ALL]
    assert any("[firewall.drop]" in row for row in rows)
    assert invoke(["lab", "list", "--format", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert {row["name"]: set(row["codes"]) for row in document["scenarios"]} == {s.name: s.codes for s in ALL}


@pytest.mark.parametrize("command", ["run", "inject"])
def test_an_unknown_scenario_is_bad_usage(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["lab", command, "firewal-drop", "--state", str(tmp_path / "lab")]) == 3
    assert "netdiag: " in capsys.readouterr().err
    assert not (tmp_path / "lab").exists()


@pytest.mark.parametrize("words", [["inject", "healthy"], ["clear"], ["shell", "app", "true"]])
def test_what_needs_a_lab_says_how_to_get_one(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command, *rest = words
    assert invoke(["lab", command, "--state", str(tmp_path / "lab"), *rest]) == 3
    assert "netdiag lab up" in capsys.readouterr().err


def test_doctor_gives_the_line_that_installs_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("netdiag.lab.doctor._path", lambda program: None if program in ("knotd", "bird") else "/x")
    assert invoke(["lab", "doctor"]) == 1
    out = capsys.readouterr().out
    assert "NO   knotd" in out
    install = next(line for line in out.splitlines() if line.startswith("install: "))
    assert {"bird2", "knot"} <= set(install.split())
    assert not {"haproxy", "unbound"} & set(install.split())
