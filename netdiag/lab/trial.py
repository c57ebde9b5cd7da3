"""One incident from beginning to end: warm caches, do the faults, let netdiag diagnose, grade, put everything back.

What is under way is written to ``incident.json`` in the world's folder before the first fault, so that another process
can take it back.
"""

from __future__ import annotations

import datetime as dt
import json
import subprocess
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from netdiag.lab.accuracy import Trial
from netdiag.lab.errors import LabError
from netdiag.lab.grade import Addresses, Grade, grade, named_in
from netdiag.lab.inject import inject, undo
from netdiag.lab.scenario import Incident, Scenario, ScenarioError, scenario_named
from netdiag.lab.topology import Family, Topology
from netdiag.lab.world import World
from probes.model import value

INCIDENT = "incident.json"
PROPS = "props"
PLAN = "plan.toml"
_FAMILY: dict[str, Family | None] = {"ipv4": 4, "ipv6": 6, "both": None}


@value
class Outcome:
    """What netdiag said, and what it is worth."""

    incident: Incident
    document: Mapping[str, Any]  # netdiag.run/1
    text: bytes  # the same as it was printed
    plan: str  # that it measured by
    seconds: float
    grade: Grade


def addresses_of(topology: Topology) -> Addresses:
    hosts = topology.addressed_hosts()
    both = {host.name: topology.addresses(host.name, 4) + topology.addresses(host.name, 6) for host in hosts}
    return {name: frozenset(found) for name, found in both.items()}


def begin(world: World, scenario: Scenario, seed: int) -> Incident:
    """Do the faults of a scenario to a pristine world, and wait until they show. Raises LabError, ScenarioError."""
    incident = scenario.incident(seed)
    world.warm_up()
    note = world.state_dir / INCIDENT
    note.write_text(json.dumps({"scenario": scenario.name, "seed": seed, "drawn": dict(incident.drawn)}))
    inject(world, incident.faults, world.state_dir / PROPS)
    time.sleep(scenario.settle_s)
    return incident


def end(world: World) -> None:
    """Take back what is under way, whoever began it, and see that the world is pristine. Raises LabError."""
    note = world.state_dir / INCIDENT
    if note.exists():
        told = json.loads(note.read_text())
        undo(world, scenario_named(told["scenario"]).incident(told["seed"]).faults)
    world.clear()
    note.unlink(missing_ok=True)


def under_way(state_dir: Path) -> str | None:
    """``NAME, seed N``, or None."""
    note = state_dir / INCIDENT
    if not note.exists():
        return None
    told = json.loads(note.read_text())
    return f"{told['scenario']}, seed {told['seed']}"


def write_plan(world: World, scenario: Scenario) -> Path:
    """Names where both families are measured, else the addresses of one."""
    path = world.state_dir / PLAN
    path.write_text(f"{world.plan_toml(_FAMILY[scenario.family])}\n{scenario.plan}")
    return path


def diagnose(world: World, scenario: Scenario, incident: Incident) -> Outcome:
    """A real run from the application's host, graded. Raises LabError where netdiag gives no document."""
    plan = write_plan(world, scenario)
    words = ["run", "--plan", str(plan), "--format", "json"]
    begun = time.monotonic()
    ran = world.run_netdiag([*words, *(["--quick"] if scenario.quick else [])])
    seconds = time.monotonic() - begun
    try:
        document = json.loads(ran.stdout)
        named = named_in(document)
    except (json.JSONDecodeError, KeyError):
        raise LabError(f"netdiag gave no run: {(ran.stderr or ran.stdout).strip()[-300:]}") from None
    graded = grade(document["verdict"], named, incident.expected, addresses_of(world.topology))
    return Outcome(
        incident=incident,
        document=document,
        text=ran.stdout.encode(),
        plan=plan.read_text(),
        seconds=seconds,
        grade=graded,
    )


def attempt(world: World, scenario: Scenario, seed: int, code: str) -> tuple[Trial, Outcome | None]:
    """A trial for the accuracy table. A failure of the lab is told in the trial; the world is pristine or it raises.

    Raises LabError where the world cannot be put back: it is of no use any more.
    """
    started = dt.datetime.now(dt.UTC).replace(microsecond=0)
    trial = Trial(scenario=scenario.name, seed=seed, code=code, digest=scenario.digest, started=started)
    outcome: Outcome | None = None
    try:
        outcome = diagnose(world, scenario, begin(world, scenario, seed))
    except (LabError, ScenarioError, OSError, subprocess.SubprocessError) as error:
        trouble = " ".join(str(error).split())[:300] or type(error).__name__
        return replace(trial, trouble=trouble), None
    finally:
        end(world)
    trial = replace(trial, seconds=round(outcome.seconds, 1), drawn=dict(outcome.incident.drawn))
    return trial.graded(outcome.grade), outcome
