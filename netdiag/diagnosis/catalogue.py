"""Every rule, in the order in which they are asked; the codes that netdiag can give."""

from __future__ import annotations

from netdiag.diagnosis.rule import Rule
from netdiag.diagnosis.rules import (
    balancer,
    bulk,
    congestion,
    conntrack,
    database,
    dns,
    firewall,
    health_checks,
    host,
    idle,
    link,
    mtu,
    replication,
    routing,
    sending,
    sessions,
)

RULES: tuple[Rule, ...] = (
    *dns.RULES,
    *firewall.RULES,
    *idle.RULES,
    *host.RULES,
    *sending.RULES,
    *conntrack.RULES,
    *link.RULES,
    *congestion.RULES,
    *routing.RULES,
    *mtu.RULES,
    *balancer.RULES,
    *health_checks.RULES,
    *database.RULES,
    *sessions.RULES,
    *bulk.RULES,
    *replication.RULES,
)
