"""Arguments and plan file -> the Plan that a command measures."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from netdiag.cli.output import UserError
from netdiag.paths import home_folder
from netdiag.plan.dsn import TargetError, parse_target
from netdiag.plan.model import Endpoint, Plan


def plan_of(targets: Sequence[str], plan_file: Path | None) -> Plan:
    """The plan file's endpoints, or the targets'; a target that names an endpoint of the plan selects it.

    Neither means the PG* environment. Raises UserError.
    """
    stated = load_plan(plan_file) if plan_file else Plan(endpoints=())
    if plan_file and not targets:
        return stated
    known = {endpoint.name: endpoint for endpoint in stated.endpoints}
    chosen: dict[str, Endpoint] = {}
    warnings = list(stated.warnings)
    for number, target in enumerate(targets or ("",), start=1):
        found, warned = ((known[target],), ()) if target in known else _read(target, number, len(targets))
        if plan_file and target not in known:
            warnings += _unknown(found, known)
        chosen.update((endpoint.name, endpoint) for endpoint in found)
        warnings += warned
    return replace(stated, endpoints=tuple(chosen.values()), warnings=tuple(dict.fromkeys(warnings)))


def _unknown(found: Sequence[Endpoint], known: Iterable[str]) -> list[str]:
    """A mistyped endpoint would pass for a host: told with what can be no password, the host as it was read."""
    return [
        f"{one.name} is no endpoint of the plan ({', '.join(known)}): taken as a target of its own" for one in found
    ]


def load_plan(path: Path) -> Plan:
    from netdiag.plan.reader import PlanError, read_plan

    try:
        return read_plan(path, os.environ, home_folder(os.environ))
    except PlanError as error:
        raise UserError(str(error), "`netdiag plan schema` prints what a plan may say") from None


def _read(target: str, number: int, count: int) -> tuple[tuple[Endpoint, ...], tuple[str, ...]]:
    try:
        found = parse_target(target, os.environ, home_folder(os.environ))
    except TargetError as error:
        which = f"target {number}: " if count > 1 else ""
        raise UserError(f"{which}{error}", "see `netdiag run --help`") from None
    return found.endpoints, found.warnings


def duration_option(text: str | None, option: str) -> float | None:
    """Seconds of an option such as ``--budget 60s``. Raises UserError."""
    from netdiag.plan.units import LONGEST_BUDGET_S, parse_duration

    if text is None:
        return None
    try:
        seconds = parse_duration(text)
    except ValueError as error:
        raise UserError(f"{option}: {error}") from None
    if not 0 < seconds <= LONGEST_BUDGET_S:
        raise UserError(f"{option}: must be more than nothing and at most 7d")
    return seconds


def size_option(text: str | None, option: str) -> int | None:
    """Bytes of an option such as ``--bulk-read 16MiB``. Raises UserError."""
    from netdiag.plan.units import parse_bulk

    try:
        return None if text is None else parse_bulk(text)
    except ValueError as error:
        raise UserError(f"{option}: {error}") from None


def rate_option(rate: float | None) -> float | None:
    """Packets per second; typer has seen to the minimum, and lets "nan" and "inf" through."""
    if rate is not None and not math.isfinite(rate):
        raise UserError("--rate: must be a finite number of packets per second")
    return rate


def printable_option(text: str | None, option: str) -> str | None:
    if text is not None and not text.isprintable():
        raise UserError(f"{option}: must be printable and on one line")
    return text
