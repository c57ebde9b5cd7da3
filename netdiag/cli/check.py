"""`netdiag check`: unattended. One line, an exit status, the run kept; never two of the same at once, never late."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from netdiag.cli.conclude import Conclusion, conclude
from netdiag.cli.history import keep_run
from netdiag.cli.journal import Journal
from netdiag.cli.measure import measure
from netdiag.cli.nagios import status_line
from netdiag.cli.output import OK, UNKNOWN, UserError, emit, warn
from netdiag.cli.targets import duration_option, plan_of, rate_option
from netdiag.paths import own_state_folder
from netdiag.plan.model import Plan
from netdiag.runner import RunSettings
from probes.model import value

KEPT_RUNS = 2000  # a week of checks every five minutes
RESERVE = 0.3  # of the timeout: from the runner's deadline to the line printed; its grace periods are in it
LARGEST_RESERVE_S = 3.0


@value
class CheckArguments:
    targets: tuple[str, ...]
    plan: Path | None = None
    timeout: str = "55s"
    quiet: bool = False
    watch: bool = False
    keep: int = KEPT_RUNS
    rate: float | None = None


def check_command(arguments: CheckArguments) -> int:
    timeout = duration_option(arguments.timeout, "--timeout") or 55.0
    with _alarm(timeout):
        plan = plan_of(arguments.targets, arguments.plan)
        warnings = list(plan.warnings)
        with _lock(_identity(plan), warnings) as alone:
            if not alone:
                raise UserError("another netdiag check of the same targets is still running; this one leaves")
            conclusion = _check(plan, arguments, timeout, warnings)
    if not (arguments.quiet and conclusion.status == OK):
        for warning in warnings:
            warn(warning)
        emit(status_line(conclusion.run, conclusion.diagnosis))
    return conclusion.status


def _check(plan: Plan, arguments: CheckArguments, timeout: float, warnings: list[str]) -> Conclusion:
    reserve = min(LARGEST_RESERVE_S, timeout * RESERVE)
    budget = min(timeout - reserve, plan.limits.budget) if arguments.plan else timeout - reserve
    settings = RunSettings(quick=not arguments.watch, budget_s=budget, packets_per_second=rate_option(arguments.rate))
    with Journal() as journal:
        conclusion = conclude(measure(plan, settings, journal))
        _keep(conclusion, arguments.keep, warnings)
    return conclusion


@contextlib.contextmanager
def _alarm(timeout: float) -> Iterator[None]:
    """The last line of defence: whatever hangs, the command says so and is gone after ``timeout`` seconds."""

    def gone(number: int, frame: FrameType | None) -> None:
        line = f"NETDIAG UNKNOWN - no result within {timeout:g} s\n".encode()
        os.write(1, line)
        os._exit(UNKNOWN)

    before = signal.signal(signal.SIGALRM, gone)
    signal.setitimer(signal.ITIMER_REAL, timeout)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _identity(plan: Plan) -> str:
    """Two checks are the same when they look at the same places."""
    places = sorted(f"{e.name}|{e.host}|{e.port}" for e in plan.endpoints)
    return hashlib.sha256("\n".join(places).encode()).hexdigest()[:16]


@contextlib.contextmanager
def _lock(identity: str, warnings: list[str]) -> Iterator[bool]:
    """True while this process is alone with ``identity``. The kernel lets go of the lock when the process ends."""
    try:
        descriptor = os.open(_lock_file(identity), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        warnings.append(f"no lock: the state folder cannot be written ({error.strerror or error})")
        yield True
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
        return
    else:
        yield True
    finally:
        os.close(descriptor)


def _lock_file(identity: str) -> Path:
    return own_state_folder(os.environ) / f"check-{identity}.lock"


def _keep(conclusion: Conclusion, most: int, warnings: list[str]) -> None:
    """A full disk costs the history, not the answer."""
    if most < 1:
        return
    try:
        folder = own_state_folder(os.environ, "runs")
        keep_run(folder, f"{conclusion.run.run_id}.json", conclusion.document(), most)
    except OSError as error:
        warnings.append(f"the run was not kept: {error.strerror or error}")
