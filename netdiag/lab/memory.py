"""What a host's kernel remembers of past traffic, forgotten: path MTUs, tracked connections."""

from __future__ import annotations

import socket
import struct

from netdiag.lab.hosts import LabHost

_NETLINK_NETFILTER = 12  # linux/netlink.h
_CONNTRACK_DELETE = (1 << 8) | 2  # NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_DELETE
_REQUEST, _ACK = 0x1, 0x4
_HEADER = struct.Struct("=IHHII")
_FAMILY = struct.Struct("=BBH")  # struct nfgenmsg; family 0 means all


def forget(host: LabHost) -> None:
    """Raises LabError, OSError."""
    host.ip("route", "flush", "cache")
    host.ip("-6", "route", "flush", "cache")
    host.inside(_flush_conntrack)


def _flush_conntrack() -> None:
    """What ``conntrack -F`` does: a deletion that names no entry deletes them all. Raises OSError."""
    length = _HEADER.size + _FAMILY.size
    request = _HEADER.pack(length, _CONNTRACK_DELETE, _REQUEST | _ACK, 1, 0) + _FAMILY.pack(socket.AF_UNSPEC, 0, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER) as sock:
        sock.settimeout(5.0)
        sock.bind((0, 0))
        sock.send(request)
        (error,) = struct.unpack_from("=i", sock.recv(4096), _HEADER.size)
    if error != 0:
        raise OSError(-error, "conntrack flush")
