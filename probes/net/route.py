"""What this host's kernel says of the way to an address, before a packet is sent."""

from __future__ import annotations

import socket

from probes.exchanges import LocalRoute
from probes.failures import from_os_error
from probes.net.sockets import family_of, route_mtu, socket_address

_DISCARD = 9  # connect() on UDP looks up the route and sends nothing; the port does not matter


def local_route(address: str) -> LocalRoute:
    """Source address and MTU of the route (as cached, so after ICMP "too big" the smaller one)."""
    try:
        with socket.socket(family_of(address), socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.connect(socket_address(address, _DISCARD))
            return LocalRoute(source=str(sock.getsockname()[0]), mtu=route_mtu(sock))
    except OSError as error:
        return LocalRoute(source=None, mtu=None, failure=from_os_error(error, "connect"))
