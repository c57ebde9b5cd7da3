"""Delay and loss of each direction by itself, with a STAMP reflector at the far end (RFC 8762; `netdiag reflect`).

1. Round trip: (T4 - T1) - (T3 - T2), free of the reflector's own time and of both clocks' offset.
2. Loss is split by the reflector's own count of what reached it (a stateful reflector). What was lost after the last
   reply has no direction; nor has anything where nothing came back, or where the reflector only copied our sequence
   (a stateless one): that would look like loss on the way back alone.
3. One-way delay needs the offset of the two clocks, which only the exchanges themselves tell: its uncertainty is half
   of the least round trip, because the two directions may differ by as much. The variation of delay (RFC 5481) needs
   no offset and has no such uncertainty.
"""

from __future__ import annotations

from collections.abc import Sequence

from probes.contract import Context, Probe, ProbeUnavailable
from probes.exchanges import StampRequest, StampSample, StampSeries, TimestampSource
from probes.model import Outcome, Target, value
from probes.sampling import LossCount, RttSample, RttSummary, address_of, loss_count, rtt_summary
from probes.stats.intervals import wilson
from probes.stats.oneway import (
    FourStamps,
    Offset,
    SplitLoss,
    clock_offset,
    forward_delays,
    reverse_delays,
    split_loss,
)
from probes.stats.summaries import ipdv_mean_abs, nearest_rank

DEFAULT_PORT = 862  # RFC 8762 4.1
_LEAST_BYTES = 44


@value
class StampOptions:
    count: int = 100
    interval_s: float = 0.05
    timeout_s: float = 1.0
    packet_bytes: int = 44  # UDP payload, 44 or more, the same both ways


@value
class DirectionLoss:
    """Packets of one direction up to the last reply, with a Wilson interval; late packets are not lost."""

    sent: int
    lost: int
    ratio: float | None
    low: float | None
    high: float | None
    level: float = 0.95


@value
class OneWayDelay:
    """Seconds. The delays share one unknown of up to ``uncertainty_s`` either way; their differences do not."""

    n: int
    minimum_s: float | None
    p50_s: float | None
    p95_s: float | None
    maximum_s: float | None
    uncertainty_s: float | None
    pdv_p95_s: float | None  # RFC 5481: delay above the least, 95th percentile
    ipdv_mean_abs_s: float | None  # RFC 3393, consecutive packets


@value
class StampMeasurement:
    """``forward`` is from here to the reflector. The clock offset is the reflector's clock minus this host's."""

    address: str
    port: int
    samples: tuple[StampSample, ...]
    rtt: RttSummary
    loss: LossCount  # of round trips
    forward_loss: DirectionLoss | None  # None: nothing came back, or the reflector is stateless
    reverse_loss: DirectionLoss | None
    unattributed: int | None  # packets lost after the last reply
    forward_delay: OneWayDelay
    reverse_delay: OneWayDelay
    clock_offset_s: float | None
    clock_offset_uncertainty_s: float | None
    stateful: bool | None  # the reflector counts by itself; None: nothing came back
    clock_steps: int  # times that this host's wall clock was set meanwhile
    reflector_synchronized: bool | None
    reflector_error_s: float | None
    timestamp_source: TimestampSource


async def measure(context: Context, target: Target, options: StampOptions) -> StampMeasurement:
    """One session. Raises ProbeUnavailable without an address, for packets under 44 octets and for no packet at all.

    The series is cut to what fits before the deadline.
    """
    if options.packet_bytes < _LEAST_BYTES or options.count < 1:
        raise ProbeUnavailable(f"needs packet_bytes >= {_LEAST_BYTES} and count >= 1")
    request = StampRequest(
        address=address_of(target),
        port=target.port or DEFAULT_PORT,
        count=_fitting(context, options),
        interval_s=options.interval_s,
        timeout_s=options.timeout_s,
        packet_bytes=options.packet_bytes,
    )
    return summarise(request, await context.network.stamp(request))


def _fitting(context: Context, options: StampOptions) -> int:
    room = context.remaining() - 2 * options.timeout_s
    if room < 0:
        raise ProbeUnavailable("no time is left for a single packet and its timeout")
    return options.count if options.interval_s <= 0 else min(options.count, 1 + int(room / options.interval_s))


def summarise(request: StampRequest, series: StampSeries) -> StampMeasurement:
    exchanges = four_stamps(series.samples)
    offset = clock_offset(exchanges)
    round_trips = _round_trips(series.samples, {e.sequence: e.delay_ns / 1e9 for e in exchanges})
    stateful = counts_by_itself(series.samples)
    split = _split(series.samples) if stateful else None
    return StampMeasurement(
        address=request.address,
        port=request.port,
        samples=series.samples,
        rtt=rtt_summary(round_trips),
        loss=loss_count(round_trips),
        forward_loss=_direction(split.forward_sent, split.forward_lost) if split else None,
        reverse_loss=_direction(split.reverse_sent, split.reverse_lost) if split else None,
        unattributed=split.unattributed if split else None,
        forward_delay=_one_way(forward_delays(exchanges, offset) if offset else {}, offset),
        reverse_delay=_one_way(reverse_delays(exchanges, offset) if offset else {}, offset),
        clock_offset_s=(offset.ns - series.wall_minus_monotonic_ns) / 1e9 if offset else None,
        clock_offset_uncertainty_s=offset.uncertainty_s if offset else None,
        stateful=stateful,
        clock_steps=series.clock_steps,
        reflector_synchronized=series.reflector_synchronized,
        reflector_error_s=series.reflector_error_s,
        timestamp_source=series.timestamp_source,
    )


def four_stamps(samples: Sequence[StampSample]) -> list[FourStamps]:
    """Whole exchanges. One in which the reflector held the packet for longer than it was away, or for less than
    nothing, is left out: its clock was set meanwhile.
    """
    found = [
        FourStamps(
            sequence=s.sequence,
            reflector_sequence=s.reflector_sequences[0],
            t1_ns=s.sent_ns,
            t2_ns=s.reflector_received_ns,
            t3_ns=s.reflector_sent_ns,
            t4_ns=s.received_ns,
        )
        for s in samples
        if s.sent_ns is not None
        and s.received_ns is not None
        and s.reflector_received_ns is not None
        and s.reflector_sent_ns is not None
    ]
    return [e for e in found if 0 <= e.t3_ns - e.t2_ns <= e.t4_ns - e.t1_ns]


def _round_trips(samples: Sequence[StampSample], delays: dict[int, float]) -> tuple[RttSample, ...]:
    return tuple(
        RttSample(
            sequence=s.sequence,
            sent_s=s.sent_s,
            outcome=s.outcome,
            rtt_s=delays.get(s.sequence),
            duplicates=max(0, len(s.reflector_sequences) - 1),
            failure=s.failure,
        )
        for s in samples
    )


def counts_by_itself(samples: Sequence[StampSample]) -> bool | None:
    """Whether the reflector is stateful; None where nothing came back.

    Our sequences start at 1 and its own count at 0 (RFC 8762 4.3.1), so that a count is below the sequence that it
    answers, unless packets were doubled on the way. Only a copy is equal every time.
    """
    replies = [(s.sequence, theirs) for s in samples for theirs in s.reflector_sequences]
    return any(ours != theirs for ours, theirs in replies) if replies else None


def _split(samples: Sequence[StampSample]) -> SplitLoss | None:
    """Sequences are counted anew over the packets that left: one that this host kept back is no loss."""
    left = [s for s in samples if s.outcome is not Outcome.NOT_SENT]
    replies = [(number, theirs) for number, s in enumerate(left) for theirs in s.reflector_sequences]
    return split_loss(len(left), replies)


def _direction(sent: int, lost: int) -> DirectionLoss:
    interval = wilson(lost, sent)
    return DirectionLoss(
        sent=sent,
        lost=lost,
        ratio=lost / sent if sent else None,
        low=interval.low if interval else None,
        high=interval.high if interval else None,
    )


def _one_way(delays: dict[int, float], offset: Offset | None) -> OneWayDelay:
    ordered = sorted(delays.values())
    above_least = [delay - ordered[0] for delay in ordered]
    return OneWayDelay(
        n=len(ordered),
        minimum_s=ordered[0] if ordered else None,
        p50_s=nearest_rank(ordered, 50),
        p95_s=nearest_rank(ordered, 95),
        maximum_s=ordered[-1] if ordered else None,
        uncertainty_s=offset.uncertainty_s if offset else None,
        pdv_p95_s=nearest_rank(above_least, 95),
        ipdv_mean_abs_s=ipdv_mean_abs(delays),
    )


PROBE = Probe(
    name="stamp",
    schema="stamp/1",
    summary="Delay and loss of each direction by itself, where a STAMP reflector answers (netdiag reflect)",
    options=StampOptions,
    measurement=StampMeasurement,
    measure=measure,
)
