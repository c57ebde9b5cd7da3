"""Builders of measurements, plans and cases for the tests of rules: a healthy world, broken one thing at a time."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from netdiag.diagnosis.finding import Finding, Judgement, NotMeasured, RuledOut
from netdiag.diagnosis.rule import Case, Rule
from netdiag.evidence import Evidence
from netdiag.plan.model import Credentials, Endpoint, Plan
from probes.database import DatabaseMeasurement, Phase, PhaseTiming, Waterfall
from probes.exchanges import Certificate, Handshake, HostLookup, ResolverConfig, TcpInfo, TimestampSource, TlsSession
from probes.latency import LatencyMeasurement, LossCount, RttSample, RttSummary
from probes.model import Failure, FailureKind, IcmpError, Measurement, MeasurementOutcome, Outcome, Target
from probes.mtu import DirectionMtu, MtuMeasurement
from probes.names import DnsQuery, NamesMeasurement
from probes.path import Hop, HopReply, PathMeasurement
from probes.ports import PortAttempt, PortResult, PortsMeasurement, PortState

STARTED = datetime(2024, 1, 25, 3, 0, 0, tzinfo=UTC)
SOURCE = "192.0.2.1"
PHASES = tuple(Phase)


def measured(probe: str, target: Target, data: Any, *, ordinal: int = 1, **options: Any) -> Measurement[Any]:
    """An envelope round ``data``; ``data`` None is a probe that was unavailable."""
    return Measurement(
        id=f"test/{probe}/{target.endpoint or target.host}/{target.label()}/{ordinal}",
        probe=probe,
        schema=f"{probe}/1",
        vantage="test",
        source=SOURCE,
        target=target,
        started=STARTED,
        duration_s=0.5,
        options=options,
        timestamp_source="tcp-info",
        outcome=MeasurementOutcome.UNAVAILABLE if data is None else MeasurementOutcome.MEASURED,
        reason="not permitted" if data is None else None,
        data=data,
    )


def endpoint(host: str = "db.example", port: int | None = 5432, **more: Any) -> Endpoint:
    """A database endpoint called ``ysql`` with a user, unless told otherwise."""
    given: dict[str, Any] = {
        "name": "ysql",
        "role": "database",
        "database": True,
        "credentials": Credentials(user="app"),
    }
    return Endpoint(host=host, port=port, **(given | more))


def target(address: str = "198.51.100.7", *, of: Endpoint | None = None, port: int | None = None) -> Target:
    place = of or endpoint()
    return Target(host=place.host, address=address, port=port or place.port, endpoint=place.name)


def case(*measurements: Measurement[Any], endpoints: Sequence[Endpoint] | None = None, **plan: Any) -> Case:
    """A case of these measurements, in whatever order they are given."""
    return Case(plan=Plan(endpoints=tuple(endpoints or (endpoint(),)), **plan), evidence=Evidence(measurements))


# Handshakes


def connected(rtt_s: float = 0.01, *, retransmits: int = 0, info: TcpInfo | None = None) -> Handshake:
    return Handshake(
        outcome=Outcome.ANSWERED,
        seconds=rtt_s + retransmits,
        rtt_s=None if retransmits else rtt_s,
        timestamp_source=TimestampSource.TCP_INFO,
        syn_retransmits=retransmits,
        source_address=SOURCE,
        source_port=40000,
        info=info,
    )


def unconnected(
    outcome: Outcome, *, icmp: IcmpError | None = None, errno: str | None = None, syns: int = 1
) -> Handshake:
    """A connection attempt that failed: LOST, REFUSED, REJECTED, UNREACHABLE, NOT_SENT."""
    kinds = {
        Outcome.LOST: FailureKind.TIMEOUT,
        Outcome.REFUSED: FailureKind.REFUSED,
        Outcome.REJECTED: FailureKind.REJECTED,
        Outcome.UNREACHABLE: FailureKind.UNREACHABLE,
        Outcome.EXPIRED: FailureKind.EXPIRED,
        Outcome.NOT_SENT: FailureKind.LOCAL,
    }
    return Handshake(
        outcome=outcome,
        seconds=1.5 if outcome is Outcome.LOST else 0.01,
        rtt_s=None,
        timestamp_source=TimestampSource.USER,
        syn_retransmits=syns - 1,
        source_address=SOURCE,
        source_port=40000,
        failure=Failure(kind=kinds[outcome], operation="connect", errno=errno, icmp=icmp),
    )


def prohibited(offender: str | None, *, code: int = 13, family: int = 4) -> IcmpError:
    """ICMP 3/13 communication administratively prohibited (IPv6: 1/1)."""
    return IcmpError(family=family, type=3 if family == 4 else 1, code=code, offender=offender)


def tcp_info(**given: Any) -> TcpInfo:
    healthy: dict[str, Any] = {
        "state": 1, "rtt_s": 0.01, "rttvar_s": 0.001, "min_rtt_s": 0.01, "rto_s": 0.21, "snd_mss": 1448, "rcv_mss": 536,
        "advmss": 1448, "pmtu": 1500, "unacked": 0, "backoff": 0, "total_retrans": 0, "bytes_acked": 9,
        "bytes_received": 0, "bytes_retrans": 0, "data_segs_in": 0, "data_segs_out": 1, "rcv_ooopack": 0,
        "total_rto": 0, "notsent_bytes": 0,
    }  # fmt: skip
    return TcpInfo(**(healthy | given))


# Ports

_STATES = {
    Outcome.ANSWERED: PortState.OPEN,
    Outcome.REFUSED: PortState.RESET,
    Outcome.REJECTED: PortState.REJECTED,
    Outcome.UNREACHABLE: PortState.UNREACHABLE,
    Outcome.EXPIRED: PortState.UNREACHABLE,
    Outcome.LOST: PortState.SILENT,
    Outcome.NOT_SENT: PortState.NOT_SENT,
}


def ports(
    service: Sequence[Handshake],
    controls: Mapping[int, Sequence[Handshake]] | None = None,
    *,
    at: Target | None = None,
    ordinal: int = 1,
) -> Measurement[PortsMeasurement]:
    """The service port's attempts, and those of control ports by number. A port's state is its last attempt's."""
    where = at or target()
    asked = [(where.port or 0, False, service), *((port, True, tries) for port, tries in (controls or {}).items())]
    data = PortsMeasurement(
        address=where.address or where.host,
        ports=tuple(_port_result(port, control, tries) for port, control, tries in asked),
        attempts=tuple(PortAttempt(port=p, control=c, handshake=h) for p, c, tries in asked for h in tries),
    )
    return measured("ports", where, data, ordinal=ordinal)


def _port_result(port: int, control: bool, tries: Sequence[Handshake]) -> PortResult:
    last = tries[-1]
    icmp = last.failure.icmp if last.failure else None
    return PortResult(
        port=port,
        control=control,
        state=_STATES[last.outcome],
        attempts=len(tries),
        answered_by=icmp.offender if icmp else None,
    )


# Database


def waterfall(
    *,
    failed: Phase | None = None,
    kind: FailureKind = FailureKind.TIMEOUT,
    last: Phase = Phase.SECOND_QUERY,
    attempt: int = 1,
    phase_s: float = 0.002,
    sqlstate: str | None = None,
    detail: str | None = None,
    handshake: Handshake | None = None,
    **more: Any,
) -> Waterfall:
    """One attempt that passed every phase up to ``last``, or broke in ``failed`` for the reason of ``kind``."""
    passed = PHASES[: PHASES.index(failed)] if failed else PHASES[: PHASES.index(last) + 1]
    timings = [PhaseTiming(phase=phase, seconds=phase_s, outcome=Outcome.ANSWERED) for phase in passed]
    outcome = Outcome.ANSWERED
    failure = None
    if failed:
        outcome = Outcome.LOST if kind is FailureKind.TIMEOUT else Outcome.FAILED
        timings.append(PhaseTiming(phase=failed, seconds=phase_s, outcome=outcome))
        failure = Failure(kind=kind, operation=str(failed), sqlstate=sqlstate, detail=detail)
    given: dict[str, Any] = {"ssl_answer": "N" if Phase.SSL_REQUEST in passed else None}
    return Waterfall(
        attempt=attempt,
        started_s=0.2 * attempt,
        outcome=outcome,
        phases=tuple(timings),
        failed_phase=failed,
        failure=failure,
        handshake=handshake or connected(),
        **(given | more),
    )


def unconnected_waterfall(handshake: Handshake, *, attempt: int = 1) -> Waterfall:
    """An attempt that ended in the TCP phase, as ``handshake`` says."""
    return Waterfall(
        attempt=attempt,
        started_s=0.2 * attempt,
        outcome=handshake.outcome,
        phases=(PhaseTiming(phase=Phase.TCP, seconds=handshake.seconds, outcome=handshake.outcome),),
        failed_phase=Phase.TCP,
        failure=handshake.failure,
        handshake=handshake,
    )


def database(
    attempts: Iterable[Waterfall],
    *,
    at: Target | None = None,
    credentials: bool = True,
    ordinal: int = 1,
    **options: Any,
) -> Measurement[DatabaseMeasurement]:
    where = at or target()
    data = DatabaseMeasurement(
        address=where.address or where.host, port=where.port or 0, credentials=credentials, attempts=tuple(attempts)
    )
    return measured("database", where, data, ordinal=ordinal, **options)


def certificate(**given: Any) -> Certificate:
    healthy: dict[str, Any] = {
        "subject": "CN=db.example", "issuer": "CN=Example CA", "names": ("db.example",),
        "not_before": "2023-01-01T00:00:00Z", "not_after": "2025-01-01T00:00:00Z", "self_signed": False,
    }  # fmt: skip
    return Certificate(**(healthy | given))


def tls(given: Certificate | None = None) -> TlsSession:
    return TlsSession(version="TLSv1.3", cipher="TLS_AES_256_GCM_SHA384", certificate=given or certificate())


# Latency


def latency(
    rtts: Sequence[float | None],
    *,
    method: str = "tcp",
    at: Target | None = None,
    lost: Outcome = Outcome.LOST,
    ordinal: int = 1,
) -> Measurement[LatencyMeasurement]:
    """One sample per entry: seconds, or None for an attempt that ended as ``lost`` says."""
    where = at or target()
    samples = tuple(
        RttSample(
            sequence=number,
            sent_s=0.2 * number,
            outcome=lost if rtt is None else Outcome.ANSWERED,
            rtt_s=rtt,
            retransmits=(None if rtt is None else 0) if method == "tcp" else None,
        )
        for number, rtt in enumerate(rtts)
    )
    data = LatencyMeasurement(
        method=method,
        address=where.address or where.host,
        samples=samples,
        rtt=rtt_summary([rtt for rtt in rtts if rtt is not None]),
        loss=loss_count(len(rtts), sum(rtt is None for rtt in rtts)),
        timestamp_source=TimestampSource.TCP_INFO,
    )
    return measured("latency", where, data, ordinal=ordinal, method=method)


def rtt_summary(rtts: Sequence[float]) -> RttSummary:
    """Nearest-rank percentiles, straight from the definition."""
    ordered = sorted(rtts)
    n = len(ordered)

    def rank(share: float) -> float | None:
        return ordered[max(0, -int(-share * n // 1) - 1)] if n else None

    mean = sum(ordered) / n if n else None
    return RttSummary(
        n=n, minimum_s=rank(0), mean_s=mean, p50_s=rank(0.5), p90_s=rank(0.9), p95_s=rank(0.95), p99_s=rank(0.99),
        maximum_s=rank(1), stdev_s=None, ipdv_mean_abs_s=None,
    )  # fmt: skip


def loss_count(sent: int, lost: int, *, low: float | None = None, high: float | None = None) -> LossCount:
    """``low``/``high``: the interval a test wants; None leaves it out."""
    return LossCount(
        sent=sent, lost=lost, late=0, duplicates=0, not_sent=0, longest_run=lost,
        ratio=lost / sent if sent else None, low=low, high=high,
    )  # fmt: skip


# Path, MTU, names


def path(
    hops: Sequence[str | None],
    *,
    end: Outcome | None = None,
    at: Target | None = None,
    ordinal: int = 1,
) -> Measurement[PathMeasurement]:
    """Routers by TTL from 1 on (None: silent). ``end``: how the target answered at the TTL after them, if it did."""
    where = at or target()
    replies = [
        HopReply(outcome=Outcome.EXPIRED if a else Outcome.LOST, address=a, rtt_s=0.001 if a else None) for a in hops
    ]
    if end is not None:
        replies.append(HopReply(outcome=end, address=where.address, rtt_s=0.002))
    data = PathMeasurement(
        method="tcp",
        address=where.address or where.host,
        port=where.port,
        flow=None,
        hops=tuple(Hop(ttl=ttl, replies=(reply,)) for ttl, reply in enumerate(replies, start=1)),
        reached=end is not None,
        reached_ttl=len(replies) if end is not None else None,
        end_reason="reached" if end is not None else "silent",
    )
    return measured("path", where, data, ordinal=ordinal)


def direction(
    *, delivered: int | None = 1500, lost: int | None = None, black_hole: bool | None = False
) -> DirectionMtu:
    return DirectionMtu(
        largest_delivered=delivered,
        smallest_lost=lost,
        signalled_mtu=None,
        signalled_by=None,
        black_hole=black_hole,
        method="tcp-maxseg",
    )


def mtu(
    *,
    to_target: DirectionMtu | None = None,
    from_target: DirectionMtu | None = None,
    at: Target | None = None,
    ordinal: int = 1,
) -> Measurement[MtuMeasurement]:
    where = at or target()
    data = MtuMeasurement(
        address=where.address or where.host,
        port=where.port,
        local_mtu=1500,
        to_target=to_target or direction(),
        from_target=from_target or direction(),
        datagrams=(),
        segments=(),
    )
    return measured("mtu", where, data, ordinal=ordinal)


def names(
    name: str = "db.example",
    addresses: Sequence[str] = ("198.51.100.7",),
    *,
    queries: Sequence[DnsQuery] = (),
    resolvers: Sequence[str] = ("192.0.2.53",),
    failure: Failure | None = None,
    seconds: float = 0.002,
    ordinal: int = 1,
) -> Measurement[NamesMeasurement]:
    data = NamesMeasurement(
        name=name,
        system=HostLookup(name=name, seconds=seconds, addresses=tuple(addresses), failure=failure),
        config=ResolverConfig(nameservers=tuple(resolvers), search=(), options=(), source="/etc/resolv.conf"),
        resolvers=tuple(resolvers),
        queries=tuple(queries),
    )
    return measured("names", Target(host=name), data, ordinal=ordinal)


# What every rule must keep to


def judged(rule: Rule, world: Case) -> list[Judgement]:
    return list(rule.judge(world))


def key(judgement: Judgement) -> tuple[str, str]:
    return judgement.code, repr(judgement.subject)


def assert_one_each(rule: Rule, world: Case) -> None:
    """Exactly one judgement per subject, all of them of the rule's own code."""
    keys = [key(judgement) for judgement in judged(rule, world)]
    assert len(keys) == len(set(keys))
    assert {code for code, _ in keys} <= {rule.code}


def assert_deterministic(rule: Rule, world: Case, seed: int) -> None:
    """The order in which measurements came to be changes nothing."""
    shuffled = list(world.evidence)
    random.Random(seed).shuffle(shuffled)
    assert judged(rule, Case(plan=world.plan, evidence=Evidence(tuple(shuffled)))) == judged(rule, world)


def assert_evidence_carries(rule: Rule, world: Case) -> None:
    """Every Finding and RuledOut cites measurements that exist, and without them the question is open again."""
    by_id = {measurement.id: measurement for measurement in world.evidence}
    for judgement in judged(rule, world):
        if isinstance(judgement, NotMeasured):
            continue
        assert judgement.evidence
        assert set(judgement.evidence) <= by_id.keys()
        rest = Evidence(tuple(m for m in world.evidence if m.id not in judgement.evidence))
        assert_reopened(judgement, judged(rule, Case(plan=world.plan, evidence=rest)))


def assert_reopened(before: Finding | RuledOut, after: Sequence[Judgement]) -> None:
    same_endpoint = [j for j in after if j.subject.endpoint == before.subject.endpoint and j.code == before.code]
    at_address = [j for j in same_endpoint if j.subject.address in (before.subject.address, None)]
    assert at_address, f"nothing is said of {before.code} at {before.subject} any more"
    assert all(isinstance(judgement, NotMeasured) for judgement in at_address), at_address
