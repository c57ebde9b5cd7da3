"""Loss runs: counted by hand, and the design effect against Gilbert's model."""

from __future__ import annotations

import random

import pytest

from probes.stats.bursts import WORST_DESIGN, bursts, design_effect


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
