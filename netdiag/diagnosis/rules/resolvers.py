"""What each resolver said of each name, and what its silence costs this host: the facts that the DNS rules judge."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address

from netdiag.diagnosis.rule import Case
from netdiag.diagnosis.rules.subjects import address_order, ids, is_address
from netdiag.diagnosis.thresholds import LOCAL_LOOKUP_S
from netdiag.plan.endpoints import is_local_name
from probes.exchanges import HostLookup, ResolverConfig
from probes.model import FailureKind, Measurement, Outcome, value
from probes.names import DnsQuery, NamesMeasurement

ADDRESS_TYPES = ("A", "AAAA")
GLIBC_NAMESERVERS = 3  # resolv.h MAXNS
GLIBC_TIMEOUT_S, GLIBC_TIMEOUT_CAP_S = 5, 30  # RES_TIMEOUT, RES_MAXRETRANS
GLIBC_ATTEMPTS, GLIBC_ATTEMPTS_CAP = 2, 5  # RES_DFLRETRY, RES_MAXRETRY


@value
class View:
    """All that one resolver was asked about one name, as far as it was really sent.

    ``queries`` are the questions; ``sampled`` the repeats that tell how many are lost; ``unchecked`` the questions
    with DNSSEC checking disabled, whose answers nobody but a diagnosis may use.
    """

    name: str
    resolver: str
    queries: tuple[DnsQuery, ...]
    evidence: tuple[str, ...]
    sampled: tuple[DnsQuery, ...] = ()
    unchecked: tuple[DnsQuery, ...] = ()

    def over(self, transport: str) -> tuple[DnsQuery, ...]:
        return tuple(query for query in self.queries if query.transport == transport)

    @property
    def datagrams(self) -> tuple[DnsQuery, ...]:
        return (*self.over("udp"), *self.sampled)

    @property
    def answered(self) -> tuple[DnsQuery, ...]:
        """Referrals of a server that does not recurse are left out: they say nothing of the name (``referred``)."""
        return tuple(query for query in self.queries if answers(query) and not (self.referred and is_referral(query)))

    @property
    def heard(self) -> tuple[DnsQuery, ...]:
        """Every answer, of whatever worth."""
        return tuple(query for query in (*self.queries, *self.sampled) if answers(query))

    @property
    def referred(self) -> bool:
        """It sends this host elsewhere: neither authoritative for the name nor willing to recurse ("lame")."""
        return not self.addresses and any(is_referral(query) for query in self.queries)

    @property
    def addresses(self) -> frozenset[str]:
        return frozenset(address for query in self.queries for address in addresses_in(query))

    @property
    def exists(self) -> bool:
        """The name is there, with or without addresses (NODATA)."""
        return any(query.rcode == "NOERROR" for query in self.answered)

    @property
    def denied(self) -> bool:
        """NXDOMAIN, and for no type anything else: some servers deny only the AAAA of a name that has an A."""
        return not self.exists and any(query.rcode == "NXDOMAIN" for query in self.answered)


@value
class Name:
    """One host name: the views of all its resolvers, in the order asked, and the host's own look-up of it."""

    name: str
    views: tuple[View, ...]
    systems: tuple[HostLookup, ...]
    config: ResolverConfig
    evidence: tuple[str, ...]

    @property
    def resolves(self) -> bool:
        return any(lookup.addresses for lookup in self.systems)

    @property
    def system_addresses(self) -> tuple[str, ...]:
        return tuple(sorted({plain(a) for lookup in self.systems for a in lookup.addresses}, key=address_order))

    @property
    def from_elsewhere(self) -> bool:
        """getaddrinfo knows it at once and no resolver does: /etc/hosts, a local cache, or a search domain."""
        quick = any(lookup.addresses and is_quick(lookup) for lookup in self.systems)
        return quick and not any(view.addresses for view in self.views)


def answers(query: DnsQuery) -> bool:
    """An error rcode is an answer, and so is one that came late: slow is not down."""
    return query.outcome in (Outcome.ANSWERED, Outcome.LATE)


def is_referral(query: DnsQuery) -> bool:
    """As glibc tells a lame server, and asks the next one (res_send.c): NOERROR, nothing in it, neither AA nor RA."""
    said = {"AA", "RA", "TC"} & set(query.flags)
    return answers(query) and query.rcode == "NOERROR" and not (query.answers or said or query.sampled)


def is_quick(lookup: HostLookup) -> bool:
    """It did not wait for a timeout of the stub resolver's."""
    return lookup.seconds < LOCAL_LOOKUP_S


def errno_of(name: Name) -> str:
    codes = sorted({lookup.failure.errno for lookup in name.systems if lookup.failure and lookup.failure.errno})
    return f" ({', '.join(codes)})" if codes else ""


def aliases(queries: Iterable[DnsQuery]) -> tuple[str, ...]:
    """The targets of the longest chain of CNAMEs in one answer, in its order."""
    chains = (tuple(r.value for r in query.answers if r.type == "CNAME") for query in queries)
    return max(chains, key=len, default=())


def plain(address: str) -> str:
    """One spelling per address, without a scope."""
    return str(ip_address(address.partition("%")[0])) if is_address(address) else address


def addresses_in(query: DnsQuery) -> tuple[str, ...]:
    return tuple(plain(record.value) for record in query.answers if record.type in ADDRESS_TYPES)


def wanted_names(case: Case) -> tuple[str, ...]:
    """The plan's host names in its order; stated addresses, literals and ``localhost`` need no resolver."""
    asked = (e.host for e in case.plan.endpoints if e.address is None and not needs_no_resolver(e.host))
    return tuple(dict.fromkeys(asked))


def needs_no_resolver(name: str) -> bool:
    return is_address(name) or is_local_name(name)


def names(case: Case) -> tuple[Name, ...]:
    """Every name of the plan, or else measured, that some evidence tells of."""
    known = (*wanted_names(case), *(m.data.name for m in case.evidence.of(NamesMeasurement) if m.data))
    found = (_name(case, name) for name in dict.fromkeys(known))
    return tuple(name for name in found if name is not None)


def missing_names(case: Case) -> tuple[str, ...]:
    told = {name.name for name in names(case)}
    return tuple(name for name in wanted_names(case) if name not in told)


def _name(case: Case, name: str) -> Name | None:
    measured = [(m, m.data) for m in case.evidence.of(NamesMeasurement) if m.data and m.data.name == name]
    if not measured or needs_no_resolver(name):
        return None
    resolvers = dict.fromkeys(resolver for _, data in measured for resolver in data.resolvers)
    return Name(
        name=name,
        views=tuple(_view(name, resolver, [m for m, _ in measured]) for resolver in resolvers),
        systems=tuple(data.system for _, data in measured if data.system is not None),
        config=measured[0][1].config,
        evidence=ids(m for m, _ in measured),
    )


def _view(name: str, resolver: str, measurements: list[Measurement[NamesMeasurement]]) -> View:
    told = [m for m in measurements if m.data and resolver in m.data.resolvers]
    queries = tuple(query for m in told if m.data for query in m.data.queries if query.resolver == resolver)
    filtered = any(query.failure is not None and query.failure.errno == "EPERM" for query in queries)
    sent = tuple(query for query in queries if _left(query, filtered))
    return View(
        name=name,
        resolver=resolver,
        queries=tuple(query for query in sent if not query.sampled and query.how != "unchecked"),
        evidence=ids(told),
        sampled=tuple(query for query in sent if query.sampled),
        unchecked=tuple(query for query in sent if query.how == "unchecked"),
    )


def _left(query: DnsQuery, filtered: bool) -> bool:
    """``filtered``: this host's own packet filter, or its full connection table, refused a datagram to the resolver. It
    tells the sender of a datagram, and not that of a SYN: silence over TCP is then no word of the resolver's."""
    kept_back = filtered and query.transport == "tcp" and query.outcome is Outcome.LOST
    return query.outcome is not Outcome.NOT_SENT and not kept_back


def by_resolver(found: Iterable[Name]) -> dict[str, tuple[View, ...]]:
    """The views of each resolver over all names, resolvers in the order asked."""
    views: dict[str, list[View]] = {}
    for name in found:
        for view in name.views:
            views.setdefault(view.resolver, []).append(view)
    return {resolver: tuple(of) for resolver, of in views.items()}


def is_down(views: Iterable[View]) -> bool:
    """Nothing over UDP (or over TCP, where only that was asked), for any name. Says nothing of how sure that is."""
    views = tuple(views)
    asked = [query for view in views for query in view.datagrams] or [q for view in views for q in view.queries]
    return bool(asked) and not any(answers(query) for query in asked)


def is_silent(views: Iterable[View]) -> bool:
    """Down without an error to show for it: the stub resolver waits for its whole timeout. It does so, too, after a
    datagram that answers nothing it asked."""
    views = tuple(views)
    sent = [query for view in views for query in (view.datagrams or view.queries)]
    return is_down(views) and any(query.outcome is Outcome.LOST or is_nonsense(query) for query in sent)


def is_nonsense(query: DnsQuery) -> bool:
    """Something came from the server, and it was no answer to the question."""
    broken = query.failure is not None and query.failure.kind is FailureKind.PROTOCOL
    return query.strays > 0 or (query.outcome is Outcome.FAILED and broken)


def stub_wait(config: ResolverConfig, silent: frozenset[str]) -> float | None:
    """Seconds that each getaddrinfo of this host waits because of ``silent`` name servers (resolv.conf(5), glibc).

    The nth server asked gets (timeout << n) / servers seconds from the second on. None where no server of the host
    is silent. Source: resolv.conf(5) and res_send.c, measured on glibc 2.36.
    """
    servers = config.nameservers[:GLIBC_NAMESERVERS]
    if not silent.intersection(servers):
        return None
    timeout, attempts = _option(config, "timeout"), _option(config, "attempts")
    waited = 0.0
    for place, server in enumerate(servers):
        if server not in silent:
            return waited
        waited += timeout if place == 0 else max(1, (timeout << place) // len(servers))
    return waited * attempts


def _option(config: ResolverConfig, name: str) -> int:
    default, cap = {
        "timeout": (GLIBC_TIMEOUT_S, GLIBC_TIMEOUT_CAP_S),
        "attempts": (GLIBC_ATTEMPTS, GLIBC_ATTEMPTS_CAP),
    }[name]
    found = default
    for option in config.options:
        key, _, number = option.partition(":")
        if key == name and number.isdigit():
            found = int(number)
    return max(1, min(cap, found))
