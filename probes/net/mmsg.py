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
from array import array
from collections.abc import Sequence
from typing import Any

_HEADER = struct.Struct("@PIPNPNi0PI0P")  # struct mmsghdr: name and its length, pieces, control, flags; bytes in all
_NAME, _CONTROL = struct.Struct("@PI0P"), struct.Struct("@PNi0PI0P")  # its ends
LENGTHS = struct.Struct("=40xQ8xI4x")  # of the same, as the kernel leaves it: bytes of control messages and of data
NAME_BYTES = 32  # struct sockaddr_in6 has 28
_PIECE = struct.Struct("@PN")  # struct iovec
_CONTROL_HEADER = struct.Struct("@Nii")  # struct cmsghdr
_ALIGNMENT = struct.calcsize("@N")


def _libc(name: str) -> Any:
    """The function, with errno kept for us, or None where the C library has none."""
    return getattr(ctypes.CDLL(None, use_errno=True), name, None)


_sendmmsg, _recvmmsg = _libc("sendmmsg"), _libc("recvmmsg")
if _sendmmsg is not None:
    _sendmmsg.argtypes = ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int
if _recvmmsg is not None:
    _recvmmsg.argtypes = ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int, ctypes.c_void_p
AVAILABLE = _sendmmsg is not None and _recvmmsg is not None and _HEADER.size == LENGTHS.size  # 64 bits


class Buffer:
    """Memory that does not move, because it never grows, and where it is."""

    __slots__ = ("address", "bytes")

    def __init__(self, content: bytes) -> None:
        self.bytes = array("B", content or b"\0")
        self.address = self.bytes.buffer_info()[0]

    def fill(self, content: bytes) -> None:
        """From the beginning. Raises ValueError where it does not fit."""
        if len(content) > len(self.bytes):
            raise ValueError(f"{len(content)} bytes do not fit into {len(self.bytes)}")
        ctypes.memmove(self.address, content, len(content))


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
            memoryview(part.bytes) for part in (self._names, self._data, self._control, self._headers)
        )

    def receive(self, descriptor: int, flags: int = 0) -> int:
        """How many packets have come, at most ``count``. Raises OSError, BlockingIOError where there is none.

        The kernel writes the lengths that it used over those that there are; so they are set again each time.
        """
        ctypes.memmove(self._headers.address, self._fresh, self._used * _HEADER.size)
        got: int = _recvmmsg(descriptor, self._headers.address, self._count, flags | socket.MSG_DONTWAIT, None)
        self._used = max(0, got)
        if got < 0:
            raise _last_error()
        return got


class Parcel:
    """What packets to one target have in common: its sockaddr, control messages, and the payload after each head.

    Laid out once: the parts of struct mmsghdr and the struct iovec that point to them.
    """

    __slots__ = ("_held", "control", "name", "payload")

    def __init__(self, name: bytes, control: bytes, payload: bytes) -> None:
        control_at = len(name) + -len(name) % _ALIGNMENT
        self._held = Buffer(name + bytes(control_at - len(name)) + control + payload)
        address = self._held.address
        self.name = _NAME.pack(address, len(name))
        self.control = _CONTROL.pack(address + control_at if control else 0, len(control), 0, 0)
        self.payload = _PIECE.pack(address + control_at + len(control), len(payload))


class Outbox:
    """Room for ``count`` packets: a head of ``head_bytes`` each, and the payload of a Parcel that the caller keeps."""

    def __init__(self, count: int, head_bytes: int) -> None:
        self._headers = Buffer(bytes(count * _HEADER.size))
        self._pieces = Buffer(bytes(count * 2 * _PIECE.size))
        self._heads = Buffer(bytes(count * head_bytes))
        self._places = [
            (
                _PIECE.pack(self._pieces.address + at * 2 * _PIECE.size, 2),
                _PIECE.pack(self._heads.address + at * head_bytes, head_bytes),
            )
            for at in range(count)
        ]

    def send(self, descriptor: int, packets: Sequence[tuple[Parcel, bytes]]) -> int:
        """Send (parcel, head) each, at most ``count``; how many went. Raises OSError where the first did not."""
        headers: list[bytes] = []
        pieces: list[bytes] = []
        heads: list[bytes] = []
        for (parcel, head), (header, piece) in zip(packets, self._places, strict=False):
            headers += (parcel.name, header, parcel.control)
            pieces += (piece, parcel.payload)
            heads.append(head)
        self._headers.fill(b"".join(headers))
        self._pieces.fill(b"".join(pieces))
        self._heads.fill(b"".join(heads))
        sent: int = _sendmmsg(descriptor, self._headers.address, len(heads), socket.MSG_DONTWAIT)
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
