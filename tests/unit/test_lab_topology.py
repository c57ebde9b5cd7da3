"""The lab's topology and what is made from it, without making it."""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from ipaddress import ip_address, ip_network
from pathlib import Path

import dns.zone
import pytest

from netdiag.lab import journal as journals
from netdiag.lab.certificates import Authority
from netdiag.lab.journal import Journal
from netdiag.lab.names import DOMAIN, namespace, new_world_id
from netdiag.lab.plan import plan_toml
from netdiag.lab.processes import ProcessId, children, identify
from netdiag.lab.services import zones
from netdiag.lab.topology import TRANSIT_DELAY_S, Topology, two_regions
from netdiag.lab.wiring import pairs
from netdiag.plan.reader import read_plan

LAB4, LAB6 = ip_network("198.18.0.0/15"), ip_network("fd00::/8")


@pytest.fixture
def topology() -> Topology:
    return two_regions()


@pytest.mark.parametrize("family", [4, 6])
def test_every_address_is_the_labs_own_and_one_host_has_it(topology, family):
    found = [address for host in topology.addressed_hosts() for address in topology.addresses(host.name, family)]
    assert len(found) == len(set(found)) >= 20
    assert all(ip_address(address) in (LAB4 if family == 4 else LAB6) for address in found)


@pytest.mark.parametrize("family", [4, 6])
def test_networks_do_not_overlap_and_hold_their_hosts(topology, family):
    networks = {network.name: ip_network(network.cidr(family)) for network in topology.networks}
    for one in networks.values():
        assert sum(one.overlaps(other) for other in networks.values()) == 1
    for link in topology.links:
        for port in (link.left, link.right):
            if port.number is not None:
                address = ip_address(topology.network(port.network).address(port.number, family))
                assert address in networks[port.network]
                assert address not in (networks[port.network].network_address,)


def test_names_fit_the_kernel(topology):
    ends = [port for link in topology.links for pair in pairs(link) for port in pair]
    assert all(len(port.interface) <= 15 for port in ends)  # IFNAMSIZ is 16 with its end
    assert max(Counter((port.host, port.interface) for port in ends).values()) == 1
    assert all(len(namespace(new_world_id(), host.name)) < 64 for host in topology.hosts)


def test_every_gateway_is_a_router_on_a_network_of_the_host(topology):
    for host in topology.addressed_hosts():
        for _, network, number in host.routes:
            assert network in {port.network for port in topology.ports(host.name)}
            owner = [
                port.host
                for link in topology.links
                for port in (link.left, link.right)
                if (port.network, port.number) == (network, number)
            ]
            assert [topology.host(name).kind for name in owner] == ["router"]


def test_the_transits_are_50_and_200_ms_apart(topology):
    for transit, rtt_s in (("transit-a", 0.050), ("transit-b", 0.200)):
        links = [link for link in topology.links if transit in (link.left.host, link.right.host)]
        assert sum(2 * link.delay_s for link in links) == pytest.approx(rtt_s)
        assert all(link.emulated for link in links)
        assert TRANSIT_DELAY_S[transit] == links[0].delay_s


def test_unknown_names_are_told_with_the_known_ones(topology):
    with pytest.raises(KeyError, match="dns-auth"):
        topology.host("dns3")
    with pytest.raises(LookupError, match="app-lan"):
        topology.address("app-lan")


@pytest.mark.parametrize("name", zones.ZONES)
def test_zone_files_are_read_by_an_independent_parser(topology, name):
    text = zones.text(name, zones.records(name, topology), serial=7)
    zone = dns.zone.from_text(text, origin=f"{name}.")
    assert zone.get_soa().serial == 7


def test_the_zone_names_every_host_and_the_balancer_as_the_database(topology):
    text = zones.text(DOMAIN, zones.records(DOMAIN, topology), serial=1)
    zone = dns.zone.from_text(text, origin=f"{DOMAIN}.")
    for host in topology.addressed_hosts():
        for kind, family in (("A", 4), ("AAAA", 6)):
            assert [str(item) for item in zone.get_rdataset(host.name, kind)] == [topology.address(host.name, family)]
    assert zone.get_rdataset("db", "A") == zone.get_rdataset("lb", "A")


def test_reverse_and_origin_zones_answer_for_every_address(topology):
    """The wildcards cover what a client asks: RFC 4592, closest encloser by hand."""
    for family, reverse, origin in ((4, zones.REVERSE4, "origin"), (6, zones.REVERSE6, "origin6")):
        below = {owner for owner, _ in zones.records(reverse, topology)}
        origin_zone = f"{origin}.asn.lab.example"
        patterns = {owner: data for (owner, _), (_, (data,)) in zones.records(origin_zone, topology).items()}
        for host in topology.addressed_hosts():
            for port in (p for p in topology.ports(host.name) if p.number is not None):
                network = topology.network(port.network)
                pointer = ip_address(network.address(port.number, family)).reverse_pointer
                assert pointer.removesuffix(f".{reverse}") in below
                labels = pointer.removesuffix(".in-addr.arpa").removesuffix(".ip6.arpa")
                said = [data for owner, data in patterns.items() if labels.endswith(owner.removeprefix("*"))]
                assert len(said) == 1
                assert said[0].startswith(f'"{network.asn} | ')


@pytest.mark.parametrize("family", [None, 4, 6])
def test_the_plan_is_one_that_netdiag_reads(topology, tmp_path, family):
    path = tmp_path / "plan.toml"
    path.write_text(plan_toml(topology, tmp_path, family))
    plan = read_plan(path, {})
    assert [endpoint.name for endpoint in plan.endpoints] == ["ysql", "db-east", "db-west"]
    assert plan.baselines[0].rtt == pytest.approx(0.05)


def test_a_state_file_cut_off_in_a_line_is_read_as_far_as_it_goes(tmp_path):
    journal = Journal(tmp_path)
    journal.begin("ndlab-0000", ecmp=True)
    journal.namespace("ndlab-0000-app")
    journal.sysctl("app", "net.a", "1")
    journal.sysctl("app", "net.b", "5")
    journal.sysctl("app", "net.a", "2")
    journal.process(ProcessId(pid=4, start=5), "dns1")
    journal.process(ProcessId(pid=6, start=7))
    with journal.path.open("a") as file:
        file.write('{"namespace": "ndlab-0000-')
    found = journals.read(tmp_path)
    assert found is not None
    assert (found.world_id, found.ecmp, found.complete) == ("ndlab-0000", True, False)
    assert found.namespaces == ("ndlab-0000-app",)
    assert found.services == {"dns1": ProcessId(pid=4, start=5)}
    assert found.strays == (ProcessId(pid=6, start=7),)
    assert list(found.sysctls["app"].items()) == [("net.a", "1"), ("net.b", "5")]  # as it was before all changes


def test_processes_of_an_earlier_boot_are_not_touched(tmp_path):
    journal = Journal(tmp_path)
    journal.begin("ndlab-0000", ecmp=False)
    journal.process(ProcessId(pid=os.getpid(), start=1), "dns1")
    journal.path.write_text(journal.path.read_text().replace('"boot": "', '"boot": "another-'))
    found = journals.read(tmp_path)
    assert found is not None
    assert found.processes == ()


def test_no_state_file_is_no_world(tmp_path):
    assert journals.read(tmp_path) is None


def test_a_process_is_its_number_and_its_start():
    child = subprocess.Popen(["sleep", "60"])
    try:
        known = identify(child.pid)
        assert known is not None
        assert known.is_alive()
        assert not ProcessId(pid=known.pid, start=known.start + 1).is_alive()
        me = identify(os.getpid())
        assert me is not None
        assert known in children(me)
        child.kill()
        assert known.wait(5.0)  # a zombie counts as ended: nobody has reaped it yet
    finally:
        child.kill()
        child.wait()
    assert identify(child.pid) is None


def test_the_authority_signs_what_openssl_accepts(tmp_path):
    """openssl is the judge; another authority's certificate is refused."""
    authority = Authority(tmp_path / "one")
    files = Authority(tmp_path / "one").issue(["db.vantage.example", "198.18.2.10"], label="db")
    other = Authority(tmp_path / "two")

    def accepts(trusted: Path, name: str) -> bool:
        words = ["openssl", "verify", "-CAfile", str(trusted), "-verify_hostname", name, str(files.certificate)]
        return subprocess.run(words, capture_output=True, check=False).returncode == 0

    assert accepts(authority.certificate, "db.vantage.example")
    assert not accepts(authority.certificate, "lb.vantage.example")
    assert not accepts(other.certificate, "db.vantage.example")
