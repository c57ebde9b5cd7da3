"""What happens to a frame on one direction of a link: arithmetic and chance, no clock, no socket.

Each frame passes these stations in this order; the first that drops it ends its way:

1. size         an IP packet longer than ``mtu_drop_bytes`` is dropped (``too-big``)
2. loss         independent, or Gilbert-Elliott: each frame first moves the state, then is lost by its ratio (``loss``)
3. rate         a transmitter that is busy until ``free``; a frame starts at max(now, free) and takes 8 * length / rate.
                What waits is (free - now) * rate / 8 bytes; a frame that would exceed the queue is dropped (``queue``)
4. delay        delay_s + uniform(0, jitter_s), and never earlier than the frame before: as in a router's queue, jitter
                does not reorder. Where frames come closer than jitter_s apart, delays therefore lean to the long side
5. reordering   with probability ``reorder`` the frame is held back reorder_s more, and the next ones may pass it
6. duplication  the copy leaves right behind its original and takes no transmission time

Each station draws from a generator of its own, once per frame that reaches its station, so the nth decision on loss
depends on the seed alone and not on what jitter or duplication do.

A change of settings or a window's edge is like a change of path: frames under way keep their time, and new ones may
pass them.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from random import Random

from netdiag.lab.emulator.settings import LinkSettings
from probes.model import value

PLAIN_WIRE = LinkSettings()
LATE_S = 5e-4


class DropReason(StrEnum):
    """Why a frame did not leave."""

    LOSS = "loss"
    QUEUE = "queue"
    TOO_BIG = "too-big"
    OVERRUN = "overrun"  # this process was too slow, or held too many bytes: the emulation itself is at its limit
    CHECKSUM = "checksum"  # arrived with a half-computed checksum: checksum offload is on at the sender
    SEND = "send"  # the kernel refused it: longer than the outgoing interface's MTU, or that interface is down


@value
class Counters:
    """One direction since the start. received + duplicated = forwarded + sum(dropped) + waiting."""

    received: int
    received_bytes: int
    forwarded: int
    forwarded_bytes: int
    dropped: dict[DropReason, int]  # every reason, also at 0
    duplicated: int
    reordered: int  # left after a frame that had come later (RFC 4737)
    waiting: int
    late: int  # left more than LATE_S after their time: how far to trust the delays, on a busy machine without root

    def lost(self) -> int:
        """Frames dropped for any reason."""
        return sum(self.dropped.values())


class Direction:
    """The state of one direction. Times are seconds on any clock that does not go back, lengths bytes of frame.

    ``seed`` and ``name`` decide every draw: the same ones give the same decisions for the same sequence of frames.
    """

    def __init__(self, name: str, seed: int) -> None:
        self.name = name
        self._seed = seed
        self.offered = 0
        self.dropped = dict.fromkeys(DropReason, 0)
        self._received_bytes = self._forwarded = self._forwarded_bytes = self._duplicated = self._reordered = 0
        self._waiting = self._late = 0
        self._newest_sent = 0
        self._free = 0.0
        self.put_in_force((), now=0.0)

    def put_in_force(self, settings: Sequence[LinkSettings], *, now: float, seed: int | None = None) -> None:
        """From ``now`` on these apply: the last of them whose window is on, or a plain wire when none is.

        Windows count from ``now``, and the draws start anew, from ``seed`` or from the one given at the start.
        """
        self.settings = tuple(settings)
        self._since = now
        self._windowed = any(each.window is not None for each in self.settings)
        streams = [Random(f"{self._seed if seed is None else seed}/{self.name}/{use}") for use in range(4)]
        self._loss, self._jitter, self._hold, self._copy = (stream.random for stream in streams)
        self._free = now
        self._apply(self._in_force(now))

    def needs_ip_length(self) -> bool:
        return any(each.mtu_drop_bytes is not None for each in self.settings)

    def offer(self, length: int, now: float, ip_length: int | None = None) -> tuple[float, ...] | DropReason:
        """A frame comes in: when it leaves (twice if duplicated), or why it does not.

        ``ip_length`` is the length of the IP packet in it, None for anything else (ARP).
        """
        self.offered += 1
        self._received_bytes += length
        if self._windowed:
            self._follow_windows(now)
        set_ = self._active
        if ip_length is not None and set_.mtu_drop_bytes is not None and ip_length > set_.mtu_drop_bytes:
            return self.drop(DropReason.TOO_BIG)
        if set_.loss and self._is_lost():
            return self.drop(DropReason.LOSS)
        sent = now if set_.rate_bps is None else self._transmit(length, now, set_.rate_bps, set_.queue_bytes)
        if sent is None:
            return self.drop(DropReason.QUEUE)
        return self._leave(sent)

    def drop(self, reason: DropReason, count: int = 1) -> DropReason:
        self.dropped[reason] += count
        return reason

    def overrun(self, count: int) -> None:
        """Frames that came in and were lost before anybody read them; their lengths are not known."""
        self.offered += count
        self.drop(DropReason.OVERRUN, count)

    def refuse(self, length: int, reason: DropReason) -> None:
        """A frame that came in and is dropped before any station sees it."""
        self.offered += 1
        self._received_bytes += length
        self.drop(reason)

    def left(self, ordinal: int, length: int, after_s: float = 0.0) -> None:
        """The frame that was the ``ordinal``-th offered was handed on, ``after_s`` later than it should."""
        self._late += after_s > LATE_S
        self._waiting -= 1
        self._forwarded += 1
        self._forwarded_bytes += length
        if ordinal < self._newest_sent:
            self._reordered += 1
        else:
            self._newest_sent = ordinal

    def gave_up(self, reason: DropReason) -> None:
        """A frame that was to leave did not."""
        self._waiting -= 1
        self.drop(reason)

    def counters(self) -> Counters:
        return Counters(
            received=self.offered,
            received_bytes=self._received_bytes,
            forwarded=self._forwarded,
            forwarded_bytes=self._forwarded_bytes,
            dropped=dict(self.dropped),
            duplicated=self._duplicated,
            reordered=self._reordered,
            waiting=self._waiting,
            late=self._late,
        )

    def _in_force(self, now: float) -> LinkSettings:
        for each in reversed(self.settings):
            if each.window is None or each.window.is_on(now - self._since):
                return each
        return PLAIN_WIRE

    def _follow_windows(self, now: float) -> None:
        active = self._in_force(now)
        if active is not self._active:
            self._apply(active)

    def _apply(self, active: LinkSettings) -> None:
        self._active = active
        self._enter, self._leave_spell = active.spells()
        self._bad = active.burst is not None and self._loss() < active.loss / active.burst_loss
        self._last_due = 0.0

    def _is_lost(self) -> bool:
        active = self._active
        if active.burst is None:
            return self._loss() < active.loss
        move = self._loss()
        self._bad = move >= self._leave_spell if self._bad else move < self._enter
        return self._bad and (active.burst_loss == 1.0 or self._loss() < active.burst_loss)

    def _transmit(self, length: int, now: float, rate_bps: float, queue_bytes: int | None) -> float | None:
        start = max(now, self._free)
        # Half a byte of tolerance: the waiting bytes are a difference of times.
        if queue_bytes is not None and (start - now) * rate_bps / 8.0 + length > queue_bytes + 0.5:
            return None
        self._free = start + 8.0 * length / rate_bps
        return self._free

    def _leave(self, sent: float) -> tuple[float, ...]:
        active = self._active
        due = sent + active.delay_s
        if active.jitter_s:
            due += self._jitter() * active.jitter_s
        due = self._last_due = max(due, self._last_due)
        if active.reorder and self._hold() < active.reorder:
            due += active.reorder_s
        if active.duplicate and self._copy() < active.duplicate:
            self._duplicated += 1
            self._waiting += 2
            return (due, due)
        self._waiting += 1
        return (due,)
