"""``make demo``: the escalation CE1006 between real hosts, diagnosed; on loopback alone where the lab cannot run.

The report is printed and kept, as text and Markdown, with its evidence. Exit 0 when the verdict is the expected one;
what netdiag named and missed of the incident stands in the grade below the report.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from netdiag.lab import doctor, rootless
from netdiag.lab.demo_loopback import demonstrate, say

SCENARIO, SEED = "ce1006", 1006
EXPECTED = "critical"


def main() -> int:
    arguments = argparse.ArgumentParser(prog="python -m netdiag.lab.demo", description=__doc__)
    arguments.add_argument("--output", type=Path, default=Path("demo-out"))
    arguments.add_argument(
        "--loopback", action="store_true", help="one PostgreSQL on loopback, even where the lab runs"
    )
    arguments.add_argument("--embedded", action="store_true", help="with --loopback: the wheel's PostgreSQL")
    given = arguments.parse_args()
    hindrance = None if given.loopback else why_no_lab()
    if hindrance:
        say(f"The lab cannot run here ({hindrance}); the demonstration goes on with one PostgreSQL on loopback.")
    if given.loopback or hindrance:
        return demonstrate(given.output, embedded=given.embedded)
    return incident(given.output)


def why_no_lab() -> str | None:
    """What the lab lacks here, with the line that mends it; None where it can run."""
    line = doctor.install_line()
    if line:
        return f"programs are missing: {line}"
    return None if rootless.may_make_namespaces() else rootless.refusal()


def incident(output: Path) -> int:
    say(
        "CE1006: two regions, two transits, a balancer, resolvers, a firewall, a primary and a replica, and six faults."
    )
    output.mkdir(parents=True, exist_ok=True)
    command = [*_netdiag("lab", "run", SCENARIO), "--seed", str(SEED), "--output", str(output.absolute())]
    return _conclude(subprocess.run(command, check=False).returncode, output)


def _conclude(status: int, output: Path) -> int:
    saved = output / "run.json"
    if status not in (0, 1) or not saved.exists():
        say(f"The lab ended with status {status} before there was a report.")
        return 1
    verdict = json.loads(saved.read_text())["verdict"]
    markdown = subprocess.run(
        _netdiag("replay", str(saved), "--format", "markdown"), capture_output=True, text=True, check=False
    )
    (output / "report.md").write_text(markdown.stdout)
    say(f"Expected: {EXPECTED}. Got: {verdict}. The report (text, Markdown) and its evidence are in {output}/.")
    return 0 if verdict == EXPECTED else 1


def _netdiag(*words: str) -> list[str]:
    return [sys.executable, "-m", "netdiag", *words]


if __name__ == "__main__":
    sys.exit(main())
