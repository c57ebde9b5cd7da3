"""Questions about an endpoint of the plan that more than one part of netdiag asks."""

from __future__ import annotations

from ipaddress import ip_address

from netdiag.plan.model import DATABASE_ROLES, Endpoint, Plan

DATABASE_PORTS: frozenset[int] = frozenset({5432, 5433, 6432})  # PostgreSQL, YSQL, PgBouncer


def is_database(endpoint: Endpoint) -> bool:
    """A database is declared there, or the port is one that only databases use."""
    return endpoint.database or endpoint.role in DATABASE_ROLES or endpoint.port in DATABASE_PORTS


def is_address(text: str) -> bool:
    """An IPv4 or IPv6 literal, with or without a zone."""
    try:
        ip_address(text.partition("%")[0])
    except ValueError:
        return False
    return True


def is_local_name(host: str) -> bool:
    """RFC 6761, 6.3: names under ``localhost`` are the host's own affair; no resolver is asked for them."""
    return host.rstrip(".").rpartition(".")[2].lower() == "localhost"


def at(host: str, port: int | None) -> str:
    """``host:port`` with brackets round an IPv6 address."""
    where = f"[{host}]" if ":" in host else host
    return where if port is None else f"{where}:{port}"


def peers_of(plan: Plan, balancer: Endpoint) -> tuple[Endpoint, ...]:
    """Whom a balancer's loss is compared with: its backends, and the plain hosts of its own region."""
    return tuple(
        other
        for other in plan.endpoints
        if other.name in balancer.backends
        or (
            other.role == "host"
            and other.name != balancer.name
            and other.region is not None
            and other.region == balancer.region
        )
    )
