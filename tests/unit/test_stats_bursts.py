"""Loss runs: counted by hand, and the design effect against Gilbert's model."""

from __future__ import annotations

import random

import pytest

from probes.stats.bursts import (
    WORST_DESIGN,
    bursts,
    design_effect,
    effective_size,
    gilbert,
    loss_pattern,
    simple_gilbert,
)


def fates(text: str) -> list[bool]:
    return [letter == "x" for letter in text]


@pytest.mark.parametrize(
    ("text", "events", "longest", "lengths"),
    [
        ("", 0, 0, ()),
        ("....", 0, 0, ()),
        ("xxxx", 1, 4, (4,)),
        ("x.xx..xxx.", 3, 3, (1, 2, 3)),
        ("..xx", 1, 2, (2,)),
    ],
)
def test_runs(text, events, longest, lengths):
    runs = bursts(fates(text))
    assert (runs.events, runs.longest, runs.lengths) == (events, longest, lengths)


@pytest.mark.parametrize("text", ["", ".", "x", "......", "xxxxx", "......x", ".x.x.x.x.x."])
def test_without_correlation_a_packet_is_a_packet(text):
    assert design_effect(fates(text)) == 1.0


def test_design_effect_by_hand():
    # "....xx....xx..": after an arrival 9 packets, 2 onsets; after a loss 4 packets, 2 reliefs.
    rho = 1 - 2 / 9 - 2 / 4
    assert design_effect(fates("....xx....xx..")) == pytest.approx((1 + rho) / (1 - rho))


def test_a_blackout_in_mid_run_keeps_some_weight():
    assert design_effect(fates("." * 100 + "x" * 100)) == WORST_DESIGN


@pytest.mark.parametrize(("onset", "recover"), [(0.02, 0.25), (0.05, 0.5), (0.1, 0.9)])
def test_design_effect_of_a_gilbert_channel(onset, recover):
    """Theory: (2 - p - r) / (p + r)."""
    source, lost, sequence = random.Random(11), False, []
    for _ in range(60_000):
        lost = source.random() >= recover if lost else source.random() < onset
        sequence.append(lost)
    assert design_effect(sequence) == pytest.approx((2 - onset - recover) / (onset + recover), rel=0.06)


def test_effective_size():
    assert effective_size(fates("......")) == 6.0
    assert effective_size(fates("....xx....xx..")) == pytest.approx(14 / design_effect(fates("....xx....xx..")))


def test_simple_gilbert_by_hand():
    """ ".x..xxx...": of six arrivals with a successor two precede a loss, of four losses two precede an arrival."""
    found = simple_gilbert(fates(".x..xxx..."))
    assert (found.onset, found.relief) == (pytest.approx(2 / 5), pytest.approx(2 / 4))
    assert (found.mean_bad, found.loss) == (2.0, pytest.approx(0.4 / 0.9))
    assert simple_gilbert(fates("....")) is None
    assert simple_gilbert(fates("..xx")) is None


def elliott(onset: float, relief: float, bad_loss: float, source: random.Random, count: int) -> list[bool]:
    bad, sequence = False, []
    for _ in range(count):
        bad = source.random() >= relief if bad else source.random() < onset
        sequence.append(bad and source.random() < bad_loss)
    return sequence


def test_simple_gilbert_finds_the_channel():
    """p = 0.02, r = 0.25: 7.4 % loss in bursts of 4."""
    found = simple_gilbert(elliott(0.02, 0.25, 1.0, random.Random(3), 50_000))
    assert found.loss == pytest.approx(0.02 / 0.27, rel=0.1)
    assert found.mean_bad == pytest.approx(4.0, rel=0.1)


def test_gilberts_own_estimate_finds_a_bad_state_that_lets_some_through():
    found = gilbert(elliott(0.02, 0.1, 0.5, random.Random(1960), 300_000))
    assert found.onset == pytest.approx(0.02, rel=0.2)
    assert found.relief == pytest.approx(0.1, rel=0.2)
    assert found.bad_loss == pytest.approx(0.5, rel=0.15)
    assert found.loss == pytest.approx(0.5 * 0.02 / 0.12, rel=0.05)


@pytest.mark.parametrize("text", ["", "......", "xxxxxx", "..x....x...", ".x.x.x.x.x."])
def test_too_little_for_a_channel(text):
    assert gilbert(fates(text)) is None


def test_loss_pattern_by_hand():
    """RFC 3357: losses 1, 2, 5, 9; with delta 2 only 1 and 2 belong together."""
    found = loss_pattern(fates(".xx..x...x"), delta=2)
    assert found.distances == (1, 3, 4)
    assert found.periods == (2, 1, 1)
    assert found.noticeable == 0.25
    assert loss_pattern(fates("..")).periods == ()
    assert loss_pattern(fates("..")).noticeable is None
