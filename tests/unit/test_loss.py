"""The loss verdict: when it stops, what it says, and what counts."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from itertools import pairwise

import pytest

from probes.contract import ProbeUnavailable
from probes.exchanges import EchoRequest, EchoSample, EchoSeries, TimestampSource
from probes.loss import LossOptions, LossStepper, measure
from probes.model import Outcome, Target
from probes.sampling import RttSample
from tests.fakes.clock import FakeClock
from tests.fakes.network import ScriptedNetwork, context, failed_handshake, open_handshake

TARGET = Target(host="db.example", address="192.0.2.10", port=5432)
ICMP = LossOptions(method="icmp")
INDEPENDENT = replace(ICMP, mean_burst=1.0)


class LossyPath:
    """Echoes lost independently with ``ratio``, in a seeded order."""

    def __init__(self, ratio: float, seed: int) -> None:
        self._ratio, self._source = ratio, random.Random(seed)

    def __call__(self, request: EchoRequest) -> EchoSeries:
        samples = tuple(self._echo(n, request) for n in range(request.count))
        return EchoSeries(samples=samples, timestamp_source=TimestampSource.KERNEL_RX, socket="datagram")

    def _echo(self, n: int, request: EchoRequest) -> EchoSample:
        lost = self._source.random() < self._ratio
        outcome = Outcome.LOST if lost else Outcome.ANSWERED
        return EchoSample(sequence=n, sent_s=n * request.interval_s, outcome=outcome, rtt_s=None if lost else 0.05)


async def probe(ratio: float, seed: int = 1, options: LossOptions = ICMP, seconds: float = 120.0):
    network = ScriptedNetwork(FakeClock(), echo=LossyPath(ratio, seed))
    return await measure(context(network, seconds), TARGET, options)


async def test_a_clean_path_takes_105_packets_where_losses_are_independent():
    """Wald: ln(0.992 / 0.008) / ln(0.995 / 0.95) = 104.2 packets; with the whole error of 1 % it is 99.3."""
    measured = await probe(0.0, options=INDEPENDENT)
    assert (measured.answer, measured.stop_reason, len(measured.samples)) == ("below", "answered", 105)
    assert (measured.loss.sent, measured.loss.lost) == (105, 0)
    assert measured.low == 0.0
    assert measured.ratio_answered == 0.05


async def test_a_clean_path_takes_longer_where_losses_may_come_in_runs():
    """No test may stop before 0.95 (1 - 0.05 / 0.95 / 5)^(n - 1) < 1 %, n = 432."""
    measured = await probe(0.0)
    assert (measured.answer, measured.stop_reason) == ("below", "answered")
    assert 432 <= len(measured.samples) <= 600
    assert measured.low == 0.0
    assert measured.high is not None
    assert measured.high < 0.05


async def test_a_dead_path_is_above():
    """0.8^n < 1 % takes 21 packets: that long may one burst of a mean of 5 go on; independent, three do."""
    measured = await probe(1.0)
    assert (measured.answer, len(measured.samples)) == ("above", 25)
    assert (measured.loss_events, measured.longest_run) == (1, 25)
    assert measured.high == 1.0
    assert measured.low is not None
    assert measured.low > 0.005
    assert measured.ratio_answered == 0.005
    assert len((await probe(1.0, options=INDEPENDENT)).samples) == 5


@pytest.mark.parametrize("seed", range(5))
async def test_heavy_loss_is_above(seed):
    measured = await probe(0.30, seed)
    assert measured.answer == "above"
    assert measured.loss.lost == sum(s.outcome is Outcome.LOST for s in measured.samples)
    assert [s.sequence for s in measured.samples] == list(range(len(measured.samples)))


async def test_at_a_single_question_it_says_undecided_at_the_cap():
    measured = await probe(0.05, seed=3, options=replace(INDEPENDENT, tolerated=None, count=200))
    assert (measured.answer, measured.stop_reason, len(measured.samples)) == ("undecided", "cap", 200)
    assert measured.low is not None
    assert measured.high is not None
    assert measured.low < 0.05 < measured.high


@pytest.mark.parametrize(
    "wrong", [{"question": 1.0}, {"question": 0.0}, {"tolerated": 0.0}, {"error": 0.5}, {"mean_burst": 0.9}]
)
async def test_a_question_without_an_answer_is_refused(wrong):
    with pytest.raises(ProbeUnavailable, match="needs 0 < tolerated"):
        await probe(0.0, options=replace(ICMP, **wrong))


async def test_without_a_question_it_goes_to_the_cap():
    measured = await probe(0.0, options=LossOptions(method="icmp", question=None, count=50))
    assert (measured.answer, measured.stop_reason, len(measured.samples)) == ("undecided", "cap", 50)


async def test_the_deadline_is_no_loss():
    measured = await probe(0.0, seconds=6.0)
    assert measured.stop_reason == "deadline"
    assert measured.answer == "undecided"
    assert measured.loss.lost == 0
    assert measured.loss.not_sent > 0


async def test_batches_are_paced_as_one_series():
    measured = await probe(0.0)
    sent = [s.sent_s for s in measured.samples]
    steps = [b - a for a, b in pairwise(sent)]
    assert all(step == pytest.approx(0.1) for step in steps)


class Hesitant:
    """Answers no request before it has seen ``count`` of them."""

    def __init__(self, count: int) -> None:
        self._missing, self._seen = count, asyncio.Event()

    async def echo(self, request: EchoRequest) -> EchoSeries:
        self._missing -= 1
        if self._missing <= 0:
            self._seen.set()
        await self._seen.wait()
        return LossyPath(1.0, seed=1)(request)


async def test_batches_in_flight_wait_for_no_answers(monkeypatch):
    network = ScriptedNetwork(FakeClock())
    monkeypatch.setattr(network, "echo", Hesitant(3).echo)
    measured = await measure(context(network), TARGET, replace(INDEPENDENT, in_flight=3))
    assert (measured.answer, measured.stop_reason, measured.loss.lost) == ("above", "answered", 15)
    assert [s.sequence for s in measured.samples] == list(range(15))


async def test_batches_in_flight_keep_to_the_cap_and_to_the_deadline():
    capped = await probe(0.05, seed=3, options=replace(ICMP, count=52, in_flight=4))
    assert (capped.stop_reason, len(capped.samples)) == ("cap", 52)
    short = await probe(0.0, seconds=6.0, options=replace(ICMP, in_flight=4))
    assert (short.stop_reason, short.loss.lost) == ("deadline", 0)
    assert 0 < short.loss.not_sent <= ICMP.batch


async def test_what_comes_in_after_the_answer_does_not_change_it():
    stepper = LossStepper(replace(INDEPENDENT, in_flight=2))
    lost, answered = (
        tuple(RttSample(sequence=n, sent_s=n * 0.1, outcome=outcome) for n in range(5))
        for outcome in (Outcome.LOST, Outcome.ANSWERED)
    )
    assert (stepper.next(), stepper.next()) == (5, 5)
    stepper.tell(lost)
    assert stepper.next() is None
    for _ in range(30):
        stepper.tell(answered)
    measured = stepper.result("192.0.2.10")
    assert (measured.answer, measured.stop_reason, measured.loss.sent) == ("above", "answered", 155)


async def test_a_probe_that_is_not_allowed_says_so_from_within_a_batch(monkeypatch):
    async def refused(request: EchoRequest) -> EchoSeries:
        raise ProbeUnavailable("no ICMP here")

    network = ScriptedNetwork(FakeClock())
    monkeypatch.setattr(network, "echo", refused)
    with pytest.raises(ProbeUnavailable, match="no ICMP here"):
        await measure(context(network), TARGET, ICMP)


async def test_errors_alone_have_no_loss_ratio():
    network = ScriptedNetwork(FakeClock(), handshake=lambda request: failed_handshake(Outcome.REJECTED, seconds=0.01))
    measured = await measure(context(network), TARGET, LossOptions())
    assert (measured.stop_reason, measured.answer, len(measured.samples)) == ("nothing-counted", "undecided", 5)
    assert (measured.loss.sent, measured.loss.ratio, measured.low, measured.high) == (0, None, None, None)


async def test_refusals_prove_delivery():
    network = ScriptedNetwork(FakeClock(), handshake=lambda request: failed_handshake(Outcome.REFUSED, seconds=0.01))
    measured = await measure(context(network), TARGET, LossOptions())
    assert (measured.answer, measured.loss.lost) == ("below", 0)


async def test_retransmitted_syns_tell_of_loss_though_every_attempt_succeeds():
    """Every fourth connect needs a second SYN: 1 lost in 5 packets."""
    handshakes = (open_handshake(0.05, retransmits=int(n % 4 == 3)) for n in range(1000))
    network = ScriptedNetwork(FakeClock(), handshake=lambda request: next(handshakes))
    measured = await measure(context(network, 1000.0), TARGET, LossOptions())
    assert measured.answer == "above"
    assert measured.loss.ratio == 0.2
    assert measured.loss_events == measured.loss.lost


def test_a_burst_weighs_less_than_its_number():
    """Twelve losses in one run among 100 packets are not "above 2 %"; the same twelve apart are."""
    answers = {}
    for name, lost in (("together", set(range(40, 52))), ("apart", set(range(0, 96, 8)))):
        stepper = LossStepper(LossOptions(batch=100, question=0.02, tolerated=None))
        outcomes = [Outcome.LOST if n in lost else Outcome.ANSWERED for n in range(100)]
        stepper.tell(tuple(RttSample(sequence=n, sent_s=n * 0.1, outcome=o) for n, o in enumerate(outcomes)))
        answers[name] = stepper.result("192.0.2.10")
    assert answers["together"].loss.lost == answers["apart"].loss.lost == 12
    assert answers["together"].answer == "undecided"
    assert answers["together"].design_effect > 5
    assert answers["apart"].design_effect == 1.0
    assert answers["apart"].low > answers["together"].low


async def test_the_last_batch_keeps_to_the_cap():
    measured = await probe(0.05, seed=3, options=replace(ICMP, count=50))
    assert len(measured.samples) == 50
