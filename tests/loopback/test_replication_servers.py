"""The replication probe against a real primary and its standby: what they say of themselves, and to whom."""

from __future__ import annotations

import pytest

from netdiag.lab.patience import wait_while
from netdiag.lab.postgres import Server, debian_binaries, embedded_binaries, postgres_server, standby_of
from probes.contract import Context
from probes.model import Secret, Target, Vantage
from probes.net.clock import SystemClock
from probes.net.kernel import KernelNetwork
from probes.replication import Kind, ReplicationMeasurement, ReplicationOptions, caught_up, known_end, measure

pytestmark = pytest.mark.loopback

PASSWORD = Secret("Süß 10€ \u2168")
HBA = ("local replication all trust", "host all all all scram-sha-256")
SETUP = (
    f"CREATE ROLE monitor LOGIN PASSWORD '{PASSWORD.reveal()}'",
    "GRANT pg_monitor TO monitor",
    f"CREATE ROLE plain LOGIN PASSWORD '{PASSWORD.reveal()}'",
    "CREATE TABLE t (x text)",
)
PRIMARY = {"wal_level": "replica", "max_wal_senders": "10", "hot_standby": "on"}
STANDBY = {"wal_retrieve_retry_interval": "100ms", "wal_receiver_status_interval": "1s"}
WRITE = "INSERT INTO t SELECT repeat('x', 1000) FROM generate_series(1, 200)"


def _with_basebackup(path):
    return path is not None and (path / "pg_basebackup").exists()


BINARIES = [
    pytest.param(
        path,
        id=name,
        marks=[]
        if _with_basebackup(path)
        else pytest.mark.skip(reason=f"no {name} PostgreSQL with pg_basebackup here"),
    )
    for name, path in (("debian", debian_binaries()), ("embedded", embedded_binaries()))
]


@pytest.fixture(params=BINARIES)
def pair(request):
    with (
        postgres_server(binaries=request.param, hba=HBA, settings=PRIMARY, setup=SETUP) as primary,
        standby_of(primary, STANDBY) as standby,
    ):
        until(lambda: primary.sql("SELECT state FROM pg_stat_replication") == "streaming")
        yield primary, standby


def until(reached):
    assert not wait_while(lambda: not reached(), 60.0, every_s=0.05)


def follows(primary: Server, standby: Server) -> bool:
    """Compared with what is inserted: under synchronous_commit=off it is written later."""
    written = primary.sql("SELECT pg_current_wal_insert_lsn()")
    return standby.sql(f"SELECT pg_last_wal_replay_lsn() >= '{written}'") == "t"


async def ask(server: Server, user: str = "monitor", **options) -> ReplicationMeasurement:
    clock = SystemClock()
    context = Context(
        network=KernelNetwork(clock, packets_per_second=1000, connections_per_second=1000),
        clock=clock,
        vantage=Vantage(name="test"),
        deadline=clock.monotonic() + 60.0,
    )
    quick = {"interval_s": 0.3, "receiver_patience_s": 1.0, "replay_patience_s": 1.0, **options}
    chosen = ReplicationOptions(user=user, password=PASSWORD, dbname="postgres", **quick)
    found = await measure(context, Target(host="localhost", address=server.host, port=server.port), chosen)
    assert found.failure is None
    return found


async def test_a_pair_that_is_well(pair):
    primary, standby = pair
    primary.sql(WRITE)
    until(lambda: follows(primary, standby))
    far, near = await ask(standby), await ask(primary)
    assert (far.kind, far.refused, len(far.looks)) == (Kind.POSTGRESQL, (), 2)
    assert far.settings is not None
    assert (far.settings.told_to_stream, far.settings.apply_delay_s) == (True, 0.0)
    seen = far.looks[-1].standby
    assert seen is not None
    assert seen.receiver is not None
    assert (seen.receiving, seen.receiver.status, seen.paused) == (True, "streaming", False)
    assert caught_up(far.looks[0], far.looks[-1]) is True
    (look,) = near.looks
    assert (look.in_recovery, near.refused) == (False, ())
    assert look.senders is not None
    assert [(sender.state, sender.sync_state) for sender in look.senders] == [("streaming", "async")]
    assert look.written is not None
    assert seen.replayed is not None
    assert look.written >= seen.replayed


async def test_a_role_without_pg_monitor_sees_the_receiver_and_not_its_details(pair):
    primary, standby = pair
    far, near = await ask(standby, "plain"), await ask(primary, "plain")
    seen = far.looks[-1].standby
    assert seen is not None
    assert seen.receiver is not None
    assert (seen.receiving, seen.receiver.status, seen.receiver.latest_end) == (True, None, None)
    assert seen.receiver.pid is not None
    assert (seen.replayed is None, known_end(far.looks[-1]) is None) == (False, False)
    assert far.settings is not None
    assert far.settings.told_to_stream is None
    assert near.looks[0].senders is not None
    assert [sender.state for sender in near.looks[0].senders] == [None]
    assert (far.refused, near.refused) == ((), ())


async def test_paused_replay_shows_as_wal_that_waits(pair):
    primary, standby = pair
    standby.sql("SELECT pg_wal_replay_pause()")
    primary.sql(WRITE)
    written = primary.sql("SELECT pg_current_wal_insert_lsn()")
    until(lambda: standby.sql(f"SELECT pg_last_wal_receive_lsn() >= '{written}'") == "t")
    found = await ask(standby)
    assert caught_up(found.looks[0], found.looks[-1]) is False
    assert found.looks[-1].standby is not None
    assert found.looks[-1].standby.paused is True
    standby.sql("SELECT pg_wal_replay_resume()")
    until(lambda: follows(primary, standby))
    assert (await ask(standby)).looks[-1].standby.paused is False


async def test_a_standby_whose_primary_is_gone_has_no_receiver_in_any_look(pair):
    primary, standby = pair
    primary.stop()
    until(lambda: standby.sql("SELECT count(*) FROM pg_stat_wal_receiver") == "0")
    found = await ask(standby)
    assert len(found.looks) > 2
    assert {look.standby.receiving for look in found.looks if look.standby} == {False}


async def test_a_promoted_standby_is_a_primary(pair):
    _, standby = pair
    standby.sql("SELECT pg_promote()")
    found = await ask(standby)
    assert [(look.in_recovery, look.senders) for look in found.looks] == [(False, ())]


async def test_it_changes_nothing_and_its_errors_are_none(pair):
    _, standby = pair
    before = len(standby.log_text())
    await ask(standby)
    await ask(standby, "plain")
    assert "ERROR" not in standby.log_text()[before:]
    assert "unexpected EOF" not in standby.log_text()[before:]
