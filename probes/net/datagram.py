"""One UDP datagram of an exact size, never fragmented, whatever the kernel remembers of the path (ip(7))."""

from __future__ import annotations

import errno as errnos
import os
import socket

from probes.contract import Clock
from probes.exchanges import DatagramReply, DatagramRequest
from probes.failures import classify, timed_out
from probes.model import Failure, FailureKind, IcmpError, Outcome
from probes.net.errqueue import QueuedMessage, drain, icmp_errors
from probes.net.sockets import canonical, probe_path_mtu, probe_socket, readable, socket_address
from probes.wire.errqueue import Origin

_HEADERS = {socket.AF_INET: 20 + 8, socket.AF_INET6: 40 + 8}  # IP and UDP

_Result = tuple[Outcome, Failure | None]


async def datagram(request: DatagramRequest, clock: Clock) -> DatagramReply:
    """Send it and wait for a reply or an ICMP error. Raises ValueError for a packet smaller than its headers.

    Larger than the interface's MTU is TOO_BIG with kind LOCAL: the packet never left.
    """
    started = clock.monotonic()
    deadline = started + request.timeout_s
    try:
        sock = probe_socket(request.address, socket.SOCK_DGRAM, ttl=request.ttl)
    except OSError as error:
        outcome, failure = classify(error, "send")
        return DatagramReply(outcome=outcome, seconds=clock.monotonic() - started, failure=failure)
    with sock:
        outcome, maybe = _send(sock, request) or await _answer(sock, request, deadline, clock)
    return DatagramReply(outcome=outcome, seconds=clock.monotonic() - started, failure=maybe)


def _send(sock: socket.socket, request: DatagramRequest) -> _Result | None:
    size = request.packet_bytes - _HEADERS[socket.AddressFamily(sock.family)]
    if size < 0:
        raise ValueError(f"packet_bytes {request.packet_bytes} is less than the headers")
    try:
        probe_path_mtu(sock)
        sock.connect(socket_address(request.address, request.port))
        sock.send(os.urandom(size))
    except OSError as error:
        return _broken(error, "send", sock, request.address)
    return None


async def _answer(sock: socket.socket, request: DatagramRequest, deadline: float, clock: Clock) -> _Result:
    while await readable(sock, deadline - clock.monotonic()):
        try:
            sock.recv(1)
        except BlockingIOError:
            errors = icmp_errors(drain(sock))
            if errors:  # with PMTUDISC_PROBE a "too big" is queued without becoming the socket's errno
                return _of_icmp(errors[0], request.address)
        except OSError as error:
            return _broken(error, "receive", sock, request.address)
        else:
            return Outcome.ANSWERED, None
    return Outcome.LOST, timed_out("receive")


def _broken(error: OSError, operation: str, sock: socket.socket, address: str) -> _Result:
    messages = drain(sock)
    errors = icmp_errors(messages)
    if not errors and error.errno == errnos.EMSGSIZE:
        return Outcome.TOO_BIG, _local_limit(messages, operation)
    return classify(error, operation, errors[0] if errors else None, canonical(address))


def _of_icmp(icmp: IcmpError, address: str) -> _Result:
    code = errnos.EMSGSIZE if icmp.mtu is not None else 0
    return classify(OSError(code, ""), "receive", icmp, canonical(address))


def _local_limit(messages: list[QueuedMessage], operation: str) -> Failure:
    """The interface's MTU is in the queue as an error of local origin."""
    found = [m.error.info for m in messages if m.error is not None and m.error.origin == Origin.LOCAL and m.error.info]
    detail = f"local MTU {found[0]}" if found else None
    return Failure(kind=FailureKind.LOCAL, operation=operation, errno="EMSGSIZE", detail=detail)
