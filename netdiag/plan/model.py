"""The plan: what is deployed and what is normal. What to measure follows from it, it is not written in it.

These types are the plan's schema: the strict reader, the JSON Schema for editors and the reference page come from
them. Durations are seconds, ratios 0..1, once read; the TOML says "50ms", "0.1%".
"""

from __future__ import annotations

import datetime as dt
from typing import Literal

from probes.model import Secret, value

Role = Literal["load-balancer", "primary", "replica", "database", "host"]
DATABASE_ROLES: frozenset[str] = frozenset({"primary", "replica", "database"})


@value
class Ticket:
    id: str | None = None
    customer: str | None = None
    priority: str | None = None
    status: str | None = None
    created: dt.date | None = None
    escalated: dt.date | None = None
    summary: str | None = None
    level: str | None = None
    engineer: str | None = None
    contact: str | None = None
    sentiment: tuple[str, ...] = ()
    current_status: tuple[str, ...] = ()


@value
class Impact:
    users: int | None = None
    revenue_per_day: float | None = None
    sla: float | None = None  # ratio: 0.999


@value
class VantagePlan:
    name: str | None = None  # None: the host's name
    region: str | None = None


@value
class Health:
    url: str
    matcher: str = "200"
    interval: float = 5.0
    timeout: float = 2.0
    unhealthy: int = 2


@value
class Credentials:
    """How a connection authenticates and encrypts; everything libpq would read from the DSN that netdiag uses."""

    user: str | None = None
    password: Secret | None = None
    password_from: str | None = None  # where it was found, or why none was: for whoever has to mend it
    dbname: str | None = None
    sslmode: str = "prefer"
    sslrootcert: str | None = None
    sslcert: str | None = None
    sslkey: str | None = None
    sslnegotiation: str = "postgres"
    channel_binding: str = "prefer"
    connect_timeout: float | None = None


@value
class Alternatives:
    """The hosts of one connection string: the application needs one of them, and tries them as its driver does."""

    hosts: tuple[str, ...]  # names of endpoints, in the DSN's order
    target_session_attrs: str = "any"  # libpq's word, also where a JDBC URL said it in its own
    shuffled: bool = False  # load_balance_hosts=random: any host may be the first
    driver: Literal["libpq", "pgjdbc"] = "libpq"


@value
class Endpoint:
    """One named place. ``host``/``port``/``credentials`` come out of ``url``, which is not kept."""

    name: str
    role: Role = "host"
    region: str | None = None
    host: str
    port: int | None = None
    address: str | None = None  # libpq's hostaddr: dial this one, verify ``host``; None: every address of ``host``
    database: bool = False  # a PostgreSQL is declared here (a database URL or role)
    credentials: Credentials | None = None  # None: host or host:port only
    alternatives: Alternatives | None = None  # None: its DSN names no other host and asks for no kind of session
    backends: tuple[str, ...] = ()  # names of endpoints
    stats: str | None = None
    health: Health | None = None


@value
class Baseline:
    """What is normal from one region (or endpoint name) to another, one direction."""

    source: str  # TOML: from
    target: str  # TOML: to
    rtt: float | None = None
    loss: float | None = None
    mtu: int | None = None
    as_path: tuple[int, ...] = ()


@value
class Router:
    name: str
    bird: str | None = None
    frr: str | None = None


@value
class Dns:
    resolvers: tuple[str, ...] = ()
    origin_zone: str | None = None  # TOML: false or a zone's name


@value
class Limits:
    budget: float = 60.0
    packets_per_second: float = 200.0
    connections_per_second: float = 5.0
    bulk_read: int | None = None  # bytes, of each database address; None: not asked for


@value
class Plan:
    """The whole deployment. ``warnings`` are for the person who wrote it: a password in a URL, say."""

    endpoints: tuple[Endpoint, ...]
    ticket: Ticket = Ticket()
    impact: Impact = Impact()
    vantage: VantagePlan = VantagePlan()
    baselines: tuple[Baseline, ...] = ()
    routers: tuple[Router, ...] = ()
    dns: Dns = Dns()
    limits: Limits = Limits()
    warnings: tuple[str, ...] = ()
