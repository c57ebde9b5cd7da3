"""A queue on the way, and what it loses: link.congestion. Passive: from the samples that the run takes anyway.

1. The floor is the least round-trip time of the path. Above RTT_FACTOR times it, and RTT_MARGIN_S over it, is waiting.
2. Waiting is a queue's where it builds up or drains: neighbours in time are alike, and the range between is crossed
   step by step. Independent jitter is not like its neighbours; a route that changes jumps from level to level.
3. TCP must see it too: routers and hosts answer echoes when they have time. Its handshakes wait more often than in a
   usual tail, or what it exchanges at the same moments as the echoes waits when they do (rules/moments.py).
4. A queue that never drained shows no floor. Against the baseline it is a longer way, unless it loses what a full queue
   loses: large packets, while small ones sent in turn find room.
5. What goes on while the queue is empty is not its doing: loss between quick round trips, a floor that is itself above
   the baseline, a server that is slow beyond any round trip seen. Such findings stay causes beside it.
"""

from __future__ import annotations

from collections.abc import Iterator

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
)
from netdiag.diagnosis.rule import Case, Rule
from netdiag.diagnosis.rules.database import slow_attempts
from netdiag.diagnosis.rules.link import (
    ARRIVED,
    LargeLoss,
    baseline_of,
    delay_limit,
    large_loss,
    loss_fires,
    loss_limit,
    pooled_loss,
)
from netdiag.diagnosis.rules.moments import Together, together
from netdiag.diagnosis.rules.paths import Path, Sampled, paths, probe_command, sampled
from netdiag.diagnosis.rules.subjects import Place, finding_id, ids, milliseconds, percent, ratio
from netdiag.diagnosis.rules.waterfalls import attempts_at
from netdiag.diagnosis.thresholds import (
    LEVEL,
    LIKELY,
    LINK_LOSS_PACKETS_LOST,
    POSSIBLE,
    QUEUE_EMPTY_S,
    QUEUE_EMPTY_SHARE,
    QUEUE_LOSSES,
    QUEUE_LOSSES_CHANCE,
    QUEUE_PASSAGES,
    QUEUE_RAMP,
    QUEUE_RISES,
    QUEUE_RISES_CHANCE,
    QUEUE_SAMPLES,
    QUEUE_SHARE,
    QUEUE_SMOOTH,
    QUEUE_STROKES,
    QUEUE_TURNING_CHANCE,
    RTT_CRITICAL_FACTOR,
    RTT_MARGIN_S,
    RTT_SAMPLES,
    RTT_TAIL_SAMPLES,
    RTT_TAIL_SHARE,
    SLOW_ATTEMPTS,
)
from probes.latency import LatencyMeasurement
from probes.model import Outcome, value
from probes.sampling import RttSample
from probes.stats.intervals import wilson
from probes.stats.queueing import Losses, Swing, cut_at_releases, losses_when_quick, losses_when_slow, strokes, swing
from probes.stats.summaries import nearest_rank

CONGESTION = "link.congestion"
_USER_CLOCK = "user"
_METHODS = {"tcp": "TCP handshakes", "icmp": "ICMP echoes"}


@value
class Delay:
    """One method's samples of a path, in the order of sending, one part for each measurement."""

    method: str
    parts: tuple[tuple[float | None, ...], ...]
    sent: tuple[tuple[float, ...], ...]  # of each part, seconds
    evidence: tuple[str, ...]

    @property
    def rtts(self) -> tuple[float, ...]:
        return tuple(sorted(rtt for part in self.parts for rtt in part if rtt is not None))

    @property
    def swing(self) -> Swing | None:
        pairs = zip(self.parts, self.sent, strict=True)
        return swing([piece for part, sent in pairs for piece in cut_at_releases(part, sent)])

    def above(self, limit: float) -> int:
        return sum(rtt > limit for rtt in self.rtts)

    @property
    def figures(self) -> tuple[float, float]:
        return self.rtts[0], nearest_rank(self.rtts, 50) or 0.0

    def share_low(self, limit: float) -> float:
        share = wilson(self.above(limit), len(self.rtts), LEVEL)
        return share.low if share else 0.0

    @property
    def shown(self) -> str:
        rtts = self.rtts
        ranked = (("p50", nearest_rank(rtts, 50)), ("p95", nearest_rank(rtts, 95)))
        figures = [f"minimum {milliseconds(rtts[0])}", *(f"{name} {milliseconds(s)}" for name, s in ranked if s)]
        return f"{', '.join(figures)} of {len(rtts)} {_METHODS[self.method]}"


@value
class Way:
    """What is known of one path's delay. ``limit``: from where a packet has waited."""

    path: Path
    delays: tuple[Delay, ...]  # those with samples; TCP first
    floor: float
    limit: float
    together: Together

    @property
    def evidence(self) -> tuple[str, ...]:
        return tuple(sorted({*(id_ for delay in self.delays for id_ in delay.evidence), *self.together.evidence}))

    @property
    def shown(self) -> str:
        return "; ".join(delay.shown for delay in self.delays)

    def of(self, method: str) -> Delay | None:
        return next((delay for delay in self.delays if delay.method == method), None)

    @property
    def waits(self) -> bool:
        """Every method's middle sample does."""
        return all((nearest_rank(delay.rtts, 50) or 0.0) > self.limit for delay in self.delays)

    @property
    def waiting(self) -> bool:
        """By TCP as well: more than the usual tail, or whenever the echoes do."""
        tcp = self.of("tcp")
        if self.together.confirmed:
            return True
        if tcp is None or len(tcp.rtts) < RTT_SAMPLES:
            return False
        return tcp.above(self.limit) >= RTT_TAIL_SAMPLES and tcp.share_low(self.limit) > RTT_TAIL_SHARE


def judge_congestion(case: Case) -> Iterator[Judgement]:
    judged = [(path, _judged(case, path)) for path in paths(case) if not path.is_loopback]
    queues = [path for path, judgement in judged if isinstance(judgement, Finding)]
    for path, judgement in judged:
        yield (isinstance(judgement, NotMeasured) and _as_its_twin(case, path, queues)) or judgement


def _as_its_twin(case: Case, path: Path, queues: list[Path]) -> Finding | None:
    """Where nothing is decided by itself: the same name's other address, with a queue, has the same round trips."""
    way = _way(case, path)
    twins = (_way(case, queue) for queue in queues if queue.endpoint.name == path.endpoint.name)
    twin = next((twin for twin in twins if way and twin and way.waits and _alike(way, twin)), None)
    if way is None or twin is None:
        return None
    return _congested(
        way,
        statement=f"Packets to {path.label} wait with those to {twin.path.label}, in one queue by their round trips: "
        f"{way.shown}.",
        confidence=POSSIBLE,
        critical=_is_critical(way, _normal(case, path)),
        large=None,
        beside=_beside(case, way, None, _normal(case, path)),
    )


def _alike(way: Way, twin: Way) -> bool:
    """Floors and medians, by each method, within what is a delay at all."""
    pairs = [(way.of(method), twin.of(method)) for method in _METHODS]
    figures = [(a.figures, b.figures) for a, b in pairs if a and b]
    near = all(abs(x - y) <= RTT_MARGIN_S for a, b in figures for x, y in zip(a, b, strict=True))
    return bool(figures) and near


def _is_critical(way: Way, normal: float | None) -> bool:
    """By the method with most samples: the few handshakes of a moment say little of a queue that comes and goes."""
    most = max(way.delays, key=lambda delay: len(delay.rtts))
    return most.figures[1] >= RTT_CRITICAL_FACTOR * (way.floor if normal is None else min(way.floor, normal))


def _normal(case: Case, path: Path) -> float | None:
    baseline = baseline_of(case, path.endpoint)
    return baseline.rtt if baseline is not None else None


def _judged(case: Case, path: Path) -> Judgement:
    way, normal = _way(case, path), _normal(case, path)
    if way is None:
        return _not_measured(path, "no clean round trip was measured")
    queue = next((d for d in way.delays if is_queue(d, way.limit)), None) if way.waiting else None
    large = _large(case, path)
    if queue is not None:
        return _finding(case, way, queue, large, normal)
    if large is not None and normal is not None and _never_drained(way, normal):
        return _standing(case, way, large, normal)
    return _quiet(way)


def _way(case: Case, path: Path) -> Way | None:
    delays = tuple(delay for method in _METHODS if (delay := _delay(case, path, method)).rtts)
    if not delays:
        return None
    floor = min(delay.rtts[0] for delay in delays)
    limit = delay_limit(floor)
    return Way(path=path, delays=delays, floor=floor, limit=limit, together=together(case, path, limit))


def _delay(case: Case, path: Path, method: str) -> Delay:
    found = sorted(sampled(case, path, method), key=lambda m: (m.started, len(m.id), m.id))
    timed = [m for m in found if not _timed_by_a_busy_host(m)]
    samples = [_sent(m) for m in timed]
    return Delay(
        method=method,
        parts=tuple(tuple(map(_rtt, part)) for part in samples),
        sent=tuple(tuple(s.sent_s or 0.0 for s in part) for part in samples),
        evidence=ids(timed),
    )


def _timed_by_a_busy_host(measured: Sampled) -> bool:
    """User-space stamps have this host's own waiting for the processor in them. (Of loss the stamp is not recorded.)"""
    return isinstance(measured.data, LatencyMeasurement) and measured.timestamp_source == _USER_CLOCK


def _sent(measured: Sampled) -> list[RttSample]:
    samples = measured.data.samples if measured.data is not None else ()
    return sorted(
        (s for s in samples if s.sent_s is not None and s.outcome in _FATES),
        key=lambda s: (s.sent_s or 0.0, s.sequence),
    )


_FATES = ARRIVED | {Outcome.LOST}  # an ICMP error says neither


def _rtt(sample: RttSample) -> float | None:
    return sample.rtt_s if sample.outcome in ARRIVED else None


def is_queue(delay: Delay, limit: float) -> bool:
    """It waits for a provable share of the time, and what waits builds up and drains."""
    found = delay.swing
    if found is None or len(delay.rtts) < QUEUE_SAMPLES or delay.share_low(limit) <= QUEUE_SHARE:
        return False
    gradual = _steps(found) or found.turning_chance <= QUEUE_TURNING_CHANCE or found.ramp >= QUEUE_RAMP
    return found.smoothness >= QUEUE_SMOOTH and gradual and strokes(delay.parts, delay.sent) <= QUEUE_STROKES


def _steps(found: Swing) -> bool:
    """Where it fills and drains faster than samples come."""
    rises = found.rises >= QUEUE_RISES and found.rises_chance <= QUEUE_RISES_CHANCE
    return rises or (found.passages >= QUEUE_PASSAGES and found.passages_chance <= QUEUE_RISES_CHANCE)


def _large(case: Case, path: Path) -> LargeLoss | None:
    """Large packets are lost, and not because packets of every size are."""
    tcp = pooled_loss(case, path, "tcp")
    return None if tcp is not None and loss_fires(tcp, loss_limit(case, path)) else large_loss(case, path)


def _never_drained(way: Way, normal: float) -> bool:
    tcp = way.of("tcp")
    return tcp is not None and len(tcp.rtts) >= RTT_SAMPLES and way.floor > delay_limit(normal)


def _slow_losses(way: Way) -> Losses | None:
    """Losses that come when packets wait, by any method."""
    found = (losses_when_slow(delay.parts) for delay in way.delays)
    return next((losses for losses in found if losses and _tied(losses)), None)


def _tied(losses: Losses) -> bool:
    above = losses.beside - losses.rest >= RTT_MARGIN_S
    return losses.lost >= QUEUE_LOSSES and losses.p_value <= QUEUE_LOSSES_CHANCE and above


def _seen_empty(way: Way) -> bool:
    """Many samples lie at the floor, where a queue that never drains has few: it comes there only in passing."""
    near = [sum(rtt <= way.floor + QUEUE_EMPTY_S for rtt in d.rtts) for d in way.delays]
    counts = zip(near, way.delays, strict=True)
    return any(n >= max(RTT_SAMPLES, QUEUE_EMPTY_SHARE * len(delay.rtts)) for n, delay in counts)


def _beside(case: Case, way: Way, large: LargeLoss | None, normal: float | None) -> dict[str, str]:
    """Codes that are not the queue's doing, with what shows it."""
    found: dict[str, str] = {}
    tcp = way.of("tcp")
    lost, sent = losses_when_quick(tcp.parts, way.limit) if tcp else (0, 0)
    share = wilson(lost, sent, LEVEL)
    if share is not None and lost >= LINK_LOSS_PACKETS_LOST and share.low > loss_limit(case, way.path):
        found["link.loss"] = (
            f" Between quick round trips {lost} of {sent} TCP packets are lost as well: not by the queue."
        )
    if normal is not None and way.floor > delay_limit(normal) and _seen_empty(way):
        found["region.latency"] = (
            f" The floor itself lies above the baseline of {milliseconds(normal)}: a longer way too."
        )
    if _is_slow_itself(case, way) and large is None and not lost:
        found["db.slow"] = " The database is slow beyond what any round trip seen here explains."
    return found


def _is_slow_itself(case: Case, way: Way) -> bool:
    """By the longest wait seen on the way, not by that of its own handshake, which a queue may have let through early.
    Without a loss: what the server had to send again is not known here."""
    path = way.path
    if path.address is None or path.port is None or any(None in part for d in way.delays for part in d.parts):
        return False
    place = Place(endpoint=path.endpoint, address=path.address, port=path.port)
    longest = max(delay.rtts[-1] for delay in way.delays)
    return len(slow_attempts(attempts_at(case, place), longest)) >= SLOW_ATTEMPTS


def _finding(case: Case, way: Way, queue: Delay, large: LargeLoss | None, normal: float | None) -> Finding:
    slow, found = _slow_losses(way), queue.swing
    beside = _beside(case, way, large, normal)
    return _congested(
        way,
        beside=beside,
        statement=f"Packets to {way.path.label} wait in a queue, which builds up or drains: {way.shown}. "
        f"{ratio(queue.above(way.limit), len(queue.rtts))} {_METHODS[queue.method]} take more than "
        f"{milliseconds(way.limit)} over a floor of {milliseconds(way.floor)}{_smooth(found)}."
        f"{_confirmed(way.together)}{_loss_shown(slow, large)}{''.join(beside.values())}"
        f"{_beneath(way, beside, normal)}",
        confidence=LIKELY if slow or large or way.together.confirmed else POSSIBLE,
        critical=_is_critical(way, normal),
        large=large,
    )


def _confirmed(together: Together) -> str:
    return f" {together.shown}." if together.confirmed else ""


def _beneath(way: Way, beside: dict[str, str], normal: float | None) -> str:
    if normal is None or "region.latency" in beside or way.floor <= delay_limit(normal):
        return ""
    return f" It was not seen empty: a way longer than the baseline ({milliseconds(normal)}) is not excluded."


def _smooth(found: Swing | None) -> str:
    if found is None:
        return ""
    return f", gradually: neighbours differ by {found.neighbour_ratio:.2f} of what independent ones would"


def _loss_shown(slow: Losses | None, large: LargeLoss | None) -> str:
    said = ""
    if slow is not None:
        said += (
            f" What is lost is lost then: round trips beside the {slow.lost} losses take "
            f"{milliseconds(slow.beside)}, the rest {milliseconds(slow.rest)}."
        )
    if large is not None:
        arrow = "to" if large.direction == "to-target" else "from"
        said += f" Large packets {arrow} it are lost where small ones still find room: {large.seen}."
    return said or " No loss is tied to it."


def _standing(case: Case, way: Way, large: LargeLoss, normal: float) -> Finding:
    beside = {code: said for code, said in _beside(case, way, large, normal).items() if code != "region.latency"}
    return _congested(
        way,
        beside=beside,
        statement=f"Round trips to {way.path.label}: {way.shown}; baseline {milliseconds(normal)}."
        f"{_loss_shown(None, large)} Both are what a queue does that is always full; a longer way with a policer on it "
        f"would look the same.{''.join(beside.values())}",
        confidence=POSSIBLE,
        critical=way.floor >= RTT_CRITICAL_FACTOR * normal,
        large=large,
    )


def _congested(
    way: Way,
    *,
    statement: str,
    confidence: float,
    critical: bool,
    large: LargeLoss | None,
    beside: dict[str, str],
) -> Finding:
    cited = {*way.evidence, *((large.measurement,) if large else ())}
    return Finding(
        id=finding_id(CONGESTION, way.path.subject),
        code=CONGESTION,
        role=FindingRole.CAUSE,
        severity=Severity.CRITICAL if critical else Severity.WARNING,
        confidence=confidence,
        section=Section.INFRASTRUCTURE,
        subject=way.path.subject,
        statement=statement,
        evidence=tuple(sorted(cited)),
        would_refute="Utilisation of every link on the way that stays well below its rate at that time, or round trips "
        "that jump between a few levels with nothing between.",
        actions=_actions(way.path),
        beside=tuple(sorted(beside)),
    )


def _actions(path: Path) -> tuple[Action, ...]:
    check = probe_command("latency", path)
    return (
        Action(
            owner="network",
            horizon=Horizon.IMMEDIATE,
            step="Find the saturated link: utilisation, queue depth and tail drops of each interface on the way, both "
            "directions; move or shape what fills it.",
            check=check,
        ),
        Action(
            owner="network",
            horizon=Horizon.LONG_TERM,
            step="Add capacity, or a discipline that keeps queues short (fq_codel), the database in its own class.",
            check=check,
        ),
    )


def _quiet(way: Way) -> Judgement:
    tcp, most = way.of("tcp"), max(way.delays, key=lambda delay: len(delay.rtts))
    if tcp is None or len(tcp.rtts) < RTT_SAMPLES or len(most.rtts) < QUEUE_SAMPLES:
        return _not_measured(way.path, f"{_counted(way)} are too few to see a queue build up or drain by TCP")
    slow = any(delay.share_low(way.limit) > QUEUE_SHARE for delay in way.delays if delay is not tcp)
    if way.waiting or (slow and not way.together.denied):
        return _not_measured(way.path, _undecided(way, most))
    basis = tcp if slow else most
    above = wilson(basis.above(way.limit), len(basis.rtts), LEVEL)
    echoes = f" Slow echoes alone are the answering host's own: {way.together.shown}." if slow else ""
    return RuledOut(
        code=CONGESTION,
        subject=way.path.subject,
        statement=f"Round trips to {way.path.label}: {way.shown}.{echoes}",
        smallest_fault=f"a queue that holds packets for more than {milliseconds(way.limit - way.floor)} in more than "
        f"{percent(above.high if above else 1.0)} of the time; one that never drains lifts the minimum instead.",
        evidence=way.evidence,
    )


def _counted(way: Way) -> str:
    counts = {method: len(delay.rtts) if (delay := way.of(method)) else 0 for method in _METHODS}
    return " and ".join(f"{n or 'no'} {_METHODS[method]}" for method, n in counts.items())


def _undecided(way: Way, most: Delay) -> str:
    if not way.waiting:
        return (
            f"{way.shown}: echoes are late at times, and TCP tells too little of the same moments: {way.together.shown}"
        )
    if most.share_low(way.limit) <= QUEUE_SHARE:
        return (
            f"{way.shown}: handshakes take more than {milliseconds(way.limit)} and few others do; a passing burst, or "
            "something that treats them apart"
        )
    return (
        f"{way.shown}: many are above {milliseconds(way.limit)}, but from one sample to the next as jitter is, or "
        "between a few levels as routes are, or in step with something that wakes or stands still; that is no queue "
        "seen to build up"
    )


def _not_measured(path: Path, why: str) -> NotMeasured:
    return NotMeasured(
        code=CONGESTION,
        subject=path.subject,
        statement=f"Queueing on the way to {path.label}: {why}.",
        remedy=f"At the hour of the trouble: {probe_command('latency', path)} --set count=100",
    )


RULES = (
    Rule(
        code=CONGESTION,
        section=Section.INFRASTRUCTURE,
        fires="Round trips lie 1.5 times and 10 ms above their own floor for a provable share of the time, by TCP as "
        "well, and they get there or back gradually, or by steps each time. Or the minimum is as far above its "
        "baseline, and large packets are lost at random where small ones, sent in turn with them, arrive. Or the "
        "name's other address has such a queue, and the round trips are the same.",
        quiet="Jitter (independent from sample to sample), a change of route (a jump between levels), a longer way, "
        "slow echoes beside quick TCP, loss with flat round trips (link.loss), stamps of a busy host, answers that are "
        "let go together (a machine that stands still) or by the strokes of a clock (a radio that saves power).",
        refuted_by="Interface counters without a queue or a tail drop at that time.",
        judge=judge_congestion,
    ),
)
