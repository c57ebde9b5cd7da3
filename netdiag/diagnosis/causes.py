"""Which finding explains which: a consequence is folded under its cause, not listed beside it.

An entry holds only where both findings concern the same place: the same address, or, where the cause is about a
name, the same name's endpoint. The table is the cause graph of the report and of the lab's expectations.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from netdiag.diagnosis.finding import Finding, Severity, Subject
from netdiag.diagnosis.thresholds import CERTAIN

Backends = Mapping[str, Collection[str]]
NO_BACKENDS: Backends = {}

CONSEQUENCES: dict[str, frozenset[str]] = {
    "net.unreachable": frozenset({"link.loss", "db.unresponsive", "db.slow", "region.latency"}),
    "firewall.drop": frozenset({"link.loss", "db.unresponsive", "db.slow", "mtu.fragmentation"}),
    "firewall.reject": frozenset({"link.loss", "db.unresponsive", "db.port-closed"}),
    # Not link.loss at its own place: that is measured with small packets, which a black hole lets through.
    "mtu.black-hole": frozenset({"db.unresponsive", "db.slow", "mtu.fragmentation", "db.backup-stall", "link.loss"}),
    "link.loss": frozenset({"db.unresponsive", "db.slow", "dns.loss", "db.connection-cut", "lb.backend-down"}),
    # What a queue drops is lost and what it holds is late, here as in everything that goes through it.
    "link.congestion": frozenset(
        {
            "link.loss", "region.latency", "db.slow", "db.unresponsive", "dns.loss", "db.connection-cut",
            "lb.backend-down",
        }
    ),
    "region.latency": frozenset({"db.slow", "db.unresponsive"}),
    "bgp.route-change": frozenset({"region.latency", "db.slow"}),
    "bgp.asymmetric": frozenset({"region.latency", "db.slow"}),
    "bgp.flapping": frozenset({"region.latency", "link.loss", "db.slow", "db.unresponsive", "lb.backend-down"}),
    "lb.wrong-protocol": frozenset({"db.unresponsive", "db.tls-invalid"}),
    "lb.health-check-failing": frozenset({"lb.backend-down"}),
    # A balancer's own loss fails its health checks and stalls what it has already acknowledged to the client.
    "lb.packet-loss": frozenset({"link.loss", "lb.backend-down", "lb.health-check-failing", "db.unresponsive"}),
    "lb.backend-down": frozenset({"db.unresponsive"}),
    "dns.stale-record": frozenset({"db.port-closed", "firewall.drop", "net.unreachable", "dns.inconsistent"}),
    "dns.resolver-down": frozenset({"dns.loss", "dns.tcp-blocked"}),
    "dns.servfail": frozenset({"dns.inconsistent"}),
    "dns.nxdomain": frozenset({"dns.inconsistent"}),
    "dns.refused": frozenset({"dns.inconsistent"}),
    "db.starting": frozenset({"db.unresponsive"}),
    "db.connection-limit": frozenset({"db.slow"}),
    # Nothing explains db.replica-down: what lies between a standby and its primary is not seen from here, and a standby
    # that this vantage cannot reach does not tell what it receives.
    "db.replica-down": frozenset({"db.replication-lag"}),
    "host.conntrack-full": frozenset(
        {
            "net.unreachable", "firewall.drop", "host.cannot-send", "link.loss", "lb.packet-loss", "db.unresponsive",
            "dns.resolver-down", "dns.tcp-blocked", "dns.loss", "dns.host-lookup",
        }
    ),
}  # fmt: skip


# Lost packets and a long way explain a silence that is itself in doubt (no confidence), never one after acknowledged
# bytes, each time.
ONLY_IN_DOUBT = frozenset((cause, "db.unresponsive") for cause in ("link.loss", "link.congestion", "region.latency"))
# A balancer's loss fails checks of its own. One that fails from here too, and is DOWN there, is certain by itself.
# A missing route that somebody tells of is no silence of this host's own making.
NEVER_WHEN_CERTAIN = frozenset(
    {("lb.packet-loss", "lb.health-check-failing"), ("host.conntrack-full", "net.unreachable")}
)
# A balancer that cannot reach its backend closes on its client. The way to the backend is seen from here, not from the
# balancer; loss on the way to the balancer itself closes nothing.
# And where one of several backends lies behind a black hole, the balancer's clients see some large transfers stall.
ON_THE_WAY_TO_A_BACKEND = frozenset(
    {
        ("link.loss", "lb.backend-down"),
        ("link.congestion", "lb.backend-down"),
        ("bgp.flapping", "lb.backend-down"),
        ("mtu.black-hole", "link.loss"),
    }
)
# What waits for a backend behind a queue waits at the balancer, which acknowledges in its stead; but it serves some.
SLOW_BEHIND_A_BALANCER = frozenset({("link.congestion", "db.slow"), ("link.congestion", "db.unresponsive")})
LARGE_PACKETS_ONLY = frozenset({("mtu.black-hole", "link.loss")})  # such a loss is told of one direction
# What this host drops of its own packets it drops whatever the place, but only what is certain explains everything.
EVERYWHERE_IF_CERTAIN = frozenset({"host.conntrack-full"})


def explains(cause: Finding, other: Finding, backends: Backends = NO_BACKENDS) -> bool:
    """``backends``: the names of the endpoints behind each balancer."""
    pair = cause.code, other.code
    if other.code in cause.beside:
        return False
    if pair in SLOW_BEHIND_A_BALANCER and cause.subject.endpoint in backends.get(other.subject.endpoint or "", ()):
        return other.severity is not Severity.CRITICAL
    if pair in ONLY_IN_DOUBT and other.confidence is not None:
        return False
    if pair in NEVER_WHEN_CERTAIN and other.confidence is not None and other.confidence >= CERTAIN:
        return False
    if other.code not in CONSEQUENCES.get(cause.code, frozenset()):
        return False
    if cause.code in EVERYWHERE_IF_CERTAIN:
        return cause.confidence is not None and cause.confidence >= CERTAIN
    if pair in LARGE_PACKETS_ONLY and other.subject.direction is None:
        return False
    if pair in ON_THE_WAY_TO_A_BACKEND:
        return cause.subject.endpoint in backends.get(other.subject.endpoint or "", ())
    return _same_place(cause.subject, other.subject)


def _same_place(cause: Subject, other: Subject) -> bool:
    """Both name a thing of the same kind and it is the same thing; the most specific kind decides."""
    for key in ("address", "resolver", "name", "endpoint"):
        ours, theirs = getattr(cause, key), getattr(other, key)
        if ours is not None and theirs is not None:
            return bool(ours == theirs)
    return False
