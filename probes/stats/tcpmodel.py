"""What TCP makes of a path's loss and round-trip time: the throughput of a long transfer, and whether a connect comes
through in time."""

from __future__ import annotations

from math import sqrt

from probes.model import value

RTO_MAX_S = 120.0  # TCP_RTO_MAX
INITIAL_RTO_S = 1.0  # RFC 6298 2.1


def mathis(loss: float, rtt_s: float, mss_bytes: int) -> float:
    """Bytes per second, Mathis et al. (1997): sqrt(3/2) MSS / (RTT sqrt(p)). Fair up to 2 % loss; 0 < loss < 1."""
    return sqrt(1.5) * mss_bytes / (rtt_s * sqrt(loss))


def pftk(loss: float, rtt_s: float, mss_bytes: int, rto_s: float, *, acked: int = 2) -> float:
    """Bytes per second of a loss-based sender (Reno, CUBIC at such rates): Padhye et al. (1998), equation 30.

    ``rto_s`` is the retransmission timeout, ``acked`` the packets that one acknowledgement covers; 0 < loss < 1. The
    receive window is not considered. Timeouts are what counts above 2 % loss. BBR does not follow it.
    """
    fast = rtt_s * sqrt(2 * acked * loss / 3)
    timeouts = rto_s * min(1.0, 3 * sqrt(3 * acked * loss / 8)) * loss * (1 + 32 * loss**2)
    return mss_bytes / (fast + timeouts)


@value
class SynSchedule:
    """``times_s``: when each SYN leaves, from 0; ``gives_up_s``: when connect(2) fails with ETIMEDOUT."""

    times_s: tuple[float, ...]
    gives_up_s: float


def syn_schedule(retries: int, linear_timeouts: int) -> SynSchedule:
    """From net.ipv4.tcp_syn_retries and tcp_syn_linear_timeouts, as this kernel has them (0 where it has no such).

    ``linear_timeouts`` retransmissions come 1 s apart and do not count against ``retries``; then the timeout doubles,
    up to RTO_MAX_S (tcp_timer.c since Linux 6.5). The kernel's timers run late by up to some per cent.
    """
    times, timeout = [0.0], INITIAL_RTO_S
    for sent in range(linear_timeouts + retries):
        times.append(times[-1] + timeout)
        if sent >= linear_timeouts:
            timeout = min(RTO_MAX_S, timeout * 2)
    return SynSchedule(times_s=tuple(times), gives_up_s=times[-1] + timeout)


def syns_in_time(schedule: SynSchedule, timeout_s: float, rtt_s: float) -> int:
    """How many SYNs leave so early that their SYN-ACK can be back within ``timeout_s``."""
    limit = min(timeout_s, schedule.gives_up_s)
    return sum(sent + rtt_s <= limit for sent in schedule.times_s)


def connect_success(
    schedule: SynSchedule, timeout_s: float, rtt_s: float, forward_loss: float, reverse_loss: float
) -> float:
    """Chance that the TCP handshake is done within ``timeout_s``: 1 - (1 - (1 - p)(1 - q))^n, independent losses.

    One SYN and its SYN-ACK have to come through; retransmitted SYN-ACKs are not counted, which is slightly pessimistic.
    """
    arrives = (1 - forward_loss) * (1 - reverse_loss)
    return 1 - (1 - arrives) ** syns_in_time(schedule, timeout_s, rtt_s)


def attempts_needed(success: float, residual: float) -> int | None:
    """Independent attempts until the chance that all of them fail is at most ``residual``; None where none succeeds."""
    if success <= 0:
        return None
    attempts, failing = 1, 1 - success
    while failing > residual * (1 + 1e-12):
        attempts, failing = attempts + 1, failing * (1 - success)
    return attempts
