"""The lab's two regions as data: hosts, networks, links, addresses, AS numbers.

    us-east                                                                                         us-west
    app  lb  web  dns1  dns2          db-east             transit-a (AS 65100, 50 ms)           db-west  dns-auth
     |    |   |    |     |               |               /                           \\              |       |
    ------ app LAN ------- fw ------- db LAN ------ edge-east (AS 65010)     edge-west (AS 65020) ---- west LAN
                                                         \\                           /
                                                          transit-b (AS 65200, 200 ms)

A LAN is a bridge in a namespace of its own ("app-lan"). An emulated link passes through the namespace "wires", where
a process copies every frame. Addresses: 198.18.0.0/15 (RFC 2544, benchmarking) and fd00:18::/32 (RFC 4193).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Literal, Protocol, TypeVar

from probes.model import value

Family = Literal[4, 6]


class _Named(Protocol):
    @property
    def name(self) -> str: ...


_N = TypeVar("_N", bound=_Named)
WIRES = "wires"  # the namespace of the emulators
MTU = 1500


@value
class Network:
    """One subnet in both families. A host's address ends in the same decimal number in both."""

    name: str
    prefix4: str  # "198.18.1." of a /24, or of a /30 inside it
    prefix6: str  # "fd00:18:1::" of a /64
    length4: int = 24
    asn: int
    base4: int = 0  # last octet of the network's address

    def address(self, number: int, family: Family) -> str:
        return f"{self.prefix4}{number}" if family == 4 else f"{self.prefix6}{number}"

    def cidr(self, family: Family) -> str:
        return f"{self.prefix4}{self.base4}/{self.length4}" if family == 4 else f"{self.prefix6}/64"

    def length(self, family: Family) -> int:
        return self.length4 if family == 4 else 64


@value
class Port:
    """One end of a link: an interface of a host, with an address unless it is a bridge's port."""

    host: str
    interface: str
    network: str
    number: int | None = None  # last part of the address


@value
class Link:
    """A wire. ``left`` is the end nearer to the application: left-to-right is away from it."""

    name: str
    left: Port
    right: Port
    emulated: bool = False
    delay_s: float = 0.0  # each way; only of an emulated link


@value
class Host:
    """``routes``: (destination network or "default", network of the gateway, its number)."""

    name: str
    kind: Literal["host", "router", "bridge", "wires"] = "host"
    region: str | None = None
    asn: int | None = None  # speaks BGP
    routes: tuple[tuple[str, str, int], ...] = ()


@value
class Topology:
    hosts: tuple[Host, ...]
    networks: tuple[Network, ...]
    links: tuple[Link, ...]
    ecmp: bool = False  # both transits at once, each flow over one of them

    def host(self, name: str) -> Host:
        """Raises KeyError."""
        return _named(self.hosts, name, "host")

    def network(self, name: str) -> Network:
        """Raises KeyError."""
        return _named(self.networks, name, "network")

    def link(self, name: str) -> Link:
        """Raises KeyError."""
        return _named(self.links, name, "link")

    def ports(self, host: str) -> tuple[Port, ...]:
        """Its interfaces, the main one first."""
        return tuple(port for port in self._all_ports() if port.host == host)

    def address(self, host: str, family: Family = 4) -> str:
        """That of its first interface. Raises LookupError where it has none."""
        return next(iter(self.addresses(host, family)))

    def addresses(self, host: str, family: Family = 4) -> tuple[str, ...]:
        found = tuple(
            self.network(port.network).address(port.number, family)
            for port in self.ports(host)
            if port.number is not None
        )
        if not found:
            raise LookupError(f"{host} has no address")
        return found

    def addressed_hosts(self) -> tuple[Host, ...]:
        return tuple(host for host in self.hosts if host.kind in ("host", "router"))

    def emulated_links(self) -> tuple[Link, ...]:
        return tuple(link for link in self.links if link.emulated)

    def _all_ports(self) -> Iterator[Port]:
        for link in self.links:
            yield link.left
            yield link.right


def _named(items: Collection[_N], name: str, what: str) -> _N:
    for item in items:
        if item.name == name:
            return item
    raise KeyError(f"no {what} {name!r} in the lab; there are {', '.join(item.name for item in items)}")


APP, DB, WEST = "app", "db", "west"  # the LANs
TRANSITS = ("transit-a", "transit-b")
TRANSIT_DELAY_S = {"transit-a": 0.0125, "transit-b": 0.05}  # per link and direction: RTT 50 ms and 200 ms
_VIA_FIREWALL = (("app", DB, 2), ("default", DB, 1))

_NETWORKS = (
    Network(name=APP, prefix4="198.18.1.", prefix6="fd00:18:1::", asn=65010),
    Network(name=DB, prefix4="198.18.2.", prefix6="fd00:18:2::", asn=65010),
    Network(name=WEST, prefix4="198.18.3.", prefix6="fd00:18:3::", asn=65020),
    Network(name="east-a", prefix4="198.18.100.", prefix6="fd00:18:100::", length4=30, asn=65100),
    Network(name="west-a", prefix4="198.18.100.", prefix6="fd00:18:101::", length4=30, asn=65100, base4=4),
    Network(name="east-b", prefix4="198.18.200.", prefix6="fd00:18:200::", length4=30, asn=65200),
    Network(name="west-b", prefix4="198.18.200.", prefix6="fd00:18:201::", length4=30, asn=65200, base4=4),
)
_HOSTS = (
    Host(name="app", region="us-east", routes=(("default", APP, 1),)),
    Host(name="lb", region="us-east", routes=(("default", APP, 1),)),
    Host(name="web", region="us-east", routes=(("default", APP, 1),)),
    Host(name="dns1", region="us-east", routes=(("default", APP, 1),)),
    Host(name="dns2", region="us-east", routes=(("default", APP, 1),)),
    Host(name="fw", kind="router", region="us-east", routes=(("default", DB, 1),)),
    Host(name="db-east", region="us-east", routes=_VIA_FIREWALL),
    Host(name="edge-east", kind="router", region="us-east", asn=65010, routes=(("app", DB, 2),)),
    Host(name="transit-a", kind="router", asn=65100),
    Host(name="transit-b", kind="router", asn=65200),
    Host(name="edge-west", kind="router", region="us-west", asn=65020),
    Host(name="db-west", region="us-west", routes=(("default", WEST, 1),)),
    Host(name="dns-auth", region="us-west", routes=(("default", WEST, 1),)),
    Host(name="app-lan", kind="bridge"),
    Host(name="db-lan", kind="bridge"),
    Host(name="west-lan", kind="bridge"),
    Host(name=WIRES, kind="wires"),
)


def two_regions(*, ecmp: bool = False) -> Topology:
    """The lab. ``ecmp``: both transits carry traffic, each flow over one of them."""
    return Topology(hosts=_HOSTS, networks=_NETWORKS, links=_links(), ecmp=ecmp)


def _links() -> tuple[Link, ...]:
    east_a, west_a = _transit_links("transit-a", "a")
    east_b, west_b = _transit_links("transit-b", "b")
    return (
        Link(name="app", left=_port("app", APP, 10), right=_bridge(APP, "app")),
        _behind("lb", APP, 20, emulated=True),
        _behind("web", APP, 30),
        _behind("dns1", APP, 53),
        _behind("dns2", APP, 54),
        _behind("fw", APP, 1),
        Link(name="fw-db", left=_port("fw", DB, 2), right=_bridge(DB, "fw")),
        _behind("db-east", DB, 10, emulated=True),
        _behind("edge-east", DB, 1),
        east_a,
        east_b,
        west_a,
        west_b,
        Link(name="edge-west", left=_port("edge-west", WEST, 1), right=_bridge(WEST, "edge-west")),
        _behind("db-west", WEST, 10),
        _behind("dns-auth", WEST, 53),
    )


def _port(host: str, network: str, number: int) -> Port:
    return Port(host=host, interface=network, network=network, number=number)


def _bridge(network: str, towards: str) -> Port:
    return Port(host=f"{network}-lan", interface=towards, network=network)


def _behind(host: str, network: str, number: int, *, emulated: bool = False) -> Link:
    """A host on a LAN that the application's packets reach through the bridge."""
    return Link(name=host, left=_bridge(network, host), right=_port(host, network, number), emulated=emulated)


def _transit_links(transit: str, letter: str) -> tuple[Link, Link]:
    east, west = f"east-{letter}", f"west-{letter}"
    delay_s = TRANSIT_DELAY_S[transit]
    return (
        Link(
            name=east,
            left=_port("edge-east", east, 1),
            right=_port(transit, east, 2),
            emulated=True,
            delay_s=delay_s,
        ),
        Link(
            name=west,
            left=_port(transit, west, 5),
            right=_port("edge-west", west, 6),
            emulated=True,
            delay_s=delay_s,
        ),
    )
