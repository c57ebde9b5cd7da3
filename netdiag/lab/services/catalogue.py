"""Every server of a world, from its topology and folders: the same list whoever asks, so a world can be attached to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from netdiag.lab.services import bird, haproxy, knot, links, postgres, unbound, zones
from netdiag.lab.services.service import ServiceSpec
from netdiag.lab.topology import Topology
from netdiag.lab.wiring import RESOLVERS

BIRD, DNS, BALANCING, LINKS, DATABASES = "bird", "dns", "haproxy", "links", "postgres"
FOLDERS = (BIRD, DNS, BALANCING, LINKS, DATABASES)


def specs(topology: Topology, state_dir: Path) -> Iterator[ServiceSpec]:
    """In the order in which they are started; all may be started at once. Raises LabError without PostgreSQL."""
    for link in topology.emulated_links():
        yield links.emulator(link, state_dir / LINKS)
    for host in topology.hosts:
        if host.asn is not None:
            yield bird.bird(topology, host, state_dir / BIRD)
    yield knot.knot(topology, state_dir / DNS)
    for name in RESOLVERS:
        yield unbound.unbound(topology, name, state_dir / DNS)
    for name in haproxy.DATABASES:
        yield postgres.service(database(name, state_dir))
        yield haproxy.health_page(name.replace("db-", "health-"), name, state_dir / BALANCING)
    yield haproxy.balancer(topology, state_dir / BALANCING)


def database(host: str, state_dir: Path) -> postgres.Cluster:
    """Raises LabError without PostgreSQL."""
    return postgres.cluster(host, state_dir / DATABASES / host)


def write_zones(topology: Topology, state_dir: Path, serial: int) -> None:
    for zone in zones.ZONES:
        path = state_dir / DNS / f"{zone}.zone"
        path.write_text(zones.text(zone, zones.records(zone, topology), serial))
