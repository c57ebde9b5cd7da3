"""`netdiag plan schema` and `netdiag plan check`."""

from __future__ import annotations

from pathlib import Path

from netdiag.cli.output import OK, emit, to_json, warn
from netdiag.cli.targets import load_plan


def schema_command() -> int:
    from netdiag.plan.schema import plan_schema

    emit(to_json(plan_schema()))
    return OK


def check_plan_command(path: Path, as_json: bool) -> int:
    plan = load_plan(path)
    names = [endpoint.name for endpoint in plan.endpoints]
    if as_json:
        emit(to_json({"schema": "netdiag.plan-check/1", "endpoints": names, "warnings": list(plan.warnings)}))
        return OK
    for warning in plan.warnings:
        warn(warning)
    emit(f"{path}: good; {len(names)} endpoint{'s' if len(names) != 1 else ''}: {', '.join(names)}")
    return OK
