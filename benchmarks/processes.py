"""Child processes and what the kernel says that they cost."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Cost:
    """Of one process: wall and CPU time in seconds, peak resident bytes (not below those of its parent), its output."""

    wall_s: float
    cpu_s: float
    resident: int
    output: str


def installed(program: str) -> bool:
    return shutil.which(program) is not None


def cost(argv: Sequence[str], output: Path, *, statuses: Sequence[int] = (0,)) -> Cost:
    """Run it to its end; both of its streams go to the file ``output``. Raises RuntimeError on other statuses."""
    where = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    actions = [(os.POSIX_SPAWN_DUP2, where, 1), (os.POSIX_SPAWN_DUP2, where, 2)]
    environment = {name: text for name, text in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    begun = time.perf_counter()
    child = os.posix_spawnp(argv[0], list(argv), environment, file_actions=actions)
    _, status, usage = os.wait4(child, 0)
    wall = time.perf_counter() - begun
    os.close(where)
    said = output.read_text("utf-8", "replace")
    if os.waitstatus_to_exitcode(status) not in statuses:
        raise RuntimeError(f"{' '.join(argv)} ended with {os.waitstatus_to_exitcode(status)}: {said[-500:]}")
    return Cost(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, said)


def median(figures: Sequence[float]) -> float:
    """Without the statistics module, whose imports would count in the memory of every contender."""
    ordered = sorted(figures)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
