"""No echo of ours leaves before the kernel stamps what comes in, and nothing hangs where that cannot be seen."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from probes.exchanges import EchoRequest, EchoSeries, TimestampSource
from probes.model import Outcome
from probes.net.clock import SystemClock
from probes.net.kernel import KernelNetwork
from probes.net.warmup import Stamping
from tests.kernel.netns import Line, line

pytestmark = [pytest.mark.kernel, pytest.mark.needs("ip", "nft")]

COLD_STARTS = 60
FAMILIES = [socket.AF_INET, socket.AF_INET6]
SILENT_LOOPBACK = "table inet t {\nchain f {\ntype filter hook input priority 0;\niif lo counter name lost drop\n}\n}"


@pytest.fixture
def world() -> Iterator[Line]:
    with line() as made:
        made.client.sysctl(net__ipv4__ping_group_range="0 0")
        yield made


@contextlib.contextmanager
def busy_cores() -> Iterator[None]:
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 * (os.cpu_count() or 1))]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


async def one_echo(address: str) -> EchoSeries:
    return await KernelNetwork(SystemClock()).echo(EchoRequest(address=address, count=1, timeout_s=1.0))


def test_the_first_echo_of_every_fresh_socket_is_stamped_on_a_busy_machine(world):
    """Between two of them no socket wants stamps, so the kernel turns them off and on again (as long as no other
    program of the host wants them: then this test proves less)."""

    async def measure() -> list[EchoSeries]:
        return [await one_echo(world.server_address) for _ in range(COLD_STARTS)]

    with busy_cores():
        found = world.client.measure(measure)
    assert [series.timestamp_source for series in found] == [TimestampSource.KERNEL_RX_TX] * COLD_STARTS


@pytest.mark.parametrize("family", FAMILIES)
def test_what_comes_back_stamped_is_proof(world, family):
    async def measure() -> bool:
        stamping = Stamping(family, SystemClock())
        await stamping.in_force()
        return stamping.provable

    assert world.client.measure(measure)


@pytest.mark.parametrize("family", FAMILIES)
def test_without_loopback_nothing_is_proved_and_nothing_hangs(world, family):
    world.client.ip("link", "set", "lo", "down")

    async def measure() -> tuple[bool, EchoSeries]:
        stamping = Stamping(family, SystemClock())
        await stamping.in_force()
        return stamping.provable, await one_echo(
            world.server_address if family == socket.AF_INET else world.server_address6
        )

    provable, series = world.client.measure(measure)
    assert not provable
    assert [sample.outcome for sample in series.samples] == [Outcome.ANSWERED]


def test_a_filtered_loopback_is_asked_once(world):
    world.client.nft(SILENT_LOOPBACK.replace("table inet t {", "table inet t {\ncounter lost {\n}\n"))

    async def measure() -> tuple[int, int, bool]:
        stamping = Stamping(socket.AF_INET, SystemClock())
        await stamping.in_force()
        once = world.client.counter("lost")
        await stamping.in_force()
        return once, world.client.counter("lost"), stamping.provable

    once, twice, provable = world.client.measure(measure)
    assert once > 0
    assert (twice, provable) == (once, False)


def test_a_series_given_up_in_the_warm_up_leaves_it_to_the_others(world):
    async def measure() -> EchoSeries:
        network = KernelNetwork(SystemClock())
        request = EchoRequest(address=world.server_address, count=2, interval_s=0.01, timeout_s=1.0)
        first, second = (asyncio.create_task(network.echo(request)) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        return await second

    series = world.client.measure(measure)
    assert [sample.outcome for sample in series.samples] == [Outcome.ANSWERED] * 2
    assert series.timestamp_source is TimestampSource.KERNEL_RX_TX
