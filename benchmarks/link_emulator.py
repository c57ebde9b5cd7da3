"""The lab's link emulator against tcpdump's stamps and the kernel's interface counters. Root; two namespaces.

    python -m benchmarks.link_emulator [--seconds N]

Delay: numbered UDP packets at 2,000 a second, stamped by the kernel as they leave one host and reach the other.
Loss: sent against the receiving interface's own count. Throughput: the highest steady rate without a lost frame, and
what passes under a flood.
"""

from __future__ import annotations

import argparse
import ctypes
import random
import socket
import struct
import time
from pathlib import Path

from netdiag.lab.emulator import LinkSettings
from tests.kernel.emulated import RIGHT, EmulatedLine, capture, emulated_line, numbered
from tests.kernel.netns import Namespace

RATE = 2000
PORT = 9
DELAYS_S = (0.0, 0.0125, 0.05)
LOSSES = ((0.01, None), (0.05, None), (0.2, None), (0.05, 4.0), (0.2, 10.0))
STEPS = (10_000, 15_000, 20_000, 25_000, 30_000, 40_000)


def send_numbered(count: int, rate: float, size: int = 64) -> float:
    """Evenly spaced; the packets per second reached."""
    ctypes.CDLL(None).prctl(29, 1, 0, 0, 0)  # PR_SET_TIMERSLACK
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect((RIGHT, PORT))
        started = time.monotonic()
        for number in range(count):
            early = started + number / rate - time.monotonic()
            if early > 0:
                time.sleep(early)
            sock.send(struct.pack("!I", number).ljust(size, b"."))
        return count / (time.monotonic() - started)


def sink() -> socket.socket:
    """A socket that nobody reads: without it every packet would draw an ICMP error."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((RIGHT, PORT))
    return sock


def received(host: Namespace) -> int:
    """What the kernel counted at the host's interface."""
    return int(host.run("cat", "/sys/class/net/wan/statistics/rx_packets"))


def cpu_seconds(pid: int) -> float:
    user, system = Path(f"/proc/{pid}/stat").read_text("ascii").rsplit(")", 1)[1].split()[11:13]
    return (int(user) + int(system)) / 100


def delay_errors(line: EmulatedLine, delay_s: float, count: int) -> list[float]:
    sent, arrived = line.folder / "sent", line.folder / "arrived"
    words = ("udp", "port", str(PORT))
    with capture(line.left, sent, *words), capture(line.right, arrived, *words):
        line.left.inside(lambda: send_numbered(count, RATE))
        time.sleep(delay_s + 0.2)
    left = dict(numbered(sent))
    return [stamp - left[number] - delay_s for number, stamp in numbered(arrived)]


def show_delays(line: EmulatedLine, seconds: float) -> None:
    print(f"{'set ms':>8} {'packets':>8} {'error p50 us':>13} {'p99':>7} {'p99.9':>7} {'max':>7} {'CPU':>6}")
    for delay_s in DELAYS_S:
        line.control.set("both", LinkSettings(delay_s=delay_s))
        before, started = cpu_seconds(line.emulator.pid), time.monotonic()
        errors = sorted(delay_errors(line, delay_s, int(RATE * seconds)))
        share = (cpu_seconds(line.emulator.pid) - before) / (time.monotonic() - started)
        at = [errors[min(int(len(errors) * q), len(errors) - 1)] * 1e6 for q in (0.5, 0.99, 0.999, 1.0)]
        print(
            f"{delay_s * 1e3:8.1f} {len(errors):8d} {at[0]:13.0f} {at[1]:7.0f} {at[2]:7.0f} {at[3]:7.0f} {share:6.0%}"
        )


def show_losses(line: EmulatedLine, seconds: float, seed: int) -> None:
    count = int(RATE * 2 * seconds)
    print(f"{'set loss':>9} {'burst':>6} {'packets':>8} {'measured':>9} {'counted':>9}")
    for loss, burst in LOSSES:
        line.control.set("left-to-right", LinkSettings(loss=loss, burst=burst), seed=seed)
        before, lost = received(line.right), line.control.counters()["left-to-right"].lost()
        line.left.inside(lambda: send_numbered(count, RATE * 4))
        time.sleep(0.2)
        missing = count - (received(line.right) - before)
        counted = line.control.counters()["left-to-right"].lost() - lost
        print(f"{loss:9.1%} {burst or '-':>6} {count:8d} {missing / count:9.2%} {counted / count:9.2%}")


def show_throughput(line: EmulatedLine, seconds: float) -> None:
    print(f"{'offered/s':>10} {'reached/s':>10} {'delay ms':>9} {'lost':>7} {'CPU':>6}")
    for rate in STEPS:
        for delay_s in (0.0, 0.05):
            line.control.set("both", LinkSettings(delay_s=delay_s))
            count = int(rate * seconds)
            before, cpu = received(line.right), cpu_seconds(line.emulator.pid)
            reached = line.left.inside(lambda rate=rate, count=count: send_numbered(count, rate))
            share = (cpu_seconds(line.emulator.pid) - cpu) / (count / reached)
            time.sleep(delay_s + 0.5)
            lost = count - (received(line.right) - before)
            print(f"{rate:10d} {reached:10.0f} {delay_s * 1e3:9.1f} {lost:7d} {share:6.0%}")


def show_flood(line: EmulatedLine, seconds: float) -> None:
    line.control.clear()
    rates = []
    for size in (64, 1400):
        before = received(line.right)
        offered = line.left.inside(lambda size=size: send_numbered(int(60_000 * seconds), 1e9, size))
        took = 60_000 * seconds / offered
        rates.append((size, offered, (received(line.right) - before) / took))
    for size, offered, passed in rates:
        print(f"flood, {size} bytes of payload: {offered:.0f}/s offered, {passed:.0f}/s arrived while it lasted")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0, help="per row")
    seconds = parser.parse_args().seconds
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    with emulated_line(seed) as line, line.right.inside(sink):
        line.left.run("ping", "-c", "1", RIGHT)  # neighbours known
        show_delays(line, seconds)
        show_losses(line, seconds, seed)
        show_throughput(line, seconds)
        show_flood(line, seconds)


if __name__ == "__main__":
    main()
