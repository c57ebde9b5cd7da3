"""What this process may do beyond an ordinary user's sockets."""

from __future__ import annotations

import socket

from probes.contract import Capability, ProbeUnavailable

_GRANT = (
    'ICMP sockets are not allowed here; as root: sysctl -w net.ipv4.ping_group_range="0 2147483647" '
    "(or setcap cap_net_raw+ep on the interpreter)"
)


def icmp_socket(family: socket.AddressFamily) -> tuple[socket.socket, str]:
    """A non-blocking ICMP socket and its kind: "datagram" (ping_group_range) first, "raw" (CAP_NET_RAW) second.

    Raises ProbeUnavailable with the command that would grant one.
    """
    protocol = socket.IPPROTO_ICMPV6 if family == socket.AF_INET6 else socket.IPPROTO_ICMP
    flags = socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    refusals: list[OSError] = []
    for kind, name in ((socket.SOCK_DGRAM, "datagram"), (socket.SOCK_RAW, "raw")):
        try:
            return socket.socket(family, kind | flags, protocol), name
        except OSError as error:
            refusals.append(error)
    if any(isinstance(refusal, PermissionError) for refusal in refusals):
        raise ProbeUnavailable(_GRANT)
    raise ProbeUnavailable(f"ICMP sockets do not open here: {refusals[0].strerror}")


def capabilities() -> frozenset[Capability]:
    """ICMP_ECHO where an ICMP socket opens, IPV6 where IPv6 sockets open and the loopback address is there."""
    found: set[Capability] = set()
    if _icmp_allowed():
        found.add(Capability.ICMP_ECHO)
    if _ipv6_works():
        found.add(Capability.IPV6)
    return frozenset(found)


def _icmp_allowed() -> bool:
    try:
        icmp_socket(socket.AF_INET)[0].close()
    except ProbeUnavailable:
        return False
    return True


def _ipv6_works() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True
