"""What goes over the boundary between probes and ``net``: requests, and what became of them.

Times are seconds on the monotonic clock or the kernel's; sizes are bytes. None of it judges.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol

from probes.model import Failure, NetworkFailure, Outcome, value
from probes.wire.conntrack import ConntrackCounters


class TimestampSource(StrEnum):
    """Which clock stamped an RTT, best first."""

    KERNEL_RX_TX = "kernel-rx-tx"  # SO_TIMESTAMPING, software transmit and receive
    KERNEL_RX = "kernel-rx"
    TCP_INFO = "tcp-info"  # tcpi_rtt of the handshake
    USER = "user"


@value
class TcpInfo:
    """The kernel's own account of one connection (tcp(7), struct tcp_info). A field this kernel lacks is None."""

    state: int
    rtt_s: float | None
    rttvar_s: float | None
    min_rtt_s: float | None
    rto_s: float | None
    snd_mss: int
    rcv_mss: int
    advmss: int
    pmtu: int
    unacked: int
    backoff: int
    total_retrans: int
    bytes_acked: int | None
    bytes_received: int | None
    bytes_retrans: int | None
    data_segs_in: int | None
    data_segs_out: int | None
    rcv_ooopack: int | None
    total_rto: int | None
    notsent_bytes: int | None
    sacked: int | None = None  # segments of ours that arrived after a gap (RFC 2018)


@value
class HandshakeRequest:
    """One TCP connection attempt. ``timeout_s`` bounds it whatever the kernel's SYN schedule is."""

    address: str
    port: int
    timeout_s: float = 3.0
    ttl: int | None = None  # IP TTL / hop limit, for path probing
    source_port: int | None = None  # 0: one drawn at random by bind(2). None: by connect(2), which takes them in a row
    syn_count: int | None = None  # TCP_SYNCNT: retransmissions of the SYN before giving up
    max_segment: int | None = None  # TCP_MAXSEG to advertise
    keepalive_s: int | None = None  # TCP keepalives this often while nothing else is said; None: none at all


@value
class Handshake:
    """What became of one TCP connection attempt."""

    outcome: Outcome  # ANSWERED, LOST, REFUSED, REJECTED, UNREACHABLE, EXPIRED, NOT_SENT
    seconds: float  # wall time of the attempt, user space
    rtt_s: float | None  # SYN -> SYN-ACK; None where a SYN was retransmitted (Karn) or nothing answered
    timestamp_source: TimestampSource
    syn_retransmits: int | None
    source_address: str | None
    source_port: int | None
    info: TcpInfo | None = None
    failure: Failure | None = None


MOST_ECHOES = 65536  # of one series: the sequence number has 16 bits


@value
class EchoRequest:
    """A series of 1 to MOST_ECHOES ICMP echoes to one address."""

    address: str
    count: int = 10
    interval_s: float = 0.2
    timeout_s: float = 2.0
    payload_bytes: int = 56
    ttl: int | None = None


@value
class EchoSample:
    sequence: int
    sent_s: float | None  # offset from the start of the series
    outcome: Outcome  # ANSWERED, LATE, LOST, UNREACHABLE, REJECTED, EXPIRED, TOO_BIG, NOT_SENT
    rtt_s: float | None = None
    duplicates: int = 0
    failure: Failure | None = None


@value
class EchoSeries:
    samples: tuple[EchoSample, ...]
    timestamp_source: TimestampSource
    socket: str  # "datagram" or "raw"
    reordered: int = 0  # replies that came after one of a later request (RFC 4737)


@value
class StampRequest:
    """A series of STAMP test packets (RFC 8762) to one reflector."""

    address: str
    port: int = 862
    count: int = 100
    interval_s: float = 0.05
    timeout_s: float = 1.0
    packet_bytes: int = 44  # of the UDP payload, either way; at least 44


@value
class StampSample:
    """One test packet. ``sent_ns`` and ``received_ns`` are nanoseconds on the sender's monotonic clock, kernel stamps
    where there are any; the reflector's two are nanoseconds since the epoch on its own clock.
    """

    sequence: int  # on the wire, from 1
    sent_s: float | None  # offset from the start of the series
    outcome: Outcome  # ANSWERED, LATE, LOST, REFUSED, REJECTED, UNREACHABLE, EXPIRED, NOT_SENT
    sent_ns: int | None = None  # T1
    reflector_received_ns: int | None = None  # T2
    reflector_sent_ns: int | None = None  # T3
    received_ns: int | None = None  # T4
    reflector_sequences: tuple[int, ...] = ()  # of every reply, the first of them first
    ttl_at_reflector: int | None = None
    failure: Failure | None = None


@value
class StampSeries:
    samples: tuple[StampSample, ...]
    timestamp_source: TimestampSource
    wall_minus_monotonic_ns: int  # of the sender's clocks at the start: puts T1 and T4 on its wall clock
    clock_steps: int  # how often the sender's wall clock was set during the series
    reflector_synchronized: bool | None  # the S bit of its last reply; None without a reply
    reflector_error_s: float | None  # its own estimate of its clock's error


@value
class DatagramRequest:
    """One UDP datagram with DF set and the PMTU cache ignored (IP_PMTUDISC_PROBE)."""

    address: str
    port: int
    packet_bytes: int  # size of the whole IP packet, headers included
    timeout_s: float = 1.0
    ttl: int | None = None


@value
class DatagramReply:
    """What came back. REFUSED by the target itself means the datagram arrived."""

    outcome: Outcome  # ANSWERED, REFUSED, REJECTED, UNREACHABLE, EXPIRED, TOO_BIG, LOST, NOT_SENT
    seconds: float
    failure: Failure | None = None


@value
class DnsRequest:
    server: str
    payload: bytes
    transport: str = "udp"  # or "tcp"
    port: int = 53
    timeout_s: float = 3.0
    late_s: float = 0.0  # beyond the timeout, UDP: an answer that comes then is LATE


@value
class DnsReply:
    """One exchange with one server over one transport; never retried, never redirected."""

    outcome: Outcome
    seconds: float
    payload: bytes | None = None
    failure: Failure | None = None
    strays: int = 0  # datagrams from the server that were no answer: another id, or too short to have one


@value
class BirdRequest:
    """BIRD's sessions, read-only, by its control socket on this host."""

    control: str  # path of the Unix socket
    timeout_s: float = 3.0


@value
class BirdReply:
    """The whole reply to "show protocols all" as BIRD wrote it; None with the reason why there is none."""

    seconds: float
    payload: bytes | None = None
    failure: Failure | None = None


@value
class ConntrackReading:
    """This namespace's connection-tracking table at one moment; without ``entries`` there is a ``reason``."""

    entries: int | None = None
    limit: int | None = None
    counters: ConntrackCounters | None = None  # None: they cannot be read
    reason: str | None = None


@value
class HostLookup:
    """The host's own getaddrinfo: what the application sees, with its wall time."""

    name: str
    seconds: float
    addresses: tuple[str, ...]
    failure: Failure | None = None


@value
class ResolverConfig:
    """resolv.conf(5) as glibc reads it."""

    nameservers: tuple[str, ...]
    search: tuple[str, ...]
    options: tuple[str, ...]
    source: str  # the file it came from


@value
class LocalRoute:
    """What this host's kernel says of the way to an address, before a packet is sent."""

    source: str | None
    mtu: int | None  # of the route as cached, bytes (IP_MTU)
    failure: Failure | None = None


@value
class TlsRequest:
    """``verify``: "none" | "ca" | "full", as libpq's sslmode demands."""

    server_name: str
    verify: str = "none"
    root_certificate: str | None = None  # path; None: the system's store
    client_certificate: str | None = None
    client_key: str | None = None
    alpn: tuple[str, ...] = ()  # PostgreSQL 17 demands "postgresql" where TLS comes without an SSLRequest


@value
class Certificate:
    subject: str
    issuer: str
    names: tuple[str, ...]  # subjectAltName DNS and IP entries; the common name where there are none
    not_before: str  # RFC 3339 UTC
    not_after: str
    self_signed: bool


@value
class TlsSession:
    version: str
    cipher: str
    certificate: Certificate | None


class ConnectFailure(NetworkFailure):
    """The handshake of open_stream() failed; ``handshake`` is the whole attempt, with its outcome and timing."""

    def __init__(self, failure: Failure, handshake: Handshake) -> None:
        super().__init__(failure)
        self.handshake = handshake


class Stream(Protocol):
    """One TCP connection under a probe's control. Deadlines are absolute, on the context's monotonic clock.

    Every method but info() and close() raises NetworkFailure.
    """

    handshake: Handshake

    async def send(self, data: bytes, deadline: float) -> None: ...

    async def receive(self, limit: int, deadline: float) -> bytes:
        """At most ``limit`` bytes as soon as there are some; ``b""`` when the peer closed."""

    async def start_tls(self, request: TlsRequest, deadline: float) -> TlsSession: ...

    def channel_binding(self) -> bytes | None:
        """tls-server-end-point (RFC 5929) of the TLS session, or None without one."""

    def info(self) -> TcpInfo | None: ...

    async def close(self) -> None: ...
