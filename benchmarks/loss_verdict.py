"""Probes until a loss verdict, and how often it is wrong: 10,000 simulated runs for each cell, batches and cap as used.

"above 0.5 %" or "below 5 %", each wrong at most once in a hundred. Fates come from numpy's generator; they are given
to LossStepper as the probe gives them, a batch at a time. "fixed 100" is the usual script: a hundred probes, "lossy" at
two or more lost.
"""

from __future__ import annotations

import math
import os
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from probes.loss import LossOptions, LossStepper
from probes.model import Outcome
from probes.sampling import RttSample
from probes.stats.sprt import wald_bound

RUNS = 10_000
LOSSES = (0.0, 0.005, 0.02, 0.05, 0.10, 0.15)
BURSTS = (None, 2.0, 5.0)
SEED = 20240125
SPACINGS = (1, 2, 3, 5, 10)  # of the packets of a burst's channel, how many to one that is sent
SPACED_RUNS = 2_000
BURSTY = LossOptions(method="icmp")
INDEPENDENT = replace(BURSTY, mean_burst=1.0)
LOST = RttSample(sequence=0, sent_s=0.0, outcome=Outcome.LOST)
ARRIVED = RttSample(sequence=0, sent_s=0.0, outcome=Outcome.ANSWERED, rtt_s=0.05)


@dataclass(frozen=True)
class Cell:
    options: LossOptions
    loss: float
    mean_burst: float | None


@dataclass(frozen=True)
class Tally:
    cell: Cell
    answers: Counter[str]
    probes: float
    fixed_lossy: float

    def false(self) -> float | None:
        """Ratio of runs whose answer the true loss contradicts; None where either answer is right."""
        if self.cell.loss <= (self.cell.options.tolerated or 0):
            return self.answers["above"] / RUNS
        return self.answers["below"] / RUNS if self.cell.loss >= (self.cell.options.question or 1) else None


def sequence(cell: Cell, source: np.random.Generator) -> list[bool]:
    """As many fates as the cap: Gilbert's channel in its stationary state, by drawing the lengths of its runs."""
    count = cell.options.count
    if cell.mean_burst is None or cell.loss == 0:
        return (source.random(count) < cell.loss).tolist()
    recover = 1 / cell.mean_burst
    onset = cell.loss * recover / (1 - cell.loss)
    fates: list[bool] = []
    lost = bool(source.random() < cell.loss)
    while len(fates) < count:
        fates += [lost] * int(source.geometric(recover if lost else onset))
        lost = not lost
    return fates[:count]


def one_run(cell: Cell, fates: list[bool]) -> tuple[str, int]:
    stepper, taken = LossStepper(cell.options), 0
    while (size := stepper.next()) is not None:
        stepper.tell(tuple(LOST if fate else ARRIVED for fate in fates[taken : taken + size]))
        taken += size
    return stepper.answer, taken


def tally(cell: Cell) -> Tally:
    source = np.random.default_rng([SEED, int(cell.loss * 1000), int(cell.mean_burst or 0)])
    answers: Counter[str] = Counter()
    probes = fixed = 0
    for _ in range(RUNS):
        fates = sequence(cell, source)
        answer, taken = one_run(cell, fates)
        answers[answer] += 1
        probes += taken
        fixed += sum(fates[:100]) >= 2
    return Tally(cell, answers, probes / RUNS, fixed / RUNS)


def line(found: Tally) -> str:
    cell, options = found.cell, found.cell.options
    bound = wald_bound(cell.loss, options.tolerated or 0, options.question or 1, options.error)
    false = found.false()
    model = "independent" if options.mean_burst == 1 else f"bursts <= {options.mean_burst:g}"
    said = " ".join(f"{100 * found.answers[answer] / RUNS:>9.2f}" for answer in ("above", "below", "undecided"))
    return (
        f"{model:<14}{cell.mean_burst or 'none':>6}{100 * cell.loss:>7.1f}"
        f"{found.probes:>9.1f}{found.probes / 100:>8.2f}{bound:>7.1f}{found.probes / bound:>8.2f} {said}"
        f"{'-' if false is None else format(100 * false, '.2f'):>9}{100 * found.fixed_lossy:>9.1f}"
    )


def spaced(every: int) -> str:
    """Only each ``every``-th packet of the channel is sent: the same bursts, shorter in packets.

    Of the packets that are sent, one that follows a loss arrives with chance (1 - loss) (1 - memory ** every), where
    memory = 1 - onset - relief. "needed" is the least number without loss after which any procedure may say "below".
    """
    loss, relief = BURSTY.question or 1.0, 1 / BURSTS[-1]
    onset = loss * relief / (1 - loss)
    changes = 1 - (1 - onset - relief) ** every
    begins, burst = loss * changes, 1 / ((1 - loss) * changes)
    needed = 1 + math.ceil(math.log(BURSTY.error / (1 - loss)) / math.log1p(-begins))
    options = replace(BURSTY, mean_burst=burst, count=3000, batch=1)
    taken = one_run(Cell(options, 0.0, None), [False] * options.count)[1]
    source = np.random.default_rng([SEED, every])
    channel = Cell(replace(BURSTY, count=options.count * every), loss, BURSTS[-1])
    runs = [sequence(channel, source)[::every] for _ in range(SPACED_RUNS)]
    false = sum(one_run(Cell(options, loss, burst), fates)[0] == "below" for fates in runs)
    silent = sum(not any(fates[:119]) for fates in runs)
    share = f"{100 * false / SPACED_RUNS:>10.2f}{100 * silent / SPACED_RUNS:>13.1f}"
    return f"{every:>6}{burst:>9.2f}{needed:>8}{taken:>8}{0.1 * every * taken:>11.1f}{share}"


def main() -> None:
    cells = [Cell(INDEPENDENT, loss, None) for loss in LOSSES]
    cells += [Cell(BURSTY, loss, burst) for burst in BURSTS for loss in LOSSES if loss or burst is None]
    print("probes: mean of 10,000 runs; Wald: his bound for independent losses; the rest in % of runs")
    print(
        f"{'holds for':<14}{'burst':>6}{'loss %':>7}{'probes':>9}{'/ 100':>8}{'Wald':>7}{'/ Wald':>8}"
        f" {'above':>9} {'below':>9} {'undecided':>9}{'false':>9}{'fixed':>9}"
    )
    with ProcessPoolExecutor(max_workers=min(2, os.cpu_count() or 1)) as pool:
        for found in pool.map(tally, cells):
            print(line(found))
            sys.stdout.flush()
        print(
            "\nthe same bursts with packets farther apart; seconds at 0.1 s for each step; errors at 5 % in bursts of 5"
        )
        print(f"{'every':>6}{'burst':>9}{'needed':>8}{'taken':>8}{'seconds':>11}{'false %':>10}{'no loss/119':>13}")
        for row in pool.map(spaced, SPACINGS):
            print(row, flush=True)


if __name__ == "__main__":
    main()
