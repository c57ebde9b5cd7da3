"""A chain of network namespaces for path tests: client - router 1 - ... - router n - server.

Segmentation offloads are off (veth passes super-packets and would hide every MTU), and a direction is narrowed by the
MTU of a router's route, which forwarding honours for that direction alone.
"""

from __future__ import annotations

import array
import ctypes
import fcntl
import os
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

_CLONE_NEWNET = 0x40000000
_SIOCETHTOOL = 0x8946
_OFFLOADS = (0x1F, 0x24, 0x2C)  # ETHTOOL_STSO, _SGSO, _SGRO
_LIBC = ctypes.CDLL(None, use_errno=True)
_ORDINAL = count()


def run(*words: str, stdin: str | None = None) -> str:
    done = subprocess.run(words, input=stdin, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


@contextmanager
def inside(namespace: str) -> Iterator[None]:
    """This thread's new sockets belong to ``namespace``."""
    with open("/proc/thread-self/ns/net") as home, open(f"/run/netns/{namespace}") as there:
        _enter(there.fileno())
        try:
            yield
        finally:
            _enter(home.fileno())


def _enter(descriptor: int) -> None:
    if _LIBC.setns(descriptor, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


class World:
    """``nodes``: the namespaces from client to server. Link i joins node i (10.99.i.1) and node i+1 (10.99.i.2)."""

    def __init__(self, routers: int) -> None:
        prefix = f"nd{os.getpid()}p{next(_ORDINAL)}"
        names = ["c", *(f"r{number}" for number in range(1, routers + 1)), "s"]
        self.nodes = [f"{prefix}{name}" for name in names]
        self.links = len(self.nodes) - 1

    @property
    def client(self) -> str:
        return self.nodes[0]

    @property
    def server(self) -> str:
        return self.nodes[-1]

    def address(self, family: int = 4) -> str:
        """The server's."""
        return f"10.99.{self.links - 1}.2" if family == 4 else f"fd99:{self.links - 1}::2"

    def router_address(self, number: int) -> str:
        """Router ``number`` (from 1) as the client's side of it is called: the sender of its ICMP errors."""
        return f"10.99.{number - 1}.2"

    def create(self) -> None:
        for node in self.nodes:
            run("ip", "netns", "add", node)
            run("ip", "-n", node, "link", "set", "lo", "up")
            self.sysctl(node, "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
            self.sysctl(node, "net.ipv6.conf.all.accept_dad=0", "net.ipv6.conf.default.accept_dad=0")
        for link in range(self.links):
            self._join(link)
        for position, node in enumerate(self.nodes):
            self._route(position, node)
        for family in (4, 6):
            self._await_path(family)

    def _await_path(self, family: int) -> None:
        """Links and IPv6 addresses settle after a moment: ready when the server refuses a closed port."""
        with inside(self.client):
            for _ in range(50):
                try:
                    socket.create_connection((self.address(family), 9), 0.2).close()
                except ConnectionRefusedError:
                    return
                except OSError:
                    time.sleep(0.05)
        raise RuntimeError(f"{self.address(family)} cannot be reached")

    def remove(self) -> None:
        for node in self.nodes:
            subprocess.run(["ip", "netns", "del", node], capture_output=True, check=False)

    def sysctl(self, node: str, *settings: str) -> None:
        run("ip", "netns", "exec", node, "sysctl", "-qw", *settings)

    def nft(self, node: str, hook: str, *rules: str) -> None:
        chain = "\n".join(rules)
        table = f"table inet {hook}_rules {{ chain it {{ type filter hook {hook} priority 0;\n{chain}\n}}\n}}\n"
        run("ip", "netns", "exec", node, "nft", "-f", "-", stdin=table)

    def narrow(self, mtu: int, *, forward: bool, router: int = 1) -> None:
        """Packets in one direction that are larger than ``mtu`` draw "too big" at this router."""
        node = self.nodes[router]
        for family in (4, 6):
            routes = self._routes_forward(router, family) if forward else self._routes_back(router, family)
            for net, via, device in routes:
                next_hop = ("via", via) if via else ()
                metric = ("metric", "256") if family == 6 and not via else ()  # as the kernel's own on-link route
                chosen = (net, *next_hop, "dev", device, *metric, "mtu", str(mtu))
                run("ip", "-n", node, f"-{family}", "route", "replace", *chosen)

    def silence_too_big(self, router: int = 1) -> None:
        rules = ("icmp type destination-unreachable icmp code frag-needed drop", "icmpv6 type packet-too-big drop")
        self.nft(self.nodes[router], "output", *rules)

    def _join(self, link: int) -> None:
        left, right = self.nodes[link], self.nodes[link + 1]
        peer = ("peer", "name", "left", "netns", right)
        run("ip", "-n", left, "link", "add", "right", "type", "veth", *peer)
        for node, device, host in ((left, "right", 1), (right, "left", 2)):
            with inside(node):
                _switch_offloads_off(device)
            run("ip", "-n", node, "addr", "add", f"10.99.{link}.{host}/24", "dev", device)
            run("ip", "-n", node, "addr", "add", f"fd99:{link}::{host}/64", "dev", device, "nodad")
            run("ip", "-n", node, "link", "set", device, "up")

    def _route(self, position: int, node: str) -> None:
        for family in (4, 6):
            for net, via, device in self._routes_forward(position, family) + self._routes_back(position, family):
                if via:
                    run("ip", "-n", node, f"-{family}", "route", "add", net, "via", via, "dev", device)

    def _routes_forward(self, position: int, family: int) -> list[tuple[str, str | None, str]]:
        return [
            (_net(link, family), _host(position, 2, family) if link > position else None, "right")
            for link in range(position, self.links)
        ]

    def _routes_back(self, position: int, family: int) -> list[tuple[str, str | None, str]]:
        return [
            (_net(link, family), _host(position - 1, 1, family) if link < position - 1 else None, "left")
            for link in range(position)
        ]


def _net(link: int, family: int) -> str:
    return f"10.99.{link}.0/24" if family == 4 else f"fd99:{link}::/64"


def _host(link: int, host: int, family: int) -> str:
    return f"10.99.{link}.{host}" if family == 4 else f"fd99:{link}::{host}"


def _switch_offloads_off(device: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for command in _OFFLOADS:
            value = array.array("B", struct.pack("II", command, 0))
            request = struct.pack("16sP", device.encode(), value.buffer_info()[0])
            fcntl.ioctl(sock.fileno(), _SIOCETHTOOL, request)


@contextmanager
def world(routers: int = 1) -> Iterator[World]:
    made = World(routers)
    try:
        made.create()
        yield made
    finally:
        made.remove()


@contextmanager
def listener(made: World, port: int, family: int = 4) -> Iterator[None]:
    """A TCP socket of the server's that accepts nothing beyond the kernel's handshake."""
    with inside(made.server):
        sock = socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6)
    with sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((made.address(family), port))
        sock.listen(64)
        yield
