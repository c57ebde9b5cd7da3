"""One resolver over all the names that it was asked: what every rule about resolvers shares."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import inf
from shlex import quote

from netdiag.diagnosis.finding import (
    Action,
    Finding,
    FindingRole,
    Judgement,
    NotMeasured,
    Section,
    Severity,
    Subject,
)
from netdiag.diagnosis.rule import Case
from netdiag.diagnosis.rules.resolvers import Name, View, by_resolver, is_silent, missing_names, names, stub_wait
from netdiag.diagnosis.rules.subjects import finding_id, milliseconds, percent
from netdiag.diagnosis.thresholds import (
    ADVERSE_LOSS,
    CERTAIN,
    LEVEL,
    LOCAL_LOOKUP_S,
    LOOKUP_GRACE_S,
)
from probes.model import FailureKind, value
from probes.names import DnsQuery
from probes.stats.intervals import wilson


@value
class Resolver:
    """One resolver over all names, and what the judgements need of the others."""

    address: str
    views: tuple[View, ...]
    names: tuple[Name, ...]

    @property
    def subject(self) -> Subject:
        return Subject(resolver=self.address)

    @property
    def evidence(self) -> tuple[str, ...]:
        return tuple(sorted({id_ for view in self.views for id_ in view.evidence}))

    @property
    def check(self) -> str:
        return check_of(self.names[0], self.views[0])

    @property
    def sample(self) -> str:
        """The command that asks often enough to tell a share."""
        return f"{self.check} --set samples=150"

    @property
    def harmless(self) -> bool:
        """Every name asked for is known to this host without DNS."""
        return all(name.from_elsewhere for name in self.names)

    @property
    def datagrams(self) -> tuple[DnsQuery, ...]:
        return tuple(query for view in self.views for query in view.datagrams)

    @property
    def silent(self) -> frozenset[str]:
        """Addresses of all resolvers that this host's stub resolver would wait for."""
        views = by_resolver(self.names).items()
        return frozenset(address.partition("#")[0] for address, of in views if is_silent(of))

    @property
    def asked_first(self) -> bool:
        """It is silent, and this host asks it before one that is not."""
        servers, silent = self.names[0].config.nameservers, self.silent
        address = self.address.partition("#")[0]
        return address in silent and address in servers and set(servers[: servers.index(address)]) <= silent

    def over(self, transport: str) -> tuple[DnsQuery, ...]:
        """The questions, without the samples."""
        return tuple(query for view in self.views for query in view.over(transport))


def check_of(name: Name, view: View) -> str:
    """The command that asks this resolver for the name again; it must be told of one that is not the host's own."""
    of = "" if view.resolver in name.config.nameservers else f" --set resolvers={quote(view.resolver)}"
    return f"netdiag probe names {quote(view.name)}{of}"


def resolvers(case: Case) -> tuple[Resolver, ...]:
    found = names(case)
    return tuple(Resolver(address=a, views=views, names=found) for a, views in by_resolver(found).items())


def unasked(case: Case, code: str) -> Iterator[NotMeasured]:
    for name in missing_names(case):
        yield NotMeasured(
            code=code,
            subject=Subject(name=name),
            statement=f"What the resolvers answer for {name}: they were not asked.",
            remedy=f"netdiag probe names {quote(name)}",
        )


def each_resolver(code: str, judge: Callable[[Resolver], Judgement]) -> Callable[[Case], Iterator[Judgement]]:
    def judged(case: Case) -> Iterator[Judgement]:
        for resolver in resolvers(case):
            yield judge(resolver)
        yield from unasked(case, code)

    return judged


def resolver_finding(
    resolver: Resolver,
    code: str,
    statement: str,
    *,
    severity: Severity,
    confidence: float,
    would_refute: str,
    actions: tuple[Action, ...],
    section: Section = Section.INFRASTRUCTURE,
    note: bool = False,
) -> Finding:
    return Finding(
        id=finding_id(code, resolver.subject),
        code=code,
        role=FindingRole.NOTE if note else FindingRole.CAUSE,
        severity=Severity.INFO if note else severity,
        confidence=confidence,
        section=section,
        subject=resolver.subject,
        statement=statement,
        evidence=resolver.evidence,
        would_refute=would_refute,
        actions=actions,
    )


def left_open(code: str, resolver: Resolver, said: str) -> NotMeasured:
    statement = f"Resolver {resolver.address}: {said}."
    return NotMeasured(code=code, subject=resolver.subject, statement=statement, remedy=resolver.check)


def despite_loss(unanswered: int) -> float:
    """How sure silence is: what the worst usable path (ADVERSE_LOSS each way) would still have let through."""
    lost = 1 - (1 - ADVERSE_LOSS) ** 2
    return round(min(CERTAIN, 1 - lost**unanswered), 2)


def most_lost(lost: int, asked: int) -> str:
    interval = wilson(lost, asked, LEVEL)
    return percent(interval.high) if interval else "100%"


def slowest_lookup(resolver: Resolver) -> float:
    """Seconds; infinite where one was not waited for to its end, or none was asked."""
    lookups = [lookup for name in resolver.names for lookup in name.systems]
    ended = [s.seconds for s in lookups if not (s.failure and s.failure.kind is FailureKind.TIMEOUT)]
    return max(ended) if ended and len(ended) == len(lookups) else inf


def lookup_time(resolver: Resolver) -> str:
    """``getaddrinfo took 5.01 s here``: the longest of what this host's own look-ups took."""
    lookups = [lookup for name in resolver.names for lookup in name.systems]
    if not lookups:
        return "getaddrinfo was not asked"
    slowest = max(lookups, key=lambda lookup: lookup.seconds)
    if slowest.failure and slowest.failure.kind is FailureKind.TIMEOUT:
        return f"getaddrinfo had not ended after {milliseconds(slowest.seconds)} here"
    return f"getaddrinfo took {milliseconds(slowest.seconds)} here"


def slow_lookup(resolver: Resolver) -> float | None:
    """Seconds of a getaddrinfo that waited for DNS, yet not as long as this resolver's silence would cost: it does
    answer, later than our timeout or at a second try. None where nothing shows that."""
    wait = stub_wait(resolver.names[0].config, resolver.silent)
    if wait is None or not resolver.asked_first:
        return None
    took = [lookup.seconds for name in resolver.names for lookup in name.systems if lookup.addresses]
    return next((s for s in sorted(took) if LOCAL_LOOKUP_S <= s < wait - LOOKUP_GRACE_S), None)
