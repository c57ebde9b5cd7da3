"""struct sock_extended_err and kernel timestamps as they come with MSG_ERRQUEUE (ip(7), timestamping.rst). Pure."""

from __future__ import annotations

import errno as errnos
import socket
import struct
from enum import IntEnum

from probes.model import IcmpError, value

_EXTENDED_ERROR = struct.Struct("=IBBBBII")
_TIMESPECS = struct.Struct("=qqqqqq")
_ADDRESS_OFFSETS = {socket.AF_INET: (4, 4), socket.AF_INET6: (8, 16)}


class Origin(IntEnum):
    """SO_EE_ORIGIN_*: who made the error."""

    NONE = 0
    LOCAL = 1
    ICMP = 2
    ICMP6 = 3
    TIMESTAMPING = 4


@value
class ExtendedError:
    """One sock_extended_err. ``info`` is the MTU of a "too big", or the kind of timestamp; ``data`` its OPT_ID."""

    errno: int
    origin: int
    type: int
    code: int
    info: int
    data: int
    offender: str | None

    def icmp(self) -> IcmpError | None:
        """The ICMP error, or None where this host itself is the origin."""
        if self.origin not in (Origin.ICMP, Origin.ICMP6):
            return None
        family = 4 if self.origin == Origin.ICMP else 6
        mtu = self.info if self.errno == errnos.EMSGSIZE and self.info else None
        return IcmpError(family=family, type=self.type, code=self.code, offender=self.offender, mtu=mtu)


def parse_extended_error(data: bytes) -> ExtendedError | None:
    """The sock_extended_err with its offender's sockaddr; None where the bytes are too few for one."""
    if len(data) < _EXTENDED_ERROR.size:
        return None
    errno, origin, kind, code, _pad, info, extra = _EXTENDED_ERROR.unpack_from(data)
    offender = parse_socket_address(data[_EXTENDED_ERROR.size :])
    return ExtendedError(errno=errno, origin=origin, type=kind, code=code, info=info, data=extra, offender=offender)


def parse_socket_address(data: bytes) -> str | None:
    """The address in a struct sockaddr_in or sockaddr_in6; None for AF_UNSPEC, other families and short bytes."""
    if len(data) < 2:
        return None
    family = struct.unpack_from("=H", data)[0]
    if family not in _ADDRESS_OFFSETS:
        return None
    offset, length = _ADDRESS_OFFSETS[family]
    raw = data[offset : offset + length]
    return socket.inet_ntop(family, raw) if len(raw) == length else None


def parse_timestamps(data: bytes) -> int | None:
    """Software timestamp of struct scm_timestamping, nanoseconds since the epoch; None where there is none."""
    if len(data) < _TIMESPECS.size:
        return None
    seconds, nanoseconds = _TIMESPECS.unpack_from(data)[:2]
    return int(seconds * 1_000_000_000 + nanoseconds) or None
