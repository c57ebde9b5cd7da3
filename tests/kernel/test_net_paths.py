"""The real network code against real kernels: a client, a router that misbehaves as told, a server."""

from __future__ import annotations

import asyncio
import random

import pytest

from probes.exchanges import (
    ConnectFailure,
    DatagramRequest,
    DnsRequest,
    EchoRequest,
    HandshakeRequest,
    TimestampSource,
)
from probes.model import FailureKind, Outcome
from probes.net.clock import SystemClock
from probes.net.kernel import KernelNetwork
from tests.kernel.netns import Line, line

pytestmark = [pytest.mark.kernel, pytest.mark.needs("ip", "nft")]

PORT = 5433
HOOK = "table inet t {{\n{objects}\nchain f {{\ntype filter hook {hook} priority 0;\n{rules}\n}}\n}}"


@pytest.fixture(scope="module")
def shared_world():
    with line() as world, world.server.listen(PORT), world.server.listen(PORT, "::", 10):
        yield world


@pytest.fixture
def world(shared_world: Line):
    yield shared_world
    for host in (shared_world.client, shared_world.router, shared_world.server):
        host.run("nft", "flush", "ruleset")


def network() -> KernelNetwork:
    return KernelNetwork(SystemClock(), packets_per_second=5000.0, connections_per_second=5000.0)


def connect(world: Line, **fields):
    request = HandshakeRequest(**{"address": world.server_address, "port": PORT, "timeout_s": 2.0, **fields})
    return world.client.measure(lambda: network().handshake(request))


def filter_forward(world: Line, rules: str, objects: str = "") -> None:
    world.router.nft(HOOK.format(hook="forward", objects=objects, rules=rules))


@pytest.mark.parametrize("family", ["4", "6"])
def test_open_port_answers_with_the_kernels_rtt(world, family):
    address = world.server_address if family == "4" else world.server_address6
    source = world.client_address if family == "4" else world.client_address6
    shake = connect(world, address=address, source_port=40123)
    assert shake.outcome is Outcome.ANSWERED
    assert (shake.source_address, shake.source_port) == (source, 40123)
    assert shake.timestamp_source is TimestampSource.TCP_INFO
    assert shake.rtt_s is not None
    assert 0 < shake.rtt_s <= shake.seconds
    assert shake.syn_retransmits == 0


@pytest.mark.parametrize(
    ("reject", "outcome", "errno", "icmp"),
    [
        ("icmpx type admin-prohibited", Outcome.REJECTED, "EHOSTUNREACH", (3, 13)),
        ("icmpx type port-unreachable", Outcome.REJECTED, "ECONNREFUSED", (3, 3)),
        ("icmp type host-prohibited", Outcome.REJECTED, "EHOSTUNREACH", (3, 10)),
        ("icmp type net-prohibited", Outcome.REJECTED, "ENETUNREACH", (3, 9)),
        ("icmpx type host-unreachable", Outcome.UNREACHABLE, "EHOSTUNREACH", (3, 1)),
        ("icmpx type no-route", Outcome.UNREACHABLE, "ENETUNREACH", (3, 0)),
    ],
)
def test_a_reject_names_its_sender(world, reject, outcome, errno, icmp):
    filter_forward(world, f"ip daddr {world.server_address} tcp dport {PORT} reject with {reject}")
    shake = connect(world)
    assert shake.outcome is outcome
    assert shake.failure is not None
    assert shake.failure.icmp is not None
    assert (shake.failure.icmp.type, shake.failure.icmp.code) == icmp
    assert shake.failure.icmp.offender == world.router_address
    assert shake.failure.errno == errno


@pytest.mark.parametrize(
    ("reject", "code"), [("admin-prohibited", 1), ("port-unreachable", 4), ("addr-unreachable", 3)]
)
def test_a_reject_names_its_sender_over_ipv6(world, reject, code):
    filter_forward(world, f"ip6 daddr {world.server_address6} tcp dport {PORT} reject with icmpv6 type {reject}")
    for _ in range(10):  # the error may come while the attempt is being waited for, or before
        shake = connect(world, address=world.server_address6)
        assert shake.outcome is (Outcome.UNREACHABLE if code == 3 else Outcome.REJECTED)
        assert shake.failure is not None
        assert shake.failure.icmp is not None
        assert (shake.failure.icmp.family, shake.failure.icmp.type, shake.failure.icmp.code) == (6, 1, code)
        assert shake.failure.icmp.offender == world.router_address6


def test_a_reset_is_refused_without_icmp(world):
    filter_forward(world, f"tcp dport {PORT} reject with tcp reset")
    shake = connect(world)
    assert shake.outcome is Outcome.REFUSED
    assert shake.failure is not None
    assert shake.failure.icmp is None


def test_an_expired_ttl_names_the_router_and_keeps_the_flow(world):
    for _ in range(3):
        shake = connect(world, ttl=1, source_port=40999)
        assert shake.outcome is Outcome.EXPIRED
        assert shake.source_port == 40999
        assert shake.failure is not None
        assert shake.failure.icmp is not None
        assert (shake.failure.icmp.type, shake.failure.icmp.offender) == (11, world.router_address)
    assert connect(world, ttl=2, source_port=40999).outcome is Outcome.ANSWERED


def test_a_silent_drop_ends_at_the_timeout(world):
    filter_forward(world, f"tcp dport {PORT} drop")
    shake = connect(world, timeout_s=0.5)
    assert shake.outcome is Outcome.LOST
    assert shake.seconds >= 0.5
    assert shake.failure is not None
    assert shake.failure.kind is FailureKind.TIMEOUT
    assert shake.rtt_s is None


def test_lost_syns_are_counted_and_leave_no_rtt(world):
    lost = random.Random(11).randint(1, 2)
    filter_forward(
        world,
        f"tcp dport {PORT} tcp flags syn counter name syns numgen inc mod 64 < {lost} drop",
        objects="counter syns {\n}\n",
    )
    shake = connect(world, timeout_s=8.0)
    assert shake.outcome is Outcome.ANSWERED
    assert shake.syn_retransmits == lost == world.router.counter("syns") - 1
    assert shake.rtt_s is None


def test_retransmissions_of_an_unanswered_syn_are_counted(world):
    filter_forward(world, f"tcp dport {PORT} counter name syns drop", objects="counter syns {\n}\n")
    shake = connect(world, timeout_s=1.5)
    assert shake.outcome is Outcome.LOST
    assert shake.syn_retransmits == world.router.counter("syns") - 1 == 1


@pytest.mark.parametrize(
    ("route", "outcome", "errno"),
    [
        ("unreachable", Outcome.UNREACHABLE, "EHOSTUNREACH"),
        ("prohibit", Outcome.NOT_SENT, "EACCES"),
        ("blackhole", Outcome.NOT_SENT, "EINVAL"),
    ],
)
def test_local_routes_are_this_hosts_own_word(world, route, outcome, errno):
    world.client.ip("route", "add", route, "198.51.100.0/24")
    try:
        shake = connect(world, address="198.51.100.7")
    finally:
        world.client.ip("route", "del", route, "198.51.100.0/24")
    assert shake.outcome is outcome
    assert shake.failure is not None
    assert (shake.failure.kind, shake.failure.errno, shake.failure.icmp) == (FailureKind.LOCAL, errno, None)


def test_no_route_at_all_is_unreachable_and_local(world):
    world.client.ip("-6", "route", "del", "default")
    try:
        shake = connect(world, address="2001:db8::1")
        route = world.client.inside(lambda: network().local_route("2001:db8::1"))
    finally:
        world.client.ip("-6", "route", "add", "default", "via", world.router_address6)
    assert shake.outcome is Outcome.UNREACHABLE
    assert shake.failure is not None
    assert (shake.failure.kind, shake.failure.errno) == (FailureKind.LOCAL, "ENETUNREACH")
    assert route.source is None
    assert route.failure is not None
    assert route.failure.errno == "ENETUNREACH"


@pytest.mark.parametrize("family", ["4", "6"])
def test_a_reject_by_this_host_itself_names_this_host(world, family):
    address = world.server_address if family == "4" else world.server_address6
    world.client.nft(HOOK.format(hook="output", objects="", rules=f"tcp dport {PORT} reject"))
    shake = connect(world, address=address)
    assert shake.outcome is Outcome.REJECTED
    assert shake.failure is not None
    assert shake.failure.icmp is not None
    assert shake.failure.icmp.offender == shake.source_address


def test_a_neighbour_that_does_not_exist_is_unreachable_by_our_own_word(world):
    shake = connect(world, address="10.71.1.77", timeout_s=10.0)
    assert shake.outcome is Outcome.UNREACHABLE
    assert shake.failure is not None
    assert shake.failure.icmp is not None
    assert (shake.failure.icmp.type, shake.failure.icmp.code) == (3, 1)
    assert shake.failure.icmp.offender == world.client_address == shake.source_address


def test_errors_of_many_attempts_at_once_keep_to_their_own(world):
    """The kernel queues an ICMP error, sets SO_ERROR and wakes us up in no order that one may rely on."""
    filter_forward(world, f"tcp dport {PORT} reject with icmpx type admin-prohibited")

    async def storm():
        kernel = network()
        addresses = [world.server_address, world.server_address6] * 100
        requests = [HandshakeRequest(address=address, port=PORT, timeout_s=5.0) for address in addresses]
        return await asyncio.gather(*(kernel.handshake(request) for request in requests))

    shakes = world.client.measure(storm)
    assert {shake.outcome for shake in shakes} == {Outcome.REJECTED}
    assert {shake.failure.icmp.offender for shake in shakes} == {world.router_address, world.router_address6}


def test_a_failed_stream_shows_its_handshake(world):
    filter_forward(world, f"tcp dport {PORT} reject with icmpx type admin-prohibited")
    request = HandshakeRequest(address=world.server_address, port=PORT)
    with pytest.raises(ConnectFailure) as raised:
        world.client.measure(lambda: network().open_stream(request))
    assert raised.value.handshake.outcome is Outcome.REJECTED
    assert raised.value.failure.icmp is not None


def echo(world: Line, **fields):
    defaults = {"address": world.server_address, "count": 5, "interval_s": 0.01, "timeout_s": 0.5}
    return world.client.measure(lambda: network().echo(EchoRequest(**{**defaults, **fields})))


@pytest.fixture(params=["datagram", "raw"])
def icmp_kind(request, world):
    world.client.sysctl(net__ipv4__ping_group_range="0 0" if request.param == "datagram" else "1 0")
    return request.param


@pytest.mark.parametrize("family", ["4", "6"])
def test_echo_answers_are_timed_by_the_kernel(world, icmp_kind, family):
    series = echo(world, address=world.server_address if family == "4" else world.server_address6)
    assert series.socket == icmp_kind
    assert series.timestamp_source is TimestampSource.KERNEL_RX_TX
    assert [sample.outcome for sample in series.samples] == [Outcome.ANSWERED] * 5
    assert all(sample.rtt_s is not None and 0 < sample.rtt_s < 0.5 for sample in series.samples)


def test_echo_loss_is_what_the_router_dropped(world, icmp_kind):
    one_in = random.Random(5).randint(3, 6)
    filter_forward(
        world,
        f"icmp type echo-request counter name seen numgen random mod {one_in} 0 counter name dropped drop",
        objects="counter seen {\n}\ncounter dropped {\n}\n",
    )
    series = echo(world, count=60, interval_s=0.005)
    lost = [sample for sample in series.samples if sample.outcome is Outcome.LOST]
    assert world.router.counter("seen") == 60
    assert len(lost) == world.router.counter("dropped") > 0
    assert all(sample.rtt_s is None for sample in lost)
    assert sum(sample.outcome is Outcome.ANSWERED for sample in series.samples) == 60 - len(lost)


def test_echo_errors_name_their_sender_each_once(world, icmp_kind):
    series = echo(world, ttl=1)
    assert [sample.outcome for sample in series.samples] == [Outcome.EXPIRED] * 5
    for sample in series.samples:
        assert sample.failure is not None
        assert sample.failure.icmp is not None
        assert sample.failure.icmp.offender == world.router_address
        assert sample.rtt_s is not None


def test_echo_errors_name_their_sender_over_ipv6(world, icmp_kind):
    filter_forward(world, "icmpv6 type echo-request reject with icmpv6 type admin-prohibited")
    series = echo(world, address=world.server_address6)
    assert [sample.outcome for sample in series.samples] == [Outcome.REJECTED] * 5
    offenders = {
        s.failure.icmp.offender for s in series.samples if s.failure is not None and s.failure.icmp is not None
    }
    assert offenders == {world.router_address6}


def test_echoes_that_this_host_drops_itself_are_not_sent_and_not_lost(world, icmp_kind):
    world.client.nft(HOOK.format(hook="output", objects="", rules="icmp type echo-request drop"))
    series = echo(world)
    assert [sample.outcome for sample in series.samples] == [Outcome.NOT_SENT] * 5
    assert {sample.failure.errno for sample in series.samples if sample.failure is not None} == {"EPERM"}
    assert all(sample.sent_s is None for sample in series.samples)


def test_stamps_stay_with_their_probes_when_some_sends_fail(world, icmp_kind):
    rule = "icmp type echo-request numgen inc mod 3 1 drop"
    world.client.nft(HOOK.format(hook="output", objects="", rules=rule))
    series = echo(world, count=12)
    not_sent = [sample.outcome is Outcome.NOT_SENT for sample in series.samples]
    assert 0 < sum(not_sent) < 12
    assert all(
        s.outcome is Outcome.ANSWERED and s.rtt_s is not None and s.rtt_s < 0.009
        for s in series.samples
        if s.sent_s is not None
    )


def test_a_duplicated_reply_is_counted_as_a_duplicate(world, icmp_kind):
    rule = f"icmp type echo-reply dup to {world.client_address} device left"
    world.router.nft("table ip t {\nchain f {\ntype filter hook forward priority 0;\n" + rule + "\n}\n}")
    series = echo(world, count=3)
    assert [sample.outcome for sample in series.samples] == [Outcome.ANSWERED] * 3
    assert [sample.duplicates for sample in series.samples] == [1, 1, 1]


def datagram(world: Line, **fields):
    defaults = {"address": world.server_address, "port": 33434, "packet_bytes": 1500, "timeout_s": 0.5}
    return world.client.measure(lambda: network().datagram(DatagramRequest(**{**defaults, **fields})))


@pytest.mark.parametrize("family", ["4", "6"])
def test_a_narrow_link_says_its_mtu_and_its_router_every_time(world, family):
    narrow = random.Random(3).randrange(1300, 1480, 4)
    address = world.server_address if family == "4" else world.server_address6
    router = world.router_address if family == "4" else world.router_address6
    world.router.ip("link", "set", "right", "mtu", str(narrow))
    try:
        replies = [datagram(world, address=address) for _ in range(3)]  # the cached path MTU must not hide it
        fitting = datagram(world, address=address, packet_bytes=narrow)
        too_much = datagram(world, address=address, packet_bytes=narrow + 1)
    finally:
        world.router.ip("link", "set", "right", "mtu", "1500")
    for reply in [*replies, too_much]:
        assert reply.outcome is Outcome.TOO_BIG
        assert reply.failure is not None
        assert reply.failure.icmp is not None
        assert (reply.failure.icmp.mtu, reply.failure.icmp.offender) == (narrow, router)
    assert fitting.outcome is Outcome.REFUSED


def test_a_datagram_larger_than_the_own_interface_is_local(world):
    reply = datagram(world, packet_bytes=1501)
    assert reply.outcome is Outcome.TOO_BIG
    assert reply.failure is not None
    assert (reply.failure.kind, reply.failure.errno, reply.failure.icmp) == (FailureKind.LOCAL, "EMSGSIZE", None)
    assert reply.failure.detail == "local MTU 1500"


def test_port_unreachable_by_a_firewall_is_not_the_targets_refusal(world):
    assert datagram(world).outcome is Outcome.REFUSED
    filter_forward(world, "udp dport 33434 reject with icmpx type port-unreachable")
    assert datagram(world).outcome is Outcome.REJECTED


def test_an_expired_datagram_names_the_router(world):
    reply = datagram(world, packet_bytes=100, ttl=1)
    assert reply.outcome is Outcome.EXPIRED
    assert reply.failure is not None
    assert reply.failure.icmp is not None
    assert reply.failure.icmp.offender == world.router_address


def test_a_dropped_dns_query_is_lost_and_a_rejected_one_is_not(world):
    query = DnsRequest(server=world.server_address, payload=bytes(16), timeout_s=0.3)
    filter_forward(world, "udp dport 53 drop")
    assert world.client.measure(lambda: network().dns(query)).outcome is Outcome.LOST
    world.router.run("nft", "flush", "ruleset")
    filter_forward(world, "udp dport 53 reject with icmpx type admin-prohibited")
    assert world.client.measure(lambda: network().dns(query)).outcome is Outcome.REJECTED
