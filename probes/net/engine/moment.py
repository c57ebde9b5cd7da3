"""One reading of both clocks, and the round-trip time that stamps and clocks agree on. Pure."""

from __future__ import annotations

from typing import NamedTuple

from probes.exchanges import TimestampSource

CLOCK_SLACK_S = 0.001
_SLEW = 0.001  # adjtime(3) slews by up to 500 ppm; twice that is no step


class Moment(NamedTuple):
    """Taken together: seconds on the monotonic clock, nanoseconds since the epoch on the wall clock."""

    monotonic: float
    wall_ns: int


def stepped(before: Moment, after: Moment) -> bool:
    """Whether the wall clock, which stamps packets, was set between the two."""
    elapsed = after.monotonic - before.monotonic
    drift = (after.wall_ns - before.wall_ns) / 1e9 - elapsed
    return abs(drift) > CLOCK_SLACK_S + _SLEW * abs(elapsed)


def round_trip(
    *,
    sent_monotonic: float,
    answered_monotonic: float,
    transmit_ns: int | None,
    sent_wall_ns: int | None,
    receive_ns: int | None,
) -> tuple[float, TimestampSource]:
    """Seconds by the best clock that stamped both ends and agrees with the monotonic clock, and which that was.

    We read after the kernel received, so no true RTT is longer than the one seen from user space.
    """
    user = answered_monotonic - sent_monotonic
    candidates = ((transmit_ns, TimestampSource.KERNEL_RX_TX), (sent_wall_ns, TimestampSource.KERNEL_RX))
    for sent_ns, source in candidates:
        if sent_ns is not None and receive_ns is not None:
            kernel = (receive_ns - sent_ns) / 1e9
            if 0 < kernel <= user + CLOCK_SLACK_S:
                return kernel, source
    return user, TimestampSource.USER
