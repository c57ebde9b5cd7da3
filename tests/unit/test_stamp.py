"""The STAMP probe on scripted series: what is told of which direction, and that a clock step changes nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from probes.contract import ProbeUnavailable
from probes.exchanges import StampRequest, StampSample, StampSeries, TimestampSource
from probes.model import Outcome, Target
from probes.stamp import StampOptions, measure
from tests.fakes.clock import FakeClock
from tests.fakes.network import ScriptedNetwork, context

TARGET = Target(host="db.example", address="192.0.2.10", port=8620)
MS = 1_000_000
EPOCH_NS = 1_706_140_800_000_000_000


def reply(n: int, count: int, *, reflector_step_ms: int = 0) -> StampSample:
    """The ``n``-th packet from 0, answered as the reflector's ``count``-th: 30 ms out, 10 ms back, held for 1 ms.

    The reflector's clock counts from the epoch, ours from 5 s.
    """
    t1 = 5_000 * MS + n * 50 * MS
    t2 = EPOCH_NS + n * 50 * MS + 30 * MS
    return StampSample(
        sequence=n + 1,
        sent_s=n * 0.05,
        outcome=Outcome.ANSWERED,
        sent_ns=t1,
        reflector_received_ns=t2,
        reflector_sent_ns=t2 + (1 + reflector_step_ms) * MS,
        received_ns=t1 + 41 * MS,
        reflector_sequences=(count,),
        ttl_at_reflector=62,
    )


def lost(n: int) -> StampSample:
    return StampSample(sequence=n + 1, sent_s=n * 0.05, outcome=Outcome.LOST, sent_ns=5_000 * MS + n * 50 * MS)


def series(*samples: StampSample, synchronized: bool | None = True) -> StampSeries:
    return StampSeries(
        samples=samples,
        timestamp_source=TimestampSource.KERNEL_RX_TX,
        wall_minus_monotonic_ns=EPOCH_NS - 7_000 * MS,
        clock_steps=0,
        reflector_synchronized=synchronized,
        reflector_error_s=0.001,
    )


async def probe(answer: StampSeries, options: StampOptions | None = None, seconds: float = 60.0):
    network = ScriptedNetwork(FakeClock(), stamp=lambda request: answer)
    return await measure(context(network, seconds), TARGET, options or StampOptions())


async def test_round_trip_offset_and_both_ways():
    measured = await probe(series(*(reply(n, n) for n in range(10))))
    assert measured.rtt.p50_s == pytest.approx(0.040)
    # Ours reads EPOCH - 7 s + 5 s when theirs reads EPOCH: 2 s, and 10 ms of asymmetry that nobody can see.
    assert measured.clock_offset_s == pytest.approx(2.010, abs=1e-6)
    assert measured.clock_offset_uncertainty_s == pytest.approx(0.020)
    assert measured.forward_delay.minimum_s == pytest.approx(0.020)
    assert abs((measured.forward_delay.minimum_s or 0) - 0.030) <= (measured.forward_delay.uncertainty_s or 0)
    assert measured.reverse_delay.p50_s == pytest.approx(0.020)
    assert measured.forward_delay.pdv_p95_s == pytest.approx(0.0, abs=1e-9)
    assert (measured.forward_loss.sent, measured.forward_loss.lost, measured.reverse_loss.lost) == (10, 0, 0)


async def test_loss_has_a_direction_and_an_interval():
    measured = await probe(series(reply(0, 0), lost(1), reply(2, 1), lost(3), reply(4, 3), lost(5)))
    assert (measured.forward_loss.sent, measured.forward_loss.lost) == (5, 1)
    assert (measured.reverse_loss.sent, measured.reverse_loss.lost) == (4, 1)
    assert (measured.unattributed, measured.loss.lost) == (1, 3)
    assert measured.forward_loss.low < 0.2 < measured.forward_loss.high


async def test_a_stateless_reflector_tells_no_direction():
    """It copies what was on the wire, and that counts from 1."""
    measured = await probe(series(reply(0, 1), lost(1), reply(2, 3)))
    assert (measured.forward_loss, measured.reverse_loss, measured.unattributed) == (None, None, None)
    assert (measured.stateful, measured.loss.lost) == (False, 1)


async def test_a_stateful_reflector_whose_replies_alone_are_lost_is_not_taken_for_a_stateless_one():
    measured = await probe(series(reply(0, 0), lost(1), reply(2, 2)))
    assert (measured.stateful, measured.forward_loss.lost, measured.reverse_loss.lost) == (True, 0, 1)


async def test_packets_doubled_on_the_way_leave_a_count_a_count():
    """The first came twice: from then on the reflector's own numbers are ours."""
    first, second = reply(0, 0), reply(1, 2)
    doubled = replace(first, reflector_sequences=(0, 1))
    measured = await probe(series(doubled, second, lost(2), reply(3, 4)))
    assert (measured.stateful, measured.forward_loss.lost, measured.reverse_loss.lost) == (True, 0, 1)


async def test_silence_has_no_direction_no_delay_and_no_offset():
    measured = await probe(series(*(lost(n) for n in range(5)), synchronized=None))
    assert (measured.loss.sent, measured.loss.lost, measured.rtt.n) == (5, 5, 0)
    assert (measured.forward_loss, measured.clock_offset_s, measured.forward_delay.minimum_s) == (None, None, None)
    assert measured.stateful is None


async def test_packets_kept_back_here_are_no_loss():
    held = StampSample(sequence=2, sent_s=None, outcome=Outcome.NOT_SENT)
    measured = await probe(series(reply(0, 0), held, reply(2, 1)))
    assert (measured.forward_loss.sent, measured.forward_loss.lost, measured.loss.sent) == (2, 0, 2)
    assert measured.loss.not_sent == 1


@pytest.mark.parametrize("step_ms", [-5000, 5000])
async def test_a_step_of_the_reflectors_clock_makes_no_negative_time(step_ms):
    """The exchange in which it happened has no round trip; the others keep theirs."""
    samples = [reply(n, n, reflector_step_ms=step_ms if n == 3 else 0) for n in range(8)]
    measured = await probe(series(*samples))
    assert (measured.rtt.n, measured.rtt.minimum_s, measured.rtt.maximum_s) == (7, 0.04, 0.04)
    assert (measured.loss.lost, measured.forward_loss.lost) == (0, 0)


async def test_the_series_is_cut_to_the_deadline():
    network = ScriptedNetwork(FakeClock(), stamp=lambda request: series(*(lost(n) for n in range(request.count))))
    await measure(context(network, 3.0), TARGET, StampOptions(count=1000))
    assert network.asked == [StampRequest(address="192.0.2.10", port=8620, count=21)]


@pytest.mark.parametrize(
    ("options", "seconds"),
    [(StampOptions(packet_bytes=43), 60.0), (StampOptions(count=0), 60.0), (StampOptions(), 1.0)],
)
async def test_what_cannot_run_says_so(options, seconds):
    with pytest.raises(ProbeUnavailable):
        await probe(series(), options, seconds)
