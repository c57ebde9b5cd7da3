"""One reading of both clocks, and the round-trip time that stamps and clocks agree on."""

from __future__ import annotations

import time
from typing import NamedTuple

from probes.contract import Clock
from probes.exchanges import TimestampSource

CLOCK_SLACK_S = 0.001
TOGETHER_S = 0.00002  # between the two clocks of one moment
_ATTEMPTS = 10
KERNEL_RX_TX, KERNEL_RX, USER = TimestampSource.KERNEL_RX_TX, TimestampSource.KERNEL_RX, TimestampSource.USER
_SLEW = 0.001  # adjtime(3) slews by up to 500 ppm; twice that is no step


class Moment(NamedTuple):
    """Taken together: seconds on the monotonic clock, nanoseconds since the epoch on the wall clock."""

    monotonic: float
    wall_ns: int


def take_moment(clock: Clock) -> Moment:
    """Now; read again where this process was held up between the two clocks, which would look like a step."""
    monotonic = clock.monotonic()
    for _ in range(_ATTEMPTS):
        wall_ns = time.time_ns()
        after = clock.monotonic()
        if after - monotonic < TOGETHER_S:
            break
        monotonic = after
    return Moment(monotonic, wall_ns)


def stepped(before: Moment, after: Moment) -> bool:
    """Whether the wall clock, which stamps packets, was set between the two."""
    return _disagree(after.monotonic - before.monotonic, after.wall_ns - before.wall_ns)


def _disagree(elapsed_s: float, wall_ns: int) -> bool:
    return abs(wall_ns / 1e9 - elapsed_s) > CLOCK_SLACK_S + _SLEW * abs(elapsed_s)


def round_trip(
    sent: Moment, read: Moment, transmit_ns: int | None, receive_ns: int | None
) -> tuple[float, TimestampSource]:
    """Seconds by the best clock that stamped both ends and agrees with the monotonic clock, and which that was.

    We read after the kernel received, so no true RTT is longer than the one seen from user space.
    """
    sent_s, sent_ns = sent
    user = read.monotonic - sent_s
    if receive_ns is None or _disagree(user, read.wall_ns - sent_ns):
        return user, USER
    longest = user + CLOCK_SLACK_S
    if transmit_ns is not None and 0 < (kernel := (receive_ns - transmit_ns) / 1e9) <= longest:
        return kernel, KERNEL_RX_TX
    if 0 < (kernel := (receive_ns - sent_ns) / 1e9) <= longest:
        return kernel, KERNEL_RX
    return user, USER
