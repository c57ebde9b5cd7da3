"""struct tcp_info, parsed by length: older kernels return fewer bytes (include/uapi/linux/tcp.h)."""

from __future__ import annotations

import socket
import struct

from probes.exchanges import TcpInfo

_SIZE = 512
_UNSET = 0xFFFFFFFF
_SHORTEST = 104  # up to total_retrans: every kernel since 2.6


def read_tcp_info(sock: socket.socket) -> TcpInfo | None:
    """The kernel's account of the connection; None when the socket is gone."""
    try:
        return parse_tcp_info(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _SIZE))
    except OSError:
        return None


def parse_tcp_info(raw: bytes) -> TcpInfo | None:
    """None where the bytes are too few for a struct tcp_info. RTTs of 0 and "unset" become None."""
    if len(raw) < _SHORTEST:
        return None
    return TcpInfo(
        state=raw[0],
        rtt_s=_microseconds(_u32(raw, 68)),
        rttvar_s=_microseconds(_u32(raw, 72)),
        min_rtt_s=_microseconds(_u32(raw, 148)),
        rto_s=_microseconds(_u32(raw, 8)),
        snd_mss=_u32(raw, 16) or 0,
        rcv_mss=_u32(raw, 20) or 0,
        advmss=_u32(raw, 84) or 0,
        pmtu=_u32(raw, 60) or 0,
        unacked=_u32(raw, 24) or 0,
        backoff=raw[4],
        total_retrans=_u32(raw, 100) or 0,
        bytes_acked=_field(raw, 120, "=Q"),
        bytes_received=_field(raw, 128, "=Q"),
        bytes_retrans=_field(raw, 208, "=Q"),
        data_segs_in=_u32(raw, 152),
        data_segs_out=_u32(raw, 156),
        rcv_ooopack=_u32(raw, 224),
        total_rto=_field(raw, 240, "=H"),
        notsent_bytes=_u32(raw, 144),
        sacked=_u32(raw, 28),
        last_data_received_s=(_u32(raw, 52) or 0) / 1000,  # tcpi_last_data_recv, in jiffies told as milliseconds
    )


def _field(raw: bytes, offset: int, layout: str) -> int | None:
    if offset + struct.calcsize(layout) > len(raw):
        return None
    return int(struct.unpack_from(layout, raw, offset)[0])


def _u32(raw: bytes, offset: int) -> int | None:
    return _field(raw, offset, "=I")


def _microseconds(figure: int | None) -> float | None:
    return figure / 1e6 if figure and figure != _UNSET else None
