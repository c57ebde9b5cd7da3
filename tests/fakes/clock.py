"""A clock that moves only when somebody sleeps or a scripted exchange takes time."""

from __future__ import annotations

import asyncio
import itertools
from datetime import UTC, datetime, timedelta

START = datetime(2024, 1, 25, 3, 0, 0, tzinfo=UTC)


TURNS = 8  # of the event loop, for everybody who is about to sleep as well


class FakeClock:
    """Sleepers wake in the order of their time, so what runs side by side takes the time of the longest."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._sleepers: set[tuple[float, int]] = set()
        self._serial = itertools.count()
        self.wall_step = timedelta(0)  # a test may step the wall clock; no duration may change

    async def _turns(self) -> None:
        for _ in range(TURNS):
            await asyncio.sleep(0)

    def monotonic(self) -> float:
        return self.now

    def utc(self) -> datetime:
        return START + timedelta(seconds=self.now - 1000.0) + self.wall_step

    async def sleep(self, seconds: float) -> None:
        mine = (self.now + max(0.0, seconds), next(self._serial))
        self._sleepers.add(mine)
        try:
            await self._turns()
            while min(self._sleepers) != mine:  # no event says that all the others sleep
                await self._turns()
            self.now = max(self.now, mine[0])
        finally:
            self._sleepers.remove(mine)
