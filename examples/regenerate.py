"""Judges the stored evidence of every example again and rewrites its report: ``python -m examples.regenerate``.

Nothing is measured. Run it when a rule, a page or a renderer has changed, and read the difference before it is kept.
"""

from __future__ import annotations

import sys
from pathlib import Path

from netdiag.cli.conclude import Conclusion, conclude
from netdiag.run_file import decode

EXAMPLES = Path(__file__).parent


def folders() -> list[Path]:
    """Those that hold a run."""
    return sorted(path.parent for path in EXAMPLES.glob("*/run.json"))


def concluded(folder: Path) -> Conclusion:
    """The stored evidence, judged by the rules of today."""
    path = folder / "run.json"
    return conclude(decode(path.read_bytes(), str(path)))


def contents(folder: Path) -> dict[str, bytes]:
    """File name -> what it should hold, of every file that follows from the evidence."""
    return concluded(folder).files()


def main() -> int:
    for folder in folders():
        for name, content in contents(folder).items():
            (folder / name).write_bytes(content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
