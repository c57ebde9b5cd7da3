"""TCP models against published tables, a kernel's measured SYNs, and a simulation of the handshake."""

from __future__ import annotations

import random

import pytest

from probes.stats.tcpmodel import (
    attempts_needed,
    connect_success,
    mathis,
    pftk,
    syn_schedule,
    syns_in_time,
)

MSS = 1460
# Loss, Mathis and PFTK in Mb/s at an RTT of 50 ms and at 200 ms; timeout max(0.2 s, 1.5 RTT).
THROUGHPUT = [
    (0.0001, 28.6, 20.2, 7.2, 5.1),
    (0.001, 9.0, 6.3, 2.3, 1.6),
    (0.01, 2.9, 1.9, 0.72, 0.49),
    (0.05, 1.28, 0.61, 0.32, 0.19),
    (0.10, 0.9, 0.29, 0.23, 0.11),
    (0.15, 0.74, 0.16, 0.19, 0.07),
]


@pytest.mark.parametrize(("loss", "mathis50", "pftk50", "mathis200", "pftk200"), THROUGHPUT)
def test_throughput(loss, mathis50, pftk50, mathis200, pftk200):
    for rtt_s, square_root, full in ((0.050, mathis50, pftk50), (0.200, mathis200, pftk200)):
        digits = [10 ** -len(f"{figure:g}".partition(".")[2]) for figure in (square_root, full)]
        assert mathis(loss, rtt_s, MSS) * 8 / 1e6 == pytest.approx(square_root, abs=0.6 * digits[0])
        assert pftk(loss, rtt_s, MSS, max(0.2, 1.5 * rtt_s)) * 8 / 1e6 == pytest.approx(full, abs=0.6 * digits[1])


def test_without_timeouts_pftk_is_mathis():
    assert pftk(0.0001, 0.1, MSS, 0.0, acked=1) == pytest.approx(mathis(0.0001, 0.1, MSS))


# Measured on Linux 6.18: seconds of each SYN, when connect(2) gave up; timers run late by up to some per cent.
KERNEL = [
    (6, 4, (0, 1.0, 2.0, 3.1, 4.1, 5.1, 7.1, 11.3, 19.4, 35.6, 69.6), 135),
    (6, 0, (0, 1.0, 3.0, 7.2, 15.4, 31.6, 64.3), 130),
]


@pytest.mark.parametrize(("retries", "linear", "times", "gave_up"), KERNEL)
def test_the_schedule_is_this_kernels(retries, linear, times, gave_up):
    schedule = syn_schedule(retries, linear)
    assert schedule.times_s == pytest.approx(times, rel=0.05)
    assert schedule.gives_up_s == pytest.approx(gave_up, rel=0.05)


def test_the_documented_ends():
    """ip-sysctl: 131 s with the defaults, tcp(7): 127 s without linear timeouts."""
    assert syn_schedule(6, 4).gives_up_s == 131
    assert syn_schedule(6, 0).gives_up_s == 127
    assert syn_schedule(0, 0).times_s == (0.0,)
    longest = syn_schedule(9, 0)
    assert longest.times_s[-3:] == (127.0, 247.0, 367.0), "no timeout is longer than 120 s"
    assert longest.gives_up_s == 487.0


SUCCESS = [
    (2, 2, 2, {0.05: (0.9905, 0.9905), 0.10: (0.964, 0.964), 0.15: (0.923, 0.923)}),
    (3, 3, 2, {0.05: (0.9991, 0.9905), 0.10: (0.9931, 0.964), 0.15: (0.979, 0.923)}),
    (5, 5, 3, {0.05: (0.99999, 0.9991), 0.10: (0.9998, 0.9931), 0.15: (0.9984, 0.979)}),
    (10, 7, 4, {0.05: (1 - 1e-7, 0.9999), 0.10: (0.99999, 0.9987), 0.15: (0.9999, 0.994)}),
]


@pytest.mark.parametrize(("timeout", "new", "old", "rows"), SUCCESS)
def test_connect_success(timeout, new, old, rows):
    """FACTS: loss p each direction, RTT 200 ms; kernels from 6.5 with linear timeouts, and older ones."""
    for linear, syns, column in ((4, new, 0), (0, old, 1)):
        schedule = syn_schedule(6, linear)
        assert syns_in_time(schedule, timeout, 0.2) == syns
        for loss, expected in rows.items():
            digit = 10 ** -len(f"{expected[column]:g}".partition(".")[2])
            chance = connect_success(schedule, timeout, 0.2, loss, loss)
            assert chance == pytest.approx(expected[column], abs=max(1e-7, 0.7 * digit))


def test_a_simulated_handshake_comes_through_as_often():
    """SYN and SYN-ACK each lost on their own; 20,000 connects."""
    source, schedule = random.Random(6298), syn_schedule(6, 4)
    done = 0
    for _ in range(20_000):
        arrivals = [t + 0.2 for t in schedule.times_s if source.random() >= 0.15 and source.random() >= 0.05]
        done += bool(arrivals) and min(arrivals) <= 3.0
    expected = connect_success(schedule, 3.0, 0.2, 0.15, 0.05)
    assert done / 20_000 == pytest.approx(expected, abs=4 * (expected * (1 - expected) / 20_000) ** 0.5)


def test_the_kernel_gives_up_before_the_application():
    assert syns_in_time(syn_schedule(1, 0), 1000.0, 0.2) == 2
    assert syns_in_time(syn_schedule(6, 4), 0.1, 0.2) == 0


@pytest.mark.parametrize(("loss", "timeout", "attempts"), [(0.05, 3, 2), (0.15, 3, 3), (0.15, 5, 2), (0.15, 10, 2)])
def test_attempts_needed(loss, timeout, attempts):
    assert attempts_needed(connect_success(syn_schedule(6, 4), timeout, 0.2, loss, loss), 1e-4) == attempts


def test_attempts_at_the_ends():
    assert attempts_needed(0.0, 1e-4) is None
    assert attempts_needed(1.0, 1e-4) == 1
    assert attempts_needed(0.9, 0.01) == 2
