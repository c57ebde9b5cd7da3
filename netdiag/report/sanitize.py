"""Remote text made harmless: one line, printable, nothing that moves a cursor or reverses a line."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import fields, is_dataclass, replace
from enum import Enum
from typing import Any, TypeVar

T = TypeVar("T")

# ECMA-48 control sequences, short and without blanks, and two-byte escapes. Nothing open-ended (OSC, DCS): a sequence
# that is never closed must not swallow the honest text behind it, so of those the introducer goes and the rest shows.
_ESCAPES = re.compile(r"(?:\x1b\[|\x9b)[0-9;:?]{0,24}[@-~]|\x1b[0-~]?")
# Controls, formats (bidi overrides, zero widths), surrogates, private use; separators become spaces before.
_DROPPED = frozenset({"Cc", "Cf", "Cs", "Co", "Cn"})
_SPACES = re.compile(r"\s+")


def clean(text: str, limit: int | None = None) -> str:
    """``text`` as one printable line without escape sequences, bidi overrides or double spaces.

    ``limit`` is the most characters to keep; a longer text ends with an ellipsis.
    """
    spaced = _SPACES.sub(" ", _ESCAPES.sub("", text))
    kept = "".join(char for char in spaced if unicodedata.category(char) not in _DROPPED)
    line = _SPACES.sub(" ", kept).strip()
    return line if limit is None or len(line) <= limit else line[: limit - 1] + "…"


def cleaned(thing: T) -> T:
    """``thing`` with every string in it cleaned, through tuples and values: the last step of a compilation."""
    return _walk(thing)  # type: ignore[no-any-return]  # the walk keeps the type, which the checker cannot follow


def _walk(thing: Any) -> Any:
    if isinstance(thing, str):
        return thing if isinstance(thing, Enum) else clean(thing)
    if isinstance(thing, tuple):
        return tuple(_walk(item) for item in thing)
    if is_dataclass(thing) and not isinstance(thing, type):
        return replace(thing, **{field.name: _walk(getattr(thing, field.name)) for field in fields(thing)})
    return thing
