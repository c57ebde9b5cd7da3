"""Path MTU through a real router, each direction narrowed by itself, with ICMP and without, and a real PostgreSQL."""

import contextlib
import random
import socket
import threading
import time

import pytest

from netdiag.lab.postgres import debian_binaries, find_binaries, make_tls, postgres_server
from probes.model import Secret, Target
from probes.mtu import CONNECTIONS_AT_MOST, MtuOptions, measure
from tests.kernel.pathworld import chain

pytestmark = pytest.mark.kernel
PORT = 5432
SCRAM = ("hostssl all all all scram-sha-256", "host all all all scram-sha-256")
ROLE = "CREATE ROLE app LOGIN PASSWORD 'right'"
DATABASE = MtuOptions(
    user="app", password=Secret("right"), dbname="postgres", use_database=True, stall_s=2.0, sslmode="disable"
)


def ask(made, options=None, family=4):
    address = made.address(family)
    target = Target(host=address, address=address, port=PORT)
    return made.measure(lambda context: measure(context, target, options or MtuOptions()), seconds=80)


def database(made, family=4, **more):
    return postgres_server(
        host=made.address(family),
        port=PORT,
        hba=SCRAM,
        setup=(ROLE,),
        launcher=("ip", "netns", "exec", made.server.name),
        binaries=None if more.get("tls") else find_binaries(),
        **more,
    )


@pytest.mark.parametrize("family", [4, 6])
def test_healthy_path(family):
    with chain() as made:
        forward = (ask(made, family=family)).to_target
    assert (forward.largest_delivered, forward.black_hole, forward.signalled_mtu) == (1500, False, None)


@pytest.mark.parametrize("seed", range(3))
def test_signalled_forward(seed):
    mtu = random.Random(seed).randint(1280, 1480)
    with chain() as made:
        made.narrow(mtu, forward=True)
        forward = (ask(made)).to_target
        assert (forward.signalled_mtu, forward.signalled_by) == (mtu, made.router_address(1))
    assert (forward.largest_delivered, forward.black_hole) == (mtu, False)


def test_signalled_forward_ipv6():
    with chain() as made:
        made.narrow(1400, forward=True)
        forward = (ask(made, family=6)).to_target
    assert (forward.largest_delivered, forward.signalled_mtu, forward.signalled_by) == (
        1400,
        1400,
        made.router_address(1, 6),
    )


@pytest.mark.parametrize(("family", "seed"), [(4, 1), (4, 2), (6, 3)])
def test_black_hole_forward(family, seed):
    mtu = random.Random(seed).randint(1281, 1480)
    with chain() as made:
        made.narrow(mtu, forward=True)
        made.silence_too_big()
        forward = (ask(made, family=family)).to_target
    assert forward.black_hole is True
    assert forward.largest_delivered <= mtu < forward.smallest_lost
    assert forward.smallest_lost - forward.largest_delivered <= 4
    assert (forward.signalled_mtu, forward.method) == (None, "udp-df")


def test_filtered_udp_is_no_black_hole():
    with chain() as made:
        made.filter(made.router(1), "forward", "meta l4proto udp drop")
        forward = (ask(made)).to_target
    assert forward.black_hole is None
    assert "UDP" in forward.reason


def test_database_on_a_healthy_path_costs_two_connections():
    with chain() as made, database(made) as server:
        measurement = ask(made, DATABASE)
        log = server.log_text()
    assert (measurement.from_target.black_hole, measurement.from_target.largest_delivered) == (False, 1500)
    assert (measurement.to_target.black_hole, measurement.to_target.largest_delivered) == (False, 1500)
    assert len(measurement.segments) == 2
    assert "incomplete startup packet" not in log
    assert "Connection reset" not in log


@pytest.mark.parametrize(("family", "seed"), [(4, 0), (6, 1)])
def test_database_shows_the_black_hole_on_the_way_back(family, seed):
    mtu = random.Random(seed).randint(1281, 1480)
    with chain() as made, database(made, family):
        made.narrow(mtu, forward=False)
        made.silence_too_big()
        measurement = ask(made, DATABASE, family)
    back = measurement.from_target
    assert (back.black_hole, back.method) == (True, "tcp-maxseg")
    assert back.largest_delivered <= mtu < back.smallest_lost
    assert back.smallest_lost - back.largest_delivered <= 8
    assert (measurement.to_target.black_hole, measurement.to_target.largest_delivered) == (False, 1500)
    assert len(measurement.segments) <= CONNECTIONS_AT_MOST
    stalled = measurement.segments[0]
    # the small tail came through, and waits for the full segments that did not.
    assert stalled.delivered is False
    assert stalled.info.rcv_ooopack >= 1
    assert stalled.info.data_segs_in >= 1


def test_database_shows_the_black_hole_on_the_way_there_where_udp_is_filtered():
    mtu = random.Random(9).randint(1280, 1480)
    with chain() as made, database(made):
        made.narrow(mtu, forward=True)
        made.silence_too_big()
        made.filter(made.server, "input", "meta l4proto udp drop")
        measurement = ask(made, DATABASE)
    there = measurement.to_target
    assert (there.black_hole, there.method) == (True, "tcp-send")
    assert there.largest_delivered <= mtu < there.smallest_lost
    assert measurement.from_target.black_hole is False


def test_a_narrow_path_that_says_so_is_measured_exactly_both_ways():
    """By then the kernel remembers the way there, and advertises its MSS by that."""
    with chain() as made, database(made):
        made.narrow(1344, forward=True)
        made.narrow(1344, forward=False)
        measurement = ask(made, DATABASE)
    assert (measurement.to_target.largest_delivered, measurement.from_target.largest_delivered) == (1344, 1344)
    assert (measurement.to_target.black_hole, measurement.from_target.black_hole) == (False, False)


def test_a_signalled_narrow_way_back_is_no_black_hole():
    with chain() as made, database(made):
        made.narrow(1400, forward=False)
        measurement = ask(made, DATABASE)
    assert (measurement.from_target.black_hole, measurement.from_target.largest_delivered) == (False, 1400)


def test_wrong_password_is_no_verdict_on_size():
    with chain() as made, database(made):
        options = MtuOptions(user="app", password=Secret("wrong"), use_database=True)
        measurement = ask(made, options)
    assert measurement.from_target.black_hole is None
    assert "wrong" not in repr(measurement)


@pytest.mark.skipif(debian_binaries() is None, reason="TLS needs Debian's PostgreSQL: apt-get install postgresql")
def test_tls_flight_stalls_in_a_black_hole_without_credentials(tmp_path):
    names = [f"db-{number}.a-long-name-that-fills-the-certificate.example" for number in range(80)]
    with chain() as made, database(made, tls=make_tls(tmp_path, names)):
        healthy = ask(made, MtuOptions(use_database=True, stall_s=2.0))
        made.narrow(1400, forward=False)
        made.silence_too_big()
        measurement = ask(made, MtuOptions(use_database=True, stall_s=2.0))
    assert healthy.from_target.black_hole is False
    back = measurement.from_target
    assert back.black_hole is True
    assert (back.largest_delivered, back.smallest_lost) == (1400, 1401)


def test_a_clamped_mss_saves_tcp_from_the_black_hole_that_udp_sees():
    with chain() as made, database(made):
        made.narrow(1400, forward=True)
        made.silence_too_big()
        made.filter(made.router(1), "forward", "tcp flags & syn == syn tcp option maxseg size set 1300")
        measurement = ask(made, DATABASE)
    there = measurement.to_target
    assert (there.black_hole, there.method, there.largest_delivered) == (False, "tcp-send", 1340)
    assert "1400" in there.reason
    assert (measurement.from_target.black_hole, measurement.from_target.largest_delivered) == (False, 1340)


@pytest.mark.skipif(debian_binaries() is None, reason="TLS needs Debian's PostgreSQL: apt-get install postgresql")
@pytest.mark.parametrize("udp", [True, False])
def test_black_hole_both_ways_under_tls(tmp_path, udp):
    """With TLS the way there can only be tried above 1400 bytes as far as the certificate's way back allows."""
    options = MtuOptions(
        user="app", password=Secret("right"), dbname="postgres", use_database=True, stall_s=1.5, sslmode="require"
    )
    names = [f"db-{number}.a-long-name-that-fills-the-certificate.example" for number in range(80)]
    with chain() as made, database(made, tls=make_tls(tmp_path, names)):
        made.narrow(1400, forward=True)
        made.narrow(1400, forward=False)
        made.silence_too_big()
        if not udp:
            made.filter(made.server, "input", "meta l4proto udp drop")
        measurement = ask(made, options)
    back, there = measurement.from_target, measurement.to_target
    assert (back.black_hole, back.largest_delivered, back.smallest_lost) == (True, 1400, 1401)
    assert there.largest_delivered == 1400
    assert there.black_hole is (True if udp else None)
    assert len(measurement.segments) <= CONNECTIONS_AT_MOST


# Look-alikes: loss that depends on size


@contextlib.contextmanager
def congested(made, draw):
    """Router 1's queue towards the server holds few bytes and is offered more than its rate, in packets of any size."""
    rate, limit = draw.choice([1_000_000, 2_000_000]), draw.choice([6_000, 12_000, 30_000])
    over, sizes = draw.uniform(1.1, 2.5), draw.choice([(1000,), (1400,), (200, 600, 1400), tuple(range(100, 1400, 37))])
    print(f"rate {rate} limit {limit} load {over:.2f} sizes {sizes[:4]}")  # noqa: T201
    router = made.router(1)
    router.run(*f"tc qdisc add dev right root tbf rate {rate} burst 3000 limit {limit}".split())
    router.run("sysctl", "-qw", "net.ipv4.icmp_ratelimit=1000")
    made.filter(made.server, "prerouting", "udp dport 9 drop")
    stop, seed = threading.Event(), draw.random()

    def send() -> None:
        sizes_of, due = random.Random(seed), time.monotonic()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            while not stop.is_set():
                size = sizes_of.choice(sizes)
                due += sizes_of.expovariate(rate * over / (size * 8))
                time.sleep(max(0.0, due - time.monotonic()))
                sock.sendto(bytes(size - 28), (made.address(), 9))

    sender = threading.Thread(target=lambda: router.inside(send))
    sender.start()
    try:
        time.sleep(0.5)
        yield
    finally:
        stop.set()
        sender.join()


@pytest.mark.parametrize("seed", range(4))
def test_a_full_byte_queue_is_no_black_hole(seed):
    with chain() as made, congested(made, random.Random(seed)):
        forward = (ask(made)).to_target
        dropped = made.router(1).run("tc", "-s", "qdisc", "show", "dev", "right")
    print(dropped)  # noqa: T201
    assert "dropped 0," not in dropped
    assert forward.black_hole is not True


@pytest.mark.parametrize(("way", "seed"), [("daddr", 1), ("daddr", 2), ("saddr", 3), ("saddr", 4)])
def test_a_policer_of_large_packets_is_no_black_hole(way, seed):
    draw = random.Random(seed)
    share, above = draw.randint(60, 90), draw.randint(600, 1400)
    print(f"{share} % above {above} bytes")  # noqa: T201
    with chain() as made, database(made):
        rule = f"ip {way} {made.address()} ip length > {above} numgen random mod 100 < {share} drop"
        made.filter(made.router(1), "forward", rule)
        measurement = ask(made, DATABASE)
    assert measurement.to_target.black_hole is not True
    assert measurement.from_target.black_hole is not True


@pytest.mark.parametrize(("family", "seed"), [(4, 1), (4, 2), (6, 3)])
def test_a_black_hole_beside_loss(family, seed):
    draw = random.Random(seed)
    mtu, percent = draw.randint(1285 if family == 6 else 600, 1490), draw.randint(1, 4)
    print(f"MTU {mtu}, {percent} % lost each way")  # noqa: T201
    with chain() as made:
        long = f"ip length > {mtu} drop" if family == 4 else f"ip6 length > {mtu - 40} drop"
        made.filter(made.router(1), "forward", long, f"numgen random mod 100 < {percent} drop")
        forward = (ask(made, family=family)).to_target
    assert forward.black_hole is True
    assert mtu - 4 <= forward.largest_delivered <= mtu
