"""Network namespaces for tests: small worlds of hosts and wires, gone when the ``with`` block ends.

with line() as world:                       # client -- router -- server
    world.router.nft("table inet t { ... }")
    reply = world.client.measure(lambda: network.handshake(request))

A thread may live in a namespace of its own (setns(2)), so measurements run in this process and return real values.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import itertools
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from netdiag.lab.offload import offloads_off

T = TypeVar("T")

_CLONE_NEWNET = 0x40000000
_serial = itertools.count()
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Namespace:
    """One host. ``name`` is its network namespace."""

    name: str

    def run(self, *argv: str, stdin: str | None = None) -> str:
        """Run a program inside; its standard output. Raises RuntimeError with what it said on failure."""
        return command("ip", "netns", "exec", self.name, *argv, stdin=stdin)

    def ip(self, *argv: str) -> str:
        return command("ip", "-n", self.name, *argv)

    def nft(self, ruleset: str) -> None:
        self.run("nft", "-f", "-", stdin=ruleset)

    def sysctl(self, **settings: object) -> None:
        """``net__ipv4__ip_forward=1``: two underscores stand for the dot."""
        for name, setting in settings.items():
            self.run("sysctl", "-q", "-w", f"{name.replace('__', '.')}={setting}")

    def spawn(self, *argv: str, **options: Any) -> subprocess.Popen[bytes]:
        """Start a program inside; the caller ends it."""
        return subprocess.Popen(["ip", "netns", "exec", self.name, *argv], **options)

    def inside(self, function: Callable[[], T]) -> T:
        """Call ``function`` in a thread that lives in this namespace. Sockets that it opens stay there."""
        result: list[T] = []
        failure: list[BaseException] = []

        def work() -> None:
            try:
                enter(self.name)
                result.append(function())
            except BaseException as error:
                failure.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        if failure:
            raise failure[0]
        return result[0]

    def measure(self, coroutine: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine to its end on an event loop inside."""
        return self.inside(lambda: asyncio.run(coroutine()))

    def listen(self, port: int, address: str = "", family: socket.AddressFamily = socket.AF_INET) -> socket.socket:
        """A listening TCP socket; the kernel completes handshakes without anybody accepting."""
        return self.inside(lambda: socket.create_server((address, port), family=family, backlog=128))

    def counter(self, name: str, table: str = "inet t") -> int:
        """Packets counted by a named nft counter: a source independent of what is tested."""
        words = self.run("nft", "list", "counter", *table.split(), name).split()
        return int(words[words.index("packets") + 1])


@dataclass(frozen=True)
class Line:
    """client (10.71.1.1, fd71:1::1) -- router (.254, ::fe) -- server (10.71.2.1, fd71:2::1)."""

    client: Namespace
    router: Namespace
    server: Namespace

    client_address = "10.71.1.1"
    router_address = "10.71.1.254"  # as the client sees it
    router_far_address = "10.71.2.254"
    server_address = "10.71.2.1"
    client_address6 = "fd71:1::1"
    router_address6 = "fd71:1::fe"
    server_address6 = "fd71:2::1"
    client_link = "wan"  # in the client
    router_links = ("left", "right")
    server_link = "wan"


def command(*argv: str, stdin: str | None = None) -> str:
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=30, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(argv)}: {done.stderr.strip()} {stdin or ''}")
    return done.stdout


def enter(name: str) -> None:
    """Move the calling thread into a namespace."""
    descriptor = os.open(f"/var/run/netns/{name}", os.O_RDONLY)
    try:
        if _libc.setns(descriptor, _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"setns {name}")
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def namespaces(*roles: str) -> Iterator[tuple[Namespace, ...]]:
    """One fresh namespace per role, loopback up, without ICMP rate limits; removed in any case."""
    serial = next(_serial)
    made: list[Namespace] = []
    try:
        for role in roles:
            namespace = Namespace(name=f"nd{os.getpid()}x{serial}{role}")
            command("ip", "netns", "add", namespace.name)
            made.append(namespace)
            namespace.ip("link", "set", "lo", "up")
            namespace.sysctl(net__ipv4__icmp_ratelimit=0, net__ipv6__icmp__ratelimit=0)
            # Duplicate address detection would keep link-local addresses, and so neighbours, unusable for a second.
            namespace.sysctl(net__ipv6__conf__default__accept_dad=0, net__ipv6__conf__default__dad_transmits=0)
        yield tuple(made)
    finally:
        for namespace in made:
            subprocess.run(["ip", "netns", "del", namespace.name], capture_output=True, check=False)


def wire(
    one: Namespace, one_link: str, one_addresses: list[str], two: Namespace, two_link: str, two_addresses: list[str]
) -> None:
    """A veth pair without offloads: with them no packet is ever too big."""
    one.ip("link", "add", one_link, "type", "veth", "peer", "name", two_link, "netns", two.name)
    for namespace, link, addresses in ((one, one_link, one_addresses), (two, two_link, two_addresses)):
        namespace.inside(lambda link=link: offloads_off(link))
        for address in addresses:
            namespace.ip("addr", "add", address, "dev", link, *(["nodad"] if ":" in address else []))
        namespace.ip("link", "set", link, "up")


@contextlib.contextmanager
def line() -> Iterator[Line]:
    """client -- router -- server, IPv4 and IPv6, MTU 1500."""
    with namespaces("c", "r", "s") as (client, router, server):
        router.sysctl(net__ipv4__ip_forward=1, net__ipv6__conf__all__forwarding=1)
        wire(client, "wan", ["10.71.1.1/24", "fd71:1::1/64"], router, "left", ["10.71.1.254/24", "fd71:1::fe/64"])
        wire(server, "wan", ["10.71.2.1/24", "fd71:2::1/64"], router, "right", ["10.71.2.254/24", "fd71:2::fe/64"])
        for host, gateway, gateway6 in (
            (client, "10.71.1.254", "fd71:1::fe"),
            (server, "10.71.2.254", "fd71:2::fe"),
        ):
            host.ip("route", "add", "default", "via", gateway)
            host.ip("-6", "route", "add", "default", "via", gateway6)
        yield Line(client=client, router=router, server=server)
