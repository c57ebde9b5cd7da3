"""Many echo series at once through one socket, against real kernels and their own counters."""

from __future__ import annotations

import asyncio
import json
import os
import random
import threading
import time
from collections.abc import Iterator

import pytest

from probes.exchanges import EchoRequest, EchoSeries, TimestampSource
from probes.model import Outcome
from probes.net import mmsg
from probes.net.clock import SystemClock
from probes.net.kernel import KernelNetwork
from tests.kernel.netns import Line, line

pytestmark = [pytest.mark.kernel, pytest.mark.needs("ip", "nft")]

FIRST_EXTRA = 10  # 10.71.2.10 and on are the server's as well


@pytest.fixture(scope="module")
def shared_world() -> Iterator[Line]:
    with line() as made:
        for number in range(FIRST_EXTRA, FIRST_EXTRA + 100):
            made.server.ip("addr", "add", f"10.71.2.{number}/24", "dev", "wan")
        yield made


@pytest.fixture(params=["datagram", "raw", "datagram-singly", "raw-singly"])
def world(request, monkeypatch, shared_world: Line) -> Iterator[Line]:
    """ "singly": as where the C library has no sendmmsg."""
    kind, _, singly = request.param.partition("-")
    shared_world.client.sysctl(net__ipv4__ping_group_range="0 0" if kind == "datagram" else "1 0")
    monkeypatch.setattr(mmsg, "AVAILABLE", mmsg.AVAILABLE and not singly)
    yield shared_world
    shared_world.router.run("nft", "flush", "ruleset")


def servers(count: int) -> list[str]:
    return [f"10.71.2.{FIRST_EXTRA + number}" for number in range(count)]


def together(world: Line, requests: list[EchoRequest], rate: float = 5000.0) -> list[EchoSeries]:
    async def measure() -> list[EchoSeries]:
        network = KernelNetwork(SystemClock(), packets_per_second=rate)
        return await asyncio.gather(*(network.echo(request) for request in requests))

    return world.client.measure(measure)


def outcomes(series: EchoSeries) -> list[Outcome]:
    return [sample.outcome for sample in series.samples]


def test_each_target_loses_what_the_router_dropped_of_it(world):
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")  # noqa: T201
    chance = random.Random(seed)
    targets = servers(12)
    dropping = {target: chance.randint(2, 6) for target in chance.sample(targets, 6)}
    names = {target: f"d{target.rpartition('.')[2]}" for target in dropping}
    rules = "\n".join(
        f"icmp type echo-request ip daddr {target} numgen random mod {one_in} 0 counter name {names[target]} drop"
        for target, one_in in dropping.items()
    )
    counters = "\n".join(f"counter {name} {{\n}}" for name in names.values())
    world.router.nft(f"table inet t {{\n{counters}\nchain f {{\ntype filter hook forward priority 0;\n{rules}\n}}\n}}")
    requests = [EchoRequest(address=target, count=40, interval_s=0.02, timeout_s=0.4) for target in targets]
    found = dict(zip(targets, together(world, requests), strict=True))
    lost = {target: outcomes(series).count(Outcome.LOST) for target, series in found.items()}
    assert lost == {target: world.router.counter(names[target]) if target in names else 0 for target in targets}, (
        f"seed {seed}"
    )


def test_series_with_and_without_a_ttl_share_the_socket(world):
    near = EchoRequest(address=world.server_address, count=5, interval_s=0.01, timeout_s=0.5, ttl=1)
    far = EchoRequest(address=world.server_address, count=5, interval_s=0.01, timeout_s=0.5)
    expired, answered = together(world, [near, far])
    assert outcomes(expired) == [Outcome.EXPIRED] * 5
    assert outcomes(answered) == [Outcome.ANSWERED] * 5


def test_both_families_at_once(world):
    requests = [
        EchoRequest(address=address, count=5, interval_s=0.01, timeout_s=0.5)
        for address in (world.server_address, world.server_address6, world.router_address6)
    ]
    for series in together(world, requests):
        assert outcomes(series) == [Outcome.ANSWERED] * 5
        assert series.timestamp_source is TimestampSource.KERNEL_RX_TX


def test_unreachable_targets_cost_the_others_nothing(world):
    """Each ICMP error makes the shared socket's next send fail once; that send must go out all the same."""
    world.router.nft(
        "table inet t {\nchain f {\ntype filter hook forward priority 0;\n"
        "ip daddr 10.71.2.10-10.71.2.29 icmp type echo-request reject with icmpx type admin-prohibited\n}\n}"
    )
    requests = [EchoRequest(address=target, count=10, interval_s=0.01, timeout_s=0.5) for target in servers(40)]
    found = together(world, requests)
    assert [set(outcomes(series)) for series in found] == [{Outcome.REJECTED}] * 20 + [{Outcome.ANSWERED}] * 20


def test_the_token_bucket_holds_all_series_together(world):
    """The router has a bucket of its own: what goes beyond it is counted there."""
    world.router.nft(
        "table inet t {\ncounter seen {\n}\ncounter over {\n}\nchain f {\ntype filter hook forward priority 0;\n"
        "icmp type echo-request counter name seen\n"
        "icmp type echo-request limit rate over 220/second burst 14 packets counter name over\n}\n}"
    )
    requests = [EchoRequest(address=target, count=4, interval_s=0.01, timeout_s=0.5) for target in servers(100)]
    found = together(world, requests, rate=200.0)
    assert all(outcomes(series) == [Outcome.ANSWERED] * 4 for series in found)
    assert world.router.counter("seen") == 400
    assert world.router.counter("over") == 0


def test_a_hundred_series_hold_one_socket_and_then_none(world):
    def sockets() -> int:
        names = [f"/proc/self/fd/{descriptor}" for descriptor in os.listdir("/proc/self/fd")]
        return sum(os.path.islink(name) and os.readlink(name).startswith("socket:") for name in names)

    async def measure() -> tuple[int, int, int]:
        network = KernelNetwork(SystemClock(), packets_per_second=5000.0)
        before = sockets()
        requests = [EchoRequest(address=target, count=3, interval_s=0.1, timeout_s=0.5) for target in servers(100)]
        tasks = [asyncio.create_task(network.echo(request)) for request in requests]
        await asyncio.sleep(0.1)
        during = sockets()
        for task in tasks[:50]:
            task.cancel()
        rest = await asyncio.gather(*tasks[50:])
        assert all(outcomes(series) == [Outcome.ANSWERED] * 3 for series in rest)
        return before, during, sockets()

    before, during, after = world.client.measure(measure)
    assert (during - before, after - before) == (1, 0)


def test_a_group_and_this_host_answer_from_addresses_of_their_own(world):
    world.router.sysctl(net__ipv4__icmp_echo_ignore_broadcasts=0)
    targets = ("224.0.0.1", "0.0.0.0", "ff02::1%wan")
    requests = [EchoRequest(address=address, count=3, interval_s=0.01, timeout_s=0.5, ttl=1) for address in targets]
    world.client.ip("route", "replace", "224.0.0.0/4", "dev", "wan")
    for series in together(world, requests):
        assert outcomes(series) == [Outcome.ANSWERED] * 3


def test_a_link_that_goes_down_is_a_local_reason_and_no_loss(world):
    """What is sent while it is down could not be sent; before and after it everything is answered."""
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")  # noqa: T201
    chance = random.Random(seed)
    down_s, up_s = chance.uniform(0.1, 0.3), chance.uniform(0.1, 0.3)

    def flap() -> None:
        time.sleep(down_s)
        world.client.ip("link", "set", "wan", "down")
        time.sleep(up_s)
        world.client.ip("link", "set", "wan", "up")
        world.client.ip("route", "replace", "default", "via", world.router_address)

    flapping = threading.Thread(target=flap)
    flapping.start()
    requests = [EchoRequest(address=a, count=100, interval_s=0.01, timeout_s=1.0) for a in servers(20)]
    try:
        found = together(world, requests)
    finally:
        flapping.join()
        world.client.ip("-6", "addr", "replace", f"{world.client_address6}/64", "dev", "wan", "nodad")
        world.client.ip("-6", "route", "replace", "default", "via", world.router_address6)
    seen = [outcome for series in found for outcome in outcomes(series)]
    assert set(seen) == {Outcome.ANSWERED, Outcome.NOT_SENT}, f"seed {seed}"
    assert {outcomes(series)[0] for series in found} == {outcomes(series)[-1] for series in found} == {Outcome.ANSWERED}


def test_what_the_own_queue_drops_was_not_sent(world):
    """A token bucket filter that is far too small: its own counter says how many packets left."""
    chance = random.Random(os.urandom(8))
    bits = chance.randint(200, 800)
    world.client.run(*f"tc qdisc add dev wan root tbf rate {bits}kbit burst 2000 limit 3000".split())
    try:
        found = together(world, [EchoRequest(address=a, count=20, interval_s=0.01, timeout_s=1.5) for a in servers(40)])
        told = world.client.run("tc", "-s", "-j", "qdisc", "show", "dev", "wan")
    finally:
        world.client.run("tc", "qdisc", "del", "dev", "wan", "root")
    seen = [sample for series in found for sample in series.samples]
    answered = sum(sample.outcome is Outcome.ANSWERED for sample in seen)
    unsent = [sample for sample in seen if sample.outcome is Outcome.NOT_SENT]
    assert answered + len(unsent) == len(seen)
    assert {sample.failure.errno for sample in unsent} == {"ENOBUFS"}
    assert answered <= json.loads(told)[0]["packets"] <= answered + 10, "neighbour discovery is in it as well"
