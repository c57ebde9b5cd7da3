"""The wall clock is set by an hour in the middle of a measurement: libfaketime does it to the whole program.

What libfaketime changes is what the process reads of CLOCK_REALTIME; the monotonic clock and the kernel's own stamps
stay. That the step took place is read off the start times of what was measured before and after it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.netns import Line, line

pytestmark = [pytest.mark.kernel, pytest.mark.needs("ip", "nft", "faketime")]

LIBRARIES = "/usr/lib/*/faketime/libfaketimeMT.so.1"
PORT, STAMP_PORT = 5433, 862
STEPS_S = (-3600, 3600)
COUNT, INTERVAL_S = 30, 0.1
SEEN = """table inet t {
  counter seen_tcp { }
  counter seen_icmp { }
  counter seen_udp { }
  chain f {
    type filter hook forward priority 0;
    ip saddr 10.71.1.1 meta l4proto tcp counter name seen_tcp
    ip saddr 10.71.1.1 meta l4proto icmp counter name seen_icmp
    ip saddr 10.71.1.1 meta l4proto udp counter name seen_udp
  }
}"""


@pytest.fixture(scope="module")
def world() -> Iterator[Line]:
    with line() as made, made.server.listen(PORT), made.server.listen(PORT + 1):
        made.router.nft(SEEN)
        reflect = (sys.executable, "-m", "netdiag", "reflect", "--allow", "10.71.1.0/24")
        child = made.server.spawn(*reflect, stderr=subprocess.PIPE)
        assert child.stderr is not None
        try:
            assert b"reflecting" in child.stderr.readline()
            yield made
        finally:
            child.kill()
            child.communicate()


def faked(offset: Path) -> dict[str, str]:
    """An environment in which the wall clock is off by what the file says, looked at with every reading."""
    library = next(iter(sorted(Path("/").glob(LIBRARIES.lstrip("/")))))
    return os.environ | {
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }


def wait_for(happened: Callable[[], bool]) -> None:
    """At most 30 s, on the monotonic clock."""
    deadline = time.monotonic() + 30
    while not happened():
        assert time.monotonic() < deadline, "the probe sent nothing"
        time.sleep(0.05)


def probe(world: Line, folder: Path, step_s: int, counter: str, *arguments: str) -> list[dict[str, Any]]:
    """`netdiag probe`, whose clock is set once the router has seen five packets of it."""
    offset = folder / "offset"
    offset.write_text("+0\n")
    begun = world.router.counter(counter)
    argv = ("-m", "netdiag", "probe", *arguments, "--format", "json")
    child = world.client.spawn(sys.executable, *argv, env=faked(offset), stdout=subprocess.PIPE)
    try:
        wait_for(lambda: world.router.counter(counter) >= begun + 5)
        fresh = folder / "fresh"
        fresh.write_text(f"{step_s:+d}\n")
        fresh.rename(offset)  # at once: the program must not read half a number
        out, _ = child.communicate(timeout=60)
    finally:
        child.kill()
        child.wait()
    assert child.returncode == 0
    measurements: list[dict[str, Any]] = json.loads(out)["measurements"]
    return measurements


def settings(**given: object) -> list[str]:
    return [word for name, setting in given.items() for word in ("--set", f"{name}={setting}")]


def check_series(measurement: dict[str, Any]) -> None:
    """All answered, on a steady schedule, and no delay below zero or beyond its own measurement."""
    samples = measurement["data"]["samples"]
    assert [sample["outcome"] for sample in samples] == ["answered"] * COUNT
    sent = [sample["sent_s"] for sample in samples]
    assert all(0 < after - before < 60 for before, after in pairwise(sent))
    assert (COUNT - 1.2) * INTERVAL_S <= measurement["duration_s"] < 60
    rtt = measurement["data"]["rtt"]
    assert 0 < rtt["minimum_s"] <= rtt["maximum_s"] < measurement["duration_s"]


@pytest.mark.parametrize("step_s", STEPS_S)
@pytest.mark.parametrize(("method", "counter"), [("tcp", "seen_tcp"), ("icmp", "seen_icmp")])
def test_latency(world, tmp_path, step_s, method, counter):
    """Two addresses one after the other: the second began an hour off, as the first was measured."""
    two = f"postgresql://{world.server_address}:{PORT},{world.server_address}:{PORT + 1}/"
    options = settings(method=method, count=COUNT, interval_s=INTERVAL_S)
    first, second = probe(world, tmp_path, step_s, counter, "latency", two, *options)
    for measurement in (first, second):
        check_series(measurement)
    began = [datetime.fromisoformat(measurement["started"]) for measurement in (first, second)]
    assert (began[1] - began[0]).total_seconds() == pytest.approx(step_s + first["duration_s"], abs=60)


@pytest.mark.parametrize("step_s", STEPS_S)
def test_stamp(world, tmp_path, step_s):
    options = settings(count=COUNT, interval_s=INTERVAL_S)
    (measured,) = probe(world, tmp_path, step_s, "seen_udp", "stamp", f"{world.server_address}:{STAMP_PORT}", *options)
    check_series(measured)
    data = measured["data"]
    assert data["clock_steps"] == 1
    assert (data["forward_loss"]["lost"], data["reverse_loss"]["lost"]) == (0, 0)
    assert data["clock_offset_uncertainty_s"] < 1, "the offset is told on the clock before the step"
    assert abs(data["clock_offset_s"]) < 1
