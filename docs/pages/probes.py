"""probes.md, from the registry: every probe, its options, units and defaults."""

from __future__ import annotations

import typing

from docs.typed import Field, about, cell, default_words, fields_of, table, type_words
from netdiag.cli.probe import BY_NAME
from probes.contract import AnyProbe
from probes.model import Secret
from probes.registry import PROBES, load

INTRO = """# Probes

A probe measures and classifies; it does not judge. `netdiag run` chooses probes and options itself; `netdiag probe
NAME TARGET` runs one alone, on every address of the target, and `--set KEY=VALUE` sets an option: an array is
written with commas (`--set control_ports=22,80`). Secrets are not arguments: they come from the DSN, `~/.pgpass` or
`PGPASSWORD`. What a probe gives back: [json.md](json.md#the-data-of-each-probe)."""
UNITS = {"_s": "seconds", "_bytes": "bytes"}


def page() -> str:
    return "\n\n".join((INTRO, *(_section(load(name)) for name in PROBES)))


def _section(probe: AnyProbe) -> str:
    needs = ", ".join(sorted(need.value for need in probe.needs)) or "nothing beyond an ordinary user's sockets"
    scope = "asked once for the name" if probe.name in BY_NAME else "asked of every address of the target"
    summary = probe.summary if probe.summary.endswith(("?", ".")) else f"{probe.summary}."
    facts = f"{summary} Data: `{probe.schema}`. Needs: {needs}. It is {scope}."
    rows = [_row(field) for field in fields_of(probe.options)]
    parts = (f"## {probe.name}", facts, about(probe.options), table(("option", "value", "default", "meaning"), rows))
    return "\n\n".join(part for part in parts if part)


def _row(field: Field) -> tuple[str, ...]:
    unit = next((unit for ending, unit in UNITS.items() if field.name.endswith(ending)), "")
    secret = Secret in (field.type, *typing.get_args(field.type))
    kind = "secret, not by `--set`" if secret else type_words(field.type).removesuffix(" or null")
    return (f"`{field.name}`", f"{kind}, {unit}" if unit else kind, default_words(field.default), cell(field.comment))
