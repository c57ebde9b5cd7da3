"""Series of ICMP echoes, timed by the kernel: the machine's two echo engines, one for each address family."""

from __future__ import annotations

import socket

from probes.contract import Clock
from probes.exchanges import EchoRequest, EchoSeries
from probes.net.engine.engine import EchoEngine
from probes.net.pacing import Pacing
from probes.net.sockets import family_of


class Echoes:
    """Series that overlap share a socket, and all of them the run's token bucket."""

    def __init__(self, clock: Clock, pacing: Pacing) -> None:
        self._engines = {family: EchoEngine(family, clock, pacing) for family in (socket.AF_INET, socket.AF_INET6)}

    async def measure(self, request: EchoRequest) -> EchoSeries:
        """``count`` echoes, about ``interval_s`` apart, and the answers to the last of them.

        An answer within ``timeout_s`` is ANSWERED. Later ones are LATE as long as the series waits: one more timeout
        after the last echo's own. Raises ProbeUnavailable without ICMP sockets, ValueError for an impossible count.
        """
        return await self._engines[family_of(request.address)].measure(request)
