"""Summaries against numbers worked by hand."""

from __future__ import annotations

from math import isclose, sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probes.stats.summaries import ipdv_mean_abs, mean, nearest_rank, sample_stdev

# The textbook example of the nearest-rank method: ranks 1, 2, 2, 3 and 5 of five.
ORDERED = (15.0, 20.0, 35.0, 40.0, 50.0)


@pytest.mark.parametrize(("percent", "expected"), [(5, 15.0), (30, 20.0), (40, 20.0), (50, 35.0), (100, 50.0)])
def test_nearest_rank(percent, expected):
    assert nearest_rank(ORDERED, percent) == expected


def test_no_data_is_none_and_not_zero():
    assert nearest_rank((), 50) is None
    assert mean(()) is None
    assert sample_stdev((0.1,)) is None
    assert ipdv_mean_abs({}) is None
    assert ipdv_mean_abs({0: 0.1, 2: 0.3}) is None


def test_mean_and_stdev():
    values = (2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0)  # sum 40, squared deviations 32
    assert mean(values) == 5.0
    assert isclose(sample_stdev(values) or 0, sqrt(32 / 7))


def test_ipdv_pairs_only_neighbours():
    # 0-1: 10 ms, 1-2: 30 ms; 3 is lost, so that 2-4 is undefined (RFC 3393 2.4); 4-5: 20 ms.
    delays = {5: 0.030, 0: 0.010, 1: 0.020, 2: 0.050, 4: 0.010}
    assert isclose(ipdv_mean_abs(delays) or 0, (0.010 + 0.030 + 0.020) / 3)


@given(st.lists(st.floats(0, 10), min_size=1), st.integers(1, 100))
def test_a_percentile_is_a_value_that_occurred_and_covers_its_share(values, percent):
    ordered = sorted(values)
    result = nearest_rank(ordered, percent)
    assert result in values
    assert sum(v <= result for v in values) * 100 >= percent * len(values)
    assert sum(v < result for v in values) * 100 < percent * len(values)
