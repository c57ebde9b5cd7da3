"""One series of echoes to one address: when each is due, what became of it. No sockets, no clock of its own.

How an echo ends
1. A reply counts with the right source, identifier, sequence and payload; the first one settles the echo, further
   ones are its duplicates. A group or "this host" answers from addresses of its own: there any source is right.
2. Within ``timeout_s`` it is ANSWERED; later it is LATE, as long as the series waits: one more timeout after the last
   echo's own.
3. A reply whose sequence is below one that had arrived before is reordered (RFC 4737, 3.2).
4. An ICMP error settles the echo that it quotes. What this host could not send is NOT_SENT.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from probes.exchanges import MOST_ECHOES, EchoRequest, EchoSample, EchoSeries, TimestampSource
from probes.failures import from_icmp, timed_out
from probes.model import Failure, IcmpError, Outcome
from probes.net.engine.messages import TOKEN_BYTES
from probes.net.engine.moment import Moment, round_trip
from probes.net.sockets import answers_from_elsewhere, canonical, packed_address

JITTER = 0.1  # of the interval, to either side: no phase lock with what is periodic on the path (RFC 2330 11.1)
_CLOSEST = 0.5  # of the interval: what pacing held back is not made up for by haste

_ANSWERED = Outcome.ANSWERED  # looking a member up in its class costs more than the rest of an echo's verdict
_BEST_FIRST = list(TimestampSource)


@dataclass(slots=True)
class Probe:
    """One echo request; stamps in nanoseconds since the epoch. ``read`` is when its answer had come."""

    series: Series
    sequence: int
    sent: Moment
    transmit_ns: int | None = None
    receive_ns: int | None = None
    read: Moment | None = None
    duplicates: int = 0
    icmp: IcmpError | None = None
    not_sent: Failure | None = None
    wire: int = -1  # sequence number on the wire, which counts over all series


def check_count(request: EchoRequest) -> None:
    """Raises ValueError for a count that no sequence numbers can hold."""
    if not 0 < request.count <= MOST_ECHOES:
        raise ValueError(f"count {request.count} is not within 1 and {MOST_ECHOES}")


class Series:
    """The state of one series, ``number`` among those of its engine. Raises ValueError for an impossible count."""

    __slots__ = (
        "_chance",
        "_highest",
        "_last_sent",
        "_left",
        "_start",
        "_unsettled",
        "due",
        "number",
        "payload",
        "probes",
        "reordered",
        "request",
        "source",
        "token",
    )

    def __init__(self, request: EchoRequest, start: float, chance: random.Random, number: int = 0) -> None:
        check_count(request)
        self.request, self.number = request, number
        self.source = None if answers_from_elsewhere(request.address) else packed_address(request.address)
        self.payload = chance.randbytes(request.payload_bytes)
        self.token = self.payload[:TOKEN_BYTES]
        self.probes: list[Probe] = []
        self.reordered = 0
        self._chance = chance
        self._left = request.count  # to be sent
        self._unsettled = 0
        self._highest = -1
        self.start_at(start)

    def start_at(self, start: float) -> None:
        """Before the first echo."""
        self.due = self._start = self._last_sent = start

    @property
    def all_sent(self) -> bool:
        return self._left == 0

    @property
    def finished(self) -> bool:
        return self._unsettled == 0 and self._left == 0

    @property
    def deadline(self) -> float:
        """When the wait for answers ends, once all is sent."""
        return self._last_sent + 2 * self.request.timeout_s

    def sent(self, moment: Moment) -> Probe:
        """The next echo is on its way."""
        probe = Probe(self, len(self.probes), moment)
        self.probes.append(probe)
        self._unsettled += 1
        self._left -= 1
        self._last_sent = moment.monotonic
        if self._left:
            self.due = self._next_due(moment.monotonic)
        return probe

    def failed(self, probe: Probe, failure: Failure) -> None:
        """What was thought to be on its way could not be sent."""
        self._unsettled -= 1
        probe.not_sent = failure

    def _next_due(self, sent: float) -> float:
        """Jittered; the last is never later than without jitter, so that a series keeps to its time."""
        interval = self.request.interval_s
        if interval <= 0:
            return self._start
        jitter = self._chance.uniform(-JITTER, JITTER if self._left > 1 else 0.0)
        return max(self._start + (len(self.probes) + jitter) * interval, sent + _CLOSEST * interval)

    def answered(self, probe: Probe, stamp_ns: int | None, read: Moment) -> None:
        """``stamp_ns`` is the kernel's receive stamp; ``read`` is when we saw the reply, or a little later."""
        if probe.read is not None:
            probe.duplicates += 1
            return
        if probe.sequence < self._highest:
            self.reordered += 1
        else:
            self._highest = probe.sequence
        probe.read, probe.receive_ns = read, stamp_ns
        self._unsettled -= 1

    def error(self, probe: Probe, icmp: IcmpError, stamp_ns: int | None, read: Moment) -> None:
        if probe.read is None:
            probe.icmp, probe.read, probe.receive_ns = icmp, read, stamp_ns
            self._unsettled -= 1

    def result(self, kind: str, expected: TimestampSource) -> EchoSeries:
        """``expected``: the clock to name where nothing was timed."""
        start = next((probe.sent.monotonic for probe in self.probes if probe.not_sent is None), 0.0)
        samples: list[EchoSample] = []
        worst: TimestampSource | None = None
        for probe in self.probes:
            rtt_s = None
            if probe.read is not None:
                rtt_s, source = round_trip(probe.sent, probe.read, probe.transmit_ns, probe.receive_ns)
                if source is not worst:
                    worst = max(worst or source, source, key=_BEST_FIRST.index)
            samples.append(_sample(probe, rtt_s, start))
        return EchoSeries(
            samples=tuple(samples),
            timestamp_source=worst or expected,
            socket=kind,
            reordered=self.reordered,
        )


def _sample(probe: Probe, rtt_s: float | None, start: float) -> EchoSample:
    outcome, failure = _verdict(probe, rtt_s)
    return EchoSample(
        sequence=probe.sequence,
        sent_s=probe.sent.monotonic - start if probe.not_sent is None else None,
        outcome=outcome,
        rtt_s=rtt_s,
        duplicates=probe.duplicates,
        failure=failure,
    )


def _verdict(probe: Probe, rtt_s: float | None) -> tuple[Outcome, Failure | None]:
    request = probe.series.request
    if rtt_s is not None and probe.icmp is None:
        return (Outcome.LATE if rtt_s > request.timeout_s else _ANSWERED), None
    if probe.icmp is not None:
        return from_icmp(probe.icmp, "receive", canonical(request.address))
    if probe.not_sent is not None:
        return Outcome.NOT_SENT, probe.not_sent
    return Outcome.LOST, timed_out("receive")
