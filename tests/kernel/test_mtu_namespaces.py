"""Path MTU through a real router, each direction narrowed by itself, with ICMP and without, and a real PostgreSQL."""

import random

import pytest

from probes.contract import Context
from probes.model import Secret, Target, Vantage
from probes.mtu import CONNECTIONS_AT_MOST, MtuOptions, measure
from probes.net.clock import SystemClock
from probes.net.kernel import KernelNetwork
from tests.kernel.pathworld import inside, world
from tests.loopback.postgres import debian_binaries, find_binaries, make_tls, postgres_server

pytestmark = pytest.mark.kernel
PORT = 5432
SCRAM = ("hostssl all all all scram-sha-256", "host all all all scram-sha-256")
ROLE = "CREATE ROLE app LOGIN PASSWORD 'right'"
DATABASE = MtuOptions(
    user="app", password=Secret("right"), dbname="postgres", use_database=True, stall_s=2.0, sslmode="disable"
)


async def ask(made, options=None, family=4, seconds=80.0):
    clock = SystemClock()
    context = Context(
        network=KernelNetwork(clock), clock=clock, vantage=Vantage(name="test"), deadline=clock.monotonic() + seconds
    )
    address = made.address(family)
    with inside(made.client):
        return await measure(context, Target(host=address, address=address, port=PORT), options or MtuOptions())


def database(made, **more):
    return postgres_server(
        host=made.address(),
        port=PORT,
        hba=SCRAM,
        setup=(ROLE,),
        launcher=("ip", "netns", "exec", made.server),
        binaries=None if more.get("tls") else find_binaries(),
        **more,
    )


@pytest.mark.parametrize("family", [4, 6])
async def test_healthy_path(family):
    with world() as made:
        forward = (await ask(made, family=family)).to_target
    assert (forward.largest_delivered, forward.black_hole, forward.signalled_mtu) == (1500, False, None)


@pytest.mark.parametrize("seed", range(3))
async def test_signalled_forward(seed):
    mtu = random.Random(seed).randint(1280, 1480)
    with world() as made:
        made.narrow(mtu, forward=True)
        forward = (await ask(made)).to_target
        assert (forward.signalled_mtu, forward.signalled_by) == (mtu, made.router_address(1))
    assert (forward.largest_delivered, forward.black_hole) == (mtu, False)


async def test_signalled_forward_ipv6():
    with world() as made:
        made.narrow(1400, forward=True)
        forward = (await ask(made, family=6)).to_target
    assert (forward.largest_delivered, forward.signalled_mtu, forward.signalled_by) == (1400, 1400, "fd99::2")


@pytest.mark.parametrize(("family", "seed"), [(4, 1), (4, 2), (6, 3)])
async def test_black_hole_forward(family, seed):
    mtu = random.Random(seed).randint(1281, 1480)
    with world() as made:
        made.narrow(mtu, forward=True)
        made.silence_too_big()
        forward = (await ask(made, family=family)).to_target
    assert forward.black_hole is True
    assert forward.largest_delivered <= mtu < forward.smallest_lost
    assert forward.smallest_lost - forward.largest_delivered <= 4
    assert (forward.signalled_mtu, forward.method) == (None, "udp-df")


async def test_filtered_udp_is_no_black_hole():
    with world() as made:
        made.nft(made.nodes[1], "forward", "meta l4proto udp drop")
        forward = (await ask(made)).to_target
    assert forward.black_hole is None
    assert "UDP" in forward.reason


async def test_database_on_a_healthy_path_costs_two_connections():
    with world() as made, database(made) as server:
        measurement = await ask(made, DATABASE)
        log = server.log_text()
    assert (measurement.from_target.black_hole, measurement.from_target.largest_delivered) == (False, 1500)
    assert (measurement.to_target.black_hole, measurement.to_target.largest_delivered) == (False, 1500)
    assert len(measurement.segments) == 2
    assert "incomplete startup packet" not in log
    assert "Connection reset" not in log


@pytest.mark.parametrize("seed", range(2))
async def test_database_shows_the_black_hole_on_the_way_back(seed):
    mtu = random.Random(seed).randint(1280, 1480)
    with world() as made, database(made):
        made.narrow(mtu, forward=False)
        made.silence_too_big()
        measurement = await ask(made, DATABASE)
    back = measurement.from_target
    assert (back.black_hole, back.method) == (True, "tcp-maxseg")
    assert back.largest_delivered <= mtu < back.smallest_lost
    assert back.smallest_lost - back.largest_delivered <= 8
    assert (measurement.to_target.black_hole, measurement.to_target.largest_delivered) == (False, 1500)
    assert len(measurement.segments) <= CONNECTIONS_AT_MOST
    stalled = measurement.segments[0]
    # FACTS 5.1: the small tail came through, and waits for the full segments that did not.
    assert (stalled.delivered, stalled.info.rcv_ooopack) == (False, 1)


async def test_database_shows_the_black_hole_on_the_way_there_where_udp_is_filtered():
    mtu = random.Random(9).randint(1280, 1480)
    with world() as made, database(made):
        made.narrow(mtu, forward=True)
        made.silence_too_big()
        made.nft(made.server, "input", "meta l4proto udp drop")
        measurement = await ask(made, DATABASE)
    there = measurement.to_target
    assert (there.black_hole, there.method) == (True, "tcp-send")
    assert there.largest_delivered <= mtu < there.smallest_lost
    assert measurement.from_target.black_hole is False


async def test_a_signalled_narrow_way_back_is_no_black_hole():
    with world() as made, database(made):
        made.narrow(1400, forward=False)
        measurement = await ask(made, DATABASE)
    assert (measurement.from_target.black_hole, measurement.from_target.largest_delivered) == (False, 1400)


async def test_wrong_password_is_no_verdict_on_size():
    with world() as made, database(made):
        options = MtuOptions(user="app", password=Secret("wrong"), use_database=True)
        measurement = await ask(made, options)
    assert measurement.from_target.black_hole is None
    assert "wrong" not in repr(measurement)


@pytest.mark.skipif(debian_binaries() is None, reason="TLS needs Debian's PostgreSQL: apt-get install postgresql")
async def test_tls_flight_stalls_in_a_black_hole_without_credentials(tmp_path):
    names = [f"db-{number}.a-long-name-that-fills-the-certificate.example" for number in range(80)]
    with world() as made, database(made, tls=make_tls(tmp_path, names)):
        healthy = await ask(made, MtuOptions(use_database=True, stall_s=2.0))
        made.narrow(1400, forward=False)
        made.silence_too_big()
        measurement = await ask(made, MtuOptions(use_database=True, stall_s=2.0))
    assert healthy.from_target.black_hole is False
    back = measurement.from_target
    assert back.black_hole is True
    assert (back.largest_delivered, back.smallest_lost) == (1400, 1401)
