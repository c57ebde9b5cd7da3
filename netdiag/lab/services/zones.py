"""What the authoritative server says: vantage.example, reverse names, and IP -> ASN in Team Cymru's format."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from ipaddress import ip_address

from netdiag.lab.names import DOMAIN, ORIGIN6_ZONE, ORIGIN_ZONE
from netdiag.lab.topology import Family, Topology

AUTHORITY = "dns-auth"
TTL_S = 300
REVERSE4, REVERSE6 = "18.198.in-addr.arpa", "8.1.0.0.0.0.d.f.ip6.arpa"
ASN_ZONE = "asn.lab.example"
AS_NAMES = {65010: "VANTAGE-EAST", 65020: "VANTAGE-WEST", 65100: "TRANSIT-A", 65200: "TRANSIT-B"}
ZONES = (DOMAIN, ASN_ZONE, ORIGIN_ZONE, ORIGIN6_ZONE, REVERSE4, REVERSE6)
_FAMILIES: tuple[Family, Family] = (4, 6)
Records = Mapping[tuple[str, str], tuple[int, tuple[str, ...]]]  # (owner below the zone, type) -> TTL, data


def head(zone: str, serial: int) -> str:
    server, mail = f"{AUTHORITY}.{DOMAIN}.", f"hostmaster.{DOMAIN}."
    soa = f"@ SOA {server} {mail} {serial} 3600 600 86400 60"
    return f"$ORIGIN {zone}.\n$TTL {TTL_S}\n{soa}\n@ NS {server}\n"


def text(zone: str, records: Records, serial: int) -> str:
    """A zone file (RFC 1035, section 5)."""
    lines = [f"{name} {ttl_s} {kind} {data}\n" for (name, kind), (ttl_s, every) in records.items() for data in every]
    return head(zone, serial) + "".join(lines)


def records(zone: str, topology: Topology) -> dict[tuple[str, str], tuple[int, tuple[str, ...]]]:
    """The pristine records of one of ``ZONES``, without SOA and NS."""
    rows: Iterator[tuple[str, str, str]] = {
        DOMAIN: _forward,
        ASN_ZONE: _names,
        ORIGIN_ZONE: _origin4,
        ORIGIN6_ZONE: _origin6,
        REVERSE4: _reverse4,
        REVERSE6: _reverse6,
    }[zone](topology)
    found: dict[tuple[str, str], tuple[int, tuple[str, ...]]] = {}
    for name, kind, data in rows:
        found[name, kind] = (TTL_S, (*found.get((name, kind), (0, ()))[1], data))
    return found


def _forward(topology: Topology) -> Iterator[tuple[str, str, str]]:
    names = {host.name: host.name for host in topology.addressed_hosts()} | {"db": "lb"}
    for name, host in names.items():
        yield name, "A", topology.address(host, 4)
        yield name, "AAAA", topology.address(host, 6)


def _names(_topology: Topology) -> Iterator[tuple[str, str, str]]:
    for asn, name in AS_NAMES.items():
        yield f"AS{asn}", "TXT", f'"{asn} | ZZ | lab | 2024-01-25 | {name}, ZZ"'


def _origin4(topology: Topology) -> Iterator[tuple[str, str, str]]:
    for prefix, asn in sorted({(network.prefix4, network.asn) for network in topology.networks}):
        a, b, c = prefix.rstrip(".").split(".")
        yield f"*.{c}.{b}.{a}", "TXT", f'"{asn} | {prefix}0/24 | ZZ | lab | 2024-01-25"'


def _origin6(topology: Topology) -> Iterator[tuple[str, str, str]]:
    for network in topology.networks:
        nibbles = ip_address(network.prefix6).exploded.replace(":", "")[:16]
        yield f"*.{'.'.join(reversed(nibbles))}", "TXT", f'"{network.asn} | {network.cidr(6)} | ZZ | lab | 2024-01-25"'


def _reverse4(topology: Topology) -> Iterator[tuple[str, str, str]]:
    return _reverse(topology, 4, REVERSE4)


def _reverse6(topology: Topology) -> Iterator[tuple[str, str, str]]:
    return _reverse(topology, 6, REVERSE6)


def _reverse(topology: Topology, family: Family, zone: str) -> Iterator[tuple[str, str, str]]:
    for host in topology.addressed_hosts():
        for address in topology.addresses(host.name, family):
            yield ip_address(address).reverse_pointer.removesuffix(f".{zone}"), "PTR", f"{host.name}.{DOMAIN}."
