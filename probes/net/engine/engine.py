"""The loop of the echo engine: many series, one socket, one token bucket, in ticks.

Sends fall into ticks: whatever is due goes out together, so that one wake-up serves many packets. It is targets that
share a tick: two echoes of one series are at least half their interval apart. Reading is lazy, for the kernel stamps
each packet as it leaves and as it comes; only until the first stamped reply, and where there are no stamps, is each
packet read as it arrives, because our own clock is then all there is.

Everything runs on the event loop that asks. Nothing is held between series: the socket, and with it the identifier,
lives from the first of the series that overlap to the last.
"""

from __future__ import annotations

import asyncio
import heapq
import os
import random
import socket
import time
from collections.abc import Callable, Iterable

from probes.contract import Clock
from probes.exchanges import EchoRequest, EchoSeries, TimestampSource
from probes.failures import from_os_error
from probes.net.engine.channel import BATCH, EchoChannel, Errors
from probes.net.engine.flight import Flight
from probes.net.engine.moment import Moment
from probes.net.engine.series import Series
from probes.net.engine.warmup import Stamping
from probes.net.pacing import Pacing
from probes.net.sockets import socket_address
from probes.wire.icmp import echo_packets

TICK_S = 0.020
_SOONEST_S, _LATEST_S = 0.001, 0.050  # between two readings while the last answers are awaited
_PATIENCE = 0.25  # of the time since the last send, until the next reading
_SENDS_PER_READING = 64  # what the receive buffer surely has room for, stamps and replies
_SENDS_PER_TICK = 512
_READINGS_PER_TICK = 8  # of BATCH packets each: a flood must not hold the event loop
_MOST_PENDING_ERRORS = 8  # of earlier packets, that one send may meet
_NEVER = float("inf")

Where = tuple[object, ...] | OSError


class EchoEngine:
    """The series of one address family. ``chance`` draws tokens, payloads and jitter."""

    def __init__(
        self, family: socket.AddressFamily, clock: Clock, pacing: Pacing, chance: random.Random | None = None
    ) -> None:
        self._family, self._clock, self._pacing = family, clock, pacing
        self._chance = chance or random.Random(os.urandom(32))
        self._stamping = Stamping(family, clock)
        self._session: _Session | None = None
        self._users = 0  # of the session
        self._number = 0

    async def measure(self, request: EchoRequest) -> EchoSeries:
        """One series; any number may be under way. Raises ProbeUnavailable, or ValueError for an impossible count."""
        session = self._session = self._session or self._open()
        self._users += 1
        try:
            await session.stamping()
            return await self._run(session, request)
        finally:
            self._users -= 1
            if not self._users:
                session.close()
                self._session = None

    def _open(self) -> _Session:
        return _Session(EchoChannel(self._family), self._clock, self._pacing, self._stamping)

    async def _run(self, session: _Session, request: EchoRequest) -> EchoSeries:
        self._number += 1
        series = Series(request, self._clock.monotonic(), self._chance, self._number)
        try:
            return await session.add(series)
        finally:
            session.remove(series)


class _Running:
    """A series under way: where its packets go, how they are made, and who waits for it."""

    __slots__ = ("done", "packet", "series", "where")

    def __init__(self, series: Series, where: Where, packet: Callable[[int], bytes]) -> None:
        self.series, self.where, self.packet = series, where, packet
        self.done: asyncio.Future[EchoSeries] = asyncio.get_running_loop().create_future()


class _Session:
    """From the opening of the socket to its closing."""

    def __init__(self, channel: EchoChannel, clock: Clock, pacing: Pacing, stamping: Stamping) -> None:
        self._channel, self._clock, self._pacing = channel, clock, pacing
        self._loop = asyncio.get_running_loop()
        self._warm_up = self._loop.create_task(stamping.in_force())
        self._flight = Flight()
        self._running: dict[int, _Running] = {}
        self._due: list[tuple[float, int]] = []  # heap of (next echo, series)
        self._waiting: list[tuple[float, int]] = []  # heap of (end of the wait, series) with all sent
        self._slot: float | None = None  # when the packet that the token bucket has promised may go
        self._last_tick = self._last_send = -_NEVER
        self._timer: asyncio.TimerHandle | None = None
        self._wake_at = _NEVER
        self._eager = False
        self._read_at_once(eager=True)

    async def stamping(self) -> None:
        """Until no echo of ours goes unstamped. A series that is given up meanwhile does not take the others' wait."""
        await asyncio.shield(self._warm_up)

    def add(self, series: Series) -> asyncio.Future[EchoSeries]:
        packet = echo_packets(self._channel.family, self._channel.identifier, series.payload)
        running = self._running[series.number] = _Running(series, _where(series.request.address), packet)
        heapq.heappush(self._due, (series.due, series.number))
        self._schedule()
        return running.done

    def remove(self, series: Series) -> None:
        """Also one that was given up before its end."""
        if self._running.pop(series.number, None) is not None:
            self._flight.forget(series)

    def close(self) -> None:
        self._warm_up.cancel()
        self._read_at_once(eager=False)
        if self._timer is not None:
            self._timer.cancel()
        self._channel.close()

    def _moment(self) -> Moment:
        return Moment(self._clock.monotonic(), time.time_ns())

    def _on_timer(self) -> None:
        self._wake_at = _NEVER
        self._guarded(self._tick)

    def _on_readable(self) -> None:
        self._guarded(self._read)

    def _guarded(self, work: Callable[[], None]) -> None:
        """An event loop only logs what a callback raises; here those who wait for a series must hear of it."""
        try:
            work()
        except Exception as error:
            for running in self._running.values():
                if not running.done.done():
                    running.done.set_exception(error)
        else:
            self._schedule()

    def _tick(self) -> None:
        self._read()
        self._send_due()
        self._end_overdue()

    def _schedule(self) -> None:
        """Wake up for whatever comes first: a send, a reading, the end of a wait."""
        now = self._clock.monotonic()
        send = max(self._due[0][0], self._slot or 0.0, self._last_tick + TICK_S) if self._due else _NEVER
        while self._waiting and self._waiting[0][1] not in self._running:
            heapq.heappop(self._waiting)
        end = self._waiting[0][0] if self._waiting else _NEVER
        read = _NEVER
        if self._waiting and not self._eager and send > now + TICK_S:
            read = now + min(max(_PATIENCE * (now - self._last_send), _SOONEST_S), _LATEST_S)
        wake = min(send, end, read)
        if wake < self._wake_at:
            if self._timer is not None:
                self._timer.cancel()
            self._wake_at = wake
            self._timer = self._loop.call_later(max(0.0, wake - now), self._on_timer)

    def _read_at_once(self, *, eager: bool) -> None:
        if eager and not self._eager:
            self._loop.add_reader(self._channel.fileno(), self._on_readable)
        elif self._eager and not eager:
            self._loop.remove_reader(self._channel.fileno())
        self._eager = eager

    def _send_due(self) -> None:
        self._last_tick = now = self._clock.monotonic()
        for count in range(1, _SENDS_PER_TICK + 1):
            while self._due and self._due[0][1] not in self._running:
                heapq.heappop(self._due)
            if not self._due or self._due[0][0] > now or not self._conforms():
                return
            if not self._send(self._running[self._due[0][1]]):
                return
            if count % _SENDS_PER_READING == 0:
                self._read()
        self._last_tick -= TICK_S  # more is due: on with it, after what else the loop has to do

    def _conforms(self) -> bool:
        """Whether the token bucket lets one more packet go now. Of the future it promises one at a time."""
        now = self._clock.monotonic()
        if self._slot is None:
            self._slot = now + self._pacing.reserve_packet()
        return self._slot <= now

    def _send(self, running: _Running) -> bool:
        """Send the series' next echo, or note why it could not be; False when the socket has no room now."""
        series, moment = running.series, self._moment()
        try:
            self._try_send(running)
        except BlockingIOError as error:
            if moment.monotonic < series.due + series.request.timeout_s:
                return False
            series.failed(moment, from_os_error(error, "send"))
        except OSError as error:
            series.failed(moment, from_os_error(error, "send"))
        self._slot = None
        self._last_send = moment.monotonic
        self._plan(running)
        return True

    def _try_send(self, running: _Running) -> None:
        """Raises OSError. An errno that was an earlier packet's ICMP error is no reason not to send this one."""
        if isinstance(running.where, OSError):
            raise running.where
        series = running.series
        for _ in range(_MOST_PENDING_ERRORS):
            moment = self._moment()
            try:
                self._channel.send(running.packet(self._flight.sequence), running.where, series.request.ttl)
            except OSError as error:
                failure = error
            else:
                self._flight.sent(series.sent(moment))
                return
            if not self._after_failure():
                break
        raise failure

    def _after_failure(self) -> bool:
        """Whether ICMP errors were queued."""
        errors = self._read_errors()
        self._channel.restart_numbers()
        self._flight.restart_numbers()
        return errors.any_icmp

    def _plan(self, running: _Running) -> None:
        """After a send, which was the first in the heap: when the series is next due, or how long it waits."""
        series = running.series
        if not series.all_sent:
            heapq.heapreplace(self._due, (series.due, series.number))
            return
        heapq.heappop(self._due)
        heapq.heappush(self._waiting, (series.deadline, series.number))
        self._finish([series])

    def _read(self) -> None:
        """Replies before stamps: a reply's transmit stamp was queued before it, and so is known when it is timed."""
        for _ in range(_READINGS_PER_TICK):
            read = self._moment()
            replies = self._channel.replies()
            touched = {self._flight.reply(reply, read) for reply in replies}
            errors = self._read_errors()
            self._finish(series for series in touched if series is not None)
            if replies:
                self._read_at_once(eager=any(reply.stamp_ns is None for reply in replies))
            if len(replies) < BATCH and len(errors.stamps) + len(errors.icmp) < BATCH:
                return

    def _read_errors(self) -> Errors:
        errors = self._channel.errors()
        for stamp in errors.stamps:
            self._flight.stamp(stamp)
        if errors.icmp:
            read = self._moment()
            touched = {self._flight.error(error, read) for error in errors.icmp}
            self._finish(series for series in touched if series is not None)
        return errors

    def _finish(self, touched: Iterable[Series]) -> None:
        for series in touched:
            if series.finished:
                self._complete(series)

    def _complete(self, series: Series) -> None:
        running = self._running.get(series.number)
        if running is None or running.done.done():
            return
        running.done.set_result(series.result(self._channel.kind, self._expected_source()))
        self.remove(series)

    def _expected_source(self) -> TimestampSource:
        return TimestampSource.KERNEL_RX_TX if self._channel.transmit_stamps else TimestampSource.KERNEL_RX

    def _end_overdue(self) -> None:
        now = self._clock.monotonic()
        while self._waiting and self._waiting[0][0] <= now:
            running = self._running.get(heapq.heappop(self._waiting)[1])
            if running is not None:
                self._complete(running.series)


def _where(address: str) -> Where:
    try:
        return socket_address(address, 0)
    except OSError as error:  # no such interface: every echo of the series says so
        return error
