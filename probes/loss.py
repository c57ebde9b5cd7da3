"""Packet loss, probing until the question "more than x?" is answered or the cap is reached.

After each batch a confidence sequence (probes/stats/sequential.py) says whether the question is settled; looking
after every batch does not raise its error. Losses that come in runs carry less weight than their number: the counts
are divided by the design effect of the run pattern seen (probes/stats/bursts.py), which keeps "above" honest for
mean bursts up to 5. "below" can only speak of the seconds that were probed: a burst that did not happen then is
not in it.
"""

from __future__ import annotations

from probes.contract import Context, Probe
from probes.model import Target, value
from probes.sampling import DEADLINE, LossCount, RttSample, Sampler, loss_count, packet_fates
from probes.stats.bursts import bursts, design_effect
from probes.stats.sequential import Answer, answer, confidence_sequence


@value
class LossOptions:
    method: str = "tcp"  # "tcp" | "icmp"
    question: float | None = 0.05  # "is more than this lost?", 0 < ratio < 1; None: probe up to the cap
    error: float = 0.01  # probability that the answer is wrong, at most
    count: int = 200  # cap on attempts
    batch: int = 20  # attempts between two looks
    interval_s: float = 0.1  # between attempts: spread, so that one short burst does not meet all of them
    timeout_s: float = 2.0


@value
class LossMeasurement:
    """``low`` and ``high`` are the confidence sequence at the stop; ``loss`` has the plain Wilson interval.

    ``answer`` is "above" or "below" the question, or "undecided". ``stop_reason``: "answered", "cap", "deadline"
    (attempts no longer fit), "nothing-counted" (a whole batch without one packet answered or lost: local failures
    or ICMP errors only, see the samples' outcomes).
    """

    method: str
    address: str
    samples: tuple[RttSample, ...]
    loss: LossCount
    question: float | None
    answer: Answer
    error: float
    low: float | None
    high: float | None
    stop_reason: str
    loss_events: int  # runs of consecutive losses
    longest_run: int  # packets
    design_effect: float  # packets that weigh as much as one independent packet, 1..9


class LossStepper:
    """next() is the size of the next batch or None; tell() takes what became of it; no I/O.

    1. The question is answered: stop.
    2. The cap is reached: stop.
    3. A batch ended in attempts that the deadline kept back: stop.
    4. A batch had no packet that counts: more of them would not help: stop.
    """

    def __init__(self, options: LossOptions) -> None:
        self._options = options
        self.samples: tuple[RttSample, ...] = ()
        self.answer: Answer = "undecided"
        self.stop_reason: str | None = None

    def next(self) -> int | None:
        if self.stop_reason is not None:
            return None
        return max(1, min(self._options.batch, self._options.count - len(self.samples)))

    def tell(self, batch: tuple[RttSample, ...]) -> None:
        self.samples += batch
        self.answer = self._judge()
        self.stop_reason = self._stop(batch)

    def _judge(self) -> Answer:
        if self._options.question is None:
            return "undecided"
        lost, sent = self.weighed()
        return answer(lost, sent, self._options.question, self._options.error)

    def weighed(self) -> tuple[float, float]:
        """Lost and sent packets, as if independent."""
        fates = packet_fates(self.samples)
        weight = design_effect(fates)
        return sum(fates) / weight, len(fates) / weight

    def _stop(self, batch: tuple[RttSample, ...]) -> str | None:
        if self.answer != "undecided":
            return "answered"
        if batch and batch[-1].failure == DEADLINE:
            return "deadline"
        if not packet_fates(batch):
            return "nothing-counted"
        return "cap" if len(self.samples) >= self._options.count else None

    def result(self, address: str) -> LossMeasurement:
        fates = packet_fates(self.samples)
        runs = bursts(fates)
        interval = confidence_sequence(*self.weighed(), self._options.error)
        return LossMeasurement(
            method=self._options.method,
            address=address,
            samples=self.samples,
            loss=loss_count(self.samples),
            question=self._options.question,
            answer=self.answer,
            error=self._options.error,
            low=interval.low if interval else None,
            high=interval.high if interval else None,
            stop_reason=self.stop_reason or "cap",
            loss_events=runs.events,
            longest_run=runs.longest,
            design_effect=design_effect(fates),
        )


async def measure(context: Context, target: Target, options: LossOptions) -> LossMeasurement:
    """Batches of attempts until LossStepper stops.

    Raises ProbeUnavailable without an address, without a port (TCP) or where ICMP sockets are not allowed.
    """
    sampler = Sampler(
        context, target, method=options.method, interval_s=options.interval_s, timeout_s=options.timeout_s
    )
    stepper = LossStepper(options)
    while (size := stepper.next()) is not None:
        stepper.tell((await sampler.take(size)).samples)
    return stepper.result(sampler.address)


PROBE = Probe(
    name="loss",
    schema="loss/1",
    summary="Packet loss, until it is known whether more than a given ratio is lost",
    options=LossOptions,
    measurement=LossMeasurement,
    measure=measure,
)
