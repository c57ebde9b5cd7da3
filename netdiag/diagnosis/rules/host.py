"""What this host itself ran out of: host.port-exhaustion. Nothing of it was ever on the wire."""

from __future__ import annotations

from collections.abc import Iterator

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
from netdiag.diagnosis.rules.handshakes import Answer, Try, tries_at, tries_beside
from netdiag.diagnosis.rules.subjects import Place, finding_id, ratio, sockets, unseen_share
from netdiag.diagnosis.thresholds import CERTAIN

PORTS = "host.port-exhaustion"
_RANGE = "sysctl net.ipv4.ip_local_port_range"
_NO_PORT = "EADDRNOTAVAIL"


def _port_exhaustion(case: Case) -> Iterator[Judgement]:
    for place in sockets(case):
        yield _ports_at(case, place)


def _ports_at(case: Case, place: Place) -> Judgement:
    tries = tries_at(case.evidence, place.address, place.port)
    without = tuple(t for t in tries.tries if _has_no_port(t))
    if not without and tries.sent:
        return RuledOut(
            code=PORTS,
            subject=place.subject,
            statement=f"This host had a local port for {tries.sent} of {tries.sent} connections to {place.label}.",
            smallest_fault=f"a want of ports in more than {unseen_share(tries.sent)} of the connections",
            evidence=tries.ids,
        )
    if not without:
        return _not_tried(place, tries.local_reason)
    beside = tries_beside(case.evidence, place.address, place.port)
    sent = next((t for t in (*tries.tries, *beside.tries) if t.answer is not Answer.NOT_SENT), None)
    return _no_source(place, len(without)) if sent is None else _exhausted(place, without, tries.tries, sent)


def _has_no_port(attempt: Try) -> bool:
    return attempt.failure is not None and attempt.failure.errno == _NO_PORT


def _exhausted(place: Place, without: tuple[Try, ...], tried: tuple[Try, ...], sent: Try) -> Finding:
    every = len(without) == len(tried)
    beside = "another port of the same address is reached" if every else "other attempts at it do leave"
    return Finding(
        id=finding_id(PORTS, place.subject),
        code=PORTS,
        role=FindingRole.CAUSE,
        severity=Severity.CRITICAL if every else Severity.WARNING,
        confidence=CERTAIN,
        section=Section.INFRASTRUCTURE,
        subject=place.subject,
        statement=(
            f"{ratio(len(without), len(tried))} connections to {place.label} never leave this host: connect() says "
            f"{_NO_PORT}, while {beside}. All local ports towards it are taken, by open connections or by closed ones "
            f"in TIME-WAIT."
        ),
        evidence=tuple(sorted({t.measurement for t in (*tried, sent)})),
        would_refute=f"A free port of `{_RANGE}` that `ss -tan dst {place.label}` does not list.",
        actions=(
            Action(
                owner="application",
                horizon=Horizon.IMMEDIATE,
                step=(
                    "Close what holds connections without using them (a leaking pool), then let a pool keep "
                    f"connections open instead of making one for each query; widen `{_RANGE}` if all are needed."
                ),
                check=place.command("ports"),
            ),
        ),
    )


def _no_source(place: Place, count: int) -> NotMeasured:
    """The same errno is the kernel's for a host that has no address of its own to send from (IPv6 above all)."""
    return NotMeasured(
        code=PORTS,
        subject=place.subject,
        statement=(
            f"connect() says {_NO_PORT} in {count} of {count} attempts at {place.label}, and no other port of it was "
            "reached: no local port is left, or this host has no source address for it."
        ),
        remedy=f"Look at `ip route get {place.address}` and at `ss -s`.",
    )


def _not_tried(place: Place, reason: str | None) -> NotMeasured:
    why = f": this host could not send ({reason})" if reason else ""
    return NotMeasured(
        code=PORTS,
        subject=place.subject,
        statement=f"No connection to {place.label} was tried{why}.",
        remedy=f"Run `{place.command('ports')}`.",
    )


RULES = (
    Rule(
        code=PORTS,
        section=Section.INFRASTRUCTURE,
        fires=(
            "a connect() to the service port ends in EADDRNOTAVAIL, and another attempt at the same address, to this "
            "or to another port, does leave the host: a source address is there, the ports towards this one are gone."
        ),
        quiet=(
            "every attempt leaves the host; or no attempt at the address leaves it: then it may have no source address "
            "(an IPv6 address that is still tentative), and the question stays open."
        ),
        refuted_by="a free local port towards the same address and port at the same time (`ss -tan`).",
        judge=_port_exhaustion,
    ),
)
