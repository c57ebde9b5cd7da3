"""The verdict under bursts: a martingale by exact enumeration, its optimum by brute force, errors by simulation."""

from __future__ import annotations

import random
from itertools import islice, product
from math import exp, inf, log

import pytest

from probes.stats.markov import (
    FIRST_LOST,
    BurstyTest,
    Transitions,
    best_at_least,
    best_at_most,
    bursty_answer,
    bursty_sequence,
    log_likelihood,
    log_mixture,
    transitions,
)
from tests.unit.channels import channel

LOW, HIGH, ERROR, BURST = 0.005, 0.05, 0.01, 5.0


def fates(text: str) -> list[bool]:
    return [letter == "x" for letter in text]


def test_transitions_by_hand():
    seen = Transitions(first=False, onsets=2, calm=4, reliefs=2, stays=1)
    assert transitions(fates("..xx..x...")) == seen
    assert transitions([]) == Transitions()
    assert transitions([True]) == Transitions(first=True)


def test_likelihood_by_hand():
    seen = Transitions(onsets=1, calm=2, reliefs=1, stays=3)
    assert exp(log_likelihood(seen, 0.1, 0.25)) == pytest.approx(0.1 * 0.9**2 * 0.25 * 0.75**3)
    assert log_likelihood(seen, 0.0, 0.25) == -inf
    assert log_likelihood(Transitions(calm=5), 0.0, 1.0) == 0.0


def test_the_mixture_is_a_probability():
    """Summed over all sequences of one length it is 1: what Ville's inequality asks of it."""
    assert sum(exp(log_mixture(transitions(path))) for path in product((False, True), repeat=12)) == pytest.approx(1)
    assert exp(log_mixture(transitions([True]))) == pytest.approx(FIRST_LOST)


def grid_best(seen: Transitions, ratio: float, *, above: bool) -> float:
    """Greatest likelihood on a grid over the claim, Gilbert's channels and independent losses."""
    best = -inf
    for relief in (step / 400 for step in range(80, 401)):
        for onset in (step / 1000 for step in range(1001)):
            loss = onset / (onset + relief)
            if (loss >= ratio) if above else (loss <= ratio):
                best = max(best, log_likelihood(seen, onset, relief))
    for loss in (step / 1000 for step in range(1001)):
        if (loss >= ratio) if above else (loss <= ratio):
            best = max(best, log_likelihood(seen, loss, 1 - loss))
    first = (log(1 - ratio) if seen.first is False else 0.0) if above else (log(ratio) if seen.first else 0.0)
    return best + first


@pytest.mark.parametrize("text", ["." * 30, "x" * 9, "..x....xxx.....x.......", "x.x.x.x.x.", "xxxxxxxx....xxxxxxx."])
@pytest.mark.parametrize("ratio", [0.05, 0.3, 0.9])
def test_the_best_channel_is_that_of_a_grid(text, ratio):
    seen = transitions(fates(text))
    for found, above in ((best_at_most, False), (best_at_least, True)):
        brute = grid_best(seen, ratio, above=above)
        assert brute - 1e-9 <= found(seen, ratio, BURST) <= brute + 0.05


def test_independent_loss_however_heavy_is_within_the_claim():
    """A dead path is no burst of 5, but it is independent loss of 100 %: never "below"."""
    seen = transitions([True] * 500)
    assert best_at_least(seen, HIGH, BURST) == pytest.approx(0.0)
    assert bursty_answer(seen, LOW, HIGH, ERROR, BURST) == "above"


def test_no_answer_comes_sooner_than_any_test_may_give_one():
    """0.95 (1 - 1/95)^(n - 1) is the chance of n arrivals in a row at 5 % in bursts of 5, 0.8^n that a burst lasts."""
    clean = next(
        n for n in range(1, 1000) if bursty_answer(transitions([False] * n), LOW, HIGH, ERROR, BURST) == "below"
    )
    dead = next(n for n in range(1, 1000) if bursty_answer(transitions([True] * n), LOW, HIGH, ERROR, BURST) == "above")
    assert 0.95 * (1 - 1 / 95) ** (clean - 1) < ERROR
    assert LOW * 0.8 ** (dead - 1) < ERROR


@pytest.mark.parametrize("text", ["." * 100, "x" * 30, "....x" * 20, ("." * 50 + "xx") * 6, "x" + "." * 40])
def test_the_interval_is_what_is_not_excluded(text):
    seen = transitions(fates(text))
    interval = bursty_sequence(seen, ERROR, BURST)
    assert interval is not None
    assert 0 <= interval.low <= fates(text).count(True) / len(text) <= interval.high <= 1
    reached = log_mixture(seen) + log(ERROR)
    if interval.low > 0:
        assert best_at_most(seen, interval.low, BURST) == pytest.approx(reached, abs=1e-6)
    if interval.high < 1:
        assert best_at_least(seen, interval.high, BURST) == pytest.approx(reached, abs=1e-6)


def test_runs_far_longer_than_stated_have_no_interval():
    assert bursty_sequence(transitions(fates("." * 200 + "x" * 80 + "." * 200)), ERROR, BURST) is None


def false_answers(loss: float, mean_burst: float | None, wrong: str, *, runs: int, packets: int, seed: int) -> int:
    source, count = random.Random(seed), 0
    for _ in range(runs):
        test, losses = BurstyTest(LOW, HIGH, ERROR, BURST), channel(loss, mean_burst, source)
        for _packet in range(packets):
            test.tell(next(losses))
            if test.answer != "undecided":
                break
        count += test.answer == wrong
    return count


@pytest.mark.parametrize("mean_burst", [None, 2.0, 5.0])
def test_stated_errors_hold_for_any_burst_up_to_five(mean_burst):
    """At the ratios where each answer is hardest. 400 runs at 1 % give more than 12 with a chance of 0.1 %."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # noqa: T201 - a failure must be repeatable
    assert false_answers(LOW, mean_burst, "above", runs=400, packets=300, seed=seed) <= 12
    assert false_answers(HIGH, mean_burst, "below", runs=150, packets=600, seed=seed) <= 7


def test_loss_in_bursts_is_found():
    assert false_answers(0.15, 5.0, "above", runs=60, packets=600, seed=5) >= 57


def test_what_any_procedure_needs_for_below_and_what_this_one_takes():
    """5 % lost in bursts of 5 shows no loss in n packets with chance 0.95 (1 - 0.0105)^(n - 1).

    Who says "below" after n packets without a loss is wrong that often. By simulation, independent of the formula.
    """
    source, runs = random.Random(20261125), 4000
    longest = 432
    first_loss = [
        next((n for n, lost in enumerate(islice(channel(HIGH, BURST, source), longest)) if lost), longest)
        for _ in range(runs)
    ]
    after_119 = sum(n >= 119 for n in first_loss) / runs
    assert after_119 == pytest.approx(0.2725, abs=0.025)
    assert sum(n >= longest for n in first_loss) / runs == pytest.approx(ERROR, abs=0.005)
    test, taken = BurstyTest(LOW, HIGH, ERROR, BURST), 0
    while test.answer == "undecided":
        test.tell(False)
        taken += 1
    assert test.answer == "below"
    assert longest <= taken <= 1.35 * longest
