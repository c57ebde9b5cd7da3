"""exit-codes.md, from the command line's own table of statuses."""

from __future__ import annotations

from docs.typed import table
from netdiag.cli.nagios import STATES
from netdiag.cli.output import STATUS
from netdiag.diagnosis.finding import Verdict

MEANING = {
    Verdict.HEALTHY: "no cause found, and every endpoint was seen to answer as its kind should",
    Verdict.DEGRADED: "a cause of severity warning",
    Verdict.CRITICAL: "a cause of severity critical",
    Verdict.UNKNOWN: "could not tell: bad usage, bad plan, nothing measurable, output that cannot be written",
}
TEXT = """# Exit statuses

The same everywhere. They are those of the monitoring plugins, so any command can be a check.

{verdicts}

| command | 0 | 1 | 2 | 3 |
|---|---|---|---|---|
| `run`, `check`, `replay` | healthy | degraded | critical | could not tell |
| `probe` | every address was measured, whatever the answer | | | a probe could not run, or the deadline came first |
| `doctor` | everything is permitted here | something is degraded without a permission | | could not tell |
| `plan check` | the plan is good | | | it is not |
| `plan schema`, `explain`, `version` | printed | | | no such code, bad usage |
| `lab run` | the scenario was judged right | it was not | | it could not be run |
| `lab doctor` | the lab can run here | something is missing | | |
| `lab up`, `down`, `list`, `inject`, `clear` | done | | | not done |

`lab shell` gives back the status of the command that it ran.

Usage errors give 3, not 2: 2 means critical, and a mistyped option must not page anybody. Ctrl-C, SIGTERM and
the end of the terminal (SIGHUP, unless nohup keeps it off) stop a run, which still reports on the evidence so far,
marked partial; the status is then that of its verdict. Any other command they end with 3. `check` that finds
another check of the same targets running leaves with 3."""


def page() -> str:
    rows = [(str(STATUS[v.value]), f"`{v.value}`", STATES[v], MEANING[v]) for v in Verdict]
    return TEXT.format(verdicts=table(("status", "verdict", "Nagios", "meaning"), rows))
