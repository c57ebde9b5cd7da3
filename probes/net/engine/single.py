"""One system call for each packet, by Python's own socket module: where the C library has no sendmmsg(2)."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any

from probes.net.engine.messages import Errors, Reader, ReplyFields

BATCH = 256  # packets per reading, so that a flood cannot hold the event loop
_HEAD = 128  # of a packet: IPv4 header with options, ICMP header, token
_QUOTED = 512
_ANCILLARY = 256

Control = tuple[int, int, bytes]


class SinglePost:
    """Never blocks."""

    def __init__(self, sock: socket.socket, reader: Reader) -> None:
        self._sock, self._reader = sock, reader

    def parcel(self, where: tuple[Any, ...], payload: bytes, control: Control | None) -> Any:
        return where, payload, [control] if control else []

    def send(self, packets: Sequence[tuple[Any, bytes]]) -> int:
        """How many went. Raises OSError where the first did not."""
        for count, ((where, payload, control), head) in enumerate(packets):
            try:
                self._sock.sendmsg([head, payload], control, 0, where)
            except OSError:
                if count:
                    return count
                raise
        return len(packets)

    def replies(self) -> list[ReplyFields]:
        """At most BATCH of what has come."""
        found: list[ReplyFields] = []
        for _ in range(BATCH):
            try:
                data, control, _flags, source = self._sock.recvmsg(_HEAD, _ANCILLARY)
            except BlockingIOError:
                break
            except OSError:  # the errno of an ICMP error whose details are in the queue
                continue
            packed = socket.inet_pton(self._sock.family, source[0].partition("%")[0])
            reply = self._reader.reply(data, control, packed)
            if reply is not None:
                found.append(reply)
        return found

    def errors(self) -> Errors:
        """At most BATCH messages of the error queue, oldest first."""
        found = Errors([], [])
        for _ in range(BATCH):
            try:
                data, control, _flags, _source = self._sock.recvmsg(_QUOTED, _ANCILLARY, socket.MSG_ERRQUEUE)
            except OSError:  # EAGAIN: empty; the errno that was pending is told by the queue as well
                break
            self._reader.sort(data, control, found)
        return found
