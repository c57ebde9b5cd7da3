"""libpq in our codec's place: the same outcomes from the same servers, with its coarser view."""

from __future__ import annotations

import asyncio
import signal
import struct

import pytest

from netdiag.lab.postgres import debian_binaries, make_tls, postgres_server
from probes.contract import Context
from probes.database import DatabaseOptions, Phase, measure
from probes.exchanges import TlsRequest
from probes.model import Failure, FailureKind, NetworkFailure, Outcome, Secret, Target, Vantage
from probes.net.clock import SystemClock
from probes.net.kernel import KernelNetwork
from probes.net.libpq import LibpqSession
from probes.session import SpeaksLibpq

pytestmark = pytest.mark.loopback

PASSWORD = Secret("it's a \\secret")
SETUP = ("CREATE ROLE free LOGIN", "CREATE ROLE salted LOGIN PASSWORD 'it''s a \\secret'")
HBA = ("host all free all trust", "host all salted all scram-sha-256")


class LibpqNetwork(KernelNetwork):
    def libpq_session(self, address: str, port: int, tls: TlsRequest, sslmode: str) -> LibpqSession:
        return LibpqSession(SystemClock(), address, port, tls, sslmode)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    tls = make_tls(tmp_path_factory.mktemp("tls")) if debian_binaries() else None
    with postgres_server(hba=HBA, setup=SETUP, tls=tls) as running:
        yield running


def session(port: int, sslmode: str = "prefer") -> LibpqSession:
    return LibpqSession(SystemClock(), "127.0.0.1", port, TlsRequest(server_name="localhost"), sslmode)


async def failure_of(step) -> Failure:
    with pytest.raises(NetworkFailure) as caught:
        await step
    return caught.value.failure


def soon(seconds: float = 20.0) -> float:
    return SystemClock().monotonic() + seconds


@pytest.mark.parametrize(("user", "password"), [("free", None), ("salted", PASSWORD)])
async def test_the_same_four_steps(server, user, password):
    libpq = session(server.port)
    await libpq.authenticate(user, password, "postgres", soon())
    facts = await libpq.ready(soon())
    result = await libpq.query(f"SELECT {facts.backend_pid} = pg_backend_pid(), NULL, repeat('x', 100000)", soon())
    await libpq.terminate()
    assert result.rows == ((b"t", None, b"x" * 100_000),)
    assert (result.tag, result.received_bytes) == ("SELECT 1", 100_001)
    assert facts.server_version is not None
    assert facts.server_version.split()[0] == server.version
    assert (facts.in_hot_standby, facts.superuser) == (False, False)
    assert facts.ready_at >= facts.authenticated_at


async def test_a_refusal_has_text_and_no_sqlstate(server):
    failure = await failure_of(session(server.port, "disable").authenticate("salted", Secret("wr0ng"), None, soon()))
    assert (failure.kind, failure.sqlstate) == (FailureKind.SERVER, None)
    assert "wr0ng" not in repr(failure)


async def test_no_password_is_a_local_reason(server):
    failure = await failure_of(session(server.port, "disable").authenticate("salted", None, None, soon()))
    assert failure.kind is FailureKind.CREDENTIALS


async def test_a_query_error_has_its_sqlstate(server):
    libpq = session(server.port)
    await libpq.authenticate("free", None, "postgres", soon())
    await libpq.ready(soon())
    failure = await failure_of(libpq.query("SELECT 1/0", soon()))
    assert (failure.kind, failure.sqlstate) == (FailureKind.SERVER, "22012")
    late = await failure_of(libpq.query("SELECT pg_sleep(30)", soon(0.3)))
    assert late.kind is FailureKind.TIMEOUT
    await libpq.terminate()


async def test_a_frozen_server_times_out():
    with postgres_server(hba=HBA) as frozen:
        frozen.signal(signal.SIGSTOP)
        failure = await failure_of(session(frozen.port).authenticate("free", None, None, soon(0.5)))
    assert failure.kind is FailureKind.TIMEOUT
    refused = await failure_of(session(frozen.port).authenticate("free", None, None, soon()))
    assert refused.kind is FailureKind.REFUSED


async def through_a_server_that_wants_gssapi(network_type: type[KernelNetwork]):
    async def serve(reader, writer):
        await reader.read(8)
        writer.write(b"N")
        await reader.read(4096)
        writer.write(b"R" + struct.pack("!II", 8, 7))
        await reader.read()
        writer.close()

    clock = SystemClock()
    network = network_type(clock, connections_per_second=1000)
    context = Context(network=network, clock=clock, vantage=Vantage(name="test"), deadline=clock.monotonic() + 30)
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listener:
        port = listener.sockets[0].getsockname()[1]
        options = DatabaseOptions(user="app", attempts=1, timeout_s=5.0, hold_s=0.5)
        return await measure(context, Target(host="localhost", address="127.0.0.1", port=port), options)


async def test_gssapi_is_left_to_libpq_and_the_measurement_says_so():
    """Without a ticket, or in a libpq without GSSAPI, this is a local reason to stop: nothing about the network."""
    done = await through_a_server_that_wants_gssapi(LibpqNetwork)
    (waterfall,) = done.attempts
    assert [timing.phase for timing in waterfall.phases] == [Phase.TCP, Phase.SSL_REQUEST, Phase.STARTUP]
    assert waterfall.failure is not None
    assert (waterfall.outcome, waterfall.failure.kind) == (Outcome.FAILED, FailureKind.CREDENTIALS)
    assert waterfall.authentication == "gss"
    assert "gss" in (done.coarse_reason or "")
    assert done.held is None
    assert isinstance(LibpqNetwork(SystemClock()), SpeaksLibpq)


async def test_the_later_phases_through_libpq(server):
    """The first connection is asked for GSSAPI; libpq's own then completes the waterfall."""
    asked = 0

    async def serve(reader, writer):
        nonlocal asked
        asked += 1
        if asked == 1:
            await reader.read(8)
            writer.write(b"N")
            await reader.read(4096)
            writer.write(b"R" + struct.pack("!II", 8, 7))
            await reader.read()
        else:
            behind_reader, behind_writer = await asyncio.open_connection(server.host, server.port)
            await asyncio.gather(pump(reader, behind_writer), pump(behind_reader, writer))
        writer.close()

    clock = SystemClock()
    network = LibpqNetwork(clock, connections_per_second=1000)
    context = Context(network=network, clock=clock, vantage=Vantage(name="test"), deadline=clock.monotonic() + 30)
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listener:
        port = listener.sockets[0].getsockname()[1]
        options = DatabaseOptions(user="salted", password=PASSWORD, dbname="postgres", attempts=1, timeout_s=20.0)
        done = await measure(context, Target(host="localhost", address="127.0.0.1", port=port), options)
    (waterfall,) = done.attempts
    assert waterfall.failure is None
    assert [timing.phase for timing in waterfall.phases] == [phase for phase in Phase if phase is not Phase.TLS]
    assert waterfall.server_version is not None
    assert waterfall.server_version.split()[0] == server.version
    assert done.coarse_reason is not None


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
    writer.close()
