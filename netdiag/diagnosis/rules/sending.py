"""What this host's own kernel refuses to send (host.cannot-send). A lack of local ports is host.port-exhaustion."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address

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
from netdiag.diagnosis.rules.handshakes import Answer, Tries, Try, tries_at
from netdiag.diagnosis.rules.subjects import Place, finding_id, is_address, ratio, sockets, unseen_share
from netdiag.diagnosis.thresholds import LIKELY

CANNOT_SEND = "host.cannot-send"

# What connect(2) and socket(2) mean by it, and what to do; tcp(7), ip(7), and the route types of ip-route(8).
_REASONS = {
    "EACCES": ("a route of type prohibit, or a security policy, forbids it", "Look at `ip route get` for the address."),
    "EINVAL": ("a route of type blackhole takes it", "Look at `ip route get` for the address."),
    "EPERM": ("a packet filter or a cgroup's policy on this host forbids it", "Read this host's nft and BPF rules."),
    "ENFILE": ("the file table of the whole host is full", "Find who holds the files; raise fs.file-max."),
    "ENOBUFS": ("the kernel has no memory left for sockets", "See /proc/net/sockstat and net.ipv4.tcp_mem."),
    "ENOMEM": ("the kernel has no memory left for sockets", "See /proc/net/sockstat and net.ipv4.tcp_mem."),
}
_OWN_LIMIT = "EMFILE"  # of this very process: the application has its own


def unsent(tries: Tries) -> tuple[Try, ...]:
    """Attempts that a system call of this host refused; not those for which only the run's time was up."""
    return tuple(t for t in tries.of(Answer.NOT_SENT) if t.failure is not None and t.failure.errno is not None)


def judge_sending(case: Case) -> Iterator[Judgement]:
    for place in sockets(case):
        yield _sending(place, tries_at(case.evidence, place.address, place.port))


def _lacks_zone(address: str) -> bool:
    """connect(2) says EINVAL to it, as to a blackhole route (RFC 4007, section 6)."""
    return is_address(address) and "%" not in address and ":" in address and ip_address(address).is_link_local


def _errno(attempt: Try) -> str:
    return (attempt.failure.errno if attempt.failure else None) or ""


def _untried(place: Place, tries: Tries) -> NotMeasured:
    why = f" ({tries.local_reason})" if tries.local_reason else ""
    text = f"Whether this host lets connections to {place.label} go: none was sent{why}."
    return NotMeasured(
        code=CANNOT_SEND, subject=place.subject, statement=text, remedy=f"Run `{place.command('ports')}`."
    )


def _sending(place: Place, tries: Tries) -> Judgement:
    hits = tuple(t for t in unsent(tries) if _errno(t) in (*_REASONS, _OWN_LIMIT))
    if hits and _lacks_zone(place.address or ""):
        text = f"{place.address} is a link-local address, and nothing says on which link: no connection can be made."
        remedy = f'Write the zone, "{place.address}%eth0" (%25 for the "%" in a URL).'
        return NotMeasured(code=CANNOT_SEND, subject=place.subject, statement=text, remedy=remedy)
    errnos = sorted({_errno(t) for t in hits})
    if hits and _OWN_LIMIT in errnos:
        text = (
            f"{len(hits)} of {len(tries.tries)} connections to {place.label} could not be opened: netdiag itself ran "
        )
        return NotMeasured(
            code=CANNOT_SEND,
            subject=place.subject,
            statement=f"{text}out of file descriptors ({_OWN_LIMIT}), so nothing is known of them.",
            remedy="Run it again under `ulimit -n 1024`.",
        )
    if hits:
        return _refused(place, tries, hits, errnos[0])
    if tries.sent:
        return RuledOut(
            code=CANNOT_SEND,
            subject=place.subject,
            statement=f"This host's kernel sent {tries.sent} of {tries.sent} connection attempts to {place.label}.",
            smallest_fault=f"a local refusal that hits more than {unseen_share(tries.sent)} of the connections",
            evidence=tries.ids,
        )
    return _untried(place, tries)


def _refused(place: Place, tries: Tries, hits: tuple[Try, ...], errno: str) -> Finding:
    why, step = _REASONS[errno]
    statement = (
        f"{ratio(len(hits), len(tries.tries))} connection attempts to {place.label} never left this host: {why} "
        f"({errno}). Neither the network nor the server has a part in it."
    )
    action = Action(owner="on-call", horizon=Horizon.IMMEDIATE, step=step, check=place.command("ports"))
    return Finding(
        id=finding_id(CANNOT_SEND, place.subject),
        code=CANNOT_SEND,
        role=FindingRole.CAUSE,
        severity=Severity.CRITICAL if len(hits) == len(tries.tries) else Severity.WARNING,
        confidence=LIKELY,
        section=Section.INFRASTRUCTURE,
        subject=place.subject,
        statement=statement,
        evidence=tries.ids,
        would_refute=f"Another program on this host that connects to {place.label} at the same time.",
        actions=(action,),
    )


RULES = (
    Rule(
        code=CANNOT_SEND,
        section=Section.INFRASTRUCTURE,
        fires="This host's kernel refuses to send: prohibit and blackhole routes, its own filters, no memory or files.",
        quiet="netdiag's own descriptor limit (EMFILE), a missing route (net.unreachable), the run's time that was up.",
        refuted_by="A connection from the same host to the same place at that time.",
        judge=judge_sending,
    ),
)
