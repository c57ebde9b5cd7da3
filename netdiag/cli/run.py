"""`netdiag run`: measure, diagnose, report; `netdiag replay`: the same from saved evidence."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from netdiag.cli.conclude import Conclusion, Format, conclude
from netdiag.cli.files import prepare_folder, read_whole, write_atomically
from netdiag.cli.journal import Journal
from netdiag.cli.measure import measure
from netdiag.cli.output import UserError, emit, is_terminal, note, terminal_width, warn
from netdiag.cli.progress import progress
from netdiag.cli.targets import duration_option, plan_of, printable_option, rate_option, size_option
from netdiag.evidence import EvidenceError, Run
from netdiag.plan.model import Plan
from netdiag.plan.units import mebibytes
from netdiag.run_file import decode
from netdiag.runner import RunSettings
from probes.model import value


@value
class RunArguments:
    targets: tuple[str, ...]
    plan: Path | None = None
    form: Format = Format.TEXT
    output: Path | None = None
    quick: bool = False
    budget: str | None = None
    rate: float | None = None
    against: Path | None = None
    vantage: str | None = None
    region: str | None = None
    bulk_read: str | None = None


def run_command(arguments: RunArguments) -> int:
    plan = _plan(arguments)
    settings = RunSettings(
        quick=arguments.quick,
        budget_s=duration_option(arguments.budget, "--budget"),
        packets_per_second=rate_option(arguments.rate),
    )
    if arguments.output:
        prepare_folder(arguments.output)
    for warning in plan.warnings:
        warn(warning)
    if plan.limits.bulk_read is not None:
        note(f"netdiag: at the end up to {mebibytes(plan.limits.bulk_read)} MiB are read from each database address")
    with Journal(arguments.output) as journal:
        with progress() as listener:
            run = measure(plan, settings, journal, listener)
        conclusion = conclude(run)
        if arguments.output and not _write_files(conclusion, arguments.output):
            journal.keep()
        _print(conclusion, arguments.form)
    return conclusion.status


def replay_command(path: Path, form: Format) -> int:
    conclusion = conclude(load_run(path))
    _print(conclusion, form)
    return conclusion.status


def load_run(path: Path) -> Run:
    """A saved run; ``-`` is standard input. Raises UserError."""
    raw = sys.stdin.buffer.read() if str(path) == "-" else read_whole(path)
    try:
        return decode(raw, str(path))
    except EvidenceError as error:
        raise UserError(str(error), "name a run.json that `netdiag run --output` wrote") from None


def _plan(arguments: RunArguments) -> Plan:
    from netdiag.baseline import against

    plan = plan_of(arguments.targets, arguments.plan)
    name = printable_option(arguments.vantage, "--vantage") or plan.vantage.name
    region = printable_option(arguments.region, "--region") or plan.vantage.region
    bulk = size_option(arguments.bulk_read, "--bulk-read") or plan.limits.bulk_read
    limits = replace(plan.limits, bulk_read=bulk)
    plan = replace(plan, vantage=replace(plan.vantage, name=name, region=region), limits=limits)
    return against(plan, load_run(arguments.against)) if arguments.against else plan


def _write_files(conclusion: Conclusion, folder: Path) -> bool:
    """Whether all was written. A disk that is full costs the files, not the report: it is printed all the same."""
    complete = True
    for name, content in conclusion.files().items():
        try:
            write_atomically(folder / name, content)
        except OSError as error:
            note(f"netdiag: {folder / name} could not be written ({error.strerror or error}); the report follows")
            complete = False
    return complete


def _print(conclusion: Conclusion, form: Format) -> None:
    if form == Format.JSON:
        emit(conclusion.rendered(form))
        return
    width = terminal_width(sys.stdout)
    emit(conclusion.rendered(form, width))
    if width is not None:
        emit("\n" + conclusion.summary())
    elif is_terminal(sys.stderr):
        note(conclusion.summary())
