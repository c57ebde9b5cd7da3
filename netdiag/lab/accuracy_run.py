"""``make accuracy``: every scenario with several fresh seeds in one world that stays up; then the table.

    python -m netdiag.lab.accuracy_run --seeds 3                  # what is not in the file yet, then the page
    python -m netdiag.lab.accuracy_run --only firewall-drop ...   # some scenarios
    python -m netdiag.lab.accuracy_run --page-only                # the page again, from the file

Seeds are printed, and kept in the file: what was begun and not finished comes first the next time. Exit status 0 when
the table was written, whatever it says; 3 when the lab could not be had.
"""

from __future__ import annotations

import argparse
import lzma
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from netdiag.lab import accuracy, trial
from netdiag.lab.accuracy import Trial
from netdiag.lab.accuracy_page import page
from netdiag.lab.errors import LabError
from netdiag.lab.scenario import Scenario, all_scenarios, scenario_named
from netdiag.lab.trial import Outcome
from netdiag.lab.world import World

ROOT = Path(__file__).parents[2]
MEASURED = (  # of a run's document: what replay reads; what was concluded is left out
    "schema",
    "tool",
    "run_id",
    "vantage",
    "started",
    "finished",
    "end_reason",
    "partial",
    "privileges",
    "plan",
    "measurements",
)


def main() -> None:
    arguments = _arguments()
    scenarios = all_scenarios()
    code = accuracy.code_hash(ROOT)
    chosen = tuple(scenario_named(name) for name in arguments.only) if arguments.only else scenarios
    if not arguments.page_only:
        try:
            _run(chosen, code, arguments)
        except LabError as error:
            _say(f"the lab failed: {error}")
            sys.exit(3)
    done = accuracy.of_scenarios(accuracy.of_code(accuracy.read_trials(arguments.trials), code), scenarios)
    arguments.page.parent.mkdir(parents=True, exist_ok=True)
    arguments.page.write_text(page(done, scenarios))
    _say(f"{len(done)} trials of {code}: {arguments.page}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m netdiag.lab.accuracy_run", description=__doc__)
    parser.add_argument("--seeds", type=int, default=3, help="seeds for each scenario")
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME")
    parser.add_argument("--trials", type=Path, default=ROOT / "accuracy-out/trials.jsonl")
    parser.add_argument("--page", type=Path, default=ROOT / "docs/reference/accuracy.md")
    parser.add_argument("--state", type=Path, default=Path("/var/lib/netdiag-accuracy"), help="the lab's folder")
    parser.add_argument("--keep", type=Path, help="keep the evidence of trials that were graded right there")
    parser.add_argument("--page-only", action="store_true")
    return parser.parse_args()


def _run(scenarios: Sequence[Scenario], code: str, arguments: argparse.Namespace) -> None:
    done = accuracy.of_code(accuracy.read_trials(arguments.trials), code)
    fresh = [secrets.randbelow(1 << 32) for _ in range(arguments.seeds)]
    seeds = accuracy.seeds_for(done, scenarios, arguments.seeds, fresh)
    left = accuracy.pending(scenarios, seeds, done)
    _say(f"code {code}; seeds {', '.join(map(str, seeds))}; {len(left)} trials to run")
    world = _up(arguments.state)
    try:
        for number, (scenario, seed) in enumerate(left, start=1):
            world = _one(world, scenario, seed, code, arguments, f"{number}/{len(left)}")
    finally:
        world.down()


def _up(state: Path) -> World:
    return World.up(state, progress=_say)


def _one(world: World, scenario: Scenario, seed: int, code: str, arguments: argparse.Namespace, number: str) -> World:
    """The world to go on with: a fresh one where this one could not be put back."""
    try:
        tried, outcome = trial.attempt(world, scenario, seed, code)
    except LabError as error:
        _say(f"{number} {scenario.name}: not put back: {error}; a new world")
        world.down()
        return _up(arguments.state)
    accuracy.append_trial(arguments.trials, tried)
    _say(f"{number} {_told(tried)}")
    if arguments.keep and outcome and tried.right:
        keep(arguments.keep, tried, outcome)
    return world


def _told(tried: Trial) -> str:
    if tried.trouble is not None:
        return f"{tried.scenario} {tried.seed}: the lab: {tried.trouble}"
    faults = [f"missed {code}" for code in tried.missed] + [f"wrong {what}" for what in tried.wrong]
    faults += [] if tried.verdict_right else [f"verdict {tried.verdict}"]
    return f"{tried.scenario} {tried.seed}: {'; '.join(faults) or 'right'} ({tried.seconds:.0f} s)"


def keep(folder: Path, tried: Trial, outcome: Outcome) -> Path:
    """What was measured, compressed, as SCENARIO-SEED.json.xz. The format has no date in it: same bytes, same file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{tried.scenario}-{tried.seed}.json.xz"
    measured = {key: outcome.document[key] for key in MEASURED}
    path.write_bytes(lzma.compress(msgspec.json.encode(measured), preset=9))
    return path


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
