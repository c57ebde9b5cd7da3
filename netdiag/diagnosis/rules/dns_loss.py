"""Queries that a resolver leaves unanswered, or answers late.

1. The share that is lost is told by a sample of repeated questions, so that no cold cache is in it.
2. A silence shorter than an answer of the same resolver took is no loss: it may have been slow.
3. What is never answered while everything else is (a record type, EDNS) is dropped by its content, not by chance.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from netdiag.diagnosis.finding import Action, Finding, Horizon, Judgement, RuledOut, Section, Severity
from netdiag.diagnosis.rule import Rule
from netdiag.diagnosis.rules.resolver import (
    Resolver,
    each_resolver,
    left_open,
    lookup_time,
    most_lost,
    resolver_finding,
    slow_lookup,
)
from netdiag.diagnosis.rules.resolvers import answers
from netdiag.diagnosis.rules.subjects import milliseconds, ratio
from netdiag.diagnosis.thresholds import (
    CERTAIN,
    DNS_ATTEMPTS,
    DNS_LOSS,
    DNS_QUERIES_LOST,
    DNS_SLOW_ANSWERS,
    DNS_SLOW_S,
    LEVEL,
    LIKELY,
    POSSIBLE,
)
from probes.model import Outcome
from probes.names import DnsQuery
from probes.stats.intervals import wilson

LOST = "dns.loss"
EDNS = "EDNS"
STUB_EDNS = frozenset({"edns0", "trust-ad"})  # resolv.conf(5): options with which glibc sends EDNS


# dns.loss


def _lost(resolver: Resolver) -> Judgement:
    """Names that it never answers are dns.servfail's; a resolver that answers nothing is dns.resolver-down's."""
    series = _counted(resolver)
    asked = [query for queries in series for query in queries]
    lost = [query for query in asked if query.outcome is Outcome.LOST]
    share = wilson(len(lost), len(asked), LEVEL)
    slow = slow_lookup(resolver)
    if slow is not None and share is None:
        return _slow_finding(resolver, slow)
    if share is None:
        return left_open(LOST, resolver, "without an answer over UDP, loss cannot be told from silence")
    late = _late_finding(resolver, asked)
    if late:
        return late
    mute = _mute(asked)
    if mute:
        return _mute_finding(resolver, asked, len(lost), mute)
    if _events(series) >= DNS_QUERIES_LOST and share.low > DNS_LOSS:
        said = f"A look-up waits the stub resolver's timeout for each (5 s by default); {lookup_time(resolver)}."
        confidence = LIKELY if _events(series) > DNS_QUERIES_LOST else POSSIBLE
        return _unanswered(resolver, asked, len(lost), said, confidence)
    if len(lost) >= DNS_ATTEMPTS and share.low > DNS_LOSS:
        said = f"{len(lost)} of {len(asked)} queries unanswered: loss, a cold cache, or one short outage"
        return left_open(LOST, resolver, said)
    return RuledOut(
        code=LOST,
        subject=resolver.subject,
        statement=f"Resolver {resolver.address}: {len(lost)} of {len(asked)} UDP queries were left unanswered.",
        smallest_fault=f"loss of more than {most_lost(len(lost), len(asked))} of queries or answers.",
        evidence=resolver.evidence,
    )


def _counted(resolver: Resolver) -> list[list[DnsQuery]]:
    """In the order asked: the sample, or, where there is none, each name's and type's attempts; without the silences
    that prove nothing (rule 2), and only of names of which it told something."""
    told = [view for view in resolver.views if any(answers(query) for query in view.datagrams)]
    series = [list(view.sampled) for view in told if view.sampled] or [
        [query for query in view.over("udp") if query.record_type == kind]
        for view in told
        for kind in sorted({query.record_type for query in view.over("udp")})
    ]
    patience = max((query.seconds for queries in series for query in queries if answers(query)), default=0.0)
    return [[q for q in queries if q.outcome is not Outcome.LOST or q.seconds >= patience] for queries in series]


def _late_finding(resolver: Resolver, asked: list[DnsQuery]) -> Finding | None:
    """Half of the answers come as late as no far resolver's do, also to questions that it was asked before."""
    times = sorted(query.seconds for query in asked if answers(query))
    median = times[(len(times) - 1) // 2]
    if median < DNS_SLOW_S or len(times) < DNS_SLOW_ANSWERS:
        return None
    return _finding(
        resolver,
        f"Resolver {resolver.address} answers late: in {milliseconds(median)} (median of {len(times)} answers over "
        f"UDP, {milliseconds(times[0])} to {milliseconds(times[-1])}), also what it was asked before; "
        f"{lookup_time(resolver)}.",
        CERTAIN,
        Action(
            owner="dns",
            horizon=Horizon.SHORT_TERM,
            step=f"Find what {resolver.address} waits for: load, its forwarders, a cache that keeps nothing; until "
            "then ask a quicker resolver first.",
            check=resolver.sample,
        ),
    )


def _events(series: list[list[DnsQuery]]) -> int:
    """Losses, those in a row counted once: one short outage is one event."""
    fates = [[query.outcome is Outcome.LOST for query in queries] for queries in series]
    return sum(now and not before for lost in fates for before, now in pairwise((False, *lost)))


def _mute(asked: list[DnsQuery]) -> str | None:
    """A record type, or EDNS, that is never answered while what is asked without it always is."""
    kinds: list[tuple[str, int, Callable[[DnsQuery], bool]]] = [(EDNS, DNS_QUERIES_LOST, lambda q: q.how != "plain")]
    kinds += [(kind, DNS_ATTEMPTS, _is_of(kind)) for kind in sorted({query.record_type for query in asked})]
    for name, least, has in kinds:
        having, rest = [q for q in asked if has(q)], [q for q in asked if not has(q)]
        silent = len(having) >= least and all(query.outcome is Outcome.LOST for query in having)
        if silent and len(rest) >= DNS_ATTEMPTS and all(answers(query) for query in rest):
            return name
    return None


def _is_of(kind: str) -> Callable[[DnsQuery], bool]:
    return lambda query: query.record_type == kind


def _mute_finding(resolver: Resolver, asked: list[DnsQuery], lost: int, mute: str) -> Finding:
    if mute != EDNS:
        said = (
            f"It answers no {mute} query while all others are answered: the zone's servers, the resolver or something "
            "on the way drops them by type, and each look-up that asks for both waits for the timeouts; "
            f"{lookup_time(resolver)}."
        )
        return _unanswered(resolver, asked, lost, said, LIKELY)
    used = bool(STUB_EDNS.intersection(resolver.names[0].config.options))
    said = (
        "It answers no query with EDNS (RFC 6891) while all without it are answered: the server or something on the "
        f"way drops them. This host's stub resolver {'sends it' if used else 'does not send it'} (resolv.conf)."
    )
    return _unanswered(resolver, asked, lost, said, LIKELY, note=not used)


def _slow_finding(resolver: Resolver, seconds: float) -> Finding:
    asked = list(resolver.datagrams)
    said = f"This host's own look-up succeeds after {milliseconds(seconds)}: answers come late or at a second try."
    return _unanswered(resolver, asked, len(asked), said, POSSIBLE)


def _unanswered(
    resolver: Resolver, asked: list[DnsQuery], lost: int, said: str, confidence: float, *, note: bool = False
) -> Finding:
    return _finding(
        resolver,
        f"Resolver {resolver.address} left {ratio(lost, len(asked))} UDP queries unanswered. {said}",
        confidence,
        Action(
            owner="network",
            horizon=Horizon.SHORT_TERM,
            step=f"Look for drops of UDP port 53 between this host and {resolver.address} (a policer, a limit on "
            "queries per second, conntrack).",
            check=resolver.sample,
        ),
        note=note,
    )


def _finding(resolver: Resolver, statement: str, confidence: float, action: Action, *, note: bool = False) -> Finding:
    return resolver_finding(
        resolver,
        LOST,
        statement,
        severity=Severity.WARNING,
        confidence=confidence,
        would_refute="The same queries all answered, in time, in a second run.",
        actions=(action,),
        note=note or resolver.harmless,
    )


RULES: tuple[Rule, ...] = (
    Rule(
        code=LOST,
        section=Section.INFRASTRUCTURE,
        fires="UDP queries stay unanswered at least three times, not in a row, and the interval's lower bound lies "
        "above 3 %, or one record type is never answered while all others are, or half of at least five answers take a "
        "second or more.",
        quiet="One or two losses (a cold cache makes two), or one run of them (an outage); a resolver that is 300 ms "
        "away; only EDNS is dropped and this host does not send it (a note); nothing at all is answered "
        "(dns.resolver-down).",
        refuted_by="The same queries all answered, in time.",
        judge=each_resolver(LOST, _lost),
    ),
)
