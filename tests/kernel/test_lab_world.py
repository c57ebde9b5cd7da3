"""The lab's world on the real thing: databases, names, routes, sizes; faults put back.

Judged by psql, ping, dig and birdc.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from netdiag.lab import world as worlds
from netdiag.lab.errors import LabError
from netdiag.lab.world import World

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.needs("bird", "haproxy", "knotd", "unbound", "nft", "ip", "postgres", "psql", "ping", "dig"),
    pytest.mark.timeout(300),
]
PATIENCE_S = 15.0


@pytest.fixture(scope="module")
def lab() -> Iterator[World]:
    folder = Path(tempfile.mkdtemp(prefix=f"nd{os.getpid()}-"))
    folder.chmod(0o711)
    try:
        with World.up(folder / "lab") as world:
            yield world
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def world(lab: World) -> Iterator[World]:
    yield lab
    lab.clear()


@pytest.fixture
def seed() -> int:
    number = random.SystemRandom().randrange(10**6)
    sys.stdout.write(f"seed {number}\n")
    return number


def rtt_ms(world: World, target: str = "198.18.3.10") -> float | None:
    said = world.hosts["app"].run(["ping", "-n", "-c", "1", "-W", "1", target], check=False).stdout
    found = re.search(r"time=([\d.]+)", said)
    return float(found.group(1)) if found else None


def await_that(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.1)


def psql(world: World, host: str, statement: str, *options: str) -> str:
    place = " ".join([f"host={host}.vantage.example port=5433 user=app dbname=yugabyte sslmode=verify-full", *options])
    return world.hosts["app"].run(["psql", "-XAtc", statement, place]).stdout.strip()


WHERE = "SELECT host(inet_server_addr()), pg_is_in_recovery(), ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize(("host", "replica"), [("db-east", "f"), ("db-west", "t")])
def test_the_application_reaches_each_database_with_tls_checked(world, family, host, replica):
    address = world.hosts[host].address(family)
    assert psql(world, host, WHERE, f"hostaddr={address}") == f"{address}|{replica}|t"


@pytest.mark.parametrize("family", [4, 6])
def test_the_balancer_shares_connections_out_to_both(world, family):
    address = world.hosts["lb"].address(family)
    servers = {psql(world, "db", "SELECT pg_is_in_recovery()", f"hostaddr={address}") for _ in range(4)}
    assert servers == {"t", "f"}


def test_tls_is_checked_for_the_name(world):
    with pytest.raises(LabError, match="does not match host name"):
        psql(world, "lb", "SELECT 1")


def test_the_replica_follows_the_primary(world, seed):
    psql(world, "db-east", f"CREATE TABLE seen AS SELECT {seed} AS number")
    try:
        count = "SELECT count(*) FROM pg_tables WHERE tablename = 'seen'"
        await_that(lambda: psql(world, "db-west", count) == "1", "the replica does not follow")
        assert psql(world, "db-west", "SELECT number FROM seen") == str(seed)
    finally:
        psql(world, "db-east", "DROP TABLE seen")


def test_the_regions_are_50_ms_apart_in_both_families(world):
    for target in ("198.18.3.10", "fd00:18:3::10"):
        found = [rtt_ms(world, target) for _ in range(5)]
        assert all(each is not None for each in found)
        assert min(each for each in found if each) == pytest.approx(50.0, abs=2.0)


def as_paths(world: World, family: int) -> str:
    control, network = str(world.bird_control("edge-east")), "198.18.3.10" if family == 4 else "fd00:18:3::10"
    said = world.hosts["edge-east"].run(["birdc", "-r", "-s", control, "show", "route", "for", network, "all"]).stdout
    return str(re.search(r"as_path: (.*)", said)[1])  # the best one comes first


def test_without_the_first_transit_the_second_carries_and_gives_back(world, seed):
    silent = random.Random(seed).choice([["east-a"], ["west-a"], ["east-a", "west-a"]])
    assert as_paths(world, 4) == as_paths(world, 6) == "65100 65020"
    for link in silent:
        world.cut(link)
    await_that(lambda: (rtt_ms(world) or 0) > 100, "not rerouted")
    await_that(lambda: as_paths(world, 6) == "65200 65020", "IPv6 not rerouted")
    assert as_paths(world, 4) == "65200 65020"
    assert rtt_ms(world) == pytest.approx(200.0, abs=5.0)
    for link in silent:
        world.mend(link)
    await_that(lambda: (rtt_ms(world) or 999) < 100, "did not come back")


def test_both_resolvers_answer_and_the_wild_internet_does_not_exist(world):
    app = world.hosts["app"]

    def ask(server: str, *words: str) -> str:
        return app.run(["dig", "+tries=1", "+time=2", f"@{world.hosts[server].address()}", *words]).stdout

    for server in ("dns1", "dns2", "dns-auth"):
        assert ask(server, "+short", "db.vantage.example", "A").split() == ["198.18.1.20"]
        assert ask(server, "+short", "db.vantage.example", "AAAA").split() == ["fd00:18:1::20"]
    for server in ("dns1", "dns2"):
        said = ask(server, "+short", "2.100.18.198.origin.asn.lab.example", "TXT")
        assert said.strip() == '"65100 | 198.18.100.0/24 | ZZ | lab | 2024-01-25"'
        assert ask(server, "+short", "-x", "fd00:18:3::10").strip() == "db-west.vantage.example."
        assert "status: NXDOMAIN" in ask(server, "example.org", "A")
        assert "status: NXDOMAIN" in ask(server, "nothere.vantage.example", "A")


def test_packets_of_1500_bytes_pass_and_a_narrow_link_says_so(world, seed):
    app, size = world.hosts["app"], random.Random(seed).randrange(1300, 1480)
    big = ["ping", "-n", "-c", "1", "-W", "2", "-M", "do", "-s", "1472", "198.18.3.10"]
    assert " 0% packet loss" in app.run(big).stdout
    world.mtu("west-a", size)
    said = app.run(big, check=False)
    assert f"mtu = {size}" in said.stdout + said.stderr
    assert "198.18.100.2" in said.stdout  # the router before the narrow link
    world.clear()
    assert " 0% packet loss" in app.run(big).stdout  # the path MTU is forgotten as well


def test_clear_undoes_everything_at_once(world, seed):
    draw = random.Random(seed)
    app = world.hosts["app"]
    retries = app.read_sysctl("net.ipv4.tcp_syn_retries")
    app.sysctl("net.ipv4.tcp_syn_retries", 1)
    app.sysctl("net.ipv4.tcp_syn_retries", 2)
    sleeper = app.spawn(["sleep", "1000"])
    world.nft("fw", "chain f { type filter hook forward priority 0; tcp dport 5433 drop; }")
    world.mtu(draw.choice(["east-a", "west-b", "fw-db"]), draw.randrange(1280, 1500))
    world.cut(draw.choice(["web", "lb", "east-b", "db-west", "fw-db"]))
    world.service(draw.choice(["dns1", "dns2", "dns-auth"])).signal(signal.SIGSTOP)
    world.service(draw.choice(["db-east", "db-west", "edge-west", "lb", "link:east-a"])).kill()
    primary = world.service("db-east")
    primary.start()
    primary.configure("local all all trust\nhost all all all reject\n")
    world.sql("db-east", "ALTER SYSTEM SET max_connections = 31")
    world.zone.set("db-west", "A", ["198.18.1.99"])
    world.zone.remove("db")
    world.service("dns-auth").signal(signal.SIGCONT)
    world.service("dns-auth").start()
    world.zone.publish(flush=False)
    world.service("db-west").start()
    world.install_certificate("db-west", world.authority.issue(["wrong.vantage.example"], label="wrong"))
    world.clear()
    assert app.read_sysctl("net.ipv4.tcp_syn_retries") == retries
    assert sleeper.wait(5) != 0
    assert psql(world, "db-east", "SHOW max_connections") == "100"
    assert [psql(world, host, "SELECT 1") for host in ("db", "db", "db-east", "db-west")] == ["1"] * 4
    assert app.run(["dig", "+short", "@198.18.1.54", "db-west.vantage.example"]).stdout.split() == ["198.18.3.10"]
    assert rtt_ms(world, "198.18.1.30") is not None
    assert rtt_ms(world) == pytest.approx(50.0, abs=3.0)
    assert "table" not in world.hosts["fw"].run(["nft", "list", "ruleset"]).stdout


def test_one_resolver_can_say_what_the_other_does_not(world):
    world.resolver("dns1").override("db-east", ["198.18.1.77"])
    world.resolver("dns2").override("db-west", [])
    app = world.hosts["app"]

    def ask(server: str, name: str) -> str:
        return app.run(["dig", "+noall", "+comments", "+answer", f"@{server}", f"{name}.vantage.example"]).stdout

    assert "198.18.1.77" in ask("198.18.1.53", "db-east")
    assert "198.18.2.10" in ask("198.18.1.54", "db-east")
    assert "NXDOMAIN" in ask("198.18.1.54", "db-west")
    world.resolver("dns1").refuse()
    assert "REFUSED" in ask("198.18.1.53", "db-east")
    world.resolver("dns2").unreachable_upstream()
    assert "SERVFAIL" in ask("198.18.1.54", "web")


def test_what_cannot_be_put_back_is_named(lab, monkeypatch):
    monkeypatch.setattr(worlds, "SETTLE_S", 1.0)
    lab.hosts["web"].ip("addr", "add", "198.18.1.200/24", "dev", "app")
    try:
        with pytest.raises(LabError, match=r"web: \+.*198\.18\.1\.200"):
            lab.clear()
    finally:
        lab.hosts["web"].ip("addr", "del", "198.18.1.200/24", "dev", "app")
    lab.clear()


def test_tracked_connections_are_forgotten(world):
    firewall = world.hosts["fw"]
    world.nft("fw", "chain f { type filter hook forward priority 0; ct state new accept; }")
    psql(world, "db-east", "SELECT 1")
    assert firewall.read_sysctl("net.netfilter.nf_conntrack_count") != "0"
    world.clear()
    assert firewall.read_sysctl("net.netfilter.nf_conntrack_count") == "0"


def test_mistakes_are_told(world):
    with pytest.raises(LabError, match="no emulator"):
        world.link("web")
    with pytest.raises(LabError, match="no service 'dns3'"):
        world.service("dns3")
    with pytest.raises(LabError, match="1280"):
        world.mtu("web", 1000)
    with pytest.raises(LabError, match="syntax error"):
        world.nft("fw", "chain {")
    with pytest.raises(LabError, match=r"net\.no\.such"):
        world.hosts["fw"].sysctl("net.no.such", 1)
