"""Sockets as the probes need them: never blocking, with the error queue on, waited for on the event loop.

Python's socket module lacks some constants of <linux/in.h> and <linux/in6.h>; they are here by number.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import ipaddress
import socket
from typing import Any

IP_MTU_DISCOVER, IP_RECVERR, IP_MTU = 10, 11, 14
IPV6_MTU_DISCOVER, IPV6_MTU, IPV6_RECVERR = 23, 24, 25
PMTUDISC_PROBE = 3  # DF set, the PMTU cache ignored
SO_TIMESTAMPING = 37
# SOF_TIMESTAMPING_*: RX_SOFTWARE, SOFTWARE (report); TX_SOFTWARE, OPT_ID, OPT_TSONLY (no copy of the packet).
RECEIVE_STAMPS = 1 << 3 | 1 << 4
TRANSMIT_STAMPS = 1 << 1 | 1 << 7 | 1 << 11
_NO_TIME_S = 0.0


@functools.lru_cache(maxsize=4096)
def _parsed(address: str) -> tuple[socket.AddressFamily, bytes]:
    """By the C library: a sweep has thousands of addresses, and Python's ipaddress takes ten times as long."""
    host, zone, _ = address.partition("%")
    for family in (socket.AF_INET6,) if zone else (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError, ValueError):
            return family, socket.inet_pton(family, host)
    raise ValueError(f"{address!r} is no IPv4 or IPv6 address")


def family_of(address: str) -> socket.AddressFamily:
    """AF_INET or AF_INET6. Raises ValueError where ``address`` is not a literal address."""
    return _parsed(address)[0]


def canonical(address: str) -> str:
    """As the kernel prints it, without a scope: comparable with an ICMP error's offender."""
    return str(ipaddress.ip_address(address.partition("%")[0]))


def packed_address(address: str) -> bytes:
    """In network byte order, without a scope. Raises ValueError where ``address`` is not a literal address."""
    return _parsed(address)[1]


def answers_from_elsewhere(address: str) -> bool:
    """A multicast group (RFC 1122 3.2.2.6), and 0.0.0.0 or ::, by which the kernel means this host itself."""
    family, packed = _parsed(address)
    multicast = packed[0] == 0xFF if family == socket.AF_INET6 else packed[0] >> 4 == 0xE
    return multicast or not any(packed)


def socket_address(address: str, port: int) -> tuple[Any, ...]:
    """sockaddr of a literal address; a scope ("%eth0") becomes an interface index. Raises OSError for unknown ones."""
    host, _, scope = address.partition("%")
    if family_of(address) == socket.AF_INET:
        return (host, port)
    index = int(scope) if scope.isdigit() else socket.if_nametoindex(scope) if scope else 0
    return (host, port, 0, index)


def probe_socket(address: str, kind: int, protocol: int = 0, ttl: int | None = None) -> socket.socket:
    """A non-blocking socket of the address's family with the error queue on. Raises OSError."""
    family = family_of(address)
    sock = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, protocol)
    try:
        set_error_queue(sock, enabled=True)
        if ttl is not None:
            set_ttl(sock, ttl)
    except BaseException:
        sock.close()
        raise
    return sock


def set_error_queue(sock: socket.socket, *, enabled: bool) -> None:
    """IP_RECVERR: ICMP errors are queued with type, code and sender. Turning it off empties the queue."""
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVERR, int(enabled))
    else:
        sock.setsockopt(socket.IPPROTO_IP, IP_RECVERR, int(enabled))


def set_ttl(sock: socket.socket, ttl: int) -> None:
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, ttl)
    else:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl)


def probe_path_mtu(sock: socket.socket) -> None:
    """Never fragment and ignore the cached path MTU: each datagram asks the path itself."""
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, PMTUDISC_PROBE)
    else:
        sock.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, PMTUDISC_PROBE)


def route_mtu(sock: socket.socket) -> int:
    """MTU of a connected socket's route as the kernel has it cached, bytes. Raises OSError when not connected."""
    if sock.family == socket.AF_INET6:
        return sock.getsockopt(socket.IPPROTO_IPV6, IPV6_MTU)
    return sock.getsockopt(socket.IPPROTO_IP, IP_MTU)


async def readable(sock: socket.socket, timeout_s: float) -> bool:
    """Wait for data, an end of stream or an error; False when the time is over. An error is also "readable"."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(sock, _settle, ready)
    try:
        return await _in_time(ready, timeout_s)
    finally:
        loop.remove_reader(sock)


async def writable(sock: socket.socket, timeout_s: float) -> bool:
    """Wait for room to send, an established connection or an error; False when the time is over."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_writer(sock, _settle, ready)
    try:
        return await _in_time(ready, timeout_s)
    finally:
        loop.remove_writer(sock)


async def _in_time(ready: asyncio.Future[None], timeout_s: float) -> bool:
    try:
        async with asyncio.timeout(max(_NO_TIME_S, timeout_s)):
            await ready
    except TimeoutError:
        return ready.done() and not ready.cancelled()
    return True


def _settle(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
