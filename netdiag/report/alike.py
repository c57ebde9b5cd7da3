"""Lines that say the same of several names, places or resolvers: one line for all of them.

Fifty healthy endpoints would otherwise fill pages with one sentence. Figures count: lines that differ in any are not
drawn together.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

from netdiag.diagnosis.finding import Subject
from probes.model import Target, value

T = TypeVar("T")
_MASK = "\0"


@value
class Said:
    """What is said, and of what. ``texts``: all that has to be the same, but for the subject's own name in it."""

    subject: Subject
    texts: tuple[str, ...]


@value
class Group(Generic[T]):
    """Lines that say the same, in order; and what all but the first are about."""

    members: tuple[T, ...]
    others: tuple[str, ...] = ()

    @property
    def first(self) -> T:
        return self.members[0]


def drawn_together(lines: Sequence[T], said: Callable[[T], Said]) -> list[Group[T]]:
    """Groups in the order of their first lines. Names go first: a resolver has many, and many resolvers are rare."""
    told = [said(line) for line in lines]
    groups: dict[int, tuple[tuple[int, ...], tuple[str, ...]]] = {index: ((index,), ()) for index in range(len(lines))}
    for label in (_name, _place, _resolver):
        alone = [index for index, (_, others) in groups.items() if not others]
        for members, others in _alike(told, alone, label):
            groups = {index: group for index, group in groups.items() if index not in members[1:]}
            groups[members[0]] = members, others
    return [
        Group(members=tuple(lines[index] for index in members), others=others)
        for _, (members, others) in sorted(groups.items())
    ]


Label = Callable[[Subject], str | None]


def _alike(
    told: Sequence[Said], indices: Sequence[int], label: Label
) -> Iterator[tuple[tuple[int, ...], tuple[str, ...]]]:
    """Those of ``indices`` whose lines differ in nothing but this label, with the labels of all but the first."""
    alike: dict[tuple[str, ...], dict[int, str]] = {}
    for index in indices:
        name = label(told[index].subject)
        masked = tuple(_masked(text, name) for text in told[index].texts) if name else ()
        if name and any(_MASK in text for text in masked):
            alike.setdefault(masked, {})[index] = name
    for found in alike.values():
        if len(found) > 1:
            yield tuple(found), tuple(found.values())[1:]


def _masked(text: str, name: str) -> str:
    """``name`` may stand quoted in a command."""
    return text.replace(shlex.quote(name), _MASK).replace(name, _MASK)


def _name(subject: Subject) -> str | None:
    return subject.name


def _place(subject: Subject) -> str | None:
    """As the rules write it: ``address:port``, ``[v6]:port``."""
    return Target(host=subject.address, port=subject.port).label() if subject.address else None


def _resolver(subject: Subject) -> str | None:
    return subject.resolver
