"""The bulk probe against a real server, directly and through relays that stop carrying after so many bytes."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, contextmanager

import pytest

from netdiag.lab.postgres import Server, debian_binaries, find_binaries, make_tls, postgres_server
from probes.bulk import MEBIBYTE, BulkEnd, BulkMeasurement, BulkOptions, measure
from probes.contract import Context, ProbeUnavailable
from probes.model import FailureKind, Secret, Target, Vantage
from probes.net.clock import SystemClock
from probes.net.kernel import KernelNetwork
from tests.loopback.test_database_servers import quiet_log

pytestmark = pytest.mark.loopback
HBA = ("local all all trust", "host all all all scram-sha-256")
SETUP = ("CREATE ROLE app LOGIN PASSWORD 'right'",)
LOGIN = {"user": "app", "password": Secret("right"), "dbname": "postgres"}
SEEDS = range(3)
needs_tls = pytest.mark.skipif(debian_binaries() is None, reason="TLS needs Debian's PostgreSQL")


@contextmanager
def server(tls=None, setup=SETUP, **settings: str):
    binaries = debian_binaries() if tls else find_binaries()
    with postgres_server(binaries=binaries, tls=tls, hba=HBA, setup=setup, settings=settings) as made:
        yield made


@asynccontextmanager
async def relay(made: Server, *, after: int, reset: bool = False, spares: int = 0) -> AsyncIterator[int]:
    """A proxy that ends TCP itself, and stops carrying a connection's bytes after ``after`` of them from the server.

    ``spares``: so many connections, the last of those that are open, are carried on.
    """
    opened, done = 0, asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal opened
        number, opened = opened, opened + 1
        upstream, back = await asyncio.open_connection(made.host, made.port)
        limit = after if number < 3 - spares or number == 0 else 1 << 40
        ways = carry(reader, back, 1 << 40), carry(upstream, writer, limit)
        await asyncio.wait([asyncio.create_task(way) for way in ways], return_when=asyncio.FIRST_COMPLETED)
        back.transport.abort()
        writer.transport.abort()

    async def carry(source: asyncio.StreamReader, sink: asyncio.StreamWriter, limit: int) -> None:
        carried = 0
        while data := await source.read(min(65536, max(1, limit - carried))):
            carried += len(data)
            sink.write(data)
            await sink.drain()
            if carried >= limit and reset:
                sink.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                sink.transport.abort()
                return
            if carried >= limit:
                await done.wait()
                return

    front = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield front.sockets[0].getsockname()[1]
    finally:
        done.set()
        front.close()
        await asyncio.sleep(0.1)  # for what it serves to end


async def ask(made: Server, *, port: int | None = None, left: float = 90.0, **options) -> BulkMeasurement:
    clock = SystemClock()
    async with KernelNetwork(clock, connections_per_second=50.0) as network:
        deadline = clock.monotonic() + left
        context = Context(network=network, clock=clock, vantage=Vantage(name="test"), deadline=deadline)
        target = Target(host="localhost", address=made.host, port=port or made.port)
        return await measure(context, target, BulkOptions(**(LOGIN | {"patience_s": 5.0} | options)))


def readers(made: Server) -> int:
    return int(made.sql("SELECT count(*) FROM pg_stat_activity WHERE usename = 'app'"))


async def gone(made: Server) -> bool:
    """A backend takes a moment to leave."""
    for _ in range(50):
        if readers(made) == 0:
            return True
        await asyncio.sleep(0.1)
    return False


@pytest.mark.parametrize("encrypted", [False, pytest.param(True, marks=needs_tls)])
async def test_all_of_it_comes_and_the_server_logs_nothing(encrypted, tmp_path):
    with server(make_tls(tmp_path) if encrypted else None) as made:
        before = len(made.log_text())
        found = await ask(made, mebibytes=24)
        assert await quiet_log(made, before) == ""
        assert await gone(made)
    (read,) = found.reads
    assert read.end is BulkEnd.COMPLETE
    assert 24 * MEBIBYTE <= read.moved < 25 * MEBIBYTE
    assert read.kernel is not None
    assert (read.kernel.bytes_received or 0) >= read.moved
    assert [p.moved for p in read.progress] == sorted(p.moved for p in read.progress)
    assert found.beside == ()


@pytest.mark.parametrize("seed", SEEDS)
async def test_a_relay_that_stops_is_found_twice_with_the_server_waiting_to_write(seed):
    after = random.Random(seed).randint(100_000, 6_000_000)
    with server() as made:
        async with relay(made, after=after) as port:
            found = await ask(made, port=port, mebibytes=32)
        assert await gone(made), "the stalled sessions were left on the server"
    assert [r.end for r in found.reads] == [BulkEnd.ACKNOWLEDGED] * 2
    assert all(0.9 * after - 20_000 < r.moved <= after for r in found.reads)
    assert all(r.silent_s >= 5.0 for r in found.reads)
    waits = {(a.state, a.wait_event) for r in found.reads for a in r.activity}
    assert waits <= {("active", "ClientWrite"), ("idle", "ClientRead")}
    assert waits
    assert all(b.failure is None for b in found.beside)


async def test_a_relay_that_resets_after_so_many_bytes():
    with server() as made:
        async with relay(made, after=400_000, reset=True) as port:
            found = await ask(made, port=port)
    assert {r.end for r in found.reads} == {BulkEnd.RESET}


async def test_a_server_that_is_slow_to_produce_says_so():
    """A row that sleeps, in place of one that is made at once."""
    slow = (
        *SETUP,
        "CREATE SCHEMA app AUTHORIZATION app",
        "CREATE FUNCTION app.repeat(text, int) RETURNS text LANGUAGE sql AS $$ SELECT pg_sleep(30)::text $$",
        "ALTER ROLE app SET search_path = app, pg_catalog",
    )
    with server(setup=slow) as made:
        found = await ask(made)
        assert await gone(made)
    assert {r.end for r in found.reads} == {BulkEnd.ACKNOWLEDGED}
    assert {a.wait_event for r in found.reads for a in r.activity} == {"PgSleep"}


async def test_the_servers_own_limit_is_no_stall():
    with server(setup=(*SETUP, "ALTER ROLE app SET statement_timeout = '1ms'")) as made:
        found = await ask(made, mebibytes=64)
    (read,) = found.reads
    assert read.end is BulkEnd.REFUSED
    assert read.failure is not None
    assert (read.failure.kind, read.failure.sqlstate) == (FailureKind.SERVER, "57014")


async def test_without_a_user_nothing_is_read():
    with server() as made, pytest.raises(ProbeUnavailable, match="takes a login"):
        await ask(made, user=None)


async def test_without_time_for_a_silence_nothing_is_read():
    with server() as made:
        with pytest.raises(ProbeUnavailable, match="were left"):
            await ask(made, left=8.0)
        assert await gone(made)
