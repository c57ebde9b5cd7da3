"""One fault at several addresses of one endpoint is one finding, not one for each address.

Twins say the same but for addresses and figures. Where the figures are the point (loss, delay, sizes, routes) each
address keeps its own and stays apart, but for the two families of one name: they mostly share the wire, so that they
are one finding with the figures of both. A fault that hits one family alone says which, where the other one was judged
and is free of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from netdiag.diagnosis.finding import Action, Finding, FindingRole, Judgement, RuledOut, Subject
from netdiag.diagnosis.rules.subjects import address_order, at
from netdiag.plan.model import Alternatives, Plan

_FOLDED = ("db.", "firewall.", "host.", "lb.backend-down", "lb.wrong-protocol", "net.unreachable")
_FOLDED_BY_FAMILY = ("link.", "mtu.", "region.", "bgp.", "lb.packet-loss")
_WITH_TWINS = (*_FOLDED, *_FOLDED_BY_FAMILY)
_OF_THE_LOGIN = frozenset({"db.auth-failed", "db.hba-rejected", "db.no-database"})
_ADDRESS = re.compile(r"\[?(?:[0-9a-fA-F]*:[0-9a-fA-F:.]*:[0-9a-fA-F.]*|\d+\.\d+\.\d+\.\d+)(?:%\w+)?\]?")
_FIGURE = re.compile(r"\d[\d.,]*")
_HOP = re.compile(r"\bhop \d+")
_END_OF_SENTENCE = re.compile(r"(?<=\.) (?=[A-Z])")


def fold_twins(findings: Iterable[Finding], plan: Plan) -> list[Finding]:
    """Findings in their given order, twins under the one whose address comes first (IPv4 before IPv6).

    What is wrong with the login alone is one thing for all hosts of a DSN; what is wrong with a host is its own.
    """
    dsns = {endpoint.name: endpoint.alternatives for endpoint in plan.endpoints if endpoint.alternatives}
    groups: dict[object, list[Finding]] = {}
    for finding in findings:
        groups.setdefault(_likeness(finding, dsns), []).append(finding)
    heads: dict[str, str] = {}
    twins = [twin for group in groups.values() for twin in _twins(sorted(group, key=_by_address))]
    merged = [_merged(group, heads) for group in twins]
    return [_repointed(finding, heads) for finding in merged]


def _twins(group: list[Finding]) -> list[list[Finding]]:
    """The group whole; where figures are the point, only if it is one address of each family."""
    if not group[0].code.startswith(_FOLDED_BY_FAMILY):
        return [group]
    if len(group) == 2 and _family(group[0]) != _family(group[1]):
        return [group]
    return [[finding] for finding in group]


def _endpoint_of(subject: Subject) -> Subject | None:
    """The subject without what differs between two paths to one endpoint; None where the plan names none."""
    return None if subject.endpoint is None else replace(subject, address=None, hop=None, flow=None, size=None)


def _likeness(finding: Finding, dsns: Mapping[str, Alternatives]) -> object:
    subject = finding.subject
    if subject.address is None or not finding.code.startswith(_WITH_TWINS):
        return finding.id
    if finding.code.startswith(_FOLDED_BY_FAMILY):
        return (finding.code, finding.role, finding.severity, _endpoint_of(subject) or finding.id)
    words = _FIGURE.sub("#", _ADDRESS.sub("@", finding.statement))
    hops = tuple(_HOP.findall(finding.statement))  # as many hops from here: the place of one is that of the other
    where: object = replace(subject, address=None, hop=None)
    if finding.code in _OF_THE_LOGIN:
        where = dsns.get(subject.endpoint or "", where)
    return (finding.code, finding.role, finding.severity, where, words, hops)


def _by_address(finding: Finding) -> tuple[int, int, str]:
    return address_order(finding.subject.address or "")


def _merged(group: Sequence[Finding], heads: dict[str, str]) -> Finding:
    head, *others = group
    heads.update((finding.id, head.id) for finding in group)
    if not others:
        return head
    sure = [finding.confidence for finding in group]
    return replace(
        head,
        statement=f"{head.statement} {_the_same(head, others)}",
        confidence=None if None in sure else min(number for number in sure if number is not None),
        evidence=tuple(sorted({name for finding in group for name in finding.evidence})),
        explains=tuple(dict.fromkeys(name for finding in group for name in finding.explains)),
        actions=_actions(group),
    )


def _actions(group: Sequence[Finding]) -> tuple[Action, ...]:
    """Each owner's step once, with the first check of it."""
    steps = {(one.owner, one.horizon, one.step): one for finding in reversed(group) for one in finding.actions}
    return tuple(sorted(steps.values(), key=[a for f in group for a in f.actions].index))


def _the_same(head: Finding, others: Sequence[Finding]) -> str:
    if head.code.startswith(_FOLDED_BY_FAMILY):
        return f"Over {_family(others[0])} as well: {_END_OF_SENTENCE.split(others[0].statement)[0]}"
    places = ", ".join(at(other.subject.address or "", other.subject.port) for other in others)
    families = {_family(other) for other in others}
    over = f" over {families.pop()}" if len(families) == 1 and families != {_family(head)} else ""
    return f"The same{over} at {places}."


def _family(finding: Finding | RuledOut) -> str:
    return "IPv6" if ":" in (finding.subject.address or "") else "IPv4"


def _repointed(finding: Finding, heads: dict[str, str]) -> Finding:
    return replace(finding, explains=tuple(dict.fromkeys(heads.get(name, name) for name in finding.explains)))


def name_family(findings: Iterable[Finding], judged: Sequence[Judgement]) -> list[Finding]:
    """A cause at one family's addresses alone says so, where the same was ruled out at the other's."""
    return [_with_family(finding, judged) for finding in findings]


def _with_family(finding: Finding, judged: Sequence[Judgement]) -> Finding:
    address = finding.subject.address
    if finding.role is not FindingRole.CAUSE or address is None or not finding.code.startswith(_WITH_TWINS):
        return finding
    beside = [one for one in judged if one.code == finding.code and _of_one_endpoint(one.subject, finding.subject)]
    free = [one for one in beside if isinstance(one, RuledOut) and _family(one) != _family(finding)]
    hit = [one for one in beside if isinstance(one, Finding) and _family(one) != _family(finding)]
    if hit or not free:
        return finding
    there = at(free[0].subject.address or "", free[0].subject.port)
    return replace(
        finding,
        statement=f"{finding.statement} Over {_family(finding)} alone: {there} of the same name is free of it.",
        evidence=tuple(sorted({*finding.evidence, *free[0].evidence})),
    )


def _of_one_endpoint(one: Subject, other: Subject) -> bool:
    return one.address is not None and (one.endpoint, one.port) == (other.endpoint, other.port)
