"""One DNS message to one server over one transport (RFC 1035 4.2, RFC 7766). No retry, no fallback.

The UDP socket is connected and has the error queue on: a closed port answers at once instead of by a timeout, and
datagrams from elsewhere never reach us.
"""

from __future__ import annotations

import socket
import struct

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

_Result = tuple[Outcome, bytes | None, Failure | None]


async def exchange(request: DnsRequest, clock: Clock) -> DnsReply:
    """``transport`` "udp" or "tcp"; over TCP the time includes the handshake. Raises ValueError for any other."""
    transports = {"udp": _over_udp, "tcp": _over_tcp}
    if request.transport not in transports:
        raise ValueError(f"no such DNS transport: {request.transport}")
    started = clock.monotonic()
    outcome, payload, failure = await transports[request.transport](request, clock)
    return DnsReply(outcome=outcome, seconds=clock.monotonic() - started, payload=payload, failure=failure)


async def _over_udp(request: DnsRequest, clock: Clock) -> _Result:
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


async def _answer(sock: socket.socket, request: DnsRequest, deadline: float, clock: Clock) -> _Result:
    while await readable(sock, deadline - clock.monotonic()):
        try:
            payload = sock.recv(_LARGEST)
        except BlockingIOError:
            take_icmp(sock)  # an error that does not end the exchange; unread, it would wake us up for ever
            continue
        except OSError as error:
            return _broken(error, "receive", take_icmp(sock), request.server)
        if len(payload) >= _HEADER and payload[:2] == request.payload[:2]:
            return Outcome.ANSWERED, payload, None
    return Outcome.LOST, None, timed_out("receive")


async def _over_tcp(request: DnsRequest, clock: Clock) -> _Result:
    deadline = clock.monotonic() + request.timeout_s
    connection = HandshakeRequest(address=request.server, port=request.port, timeout_s=request.timeout_s)
    tried = await attempt(connection, clock)
    if tried.sock is None:
        return tried.handshake.outcome, None, tried.handshake.failure
    with tried.sock:
        stream = RawStream(tried.sock, clock, tried.pending_errno)
        try:
            await stream.send(struct.pack("!H", len(request.payload)) + request.payload, deadline)
            length = struct.unpack("!H", await _exactly(stream, 2, deadline))[0]
            payload = await _exactly(stream, length, deadline)
        except NetworkFailure as broken:
            lost = broken.failure.kind is FailureKind.TIMEOUT
            return Outcome.LOST if lost else Outcome.FAILED, None, broken.failure
    if len(payload) < _HEADER or payload[:2] != request.payload[:2]:
        failure = Failure(kind=FailureKind.PROTOCOL, operation="receive", detail="no DNS message with our id")
        return Outcome.FAILED, None, failure
    return Outcome.ANSWERED, payload, None


async def _exactly(stream: RawStream, size: int, deadline: float) -> bytes:
    received = b""
    while len(received) < size:
        data = await stream.receive(size - len(received), deadline)
        if not data:
            raise NetworkFailure(Failure(kind=FailureKind.CLOSED, operation="receive"))
        received += data
    return received


def _broken(error: OSError, operation: str, icmp: IcmpError | None, server: str) -> _Result:
    outcome, failure = classify(error, operation, icmp, canonical(server))
    return outcome, None, failure
