"""A stateful STAMP session reflector (RFC 8762 4.3) that is of no use to an attacker.

1. Only sources within the allowed networks are answered, and nobody is by default.
2. A reply is exactly as long as what it answers, and what is too short for a whole reply is not answered.
3. Each source address has a rate, all of them together another; what is over is dropped and counted.
4. Nothing that comes from a reflector's port is answered: two reflectors cannot be set on each other.
5. Sessions (source address, port and session id) are forgotten when the table is full, the idlest first, and after
   SESSION_IDLE_S of silence.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections import OrderedDict
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from probes.contract import Clock
from probes.model import value
from probes.net.pacing import Pacer
from probes.net.sockets import RECEIVE_STAMPS, SO_TIMESTAMPING, family_of, socket_address
from probes.net.stamp import CLOCK_ERROR_S, receive_stamp
from probes.wire.icmp import MalformedPacket
from probes.wire.stamp import PORT, ReflectorPacket, SenderPacket, decode_sender, encode_reflector, error_estimate

SESSION_IDLE_S = 900.0  # REFWAIT of TWAMP, RFC 5357 4.2
MOST_SESSIONS = 1024
MOST_SOURCES = 4096
SOURCES_AT_FULL_RATE = 20  # all sources together have so many times the rate of one
_LARGEST = 65536
_BATCH = 256
_BURST_S = 0.5  # of a source's rate: what a reader that was away for a moment finds queued
_RECEIVE_BUFFER = 1 << 20
_IPV6_RECVHOPLIMIT, _IPV6_RECVPKTINFO = 51, 49  # <linux/in6.h>
_IP_PKTINFO, _IP_RECVTTL = 8, 12
_IPV4_PKTINFO = struct.Struct("=I4s4s")  # interface, address to answer from, header's destination

Network = IPv4Network | IPv6Network


@value
class Counts:
    """Packets since the start. What was dropped is counted by the first reason that applied."""

    reflected: int = 0
    not_allowed: int = 0
    over_rate: int = 0
    malformed: int = 0
    not_sent: int = 0
    sessions: int = 0


class Reflector:
    """Answers on one socket until close(). ``rate`` is in packets per second and source address."""

    def __init__(
        self, sock: socket.socket, clock: Clock, allow: Sequence[Network], rate: float, *, synchronized: bool
    ) -> None:
        self._sock, self._clock, self._allow, self._rate = sock, clock, tuple(allow), rate
        self._own_port: int = sock.getsockname()[1]
        self._error = error_estimate(CLOCK_ERROR_S, synchronized=synchronized)
        self._all = Pacer(clock, rate * SOURCES_AT_FULL_RATE, self._burst(rate * SOURCES_AT_FULL_RATE))
        self._pacers: OrderedDict[str, Pacer] = OrderedDict()
        self._sessions: OrderedDict[tuple[str, int, int], tuple[int, float]] = OrderedDict()
        self._counts = {"reflected": 0, "not_allowed": 0, "over_rate": 0, "malformed": 0, "not_sent": 0, "sessions": 0}

    def counts(self) -> Counts:
        return Counts(**self._counts)

    async def run(self, stop: asyncio.Event) -> None:
        """Reflect until ``stop``."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._sock, self._on_ready)
        try:
            await stop.wait()
        finally:
            loop.remove_reader(self._sock)

    def _on_ready(self) -> None:
        for _packet in range(_BATCH):
            try:
                data, ancillary, _flags, source = self._sock.recvmsg(_LARGEST, 512)
            except OSError:  # nothing left; or the ICMP error of a reply, which is the sender's affair
                return
            received_ns = receive_stamp(ancillary) or time.time_ns()
            self._counts[self._reflect(data, ancillary, source, received_ns)] += 1

    def _reflect(
        self, data: bytes, ancillary: list[tuple[int, int, bytes]], source: tuple[str, int], received_ns: int
    ) -> str:
        """What became of one packet: a key of the counts."""
        address, port = source[0], source[1]
        if not self._allowed(address, port):
            return "not_allowed"
        try:
            packet = decode_sender(data)
        except MalformedPacket:
            return "malformed"
        if not self._in_rate(address):
            return "over_rate"
        sequence = self._next_sequence((address, port, packet.session))
        answer = self._answer(packet, sequence, received_ns, _ttl(ancillary))
        try:
            self._sock.sendmsg([encode_reflector(answer, len(data))], _from_same_address(ancillary), 0, source)
        except OSError:  # buffers are full, or the way back is closed: the sender sees a lost reply
            return "not_sent"
        return "reflected"

    def _answer(self, packet: SenderPacket, sequence: int, received_ns: int, ttl: int) -> ReflectorPacket:
        return ReflectorPacket(
            sequence=sequence,
            sent_ns=time.time_ns(),
            error=self._error,
            received_ns=received_ns,
            sender_sequence=packet.sequence,
            sender_sent_ns=packet.sent_ns,
            sender_error=packet.error,
            sender_ttl=ttl,
            session=packet.session,
        )

    def _allowed(self, address: str, port: int) -> bool:
        if port in (0, PORT, self._own_port):
            return False
        source = _plain(address)
        return any(source.version == network.version and source in network for network in self._allow)

    def _in_rate(self, address: str) -> bool:
        pacer = self._pacers.pop(address, None) or Pacer(self._clock, self._rate, self._burst(self._rate))
        self._pacers[address] = pacer
        if len(self._pacers) > MOST_SOURCES:
            self._pacers.popitem(last=False)
        return pacer.conforms() and self._all.conforms()

    def _burst(self, rate: float) -> int:
        return max(1, int(rate * _BURST_S))

    def _next_sequence(self, key: tuple[str, int, int]) -> int:
        """A session's own count, from 0."""
        now = self._clock.monotonic()
        count, seen = self._sessions.pop(key, (0, now))
        if now - seen > SESSION_IDLE_S:
            count = 0
        self._counts["sessions"] += count == 0
        self._sessions[key] = (count + 1, now)
        if len(self._sessions) > MOST_SESSIONS:
            self._sessions.popitem(last=False)
        return count & 0xFFFF_FFFF


def open_reflector_socket(address: str, port: int) -> socket.socket:
    """A bound UDP socket that tells of each packet when it came, with which TTL, and to which address.

    Raises OSError: PermissionError below port 1024 without CAP_NET_BIND_SERVICE.
    """
    family = family_of(address)
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVHOPLIMIT, 1)
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVPKTINFO, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IP, _IP_RECVTTL, 1)
            sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPING, RECEIVE_STAMPS)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        sock.bind(socket_address(address, port))
    except BaseException:
        sock.close()
        raise
    return sock


def _ttl(ancillary: list[tuple[int, int, bytes]]) -> int:
    """TTL or hop limit of the packet; 0 where the kernel did not say."""
    for level, kind, data in ancillary:
        if (level, kind) in ((socket.IPPROTO_IP, socket.IP_TTL), (socket.IPPROTO_IPV6, socket.IPV6_HOPLIMIT)):
            return int.from_bytes(data[:4], "little" if struct.pack("=H", 1)[0] else "big") & 0xFF
    return 0


def _from_same_address(ancillary: list[tuple[int, int, bytes]]) -> list[tuple[int, int, bytes]]:
    """Answer from the address that was asked (ip(7), ipv6(7)): a wildcard socket would choose for itself."""
    for level, kind, data in ancillary:
        if (level, kind) == (socket.IPPROTO_IP, _IP_PKTINFO):
            _interface, local, _destination = _IPV4_PKTINFO.unpack(data[: _IPV4_PKTINFO.size])
            return [(level, kind, _IPV4_PKTINFO.pack(0, local, bytes(4)))]
        if (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO):
            return [(level, kind, data)]
    return []


def _plain(address: str) -> IPv4Address | IPv6Address:
    """Without a scope; an IPv4 address that came in through an IPv6 socket is itself."""
    found = ip_address(address.partition("%")[0])
    mapped = found.ipv4_mapped if isinstance(found, IPv6Address) else None
    return mapped or found
