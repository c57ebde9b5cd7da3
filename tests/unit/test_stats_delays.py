"""Delay variation, worked by hand after the RFCs."""

from __future__ import annotations

import pytest

from probes.stats.delays import ipdv, pdv, pdv_percentile, rtp_jitter

# Packet 3 was lost.
DELAYS = {0: 0.010, 1: 0.014, 2: 0.011, 4: 0.030, 5: 0.010}


def test_ipdv_is_signed_and_of_neighbours_alone():
    """RFC 3393: 2-4 is no pair."""
    assert ipdv(DELAYS) == pytest.approx((0.004, -0.003, -0.020))
    assert ipdv({}) == ipdv({7: 0.1}) == ()


def test_pdv_is_above_the_least():
    """RFC 5481 4.2."""
    assert pdv(DELAYS) == pytest.approx((0.0, 0.004, 0.001, 0.020, 0.0))
    assert pdv_percentile(DELAYS, 60) == pytest.approx(0.001)
    assert pdv_percentile(DELAYS, 99.9) == pytest.approx(0.020)
    assert pdv_percentile({}, 99.9) is None


def test_jitter_by_hand():
    """Transits 10, 26, 10 ms: J = 16/16 = 1, then 1 + (16 - 1)/16 = 1.9375 ms."""
    assert rtp_jitter([0.010, 0.026]) == pytest.approx(0.001)
    assert rtp_jitter([0.010, 0.026, 0.010]) == pytest.approx(0.0019375)
    assert rtp_jitter([0.010]) is None


def test_jitter_knows_no_offset_and_settles_at_the_mean_difference():
    swinging = [5000 + 0.008 * (n % 2) for n in range(400)]
    assert rtp_jitter(swinging) == pytest.approx(0.008, rel=1e-6)
