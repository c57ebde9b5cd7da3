"""Sampling and latency: how each way an attempt can end counts, and when attempts go out."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from probes.contract import ProbeUnavailable
from probes.exchanges import EchoRequest, EchoSample, EchoSeries, Handshake, HandshakeRequest, TimestampSource
from probes.latency import LatencyOptions, measure
from probes.model import Outcome, Target
from probes.sampling import RttSample, Sampler, loss_count, packet_fates, rtt_summary, worst_source
from tests.fakes.clock import FakeClock
from tests.fakes.network import ScriptedNetwork, context, failed_handshake, open_handshake

TARGET = Target(host="db.example", address="192.0.2.10", port=5432)


def sample(sequence: int, outcome: Outcome, rtt_s: float | None = None, **more) -> RttSample:
    return RttSample(sequence=sequence, sent_s=sequence * 0.2, outcome=outcome, rtt_s=rtt_s, **more)


def scripted(handshakes) -> ScriptedNetwork:
    answers = iter(handshakes)
    return ScriptedNetwork(FakeClock(), handshake=lambda request: next(answers))


async def test_each_syn_is_a_packet():
    """Five attempts and three retransmissions: 8 SYNs, of which 3 + 1 were lost."""
    lost = replace(failed_handshake(Outcome.LOST, seconds=3.0), syn_retransmits=2)
    network = scripted([open_handshake(0.05), open_handshake(0.05, retransmits=1), lost, *[open_handshake(0.07)] * 2])
    measured = await measure(context(network), TARGET, LatencyOptions(count=5))
    loss = measured.loss
    assert (loss.sent, loss.lost, loss.longest_run, loss.not_sent) == (8, 4, 3, 0)
    assert loss.ratio == 0.5
    assert [s.outcome for s in measured.samples] == [Outcome.ANSWERED, Outcome.ANSWERED, Outcome.LOST] + [
        Outcome.ANSWERED
    ] * 2


async def test_a_retransmitted_handshake_has_no_rtt():
    network = scripted([open_handshake(0.05), open_handshake(0.05, retransmits=1)])
    measured = await measure(context(network), TARGET, LatencyOptions(count=2))
    assert measured.rtt.n == 1
    assert measured.rtt.maximum_s == 0.05


@pytest.mark.parametrize(
    ("seconds", "retransmits", "rtt_s"),
    [(0.05, 0, 0.05), (0.05, None, 0.05), (1.06, 1, None), (1.06, None, None)],
)
async def test_a_rst_is_an_answer_with_the_users_time(seconds, retransmits, rtt_s):
    refused = replace(failed_handshake(Outcome.REFUSED, seconds=seconds), syn_retransmits=retransmits)
    measured = await measure(context(scripted([refused])), TARGET, LatencyOptions(count=1))
    assert measured.samples[0].rtt_s == rtt_s
    assert measured.loss.lost == (retransmits or 0)
    assert measured.timestamp_source is TimestampSource.USER


async def test_the_worst_clock_names_the_measurement():
    network = scripted([open_handshake(0.05), failed_handshake(Outcome.REFUSED, seconds=0.05)])
    measured = await measure(context(network), TARGET, LatencyOptions(count=2))
    assert measured.timestamp_source is TimestampSource.USER
    assert worst_source([TimestampSource.KERNEL_RX, TimestampSource.KERNEL_RX_TX]) is TimestampSource.KERNEL_RX


@pytest.mark.parametrize("outcome", [Outcome.UNREACHABLE, Outcome.REJECTED, Outcome.EXPIRED, Outcome.TOO_BIG])
def test_an_icmp_error_is_neither_loss_nor_delivery(outcome):
    loss = loss_count([sample(0, outcome), sample(1, outcome)])
    assert (loss.sent, loss.lost, loss.ratio, loss.low, loss.high) == (0, 0, None, None, None)


def test_a_local_failure_is_no_loss():
    samples = [sample(0, Outcome.NOT_SENT), sample(1, Outcome.ANSWERED, 0.1), sample(2, Outcome.LOST)]
    loss = loss_count(samples)
    assert (loss.sent, loss.lost, loss.not_sent, loss.ratio) == (2, 1, 1, 0.5)


def test_a_late_answer_is_delay_and_not_loss():
    samples = [sample(0, Outcome.LATE, 2.5), sample(1, Outcome.ANSWERED, 0.1, duplicates=2)]
    assert packet_fates(samples) == (False, False)
    assert (loss_count(samples).late, loss_count(samples).duplicates) == (1, 2)
    assert rtt_summary(samples).maximum_s == 2.5


def test_a_dead_host_is_not_the_fastest():
    summary = rtt_summary([sample(n, Outcome.LOST) for n in range(10)])
    assert summary.n == 0
    assert (summary.minimum_s, summary.mean_s, summary.p99_s, summary.ipdv_mean_abs_s) == (None,) * 4


def test_a_routers_time_is_not_the_targets():
    assert rtt_summary([sample(0, Outcome.EXPIRED, 0.001)]).n == 0


class Instant(ScriptedNetwork):
    """Answers in no time, so that the clock moves by the schedule alone; keeps when it was asked."""

    async def handshake(self, request: HandshakeRequest) -> Handshake:
        self.asked.append(self.clock.now)
        return open_handshake(0.0)


async def test_attempts_keep_to_the_schedule():
    network = Instant(FakeClock())
    measured = await measure(context(network), TARGET, LatencyOptions(count=20, interval_s=0.5))
    sent = network.asked
    offsets = [at - sent[0] for at in sent]
    assert all(abs(at - number * 0.5) <= 0.05 + 1e-9 for number, at in enumerate(offsets))
    assert len({round(at - number * 0.5, 6) for number, at in enumerate(offsets)}) > 5, "the spacing is jittered"
    assert [s.sent_s for s in measured.samples] == pytest.approx(offsets)


async def test_batches_keep_the_spacing_between_them():
    network = Instant(FakeClock())
    sampler = Sampler(context(network), TARGET, method="tcp", interval_s=0.5, timeout_s=1.0)
    for _ in range(4):
        await sampler.take(5)
    steps = [after - before for before, after in pairwise(network.asked)]
    assert len(steps) == 19
    assert all(0.4 - 1e-9 <= step <= 0.6 + 1e-9 for step in steps)


async def test_a_short_deadline_shortens_the_timeout_instead_of_sending_nothing():
    network = scripted([open_handshake(0.01)])
    await measure(context(network, seconds=2.0), TARGET, LatencyOptions(count=1, timeout_s=3.0))
    assert [request.timeout_s for request in network.asked] == [1.0]


async def test_no_attempt_goes_out_that_the_deadline_would_cut_short():
    network = ScriptedNetwork(FakeClock(), handshake=lambda request: open_handshake(0.01))
    measured = await measure(
        context(network, seconds=5.0), TARGET, LatencyOptions(count=10, interval_s=1.0, timeout_s=2.0)
    )
    outcomes = [s.outcome for s in measured.samples]
    # Due at about 0..9 s, with 2 s each before 5 s: those at 0, 1 and 2 s surely fit, those from 4 s on do not.
    assert outcomes[:3] == [Outcome.ANSWERED] * 3
    assert outcomes[4:] == [Outcome.NOT_SENT] * 6
    assert measured.loss.lost == 0
    assert measured.loss.not_sent == outcomes.count(Outcome.NOT_SENT)


async def test_nobody_waits_for_the_due_time_of_an_attempt_that_no_longer_fits():
    """The run ends at its deadline and throws away what a probe has not given back by then."""
    network = ScriptedNetwork(FakeClock(), handshake=lambda request: open_handshake(0.01))
    started = network.clock.monotonic()
    await measure(context(network, seconds=5.0), TARGET, LatencyOptions(count=100, interval_s=1.0, timeout_s=2.0))
    assert network.clock.monotonic() - started <= 5.0


def series(request: EchoRequest) -> EchoSeries:
    samples = tuple(
        EchoSample(sequence=n, sent_s=n * request.interval_s, outcome=Outcome.ANSWERED, rtt_s=0.02 + n / 1000)
        for n in range(request.count)
    )
    return EchoSeries(samples=samples, timestamp_source=TimestampSource.KERNEL_RX_TX, socket="datagram")


async def test_echoes():
    network = ScriptedNetwork(FakeClock(), echo=series)
    measured = await measure(
        context(network), Target(host="192.0.2.10"), LatencyOptions(method="icmp", count=5, timeout_s=2.0)
    )
    assert network.asked == [EchoRequest(address="192.0.2.10", count=5, interval_s=0.2, timeout_s=2.0)]
    assert measured.address == "192.0.2.10"
    assert measured.timestamp_source is TimestampSource.KERNEL_RX_TX
    assert measured.rtt.p50_s == pytest.approx(0.022)
    assert measured.rtt.ipdv_mean_abs_s == pytest.approx(0.001)


async def test_echoes_that_do_not_fit_are_not_sent():
    network = ScriptedNetwork(FakeClock(), echo=series)
    measured = await measure(
        context(network, seconds=3.0),
        TARGET,
        LatencyOptions(method="icmp", count=10, interval_s=0.5, timeout_s=1.0),
    )
    assert [request.count for request in network.asked] == [5]  # at 0, 0.5, 1, 1.5 and 2 s
    assert [s.sequence for s in measured.samples] == list(range(10))
    assert measured.loss.not_sent == 5


@pytest.mark.parametrize(
    ("target", "options", "word"),
    [
        (Target(host="db.example", port=5432), LatencyOptions(), "resolve"),
        (Target(host="192.0.2.10"), LatencyOptions(), "port"),
        (TARGET, LatencyOptions(method="icmp"), "ICMP"),
        (TARGET, LatencyOptions(method="carrier pigeon"), "carrier pigeon"),
        (TARGET, LatencyOptions(timeout_s=0.0), "timeout_s"),
        (TARGET, LatencyOptions(timeout_s=float("nan")), "timeout_s"),
        (TARGET, LatencyOptions(interval_s=-0.1), "interval_s"),
        (TARGET, LatencyOptions(interval_s=float("inf")), "interval_s"),
        (TARGET, LatencyOptions(method="icmp", count=65537), "65536"),
        (TARGET, LatencyOptions(method="icmp", count=-1), "count -1"),
        (TARGET, LatencyOptions(count=-1), "count -1"),
    ],
)
async def test_unavailable_says_why(target, options, word):
    with pytest.raises(ProbeUnavailable, match=word):
        await measure(context(ScriptedNetwork(FakeClock())), target, options)


async def test_the_address_goes_before_the_host():
    network = scripted([open_handshake()])
    measured = await measure(context(network), TARGET, LatencyOptions(count=1))
    assert measured.address == "192.0.2.10"
    assert network.asked == [HandshakeRequest(address="192.0.2.10", port=5432, timeout_s=3.0)]
