"""A resolver that answers, and answers with an error: SERVFAIL, or that it does not serve this host.

1. A cause needs a record type for which nothing but the error came, or a share of errors that no accident explains:
   glibc takes SERVFAIL for the A beside an answer for the AAAA as "no address" and asks no other server.
2. A server that does not bear EDNS and answers without it serves glibc, which sends none: a note.
3. An error for AAAA alone, beside an A that serves, is old balancers' way and harms no glibc: a note.
4. With checking disabled (CD) a validating resolver answers what it found bogus: that tells DNSSEC from all else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

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
from netdiag.diagnosis.rules.resolver import check_of, most_lost, unasked
from netdiag.diagnosis.rules.resolvers import Name, View, aliases, by_resolver, errno_of, is_quick, is_referral, names
from netdiag.diagnosis.rules.subjects import finding_id, ratio
from netdiag.diagnosis.thresholds import CERTAIN, DNS_ATTEMPTS, DNS_LOSS, DNS_QUERIES_LOST, LEVEL, POSSIBLE
from probes.failures import clean_text
from probes.model import value
from probes.names import NO_EDNS, DnsQuery, ExtendedError
from probes.stats.intervals import wilson

SERVFAIL, REFUSED = "dns.servfail", "dns.refused"
DECLINED = frozenset({"REFUSED", "NOTIMP", "FORMERR", "NOTAUTH", "BADVERS"})

# RFC 8914 and its registry: whose trouble an extended error tells of.
EXTENDED = {
    **dict.fromkeys((6, 7, 8, 9, 10, 12), "DNSSEC validation failed"),
    **dict.fromkeys((15, 16, 17, 18), "blocked by the resolver's policy"),
    22: "no reachable authority: the resolver's own way to the authoritative servers is broken",
    23: "network error: the resolver's own way to the authoritative servers is broken",
}


@value
class Errors:
    """What one resolver answered of one name, and which of it is the error in question."""

    name: Name
    view: View
    heard: tuple[DnsQuery, ...]
    bad: tuple[DnsQuery, ...]

    @property
    def types(self) -> frozenset[str]:
        """Record types for which it never gave anything but the error."""
        good = {query.record_type for query in self.heard if query not in self.bad}
        return frozenset(query.record_type for query in self.bad) - good

    @property
    def frequent(self) -> bool:
        share = wilson(len(self.bad), len(self.heard), LEVEL)
        return len(self.bad) >= DNS_QUERIES_LOST and share is not None and share.low > DNS_LOSS

    @property
    def only_with_edns(self) -> bool:
        """It bears no EDNS: every question without it got a better answer."""
        plain = [query for query in self.heard if query.how == "plain"]
        return bool(plain) and all(query.how == "edns" and query.rcode in NO_EDNS for query in self.bad)

    @property
    def only_for_the_other_family(self) -> bool:
        """It gives the addresses that this host uses, at once, and errs for a family that the name may not have: old
        balancers do so (RFC 4074), and glibc takes what it got (measured)."""
        quick = bool(self.name.systems) and all(map(is_quick, self.name.systems))
        return self.types == {"AAAA"} and bool(self.view.addresses) and self.name.resolves and quick

    @property
    def harms(self) -> bool:
        if self.name.from_elsewhere or self.only_with_edns or self.only_for_the_other_family:
            return False
        return bool(self.types) or self.frequent or not self.name.resolves

    @property
    def bogus(self) -> bool:
        """Nothing but SERVFAIL, more than once, and an answer when DNSSEC is not checked."""
        good = {query.record_type for query in self.view.unchecked if query.rcode in ("NOERROR", "NXDOMAIN")}
        failing = [query for query in self.bad if _is_servfail(query) and query.record_type in self.types & good]
        return len(failing) >= DNS_ATTEMPTS


def _each_view(code: str, is_bad: Callable[[DnsQuery], bool]) -> Callable[[Case], Iterator[Judgement]]:
    def judged(case: Case) -> Iterator[Judgement]:
        found = names(case)
        alive = {address for address, views in by_resolver(found).items() if any(view.heard for view in views)}
        for name in found:
            for view in name.views:
                yield _judge(code, is_bad, name, view, view.resolver in alive)
        yield from unasked(case, code)

    return judged


def _is_servfail(query: DnsQuery) -> bool:
    return query.rcode == "SERVFAIL"


def _is_declined(query: DnsQuery) -> bool:
    return query.rcode in DECLINED


def _judge(code: str, is_bad: Callable[[DnsQuery], bool], name: Name, view: View, alive: bool) -> Judgement:
    lame = code == REFUSED and view.referred
    heard = tuple(query for query in view.heard if not (lame and query.sampled))  # without records none shows as one
    bad = tuple(query for query in heard if is_bad(query) or (lame and is_referral(query)))
    errors = Errors(name=name, view=view, heard=heard, bad=bad)
    if not view.heard and alive and code == SERVFAIL and len(view.queries) >= DNS_ATTEMPTS:
        said = f"never answers for {view.name}, {ratio(0, len(view.queries))}, while it answers for other names"
        return _finding(code, errors, said, POSSIBLE)
    if not view.heard:
        return _unheard(code, name, view)
    if not bad:
        return _none(code, view)
    return _finding(code, errors, _said(errors), CERTAIN)


def _unheard(code: str, name: Name, view: View) -> NotMeasured:
    return NotMeasured(
        code=code,
        subject=Subject(name=view.name, resolver=view.resolver),
        statement=f"Resolver {view.resolver} gave no answer for {view.name}, an error or otherwise.",
        remedy=f"Let the resolver answer, then: {check_of(name, view)}",
    )


def _none(code: str, view: View) -> RuledOut:
    return RuledOut(
        code=code,
        subject=Subject(name=view.name, resolver=view.resolver),
        statement=f"None of {len(view.heard)} answers of {view.resolver} for {view.name} is "
        f"{'SERVFAIL' if code == SERVFAIL else 'a refusal'}.",
        smallest_fault=f"an error in more than {most_lost(0, len(view.heard))} of its answers.",
        evidence=view.evidence,
    )


def _said(errors: Errors) -> str:
    asked = {query.record_type for query in errors.heard}
    which = f" {'/'.join(sorted(errors.types))}" if errors.types and errors.types < asked else ""
    of = [query for query in errors.heard if not which or query.record_type in errors.types]
    count = ratio(sum(query in errors.bad for query in of), len(of))
    edns = " to queries with EDNS, and answers those without" if errors.only_with_edns else ""
    return (
        f"{_errors(errors)} for {errors.view.name}{which} in {count} answers{edns}"
        f"{_after_alias(errors)}{_extended(errors.bad)}{_unchecked(errors)}"
    )


def _errors(errors: Errors) -> str:
    codes = sorted({query.rcode or "" for query in errors.bad if not is_referral(query)})
    referral = ["a referral instead of an answer (it is not the zone's server and does not recurse)"]
    return f"answers {'/'.join(codes + (referral if any(map(is_referral, errors.bad)) else []))}"


def _after_alias(errors: Errors) -> str:
    chain = aliases(errors.bad)
    return f", after the alias {chain[-1]}" if chain else ""


def _extended(bad: tuple[DnsQuery, ...]) -> str:
    found = {error.code: error for query in bad for error in query.extended_errors}
    return "".join(f"; {_extended_text(found[code])}" for code in sorted(found))


def _extended_text(error: ExtendedError) -> str:
    meaning = EXTENDED.get(error.code) or clean_text(error.text)
    return f"EDE {error.code}, {meaning}" if meaning else f"EDE {error.code}"


def _unchecked(errors: Errors) -> str:
    if errors.bogus:
        return "; with checking disabled (CD) it answers, so DNSSEC validation fails"
    same = any(_is_servfail(query) and query.record_type in errors.types for query in errors.view.unchecked)
    return "; the same with checking disabled (CD), so it is not DNSSEC" if same else ""


def _elsewhere(name: Name, view: View) -> str:
    working = [other.resolver for other in name.views if other is not view and other.addresses]
    if name.from_elsewhere:
        return f"This host knows {name.name} without DNS ({', '.join(name.system_addresses)})."
    if working:
        return f"{', '.join(working)} answers with addresses."
    if view.addresses:
        return "Its other answers give addresses."
    return "No other resolver gives an address." if len(name.views) > 1 else "It is the only resolver."


def _severity(name: Name, view: View) -> Severity:
    others = any(other.addresses for other in name.views if other is not view)
    usable = name.resolves and (others or bool(view.addresses))
    return Severity.WARNING if usable else Severity.CRITICAL


def _finding(code: str, errors: Errors, said: str, confidence: float) -> Finding:
    name, view = errors.name, errors.view
    subject = Subject(name=view.name, resolver=view.resolver)
    note = not errors.harms
    own = "" if name.resolves else f" This host's own look-up of the name fails{errno_of(name)}."
    return Finding(
        id=finding_id(code, subject),
        code=code,
        role=FindingRole.NOTE if note else FindingRole.CAUSE,
        severity=Severity.INFO if note else _severity(name, view),
        confidence=confidence,
        section=Section.CONFIGURATION if code == REFUSED else Section.INFRASTRUCTURE,
        subject=subject,
        statement=f"Resolver {view.resolver} {said}. {_elsewhere(name, view)}{own}",
        evidence=view.evidence,
        would_refute=f"NOERROR from {view.resolver} for the same name and type from this host.",
        actions=(Action(owner="dns", horizon=Horizon.IMMEDIATE, step=_step(code, errors), check=check_of(name, view)),),
    )


def _step(code: str, errors: Errors) -> str:
    view = errors.view
    if code == SERVFAIL and errors.bogus:
        return f"Renew the signatures of the zone of {view.name}, or correct its DS record (dig +cd answers)."
    if code == SERVFAIL:
        behind = "its upstream servers or forwarders, the zone's delegation, DNSSEC"
        return f"Let {view.resolver} resolve {view.name}: {behind}."
    if errors.only_with_edns:
        return f"Bring {view.resolver}, or the middlebox before it, to bear EDNS (RFC 6891): its errors cannot be told."
    if view.referred:
        return f"Let {view.resolver} recurse for this host, or take it out of resolv.conf."
    return f"Allow this host in the access list of {view.resolver}, or take the resolver out of resolv.conf."


RULES: tuple[Rule, ...] = (
    Rule(
        code=SERVFAIL,
        section=Section.INFRASTRUCTURE,
        fires="A resolver answers SERVFAIL for a name and record type and nothing better, or in more than 3 % of at "
        "least three answers (interval's lower bound), or never answers for it while it answers for others.",
        quiet="A single SERVFAIL among good answers, or SERVFAIL for the AAAA of a name with an A, while this host's "
        "look-up works, is a note, and so is a name that this host knows without DNS.",
        refuted_by="NOERROR from the same resolver for the same name and type.",
        judge=_each_view(SERVFAIL, _is_servfail),
    ),
    Rule(
        code=REFUSED,
        section=Section.CONFIGURATION,
        fires="A resolver declines to answer: REFUSED, NOTIMP, FORMERR, NOTAUTH, or a referral to other servers.",
        quiet="It answers some other way for the same record type; only queries with EDNS, or for the AAAA of a name "
        "with an A, are declined (a note).",
        refuted_by="NOERROR or NXDOMAIN from the same resolver for the same name.",
        judge=_each_view(REFUSED, _is_declined),
    ),
)
