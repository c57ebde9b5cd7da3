"""This host's own tables: read from /proc as kernels old and new write it, and asked for at both ends of a run."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from netdiag.evidence import Evidence
from netdiag.plan.model import Plan
from netdiag.schedule import Schedule, ScheduleSettings
from probes.contract import ProbeUnavailable
from probes.exchanges import ConntrackReading
from probes.host import PROBE, HostMeasurement, HostOptions
from probes.model import Target
from probes.net.conntrack import read_conntrack
from probes.wire.conntrack import ConntrackCounters, parse_counters
from tests.fakes import evidence as made
from tests.fakes.clock import FakeClock
from tests.fakes.network import ScriptedNetwork, context

# Linux 6.x has "clashres" and a wide gap; before 5.9 it was "searched".
NEW = """entries  clashres found new invalid ignore delete chainlength insert insert_failed drop early_drop icmp_error
0003fffd  00000000 00000000 00000000 00000001 00000000 00000000 00000000 00000000 00000002 00000010 00000003 00000000
0003fffd  00000000 00000000 00000000 00000001 00000000 00000000 00000000 00000000 00000001 000000f0 00000004 00000000
"""
OLD = "entries  searched found new invalid ignore insert_failed drop\n0000000a 1 1 1 1 1 ff 00000002\n"


def test_counters_are_found_by_name_and_summed_over_cpus() -> None:
    assert parse_counters(NEW) == ConntrackCounters(drop=0x100, early_drop=7, insert_failed=3)


def test_a_counter_that_the_kernel_lacks_is_no_zero() -> None:
    assert parse_counters(OLD) == ConntrackCounters(drop=2, early_drop=None, insert_failed=255)


@pytest.mark.parametrize("text", ["", "entries drop\n", "entries drop\n1\n", "entries drop\nx y\n"])
def test_what_is_no_such_table_gives_nothing(text: str) -> None:
    assert parse_counters(text) is None


def table(folder: Path, count: str = "5\n", limit: str = "262144\n") -> Path:
    (folder / "nf_conntrack_count").write_text(count)
    (folder / "nf_conntrack_max").write_text(limit)
    (folder / "stat").write_text(NEW)
    return folder


def test_the_table_and_its_counters_are_read(tmp_path: Path) -> None:
    read = read_conntrack(table(tmp_path), tmp_path / "stat")
    assert (read.entries, read.limit) == (5, 262_144)
    assert read.counters is not None
    assert read.counters.drop == 256


def test_counters_alone_may_be_missing(tmp_path: Path) -> None:
    read = read_conntrack(table(tmp_path), tmp_path / "none")
    assert read.entries == 5
    assert read.counters is None


def test_without_the_module_the_reason_is_said(tmp_path: Path) -> None:
    read = read_conntrack(tmp_path, tmp_path / "none")
    assert read.entries is None
    assert "not loaded" in (read.reason or "")


def test_nonsense_is_no_number(tmp_path: Path) -> None:
    assert "not a number" in (read_conntrack(table(tmp_path, count="many"), tmp_path / "stat").reason or "")


def test_what_cannot_be_read_is_unavailable_and_what_can_is_given() -> None:
    def measure(reading: ConntrackReading) -> HostMeasurement:
        network = ScriptedNetwork(FakeClock(), conntrack=reading)
        return asyncio.run(PROBE.measure(context(network), Target(host="test"), HostOptions()))

    known = ConntrackReading(entries=5, limit=10)
    assert measure(known).conntrack == known
    with pytest.raises(ProbeUnavailable, match="hidden"):
        measure(ConntrackReading(reason="hidden"))


ADDRESS = "198.51.100.7"
ANSWERS = {
    "host": made.measured("host", Target(host="test"), HostMeasurement(conntrack=ConntrackReading(entries=1, limit=9))),
    "ports": made.ports([made.connected()]),
    "database": made.database([made.waterfall()]),
    "latency-tcp": made.latency([0.01] * 10),
    "mtu": made.mtu(),
    "replication": made.measured("replication", made.target(), None),
    "idle": made.measured("idle", made.target(), None),
}


def walk(*, watch_s: float = 0.0, own_host: bool = True) -> list[str]:
    plan = Plan(endpoints=(made.endpoint(ADDRESS),))
    settings = ScheduleSettings(vantage="test", watch_s=watch_s, icmp=False, own_host=own_host)
    stepper, evidence, asked, elapsed = Schedule(plan, settings), Evidence(()), [], 0.0
    while requests := stepper.next(evidence, elapsed):
        asked += [request.id.split("/")[1] for request in requests]
        told = ((r, ANSWERS[r.id.split("/")[1]]) for r in requests)
        evidence = evidence.plus(*(replace(m, id=r.id, target=r.target, probe=r.probe) for r, m in told))
        elapsed += 5.0 if any(request.sampling for request in requests) else 0.1
        assert len(asked) < 100
    return asked


def test_the_table_is_read_first_and_last() -> None:
    asked = walk()
    assert asked.count("host") == 2
    assert (asked[0], asked[-1]) == ("host", "host")


def test_a_long_run_reads_it_in_between_for_it_may_be_cut_short() -> None:
    asked = walk(watch_s=35.0)
    assert 4 <= asked.count("host") <= 9
    assert asked[-1] == "host"


def test_it_is_left_out_where_nobody_wants_it() -> None:
    assert "host" not in walk(own_host=False)
