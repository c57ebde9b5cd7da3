"""`netdiag reflect`: a STAMP reflector at the far end, until it is told to stop."""

from __future__ import annotations

import asyncio
import signal
import socket
from ipaddress import ip_address, ip_network

from netdiag.cli.output import OK, UserError, note
from netdiag.cli.targets import rate_option
from probes.model import value
from probes.net.clock import SystemClock, kernel_clock_synchronized
from probes.net.reflector import Counts, Network, Reflector, open_reflector_socket
from probes.wire.stamp import PORT

UNPRIVILEGED_PORT = 8620
LOOPBACK, ANYWHERE = "127.0.0.1", "0.0.0.0"
LOOPBACK_NETWORKS = ("127.0.0.0/8", "::1/128")


@value
class ReflectArguments:
    listen: str | None = None
    port: int | None = None
    allow: tuple[str, ...] = ()
    rate: float = 200.0


def reflect_command(arguments: ReflectArguments) -> int:
    """0 after SIGTERM or Ctrl-C. Without --allow only this host itself is answered."""
    networks = tuple(read_network(text) for text in arguments.allow or LOOPBACK_NETWORKS)
    rate = rate_option(arguments.rate) or arguments.rate
    with open_socket(_listen_address(arguments), arguments.port) as sock:
        _say_where(sock, arguments, networks)
        counts = asyncio.run(_reflect(sock, networks, rate))
    note(f"netdiag: {summary(counts)}")
    return OK


def read_network(text: str) -> Network:
    try:
        return ip_network(text)
    except ValueError as error:
        raise UserError(f"--allow: {error}", "a network such as 10.1.0.0/16, or one address") from None


def _listen_address(arguments: ReflectArguments) -> str:
    """Raises UserError for an address that others could reach where nobody is allowed."""
    address = arguments.listen or (ANYWHERE if arguments.allow else LOOPBACK)
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError as error:
        raise UserError(f"--listen: {error}") from None
    if not arguments.allow and not found.is_loopback:
        raise UserError(f"--listen {address} without --allow would answer nobody", "name who may ask: --allow CIDR")
    return address


def open_socket(address: str, port: int | None) -> socket.socket:
    """On STAMP's port, or on UNPRIVILEGED_PORT where that takes a privilege and none was asked for."""
    try:
        return open_reflector_socket(address, port or PORT)
    except PermissionError as error:
        if port is not None:
            raise _unusable(address, port, error) from None
    except OSError as error:
        raise _unusable(address, port or PORT, error) from None
    try:
        return open_reflector_socket(address, UNPRIVILEGED_PORT)
    except OSError as error:
        raise _unusable(address, UNPRIVILEGED_PORT, error) from None


def _unusable(address: str, port: int, error: OSError) -> UserError:
    return UserError(f"cannot listen on {address} port {port}: {error.strerror or error}", "choose another --port")


def _say_where(sock: socket.socket, arguments: ReflectArguments, networks: tuple[Network, ...]) -> None:
    address, port = sock.getsockname()[:2]
    where = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
    whom = ", ".join(str(network) for network in networks) if arguments.allow else "this host only (no --allow)"
    note(f"netdiag: reflecting STAMP on {where}/udp for {whom}, {arguments.rate:g} packets/s each")


async def _reflect(sock: socket.socket, networks: tuple[Network, ...], rate: float) -> Counts:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    reflector = Reflector(sock, SystemClock(), networks, rate, synchronized=kernel_clock_synchronized())
    await reflector.run(stop)
    return reflector.counts()


def summary(counts: Counts) -> str:
    dropped = (
        f"{counts.not_allowed} not allowed, {counts.over_rate} over the rate, {counts.malformed} malformed, "
        f"{counts.not_sent} not sent"
    )
    return f"reflected {counts.reflected} packets of {counts.sessions} sessions; dropped: {dropped}"
