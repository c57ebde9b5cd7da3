"""ICMP and ICMPv6 echo messages, and the packets that ICMP errors quote (RFC 792, RFC 4443). Pure.

Whatever the bytes, the decoders raise MalformedPacket or return a value.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Callable

from probes.model import value

ECHO_REQUEST = {4: 8, 6: 128}
ECHO_REPLY = {4: 0, 6: 129}

_ECHO = struct.Struct("!BBHHH")
_IPV4_HEADER = 20
_IPV6_HEADER = 40
_TCP, _UDP = 6, 17
_PORTS = {_TCP, _UDP}
_ECHOES = {1, 58}


class MalformedPacket(ValueError):
    """The bytes are not the packet that they should be."""


@value
class Echo:
    """An echo request or reply. ``type`` as on the wire (see ECHO_REQUEST, ECHO_REPLY)."""

    type: int
    code: int
    identifier: int
    sequence: int
    payload: bytes


@value
class Quote:
    """The packet of ours that an ICMP error quotes: at least the IP header and, by RFC 792, eight bytes more."""

    family: int
    source: str
    destination: str
    protocol: int
    ttl: int
    source_port: int | None = None  # TCP and UDP
    destination_port: int | None = None
    identifier: int | None = None  # ICMP echo
    sequence: int | None = None


def encode_echo(family: int, identifier: int, sequence: int, payload: bytes) -> bytes:
    """An echo request; identifier and sequence 0 to 65535.

    The ICMPv6 checksum is left 0: it covers addresses that the kernel chooses, and the kernel fills it in.
    """
    header = _ECHO.pack(ECHO_REQUEST[family], 0, 0, identifier, sequence)
    if family == 6:
        return header + payload
    checksum = internet_checksum(header + payload)
    return _ECHO.pack(ECHO_REQUEST[family], 0, checksum, identifier, sequence) + payload


def decode_echo(data: bytes) -> Echo:
    """The message from its ICMP header on, whatever its type. Raises MalformedPacket when it is too short."""
    if len(data) < _ECHO.size:
        raise MalformedPacket("shorter than an ICMP echo header")
    kind, code, _checksum, identifier, sequence = _ECHO.unpack_from(data)
    return Echo(type=kind, code=code, identifier=identifier, sequence=sequence, payload=data[_ECHO.size :])


def echo_heads(family: int, identifier: int, payload: bytes) -> Callable[[int], bytes]:
    """The headers of encode_echo() for many sequence numbers: the payload is summed once (RFC 1624's arithmetic)."""
    kind, pack = ECHO_REQUEST[family], _ECHO.pack
    if family == 6:
        return lambda sequence: pack(kind, 0, 0, identifier, sequence)
    total = (kind << 8) + identifier + (~internet_checksum(payload) & 0xFFFF)

    def head(sequence: int) -> bytes:
        folded = total + sequence
        folded = (folded & 0xFFFF) + (folded >> 16)
        return pack(kind, 0, ~(folded + (folded >> 16)) & 0xFFFF, identifier, sequence)

    return head


def without_ipv4_header(packet: bytes) -> bytes:
    """What follows the IPv4 header, options included in the header. Raises MalformedPacket."""
    if len(packet) < _IPV4_HEADER or packet[0] >> 4 != 4:
        raise MalformedPacket("not an IPv4 packet")
    length = (packet[0] & 0x0F) * 4
    if length < _IPV4_HEADER or length > len(packet):
        raise MalformedPacket("impossible IPv4 header length")
    return packet[length:]


def decode_quote(data: bytes) -> Quote:
    """The quoted packet, from its IP header on. Raises MalformedPacket where not even the IP header is whole."""
    version = data[0] >> 4 if data else 0
    if version == 4:
        return _ipv4_quote(data)
    if version == 6:
        return _ipv6_quote(data)
    raise MalformedPacket("neither IPv4 nor IPv6")


def internet_checksum(data: bytes) -> int:
    """RFC 1071. A one's complement sum of words is the remainder by 65,535, of which 0 stands for nothing but zeros."""
    number = int.from_bytes(data + bytes(len(data) % 2), "big")
    return ~(number % 0xFFFF or (number and 0xFFFF)) & 0xFFFF


def _ipv4_quote(data: bytes) -> Quote:
    rest = without_ipv4_header(data)
    source, destination = ipaddress.IPv4Address(data[12:16]), ipaddress.IPv4Address(data[16:20])
    return _quote(4, str(source), str(destination), protocol=data[9], ttl=data[8], rest=rest)


def _ipv6_quote(data: bytes) -> Quote:
    """Extension headers are not followed: our own packets carry none."""
    if len(data) < _IPV6_HEADER:
        raise MalformedPacket("shorter than an IPv6 header")
    source, destination = ipaddress.IPv6Address(data[8:24]), ipaddress.IPv6Address(data[24:40])
    return _quote(6, str(source), str(destination), protocol=data[6], ttl=data[7], rest=data[_IPV6_HEADER:])


def _quote(family: int, source: str, destination: str, *, protocol: int, ttl: int, rest: bytes) -> Quote:
    ports = struct.unpack_from("!HH", rest) if protocol in _PORTS and len(rest) >= 4 else (None, None)
    echo = struct.unpack_from("!HH", rest, 4) if protocol in _ECHOES and len(rest) >= _ECHO.size else (None, None)
    return Quote(
        family=family,
        source=source,
        destination=destination,
        protocol=protocol,
        ttl=ttl,
        source_port=ports[0],
        destination_port=ports[1],
        identifier=echo[0],
        sequence=echo[1],
    )
