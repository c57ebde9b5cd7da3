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
from collections.abc import Callable, Sequence
from typing import Any

from probes.net import mmsg
from probes.net.bpf import keep_echo_replies
from probes.net.engine.bulk import Boxes, BulkPost
from probes.net.engine.messages import Errors, Reader, ReplyFields
from probes.net.engine.single import SinglePost
from probes.net.privileges import icmp_socket
from probes.net.sockets import RECEIVE_STAMPS, SO_TIMESTAMPING, TRANSMIT_STAMPS, set_error_queue
from probes.wire.icmp import echo_heads

_RECEIVE_BUFFER = 4 << 20  # replies and transmit stamps share it; an overflow would look like loss
_SO_RCVBUFFORCE = 33  # beyond net.core.rmem_max, for those who may
_IP_TTL, _IPV6_HOPLIMIT = 2, 52


class Letter:
    """What the echoes of one series have in common. ``head`` makes the ICMP header for a sequence number."""

    __slots__ = ("head", "parcel")

    def __init__(self, parcel: Any, head: Callable[[int], bytes]) -> None:
        self.parcel, self.head = parcel, head


class EchoChannel:
    """Never blocks. Raises ProbeUnavailable without ICMP sockets. ``boxes``: None for one system call per packet."""

    def __init__(self, family: socket.AddressFamily, boxes: Boxes | None) -> None:
        self._sock, self.kind = icmp_socket(family)
        self.family = 6 if family == socket.AF_INET6 else 4
        self.identifier = 0
        self.transmit_stamps = False
        try:
            self._prepare()
        except BaseException:
            self._sock.close()
            raise
        reader = Reader(self.family, self.identifier, header_first=self.kind == "raw" and self.family == 4)
        self._post: BulkPost | SinglePost = (
            SinglePost(self._sock, reader) if boxes is None else BulkPost(self._sock, reader, boxes)
        )

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
        for flags in ([RECEIVE_STAMPS | TRANSMIT_STAMPS] if transmit else []) + [RECEIVE_STAMPS]:
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

    def letter(self, where: tuple[Any, ...], payload: bytes, ttl: int | None) -> Letter:
        """For the echoes of one series, all to the same place with the same payload."""
        control = None
        if ttl is not None:
            level, kind = (socket.IPPROTO_IP, _IP_TTL) if self.family == 4 else (socket.IPPROTO_IPV6, _IPV6_HOPLIMIT)
            control = (int(level), kind, struct.pack("=i", ttl))
        return Letter(self._post.parcel(where, payload, control), echo_heads(self.family, self.identifier, payload))

    def send(self, packets: Sequence[tuple[Any, bytes]]) -> int:
        """Send (parcel, head) each; how many went. Raises OSError, also that of an earlier packet's ICMP error, where
        not even the first did.
        """
        return self._post.send(packets)

    def replies(self) -> list[ReplyFields]:
        """At most BATCH of what has come."""
        return self._post.replies()

    def errors(self) -> Errors:
        """At most BATCH messages of the error queue, oldest first."""
        return self._post.errors()


def boxes() -> Boxes | None:
    """The buffers that an engine keeps; None where the C library sends and receives no batches."""
    return Boxes() if mmsg.AVAILABLE else None
