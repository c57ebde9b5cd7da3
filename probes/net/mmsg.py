"""sendmmsg(2) and recvmmsg(2): many packets for one system call, from and into buffers that are allocated once.

Python's socket module has neither. The buffers are those of the C structures themselves (struct mmsghdr, iovec), laid
out by ``struct`` in the platform's own sizes; each part of all packets lies in one piece, so that one iter_unpack()
reads it for a whole batch.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
from typing import Any

_HEADER = struct.Struct("@PIPNPNi0PI0P")  # struct mmsghdr: name and its length, pieces, control, flags; bytes in all
LENGTHS = struct.Struct("=40xQ8xI4x")  # of the same, as the kernel leaves it: bytes of control messages and of data
NAME_BYTES = 32  # struct sockaddr_in6 has 28
_PIECE = struct.Struct("@PN")  # struct iovec
_CONTROL_HEADER = struct.Struct("@Nii")  # struct cmsghdr
_ALIGNMENT = struct.calcsize("@N")


def _libc(name: str) -> Any:
    """The function, with errno kept for us, or None where the C library has none."""
    return getattr(ctypes.CDLL(None, use_errno=True), name, None)


_sendmmsg, _recvmmsg = _libc("sendmmsg"), _libc("recvmmsg")
AVAILABLE = _sendmmsg is not None and _recvmmsg is not None and _HEADER.size == LENGTHS.size  # 64 bits


class Buffer:
    """Memory that does not move, and where it is."""

    __slots__ = ("address", "bytes")

    def __init__(self, content: bytes) -> None:
        self.bytes = ctypes.create_string_buffer(content, max(1, len(content)))
        self.address = ctypes.addressof(self.bytes)


class Inbox:
    """Room for ``count`` packets, ``data_bytes`` of each, and ``control_bytes`` of control messages with it."""

    def __init__(self, count: int, data_bytes: int, control_bytes: int) -> None:
        self._count = count
        self._names, self._data = Buffer(bytes(count * NAME_BYTES)), Buffer(bytes(count * data_bytes))
        self._control = Buffer(bytes(count * control_bytes))
        self._pieces = Buffer(
            b"".join(_PIECE.pack(self._data.address + at * data_bytes, data_bytes) for at in range(count))
        )
        self._fresh = b"".join(
            _HEADER.pack(
                self._names.address + at * NAME_BYTES,
                NAME_BYTES,
                self._pieces.address + at * _PIECE.size,
                1,
                self._control.address + at * control_bytes,
                control_bytes,
                0,
                0,
            )
            for at in range(count)
        )
        self._headers = Buffer(self._fresh)
        self._used = 0
        self.names, self.data, self.control, self.headers = (
            memoryview(part.bytes).cast("B") for part in (self._names, self._data, self._control, self._headers)
        )

    def receive(self, descriptor: int, flags: int = 0) -> int:
        """How many packets have come, at most ``count``. Raises OSError, BlockingIOError where there is none.

        The kernel writes the lengths that it used over those that there are; so they are set again each time.
        """
        ctypes.memmove(self._headers.bytes, self._fresh, self._used * _HEADER.size)
        got: int = _recvmmsg(descriptor, self._headers.bytes, self._count, flags | socket.MSG_DONTWAIT, None)
        self._used = max(0, got)
        if got < 0:
            raise _last_error()
        return got


class Parcel:
    """What packets to one target have in common: its sockaddr, control messages, and the payload after each head."""

    __slots__ = ("_held", "fields", "payload_at", "payload_bytes")

    def __init__(self, name: bytes, control: bytes, payload: bytes) -> None:
        control_at = len(name) + -len(name) % _ALIGNMENT
        self._held = Buffer(name + bytes(control_at - len(name)) + control + payload)
        address = self._held.address
        self.fields = (address, len(name), address + control_at if control else 0, len(control))
        self.payload_at, self.payload_bytes = address + control_at + len(control), len(payload)


class Outbox:
    """Room for ``count`` packets: a head of ``head_bytes`` each, and the payload of a Parcel that the caller keeps."""

    def __init__(self, count: int, head_bytes: int) -> None:
        self._headers = Buffer(bytes(count * _HEADER.size))
        self._slot = struct.Struct(f"@PNPN{head_bytes}s0P")  # two struct iovec, and the head that the first points to
        self._slots = Buffer(bytes(count * self._slot.size))
        self._head_bytes, self._head_at = head_bytes, 2 * _PIECE.size

    def put(self, index: int, parcel: Parcel, head: bytes) -> None:
        """Fill one place."""
        at = index * self._slot.size
        address = self._slots.address + at
        slot = (address + self._head_at, self._head_bytes, parcel.payload_at, parcel.payload_bytes, head)
        self._slot.pack_into(self._slots.bytes, at, *slot)
        name, name_bytes, control, control_bytes = parcel.fields
        fields = (name, name_bytes, address, 2, control, control_bytes, 0, 0)
        _HEADER.pack_into(self._headers.bytes, index * _HEADER.size, *fields)

    def send(self, descriptor: int, count: int) -> int:
        """Send the first ``count``; how many of them went. Raises OSError where the first did not."""
        sent: int = _sendmmsg(descriptor, self._headers.bytes, count, socket.MSG_DONTWAIT)
        if sent < 0:
            raise _last_error()
        return sent


def socket_name(family: int, address: bytes, scope: int = 0) -> bytes:
    """struct sockaddr_in or sockaddr_in6 of a packed address, port 0."""
    if family == socket.AF_INET6:
        return struct.pack("@HHI16sI", family, 0, 0, address, scope)
    return struct.pack("@HH4s8x", family, 0, address)


def control_message(level: int, kind: int, data: bytes) -> bytes:
    """One struct cmsghdr with its data and padding."""
    length = _CONTROL_HEADER.size + len(data)
    return _CONTROL_HEADER.pack(length, level, kind) + data + bytes(-length % _ALIGNMENT)


def control_messages(raw: bytes) -> list[tuple[int, int, bytes]]:
    """(level, type, data) of each, as recvmsg() of Python gives them. One that is cut short ends the list."""
    found, at = [], 0
    while at + _CONTROL_HEADER.size <= len(raw):
        length, level, kind = _CONTROL_HEADER.unpack_from(raw, at)
        if length < _CONTROL_HEADER.size or at + length > len(raw):
            break
        found.append((level, kind, raw[at + _CONTROL_HEADER.size : at + length]))
        at += length + -length % _ALIGNMENT
    return found


def _last_error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
