"""The paths that loss, delay and MTU rules judge: from this vantage to one address of one endpoint."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address
from shlex import quote
from typing import Any

from netdiag.diagnosis.finding import Subject
from netdiag.diagnosis.rule import Case
from netdiag.diagnosis.rules.subjects import addresses_of, at, sockets
from netdiag.plan.model import Endpoint
from probes.latency import LatencyMeasurement
from probes.loss import LossMeasurement
from probes.model import Measurement, value

Sampled = Measurement[LatencyMeasurement | LossMeasurement]


@value
class Path:
    """``address`` is None where the name gave none, ``port`` where the endpoint is only a host."""

    endpoint: Endpoint
    address: str | None
    port: int | None

    @property
    def subject(self) -> Subject:
        return Subject(endpoint=self.endpoint.name, address=self.address, port=self.port)

    @property
    def label(self) -> str:
        return at(self.address or self.endpoint.host, self.port)

    @property
    def is_loopback(self) -> bool:
        return self.address is not None and ip_address(self.address.partition("%")[0]).is_loopback


def paths(case: Case) -> tuple[Path, ...]:
    """Each address and port once, in plan order; then the hosts without a port."""
    found = [Path(endpoint=p.endpoint, address=p.address, port=p.port) for p in sockets(case)]
    for endpoint in case.plan.endpoints:
        if endpoint.port is None:
            addresses: Iterable[str | None] = addresses_of(case.evidence, endpoint) or (None,)
            found.extend(Path(endpoint=endpoint, address=address, port=None) for address in addresses)
    return tuple(found)


def sampled(case: Case, path: Path, method: str) -> tuple[Sampled, ...]:
    """Latency and loss measurements of a path by one method; by TCP only those to its own port."""
    if path.address is None:
        return ()
    kinds: tuple[type[Any], ...] = (LatencyMeasurement, LossMeasurement)
    found: list[Sampled] = [m for kind in kinds for m in case.evidence.of(kind, address=path.address)]
    return tuple(
        m for m in found if m.data and m.data.method == method and (method == "icmp" or m.target.port == path.port)
    )


def probe_command(name: str, path: Path) -> str:
    """The command that measures this path again."""
    return f"netdiag probe {name} {quote(path.label)}"
