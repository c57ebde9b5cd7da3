"""What netdiag said of an incident against what it owed. Pure.

1. A must is found where a cause, or a consequence folded under another must, has its code and fits its subject.
2. Anything else that is named as a cause or a consequence is wrong, unless it fits an ``also`` or its code is
   a ``may``. A must's code at another subject is wrong as well: the right word at the wrong place calls the wrong team.
3. Notes never count, either way.
4. The grade is right when the verdict is one of those expected, every must is found and nothing is wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import ip_address
from typing import Any

from netdiag.diagnosis.finding import Diagnosis
from netdiag.lab.scenario import Expectation, Pattern
from netdiag.run_file import builtins
from probes.model import value

Addresses = Mapping[str, frozenset[str]]
NOTE = "note"
_LITERAL_PARTS = ("endpoint", "name", "hop", "direction", "port")


@value
class Named:
    """One finding as the run's JSON has it."""

    code: str
    role: str
    severity: str
    subject: Mapping[str, Any]
    statement: str


@value
class Grade:
    """``found`` and ``missed`` hold codes, one for each must; ``wrong`` what should not have been named."""

    verdict: str
    verdict_right: bool
    found: tuple[str, ...]
    missed: tuple[str, ...]
    wrong: tuple[Named, ...]
    folded: tuple[str, ...]  # consequences and other mays, by code

    @property
    def right(self) -> bool:
        return self.verdict_right and not self.missed and not self.wrong


def named_in(document: Mapping[str, Any]) -> tuple[Named, ...]:
    """The findings of a ``netdiag.run/1`` document."""
    return tuple(_named(finding) for finding in document["findings"])


def named_by(diagnosis: Diagnosis) -> tuple[Named, ...]:
    return tuple(_named(builtins(finding)) for finding in diagnosis.findings)


def _named(finding: Mapping[str, Any]) -> Named:
    return Named(
        code=finding["code"],
        role=finding["role"],
        severity=finding["severity"],
        subject={key: part for key, part in finding["subject"].items() if part is not None},
        statement=finding["statement"],
    )


def grade(verdict: str, named: Iterable[Named], expected: Expectation, addresses: Addresses) -> Grade:
    """``addresses``: every address of each host of the lab, by the host's name."""
    counted = [finding for finding in named if finding.role != NOTE]
    found = {must: any(fits(finding, must, addresses) for finding in counted) for must in expected.must}
    fitting = (*expected.must, *expected.also)
    due = [f for f in counted if any(fits(f, pattern, addresses) for pattern in fitting)]
    others = [finding for finding in counted if finding not in due]
    return Grade(
        verdict=verdict,
        verdict_right=verdict in expected.verdicts,
        found=tuple(must.code for must in expected.must if found[must]),
        missed=tuple(must.code for must in expected.must if not found[must]),
        wrong=tuple(finding for finding in others if finding.code not in expected.may),
        folded=tuple(sorted({finding.code for finding in others if finding.code in expected.may})),
    )


def fits(finding: Named, pattern: Pattern, addresses: Addresses) -> bool:
    """Every part of the subject that the pattern says, and that it says only, must be there."""
    if finding.code != pattern.code:
        return False
    subject = finding.subject
    wanted = {part: getattr(pattern, part) for part in _LITERAL_PARTS}
    literal = all(subject.get(part) == wish for part, wish in wanted.items() if wish is not None)
    return literal and _addresses_fit(subject, pattern, addresses) and _size_fits(subject, pattern)


def _addresses_fit(subject: Mapping[str, Any], pattern: Pattern, addresses: Addresses) -> bool:
    wanted = (
        ("address", frozenset({pattern.address}) if pattern.address else None),
        ("address", addresses.get(pattern.host, frozenset()) if pattern.host else None),
        ("resolver", addresses.get(pattern.resolver, frozenset()) if pattern.resolver else None),
    )
    return all(_plain(subject.get(part)) in map(_plain, wish) for part, wish in wanted if wish is not None)


def _plain(address: str | None) -> str | None:
    """One spelling per address; without a resolver's "#port"."""
    try:
        return str(ip_address((address or "").partition("#")[0]))
    except ValueError:
        return address


def _size_fits(subject: Mapping[str, Any], pattern: Pattern) -> bool:
    if pattern.size is None:
        return True
    size = subject.get("size")
    return size is not None and abs(size - pattern.size) <= pattern.tolerance


def lines(graded: Grade) -> tuple[str, ...]:
    """The grade for a person, one line each."""
    told = [f"verdict {graded.verdict}: {'as expected' if graded.verdict_right else 'WRONG'}"]
    told += [f"found {code}" for code in graded.found]
    told += [f"MISSED {code}" for code in graded.missed]
    told += [f"WRONG {f.code} ({f.role}): {f.statement}" for f in graded.wrong]
    told += [f"also {code}, a consequence" for code in graded.folded]
    return (*told, "right" if graded.right else "NOT right")
