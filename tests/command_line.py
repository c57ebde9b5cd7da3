"""Run the real command line as a child process, and read what it says.

ran = netdiag("run", "127.0.0.1:5432", "--quick", "--format", "json")
assert (ran.status, ran.causes) == (0, [])
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

PROGRAM = Path(sys.executable).with_name("netdiag")
COMMANDS = frozenset({"netdiag", "psql", "ping", "nc", "dig", "ss"})  # that reports make use of; the rest is prose
PATIENCE_S = 110.0  # for a slow machine; no budget given to netdiag in a test comes near it


@dataclass(frozen=True)
class Ran:
    """One run of the program that ended."""

    argv: tuple[str, ...]
    status: int
    stdout: str
    stderr: str

    @cached_property
    def document(self) -> dict[str, Any]:
        """Standard output as the one JSON document that it must be."""
        found = json.loads(self.stdout)
        assert isinstance(found, dict)
        return found

    def found(self, role: str) -> list[dict[str, Any]]:
        assert self.document["schema"] == "netdiag.run/1", self.document
        return [finding for finding in self.document["findings"] if finding["role"] == role]

    @property
    def causes(self) -> list[str]:
        """The codes that are blamed, sorted, one for each finding."""
        return sorted(finding["code"] for finding in self.found("cause"))

    def cause(self, code: str) -> dict[str, Any]:
        (only,) = [finding for finding in self.found("cause") if finding["code"] == code]
        return only

    def measurements(self, probe: str) -> list[dict[str, Any]]:
        return [m for m in self.document["measurements"] if m["probe"] == probe]

    def ruled_out(self) -> set[str]:
        return {line["code"] for line in self.document["ruled_out"]}

    def not_measured(self) -> set[str]:
        return {line["code"] for line in self.document["not_measured"]}

    def commands(self) -> list[str]:
        """Every command that the report prints: to reproduce a measurement, to check an action, to close a gap."""
        document = self.document
        rows = [row["reproduce"] for row in document["report"]["evidence"]["items"]]
        checks = [action["check"] for finding in document["findings"] for action in finding["actions"]]
        remedies = [line["remedy"] for line in document["not_measured"]]
        told = dict.fromkeys([*rows, *checks, *remedies])
        return [text for text in told if text.split()[0] in COMMANDS]

    def __str__(self) -> str:
        """What a failed assertion should show."""
        told = [f"{f['role']} {f['code']}: {f['statement']}" for f in self._findings()]
        return "\n".join((f"{self.argv} -> {self.status}", *told, self.stderr[-2000:]))

    def _findings(self) -> list[dict[str, Any]]:
        try:
            return list(self.document.get("findings", ()))
        except ValueError:
            return []


def clean_environment(home: str | Path, **more: str) -> dict[str, str]:
    """Nothing of this machine's own settings (PG*, XDG_*, proxies) reaches the child."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "CI") if name in os.environ}
    return {**kept, "HOME": str(home), **more}


def netdiag(
    *arguments: str,
    launcher: Sequence[str] = (),
    home: Path | None = None,
    environment: Mapping[str, str] | None = None,
    stdin: str | None = None,
    timeout_s: float = PATIENCE_S,
) -> Ran:
    """Run it to its end. ``launcher`` goes before it: ("ip", "netns", "exec", NAME), for example."""
    with tempfile.TemporaryDirectory(prefix="netdiag-home-") as folder:
        done = subprocess.run(
            [*launcher, str(PROGRAM), *arguments],
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            env=clean_environment(home or folder, **(environment or {})),
            cwd="/",
        )
    return Ran(argv=arguments, status=done.returncode, stdout=done.stdout, stderr=done.stderr)


def run(*arguments: str, budget: str = "40s", **options: Any) -> Ran:
    """``netdiag run --quick --format json``."""
    return netdiag("run", *arguments, "--quick", "--budget", budget, "--format", "json", **options)


def shell(command: str, *, launcher: Sequence[str] = (), environment: Mapping[str, str] | None = None) -> Ran:
    """Run a command as a reader of the report would paste it."""
    with tempfile.TemporaryDirectory(prefix="netdiag-home-") as home:
        settings = clean_environment(home, **(environment or {}))
        done = subprocess.run(
            [*launcher, "sh", "-c", command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
            env=settings | {"PATH": f"{PROGRAM.parent}:{settings.get('PATH', '')}"},
            cwd="/",
        )
    return Ran(argv=(command,), status=done.returncode, stdout=done.stdout, stderr=done.stderr)
