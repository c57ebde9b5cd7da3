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
from collections.abc import Callable, Iterable

from probes.contract import Clock
from probes.exchanges import EchoRequest, EchoSeries, TimestampSource
from probes.failures import from_os_error
from probes.net.engine.bulk import BATCH, LARGEST_SENDING, Boxes
from probes.net.engine.channel import EchoChannel, Letter, boxes
from probes.net.engine.flight import Flight
from probes.net.engine.messages import Errors
from probes.net.engine.moment import Moment, take_moment
from probes.net.engine.series import Probe, Series, check_count
from probes.net.pacing import Pacing
from probes.net.sockets import socket_address
from probes.net.warmup import Stamping

TICK_S = 0.020
_SOONEST_S, _LATEST_S = 0.001, 0.050  # between two readings while the last answers are awaited
_PATIENCE = 0.25  # of the time since the last send, until the next reading
_SENDS_PER_TICK = 512
_READINGS_PER_TICK = 8  # of BATCH packets each: a flood must not hold the event loop
_MOST_PENDING_ERRORS = 8  # of earlier packets, that one send may meet
_NEVER = float("inf")


class EchoEngine:
    """The series of one address family. ``chance`` draws tokens, payloads and jitter."""

    def __init__(
        self, family: socket.AddressFamily, clock: Clock, pacing: Pacing, chance: random.Random | None = None
    ) -> None:
        self._family, self._clock, self._pacing = family, clock, pacing
        self._chance = chance or random.Random(os.urandom(32))
        self._stamping = Stamping(family, clock)
        self._boxes: Boxes | None = None
        self._session: _Session | None = None
        self._users = 0  # of the session
        self._number = 0

    async def measure(self, request: EchoRequest) -> EchoSeries:
        """One series; any number may be under way. Raises ProbeUnavailable, or ValueError for an impossible count."""
        check_count(request)  # before a socket is asked for: a caller's mistake is one whatever this host allows
        session = self._session = self._session or self._open()
        self._users += 1
        self._number += 1
        series = Series(request, self._clock.monotonic(), self._chance, self._number)
        try:
            return await session.add(series)
        finally:
            session.remove(series)
            self._users -= 1
            if not self._users:
                session.close()
                self._session = None

    def _open(self) -> _Session:
        self._boxes = self._boxes or boxes()
        return _Session(EchoChannel(self._family, self._boxes), self._clock, self._pacing, self._stamping)


class _Running:
    """A series under way: how its packets are made, or why none can be, and who waits for it."""

    __slots__ = ("done", "letter", "series")

    def __init__(self, series: Series, letter: Letter | OSError) -> None:
        self.series, self.letter = series, letter
        self.done: asyncio.Future[EchoSeries] = asyncio.get_running_loop().create_future()


class _Session:
    """From the opening of the socket to its closing."""

    def __init__(self, channel: EchoChannel, clock: Clock, pacing: Pacing, stamping: Stamping) -> None:
        self._channel, self._clock, self._pacing = channel, clock, pacing
        self._loop = asyncio.get_running_loop()
        self._cold = True  # until no echo of ours goes unstamped
        self._warm_up = self._loop.create_task(self._warm(stamping))
        self._flight = Flight()
        self._running: dict[int, _Running] = {}
        self._due: list[tuple[float, int, _Running]] = []  # heap of (next echo, number, series)
        self._waiting: list[tuple[float, int]] = []  # heap of (end of the wait, series) with all sent
        self._outbox: list[tuple[Probe, Letter]] = []  # what the socket had no room for yet
        self._slot: float | None = None  # when the packet that the token bucket has promised may go
        self._last_tick = self._last_send = -_NEVER
        self._timer: asyncio.TimerHandle | None = None
        self._wake_at = _NEVER
        self._eager = False
        self._read_at_once(eager=True)

    async def _warm(self, stamping: Stamping) -> None:
        try:
            await stamping.in_force()
        except Exception as error:
            self._fail(error)
        self._cold = False
        self._guarded(self._begin_all)

    def _begin_all(self) -> None:
        """The series that came while it was cold."""
        now = self._clock.monotonic()
        for running in self._running.values():
            running.series.start_at(now)
            self._begin(running)

    def _begin(self, running: _Running) -> None:
        heapq.heappush(self._due, (running.series.due, running.series.number, running))

    def add(self, series: Series) -> asyncio.Future[EchoSeries]:
        running = self._running[series.number] = _Running(series, self._letter(series))
        if not self._cold:
            self._begin(running)
            self._schedule()
        return running.done

    def _letter(self, series: Series) -> Letter | OSError:
        try:
            where = socket_address(series.request.address, 0)
        except OSError as error:  # no such interface: every echo of the series says so
            return error
        return self._channel.letter(where, series.payload, series.request.ttl)

    def remove(self, series: Series) -> None:
        """Also one that was given up before its end."""
        if self._running.pop(series.number, None) is not None:
            self._flight.forget(series)
            series.probes.clear()  # each has its series: what is a cycle would wait for the collector

    def close(self) -> None:
        self._warm_up.cancel()
        self._read_at_once(eager=False)
        if self._timer is not None:
            self._timer.cancel()
        self._channel.close()

    def _moment(self) -> Moment:
        return take_moment(self._clock)

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
            self._fail(error)
        else:
            self._schedule()

    def _fail(self, error: Exception) -> None:
        for running in self._running.values():
            if not running.done.done():
                running.done.set_exception(error)

    def _tick(self) -> None:
        self._read()
        self._send_due()
        self._end_overdue()

    def _schedule(self) -> None:
        """Wake up for whatever comes first: a send, a reading, the end of a wait."""
        now = self._clock.monotonic()
        send = max(self._due[0][0], self._slot or 0.0, self._last_tick + TICK_S) if self._due else _NEVER
        if self._outbox:
            send = min(send, self._last_tick + TICK_S)
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
        self._last_tick = self._clock.monotonic()
        count = 0
        while count < _SENDS_PER_TICK:
            size = self._sending_size()
            self._gather(size)
            count += len(self._outbox)
            short = len(self._outbox) < size
            if not self._outbox or not self._send() or short:
                return
            self._read()
        self._last_tick -= TICK_S  # more is due: on with it, after what else the loop has to do

    def _sending_size(self) -> int:
        """Packets of one batch share one reading of our clock, which times them where the kernel stamps none."""
        return LARGEST_SENDING if self._flight.stamped else 1

    def _gather(self, size: int) -> None:
        """Fill the outbox up to ``size`` with what is due and may go."""
        moment, room = self._moment(), size - len(self._outbox)
        if room <= 0 or not self._is_due(moment):
            return
        allowed, taken = self._allowed(room), 0
        while taken < allowed and self._is_due(moment):
            self._take(self._due[0][2], moment)
            taken += 1
        self._pay(taken)

    def _is_due(self, moment: Moment) -> bool:
        """Whether the first in the heap is; those of series that were given up are dropped."""
        due, running = self._due, self._running
        while due and due[0][1] not in running:
            heapq.heappop(due)
        return bool(due) and due[0][0] <= moment.monotonic

    def _allowed(self, most: int) -> int:
        """How many packets the token bucket lets go now. Of the future it promises one at a time."""
        if self._slot is None:
            count = self._pacing.packets_conforming(most)
            if not count:
                self._slot = self._clock.monotonic() + self._pacing.reserve_packet()
            return count
        return 1 + self._pacing.packets_conforming(most - 1) if self._slot <= self._clock.monotonic() else 0

    def _pay(self, packets: int) -> None:
        """The promised slot first: it was taken when it was promised."""
        if packets and self._slot is not None:
            self._slot = None
            packets -= 1
        self._pacing.take_packets(packets)

    def _take(self, running: _Running, moment: Moment) -> None:
        """The next echo of a series, the first in the heap; then it is next due, or only waits."""
        series = running.series
        probe = series.sent(moment)
        if series.all_sent:
            heapq.heappop(self._due)
            heapq.heappush(self._waiting, (series.deadline, series.number))
        else:
            heapq.heapreplace(self._due, (series.due, series.number, running))
        if isinstance(running.letter, OSError):
            self._failed(probe, running.letter)
        else:
            self._outbox.append((probe, running.letter))

    def _failed(self, probe: Probe, error: OSError) -> None:
        probe.series.failed(probe, from_os_error(error, "send"))
        self._finish([probe.series])

    def _send(self) -> bool:
        """Send what is in the outbox, or note why it could not be; False when the socket has no room now.

        An errno that was an earlier packet's ICMP error is no reason not to send this one.
        """
        again = _MOST_PENDING_ERRORS
        while self._outbox:
            moment = self._moment()
            try:
                count = self._send_some(moment)
            except BlockingIOError as error:
                self._give_up(error, moment)
                return not self._outbox
            except OSError as error:
                again -= 1
                if not self._after_failure() or not again:
                    self._failed(self._outbox.pop(0)[0], error)
                    again = _MOST_PENDING_ERRORS
            else:
                self._last_send, again = moment.monotonic, _MOST_PENDING_ERRORS
                del self._outbox[:count]
                if self._outbox:  # an error stopped it, of which only the next call may tell
                    self._after_failure()
        return True

    def _send_some(self, moment: Moment) -> int:
        first = self._flight.sequence
        outgoing = self._outbox[:LARGEST_SENDING]
        packets = [(letter.parcel, letter.head(first + at & 0xFFFF)) for at, (_, letter) in enumerate(outgoing)]
        count = self._channel.send(packets)
        for probe, _ in outgoing[:count]:
            probe.sent = moment
            self._flight.sent(probe)
        return count

    def _give_up(self, error: OSError, moment: Moment) -> None:
        """What has waited for room longer than its answer would have been waited for."""
        self._after_failure()
        waiting, self._outbox = self._outbox, []
        for probe, letter in waiting:
            if moment.monotonic < probe.sent.monotonic + probe.series.request.timeout_s:
                self._outbox.append((probe, letter))
            else:
                self._failed(probe, error)

    def _after_failure(self) -> bool:
        """Whether ICMP errors were queued."""
        errors = self._read_errors()
        self._channel.restart_numbers()
        self._flight.restart_numbers()
        return errors.any_icmp

    def _read(self) -> None:
        """Replies before stamps: a reply's transmit stamp was queued before it, and so is known when it is timed."""
        for _ in range(_READINGS_PER_TICK):
            replies = self._channel.replies()
            read = self._moment()  # after them: what our clock says is never shorter than the truth
            touched = self._flight.replies(replies, read)
            errors = self._read_errors()
            self._finish(touched)
            if replies:
                self._read_at_once(eager=any(reply[3] is None for reply in replies))
            if len(replies) < BATCH and len(errors.stamps) + len(errors.icmp) < BATCH:
                return

    def _read_errors(self) -> Errors:
        errors = self._channel.errors()
        self._flight.stamps(errors.stamps)
        if errors.icmp:
            read = self._moment()
            self._finish([series for error in errors.icmp if (series := self._flight.error(error, read))])
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
