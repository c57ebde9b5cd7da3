"""Trials of scenarios, kept one a line and resumed: how often netdiag is right.

A trial is one scenario with one seed, run by one version of the code. A trial that is in the file is not run again.
One in which the lab itself failed says nothing of netdiag: it is kept with its reason, counted apart, and run again.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from netdiag.lab.grade import Grade
from netdiag.lab.scenario import Scenario
from probes.model import value

JUDGED = ("netdiag", "probes", ":(exclude)netdiag/lab")  # the code that a trial judges; the lab is the judge


@value
class Trial:
    """One line of the file."""

    scenario: str
    seed: int
    code: str  # code_hash()
    digest: str  # Scenario.digest: a scenario that was changed since is another one
    started: dt.datetime
    seconds: float = 0.0  # of netdiag's own run
    drawn: dict[str, Any] | None = None
    verdict: str | None = None
    verdict_right: bool = False
    right: bool = False
    found: tuple[str, ...] = ()
    missed: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()  # "code subject" of what should not have been named
    wrong_codes: tuple[str, ...] = ()
    trouble: str | None = None  # why the lab could not run it; the rest is then empty

    @property
    def key(self) -> tuple[str, int, str]:
        return (self.scenario, self.seed, self.digest)

    def graded(self, grade: Grade) -> Trial:
        return replace(
            self,
            verdict=grade.verdict,
            verdict_right=grade.verdict_right,
            right=grade.right,
            found=grade.found,
            missed=grade.missed,
            wrong=tuple(f"{f.code} {'/'.join(map(str, f.subject.values()))}" for f in grade.wrong),
            wrong_codes=tuple(sorted({f.code for f in grade.wrong})),
        )


def read_trials(file: Path) -> tuple[Trial, ...]:
    """Every whole line of the file; the last one may be cut short by a kill. None yet: empty."""
    if not file.exists():
        return ()
    return tuple(_decoded(file.read_bytes().splitlines()))


def _decoded(lines: Iterable[bytes]) -> Iterator[Trial]:
    for line in lines:
        try:
            yield msgspec.json.decode(line, type=Trial)
        except msgspec.DecodeError:
            continue


def append_trial(file: Path, trial: Trial) -> None:
    """A line of its own, whole or not at all where the file system appends atomically."""
    file.parent.mkdir(parents=True, exist_ok=True)
    cut_short = file.exists() and not file.read_bytes().endswith(b"\n") and file.stat().st_size > 0
    with file.open("ab") as out:
        out.write((b"\n" if cut_short else b"") + msgspec.json.encode(trial) + b"\n")


def of_code(trials: Iterable[Trial], code: str) -> tuple[Trial, ...]:
    """The trials of one version of the code; of several of the same scenario and seed the last."""
    return tuple({trial.key: trial for trial in trials if trial.code == code}.values())


def of_scenarios(trials: Iterable[Trial], scenarios: Iterable[Scenario]) -> tuple[Trial, ...]:
    """Those of the scenarios as they are now."""
    present = {(scenario.name, scenario.digest) for scenario in scenarios}
    return tuple(trial for trial in trials if (trial.scenario, trial.digest) in present)


def pending(
    scenarios: Sequence[Scenario], seeds: Sequence[int], done: Iterable[Trial]
) -> tuple[tuple[Scenario, int], ...]:
    """What is still to run, seed by seed, so that an interruption leaves every scenario tried alike."""
    over = {trial.key for trial in done if trial.trouble is None}
    return tuple(
        (scenario, seed)
        for seed in seeds
        for scenario in scenarios
        if (scenario.name, seed, scenario.digest) not in over
    )


def seeds_for(
    done: Iterable[Trial], scenarios: Sequence[Scenario], count: int, fresh: Sequence[int]
) -> tuple[int, ...]:
    """``count`` seeds: those begun and not finished first, then as many of ``fresh`` as are wanting."""
    done = tuple(done)
    begun = tuple(dict.fromkeys(trial.seed for trial in done))
    unfinished = tuple(seed for seed in begun if pending(scenarios, (seed,), done))
    return (*unfinished, *(seed for seed in fresh if seed not in begun))[: max(count, len(unfinished))]


def code_hash(root: Path) -> str:
    """A digest of the judged files as committed; after a ``+`` one of what is not committed.

    Raises RuntimeError where ``root`` is no git work tree.
    """
    tree = _git(root, "ls-tree", "-r", "HEAD", "--", "netdiag", "probes").splitlines()
    committed = "\n".join(line for line in tree if not line.partition("\t")[2].startswith("netdiag/lab/"))
    changes = _git(root, "diff", "HEAD", "--", *JUDGED)
    others = _git(root, "ls-files", "--others", "--exclude-standard", "--", *JUDGED).splitlines()
    changed = changes.encode() + b"".join(other.encode() + (root / other).read_bytes() for other in others)
    return _digest(committed.encode()) + (f"+{_digest(changed)}" if changed else "")


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"git {arguments[0]}: {done.stderr.strip() or 'failed'}")
    return done.stdout
