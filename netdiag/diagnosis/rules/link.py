"""Delay and loss between this vantage and an address: region.latency and link.loss.

What both rest on
1. TCP to the service port decides; ICMP is used where TCP has too little, and its silence is never evidence.
2. Delay: the minimum tells a longer way from a queue. A route adds to every packet, a queue to some.
3. Loss: only packets that were sent count; a path on which nothing at all answers is blocked, not lossy.
4. Losses in runs carry less weight than their number (design effect), so the interval shown is the wider one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from netdiag.diagnosis.finding import (
    Action,
    Finding,
    FindingRole,
    Horizon,
    Judgement,
    NotMeasured,
    RuledOut,
    Section,
    Severity,
    Subject,
)
from netdiag.diagnosis.rule import Case, Rule
from netdiag.diagnosis.rules.flows import Flows, bound_to_flows
from netdiag.diagnosis.rules.paths import Path, Sampled, paths, probe_command, sampled
from netdiag.diagnosis.rules.subjects import finding_id, ids, milliseconds, percent
from netdiag.diagnosis.thresholds import (
    BESIDE_PACKETS,
    BURST,
    FIBRE_KM_PER_RTT_S,
    LEVEL,
    LIKELY,
    LINK_LOSS,
    LINK_LOSS_CRITICAL,
    LINK_LOSS_CRITICAL_LOW,
    LINK_LOSS_PACKETS,
    LINK_LOSS_PACKETS_LOST,
    LOSS_SURE,
    LOSS_SURE_PACKETS,
    POSSIBLE,
    RTT_CRITICAL_FACTOR,
    RTT_FACTOR,
    RTT_MARGIN_S,
    RTT_SAMPLES,
    RTT_STEADY_SPREAD,
    RTT_TAIL_SAMPLES,
    RTT_TAIL_SHARE,
)
from netdiag.plan.model import Baseline, Endpoint
from probes.database import DatabaseMeasurement, HeldSession
from probes.loss import LossMeasurement
from probes.model import Measurement, Outcome, value
from probes.mtu import MtuMeasurement
from probes.sampling import packet_fates
from probes.stats.bursts import design_effect
from probes.stats.intervals import wilson
from probes.stats.summaries import nearest_rank

LATENCY, LOSS = "region.latency", "link.loss"
ARRIVED = frozenset({Outcome.ANSWERED, Outcome.LATE, Outcome.REFUSED})


def baseline_of(case: Case, endpoint: Endpoint) -> Baseline | None:
    """The plan's baseline from here to an endpoint, names before regions."""
    sources = [case.plan.vantage.name, *sorted({m.vantage for m in case.evidence}), case.plan.vantage.region]
    wanted = [(source, target) for source in sources for target in (endpoint.name, endpoint.region)]
    known: dict[tuple[str | None, str | None], Baseline] = {(b.source, b.target): b for b in case.plan.baselines}
    return next((known[pair] for pair in wanted if pair in known), None)


# region.latency


@value
class Delays:
    """Clean round-trip times in seconds, sorted; at least RTT_SAMPLES of them."""

    method: str
    rtts: tuple[float, ...]
    echoes: tuple[float, ...]  # ICMP beside TCP, where there is both
    lost: bool  # packets of the same measurements: a queue that is always full drops, and a route does not
    evidence: tuple[str, ...]

    @property
    def minimum(self) -> float:
        return self.rtts[0]

    def is_floor(self, rise: float) -> bool:
        """No jitter, and TCP and ICMP agree about the minimum: what a route does to the RTT, within a share of
        ``rise``, seconds."""
        within = RTT_STEADY_SPREAD * rise
        agreed = not self.echoes or abs(self.echoes[0] - self.minimum) < within
        return agreed and self.percentile(90) - self.minimum < within

    def percentile(self, rank: float) -> float:
        return nearest_rank(self.rtts, rank) or self.rtts[-1]

    @property
    def shown(self) -> str:
        kind = "TCP handshakes" if self.method == "tcp" else "ICMP echoes"
        figures = [("minimum", self.minimum), ("p50", self.percentile(50)), ("p95", self.percentile(95))]
        shown = ", ".join(f"{name} {milliseconds(s)}" for name, s in figures) + f" of {len(self.rtts)} {kind}"
        if not self.echoes:
            return shown
        return f"{shown} (ICMP echo: minimum {milliseconds(self.echoes[0])} of {len(self.echoes)})"


def judge_latency(case: Case) -> Iterator[Judgement]:
    without_baseline: dict[str, Endpoint] = {}
    for path in paths(case):
        baseline = baseline_of(case, path.endpoint)
        if baseline is not None and baseline.rtt is not None:
            yield _latency(case, path, baseline, baseline.rtt)
        elif not path.is_loopback and not _same_region(case, path.endpoint):
            without_baseline[path.endpoint.name] = path.endpoint
    for endpoint in without_baseline.values():
        yield _no_baseline(case, endpoint)


def _same_region(case: Case, endpoint: Endpoint) -> bool:
    return endpoint.region is not None and endpoint.region == case.plan.vantage.region


def _no_baseline(case: Case, endpoint: Endpoint) -> NotMeasured:
    return NotMeasured(
        code=LATENCY,
        subject=Subject(source=case.plan.vantage.region, target=endpoint.region, endpoint=endpoint.name),
        statement=f"Whether the RTT to {endpoint.name} is normal: no baseline is known, and an RTT alone says nothing.",
        remedy="Declare a [[baseline]] with rtt in the plan, or give a run from good times: --against RUN.json.",
    )


def delay_limit(rtt: float) -> float:
    """From where a round trip is longer than ``rtt``, seconds: a baseline, or a path's own floor."""
    return max(RTT_FACTOR * rtt, rtt + RTT_MARGIN_S)


def _latency(case: Case, path: Path, baseline: Baseline, normal: float) -> Judgement:
    subject = replace(path.subject, source=baseline.source, target=baseline.target)
    delays = _delays(case, path)
    if delays is None:
        return NotMeasured(
            code=LATENCY,
            subject=subject,
            statement=f"RTT to {path.label} against its baseline of {milliseconds(normal)}: "
            f"fewer than {RTT_SAMPLES} clean round trips were measured.",
            remedy=f"Let the port answer, then: {probe_command('latency', path)}",
        )
    limit = delay_limit(normal)
    if delays.minimum > limit:
        return _longer(path, subject, delays, normal, limit)
    if delays.percentile(50) > limit or _heavy_tail(delays, limit):
        return _queueing(path, subject, delays, normal, limit)
    return RuledOut(
        code=LATENCY,
        subject=subject,
        statement=f"RTT to {path.label}: {delays.shown}; baseline {milliseconds(normal)}.",
        smallest_fault=f"a longer route that lifts the minimum RTT above {milliseconds(limit)}.",
        evidence=delays.evidence,
    )


def _delays(case: Case, path: Path) -> Delays | None:
    measured = {method: sampled(case, path, method) for method in ("tcp", "icmp")}
    rtts = {method: _rtts(of) for method, of in measured.items()}
    method = next((method for method, found in rtts.items() if len(found) >= RTT_SAMPLES), None)
    if method is None:
        return None
    return Delays(
        method=method,
        rtts=rtts[method],
        echoes=rtts["icmp"] if method == "tcp" else (),
        lost=any(_loses(of) for of in measured.values()),
        evidence=ids(m for kind, of in measured.items() if rtts[kind] for m in of),
    )


def _loses(measured: Iterable[Sampled]) -> bool:
    return any(m.data is not None and m.data.loss.lost > 0 for m in measured)


def _rtts(measured: Iterable[Sampled]) -> tuple[float, ...]:
    samples = (s for m in measured if m.data for s in m.data.samples)
    return tuple(sorted(s.rtt_s for s in samples if s.rtt_s is not None and s.outcome in ARRIVED))


def _heavy_tail(delays: Delays, limit: float) -> bool:
    above = sum(rtt > limit for rtt in delays.rtts)
    share = wilson(above, len(delays.rtts), LEVEL)
    return above >= RTT_TAIL_SAMPLES and share is not None and share.low > RTT_TAIL_SHARE


def _longer(path: Path, subject: Subject, delays: Delays, normal: float, limit: float) -> Finding:
    rise = delays.minimum - normal
    steady = delays.is_floor(rise)
    doubt = "packets are lost" if steady else "the spread is large"
    reading = (
        "a step without jitter: a longer route or detour, not a queue"
        if steady and not delays.lost
        else f"a longer route or detour; as {doubt} too, a queue that never drained is not excluded"
    )
    return _latency_finding(
        path,
        subject,
        delays,
        statement=f"RTT {_way(subject, path)}: {delays.shown}; baseline {milliseconds(normal)}. The minimum itself is "
        f"up by {milliseconds(rise)} ({rise * FIBRE_KM_PER_RTT_S:,.0f} km of fibre): {reading}.",
        critical=delays.minimum >= RTT_CRITICAL_FACTOR * normal,
        confidence=LIKELY if steady and not delays.lost else POSSIBLE,
        would_refute=f"A minimum RTT of {milliseconds(limit)} or less over the same path.",
        step="Ask the carrier which route the prefix takes and since when; compare its AS path with the baseline's.",
    )


def _queueing(path: Path, subject: Subject, delays: Delays, normal: float, limit: float) -> Finding:
    median = delays.percentile(50)
    above = sum(rtt > limit for rtt in delays.rtts)
    return _latency_finding(
        path,
        subject,
        delays,
        statement=f"RTT {_way(subject, path)}: {delays.shown}; baseline {milliseconds(normal)}. {above} of "
        f"{len(delays.rtts)} are above {milliseconds(limit)} while the minimum is not: packets wait in a queue, "
        "the route is no longer than it was.",
        critical=median >= RTT_CRITICAL_FACTOR * normal,
        confidence=LIKELY if median > limit else POSSIBLE,
        would_refute=f"A median RTT of {milliseconds(limit)} or less at the same hour and load.",
        step="Look for the saturated link or shaper on the way at these hours; compare with an hour off peak.",
    )


def _way(subject: Subject, path: Path) -> str:
    return f"{subject.source} -> {subject.target} ({path.label})"


def _latency_finding(
    path: Path,
    subject: Subject,
    delays: Delays,
    *,
    statement: str,
    critical: bool,
    confidence: float,
    would_refute: str,
    step: str,
) -> Finding:
    check = probe_command("latency", path)
    return Finding(
        id=finding_id(LATENCY, subject),
        code=LATENCY,
        role=FindingRole.CAUSE,
        severity=Severity.CRITICAL if critical else Severity.WARNING,
        confidence=confidence,
        section=Section.INFRASTRUCTURE,
        subject=subject,
        statement=statement,
        evidence=delays.evidence,
        would_refute=would_refute,
        actions=(
            Action(owner="network", horizon=Horizon.SHORT_TERM, step=step, check=check),
            Action(
                owner="application",
                horizon=Horizon.SHORT_TERM,
                step="Allow for the measured RTT until then: a connect takes some seven round trips; pool connections.",
                check=check,
            ),
        ),
    )


# link.loss


@value
class Loss:
    """Packets of one method to one address, pooled. ``low``/``high`` allow for runs of losses."""

    sent: int
    lost: int
    low: float
    high: float
    longest: int
    design: float  # packets that weigh as much as one independent packet
    answered: bool  # something came back
    answer: str | None  # of the sequential verdict, "above" before "undecided" before "below"
    question: float | None
    evidence: tuple[str, ...]

    @property
    def ratio(self) -> float:
        return self.lost / self.sent

    @property
    def bursty(self) -> bool:
        return self.design > 1.0 and self.lost > 0

    @property
    def weight(self) -> tuple[int, int]:
        """Lost and sent as independent packets."""
        return round(self.lost / self.design), round(self.sent / self.design)

    @property
    def shown(self) -> str:
        runs = ", runs of losses allowed for" if self.bursty else ""
        interval = f"{LEVEL:.0%} CI {percent(self.low).rstrip('%')}-{percent(self.high)}"
        return f"{percent(self.ratio)} ({interval}{runs}; {self.lost} of {self.sent})"


@value
class LargeLoss:
    """Large packets of one direction are lost where small ones arrive, at random: no limit of size."""

    direction: str  # "to-target" | "from-target"
    seen: str
    stalls: bool  # a whole transfer stood still
    measurement: str


@value
class Held:
    """A live session's packets: each exchange once, and each retransmission as the loss of the one before it."""

    fates: tuple[bool, ...]
    answered: bool


def judge_loss(case: Case) -> Iterator[Judgement]:
    found = [(path, pooled_loss(case, path, "tcp"), pooled_loss(case, path, "icmp")) for path in paths(case)]
    losing = {path.address for path, tcp, _ in found if tcp and loss_fires(tcp, loss_limit(case, path))}
    quiet = {path.address for path, tcp, icmp in found if _arrives(tcp, icmp)} - losing
    for path, tcp, icmp in found:
        large = large_loss(case, path)
        flows = bound_to_flows(sampled(case, path, "tcp"))
        if flows is not None and tcp is not None and loss_fires(tcp, loss_limit(case, path)):
            yield _flow_finding(path, flows, tcp, icmp)
            continue
        yield _loss(path, tcp, icmp, loss_limit(case, path), _place(path, losing, quiet), large)


def _arrives(tcp: Loss | None, icmp: Loss | None) -> bool:
    """TCP to there is answered; or every echo of many is, where a filter leaves TCP no answer to give."""
    return bool(tcp and tcp.answered) or bool(icmp and not icmp.lost and icmp.sent >= BESIDE_PACKETS)


def large_loss(case: Case, path: Path) -> LargeLoss | None:
    """The first of the path's size measurements, by id, that saw it; the way to the target before the way back."""
    measured = case.evidence.of(MtuMeasurement, address=path.address, port=path.port) if path.address else ()
    for m in measured:
        for direction, known in (
            (("to-target", m.data.to_target), ("from-target", m.data.from_target)) if m.data else ()
        ):
            if known.partial and not known.black_hole:
                stalls = any(t.direction == direction and not t.delivered for t in m.data.segments) if m.data else False
                return LargeLoss(direction=direction, seen=known.partial, stalls=stalls, measurement=m.id)
    return None


def loss_limit(case: Case, path: Path) -> float:
    """Loss that is allowed on the path: the baseline's, or LINK_LOSS."""
    baseline = baseline_of(case, path.endpoint)
    return max(LINK_LOSS, baseline.loss if baseline and baseline.loss is not None else 0.0)


def pooled_loss(case: Case, path: Path, method: str) -> Loss | None:
    """Every packet of one method to the path's address; None where no packet's fate is known."""
    measured = sampled(case, path, method)
    counts = [m.data.loss for m in measured if m.data]
    held = _held(case, path) if method == "tcp" else ()
    sessions = [_held_packets(session) for _, session in held]
    fates = [packet_fates(m.data.samples) for m in measured if m.data] + [session.fates for session in sessions]
    sent = sum(count.sent for count in counts) + sum(len(session.fates) for session in sessions)
    lost = sum(count.lost for count in counts) + sum(sum(session.fates) for session in sessions)
    design = design_effect([fate for run in fates for fate in run])
    interval = wilson(round(lost / design), round(sent / design), LEVEL)
    if interval is None:
        return None
    verdict = _verdict(measured)
    return Loss(
        sent=sent,
        lost=lost,
        low=interval.low,
        high=interval.high,
        longest=max([count.longest_run for count in counts] + [0]),
        design=design,
        answered=any(session.answered for session in sessions) or _anything_came_back(measured),
        answer=str(verdict.answer) if verdict else None,
        question=verdict.ratio_answered if verdict else None,
        evidence=ids([*measured, *(m for m, _ in held)]),
    )


def _anything_came_back(measured: Iterable[Sampled]) -> bool:
    return any(s.outcome in ARRIVED for m in measured for s in getattr(m.data, "samples", ()))


def _verdict(measured: Iterable[Sampled]) -> LossMeasurement | None:
    verdicts = [m.data for m in measured if isinstance(m.data, LossMeasurement)]
    return min(verdicts, key=lambda v: ("above", "undecided", "below").index(str(v.answer)), default=None)


def _held(case: Case, path: Path) -> tuple[tuple[Measurement[DatabaseMeasurement], HeldSession], ...]:
    if path.address is None:
        return ()
    found = case.evidence.of(DatabaseMeasurement, address=path.address, port=path.port)
    return tuple((m, m.data.held) for m in found if m.data and m.data.held and m.data.held.exchanges)


def _held_packets(session: HeldSession) -> Held:
    settled = [exchange for exchange in session.exchanges if exchange.seconds is not None]
    fates = tuple(fate for exchange in settled for fate in (*(True,) * exchange.retransmits, False))
    return Held(fates=fates, answered=bool(settled))


def loss_fires(loss: Loss, limit: float) -> bool:
    """More than ``limit`` is lost, beyond an accident."""
    if not loss.answered or loss.lost < LINK_LOSS_PACKETS_LOST:
        return False
    return loss.low > limit or (loss.answer == "above" and (loss.question or 0.0) >= limit)


def _place(path: Path, losing: set[str | None], quiet: set[str | None]) -> str:
    if len(losing) > 1:
        share = "all addresses measured" if not quiet else f"{len(losing)} of {len(losing) + len(quiet)} addresses"
        return f" It is shared by {share}: look at the part of the way that they have in common."
    if quiet:
        others = "address" if len(quiet) == 1 else "addresses"
        return f" The {len(quiet)} other {others} measured stay below the limit: it is at or near {path.address}."
    return ""


def _loss(
    path: Path, tcp: Loss | None, icmp: Loss | None, limit: float, place: str, large: LargeLoss | None
) -> Judgement:
    if tcp is not None and loss_fires(tcp, limit):
        return _loss_finding(path, tcp, icmp, limit, place)
    if large is not None:
        return _large_loss_finding(path, large, tcp, icmp)
    basis = quiet_basis(tcp, icmp, limit)
    if basis is None:
        return _loss_open(path, tcp, icmp, limit)
    kind = "TCP" if basis is tcp else "ICMP echo"
    return RuledOut(
        code=LOSS,
        subject=path.subject,
        statement=f"{kind} packets to {path.label}: {basis.lost} of {basis.sent} lost."
        f"{_echo_note(icmp, limit) if basis is tcp else ''}",
        smallest_fault=f"loss of more than {percent(basis.high)} "
        f"({LEVEL:.0%} upper bound of {basis.lost} of {basis.sent}).",
        evidence=ids_of(basis, icmp),
    )


def _echo_note(icmp: Loss | None, limit: float) -> str:
    if icmp is None or icmp.low <= limit:
        return _echo(icmp, only_tcp=False)
    return f" ICMP echo loses {icmp.lost} of {icmp.sent} there: rate limited or filtered, as TCP is not affected."


def ids_of(*losses: Loss | None) -> tuple[str, ...]:
    return tuple(sorted({id_ for loss in losses if loss for id_ in loss.evidence}))


def quiet_basis(tcp: Loss | None, icmp: Loss | None, limit: float) -> Loss | None:
    """What speaks against loss: TCP that arrives; else echoes, all of which came back."""
    if tcp is not None and tcp.answered and tcp.sent >= LINK_LOSS_PACKETS:
        if _echoes_outweigh(tcp, icmp, limit):
            return None
        return tcp if tcp.ratio <= limit or tcp.answer == "below" else None
    clean = icmp is not None and icmp.lost == 0 and icmp.sent >= LINK_LOSS_PACKETS and not (tcp and tcp.lost)
    return icmp if clean else None


def _echoes_outweigh(tcp: Loss, icmp: Loss | None, limit: float) -> bool:
    """Echoes are lost, and TCP's packets are too few to say that it is better off."""
    return icmp is not None and icmp.low > limit and tcp.high >= icmp.low and tcp.answer != "below"


def _loss_open(path: Path, tcp: Loss | None, icmp: Loss | None, limit: float) -> NotMeasured:
    remedy = probe_command("loss", path)
    if tcp is None and icmp is None:
        said = "no packet's fate is known"
    elif tcp is None:
        said = (
            f"ICMP echo lost {icmp.lost} of {icmp.sent}, and no TCP port was tried: ICMP alone proves no loss"
            if icmp
            else ""
        )
        remedy = "Give the service's port: netdiag run HOST:PORT"
    elif not tcp.answered:
        said = f"none of {tcp.sent} TCP packets was answered: a blocked or dead port, not a lossy path"
        remedy = f"Once the port answers: {remedy}"
    elif tcp.sent < LINK_LOSS_PACKETS:
        said = f"{tcp.lost} of {tcp.sent} TCP packets lost, too few to tell"
    elif icmp is not None and _echoes_outweigh(tcp, icmp, limit):
        said = (
            f"ICMP echo loses {icmp.lost} of {icmp.sent}, and {tcp.lost} lost of {tcp.sent} TCP packets are too few to "
            "tell a rate limit of ICMP from loss"
        )
    else:
        said = f"{tcp.shown} of TCP packets lost leaves it undecided"
    return NotMeasured(code=LOSS, subject=path.subject, statement=f"Loss to {path.label}: {said}.", remedy=remedy)


def _loss_finding(path: Path, tcp: Loss, icmp: Loss | None, limit: float, place: str) -> Finding:
    critical = tcp.ratio >= LINK_LOSS_CRITICAL and tcp.low > LINK_LOSS_CRITICAL_LOW
    only_tcp = icmp is not None and icmp.lost == 0 and icmp.high < tcp.low
    sure = LOSS_SURE if tcp.lost >= LOSS_SURE_PACKETS else LIKELY
    runs = f" Up to {tcp.longest} in a row." if tcp.longest >= BURST else ""
    return Finding(
        id=finding_id(LOSS, path.subject),
        code=LOSS,
        role=FindingRole.CAUSE,
        severity=Severity.CRITICAL if critical else Severity.WARNING,
        confidence=POSSIBLE if only_tcp else sure,
        section=Section.INFRASTRUCTURE,
        subject=path.subject,
        statement=f"The path to {path.label} loses {tcp.shown} of TCP packets, more than the {percent(limit)} allowed."
        f"{runs}{_echo(icmp, only_tcp=only_tcp)}{place}",
        evidence=ids_of(tcp, icmp),
        would_refute=f'A sequential loss test over the same path that answers "below {percent(limit)}", '
        "or the server's ListenDrops counter rising with each loss (a full accept queue drops SYNs as well).",
        actions=_loss_actions(path),
    )


def _flow_finding(path: Path, flows: Flows, tcp: Loss, icmp: Loss | None) -> Finding:
    by_flow = Action(
        owner="network",
        horizon=Horizon.IMMEDIATE,
        step="Compare the members of each link bundle, equal-cost route and balancer on the way: one is dead. Look for "
        "a rule on source ports.",
        check=probe_command("loss", path),
    )
    return Finding(
        id=finding_id(LOSS, path.subject),
        code=LOSS,
        role=FindingRole.CAUSE,
        severity=Severity.CRITICAL,
        confidence=LIKELY,
        section=Section.INFRASTRUCTURE,
        subject=path.subject,
        statement=f"The path to {path.label} loses {tcp.shown} of TCP packets. {flows.statement}"
        f"{_echo(icmp, only_tcp=False)}",
        evidence=ids_of(tcp, icmp),
        would_refute="A connection whose first SYN is lost and whose second is answered, or every attempt from one and "
        "the same source port ending differently.",
        actions=(by_flow, *_loss_actions(path)[1:]),
    )


def _large_loss_finding(path: Path, large: LargeLoss, tcp: Loss | None, icmp: Loss | None) -> Finding:
    arrow = "to" if large.direction == "to-target" else "from"
    small = f" Small packets: {tcp.lost} of {tcp.sent} lost." if tcp else ""
    return Finding(
        id=finding_id(LOSS, path.subject),
        code=LOSS,
        role=FindingRole.CAUSE,
        severity=Severity.CRITICAL if large.stalls else Severity.WARNING,
        confidence=LIKELY,
        section=Section.INFRASTRUCTURE,
        subject=replace(path.subject, direction=large.direction),
        statement=f"Large packets {arrow} {path.label} are lost where small ones arrive: {large.seen}.{small} It is no "
        "limit of size, for some large ones come through: a full queue that has room for small packets only, a "
        "policer, or one narrow member among several paths.",
        evidence=tuple(sorted({large.measurement, *ids_of(tcp, icmp)})),
        would_refute="Large and small packets sent in turn that are lost equally often, or a size above which none "
        "arrives and below which all do (a black hole).",
        actions=_loss_actions(path),
    )


def _echo(icmp: Loss | None, *, only_tcp: bool) -> str:
    if icmp is None:
        return ""
    if only_tcp:
        return (
            f" ICMP echo loses none of {icmp.sent}: a full accept queue, a SYN policer or a firewall at the port is as "
            "likely as the path."
        )
    return f" ICMP echo: {icmp.lost} of {icmp.sent} lost."


def _loss_actions(path: Path) -> tuple[Action, ...]:
    check = probe_command("loss", path)
    return (
        Action(
            owner="network",
            horizon=Horizon.IMMEDIATE,
            step="Read drop and error counters of the interfaces on the way, both directions; move traffic off it.",
            check=check,
        ),
        Action(
            owner="application",
            horizon=Horizon.SHORT_TERM,
            step="Retry connects with jittered backoff and a connect_timeout above three SYNs.",
            check=check,
        ),
    )


RULES: tuple[Rule, ...] = (
    Rule(
        code=LATENCY,
        section=Section.INFRASTRUCTURE,
        fires="The minimum RTT lies above 1.5 times and 10 ms over its baseline (longer route), or the median or a "
        "provable share of the samples does while the minimum does not (queueing).",
        quiet="No baseline is declared (Not Measured), the path is local, or single samples are late.",
        refuted_by="A minimum and median RTT within the baseline's limit over the same path.",
        judge=judge_latency,
    ),
    Rule(
        code=LOSS,
        section=Section.INFRASTRUCTURE,
        fires="At least three TCP packets are lost and the interval's lower bound lies above 1 % and above the "
        'baseline\'s loss, or the sequential test answered "above"; or large packets are lost at random where small '
        "ones, sent in turn with them, arrive.",
        quiet="Only ICMP is lost (rate limits), one packet is lost, nothing at all answers (blocked), or attempts were "
        "not sent.",
        refuted_by='The sequential test answering "below" over the same path and port.',
        judge=judge_loss,
    ),
)
