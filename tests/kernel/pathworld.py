"""A chain of network namespaces for path tests: client - router 1 - ... - router n - server.

A direction is narrowed by the MTU of a router's route, which forwarding honours for that direction alone. Routers and
server keep Linux's own ICMP rate limit: a probe that relies on ICMP has to live with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from probes.contract import Context
from probes.model import Vantage
from probes.net.clock import SystemClock
from probes.net.kernel import KernelNetwork
from tests.kernel.netns import Namespace, namespaces, wire

T = TypeVar("T")

# Device, network, gateway (None: on-link).
Route = tuple[str, str, str | None]


@dataclass(frozen=True)
class Chain:
    """``nodes`` from client to server. Link i joins node i (10.99.i.1) and node i + 1 (10.99.i.2)."""

    nodes: tuple[Namespace, ...]

    @property
    def client(self) -> Namespace:
        return self.nodes[0]

    @property
    def server(self) -> Namespace:
        return self.nodes[-1]

    def router(self, number: int) -> Namespace:
        """From 1, nearest to the client first."""
        return self.nodes[number]

    def address(self, family: int = 4) -> str:
        """The server's."""
        return host(len(self.nodes) - 2, 2, family)

    def router_address(self, number: int, family: int = 4) -> str:
        """Router ``number`` on its side of the client: the sender of its ICMP errors."""
        return host(number - 1, 2, family)

    def measure(self, probe: Callable[[Context], Coroutine[Any, Any, T]], seconds: float = 60.0) -> T:
        """Run ``probe`` on the client."""

        async def inside() -> T:
            clock = SystemClock()
            deadline = clock.monotonic() + seconds
            vantage = Vantage(name="test")
            return await probe(Context(network=KernelNetwork(clock), clock=clock, vantage=vantage, deadline=deadline))

        return self.client.inside(lambda: asyncio.run(inside()))

    def filter(self, node: Namespace, hook: str, *rules: str) -> None:
        body = "\n".join((f"type filter hook {hook} priority 0;", *rules))
        node.nft(f"table inet t_{hook} {{\nchain it {{\n{body}\n}}\n}}\n")

    def narrow(self, mtu: int, *, forward: bool) -> None:
        """Packets of one direction that are larger than ``mtu`` draw "too big" at router 1."""
        for family in (4, 6):
            for device, net, gateway in self._routes(1, family):
                if (device == "right") == forward:
                    metric = ("metric", "256") if family == 6 and not gateway else ()  # as the kernel's on-link route
                    via = ("via", gateway) if gateway else ()
                    words = (net, *via, "dev", device, *metric, "mtu", str(mtu))
                    self.router(1).ip(f"-{family}", "route", "replace", *words)

    def silence_too_big(self) -> None:
        """Router 1 says nothing of packets that are too big."""
        rules = ("icmp type destination-unreachable icmp code frag-needed drop", "icmpv6 type packet-too-big drop")
        self.filter(self.router(1), "output", *rules)

    @contextlib.contextmanager
    def listening(self, port: int, family: int = 4) -> Iterator[None]:
        kind = socket.AF_INET if family == 4 else socket.AF_INET6
        with self.server.listen(port, self.address(family), kind):
            yield

    def settle(self) -> None:
        """Addresses, routes, rate limits; then wait until the server refuses a closed port over both families."""
        for link, (left, right) in enumerate(itertools.pairwise(self.nodes)):
            ends = [[f"{host(link, end, 4)}/24", f"{host(link, end, 6)}/64"] for end in (1, 2)]
            wire(left, "right", ends[0], right, "left", ends[1])
        for position, node in enumerate(self.nodes):
            node.sysctl(net__ipv4__ip_forward=1, net__ipv6__conf__all__forwarding=1)
            node.sysctl(net__ipv4__icmp_ratelimit=1000, net__ipv6__icmp__ratelimit=1000)
            for family in (4, 6):
                for device, net, gateway in self._routes(position, family):
                    if gateway:
                        node.ip(f"-{family}", "route", "add", net, "via", gateway, "dev", device)
        for family in (4, 6):
            self.client.inside(partial(_await_refusal, self.address(family)))

    def _routes(self, position: int, family: int) -> list[Route]:
        links = range(len(self.nodes) - 1)
        right = [("right", link, host(position, 2, family) if link > position else None) for link in links[position:]]
        left = [
            ("left", link, host(position - 1, 1, family) if link < position - 1 else None) for link in range(position)
        ]
        return [
            (device, f"10.99.{link}.0/24" if family == 4 else f"fd99:{link + 1:x}::/64", gateway)
            for device, link, gateway in right + left
        ]


def host(link: int, end: int, family: int) -> str:
    # The first group is never 0, which would have a shorter canonical form.
    return f"10.99.{link}.{end}" if family == 4 else f"fd99:{link + 1:x}::{end}"


def _await_refusal(address: str) -> None:
    for _ in range(100):
        try:
            socket.create_connection((address, 9), 0.2).close()
        except ConnectionRefusedError:
            return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError(f"{address} cannot be reached")


@contextlib.contextmanager
def chain(routers: int = 1) -> Iterator[Chain]:
    roles = ("c", *(f"r{number}" for number in range(1, routers + 1)), "s")
    with namespaces(*roles) as nodes:
        made = Chain(nodes=nodes)
        made.settle()
        yield made
