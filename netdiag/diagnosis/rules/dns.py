"""What is wrong with a resolver itself: silence, lost datagrams, no TCP, SERVFAIL, REFUSED.

What all of them rest on
1. Every resolver was asked by itself: glibc hides a second resolver's failure behind the first one's answer.
2. An error rcode is an answer, and a lost datagram is not a dead server.
3. A name that this host knows without DNS (/etc/hosts, a cache, a search domain) is not harmed: a note, not a cause.
What resolvers say of a name is judged in records.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
from netdiag.diagnosis.rules import records
from netdiag.diagnosis.rules.resolvers import (
    Name,
    View,
    answers,
    by_resolver,
    is_down,
    is_silent,
    missing_names,
    names,
    stub_wait,
)
from netdiag.diagnosis.rules.subjects import finding_id, milliseconds, percent, ratio
from netdiag.diagnosis.thresholds import (
    ADVERSE_LOSS,
    CERTAIN,
    DNS_ATTEMPTS,
    DNS_LOSS,
    DNS_LOSS_QUERIES_LOST,
    LEVEL,
    LIKELY,
    LOCAL_LOOKUP_S,
    LOOKUP_GRACE_S,
    POSSIBLE,
    SYNS_PER_QUERY,
)
from probes.failures import clean_text
from probes.model import Outcome, value
from probes.names import DnsQuery, ExtendedError
from probes.stats.intervals import wilson

DOWN, TCP, LOST = "dns.resolver-down", "dns.tcp-blocked", "dns.loss"
SERVFAIL, REFUSED = "dns.servfail", "dns.refused"
DECLINED = frozenset({"REFUSED", "NOTIMP", "FORMERR", "NOTAUTH"})

# RFC 8914 and its registry: whose trouble an extended error tells of.
EXTENDED = {
    **dict.fromkeys((6, 7, 8, 9, 10, 12), "DNSSEC validation failed"),
    **dict.fromkeys((15, 16, 17, 18), "blocked by the resolver's policy"),
    22: "no reachable authority: the resolver's own way to the authoritative servers is broken",
    23: "network error: the resolver's own way to the authoritative servers is broken",
}


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
        return f"netdiag probe names {quote(self.views[0].name)}"

    @property
    def harmless(self) -> bool:
        """Every name asked for is known to this host without DNS."""
        return all(name.from_elsewhere for name in self.names)

    def over(self, transport: str) -> tuple[DnsQuery, ...]:
        return tuple(query for view in self.views for query in view.over(transport))


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


def _each_resolver(code: str, judge: Callable[[Resolver], Judgement]) -> Callable[[Case], Iterator[Judgement]]:
    def judged(case: Case) -> Iterator[Judgement]:
        for resolver in resolvers(case):
            yield judge(resolver)
        yield from unasked(case, code)

    return judged


def _finding(
    resolver: Resolver,
    code: str,
    statement: str,
    *,
    severity: Severity,
    confidence: float,
    would_refute: str,
    actions: tuple[Action, ...],
    note: bool = False,
) -> Finding:
    return Finding(
        id=finding_id(code, resolver.subject),
        code=code,
        role=FindingRole.NOTE if note else FindingRole.CAUSE,
        severity=Severity.INFO if note else severity,
        confidence=confidence,
        section=Section.CONFIGURATION if code == TCP else Section.INFRASTRUCTURE,
        subject=resolver.subject,
        statement=statement,
        evidence=resolver.evidence,
        would_refute=would_refute,
        actions=actions,
    )


def _open(code: str, resolver: Resolver, said: str) -> NotMeasured:
    statement = f"Resolver {resolver.address}: {said}."
    return NotMeasured(code=code, subject=resolver.subject, statement=statement, remedy=resolver.check)


def despite_loss(unanswered: int) -> float:
    """How sure silence is: what the worst usable path (ADVERSE_LOSS each way) would still have let through."""
    lost = 1 - (1 - ADVERSE_LOSS) ** 2
    return round(min(CERTAIN, 1 - lost**unanswered), 2)


def _most_lost(lost: int, asked: int) -> str:
    interval = wilson(lost, asked, LEVEL)
    return percent(interval.high) if interval else "100%"


# dns.resolver-down


def _down(resolver: Resolver) -> Judgement:
    asked = resolver.over("udp") or resolver.over("tcp")
    replied = [query for query in asked if answers(query)]
    if not asked:
        return _open(DOWN, resolver, "no query could be sent to it")
    if replied:
        return _up(resolver, asked, replied)
    if len(asked) < DNS_ATTEMPTS and is_silent(resolver.views):
        return _open(DOWN, resolver, f"{len(asked)} lost datagram is no proof of a dead server")
    if slow_lookup(resolver) is not None:
        return _open(
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
        smallest_fault=f"a resolver that leaves more than {_most_lost(lost, len(asked))} of queries unanswered.",
        evidence=resolver.evidence,
    )


def _down_finding(resolver: Resolver, asked: tuple[DnsQuery, ...]) -> Finding:
    silent = is_silent(resolver.views)
    failing = any(not name.resolves for name in resolver.names)
    return _finding(
        resolver,
        DOWN,
        f"{_how_down(resolver, asked)} {_others(resolver)}{_cost(resolver)}",
        severity=Severity.CRITICAL if failing or _asked_first(resolver) else Severity.WARNING,
        confidence=despite_loss(len(asked) + len(resolver.over("tcp"))) if silent else CERTAIN,
        would_refute=f"Any answer of {resolver.address}, an error included, to a query over UDP from this host.",
        actions=_down_actions(resolver),
        note=resolver.harmless,
    )


def _how_down(resolver: Resolver, asked: tuple[DnsQuery, ...]) -> str:
    datagrams, streams = resolver.over("udp"), resolver.over("tcp")
    counted = [(sum(map(answers, of)), len(of), how) for of, how in ((datagrams, "UDP"), (streams, "TCP")) if of]
    tried = ", ".join(f"{ratio(replied, sent)} over {how}" for replied, sent, how in counted)
    outcomes = {query.outcome for query in asked}
    if any(answers(query) for query in streams):
        what = "answers over TCP and not over UDP, so UDP port 53 is filtered on the way"
    elif outcomes <= {Outcome.REFUSED}:
        what = "refuses port 53 (the host is there, the name server is not)"
    elif outcomes <= {Outcome.REJECTED, Outcome.UNREACHABLE}:
        what = f"cannot be reached ({', '.join(sorted(outcomes))})"
    elif any(query.failure and query.failure.operation == "receive" for query in streams):
        what = "accepts TCP connections and answers nothing, as one that hangs or waits for servers of its own"
    else:
        what = "answers nothing"
    return f"Resolver {resolver.address} {what}: {tried}."


def _others(resolver: Resolver) -> str:
    others = {a: views for a, views in by_resolver(resolver.names).items() if a != resolver.address}
    working = [address for address, views in others.items() if not is_down(views)]
    if not others:
        return "It is the only resolver."
    return f"{', '.join(working)} answers." if working else "No other resolver answers either."


def _cost(resolver: Resolver) -> str:
    """What it means for every look-up of this host: from glibc's rules, and as measured."""
    if resolver.harmless:
        known = ", ".join(name.name for name in resolver.names)
        return f" This host knows {known} without DNS."
    config = resolver.names[0].config
    wait = stub_wait(config, _silent(resolver))
    slowest = max((lookup.seconds for name in resolver.names for lookup in name.systems), default=0.0)
    measured = f"; getaddrinfo took {milliseconds(slowest)} here"
    if wait is None or wait == 0:
        return f" It costs this host no waiting by glibc's rules{measured}."
    if set(config.nameservers) <= _silent(resolver):
        return f" Every look-up fails after {wait:g} s{measured}."
    return f" Every look-up waits {wait:g} s before another resolver is asked{measured}."


def _silent(resolver: Resolver) -> frozenset[str]:
    return frozenset(a.partition("#")[0] for a, views in by_resolver(resolver.names).items() if is_silent(views))


def _asked_first(resolver: Resolver) -> bool:
    """It is silent, and this host asks it before one that is not."""
    servers, silent = resolver.names[0].config.nameservers, _silent(resolver)
    address = resolver.address.partition("#")[0]
    return address in silent and address in servers and set(servers[: servers.index(address)]) <= silent


def slow_lookup(resolver: Resolver) -> float | None:
    """Seconds of a getaddrinfo that waited for DNS, yet not as long as this resolver's silence would cost: it does
    answer, later than our timeout or at a second try. None where nothing shows that."""
    wait = stub_wait(resolver.names[0].config, _silent(resolver))
    if wait is None or not _asked_first(resolver):
        return None
    took = [lookup.seconds for name in resolver.names for lookup in name.systems if lookup.addresses]
    return next((s for s in sorted(took) if LOCAL_LOOKUP_S <= s < wait - LOOKUP_GRACE_S), None)


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
            smallest_fault=f"TCP port 53 closed to more than {_most_lost(0, len(streams))} of connections.",
            evidence=resolver.evidence,
        )
    if not any(answers(query) for query in datagrams):
        return _open(TCP, resolver, "it does not answer over UDP either, so TCP cannot be told apart")
    if not streams:
        return _open(TCP, resolver, "it was not asked over TCP")
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
    return _finding(
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
        note=not truncated or resolver.harmless,
    )


# dns.loss


def _lost(resolver: Resolver) -> Judgement:
    """Names that it never answers are dns.servfail's; a resolver that answers nothing is dns.resolver-down's."""
    told = [view for view in resolver.views if any(answers(query) for query in view.over("udp"))]
    asked = [query for view in told for query in view.over("udp")]
    lost = [query for query in asked if query.outcome is Outcome.LOST]
    share = wilson(len(lost), len(asked), LEVEL)
    slow = slow_lookup(resolver)
    if slow is not None and share is None:
        return _slow_finding(resolver, slow)
    if share is None:
        return _open(LOST, resolver, "without an answer over UDP, loss cannot be told from silence")
    mute = _mute_type(asked)
    if mute or (len(lost) >= DNS_LOSS_QUERIES_LOST and share.low > DNS_LOSS):
        return _lost_finding(resolver, asked, len(lost), mute)
    if len(lost) >= DNS_ATTEMPTS and share.low > DNS_LOSS:
        return _open(LOST, resolver, f"{len(lost)} of {len(asked)} queries unanswered: loss, or a cold cache")
    return RuledOut(
        code=LOST,
        subject=resolver.subject,
        statement=f"Resolver {resolver.address}: {len(lost)} of {len(asked)} UDP queries were left unanswered.",
        smallest_fault=f"loss of more than {_most_lost(len(lost), len(asked))} of queries or answers.",
        evidence=resolver.evidence,
    )


def _mute_type(asked: list[DnsQuery]) -> str | None:
    """A record type that is never answered while another always is: dropped by content, not by chance."""
    for kind in sorted({query.record_type for query in asked}):
        of_kind = [query for query in asked if query.record_type == kind]
        rest = [query for query in asked if query.record_type != kind]
        silent = all(query.outcome is Outcome.LOST for query in of_kind)
        if silent and len(of_kind) >= DNS_ATTEMPTS and rest and all(answers(query) for query in rest):
            return kind
    return None


def _lost_finding(resolver: Resolver, asked: list[DnsQuery], lost: int, mute: str | None) -> Finding:
    said = (
        f"It answers no {mute} query while all others are answered: the zone's servers, the resolver or something on "
        "the way drops them by type, and each look-up that asks for both waits for the timeouts."
        if mute
        else "Each unanswered one costs a look-up the stub resolver's timeout (5 s by default)."
    )
    return _unanswered(resolver, asked, lost, said, LIKELY if mute else POSSIBLE)


def _slow_finding(resolver: Resolver, seconds: float) -> Finding:
    asked = list(resolver.over("udp"))
    said = f"This host's own look-up succeeds after {milliseconds(seconds)}: answers come late or at a second try."
    return _unanswered(resolver, asked, len(asked), said, POSSIBLE)


def _unanswered(resolver: Resolver, asked: list[DnsQuery], lost: int, said: str, confidence: float) -> Finding:
    return _finding(
        resolver,
        LOST,
        f"Resolver {resolver.address} left {ratio(lost, len(asked))} UDP queries unanswered. {said}",
        severity=Severity.WARNING,
        confidence=confidence,
        would_refute="The same queries all answered, in time, in a second run.",
        actions=(
            Action(
                owner="network",
                horizon=Horizon.SHORT_TERM,
                step=f"Look for drops of UDP port 53 between this host and {resolver.address} (policer, conntrack).",
                check=resolver.check,
            ),
        ),
        note=resolver.harmless,
    )


# dns.servfail, dns.refused


def _each_view(code: str, rcodes: frozenset[str]) -> Callable[[Case], Iterator[Judgement]]:
    def judged(case: Case) -> Iterator[Judgement]:
        found = names(case)
        alive = {address for address, views in by_resolver(found).items() if any(view.answered for view in views)}
        for name in found:
            for view in name.views:
                yield _errors(code, rcodes, name, view, view.resolver in alive)
        yield from unasked(case, code)

    return judged


def _errors(code: str, rcodes: frozenset[str], name: Name, view: View, alive: bool) -> Judgement:
    bad = [query for query in view.answered if query.rcode in rcodes]
    subject = Subject(name=view.name, resolver=view.resolver)
    if not view.answered and alive and code == SERVFAIL and len(view.queries) >= DNS_ATTEMPTS:
        said = f"never answers for {view.name}, {ratio(0, len(view.queries))}, while it answers for other names"
        return _error_finding(code, name, view, said, severity=_severity(name, view), confidence=POSSIBLE)
    if not view.answered:
        statement = f"Resolver {view.resolver} gave no answer for {view.name}, an error or otherwise."
        remedy = f"Let the resolver answer, then: {_check(view)}"
        return NotMeasured(code=code, subject=subject, statement=statement, remedy=remedy)
    if not bad:
        return RuledOut(
            code=code,
            subject=subject,
            statement=f"None of {len(view.answered)} answers of {view.resolver} for {view.name} is "
            f"{' or '.join(sorted(rcodes)) if len(rcodes) == 1 else 'a refusal'}.",
            smallest_fault=f"an error in more than {_most_lost(0, len(view.answered))} of its answers.",
            evidence=view.evidence,
        )
    return _error_finding(
        code,
        name,
        view,
        f"answers {_rcodes(bad)} for {view.name} in {ratio(len(bad), len(view.answered))} answers{_extended(bad)}",
        severity=_severity(name, view),
        confidence=CERTAIN,
        note=not _failing_types(view, bad),
    )


def _failing_types(view: View, bad: list[DnsQuery]) -> frozenset[str]:
    """Record types for which it never gave anything but the error: one error among good answers is passing."""
    good = {query.record_type for query in view.answered} - {query.record_type for query in bad}
    mixed = {query.record_type for query in view.answered if query not in bad}
    return frozenset(query.record_type for query in bad) - good - mixed


def _severity(name: Name, view: View) -> Severity:
    others = any(other.addresses for other in name.views if other is not view)
    usable = name.resolves and (others or bool(view.addresses))
    return Severity.WARNING if usable else Severity.CRITICAL


def _rcodes(bad: list[DnsQuery]) -> str:
    return "/".join(sorted({query.rcode or "" for query in bad}))


def _extended(bad: list[DnsQuery]) -> str:
    errors = {error.code: error for query in bad for error in query.extended_errors}
    return "".join(f"; {_extended_text(errors[code])}" for code in sorted(errors))


def _extended_text(error: ExtendedError) -> str:
    meaning = EXTENDED.get(error.code) or clean_text(error.text)
    return f"EDE {error.code}, {meaning}" if meaning else f"EDE {error.code}"


def _check(view: View) -> str:
    return f"netdiag probe names {quote(view.name)}"


def _elsewhere(name: Name, view: View) -> str:
    working = [other.resolver for other in name.views if other is not view and other.addresses]
    if name.from_elsewhere:
        return f"This host knows {name.name} without DNS ({', '.join(name.system_addresses)})."
    if working:
        return f"{', '.join(working)} answers with addresses."
    return "No other resolver gives an address." if len(name.views) > 1 else "It is the only resolver."


def _error_finding(
    code: str, name: Name, view: View, said: str, *, severity: Severity, confidence: float, note: bool = False
) -> Finding:
    subject = Subject(name=view.name, resolver=view.resolver)
    note = note or name.from_elsewhere
    own = "" if name.resolves else " This host's own look-up of the name fails."
    return Finding(
        id=finding_id(code, subject),
        code=code,
        role=FindingRole.NOTE if note else FindingRole.CAUSE,
        severity=Severity.INFO if note else severity,
        confidence=confidence,
        section=Section.CONFIGURATION if code == REFUSED else Section.INFRASTRUCTURE,
        subject=subject,
        statement=f"Resolver {view.resolver} {said}. {_elsewhere(name, view)}{own}",
        evidence=view.evidence,
        would_refute=f"NOERROR from {view.resolver} for the same name and type from this host.",
        actions=(_error_action(code, view),),
    )


def _error_action(code: str, view: View) -> Action:
    step = (
        f"Let {view.resolver} resolve {view.name}: its upstream servers or forwarders, the zone's delegation, DNSSEC."
        if code == SERVFAIL
        else f"Allow this host in the access list of {view.resolver}, or take the resolver out of resolv.conf."
    )
    return Action(owner="dns", horizon=Horizon.IMMEDIATE, step=step, check=_check(view))


RULES: tuple[Rule, ...] = (
    Rule(
        code=DOWN,
        section=Section.INFRASTRUCTURE,
        fires="A resolver answers no query of any name over UDP, at least two attempts, or refuses the port.",
        quiet="One datagram is lost, the answer is an error or merely late, only TCP is silent; a note where this host "
        "knows every name without DNS.",
        refuted_by="Any answer from that resolver to this host over UDP.",
        judge=_each_resolver(DOWN, _down),
    ),
    Rule(
        code=SERVFAIL,
        section=Section.INFRASTRUCTURE,
        fires="A resolver answers SERVFAIL for a name and record type and nothing better, or never answers for it "
        "while it answers for others.",
        quiet="Single SERVFAILs among good answers are a note, and so is a name that this host knows without DNS.",
        refuted_by="NOERROR from the same resolver for the same name and type.",
        judge=_each_view(SERVFAIL, frozenset({"SERVFAIL"})),
    ),
    Rule(
        code=REFUSED,
        section=Section.CONFIGURATION,
        fires="A resolver declines to answer: REFUSED, NOTIMP, FORMERR or NOTAUTH.",
        quiet="It answers some other way for the same record type.",
        refuted_by="NOERROR or NXDOMAIN from the same resolver for the same name.",
        judge=_each_view(REFUSED, DECLINED),
    ),
    *records.RULES,
    Rule(
        code=TCP,
        section=Section.CONFIGURATION,
        fires="A resolver answers over UDP and over TCP never; a cause where an answer was truncated, else a note.",
        quiet="It is silent on UDP as well (dns.resolver-down), or TCP was not tried.",
        refuted_by="An answer over TCP port 53.",
        judge=_each_resolver(TCP, _tcp),
    ),
    Rule(
        code=LOST,
        section=Section.INFRASTRUCTURE,
        fires="At least three UDP queries stay unanswered and the interval's lower bound lies above 10 %, or one "
        "record type is never answered while all others are.",
        quiet="One or two losses (a cold cache makes two); a resolver that answers nothing is dns.resolver-down.",
        refuted_by="The same queries all answered, or answered late.",
        judge=_each_resolver(LOST, _lost),
    ),
)
