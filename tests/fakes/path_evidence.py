"""Builders of DNS answers, loss verdicts and held sessions for the tests of the DNS, link and MTU rules."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from probes.database import DatabaseMeasurement, HeldExchange, HeldSession
from probes.exchanges import HostLookup, ResolverConfig, TimestampSource
from probes.latency import LatencyMeasurement
from probes.loss import LossMeasurement
from probes.model import Failure, FailureKind, Measurement, Outcome, Target
from probes.mtu import DatagramTrial, DirectionMtu, MtuMeasurement
from probes.names import DnsQuery, ExtendedError, How, NamesMeasurement, Record
from probes.sampling import RttSample, loss_count, rtt_summary
from tests.fakes.evidence import measured, target

FIRST, SECOND = "192.0.2.53", "192.0.2.54"
LIVE, OTHER = "198.51.100.7", "198.51.100.8"


def query(
    resolver: str = FIRST,
    kind: str = "A",
    *,
    rcode: str | None = "NOERROR",
    addresses: Sequence[str] = (),
    transport: str = "udp",
    attempt: int = 1,
    outcome: Outcome = Outcome.ANSWERED,
    seconds: float = 0.002,
    ede: int | None = None,
    flags: tuple[str, ...] = ("RD", "RA"),
    operation: str = "receive",
    how: How = "edns",
    sampled: bool = False,
    strays: int = 0,
    aliases: Sequence[str] = (),
) -> DnsQuery:
    silent = outcome not in (Outcome.ANSWERED, Outcome.LATE)
    chain = tuple(Record(type="CNAME", value=alias, ttl_s=60) for alias in aliases)
    return DnsQuery(
        resolver=resolver,
        record_type=kind,
        transport=transport,
        attempt=attempt,
        seconds=2.0 if outcome is Outcome.LOST else seconds,
        outcome=outcome,
        rcode=None if silent else rcode,
        extended_errors=() if ede is None else (ExtendedError(code=ede, text=""),),
        flags=flags,
        answers=(*chain, *(Record(type=kind, value=address, ttl_s=60) for address in addresses)),
        failure=Failure(kind=FailureKind.TIMEOUT, operation=operation) if silent else None,
        how=how,
        sampled=sampled,
        strays=strays,
    )


def good(resolver: str = FIRST, addresses: Sequence[str] = (LIVE,)) -> list[DnsQuery]:
    """A with these addresses, AAAA without any, each over UDP and TCP."""
    return [
        query(resolver, kind, addresses=addresses if kind == "A" else (), transport=transport)
        for transport in ("udp", "tcp")
        for kind in ("A", "AAAA")
    ]


def same(resolver: str = FIRST, *, transports: Sequence[str] = ("udp", "tcp"), **how: Any) -> list[DnsQuery]:
    """Both types, two attempts each, all ending alike."""
    return [
        query(resolver, kind, transport=transport, attempt=attempt, **how)
        for transport in transports
        for kind in ("A", "AAAA")
        for attempt in (1, 2)
    ]


def repeated(fates: Iterable[Outcome], resolver: str = FIRST, **each: Any) -> list[DnsQuery]:
    """Repeated questions, A and AAAA, with EDNS and without in turn."""
    return [
        query(
            resolver,
            ("A", "AAAA")[number % 2],
            outcome=fate,
            attempt=number + 1,
            how="plain" if number % 4 > 1 else "edns",
            sampled=True,
            **each,
        )
        for number, fate in enumerate(fates)
    ]


def resolved(
    queries: Mapping[str, Iterable[DnsQuery]],
    *,
    name: str = "db.example",
    system: Sequence[str] = (LIVE,),
    seconds: float = 0.003,
    search: tuple[str, ...] = (),
    options: tuple[str, ...] = (),
    nameservers: tuple[str, ...] | None = None,
    ordinal: int = 1,
) -> Measurement[NamesMeasurement]:
    """What each resolver answered; ``system`` is getaddrinfo's, empty where it failed."""
    failure = None if system else Failure(kind=FailureKind.NAME, operation="resolve", errno="EAI_AGAIN")
    asked = tuple(queries)
    data = NamesMeasurement(
        name=name,
        system=HostLookup(name=name, seconds=seconds, addresses=tuple(system), failure=failure),
        config=ResolverConfig(
            nameservers=asked if nameservers is None else nameservers, search=search, options=options, source="test"
        ),
        resolvers=asked,
        queries=tuple(q for of in queries.values() for q in of),
    )
    return measured("names", Target(host=name), data, ordinal=ordinal)


def samples(fates: Sequence[bool], rtt_s: float = 0.02) -> tuple[RttSample, ...]:
    """One attempt per fate; True is lost."""
    return tuple(
        RttSample(
            sequence=number,
            sent_s=0.2 * number,
            outcome=Outcome.LOST if lost else Outcome.ANSWERED,
            rtt_s=None if lost else rtt_s,
            retransmits=0,
        )
        for number, lost in enumerate(fates)
    )


def sampled(
    fates: Sequence[bool], *, method: str = "tcp", at: Target | None = None, rtt_s: float = 0.02, ordinal: int = 1
) -> Measurement[LatencyMeasurement]:
    where, taken = at or target(), samples(fates, rtt_s)
    data = LatencyMeasurement(
        method=method,
        address=where.address or where.host,
        samples=taken,
        rtt=rtt_summary(taken),
        loss=loss_count(taken),
        timestamp_source=TimestampSource.TCP_INFO,
    )
    return measured(f"latency-{method}", where, data, ordinal=ordinal)


def verdict(
    fates: Sequence[bool], answer: Any, *, question: float = 0.05, method: str = "tcp", at: Target | None = None
) -> Measurement[LossMeasurement]:
    where, taken = at or target(), samples(fates)
    count = loss_count(taken)
    data = LossMeasurement(
        method=method, address=where.address or where.host, samples=taken, loss=count, question=question,
        answer=answer, error=0.01, low=count.low, high=count.high, stop_reason="answered", loss_events=count.lost,
        longest_run=count.longest_run, design_effect=1.0,
    )  # fmt: skip
    return measured(f"loss-{method}", where, data)


def held(retransmits: Sequence[int], *, at: Target | None = None, ordinal: int = 9) -> Measurement[DatabaseMeasurement]:
    where = at or target()
    exchanges = tuple(HeldExchange(at_s=0.1 * n, seconds=0.02, retransmits=r) for n, r in enumerate(retransmits))
    data = DatabaseMeasurement(
        address=where.address or where.host,
        port=where.port or 0,
        credentials=True,
        attempts=(),
        held=HeldSession(seconds=0.1 * len(exchanges), exchanges=exchanges, before=None, after=None),
    )
    return measured("database", where, data, ordinal=ordinal)


def drawn(count: int, rate: float, draw: random.Random) -> list[bool]:
    """Independent losses at a true rate."""
    return [draw.random() < rate for _ in range(count)]


def way(
    delivered: int | None,
    lost: int | None = None,
    *,
    black_hole: bool | None = None,
    method: str | None = "tcp-maxseg",
    signalled: int | None = None,
    by: str | None = None,
    reason: str | None = None,
    partial: str | None = None,
) -> DirectionMtu:
    return DirectionMtu(
        largest_delivered=delivered,
        smallest_lost=lost,
        signalled_mtu=signalled,
        signalled_by=by,
        black_hole=lost is not None if black_hole is None and reason is None else black_hole,
        method=method,
        reason=reason,
        partial=partial,
    )


def sized(
    to_target: DirectionMtu,
    from_target: DirectionMtu,
    *,
    at: Target | None = None,
    datagrams: Sequence[DatagramTrial] = (),
    local_mtu: int = 1500,
    ordinal: int = 1,
) -> Measurement[MtuMeasurement]:
    where = at or target()
    data = MtuMeasurement(
        address=where.address or where.host,
        port=where.port,
        local_mtu=local_mtu,
        to_target=to_target,
        from_target=from_target,
        datagrams=tuple(datagrams),
        segments=(),
    )
    return measured("mtu", where, data, ordinal=ordinal)
