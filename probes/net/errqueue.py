"""Reading the socket error queue: ICMP errors with their senders, and transmit timestamps."""

from __future__ import annotations

import socket

from probes.model import IcmpError, value
from probes.net.sockets import IP_RECVERR, IPV6_RECVERR, SO_TIMESTAMPING
from probes.wire.errqueue import ExtendedError, parse_extended_error, parse_timestamps

_ERROR_LEVELS = {(socket.IPPROTO_IP, IP_RECVERR), (socket.IPPROTO_IPV6, IPV6_RECVERR)}
_LARGEST_BATCH = 1024  # messages per drain: a flood of errors must not hold the event loop


@value
class QueuedMessage:
    """One message of the error queue: what it says, our own packet's bytes that it quotes, when it was stamped."""

    error: ExtendedError | None
    payload: bytes
    stamp_ns: int | None  # kernel software timestamp, nanoseconds since the epoch


def drain(sock: socket.socket) -> list[QueuedMessage]:
    """Everything queued, oldest first. The socket must be non-blocking: recvmsg() ignores MSG_DONTWAIT otherwise."""
    messages: list[QueuedMessage] = []
    while len(messages) < _LARGEST_BATCH:
        try:
            payload, ancillary, _flags, _name = sock.recvmsg(2048, 512, socket.MSG_ERRQUEUE)
        except OSError:  # EAGAIN: empty; a socket error that was pending is reported by SO_ERROR as well
            break
        messages.append(_message(payload, ancillary))
    return messages


def icmp_errors(messages: list[QueuedMessage]) -> list[IcmpError]:
    """The ICMP errors among them, each once: a connecting TCP socket queues every one of them twice."""
    found = [message.error.icmp() for message in messages if message.error is not None]
    return list(dict.fromkeys(icmp for icmp in found if icmp is not None))


def take_icmp_error(sock: socket.socket) -> ExtendedError | None:
    """Empty the queue; the oldest error in it that came by ICMP.

    Reading the queue also clears SO_ERROR (sock_dequeue_err_skb): who needs both reads SO_ERROR first.
    """
    errors = (message.error for message in drain(sock))
    return next((error for error in errors if error is not None and error.icmp() is not None), None)


def take_icmp(sock: socket.socket) -> IcmpError | None:
    """As take_icmp_error(), for those who have the errno already."""
    error = take_icmp_error(sock)
    return error.icmp() if error is not None else None


def _message(payload: bytes, ancillary: list[tuple[int, int, bytes]]) -> QueuedMessage:
    error: ExtendedError | None = None
    stamp: int | None = None
    for level, kind, data in ancillary:
        if (level, kind) in _ERROR_LEVELS:
            error = parse_extended_error(data)
        elif (level, kind) == (socket.SOL_SOCKET, SO_TIMESTAMPING):
            stamp = parse_timestamps(data)
    return QueuedMessage(error=error, payload=payload, stamp_ns=stamp)
