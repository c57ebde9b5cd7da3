"""What comes out of an ICMP socket, as values: replies, transmit stamps and ICMP errors. No sockets."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from typing import NamedTuple

from probes.model import IcmpError
from probes.net.sockets import IP_RECVERR, IPV6_RECVERR, SO_TIMESTAMPING
from probes.wire.errqueue import Origin, parse_extended_error
from probes.wire.icmp import ECHO_REPLY

TOKEN_BYTES = 8  # of a payload's beginning: enough to know it by
ECHO = struct.Struct("!BxxxHH")  # type, identifier, sequence
FIRST_TIMESPEC = struct.Struct("=qq")
_ORIGIN_AND_DATA = struct.Struct("=4xB7xI")  # of struct sock_extended_err
_ERROR_KINDS = {IP_RECVERR, IPV6_RECVERR}
_IPV4_LENGTH = 0x0F
_SOL_SOCKET, _TIMESTAMPING = socket.SOL_SOCKET, int(Origin.TIMESTAMPING)

Control = list[tuple[int, int, bytes]]  # level, type, data
ReplyFields = tuple[int, bytes, bytes, int | None]
StampFields = tuple[int, int]


class Reply(NamedTuple):
    """An echo reply with our identifier. ``source`` is the packed address; ``payload`` at least its first TOKEN_BYTES;
    ``stamp_ns`` is since the epoch. Where there are many of them, a plain tuple of the same fields.
    """

    sequence: int
    source: bytes
    payload: bytes
    stamp_ns: int | None


class Stamp(NamedTuple):
    """The kernel's transmit stamp of the packet with this number, counted from the last restart; or a plain tuple."""

    number: int
    stamp_ns: int


class Quoted(NamedTuple):
    """An ICMP error about an echo request of ours. ``payload`` is as much of it as was quoted, often nothing."""

    sequence: int
    payload: bytes
    icmp: IcmpError
    stamp_ns: int | None


@dataclass(slots=True)
class Errors:
    """What the error queue held. ``foreign``: ICMP errors also came about packets of others (raw sockets see them)."""

    stamps: list[StampFields]
    icmp: list[Quoted]
    foreign: bool = False

    @property
    def any_icmp(self) -> bool:
        return bool(self.icmp) or self.foreign


class Reader:
    """Makes the values of one socket. ``header_first``: its packets begin with their IPv4 header."""

    def __init__(self, family: int, identifier: int, *, header_first: bool) -> None:
        self.family, self.identifier, self.header_first = family, identifier, header_first
        self._wanted = (ECHO_REPLY[family], identifier)

    def reply(self, data: bytes, control: Control, source: bytes) -> Reply | None:
        """None where the packet is none of our replies."""
        at = (data[0] & _IPV4_LENGTH) * 4 if self.header_first and data else 0
        if len(data) < at + ECHO.size:
            return None
        kind, identifier, sequence = ECHO.unpack_from(data, at)
        if (kind, identifier) != self._wanted:
            return None
        return Reply(sequence, source, data[at + ECHO.size :], stamp_of(control))

    def sort(self, data: bytes, control: Control, found: Errors) -> None:
        """Put one message of the error queue where it belongs. It quotes the packet from its ICMP header on."""
        raw = _error_of(control)
        if raw is None:
            return
        origin, number = _ORIGIN_AND_DATA.unpack_from(raw)
        stamp_ns = stamp_of(control)
        if origin == _TIMESTAMPING:
            if stamp_ns is not None:
                found.stamps.append(Stamp(number, stamp_ns))
            return
        error = parse_extended_error(raw)
        icmp = error.icmp() if error is not None else None
        if icmp is not None:
            self._quoted(data, icmp, stamp_ns, found)

    def _quoted(self, data: bytes, icmp: IcmpError, stamp_ns: int | None, found: Errors) -> None:
        _kind, identifier, sequence = ECHO.unpack_from(data) if len(data) >= ECHO.size else (None, None, 0)
        if identifier == self.identifier:
            found.icmp.append(Quoted(sequence, data[ECHO.size :], icmp, stamp_ns))
        else:
            found.foreign = True


def stamp_of(control: Control) -> int | None:
    """The kernel's software stamp among the control messages, nanoseconds since the epoch."""
    for level, kind, data in control:
        if kind == SO_TIMESTAMPING and level == _SOL_SOCKET and len(data) >= FIRST_TIMESPEC.size:
            seconds, nanoseconds = FIRST_TIMESPEC.unpack_from(data)
            return seconds * 1_000_000_000 + nanoseconds or None
    return None


def _error_of(control: Control) -> bytes | None:
    for level, kind, data in control:
        if kind in _ERROR_KINDS and level != _SOL_SOCKET and len(data) >= _ORIGIN_AND_DATA.size:
            return data
    return None
