"""Names of what a world makes on this machine. All carry the world's id, so that two worlds never meet."""

from __future__ import annotations

import secrets

PREFIX = "ndlab"
DOMAIN = "vantage.example"  # RFC 2606
ORIGIN_ZONE = "origin.asn.lab.example"  # as Team Cymru's origin.asn.cymru.com
ORIGIN6_ZONE = "origin6.asn.lab.example"
DATABASE = "yugabyte"
ROLE = "app"
DATABASE_PORT = 5433  # YugabyteDB's YSQL
HEALTH_PORT = 13000
STATS_PORT = 8404


def new_world_id() -> str:
    """Four hexadecimal digits behind the prefix: short, for namespaces are named after it."""
    return f"{PREFIX}-{secrets.token_hex(2)}"


def namespace(world_id: str, host: str) -> str:
    return f"{world_id}-{host}"


def domain_name(host: str) -> str:
    return f"{host}.{DOMAIN}"
