"""Whether a standby receives WAL and replays it, by its own account. What it is called in the plan decides nothing.

Positions in the WAL are compared, not timestamps: on an idle primary nothing is replayed for hours, and nothing lags.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

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
from netdiag.diagnosis.rules.subjects import Place, addresses_of, database_places, finding_id
from netdiag.diagnosis.rules.waterfalls import attempts_at, login_check, open_question
from netdiag.diagnosis.thresholds import (
    CERTAIN,
    LIKELY,
    POSSIBLE,
    RECEIVER_GONE_S,
    RECEIVER_SILENT_S,
    REPLICATION_HELD_S,
    REPLICATION_LAG_BYTES,
    REPLICATION_LAG_S,
)
from probes.model import Measurement, value
from probes.replication import (
    Kind,
    Look,
    ReplicationMeasurement,
    Standby,
    StandbySettings,
    caught_up,
    keeps_receiving,
    known_end,
)

DOWN, LAG = "db.replica-down", "db.replication-lag"
_UNTOLD = StandbySettings(told_to_stream=None, restores=None, apply_delay_s=None, receiver_timeout_s=None)
_MONITOR = "Grant the role pg_monitor, then run again."
_ELSEWHERE = {
    Kind.YUGABYTE: "is YugabyteDB, which replicates each tablet by Raft and ships no WAL",
    Kind.AURORA: "is Aurora, whose instances share their storage and ship no WAL",
}


@value
class Watched:
    """A standby as it was looked at. All looks found it in recovery."""

    place: Place
    measurement: Measurement[ReplicationMeasurement]
    settings: StandbySettings
    looks: tuple[Look, ...]

    @property
    def span_s(self) -> float:
        return _lasted(self.looks)

    @property
    def now(self) -> Standby:
        standby = self.looks[-1].standby
        assert standby is not None  # watched() takes no other look
        return standby

    @property
    def kept(self) -> bool:
        """One and the same WAL receiver at the last two looks."""
        return len(self.looks) > 1 and keeps_receiving(*self.looks[-2:]) is True

    @property
    def adrift(self) -> tuple[Look, ...]:
        """The looks since a WAL receiver was last seen to stay."""
        pairs = enumerate(pairwise(self.looks), start=1)
        return self.looks[max((at for at, pair in pairs if keeps_receiving(*pair)), default=0) :]

    @property
    def still(self) -> tuple[Look, ...]:
        """Of those, the last ones at which no position had moved any more."""
        moved = [n for n, look in enumerate(self.adrift, start=1) if _position(look) != _position(self.looks[-1])]
        return self.adrift[max(moved, default=0) :]

    @property
    def unheard(self) -> bool:
        """The WAL receiver's own question to its sender is without an answer."""
        receiver, timeout = self.now.receiver, self.settings.receiver_timeout_s
        age = receiver.message_age_s if receiver is not None else None
        return age is not None and bool(timeout) and age > (timeout or 0.0) / 2 + RECEIVER_SILENT_S

    def open(self, code: str, statement: str, remedy: str | None = None) -> NotMeasured:
        again = f"Run `{login_check(self.place, 'replication')}`."
        return NotMeasured(code=code, subject=self.place.subject, statement=statement, remedy=remedy or again)

    def ruled_out(self, code: str, statement: str, smallest_fault: str) -> RuledOut:
        return RuledOut(
            code=code,
            subject=self.place.subject,
            statement=statement,
            smallest_fault=smallest_fault,
            evidence=(self.measurement.id,),
        )


def _lasted(looks: tuple[Look, ...]) -> float:
    return looks[-1].at_s - looks[0].at_s


def _position(look: Look) -> tuple[int | None, int | None]:
    standby = look.standby
    return (None, None) if standby is None else (standby.received, standby.replayed)


def _judge(code: str, standby: Callable[[Case, Watched], Judgement], case: Case) -> Iterator[Judgement]:
    for place in database_places(case):
        if place.endpoint.role == "load-balancer":  # it has no replication of its own; its backends are asked
            continue
        found = _watched(code, case, place)
        judged = standby(case, found) if isinstance(found, Watched) else found
        if judged is not None:
            yield judged


def _watched(code: str, case: Case, place: Place) -> Watched | NotMeasured | None:
    """The standby at a place, or why it was not looked at; None for a server that follows nobody."""
    measurement = _measured_at(case, place)
    if measurement is None or measurement.data is None:
        return _unasked(code, case, place)
    data = measurement.data
    if data.kind in _ELSEWHERE:
        text = f"{place.label} {_ELSEWHERE[data.kind]}."
        return _not_measured(code, place, text, "Ask its own console for the state of its replication.")
    if not data.looks:
        return _not_measured(code, place, f"{place.label} did not tell of its replication{_why(data)}.")
    last = data.looks[-1]
    if last.in_recovery is False:
        return _no_standby(code, place)
    if last.in_recovery is None:
        return _not_measured(code, place, f"{place.label} did not tell whether it is a standby{_why(data)}.")
    looks = tuple(look for look in data.looks if look.standby is not None)
    return Watched(place=place, measurement=measurement, settings=data.settings or _UNTOLD, looks=looks)


def _measured_at(case: Case, place: Place) -> Measurement[ReplicationMeasurement] | None:
    if place.address is None:
        return None
    there = case.evidence.of(ReplicationMeasurement, address=place.address, port=place.port)
    own = tuple(m for m in there if m.target.endpoint in (place.endpoint.name, None)) or there
    return own[-1] if own else None


def _not_measured(code: str, place: Place, statement: str, remedy: str | None = None) -> NotMeasured:
    again = f"Run `{login_check(place, 'replication')}`."
    return NotMeasured(code=code, subject=place.subject, statement=statement, remedy=remedy or again)


def _why(data: ReplicationMeasurement) -> str:
    failure = data.failure or next(iter(data.refused), None)
    if failure is None:
        return ""
    said = " ".join(part for part in (failure.sqlstate, failure.detail or str(failure.kind)) if part)
    return f" ({said})"


def _unasked(code: str, case: Case, place: Place) -> NotMeasured | None:
    """A server that says at the login that it is no standby leaves nothing open."""
    attempts = attempts_at(case, place)
    if any(a.waterfall.in_hot_standby is False for a in attempts):
        return None
    if not any(a.waterfall.server_version is not None for a in attempts):
        return open_question(code, case, place, attempts)
    unmeasured = (m for m in case.evidence.unmeasured("replication") if m.target.address == place.address)
    reason = next((f" ({m.reason})" for m in unmeasured if m.reason), "")
    return _not_measured(code, place, f"{place.label} was not asked about its replication{reason}.")


def _no_standby(code: str, place: Place) -> NotMeasured | None:
    """Promoted, or misnamed in the plan: that it is none is no fault of its replication."""
    if place.endpoint.role != "replica":
        return None
    text = f"{place.label}, a replica by the plan, is no standby (pg_is_in_recovery() is false): it follows nobody."
    return _not_measured(code, place, text, "Name the role that it has now in the plan.")


# db.replica-down


def _down(case: Case, found: Watched) -> Judgement:
    if found.now.receiving is None:
        return found.open(DOWN, f"{found.place.label} did not tell whether a WAL receiver runs.", _MONITOR)
    if len(found.looks) < 2:
        return found.open(DOWN, f"{found.place.label} was looked at once: the run's time was up before the next look.")
    if found.kept:
        return _receiving(found)
    return _unfed(found) or _down_finding(case, found)


def _receiving(found: Watched) -> Judgement:
    receiver, label = found.now.receiver, found.place.label
    status = receiver.status if receiver is not None else None
    if status not in (None, "streaming"):
        return found.open(DOWN, f'The WAL receiver of {label} is not streaming: it says "{status}".')
    age, timeout = receiver.message_age_s if receiver is not None else None, found.settings.receiver_timeout_s
    if found.unheard:
        text = f"The WAL receiver of {label} has heard nothing for {age:.0f} s, its own question included."
        return found.open(DOWN, f"{text} It gives up after {timeout:.0f} s (wal_receiver_timeout).")
    heard = f", and heard its sender {age:.1f} s ago" if age is not None else ""
    return found.ruled_out(
        DOWN,
        f"One WAL receiver ran at {label} at looks {found.span_s:.1f} s apart{heard}.",
        f"a WAL receiver that does not live from one look to the next{_until(timeout)}",
    )


def _until(timeout: float | None) -> str:
    """When a way to the sender that broke ends the WAL receiver."""
    if timeout is None:
        return ""
    if timeout == 0:
        return "; a broken way to the sender shows in no look (wal_receiver_timeout is 0)"
    return f"; a broken way to the sender shows only after wal_receiver_timeout ({timeout:.0f} s)"


def _unfed(found: Watched) -> NotMeasured | None:
    """No WAL receiver stays, and yet nothing may be wrong; None where nothing excuses it."""
    label, settings, still = found.place.label, found.settings, found.still
    alone = f"{label} is a standby without a lasting WAL receiver"
    if settings.told_to_stream is False:
        text = f"{alone}, and is not told to have one (primary_conninfo is empty): its WAL comes from an archive."
        return found.open(DOWN, text, "See whether its last restored segment is as new as its archive's.")
    if settings.told_to_stream is None and found.now.received is None:
        text = f"{alone}. Whether it is meant to have one is hidden from this role, and it has streamed nothing so far."
        return found.open(DOWN, text, _MONITOR)
    if settings.apply_delay_s:
        text = f"{alone}. It is behind on purpose, and asks for more WAL only when it has replayed what it has."
        return found.open(DOWN, text, "Ask a standby without recovery_min_apply_delay.")
    if len(still) < len(found.adrift) and _lasted(still) < RECEIVER_GONE_S:
        text = f"{alone}, and goes on all the same: by an archive, by one receiver after another, or on what it has."
        return found.open(DOWN, text)
    if _lasted(still) < RECEIVER_GONE_S:
        return found.open(DOWN, f"{alone} for {_lasted(still):.1f} s: one that just restarts is away for 5 s.")
    return None


def _down_confidence(settings: StandbySettings) -> float:
    """An archive may be what feeds it, slowly, where one is set up and the will to stream is only inferred."""
    if settings.told_to_stream is None and settings.restores is not False:
        return POSSIBLE
    return CERTAIN if settings.told_to_stream and settings.restores is False else LIKELY


def _down_finding(case: Case, found: Watched) -> Finding:
    place, looks = found.place, found.adrift
    without = sum(look.standby is not None and look.standby.receiving is False for look in looks)
    paused = " Replay is paused there, and a standby asks for WAL only while it replays." if found.now.paused else ""
    between = "" if without == len(looks) else ", and at no two looks the same one"
    said, primary = _by_its_primary(case, found)
    age = found.now.commit_age_s
    stale = f" The last commit that it shows is {age:.0f} s old." if age is not None else ""
    return _finding(
        DOWN,
        found,
        statement=f"{place.label} is a standby that answers and receives nothing: {without} of {len(looks)} looks in "
        f"{_lasted(looks):.0f} s found no WAL receiver{between}.{paused}{said}{stale}",
        evidence=(found.measurement.id, *primary),
        confidence=_down_confidence(found.settings),
        would_refute=f"A row of pg_stat_wal_receiver at {place.label} that stays.",
        step=_RESUME if found.now.paused else _STREAM,
    )


_RESUME = (
    "Find out who paused replay (pg_wal_replay_pause(), or a recovery target that was reached); then, on the standby, "
    "SELECT pg_wal_replay_resume()."
)
_STREAM = (
    "Read the standby's log for why it cannot stream: the way to its primary (firewall, name; ask from that host, it "
    "is not seen from here), its login there (password, pg_hba.conf, max_wal_senders), or WAL that the primary no "
    'longer has ("requested WAL segment ... has already been removed": rebuild the standby).'
)


def _by_its_primary(case: Case, found: Watched) -> tuple[str, tuple[str, ...]]:
    """What the plan's one primary says of this standby, where it lists its senders with their addresses."""
    others = {p: m for p in database_places(case) if (m := _measured_at(case, p)) is not None and m.data is not None}
    primaries = {p: m for p, m in others.items() if m.data and m.data.looks and m.data.looks[-1].in_recovery is False}
    if len({place.endpoint.name for place in primaries}) != 1:
        return "", ()
    place, measurement = next(iter(primaries.items()))
    look = measurement.data.looks[-1] if measurement.data else None
    if look is None or look.senders is None or any(s.client_address is None for s in look.senders):
        return "", ()
    here = addresses_of(case.evidence, found.place.endpoint)
    if any(sender.client_address in here for sender in look.senders):
        return "", ()
    return f" The primary {place.label} lists no standby at its address.", (measurement.id,)


# db.replication-lag


def _lag(case: Case, found: Watched) -> Judgement:
    label, delay = found.place.label, found.settings.apply_delay_s
    if delay:
        text = f"{label} is {delay:.0f} s behind on purpose (recovery_min_apply_delay)."
        return found.open(LAG, text, "Ask a standby without that setting.")
    done, behind = caught_up(found.looks[0], found.looks[-1]), _behind(found)
    if done is None or behind is None:
        return found.open(LAG, f"{label} did not tell what it received and replayed: it has streamed nothing so far.")
    if done:
        return _level(found)
    if behind < REPLICATION_LAG_BYTES:
        return found.ruled_out(LAG, f"Replay at {label} is {behind:,} bytes behind.", _smallest_lag())
    if delay is None and not found.now.paused:
        text = f"Replay at {label} is {_megabytes(behind)} behind, on purpose or not: its delay is hidden."
        return found.open(LAG, text, "See recovery_min_apply_delay in its recovery.conf.")
    return _lag_finding(found, behind) if _is_old(found) else _young(found, behind)


def _smallest_lag() -> str:
    return (
        f"{REPLICATION_LAG_BYTES:,} bytes of WAL that it knows of and has not replayed after {REPLICATION_LAG_S:.0f} s"
    )


def _behind(found: Watched) -> int | None:
    end, replayed = known_end(found.looks[-1]), found.now.replayed
    return None if end is None or replayed is None else max(0, end - replayed)


def _level(found: Watched) -> Judgement:
    label = found.place.label
    if not found.kept or found.unheard:
        text = (
            f"{label} has replayed what it received, and receives nothing now: how far it is behind is not seen there."
        )
        return found.open(LAG, text, "Settle db.replica-down first.")
    caught = next(look for look in found.looks if caught_up(found.looks[0], look))
    took = caught.at_s - found.looks[0].at_s
    when = f"{took:.1f} s later" if took else "at once"
    return found.ruled_out(LAG, f"What {label} knew of at the first look was replayed {when}.", _smallest_lag())


def _is_old(found: Watched) -> bool:
    """The oldest WAL that waits is at least as old as our looks are apart, and at most as the last replayed commit."""
    age = found.now.commit_age_s
    aged = found.span_s >= REPLICATION_HELD_S and age is not None and age >= REPLICATION_LAG_S
    return aged or found.span_s >= REPLICATION_LAG_S


def _young(found: Watched, behind: int) -> NotMeasured:
    text = f"Replay at {found.place.label} is {_megabytes(behind)} behind, for {found.span_s:.1f} s at least"
    return found.open(LAG, f"{text}: {REPLICATION_LAG_S:.0f} s would be lag.")


def _lag_finding(found: Watched, behind: int) -> Finding:
    age = found.now.commit_age_s
    stale = f" The last commit that it shows is {age:.0f} s old by its clock." if age is not None else ""
    why, step = _reason(found)
    return _finding(
        LAG,
        found,
        statement=f"{found.place.label} is a standby that shows old data: {_megabytes(behind)} of WAL wait, some of it "
        f"for {found.span_s:.0f} s at least.{stale} {why}",
        evidence=(found.measurement.id,),
        confidence=CERTAIN if found.span_s >= REPLICATION_LAG_S else LIKELY,
        would_refute=f"A look at {found.place.label} that finds replayed what an earlier one found received.",
        step=step,
    )


def _reason(found: Watched) -> tuple[str, str]:
    """Why replay is behind, and what to do about it."""
    now, end = found.now, known_end(found.looks[-1])
    if now.paused:
        return "Replay is paused there.", _RESUME
    replayed, received = now.replayed or 0, now.received or 0
    if received - replayed >= (end or 0) - received:
        return (
            "It has received that WAL and does not apply it in time.",
            "On the standby, see what the startup process waits for (pg_stat_activity, pg_stat_database_conflicts): a "
            "query that replay must not disturb, its disk, or more changes than one process replays.",
        )
    return (
        "That WAL has not reached it: its sender, or the way from there, is behind.",
        "Measure loss and rate from the primary's host to the standby's (not seen from here), and the primary's load.",
    )


# Words


def _megabytes(count: int) -> str:
    """Always in one unit: two addresses of one server must say the same but for the figure."""
    return f"{count / 1e6:,.2f} MB"


def _finding(
    code: str,
    found: Watched,
    *,
    statement: str,
    evidence: tuple[str, ...],
    confidence: float,
    would_refute: str,
    step: str,
) -> Finding:
    """A warning: the standby serves, and so does its primary; what it serves is old."""
    check = login_check(found.place, "replication")
    return Finding(
        id=finding_id(code, found.place.subject),
        code=code,
        role=FindingRole.CAUSE,
        severity=Severity.WARNING,
        confidence=confidence,
        section=Section.DATABASE,
        subject=found.place.subject,
        statement=statement,
        evidence=tuple(sorted(evidence)),
        would_refute=would_refute,
        actions=(Action(owner="database", horizon=Horizon.IMMEDIATE, step=step, check=check),),
    )


def judge_down(case: Case) -> Iterator[Judgement]:
    return _judge(DOWN, _down, case)


def judge_lag(case: Case) -> Iterator[Judgement]:
    return _judge(LAG, _lag, case)


RULES = (
    Rule(
        code=DOWN,
        section=Section.DATABASE,
        fires="A standby that is meant to stream answers SQL, and for ten seconds no look finds a WAL receiver that "
        "the next one finds too, and nothing more is received or replayed.",
        quiet="A receiver that restarts once; a standby fed by an archive alone; a promoted one; YugabyteDB, Aurora. "
        "A standby that does not answer is another code's (firewall.drop, db.port-closed, db.unresponsive).",
        refuted_by="A row of pg_stat_wal_receiver that stays.",
        judge=judge_down,
    ),
    Rule(
        code=LAG,
        section=Section.DATABASE,
        fires="A page of WAL or more waits at a standby, and what it knew of at the first look still does half a "
        "minute later; or ten seconds later, if its last replayed commit is half a minute old.",
        quiet="An idle primary (old commits, all replayed); a standby that is delayed on purpose; a wait that ends.",
        refuted_by="A look that finds replayed what an earlier one found received.",
        judge=judge_lag,
    ),
)
