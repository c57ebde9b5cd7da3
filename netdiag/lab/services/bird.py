"""BIRD 2: the edges and the transits speak eBGP, with BFD so that a dead transit is noticed within seconds.

BFD misses eight packets in a row, 2.4 s, before it gives up: a link that loses 15 % does that once in forty minutes and
direction. The BGP hold time is long, for a lossy session must not fall by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from netdiag.lab.hosts import command
from netdiag.lab.services.service import ServiceSpec, by_command
from netdiag.lab.topology import TRANSITS, Family, Host, Port, Topology

PREFERENCE = {"transit-a": 200, "transit-b": 100}  # BGP local preference at the edges: b is the spare
_TIMERS = """\
  hold time 30; keepalive time 5;
  connect delay time 1; connect retry time 2; error wait time 1, 3; error forget time 5;
  bfd on;
"""
_FAMILIES: tuple[Family, Family] = (4, 6)


def bird(topology: Topology, host: Host, folder: Path) -> ServiceSpec:
    """``folder``/NAME.ctl is its control socket."""
    control, configuration = folder / f"{host.name}.ctl", folder / f"{host.name}.conf"
    birdc = ("birdc", "-s", str(control))
    return ServiceSpec(
        name=host.name,
        host=host.name,
        argv=("bird", "-f", "-c", str(configuration), "-s", str(control)),
        log=folder / f"{host.name}.log",
        configuration=configuration,
        pristine=configure(topology, host),
        ready=lambda: "Daemon is up" in command(*birdc, "-r", "show", "status"),
        reload=by_command(*birdc, "configure"),
    )


def sessions(control: Path) -> dict[str, bool]:
    """Per BGP session of a router, whether it is established. Raises LabError."""
    table = command("birdc", "-r", "-s", str(control), "show", "protocols")
    rows = (line.split() for line in table.splitlines())
    return {row[0]: row[-1] == "Established" for row in rows if len(row) > 4 and row[1] == "BGP"}


def configure(topology: Topology, host: Host) -> str:
    """bird.conf of one router."""
    return "\n".join(
        [
            f"log stderr all;\nrouter id {topology.address(host.name)};",
            "debug protocols { states, events };",  # its own account of every session's rise and fall, and why
            "protocol device { scan time 5; }",
            'protocol direct { ipv4; ipv6; interface "*"; }',
            'protocol bfd { interface "*" { interval 300 ms; idle tx interval 300 ms; multiplier 8; }; }',
            *_kernel(topology),
            *_static(topology, host),
            *_peers(topology, host),
            "",
        ]
    )


def _kernel(topology: Topology) -> Iterator[str]:
    merge = "merge paths on; " if topology.ecmp else ""
    for family in _FAMILIES:
        export = "export where source ~ [RTS_BGP, RTS_STATIC];"
        yield f"protocol kernel kernel{family} {{ {merge}ipv{family} {{ import none; {export} }}; }}"


def _static(topology: Topology, host: Host) -> Iterator[str]:
    for destination, via, number in host.routes:
        for family in _FAMILIES:
            gateway = topology.network(via).address(number, family)
            route = f"route {topology.network(destination).cidr(family)} via {gateway};"
            yield f"protocol static static{family} {{ ipv{family}; {route} }}"


def _peers(topology: Topology, host: Host) -> Iterator[str]:
    for link in topology.links:
        for own, other in ((link.left, link.right), (link.right, link.left)):
            if own.host == host.name and topology_asn(topology, other) is not None:
                yield from (_peer(topology, host, own, other, family) for family in _FAMILIES)


def topology_asn(topology: Topology, port: Port) -> int | None:
    return topology.host(port.host).asn


def _peer(topology: Topology, host: Host, own: Port, other: Port, family: Family) -> str:
    network = topology.network(own.network)
    near, far = (network.address(port.number or 0, family) for port in (own, other))
    name = f"{other.host.replace('-', '_')}_{family}"
    return (
        f"protocol bgp {name} {{\n{_TIMERS}"
        f"  local {near} as {host.asn};\n"
        f"  neighbor {far} as {topology_asn(topology, other)};\n"
        f"  ipv{family} {{ {_import(topology, other)} {_export(topology, host, family)} }};\n}}"
    )


def _import(topology: Topology, other: Port) -> str:
    preference = 100 if topology.ecmp else PREFERENCE.get(other.host)
    return f"import filter {{ bgp_local_pref = {preference}; accept; }};" if preference else "import all;"


def _export(topology: Topology, host: Host, family: Family) -> str:
    """A transit passes everything on; an edge tells its own system's networks alone: it is nobody's transit."""
    if host.name in TRANSITS:
        return "export where source ~ [RTS_DEVICE, RTS_BGP];"
    own = ", ".join(network.cidr(family) for network in topology.networks if network.asn == host.asn)
    return f"export where source ~ [RTS_DEVICE, RTS_STATIC] && net ~ [{own}];"
