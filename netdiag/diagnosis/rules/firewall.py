"""Ports that are dropped, rejected, or at addresses from which nothing comes back at all.

The three share one tally of handshakes. Silence is judged only after SILENT_SYNS packets; a drop needs proof that the
host is alive (else it is net.unreachable: nobody can tell a dead host from a filtered one); and one completed
handshake to the port ends the question, because then it is loss or a full accept queue.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

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
)
from netdiag.diagnosis.rule import Case, Rule
from netdiag.diagnosis.rules.handshakes import (
    Answer,
    EarlyReset,
    Proof,
    Silence,
    Tries,
    Try,
    early_reset,
    is_expired,
    is_local,
    offenders,
    open_beside,
    proofs_of_life,
    silence,
    tries_at,
    way_beside,
)
from netdiag.diagnosis.rules.subjects import Place, finding_id, ratio, sockets, unseen_share
from netdiag.diagnosis.thresholds import ADVERSE_LOSS, CERTAIN, DEAD_PATHS, DROP_AT_HOST, LIKELY, SILENT_SYNS

DROP, REJECT, UNREACHABLE = "firewall.drop", "firewall.reject", "net.unreachable"

_REJECTIONS = {
    (4, 3, 0): "network unreachable",
    (4, 3, 1): "host unreachable",
    (4, 3, 3): "port unreachable",
    (4, 3, 9): "network administratively prohibited",
    (4, 3, 10): "host administratively prohibited",
    (4, 3, 13): "communication administratively prohibited",
    (6, 1, 0): "no route to destination",
    (6, 1, 3): "address unreachable",
    (6, 1, 1): "communication administratively prohibited",
    (6, 1, 4): "port unreachable",
    (6, 1, 5): "source address failed policy",
    (6, 1, 6): "reject route to destination",
}


def judge_drop(case: Case) -> Iterator[Judgement]:
    for place in sockets(case):
        yield _drop(case, place)


def judge_reject(case: Case) -> Iterator[Judgement]:
    for place in sockets(case):
        yield _reject(case, place)


def judge_unreachable(case: Case) -> Iterator[Judgement]:
    for place in sockets(case):
        yield _unreachable(case, place)


# What all three say when they cannot tell


def _open_question(code: str, place: Place, tries: Tries) -> NotMeasured | None:
    """Not enough packets left this host to say anything."""
    if place.address is None:
        return _not_measured(
            code, place, f"{place.endpoint.host} has no known address.", "Make the name resolve first."
        )
    if not tries.tries:
        return _not_measured(
            code, place, f"No connection to {place.label} was tried.", f"Run `{place.command('ports')}`."
        )
    if not tries.sent:
        reason = tries.local_reason or "no reason given"
        return _not_measured(
            code, place, f"This host could not send to {place.label}: {reason}.", "Run `netdiag doctor`."
        )
    if tries.all_silent and tries.syns < SILENT_SYNS:
        text = f"Only {tries.syns} SYNs to {place.label}, all unanswered; it takes {SILENT_SYNS} to exclude loss."
        return _not_measured(code, place, text, f"Run `{place.command('ports')}`.")
    return None


def _not_measured(code: str, place: Place, statement: str, remedy: str) -> NotMeasured:
    return NotMeasured(code=code, subject=place.subject, statement=statement, remedy=remedy)


# firewall.drop


def _drop(case: Case, place: Place) -> Judgement:
    tries = tries_at(case.evidence, place.address, place.port)
    unknown = _open_question(DROP, place, tries)
    if unknown or place.address is None:
        return unknown or _not_measured(DROP, place, "No address.", "Make the name resolve first.")
    if tries.count(Answer.OPEN, Answer.RESET, Answer.REJECTED):
        return _not_dropped(place, tries)
    if not tries.all_silent:
        text = f"No SYN reached the host of {place.label} ({tries.tally}), so no filter before it was tried."
        return _not_measured(DROP, place, text, "Make the address reachable first.")
    proofs = proofs_of_life(case.evidence, place.address, place.port)
    if not proofs:
        text = f"Nothing else at {place.address} answers either: a drop cannot be told from a host that is down."
        return _not_measured(DROP, place, text, f"Run `{place.command('ports')}` on a host beside it.")
    return _dropped(place, tries, proofs, silence(case.evidence, place.address, place.port))


def _not_dropped(place: Place, tries: Tries) -> RuledOut:
    silent, answered = tries.count(Answer.SILENT), tries.count(Answer.OPEN, Answer.RESET, Answer.REJECTED)
    statement = f"{answered} of {tries.sent} connection attempts to {place.label} were answered ({tries.tally})."
    smallest = f"a rule that drops more than {unseen_share(tries.sent)} of the connections to this port"
    if silent:
        statement += " Silence on the others is loss or a full accept queue, not a rule on every SYN."
        smallest = "a rule that drops every connection to this port from this vantage"
    return RuledOut(code=DROP, subject=place.subject, statement=statement, smallest_fault=smallest, evidence=tries.ids)


def _dropped(place: Place, tries: Tries, proofs: tuple[Proof, ...], found: Silence | None) -> Finding:
    cited = {*tries.ids, *(proof.measurement for proof in proofs), *(found.measurements if found else ())}
    return Finding(
        id=finding_id(DROP, place.subject),
        code=DROP,
        role=FindingRole.CAUSE,
        severity=Severity.CRITICAL,
        confidence=drop_confidence(tries.syns, tries.sent, before_host=bool(found and found.before_host)),
        section=Section.INFRASTRUCTURE,
        subject=replace(place.subject, hop=found.hops) if found else place.subject,
        statement=_drop_statement(place, tries, proofs, found),
        evidence=tuple(sorted(cited)),
        would_refute=f"One completed handshake to {place.label}, or ListenDrops on the server growing with each.",
        actions=_drop_actions(place, tries, found),
    )


def drop_confidence(syns: int, connections: int, *, before_host: bool) -> float:
    """1 minus the chance that all ``syns`` are lost if each direction loses ADVERSE_LOSS, or, where that is likelier,
    that all ``connections`` are on the dead ones of several paths; capped where a full accept queue looks the same."""
    lost_exchange = 1 - (1 - ADVERSE_LOSS) ** 2
    chance = max(lost_exchange**syns, DEAD_PATHS**connections)
    return round(min(1 - chance, CERTAIN if before_host else DROP_AT_HOST), 3)


def _drop_statement(place: Place, tries: Tries, proofs: tuple[Proof, ...], found: Silence | None) -> str:
    alive = "; ".join(proof.statement for proof in proofs[:2])
    text = f"All {tries.syns} SYNs of {tries.sent} connection attempts to {place.label} stay unanswered, while {alive}."
    if found and found.before_host:
        return f"{text} They die {found.statement}."
    tail = "A full accept queue on the server looks the same from here."
    return f"{text} They die {found.statement}. {tail}" if found else f"{text} {tail}"


def _drop_actions(place: Place, tries: Tries, found: Silence | None) -> tuple[Action, ...]:
    spot = f" {found.statement}" if found else ""
    check = place.command("ports")
    permit = f"Permit TCP from {_from(tries)} to {place.label}{spot}, in both directions."
    queue = (
        f"On the server, rule out a full accept queue on port {place.port}: Recv-Q above Send-Q, ListenDrops growing."
    )
    listen = f"ss -ltn sport = :{place.port}; nstat -az TcpExtListenDrops"
    server = Action(owner="database", horizon=Horizon.IMMEDIATE, step=queue, check=listen)
    network = Action(owner="firewall", horizon=Horizon.IMMEDIATE, step=permit, check=check)
    return (network,) if found and found.before_host else (network, server)


def _from(tries: Tries) -> str:
    return ", ".join(tries.sources) or "this host"


# firewall.reject


def _reject(case: Case, place: Place) -> Judgement:
    tries = tries_at(case.evidence, place.address, place.port)
    unknown = _open_question(REJECT, place, tries)
    if unknown or place.address is None:
        return unknown or _not_measured(REJECT, place, "No address.", "Make the name resolve first.")
    rejected = tries.of(Answer.REJECTED)
    if rejected:
        return _rejected(place, tries, rejected)
    forged = early_reset(case.evidence, place.address, place.port) if tries.count(Answer.RESET) else None
    if forged:
        return _reset_on_the_way(place, tries, forged)
    beside = way_beside(case.evidence, place.address, place.port, tries)
    if beside:
        return _rejected_as_unreachable(place, tries, beside)
    if not tries.count(Answer.OPEN, Answer.RESET):
        why = "a rejection whose ICMP does not come back looks like a drop" if tries.all_silent else "no filter was met"
        text = f"Connection attempts to {place.label}: {tries.tally}; {why}."
        return _not_measured(REJECT, place, text, "Read the counters of the filters on the way.")
    return RuledOut(
        code=REJECT,
        subject=place.subject,
        statement=f"None of {tries.sent} connection attempts to {place.label} drew an ICMP rejection ({tries.tally}).",
        smallest_fault=f"a rule that rejects more than {unseen_share(tries.sent)} of the connections to this port",
        evidence=tries.ids,
    )


def _rejected(place: Place, tries: Tries, rejected: tuple[Try, ...]) -> Finding:
    who = offenders(rejected)
    host_itself = who == (place.address,)
    by = (
        f"{place.address} itself: the host's own firewall"
        if host_itself
        else f"{', '.join(who) or 'an unnamed sender'}"
    )
    text = f"{ratio(len(rejected), tries.sent)} connection attempts to {place.label} are rejected by {by}"
    return _reject_finding(place, tries, f"{text} ({_words(rejected)}).", CERTAIN, tries.ids, " and ".join(who))


def _rejected_as_unreachable(place: Place, tries: Tries, beside: tuple[Proof, ...]) -> Finding:
    told = tries.of(Answer.UNREACHABLE)
    who, alive = ", ".join(offenders(told)), "; ".join(proof.statement for proof in beside[:2])
    text = (
        f"{ratio(len(told), tries.sent)} connection attempts to {place.label} are answered by {who} with "
        f"{_words(told)}, while {alive}: there is a way to the host, so it is this port that {who} refuses."
    )
    cited = tuple(sorted({*tries.ids, *(proof.measurement for proof in beside)}))
    return _reject_finding(place, tries, text, LIKELY, cited, who)


def _words(rejected: tuple[Try, ...]) -> str:
    """``ICMP 3/13 communication administratively prohibited``, each kind once."""
    errors = sorted({(t.icmp.family, t.icmp.type, t.icmp.code) for t in rejected if t.icmp})
    said = (
        f"{_protocol(family)} {kind}/{code} {_REJECTIONS.get((family, kind, code), '')}".rstrip()
        for family, kind, code in errors
    )
    return ", ".join(said) or "no ICMP code on record"


def _protocol(family: int) -> str:
    return "ICMPv6" if family == 6 else "ICMP"


def _reset_on_the_way(place: Place, tries: Tries, forged: EarlyReset) -> Finding:
    share = ratio(tries.count(Answer.RESET), tries.sent)
    text = (
        f"{share} connection attempts to {place.label} are reset at hop {forged.ttl}, "
        f"where another port's trace meets router {forged.router}; the host is at hop {forged.host_ttl}."
    )
    cited = tuple(sorted({*tries.ids, *forged.measurements}))
    return _reject_finding(place, tries, text, LIKELY, cited, f"hop {forged.ttl} ({forged.router})")


def _reject_finding(
    place: Place, tries: Tries, statement: str, confidence: float, cited: tuple[str, ...], who: str
) -> Finding:
    permit = f"Permit TCP from {_from(tries)} to {place.label} on {who or 'the rejecting filter'}."
    return Finding(
        id=finding_id(REJECT, place.subject),
        code=REJECT,
        role=FindingRole.CAUSE,
        severity=Severity.WARNING if tries.count(Answer.OPEN) else Severity.CRITICAL,
        confidence=confidence,
        section=Section.INFRASTRUCTURE,
        subject=place.subject,
        statement=statement,
        evidence=cited,
        would_refute=f"A connection to {place.label} from the same source that draws no rejection.",
        actions=(
            Action(
                owner="firewall",
                horizon=Horizon.IMMEDIATE,
                step=permit,
                check=place.command("ports"),
            ),
        ),
    )


# net.unreachable


def _unreachable(case: Case, place: Place) -> Judgement:
    tries = tries_at(case.evidence, place.address, place.port)
    unknown = _open_question(UNREACHABLE, place, tries)
    if unknown or place.address is None:
        return unknown or _not_measured(UNREACHABLE, place, "No address.", "Make the name resolve first.")
    told = tries.of(Answer.UNREACHABLE)
    beside = open_beside(case, place)
    if len(told) == tries.sent and all(is_local(t) for t in told) and beside:
        return _no_such_family(place, tries, told, beside)
    way = way_beside(case.evidence, place.address, place.port, tries)
    if told and not way:
        return _unreachable_finding(place, tries, _told_statement(place, tries, told), CERTAIN)
    proofs = way or proofs_of_life(case.evidence, place.address, place.port)
    if tries.count(Answer.OPEN, Answer.RESET) or place.address in offenders(tries.tries) or proofs:
        return _reachable(place, tries, proofs)
    if tries.count(Answer.REJECTED):
        text = f"{', '.join(offenders(tries.tries))} rejects before {place.address} could answer."
        return _not_measured(UNREACHABLE, place, text, "Lift the rejection first.")
    return _unreachable_finding(place, tries, _silent_statement(place, tries), None)


def _no_such_family(place: Place, tries: Tries, told: tuple[Try, ...], beside: tuple[Place, Tries]) -> Finding:
    """An IPv6 address on a host without IPv6, as a rule: no packet leaves, so nobody waits (RFC 6724, RFC 8305)."""
    other, answered = beside
    statement = (
        f"This host has no route to {place.address} ({_errno(told)}) and says so at once, so clients go on to "
        f"{other.label}, which accepts connections."
    )
    finding = _unreachable_finding(place, tries, statement, CERTAIN)
    return replace(
        finding,
        role=FindingRole.NOTE,
        severity=Severity.INFO,
        evidence=tuple(sorted({*tries.ids, *answered.ids})),
        actions=(),
    )


def _reachable(place: Place, tries: Tries, proofs: tuple[Proof, ...]) -> RuledOut:
    answered = tries.sent - tries.count(Answer.SILENT, Answer.UNREACHABLE)
    said = f"{answered} of {tries.sent} connection attempts to {place.label} were answered ({tries.tally})."
    if not answered:
        said = f"{place.address} is alive: {proofs[0].statement}."
    cited = tries.ids if answered else tuple(sorted({*tries.ids, *(proof.measurement for proof in proofs)}))
    return RuledOut(
        code=UNREACHABLE,
        subject=place.subject,
        statement=said,
        smallest_fault="an address from which no packet comes back during the run",
        evidence=cited,
    )


def _told_statement(place: Place, tries: Tries, told: tuple[Try, ...]) -> str:
    share = f"{ratio(len(told), tries.sent)} connection attempts to {place.label}"
    senders = offenders(told)
    if not senders and any(is_local(t) for t in told):
        return f"{share} end at this host, which has no route to it ({_errno(told)})."
    if senders and set(senders) <= set(tries.sources):
        return (
            f"{share} end at this host: {place.address} does not answer ARP or neighbour discovery on the local link."
        )
    if any(is_expired(t) for t in told):
        return f"{share} run out of TTL at {', '.join(senders)}: a routing loop, or a path longer than the TTL."
    return f"{share} are answered by {', '.join(senders) or 'a router'} with {_words(told)}: it has no way to the host."


def _errno(told: tuple[Try, ...]) -> str:
    return next((t.failure.errno for t in told if t.failure and t.failure.errno), "no errno on record")


def _silent_statement(place: Place, tries: Tries) -> str:
    return (
        f"No packet comes back from {place.address}: all {tries.syns} SYNs of {tries.sent} connection attempts to port "
        f"{place.port} and every control stayed unanswered. "
        "Host down, route missing, or everything filtered: this vantage cannot tell which."
    )


def _unreachable_finding(place: Place, tries: Tries, statement: str, confidence: float | None) -> Finding:
    step = f"From a host beside {place.address}, find out whether it is up; then compare the routes to it and from it."
    return Finding(
        id=finding_id(UNREACHABLE, place.subject),
        code=UNREACHABLE,
        role=FindingRole.CAUSE,
        severity=Severity.WARNING if tries.count(Answer.OPEN) else Severity.CRITICAL,
        confidence=confidence,
        section=Section.INFRASTRUCTURE,
        subject=place.subject,
        statement=statement,
        evidence=tries.ids,
        would_refute=f"Any packet from {place.address}: a SYN-ACK or RST from any port, or an echo reply.",
        actions=(Action(owner="network", horizon=Horizon.IMMEDIATE, step=step, check=place.command("path")),),
    )


RULES = (
    Rule(
        code=UNREACHABLE,
        section=Section.INFRASTRUCTURE,
        fires="A router or this host says that there is no way to the address, or nothing at all comes back from it.",
        quiet="The address answered anything: SYN-ACK, RST, echo, a rejection of its own. ICMP silence is no sign. "
        "A missing local route beside an address of the same name that works is a note: no IPv6 here, as a rule.",
        refuted_by="Any packet from the address.",
        judge=judge_unreachable,
    ),
    Rule(
        code=DROP,
        section=Section.INFRASTRUCTURE,
        fires="Every SYN to the port stays unanswered while the same host answers by another way.",
        quiet="A handshake to the port completed (then: loss or a full accept queue), or nothing else answers either.",
        refuted_by="One completed handshake to the port, or ListenDrops on the server growing with each.",
        judge=judge_drop,
    ),
    Rule(
        code=REJECT,
        section=Section.INFRASTRUCTURE,
        fires="An ICMP rejection comes back, from the host or from the way to it, a RST from nearer than the host, or "
        '"unreachable" for this port alone while the host answers by others.',
        quiet="A RST from the host itself: then the port is closed, not filtered.",
        refuted_by="A connection from the same source that draws no rejection.",
        judge=judge_reject,
    ),
)
