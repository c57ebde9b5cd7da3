"""The parts of probes.net that need no socket: pacing, resolv.conf, struct tcp_info, the packet filter's size."""

from __future__ import annotations

import ipaddress
import random
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probes.exchanges import ResolverConfig, TimestampSource
from probes.net.certificate import CertificateNames, certificate_facts, dns_name_matches, end_point_digest, names_match
from probes.net.engine.moment import Moment, round_trip
from probes.net.pacing import Pacer, Pacing
from probes.net.resolver import parse_resolver_config, read_resolver_config
from probes.net.sockets import answers_from_elsewhere, canonical, family_of, packed_address, socket_address
from probes.net.tcpinfo import parse_tcp_info
from tests.fakes.clock import FakeClock


async def starts(pacer: Pacer, clock: FakeClock, count: int, pause: float = 0.0) -> list[float]:
    times = []
    for _ in range(count):
        await clock.sleep(pause)
        await pacer.wait()
        times.append(clock.monotonic())
    return times


def busiest(times: list[float], window: float) -> int:
    """Most events in any half-open window: counted, not derived from the pacer's formula."""
    return max(sum(start <= time < start + window - 1e-9 for time in times) for start in times)


@pytest.mark.parametrize("seed", range(5))
async def test_no_window_holds_more_than_the_rate_and_the_burst(seed):
    chance = random.Random(seed)
    rate, burst = chance.uniform(1, 300), chance.randint(1, 20)
    clock = FakeClock()
    pacer = Pacer(clock, rate, burst)
    times = []
    for _ in range(400):
        times += await starts(pacer, clock, 1, chance.choice([0.0, 0.0, chance.uniform(0, 3 / rate)]))
    for window in (1 / rate, 10 / rate, 100 / rate):
        assert busiest(times, window) <= burst + rate * window


async def test_a_steady_stream_reaches_the_rate_and_no_less():
    clock = FakeClock()
    times = await starts(Pacer(clock, 200.0, 10), clock, 2000)
    assert times[-1] - times[0] == pytest.approx((2000 - 10) / 200.0)


async def test_idle_time_earns_no_more_than_the_burst():
    clock = FakeClock()
    pacer = Pacer(clock, 10.0, 3)
    await clock.sleep(1000)
    times = await starts(pacer, clock, 5)
    assert [time - times[0] for time in times] == pytest.approx([0, 0, 0, 0.1, 0.2])


async def test_connections_are_paced_per_address():
    clock = FakeClock()
    pacing = Pacing(clock, packets_per_second=1000.0, connections_per_second=5.0)
    begun = clock.monotonic()
    for _ in range(11):
        await pacing.connection("192.0.2.1")
    assert clock.monotonic() - begun == pytest.approx(10 / 5.0)
    await pacing.connection("192.0.2.2")
    assert clock.monotonic() - begun == pytest.approx(10 / 5.0)


@pytest.mark.parametrize(("rate", "burst"), [(0.0, 1), (-1.0, 1), (1.0, 0)])
def test_impossible_rates_are_refused(rate, burst):
    with pytest.raises(ValueError, match="rate"):
        Pacer(FakeClock(), rate, burst)


def test_resolver_config_as_glibc_reads_it():
    text = """
# comment
; another
domain first.example
nameserver 192.0.2.1   # the near one
nameserver fe80::1%eth0
nameserver not-an-address
search a.example b.example
nameserver 2001:db8::53
nameserver 192.0.2.4
options ndots:5 timeout:1
options rotate ndots:5
nameserver
sortlist 130.155.160.0
"""
    assert parse_resolver_config(text, "x") == ResolverConfig(
        nameservers=("192.0.2.1", "fe80::1%eth0", "2001:db8::53"),
        search=("a.example", "b.example"),
        options=("ndots:5", "timeout:1", "rotate"),
        source="x",
    )


def test_the_last_of_domain_and_search_counts():
    assert parse_resolver_config("search a b\ndomain c d\n", "x").search == ("c",)


def test_without_a_nameserver_the_machine_itself_is_asked(tmp_path):
    """resolv.conf(5), and what an empty file makes glibc do."""
    assert read_resolver_config(tmp_path / "none").nameservers == ("127.0.0.1",)
    assert parse_resolver_config("search corp.example\nnameserver dns.example\n", "x").nameservers == ("127.0.0.1",)


@given(st.text(max_size=200))
def test_any_text_is_a_resolver_config(text):
    assert len(parse_resolver_config(text, "x").nameservers) <= 3


def tcp_info(length: int) -> bytes:
    """Fields by the offsets of include/uapi/linux/tcp.h."""
    raw = bytearray(280)
    raw[0], raw[4] = 1, 2
    for offset, figure in {
        8: 204000,
        16: 1448,
        20: 536,
        24: 3,
        60: 1500,
        68: 50123,
        72: 25000,
        84: 1460,
        100: 7,
    }.items():
        struct.pack_into("=I", raw, offset, figure)
    struct.pack_into("=QQ", raw, 120, 1001, 2002)
    for offset, figure in {144: 11, 148: 49000, 152: 4, 156: 5, 224: 6}.items():
        struct.pack_into("=I", raw, offset, figure)
    struct.pack_into("=Q", raw, 208, 3003)
    struct.pack_into("=H", raw, 240, 9)
    return bytes(raw[:length])


def test_every_field_of_tcp_info():
    info = parse_tcp_info(tcp_info(280))
    assert info is not None
    assert (info.state, info.backoff, info.rtt_s, info.rttvar_s, info.min_rtt_s) == (1, 2, 0.050123, 0.025, 0.049)
    assert (info.rto_s, info.snd_mss, info.rcv_mss, info.advmss, info.pmtu) == (0.204, 1448, 536, 1460, 1500)
    assert (info.unacked, info.total_retrans, info.total_rto, info.notsent_bytes) == (3, 7, 9, 11)
    assert (info.bytes_acked, info.bytes_received, info.bytes_retrans) == (1001, 2002, 3003)
    assert (info.data_segs_in, info.data_segs_out, info.rcv_ooopack) == (4, 5, 6)


def test_an_older_kernels_tcp_info_lacks_fields_and_says_so():
    info = parse_tcp_info(tcp_info(104))
    assert info is not None
    assert info.total_retrans == 7
    assert (info.bytes_acked, info.min_rtt_s, info.total_rto, info.rcv_ooopack) == (None, None, None, None)
    assert parse_tcp_info(tcp_info(103)) is None


def test_an_unset_minimum_is_none():
    raw = bytearray(tcp_info(280))
    struct.pack_into("=I", raw, 148, 0xFFFFFFFF)
    struct.pack_into("=I", raw, 68, 0)
    info = parse_tcp_info(bytes(raw))
    assert info is not None
    assert (info.min_rtt_s, info.rtt_s) == (None, None)


@pytest.mark.parametrize(
    ("pattern", "host", "matches"),
    [
        ("db.example", "DB.Example", True),
        ("*.example", "db.example", True),
        ("*.example", ".example", False),
        ("*.example", "a.b.example", False),
        ("*.", "db.", False),
        ("d*.example", "db.example", False),
        ("*", "example", False),
        ("", "", True),
    ],
)
def test_wildcards_stand_for_one_whole_label(pattern, host, matches):
    assert dns_name_matches(pattern, host) is matches


def test_the_common_name_counts_only_without_names_of_the_hosts_kind():
    only_dns = CertificateNames(dns=("a.example",), addresses=(), common="10.0.0.1")
    assert names_match(only_dns, "10.0.0.1")
    assert not names_match(only_dns, "b.example")
    assert names_match(CertificateNames(dns=(), addresses=("::1",), common="x"), "0:0::1")
    assert not names_match(CertificateNames(dns=(), addresses=("::1",), common="::2"), "::2")


@given(st.binary(max_size=200))
def test_hostile_certificates_are_unreadable_not_fatal(der):
    assert certificate_facts(der) is None
    assert end_point_digest(der) is None


@given(
    st.integers(0, 10), st.integers(1, 50), st.lists(st.tuples(st.integers(0, 4096), st.integers(1, 70)), max_size=30)
)
def test_slots_taken_at_once_are_those_taken_one_by_one(exponent, burst, steps):
    """Powers of two, so that no sum is rounded."""
    clock = FakeClock()
    bulk, single = (Pacer(clock, 2.0**exponent, burst) for _ in range(2))
    for pause, most in steps:
        clock.now += pause / 4096
        expected = next((count for count in range(most) if not single.conforms()), most)
        assert bulk.conforming(most) == expected
        bulk.take(expected)


SECOND = 1_000_000_000


@pytest.mark.parametrize(
    ("transmit", "wall", "receive", "rtt", "source"),
    [
        (100 * SECOND + 2_000_000, 100 * SECOND, 100 * SECOND + 12_000_000, 0.010, TimestampSource.KERNEL_RX_TX),
        (None, 100 * SECOND, 100 * SECOND + 12_000_000, 0.012, TimestampSource.KERNEL_RX),
        (100 * SECOND, 100 * SECOND, None, 0.020, TimestampSource.USER),
        (100 * SECOND, 100 * SECOND, 3700 * SECOND, 0.020, TimestampSource.USER),  # the wall clock was stepped on
        (100 * SECOND, 100 * SECOND, 40 * SECOND, 0.020, TimestampSource.USER),  # and back
    ],
)
def test_the_best_clock_that_can_be_true_times_an_echo(transmit, wall, receive, rtt, source):
    found, by = round_trip(Moment(5.0, wall), Moment(5.02, wall + 20_000_000), transmit, receive)
    assert found == pytest.approx(rtt)
    assert by is source


@pytest.mark.parametrize("seed", range(4))
def test_addresses_are_read_as_ipaddress_reads_them(seed):
    draw = random.Random(seed)
    packed = [draw.randbytes(draw.choice([4, 16])) for _ in range(200)]
    packed += [bytes(4), bytes(16), b"\xe0" + draw.randbytes(3), b"\xff" + draw.randbytes(15)]
    for address in map(ipaddress.ip_address, packed):
        assert packed_address(str(address)) == address.packed
        assert (family_of(str(address)) == socket.AF_INET6) == (address.version == 6)
        assert answers_from_elsewhere(str(address)) == (address.is_multicast or address.is_unspecified)


@pytest.mark.parametrize(
    "text", ["", "1.2.3", "01.2.3.4", "1.2.3.4%lo", "::1::", "1.2.3.4\0", "db.example", "\u0661.2.3.4"]
)
def test_what_is_no_literal_address_is_refused(text):
    with pytest.raises(ValueError, match="address"):
        family_of(text)


def test_addresses_compare_as_the_kernel_prints_them():
    assert canonical("2001:DB8:0::1") == "2001:db8::1"
    assert canonical("fe80::1%lo") == "fe80::1"
    assert socket_address("fe80::1%lo", 53) == ("fe80::1", 53, 0, 1)
    with pytest.raises(OSError, match="interface"):
        socket_address("fe80::1%nosuchlink", 53)
    with pytest.raises(ValueError, match=r"db\.example"):
        family_of("db.example")
