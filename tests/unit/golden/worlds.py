"""Runs and diagnoses for the golden reports: written out by hand, one for each kind of ending."""

from __future__ import annotations

import datetime as dt
from typing import Any

from netdiag.diagnosis.finding import (
    Action,
    Diagnosis,
    Finding,
    FindingRole,
    Horizon,
    NotMeasured,
    RuledOut,
    Section,
    Severity,
    Subject,
    Verdict,
)
from netdiag.evidence import Evidence, Run, Tool
from netdiag.plan.model import Baseline, Endpoint, Impact, Plan, Ticket
from probes.database import DatabaseMeasurement, Phase, PhaseTiming, Waterfall
from probes.exchanges import Certificate, Handshake, HostLookup, ResolverConfig, TimestampSource, TlsSession
from probes.latency import LatencyMeasurement, LossCount, RttSample, RttSummary
from probes.loss import LossMeasurement
from probes.model import Failure, FailureKind, Measurement, MeasurementOutcome, Outcome, Target, Vantage
from probes.mtu import DirectionMtu, MtuMeasurement
from probes.names import DnsQuery, NamesMeasurement
from probes.path import Hop, HopReply, PathMeasurement
from probes.ports import PortAttempt, PortResult, PortsMeasurement, PortState
from probes.stats.intervals import wilson

START = dt.datetime(2024, 1, 26, 9, 0, 0, tzinfo=dt.UTC)
EAST = Target(host="db-east.vantage.example", address="198.18.1.30", port=5433, endpoint="db-east")
WEST = Target(host="db-west.vantage.example", address="198.18.2.30", port=5433, endpoint="db-west")
BALANCER = Target(host="db.vantage.example", address="198.18.1.20", port=5433, endpoint="ysql")

TICKET = Ticket(
    id="CE1006",
    customer="Vantage",
    priority="High",
    status="In Progress",
    created=dt.date(2024, 1, 25),
    escalated=dt.date(2024, 1, 26),
    summary="Intermittent connection timeouts and transaction failures at peak hours.",
    level="Level 2",
    engineer="Senior Network Engineer",
    contact="Infrastructure Lead - Vantage",
    sentiment=("Customer is frustrated with ongoing network issues",),
    current_status=("Network team engaged for routing optimization",),
)

ENDPOINTS = (
    Endpoint(name="ysql", role="load-balancer", region="us-east", host=BALANCER.host, port=5433, database=True),
    Endpoint(name="db-east", role="primary", region="us-east", host=EAST.host, port=5433, database=True),
    Endpoint(name="db-west", role="replica", region="us-west", host=WEST.host, port=5433, database=True),
)
PLAN = Plan(
    endpoints=ENDPOINTS,
    ticket=TICKET,
    impact=Impact(users=20_000, revenue_per_day=100_000, sla=0.999),
    baselines=(Baseline(source="us-east", target="us-west", rtt=0.05, loss=0.001),),
)


def measurement(probe: str, target: Target, data: Any, at_s: float = 0.0, **given: Any) -> Measurement[Any]:
    envelope: dict[str, Any] = {
        "id": f"app-1/{probe}/{target.label()}/1",
        "probe": probe,
        "schema": f"{probe}/1",
        "vantage": "app-1",
        "source": "192.0.2.10",
        "target": target,
        "started": START + dt.timedelta(seconds=at_s),
        "duration_s": 1.0,
        "options": {},
        "timestamp_source": "tcp-info",
        "outcome": MeasurementOutcome.MEASURED,
        "data": data,
    }
    return Measurement(**(envelope | given))


def run(*measurements: Measurement[Any], plan: Plan = PLAN, **given: Any) -> Run:
    whole: dict[str, Any] = {
        "run_id": "0123",
        "tool": Tool(version="0.1.0"),
        "plan": plan,
        "vantage": Vantage(name="app-1", region="us-east"),
        "started": START,
        "finished": START + dt.timedelta(seconds=41),
        "end_reason": "complete",
        "partial": False,
        "privileges": (),
        "evidence": Evidence(measurements),
    }
    return Run(**(whole | given))


# Measurements


def handshake(outcome: Outcome = Outcome.ANSWERED, seconds: float = 0.004) -> Handshake:
    return Handshake(
        outcome=outcome,
        seconds=seconds,
        rtt_s=seconds if outcome is Outcome.ANSWERED else None,
        timestamp_source=TimestampSource.TCP_INFO,
        syn_retransmits=0,
        source_address="192.0.2.10",
        source_port=40000,
    )


def losses(sent: int, lost: int) -> LossCount:
    interval = wilson(lost, sent)
    return LossCount(
        sent=sent,
        lost=lost,
        late=0,
        duplicates=0,
        not_sent=0,
        longest_run=min(lost, 1),
        ratio=lost / sent if sent else None,
        low=interval.low if interval else None,
        high=interval.high if interval else None,
    )


def latency(rtts: list[float | None], method: str = "tcp", spacing_s: float = 0.2) -> LatencyMeasurement:
    clean = sorted(rtt for rtt in rtts if rtt is not None)
    n = len(clean)
    low, mid, high = (clean[0], clean[(n - 1) // 2], clean[-1]) if n else (None, None, None)
    return LatencyMeasurement(
        method=method,
        address="198.18.1.30",
        samples=tuple(
            RttSample(
                sequence=index,
                sent_s=spacing_s * index,
                outcome=Outcome.LOST if rtt is None else Outcome.ANSWERED,
                rtt_s=rtt,
            )
            for index, rtt in enumerate(rtts)
        ),
        rtt=RttSummary(
            n=n,
            minimum_s=low,
            mean_s=mid,
            p50_s=mid,
            p90_s=high,
            p95_s=high,
            p99_s=high,
            maximum_s=high,
            stdev_s=None,
            ipdv_mean_abs_s=None,
        ),
        loss=losses(len(rtts), len(rtts) - n),
        timestamp_source=TimestampSource.TCP_INFO,
    )


def loss(sent: int, lost: int) -> LossMeasurement:
    return LossMeasurement(
        method="tcp",
        address="198.18.1.20",
        samples=tuple(
            RttSample(
                sequence=number,
                sent_s=None,
                outcome=Outcome.LOST if number < lost else Outcome.ANSWERED,
                rtt_s=None,
            )
            for number in range(sent)
        ),
        loss=losses(sent, lost),
        question=0.05,
        answer="above",
        error=0.01,
        low=0.06,
        high=0.15,
        stop_reason="answered",
        loss_events=lost,
        longest_run=1,
        design_effect=1.0,
    )


def waterfall(number: int, failed: Phase | None = None, failure: Failure | None = None, **given: Any) -> Waterfall:
    seconds = dict(zip(Phase, (0.0012, 0.0013, 0.0041, 0.006, 0.002, 0.001, 0.0008), strict=True))
    due = list(Phase) if failed is None else list(Phase)[: list(Phase).index(failed) + 1]
    ending = Outcome.LOST if failed is Phase.TCP else Outcome.FAILED
    told: dict[str, Any] = {
        "attempt": number,
        "started_s": 0.2 * (number - 1),
        "outcome": Outcome.ANSWERED if failed is None else ending,
        "phases": tuple(
            PhaseTiming(phase=p, seconds=seconds[p], outcome=ending if p is failed else Outcome.ANSWERED) for p in due
        ),
        "failed_phase": failed,
        "failure": failure,
        "handshake": handshake(),
    }
    return Waterfall(**(told | given))


CERTIFICATE = Certificate(
    subject="CN=db-east.vantage.example",
    issuer="CN=Vantage CA",
    names=("db-east.vantage.example",),
    not_before="2023-06-01T00:00:00Z",
    not_after="2024-06-01T00:00:00Z",
    self_signed=False,
)
TLS = TlsSession(version="TLSv1.3", cipher="TLS_AES_256_GCM_SHA384", certificate=CERTIFICATE)
TIMEOUT = Failure(kind=FailureKind.TIMEOUT, operation="connect", errno="ETIMEDOUT")


def database(attempts: tuple[Waterfall, ...], target: Target, credentials: bool = True) -> DatabaseMeasurement:
    address, port = target.address or target.host, target.port or 5433
    return DatabaseMeasurement(address=address, port=port, credentials=credentials, attempts=attempts)


def good_attempts(count: int) -> tuple[Waterfall, ...]:
    more = {"ssl_answer": "S", "tls": TLS, "server_version": "11.2-YB-2.20.1.0-b0", "in_hot_standby": False}
    return tuple(waterfall(number, **more) for number in range(1, count + 1))


def query(resolver: str, rcode: str, seconds: float = 0.0021) -> DnsQuery:
    return DnsQuery(
        resolver=resolver,
        record_type="A",
        transport="udp",
        attempt=1,
        seconds=seconds,
        outcome=Outcome.ANSWERED,
        rcode=rcode,
    )


def names(name: str, queries: tuple[DnsQuery, ...], addresses: tuple[str, ...] = ("198.18.2.30",)) -> NamesMeasurement:
    return NamesMeasurement(
        name=name,
        system=HostLookup(name=name, seconds=0.003, addresses=addresses),
        config=ResolverConfig(nameservers=("198.18.1.53",), search=(), options=(), source="/etc/resolv.conf"),
        resolvers=tuple(item.resolver for item in queries),
        queries=queries,
    )


def ports(state: PortState = PortState.OPEN, by: str | None = None) -> PortsMeasurement:
    outcome = Outcome.ANSWERED if state is PortState.OPEN else Outcome.LOST
    count = 1 if state is PortState.OPEN else 4
    return PortsMeasurement(
        address="198.18.1.30",
        ports=(
            PortResult(port=5433, control=False, state=state, attempts=count, answered_by=by),
            PortResult(port=22, control=True, state=PortState.RESET, attempts=1, answered_by="198.18.1.30"),
        ),
        attempts=(
            *(PortAttempt(port=5433, control=False, handshake=handshake(outcome)) for _ in range(count)),
            PortAttempt(port=22, control=True, handshake=handshake(Outcome.REFUSED)),
        ),
    )


def path(reached: bool = True) -> PathMeasurement:
    hops = [Hop(ttl=1, replies=(HopReply(outcome=Outcome.EXPIRED, address="198.18.0.1", rtt_s=0.001),))]
    hops.append(Hop(ttl=2, replies=(HopReply(outcome=Outcome.LOST, address=None, rtt_s=None),)))
    if reached:
        hops.append(Hop(ttl=3, replies=(HopReply(outcome=Outcome.ANSWERED, address="198.18.1.30", rtt_s=0.004),)))
    return PathMeasurement(
        method="tcp",
        address="198.18.1.30",
        port=5433,
        flow="40000 -> 5433",
        hops=tuple(hops),
        reached=reached,
        reached_ttl=3 if reached else None,
        end_reason="reached" if reached else "silent",
    )


def direction(delivered: int | None, lost: int | None, hole: bool | None, reason: str | None = None) -> DirectionMtu:
    return DirectionMtu(
        largest_delivered=delivered,
        smallest_lost=lost,
        signalled_mtu=None,
        signalled_by=None,
        black_hole=hole,
        method="udp-df",
        reason=reason,
    )


def mtu(to: DirectionMtu, back: DirectionMtu) -> MtuMeasurement:
    return MtuMeasurement(
        address="198.18.2.30",
        port=5433,
        local_mtu=1500,
        to_target=to,
        from_target=back,
        datagrams=(),
        segments=(),
    )


# Findings


def finding(code: str, statement: str, evidence: tuple[str, ...], **given: Any) -> Finding:
    told: dict[str, Any] = {
        "id": code,
        "code": code,
        "role": FindingRole.CAUSE,
        "severity": Severity.CRITICAL,
        "confidence": 0.98,
        "section": Section.INFRASTRUCTURE,
        "subject": Subject(endpoint="ysql", address="198.18.1.20", port=5433),
        "statement": statement,
        "evidence": evidence,
        "would_refute": "no loss in 400 more attempts",
    }
    return Finding(**(told | given))


# Worlds


def healthy() -> tuple[Run, Diagnosis]:
    """Ten attempts by TCP, three by the database, all of them good."""
    evidence = (
        measurement("database", EAST, database(good_attempts(3), EAST), 4.0, options={"user": "app"}),
        measurement("latency", EAST, latency([0.004 + 0.0001 * i for i in range(10)])),
        measurement("mtu", EAST, mtu(direction(1500, None, False), direction(1500, None, False)), 6.0),
        measurement("names", EAST, names(EAST.host, (query("198.18.1.53", "NOERROR"),), ("198.18.1.30",)), 1.0),
        measurement("path", EAST, path(), 2.0),
        measurement("ports", EAST, ports(), 3.0),
    )
    excluded = RuledOut(
        code="firewall.drop",
        subject=Subject(endpoint="db-east", address="198.18.1.30", port=5433),
        statement="Firewall drop on 198.18.1.30:5433: the port answered on the first attempt.",
        smallest_fault="a rule that drops every SYN to the port.",
        evidence=("app-1/ports/198.18.1.30:5433/1",),
    )
    diagnosis = Diagnosis(verdict=Verdict.HEALTHY, findings=(), ruled_out=(excluded,), not_measured=())
    return run(*evidence), diagnosis


def critical() -> tuple[Run, Diagnosis]:
    """Loss at the balancer with what follows from it, SERVFAIL, a black hole, and a far region; some unavailable."""
    attempts = tuple(
        waterfall(n, *((Phase.TCP, TIMEOUT) if n % 5 == 0 else ()), ssl_answer=None if n % 5 == 0 else "S")
        for n in range(1, 21)
    )
    silent = direction(None, None, None, "no reply of several segments")
    west_name = Target(host=WEST.host, endpoint="db-west")
    evidence = (
        measurement("database", BALANCER, database(attempts, BALANCER), 4.0, options={"user": "app", "dbname": "y b"}),
        measurement("latency", WEST, latency([0.212, 0.214, None, 0.26])),
        measurement("loss", BALANCER, loss(418, 41), 10.0),
        measurement("loss", EAST, loss(400, 0), 10.0),
        measurement("mtu", WEST, mtu(direction(1388, 1389, True), silent), 20.0),
        measurement("names", west_name, names(WEST.host, (query("198.18.1.53", "SERVFAIL", 0.8),)), 1.0),
        measurement(
            "path", WEST, None, 30.0, outcome=MeasurementOutcome.INTERRUPTED, reason="the run's budget was used up"
        ),
    )
    return run(*evidence, end_reason="budget", partial=True), Diagnosis(
        verdict=Verdict.CRITICAL,
        findings=(_balancer_loss(), _servfail(), _black_hole(), *_consequences(), _note()),
        ruled_out=(
            RuledOut(
                code="db.slow",
                subject=Subject(endpoint="ysql"),
                statement="Database overload: when TCP connects, authentication takes 6 ms (p50).",
                smallest_fault="authentication slower than 100 ms in one attempt of five.",
                evidence=("app-1/database/198.18.1.20:5433/1",),
            ),
        ),
        not_measured=(
            NotMeasured(
                code="link.loss",
                subject=Subject(target="db-west"),
                statement="Reverse path: no reflector at the far end.",
                remedy="Run `netdiag reflect` on db-west to measure it.",
            ),
        ),
    )


def _balancer_loss() -> Finding:
    retry = Action(
        owner="application",
        horizon=Horizon.IMMEDIATE,
        step="Retry connections, 3 attempts with full jitter",
        check="netdiag probe database db.vantage.example:5433",
    )
    fix = Action(
        owner="load balancer",
        horizon=Horizon.SHORT_TERM,
        step="Replace the balancer's uplink",
        check="netdiag probe loss 198.18.1.20:5433",
    )
    return finding(
        "lb.packet-loss",
        "Load balancer 198.18.1.20 loses 9.8% of packets (95% CI 7.3-13%, 41 of 418); its neighbour 198.18.1.30 "
        "loses none of 400, so the loss is at the balancer, not the LAN.",
        ("app-1/loss/198.18.1.20:5433/1", "app-1/loss/198.18.1.30:5433/1"),
        explains=("db.unresponsive", "db.connection-cut"),
        actions=(retry, fix),
    )


def _servfail() -> Finding:
    return finding(
        "dns.servfail",
        "Resolver 198.18.1.53 answers SERVFAIL for db-west.vantage.example (1 of 1).",
        ("app-1/names/db-west.vantage.example/1",),
        confidence=0.97,
        subject=Subject(resolver="198.18.1.53", name="db-west.vantage.example"),
        actions=(
            Action(
                owner="dns",
                horizon=Horizon.IMMEDIATE,
                step="Take 198.18.1.53 out of resolv.conf",
                check="dig @198.18.1.53 db-west.vantage.example",
            ),
        ),
    )


def _black_hole() -> Finding:
    return finding(
        "mtu.black-hole",
        'Black hole above 1,388 bytes us-east -> us-west: no "fragmentation needed" comes back.',
        ("app-1/mtu/198.18.2.30:5433/1",),
        section=Section.CONFIGURATION,
        severity=Severity.WARNING,
        confidence=None,
        subject=Subject(source="us-east", target="us-west", size=1389),
        explains=("db.backup-stall",),
        actions=(
            Action(
                owner="application",
                horizon=Horizon.LONG_TERM,
                step="Retry connections, 3 attempts with full jitter",
                check="netdiag probe database db.vantage.example:5433",
            ),
        ),
    )


def _consequences() -> tuple[Finding, ...]:
    shared: dict[str, Any] = {"role": FindingRole.CONSEQUENCE, "section": Section.DATABASE}
    return (
        finding(
            "db.unresponsive",
            "4 of 20 connection attempts timed out, all in the TCP phase.",
            ("app-1/database/198.18.1.20:5433/1",),
            **shared,
        ),
        finding("db.connection-cut", "Open sessions stall while segments are sent again.", (), **shared),
        finding("db.backup-stall", "Results over 1,336 bytes stall.", ("app-1/mtu/198.18.2.30:5433/1",), **shared),
    )


def _note() -> Finding:
    return finding(
        "region.latency",
        "us-east -> us-west takes 214 ms (p50, n=3), normally 50 ms.",
        ("app-1/latency/198.18.2.30:5433/1",),
        role=FindingRole.NOTE,
        severity=Severity.INFO,
        confidence=0.5,
        section=Section.CONFIGURATION,
        subject=Subject(source="us-east", target="us-west"),
    )


def silent() -> tuple[Run, Diagnosis]:
    """Nothing answered and little could be asked."""
    attempts = tuple(waterfall(n, Phase.TCP, TIMEOUT) for n in range(1, 4))
    unavailable: dict[str, Any] = {"outcome": MeasurementOutcome.UNAVAILABLE, "reason": "no ICMP socket is allowed"}
    evidence = (
        measurement("database", EAST, database(attempts, EAST, credentials=False)),
        measurement("latency", EAST, None, options={"method": "icmp"}, **unavailable),
        measurement("loss", EAST, loss(0, 0)),
        measurement("path", EAST, path(reached=False)),
    )
    gap = NotMeasured(
        code="firewall.drop",
        subject=Subject(endpoint="db-east"),
        statement="Firewall or dead host: no other port of 198.18.1.30 answered either.",
        remedy="Run netdiag on a host of the same network as 198.18.1.30.",
    )
    return run(*evidence), Diagnosis(verdict=Verdict.UNKNOWN, findings=(), ruled_out=(), not_measured=(gap,))


def ticketless() -> tuple[Run, Diagnosis]:
    """A target on the command line, no plan, no measurement made."""
    plan = Plan(endpoints=(Endpoint(name="web", host="web.example", port=443),))
    return run(plan=plan, vantage=Vantage(name="laptop")), Diagnosis(
        verdict=Verdict.UNKNOWN, findings=(), ruled_out=(), not_measured=()
    )


WORLDS = {"healthy": healthy, "critical": critical, "silent": silent, "ticketless": ticketless}
