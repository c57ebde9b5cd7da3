"""What the code says of its own values: fields with their types, defaults and trailing comments, as Markdown."""

from __future__ import annotations

import ast
import dataclasses
import datetime as dt
import inspect
import io
import tokenize
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from typing import Any, Literal, TypeVar, Union

from probes.model import Secret, value

PLAIN = {
    str: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    dt.datetime: "string, UTC, RFC 3339",
    dt.date: "string, a date",
    bytes: "string, base64",
    Secret: 'string, always `"***"`',
    Any: "any",
    types.NoneType: "null",
}


@value
class Field:
    name: str
    type: Any
    default: Any  # dataclasses.MISSING where there is none
    comment: str  # the code's own remark, or ""


def fields_of(kind: type) -> list[Field]:
    """The fields of a value, in their order."""
    comments, hints = _comments(kind), typing.get_type_hints(kind)
    return [
        Field(name=f.name, type=hints[f.name], default=f.default, comment=comments.get(f.name, ""))
        for f in dataclasses.fields(kind)
    ]


def _comments(kind: type) -> dict[str, str]:
    source = inspect.cleandoc("\n" + inspect.getsource(kind))
    (node,) = (n for n in ast.parse(source).body if isinstance(n, ast.ClassDef))
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    remarks = {t.start[0]: t.string.lstrip("# ").rstrip() for t in tokens if t.type == tokenize.COMMENT}
    return {
        line.target.id: remark
        for line in node.body
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)
        for remark in [remarks.get(line.end_lineno or 0, "")]
        if not remark.startswith("noqa")
    }


def about(kind: type) -> str:
    """The docstring of a value as one paragraph; "" where it has none of its own."""
    doc = kind.__doc__ or ""
    return "" if doc.startswith(f"{kind.__name__}(") else words(inspect.cleandoc(doc))


def words(text: str) -> str:
    """Prose of a docstring on one line, as Markdown."""
    return " ".join(text.replace("``", "`").split())


def type_words(kind: Any) -> str:
    """``kind`` in JSON's words; values of the code are links to their own section."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(type_words(a) for a in arguments))
    if origin is Literal:
        return " \\| ".join(f"`{a}`" for a in arguments)
    if origin is tuple:
        return f"array of {type_words(arguments[0])}" if arguments[-1] is ... else "array"
    if origin in (dict, Mapping):
        return "object"
    return _plain(origin or kind)


def _plain(kind: Any) -> str:
    if isinstance(kind, TypeVar):
        return "any"
    if isinstance(kind, type) and issubclass(kind, Enum):
        return " \\| ".join(f"`{member.value}`" for member in kind)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return f"[{kind.__name__}](#{kind.__name__.lower()})"
    return PLAIN.get(kind, "any")


def values_within(kind: Any) -> Iterator[type]:
    """Every value that ``kind`` mentions, itself included where it is one; each may come several times."""
    origin = typing.get_origin(kind)
    if origin is not Literal:
        for argument in typing.get_args(kind):
            yield from values_within(argument)
    bare = origin or kind
    if isinstance(bare, type) and dataclasses.is_dataclass(bare):
        yield bare


def closure(*roots: type) -> list[type]:
    """``roots`` and every value reachable from them, each once, in reading order."""
    found: dict[type, None] = {}
    waiting = list(roots)
    while waiting:
        kind = waiting.pop(0)
        if kind in found:
            continue
        found[kind] = None
        waiting[:0] = [inner for field in fields_of(kind) for inner in values_within(field.type)]
    return list(found)


def default_words(default: Any) -> str:
    """A default as a person writes it; "" where there is none."""
    if default is dataclasses.MISSING:
        return ""
    if default is None:
        return "none"
    if isinstance(default, tuple):
        return f"`{','.join(str(item) for item in default)}`" if default else "none"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    return f"`{default:g}`" if isinstance(default, float) else f"`{default}`"


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """A Markdown table. Cells are Markdown; a bar that is not escaped yet is."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace(chr(10), ' ') for cell in line)} |" for line in lines)


def cell(text: str) -> str:
    """Plain text for a cell: bars and angle brackets are not Markdown's."""
    return text.replace("\\|", "|").replace("|", "\\|").replace("<", "&lt;")
