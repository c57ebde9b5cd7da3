"""A resolver that does not answer at all, or not over TCP; and the other rules of DNS gathered.

What all of them rest on
1. Every resolver was asked by itself: glibc hides a second resolver's failure behind the first one's answer.
2. An error rcode is an answer, and a lost datagram is not a dead server.
3. A name that this host knows without DNS (/etc/hosts, a cache, a search domain) is not harmed: a note, not a cause.
Lost and late answers are judged in dns_loss.py, errors in dns_errors.py, what is said of a name in records.py, and
the host's own look-up in host_lookup.py.
"""

from __future__ import annotations

from netdiag.diagnosis.finding import Action, Finding, Horizon, Judgement, RuledOut, Section, Severity
from netdiag.diagnosis.rule import Rule
from netdiag.diagnosis.rules import dns_errors, dns_loss, host_lookup, records
from netdiag.diagnosis.rules.resolver import (
    Resolver,
    despite_loss,
    each_resolver,
    left_open,
    lookup_time,
    most_lost,
    resolver_finding,
    slow_lookup,
    slowest_lookup,
)
from netdiag.diagnosis.rules.resolvers import answers, by_resolver, is_down, is_nonsense, is_silent, stub_wait
from netdiag.diagnosis.rules.subjects import milliseconds, ratio
from netdiag.diagnosis.thresholds import CERTAIN, DNS_ATTEMPTS, LOOKUP_GRACE_S, SYNS_PER_QUERY
from probes.model import Outcome
from probes.names import DnsQuery

DOWN, TCP = "dns.resolver-down", "dns.tcp-blocked"


# dns.resolver-down


def _down(resolver: Resolver) -> Judgement:
    asked = resolver.datagrams or resolver.over("tcp")
    replied = [query for query in asked if answers(query)]
    if not asked:
        return left_open(DOWN, resolver, "no query could be sent to it")
    if replied:
        return _up(resolver, asked, replied)
    if len(asked) < DNS_ATTEMPTS and is_silent(resolver.views):
        return left_open(DOWN, resolver, f"{len(asked)} lost datagram is no proof of a dead server")
    if slow_lookup(resolver) is not None:
        return left_open(
            DOWN, resolver, "this host's own look-up succeeds sooner than a dead server would let it (dns.loss)"
        )
    return _down_finding(resolver, asked)


def _up(resolver: Resolver, asked: tuple[DnsQuery, ...], replied: list[DnsQuery]) -> RuledOut:
    times = sorted(query.seconds for query in replied)
    lost = len(asked) - len(replied)
    return RuledOut(
        code=DOWN,
        subject=resolver.subject,
        statement=f"Resolver {resolver.address} answered {len(replied)} of {len(asked)} queries, "
        f"the median in {milliseconds(times[(len(times) - 1) // 2])}.",
        smallest_fault=f"a resolver that leaves more than {most_lost(lost, len(asked))} of queries unanswered.",
        evidence=resolver.evidence,
    )


def _down_finding(resolver: Resolver, asked: tuple[DnsQuery, ...]) -> Finding:
    silent = is_silent(resolver.views) and not any(map(is_nonsense, asked))
    failing = any(not name.resolves for name in resolver.names)
    return resolver_finding(
        resolver,
        DOWN,
        f"{_how_down(resolver, asked)} {_others(resolver)}{_cost(resolver)}",
        severity=Severity.CRITICAL if failing or resolver.asked_first else Severity.WARNING,
        confidence=despite_loss(len(asked) + len(resolver.over("tcp"))) if silent else CERTAIN,
        would_refute=f"Any answer of {resolver.address}, an error included, to a query over UDP from this host.",
        actions=_down_actions(resolver),
        note=resolver.harmless or _by_stream(resolver),
    )


def _how_down(resolver: Resolver, asked: tuple[DnsQuery, ...]) -> str:
    datagrams, streams = resolver.datagrams, resolver.over("tcp")
    counted = [(sum(map(answers, of)), len(of), how) for of, how in ((datagrams, "UDP"), (streams, "TCP")) if of]
    tried = ", ".join(f"{ratio(replied, sent)} over {how}" for replied, sent, how in counted)
    return f"Resolver {resolver.address} {_what(asked, streams)}: {tried}."


def _what(asked: tuple[DnsQuery, ...], streams: tuple[DnsQuery, ...]) -> str:
    outcomes = {query.outcome for query in asked}
    if any(answers(query) for query in streams):
        refused = outcomes <= {Outcome.REFUSED}
        how = "refuses UDP port 53, where nothing listens" if refused else "not over UDP: UDP port 53 is filtered"
        return f"answers over TCP and {how}"
    if outcomes <= {Outcome.REFUSED}:
        return "refuses port 53 (the host is there, the name server is not)"
    if outcomes <= {Outcome.REJECTED, Outcome.UNREACHABLE}:
        return f"cannot be reached ({_unreachable(asked)})"
    if any(map(is_nonsense, asked)):
        return (
            f"sends what is no answer (another id, another question, or no DNS message) to "
            f"{sum(map(is_nonsense, asked))} of {len(asked)} queries over UDP, so that it answers none"
        )
    if any(query.failure and query.failure.operation == "receive" for query in streams):
        return "accepts TCP connections and answers nothing, as one that hangs or waits for servers of its own"
    return "answers nothing"


def _unreachable(asked: tuple[DnsQuery, ...]) -> str:
    """Who says so: a router by ICMP, or this host, which has no route."""
    offenders = sorted({q.failure.icmp.offender or "" for q in asked if q.failure and q.failure.icmp})
    said = ", ".join(sorted({query.outcome for query in asked}))
    if not offenders:
        return f"{said}: this host has no route to it"
    return f"{said}, says {', '.join(filter(None, offenders)) or 'a router'}"


def _others(resolver: Resolver) -> str:
    others = {a: views for a, views in by_resolver(resolver.names).items() if a != resolver.address}
    working = [address for address, views in others.items() if not is_down(views)]
    if not others:
        return "It is the only resolver."
    return f"{', '.join(working)} answers." if working else "No other resolver answers either."


def _by_stream(resolver: Resolver) -> bool:
    """This host asks over TCP only (resolv.conf(5), use-vc), and there it answers."""
    return "use-vc" in resolver.names[0].config.options and any(answers(query) for query in resolver.over("tcp"))


def _cost(resolver: Resolver) -> str:
    """What it means for every look-up of this host: from glibc's rules, and as measured."""
    if resolver.harmless:
        known = ", ".join(name.name for name in resolver.names)
        return f" This host knows {known} without DNS."
    if _by_stream(resolver):
        return " This host asks over TCP only (use-vc), so that it misses nothing."
    config, measured = resolver.names[0].config, lookup_time(resolver)
    wait = stub_wait(config, resolver.silent)
    if wait is None or wait == 0:
        return f" It costs this host no waiting by glibc's rules; {measured}."
    if slowest_lookup(resolver) < wait - LOOKUP_GRACE_S:
        return f" By glibc's rules a look-up waits {wait:g} s for it; yet {measured}."
    if set(config.nameservers) <= resolver.silent:
        return f" Every look-up fails after {wait:g} s; {measured}."
    return f" Every look-up waits {wait:g} s before another resolver is asked; {measured}."


def _down_actions(resolver: Resolver) -> tuple[Action, ...]:
    return (
        Action(
            owner="dns",
            horizon=Horizon.IMMEDIATE,
            step=f"Restore {resolver.address}, or UDP and TCP port 53 to it; until then take it out of resolv.conf.",
            check=resolver.check,
        ),
        Action(
            owner="on-call",
            horizon=Horizon.SHORT_TERM,
            step="Set 'options timeout:1 attempts:2' in resolv.conf so that a dead resolver costs 1 s and not 5.",
            check=resolver.check,
        ),
    )


# dns.tcp-blocked


def _tcp(resolver: Resolver) -> Judgement:
    streams, datagrams = resolver.over("tcp"), resolver.over("udp")
    if any(answers(query) for query in streams):
        return RuledOut(
            code=TCP,
            subject=resolver.subject,
            statement=f"Resolver {resolver.address} answers over TCP "
            f"({sum(map(answers, streams))} of {len(streams)} queries).",
            smallest_fault=f"TCP port 53 closed to more than {most_lost(0, len(streams))} of connections.",
            evidence=resolver.evidence,
        )
    if not any(answers(query) for query in datagrams):
        return left_open(TCP, resolver, "it does not answer over UDP either, so TCP cannot be told apart")
    if not streams:
        return left_open(TCP, resolver, "it was not asked over TCP")
    return _tcp_finding(resolver, streams, datagrams)


def _tcp_finding(resolver: Resolver, streams: tuple[DnsQuery, ...], datagrams: tuple[DnsQuery, ...]) -> Finding:
    truncated = sum("TC" in query.flags for query in datagrams)
    failing = any(not name.resolves for name in resolver.names)
    how = ", ".join(sorted({str(query.outcome) for query in streams}))
    need = (
        f"{truncated} of its UDP answers are truncated (TC) and can only be had over TCP."
        if truncated
        else "None of its UDP answers was truncated, so nothing asked here needed TCP."
    )
    return resolver_finding(
        resolver,
        TCP,
        f"Resolver {resolver.address} answers over UDP and not over TCP: {ratio(0, len(streams))}, {how}. {need}",
        severity=Severity.CRITICAL if failing else Severity.WARNING,
        confidence=despite_loss(SYNS_PER_QUERY * len(streams)),
        would_refute=f"An answer of {resolver.address} over TCP port 53 from this host.",
        actions=(
            Action(
                owner="firewall",
                horizon=Horizon.SHORT_TERM,
                step=f"Allow TCP port 53 from this host to {resolver.address} (RFC 7766 requires DNS over TCP).",
                check=resolver.check,
            ),
        ),
        section=Section.CONFIGURATION,
        note=not truncated or resolver.harmless,
    )


RULES: tuple[Rule, ...] = (
    Rule(
        code=DOWN,
        section=Section.INFRASTRUCTURE,
        fires="A resolver answers no query of any name over UDP, at least two attempts, or refuses the port.",
        quiet="One datagram is lost, the answer is an error or merely late, only TCP is silent; a note where this host "
        "knows every name without DNS, or asks over TCP only.",
        refuted_by="Any answer from that resolver to this host over UDP.",
        judge=each_resolver(DOWN, _down),
    ),
    *dns_errors.RULES,
    *records.RULES,
    *host_lookup.RULES,
    Rule(
        code=TCP,
        section=Section.CONFIGURATION,
        fires="A resolver answers over UDP and over TCP never; a cause where an answer was truncated, else a note.",
        quiet="It is silent on UDP as well (dns.resolver-down), or TCP was not tried.",
        refuted_by="An answer over TCP port 53.",
        judge=each_resolver(TCP, _tcp),
    ),
    *dns_loss.RULES,
)
