"""The database probe against servers that are not PostgreSQL, or not quite."""

from __future__ import annotations

import asyncio
import os
import random
import struct
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from probes.contract import Context
from probes.database import DatabaseMeasurement, DatabaseOptions, Phase, measure
from probes.model import FailureKind, Outcome, Secret, Target, Vantage
from probes.net.clock import SystemClock
from probes.net.kernel import KernelNetwork

pytestmark = pytest.mark.loopback

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def stranger(serve: Serve):
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def probe(port: int, **options) -> DatabaseMeasurement:
    clock = SystemClock()
    context = Context(
        network=KernelNetwork(clock, packets_per_second=1000, connections_per_second=1000),
        clock=clock,
        vantage=Vantage(name="test"),
        deadline=clock.monotonic() + 30,
    )
    chosen = {"attempts": 1, "user": "app", "password": Secret("hunter2"), "timeout_s": 1.0, **options}
    return await measure(context, Target(host="db.example", address="127.0.0.1", port=port), DatabaseOptions(**chosen))


async def attempt(port: int, **options):
    (waterfall,) = (await probe(port, **options)).attempts
    return waterfall


async def test_one_that_closes_at_once():
    async def serve(reader, writer):
        writer.close()

    async with stranger(serve) as port:
        waterfall = await attempt(port)
    assert waterfall.failure is not None
    assert waterfall.failed_phase is Phase.SSL_REQUEST
    assert waterfall.failure.kind in (FailureKind.CLOSED, FailureKind.RESET)  # a late SSLRequest draws a RST
    assert (waterfall.outcome, waterfall.ssl_answer, waterfall.http_status) == (Outcome.FAILED, None, None)


async def test_one_that_reads_and_closes():
    async def serve(reader, writer):
        await reader.read(8)
        writer.close()

    async with stranger(serve) as port:
        waterfall = await attempt(port)
    assert waterfall.failure is not None
    assert (waterfall.failed_phase, waterfall.failure.kind) == (Phase.SSL_REQUEST, FailureKind.CLOSED)


async def test_one_that_never_answers():
    async def serve(reader, writer):
        await reader.read()
        writer.close()

    async with stranger(serve) as port:
        waterfall = await attempt(port, timeout_s=0.5)
    assert waterfall.failure is not None
    assert (waterfall.failed_phase, waterfall.outcome, waterfall.failure.kind) == (
        Phase.SSL_REQUEST,
        Outcome.LOST,
        FailureKind.TIMEOUT,
    )


@pytest.mark.parametrize("sslmode", ["prefer", "disable"])
async def test_an_error_of_ten_megabytes_is_not_swallowed(sslmode):
    """Refused from its header: of the body no more is read than what the kernel had at hand."""
    size, sent = 10 << 20, 0

    async def serve(reader, writer):
        nonlocal sent
        await reader.read(8)
        writer.write(b"E" + struct.pack("!I", size))
        try:
            for _ in range(size // 65536):
                writer.write(b"M" * 65536)
                await writer.drain()
                sent += 65536
        except ConnectionError:
            return

    async with stranger(serve) as port:
        waterfall = await attempt(port, sslmode=sslmode)
    assert waterfall.failure is not None
    assert waterfall.failure.kind is FailureKind.PROTOCOL
    assert str(size) in (waterfall.failure.detail or "")
    assert waterfall.info is not None
    assert waterfall.info.bytes_received is not None
    assert waterfall.info.bytes_received < size


async def test_an_http_server_says_who_it_is():
    asked = []

    class Handler(BaseHTTPRequestHandler):
        server_version, sys_version = "netdiag-test/1", ""

        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *args):
            pass

    web = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=web.serve_forever)
    thread.start()
    try:
        # http.server waits for a line; an SSLRequest has none, so this one speaks first, as HAProxy and ALB do
        async with stranger(http_proxy(web.server_address[1])) as port:
            done = await probe(port, attempts=2)
    finally:
        web.shutdown()
        thread.join()
        web.server_close()
    first, second = done.attempts
    assert first.failure is not None
    assert (first.ssl_answer, first.failed_phase, first.failure.kind) == ("H", Phase.SSL_REQUEST, FailureKind.PROTOCOL)
    assert first.first_bytes is not None
    assert first.first_bytes.startswith("HTTP/1.1 400 Bad request")
    assert first.http_status == "HTTP/1.0 404 Not Found"
    assert (first.http_server or "").strip() == "netdiag-test/1"
    assert (second.ssl_answer, second.http_status) == ("H", first.http_status)
    assert asked == ["/"]  # once; what was learnt holds for every attempt that met the same


def http_proxy(backend: int) -> Serve:
    """What is no HTTP draws a 400 at once; the rest goes to the real HTTP server behind."""

    async def serve(reader, writer):
        head = await reader.read(4096)
        if head.startswith(b"GET "):
            behind_reader, behind_writer = await asyncio.open_connection("127.0.0.1", backend)
            behind_writer.write(head)
            writer.write(await behind_reader.read())
            behind_writer.close()
        else:
            writer.write(b"HTTP/1.1 400 Bad request\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    return serve


async def test_seeded_garbage_is_a_classified_failure_and_tells_no_password():
    """Whatever comes, the attempt ends as FAILED or LOST in a named phase: never an exception, never a success."""
    rng = random.Random(int(os.environ.get("NETDIAG_TEST_SEED", "1006")))
    openings = [b"", b"N", b"N" + b"R\0\0\0\x08\0\0\0\0", b"N" + b"R\0\0\0\x08\0\0\0\x03", b"S"]
    kinds = set()
    for _ in range(60):
        opening, tail = rng.choice(openings), rng.randbytes(rng.randrange(1, 400))

        async def serve(reader, writer, opening=opening, tail=tail):
            await reader.read(8)
            writer.write(opening[:1])
            await writer.drain()
            await asyncio.sleep(0.01)
            writer.write(opening[1:] + tail)
            writer.close()

        async with stranger(serve) as port:
            waterfall = await attempt(port)
        assert waterfall.failure is not None
        assert waterfall.outcome in (Outcome.FAILED, Outcome.LOST)
        assert waterfall.failed_phase is not None
        assert waterfall.phases[-1].phase is waterfall.failed_phase
        assert "hunter2" not in repr(waterfall)
        kinds.add(waterfall.failure.kind)
    assert {FailureKind.PROTOCOL} <= kinds


async def test_a_connection_that_the_rate_ceiling_holds_back_is_not_sent():
    """One connection in ten seconds: the second never leaves, and says nothing of the server."""

    async def serve(reader, writer):
        await reader.read(8)
        writer.write(b"N")
        await reader.read()
        writer.close()

    clock = SystemClock()
    network = KernelNetwork(clock, connections_per_second=0.1)
    context = Context(network=network, clock=clock, vantage=Vantage(name="test"), deadline=clock.monotonic() + 1.0)
    async with stranger(serve) as port:
        target = Target(host="db.example", address="127.0.0.1", port=port)
        first, second = (await measure(context, target, DatabaseOptions(attempts=2, interval_s=0.01))).attempts
    assert first.outcome is Outcome.ANSWERED
    assert second.failure is not None
    assert (second.outcome, second.handshake.outcome, second.failure.kind) == (
        Outcome.NOT_SENT,
        Outcome.NOT_SENT,
        FailureKind.LOCAL,
    )
