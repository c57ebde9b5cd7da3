"""Runs every benchmark in turn, each in a process of its own: ``python -m benchmarks [NAME ...]``.

A benchmark is a module of this package with a ``main()`` that prints its table.
"""

from __future__ import annotations

import pkgutil
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent


def benchmarks() -> list[str]:
    """Their names, sorted. A module is not imported for it: that would be measured with the next one."""
    names = sorted(module.name for module in pkgutil.iter_modules([str(FOLDER)]))
    return [name for name in names if name != "__main__" and _has_main(name)]


def _has_main(name: str) -> bool:
    path = FOLDER / f"{name}.py"
    return path.exists() and "\ndef main(" in path.read_text("utf-8")


def main(chosen: list[str]) -> int:
    """0 when each of them ran to its end."""
    known = benchmarks()
    unknown = sorted(set(chosen) - set(known))
    if unknown:
        print(f"no benchmark is called {', '.join(unknown)}; there are {', '.join(known)}", file=sys.stderr)
        return 2
    failed = []
    for name in chosen or known:
        print(f"== {name}", flush=True)
        if subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=False).returncode:
            failed.append(name)
    if failed:
        print(f"== failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
