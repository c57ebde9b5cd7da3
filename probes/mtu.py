"""Path MTU each way: UDP datagrams with DF (forward), and TCP_MAXSEG on a real database connection (both).

Sizes are whole IP packets in bytes. The TCP experiment needs a peer that sends more than one segment: a query's
result where the database lets us in, the TLS certificate otherwise.
"""

from __future__ import annotations

from probes.exchanges import DatagramReply, TcpInfo
from probes.model import Failure, Secret, value


@value
class MtuOptions:
    user: str | None = None
    password: Secret | None = None
    dbname: str | None = None
    sslmode: str = "prefer"
    largest: int | None = None  # None: the local route's MTU
    smallest: int = 576
    attempts: int = 3  # silent datagrams of one size before the size counts as not arriving
    timeout_s: float = 1.0
    stall_s: float = 3.0  # no progress for this long is a stall
    use_database: bool = False  # the port is a PostgreSQL server's


@value
class DatagramTrial:
    packet_bytes: int
    replies: tuple[DatagramReply, ...]


@value
class SegmentTrial:
    """One database connection with an advertised MSS; did a reply of several segments come through?"""

    direction: str  # "from-target" | "to-target"
    max_segment: int | None  # None: the kernel's default
    packet_bytes: int | None  # the IP packets that this MSS makes
    payload_bytes: int  # what was to be transferred
    received_bytes: int
    delivered: bool | None  # None: could not be tried (see failure)
    seconds: float
    info: TcpInfo | None
    failure: Failure | None = None


@value
class DirectionMtu:
    """What is known of one direction. ``black_hole``: larger packets vanish and no ICMP says so."""

    largest_delivered: int | None
    smallest_lost: int | None
    signalled_mtu: int | None  # from ICMP, with its sender
    signalled_by: str | None
    black_hole: bool | None  # None: could not tell
    method: str | None  # "udp-df", "tcp-maxseg", "tcp-send"
    reason: str | None = None  # why it could not tell


@value
class MtuMeasurement:
    address: str
    port: int | None
    local_mtu: int | None
    to_target: DirectionMtu
    from_target: DirectionMtu
    datagrams: tuple[DatagramTrial, ...]
    segments: tuple[SegmentTrial, ...]
