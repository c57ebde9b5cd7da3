"""Path MTU each way: UDP datagrams with DF (forward), and TCP_MAXSEG on a real database connection (both).

Sizes are whole IP packets in bytes. The TCP experiment needs a peer that sends more than one segment: a query's
result where the database lets us in, the TLS certificate otherwise.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator
from dataclasses import replace
from math import log
from typing import Generic, TypeVar

from probes.contract import Clock, Context, Probe, ProbeUnavailable
from probes.exchanges import DatagramReply, DatagramRequest, HandshakeRequest, Stream, TcpInfo, TlsRequest, TlsSession
from probes.model import Failure, FailureKind, NetworkFailure, Outcome, Secret, Target, value
from probes.session import PostgresSession, UnsupportedAuthentication
from probes.sizes import SizeSearch

UDP_PORTS = range(33434, 33524)  # traceroute's: nothing listens there, so the target answers "port unreachable"
UDP_TOLERANCE = 4  # bytes between the largest delivered and the smallest lost size
TCP_TOLERANCE = 8
# A Linux target sends one "port unreachable" a second to one address, after a burst of six (icmp(7)
# icmp_ratelimit). Silence counts only if the target had time to earn the right to one answer.
ICMP_REFILL_S = 1.1
DEFAULT_RCV_MSS = 536  # TCP_MSS_DEFAULT: what tcpi_rcv_mss says before any data came
UNANSWERED = "the target answers no UDP, not even small datagrams: filtered, or silent"
SIGNALS_AT_MOST = 8
BOUNDARY_PER_ROUND = 2  # packets just below the size, between a row above it and a small one
BOUNDARY_ROUNDS = 12  # at most
ROWS_AT_LEAST = 3  # silent rows above the size, each followed by answers, before the size is called a limit
PAIRS = 24  # of a large and a small datagram at most, where some large ones arrived and some did not
PAIRS_APART = 8  # pairs in which only the large one is lost, net of the reverse: not by chance
IPV4_HEADERS, IPV6_HEADERS = 40, 60  # IP and TCP, without options
IPV6_MINIMUM = 1280  # RFC 8200 section 5
TIMESTAMPS = 12  # TCP option of RFC 7323, inside the MSS (RFC 6691)
LARGEST_MSS = 32767  # tcp(7) TCP_MAXSEG takes no more
SMALL_MSS = {IPV4_HEADERS: 536, IPV6_HEADERS: 1220}  # what every path must carry
SMALL_TRIALS = 2  # in a row, between two large ones
CONNECTIONS_AT_MOST = 16
REPEATS = 2  # of both sides of the size that the search found
UDP_SHARE = 0.9  # of the time there is; what they showed is then asked of TCP
CONNECTION_INTERVAL_S = 0.2
CONNECT_TIMEOUT_S = 3.0
# With its tail it fits the initial window (RFC 6928), so that the tail comes through a black hole. As many full
# segments as that allows: each one is a trial, and a policer that drops nineteen in twenty must not pass for a limit.
SEGMENTS_PER_PAYLOAD = 9
TAIL_BYTES = 300
PAYLOAD_AT_MOST = 200_000

Step = TypeVar("Step")
Answer = TypeVar("Answer")


@value
class MtuOptions:
    user: str | None = None
    password: Secret | None = None
    dbname: str | None = None
    sslmode: str = "prefer"
    largest: int | None = None  # None: the local route's MTU
    smallest: int = 576
    attempts: int = 3  # silent small datagrams before the target counts as not answering
    row: int = 10  # datagrams of one size, all silent, before the size counts as a limit
    search_row: int = 5  # ... and before the search for the limit goes on below it
    row_interval_s: float = 0.05
    beside: float = 0.2  # loss of an exchange that a limit of size may have beside it: 10 % each way
    random: float = 0.6  # ... and loss just below the size that makes it a queue or a policer
    error: float = 0.02  # of either answer to that question
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
    partial: str | None = None  # large packets are lost more often than small ones, and some arrive: what was seen


@value
class MtuMeasurement:
    address: str
    port: int | None
    local_mtu: int | None
    to_target: DirectionMtu
    from_target: DirectionMtu
    datagrams: tuple[DatagramTrial, ...]
    segments: tuple[SegmentTrial, ...]


class ScriptSteps(Generic[Step, Answer]):
    """A stepper whose plan is a generator: it yields what to try and is sent what became of it. No I/O."""

    def __init__(self) -> None:
        self._script = self._run()
        self._step = next(self._script, None)

    def _run(self) -> Generator[Step, Answer, None]:
        raise NotImplementedError

    def next(self) -> Step | None:
        return self._step

    def tell(self, answer: Answer) -> None:
        try:
            self._step = self._script.send(answer)
        except StopIteration:
            self._step = None


@value
class DatagramStep:
    """Wait ``pause_s``, then send ``count`` datagrams ``interval_s`` apart, up to the first that is not lost."""

    pause_s: float
    packet_bytes: int
    timeout_s: float
    count: int = 1
    interval_s: float = 0.0

    @property
    def spread_s(self) -> float:
        return (self.count - 1) * self.interval_s


Replies = tuple[DatagramReply, ...]
DatagramScript = Generator[DatagramStep, Replies, DatagramReply | None]
DatagramWalk = Generator[DatagramStep, Replies, None]


class Boundary:
    """Do packets just below the size come through? A sequential test (Wald 1945) of ``beside`` against ``random``.

    A full byte queue loses large packets first, a policer some share of them; neither turns from "arrives" to
    "vanishes" within a few bytes. A loss counts only where a later answer shows that the target could have answered.
    """

    def __init__(self, options: MtuOptions) -> None:
        self.arrived = self.lost = self.rows = 0
        self._lost_weight = log(options.random / options.beside)
        self._arrived_weight = log((1 - options.random) / (1 - options.beside))
        self._limit = log((1 - options.error) / options.error)

    def note(self, below: list[bool], small: bool) -> None:
        """One round: the fates of the packets just below the size, in order, and of the small one after them."""
        fates = [*below, small]
        for position, arrived in enumerate(below):
            self.arrived += arrived
            self.lost += not arrived and any(fates[position + 1 :])
        self.rows += any(fates)

    @property
    def comes_through(self) -> bool:
        return self._ratio < -self._limit and self.rows >= ROWS_AT_LEAST

    @property
    def is_lost_too(self) -> bool:
        return self._ratio > self._limit

    @property
    def _ratio(self) -> float:
        return self.lost * self._lost_weight + self.arrived * self._arrived_weight


class DatagramSteps(ScriptSteps[DatagramStep, Replies]):
    """The largest datagram that reaches the target, whose "port unreachable" is the receipt.

    1. The largest size first: on a healthy path that is the only packet.
    2. "Too big" from a router: go on at the size it names; where it names none (RFC 1191 section 7.1), search.
    3. Silence: does the target answer a small datagram at all? If not, UDP is filtered and nothing can be told.
    4. Silence at a size counts only as a row, begun after the target's ICMP allowance has refilled and followed by
       an answered small datagram: neither a rate limit nor an outage looks like that.
    5. Then the search between the small size and the silent one.
    6. A limit is a limit only if it repeats: rows above it, packets just below it and small ones in turn. All above
       vanish, those below come through as the small ones do; else it is loss that depends on size (see Boundary).
    7. Where some of the largest size vanish and some arrive, pairs of a large and a small one tell whether size
       matters.
    """

    def __init__(self, largest: int, smallest: int, local_mtu: int | None, options: MtuOptions) -> None:
        self._largest, self._smallest, self._options = largest, min(smallest, largest), options
        self._local_mtu = local_mtu
        self._trials: list[tuple[int, DatagramReply]] = []
        self._rtt_s: float | None = None
        self._search: SizeSearch | None = None
        self._delivered: int | None = None
        self._black_hole = False  # claimed; it holds once it is confirmed
        self._confirmed = False
        self._partial: str | None = None
        self._silent_s = 0.0  # since the target's last answer: its ICMP allowance refills
        self._signalled_mtu: int | None = None
        self._signalled_by: str | None = None
        self._signals = 0
        self._reason: str | None = None
        super().__init__()

    def trials(self) -> tuple[DatagramTrial, ...]:
        """By size, largest first; each size's replies in the order they came."""
        sizes = sorted({size for size, _ in self._trials}, reverse=True)
        return tuple(
            DatagramTrial(packet_bytes=size, replies=tuple(reply for asked, reply in self._trials if asked == size))
            for size in sizes
        )

    def bounds(self) -> tuple[int, ...]:
        """What the search came to so far, confirmed or not: the largest size that arrived, the smallest lost."""
        return (self._search.delivered, self._search.lost) if self._search else ()

    def result(self) -> DirectionMtu:
        search, told = self._search, self._search is not None or self._delivered is not None
        unfinished = "the deadline came before the search was over" if self.next() else None
        told = told and self._confirmed == self._black_hole
        return DirectionMtu(
            largest_delivered=search.delivered if search else self._delivered,
            smallest_lost=search.lost if search and self._confirmed else None,
            signalled_mtu=self._signalled_mtu,
            signalled_by=self._signalled_by,
            black_hole=self._black_hole if told else None,
            method="udp-df",
            reason=self._reason or unfinished,
            partial=self._partial,
        )

    def _run(self) -> DatagramWalk:
        size: int | None = self._largest
        while size is not None:
            reply = yield from self._look(size)
            if reply is None:
                return
            if _arrived(reply):
                self._delivered = size
                if any(asked == size and reply.outcome is Outcome.LOST for asked, reply in self._trials):
                    yield from self._compare(size)
                return
            told = self._told_size(size, reply)
            if told is None and self._reason is None:
                yield from self._narrow(size, reply)
                if self._black_hole and self._reason is None:
                    yield from self._confirm()
            size = told

    def _look(self, size: int) -> DatagramScript:
        """The first view of a size: one datagram, and a proof where it met silence."""
        reply = yield from self._send(size)
        if reply.outcome is not Outcome.LOST:
            return reply
        if self._rtt_s is None and not (yield from self._small_answers()):
            self._reason = self._reason or UNANSWERED
            return None
        if size <= self._smallest:
            self._delivered = size
            return None
        return (yield from self._prove(size, self._options.row))

    def _narrow(self, lost: int, reply: DatagramReply) -> DatagramWalk:
        """Between the small size, which must be answered, and ``lost``, which was proved silent or drew ``reply``."""
        if self._rtt_s is None and not (yield from self._small_answers()):
            self._reason = self._reason or UNANSWERED
            return
        self._black_hole = reply.outcome is Outcome.LOST
        self._search = SizeSearch(self._smallest, lost, UDP_TOLERANCE)
        while (size := self._search.next()) is not None:
            reply = yield from self._send(size)
            if reply.outcome is Outcome.LOST:
                proved = yield from self._prove(size, self._options.search_row)
                if proved is None:
                    return
                reply = proved
                self._black_hole = self._black_hole or reply.outcome is Outcome.LOST
            if reply.outcome is Outcome.TOO_BIG or _is_local_too_big(reply):
                self._note_signal(reply)
            elif reply.outcome is not Outcome.LOST and not _arrived(reply):
                self._reason = f"a datagram of {size} bytes ended {reply.outcome}: the search stopped there"
                return
            self._search.tell(size, delivered=_arrived(reply))

    def _prove(self, size: int, row: int) -> DatagramScript:
        """LOST only if small datagrams are answered right after a patient row of silent ones; None: cannot tell."""
        reply = yield from self._row(size, row)
        if reply.outcome is not Outcome.LOST or (yield from self._small_answers()):
            return reply
        self._reason = f"the target stopped answering small datagrams while {size} bytes were tried"
        return None

    def _confirm(self) -> DatagramWalk:
        """The limit that the search found, asked anew: nothing that was seen on the way to it counts here."""
        if self._search is None:
            return
        above, below, boundary, seen = self._search.lost, self._search.delivered, Boundary(self._options), ""
        for _ in range(BOUNDARY_ROUNDS):
            reply = yield from self._row(above, self._options.row)
            if reply.outcome is not Outcome.LOST:
                seen = f"a datagram of {above} bytes ended {reply.outcome} after others of its size vanished"
                break
            fates: list[bool] = []
            for _ in range(BOUNDARY_PER_ROUND):
                fates.append(_arrived((yield from self._send(below))))
            boundary.note(fates, _arrived((yield from self._send(self._smallest))))
            if boundary.comes_through:
                self._confirmed = True
                return
            known = boundary.arrived + boundary.lost
            seen = f"{boundary.lost} of {known} datagrams of {below} bytes vanish as well as those of {above}"
            if boundary.is_lost_too:
                break
        self._reason = f"no size is a limit: {seen}"
        yield from self._compare(above)

    def _compare(self, large: int) -> DatagramWalk:
        """Pairs of a large and a small datagram. Silence of both is no pair: an outage, or the target's rate limit."""
        only_large = only_small = both = 0
        for _ in range(PAIRS):
            big = _arrived((yield from self._send(large)))
            small = _arrived((yield from self._send(self._smallest)))
            only_large += small and not big
            only_small += big and not small
            both += big and small
            if only_large - only_small >= PAIRS_APART:
                self._partial = (
                    f"{only_large} of {only_large + only_small + both} datagrams of {large} bytes vanish while one of "
                    f"{self._smallest} bytes arrives right after"
                )
                return
            if not big and not small:
                yield from self._small_answers()

    def _small_answers(self) -> Generator[DatagramStep, Replies, bool]:
        """Asked after a silence, which has already used up part of the time that the target's allowance needs."""
        for _ in range(self._options.attempts):
            reply = yield from self._send(self._smallest, pause_s=max(0.0, ICMP_REFILL_S - self._silent_s))
            if _arrived(reply):
                return True
            if reply.outcome is not Outcome.LOST:
                by = _offender(reply.failure)
                self._reason = f"UDP to the target ends {reply.outcome}" + (f" by {by}" if by else "")
                return False
        return False

    def _row(self, size: int, count: int) -> Generator[DatagramStep, Replies, DatagramReply]:
        """Patient: the target's allowance has refilled, so that one arrival of the row would be told."""
        return (yield from self._send(size, max(0.0, ICMP_REFILL_S - self._silent_s), count))

    def _send(self, size: int, pause_s: float = 0.0, count: int = 1) -> Generator[DatagramStep, Replies, DatagramReply]:
        """The first that was not lost, or the last."""
        step = DatagramStep(
            pause_s=pause_s,
            packet_bytes=size,
            timeout_s=self._timeout_s(),
            count=count,
            interval_s=self._options.row_interval_s,
        )
        replies = yield step
        self._trials.extend((size, reply) for reply in replies)
        silent = all(reply.outcome is Outcome.LOST for reply in replies)
        self._silent_s = self._silent_s + pause_s + step.spread_s + step.timeout_s if silent else 0.0
        for reply in filter(_arrived, replies):
            self._rtt_s = max(self._rtt_s or 0.0, reply.seconds)
        return next((reply for reply in replies if reply.outcome is not Outcome.LOST), replies[-1])

    def _timeout_s(self) -> float:
        """Once the round trip is known, there is no need to wait the whole timeout for silence."""
        return self._options.timeout_s if self._rtt_s is None else min(self._options.timeout_s, 0.3 + 3 * self._rtt_s)

    def _told_size(self, size: int, reply: DatagramReply) -> int | None:
        """The smaller size that ``reply`` names. None: search for it, or, with a reason, give up."""
        local = _is_local_too_big(reply)
        if reply.outcome is Outcome.LOST:
            return None
        if reply.outcome is not Outcome.TOO_BIG and not local:
            by = _offender(reply.failure)
            self._reason = f"UDP to the target ends {reply.outcome}" + (f" by {by}" if by else "")
            return None
        self._note_signal(reply)
        self._signals += 1
        if size <= self._smallest:
            self._reason = f'"too big" came even for {size} bytes'
            return None
        icmp = reply.failure.icmp if reply.failure else None
        told = (icmp.mtu if icmp else None) or (self._local_mtu if local else None)
        plausible = told is not None and told < size and self._signals <= SIGNALS_AT_MOST
        return max(self._smallest, told or 0) if plausible else None

    def _note_signal(self, reply: DatagramReply) -> None:
        icmp = reply.failure.icmp if reply.failure else None
        if icmp and icmp.offender:  # without a sender it is this host's own interface that is smaller
            self._signalled_mtu, self._signalled_by = icmp.mtu or None, icmp.offender


def _arrived(reply: DatagramReply) -> bool:
    return reply.outcome in (Outcome.ANSWERED, Outcome.REFUSED)


def _is_local_too_big(reply: DatagramReply) -> bool:
    """This host's own interface is smaller: EMSGSIZE, and no ICMP from anybody."""
    return reply.failure is not None and reply.failure.errno == "EMSGSIZE" and _offender(reply.failure) is None


def _offender(failure: Failure | None) -> str | None:
    return failure.icmp.offender if failure and failure.icmp else None


@value
class SegmentStep:
    """One database connection: advertise ``max_segment`` and move ``payload_bytes`` in ``direction``."""

    direction: str
    max_segment: int | None
    packet_bytes: int
    payload: str  # "query": a result or a literal; "tls": the server's TLS flight
    payload_bytes: int
    stall_s: float


class SegmentSteps(ScriptSteps[SegmentStep, SegmentTrial]):
    """The largest segment that comes through, by real connections with a chosen TCP_MAXSEG (which bounds both ends).

    1. The kernel's own MSS first: a transfer that is delivered ends it (and shows the packet size).
    2. It stalls: the smallest MSS next, twice. If that stalls too, size is not the matter.
    3. The default once more: only a second stall makes the proof, a single one may be an accident. With two small ones
       between, a balancer that sends every other connection to a dead end does not look like a matter of size.
    4. Then the search between the two, and at its end both sides of the size once more: a limit repeats itself.
    5. A stall in which full segments arrived all the same is loss; small segments tell whether size matters to it.
    """

    def __init__(
        self,
        direction: str,
        local_mtu: int,
        headers: int,
        options: MtuOptions,
        hints: tuple[int, ...],
        budget: int,
        *,
        limit_known: bool = False,
    ) -> None:
        """``limit_known``: datagrams of this direction have shown it; one stall is enough to say that TCP meets it."""
        self._limit_known = limit_known
        self._direction, self._local_mtu, self._headers, self._options = direction, local_mtu, headers, options
        self._hints, self._budget = hints, budget
        self._payload = "query" if options.user is not None else "tls"
        self._trials: list[SegmentTrial] = []
        self._planned: tuple[SegmentStep, ...] = ()
        self._search: SizeSearch | None = None
        self._delivered: int | None = None
        self._black_hole: bool | None = None
        self._reason: str | None = None
        self._partial: str | None = None
        super().__init__()

    def trials(self) -> tuple[SegmentTrial, ...]:
        return tuple(self._trials)

    def planned(self) -> tuple[SegmentStep, ...]:
        """Steps that come one after the other from next() on, unless one of them ends the matter: they may be begun
        together, in this order. Told once."""
        planned, self._planned = self._planned, ()
        return planned

    def note(self, trial: SegmentTrial) -> None:
        """Made as planned, and no longer asked for: it is on record, and decides nothing."""
        self._trials.append(trial)

    def hint(self, sizes: tuple[int, ...]) -> None:
        """What else was found meanwhile: sizes to try first."""
        for size in sizes:
            if size not in self._hints:
                self._hints = (*self._hints, size)
                if self._search is not None:
                    self._search.hint(size)

    def allow(self, budget: int, *, limit_known: bool) -> None:
        """What the constructor was told, as it is known by now."""
        self._budget, self._limit_known = budget, limit_known

    def result(self) -> DirectionMtu:
        search, over = self._search, self.next() is None
        return DirectionMtu(
            largest_delivered=search.delivered if search else self._delivered,
            smallest_lost=search.lost if search and self._black_hole else None,
            signalled_mtu=None,
            signalled_by=None,
            black_hole=self._black_hole,
            method="tcp-maxseg" if self._direction == "from-target" else "tcp-send",
            reason=self._reason or (None if over else "the deadline came before the search was over"),
            partial=self._partial,
        )

    def _run(self) -> Generator[SegmentStep, SegmentTrial, None]:
        first = yield from self._first()
        if first.delivered:
            self._note_delivered(first)
        elif _some_arrived(first):
            yield from self._random()
        elif first.delivered is None:
            self._reason = _why(first.failure)
            yield from self._up_to_hint()
        elif self._limit_known:
            self._reason = "a transfer with the default segments stalls: TCP meets the limit that datagrams showed"
        elif (yield from self._proves_size()):
            yield from self._narrow()
            if self._reason is None:
                yield from self._confirm()

    def _first(self) -> Generator[SegmentStep, SegmentTrial, SegmentTrial]:
        """The default MSS; where the server does not let us in, its TLS flight has to do."""
        trial = yield from self._try(None)
        if self._payload == "query" and self._direction == "from-target" and _is_refused_login(trial):
            self._payload = "tls"
            trial = yield from self._try(None)
        return trial

    def _note_delivered(self, trial: SegmentTrial) -> None:
        self._delivered = self._packet_seen(trial)
        if self._payload == "tls" and trial.received_bytes <= self._local_mtu - self._headers:
            self._reason = f"the TLS answer of {trial.received_bytes} bytes fits one segment: it shows nothing of size"
            return
        self._black_hole = False

    def _proves_size(self) -> Generator[SegmentStep, SegmentTrial, bool]:
        smallest = SMALL_MSS[self._headers] + self._headers
        for number in range(SMALL_TRIALS):
            if number == 1:  # not before a small one came through: a silent database costs two connections
                self._planned = (*(self._of_size(smallest) for _ in range(1, SMALL_TRIALS)), self._of_size(None))
            small = yield from self._try(smallest)
            if not small.delivered:
                self._reason = "it stalls with the smallest segments too: not a matter of size"
                if small.delivered is None:
                    self._reason = f"the trial with small segments failed: {_why(small.failure)}"
                return False
        self._delivered = smallest
        again = yield from self._try(None)
        if again.delivered:
            self._note_delivered(again)
            self._reason = "one transfer stalled and the same came through when repeated: not a matter of size"
        elif _some_arrived(again):
            self._tell_random()
        elif again.delivered is None:
            self._reason = f"the stall could not be repeated: {_why(again.failure)}"
        return again.delivered is False

    def _narrow(self) -> Generator[SegmentStep, SegmentTrial, None]:
        self._black_hole = True
        smallest = SMALL_MSS[self._headers] + self._headers
        lost = min(self._local_mtu, LARGEST_MSS + self._headers)
        self._search = SizeSearch(smallest, lost, TCP_TOLERANCE, self._hints)
        while (size := self._search.next()) is not None and len(self._trials) < self._budget:
            trial = yield from self._try(size, self._options.stall_s / 2)
            if _some_arrived(trial):
                self._tell_random()
                return
            if trial.delivered is None and len(self._trials) < self._budget:
                trial = yield from self._try(size, self._options.stall_s / 2)
            if trial.delivered is None:
                self._reason = f"the search stopped early: {_why(trial.failure)}"
                return
            self._search.tell(size, delivered=trial.delivered)

    def _confirm(self) -> Generator[SegmentStep, SegmentTrial, None]:
        """Just below the size comes through, and the size itself stalls, each time."""
        if self._search is not None:
            room, stall_s = (self._budget - len(self._trials)) // 2, self._options.stall_s / 2
            both = (self._of_size(self._search.delivered, stall_s), self._of_size(self._search.lost, stall_s))
            self._planned = both * min(REPEATS, room)
        for _ in range(REPEATS):
            if self._search is None or len(self._trials) + 2 > self._budget:
                return
            below = yield from self._try(self._search.delivered, self._options.stall_s / 2)
            above = yield from self._try(self._search.lost, self._options.stall_s / 2)
            if below.delivered is False or above.delivered or _some_arrived(above):
                self._tell_random()
                return

    def _random(self) -> Generator[SegmentStep, SegmentTrial, None]:
        """The default stalled although full segments arrived. Do small ones come through, each time?"""
        self._black_hole, self._reason = None, "a transfer stalls although full segments of it arrive: loss, no limit"
        for _ in range(SMALL_TRIALS):
            small = yield from self._try(SMALL_MSS[self._headers] + self._headers)
            if not small.delivered:
                return
        self._tell_random()

    def _tell_random(self) -> None:
        """Small segments came through and large ones stalled, but not all of them, or not each time."""
        smallest = SMALL_MSS[self._headers] + self._headers
        stalled = sum(_is_stall(trial.failure) and trial.packet_bytes != smallest for trial in self._trials)
        self._black_hole = None
        self._reason = "transfers with large segments stall, but some of those segments arrive: loss, no limit of size"
        self._partial = (
            f"{stalled} of {sum(t.packet_bytes != smallest for t in self._trials)} TCP transfers with segments above "
            f"{smallest} bytes stall and none with smaller ones"
        )

    def _up_to_hint(self) -> Generator[SegmentStep, SegmentTrial, None]:
        """Where the other direction stalls first, this one can be tried up to what the other delivers."""
        if self._direction == "to-target" and self._hints and _is_stall(self._trials[-1].failure):
            trial = yield from self._try(self._hints[0])
            if trial.delivered:
                self._delivered = self._hints[0]
                self._reason = f"not tried above {self._hints[0]} bytes: larger replies do not come through"

    def _try(
        self, packet_bytes: int | None, stall_s: float = 0.0
    ) -> Generator[SegmentStep, SegmentTrial, SegmentTrial]:
        trial = yield self._of_size(packet_bytes, stall_s)
        self._trials.append(trial)
        return trial

    def _of_size(self, packet_bytes: int | None, stall_s: float = 0.0) -> SegmentStep:
        segment = self._local_mtu - self._headers
        payload_bytes = min(PAYLOAD_AT_MOST, SEGMENTS_PER_PAYLOAD * segment + TAIL_BYTES)
        return SegmentStep(
            direction=self._direction,
            max_segment=None if packet_bytes is None else packet_bytes - self._headers,
            packet_bytes=packet_bytes or self._local_mtu,
            payload=self._payload,
            payload_bytes=payload_bytes,
            stall_s=stall_s or self._options.stall_s,
        )

    def _packet_seen(self, trial: SegmentTrial) -> int | None:
        """The size of the full packets of a transfer with the default MSS, by the kernel's account."""
        if trial.info is None:
            return None
        # Linux takes the timestamps off advmss, rcv_mss and snd_mss alike; the packet carries them.
        # advmss follows the interface or, once a router has named a limit, the path MTU that the kernel remembers.
        room = {mtu - self._headers - trial.info.advmss for mtu in (self._local_mtu, trial.info.pmtu)}
        options = TIMESTAMPS if TIMESTAMPS in room else 0
        segment = trial.info.rcv_mss if self._direction == "from-target" else trial.info.snd_mss
        return min(self._local_mtu, segment + options + self._headers)


def _is_refused_login(trial: SegmentTrial) -> bool:
    return trial.failure is not None and trial.failure.kind in (FailureKind.SERVER, FailureKind.CREDENTIALS)


def _is_stall(failure: Failure | None) -> bool:
    return failure is not None and failure.kind is FailureKind.TIMEOUT


def _why(failure: Failure | None) -> str:
    if failure is None:
        return "no answer"
    return f"{failure.operation}: {failure.sqlstate or failure.detail or failure.errno or failure.kind}"


class WatchedStream:
    """A Stream on which a wait ends after ``stall_s`` without progress, whatever deadline the caller gave it."""

    def __init__(self, stream: Stream, clock: Clock, stall_s: float) -> None:
        self._stream, self._clock, self._stall_s = stream, clock, stall_s
        self.handshake = stream.handshake
        self.received = 0

    async def send(self, data: bytes, deadline: float) -> None:
        await self._stream.send(data, self._sooner(deadline))

    async def receive(self, limit: int, deadline: float) -> bytes:
        while True:
            before = self._progress()
            try:
                data = await self._stream.receive(limit, self._sooner(deadline))
            except NetworkFailure as failure:
                moving = self._progress() != before and self._clock.monotonic() < deadline
                if not (moving and _is_stall(failure.failure)):
                    raise
            else:
                self.received += len(data)
                return data

    async def start_tls(self, request: TlsRequest, deadline: float) -> TlsSession:
        return await self._stream.start_tls(request, self._sooner(deadline))

    def channel_binding(self) -> bytes | None:
        return self._stream.channel_binding()

    def info(self) -> TcpInfo | None:
        return self._stream.info()

    async def close(self) -> None:
        await self._stream.close()

    def _sooner(self, deadline: float) -> float:
        return min(deadline, self._clock.monotonic() + self._stall_s)

    def _progress(self) -> tuple[int | None, int | None]:
        info = self._stream.info()
        return (info.bytes_received, info.bytes_acked) if info else (None, None)


class _Connections:
    """The database connections of one measurement: at most so many, and at most five a second."""

    def __init__(self, context: Context, target: Target, options: MtuOptions) -> None:
        self._context, self._target, self._options = context, target, options
        self._next_start = 0.0

    async def run(self, steps: SegmentSteps, learn: Callable[[SegmentTrial], Awaitable[None]]) -> None:
        """A trial that cannot have its stall time before the deadline is not made. ``learn`` comes between a trial and
        what follows from it."""
        begun: list[tuple[SegmentStep, asyncio.Task[SegmentTrial]]] = []
        async with asyncio.TaskGroup() as group:
            while (step := steps.next()) is not None and self._has_room(step):
                begun += [(one, group.create_task(self._in_turn(one, self._turn()))) for one in steps.planned()]
                place = next((n for n, (one, _) in enumerate(begun) if one == step), None)
                trial = await (self._in_turn(step, self._turn()) if place is None else begun.pop(place)[1])
                await learn(trial)
                steps.tell(trial)
        for _, task in begun:
            steps.note(task.result())

    def _has_room(self, step: SegmentStep) -> bool:
        return self._context.remaining() > step.stall_s + CONNECTION_INTERVAL_S

    def _turn(self) -> float:
        """When the next connection may begin."""
        now = self._context.clock.monotonic()
        self._next_start = max(now, self._next_start) + CONNECTION_INTERVAL_S
        return self._next_start - CONNECTION_INTERVAL_S

    async def _in_turn(self, step: SegmentStep, turn: float) -> SegmentTrial:
        await self._context.clock.sleep(max(0.0, turn - self._context.clock.monotonic()))
        return await self._trial(step)

    async def _trial(self, step: SegmentStep) -> SegmentTrial:
        started = self._context.clock.monotonic()
        request = HandshakeRequest(
            address=self._target.address or self._target.host,
            port=self._target.port or 0,
            timeout_s=min(CONNECT_TIMEOUT_S, self._context.remaining()),
            max_segment=step.max_segment,
        )
        try:
            stream = await self._context.network.open_stream(request)
        except NetworkFailure as failure:
            return _untried(step, failure.failure, self._context.clock.monotonic() - started)
        watched = WatchedStream(stream, self._context.clock, step.stall_s)
        return await self._transfer(step, watched, started)

    async def _transfer(self, step: SegmentStep, stream: WatchedStream, started: float) -> SegmentTrial:
        session = PostgresSession(stream, self._context.clock, long_limit=PAYLOAD_AT_MOST + 1024)
        failure: Failure | None = None
        try:
            await self._talk(step, session, stream)
        except NetworkFailure as caught:
            failure = caught.failure
        finally:
            info = stream.info()
            await session.terminate()
        received = info.bytes_received if info and info.bytes_received is not None else stream.received
        moved = info.bytes_acked if info and step.direction == "to-target" and info.bytes_acked else received
        return SegmentTrial(
            direction=step.direction,
            max_segment=step.max_segment,
            packet_bytes=step.packet_bytes,
            payload_bytes=step.payload_bytes if step.payload == "query" else received,
            received_bytes=moved,
            delivered=_delivered(step.direction, failure, info),
            seconds=self._context.clock.monotonic() - started,
            info=info,
            failure=failure,
        )

    async def _talk(self, step: SegmentStep, session: PostgresSession, stream: WatchedStream) -> None:
        options, deadline = self._options, self._context.deadline
        # Nothing is verified here: the certificate is the database probe's subject, this one only wants bytes.
        answer = await session.negotiate_tls(options.sslmode, TlsRequest(server_name=self._target.host), deadline)
        if step.payload == "tls":
            if answer.tls is None:
                raise NetworkFailure(_local("no credentials, and no TLS: the server has nothing large to say"))
            return
        try:
            await session.start(options.user or "", options.password, options.dbname, deadline)
        except UnsupportedAuthentication as error:
            raise NetworkFailure(_local(f"authentication method: {error}"[:200])) from error
        await session.query(_sql(step), deadline)


def _sql(step: SegmentStep) -> str:
    if step.direction == "from-target":
        return f"SELECT repeat('x', {step.payload_bytes})"
    return f"SELECT length('{'x' * step.payload_bytes}')"


def _local(detail: str) -> Failure:
    return Failure(kind=FailureKind.CREDENTIALS, operation="startup", detail=detail)


def _delivered(direction: str, failure: Failure | None, info: TcpInfo | None) -> bool | None:
    """A stall speaks against the side that owes bytes: ours where our own data is unacknowledged, else the target's."""
    if failure is None:
        return True
    if not _is_stall(failure) or _full_segment_arrived(direction, info):
        return None
    ours = info is not None and info.unacked > 0
    return False if ours == (direction == "to-target") else None


def _full_segment_arrived(direction: str, info: TcpInfo | None) -> bool:
    """One packet of this very size came through, so it is loss. Up to 536 rcv_mss is the kernel's first guess.

    Our own segments: more than one is acknowledged out of order, and only the last one of a transfer is small.
    """
    if info is None:
        return False
    if direction == "to-target":
        return (info.sacked or 0) > 1
    return info.rcv_mss >= info.advmss > DEFAULT_RCV_MSS


def _some_arrived(trial: SegmentTrial) -> bool:
    """It stalled, and yet a full segment of it came through."""
    stalled = trial.delivered is None and _is_stall(trial.failure)
    return stalled and _full_segment_arrived(trial.direction, trial.info)


def _untried(step: SegmentStep, failure: Failure, seconds: float) -> SegmentTrial:
    return SegmentTrial(
        direction=step.direction,
        max_segment=step.max_segment,
        packet_bytes=step.packet_bytes,
        payload_bytes=step.payload_bytes,
        received_bytes=0,
        delivered=None,
        seconds=seconds,
        info=None,
        failure=failure,
    )


def _unknown(reason: str) -> DirectionMtu:
    return DirectionMtu(
        largest_delivered=None,
        smallest_lost=None,
        signalled_mtu=None,
        signalled_by=None,
        black_hole=None,
        method=None,
        reason=reason,
    )


def merge_forward(udp: DirectionMtu, tcp: DirectionMtu) -> DirectionMtu:
    """One account of the way to the target: the database's own protocol decides, UDP adds exact sizes and signals.

    Where UDP vanishes and TCP comes through, something clamps the MSS: TCP is well, and the reason says so. What one of
    them delivers at a size that vanished for the other refutes the limit.
    """
    partial = udp.partial or tcp.partial
    if tcp.black_hole is None or tcp.black_hole == udp.black_hole:
        told = udp if udp.black_hole is not None or tcp.largest_delivered is None else tcp
        return replace(told, partial=partial)
    reason = tcp.reason
    if udp.black_hole:
        clamped = (tcp.largest_delivered or 0) < (udp.smallest_lost or 0)
        segments = "segments are clamped below that" if clamped else f"segments of {tcp.largest_delivered} do not"
        reason = f"UDP above {udp.largest_delivered} bytes vanishes, but TCP's {segments}"
    elif tcp.black_hole and (udp.largest_delivered or 0) >= (tcp.smallest_lost or 0):
        reason = f"TCP segments of {tcp.smallest_lost} bytes stall, datagrams of {udp.largest_delivered} arrive"
        tcp = replace(tcp, black_hole=None, smallest_lost=None)
    told = replace(tcp, signalled_mtu=udp.signalled_mtu, signalled_by=udp.signalled_by, reason=reason)
    return replace(told, partial=partial)


async def _measure_datagrams(context: Context, address: str, steps: DatagramSteps, deadline: float) -> None:
    port = 0
    while (step := steps.next()) is not None:
        if context.clock.monotonic() + step.pause_s + step.spread_s + step.timeout_s > deadline:
            return
        await context.clock.sleep(step.pause_s)
        replies = await _send_datagrams(context, address, step, port)
        port += len(replies)
        steps.tell(replies)


async def _send_datagrams(context: Context, address: str, step: DatagramStep, port: int) -> Replies:
    """Each to a port of its own. Once one is known not to be lost no more are sent."""
    requests = [
        DatagramRequest(
            address=address,
            port=UDP_PORTS[(port + number) % len(UDP_PORTS)],
            packet_bytes=step.packet_bytes,
            timeout_s=step.timeout_s,
        )
        for number in range(step.count)
    ]
    if step.count == 1:
        return (await context.network.datagram(requests[0]),)
    tasks: list[asyncio.Task[DatagramReply]] = []
    async with asyncio.TaskGroup() as group:
        for request in requests:
            tasks.append(group.create_task(context.network.datagram(request)))
            await context.clock.sleep(step.interval_s)
            if any(task.done() and task.result().outcome is not Outcome.LOST for task in tasks):
                break
    return tuple(task.result() for task in tasks)


def _datagram_steps(local_mtu: int | None, is_ipv6: bool, options: MtuOptions) -> DatagramSteps:
    # The route's MTU may be a remembered path MTU: beginning at Ethernet's costs one local EMSGSIZE at most.
    largest = options.largest or min(65535, max(local_mtu or 1500, 1500))
    smallest = max(options.smallest, IPV6_MINIMUM) if is_ipv6 else options.smallest
    return DatagramSteps(largest, smallest, local_mtu, options)


async def measure(context: Context, target: Target, options: MtuOptions) -> MtuMeasurement:
    """The path MTU to the target, and from it where the port is a database's.

    Raises ProbeUnavailable where the target has no address.
    """
    if target.address is None:
        raise ProbeUnavailable(f"mtu needs a resolved address; {target.label()} lacks one")
    local_mtu = context.network.local_route(target.address).mtu
    datagrams = _datagram_steps(local_mtu, ":" in target.address, options)
    with_database = options.use_database and target.port is not None
    share = UDP_SHARE if with_database else 1.0
    udp_deadline = context.clock.monotonic() + context.remaining() * share
    async with asyncio.TaskGroup() as group:
        udp = group.create_task(_measure_datagrams(context, target.address, datagrams, udp_deadline))
        beside = await _measure_segments(context, target, options, local_mtu, datagrams, udp) if with_database else None
    if beside is not None:
        to_target, from_target, segments = beside
    else:
        to_target, segments = datagrams.result(), ()
        from_target = _unknown("no database to ask for a large reply: the way back was not tried")
    return MtuMeasurement(
        address=target.address,
        port=target.port,
        local_mtu=local_mtu,
        to_target=to_target,
        from_target=from_target,
        datagrams=datagrams.trials(),
        segments=segments,
    )


async def _measure_segments(
    context: Context,
    target: Target,
    options: MtuOptions,
    local_mtu: int | None,
    datagrams: DatagramSteps,
    udp: asyncio.Task[None],
) -> tuple[DirectionMtu, DirectionMtu, tuple[SegmentTrial, ...]]:
    """Both directions by the database's own connections, beside the datagrams: neither of them times anything.

    What the datagrams have met so far are hints to the searches. The way there is asked once a transfer came back;
    where the datagrams show a limit, one stall says that TCP meets it.
    """
    headers = IPV6_HEADERS if ":" in (target.address or "") else IPV4_HEADERS
    mtu, connections = local_mtu or 1500, _Connections(context, target, options)
    back, there = (
        SegmentSteps(direction, mtu, headers, options, (), CONNECTIONS_AT_MOST)
        for direction in ("from-target", "to-target")
    )
    answered = asyncio.Event()

    async def learn_back(trial: SegmentTrial) -> None:
        back.hint(datagrams.bounds())
        if trial.delivered:
            answered.set()

    async def learn_there(_trial: SegmentTrial) -> None:
        await udp
        forward = datagrams.result()
        if not forward.black_hole:
            await asyncio.wait({back_over})
        there.allow(CONNECTIONS_AT_MOST - len(back.trials()), limit_known=bool(forward.black_hole))
        there.hint((*datagrams.bounds(), *_bounds(back.result())))

    async with asyncio.TaskGroup() as group:
        back_over = group.create_task(connections.run(back, learn_back))
        back_over.add_done_callback(lambda _: answered.set())
        await answered.wait()
        if _is_worth_asking_there(back, options):
            await connections.run(there, learn_there)
        await udp
    forward = datagrams.result()
    if not there.trials():
        return forward, back.result(), back.trials()
    return merge_forward(forward, there.result()), back.result(), (*back.trials(), *there.trials())


def _bounds(known: DirectionMtu) -> tuple[int, ...]:
    """The largest size that came through, and the smallest that did not."""
    sizes = (known.largest_delivered, known.smallest_lost) if known.black_hole else ()
    return tuple(size for size in sizes if size is not None)


def _is_worth_asking_there(back: SegmentSteps, options: MtuOptions) -> bool:
    """Somebody who is let in, and to whom not every transfer stalls."""
    no_login = options.user is None or any(_is_refused_login(trial) for trial in back.trials())
    stalls_anyway = len(back.trials()) > 1 and not any(trial.delivered for trial in back.trials())
    return not (no_login or stalls_anyway)


PROBE = Probe(
    name="mtu",
    schema="mtu/1",
    summary="The largest packet that comes through, each way, and whether anything says so where larger ones do not.",
    options=MtuOptions,
    measurement=MtuMeasurement,
    measure=measure,
)
