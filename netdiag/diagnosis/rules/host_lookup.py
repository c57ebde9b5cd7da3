"""The host's own look-up against what its resolvers say: all of DNS may be well and the application not know the name.

1. It fails at once, and every resolver of this host gives addresses: what stands between them is at fault.
2. A failure after a wait is the resolvers' or the path's, and theirs to explain.
3. Other addresses than DNS gives are everyday (/etc/hosts, a search domain): a note.
"""

from __future__ import annotations

from collections.abc import Iterator
from shlex import quote

from netdiag.diagnosis.finding import (
    Action,
    Finding,
    FindingRole,
    Horizon,
    Judgement,
    NotMeasured,
    RuledOut,
    Section,
    Severity,
    Subject,
)
from netdiag.diagnosis.rule import Case, Rule
from netdiag.diagnosis.rules.records import is_loopback, listed, local_source
from netdiag.diagnosis.rules.resolver import unasked
from netdiag.diagnosis.rules.resolvers import Name, View, answers, errno_of, is_quick, names
from netdiag.diagnosis.rules.subjects import finding_id, unseen_share
from netdiag.diagnosis.thresholds import CERTAIN, LIKELY
from probes.exchanges import HostLookup
from probes.model import FailureKind

HOST = "dns.host-lookup"


def judge(case: Case) -> Iterator[Judgement]:
    for name in names(case):
        yield _judge(name)
    yield from unasked(case, HOST)


def _judge(name: Name) -> Judgement:
    if not name.systems:
        return _open(name, "it was not asked")
    if name.resolves:
        return _resolves(name)
    own = _own_views(name)
    if own and all(map(_is_clean, own)) and all(map(_fails_at_once, name.systems)):
        return _fails(name, own)
    return _open(name, f"it fails{errno_of(name)}, and its resolvers do not all give addresses")


def _fails_at_once(lookup: HostLookup) -> bool:
    named = lookup.failure is not None and lookup.failure.kind is FailureKind.NAME
    return named and is_quick(lookup)


def _own_views(name: Name) -> list[View]:
    return [view for view in name.views if view.resolver in name.config.nameservers]


def _is_clean(view: View) -> bool:
    """Addresses, and nothing else than answers without error."""
    asked = (*view.queries, *view.sampled)
    return bool(view.addresses) and all(answers(query) and query.rcode == "NOERROR" for query in asked)


def _open(name: Name, said: str) -> NotMeasured:
    return NotMeasured(
        code=HOST,
        subject=Subject(name=name.name),
        statement=f"Whether this host's own look-up of {name.name} is at fault: {said}.",
        remedy=f"Once its resolvers answer: getent ahosts {quote(name.name)}",
    )


def _resolves(name: Name) -> Judgement:
    told = frozenset(address for view in name.views for address in view.addresses)
    own = name.system_addresses
    if told and told.isdisjoint(own) and not all(map(is_loopback, own)):
        return _finding(
            name,
            f"This host's own look-up of {name.name} gives {listed(own)}, where DNS gives {listed(told)}: "
            f"{local_source(name)}.",
            note=True,
        )
    return RuledOut(
        code=HOST,
        subject=Subject(name=name.name),
        statement=f"This host's own look-up of {name.name} gives {listed(own)}.",
        smallest_fault=f"a look-up that fails more than {unseen_share(len(name.systems))} of the time.",
        evidence=name.evidence,
    )


def _fails(name: Name, own: list[View]) -> Finding:
    gives = "; ".join(f"{view.resolver} gives {listed(view.addresses)}" for view in own)
    options = f" (options {' '.join(name.config.options)})" if name.config.options else ""
    return _finding(
        name,
        f"This host's own look-up of {name.name} fails at once{errno_of(name)}, although its resolvers know the name: "
        f"{gives}. What stands between is at fault: the hosts line of /etc/nsswitch.conf, "
        f"{name.config.source}{options}, or a local cache (nscd, sssd).",
    )


def _finding(name: Name, statement: str, *, note: bool = False) -> Finding:
    subject = Subject(name=name.name)
    return Finding(
        id=finding_id(HOST, subject),
        code=HOST,
        role=FindingRole.NOTE if note else FindingRole.CAUSE,
        severity=Severity.INFO if note else Severity.CRITICAL,
        confidence=CERTAIN if note else LIKELY,
        section=Section.CONFIGURATION,
        subject=subject,
        statement=statement,
        evidence=name.evidence,
        would_refute=f"'getent ahosts' with the resolvers' addresses for {name.name} on this host.",
        actions=(
            Action(
                owner="on-call",
                horizon=Horizon.IMMEDIATE,
                step="Compare /etc/nsswitch.conf (hosts: files dns), /etc/hosts and resolv.conf with those elsewhere.",
                check=f"getent ahosts {quote(name.name)}",
            ),
        ),
    )


RULES: tuple[Rule, ...] = (
    Rule(
        code=HOST,
        section=Section.CONFIGURATION,
        fires="This host's own look-up fails at once although each of its resolvers gives addresses without an error.",
        quiet="It gives other addresses than DNS (a note), fails after a wait, or a resolver in its list is at fault.",
        refuted_by="The resolvers' addresses from getaddrinfo on this host.",
        judge=judge,
    ),
)
