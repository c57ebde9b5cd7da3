"""Namespaces, veth pairs, bridges, addresses and static routes of a topology, made with iproute2 in few batches."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from netdiag.lab.hosts import command, inside_namespace
from netdiag.lab.journal import Journal
from netdiag.lab.names import DOMAIN, namespace
from netdiag.lab.offload import offloads_off
from netdiag.lab.topology import MTU, WIRES, Family, Host, Link, Port, Topology

NETNS_ETC = Path("/etc/netns")
BRIDGE = "br0"
RESOLVERS = ("dns1", "dns2")
_FAMILIES: tuple[Family, Family] = (4, 6)

# Without duplicate address detection addresses are usable at once. ICMP errors of the lab are not limited: a kernel's
# one per second and destination would look like loss at a hop (netdiag lab has scenarios that switch it on).
_SYSCTLS = {
    "net/ipv4/icmp_ratelimit": "0",
    "net/ipv6/icmp/ratelimit": "0",
    "net/ipv6/conf/default/accept_dad": "0",
    "net/ipv6/conf/default/dad_transmits": "0",
    "net/ipv6/conf/default/accept_ra": "0",
    "net/ipv4/conf/all/rp_filter": "0",
    "net/ipv4/tcp_no_metrics_save": "1",  # nothing learnt of a path outlives its fault; a flush would need real root
    "net/ipv4/conf/default/rp_filter": "0",
}
_ROUTER = {"net/ipv4/ip_forward": "1", "net/ipv6/conf/all/forwarding": "1", "net/ipv4/conf/all/send_redirects": "0"}
_ECMP = {"net/ipv4/fib_multipath_hash_policy": "1", "net/ipv6/fib_multipath_hash_policy": "1"}  # by ports as well
_SILENT = {"net/ipv6/conf/all/disable_ipv6": "1", "net/ipv6/conf/default/disable_ipv6": "1"}


def make_namespaces(topology: Topology, world_id: str, journal: Journal) -> None:
    """Empty namespaces with their sysctls, /etc/resolv.conf and /etc/hosts. Raises LabError, OSError."""
    names = [namespace(world_id, host.name) for host in topology.hosts]
    for name in names:
        journal.namespace(name)
        journal.folder(NETNS_ETC / name)
    command("ip", "-batch", "-", input="".join(f"netns add {name}\n" for name in names))
    for host in topology.hosts:
        name = namespace(world_id, host.name)
        inside_namespace(name, partial(_write_sysctls, host, topology.ecmp))
        if host.kind in ("host", "router"):
            _write_etc(NETNS_ETC / name, host.name, topology)


def _write_sysctls(host: Host, ecmp: bool) -> None:
    settings = dict(_SYSCTLS)
    if host.kind == "router":
        settings |= _ROUTER | (_ECMP if ecmp else {})
    elif host.kind in ("bridge", "wires"):
        settings |= _SILENT
    for path, setting in settings.items():
        Path("/proc/sys", path).write_text(setting)


def _write_etc(folder: Path, host: str, topology: Topology) -> None:
    """``ip netns exec`` mounts these over /etc. Servers look their machine's name up when they start."""
    folder.mkdir(parents=True)
    servers = "".join(f"nameserver {topology.address(name)}\n" for name in RESOLVERS)
    (folder / "resolv.conf").write_text(servers)
    own = "".join(f"{topology.address(host, family)} {host}.{DOMAIN} {host}\n" for family in _FAMILIES)
    (folder / "hosts").write_text(f"127.0.0.1 localhost {socket.gethostname()}\n::1 localhost\n{own}")
    write_name_sources(folder.name)


def write_name_sources(namespace: str, sources: str = "files dns") -> None:
    """nsswitch.conf(5) of one host; nothing where the machine has none to put it over."""
    if Path("/etc/nsswitch.conf").exists():
        text = f"passwd: files\ngroup: files\nhosts: {sources}\nservices: files\n"
        (NETNS_ETC / namespace / "nsswitch.conf").write_text(text)


def connect(topology: Topology, world_id: str) -> None:
    """All links, offloads off, addresses and routes. Raises LabError, OSError."""
    command("ip", "-batch", "-", input="".join(_link_lines(topology, world_id)))
    with ThreadPoolExecutor(max_workers=4) as pool:
        list(pool.map(lambda host: _set_up(host, topology, world_id), topology.hosts))


def _link_lines(topology: Topology, world_id: str) -> Iterator[str]:
    for link in topology.links:
        for one, two in pairs(link):
            near, far = namespace(world_id, one.host), namespace(world_id, two.host)
            peer = f"peer name {two.interface} mtu {MTU} netns {far}"
            yield f"link add {one.interface} mtu {MTU} netns {near} type veth {peer}\n"


def pairs(link: Link) -> tuple[tuple[Port, Port], ...]:
    """The veth pairs of a link: one, or two with the emulator between."""
    if not link.emulated:
        return ((link.left, link.right),)
    left, right = (Port(host=WIRES, interface=f"{link.name}-{end}", network="") for end in "lr")
    return (link.left, left), (right, link.right)


def _set_up(host: Host, topology: Topology, world_id: str) -> None:
    name = namespace(world_id, host.name)
    ports = [port for link in topology.links for pair in pairs(link) for port in pair if port.host == host.name]
    inside_namespace(name, partial(_offloads_off, ports))
    lines = ["link set lo up", *_bridge_lines(host, ports), *_address_lines(ports, topology)]
    command("ip", "-n", name, "-batch", "-", input="\n".join([*lines, *_route_lines(host, topology)]) + "\n")


def _offloads_off(ports: Iterable[Port]) -> None:
    for port in ports:
        offloads_off(port.interface)


def _bridge_lines(host: Host, ports: Iterable[Port]) -> Iterator[str]:
    if host.kind == "bridge":
        yield f"link add {BRIDGE} type bridge mcast_snooping 0"
        yield from (f"link set {port.interface} master {BRIDGE}" for port in ports)
        yield f"link set {BRIDGE} up"


def _address_lines(ports: Iterable[Port], topology: Topology) -> Iterator[str]:
    for port in ports:
        for family in _FAMILIES if port.number is not None else ():
            network = topology.network(port.network)
            address = network.address(port.number or 0, family)
            yield f"addr add {address}/{network.length(family)} dev {port.interface}" + (" nodad" * (family == 6))
        yield f"link set {port.interface} up"


def _route_lines(host: Host, topology: Topology) -> Iterator[str]:
    for destination, via, number in host.routes if host.asn is None else ():  # BIRD has those of its routers
        for family in _FAMILIES:
            target = destination if destination == "default" else topology.network(destination).cidr(family)
            gateway = topology.network(via).address(number, family)
            yield f"route add {target} via {gateway}"
