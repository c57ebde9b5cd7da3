"""STAMP test packets in unauthenticated mode: RFC 8762 4.2.1 and 4.3.1, with the session id of RFC 8972. Pure.

Whatever the bytes, the decoders raise MalformedPacket or return a value. Times are nanoseconds since the Unix epoch.
"""

from __future__ import annotations

import struct

from probes.model import value
from probes.wire.icmp import MalformedPacket

PORT = 862
SIZE = 44  # octets of either packet without padding; a reply is as long as the packet that it answers

_NTP_EPOCH_S = 2_208_988_800  # 1900 to 1970, RFC 5905
_ERA_S = 1 << 32
_NS = 1_000_000_000

# Sequence, timestamp, error estimate, session id (zero in RFC 8762), then 28 octets that must be zero.
_SENDER = struct.Struct("!IQHH28x")
# The same of the reflector, receive timestamp, the sender's sequence, timestamp, error estimate, zero, TTL, zero.
_REFLECTOR = struct.Struct("!IQHHQIQHxxB3x")
_SYNCHRONIZED, _PTP = 1 << 15, 1 << 14


@value
class ErrorEstimate:
    """RFC 4656 4.1.2 with the Z bit of RFC 8186. The error is ``multiplier`` * 2^(``scale`` - 32) seconds.

    ``synchronized``: the clock is steered by an external source. ``scale`` 0..63, ``multiplier`` 1..255: a multiplier
    of 0 says that the estimate is not to be used.
    """

    synchronized: bool = False
    ptp: bool = False
    scale: int = 0
    multiplier: int = 1

    def seconds(self) -> float | None:
        return self.multiplier * 2.0 ** (self.scale - 32) if self.multiplier else None


@value
class SenderPacket:
    sequence: int  # 32 bits
    sent_ns: int  # T1
    error: ErrorEstimate
    session: int = 0  # SSID, 16 bits; 0: none


@value
class ReflectorPacket:
    sequence: int  # of its own where it is stateful, else the sender's
    sent_ns: int  # T3
    error: ErrorEstimate
    received_ns: int  # T2
    sender_sequence: int
    sender_sent_ns: int  # T1
    sender_error: ErrorEstimate
    sender_ttl: int  # IP TTL or hop limit with which the sender's packet arrived
    session: int = 0


def error_estimate(seconds: float, *, synchronized: bool) -> ErrorEstimate:
    """The smallest estimate that is not below ``seconds`` (up to 2^39)."""
    units, scale = max(1.0, seconds * 2.0**32), 0
    while units > 255:
        units, scale = units / 2, scale + 1
    return ErrorEstimate(synchronized=synchronized, scale=min(63, scale), multiplier=min(255, -int(-units // 1)))


def encode_sender(packet: SenderPacket, size: int = SIZE) -> bytes:
    """``size`` octets, at least SIZE; what is over is zero."""
    time = encode_time(packet.sent_ns, ptp=packet.error.ptp)
    return _SENDER.pack(packet.sequence, time, _encode_error(packet.error), packet.session).ljust(size, b"\0")


def decode_sender(data: bytes) -> SenderPacket:
    """Raises MalformedPacket for less than SIZE octets: a longer answer to them would amplify."""
    if len(data) < SIZE:
        raise MalformedPacket("shorter than a STAMP packet")
    sequence, time, error, session = _SENDER.unpack_from(data)
    estimate = _decode_error(error)
    return SenderPacket(sequence=sequence, sent_ns=decode_time(time, ptp=estimate.ptp), error=estimate, session=session)


def encode_reflector(packet: ReflectorPacket, size: int = SIZE) -> bytes:
    """``size`` octets, at least SIZE; what is over is zero."""
    body = _REFLECTOR.pack(
        packet.sequence,
        encode_time(packet.sent_ns, ptp=packet.error.ptp),
        _encode_error(packet.error),
        packet.session,
        encode_time(packet.received_ns, ptp=packet.error.ptp),
        packet.sender_sequence,
        encode_time(packet.sender_sent_ns, ptp=packet.sender_error.ptp),
        _encode_error(packet.sender_error),
        packet.sender_ttl,
    )
    return body.ljust(size, b"\0")


def decode_reflector(data: bytes) -> ReflectorPacket:
    """Raises MalformedPacket for less than SIZE octets."""
    if len(data) < SIZE:
        raise MalformedPacket("shorter than a STAMP packet")
    sequence, sent, error, session, received, theirs, theirs_sent, theirs_error, ttl = _REFLECTOR.unpack_from(data)
    own, sender = _decode_error(error), _decode_error(theirs_error)
    return ReflectorPacket(
        sequence=sequence,
        sent_ns=decode_time(sent, ptp=own.ptp),
        error=own,
        received_ns=decode_time(received, ptp=own.ptp),
        sender_sequence=theirs,
        sender_sent_ns=decode_time(theirs_sent, ptp=sender.ptp),
        sender_error=sender,
        sender_ttl=ttl,
        session=session,
    )


def encode_time(unix_ns: int, *, ptp: bool = False) -> int:
    """64 bits: NTP (RFC 5905: seconds since 1900 and 2^-32 s) or truncated PTP (IEEE 1588: seconds and nanoseconds)."""
    seconds, nanoseconds = divmod(unix_ns, _NS)
    if ptp:
        return (seconds % _ERA_S) << 32 | nanoseconds
    # Rounded up: decoding rounds down, and gives the same nanosecond back.
    return ((seconds + _NTP_EPOCH_S) % _ERA_S) << 32 | -(-(nanoseconds << 32) // _NS)


def decode_time(bits: int, *, ptp: bool = False) -> int:
    """Nanoseconds since 1970. NTP seconds below 2^31 belong to era 1, which begins in 2036 (RFC 5905 6)."""
    seconds, rest = bits >> 32, bits & 0xFFFF_FFFF
    if ptp:
        return seconds * _NS + rest
    era = _ERA_S if seconds < _ERA_S // 2 else 0
    return (seconds + era - _NTP_EPOCH_S) * _NS + (rest * _NS >> 32)


def _encode_error(error: ErrorEstimate) -> int:
    flags = _SYNCHRONIZED * error.synchronized | _PTP * error.ptp
    return flags | error.scale << 8 | error.multiplier


def _decode_error(bits: int) -> ErrorEstimate:
    return ErrorEstimate(
        synchronized=bool(bits & _SYNCHRONIZED), ptp=bool(bits & _PTP), scale=bits >> 8 & 0x3F, multiplier=bits & 0xFF
    )
