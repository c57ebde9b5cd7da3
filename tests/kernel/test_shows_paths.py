"""The command line between real hosts: filters, packet sizes and loss on the way to a real PostgreSQL.

Each fault yields its own code alone, and its look-alike does not. Strengths are drawn at random; the seed is printed,
and NETDIAG_SEED repeats it.
"""

from __future__ import annotations

import os
import random
import signal
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from probes.stats.intervals import wilson
from tests.command_line import Ran
from tests.kernel.incident import ABSENT, CLOSED, NOBODY, PORT, SERVER, Incident, counted, incident
from tests.kernel.netns import Line

pytestmark = [pytest.mark.kernel, pytest.mark.needs("nft", "knotd", "unbound")]
SEED = int(os.environ.get("NETDIAG_SEED", random.SystemRandom().randrange(1 << 32)))


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Iterator[Incident]:
    with incident(tmp_path_factory.mktemp("incident")) as made:
        yield made


@pytest.fixture
def draw(request) -> random.Random:
    print(f"NETDIAG_SEED={SEED}")  # noqa: T201
    return random.Random(f"{SEED}/{request.node.name}")


def only(ran: Ran, code: str, status: int = 2) -> dict:
    assert (ran.causes, ran.status) == ([code], status), ran
    return ran.cause(code)


def healthy(ran: Ran) -> None:
    assert (ran.causes, ran.found("consequence"), ran.status) == ([], [], 0), ran


# Nothing is wrong


@pytest.mark.parametrize("user", [(), NOBODY], ids=["root", "nobody"])
def test_healthy(place, user):
    ran = place.netdiag(place.dsn, user=user)
    healthy(ran)
    assert {"firewall.drop", "firewall.reject", "link.loss", "mtu.black-hole", "db.unresponsive"} <= ran.ruled_out()
    assert ran.document["privileges"] == (["icmp-echo", "ipv6"] if not user else ["ipv6"])


def test_a_host_that_answers_no_echo_is_healthy(place):
    with place.at_server("input", "icmp type echo-request drop"):
        healthy(place.netdiag(place.dsn))


def test_a_router_that_polices_icmp_is_no_loss(place, draw):
    rate = draw.randint(1, 3)
    with (
        place.at_router("forward", f"ip protocol icmp limit rate over {rate}/second drop"),
        place.at_router("output", "icmp type time-exceeded drop"),
    ):
        healthy(place.netdiag(place.dsn))


def test_every_icmp_filtered_is_healthy(place):
    with place.at_router("forward", "ip protocol icmp drop"), place.at_router("output", "ip protocol icmp drop"):
        healthy(place.netdiag(place.dsn))


@contextmanager
def web_server(place: Incident) -> Iterator[None]:
    """TLS on port 443 of the server."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(place.tls.certificate, place.tls.key)
    listener = place.server.listen(443, SERVER)

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
                with tls.wrap_socket(connection, server_side=True) as web:
                    web.recv(4096)
                    web.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            except ValueError:  # the listener is closed
                return
            except OSError:  # a client that left
                if listener.fileno() < 0:
                    return

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield
    finally:
        listener.shutdown(2)
        listener.close()


def test_a_web_server_on_443_is_healthy(place):
    with web_server(place):
        ran = place.netdiag(f"{SERVER}:443")
    healthy(ran)
    assert not {code for code in ran.ruled_out() | ran.not_measured() if code.startswith("db.auth")}


# Filters


@pytest.mark.parametrize("user", [(), NOBODY], ids=["root", "nobody"])
def test_a_dropped_port(place, user):
    """The kernel's counter says that every SYN that netdiag counts as lost was dropped by the rule."""
    with place.at_router("forward", f"tcp dport {PORT} counter name hit drop") as table:
        ran = place.netdiag(place.dsn, user=user)
        dropped, _ = counted(place.router, table)
    cause = only(ran, "firewall.drop")
    assert cause["subject"]["hop"] == "1-2"
    assert Line.router_address in cause["statement"]
    claimed = int(cause["statement"].split(" SYNs")[0].removeprefix("All "))
    assert 4 <= claimed <= dropped


def test_replies_that_are_dropped(place):
    with place.at_router("forward", f"tcp sport {PORT} drop"):
        only(place.netdiag(place.dsn), "firewall.drop")


def test_a_drop_on_the_host_itself_is_not_placed_on_the_way(place):
    with place.at_server("input", f"tcp dport {PORT} drop"):
        cause = only(place.netdiag(place.dsn), "firewall.drop")
    assert "the host itself" in cause["statement"]
    assert "accept queue" in cause["statement"], "the look-alike that this vantage cannot exclude"


def test_one_address_of_the_host_filtered_and_its_ports_all_silent(place):
    """Nothing at all comes back: a filter cannot be told from a dead host, and is not claimed."""
    with place.at_router("forward", f"ip daddr {SERVER} drop"):
        cause = only(place.netdiag(place.dsn), "net.unreachable")
    assert cause["confidence"] is None


REJECTIONS = {
    "reject with icmpx type admin-prohibited": "3/13",
    "reject with icmp type host-prohibited": "3/10",
    "reject with icmp type net-prohibited": "3/9",
    "reject with icmp type port-unreachable": "3/3",
    "reject with icmp type host-unreachable": "3/1",
    "reject with icmp type net-unreachable": "3/0",
}


@pytest.mark.parametrize("rule", REJECTIONS)
def test_a_rejected_port_names_who_rejected(place, rule):
    with place.at_router("forward", f"tcp dport {PORT} {rule}"):
        cause = only(place.netdiag(place.dsn), "firewall.reject")
    assert Line.router_address in cause["statement"]
    assert REJECTIONS[rule] in cause["statement"]


def test_the_hosts_own_firewall_rejects(place):
    with place.at_server("input", f"tcp dport {PORT} reject"):
        cause = only(place.netdiag(place.dsn, user=NOBODY), "firewall.reject")
    assert f"{SERVER} itself" in cause["statement"]


def test_a_reset_forged_nearer_than_the_host_is_a_filters(place):
    with place.at_router("prerouting", f"tcp dport {PORT} reject with tcp reset"):
        cause = only(place.netdiag(place.dsn), "firewall.reject")
    assert Line.router_address in cause["statement"]
    assert cause["confidence"] < 0.95


def test_a_reset_forged_at_the_hosts_own_distance_is_a_closed_port_with_doubt(place):
    """Linux forwards before it rejects: by distance nobody without a capture can tell this RST from the host's."""
    with place.at_router("forward", f"tcp dport {PORT} reject with tcp reset"):
        cause = only(place.netdiag(place.dsn), "db.port-closed")
    assert cause["confidence"] < 0.95


def test_a_closed_port(place):
    assert only(place.netdiag(place.dsn_of(CLOSED)), "db.port-closed")["subject"]["address"] == CLOSED


def test_an_address_that_nobody_has(place):
    cause = only(place.netdiag(place.dsn_of(ABSENT)), "net.unreachable")
    assert Line.router_address in cause["statement"]


# Packet sizes


@pytest.mark.parametrize("ways", ["both", "to-target", "from-target"])
def test_a_black_hole_has_its_size_and_folds_everything_else(place, draw, ways):
    mtu = draw.randint(1280, 1450)
    sides = {"to_server": ways != "from-target", "to_client": ways != "to-target"}
    user = draw.choice([(), NOBODY])
    print(f"MTU {mtu} {ways} {user and 'nobody'}")  # noqa: T201
    with place.narrowed(mtu, **sides), place.too_big_filtered():
        ran = place.netdiag(place.dsn, budget="60s", user=user)
    assert (set(ran.causes), ran.status) == ({"mtu.black-hole"}, 2), ran
    found = {cause["subject"]["direction"]: cause["subject"]["size"] for cause in ran.found("cause")}
    assert set(found) == ({"to-target", "from-target"} if ways == "both" else {ways}), ran
    assert all(mtu - 4 <= size <= mtu for size in found.values()), ran


def test_a_black_hole_without_tls(place, draw):
    mtu = draw.randint(1280, 1450)
    with place.narrowed(mtu, to_server=False), place.too_big_filtered():
        ran = place.netdiag(place.dsn_of(SERVER, sslmode="disable"), budget="60s")
    cause = only(ran, "mtu.black-hole")
    assert mtu - 4 <= cause["subject"]["size"] <= mtu


def test_a_narrow_path_that_says_so_is_no_black_hole(place, draw):
    mtu = draw.randint(1280, 1450)
    with place.narrowed(mtu):
        ran = place.netdiag(place.dsn)
    healthy(ran)
    assert [(note["code"], note["subject"]["size"]) for note in ran.found("note")] == [("mtu.fragmentation", mtu)]


@pytest.mark.parametrize("way", ["daddr", "saddr"])
def test_a_policer_of_large_packets_is_no_black_hole(place, draw, way):
    """Loss that depends on size and strikes at random: it may be called loss, and never a limit of size."""
    share, above = draw.randint(60, 90), draw.randint(600, 1400)
    print(f"{share} % of what is longer than {above}, ip {way} {SERVER}")  # noqa: T201
    with place.at_router("forward", f"ip {way} {SERVER} ip length > {above} numgen random mod 100 < {share} drop"):
        ran = place.netdiag(place.dsn, budget="60s")
    assert set(ran.causes) <= {"link.loss", "db.slow", "db.unresponsive"}, ran


def test_a_black_hole_is_found_beside_loss(place, draw):
    mtu, percent = draw.randint(600, 1450), draw.randint(1, 3)
    print(f"MTU {mtu}, {percent} % lost each way")  # noqa: T201
    rules = (f"ip length > {mtu} drop", f"numgen random mod 100 < {percent} drop")
    with place.at_router("forward", *rules):
        ran = place.netdiag(SERVER, budget="60s")
    cause = only(ran, "mtu.black-hole")
    assert mtu - 4 <= cause["subject"]["size"] <= mtu


def test_a_clamped_path_is_no_black_hole(place, draw):
    """What a tunnel's operator does about it: TCP is well, whatever UDP meets."""
    mtu = draw.randint(1280, 1450)
    clamp = f"tcp flags syn tcp option maxseg size set {mtu - 40}"
    with place.narrowed(mtu), place.too_big_filtered(), place.at_router("forward", clamp):
        healthy(place.netdiag(place.dsn, budget="60s"))


# Loss


def test_loss_has_an_interval_that_the_kernels_counters_lie_in(place, draw):
    percent = draw.randint(5, 20)
    rule = f"tcp dport {PORT} counter name seen numgen random mod 100 < {percent} counter name hit drop"
    with place.at_router("forward", rule) as table:
        ran = place.netdiag(place.dsn, quick=False, budget="60s")
        hit, seen = counted(place.router, table)
    print(f"{percent} %: nft dropped {hit} of {seen}")  # noqa: T201
    cause = only(ran, "link.loss", status=ran.status)
    assert ran.status in (1, 2)
    lost, sent = numbers(cause["statement"])
    interval = wilson(lost, sent, 0.999)  # nft counts bare acknowledgements too: the ratios are of different packets
    assert interval.low <= hit / seen <= interval.high, ran
    assert lost <= hit


def numbers(statement: str) -> tuple[int, int]:
    """``...; 26 of 184) of TCP packets`` -> (26, 184)"""
    lost, _, sent = statement.split(") of TCP packets")[0].rpartition("; ")[2].partition(" of ")
    return int(lost), int(sent)


def test_heavy_loss_is_no_drop(place):
    with place.at_router("forward", f"tcp dport {PORT} numgen random mod 100 < 30 drop"):
        ran = place.netdiag(place.dsn, budget="60s")
    only(ran, "link.loss")
    assert "firewall.drop" in ran.ruled_out()


def test_loss_does_not_hide_a_server_that_says_nothing(place):
    """Bytes that were acknowledged and never answered, each time: no loss of that size does it."""
    place.database.signal(signal.SIGSTOP)
    try:
        with place.at_router("forward", f"tcp dport {PORT} numgen random mod 100 < 10 drop"):
            ran = place.netdiag(place.dsn, budget="60s")
    finally:
        place.database.signal(signal.SIGCONT)
    assert "db.unresponsive" in ran.causes, ran
    assert set(ran.causes) <= {"db.unresponsive", "link.loss"}, ran


def test_a_policer_of_connections_is_no_lossy_path(place, draw):
    """ICMP arrives whole: the finding says that the port's own limit is as likely, and is not sure."""
    rate = draw.randint(1, 2)
    with place.at_router("forward", f"tcp dport {PORT} tcp flags syn limit rate over {rate}/second drop"):
        cause = only(place.netdiag(place.dsn, budget="60s"), "link.loss")
    assert "SYN policer" in cause["statement"]
    assert "by connection" not in cause["statement"]
    assert cause["confidence"] <= 0.7


def test_a_dead_member_of_several_paths_goes_by_connection(place, draw):
    """As a router does that chooses by the ports: Linux takes even ones, so that their parity tells none."""
    bit = 1 << draw.randint(1, 3)
    with place.at_router("forward", f"tcp dport {PORT} tcp sport & {bit} == {bit} drop"):
        cause = only(place.netdiag(place.dsn, budget="60s", quick=False), "link.loss")
    assert "by connection and not by packet" in cause["statement"]
    assert "source ports" in cause["actions"][0]["step"]


def test_loss_of_echoes_alone_is_no_loss(place, draw):
    percent = draw.randint(20, 60)
    with place.at_router("forward", f"icmp type echo-request numgen random mod 100 < {percent} drop"):
        healthy(place.netdiag(place.dsn))


def test_no_loss_is_quiet(place):
    ran = place.netdiag(place.dsn)
    healthy(ran)
    (line,) = [line for line in ran.document["ruled_out"] if line["code"] == "link.loss"]
    assert line["evidence"]
