"""A STAMP session's sender (RFC 8762 4.2): one connected UDP socket, stamped by the kernel where it can.

Packets carry the wall clock, as the RFC demands; what is kept of T1 and T4 is put on the monotonic clock, so that a
step of the wall clock shortens no delay. A reply counts only where sequence and T1 are those of a packet we sent.

Sequences start at 1, as if packet 0 had been lost on its way: a reflector that counts by itself then answers with
numbers below ours, and a stateless one, which copies, with ours. Nothing else on the wire tells the two apart.
"""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass, field

from probes.contract import Clock
from probes.exchanges import StampRequest, StampSample, StampSeries, TimestampSource
from probes.failures import classify, from_icmp, timed_out
from probes.model import Failure, IcmpError, Outcome
from probes.net.engine.moment import TOGETHER_S, Moment, stepped, take_moment
from probes.net.errqueue import QueuedMessage, drain
from probes.net.pacing import Pacing
from probes.net.sockets import (
    RECEIVE_STAMPS,
    SO_TIMESTAMPING,
    TRANSMIT_STAMPS,
    canonical,
    family_of,
    probe_socket,
    socket_address,
)
from probes.net.warmup import Stamping
from probes.wire.errqueue import Origin, parse_timestamps
from probes.wire.icmp import MalformedPacket
from probes.wire.stamp import (
    SIZE,
    ErrorEstimate,
    ReflectorPacket,
    SenderPacket,
    decode_reflector,
    encode_sender,
    error_estimate,
)

FIRST_SEQUENCE = 1
CLOCK_ERROR_S = 0.001  # of a user-space stamp against this host's own clock, claimed on the wire
_LARGEST = 65536
_BATCH = 256
_APART_NS = round(2 * TOGETHER_S * 1e9)  # that two moments may be, by one clock or the other
_PLAUSIBLE_NS = 1_000_000_000  # between a clock's reading and the kernel's stamp beside it


@dataclass(slots=True)
class _Flight:
    """One packet; a Moment has both clocks."""

    sequence: int
    sent: Moment
    transmit_ns: int | None = None
    reply: ReflectorPacket | None = None
    reply_sequences: list[int] = field(default_factory=list)
    read: Moment | None = None
    receive_ns: int | None = None
    icmp: IcmpError | None = None
    not_sent: tuple[Outcome, Failure] | None = None

    @property
    def settled(self) -> bool:
        return self.reply is not None or self.icmp is not None or self.not_sent is not None


async def stamp(request: StampRequest, clock: Clock, pacing: Pacing) -> StampSeries:
    """``count`` packets ``interval_s`` apart, then wait for the last; an answer after ``timeout_s`` is LATE.

    Raises ValueError for a packet shorter than STAMP's. Where no socket opens, every packet is NOT_SENT.
    """
    if request.packet_bytes < SIZE:
        raise ValueError(f"packet_bytes {request.packet_bytes} is less than {SIZE}")
    session = _Session(request, clock)
    try:
        with probe_socket(request.address, socket.SOCK_DGRAM) as sock:
            await session.run(sock, pacing)
    except OSError as error:
        session.unusable(error)
    return session.result()


class _Session:
    """The state of one session and the callback of its socket."""

    def __init__(self, request: StampRequest, clock: Clock) -> None:
        self._request, self._clock = request, clock
        self._flights: list[_Flight] = []
        self._by_stamp_id: list[_Flight] = []  # OPT_ID counts the packets sent
        self._error: ErrorEstimate = error_estimate(CLOCK_ERROR_S, synchronized=False)
        self._changed = asyncio.Event()
        self._start = self._last = self._now()
        self._steps = 0

    def _now(self) -> Moment:
        return take_moment(self._clock)

    def _moment(self) -> Moment:
        """Now, noting whether the wall clock was set since the last time."""
        now = self._now()
        self._steps += stepped(self._last, now)
        self._last = now
        return now

    async def run(self, sock: socket.socket, pacing: Pacing) -> None:
        sock.connect(socket_address(self._request.address, self._request.port))
        _ask_for_stamps(sock)
        await Stamping(family_of(self._request.address), self._clock).in_force()
        self._start = self._last = self._now()
        loop = asyncio.get_running_loop()
        loop.add_reader(sock, self._on_ready, sock)
        try:
            await self._send_all(sock, pacing)
            await self._wait_until_settled()
        finally:
            loop.remove_reader(sock)
        self._on_ready(sock)  # what came between the last wake-up and the end of the time

    async def _send_all(self, sock: socket.socket, pacing: Pacing) -> None:
        start = self._clock.monotonic()
        for ordinal in range(self._request.count):
            await self._clock.sleep(start + ordinal * self._request.interval_s - self._clock.monotonic())
            await pacing.packet()
            self._send(sock, ordinal)

    def _send(self, sock: socket.socket, ordinal: int) -> None:
        error = self._try_send(sock, ordinal)
        if error is not None and self._read_queue(sock):
            error = self._try_send(sock, ordinal)  # the errno was an earlier packet's ICMP error; nothing was sent
        if error is not None:
            _, failure = classify(error, "send")
            self._flights[-1].not_sent = (Outcome.NOT_SENT, failure)

    def _try_send(self, sock: socket.socket, ordinal: int) -> OSError | None:
        flight = _Flight(FIRST_SEQUENCE + ordinal, self._moment())
        self._flights[ordinal:] = [flight]
        packet = SenderPacket(sequence=flight.sequence, sent_ns=flight.sent.wall_ns, error=self._error)
        try:
            sock.send(encode_sender(packet, self._request.packet_bytes))
        except OSError as error:
            return error
        self._by_stamp_id.append(flight)
        return None

    async def _wait_until_settled(self) -> None:
        """One timeout more than the last packet's own, in which late answers are still seen."""
        deadline = self._clock.monotonic() + 2 * self._request.timeout_s
        while not all(flight.settled for flight in self._flights):
            self._changed.clear()
            try:
                async with asyncio.timeout(max(0.0, deadline - self._clock.monotonic())):
                    await self._changed.wait()
            except TimeoutError:
                return

    def _on_ready(self, sock: socket.socket) -> None:
        self._read_queue(sock)
        for _packet in range(_BATCH):
            try:
                data, ancillary, _flags, _name = sock.recvmsg(_LARGEST, 256)
            except BlockingIOError:
                break
            except OSError:  # the errno of an ICMP error whose details are in the queue, read next time
                continue
            self._receive(data, receive_stamp(ancillary))
        self._changed.set()

    def _receive(self, data: bytes, stamp_ns: int | None) -> None:
        read = self._moment()
        try:
            reply = decode_reflector(data)
        except MalformedPacket:
            return
        flight = self._flight(reply.sender_sequence)
        if flight is None or reply.sender_sent_ns != flight.sent.wall_ns:
            return
        flight.reply_sequences.append(reply.sequence)
        if flight.reply is None:
            flight.reply, flight.read, flight.receive_ns = reply, read, stamp_ns

    def _read_queue(self, sock: socket.socket) -> bool:
        """Empty the error queue; whether an ICMP error was in it."""
        errors = False
        for message in drain(sock):
            icmp = message.error.icmp() if message.error is not None else None
            if icmp is not None:
                self._note_error(message, icmp)
                errors = True
            elif message.error is not None and message.error.origin == Origin.TIMESTAMPING:
                self._note_transmit(message.error.data, message.stamp_ns)
        return errors

    def _note_transmit(self, stamp_id: int, stamp_ns: int | None) -> None:
        if stamp_id < len(self._by_stamp_id):
            self._by_stamp_id[stamp_id].transmit_ns = stamp_ns

    def _note_error(self, message: QueuedMessage, icmp: IcmpError) -> None:
        """The queue quotes the UDP payload, all of it or its beginning: the sequence comes first."""
        flight = self._flight(int.from_bytes(message.payload[:4], "big")) if len(message.payload) >= 4 else None
        if flight is not None and not flight.settled:
            flight.icmp = icmp

    def _flight(self, sequence: int) -> _Flight | None:
        """The packet with this sequence on the wire; None for one that was not sent."""
        ordinal = sequence - FIRST_SEQUENCE
        return self._flights[ordinal] if 0 <= ordinal < len(self._flights) else None

    def unusable(self, error: OSError) -> None:
        """Every packet not yet sent is NOT_SENT for this reason."""
        _, failure = classify(error, "send")
        for ordinal in range(len(self._flights), self._request.count):
            sequence = FIRST_SEQUENCE + ordinal
            self._flights.append(_Flight(sequence, self._start, not_sent=(Outcome.NOT_SENT, failure)))

    def result(self) -> StampSeries:
        replies = [flight.reply for flight in self._flights if flight.reply is not None]
        return StampSeries(
            samples=tuple(self._sample(flight) for flight in self._flights),
            timestamp_source=self._source(),
            wall_minus_monotonic_ns=self._start.wall_ns - round(self._start.monotonic * 1e9),
            clock_steps=self._steps,
            reflector_synchronized=replies[-1].error.synchronized if replies else None,
            reflector_error_s=replies[-1].error.seconds() if replies else None,
        )

    def _source(self) -> TimestampSource:
        sources = [_times(flight)[2] for flight in self._flights if flight.reply is not None]
        return max(sources, key=_BEST_FIRST.index, default=TimestampSource.USER)

    def _sample(self, flight: _Flight) -> StampSample:
        outcome, failure = self._verdict(flight)
        sent_ns, received_ns, _ = _times(flight)
        left = outcome is not Outcome.NOT_SENT
        return StampSample(
            sequence=flight.sequence,
            sent_s=flight.sent.monotonic - self._start.monotonic if left else None,
            outcome=outcome,
            sent_ns=sent_ns if left else None,
            reflector_received_ns=flight.reply.received_ns if flight.reply else None,
            reflector_sent_ns=flight.reply.sent_ns if flight.reply else None,
            received_ns=received_ns,
            reflector_sequences=tuple(flight.reply_sequences),
            ttl_at_reflector=(flight.reply.sender_ttl or None) if flight.reply else None,
            failure=failure,
        )

    def _verdict(self, flight: _Flight) -> tuple[Outcome, Failure | None]:
        if flight.not_sent is not None:
            return flight.not_sent
        if flight.read is not None:
            late = flight.read.monotonic - flight.sent.monotonic > self._request.timeout_s
            return (Outcome.LATE if late else Outcome.ANSWERED), None
        if flight.icmp is not None:
            return from_icmp(flight.icmp, "receive", canonical(self._request.address))
        return Outcome.LOST, timed_out("receive")


_BEST_FIRST = [TimestampSource.KERNEL_RX_TX, TimestampSource.KERNEL_RX, TimestampSource.USER]


def _times(flight: _Flight) -> tuple[int, int | None, TimestampSource]:
    """T1 and T4 on the monotonic clock in nanoseconds, and the clock behind the worse of them.

    The kernel's stamps are on the wall clock: they count as distances from our own reading of it beside them, and
    only where the wall clock was not set between sending and reading.
    """
    sent, read = round(flight.sent.monotonic * 1e9), flight.read
    if read is None:
        return sent, None, TimestampSource.USER
    received = round(read.monotonic * 1e9)
    waited = None if flight.receive_ns is None else read.wall_ns - flight.receive_ns
    longest = min(received - sent + _APART_NS, _PLAUSIBLE_NS)
    if stepped(flight.sent, read) or waited is None or not 0 <= waited <= longest:
        return sent, received, TimestampSource.USER
    waited = min(waited, received - sent)
    delayed = None if flight.transmit_ns is None else flight.transmit_ns - flight.sent.wall_ns
    if delayed is None or not 0 <= delayed <= received - waited - sent:
        return sent, received - waited, TimestampSource.KERNEL_RX
    return sent + delayed, received - waited, TimestampSource.KERNEL_RX_TX


def _ask_for_stamps(sock: socket.socket) -> None:
    """Best first; none at all is not an error, only a worse label."""
    for flags in (RECEIVE_STAMPS | TRANSMIT_STAMPS, RECEIVE_STAMPS):
        try:
            sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPING, flags)
        except OSError:
            continue
        return


def receive_stamp(ancillary: list[tuple[int, int, bytes]]) -> int | None:
    """The kernel's software receive stamp among recvmsg's control messages, nanoseconds since the epoch."""
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, SO_TIMESTAMPING):
            return parse_timestamps(data)
    return None
