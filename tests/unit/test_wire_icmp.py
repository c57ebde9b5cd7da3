"""ICMP bytes: hand-written packets, RFC 1071's example, scapy as another implementation, and hostile bytes."""

from __future__ import annotations

import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_RR
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6
from scapy.packet import Raw

from probes.model import IcmpError
from probes.wire.errqueue import ExtendedError, parse_extended_error, parse_socket_address, parse_timestamps
from probes.wire.icmp import (
    Echo,
    MalformedPacket,
    Quote,
    decode_echo,
    decode_quote,
    encode_echo,
    internet_checksum,
    without_ipv4_header,
)


def test_checksum_of_rfc_1071_section_3():
    assert internet_checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0xFFFF - 0xDDF2


def test_odd_lengths_are_padded_with_zero():
    assert internet_checksum(b"\x01") == internet_checksum(b"\x01\x00")


@given(st.integers(0, 65535), st.integers(0, 65535), st.binary(max_size=100))
def test_an_echo_request_is_what_scapy_builds(identifier, sequence, payload):
    ours = encode_echo(4, identifier, sequence, payload)
    assert ours == bytes(ICMP(type=8, id=identifier, seq=sequence) / Raw(payload))
    theirs = ICMPv6EchoRequest(id=identifier, seq=sequence, data=payload, cksum=0)
    assert encode_echo(6, identifier, sequence, payload) == bytes(theirs)


def test_an_echo_reply_is_read():
    reply = bytes.fromhex("0000 abcd 1234 0007") + b"token"
    assert decode_echo(reply) == Echo(type=0, code=0, identifier=0x1234, sequence=7, payload=b"token")


def test_ip_options_are_part_of_the_header():
    packet = bytes(IP(dst="192.0.2.1", options=[IPOption_RR(length=7)]) / ICMP(type=0) / b"x")
    assert decode_echo(without_ipv4_header(packet)).payload == b"x"


@pytest.mark.parametrize(
    ("packet", "quote"),
    [
        (
            IP(src="192.0.2.1", dst="192.0.2.2", ttl=3) / TCP(sport=40000, dport=5433),
            Quote(
                family=4,
                source="192.0.2.1",
                destination="192.0.2.2",
                protocol=6,
                ttl=3,
                source_port=40000,
                destination_port=5433,
            ),
        ),
        (
            IP(src="192.0.2.1", dst="192.0.2.2", ttl=1) / ICMP(type=8, id=77, seq=5),
            Quote(family=4, source="192.0.2.1", destination="192.0.2.2", protocol=1, ttl=1, identifier=77, sequence=5),
        ),
        (
            IPv6(src="2001:db8::1", dst="2001:db8::2", hlim=9) / UDP(sport=1, dport=53),
            Quote(
                family=6,
                source="2001:db8::1",
                destination="2001:db8::2",
                protocol=17,
                ttl=9,
                source_port=1,
                destination_port=53,
            ),
        ),
    ],
)
def test_a_quoted_packet_names_its_flow(packet, quote):
    assert decode_quote(bytes(packet)) == quote
    header = 40 if quote.family == 6 else 20
    assert decode_quote(bytes(packet)[: header + 8]) == quote
    assert decode_quote(bytes(packet)[:header]).source_port is None


@given(st.binary(max_size=120))
def test_hostile_bytes_raise_nothing_but_malformed_packet(data):
    for decode in (decode_echo, decode_quote, without_ipv4_header):
        try:
            decode(data)
        except MalformedPacket:
            continue


@given(st.integers(0, 255), st.binary(max_size=80))
def test_hostile_ipv4_headers_raise_nothing_but_malformed_packet(first, rest):
    data = bytes([first]) + rest
    for decode in (decode_quote, without_ipv4_header):
        try:
            decode(data)
        except MalformedPacket:
            continue


def extended(errno: int, origin: int, kind: int, code: int, info: int) -> bytes:
    return struct.pack("=IBBBBII", errno, origin, kind, code, 0, info, 0)


def test_an_extended_error_names_the_offender():
    sockaddr = struct.pack("=H2x", socket.AF_INET) + socket.inet_aton("192.0.2.1") + bytes(8)
    error = parse_extended_error(extended(90, 2, 3, 4, 1400) + sockaddr)
    assert error is not None
    assert error.icmp() == IcmpError(family=4, type=3, code=4, offender="192.0.2.1", mtu=1400)
    sockaddr6 = struct.pack("=H6x", socket.AF_INET6) + socket.inet_pton(socket.AF_INET6, "2001:db8::1") + bytes(4)
    error6 = parse_extended_error(extended(113, 3, 1, 1, 0) + sockaddr6)
    assert error6 is not None
    assert error6.icmp() == IcmpError(family=6, type=1, code=1, offender="2001:db8::1")


def test_a_local_error_is_no_icmp_error():
    error = parse_extended_error(extended(90, 1, 0, 0, 1500) + bytes(16))
    assert error == ExtendedError(errno=90, origin=1, type=0, code=0, info=1500, data=0, offender=None)
    assert error is not None
    assert error.icmp() is None


@given(st.binary(max_size=100))
def test_hostile_ancillary_data_raises_nothing(data):
    error = parse_extended_error(data)
    assert (error is None) == (len(data) < 16)
    parse_socket_address(data)
    parse_timestamps(data)


def test_a_timestamp_of_zero_is_none():
    assert parse_timestamps(bytes(48)) is None
    assert parse_timestamps(struct.pack("=qqqqqq", 1, 500, 0, 0, 0, 0)) == 1_000_000_500
