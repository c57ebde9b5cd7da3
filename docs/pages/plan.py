"""plan.md, from the declarations that the strict reader uses; defaults from the model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from docs.typed import cell, default_words, fields_of, table
from netdiag.plan import declarations, model
from netdiag.plan.declarations import PLAN, Key, Table

INTRO = """# The plan

TOML. It says what is deployed and what is normal; what to measure follows from it. It is read strictly: an unknown
key, a number without its unit or a value of another type is an error that names file, line and key. `netdiag plan
check FILE` reads a plan and measures nothing; `netdiag plan schema` prints the JSON Schema, for editors. A whole
plan: [examples/ce1006/plan.toml](../../examples/ce1006/plan.toml).

Units of time: `us`, `ms`, `s`, `m`, `h`, `d`. A ratio is written in percent. Passwords do not belong in the plan:
they are taken from `~/.pgpass`, a service file or `PGPASSWORD`, as libpq takes them."""

MODELS: dict[str, type] = {
    "ticket": model.Ticket,
    "impact": model.Impact,
    "vantage": model.VantagePlan,
    "endpoint": model.Endpoint,
    "endpoint.health": model.Health,
    "baseline": model.Baseline,
    "router": model.Router,
    "dns": model.Dns,
    "limits": model.Limits,
}
# Read and checked, and part of the format, but nothing is measured by them yet.
AHEAD = ("router.frr",)
# Said better in the key's own line than by a default of the model.
TOLD = {"endpoint.role"}


def page() -> str:
    return "\n\n".join((INTRO, *_sections("", PLAN, False)))


def _sections(path: str, found: Table, many: bool) -> Iterator[str]:
    title = f"[[{path}]]" if many else f"[{path}]" if path else "Top level"
    yield f"## {title}\n\n{found.about}\n\n{table(('key', 'value', 'default', 'meaning'), _rows(path, found))}"
    for name, key in found.keys.items():
        if isinstance(key.kind, Table):
            yield from _sections(f"{path}.{name}".strip("."), key.kind, key.many)


def _rows(path: str, found: Table) -> list[tuple[str, ...]]:
    defaults = {field.name: field.default for field in fields_of(MODELS[path])} if path else {}
    return [
        (f"`{name}`", cell(_kind(name, key)), _default(path, name, key, defaults), _about(path, name, key))
        for name, key in found.keys.items()
    ]


def _about(path: str, name: str, key: Key) -> str:
    ahead = f"{path}.{name}".strip(".") in AHEAD
    return f"{cell(key.about)} (not used by this version)" if ahead else cell(key.about)


def _kind(name: str, key: Key) -> str:
    if isinstance(key.kind, Table):
        return f"table, `[[{name}]]`, may be repeated" if key.many else "table"
    return f"array of: {key.kind.words}" if key.many else key.kind.words


def _default(path: str, name: str, key: Key, defaults: dict[str, Any]) -> str:
    if key.required:
        return "required"
    default = defaults.get(key.field or name)
    if default in (None, ()) or f"{path}.{name}" in TOLD:
        return ""
    seconds = key.kind in (declarations.DURATION, declarations.POSITIVE)
    return f'`"{default:g}s"`' if seconds else default_words(default)
