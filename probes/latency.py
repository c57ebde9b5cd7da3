"""Round-trip time and its spread, by ICMP echo or by TCP handshake to the service port."""

from __future__ import annotations

from probes.exchanges import TimestampSource
from probes.model import Failure, Outcome, value


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
class LatencyOptions:
    method: str = "tcp"  # "tcp" | "icmp"
    count: int = 10
    interval_s: float = 0.2
    timeout_s: float = 3.0


@value
class LatencyMeasurement:
    method: str
    address: str
    samples: tuple[RttSample, ...]
    rtt: RttSummary
    loss: LossCount
    timestamp_source: TimestampSource
