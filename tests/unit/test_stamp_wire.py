"""STAMP packets: octets worked by hand from RFC 8762, scapy's implementation as the other one, hostile bytes."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probes.wire.icmp import MalformedPacket
from probes.wire.stamp import (
    SIZE,
    ErrorEstimate,
    ReflectorPacket,
    SenderPacket,
    decode_reflector,
    decode_sender,
    decode_time,
    encode_reflector,
    encode_sender,
    encode_time,
    error_estimate,
)

# 25 January 2024, 00:00 UTC is 1,706,140,800 s after 1970 and 3,915,129,600 s = 0xE95C2300 after 1900.
INCIDENT_NS = 1_706_140_800 * 10**9
HALF = 500_000_000
SENDER = SenderPacket(
    sequence=0x01020304, sent_ns=INCIDENT_NS + HALF, error=ErrorEstimate(synchronized=True, scale=22, multiplier=5)
)
SENDER_OCTETS = bytes.fromhex("01020304 E95C2300 80000000 9605 0000" + "00" * 28)
REFLECTOR = ReflectorPacket(
    sequence=9,
    sent_ns=INCIDENT_NS + 10**9,
    error=ErrorEstimate(scale=1, multiplier=255),
    received_ns=INCIDENT_NS + 750_000_000,
    sender_sequence=0x01020304,
    sender_sent_ns=INCIDENT_NS + HALF,
    sender_error=SENDER.error,
    sender_ttl=61,
)
REFLECTOR_OCTETS = bytes.fromhex(
    "00000009 E95C2301 00000000 01FF 0000 E95C2300 C0000000 01020304 E95C2300 80000000 9605 0000 3D 000000"
)


def test_octets_by_hand():
    assert len(SENDER_OCTETS) == len(REFLECTOR_OCTETS) == SIZE == 44
    assert encode_sender(SENDER) == SENDER_OCTETS
    assert decode_sender(SENDER_OCTETS) == SENDER
    assert encode_reflector(REFLECTOR) == REFLECTOR_OCTETS
    assert decode_reflector(REFLECTOR_OCTETS) == REFLECTOR


def test_padding_is_zero_and_ignored():
    assert encode_sender(SENDER, 100) == SENDER_OCTETS + bytes(56)
    assert encode_reflector(REFLECTOR, 100) == REFLECTOR_OCTETS + bytes(56)
    assert decode_sender(SENDER_OCTETS + b"\xff" * 9) == SENDER


@pytest.mark.parametrize("size", range(SIZE))
def test_short_packets_are_malformed(size):
    with pytest.raises(MalformedPacket):
        decode_sender(bytes(size))
    with pytest.raises(MalformedPacket):
        decode_reflector(bytes(size))


@given(st.binary(max_size=120))
def test_any_bytes_are_a_packet_or_malformed(data):
    for decode in (decode_sender, decode_reflector):
        try:
            decode(data)
        except MalformedPacket:
            assert len(data) < SIZE


@pytest.mark.parametrize(
    ("unix_ns", "ntp"),
    [
        (0, 0x83AA7E80_00000000),
        (INCIDENT_NS, 0xE95C2300_00000000),
        (INCIDENT_NS + 250_000_000, 0xE95C2300_40000000),
        ((2**32 - 2_208_988_800) * 10**9, 0),  # 7 February 2036: era 1 begins
    ],
)
def test_ntp_timestamps(unix_ns, ntp):
    assert encode_time(unix_ns) == ntp
    assert decode_time(ntp) == unix_ns


@given(st.integers(0, 4 * 10**18), st.booleans())
def test_no_nanosecond_is_lost_on_the_wire(unix_ns, ptp):
    assert decode_time(encode_time(unix_ns, ptp=ptp), ptp=ptp) == unix_ns


def test_error_estimates():
    assert ErrorEstimate(scale=22, multiplier=5).seconds() == 5 * 2.0**-10
    assert ErrorEstimate(multiplier=0).seconds() is None
    for seconds in (0.0, 2**-32, 1e-6, 0.001, 0.05, 3.0, 3600.0):
        estimate = error_estimate(seconds, synchronized=True)
        assert estimate.synchronized
        assert max(seconds, 2**-32) <= estimate.seconds() <= max(seconds, 2**-32) * 1.01
        assert 1 <= estimate.multiplier <= 255


def test_scapy_reads_what_we_write_and_writes_what_we_read():
    from scapy.contrib.stamp import (
        ErrorEstimate as ScapyEstimate,
    )
    from scapy.contrib.stamp import (
        STAMPSessionReflectorTestUnauthenticated,
        STAMPSessionSenderTestUnauthenticated,
    )

    theirs = STAMPSessionReflectorTestUnauthenticated(encode_reflector(REFLECTOR))
    assert (theirs.seq, theirs.seq_sender, theirs.ttl_sender) == (9, 0x01020304, 61)
    assert (theirs.ts, theirs.ts_rx, theirs.ts_sender) == (
        3915129601,
        Decimal("3915129600.75"),
        Decimal("3915129600.5"),
    )
    assert (theirs.err_estimate.scale, theirs.err_estimate.multiplier) == (1, 255)
    assert (theirs.err_estimate_sender.S, theirs.err_estimate_sender.scale) == (1, 22)
    written = STAMPSessionSenderTestUnauthenticated(
        seq=7, ts=3915129600.5, err_estimate=ScapyEstimate(S=1, Z=0, scale=3, multiplier=9), ssid=77
    )
    expected = ErrorEstimate(synchronized=True, scale=3, multiplier=9)
    assert decode_sender(bytes(written)) == SenderPacket(
        sequence=7, sent_ns=INCIDENT_NS + HALF, error=expected, session=77
    )
