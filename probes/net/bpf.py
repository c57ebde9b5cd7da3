"""A classic BPF filter for raw ICMP sockets: without it the kernel copies every ICMP packet of the host to us."""

from __future__ import annotations

import ctypes
import socket
import struct

from probes.wire.icmp import ECHO_REPLY

_SO_ATTACH_FILTER = 26
_INSTRUCTION = struct.Struct("=HBBI")

# BPF_* opcodes of <linux/bpf_common.h>, X being the offset of the ICMP header.
_LDX_IPV4_LENGTH, _LDX_CONSTANT = 0xB1, 0x01  # X = 4 * (packet[k] & 0xf); X = k
_LDB_X, _LDH_X = 0x50, 0x48  # A = packet[X + k], one byte and two
_JEQ, _RETURN = 0x15, 0x06
_ALL, _NOTHING = 0xFFFFFFFF, 0


def keep_echo_replies(sock: socket.socket, identifier: int) -> None:
    """Let only echo replies with this identifier through. ICMP errors come by the error queue, not through here."""
    program = echo_reply_filter(6 if sock.family == socket.AF_INET6 else 4, identifier)
    buffer = ctypes.create_string_buffer(program, len(program))
    descriptor = struct.pack("@HP", len(program) // _INSTRUCTION.size, ctypes.addressof(buffer))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, descriptor)


def echo_reply_filter(family: int, identifier: int) -> bytes:
    """IPv4 raw sockets see the IP header first, IPv6 ones begin at the ICMPv6 header."""
    header = (_LDX_IPV4_LENGTH, 0, 0, 0) if family == 4 else (_LDX_CONSTANT, 0, 0, 0)
    program = (
        header,
        (_LDB_X, 0, 0, 0),
        (_JEQ, 0, 3, ECHO_REPLY[family]),
        (_LDH_X, 0, 0, 4),
        (_JEQ, 0, 1, identifier),
        (_RETURN, 0, 0, _ALL),
        (_RETURN, 0, 0, _NOTHING),
    )
    return b"".join(_INSTRUCTION.pack(*instruction) for instruction in program)
