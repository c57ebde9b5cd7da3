"""A batch of packets for each system call (see probes/net/mmsg.py), and one iter_unpack() for each part of a batch.

What nearly every packet looks like is unpacked in bulk: a reply after a plain IPv4 header with a stamp or without any
control message, a transmit stamp. Anything else is read as any other socket's packet is (probes/net/engine/messages).
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from typing import Any

from probes.net.engine.messages import ECHO, TOKEN_BYTES, Errors, Reader, ReplyFields
from probes.net.mmsg import (
    LENGTHS,
    NAME_BYTES,
    Inbox,
    Outbox,
    Parcel,
    control_message,
    control_messages,
    socket_name,
)
from probes.net.sockets import SO_TIMESTAMPING
from probes.wire.errqueue import Origin
from probes.wire.icmp import ECHO_REPLY

BATCH = 256  # packets per reading, so that a flood cannot hold the event loop
LARGEST_SENDING = 64
_MOST_PENDING_ERRORS = 8  # of earlier packets, that one reading may meet
_HEAD = 128  # of a packet: IPv4 header with options, ICMP header, token
_QUOTED = 512
_REPLY_CONTROL = 128
_ERROR_CONTROL = 256
_PLAIN_IPV4 = b"\x45"  # version 4, no options

_SOURCE = {4: struct.Struct("4x4s24x"), 6: struct.Struct("8x16s8x")}  # of struct sockaddr_in, sockaddr_in6
_WITH_HEADER = struct.Struct(f"!c19xBxxxHH{TOKEN_BYTES}s{_HEAD - 28 - TOKEN_BYTES}x")
_WITHOUT_HEADER = struct.Struct(f"!0sBxxxHH{TOKEN_BYTES}s{_HEAD - 8 - TOKEN_BYTES}x")
_STAMP_BYTES = 64  # struct cmsghdr with struct scm_timestamping: three timespecs, of which the first is software's
_A_STAMP = struct.pack("@Nii", _STAMP_BYTES, socket.SOL_SOCKET, SO_TIMESTAMPING)
_STAMPED = struct.Struct(f"={len(_A_STAMP)}sqq{_REPLY_CONTROL - 32}x")
_STAMPED_ERROR = struct.Struct(f"={len(_A_STAMP)}sqq32x20xB7xI{_ERROR_CONTROL - 96}x")  # struct sock_extended_err next
_LEAST_ERROR = 96
_TIMESTAMPING = int(Origin.TIMESTAMPING)


class Boxes:
    """The buffers: an engine's sockets come and go, these stay."""

    def __init__(self) -> None:
        self.replies = Inbox(BATCH, _HEAD, _REPLY_CONTROL)
        self.errors = Inbox(BATCH, _QUOTED, _ERROR_CONTROL)
        self.out = Outbox(LARGEST_SENDING, ECHO.size)


class BulkPost:
    """Never blocks."""

    def __init__(self, sock: socket.socket, reader: Reader, boxes: Boxes) -> None:
        self._descriptor, self._reader, self._boxes = sock.fileno(), reader, boxes
        self._family = sock.family  # each reading of a socket's own makes an enum's member anew
        self._source = _SOURCE[reader.family]
        self._message = _WITH_HEADER if reader.header_first else _WITHOUT_HEADER
        self._first = _PLAIN_IPV4 if reader.header_first else b""
        self._whole = (20 if reader.header_first else 0) + ECHO.size + TOKEN_BYTES
        self._wanted = (ECHO_REPLY[reader.family], reader.identifier)

    def parcel(self, where: tuple[Any, ...], payload: bytes, control: tuple[int, int, bytes] | None) -> Parcel:
        address = socket.inet_pton(self._family, where[0])
        name = socket_name(self._family, address, where[3] if len(where) > 3 else 0)
        return Parcel(name, control_message(*control) if control else b"", payload)

    def send(self, packets: Sequence[tuple[Parcel, bytes]]) -> int:
        """How many went, of at most LARGEST_SENDING. Raises OSError where the first did not."""
        return self._boxes.out.send(self._descriptor, packets)

    def replies(self) -> list[ReplyFields]:
        """At most BATCH of what has come."""
        for _ in range(_MOST_PENDING_ERRORS):
            try:
                return self._replies(self._boxes.replies.receive(self._descriptor))
            except BlockingIOError:
                return []
            except OSError:  # the errno of an ICMP error whose details are in the queue
                continue
        return []

    def _replies(self, count: int) -> list[ReplyFields]:
        box = self._boxes.replies
        found: list[ReplyFields] = []
        first, wanted, whole = self._first, self._wanted, self._whole
        parts = zip(
            LENGTHS.iter_unpack(box.headers[: count * LENGTHS.size]),
            self._source.iter_unpack(box.names[: count * NAME_BYTES]),
            self._message.iter_unpack(box.data[: count * _HEAD]),
            _STAMPED.iter_unpack(box.control[: count * _REPLY_CONTROL]),
            strict=True,
        )
        for index, (lengths, (source,), message, (control, seconds, nanoseconds)) in enumerate(parts):
            begins, kind, identifier, sequence, token = message
            if lengths[0] != _STAMP_BYTES or control != _A_STAMP or lengths[1] < whole or begins != first:
                reply = self._reader.reply(*_parts(box, index, lengths, _HEAD, _REPLY_CONTROL), source)
                if reply is not None:
                    found.append(reply)
            elif (kind, identifier) == wanted:
                found.append((sequence, source, token, seconds * 1_000_000_000 + nanoseconds or None))
        return found

    def errors(self) -> Errors:
        """At most BATCH messages of the error queue, oldest first."""
        found, box = Errors([], []), self._boxes.errors
        try:
            count = box.receive(self._descriptor, socket.MSG_ERRQUEUE)
        except OSError:  # EAGAIN: empty; the errno that was pending is told by the queue as well
            return found
        parts = zip(
            LENGTHS.iter_unpack(box.headers[: count * LENGTHS.size]),
            _STAMPED_ERROR.iter_unpack(box.control[: count * _ERROR_CONTROL]),
            strict=True,
        )
        for index, (lengths, (control, seconds, nanoseconds, origin, number)) in enumerate(parts):
            if origin == _TIMESTAMPING and control == _A_STAMP and lengths[0] >= _LEAST_ERROR and seconds:
                found.stamps.append((number, seconds * 1_000_000_000 + nanoseconds))
            else:
                self._reader.sort(*_parts(box, index, lengths, _QUOTED, _ERROR_CONTROL), found)
        return found


def _parts(
    box: Inbox, index: int, lengths: tuple[int, int], data_bytes: int, control_bytes: int
) -> tuple[bytes, list[tuple[int, int, bytes]]]:
    """Data and control messages of one packet, in the lengths that the kernel gave."""
    control_length, data_length = lengths
    data = bytes(box.data[index * data_bytes : index * data_bytes + min(data_length, data_bytes)])
    control = bytes(box.control[index * control_bytes : index * control_bytes + min(control_length, control_bytes)])
    return data, control_messages(control)
