"""How delay varies from packet to packet. Delays are by sequence number, in any unit; results are in the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

from probes.stats.summaries import nearest_rank

_GAIN = 16  # RFC 3550 6.4.1: "a good noise reduction ratio while maintaining a reasonable rate of convergence"


def ipdv(delays: Mapping[int, float]) -> tuple[float, ...]:
    """Inter-packet delay variation, signed, of consecutive packets (RFC 3393 4.2; RFC 5481 4.1).

    A pair of which one packet has no delay is undefined and left out.
    """
    return tuple(delays[n + 1] - delays[n] for n in sorted(delays) if n + 1 in delays)


def pdv(delays: Mapping[int, float]) -> tuple[float, ...]:
    """Packet delay variation: delay above the least of the sample, by sequence (RFC 5481 4.2)."""
    least = min(delays.values(), default=0.0)
    return tuple(delays[n] - least for n in sorted(delays))


def pdv_percentile(delays: Mapping[int, float], percent: float) -> float | None:
    """RFC 5481 6.5 names the 99.9th; 0 < ``percent`` <= 100. None without a delay."""
    return nearest_rank(sorted(pdv(delays)), percent)


def rtp_jitter(transits: Sequence[float]) -> float | None:
    """Interarrival jitter (RFC 3550 6.4.1) after the last of ``transits``, which are in order of arrival.

    A transit is arrival minus sending, whatever the offset of the two clocks. J starts at 0 and moves by
    (|D| - J) / 16 with each packet. None for fewer than two packets.
    """
    if len(transits) < 2:
        return None
    jitter = 0.0
    for before, after in pairwise(transits):
        jitter += (abs(after - before) - jitter) / _GAIN
    return jitter
