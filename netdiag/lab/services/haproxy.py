"""HAProxy: the balancer in front of the databases, and a health page on each of them.

The balancer asks each database's health page over HTTP, as YugabyteDB's own port 13000 is asked. The page is 200 while
the local server accepts connections: a HAProxy beside the database watches it.
"""

from __future__ import annotations

import socket
from pathlib import Path

from netdiag.lab.names import DATABASE_PORT, HEALTH_PORT, ROLE, STATS_PORT
from netdiag.lab.services.service import ServiceSpec
from netdiag.lab.topology import Topology

DATABASES = ("db-east", "db-west")
BALANCER = "lb"
_DEFAULTS = """\
defaults
  timeout connect 4s
  timeout client 350s
  timeout server 350s
"""


def balancer(topology: Topology, folder: Path) -> ServiceSpec:
    return _haproxy(BALANCER, BALANCER, folder, configure_balancer(topology, folder))


def health_page(name: str, host: str, folder: Path) -> ServiceSpec:
    return _haproxy(name, host, folder, configure_health_page(folder, name))


def _haproxy(name: str, host: str, folder: Path, text: str) -> ServiceSpec:
    configuration = folder / f"{name}.cfg"
    return ServiceSpec(
        name=name,
        host=host,
        argv=("haproxy", "-db", "-f", str(configuration)),
        log=folder / f"{name}.log",
        configuration=configuration,
        pristine=text,
        ready=lambda: bool(servers_up(folder / f"{name}.sock")),
    )


def servers_up(control: Path) -> dict[str, bool]:
    """Per server behind it, whether its health check passes. Raises OSError."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(2.0)
        sock.connect(str(control))
        sock.sendall(b"show stat\n")
        answer = b"".join(iter(lambda: sock.recv(65536), b"")).decode()
    header, *rows = [line.split(",") for line in answer.splitlines() if line]
    table = [dict(zip(header, row, strict=False)) for row in rows]
    servers = (row for row in table if row["svname"] not in ("FRONTEND", "BACKEND"))
    return {row["svname"]: row["status"].startswith("UP") for row in servers}


def configure_balancer(topology: Topology, folder: Path) -> str:
    checks = "\n".join(
        f"  server {host} {topology.address(host)}:{DATABASE_PORT} check port {HEALTH_PORT}" for host in DATABASES
    )
    return f"""\
global
  maxconn 2000
  stats socket {folder}/{BALANCER}.sock level admin
{_DEFAULTS}
frontend ysql
  mode tcp
  bind :::{DATABASE_PORT} v4v6
  default_backend databases
backend databases
  mode tcp
  balance roundrobin
  option redispatch
  option httpchk GET /health
  http-check expect status 200
  default-server inter 1s fastinter 500ms fall 2 rise 2 on-marked-down shutdown-sessions
{checks}
frontend stats
  mode http
  bind :::{STATS_PORT} v4v6
  stats enable
  stats uri /stats
"""


def configure_health_page(folder: Path, name: str) -> str:
    return f"""\
global
  maxconn 100
  stats socket {folder}/{name}.sock level admin
{_DEFAULTS}
frontend health
  mode http
  bind :::{HEALTH_PORT} v4v6
  acl dead nbsrv(local) lt 1
  monitor-uri /health
  monitor fail if dead
backend local
  mode tcp
  option pgsql-check user {ROLE}
  server postgres 127.0.0.1:{DATABASE_PORT} check inter 500ms fall 2 rise 1
"""
