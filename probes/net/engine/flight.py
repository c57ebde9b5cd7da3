"""Which echo a reply, a transmit stamp or an ICMP error belongs to. No sockets.

Sequence numbers and stamp numbers count over all series of the socket. After 65,536 packets a sequence number is used
again and its older echo can no longer be answered; no wait is that long at any rate that netdiag sends at.
"""

from __future__ import annotations

from collections.abc import Iterable

from probes.net.engine.messages import Quoted, ReplyFields, StampFields
from probes.net.engine.moment import Moment
from probes.net.engine.series import Probe, Series

_SEQUENCES = 1 << 16
_MOST_STAMPS_DUE = 4096  # where a driver gives no transmit stamps, not every packet is remembered


class Flight:
    """The echoes under way of one socket."""

    def __init__(self) -> None:
        self.sequence = 0  # of the next packet
        self.stamped = False  # whether any packet has had its transmit stamp
        self._number = 0  # of the next packet's transmit stamp
        self._by_sequence: dict[int, Probe] = {}
        self._by_number: dict[int, Probe] = {}

    def __len__(self) -> int:
        """Echoes that are remembered."""
        return len(self._by_sequence)

    def sent(self, probe: Probe) -> None:
        """``probe`` left with the sequence number that was next."""
        probe.wire = self.sequence
        self._by_sequence[self.sequence] = self._by_number[self._number] = probe
        self.sequence = (self.sequence + 1) % _SEQUENCES
        self._number += 1
        if len(self._by_number) > _MOST_STAMPS_DUE:
            del self._by_number[next(iter(self._by_number))]

    def restart_numbers(self) -> None:
        """Transmit stamps count from 0 again; those still to come are given up."""
        self._number = 0
        self._by_number.clear()

    def forget(self, series: Series) -> None:
        for probe in series.probes:
            if self._by_sequence.get(probe.wire) is probe:
                del self._by_sequence[probe.wire]

    def replies(self, replies: Iterable[ReplyFields], read: Moment) -> set[Series]:
        """The series that they answer."""
        return {series for reply in replies if (series := self.reply(reply, read))}

    def reply(self, reply: ReplyFields, read: Moment) -> Series | None:
        """The series that it answers; None where it answers nothing of ours. ``read``: a moment after it came."""
        sequence, source, payload, stamp_ns = reply
        probe = self._by_sequence.get(sequence)
        if probe is None:
            return None
        series = probe.series
        if (series.source is not None and source != series.source) or not payload.startswith(series.token):
            return None
        series.answered(probe, stamp_ns, read)
        return series

    def stamps(self, stamps: Iterable[StampFields]) -> None:
        """A stamp from before its packet was sent is one that was given up."""
        for number, stamp_ns in stamps:
            probe = self._by_number.pop(number, None)
            if probe is not None and stamp_ns >= probe.sent.wall_ns:
                probe.transmit_ns = stamp_ns
                self.stamped = True

    def error(self, error: Quoted, read: Moment) -> Series | None:
        """Routers may quote nothing of the payload (RFC 792); what they do quote must be ours."""
        probe = self._by_sequence.get(error.sequence)
        if probe is None:
            return None
        token = probe.series.token
        if error.payload[: len(token)] != token[: len(error.payload)]:
            return None
        probe.series.error(probe, error.icmp, error.stamp_ns, read)
        return probe.series
