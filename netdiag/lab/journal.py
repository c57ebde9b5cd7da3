"""The state file of a world: what there is to remove, written before it is made.

One JSON object per line, appended and never changed, so that a killed owner leaves at worst one line too many. Each
line is one of {"world": id, "boot": ..., "ecmp": ...}, {"namespace": name}, {"folder": path}, {"process": pid, "start":
ticks, "service": name or null} and {"sysctl": name, "host": ..., "was": ...}.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from netdiag.lab.processes import ProcessId, boot_id
from probes.model import value

FILE = "world.jsonl"


@value
class Recorded:
    """What a state file tells. ``processes``: all, dead ones too. ``services``: the last process of each."""

    world_id: str
    ecmp: bool
    namespaces: tuple[str, ...]
    folders: tuple[Path, ...]
    processes: tuple[ProcessId, ...]
    strays: tuple[ProcessId, ...]  # those of no service
    services: Mapping[str, ProcessId]
    sysctls: Mapping[str, Mapping[str, str]]  # per host: what was changed, as it was at first, the last change first
    complete: bool  # the world came up


class Journal:
    """Appends to a world's state file."""

    def __init__(self, state_dir: Path) -> None:
        self.path = state_dir / FILE

    def begin(self, world_id: str, *, ecmp: bool) -> None:
        self._write({"world": world_id, "ecmp": ecmp, "boot": boot_id()})

    def namespace(self, name: str) -> None:
        self._write({"namespace": name})

    def folder(self, path: Path) -> None:
        self._write({"folder": str(path)})

    def process(self, process: ProcessId, service: str | None = None) -> None:
        self._write({"process": process.pid, "start": process.start, "service": service})

    def sysctl(self, host: str, name: str, was: str) -> None:
        self._write({"sysctl": name, "host": host, "was": was})

    def complete(self) -> None:
        self._write({"complete": True})

    def _write(self, entry: dict[str, Any]) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(entry) + "\n")


def read(state_dir: Path) -> Recorded | None:
    """None where no world was begun. Processes of an earlier boot are left out: their numbers mean others now."""
    path = state_dir / FILE
    if not path.exists():
        return None
    entries = _entries(path.read_text())
    header = next((entry for entry in entries if "world" in entry), None)
    if header is None:
        return None
    alive = [entry for entry in entries if "process" in entry] if header["boot"] == boot_id() else []
    return Recorded(
        world_id=header["world"],
        ecmp=header["ecmp"],
        namespaces=tuple(entry["namespace"] for entry in entries if "namespace" in entry),
        folders=tuple(Path(entry["folder"]) for entry in entries if "folder" in entry),
        processes=tuple(_process(entry) for entry in alive),
        strays=tuple(_process(entry) for entry in alive if not entry["service"]),
        services={entry["service"]: _process(entry) for entry in alive if entry["service"]},
        sysctls=_sysctls(entries),
        complete=any("complete" in entry for entry in entries),
    )


def _entries(text: str) -> list[dict[str, Any]]:
    """Without a last line that was cut off in the middle."""
    found = []
    for line in text.splitlines():
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return found


def _sysctls(entries: list[dict[str, Any]]) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for entry in reversed([entry for entry in entries if "sysctl" in entry]):
        found.setdefault(entry["host"], {})[entry["sysctl"]] = entry["was"]
    return found


def _process(entry: dict[str, Any]) -> ProcessId:
    return ProcessId(pid=entry["process"], start=entry["start"])
