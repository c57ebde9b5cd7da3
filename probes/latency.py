"""Round-trip time and its spread, by ICMP echo or by TCP handshake to the service port."""

from __future__ import annotations

from probes.contract import Context, Probe
from probes.exchanges import TimestampSource
from probes.model import Target, value
from probes.sampling import LossCount as LossCount
from probes.sampling import RttSample as RttSample
from probes.sampling import RttSummary as RttSummary
from probes.sampling import Sampler, loss_count, rtt_summary


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


async def measure(context: Context, target: Target, options: LatencyOptions) -> LatencyMeasurement:
    """``count`` attempts on a fixed schedule. A timeout of TCP includes the kernel's retransmitted SYNs.

    Raises ProbeUnavailable without an address, without a port (TCP) or where ICMP sockets are not allowed.
    """
    sampler = Sampler(
        context, target, method=options.method, interval_s=options.interval_s, timeout_s=options.timeout_s
    )
    series = await sampler.take(options.count)
    return LatencyMeasurement(
        method=options.method,
        address=sampler.address,
        samples=series.samples,
        rtt=rtt_summary(series.samples),
        loss=loss_count(series.samples),
        timestamp_source=series.timestamp_source,
    )


PROBE = Probe(
    name="latency",
    schema="latency/1",
    summary="Round-trip time and its spread, by TCP handshake or ICMP echo",
    options=LatencyOptions,
    measurement=LatencyMeasurement,
    measure=measure,
)
