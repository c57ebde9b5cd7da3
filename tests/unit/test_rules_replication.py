"""A standby that receives nothing or does not replay, told from all that looks like it."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from netdiag.diagnosis.causes import explains
from netdiag.diagnosis.engine import diagnose
from netdiag.diagnosis.finding import Finding, FindingRole, NotMeasured, RuledOut, Severity, Verdict
from netdiag.diagnosis.rules import replication
from netdiag.diagnosis.thresholds import (
    CERTAIN,
    LIKELY,
    POSSIBLE,
    RECEIVER_GONE_S,
    REPLICATION_HELD_S,
    REPLICATION_LAG_BYTES,
    REPLICATION_LAG_S,
)
from netdiag.evidence import Run, Tool
from probes.model import Failure, FailureKind, Vantage
from probes.replication import Kind, Look, Receiver, ReplicationMeasurement, Sender, Standby, StandbySettings
from tests.fakes import evidence as ev

DOWN, LAG = replication.RULES
WEST, EAST = ev.endpoint("west.example", name="west", role="replica"), ev.endpoint("east.example", name="east")
AT_WEST, AT_EAST = ev.target("198.51.100.20", of=WEST), ev.target("198.51.100.10", of=EAST)
SETTINGS = StandbySettings(told_to_stream=True, restores=False, apply_delay_s=0.0, receiver_timeout_s=60.0)
HIDDEN = StandbySettings(told_to_stream=None, restores=None, apply_delay_s=None, receiver_timeout_s=60.0)
WAL = 0x3_0000_0000
OFTEN = int(RECEIVER_GONE_S / 3) + 2  # looks, 3 s apart, that are enough to find a receiver gone
LONG = int(REPLICATION_LAG_S / 3) + 2


def standby(received=WAL, replayed=WAL, *, pid=77, age=0.2, paused=False, status="streaming", end=None, heard=0.1):
    """``pid`` None: no WAL receiver. ``status`` None: its details are hidden."""
    seen = status is not None
    receiver = Receiver(
        pid=pid,
        status=status,
        sender_host="198.51.100.10" if seen else None,
        sender_port=5432 if seen else None,
        latest_end=(received if end is None else end) if seen else None,
        message_age_s=heard if seen else None,
    )
    return Standby(
        received=received,
        replayed=replayed,
        commit_age_s=age,
        paused=paused,
        receiving=pid is not None,
        receiver=None if pid is None else receiver,
    )


def looks(*standbys, every=3.0):
    return tuple(Look(at_s=every * n, in_recovery=True, standby=each) for n, each in enumerate(standbys))


def asked(*seen, settings=SETTINGS, at=AT_WEST, kind=Kind.POSTGRESQL, **more):
    data = ReplicationMeasurement(
        address=at.address or at.host, port=at.port or 0, kind=kind, settings=settings, looks=seen, **more
    )
    return ev.measured("replication", at, data)


def primary(*addresses, written=WAL + 4_000_000):
    senders = tuple(
        Sender(
            application_name="walreceiver",
            client_address=address,
            state="streaming",
            sync_state="async",
            sent=written,
            replayed=written,
            replay_lag_s=None,
        )
        for address in addresses
    )
    return asked(Look(at_s=0.0, in_recovery=False, written=written, senders=senders), at=AT_EAST)


def logged_in(at, *, standby):
    return ev.database([ev.waterfall(server_version="15.18", in_hot_standby=standby)] * 2, at=at)


def world(*measurements, endpoints=(WEST, EAST)):
    logins = (logged_in(AT_WEST, standby=True), logged_in(AT_EAST, standby=False))
    return ev.case(*logins, *measurements, endpoints=endpoints)


def at_west(rule, *measurements):
    """The one judgement of the standby; the primary has none."""
    (judgement,) = ev.judged(rule, world(*measurements))
    assert judgement.subject.endpoint == "west"
    return judgement


GONE = standby(pid=None, age=40.0)
SHORT = looks(*[GONE] * 3)
WORLDS = {
    "well": (asked(*looks(standby(), standby())), RuledOut, RuledOut),
    "idle-primary": (asked(*looks(standby(age=9000.0), standby(age=9003.0))), RuledOut, RuledOut),
    "details-hidden": (asked(*looks(*[standby(status=None)] * 2), settings=HIDDEN), RuledOut, RuledOut),
    "gone": (asked(*looks(*[GONE] * OFTEN)), Finding, NotMeasured),
    "gone-too-briefly": (asked(*SHORT), NotMeasured, NotMeasured),
    "one-look": (asked(*looks(standby())), NotMeasured, NotMeasured),
    "restarts-once": (asked(*looks(standby(pid=5), GONE, standby(pid=6), standby(pid=6))), RuledOut, RuledOut),
    "restarts-each-time": (asked(*looks(*[standby(pid=n) for n in range(5, 5 + OFTEN)])), Finding, NotMeasured),
    "archive-alone": (
        asked(*looks(*[standby(None, pid=None)] * OFTEN), settings=replace(SETTINGS, told_to_stream=False)),
        NotMeasured,
        NotMeasured,
    ),
    "archive-feeds": (
        asked(*looks(*[standby(WAL, WAL + n * 16_000_000, pid=None) for n in range(OFTEN)])),
        NotMeasured,
        NotMeasured,
    ),
    "replays-what-it-has": (
        asked(*looks(*[standby(WAL + 900_000, WAL + n, pid=None, age=1.0) for n in range(OFTEN)])),
        NotMeasured,
        NotMeasured,
    ),
    "archive-fed-until-a-while-ago": (
        asked(*looks(standby(WAL, WAL + 16_000_000, pid=None), *[standby(WAL, WAL + 32_000_000, pid=None)] * OFTEN)),
        Finding,
        NotMeasured,
    ),
    "gone-and-delayed-on-purpose": (
        asked(*looks(*[standby(WAL + 900_000, pid=None)] * OFTEN), settings=replace(SETTINGS, apply_delay_s=3600.0)),
        NotMeasured,
        NotMeasured,
    ),
    "gone-and-paused": (asked(*looks(*[standby(pid=None, paused=True)] * OFTEN)), Finding, NotMeasured),
    "hidden-and-never-streamed": (
        asked(*looks(*[standby(None, pid=None)] * OFTEN), settings=HIDDEN),
        NotMeasured,
        NotMeasured,
    ),
    "receiver-not-told": (
        asked(*looks(*[replace(standby(), receiving=None, receiver=None)] * 2)),
        NotMeasured,
        NotMeasured,
    ),
    "silent-receiver": (asked(*looks(standby(heard=39.0), standby(heard=42.0))), NotMeasured, NotMeasured),
    "waiting-receiver": (asked(*looks(*[standby(status="waiting")] * 2)), NotMeasured, RuledOut),
    "not-replayed": (asked(*looks(*[standby(WAL + 900_000, age=None)] * LONG)), RuledOut, Finding),
    "not-received": (asked(*looks(*[standby(end=WAL + 900_000, age=None)] * LONG)), RuledOut, Finding),
    "paused": (asked(*looks(*[standby(WAL + 900_000, paused=True)] * LONG)), RuledOut, Finding),
    "paused-and-nothing-waits": (asked(*looks(*[standby(WAL + 300, paused=True)] * LONG)), RuledOut, RuledOut),
    "behind-and-replaying": (
        asked(*looks(*[standby(WAL + n * 90_000, WAL + n * 9_000 - 900_000) for n in range(LONG)])),
        RuledOut,
        Finding,
    ),
    "wait-that-ends": (
        asked(*looks(standby(WAL + 900_000), standby(WAL + 900_000), standby(WAL + 950_000, WAL + 900_000))),
        RuledOut,
        RuledOut,
    ),
    "behind-too-briefly": (asked(*looks(*[standby(WAL + 900_000, age=9000.0)] * 3)), RuledOut, NotMeasured),
    "delayed-on-purpose": (
        asked(
            *looks(*[standby(WAL + 900_000, age=3600.0)] * LONG),
            settings=replace(SETTINGS, apply_delay_s=3600.0),
        ),
        RuledOut,
        NotMeasured,
    ),
    "delay-hidden": (asked(*looks(*[standby(WAL + 900_000)] * LONG), settings=HIDDEN), RuledOut, NotMeasured),
    "down-and-behind": (
        asked(*looks(*[standby(WAL + 900_000, pid=None, age=90.0)] * LONG)),
        Finding,
        Finding,
    ),
    "yugabyte": (asked(kind=Kind.YUGABYTE), NotMeasured, NotMeasured),
    "aurora": (asked(kind=Kind.AURORA), NotMeasured, NotMeasured),
    "cut-off": (
        asked(failure=Failure(kind=FailureKind.CLOSED, operation="query"), settings=None),
        NotMeasured,
        NotMeasured,
    ),
    "promoted": (asked(Look(at_s=0.0, in_recovery=False, written=WAL, senders=())), NotMeasured, NotMeasured),
    "role-not-told": (asked(Look(at_s=0.0, in_recovery=None)), NotMeasured, NotMeasured),
    "unavailable": (ev.measured("replication", AT_WEST, None), NotMeasured, NotMeasured),
}


@pytest.mark.parametrize("name", WORLDS)
def test_each_world_has_its_judgements(name):
    measured, down, lag = WORLDS[name]
    assert isinstance(at_west(DOWN, measured), down)
    assert isinstance(at_west(LAG, measured), lag)


@pytest.mark.parametrize("rule", replication.RULES, ids=lambda rule: rule.code)
@pytest.mark.parametrize("name", WORLDS)
def test_what_every_rule_keeps_to(rule, name):
    seen = world(WORLDS[name][0], primary())
    ev.assert_one_each(rule, seen)
    ev.assert_deterministic(rule, seen, seed=len(name))
    ev.assert_evidence_carries(rule, seen)


def test_a_standby_that_receives_nothing_is_a_warning_with_what_would_settle_it():
    found = at_west(DOWN, asked(*looks(*[GONE] * OFTEN)), primary())
    assert (found.role, found.severity, found.confidence) == (FindingRole.CAUSE, Severity.WARNING, CERTAIN)
    assert f"{OFTEN} of {OFTEN} looks" in found.statement
    assert "198.51.100.10:5432 lists no standby at its address" in found.statement
    assert found.actions[0].check == "netdiag probe replication 'postgresql://app@west.example:5432?sslmode=prefer'"


def test_replay_that_is_paused_is_what_keeps_a_standby_from_asking_for_wal():
    found = at_west(DOWN, asked(*looks(*[standby(pid=None, paused=True)] * OFTEN)))
    assert "Replay is paused there" in found.statement
    assert "pg_wal_replay_resume()" in found.actions[0].step


@pytest.mark.parametrize("senders", [("198.51.100.20",), (None,)])
def test_a_primary_that_lists_it_still_or_hides_its_list_is_not_cited(senders):
    listed = primary(*senders)
    found = at_west(DOWN, asked(*looks(*[GONE] * OFTEN)), listed)
    assert "primary" not in found.statement
    assert listed.id not in found.evidence


@pytest.mark.parametrize(
    ("told", "restores", "confidence"),
    [
        (True, False, CERTAIN),
        (True, True, LIKELY),
        (None, False, LIKELY),
        (None, True, POSSIBLE),
        (None, None, POSSIBLE),
    ],
)
def test_an_archive_that_may_feed_it_lowers_the_confidence(told, restores, confidence):
    settings = replace(SETTINGS, told_to_stream=told, restores=restores)
    assert at_west(DOWN, asked(*looks(*[GONE] * OFTEN), settings=settings)).confidence == confidence


def test_a_receiver_that_ends_while_replay_is_watched_has_its_own_ten_seconds():
    behind = standby(WAL + 900_000, age=90.0)
    gone = replace(behind, receiving=False, receiver=None)
    assert isinstance(at_west(DOWN, asked(*looks(*[behind] * 5, *[gone] * 2))), NotMeasured)
    found = at_west(DOWN, asked(*looks(*[behind] * 5, *[gone] * OFTEN)))
    assert isinstance(found, Finding)
    assert f"{OFTEN} of {OFTEN + 1} looks" in found.statement


@pytest.mark.parametrize("seed", range(5))
def test_lag_is_judged_by_what_waited_and_how_long(seed):
    draw = random.Random(seed)
    behind, every = draw.randint(REPLICATION_LAG_BYTES, 1 << 30), draw.uniform(1.0, 5.0)
    for count in range(2, 40):
        seen = looks(*[standby(WAL + behind, age=None)] * count, every=every)
        enough = seen[-1].at_s >= REPLICATION_LAG_S
        assert isinstance(at_west(LAG, asked(*seen)), Finding if enough else NotMeasured)


@pytest.mark.parametrize("seed", range(5))
def test_a_run_short_of_time_needs_an_old_commit_besides(seed):
    draw = random.Random(seed)
    span, age = draw.uniform(REPLICATION_HELD_S, REPLICATION_LAG_S - 0.1), draw.uniform(1.0, 60.0)
    found = at_west(LAG, asked(*looks(*[standby(WAL + 900_000, age=age)] * 2, every=span)))
    assert isinstance(found, Finding if age >= REPLICATION_LAG_S else NotMeasured)
    assert not isinstance(found, Finding) or found.confidence == LIKELY


@pytest.mark.parametrize(
    ("seen", "why"),
    [
        (standby(WAL + 900_000, paused=True), "Replay is paused"),
        (standby(WAL + 900_000), "does not apply it in time"),
        (standby(WAL + 300, end=WAL + 900_000), "has not reached it"),
    ],
)
def test_lag_says_why(seen, why):
    found = at_west(LAG, asked(*looks(*[seen] * LONG)))
    assert why in found.statement
    assert found.severity is Severity.WARNING


def test_paused_replay_is_found_where_the_delay_is_hidden():
    assert isinstance(
        at_west(LAG, asked(*looks(*[standby(WAL + 900_000, paused=True)] * LONG), settings=HIDDEN)), Finding
    )


def test_lag_is_folded_under_a_standby_that_receives_nothing():
    found = asked(*looks(*[standby(WAL + 900_000, pid=None, age=90.0)] * LONG))
    down, lag = at_west(DOWN, found), at_west(LAG, found)
    assert explains(down, lag)
    assert not explains(lag, down)


def test_both_families_of_one_standby_are_one_finding_and_the_verdict_is_degraded():
    six = ev.target("2001:db8::20", of=WEST)
    gone = [asked(*looks(*[GONE] * OFTEN), at=at) for at in (AT_WEST, six)]
    seen = world(*gone, logged_in(six, standby=True))
    found = diagnose(run_of(seen))
    causes = [f for f in found.findings if f.role is FindingRole.CAUSE]
    assert [f.code for f in causes] == ["db.replica-down"]
    assert found.verdict is Verdict.DEGRADED


def run_of(seen):
    return Run(
        run_id="r",
        tool=Tool(version="0"),
        plan=seen.plan,
        vantage=Vantage(name="test"),
        started=ev.STARTED,
        finished=ev.STARTED,
        end_reason="complete",
        partial=False,
        privileges=(),
        evidence=seen.evidence,
    )


@pytest.mark.parametrize("rule", replication.RULES, ids=lambda rule: rule.code)
def test_a_balancer_and_a_primary_have_no_replication_to_judge(rule):
    balancer = ev.endpoint("lb.example", name="lb", role="load-balancer")
    at = ev.target("198.51.100.30", of=balancer)
    seen = ev.case(
        logged_in(at, standby=True), logged_in(AT_EAST, standby=False), primary(), endpoints=(balancer, EAST)
    )
    assert ev.judged(rule, seen) == []


@pytest.mark.parametrize("rule", replication.RULES, ids=lambda rule: rule.code)
def test_without_a_login_the_question_stays_open(rule):
    at = ev.target("198.51.100.20", of=WEST)
    shut = ev.database([ev.waterfall(last=ev.PHASES[1])], at=at, credentials=False)
    (open_,) = ev.judged(rule, ev.case(shut, endpoints=(WEST,)))
    assert isinstance(open_, NotMeasured)
    assert "No user is given" in open_.statement


def test_the_role_of_the_plan_is_not_needed():
    plain = replace(WEST, role="database")
    seen = ev.case(logged_in(AT_WEST, standby=True), asked(*looks(*[GONE] * OFTEN)), endpoints=(plain,))
    assert isinstance(ev.judged(DOWN, seen)[0], Finding)
