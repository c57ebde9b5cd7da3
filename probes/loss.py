"""Packet loss, probing until it is known to be above what is tolerated or below what is asked about, or the cap.

After each packet a sequential test says whether the question is settled; looking so often does not raise its error.
Which test depends on what is taken for granted of the losses:

1. Runs of losses of a mean length up to ``mean_burst`` packets, any channel of Gilbert's: probes/stats/markov.py.
   "above" costs about twice what independent losses need; "below" needs 565 packets of which none is lost at the
   default question, because a burst that does not happen for a while looks like no loss at all.
2. ``mean_burst`` = 1, independent losses: Wald's test, calibrated (probes/stats/sprt.py); 105 packets for "below".
"""

from __future__ import annotations

import asyncio
from collections import deque

from probes.contract import Context, Probe, ProbeUnavailable
from probes.model import Target, value
from probes.sampling import DEADLINE, LossCount, RttSample, Sampler, Series, loss_count, packet_fates
from probes.stats.bursts import bursts, design_effect
from probes.stats.intervals import Interval
from probes.stats.markov import BurstyTest, bursty_sequence, transitions
from probes.stats.sequential import Answer, LossTest, MixtureTest, confidence_sequence
from probes.stats.sprt import IndependentTest


@value
class LossOptions:
    method: str = "tcp"  # "tcp" | "icmp"
    question: float | None = 0.05  # "below" says: less than this is lost; 0 < ratio < 1. None: probe up to the cap
    tolerated: float | None = 0.005  # "above" says: more than this is lost. None or more: the question
    error: float = 0.01  # probability that the answer is wrong, at most
    mean_burst: float = 5.0  # packets; the error holds for losses in runs of up to this mean length. 1: independent
    count: int = 600  # cap on attempts
    batch: int = 5  # attempts between two looks
    interval_s: float = 0.1  # between attempts
    timeout_s: float = 2.0
    in_flight: int = 1  # batches that may wait for their answers at once; more: even pace, and as many too many sent


@value
class LossMeasurement:
    """``low`` and ``high`` are the confidence sequence at the stop; ``loss`` has the plain Wilson interval.

    ``answer``: "above" (more than ``tolerated`` is lost, or than ``question`` where that is None), "below" (less than
    ``question``), or "undecided". ``low`` and ``high`` are None where the runs seen are longer than ``mean_burst``
    can explain. ``stop_reason``: "answered", "cap", "deadline" (attempts no longer fit), "nothing-counted" (a whole
    batch without one packet answered or lost: local failures or ICMP errors only, see the samples' outcomes).
    """

    method: str
    address: str
    samples: tuple[RttSample, ...]
    loss: LossCount
    question: float | None
    tolerated: float | None = None
    answer: Answer
    error: float
    mean_burst: float = 1.0  # packets: the longest mean run of losses for which ``error`` holds
    low: float | None
    high: float | None
    stop_reason: str
    loss_events: int  # runs of consecutive losses
    longest_run: int  # packets
    design_effect: float  # packets that weigh as much as one independent packet, 1..9

    @property
    def ratio_answered(self) -> float | None:
        """What ``answer`` compares the loss with."""
        return self.tolerated if self.answer == "above" and self.tolerated is not None else self.question


class LossStepper:
    """next() is the size of the next batch or None; tell() takes what became of it; no I/O.

    1. The question is answered: stop.
    2. The cap is reached: stop.
    3. A batch ended in attempts that the deadline kept back: stop.
    4. A batch had no packet that counts: more of them would not help: stop.

    Batches may be asked for before earlier ones are told, and are told in the order in which they were asked for. What
    is told after the stop is kept as measured and changes neither the answer nor the reason.
    """

    def __init__(self, options: LossOptions) -> None:
        self._options = options
        self._test = _test_of(options)
        self._asked = 0
        self.samples: tuple[RttSample, ...] = ()
        self.stop_reason: str | None = None

    @property
    def answer(self) -> Answer:
        return self._test.answer if self._test else "undecided"

    def next(self) -> int | None:
        left = max(self._options.count, 1) - self._asked
        if self.stop_reason is not None or left <= 0:
            return None
        size = max(1, min(self._options.batch, left))
        self._asked += size
        return size

    def tell(self, batch: tuple[RttSample, ...]) -> None:
        self.samples += batch
        if self.stop_reason is not None:
            return
        for fate in packet_fates(batch):
            if self._test:
                self._test.tell(fate)
        self.stop_reason = self._stop(batch)

    def _stop(self, batch: tuple[RttSample, ...]) -> str | None:
        if self.answer != "undecided":
            return "answered"
        if _cut_short(batch):
            return "deadline"
        if not packet_fates(batch):
            return "nothing-counted"
        return "cap" if len(self.samples) >= self._options.count else None

    def result(self, address: str) -> LossMeasurement:
        fates = packet_fates(self.samples)
        runs = bursts(fates)
        interval = _interval(fates, self._options)
        return LossMeasurement(
            method=self._options.method,
            address=address,
            samples=self.samples,
            loss=loss_count(self.samples),
            question=self._options.question,
            tolerated=self._options.tolerated,
            answer=self.answer,
            error=self._options.error,
            mean_burst=self._options.mean_burst,
            low=interval.low if interval else None,
            high=interval.high if interval else None,
            stop_reason=self.stop_reason or "cap",
            loss_events=runs.events,
            longest_run=runs.longest,
            design_effect=design_effect(fates),
        )


def _cut_short(batch: tuple[RttSample, ...]) -> bool:
    return bool(batch) and batch[-1].failure == DEADLINE


def _test_of(options: LossOptions) -> LossTest | None:
    """The test that the options ask for. Raises ProbeUnavailable where no test could answer."""
    high = options.question
    if high is None:
        return None
    low = high if options.tolerated is None else min(options.tolerated, high)
    if not (low > 0 and high < 1 and 0 < options.error < 0.5 and options.mean_burst >= 1):
        raise ProbeUnavailable("needs 0 < tolerated, question < 1, 0 < error < 0.5 and mean_burst >= 1")
    if options.mean_burst > 1:
        return BurstyTest(low, high, options.error, options.mean_burst)
    return IndependentTest(low, high, options.error) if low < high else MixtureTest(high, options.error)


def _interval(fates: tuple[bool, ...], options: LossOptions) -> Interval | None:
    if options.mean_burst > 1 and fates:
        return bursty_sequence(transitions(fates), options.error, options.mean_burst)
    return confidence_sequence(sum(fates), len(fates), options.error)


async def measure(context: Context, target: Target, options: LossOptions) -> LossMeasurement:
    """Batches of attempts until LossStepper stops.

    Raises ProbeUnavailable without an address, without a port (TCP), where ICMP sockets are not allowed, or where
    the question is none (see LossOptions).
    """
    sampler = Sampler(
        context, target, method=options.method, interval_s=options.interval_s, timeout_s=options.timeout_s
    )
    stepper = LossStepper(options)
    under_way: deque[asyncio.Task[Series]] = deque()
    try:
        async with asyncio.TaskGroup() as group:
            while (size := stepper.next()) is not None:
                under_way.append(group.create_task(sampler.take(size)))
                await _tell_settled(stepper, under_way, sampler, options.in_flight)
    except ExceptionGroup as failed:  # one batch's ProbeUnavailable is every batch's
        raise failed.exceptions[0] from None
    for task in under_way:
        stepper.tell(task.result().samples)
    return stepper.result(sampler.address)


async def _tell_settled(
    stepper: LossStepper, under_way: deque[asyncio.Task[Series]], sampler: Sampler, in_flight: int
) -> None:
    """Once there is room for another batch and it is due. Where the deadline cuts a batch short, all are waited for."""
    await asyncio.sleep(0)  # the batch begins, and with it the next one's due time is known
    if in_flight > 1:
        await sampler.due()
    last = any(task.done() and _cut_short(task.result().samples) for task in under_way)
    while under_way and (last or len(under_way) >= in_flight or under_way[0].done()):
        stepper.tell((await under_way.popleft()).samples)


PROBE = Probe(
    name="loss",
    schema="loss/1",
    summary="Packet loss, until it is known whether more than a given ratio is lost",
    options=LossOptions,
    measurement=LossMeasurement,
    measure=measure,
)
