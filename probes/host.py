"""This host's own tables, which fill up: connection tracking. A run reads them before, during and after its probes.

nf_conntrack_count is the own namespace's; nf_conntrack_max is the initial namespace's on most kernels. A container
sees its own table only: that of the node, which its packets cross as well, must be read on the node.
"""

from __future__ import annotations

from probes.contract import Context, Probe, ProbeUnavailable
from probes.exchanges import ConntrackReading
from probes.model import Target, value


@value
class HostOptions:
    """None: what is read costs nothing and sends nothing."""


@value
class HostMeasurement:
    conntrack: ConntrackReading


async def measure(context: Context, target: Target, options: HostOptions) -> HostMeasurement:
    """Of the host that netdiag runs on, whatever ``target`` is. Raises ProbeUnavailable where nothing can be read."""
    reading = context.network.conntrack()
    if reading.entries is None:
        raise ProbeUnavailable(reading.reason or "the connection-tracking table cannot be read")
    return HostMeasurement(conntrack=reading)


PROBE = Probe(
    name="host",
    schema="host/1",
    summary="This host's own connection-tracking table: how full it is, and what it has dropped",
    options=HostOptions,
    measurement=HostMeasurement,
    measure=measure,
)
