"""JSON Schema (draft 2020-12) of the plan, for editors; made from the declarations that the reader uses."""

from __future__ import annotations

from typing import Any

from netdiag.plan.declarations import PLAN, Key, Table

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def plan_schema() -> dict[str, Any]:
    return {"$schema": DIALECT, "title": "netdiag plan", **_table(PLAN)}


def _table(table: Table) -> dict[str, Any]:
    required = [name for name, key in table.keys.items() if key.required]
    demands = {
        "required": required,
        "oneOf": [{"required": [name]} for name in table.either],
        "dependentRequired": {name: [other] for name, other in (table.along or {}).items()},
    }
    return {
        "description": table.about,
        "type": "object",
        "properties": {name: _key(key) for name, key in table.keys.items()},
        "additionalProperties": False,
    } | {keyword: demand for keyword, demand in demands.items() if demand}


def _key(key: Key) -> dict[str, Any]:
    item = _table(key.kind) if isinstance(key.kind, Table) else dict(key.kind.schema)
    if not key.many:
        return {**item, "description": key.about}
    least = {"minItems": 1} if key.required else {}
    return {"type": "array", "items": item, **least, "description": key.about}
