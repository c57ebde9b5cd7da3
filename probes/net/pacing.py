"""Rate ceilings, so that a diagnosis never becomes the incident."""

from __future__ import annotations

from probes.contract import Clock

_ROUNDING = 1e-6  # of a slot: a burst's tolerance divided by the interval


class Pacer:
    """At most ``burst`` events at once and ``per_second`` in the long run (the generic cell rate algorithm).

    Waiters are served in the order in which they came. A cancelled waiter's slot stays empty: slower, never faster.
    """

    def __init__(self, clock: Clock, per_second: float, burst: int = 1) -> None:
        if per_second <= 0 or burst < 1:
            raise ValueError("a rate must be above zero and a burst at least one")
        self._clock = clock
        self._interval = 1.0 / per_second
        self._tolerance = (burst - 1) * self._interval
        self._due = float("-inf")  # theoretical arrival time of the next event

    async def wait(self) -> None:
        """Return as soon as one more event conforms to the rate."""
        delay = self.reserve()
        if delay > 0:
            await self._clock.sleep(delay)

    def conforms(self) -> bool:
        """Take a slot if one is free now; False, and nothing taken, where one would have to wait for it."""
        now = self._clock.monotonic()
        if self._due - self._tolerance > now:
            return False
        self._due = max(now, self._due) + self._interval
        return True

    def conforming(self, most: int) -> int:
        """How many events conform now, at most ``most``. Takes no slot: see take()."""
        slack = self._tolerance + min(0.0, self._clock.monotonic() - self._due)
        return 0 if slack < 0 else min(most, 1 + int(slack / self._interval + _ROUNDING))

    def take(self, count: int) -> None:
        """Take the slots of ``count`` events, which conforming() has allowed."""
        if count:
            self._due = max(self._clock.monotonic(), self._due) + count * self._interval

    def reserve(self) -> float:
        """Take the next slot; how many seconds from now it is."""
        now = self._clock.monotonic()
        start = max(now, self._due - self._tolerance)
        self._due = max(start, self._due) + self._interval
        return start - now


class Pacing:
    """The two ceilings of a run: packets over all targets, connections per address."""

    def __init__(self, clock: Clock, packets_per_second: float, connections_per_second: float) -> None:
        self._clock = clock
        self._packets = Pacer(clock, packets_per_second, burst=max(1, int(packets_per_second / 20)))
        self._connections_per_second = connections_per_second
        self._connections: dict[str, Pacer] = {}

    async def packet(self) -> None:
        await self._packets.wait()

    def packets_conforming(self, most: int) -> int:
        """How many packets may go now, at most ``most``; who sends any takes their slots by take_packets()."""
        return self._packets.conforming(most)

    def take_packets(self, count: int) -> None:
        self._packets.take(count)

    def reserve_packet(self) -> float:
        """Take the next packet's slot, for those who do not wait by sleeping; how many seconds from now it is."""
        return self._packets.reserve()

    async def connection(self, address: str) -> None:
        """A connection is paced per address first, then as a packet."""
        pacer = self._connections.get(address)
        if pacer is None:
            pacer = self._connections[address] = Pacer(self._clock, self._connections_per_second)
        await pacer.wait()
        await self._packets.wait()
