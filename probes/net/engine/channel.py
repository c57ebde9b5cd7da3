"""One ICMP socket for any number of targets: sends, replies, transmit stamps and ICMP errors.

The kernel stamps what leaves and what comes (SO_TIMESTAMPING; OPT_ID ties a transmit stamp to its packet by counting
the packets), so it does not matter when we read. One socket per family, never one per target: each raw socket of the
host gets a copy of every reply (here a filter by identifier sits in the kernel), and a datagram socket's identifier is
the kernel's own choice.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from dataclasses import dataclass
from typing import NamedTuple

from probes.model import IcmpError
from probes.net.bpf import keep_echo_replies
from probes.net.privileges import icmp_socket
from probes.net.sockets import IP_RECVERR, IPV6_RECVERR, SO_TIMESTAMPING, set_error_queue
from probes.wire.errqueue import Origin, parse_extended_error
from probes.wire.icmp import ECHO_REPLY

BATCH = 256  # packets per reading, so that a flood cannot hold the event loop
_RECEIVE_BUFFER = 4 << 20  # replies and transmit stamps share it; an overflow would look like loss
_SO_RCVBUFFORCE = 33  # beyond net.core.rmem_max, for those who may
_IP_TTL, _IPV6_HOPLIMIT = 2, 52
_HEAD = 128  # of a packet: IPv4 header with options, ICMP header, token
_QUOTED = 512
_ANCILLARY = 256
_IPV4_LENGTH = 0x0F
_SOL_SOCKET, _TIMESTAMPING = socket.SOL_SOCKET, int(Origin.TIMESTAMPING)

# SOF_TIMESTAMPING_*: TX_SOFTWARE, RX_SOFTWARE, SOFTWARE (report), OPT_ID, OPT_TSONLY (no copy of the packet).
RECEIVE_STAMPS = 1 << 3 | 1 << 4
_TRANSMIT_STAMPS = 1 << 1 | 1 << 7 | 1 << 11

_ERROR_KINDS = {IP_RECVERR, IPV6_RECVERR}
_ECHO = struct.Struct("!BxxxHH")  # type, identifier, sequence
_FIRST_TIMESPEC = struct.Struct("=qq")
_ORIGIN_AND_DATA = struct.Struct("=4xB7xI")  # of struct sock_extended_err


class Reply(NamedTuple):
    """An echo reply with our identifier. ``payload`` is its beginning; ``stamp_ns`` is since the epoch."""

    sequence: int
    source: str
    payload: bytes
    stamp_ns: int | None


class Stamp(NamedTuple):
    """The kernel's transmit stamp of the packet with this number, counted from the last restart."""

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

    stamps: list[Stamp]
    icmp: list[Quoted]
    foreign: bool = False

    @property
    def any_icmp(self) -> bool:
        return bool(self.icmp) or self.foreign


class EchoChannel:
    """Never blocks. Raises ProbeUnavailable without ICMP sockets."""

    def __init__(self, family: socket.AddressFamily) -> None:
        self._sock, self.kind = icmp_socket(family)
        self.family = 6 if family == socket.AF_INET6 else 4
        self.identifier = 0
        self.transmit_stamps = False
        try:
            self._prepare()
        except BaseException:
            self._sock.close()
            raise

    def _prepare(self) -> None:
        set_error_queue(self._sock, enabled=True)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        with contextlib.suppress(OSError):  # without CAP_NET_ADMIN what net.core.rmem_max allows is in force
            self._sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
        self._stamp(transmit=True)
        if self.kind == "datagram":
            self._sock.bind(("", 0))
            self.identifier = self._sock.getsockname()[1]  # the kernel's choice, fresh for each socket
        else:
            self.identifier = int.from_bytes(os.urandom(2), "big")
            keep_echo_replies(self._sock, self.identifier)

    def _stamp(self, *, transmit: bool) -> None:
        """Ask for stamps, best first; none at all is not an error, only a worse label."""
        for flags in ([RECEIVE_STAMPS | _TRANSMIT_STAMPS] if transmit else []) + [RECEIVE_STAMPS]:
            try:
                self._sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPING, flags)
            except OSError:
                continue
            self.transmit_stamps = flags != RECEIVE_STAMPS
            return

    def restart_numbers(self) -> None:
        """Older kernels count a failed send, newer ones do not: count from 0 again instead of guessing."""
        if self.transmit_stamps:
            self._stamp(transmit=False)
            self._stamp(transmit=True)

    def fileno(self) -> int:
        return self._sock.fileno()

    def close(self) -> None:
        self._sock.close()

    def send(self, packet: bytes, where: tuple[object, ...], ttl: int | None) -> None:
        """Raises OSError, also that of an earlier packet's ICMP error; nothing has been sent then."""
        if ttl is None:
            self._sock.sendto(packet, where)
            return
        level, kind = (socket.IPPROTO_IP, _IP_TTL) if self.family == 4 else (socket.IPPROTO_IPV6, _IPV6_HOPLIMIT)
        self._sock.sendmsg([packet], [(level, kind, struct.pack("=i", ttl))], 0, where)

    def replies(self) -> list[Reply]:
        """At most BATCH of what has come."""
        found: list[Reply] = []
        receive, header_first = self._sock.recvmsg, self.kind == "raw" and self.family == 4
        wanted = (ECHO_REPLY[self.family], self.identifier)
        for _ in range(BATCH):
            try:
                data, ancillary, _flags, source = receive(_HEAD, _ANCILLARY)
            except BlockingIOError:
                break
            except OSError:  # the errno of an ICMP error whose details are in the queue
                continue
            at = (data[0] & _IPV4_LENGTH) * 4 if header_first and data else 0
            if len(data) >= at + _ECHO.size:
                kind, identifier, sequence = _ECHO.unpack_from(data, at)
                if (kind, identifier) == wanted:
                    found.append(Reply(sequence, source[0], data[at + _ECHO.size :], stamp_of(ancillary)))
        return found

    def errors(self) -> Errors:
        """At most BATCH messages of the error queue, oldest first."""
        found = Errors([], [])
        receive = self._sock.recvmsg
        for _ in range(BATCH):
            try:
                data, ancillary, _flags, _source = receive(_QUOTED, _ANCILLARY, socket.MSG_ERRQUEUE)
            except OSError:  # EAGAIN: empty; the errno that was pending is told by the queue as well
                break
            raw = _error_of(ancillary)
            if raw is None:
                continue
            origin, number = _ORIGIN_AND_DATA.unpack_from(raw)
            if origin != _TIMESTAMPING:
                self._sort(data, raw, stamp_of(ancillary), found)
            elif (stamp_ns := stamp_of(ancillary)) is not None:
                found.stamps.append(Stamp(number, stamp_ns))
        return found

    def _sort(self, data: bytes, raw: bytes, stamp_ns: int | None, found: Errors) -> None:
        error = parse_extended_error(raw)
        icmp = error.icmp() if error is not None else None
        if icmp is not None:
            self._quoted(data, icmp, stamp_ns, found)

    def _quoted(self, data: bytes, icmp: IcmpError, stamp_ns: int | None, found: Errors) -> None:
        """The queue quotes the packet from its ICMP header on."""
        _kind, identifier, sequence = _ECHO.unpack_from(data) if len(data) >= _ECHO.size else (None, None, 0)
        if identifier == self.identifier:
            found.icmp.append(Quoted(sequence, data[_ECHO.size :], icmp, stamp_ns))
        else:
            found.foreign = True


def stamp_of(ancillary: list[tuple[int, int, bytes]]) -> int | None:
    """The kernel's software stamp among recvmsg's control messages, nanoseconds since the epoch."""
    for level, kind, data in ancillary:
        if kind == SO_TIMESTAMPING and level == _SOL_SOCKET and len(data) >= _FIRST_TIMESPEC.size:
            seconds, nanoseconds = _FIRST_TIMESPEC.unpack_from(data)
            return seconds * 1_000_000_000 + nanoseconds or None
    return None


def _error_of(ancillary: list[tuple[int, int, bytes]]) -> bytes | None:
    for level, kind, data in ancillary:
        if kind in _ERROR_KINDS and level != _SOL_SOCKET and len(data) >= _ORIGIN_AND_DATA.size:
            return data
    return None
