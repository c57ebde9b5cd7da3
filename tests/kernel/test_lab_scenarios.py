"""The fast subset of the lab's scenarios, with fresh seeds, in one world: injected, diagnosed, graded, put back."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from netdiag.lab import trial
from netdiag.lab.faults import Filter
from netdiag.lab.grade import lines
from netdiag.lab.inject import Stage, add_filter, chain_text
from netdiag.lab.scenario import all_scenarios
from netdiag.lab.world import World

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.needs("ip", "nft", "bird", "haproxy", "knotd", "unbound", "postgres"),
    pytest.mark.timeout(300),
]
FAST = [scenario for scenario in all_scenarios() if scenario.fast]
SEED = secrets.randbelow(1 << 32)  # in the tests' names


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    # Not below pytest's own folder, which only root may enter: PostgreSQL runs as its own user.
    folder = Path("/var/lib") / f"netdiag-lab-test-{secrets.token_hex(3)}"
    with World.up(folder) as up:
        yield up
    assert not folder.exists()


@pytest.mark.parametrize("scenario", FAST, ids=lambda scenario: f"{scenario.name}-{SEED}")
def test_the_incident_is_named_and_nothing_else(world: World, scenario: trial.Scenario) -> None:
    tried, outcome = trial.attempt(world, replace(scenario, quick=True), SEED, code="test")
    assert tried.trouble is None
    assert outcome is not None
    assert outcome.grade.right, "\n".join([str(tried.drawn), *lines(outcome.grade)])


def test_what_was_injected_is_taken_back_by_another_process(world: World) -> None:
    scenario = next(scenario for scenario in FAST if scenario.name == "firewall-drop")
    incident = trial.begin(world, scenario, SEED)
    place = incident.drawn["place"]
    knock = ["timeout", "2", "bash", "-c", f"</dev/tcp/{world.hosts[place].address(4)}/5433"]
    assert world.hosts["app"].run(knock, check=False).returncode != 0
    assert trial.under_way(world.state_dir) == f"firewall-drop, seed {SEED}"
    trial.end(World.attach(world.state_dir))
    assert trial.under_way(world.state_dir) is None
    assert world.hosts["app"].run(knock, check=False).returncode == 0


def test_a_fault_that_cannot_be_done_is_trouble_of_the_lab_and_no_grade(world: World) -> None:
    broken = replace(FAST[0], faults=({"kind": "service", "service": "no-such-service", "action": "stop"},))
    tried, outcome = trial.attempt(world, broken, SEED, code="test")
    assert outcome is None
    assert "no-such-service" in (tried.trouble or "")
    assert json.loads((world.state_dir / "pristine.json").read_text())


def test_every_filter_rule_of_every_scenario_is_one_that_nft_takes(world: World) -> None:
    checked = 0
    for scenario in all_scenarios():
        stage = Stage(world=world, folder=world.state_dir)
        for fault in scenario.incident(SEED).faults:
            if isinstance(fault, Filter) and fault.after_bytes is None:  # that one sets a sysctl
                add_filter(stage, fault)
        for chains in stage.rules.values():
            inside = "\n".join(chain_text(name, rules) for name, rules in chains.items())
            world.hosts["web"].run(["nft", "-c", "-f", "-"], input=f"table inet t {{\n{inside}\n}}\n")
            checked += 1
    assert checked >= 15
