"""Connections that somebody on the way forgets when they are idle.

An experiment decides: connections alike in all but their silence, opened together. It is a timeout only where those
that were quiet long are forgotten, those that were quiet for less are not, a fresh one is served at that moment, and
one that TCP keepalives kept busy, as old as the others, lives on.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil

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
from netdiag.diagnosis.rules.handshakes import Answer, tries_at
from netdiag.diagnosis.rules.subjects import Place, database_places, finding_id, ids, seconds
from netdiag.diagnosis.rules.waterfalls import CUT, attempts_at, login_check
from netdiag.diagnosis.thresholds import IDLE_FORGOTTEN, IDLE_RETRANSMITS, IDLE_SILENCE_S, LIKELY
from probes.idle import CARRIED, KEEPALIVE_S, IdleConnection, IdleEnd, IdleMeasurement
from probes.model import FailureKind, Measurement, value

CODE = "firewall.idle-timeout"
USUAL_S = 350  # of NAT gateways and network balancers: what a run's watch has no time for


@value
class Held:
    """One measurement at its place, and what became of its idle connections."""

    place: Place
    measurement: Measurement[IdleMeasurement]
    data: IdleMeasurement

    @property
    def forgotten(self) -> tuple[IdleConnection, ...]:
        return tuple(c for c in self.data.idle if is_forgotten(c))

    @property
    def remembered(self) -> tuple[IdleConnection, ...]:
        return tuple(c for c in self.data.idle if c.end in CARRIED)

    @property
    def answered(self) -> tuple[IdleConnection, ...]:
        """By the server itself: whoever ends TCP before it acknowledges what he can no longer hand on."""
        return tuple(c for c in self.data.idle if c.end is IdleEnd.ANSWERED)

    @property
    def mute(self) -> tuple[IdleConnection, ...]:
        """Acknowledged and not answered, after a longer silence than any that was."""
        longest = max((c.idle_s for c in self.answered), default=0.0)
        return tuple(c for c in self.data.idle if c.end is IdleEnd.ACKNOWLEDGED and c.idle_s > longest)

    @property
    def shortest(self) -> float:
        """The shortest silence after which a connection was forgotten."""
        return min(c.idle_s for c in self.forgotten)

    @property
    def longest(self) -> float:
        """The longest silence that was survived; what keepalives kept alive was quiet for KEEPALIVE_S."""
        return max((c.idle_s for c in self.remembered), default=float(KEEPALIVE_S))


def is_forgotten(connection: IdleConnection) -> bool:
    if connection.end is IdleEnd.RESET:
        return True
    resent = connection.retransmits is not None and connection.retransmits >= IDLE_RETRANSMITS
    return connection.end is IdleEnd.SILENT and resent and connection.waited_s >= IDLE_SILENCE_S


def judge(case: Case) -> Iterator[Judgement]:
    for place in database_places(case):
        yield _judge(case, place)


def _judge(case: Case, place: Place) -> Judgement:
    held = _held(case, place)
    if not any(h.data.idle for h in held):
        return _unheld(case, place, held)
    suspects = [h for h in held if h.forgotten]
    if not suspects:
        best = max(held, key=lambda h: max((c.idle_s for c in h.answered), default=0.0))
        return _remembered(best) if best.answered and not best.mute else _unanswered(best)
    doubts = [_doubt(case, suspect, held) for suspect in suspects]
    sure = next((s for s, doubt in zip(suspects, doubts, strict=True) if doubt is None), None)
    return _finding(sure) if sure else _undecided(suspects[0], doubts[0] or "")


def _held(case: Case, place: Place) -> tuple[Held, ...]:
    """This endpoint's own measurements; another endpoint's of the same address and port where it has none."""
    there = case.evidence.of(IdleMeasurement, address=place.address, port=place.port) if place.address else ()
    own = tuple(m for m in there if m.target.endpoint in (place.endpoint.name, None)) or there
    return tuple(Held(place=place, measurement=m, data=m.data) for m in own if m.data is not None)


# What else it may be


def _doubt(case: Case, suspect: Held, held: tuple[Held, ...]) -> str | None:
    """The look-alike that the evidence leaves open; None where it leaves none."""
    control, count = suspect.data.control, len(suspect.forgotten)
    if control is None or control.end not in CARRIED:
        return "one that TCP keepalives kept busy did not outlive them: connections of every age were ended"
    if not all(_was_fresh_served(suspect, connection) for connection in suspect.forgotten):
        return "no fresh connection was served at that moment: the way was interrupted"
    if any(h.remembered and h.longest >= suspect.shortest for h in held):
        return "one that was quiet for as long was answered"
    if count < IDLE_FORGOTTEN:
        return f"that is {count} of the {IDLE_FORGOTTEN} that it takes"
    if tries_at(case.evidence, suspect.place.address, suspect.place.port).count(Answer.SILENT):
        return "new connections went unanswered too in this run: a way of several may be dead"
    resets = any(c.end is IdleEnd.RESET for c in suspect.forgotten)
    if resets and any(a.fate == CUT for a in attempts_at(case, suspect.place)):
        return "connections that were not idle are reset too (db.connection-cut)"
    return None


def _was_fresh_served(suspect: Held, connection: IdleConnection) -> bool:
    """Opened after the bytes left; where they were silent, before the last that were sent again."""
    until = connection.asked_s + max(connection.waited_s, IDLE_SILENCE_S)
    fresh = (f for f in suspect.data.fresh if connection.asked_s <= f.opened_s <= until)
    return any(f.end in CARRIED for f in fresh)


def _undecided(suspect: Held, doubt: str) -> NotMeasured:
    count = len(suspect.forgotten)
    what = "1 connection was" if count == 1 else f"{count} connections were"
    return NotMeasured(
        code=CODE,
        subject=suspect.place.subject,
        statement=f"{what} not acknowledged after {seconds(suspect.shortest)} or more of silence at "
        f"{suspect.place.label}, but {doubt}.",
        remedy=f"Run `{_check(suspect.place, 2 * suspect.shortest)}`.",
    )


# What is known


def _check(place: Place, longest_s: float) -> str:
    return f"{login_check(place, 'idle')} --set seconds={ceil(longest_s)}"


def _finding(suspect: Held) -> Finding:
    place = suspect.place
    return Finding(
        id=finding_id(CODE, place.subject),
        code=CODE,
        role=FindingRole.CAUSE,
        severity=Severity.WARNING,  # what is busy, and what is new, works
        confidence=LIKELY,  # a way that died for these connections alone looks the same
        section=Section.INFRASTRUCTURE,
        subject=place.subject,
        statement=_statement(suspect),
        evidence=ids([suspect.measurement]),
        would_refute=f"A connection to {place.label} that is answered after {seconds(suspect.shortest)} or more of "
        "silence.",
        actions=_actions(suspect),
    )


def _statement(suspect: Held) -> str:
    place, forgotten = suspect.place, suspect.forgotten
    low = f"between {seconds(suspect.longest)} and" if suspect.remembered else "at most"
    tested = len([c for c in suspect.data.idle if c.idle_s >= suspect.shortest])
    served = sum(f.end in CARRIED for f in suspect.data.fresh)
    others = f"{served} fresh ones beside them were served" if served > 1 else "a fresh one beside them was served"
    return (
        f"Idle connections to {place.label} are forgotten on the way after {low} {seconds(suspect.shortest)} without a "
        f"packet: {len(forgotten)} of {tested} that were quiet for {_range(forgotten)} {_fate(forgotten)}, while "
        f"{others}, and one with TCP keepalives every {KEEPALIVE_S} s, as old as they, lives. The next query on a "
        f"pooled connection {_consequence(forgotten)}."
    )


def _range(connections: tuple[IdleConnection, ...]) -> str:
    low, high = (seconds(pick(c.idle_s for c in connections)) for pick in (min, max))
    return low if low == high else f"{low} to {high}"


def _fate(forgotten: tuple[IdleConnection, ...]) -> str:
    silent = [c for c in forgotten if c.end is IdleEnd.SILENT]
    if not silent:
        return "draw a RST by their next bytes, and none before"
    sent = sum(1 + (c.retransmits or 0) for c in silent)
    waited = seconds(min(c.waited_s for c in silent))
    return f"get no acknowledgement of their next bytes ({sent} packets, {waited} or longer each)"


def _consequence(forgotten: tuple[IdleConnection, ...]) -> str:
    if all(c.end is IdleEnd.RESET for c in forgotten):
        return "fails with a reset"
    return "hangs until TCP gives up (tcp_user_timeout; a quarter of an hour by default)"


def _actions(suspect: Held) -> tuple[Action, ...]:
    place, below = suspect.place, max(1, int(suspect.longest / 2))
    check = _check(place, 2 * suspect.shortest)
    return (
        Action(
            owner="application",
            horizon=Horizon.IMMEDIATE,
            step=f"Send TCP keepalives before the timeout: keepalives_idle={below} keepalives_interval={below} in the "
            f"DSN, or tcp_keepalives_idle={below} on the server; and tcp_user_timeout, so that a forgotten connection "
            "fails in seconds.",
            check=check,
        ),
        Action(
            owner="firewall",
            horizon=Horizon.SHORT_TERM,
            step=f"Raise the TCP idle timeout of the firewall, NAT or balancer before {place.label} above the longest "
            "that a pool keeps a connection, or let it answer with a RST.",
            check=check,
        ),
    )


def _remembered(best: Held) -> RuledOut:
    count, place = len(best.answered), best.place
    what = "A connection" if count == 1 else f"{count} connections"
    longest = max(c.idle_s for c in best.answered)
    return RuledOut(
        code=CODE,
        subject=place.subject,
        statement=f"{what} to {place.label}, quiet for {_range(best.answered)}, {'was' if count == 1 else 'were'} "
        f"answered afterwards. A longer timeout (NAT gateways have {USUAL_S} s) is asked for by "
        f"`{_check(place, USUAL_S + 10)}`.",
        smallest_fault=f"somebody on the way who forgets a connection within {seconds(longest)}",
        evidence=ids([best.measurement]),
    )


def _unanswered(best: Held) -> NotMeasured:
    return NotMeasured(
        code=CODE,
        subject=best.place.subject,
        statement=_mute(best) if best.mute else _closed(best),
        remedy=f"Run `{_check(best.place, best.data.longest_s / 2)}`, and ask what lies behind a balancer directly.",
    )


def _mute(best: Held) -> str:
    """Whoever ends TCP before the server acknowledges what he can no longer hand on."""
    fresh = ", while a fresh one was" if any(f.end is IdleEnd.ANSWERED for f in best.data.fresh) else ""
    return (
        f"{len(best.mute)} connections to {best.place.label}, quiet for {_range(best.mute)}, were acknowledged and not "
        f"answered{fresh}: the way to there knows them; the server hangs, or the way behind a balancer has forgotten."
    )


def _closed(best: Held) -> str:
    """The server's own timeout, mostly."""
    closed = [c for c in best.data.idle if c.end is IdleEnd.CLOSED]
    said = next((c.failure.detail for c in closed if c.failure and c.failure.kind is FailureKind.SERVER), None)
    why = f" ({said})" if said else ""
    if not closed:
        return f"No idle connection to {best.place.label} could be asked to the end."
    return f"The other end closed {len(closed)} idle connections to {best.place.label}{why} before they were asked."


def _unheld(case: Case, place: Place, held: tuple[Held, ...]) -> NotMeasured:
    reasons = [m.reason for m in case.evidence.unmeasured("idle") if m.target.address == place.address and m.reason]
    failures = [h.data.failure for h in held if h.data.failure]
    reasons += [f"{failure.operation}: {failure.detail or failure.errno or failure.kind}" for failure in failures]
    why = f" ({reasons[0]})" if reasons else ""
    return NotMeasured(
        code=CODE,
        subject=place.subject,
        statement=f"No connection to {place.label} was held idle{why}.",
        remedy=f"Run `{_check(place, USUAL_S + 10)}`.",
    )


RULES = (
    Rule(
        code=CODE,
        section=Section.INFRASTRUCTURE,
        fires="At least two connections that were quiet get no acknowledgement of their next bytes, or a RST to them, "
        "while shorter silences are survived, a fresh connection is served and one with TCP keepalives lives.",
        quiet="Loss (the bytes are acknowledged when sent again), an interruption (the fresh one fails too), a restart "
        "or failover (the one with keepalives dies too), a peer that closes an idle connection itself, a server that "
        "acknowledges and does not answer (db.unresponsive), resets of busy connections (db.connection-cut).",
        refuted_by="A connection that is answered after as long a silence.",
        judge=judge,
    ),
)
