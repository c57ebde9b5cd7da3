"""commands.md, from the command line's own declarations."""

from __future__ import annotations

from typing import Any

from docs.typed import cell, default_words, table

INTRO = """# Commands

`netdiag [--version] [-h|--help] COMMAND ...`; each command has its own `--help`. Results go to standard output;
progress, warnings and errors go to standard error. With `--format json` standard output holds exactly one JSON
document, errors included; only `probe --targets` writes JSON lines, one document for each target. Exit
statuses: [exit-codes.md](exit-codes.md). `netdiag --install-completion` sets up completion for
the shell. A TIME is a number with its unit: `500ms`, `60s`, `5m`, `1h`."""


def page() -> str:
    from typer.main import get_command

    from netdiag.cli.commands import app

    group: Any = get_command(app)
    sections = [_section(name, command) for name, command in _leaves(group, "netdiag")]
    return "\n\n".join((INTRO, *sections))


def _leaves(group: Any, path: str) -> list[tuple[str, Any]]:
    """Commands with their full names; a group is its commands."""
    found: list[tuple[str, Any]] = []
    for name, command in group.commands.items():
        inner = hasattr(command, "commands")
        found += _leaves(command, f"{path} {name}") if inner else [(f"{path} {name}", command)]
    return found


def _section(name: str, command: Any) -> str:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option"]
    usage = " ".join((name, *(["[OPTIONS]"] if options else []), *(p.metavar for p in arguments)))
    rows = [(f"`{p.metavar}`", cell(p.help), "") for p in arguments]
    rows += [(_option(p), cell(p.help), _default(p)) for p in options]
    parts = [f"## {name}", f"`{usage}`", command.help]
    return "\n\n".join((*parts, table(("", "meaning", "default"), rows)) if rows else parts)


def _option(parameter: Any) -> str:
    names = ", ".join(f"`{name}`" for name in parameter.opts)
    return names if parameter.is_flag else f"{names} {cell(_value(parameter))}"


def _value(parameter: Any) -> str:
    choices = getattr(parameter.type, "choices", None)
    if choices:
        return " | ".join(f"`{getattr(choice, 'value', choice)}`" for choice in choices)
    return f"`{parameter.metavar or 'N'}`"


def _default(parameter: Any) -> str:
    if parameter.is_flag or parameter.default is None:
        return ""
    return default_words(getattr(parameter.default, "value", parameter.default))
