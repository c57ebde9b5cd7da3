"""The plan that an engineer would write for the lab's deployment."""

from __future__ import annotations

from pathlib import Path

from netdiag.lab.names import DATABASE, DATABASE_PORT, DOMAIN, HEALTH_PORT, ORIGIN_ZONE, ROLE, STATS_PORT, domain_name
from netdiag.lab.topology import TRANSIT_DELAY_S, Family, Topology
from netdiag.lab.wiring import RESOLVERS

_HEADER = """\
version = 1

[vantage]
name = "app"
region = "us-east"
"""


def plan_toml(topology: Topology, state_dir: Path, family: Family | None = None) -> str:
    """``family``: addresses of that family in place of names; certificates are then checked for their authority."""
    return "\n".join(
        [
            _HEADER,
            _endpoint(topology, "ysql", "lb", "load-balancer", "us-east", family) + _balancer(topology, family),
            _endpoint(topology, "db-east", "db-east", "primary", "us-east", family),
            _endpoint(topology, "db-west", "db-west", "replica", "us-west", family),
            _baselines(topology),
            _router("edge-east", state_dir),
            _dns(topology),
        ]
    )


def _endpoint(topology: Topology, name: str, host: str, role: str, region: str, family: Family | None) -> str:
    known_as = domain_name("db" if host == "lb" else host)
    place, mode = (known_as, "verify-full") if family is None else (_literal(topology, host, family), "verify-ca")
    return (
        f'[[endpoint]]\nname = "{name}"\nrole = "{role}"\nregion = "{region}"\n'
        f'url = "postgresql://{ROLE}@{place}:{DATABASE_PORT}/{DATABASE}?sslmode={mode}"\n'
    )


def _literal(topology: Topology, host: str, family: Family) -> str:
    address = topology.address(host, family)
    return address if family == 4 else f"[{address}]"


def _balancer(topology: Topology, family: Family | None) -> str:
    place = f"lb.{DOMAIN}" if family is None else _literal(topology, "lb", family)
    return (
        'backends = ["db-east", "db-west"]\n'
        f'stats = "http://{place}:{STATS_PORT}/stats;csv"\n'
        f'health = {{ url = "http://{{backend}}:{HEALTH_PORT}/health", matcher = "200", interval = "1s", '
        'timeout = "2s", unhealthy = 2 }\n'
    )


def _baselines(topology: Topology) -> str:
    rtt_ms = round(4000 * TRANSIT_DELAY_S["transit-a"])
    ways = (("us-east", "us-west", [65010, 65100, 65020]), ("us-west", "us-east", [65020, 65100, 65010]))
    return "\n".join(
        f'[[baseline]]\nfrom = "{source}"\nto = "{target}"\nrtt = "{rtt_ms}ms"\nloss = "0.1%"\nmtu = 1500\n'
        f"as_path = {path}\n"
        for source, target, path in ways
    )


def _router(name: str, state_dir: Path) -> str:
    return f'[[router]]\nname = "{name}"\nbird = "{state_dir}/bird/{name}.ctl"\n'


def _dns(topology: Topology) -> str:
    servers = ", ".join(f'"{topology.address(name)}"' for name in RESOLVERS)
    return f'[dns]\nresolvers = [{servers}]\norigin_zone = "{ORIGIN_ZONE}"\n'
