"""The replication probe: when it looks again, how it reads answers, and what it says to a scripted server."""

from __future__ import annotations

import random
import struct
from dataclasses import replace

import pytest

from netdiag.run_file import builtins, convert
from probes.contract import ProbeUnavailable
from probes.model import FailureKind, Secret, Target
from probes.replication import (
    PROBE,
    Kind,
    Look,
    Looks,
    Receiver,
    ReplicationMeasurement,
    ReplicationOptions,
    Standby,
    caught_up,
    keeps_receiving,
    kind_of,
    known_end,
    measure,
    settings_of,
    standby_of,
)
from tests.fakes.clock import FakeClock
from tests.fakes.network import ScriptedNetwork, context
from tests.fakes.stream import CLOSE, ScriptedStream

TARGET = Target(host="db.example", address="192.0.2.9", port=5433)
OPTIONS = ReplicationOptions(user="app", password=Secret("geheim"), sslmode="disable")


def receiver(pid=7, end=None):
    return Receiver(pid=pid, status="streaming", sender_host=None, sender_port=None, latest_end=end, message_age_s=None)


def look(at_s=0.0, received=100, replayed=100, *, receives=True, of=None):
    standby = Standby(
        received=received,
        replayed=replayed,
        commit_age_s=None,
        paused=False,
        receiving=receives,
        receiver=of or (receiver() if receives else None),
    )
    return Look(at_s=at_s, in_recovery=True, standby=standby)


# When to look again


def walk(answer, *, delayed=False, options=OPTIONS):
    """Every look that the stepper asks for, each answered by ``answer(number, due)``."""
    stepper = Looks(options, delayed=delayed)
    while (due := stepper.next()) is not None:
        stepper.tell(answer(len(stepper.result()), due))
        assert len(stepper.result()) < 1000
    return [each.at_s for each in stepper.result()]


def test_a_primary_is_looked_at_once():
    assert walk(lambda n, due: Look(at_s=due, in_recovery=False)) == [0.0]
    assert walk(lambda n, due: Look(at_s=due, in_recovery=None)) == [0.0]


def test_a_standby_that_is_well_is_looked_at_twice():
    assert walk(lambda n, due: look(due)) == [0.0, OPTIONS.interval_s]


@pytest.mark.parametrize("seed", range(5))
def test_a_standby_is_looked_at_until_one_receiver_is_seen_twice(seed):
    back = random.Random(seed).randint(1, 4)
    assert len(walk(lambda n, due: look(due, receives=n >= back))) == back + 2


@pytest.mark.parametrize("seed", range(5))
def test_it_is_looked_at_until_what_the_first_look_knew_of_is_replayed(seed):
    level = random.Random(seed).randint(2, 9)
    assert len(walk(lambda n, due: look(due, 100 + n, 100 if n >= level else 99))) == level + 1


@pytest.mark.parametrize(
    ("seen", "patience"), [(look(receives=False), "receiver_patience_s"), (look(replayed=1), "replay_patience_s")]
)
def test_patience_ends(seen, patience):
    limit = getattr(OPTIONS, patience)
    ends = walk(lambda n, due: replace(seen, at_s=due))
    assert limit - OPTIONS.interval_s < ends[-1] <= limit


def test_nobody_waits_for_a_standby_that_is_behind_on_purpose():
    assert len(walk(lambda n, due: look(due, replayed=1), delayed=True)) == 2


def test_what_is_not_told_is_not_waited_for():
    untold = Standby(received=None, replayed=None, commit_age_s=None, paused=None, receiving=None)
    assert len(walk(lambda n, due: Look(at_s=due, in_recovery=True, standby=untold))) == 2
    assert caught_up(look(), Look(at_s=1.0, in_recovery=True, standby=untold)) is None
    assert keeps_receiving(look(), Look(at_s=1.0, in_recovery=True, standby=untold)) is None


def test_the_known_end_is_the_farther_of_what_came_and_what_was_told():
    assert known_end(look(received=5, of=receiver(end=9))) == 9
    assert known_end(look(received=9, of=receiver(end=5))) == 9
    assert known_end(look(received=None, of=receiver())) is None
    assert known_end(Look(at_s=0.0, in_recovery=False, written=5)) is None


def test_another_receiver_is_not_the_same_one():
    assert keeps_receiving(look(), look()) is True
    assert keeps_receiving(look(), look(of=receiver(pid=8))) is False
    assert keeps_receiving(look(receives=False), look()) is False


# Answers


@pytest.mark.parametrize(
    ("at_login", "about", "kind"),
    [
        ("15.18 (Debian)", (b"PostgreSQL 15.18 on x86_64", b"f"), Kind.POSTGRESQL),
        ("15.12-YB-2025.1.0.0-b0", (b"PostgreSQL 15.18", b"f"), Kind.YUGABYTE),
        ("11.2", (b"PostgreSQL 11.2-YB-2024.2.4.0-b0 on x86_64", b"f"), Kind.YUGABYTE),
        ("14.6", (b"PostgreSQL 14.6", b"t"), Kind.AURORA),
        (None, (None, None), Kind.POSTGRESQL),
    ],
)
def test_whose_replication_it_is(at_login, about, kind):
    assert kind_of(at_login, about) is kind


def test_settings_that_are_hidden_or_unknown_are_not_false():
    told = settings_of(
        (
            (b"recovery_min_apply_delay", b"60000"),
            (b"wal_receiver_timeout", b"10000"),
            (b"primary_conninfo", b"true"),
            (b"restore_command", b"false"),
        )
    )
    assert (told.apply_delay_s, told.receiver_timeout_s) == (60.0, 10.0)
    assert (told.told_to_stream, told.restores) == (True, False)
    hidden = settings_of(None)
    assert {hidden.apply_delay_s, hidden.receiver_timeout_s, hidden.told_to_stream, hidden.restores} == {None}


def test_a_row_without_details_is_a_receiver_all_the_same():
    seen = standby_of((b"16", b"16", b"1.5", b"f"), ((b"4711", None, None, None, None, None),))
    assert seen.receiving is True
    assert seen.receiver == replace(receiver(pid=4711), status=None)
    assert standby_of((b"16", b"16", None, b"f"), ()).receiving is False
    assert standby_of((b"16", b"16", None, b"f"), None).receiving is None


@pytest.mark.parametrize("junk", [b"", b"nan", b"Infinity", b"\xff\xfe", b"1e999", b"0/3000148"])
def test_what_is_no_number_is_no_answer(junk):
    seen = standby_of((junk, junk, junk, junk), ((junk,) * 6,))
    assert (seen.received, seen.replayed, seen.commit_age_s) == (None, None, None)
    assert seen.receiver is not None
    assert (seen.receiver.pid, seen.receiver.latest_end, seen.receiver.message_age_s) == (None, None, None)


# The conversation


def message(kind, body):
    return kind.encode() + struct.pack("!I", len(body) + 4) + body


Z = message("Z", b"I")
READY = message("R", struct.pack("!I", 0)) + message("S", b"server_version\x0015.18\0") + Z


def row(*columns):
    cells = b"".join(
        struct.pack("!i", -1) if c is None else struct.pack("!i", len(c)) + c for c in (_raw(c) for c in columns)
    )
    return message("D", struct.pack("!H", len(columns)) + cells)


def _raw(column):
    return column if column is None else str(column).encode()


def error(sqlstate, severity="ERROR"):
    return message("E", f"S{severity}\0V{severity}\0C{sqlstate}\0Mno\0\0".encode())


def server(asked, answers):
    """Answers each question by the first word of ``answers`` that it contains: rows, or an error's bytes."""

    def answer(said):
        sql = said.decode("latin-1")
        asked.append(sql)
        found = next((given for word, given in answers.items() if word in sql), ())
        if isinstance(found, bytes):
            return found + message("Z", b"E")
        return b"".join(row(*each) for each in found) + message("C", b"COMMIT\0") + Z

    return answer


STANDBY = {
    "version()": [("PostgreSQL 15.18", "f")],
    "pg_settings": [("primary_conninfo", "true"), ("restore_command", "false"), ("recovery_min_apply_delay", "0")],
    "pg_last_wal_receive_lsn": [(4096, 4096, 0.5, "f")],
    "pg_stat_wal_receiver": [(99, "streaming", "192.0.2.8", 5433, 4096, 0.1)],
    "SELECT pg_is_in_recovery()": [("t",)],
}
PRIMARY = {
    "version()": [("PostgreSQL 15.18", "f")],
    "pg_current_wal_lsn": [(8192,)],
    "pg_stat_replication": [("west", "192.0.2.7", "streaming", "async", 8192, 8000, 0.01)],
    "SELECT pg_is_in_recovery()": [("f",)],
}


async def conversation(answers, *, seconds=60.0, options=OPTIONS, before=READY):
    clock, asked = FakeClock(), []
    answer = server(asked, answers)
    stream = ScriptedStream(clock, lambda said: before, *[answer] * 200)
    network = ScriptedNetwork(clock, stream=lambda request: stream)
    found = await measure(context(network, seconds), TARGET, options)
    return found, [sql for sql in asked if sql], stream


async def test_a_standby_tells_what_it_receives():
    found, _, stream = await conversation(STANDBY)
    assert (found.kind, found.failure, found.refused) == (Kind.POSTGRESQL, None, ())
    assert len(found.looks) == 2
    assert found.looks[-1].standby == Standby(
        received=4096,
        replayed=4096,
        commit_age_s=0.5,
        paused=False,
        receiving=True,
        receiver=Receiver(
            pid=99,
            status="streaming",
            sender_host="192.0.2.8",
            sender_port=5433,
            latest_end=4096,
            message_age_s=0.1,
        ),
    )
    assert stream.sent[-1] == b"X\0\0\0\4"
    assert stream.closed
    assert convert(builtins(found), ReplicationMeasurement) == found


async def test_every_question_is_read_only_and_short():
    for answers in (STANDBY, PRIMARY):
        _, asked, _ = await conversation(answers)
        questions = [sql for sql in asked if "SELECT" in sql]
        assert questions
        for sql in questions:
            assert sql[5:].startswith("BEGIN READ ONLY; SET LOCAL statement_timeout = ")
            assert sql.rstrip("\0").endswith("; COMMIT")


async def test_a_primary_tells_whom_it_feeds():
    found, _, _ = await conversation(PRIMARY)
    (seen,) = found.looks
    assert (seen.in_recovery, seen.written, seen.standby) == (False, 8192, None)
    assert seen.senders is not None
    (sender,) = seen.senders
    assert (sender.client_address, sender.sent, sender.replayed, sender.replay_lag_s) == ("192.0.2.7", 8192, 8000, 0.01)


@pytest.mark.parametrize("lost", ["pg_settings", "pg_last_wal_receive_lsn", "pg_stat_wal_receiver"])
@pytest.mark.parametrize("sqlstate", ["42501", "42883", "57014"])
async def test_a_question_that_is_refused_loses_its_own_answer_only(lost, sqlstate):
    found, asked, _ = await conversation({lost: error(sqlstate), **{k: v for k, v in STANDBY.items() if k != lost}})
    assert [failure.sqlstate for failure in found.refused] == [sqlstate]
    assert found.failure is None
    standby = found.looks[-1].standby
    assert standby is not None
    assert (standby.receiving is None) == (lost == "pg_stat_wal_receiver")
    assert (standby.replayed is None) == (lost == "pg_last_wal_receive_lsn")
    assert (found.settings is not None and found.settings.told_to_stream is None) == (lost == "pg_settings")
    refused_at = next(n for n, sql in enumerate(asked) if lost in sql)
    assert "ROLLBACK" in asked[refused_at + 1]


@pytest.mark.parametrize("about", [("PostgreSQL 15.12-YB-2025.1.0.0-b0", "f"), ("PostgreSQL 14.6", "t")])
async def test_who_ships_no_wal_is_not_asked_for_it(about):
    found, asked, stream = await conversation(STANDBY | {"version()": [about]})
    assert found.kind in (Kind.YUGABYTE, Kind.AURORA)
    assert found.looks == ()
    assert not any("wal" in sql for sql in asked[1:])
    assert stream.closed


async def test_the_password_of_the_standbys_own_login_is_not_asked_for():
    _, asked, _ = await conversation(STANDBY)
    for sql in asked:
        assert "conninfo" not in sql or "(setting <> '')::text" in sql


async def test_a_server_that_goes_away_leaves_what_it_told():
    replies, answer = 5, server([], STANDBY)  # about, settings, and the three questions of one look
    clock = FakeClock()
    stream = ScriptedStream(clock, lambda said: READY, *[answer] * replies, CLOSE)
    network = ScriptedNetwork(clock, stream=lambda request: stream)
    found = await measure(context(network), TARGET, OPTIONS)
    assert len(found.looks) == 1
    assert found.failure is not None
    assert found.failure.kind is FailureKind.CLOSED


async def test_a_login_that_fails_is_data():
    found, _, _ = await conversation({}, before=error("28P01", "FATAL"))
    assert (found.kind, found.looks) == (None, ())
    assert found.failure is not None
    assert found.failure.sqlstate == "28P01"
    assert "geheim" not in repr(found)


async def test_the_runs_end_is_no_silence_of_the_servers():
    clock = FakeClock()
    stream = ScriptedStream(clock)
    network = ScriptedNetwork(clock, stream=lambda request: stream)
    found = await measure(context(network, OPTIONS.timeout_s / 2), TARGET, OPTIONS)
    assert found.failure is not None
    assert found.failure.kind is FailureKind.LOCAL


async def test_looks_end_with_the_runs_time():
    found, _, stream = await conversation(STANDBY | {"pg_stat_wal_receiver": []}, seconds=OPTIONS.interval_s * 2.5)
    assert len(found.looks) == 3
    assert found.failure is None
    assert stream.closed


@pytest.mark.parametrize(
    ("target", "options"), [(replace(TARGET, port=None), OPTIONS), (TARGET, replace(OPTIONS, user=None))]
)
async def test_without_a_port_or_a_user_nothing_is_sent(target, options):
    network = ScriptedNetwork(FakeClock())
    with pytest.raises(ProbeUnavailable):
        await measure(context(network), target, options)
    assert network.asked == []


def test_the_record_says_what_it_is():
    assert (PROBE.name, PROBE.schema) == ("replication", "replication/1")
