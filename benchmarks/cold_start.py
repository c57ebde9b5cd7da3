"""Cold start: whole processes against ``python -c pass`` of the same interpreter, interleaved, medians.

What is started is the installed console script of this virtual environment, with its .pyc files in place. "First
packet" is the time until a listener on loopback has accepted the first connection of ``netdiag probe latency``; the
rest of that command is not waited for. Memory is the peak that the kernel tells of the ended process; a figure can
not be below that of this benchmark, which the kernel counts until exec(2).
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

ROUNDS = 25
BIN = os.path.dirname(sys.executable)
NETDIAG = os.path.join(BIN, "netdiag")
FLOOR = "python -c pass"


@dataclass(frozen=True)
class Cost:
    """Of one process: seconds of wall time, peak resident bytes."""

    seconds: float
    resident: int


@dataclass(frozen=True)
class Contender:
    name: str
    start: Callable[[], Cost]
    target: float | None = None  # ratio to FLOOR, at most


def whole(*argv: str) -> Callable[[], Cost]:
    """From spawn to exit."""

    def start() -> Cost:
        begun = time.perf_counter()
        _, status, usage = os.wait4(_spawn(*argv), 0)
        seconds = time.perf_counter() - begun
        if status:
            raise RuntimeError(f"{' '.join(argv)} ended with {os.waitstatus_to_exitcode(status)}")
        return Cost(seconds, usage.ru_maxrss * 1024)

    return start


def first_packet() -> Cost:
    """From spawn to the first handshake that the kernel completed here."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(30)
        begun = time.perf_counter()
        child = _spawn(NETDIAG, "probe", "latency", f"127.0.0.1:{listener.getsockname()[1]}")
        try:
            listener.accept()[0].close()
            seconds = time.perf_counter() - begun
        finally:
            os.kill(child, signal.SIGKILL)
            _, _, usage = os.wait4(child, 0)
    return Cost(seconds, usage.ru_maxrss * 1024)


def _spawn(*argv: str) -> int:
    nowhere = (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)
    environment = {name: text for name, text in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return os.posix_spawn(argv[0], argv, environment, file_actions=[nowhere])


CONTENDERS = (
    Contender(FLOOR, whole(sys.executable, "-c", "pass")),
    Contender("netdiag --version", whole(NETDIAG, "--version"), 7.5),
    Contender("netdiag --help", whole(NETDIAG, "--help"), 13.0),
    Contender("netdiag probe latency, first packet", first_packet, 15.0),
    Contender("netdiag explain db.port-closed", whole(NETDIAG, "explain", "db.port-closed")),
)


def median(figures: list[float]) -> float:
    """Without the statistics module, whose imports would count in the memory of every contender."""
    ordered = sorted(figures)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def measured() -> dict[str, list[Cost]]:
    """One round warms the caches and is not counted."""
    costs: dict[str, list[Cost]] = {contender.name: [] for contender in CONTENDERS}
    for number in range(ROUNDS + 1):
        for contender in CONTENDERS:
            cost = contender.start()
            if number:
                costs[contender.name].append(cost)
    return costs


def main() -> None:
    costs = measured()
    floor = median([cost.seconds for cost in costs[FLOOR]])
    print(f"{'':<38}{'median ms':>10}{'ratio':>8}{'target':>8}{'RSS MiB':>9}   (n={ROUNDS})")
    for contender in CONTENDERS:
        seconds = median([cost.seconds for cost in costs[contender.name]])
        resident = median([cost.resident / 2**20 for cost in costs[contender.name]])
        target = f"{contender.target:g}" if contender.target else ""
        print(f"{contender.name:<38}{seconds * 1e3:>10.1f}{seconds / floor:>8.1f}{target:>8}{resident:>9.1f}")


if __name__ == "__main__":
    main()
