"""What a seed decides of a scenario: strengths within ranges, places out of lists; and ``$name`` put in their stead.

The same seed gives the same values whatever the order of the file: each name draws from a generator of its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

from probes.model import value

Drawn = Mapping[str, Any]
SIGNIFICANT_DIGITS = 3
_REFERENCE = re.compile(r"(?<!\$)(?:\$\{([a-z][a-z0-9_]*)\}|\$([a-z][a-z0-9_]*))")


class DrawError(ValueError):
    """A draw or a reference that makes no sense. One line, without the file's name."""


@value
class Range:
    """A number between ``low`` and ``high``: whole where both are, else rounded to three significant digits."""

    low: float
    high: float

    def draw(self, random: Random) -> float:
        if isinstance(self.low, int) and isinstance(self.high, int):
            return random.randint(self.low, self.high)
        return float(f"{random.uniform(self.low, self.high):.{SIGNIFICANT_DIGITS}g}")


@value
class Choice:
    """One of several values, each as likely as the others."""

    of: tuple[Any, ...]

    def draw(self, random: Random) -> Any:
        return random.choice(self.of)


def read_draw(found: Any) -> Range | Choice:
    """``{ low = 0.05, high = 0.15 }`` or ``{ of = [...] }``. Raises DrawError."""
    if not isinstance(found, dict) or set(found) not in ({"low", "high"}, {"of"}):
        raise DrawError("must be { low = ..., high = ... } or { of = [...] }")
    if "of" in found:
        if not isinstance(found["of"], list) or not found["of"]:
            raise DrawError("`of` must be a list of at least one value")
        return Choice(of=tuple(found["of"]))
    low, high = found["low"], found["high"]
    if any(isinstance(end, bool) or not isinstance(end, int | float) for end in (low, high)) or not low <= high:
        raise DrawError("`low` and `high` must be numbers, low not above high")
    return Range(low=low, high=high)


def draw(draws: Mapping[str, Range | Choice], seed: int) -> dict[str, Any]:
    return {name: each.draw(Random(f"{seed}/{name}")) for name, each in draws.items()}


def fill(found: Any, drawn: Drawn) -> Any:
    """``found`` with every ``$name`` replaced: text that is nothing else becomes the value itself, with its type.

    Raises DrawError for a name that is not drawn.
    """
    if isinstance(found, str):
        return _filled_text(found, drawn)
    if isinstance(found, Mapping):
        return {key: fill(item, drawn) for key, item in found.items()}
    if isinstance(found, Sequence):
        return [fill(item, drawn) for item in found]
    return found


def references(found: Any) -> frozenset[str]:
    """Every name that ``found`` refers to."""
    if isinstance(found, str):
        return frozenset(match[1] or match[2] for match in _REFERENCE.finditer(found))
    if isinstance(found, Mapping):
        return frozenset(name for item in found.values() for name in references(item))
    if isinstance(found, Sequence):
        return frozenset(name for item in found for name in references(item))
    return frozenset()


def _filled_text(text: str, drawn: Drawn) -> Any:
    unknown = sorted(references(text) - drawn.keys())
    if unknown:
        raise DrawError(f"${unknown[0]} is not drawn; there are {', '.join(sorted(drawn)) or 'no draws'}")
    whole = _REFERENCE.fullmatch(text)
    if whole:
        return drawn[whole[1] or whole[2]]
    return _REFERENCE.sub(lambda match: str(drawn[match[1] or match[2]]), text)
