"""Memory of a sweep as the list of targets grows: peak resident size of the whole command.

    python -m benchmarks.memory

As many targets are under way as the rate can serve, whatever their number; what still grows is the list itself.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from benchmarks.processes import cost, median

RATE = 4000
ROUNDS = 3
SIZES = (10, 1000, 4000, 16000)
NETDIAG = os.path.join(os.path.dirname(sys.executable), "netdiag")


def addresses(count: int) -> str:
    return "\n".join(f"127.{number // 62500}.{number // 250 % 250}.{number % 250 + 1}" for number in range(count))


def resident(targets: Path, output: Path) -> int:
    settings = ("count=2", "interval_s=0.05", "timeout_s=0.5")
    argv = [NETDIAG, "probe", "latency", "--targets", str(targets), "--rate", str(RATE), "--format", "json"]
    for setting in settings:
        argv += ["--set", setting]
    return cost(argv, output).resident


def main() -> None:
    print(f"{'targets':>8}{'RSS MiB':>9}   (n={ROUNDS}; two echoes each, {RATE}/s)")
    with tempfile.TemporaryDirectory(prefix="nd-memory") as folder:
        targets, output = Path(folder, "targets"), Path(folder, "output")
        for size in SIZES:
            targets.write_text(addresses(size), "ascii")
            figures = [resident(targets, output) / 2**20 for _ in range(ROUNDS)]
            print(f"{size:>8}{median(figures):>9.1f}", flush=True)


if __name__ == "__main__":
    main()
