"""The machine's clocks."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime

_TIME_ERROR = 5  # <sys/timex.h>: clock not synchronized


class SystemClock:
    """CLOCK_MONOTONIC for durations and deadlines, the wall clock for the timeline."""

    def monotonic(self) -> float:
        return time.monotonic()

    def utc(self) -> datetime:
        return datetime.now(UTC)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds))


def kernel_clock_synchronized() -> bool:
    """Whether something steers the wall clock: adjtimex(2) without STA_UNSYNC. False where that cannot be told."""
    import ctypes

    buffer = ctypes.create_string_buffer(512)  # struct timex is 208 bytes; modes 0: only read
    state: int = ctypes.CDLL(None).adjtimex(buffer)
    return 0 <= state < _TIME_ERROR
