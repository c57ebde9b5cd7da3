"""JSON Schema (draft 2020-12) of the plan, for editors; made from the declarations that the reader uses."""

from __future__ import annotations

from typing import Any

from netdiag.plan.declarations import PLAN, Key, Table

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def plan_schema() -> dict[str, Any]:
    return {"$schema": DIALECT, "title": "netdiag plan", **_table(PLAN)}


def _table(table: Table) -> dict[str, Any]:
    required = [name for name, key in table.keys.items() if key.required]
    return {
        "description": table.about,
        "type": "object",
        "properties": {name: _key(key) for name, key in table.keys.items()},
        "additionalProperties": False,
    } | ({"required": required} if required else {})


def _key(key: Key) -> dict[str, Any]:
    item = _table(key.kind) if isinstance(key.kind, Table) else dict(key.kind.schema)
    return (
        {"type": "array", "items": item, "description": key.about} if key.many else {**item, "description": key.about}
    )
