"""Many targets at once: CPU per echo beside fping at the same rate, memory, wall time, lost replies.

    python -m benchmarks.icmp_scale [--targets N] [--rounds N]

Targets are addresses of loopback, so a lost reply is ours. The contenders take turns; medians. "engine" is the echo
engine alone, from its first packet to its last result; "sweep" is the whole command with its statistics and its JSON
lines, once whole and once without what the same command costs for one target and one echo (imports, mostly). icmplib
is a whole process that does nothing but ping. Wall time is set against the pacing floor: packets / rate. Flat out, the
floor is ``ping -f``.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.processes import Cost, cost, installed, median

COUNT = 5
RATE = 1000
FLAT_OUT = 50_000
SWEEP, START = "sweep, whole process", "its start, one target and echo"
NETDIAG = os.path.join(os.path.dirname(sys.executable), "netdiag")


@dataclass(frozen=True)
class Turn:
    """One turn of one contender."""

    cpu_s: float
    wall_s: float
    resident: int
    lost: int


def addresses(count: int) -> list[str]:
    return [f"127.0.{number // 250}.{number % 250 + 1}" for number in range(count)]


def engine(targets: Path, rate: float, count: int, interval_s: float) -> None:
    """In a process of its own: measure, and print CPU seconds, wall seconds and lost echoes."""
    import asyncio
    import resource
    import time

    from probes.exchanges import EchoRequest
    from probes.model import Outcome
    from probes.net.clock import SystemClock
    from probes.net.kernel import KernelNetwork

    def used() -> float:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return usage.ru_utime + usage.ru_stime

    requests = [
        EchoRequest(address=address, count=count, interval_s=interval_s, timeout_s=2.0)
        for address in targets.read_text("ascii").split()
    ]

    async def measure() -> None:
        network = KernelNetwork(SystemClock(), packets_per_second=rate)
        cpu, begun = used(), time.monotonic()
        series = await asyncio.gather(*(network.echo(request) for request in requests))
        cpu, wall = used() - cpu, time.monotonic() - begun
        print(cpu, wall, sum(sample.outcome is not Outcome.ANSWERED for one in series for sample in one.samples))

    asyncio.run(measure())


def engine_turn(
    targets: Path, output: Path, *, rate: float = RATE, count: int = COUNT, interval_s: float = 0.2
) -> Turn:
    arguments = ("--engine", str(targets), str(rate), str(count), str(interval_s))
    ran = cost([sys.executable, "-m", "benchmarks.icmp_scale", *arguments], output)
    cpu, wall, lost = ran.output.split()
    return Turn(float(cpu), float(wall), ran.resident, int(lost))


def sweep_turn(targets: Path, output: Path) -> Turn:
    settings = ("--rate", str(RATE), "--set", f"count={COUNT}", "--format", "json")
    ran = cost([NETDIAG, "probe", "latency", "--targets", str(targets), *settings], output)
    import json

    return _turn(ran, json.loads(ran.output.splitlines()[-1])["packets"]["lost"])


def start_turn(one: Path, output: Path) -> Turn:
    settings = ("--rate", str(RATE), "--set", "count=1", "--format", "json")
    return _turn(cost([NETDIAG, "probe", "latency", "--targets", str(one), *settings], output), 0)


def without_start(sweeps: list[Turn], starts: list[Turn]) -> list[Turn]:
    """Each sweep less the start of the same round."""
    return [
        Turn(sweep.cpu_s - start.cpu_s, sweep.wall_s, sweep.resident, sweep.lost)
        for sweep, start in zip(sweeps, starts, strict=True)
    ]


def by_icmplib(targets: Path) -> None:
    """In a process of its own: all targets at once, one echo a second each, and the lost ones printed."""
    import icmplib

    addresses = targets.read_text("ascii").split()
    hosts = icmplib.multiping(
        addresses, count=COUNT, interval=len(addresses) / RATE, timeout=2, concurrent_tasks=len(addresses)
    )
    print(sum(host.packets_sent - host.packets_received for host in hosts))


def icmplib_turn(targets: Path, output: Path) -> Turn:
    ran = cost([sys.executable, "-m", "benchmarks.icmp_scale", "--icmplib", str(targets)], output)
    return _turn(ran, int(ran.output))


def fping_turn(targets: Path, output: Path) -> Turn:
    """-i: milliseconds between packets, whatever their targets; its own wall time includes its last timeout."""
    argv = ["fping", "-q", "-C", str(COUNT), "-i", str(1000 / RATE), "-p", "1000", "-f", str(targets)]
    ran = cost(argv, output, statuses=(0, 1))
    return _turn(ran, sum(line.split(":", 1)[1].split().count("-") for line in ran.output.splitlines() if ":" in line))


def flood_turn(_targets: Path, output: Path) -> Turn:
    ran = cost(["ping", "-f", "-q", "-c", str(FLAT_OUT), "127.0.0.1"], output)
    received = next(int(line.split()[3]) for line in ran.output.splitlines() if "transmitted" in line)
    return _turn(ran, FLAT_OUT - received)


def _turn(ran: Cost, lost: int) -> Turn:
    return Turn(ran.cpu_s, ran.wall_s, ran.resident, lost)


def table(title: str, turns: dict[str, list[Turn]], packets: int, floor: str, target: float) -> None:
    base = median([turn.cpu_s for turn in turns[floor]]) / packets
    print(f"{title:<34}{'us/echo':>9}{'ratio':>7}{'target':>8}{'RSS MiB':>9}{'wall s':>8}{'lost':>6}")
    for name, taken in turns.items():
        each = median([turn.cpu_s for turn in taken]) / packets
        resident = median([turn.resident for turn in taken]) / 2**20
        wall, lost = median([turn.wall_s for turn in taken]), sum(turn.lost for turn in taken)
        wanted = f"{target:g}" if name.startswith("engine") else ""
        row = f"{name:<34}{each * 1e6:>9.1f}{each / base:>7.2f}{wanted:>8}{resident:>9.1f}{wall:>8.2f}{lost:>6}"
        print(row, flush=True)


def take_turns(contenders: dict[str, Callable[[], Turn]], rounds: int) -> dict[str, list[Turn]]:
    turns: dict[str, list[Turn]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, turn in contenders.items():
            turns[name].append(turn())
    return turns


def compare(targets: int, rounds: int) -> None:
    with tempfile.TemporaryDirectory(prefix="nd-icmp-scale") as folder:
        file, output, few, one = (Path(folder, name) for name in ("targets", "output", "few", "one"))
        file.write_text("\n".join(addresses(targets)), "ascii")
        few.write_text("\n".join(addresses(10)), "ascii")
        one.write_text(addresses(1)[0], "ascii")
        if not installed("fping"):
            print("fping is not installed: nothing to compare with")
            return
        paced = {
            "fping": lambda: fping_turn(file, output),
            "engine": lambda: engine_turn(file, output),
            SWEEP: lambda: sweep_turn(file, output),
            START: lambda: start_turn(one, output),
        }
        if importlib.util.find_spec("icmplib") is None:
            print("icmplib is not installed: pip install netdiag-toolkit[bench]")
        else:
            paced["icmplib, whole process"] = lambda: icmplib_turn(file, output)
        title = f"{targets} targets x {COUNT} at {RATE}/s, n={rounds}"
        turns = take_turns(paced, rounds)
        turns["sweep without its start"] = without_start(turns[SWEEP], turns[START])
        table(title, turns, targets * COUNT, "fping", 1.3)
        print(f"pacing floor {targets * COUNT / RATE:.2f} s; target: wall at most 1.05 of it\n")
        unpaced = {
            "ping -f": lambda: flood_turn(few, output),
            "engine, no pacing": lambda: engine_turn(few, output, rate=1e6, count=FLAT_OUT // 10, interval_s=0.0),
        }
        table(f"{FLAT_OUT} echoes flat out, n={rounds}", take_turns(unpaced, rounds), FLAT_OUT, "ping -f", 1.5)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--engine", nargs=4, metavar=("FILE", "RATE", "COUNT", "INTERVAL"), help=argparse.SUPPRESS)
    parser.add_argument("--icmplib", type=Path, metavar="FILE", help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.icmplib:
        by_icmplib(chosen.icmplib)
    elif chosen.engine:
        file, rate, count, interval_s = chosen.engine
        engine(Path(file), float(rate), int(count), float(interval_s))
    else:
        compare(chosen.targets, chosen.rounds)


if __name__ == "__main__":
    main()
