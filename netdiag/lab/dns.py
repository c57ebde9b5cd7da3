"""Faults of names: the zone at the authoritative server, and what one resolver alone says."""

from __future__ import annotations

import contextlib
import itertools
import socket
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from pathlib import Path

from netdiag.lab.hosts import LabHost
from netdiag.lab.names import DOMAIN
from netdiag.lab.services import unbound, zones
from netdiag.lab.services.service import Service
from netdiag.lab.topology import Topology

PATIENCE_S = 5.0


def ask_all(servers: Sequence[str], names: Sequence[str]) -> list[str]:
    """A and AAAA of every name at every resolver, all at once; the resolvers that left a question open."""
    import dns.message

    open_questions: dict[str, set[int]] = {server: set() for server in servers}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for number, (server, name, kind) in enumerate(itertools.product(servers, names, ("A", "AAAA"))):
            sock.sendto(dns.message.make_query(name, kind, id=number).to_wire(), (server, 53))
            open_questions[server].add(number)
        sock.settimeout(PATIENCE_S)
        with contextlib.suppress(TimeoutError):
            while any(open_questions.values()):
                answer, (server, _port) = sock.recvfrom(65535)
                open_questions[server].discard(int.from_bytes(answer[:2], "big"))
    return [server for server, left in open_questions.items() if left]


class Zone:
    """vantage.example at dns-auth. Changes take effect with ``publish``."""

    def __init__(self, topology: Topology, folder: Path, server: Service, flush: Callable[[], None]) -> None:
        self._topology = topology
        self._path = folder / f"{DOMAIN}.zone"
        self._server = server
        self._flush = flush
        self._records = zones.records(DOMAIN, topology)

    def set(self, name: str, kind: str, data: Sequence[str], *, ttl_s: int = zones.TTL_S) -> None:
        """All records of a name ("db" or "db.vantage.example") and type; none: they go. CNAME data end with a dot."""
        key = name.removesuffix(f".{DOMAIN}"), kind
        if data:
            self._records[key] = ttl_s, tuple(data)
        else:
            self._records.pop(key, None)

    def remove(self, name: str) -> None:
        """Every record of a name: NXDOMAIN."""
        short = name.removesuffix(f".{DOMAIN}")
        self._records = {key: found for key, found in self._records.items() if key[0] != short}

    def publish(self, *, flush: bool = True) -> None:
        """A new serial and a reload. ``flush=False``: resolvers keep what they have cached. Raises LabError."""
        self._path.write_text(zones.text(DOMAIN, self._records, self._serial() + 1))
        self._server.reload()
        if flush:
            self._flush()

    def reset(self) -> None:
        """Pristine, published where it was not."""
        self._records = zones.records(DOMAIN, self._topology)
        if not self.is_pristine():
            self.publish(flush=False)

    def is_pristine(self) -> bool:
        """Whether what is published is."""
        pristine = zones.text(DOMAIN, zones.records(DOMAIN, self._topology), self._serial())
        return self._path.read_text() == pristine

    def _serial(self) -> int:
        """Out of the file, so that two processes that change it do not fall behind each other."""
        line = next(line for line in self._path.read_text().splitlines() if line.startswith("@ SOA "))
        return int(line.split()[4])


class Resolver:
    """dns1 or dns2, by unbound's control socket; a reload forgets all of it, with the cache."""

    def __init__(self, service: Service, host: LabHost, topology: Topology) -> None:
        self._service = service
        self._host = host
        self._topology = topology

    def override(self, name: str, addresses: Sequence[str], *, ttl_s: int = zones.TTL_S) -> None:
        """What it says of a name, without asking; no addresses: NXDOMAIN. Raises LabError."""
        owner = f"{name.removesuffix(f'.{DOMAIN}')}.{DOMAIN}."
        self._control("local_zone", owner, "redirect" if addresses else "always_nxdomain")
        for address in addresses:
            kind = "A" if ip_address(address).version == 4 else "AAAA"
            self._control("local_data", f"{owner} {ttl_s} {kind} {address}")

    def refuse(self) -> None:
        """REFUSED for everybody, until its configuration is put back. Raises LabError."""
        self._service.configure(self._service.configuration.replace(" allow\n", " refuse\n"))

    def unreachable_upstream(self) -> None:
        """It cannot ask the authoritative server: SERVFAIL for what it does not know. Raises LabError."""
        servers = ", ".join(self._topology.addresses(zones.AUTHORITY, 4))
        servers6 = ", ".join(self._topology.addresses(zones.AUTHORITY, 6))
        self._host.nft(
            "chain output { type filter hook output priority 0;"
            f" ip daddr {{ {servers} }} drop; ip6 daddr {{ {servers6} }} drop; }}"
        )
        self.flush()

    def flush(self) -> None:
        """Forget the cache; overrides stay. Raises LabError."""
        self._control("flush_zone", ".")
        self._control("flush_infra", "all")

    def _control(self, *words: str) -> None:
        assert self._service.spec.configuration is not None
        unbound.control(self._service.spec.configuration, *words)
