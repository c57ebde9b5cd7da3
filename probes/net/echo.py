"""A series of ICMP echoes, timed by the kernel.

One socket, one fresh identifier and one random token per series: a reply counts only with all three right. The kernel
stamps transmit and receive (SO_TIMESTAMPING; OPT_ID ties a transmit stamp to its probe), so reading may be lazy.
"""

from __future__ import annotations

from probes.contract import Clock
from probes.exchanges import EchoRequest, EchoSeries
from probes.net.pacing import Pacing


async def echo(request: EchoRequest, clock: Clock, pacing: Pacing) -> EchoSeries:
    raise NotImplementedError
