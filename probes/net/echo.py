"""A series of ICMP echoes, timed by the kernel.

One socket, one fresh identifier and one random token per series: a reply counts only with all of them right. The
kernel stamps transmit and receive (SO_TIMESTAMPING; OPT_ID ties a transmit stamp to its probe), so it does not matter
when we read. Stamps are on the wall clock; one that disagrees with the monotonic clock (the clock was stepped) is
not used. The series is labelled with the worst source that any of its RTTs has.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from dataclasses import dataclass

from probes.contract import Clock
from probes.exchanges import EchoRequest, EchoSample, EchoSeries, TimestampSource
from probes.failures import from_icmp, from_os_error, timed_out
from probes.model import Failure, IcmpError, Outcome
from probes.net.bpf import keep_echo_replies
from probes.net.errqueue import QueuedMessage, drain
from probes.net.pacing import Pacing
from probes.net.privileges import icmp_socket
from probes.net.sockets import SO_TIMESTAMPING, canonical, family_of, set_error_queue, set_ttl, socket_address
from probes.wire.errqueue import Origin, parse_timestamps
from probes.wire.icmp import ECHO_REPLY, Echo, MalformedPacket, decode_echo, encode_echo, without_ipv4_header

_TOKEN_BYTES = 8
_MOST_PROBES = 65536  # the sequence number has 16 bits, and one identifier is used per series
_LARGEST_PACKET = 65536
_BATCH = 256  # packets per wake-up, so that a flood cannot hold the event loop
_RECEIVE_BUFFER = 1 << 20  # replies and transmit stamps share it; an overflow would look like loss
_WARM_UP_S = 0.01  # the kernel turns receive stamps on a little after the socket asks for them

# SOF_TIMESTAMPING_*: TX_SOFTWARE, RX_SOFTWARE, SOFTWARE (report), OPT_ID, OPT_TSONLY (no copy of the packet).
_RECEIVE = 1 << 3 | 1 << 4
_TRANSMIT = 1 << 1 | 1 << 7 | 1 << 11


@dataclass(slots=True)
class _Probe:
    """One echo request in flight; monotonic times in seconds, wall-clock ones in nanoseconds."""

    sequence: int
    sent_monotonic: float | None = None
    sent_wall_ns: int | None = None
    transmit_ns: int | None = None
    receive_ns: int | None = None
    answered_monotonic: float | None = None
    duplicates: int = 0
    icmp: IcmpError | None = None
    not_sent: Failure | None = None

    @property
    def settled(self) -> bool:
        return self.not_sent is not None or self.answered_monotonic is not None


async def echo(request: EchoRequest, clock: Clock, pacing: Pacing) -> EchoSeries:
    """Send ``count`` echoes, ``interval_s`` apart, and wait for the last of them.

    An answer within ``timeout_s`` is ANSWERED. Later ones are LATE as long as the series waits: one more timeout
    after the last probe's own. Raises ProbeUnavailable without ICMP sockets, ValueError for an impossible count.
    """
    if not 0 < request.count <= _MOST_PROBES:
        raise ValueError(f"count {request.count} is not within 1 and {_MOST_PROBES}")
    sock, kind = icmp_socket(family_of(request.address))
    with sock:
        series = _Series(sock, kind, request, clock)
        await clock.sleep(_WARM_UP_S)
        await series.run(pacing)
    return series.result()


class _Series:
    """The state of one series, and the callbacks of its socket."""

    def __init__(self, sock: socket.socket, kind: str, request: EchoRequest, clock: Clock) -> None:
        self._sock, self._kind, self._request, self._clock = sock, kind, request, clock
        self._family = 6 if sock.family == socket.AF_INET6 else 4
        self._token = os.urandom(_TOKEN_BYTES)[: request.payload_bytes]
        self._payload = self._token + os.urandom(max(0, request.payload_bytes - _TOKEN_BYTES))
        self._probes = [_Probe(sequence=number) for number in range(request.count)]
        self._by_stamp_id: list[int] = []  # OPT_ID counts the packets sent
        self._identifier = 0
        self._changed = asyncio.Event()
        self._unusable: Failure | None = None
        self._transmit_stamps = False
        try:
            self._prepare()
        except OSError as error:
            self._unusable = from_os_error(error, "send")

    def _prepare(self) -> None:
        if self._request.ttl is not None:
            set_ttl(self._sock, self._request.ttl)
        set_error_queue(self._sock, enabled=True)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        self._stamp(transmit=True)
        self._sock.connect(socket_address(self._request.address, 0))
        if self._kind == "datagram":
            self._identifier = self._sock.getsockname()[1]  # the kernel's choice, fresh for each socket
        else:
            self._identifier = int.from_bytes(os.urandom(2), "big")
            keep_echo_replies(self._sock, self._identifier)

    def _stamp(self, *, transmit: bool) -> None:
        """Ask for stamps, best first; none at all is not an error, only a worse label."""
        for flags in ([_RECEIVE | _TRANSMIT] if transmit else []) + [_RECEIVE]:
            try:
                self._sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPING, flags)
            except OSError:
                continue
            self._transmit_stamps = flags != _RECEIVE
            return

    async def run(self, pacing: Pacing) -> None:
        loop = asyncio.get_running_loop()
        loop.add_reader(self._sock, self._on_ready)
        try:
            await self._send_all(pacing)
            await self._wait_until_settled(2 * self._request.timeout_s)
        finally:
            loop.remove_reader(self._sock)
        self._on_ready()  # what came between the last wake-up and the end of the time

    async def _send_all(self, pacing: Pacing) -> None:
        start = self._clock.monotonic()
        for probe in self._probes:
            await self._clock.sleep(start + probe.sequence * self._request.interval_s - self._clock.monotonic())
            await pacing.packet()
            probe.not_sent = self._unusable
            if self._unusable is None:
                self._send(probe)

    def _send(self, probe: _Probe) -> None:
        error = self._try_send(probe)
        if error is not None and self._read_errors():
            error = self._try_send(probe)  # the errno was an earlier probe's ICMP error; nothing had been sent
        if error is None:
            self._by_stamp_id.append(probe.sequence)
        else:
            probe.not_sent = from_os_error(error, "send")
            self._restart_stamp_ids()

    def _try_send(self, probe: _Probe) -> OSError | None:
        packet = encode_echo(self._family, self._identifier, probe.sequence, self._payload)
        probe.sent_wall_ns, probe.sent_monotonic = time.time_ns(), self._clock.monotonic()
        try:
            self._sock.send(packet)
        except OSError as error:
            return error
        return None

    def _restart_stamp_ids(self) -> None:
        """Older kernels count a failed send, newer ones do not: begin again at 0 instead of guessing."""
        self._read_errors()
        self._by_stamp_id.clear()
        if self._transmit_stamps:
            self._stamp(transmit=False)
            self._stamp(transmit=True)

    async def _wait_until_settled(self, longest_s: float) -> None:
        deadline = self._clock.monotonic() + longest_s
        while not all(probe.settled for probe in self._probes):
            self._changed.clear()
            try:
                async with asyncio.timeout(max(0.0, deadline - self._clock.monotonic())):
                    await self._changed.wait()
            except TimeoutError:
                return

    def _on_ready(self) -> None:
        self._read_errors()
        for _packet in range(_BATCH):
            try:
                data, ancillary, _flags, _name = self._sock.recvmsg(_LARGEST_PACKET, 256)
            except BlockingIOError:
                break
            except OSError:  # the errno of an ICMP error whose details are in the queue, read next time
                continue
            self._receive(data, _stamp_of(ancillary))
        self._changed.set()

    def _receive(self, data: bytes, stamp: int | None) -> None:
        try:
            raw_v4 = self._kind == "raw" and self._family == 4
            message = decode_echo(without_ipv4_header(data) if raw_v4 else data)
        except MalformedPacket:
            return
        probe = self._probe_of(message)
        if probe is None or message.type != ECHO_REPLY[self._family] or not message.payload.startswith(self._token):
            return
        if probe.answered_monotonic is not None:
            probe.duplicates += 1
            return
        probe.answered_monotonic, probe.receive_ns = self._clock.monotonic(), stamp

    def _read_errors(self) -> bool:
        """Empty the error queue; whether an ICMP error was in it."""
        errors = False
        for message in drain(self._sock):
            icmp = message.error.icmp() if message.error is not None else None
            if icmp is not None:
                self._note_error(message, icmp)
                errors = True
            elif message.error is not None and message.error.origin == Origin.TIMESTAMPING:
                self._note_transmit(message.error.data, message.stamp_ns)
        return errors

    def _note_transmit(self, stamp_id: int, stamp: int | None) -> None:
        if stamp_id < len(self._by_stamp_id):
            self._probes[self._by_stamp_id[stamp_id]].transmit_ns = stamp

    def _note_error(self, message: QueuedMessage, icmp: IcmpError) -> None:
        """The queue quotes our packet from its ICMP header on."""
        try:
            probe = self._probe_of(decode_echo(message.payload))
        except MalformedPacket:
            return
        if probe is not None and not probe.settled:
            probe.answered_monotonic, probe.icmp = self._clock.monotonic(), icmp
            probe.receive_ns = message.stamp_ns

    def _probe_of(self, message: Echo) -> _Probe | None:
        if message.identifier != self._identifier or message.sequence >= len(self._probes):
            return None
        return self._probes[message.sequence]

    def result(self) -> EchoSeries:
        start = next((p.sent_monotonic for p in self._probes if p.sent_monotonic is not None), None)
        timed = [_time(probe) for probe in self._probes]
        sources = [source for rtt, source in timed if rtt is not None]
        samples = (self._sample(probe, rtt, start) for probe, (rtt, _source) in zip(self._probes, timed, strict=True))
        return EchoSeries(
            samples=tuple(samples),
            timestamp_source=max(sources, key=_BEST_FIRST.index, default=self._expected_source()),
            socket=self._kind,
        )

    def _expected_source(self) -> TimestampSource:
        return TimestampSource.KERNEL_RX_TX if self._transmit_stamps else TimestampSource.KERNEL_RX

    def _sample(self, probe: _Probe, rtt_s: float | None, start: float | None) -> EchoSample:
        outcome, failure = self._verdict(probe, rtt_s)
        sent = probe.sent_monotonic if outcome is not Outcome.NOT_SENT else None
        return EchoSample(
            sequence=probe.sequence,
            sent_s=sent - start if sent is not None and start is not None else None,
            outcome=outcome,
            rtt_s=rtt_s,
            duplicates=probe.duplicates,
            failure=failure,
        )

    def _verdict(self, probe: _Probe, rtt_s: float | None) -> tuple[Outcome, Failure | None]:
        if probe.not_sent is not None:
            return Outcome.NOT_SENT, probe.not_sent
        if rtt_s is None:
            return Outcome.LOST, timed_out("receive")
        if probe.icmp is not None:
            return from_icmp(probe.icmp, "receive", canonical(self._request.address))
        return (Outcome.LATE if rtt_s > self._request.timeout_s else Outcome.ANSWERED), None


_BEST_FIRST = [TimestampSource.KERNEL_RX_TX, TimestampSource.KERNEL_RX, TimestampSource.USER]
_CLOCK_SLACK_S = 0.001


def _time(probe: _Probe) -> tuple[float | None, TimestampSource]:
    if probe.not_sent is not None or probe.answered_monotonic is None or probe.sent_monotonic is None:
        return None, TimestampSource.USER
    return round_trip(
        sent_monotonic=probe.sent_monotonic,
        answered_monotonic=probe.answered_monotonic,
        transmit_ns=probe.transmit_ns,
        sent_wall_ns=probe.sent_wall_ns,
        receive_ns=probe.receive_ns,
    )


def round_trip(
    *,
    sent_monotonic: float,
    answered_monotonic: float,
    transmit_ns: int | None,
    sent_wall_ns: int | None,
    receive_ns: int | None,
) -> tuple[float, TimestampSource]:
    """Seconds by the best clock that stamped both ends and agrees with the monotonic clock, and which that was.

    We read after the kernel received, so no true RTT is longer than the one seen from user space.
    """
    user = answered_monotonic - sent_monotonic
    candidates = ((transmit_ns, TimestampSource.KERNEL_RX_TX), (sent_wall_ns, TimestampSource.KERNEL_RX))
    for sent_ns, source in candidates:
        if sent_ns is not None and receive_ns is not None:
            kernel = (receive_ns - sent_ns) / 1e9
            if 0 < kernel <= user + _CLOCK_SLACK_S:
                return kernel, source
    return user, TimestampSource.USER


def _stamp_of(ancillary: list[tuple[int, int, bytes]]) -> int | None:
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, SO_TIMESTAMPING):
            return parse_timestamps(data)
    return None
