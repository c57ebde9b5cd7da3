"""Every statistic once more by numpy and scipy, on data drawn anew in each run."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from probes.stats.bursts import bursts
from probes.stats.compare import change_point, hodges_lehmann, mann_whitney, ranks
from probes.stats.delays import ipdv, pdv, rtp_jitter
from probes.stats.intervals import normal_quantile, wilson
from probes.stats.markov import ONSET_PRIOR, RELIEF_PRIOR, log_likelihood, log_mixture, transitions
from probes.stats.oneway import FourStamps, clock_offset
from probes.stats.sequential import PRIOR
from probes.stats.sequential import log_mixture as independent_mixture
from probes.stats.summaries import mean, nearest_rank, sample_stdev

numpy = pytest.importorskip("numpy", reason="the test extra has it")
pytest.importorskip("scipy", reason="the test extra has it")

from scipy import signal, special, stats  # noqa: E402


@pytest.fixture
def source() -> random.Random:
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # noqa: T201 - a failure must be repeatable
    return random.Random(seed)


@pytest.fixture
def delays(source) -> list[float]:
    """Rounded, so that there are ties."""
    return [round(source.lognormvariate(-3, 0.5), 3) for _ in range(source.randrange(20, 200))]


@pytest.mark.parametrize("percent", [1, 5, 50, 90, 95, 99, 99.9, 100])
def test_percentiles(delays, percent):
    assert nearest_rank(sorted(delays), percent) == numpy.percentile(delays, percent, method="inverted_cdf")


def test_moments(delays):
    assert mean(delays) == pytest.approx(numpy.mean(delays))
    assert sample_stdev(delays) == pytest.approx(numpy.std(delays, ddof=1))


@pytest.mark.parametrize("level", [0.9, 0.95, 0.99, 0.999])
def test_wilson(source, level):
    assert normal_quantile(level) == pytest.approx(stats.norm.ppf((1 + level) / 2))
    for _ in range(50):
        sent = source.randrange(1, 2000)
        lost = source.randrange(0, sent + 1)
        theirs = stats.binomtest(lost, sent).proportion_ci(level, method="wilson")
        ours = wilson(lost, sent, level)
        assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


def test_delay_variation(delays):
    numbered = dict(enumerate(delays))
    assert ipdv(numbered) == pytest.approx(numpy.diff(delays))
    assert pdv(numbered) == pytest.approx(numpy.array(delays) - numpy.min(delays))
    filtered = signal.lfilter([1 / 16], [1, -15 / 16], numpy.abs(numpy.diff(delays)))
    assert rtp_jitter(delays) == pytest.approx(filtered[-1])


def test_mann_whitney(source, delays):
    others = [round(source.lognormvariate(-2.9, 0.5), 3) for _ in range(source.randrange(20, 200))]
    theirs = stats.mannwhitneyu(delays, others, method="asymptotic", use_continuity=True)
    ours = mann_whitney(delays, others)
    assert ours.u == theirs.statistic
    assert ours.p_value == pytest.approx(theirs.pvalue)
    assert ranks(delays) == pytest.approx(stats.rankdata(delays))


def test_hodges_lehmann(source, delays):
    others = [source.lognormvariate(-2.9, 0.5) for _ in range(40)]
    differences = numpy.subtract.outer(others, delays)
    ours = hodges_lehmann(delays, others)
    assert ours.estimate == pytest.approx(numpy.median(differences))
    assert ours.low <= ours.estimate <= ours.high
    for edge in (ours.low, ours.high):  # there the rank test is about to reject, at 5 %
        moved = stats.mannwhitneyu(numpy.array(others) - edge, delays, method="asymptotic", use_continuity=False)
        assert moved.pvalue == pytest.approx(0.05, abs=0.01)


def test_change_point(source):
    values = numpy.array([source.gauss(0, 1) + (n >= 40) for n in range(90)])
    steps = [abs(numpy.sign(values[:t, None] - values[None, t:]).sum()) for t in range(1, 90)]
    ours = change_point(values.tolist())
    assert ours.index == 1 + int(numpy.argmax(steps))
    assert ours.p_value == pytest.approx(min(1.0, 2 * numpy.exp(-6 * max(steps) ** 2 / (90**3 + 90**2))))


def test_the_independent_mixture_is_a_beta_binomial(source):
    sent, ratio = source.randrange(1, 500), source.uniform(0.01, 0.5)
    lost = source.randrange(0, sent + 1)
    predicted = stats.betabinom.logpmf(lost, sent, *PRIOR) - stats.binom.logpmf(lost, sent, ratio)
    assert independent_mixture(lost, sent, ratio) == pytest.approx(predicted, abs=1e-6)


def test_the_bursty_mixture_and_likelihood(source):
    fates = [source.random() < 0.3 for _ in range(200)]
    seen = transitions(fates)
    pairs = numpy.array(list(pairwise(fates)))
    counts = {(a, b): int(((pairs[:, 0] == a) & (pairs[:, 1] == b)).sum()) for a in (0, 1) for b in (0, 1)}
    (a, b), (c, d) = ONSET_PRIOR, RELIEF_PRIOR
    onset = special.betaln(a + counts[0, 1], b + counts[0, 0]) - special.betaln(a, b)
    relief = special.betaln(c + counts[1, 0], d + counts[1, 1]) - special.betaln(c, d)
    first = numpy.log(0.05 if fates[0] else 0.95)
    assert log_mixture(seen) == pytest.approx(first + onset + relief)
    matrix = numpy.log(numpy.array([[0.8, 0.2], [0.6, 0.4]]))
    assert log_likelihood(seen, 0.2, 0.6) == pytest.approx(sum(matrix[s] * n for s, n in counts.items()))


def test_loss_runs(source):
    fates = numpy.array([source.random() < 0.4 for _ in range(300)])
    edges = numpy.flatnonzero(numpy.diff(numpy.concatenate([[0], fates.astype(int), [0]])))
    assert bursts(fates.tolist()).lengths == tuple(edges[1::2] - edges[::2])


def test_clock_offset_is_the_least_squares_of_the_best(source):
    """With queues on one side only, the exchanges of least delay lie on the line of no queue."""
    exchanges = []
    for n in range(64):
        queue = 0 if n % 8 == 0 else source.randrange(1, 50_000_000)
        t1 = n * 10**8
        t2 = t1 + 10**7 + queue + 123_456_789
        exchanges.append(
            FourStamps(sequence=n, reflector_sequence=n, t1_ns=t1, t2_ns=t2, t3_ns=t2, t4_ns=t1 + 2 * 10**7 + queue)
        )
    delay = numpy.array([e.t4_ns - e.t1_ns for e in exchanges])
    offset = numpy.array([(e.t2_ns + e.t3_ns - e.t1_ns - e.t4_ns) / 2 for e in exchanges])
    at_least = stats.linregress(delay, offset)
    assert at_least.intercept + at_least.slope * delay.min() == pytest.approx(clock_offset(exchanges).ns)
