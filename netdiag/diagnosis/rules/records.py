"""What resolvers say of a name: that it does not exist, two different things, or an address that is dead.

1. Geo and latency records legitimately differ: different addresses alone are a note, never a cause.
2. A dead address that only one resolver gives is a stale record; one that all give may as well be a dead backend,
   and db.port-closed or firewall.drop says so.
3. What was not dialled is not dead.
4. A truncated answer is no denial.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address
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
from netdiag.diagnosis.rules.handshakes import Answer, Tries, is_local, tries_at
from netdiag.diagnosis.rules.resolvers import (
    ADDRESS_TYPES,
    Name,
    View,
    addresses_in,
    aliases,
    answers,
    errno_of,
    missing_names,
    names,
    needs_no_resolver,
    plain,
)
from netdiag.diagnosis.rules.subjects import (
    address_order,
    addresses_of,
    at,
    finding_id,
    is_address,
    percent,
    unseen_share,
)
from netdiag.diagnosis.thresholds import CERTAIN, LEVEL, LIKELY, POSSIBLE, SAMPLES_PER_NAME
from netdiag.plan.model import Endpoint
from probes.model import value
from probes.stats.intervals import wilson

NXDOMAIN, INCONSISTENT, STALE = "dns.nxdomain", "dns.inconsistent", "dns.stale-record"


def _check(name: str) -> str:
    return f"netdiag probe names {quote(name)}"


def _unasked(case: Case, code: str) -> Iterator[NotMeasured]:
    for name in missing_names(case):
        statement = f"What the resolvers answer for {name}: they were not asked."
        yield NotMeasured(code=code, subject=Subject(name=name), statement=statement, remedy=_check(name))


def is_loopback(address: str) -> bool:
    return is_address(address) and ip_address(address).is_loopback


def listed(addresses: frozenset[str] | tuple[str, ...]) -> str:
    return ", ".join(sorted(addresses, key=address_order))


def _finding(
    code: str,
    subject: Subject,
    statement: str,
    evidence: tuple[str, ...],
    *,
    severity: Severity,
    confidence: float,
    would_refute: str,
    step: str,
    check: str,
    note: bool = False,
) -> Finding:
    return Finding(
        id=finding_id(code, subject),
        code=code,
        role=FindingRole.NOTE if note else FindingRole.CAUSE,
        severity=Severity.INFO if note else severity,
        confidence=confidence,
        section=Section.INFRASTRUCTURE,
        subject=subject,
        statement=statement,
        evidence=evidence,
        would_refute=would_refute,
        actions=(Action(owner="dns", horizon=Horizon.IMMEDIATE, step=step, check=check),),
    )


# dns.nxdomain


def judge_nxdomain(case: Case) -> Iterator[Judgement]:
    for name in names(case):
        yield _nxdomain(name)
    yield from _unasked(case, NXDOMAIN)


def _nxdomain(name: Name) -> Judgement:
    told = [view for view in name.views if view.addresses or _settled(view)]
    if not told:
        return NotMeasured(
            code=NXDOMAIN,
            subject=Subject(name=name.name),
            statement=f"Whether {name.name} exists in DNS: no resolver settled it (errors or silence).",
            remedy=f"Let a resolver answer, then: {_check(name.name)}",
        )
    if any(view.addresses for view in told) or (name.resolves and not _overridden(name)):
        return _name_exists(name, told)
    return _name_missing(name, told)


def _settled(view: View) -> bool:
    """Every type that was asked has an answer: without that of A, the NODATA of AAAA says nothing of the name."""
    return bool(view.queries) and _types(view) >= {query.record_type for query in view.queries}


def _overridden(name: Name) -> bool:
    """/etc/hosts or a cache speaks where DNS knows nothing; a search domain or a loopback name is everyday."""
    return not _is_searched(name) and not all(map(is_loopback, name.system_addresses))


def _name_exists(name: Name, told: list[View]) -> RuledOut:
    giving = [view for view in told if view.addresses]
    if giving and len(told) == 1:
        known = "the one resolver that answered gives addresses for it"
    elif giving:
        known = f"{len(giving)} of {len(told)} resolvers that answered give addresses for it"
    else:
        known = f"this host resolves it without these answers ({listed(name.system_addresses)})"
    return RuledOut(
        code=NXDOMAIN,
        subject=Subject(name=name.name),
        statement=f"{name.name} exists: {known}.",
        smallest_fault="a name that every resolver asked denies.",
        evidence=name.evidence,
    )


def _name_missing(name: Name, told: list[View]) -> Finding:
    denied = [view.resolver for view in told if view.denied]
    empty = [view.resolver for view in told if view.exists]
    said = [f"NXDOMAIN from {', '.join(denied)}"] if denied else []
    said += [f"no address (NODATA) from {', '.join(empty)}"] if empty else []
    searched = f", with the search list {' '.join(name.config.search)}," if _is_searched(name) else ""
    effect = (
        f"This host knows it without DNS ({listed(name.system_addresses)}): /etc/hosts or a local cache."
        if name.resolves
        else f"This host's own look-up{searched} fails{errno_of(name)}."
    )
    return _finding(
        NXDOMAIN,
        Subject(name=name.name),
        f"{name.name} has no address in DNS{_through(told)}: {'; '.join(said)}. {effect}",
        name.evidence,
        severity=Severity.CRITICAL,
        confidence=CERTAIN if len(told) > 1 else LIKELY,
        would_refute="An address for the same name from any of these resolvers or from the zone's own servers.",
        step="Check the name for a typo, a removed record, an expired domain, and the view this host gets.",
        check=_check(name.name),
        note=name.resolves,
    )


def _through(told: list[View]) -> str:
    """The alias that leads nowhere: its owner is often another than the name's."""
    chain = aliases(query for view in told for query in view.answered)
    if not chain:
        return ""
    return f" (it is an alias; {len(chain)} CNAME{'s' if len(chain) > 1 else ''}, the last to {chain[-1]})"


def _is_searched(name: Name) -> bool:
    return bool(name.config.search) and not name.name.endswith(".")


def local_source(name: Name) -> str:
    """Where an address may come from that no resolver gave for the name itself."""
    ndots = next((f" with {option}" for option in name.config.options if option.startswith("ndots:")), "")
    search = f", or the search list ({' '.join(name.config.search)}{ndots})" if _is_searched(name) else ""
    return f"/etc/hosts or a cache{search}"


# dns.inconsistent


def judge_inconsistent(case: Case) -> Iterator[Judgement]:
    for name in names(case):
        if len(name.views) > 1:
            yield _inconsistent(name)
    yield from _unasked(case, INCONSISTENT)


def _inconsistent(name: Name) -> Judgement:
    told = [view for view in name.views if (view.exists or view.denied) and _types(view)]
    if len(told) < 2:
        return NotMeasured(
            code=INCONSISTENT,
            subject=Subject(name=name.name),
            statement=f"Whether the resolvers agree on {name.name}: {len(told)} of {len(name.views)} answered.",
            remedy=f"Let a second resolver answer, then: {_check(name.name)}",
        )
    having = [view for view in told if view.addresses]
    lacking = [view for view in told if not view.addresses and _asked_alike(view, having)]
    if having and lacking:
        return _contradiction(name, having, lacking)
    if _sets_differ(having):
        return _different_sets(name, having)
    return RuledOut(
        code=INCONSISTENT,
        subject=Subject(name=name.name),
        statement=f"{len(told)} resolvers agree on {name.name}: "
        f"{listed(having[0].addresses) if having else 'no address'}.",
        smallest_fault="one resolver with an address that another does not give.",
        evidence=name.evidence,
    )


def _asked_alike(view: View, having: list[View]) -> bool:
    """It settled a record type for which another has addresses; a lost query is not a denial."""
    return any(_types(view) & _types(other, giving=True) for other in having)


def _types(view: View, *, giving: bool = False) -> frozenset[str]:
    """Record types that it settled: a truncated answer without an address says that there is more, not that there is
    none (RFC 2181, 9)."""
    said = [query for query in view.answered if query.rcode in ("NOERROR", "NXDOMAIN")]
    settled = [query for query in said if addresses_in(query) or "TC" not in query.flags]
    return frozenset(query.record_type for query in settled if not giving or addresses_in(query))


def _contradiction(name: Name, having: list[View], lacking: list[View]) -> Finding:
    first = lacking[0].resolver.partition("#")[0] == next(iter(name.config.nameservers), None)
    gives = "; ".join(f"{view.resolver} gives {listed(view.addresses)}" for view in having)
    denies = "; ".join(f"{view.resolver} says {'NXDOMAIN' if view.denied else 'no address'}" for view in lacking)
    order = " This host asks the denying one first and takes its word." if first else ""
    return _finding(
        INCONSISTENT,
        Subject(name=name.name),
        f"Resolvers contradict each other on {name.name}: {gives}; {denies}.{order}",
        name.evidence,
        severity=Severity.CRITICAL if not name.resolves else Severity.WARNING,
        confidence=LIKELY,
        would_refute="The same existence from every resolver, asked again after the negative answer's TTL.",
        step="Find the resolver with the wrong view: split horizon, a forwarder to a public server, a negative cache.",
        check=_check(name.name),
    )


def _sets_differ(having: list[View]) -> bool:
    for kind in ADDRESS_TYPES:
        told = [view for view in having if kind in _types(view)]
        if len({_of_type(view, kind) for view in told}) > 1:
            return True
    return False


def _of_type(view: View, kind: str) -> frozenset[str]:
    return frozenset(a for query in view.answered if query.record_type == kind for a in addresses_in(query))


def _different_sets(name: Name, having: list[View]) -> Finding:
    gives = "; ".join(f"{view.resolver} gives {listed(view.addresses)}" for view in having)
    return _finding(
        INCONSISTENT,
        Subject(name=name.name),
        f"Resolvers give different addresses for {name.name}: {gives}. Records that follow place or load may.",
        name.evidence,
        severity=Severity.INFO,
        confidence=CERTAIN,
        would_refute="The same addresses from every resolver.",
        step="Compare with the zone's own servers if one of these addresses does not serve.",
        check=_check(name.name),
        note=True,
    )


# dns.stale-record


@value
class Dialled:
    """The addresses of one name at one port, by what dialling them showed."""

    live: tuple[str, ...]
    dead: tuple[str, ...]
    untried: tuple[str, ...]
    tries: dict[str, Tries]

    def evidence(self, *addresses: str) -> tuple[str, ...]:
        return tuple(sorted({id_ for address in addresses for id_ in self.tries[address].ids}))


def judge_stale(case: Case) -> Iterator[Judgement]:
    known = {name.name: name for name in names(case)}
    seen: set[tuple[str, int]] = set()
    for endpoint in case.plan.endpoints:
        name, port = known.get(endpoint.host), endpoint.port
        asked = endpoint.address is None and not needs_no_resolver(endpoint.host)
        if port is None or not asked or (endpoint.host, port) in seen:
            continue
        seen.add((endpoint.host, port))
        if name is None:
            yield _stale_open(endpoint, port, "the resolvers were not asked")
        else:
            yield from _stale(case, endpoint, name, port)


def _stale_open(endpoint: Endpoint, port: int, reason: str) -> NotMeasured:
    return NotMeasured(
        code=STALE,
        subject=Subject(endpoint=endpoint.name, name=endpoint.host, port=port),
        statement=f"Whether every record of {endpoint.host} is current: {reason}.",
        remedy=f"Once the service is up: netdiag run {quote(at(endpoint.host, port))}",
    )


def _stale(case: Case, endpoint: Endpoint, name: Name, port: int) -> Iterator[Judgement]:
    dialled = _dial(case, endpoint, name, port)
    if name.resolves and not dialled.tries:
        return  # loopback only: no record says that
    if dialled.dead and dialled.live:
        for address in dialled.dead:
            yield _dead_record(endpoint, name, port, address, dialled)
        return
    subject = Subject(endpoint=endpoint.name, name=name.name, port=port)
    if dialled.live and not dialled.untried:
        yield _all_live(name, port, subject, dialled)
        return
    reason = (
        f"{listed(dialled.untried)} could not be dialled"
        if dialled.live
        else "none of its addresses accepts the port, so a wrong record cannot be told from a service that is down"
        if dialled.dead
        else "none of its addresses was dialled"
    )
    yield _stale_open(endpoint, port, reason)


def _dial(case: Case, endpoint: Endpoint, name: Name, port: int) -> Dialled:
    given = {address for view in name.views for address in view.addresses} | set(name.system_addresses)
    spelled = {plain(address): address for address in addresses_of(case.evidence, endpoint)}
    distant = sorted((a for a in given if not is_loopback(a)), key=address_order)
    tries = {a: tries_at(case.evidence, spelled.get(a, a), port) for a in distant}
    live = tuple(a for a, tried in tries.items() if tried.count(Answer.OPEN))
    dead = tuple(a for a, tried in tries.items() if a not in live and _is_dead(tried))
    untried = tuple(a for a in tries if a not in live and a not in dead)
    return Dialled(live=live, dead=dead, untried=untried, tries=tries)


def _is_dead(tried: Tries) -> bool:
    """A refusal is an answer, and the port probe asks no second time; silence alone may be one lost packet."""
    refusals = (Answer.RESET, Answer.REJECTED, Answer.UNREACHABLE)
    refused = any(attempt.answer in refusals and not is_local(attempt) for attempt in tried.tries)
    return refused or _failed(tried) >= SAMPLES_PER_NAME


def _failed(tried: Tries) -> int:
    """Attempts that left this host and were not accepted: a missing route here says nothing of the address."""
    return sum(attempt.answer is not Answer.NOT_SENT and not is_local(attempt) for attempt in tried.tries)


def _all_live(name: Name, port: int, subject: Subject, dialled: Dialled) -> RuledOut:
    fewest = min(dialled.tries[address].count(Answer.OPEN) for address in dialled.live)
    return RuledOut(
        code=STALE,
        subject=subject,
        statement=f"Every address given for {name.name} accepts port {port}: {listed(dialled.live)}.",
        smallest_fault=f"one address that refuses more than {unseen_share(fewest)} of connections.",
        evidence=tuple(sorted({*name.evidence, *dialled.evidence(*dialled.live)})),
    )


def _dead_record(endpoint: Endpoint, name: Name, port: int, address: str, dialled: Dialled) -> Finding:
    givers = tuple(view.resolver for view in name.views if address in view.addresses)
    others = tuple(v.resolver for v in name.views if address not in v.addresses and _gives_else(v, address))
    source = givers[0] if len(givers) == 1 else None
    subject = Subject(endpoint=endpoint.name, address=address, port=port, name=name.name, resolver=source)
    exclusive = bool(others)  # somebody was asked the same and does not give it
    tried = dialled.tries[address]
    return _finding(
        STALE,
        subject,
        f"{_given_by(name, givers, others)} {address} for {name.name}{_ttl(name, address)}, which accepts none of "
        f"{tried.sent} connections to port {port} ({tried.tally}{_interval(tried)}); "
        f"{listed(dialled.live)} accepts it. {_reading(name, givers, exclusive)}",
        tuple(sorted({*name.evidence, *dialled.evidence(address, *dialled.live)})),
        severity=Severity.CRITICAL if address in name.system_addresses else Severity.WARNING,
        confidence=LIKELY if exclusive else POSSIBLE / 2,
        would_refute=f"An accepted connection to {at(address, port)}, or the zone's own servers giving {address}.",
        step=f"Compare the zone's record of {name.name} with the service's present addresses; flush the caches that "
        f"still hold {address} and lower the TTL before the next move.",
        check=_check(name.name),
        note=not exclusive,
    )


def _interval(tried: Tries) -> str:
    interval = wilson(0, tried.sent, LEVEL)
    return f"; at most {percent(interval.high)} would" if interval else ""


def _gives_else(view: View, address: str) -> bool:
    """It knows the name and settled this family: leaving the address out means something."""
    return bool(view.addresses) and ("AAAA" if ":" in address else "A") in _types(view)


def _given_by(name: Name, givers: tuple[str, ...], others: tuple[str, ...]) -> str:
    if not givers:
        return f"This host's own look-up ({local_source(name)}, not DNS) gives"
    if not others:
        return "Every resolver that answered gives" if len(givers) > 1 else f"Resolver {givers[0]} gives"
    plural = "Resolvers" if len(givers) > 1 else "Resolver"
    return f"{plural} {', '.join(givers)} (and not {', '.join(others)}) {'give' if len(givers) > 1 else 'gives'}"


def _ttl(name: Name, address: str) -> str:
    ttls = [
        record.ttl_s
        for view in name.views
        for query in view.queries
        if answers(query)
        for record in query.answers
        if record.type in ADDRESS_TYPES and plain(record.value) == address
    ]
    return f" (TTL {max(ttls)} s)" if ttls else ""


def _reading(name: Name, givers: tuple[str, ...], exclusive: bool) -> str:
    if exclusive and not givers and _is_searched(name):
        return f"The entry is out of date, or the search list leads astray; {name.name}. (with a dot) is not searched."
    if exclusive:
        return "The record is out of date."
    return "As no resolver says otherwise, a dead backend is as likely as a wrong record."


RULES: tuple[Rule, ...] = (
    Rule(
        code=NXDOMAIN,
        section=Section.INFRASTRUCTURE,
        fires="Every resolver that answers denies the name or has no address for it, and this host cannot resolve it.",
        quiet="Only AAAA is missing, some resolver has an address (dns.inconsistent), or this host knows the name "
        "without DNS.",
        refuted_by="An address from any of the resolvers or the zone's own servers.",
        judge=judge_nxdomain,
    ),
    Rule(
        code=INCONSISTENT,
        section=Section.INFRASTRUCTURE,
        fires="One resolver has addresses where another denies the name. Different addresses alone are a note.",
        quiet="Resolvers agree, or only one answered.",
        refuted_by="The same existence from every resolver after the negative TTL.",
        judge=judge_inconsistent,
    ),
    Rule(
        code=STALE,
        section=Section.INFRASTRUCTURE,
        fires="A source (one resolver, or this host's own look-up) gives an address that does not accept the port, "
        "which another does not give, and a sibling address accepts it.",
        quiet="All resolvers give the dead address (a note: it may be a dead backend), no address accepts the port, or "
        "the address was not dialled.",
        refuted_by="An accepted connection to that address.",
        judge=judge_stale,
    ),
)
