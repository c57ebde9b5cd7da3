"""One DNS message to one server over one transport (RFC 1035 4.2, RFC 7766). No retry, no fallback.

The UDP socket is connected and has the error queue on: a closed port answers at once instead of by a timeout, and
datagrams from elsewhere never reach us.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import replace

from probes.contract import Clock
from probes.exchanges import DnsReply, DnsRequest, HandshakeRequest
from probes.failures import classify, timed_out
from probes.model import Failure, FailureKind, IcmpError, NetworkFailure, Outcome
from probes.net.errqueue import take_icmp
from probes.net.raw import RawStream
from probes.net.sockets import canonical, probe_socket, readable, socket_address
from probes.net.tcp import attempt

_LARGEST = 65535
_HEADER = 12


async def exchange(request: DnsRequest, clock: Clock) -> DnsReply:
    """``transport`` "udp" or "tcp"; over TCP the time includes the handshake. Raises ValueError for any other."""
    transports = {"udp": _over_udp, "tcp": _over_tcp}
    if request.transport not in transports:
        raise ValueError(f"no such DNS transport: {request.transport}")
    started = clock.monotonic()
    reply = await transports[request.transport](request, clock)
    return replace(reply, seconds=clock.monotonic() - started)


async def _over_udp(request: DnsRequest, clock: Clock) -> DnsReply:
    deadline = clock.monotonic() + request.timeout_s
    try:
        sock = probe_socket(request.server, socket.SOCK_DGRAM)
    except OSError as error:
        return _broken(error, "send", None, request.server)
    with sock:
        try:
            sock.connect(socket_address(request.server, request.port))
            sock.send(request.payload)
        except OSError as error:
            return _broken(error, "send", take_icmp(sock), request.server)
        return await _answer(sock, request, deadline, clock)


async def _answer(sock: socket.socket, request: DnsRequest, deadline: float, clock: Clock) -> DnsReply:
    strays = 0
    while await readable(sock, deadline + request.late_s - clock.monotonic()):
        try:
            payload = sock.recv(_LARGEST)
        except BlockingIOError:
            take_icmp(sock)  # an error that does not end the exchange; unread, it would wake us up for ever
            continue
        except OSError as error:
            return _broken(error, "receive", take_icmp(sock), request.server)
        if len(payload) >= _HEADER and payload[:2] == request.payload[:2]:
            outcome = Outcome.ANSWERED if clock.monotonic() <= deadline else Outcome.LATE
            return DnsReply(outcome=outcome, seconds=0.0, payload=payload, strays=strays)
        strays += 1
    return DnsReply(outcome=Outcome.LOST, seconds=0.0, failure=timed_out("receive"), strays=strays)


async def _over_tcp(request: DnsRequest, clock: Clock) -> DnsReply:
    deadline = clock.monotonic() + request.timeout_s
    connection = HandshakeRequest(address=request.server, port=request.port, timeout_s=request.timeout_s)
    tried = await attempt(connection, clock)
    if tried.sock is None:
        return DnsReply(outcome=tried.handshake.outcome, seconds=0.0, failure=tried.handshake.failure)
    with tried.sock:
        stream = RawStream(tried.sock, clock, tried.pending_errno)
        try:
            await stream.send(struct.pack("!H", len(request.payload)) + request.payload, deadline)
            length = struct.unpack("!H", await _exactly(stream, 2, deadline))[0]
            payload = await _exactly(stream, length, deadline)
        except NetworkFailure as broken:
            lost = broken.failure.kind is FailureKind.TIMEOUT
            outcome = Outcome.LOST if lost else Outcome.FAILED
            return DnsReply(outcome=outcome, seconds=0.0, failure=broken.failure)
    if len(payload) < _HEADER or payload[:2] != request.payload[:2]:
        failure = Failure(kind=FailureKind.PROTOCOL, operation="receive", detail="no DNS message with our id")
        return DnsReply(outcome=Outcome.FAILED, seconds=0.0, failure=failure)
    return DnsReply(outcome=Outcome.ANSWERED, seconds=0.0, payload=payload)


async def _exactly(stream: RawStream, size: int, deadline: float) -> bytes:
    received = b""
    while len(received) < size:
        data = await stream.receive(size - len(received), deadline)
        if not data:
            raise NetworkFailure(Failure(kind=FailureKind.CLOSED, operation="receive"))
        received += data
    return received


def _broken(error: OSError, operation: str, icmp: IcmpError | None, server: str) -> DnsReply:
    outcome, failure = classify(error, operation, icmp, canonical(server))
    return DnsReply(outcome=outcome, seconds=0.0, failure=failure)
