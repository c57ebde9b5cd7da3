"""Simulated packet fates (True: lost), independent of the code that judges them."""

from __future__ import annotations

import random
from collections.abc import Iterator


def channel(loss: float, mean_burst: float | None, source: random.Random) -> Iterator[bool]:
    """Gilbert's channel, endless and stationary from the first packet; ``mean_burst`` None: independent losses."""
    if mean_burst is None:
        while True:
            yield source.random() < loss
    recover = 1 / mean_burst
    onset = loss * recover / (1 - loss)
    lost = source.random() < loss
    while True:
        yield lost
        lost = source.random() >= recover if lost else source.random() < onset
