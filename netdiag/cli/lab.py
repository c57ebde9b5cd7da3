"""`netdiag lab`: the incident reproduced in network namespaces. Signatures first; each body imports what it needs."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from netdiag.cli.output import DEGRADED, OK, UserError, emit, note, to_json

if TYPE_CHECKING:
    from netdiag.lab.scenario import Scenario
    from netdiag.lab.trial import Outcome
    from netdiag.lab.world import World

lab_app = typer.Typer(
    help="The incident reproduced between real servers in network namespaces, with faults to inject.",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
DOCTOR_SCHEMA, LIST_SCHEMA = "netdiag.lab-doctor/1", "netdiag.lab-list/1"


class Form(StrEnum):
    TEXT = "text"
    JSON = "json"


def complete_scenario(incomplete: str) -> list[str]:
    from netdiag.lab.scenario import all_scenarios

    return [scenario.name for scenario in all_scenarios() if scenario.name.startswith(incomplete)]


def complete_host(incomplete: str) -> list[str]:
    from netdiag.lab.topology import two_regions

    return [host.name for host in two_regions().addressed_hosts() if host.name.startswith(incomplete)]


Name = Annotated[
    str, typer.Argument(metavar="NAME", help="`netdiag lab list` shows them.", autocompletion=complete_scenario)
]
Seed = Annotated[
    int | None, typer.Option(metavar="N", min=0, help="Decides strengths and places. Default: a fresh one, printed.")
]
State = Annotated[Path | None, typer.Option("--state", metavar="DIR", help="The lab's folder.")]
Plain = Annotated[Form, typer.Option("--format", help="Of what is printed on standard output.")]


@lab_app.command()
def up(
    state: State = None,
    ecmp: Annotated[bool, typer.Option("--ecmp", help="Both transits at once, each flow over one.")] = False,
) -> int:
    """Build the two regions and start their servers; about ten seconds."""
    from netdiag.lab.world import World

    with _lab_errors():
        world = World.up(_folder(state), detached=True, ecmp=ecmp, progress=note)
    emit(f"The lab is up: {world.world_id}. Next: netdiag lab run NAME, netdiag lab shell app, netdiag lab down.")
    return OK


@lab_app.command()
def down(state: State = None) -> int:
    """Remove everything, also what a killed lab left behind."""
    from netdiag.lab.world import World

    with _lab_errors():
        World.clean(_folder(state))
    emit("Nothing of the lab is left.")
    return OK


@lab_app.command("list")
def list_scenarios(form: Plain = Form.TEXT) -> int:
    """Every scenario, with what netdiag should say of it."""
    from netdiag.lab.scenario import all_scenarios

    with _lab_errors():
        scenarios = all_scenarios()
    if form is Form.JSON:
        rows = [{"name": s.name, "title": s.title, "row": s.row, "codes": sorted(s.codes)} for s in scenarios]
        emit(to_json({"schema": LIST_SCHEMA, "scenarios": rows}))
        return OK
    width = max(len(scenario.name) for scenario in scenarios)
    emit("\n".join(f"{scenario.name:<{width}}  {_due(scenario)}" for scenario in scenarios))
    return OK


def _due(scenario: Scenario) -> str:
    codes = ", ".join(sorted(scenario.codes)) or "healthy"
    return f"{scenario.title} [{codes}]{'' if scenario.implemented else ' (no rule yet)'}"


@lab_app.command("inject")
def inject_fault(name: Name, seed: Seed = None, state: State = None) -> int:
    """Do a scenario's faults to the lab that is up; `netdiag lab clear` takes them back."""
    from netdiag.lab import trial
    from netdiag.lab.world import World

    with _lab_errors():
        world = World.attach(_folder(state))
        before = trial.under_way(world.state_dir)
        if before:
            raise UserError(f"{before} is under way", "`netdiag lab clear` takes it back")
        scenario, chosen = _scenario(name), _seed(seed)
        try:
            incident = trial.begin(world, scenario, chosen)
        except BaseException:
            trial.end(world)
            raise
    emit(f"{scenario.title}. Seed {chosen}: {_drawn(dict(incident.drawn))}.")
    where = f"--state {shlex.quote(str(world.state_dir))} " if state is not None else ""
    emit(f"Diagnose it: netdiag lab shell {where}app netdiag run --plan {trial.write_plan(world, scenario)}")
    return OK


@lab_app.command()
def clear(state: State = None) -> int:
    """Take back whatever was injected; the lab stays up, pristine."""
    from netdiag.lab import trial
    from netdiag.lab.world import World

    with _lab_errors():
        trial.end(World.attach(_folder(state)))
    emit("The lab is as it was.")
    return OK


@lab_app.command("run")
def run_scenario(
    name: Name,
    seed: Seed = None,
    state: State = None,
    output: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keep plan.toml, run.json, report.txt and report.md there.")
    ] = None,
) -> int:
    """Inject a scenario, let netdiag diagnose it, print the report and the grade. 0: graded right; 1: not."""
    from netdiag.lab import rootless

    with _lab_errors():
        scenario, chosen = _scenario(name), _seed(seed)
        if not rootless.may_make_namespaces():
            return _run_rootless(scenario, chosen, output)
        note(f"{scenario.name}: {scenario.title}. Seed {chosen}.")
        with _world(_folder(state)) as world:
            outcome = _outcome(world, scenario, chosen)
    _show(outcome, output)
    return OK if outcome.grade.right else DEGRADED


def _run_rootless(scenario: Scenario, seed: int, output: Path | None) -> int:
    """The same in a user namespace, where the kernel grants one to an ordinary user."""
    import sys

    from netdiag.lab import rootless

    refused = rootless.refusal()
    if refused:
        raise UserError(f"this kernel grants this user no namespaces: {refused}", "run it as root")
    again = [sys.executable, "-m", "netdiag", "lab", "run", scenario.name, "--seed", str(seed)]
    kept = ["--output", str(output.absolute())] if output else []
    return rootless.rerun([*again, "--state", str(rootless.STATE_DIR), *kept])


def _outcome(world: World, scenario: Scenario, seed: int) -> Outcome:
    from netdiag.lab import trial

    trial.end(world)
    try:
        incident = trial.begin(world, scenario, seed)
        note(f"drawn: {_drawn(dict(incident.drawn))}; netdiag runs in the application's host")
        return trial.diagnose(world, scenario, incident)
    finally:
        trial.end(world)


def _show(outcome: Outcome, folder: Path | None) -> None:
    from netdiag.cli.conclude import Format, conclude
    from netdiag.cli.files import prepare_folder, write_atomically
    from netdiag.lab.grade import lines
    from netdiag.run_file import decode

    conclusion = conclude(decode(outcome.text, "the run"))
    if folder is not None:
        prepare_folder(folder)
        for name, content in (conclusion.files() | {"plan.toml": outcome.plan.encode()}).items():
            write_atomically(folder / name, content)
    emit(conclusion.rendered(Format.TEXT))
    emit(f"Graded ({outcome.incident.scenario}, seed {outcome.incident.seed}, {outcome.seconds:.0f} s):")
    emit("\n".join(f"  {line}" for line in lines(outcome.grade)))


@lab_app.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
def shell(
    host: Annotated[str, typer.Argument(metavar="HOST", help="app, db-east, fw, ...", autocompletion=complete_host)],
    command: Annotated[list[str] | None, typer.Argument(metavar="[COMMAND]...", help="Default: a shell.")] = None,
    state: State = None,
) -> int:
    """A shell, or one command, on a host of the lab, as the application's user sees it."""
    import os
    import subprocess

    from netdiag.lab.world import World

    with _lab_errors():
        world = World.attach(_folder(state))
        if host not in world.hosts:
            raise UserError(f"no host {host!r} in the lab", f"there are {', '.join(world.hosts)}")
    words = command or [os.environ.get("SHELL", "/bin/sh")]
    inside = world.hosts[host]
    environment = {**os.environ, **inside.environment, "PS1": f"{host}$ "}
    return subprocess.run([*inside.enter, *words], env=environment, check=False).returncode


@lab_app.command()
def doctor(form: Plain = Form.TEXT) -> int:
    """What the lab needs of this machine, and the one line that installs what is missing."""
    from dataclasses import asdict

    from netdiag.lab.doctor import examine, install_line

    needs, line = examine(), install_line()
    able = all(need.met for need in needs)
    if form is Form.JSON:
        emit(to_json({"schema": DOCTOR_SCHEMA, "able": able, "install": line, "needs": [asdict(n) for n in needs]}))
        return OK if able else DEGRADED
    for need in needs:
        emit(f"{'yes' if need.met else 'NO ':<5}{need.name:<22}{need.found}{'' if need.met else f': {need.remedy}'}")
    if line:
        emit(f"install: {line}")
    return OK if able else DEGRADED


# What the commands share


def _folder(state: Path | None) -> Path:
    from netdiag.lab.lifecycle import DEFAULT_STATE_DIR

    return state or DEFAULT_STATE_DIR


@contextlib.contextmanager
def _lab_errors() -> Iterator[None]:
    """What the lab could not do, in one line."""
    from netdiag.lab.errors import LabError
    from netdiag.lab.scenario import ScenarioError

    try:
        with _ended_in_order():
            yield
    except ScenarioError as error:
        raise UserError(str(error), "`netdiag lab list` shows the scenarios") from None
    except (LabError, OSError) as error:
        raise UserError(" ".join(str(error).split()), "`netdiag lab doctor` tells what is missing") from None


@contextlib.contextmanager
def _ended_in_order() -> Iterator[None]:
    """SIGTERM and SIGHUP end a command as Ctrl-C does: what it brought up goes down. nohup's SIG_IGN stays."""
    import signal

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    for number, handler in before.items():
        if handler is signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _world(folder: Path) -> Iterator[World]:
    """The world that is up, which stays; else one for this command alone."""
    from netdiag.lab.errors import LabError
    from netdiag.lab.world import World

    try:
        world = World.attach(folder)
    except LabError:
        world = World.up(folder, progress=note)
    else:
        yield world
        return
    with world:
        yield world


def _scenario(name: str) -> Scenario:
    from netdiag.lab.scenario import scenario_named

    return scenario_named(name)


def _seed(given: int | None) -> int:
    import secrets

    return secrets.randbelow(1 << 32) if given is None else given


def _drawn(drawn: dict[str, object]) -> str:
    return ", ".join(f"{name} = {item}" for name, item in drawn.items()) or "nothing to draw"
