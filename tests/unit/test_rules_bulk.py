"""db.backup-stall: what it claims, and what looks like it."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from netdiag.diagnosis.finding import Finding, NotMeasured, RuledOut, Severity
from netdiag.diagnosis.rules import bulk
from netdiag.diagnosis.thresholds import BULK_MOVED, BULK_RETRANSMITS, BULK_SILENCE_S, LIKELY
from netdiag.report.evidence_rows import value_line
from probes.bulk import MEBIBYTE, Activity, Beside, BulkEnd, BulkMeasurement, BulkRead
from probes.model import Failure, FailureKind
from tests.fakes import evidence as ev
from tests.fakes.path_evidence import sampled

(RULE,) = bulk.RULES
SEEDS = range(6)
WRITES = Activity(at_s=9.0, state="active", wait_event_type="Client", wait_event="ClientWrite")
WROTE = Activity(at_s=9.0, state="idle", wait_event_type="Client", wait_event="ClientRead")
SLEEPS = Activity(at_s=9.0, state="active", wait_event_type="Timeout", wait_event="PgSleep")
RUNS = Activity(at_s=9.0, state="active", wait_event_type=None, wait_event=None)
SERVED = (Beside(at_s=4.0, seconds=0.05), Beside(at_s=13.0, seconds=0.01))
REFUSED = Failure(kind=FailureKind.REFUSED, operation="connect")
LIMIT = Failure(kind=FailureKind.SERVER, operation="query", sqlstate="57014", detail="statement timeout")


def read(moved=300_000, end=BulkEnd.SILENT, **given):
    stalled = end in (BulkEnd.SILENT, BulkEnd.ACKNOWLEDGED)
    known = {
        "began_s": 0.1,
        "asked": 16 * MEBIBYTE,
        "moving_s": 2.0,
        "longest_pause_s": 0.1,
        "silent_s": 12.5 if stalled else 0.0,
        "retransmits": 5 if end is BulkEnd.SILENT else 0,
        "activity": (WRITES,) if stalled else (),
    }
    return BulkRead(moved=moved, end=end, **(known | given))


def measured(*reads, beside=SERVED, ordinal=1, **given):
    data = BulkMeasurement(address=str(ev.target().address), port=5432, reads=reads, beside=beside, **given)
    return ev.measured("bulk", ev.target(), data, ordinal=ordinal)


def world(*reads, more=(), **given):
    return ev.case(measured(*reads, **given), *more)


ACKED = BulkEnd.ACKNOWLEDGED
PAIR = (read(), read(310_000))
RELAYED = (read(end=ACKED), read(310_000, ACKED))
COMPLETE = read(16 * MEBIBYTE + 9000, BulkEnd.COMPLETE)
SLOW = read(280_000, BulkEnd.UNFINISHED, moving_s=20.0, longest_pause_s=3.5)

WORLDS = {
    "silent": (world(*PAIR), Finding),
    "silent, and the server is not seen": (world(*(replace(r, activity=()) for r in PAIR)), Finding),
    "acknowledged, the server waits to write": (world(*RELAYED), Finding),
    "acknowledged, the server has written all": (world(*(replace(r, activity=(WROTE,)) for r in RELAYED)), Finding),
    "reset": (world(read(end=BulkEnd.RESET), read(310_000, BulkEnd.RESET)), Finding),
    "complete": (world(COMPLETE, beside=()), RuledOut),
    "slow": (world(SLOW, beside=()), RuledOut),
    "alone, the second came through": (world(read(), read(MEBIBYTE, BulkEnd.COMPLETE)), NotMeasured),
    "alone, the second was not had": (world(read()), NotMeasured),
    "the first packets of full size": (world(read(0), read(900)), NotMeasured),
    "everybody is cut off": (
        world(*PAIR, beside=(replace(SERVED[0], failure=Failure(kind=FailureKind.TIMEOUT, operation="connect")),)),
        NotMeasured,
    ),
    "nobody beside": (world(*PAIR, beside=()), NotMeasured),
    "slow to produce": (world(*(replace(r, activity=(SLEEPS,)) for r in RELAYED)), NotMeasured),
    "still at work": (world(*(replace(r, activity=(WRITES, RUNS)) for r in RELAYED)), NotMeasured),
    "acknowledged, and the server is not seen": (world(*(replace(r, activity=()) for r in RELAYED)), NotMeasured),
    "a short silence": (world(*(replace(r, silent_s=BULK_SILENCE_S - 0.1) for r in PAIR)), NotMeasured),
    "sent again too seldom": (world(*(replace(r, retransmits=BULK_RETRANSMITS - 1) for r in PAIR)), NotMeasured),
    "statement_timeout": (world(read(9000, BulkEnd.REFUSED, failure=LIMIT), beside=()), NotMeasured),
    "the run's end": (world(read(9000, BulkEnd.UNTOLD), beside=()), NotMeasured),
    "closed port": (world(failure=REFUSED, beside=()), NotMeasured),
    "not asked for": (ev.case(ev.ports([ev.connected()])), NotMeasured),
    "unavailable": (ev.case(ev.measured("bulk", ev.target(), None)), NotMeasured),
    "unresolved": (ev.case(), NotMeasured),
}


def only(case):
    (judgement,) = ev.judged(RULE, case)
    return judgement


@pytest.mark.parametrize("name", WORLDS)
def test_each_world_is_judged_rightly(name):
    case, kind = WORLDS[name]
    assert isinstance(only(case), kind), only(case)


@pytest.mark.parametrize("name", WORLDS)
def test_the_rule_keeps_its_promises(name):
    case, _ = WORLDS[name]
    ev.assert_one_each(RULE, case)
    ev.assert_deterministic(RULE, case, seed=7)
    ev.assert_evidence_carries(RULE, case)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("end", [BulkEnd.SILENT, ACKED, BulkEnd.RESET])
def test_the_finding_states_what_moved_and_what_would_refute_it(seed, end):
    rng = random.Random(seed)
    low = rng.randint(BULK_MOVED, 8 * MEBIBYTE)
    high = low + rng.randint(1, 4 * MEBIBYTE)
    found = only(world(read(low, end), read(high, end)))
    assert isinstance(found, Finding)
    assert bulk.volume(low) in found.statement
    assert bulk.volume(high) in found.would_refute
    assert (found.severity, found.confidence) == (Severity.CRITICAL, LIKELY)
    assert found.actions[0].check.endswith(f"mebibytes={max(1, 2 * high // MEBIBYTE)}")


@pytest.mark.parametrize("seed", SEEDS)
def test_whoever_is_carried_farther_refutes(seed):
    moved = random.Random(seed).randint(BULK_MOVED, 8 * MEBIBYTE)
    after = measured(replace(COMPLETE, moved=moved + 1), ordinal=2, beside=())
    assert isinstance(only(world(read(moved), read(moved))), Finding)
    assert isinstance(only(world(read(moved), read(moved), more=[after])), NotMeasured)


def test_what_is_acknowledged_amid_loss_is_left_to_the_loss():
    lossy = sampled([n % 5 == 0 for n in range(300)])
    assert isinstance(only(world(*RELAYED, more=[lossy])), NotMeasured)
    assert isinstance(only(world(*PAIR, more=[lossy])), Finding)


def test_the_kinds_of_stop_are_told_apart():
    silent, relayed = only(world(*PAIR)), only(world(*RELAYED))
    assert "not acknowledged either (12 packets); the server waits to write (ClientWrite)" in silent.statement
    assert "(2 of 2)" in silent.statement
    assert "is acknowledged; the server waits to write" in relayed.statement
    assert "proxy" in relayed.actions[1].step
    reset = only(WORLDS["reset"][0]).statement
    assert "are reset" in reset
    assert "no byte" not in reset


def test_a_slow_one_says_what_a_gigabyte_takes():
    found = only(WORLDS["slow"][0])
    assert "at 14 kB/s: a gigabyte takes 19.8 hours" in found.statement
    assert "within 280 kB" in found.smallest_fault


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("statement_timeout", "57014"),
        ("the first packets of full size", "mtu.black-hole"),
        ("slow to produce", "PgSleep"),
        ("everybody is cut off", "interrupted"),
        ("not asked for", "only when asked for"),
        ("unavailable", "not permitted"),
    ],
)
def test_what_else_it_may_be_is_said(name, said):
    assert said in only(WORLDS[name][0]).statement


def test_the_evidence_row_says_what_moved_and_how_it_ended():
    said = value_line(measured(*RELAYED))
    assert "300,000 of 16,777,216 bytes in 2 s, acknowledged 12.5 s without a byte" in said.replace("2.00 s", "2 s")
    assert "the server is active (ClientWrite)" in said
    assert said.endswith("small questions beside them: 2 of 2 answered")
    assert "no bulk read: refused" in value_line(measured(failure=REFUSED, beside=()))
