"""Handshakes and streams against real servers on loopback, well-behaved and not."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator

import pytest

from probes.contract import Capability
from probes.exchanges import (
    ConnectFailure,
    DatagramRequest,
    DnsRequest,
    EchoRequest,
    HandshakeRequest,
    Stream,
    TimestampSource,
)
from probes.model import FailureKind, NetworkFailure, Outcome
from probes.net.clock import SystemClock
from probes.net.kernel import KernelNetwork

pytestmark = pytest.mark.loopback

HOST = "127.0.0.1"
CLOCK = SystemClock()


def network() -> KernelNetwork:
    return KernelNetwork(CLOCK, packets_per_second=5000.0, connections_per_second=5000.0)


def deadline(seconds: float = 5.0) -> float:
    return CLOCK.monotonic() + seconds


@contextlib.contextmanager
def server(serve: Callable[[socket.socket], None], host: str = HOST) -> Iterator[int]:
    """Accept one connection and hand it to ``serve`` in a thread."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as listener:

        def work() -> None:
            with contextlib.suppress(OSError):
                connection, _peer = listener.accept()
                with connection:
                    serve(connection)

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def closed_port() -> int:
    with socket.create_server((HOST, 0)) as listener:
        return int(listener.getsockname()[1])


async def stream(port: int, **fields) -> Stream:
    return await network().open_stream(HandshakeRequest(address=HOST, port=port, **fields))


def reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_an_open_port_answers(host):
    with server(lambda connection: None, host) as port:
        shake = await network().handshake(HandshakeRequest(address=host, port=port))
    assert shake.outcome is Outcome.ANSWERED
    assert shake.failure is None
    assert shake.timestamp_source is TimestampSource.TCP_INFO
    assert shake.rtt_s is not None
    assert shake.info is not None
    assert shake.info.rtt_s == shake.rtt_s
    assert shake.source_address == host


async def test_a_closed_port_refuses():
    shake = await network().handshake(HandshakeRequest(address=HOST, port=closed_port()))
    assert shake.outcome is Outcome.REFUSED
    assert shake.failure is not None
    assert (shake.failure.errno, shake.failure.icmp) == ("ECONNREFUSED", None)
    assert shake.rtt_s is None


async def test_a_full_backlog_is_silence():
    with socket.create_server((HOST, 0), backlog=0) as listener, contextlib.ExitStack() as held:
        port = listener.getsockname()[1]
        held.enter_context(socket.create_connection((HOST, port)))
        shake = await network().handshake(HandshakeRequest(address=HOST, port=port, timeout_s=0.3))
    assert shake.outcome is Outcome.LOST
    assert shake.failure is not None
    assert shake.failure.kind is FailureKind.TIMEOUT


@pytest.mark.parametrize(
    ("fields", "errno"),
    [({"max_segment": 1}, "EINVAL"), ({"port": 70000}, "EINVAL"), ({"ttl": 256}, "EINVAL")],
)
async def test_what_this_host_cannot_send_is_not_sent(fields, errno):
    shake = await network().handshake(HandshakeRequest(**{"address": HOST, "port": 1, **fields}))
    assert shake.outcome is Outcome.NOT_SENT
    assert shake.failure is not None
    assert (shake.failure.kind, shake.failure.errno) == (FailureKind.LOCAL, errno)


async def test_a_source_port_in_use_is_a_local_matter():
    with socket.create_server((HOST, 0)) as listener:
        taken = listener.getsockname()[1]
        shake = await network().handshake(HandshakeRequest(address=HOST, port=closed_port(), source_port=taken))
    assert shake.outcome is Outcome.NOT_SENT
    assert shake.failure is not None
    assert shake.failure.errno == "EADDRINUSE"


async def test_source_ports_are_drawn_far_apart_where_asked():
    with server(lambda connection: None) as port:
        drawn = [await network().handshake(HandshakeRequest(address=HOST, port=port, source_port=0)) for _ in range(16)]
    assert {shake.outcome for shake in drawn} == {Outcome.ANSWERED}
    ports = [shake.source_port for shake in drawn]
    assert max(ports) - min(ports) > 1000  # of the 28,000 that ip_local_port_range has: all this near by chance, never


async def test_the_advertised_segment_size_is_kept():
    with server(lambda connection: connection.recv(1)) as port:
        opened = await stream(port, max_segment=1000)
        info = opened.info()
        await opened.close()
    assert info is not None
    assert info.snd_mss < 1000  # MSS less the timestamp option; loopback alone would have 32 kB and more


async def test_a_stream_carries_bytes_both_ways_and_sees_the_end():
    data = os.urandom(3_000_000)

    def echo(connection: socket.socket) -> None:
        received = b""
        while len(received) < len(data):
            received += connection.recv(1 << 16)
        connection.sendall(received)

    with server(echo) as port:
        opened = await stream(port)
        await opened.send(data, deadline())
        received = b""
        while chunk := await opened.receive(1 << 16, deadline()):
            received += chunk
        assert received == data
        assert opened.channel_binding() is None
        await opened.close()
        await opened.close()
        assert opened.info() is None
        with pytest.raises(NetworkFailure):
            await opened.receive(1, deadline())


async def test_a_server_that_closes_at_once_gives_the_end_of_the_stream():
    with server(lambda connection: None) as port:
        opened = await stream(port)
        assert await opened.receive(10, deadline()) == b""
        await opened.close()


async def test_a_server_that_resets_is_a_reset_after_an_answered_handshake():
    for _ in range(200):  # the reset may come during the handshake's last step or after it
        with server(reset) as port:
            opened = await stream(port)
            assert opened.handshake.outcome is Outcome.ANSWERED
            with pytest.raises(NetworkFailure) as raised:
                await opened.receive(10, deadline())
            await opened.close()
        assert (raised.value.failure.kind, raised.value.failure.operation) == (FailureKind.RESET, "receive")


async def test_a_silent_server_is_waited_for_until_the_deadline():
    gate = threading.Event()
    with server(lambda connection: gate.wait(10) and None) as port:
        opened = await stream(port)
        try:
            with pytest.raises(NetworkFailure) as raised:
                await opened.receive(10, deadline(0.2))
        finally:
            gate.set()
            await opened.close()
    assert (raised.value.failure.kind, raised.value.failure.operation) == (FailureKind.TIMEOUT, "receive")


async def test_a_receiver_that_never_reads_makes_send_time_out():
    gate = threading.Event()
    with server(lambda connection: gate.wait(10) and None) as port:
        opened = await stream(port)
        try:
            with pytest.raises(NetworkFailure) as raised:
                await opened.send(bytes(50_000_000), deadline(0.3))
        finally:
            gate.set()
            await opened.close()
    assert (raised.value.failure.kind, raised.value.failure.operation) == (FailureKind.TIMEOUT, "send")


async def test_a_refused_stream_raises_with_the_handshake():
    with pytest.raises(ConnectFailure) as raised:
        await stream(closed_port())
    assert raised.value.failure.kind is FailureKind.REFUSED
    assert raised.value.handshake.outcome is Outcome.REFUSED


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


async def test_failures_and_cancellations_leave_no_descriptor_open():
    kernel, port = network(), closed_port()
    with socket.create_server((HOST, 0), backlog=0) as listener:
        full = listener.getsockname()[1]
        with socket.create_connection((HOST, full)):
            before = descriptors()
            for _ in range(200):
                await kernel.handshake(HandshakeRequest(address=HOST, port=port))
            silent = HandshakeRequest(address=HOST, port=full, timeout_s=0.01)
            assert (await kernel.handshake(silent)).outcome is Outcome.LOST
            task = asyncio.create_task(kernel.handshake(HandshakeRequest(address=HOST, port=full, timeout_s=9)))
            await asyncio.sleep(0.02)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            assert descriptors() == before


async def test_every_other_exchange_leaves_no_descriptor_open_either():
    kernel, port = network(), closed_port()
    kernel.capabilities()
    await kernel.lookup("localhost", 5.0)
    before = descriptors()
    for _ in range(20):
        await kernel.datagram(DatagramRequest(address=HOST, port=port, packet_bytes=100))
        await kernel.dns(DnsRequest(server=HOST, payload=bytes(12), port=port))
        await kernel.dns(DnsRequest(server=HOST, payload=bytes(12), port=port, transport="tcp"))
        await kernel.lookup("localhost", 5.0)
        kernel.local_route(HOST)
        kernel.capabilities()
        if Capability.ICMP_ECHO in kernel.capabilities():
            await kernel.echo(EchoRequest(address=HOST, count=1))
    assert descriptors() == before


@pytest.mark.skipif(os.geteuid() != 0, reason="root may open raw sockets; others need ping_group_range")
async def test_root_may_echo():
    assert Capability.ICMP_ECHO in network().capabilities()
    series = await network().echo(EchoRequest(address="::1", count=3, interval_s=0.0))
    assert [sample.outcome for sample in series.samples] == [Outcome.ANSWERED] * 3


@pytest.mark.parametrize("count", [0, 65537])
async def test_an_impossible_number_of_echoes_is_the_callers_mistake(count):
    with pytest.raises(ValueError, match=str(count)):
        await network().echo(EchoRequest(address=HOST, count=count))


def test_the_route_to_loopback_has_its_source_and_mtu():
    route = network().local_route(HOST)
    with open("/sys/class/net/lo/mtu") as file:
        assert route.mtu == min(int(file.read()), 65535)  # an IPv4 packet is no larger
    assert route.source == HOST


async def drained(stream: Stream, until: float) -> None:
    while await stream.receive(65536, until):
        pass


async def test_a_peer_that_never_stops_sending_holds_neither_the_deadline_nor_other_tasks_up():
    """A flood is always at hand, so nothing ever waits: the deadline must be looked at all the same."""

    def flood(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection.sendall(bytes(1 << 20))

    turns = 0

    async def bystander() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    with server(flood) as port:
        stream = await network().open_stream(HandshakeRequest(address=HOST, port=port))
        beside = asyncio.create_task(bystander())
        until = deadline(0.5)
        with pytest.raises(NetworkFailure) as raised:
            await drained(stream, until)
        beside.cancel()
        await stream.close()
    assert raised.value.failure.kind is FailureKind.TIMEOUT
    assert turns > 1
