"""From exchanges to samples: what one attempt says of delay and of loss, the same for every probe that takes several.

How an attempt counts
1. Every planned attempt becomes one RttSample with one outcome; nothing is dropped.
2. By ICMP a packet is an echo request. By TCP it is a SYN: an attempt sent one, and one more per retransmission; each
   retransmission stands for a SYN (or its SYN-ACK) that was lost, and an attempt that stayed silent lost its last too.
3. A RST is an answer: it has a round-trip time and is no loss. A late answer is delay, not loss.
4. An ICMP error (UNREACHABLE, REJECTED, EXPIRED, TOO_BIG) settles the packet that drew it without saying whether the
   target would have answered: neither sent nor lost, so that a path of errors alone has no loss ratio instead of 0.
5. NOT_SENT is a local matter: counted in ``not_sent`` and nowhere else.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from ipaddress import ip_address

from probes.contract import Context, ProbeUnavailable
from probes.exchanges import (
    MOST_ECHOES,
    EchoRequest,
    EchoSample,
    Handshake,
    HandshakeRequest,
    TimestampSource,
)
from probes.model import Failure, FailureKind, Outcome, Target, value
from probes.stats.bursts import bursts
from probes.stats.intervals import wilson
from probes.stats.summaries import ipdv_mean_abs, mean, nearest_rank, sample_stdev

LONGEST_S = 86400.0  # of an interval or a timeout
INITIAL_RTO_S = 1.0  # RFC 6298 2.1: an attempt this long may hold a retransmitted SYN
JITTER = 0.1  # of the interval, to either side: no phase lock with periodic policers (RFC 2330 11.1)

DEADLINE = Failure(kind=FailureKind.LOCAL, operation="send", detail="the run's deadline came first")

_DELAYED = frozenset({Outcome.ANSWERED, Outcome.LATE, Outcome.REFUSED})
_ARRIVED = _DELAYED | {Outcome.FAILED}
_SOURCES = tuple(TimestampSource)  # best first


@value
class RttSample:
    """One attempt. ``rtt_s`` is None where there was no clean figure (lost, or Karn's rule)."""

    sequence: int
    sent_s: float | None  # offset from the first attempt
    outcome: Outcome
    rtt_s: float | None = None
    retransmits: int | None = None  # SYN retransmissions, TCP only
    duplicates: int = 0
    failure: Failure | None = None


@value
class RttSummary:
    """Of the answered samples. Percentiles by the nearest-rank method; ``n`` is their number."""

    n: int
    minimum_s: float | None
    mean_s: float | None
    p50_s: float | None
    p90_s: float | None
    p95_s: float | None
    p99_s: float | None
    maximum_s: float | None
    stdev_s: float | None
    ipdv_mean_abs_s: float | None  # RFC 3393, consecutive answered samples


@value
class LossCount:
    """Losses among packets that were really sent, with a Wilson interval.

    By ICMP a packet is an echo request; by TCP it is a SYN, each retransmission counted (tcpi_total_retrans).
    NOT_SENT attempts are in ``not_sent`` and nowhere else; late answers are in ``late`` and not lost.
    A packet that an ICMP error settled is in none of these (see the rules at the top of probes/sampling.py).
    """

    sent: int
    lost: int
    late: int
    duplicates: int
    not_sent: int
    longest_run: int  # most consecutive losses
    ratio: float | None
    low: float | None
    high: float | None
    level: float = 0.95


@value
class Series:
    """Samples of one method to one address, and the worst clock behind their RTTs."""

    samples: tuple[RttSample, ...]
    timestamp_source: TimestampSource


def rtt_summary(samples: Sequence[RttSample]) -> RttSummary:
    """Of every sample with a clean RTT from the target itself: answered, late or refused."""
    delays = {s.sequence: s.rtt_s for s in samples if s.outcome in _DELAYED and s.rtt_s is not None}
    ordered = sorted(delays.values())
    return RttSummary(
        n=len(ordered),
        minimum_s=ordered[0] if ordered else None,
        mean_s=mean(ordered),
        p50_s=nearest_rank(ordered, 50),
        p90_s=nearest_rank(ordered, 90),
        p95_s=nearest_rank(ordered, 95),
        p99_s=nearest_rank(ordered, 99),
        maximum_s=ordered[-1] if ordered else None,
        stdev_s=sample_stdev(ordered),
        ipdv_mean_abs_s=ipdv_mean_abs(delays),
    )


def packet_fates(samples: Sequence[RttSample]) -> tuple[bool, ...]:
    """True for each packet lost and False for each that arrived, in order; rules 2 to 5 above."""
    return tuple(fate for sample in samples for fate in _fates(sample))


def _fates(sample: RttSample) -> tuple[bool, ...]:
    if sample.outcome is Outcome.NOT_SENT:
        return ()
    retransmitted = (True,) * (sample.retransmits or 0)
    if sample.outcome is Outcome.LOST:
        return (*retransmitted, True)
    return (*retransmitted, False) if sample.outcome in _ARRIVED else retransmitted


def loss_count(samples: Sequence[RttSample], level: float = 0.95) -> LossCount:
    """``level`` is that of the Wilson interval, which takes the packets for independent."""
    fates = packet_fates(samples)
    sent, lost = len(fates), sum(fates)
    interval = wilson(lost, sent, level)
    return LossCount(
        sent=sent,
        lost=lost,
        late=sum(s.outcome is Outcome.LATE for s in samples),
        duplicates=sum(s.duplicates for s in samples),
        not_sent=sum(s.outcome is Outcome.NOT_SENT for s in samples),
        longest_run=bursts(fates).longest,
        ratio=lost / sent if sent else None,
        low=interval.low if interval else None,
        high=interval.high if interval else None,
        level=level,
    )


def sample_of_handshake(sequence: int, sent_s: float, handshake: Handshake) -> RttSample:
    return RttSample(
        sequence=sequence,
        sent_s=None if handshake.outcome is Outcome.NOT_SENT else sent_s,
        outcome=handshake.outcome,
        rtt_s=_handshake_rtt(handshake),
        retransmits=handshake.syn_retransmits,
        failure=handshake.failure,
    )


def _handshake_rtt(handshake: Handshake) -> float | None:
    """The kernel's figure for a SYN-ACK; for a RST, which leaves no tcp_info behind, the user's own, if Karn allows."""
    if handshake.outcome is not Outcome.REFUSED or handshake.rtt_s is not None:
        return handshake.rtt_s
    retransmitted = handshake.syn_retransmits
    clean = handshake.seconds < INITIAL_RTO_S if retransmitted is None else retransmitted == 0
    return handshake.seconds if clean else None


def sample_of_echo(echo: EchoSample, *, first: int = 0, offset_s: float = 0.0) -> RttSample:
    return RttSample(
        sequence=first + echo.sequence,
        sent_s=None if echo.sent_s is None else offset_s + echo.sent_s,
        outcome=echo.outcome,
        rtt_s=echo.rtt_s,
        duplicates=echo.duplicates,
        failure=echo.failure,
    )


def not_sent(sequence: int) -> RttSample:
    """An attempt that the run's deadline left no room for."""
    return RttSample(sequence=sequence, sent_s=None, outcome=Outcome.NOT_SENT, failure=DEADLINE)


def address_of(target: Target) -> str:
    """The target's address, or its host where that is one. Raises ProbeUnavailable for a bare name."""
    if target.address is not None:
        return target.address
    try:
        ip_address(target.host)
    except ValueError:
        raise ProbeUnavailable(f"no address of {target.host} is known: resolve the name first") from None
    return target.host


def check_schedule(interval_s: float, timeout_s: float) -> None:
    """Raises ProbeUnavailable where no attempt could be in time, or the next one never came."""
    if not 0 <= interval_s <= LONGEST_S:
        raise ProbeUnavailable(f"interval_s {interval_s:g} is not within 0 and {LONGEST_S:g} seconds")
    if not 0 < timeout_s <= LONGEST_S:
        raise ProbeUnavailable(f"timeout_s {timeout_s:g} is not above 0 and at most {LONGEST_S:g} seconds")


class Sampler:
    """Takes attempts on one schedule: within a batch attempt i is due at t0 + i * interval, whatever became of others.

    ``method`` is "tcp" (a handshake to the target's port) or "icmp" (an echo). A batch is due an interval after the
    last attempt of the one before, settled or not, and a delay is not made up for by haste. An attempt goes out only
    where its whole timeout fits before the context's deadline; the rest are NOT_SENT, so that no answer is cut short
    and called lost. The timeout itself is at most half of the time there was at the start.
    """

    def __init__(
        self, context: Context, target: Target, *, method: str, interval_s: float, timeout_s: float, seed: int = 0
    ) -> None:
        if method not in ("tcp", "icmp"):
            raise ProbeUnavailable(f'method {method!r} is neither "tcp" nor "icmp"')
        if method == "tcp" and target.port is None:
            raise ProbeUnavailable("sampling by TCP needs a port")
        check_schedule(interval_s, timeout_s)
        self.address = address_of(target)
        self._context, self._method, self._port = context, method, target.port or 0
        self._interval_s = interval_s
        self._timeout_s = min(timeout_s, context.remaining() / 2)
        self._random = random.Random(seed) if method == "tcp" else None  # dear, where a sweep has thousands
        self._start = self._batch_due = context.clock.monotonic()
        self._taken = 0

    async def take(self, count: int) -> Series:
        """The next ``count`` attempts, settled. Raises ProbeUnavailable for an impossible number of them."""
        if count < 0 or (self._method == "icmp" and count > MOST_ECHOES):
            raise ProbeUnavailable(f"count {count} is not within 0 and {MOST_ECHOES}, the most echoes of a series")
        first, self._taken = self._taken, self._taken + count
        begin = max(self._batch_due, self._context.clock.monotonic())
        self._batch_due = begin + count * self._interval_s
        await self._until(begin)
        return await (self._echoes(first, count) if self._method == "icmp" else self._handshakes(first, count, begin))

    async def due(self) -> None:
        """Wait until the next batch is due."""
        await self._until(self._batch_due)

    async def _handshakes(self, first: int, count: int, begin: float) -> Series:
        due = [begin + self._jittered(ordinal) for ordinal in range(count)]
        # Nobody waits for the due time of an attempt that no longer fits: the probe would outlive the run with it.
        fitting = [moment for moment in due if moment <= self._context.deadline - self._timeout_s]
        tasks = []
        async with asyncio.TaskGroup() as group:
            for sequence, moment in enumerate(fitting, first):
                await self._until(moment)
                tasks.append(group.create_task(self._handshake(sequence)))
                await asyncio.sleep(0)  # the attempt starts before the next due time is looked at
        taken = [task.result() for task in tasks]
        sources = [source for sample, source in taken if sample.rtt_s is not None]
        missing = tuple(not_sent(sequence) for sequence in range(first + len(fitting), first + count))
        return Series(samples=tuple(sample for sample, _ in taken) + missing, timestamp_source=worst_source(sources))

    def _jittered(self, ordinal: int) -> float:
        jitter = self._random.uniform(-JITTER, JITTER) if ordinal and self._random else 0.0
        return (ordinal + jitter) * self._interval_s

    async def _until(self, due: float) -> None:
        await self._context.clock.sleep(max(0.0, due - self._context.clock.monotonic()))

    async def _handshake(self, sequence: int) -> tuple[RttSample, TimestampSource]:
        if self._room() < 0:
            return not_sent(sequence), TimestampSource.USER
        request = HandshakeRequest(address=self.address, port=self._port, timeout_s=self._timeout_s)
        try:
            async with asyncio.timeout(self._context.remaining()):
                handshake = await self._context.network.handshake(request)
        except TimeoutError:
            # To keep to the run's ceiling the network held it so long that its own timeout never came.
            return not_sent(sequence), TimestampSource.USER
        sent = self._context.clock.monotonic() - handshake.seconds  # counted back, for the same reason
        sample = sample_of_handshake(sequence, sent - self._start, handshake)
        # A RST's time is the user's, whatever clock the connection had.
        refused = handshake.outcome is Outcome.REFUSED and handshake.rtt_s is None
        return sample, TimestampSource.USER if refused else handshake.timestamp_source

    def _room(self) -> float:
        """Seconds left for sending; negative where not even one attempt fits."""
        return self._context.remaining() - self._timeout_s

    async def _echoes(self, first: int, count: int) -> Series:
        fitting = self._fitting(count)
        missing = tuple(not_sent(sequence) for sequence in range(first + fitting, first + count))
        if not fitting:
            return Series(samples=missing, timestamp_source=TimestampSource.USER)
        offset_s = self._context.clock.monotonic() - self._start
        request = EchoRequest(
            address=self.address, count=fitting, interval_s=self._interval_s, timeout_s=self._timeout_s
        )
        series = await self._context.network.echo(request)
        samples = tuple(sample_of_echo(echo, first=first, offset_s=offset_s) for echo in series.samples)
        return Series(samples=samples + missing, timestamp_source=series.timestamp_source)

    def _fitting(self, count: int) -> int:
        room = self._room()
        if room < 0 or self._interval_s <= 0:
            return 0 if room < 0 else count
        return min(count, 1 + int(room / self._interval_s))


def worst_source(sources: Sequence[TimestampSource]) -> TimestampSource:
    """The least precise clock behind any of the RTTs; "user" where there is no RTT."""
    return max(sources, key=_SOURCES.index, default=TimestampSource.USER)
