"""One TCP connection attempt on our own socket: how it ended, who ended it, and the kernel's own figures.

The error queue is on during the handshake only: there it makes an ICMP error end the attempt at once and names
the sender. On an established connection it would turn a passing ICMP error into a failed recv().

A missing route is UNREACHABLE with kind LOCAL (and errno): nothing was sent, yet it is the answer to "is the
address reachable from here?". Prohibit and blackhole routes, ports and descriptors run out are NOT_SENT.
"""

from __future__ import annotations

import errno as errnos
import os
import socket

from probes.contract import Clock
from probes.exchanges import Handshake, HandshakeRequest, TcpInfo, TimestampSource
from probes.failures import classify, timed_out
from probes.model import Failure, IcmpError, Outcome, value
from probes.net.errqueue import take_icmp, take_icmp_error
from probes.net.sockets import canonical, probe_socket, set_error_queue, socket_address, writable
from probes.net.tcpinfo import read_tcp_info
from probes.wire.errqueue import ExtendedError

_SYN_SENT, _CLOSE = 2, 7  # include/net/tcp_states.h
_AFTER_ESTABLISHED = {errnos.ECONNRESET, errnos.EPIPE}  # a RST to a SYN is ECONNREFUSED, never these


@value
class _End:
    """How the attempt ended. ``pending`` is an errno that came after the handshake had succeeded."""

    outcome: Outcome
    failure: Failure | None = None
    pending: int | None = None


@value
class Attempt:
    """The handshake, and the connected socket where it succeeded and was asked for."""

    handshake: Handshake
    sock: socket.socket | None
    pending_errno: int | None = None  # the peer reset at once: the next receive must say so


async def attempt(request: HandshakeRequest, clock: Clock) -> Attempt:
    """Connect. The caller owns ``sock`` when the outcome is ANSWERED; in every other case nothing stays open."""
    started = clock.monotonic()
    try:
        sock = _prepared(request)
    except (OSError, OverflowError) as error:
        return Attempt(handshake=_never_sent(error, clock.monotonic() - started), sock=None)
    keep = False
    try:
        started = clock.monotonic()
        source, end = await _connected(sock, request, clock)
        shake = _handshake(sock, end, source, clock.monotonic() - started)
        keep = end.outcome is Outcome.ANSWERED
        return Attempt(handshake=shake, sock=sock if keep else None, pending_errno=end.pending)
    finally:
        if not keep:
            sock.close()


def _prepared(request: HandshakeRequest) -> socket.socket:
    sock = probe_socket(request.address, socket.SOCK_STREAM, ttl=request.ttl)
    try:
        if request.syn_count is not None:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_SYNCNT, request.syn_count)
        if request.max_segment is not None:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, request.max_segment)
        if request.source_port is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(request.source_port != 0))
            sock.bind(("::" if sock.family == socket.AF_INET6 else "0.0.0.0", request.source_port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if request.keepalive_s is not None:
            _keep_alive(sock, request.keepalive_s)
    except BaseException:
        sock.close()
        raise
    return sock


def _keep_alive(sock: socket.socket, interval_s: int) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, interval_s)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, interval_s)


async def _connected(
    sock: socket.socket, request: HandshakeRequest, clock: Clock
) -> tuple[tuple[str, int] | None, _End]:
    deadline = clock.monotonic() + request.timeout_s
    target = canonical(request.address)
    try:
        code = sock.connect_ex(socket_address(request.address, request.port))
    except (OSError, OverflowError) as error:
        return None, _failed(error, None, target)
    source = _source(sock)  # now: the kernel forgets it when the attempt fails
    if code not in (0, errnos.EINPROGRESS):
        return source, _failed(_os_error(code), take_icmp(sock), target)
    return source, await _finished(sock, target, deadline, clock)


async def _finished(sock: socket.socket, target: str, deadline: float, clock: Clock) -> _End:
    """Wait until the handshake has succeeded or failed.

    A queued ICMP error wakes us up before, while or after the kernel sets SO_ERROR, and reading the queue clears
    SO_ERROR: so the errno is read first, the state last, and what the queue said is remembered over the rounds.
    A connection may also be reset between the two: the errno is read again then.
    """
    queued: ExtendedError | None = None
    while await writable(sock, deadline - clock.monotonic()):
        code = _take_errno(sock)
        queued = take_icmp_error(sock) or queued
        state = _state(sock)
        if state == _CLOSE:
            code = code or _take_errno(sock) or (queued.errno if queued is not None else errnos.ECONNABORTED)
        if code in _AFTER_ESTABLISHED:
            return _End(outcome=Outcome.ANSWERED, pending=code)
        if code:
            return _failed(_os_error(code), queued.icmp() if queued is not None else None, target)
        if state != _SYN_SENT:
            set_error_queue(sock, enabled=False)
            return _End(outcome=Outcome.ANSWERED)
    return _End(outcome=Outcome.LOST, failure=timed_out("connect"))


def _take_errno(sock: socket.socket) -> int:
    """SO_ERROR: reading it clears it."""
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


def _handshake(sock: socket.socket, end: _End, source: tuple[str, int] | None, seconds: float) -> Handshake:
    info = read_tcp_info(sock)
    answered = end.outcome is Outcome.ANSWERED
    rtt = _clean_rtt(info) if answered else None
    return Handshake(
        outcome=end.outcome,
        seconds=seconds,
        rtt_s=rtt,
        timestamp_source=TimestampSource.TCP_INFO if rtt is not None else TimestampSource.USER,
        syn_retransmits=info.total_retrans if info is not None else None,
        source_address=source[0] if source else None,
        source_port=source[1] if source else None,
        info=info,
        failure=end.failure,
    )


def _clean_rtt(info: TcpInfo | None) -> float | None:
    """Karn's rule: after a retransmission nobody knows which SYN was answered (the kernel then says 1 ms)."""
    return info.rtt_s if info is not None and info.total_retrans == 0 else None


def _never_sent(error: OSError | OverflowError, seconds: float) -> Handshake:
    end = _failed(error, None, None)
    return Handshake(
        outcome=Outcome.NOT_SENT,
        seconds=seconds,
        rtt_s=None,
        timestamp_source=TimestampSource.USER,
        syn_retransmits=None,
        source_address=None,
        source_port=None,
        failure=end.failure,
    )


def _failed(error: OSError | OverflowError, icmp: IcmpError | None, target: str | None) -> _End:
    system_error = error if isinstance(error, OSError) else _os_error(errnos.EINVAL)
    outcome, failure = classify(system_error, "connect", icmp, target)
    return _End(outcome=outcome, failure=failure)


def _source(sock: socket.socket) -> tuple[str, int] | None:
    try:
        address, port = sock.getsockname()[:2]
    except OSError:
        return None
    return (address, port) if port else None


def _state(sock: socket.socket) -> int:
    info = read_tcp_info(sock)
    return info.state if info is not None else 0


def _os_error(code: int) -> OSError:
    return OSError(code, os.strerror(code))
