"""IP address -> origin AS by DNS, in the form of Team Cymru's service: names out, TXT answers in. Pure.

``4.3.2.1.origin.example`` TXT says ``"ASNs | prefix | country | registry | date"``: several ASNs where the prefix has
more than one origin (MOAS), several strings where prefixes that cover the address differ. IPv6 addresses are asked
nibble by nibble under ``origin6``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from probes.model import value

_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
_LARGEST_ASN = 2**32 - 1  # RFC 6793
# What no public table announces and what would tell a third party of one's own network. 198.18.0.0/15, the
# benchmarking block (RFC 2544), and unique local IPv6, a random number (RFC 4193), are left in: laboratories and
# backbones route them, and a zone of one's own knows them.
_PRIVATE = tuple(
    map(
        ip_network,
        ("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
         "192.168.0.0/16", "224.0.0.0/3", "::/127", "fe80::/10", "ff00::/8"),
    )
)  # fmt: skip


@value
class Origin:
    """Who announces the longest prefix that covers an address."""

    asns: tuple[int, ...]  # sorted; more than one: several origins (MOAS)
    prefix: str


def is_askable(address: str) -> bool:
    """Whether the zone may be told: neither RFC 1918, loopback, link-local, shared nor multicast."""
    literal = ip_address(address.partition("%")[0])
    return not any(literal.version == network.version and literal in network for network in _PRIVATE)


def origin_name(address: str, zone: str) -> str | None:
    """The name to ask for TXT. None for IPv6 where ``zone`` has no sibling: only ``origin.X`` has ``origin6.X``.

    Raises ValueError for what is no address.
    """
    literal = ip_address(address.partition("%")[0])
    base = zone.strip(".")
    if literal.version == 4:
        return f"{'.'.join(reversed(str(literal).split('.')))}.{base}"
    first, _, rest = base.partition(".")
    if first not in ("origin", "origin6"):
        return None
    return f"{'.'.join(reversed(literal.exploded.replace(':', '')))}.origin6.{rest}"


def parse_origins(texts: Iterable[str]) -> Origin | None:
    """TXT data in presentation form -> the origin of the longest prefix; None where none of them can be read."""
    found = [origin for text in texts if (origin := _parse(text)) is not None]
    if not found:
        return None
    longest = max(network.prefixlen for _, network in found)
    chosen = [(asns, network) for asns, network in found if network.prefixlen == longest]
    return Origin(asns=tuple(sorted({asn for asns, _ in chosen for asn in asns})), prefix=str(chosen[0][1]))


def _parse(text: str) -> tuple[tuple[int, ...], IPv4Network | IPv6Network] | None:
    plain = "".join(_QUOTED.findall(text)) if text.startswith('"') else text
    fields = [field.strip() for field in plain.split("|")]
    if len(fields) < 2 or not fields[0]:
        return None
    try:
        asns = tuple(int(word) for word in fields[0].split() if word.isascii() and word.isdecimal())
        network = ip_network(fields[1], strict=False)
    except ValueError:
        return None
    usable = len(asns) == len(fields[0].split()) and all(0 < asn <= _LARGEST_ASN for asn in asns)
    return (asns, network) if usable else None
