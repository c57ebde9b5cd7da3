"""Latency and loss with the kernel's own network on loopback."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest

from probes import latency, loss
from probes.contract import Capability, Context
from probes.exchanges import TimestampSource
from probes.model import Outcome, Target, Vantage
from probes.net.clock import SystemClock
from probes.net.kernel import KernelNetwork

pytestmark = pytest.mark.loopback


@pytest.fixture
async def context() -> Context:
    clock = SystemClock()
    network = KernelNetwork(clock, packets_per_second=2000.0, connections_per_second=500.0)
    return Context(network=network, clock=clock, vantage=Vantage(name="test"), deadline=clock.monotonic() + 60)


class Listener:
    """Accepts everything and counts it."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = self._socket.getsockname()[1]
        self._peers: list[int] = []
        self._stopper = socket.socket()
        self._stopper.bind(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        last = self._stopper.getsockname()[1]
        while last not in self._peers:
            connection, peer = self._socket.accept()
            connection.close()
            self._peers.append(peer[1])

    def accepted(self) -> int:
        """Ends the service by a connection of its own, behind all others in the queue; how many were before it."""
        if self._thread.is_alive():
            self._stopper.connect(self._socket.getsockname())
            self._thread.join()
        return len(self._peers) - 1

    def close(self) -> None:
        self.accepted()
        self._stopper.close()
        self._socket.close()


@pytest.fixture
def listener() -> Iterator[Listener]:
    with closing(Listener()) as server:
        yield server


@pytest.fixture
def full_backlog() -> Iterator[int]:
    """A port whose accept queue is full: the kernel drops every further SYN without a word."""
    with ExitStack() as stack:
        server = stack.enter_context(closing(socket.create_server(("127.0.0.1", 0), backlog=0)))
        for _ in range(4):
            client = stack.enter_context(closing(socket.socket()))
            client.setblocking(False)
            client.connect_ex(server.getsockname())
        yield server.getsockname()[1]


def at(port: int | None) -> Target:
    return Target(host="127.0.0.1", port=port)


async def test_every_attempt_is_a_connection_the_server_saw(context, listener):
    measured = await latency.measure(context, at(listener.port), latency.LatencyOptions(count=8, interval_s=0.02))
    assert listener.accepted() == 8
    assert [s.outcome for s in measured.samples] == [Outcome.ANSWERED] * 8
    assert (measured.loss.sent, measured.loss.lost, measured.rtt.n) == (8, 0, 8)
    assert measured.timestamp_source is TimestampSource.TCP_INFO
    assert measured.rtt.minimum_s is not None
    assert 0 < measured.rtt.minimum_s < 0.5


async def test_a_closed_port_has_a_round_trip_time_and_no_loss(context):
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]
    measured = await latency.measure(context, at(port), latency.LatencyOptions(count=5, interval_s=0.02))
    assert {s.outcome for s in measured.samples} == {Outcome.REFUSED}
    assert (measured.loss.sent, measured.loss.lost, measured.rtt.n) == (5, 0, 5)


async def test_the_kernels_own_retransmissions_are_packets(context, full_backlog):
    """RFC 6298: the SYN goes out again after 1 s, so that 1.6 s of silence are two lost SYNs an attempt."""
    options = latency.LatencyOptions(count=3, interval_s=0.05, timeout_s=1.6)
    measured = await latency.measure(context, at(full_backlog), options)
    assert [(s.outcome, s.retransmits) for s in measured.samples] == [(Outcome.LOST, 1)] * 3
    assert (measured.loss.sent, measured.loss.lost, measured.loss.longest_run) == (6, 6, 6)
    assert measured.rtt.n == 0
    assert measured.rtt.minimum_s is None


async def test_an_attempt_that_waits_does_not_shift_the_next(context, full_backlog):
    """Each waits 1 s, but they go out 50 ms apart, as their own stamps say."""
    options = latency.LatencyOptions(count=4, interval_s=0.05, timeout_s=0.9)
    measured = await latency.measure(context, at(full_backlog), options)
    assert max(s.sent_s or 0.0 for s in measured.samples) < 0.9, "the last went out before the first had timed out"


async def test_loopback_loses_nothing_by_tcp(context, listener):
    options = loss.LossOptions(method="tcp", interval_s=0.002, mean_burst=1.0)
    measured = await loss.measure(context, at(listener.port), options)
    assert listener.accepted() == 105
    assert (measured.answer, measured.loss.sent, measured.loss.lost) == ("below", 105, 0)


async def test_a_dropped_syn_is_loss(context, full_backlog):
    options = loss.LossOptions(method="tcp", interval_s=0.002, timeout_s=0.5)
    measured = await loss.measure(context, at(full_backlog), options)
    assert (measured.answer, measured.stop_reason, measured.loss.ratio) == ("above", "answered", 1.0)


async def test_echoes(context):
    if Capability.ICMP_ECHO not in context.network.capabilities():
        pytest.skip("needs ICMP sockets (ping_group_range or CAP_NET_RAW)")
    measured = await latency.measure(context, at(None), latency.LatencyOptions(method="icmp", interval_s=0.02))
    assert [s.outcome for s in measured.samples] == [Outcome.ANSWERED] * 10
    assert measured.timestamp_source in {TimestampSource.KERNEL_RX_TX, TimestampSource.KERNEL_RX}
    verdict = await loss.measure(context, at(None), loss.LossOptions(method="icmp", interval_s=0.002, mean_burst=1.0))
    assert (verdict.answer, verdict.loss.sent, verdict.loss.lost) == ("below", 105, 0)
    assert [s.sequence for s in verdict.samples] == list(range(105))


async def test_the_ceiling_on_connections_pushes_nothing_past_the_deadline(listener):
    """Thirty attempts in 1.5 s are asked for, five a second are allowed: what does not fit is NOT_SENT."""
    clock = SystemClock()
    network = KernelNetwork(clock, connections_per_second=5.0)
    context = Context(network=network, clock=clock, vantage=Vantage(name="test"), deadline=clock.monotonic() + 3.0)
    options = latency.LatencyOptions(count=30, interval_s=0.05, timeout_s=0.5)
    measured = await latency.measure(context, at(listener.port), options)
    outcomes = [s.outcome for s in measured.samples]
    assert max(s.sent_s or 0.0 for s in measured.samples) <= 3.0
    assert outcomes.count(Outcome.ANSWERED) == listener.accepted() > 0
    assert measured.loss.not_sent == 30 - outcomes.count(Outcome.ANSWERED) > 0
