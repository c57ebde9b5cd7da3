"""Every resolver asked separately for a name, A and AAAA, UDP then TCP; the host's own getaddrinfo beside them."""

from __future__ import annotations

from probes.exchanges import HostLookup, ResolverConfig
from probes.model import Failure, Outcome, value


@value
class NamesOptions:
    resolvers: tuple[str, ...] = ()  # addresses, optionally "address#port" (dig's notation); empty: the host's own
    record_types: tuple[str, ...] = ("A", "AAAA")
    transports: tuple[str, ...] = ("udp", "tcp")
    attempts: int = 2  # per question; each is recorded
    timeout_s: float = 2.0
    lookup_timeout_s: float = 10.0  # for getaddrinfo


@value
class ExtendedError:
    """RFC 8914."""

    code: int
    text: str


@value
class Record:
    type: str
    value: str
    ttl_s: int


@value
class DnsQuery:
    """One question to one server over one transport. An error rcode is an answer: ``outcome`` ANSWERED."""

    resolver: str
    record_type: str
    transport: str
    attempt: int
    seconds: float
    outcome: Outcome
    rcode: str | None = None  # "NOERROR", "NXDOMAIN", "SERVFAIL", "REFUSED", ...
    extended_errors: tuple[ExtendedError, ...] = ()
    flags: tuple[str, ...] = ()  # "AA", "TC", "RD", "RA", "AD"
    edns: bool | None = None  # the answer carried an OPT record
    answers: tuple[Record, ...] = ()  # the CNAME chain and the addresses, in the answer's order
    failure: Failure | None = None


@value
class NamesMeasurement:
    name: str
    system: HostLookup
    config: ResolverConfig
    resolvers: tuple[str, ...]  # those asked
    queries: tuple[DnsQuery, ...]
