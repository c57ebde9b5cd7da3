"""The loop: read frames, ask the model when they leave, wait precisely, send, answer the control.

A frame's time counts from the kernel's receive stamp, so the time it waited to be read is part of its delay and not on
top of it. Waiting is select(2) with the timer slack at its least, up to SPIN_S before the frame is due, then polling.
"""

from __future__ import annotations

import ctypes
import gc
import heapq
import os
import select
import time
from collections.abc import Iterable
from typing import Protocol

from netdiag.lab.emulator.model import Direction, DropReason
from netdiag.lab.emulator.ports import Port, ip_length

SPIN_S = 30e-6  # measured: 80 us gain 15 us of precision and cost a core at 10,000 packets per second
IDLE_S = 0.5
BATCH = 16  # frames read from one side before the others get their turn
MAX_WAITING_BYTES = 128 << 20
MAX_STAMP_AGE_S = 0.1  # an older receive stamp is a step of the wall clock, not a frame that waited so long
_PR_SET_TIMERSLACK = 29


class Side(Protocol):
    """What else the loop serves: the control's sockets, the parent's pidfd."""

    def descriptors(self) -> list[int]: ...

    def serve(self, ready: Iterable[int]) -> None: ...

    def ended(self) -> bool:
        """Also called at least every IDLE_S: the place to notice what no descriptor tells."""
        ...


class Forwarder:
    """Two ports and the two directions between them."""

    def __init__(self, left: Port, right: Port, left_to_right: Direction, right_to_left: Direction) -> None:
        self._ways = {
            left.socket.fileno(): (left, left_to_right, right),
            right.socket.fileno(): (right, right_to_left, left),
        }
        self._waiting: list[tuple[float, int, int, Port, Direction, bytes]] = []
        self._waiting_bytes = 0
        self._serial = 0

    def run(self, side: Side) -> None:
        """Forward until ``side`` has ended."""
        _be_punctual()
        checked = 0.0
        while True:
            now = time.monotonic()
            if now - checked > IDLE_S:
                checked = now
                if side.ended():
                    return
            if self._turn(side, now):
                checked = 0.0

    def count_overruns(self) -> None:
        for port, direction, _ in self._ways.values():
            direction.overrun(port.overruns())

    def _turn(self, side: Side, now: float) -> bool:
        """Wait for whatever comes first and do it; whether the side was served."""
        timeout = self._waiting[0][0] - now - SPIN_S if self._waiting else IDLE_S
        others = side.descriptors()
        ready, _, _ = select.select([*self._ways, *others], [], [], min(max(timeout, 0.0), IDLE_S))
        for descriptor in ready:
            if descriptor in self._ways:
                self._read(*self._ways[descriptor])
        self._send_due()
        served = [descriptor for descriptor in ready if descriptor not in self._ways]
        if served:
            side.serve(served)
        return bool(served)

    def _read(self, port: Port, direction: Direction, out: Port) -> None:
        clock_s = time.monotonic() - time.time()
        measure = direction.needs_ip_length()
        for _ in range(BATCH):
            try:
                frame, stamp_ns, unfinished = port.receive()
            except OSError:  # none left, or the interface is down for now
                return
            if unfinished:
                direction.refuse(len(frame), DropReason.CHECKSUM)
                continue
            now = time.monotonic()
            stamped = stamp_ns * 1e-9 + clock_s
            arrival = stamped if 0.0 <= now - stamped < MAX_STAMP_AGE_S else now
            self._accept(frame, direction, arrival, ip_length(frame) if measure else None, out)

    def _accept(self, frame: bytes, direction: Direction, arrival: float, packet: int | None, out: Port) -> None:
        length = len(frame)
        if self._waiting_bytes + length > MAX_WAITING_BYTES:
            direction.refuse(length, DropReason.OVERRUN)
            return
        due = direction.offer(length, arrival, packet)
        if isinstance(due, DropReason):
            return
        for when in due:
            self._serial += 1
            self._waiting_bytes += length
            heapq.heappush(self._waiting, (when, self._serial, direction.offered, out, direction, frame))

    def _send_due(self) -> None:
        waiting = self._waiting
        while waiting and waiting[0][0] <= time.monotonic():
            due, _, ordinal, out, direction, frame = heapq.heappop(waiting)
            self._waiting_bytes -= len(frame)
            try:
                out.send(frame)
            except OSError:  # EMSGSIZE, ENETDOWN, ENOBUFS: the outgoing side drops it, as a real one would
                direction.gave_up(DropReason.SEND)
            else:
                direction.left(ordinal, len(frame), time.monotonic() - due)


def _be_punctual() -> None:
    gc.collect()
    gc.freeze()
    gc.disable()  # nothing here makes cycles, and a collection is a pause
    ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)  # the default lets every wait run 50 us late
    try:
        # Ahead of the lab's own servers: their work must not show as jitter. Linux keeps 5 % for everybody else.
        os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(1))
    except PermissionError:  # rootless
        _try_nice()


def _try_nice() -> None:
    try:
        os.nice(-10)
    except PermissionError:
        return
