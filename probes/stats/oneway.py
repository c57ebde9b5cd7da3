"""Two directions from exchanges of four timestamps, with two clocks that need not agree.

T1 the sender sends, T2 the reflector receives, T3 it sends back, T4 the sender receives. T1 and T4 are the sender's
clock, T2 and T3 the reflector's. Nanoseconds; each clock may count from anywhere.
"""

from __future__ import annotations

from collections.abc import Sequence

from probes.model import value

_BEST = 8  # one exchange in so many has about the least delay


@value
class FourStamps:
    sequence: int  # the sender's
    reflector_sequence: int
    t1_ns: int
    t2_ns: int
    t3_ns: int
    t4_ns: int

    @property
    def delay_ns(self) -> int:
        """Round trip without the reflector's own time: (T4 - T1) - (T3 - T2), RFC 5905 8."""
        return (self.t4_ns - self.t1_ns) - (self.t3_ns - self.t2_ns)

    @property
    def offset_ns(self) -> int:
        """Reflector's clock minus the sender's, were both directions alike: ((T2 - T1) + (T3 - T4)) / 2."""
        return ((self.t2_ns - self.t1_ns) + (self.t3_ns - self.t4_ns)) // 2


@value
class Offset:
    """The reflector's clock minus the sender's; true within ``uncertainty_s`` whatever the asymmetry."""

    ns: int  # an integer: two epochs may lie between the clocks, and a float would then round to 256 ns
    uncertainty_s: float


def clock_offset(exchanges: Sequence[FourStamps]) -> Offset | None:
    """From the exchanges of least delay, which queues have disturbed least (RFC 5905 10, the clock filter).

    Half of the least delay bounds the error of a single exchange: all of the delay might be in one direction.
    None without exchanges.
    """
    if not exchanges:
        return None
    best = sorted(exchanges, key=lambda e: e.delay_ns)[: -(-len(exchanges) // _BEST)]
    middle = sorted(e.offset_ns for e in best)[len(best) // 2]
    spread = max(abs(e.offset_ns - middle) for e in best)
    return Offset(ns=middle, uncertainty_s=(max(0, best[0].delay_ns) / 2 + spread) / 1e9)


def forward_delays(exchanges: Sequence[FourStamps], offset: Offset) -> dict[int, float]:
    """T2 - T1 on one clock, seconds by the sender's sequence (RFC 7679)."""
    return {e.sequence: (e.t2_ns - e.t1_ns - offset.ns) / 1e9 for e in exchanges}


def reverse_delays(exchanges: Sequence[FourStamps], offset: Offset) -> dict[int, float]:
    """T4 - T3 on one clock, seconds by the sender's sequence."""
    return {e.sequence: (e.t4_ns - e.t3_ns + offset.ns) / 1e9 for e in exchanges}


@value
class SplitLoss:
    """Packets by direction (RFC 7680). ``unattributed`` were lost after the last reply: nobody can tell which way."""

    forward_sent: int
    forward_lost: int
    reverse_sent: int
    reverse_lost: int
    unattributed: int


def split_loss(sent: int, replies: Sequence[tuple[int, int]]) -> SplitLoss | None:
    """``replies`` are pairs (sender's sequence, reflector's own sequence), both from 0; duplicates may be among them.

    Up to the last reply the reflector's highest sequence says how many packets reached it (RFC 8762 4.3: a stateful
    reflector counts on its own); a packet that came twice it counted twice. None where nothing came back, or where
    the reflector's counter cannot be this session's.
    """
    if not replies:
        return None
    distinct = set(replies)
    answered = {sequence for sequence, _ in distinct}
    asked = max(answered) + 1
    reached = max(count for _, count in distinct) + 1 - (len(distinct) - len(answered))
    if not len(answered) <= reached <= asked:
        return None
    return SplitLoss(
        forward_sent=asked,
        forward_lost=asked - reached,
        reverse_sent=reached,
        reverse_lost=reached - len(answered),
        unattributed=sent - asked,
    )
