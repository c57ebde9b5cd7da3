"""The loss verdict on an emulated link that loses in bursts of five, its counters beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from random import SystemRandom

import pytest

from netdiag.lab.emulator import LinkSettings
from probes import loss
from probes.contract import Context
from probes.model import Target, Vantage
from probes.net.clock import SystemClock
from probes.net.kernel import KernelNetwork
from tests.kernel.emulated import RIGHT, EmulatedLine, emulated_line

pytestmark = [pytest.mark.kernel, pytest.mark.needs("ip", "ping")]

THERE = "left-to-right"
MEAN_BURST = 5.0
OPTIONS = loss.LossOptions(method="icmp", interval_s=0.003, timeout_s=0.15, batch=100)


@pytest.fixture(scope="module")
def line() -> Iterator[EmulatedLine]:
    with emulated_line() as made:
        made.left.run("ping", "-c", "1", RIGHT)  # neighbours known
        yield made


async def verdict(count: int) -> loss.LossMeasurement:
    clock = SystemClock()
    network = KernelNetwork(clock, packets_per_second=2000.0)
    context = Context(network=network, clock=clock, vantage=Vantage(name="test"), deadline=clock.monotonic() + 60)
    return await loss.measure(context, Target(host=RIGHT, address=RIGHT), replace(OPTIONS, count=count))


def ask(line: EmulatedLine, ratio: float, count: int = 600) -> loss.LossMeasurement:
    """One verdict, over a channel begun anew; what it counted as lost is what the emulator dropped."""
    seed = SystemRandom().randrange(1 << 32)
    print(f"loss {ratio:g} seed {seed}")  # noqa: T201 - a failure must be repeatable
    line.control.set(THERE, LinkSettings(loss=ratio, burst=MEAN_BURST), seed=seed)
    before = line.control.counters()[THERE]
    measured = line.left.measure(lambda: verdict(count))
    after = line.control.counters()[THERE]
    # Beside the echoes a neighbour solicitation or two may have been lost.
    assert 0 <= after.dropped["loss"] - before.dropped["loss"] - measured.loss.lost <= 3
    return measured


def test_little_loss_in_bursts_is_no_alarm(line):
    """0.5 % is what is tolerated: two false alarms among four have a chance of 0.06 % at the stated error."""
    answers = Counter(ask(line, 0.005, count=300).answer for _ in range(4))
    assert answers["above"] <= 1


def test_heavy_loss_in_bursts_is_found(line):
    measured = [ask(line, 0.15) for _ in range(3)]
    assert [m.answer for m in measured].count("above") >= 2
    assert max(m.longest_run for m in measured) > 1


def test_five_per_cent_in_bursts_is_not_called_less(line):
    answers = Counter(ask(line, 0.05).answer for _ in range(3))
    assert answers["below"] <= 1
