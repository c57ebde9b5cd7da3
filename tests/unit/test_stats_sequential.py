"""The confidence sequence: hand-worked values, exact enumeration over every path, simulated error rates."""

from __future__ import annotations

import random
from fractions import Fraction
from itertools import product
from math import exp, log

import pytest

from probes.stats.bursts import design_effect
from probes.stats.sequential import answer, confidence_sequence, log_mixture


def mixture(lost: int, sent: int, ratio: Fraction) -> Fraction:
    """M by Polya's urn, prior (1/2, 10): the predictive probability of each packet in turn, in exact fractions."""
    predicted = Fraction(1)
    for number in range(sent):
        a = Fraction(1, 2) + min(number, lost)
        b = Fraction(10) + max(0, number - lost)
        predicted *= (a if number < lost else b) / (a + b)
    return predicted / (ratio**lost * (1 - ratio) ** (sent - lost))


@pytest.mark.parametrize(("lost", "sent"), [(0, 0), (0, 1), (1, 1), (2, 7), (5, 5), (0, 115), (30, 200)])
def test_the_mixture_is_that_of_the_urn(lost, sent):
    exact = mixture(lost, sent, Fraction(1, 20))
    assert log_mixture(lost, sent, 0.05) == pytest.approx(log(exact), abs=1e-9)


def test_the_mixture_is_a_martingale():
    """Its mean over all 2^10 paths, weighted by the true ratio, is 1."""
    ratio = 0.2
    total = 0.0
    for path in product((0, 1), repeat=10):
        k = sum(path)
        total += ratio**k * (1 - ratio) ** (10 - k) * exp(log_mixture(k, 10, ratio))
    assert total == pytest.approx(1.0, abs=1e-9)


def test_no_loss_excludes_five_per_cent_at_the_115th_packet():
    assert answer(0, 114, 0.05, 0.01) == "undecided"
    assert answer(0, 115, 0.05, 0.01) == "below"


def test_nothing_sent_is_undecided():
    assert answer(0, 0, 0.05) == "undecided"
    assert confidence_sequence(0, 0) is None


@pytest.mark.parametrize(("lost", "sent"), [(0, 10), (3, 10), (10, 10), (5, 100), (60, 200), (2.5, 31.25)])
def test_the_interval_is_where_the_mixture_stays_below_its_bound(lost, sent):
    interval = confidence_sequence(lost, sent, 0.01)
    assert interval is not None
    assert 0 <= interval.low <= lost / sent <= interval.high <= 1
    for edge, step in ((interval.low, 1e-6), (interval.high, -1e-6)):
        if 0 < edge < 1:
            assert log_mixture(lost, sent, edge) == pytest.approx(log(100), abs=1e-6)
            assert log_mixture(lost, sent, edge + step) < log(100)


@pytest.mark.parametrize(("lost", "sent"), [(0, 60), (0, 130), (12, 60), (3, 60)])
def test_the_answer_and_the_interval_agree(lost, sent):
    interval = confidence_sequence(lost, sent, 0.01)
    assert interval is not None
    expected = "above" if interval.low > 0.05 else "below" if interval.high < 0.05 else "undecided"
    assert answer(lost, sent, 0.05, 0.01) == expected


def crossing_probability(ratio: float, question: float, wrong: str, packets: int, error: float) -> float:
    """Exact probability that the wrong answer is ever given within ``packets``, by dynamic programming over counts."""
    alive, crossed = {0: 1.0}, 0.0
    for sent in range(1, packets + 1):
        after: dict[int, float] = {}
        for lost, chance in alive.items():
            after[lost + 1] = after.get(lost + 1, 0.0) + chance * ratio
            after[lost] = after.get(lost, 0.0) + chance * (1 - ratio)
        alive = {k: c for k, c in after.items() if answer(k, sent, question, error) == "undecided"}
        crossed += sum(c for k, c in after.items() if answer(k, sent, question, error) == wrong)
    return crossed


@pytest.mark.parametrize("error", [0.01, 0.05])
@pytest.mark.parametrize("question", [0.005, 0.05, 0.2])
def test_at_the_question_itself_the_chance_of_any_answer_stays_within_the_error(question, error):
    """The hardest truth is the question: looking after each of 300 packets, both answers together."""
    above = crossing_probability(question, question, "above", 300, error)
    below = crossing_probability(question, question, "below", 300, error)
    assert 0 < above + below <= error


def test_loss_is_found_where_it_is():
    """True ratio 20 %, question 5 %: exact chance of "above" within the cap of 200."""
    assert crossing_probability(0.20, 0.05, "above", 200, 0.01) > 0.97


def gilbert(loss: float, mean_burst: float, source: random.Random, packets: int) -> list[bool]:
    recover = 1 / mean_burst
    onset = loss * recover / (1 - loss)
    lost, fates = source.random() < loss, []
    for _ in range(packets):
        lost = source.random() >= recover if lost else source.random() < onset
        fates.append(lost)
    return fates


def verdict(fates: list[bool], *, weighed: bool) -> str:
    for sent in range(20, len(fates) + 1, 20):
        seen = fates[:sent]
        weight = design_effect(seen) if weighed else 1.0
        said = answer(sum(seen) / weight, sent / weight, 0.05, 0.01)
        if said != "undecided":
            return said
    return "undecided"


def test_bursts_raise_no_false_alarm_once_weighed():
    """1 % loss in bursts of 5 is not above 5 %. Counted packet by packet it is said to be, too often."""
    source = random.Random(20240125)
    runs = [gilbert(0.01, 5, source, 200) for _ in range(1500)]
    plain = sum(verdict(run, weighed=False) == "above" for run in runs) / len(runs)
    weighed = sum(verdict(run, weighed=True) == "above" for run in runs) / len(runs)
    assert plain > 0.015
    assert weighed <= 0.01


def test_independent_losses_keep_their_power_when_weighed():
    source = random.Random(7)
    runs = [gilbert(0.15, 1 / 0.85, source, 200) for _ in range(500)]
    assert sum(verdict(run, weighed=True) == "above" for run in runs) / len(runs) > 0.85
