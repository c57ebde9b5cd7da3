"""RTT error: what a tool reports minus what a capture at its own interface shows. Root; namespaces of its own.

    python -m benchmarks.rtt_accuracy [--count N]

The truth is tcpdump's kernel stamps at the sender's veth, request to reply. The tools take turns over a bare veth and
over emulated links of 1 and 50 ms, the machine as it is and with one core kept busy. ping and fping print three
digits, which at 50 ms is up to 50 us of their error. TCP handshakes: tcpi_rtt against SYN and SYN-ACK.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import re
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.processes import installed
from netdiag.lab.emulator import LinkSettings
from probes.exchanges import EchoRequest, HandshakeRequest
from probes.net.clock import SystemClock
from probes.net.kernel import KernelNetwork
from tests.kernel.emulated import RIGHT, capture, emulated_line
from tests.kernel.netns import Namespace, namespaces, wire

PORT = 5433
INTERVAL_S = 0.02
NANOSECOND_PCAP = 0xA1B23C4D
ETHERNET = 14
ICMP, TCP = 1, 6
SYN, ACK = 0x02, 0x10

Rtts = list[float]  # seconds, in the order of sending


@dataclass(frozen=True)
class World:
    name: str
    sender: Namespace
    folder: Path


def frames(file: Path) -> Iterator[tuple[float, bytes]]:
    """(seconds, IPv4 packet) of each captured frame."""
    raw = file.read_bytes()
    assert struct.unpack_from("=I", raw)[0] == NANOSECOND_PCAP
    at = 24
    while at + 16 <= len(raw):
        seconds, nanoseconds, kept, _ = struct.unpack_from("=IIII", raw, at)
        yield seconds + nanoseconds * 1e-9, raw[at + 16 + ETHERNET : at + 16 + kept]
        at += 16 + kept


def echo_truth(file: Path) -> Rtts:
    requests: dict[tuple[int, int], float] = {}
    replies: dict[tuple[int, int], float] = {}
    for stamp, packet in frames(file):
        at = (packet[0] & 15) * 4
        kind, key = packet[at], struct.unpack_from("!HH", packet, at + 4)
        {8: requests, 0: replies}.get(kind, {}).setdefault(key, stamp)
    return [replies[key] - sent for key, sent in requests.items() if key in replies]


def handshake_truth(file: Path) -> Rtts:
    syns: dict[int, float] = {}
    answers: dict[int, float] = {}
    for stamp, packet in frames(file):
        at = (packet[0] & 15) * 4
        source, destination, flags = *struct.unpack_from("!HH", packet, at), packet[at + 13]
        if flags & (SYN | ACK) == SYN:
            syns.setdefault(source, stamp)
        elif flags & (SYN | ACK) == SYN | ACK:
            answers.setdefault(destination, stamp)
    return [answers[port] - sent for port, sent in syns.items() if port in answers]


def by_ping(world: World, count: int) -> Rtts:
    said = world.sender.run("ping", "-n", "-i", str(INTERVAL_S), "-c", str(count), RIGHT)
    return [float(found) / 1e3 for found in re.findall(r"time=([\d.]+) ms", said)]


def by_fping(world: World, count: int) -> Rtts:
    """-p, the period, must be apart from -t, the timeout."""
    argv = ["fping", "-q", "-C", str(count), "-p", str(int(INTERVAL_S * 1e3)), "-t", "1000", RIGHT]
    done = world.sender.spawn(*argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    said = done.communicate(timeout=120)[1].decode()
    return [float(found) / 1e3 for found in said.split(":", 1)[1].split() if found != "-"]


def by_mtr(world: World, count: int) -> Rtts:
    """Its raw lines: "p HOP MICROSECONDS SEQUENCE". It sends beyond the first hop until that has answered."""
    argv = ["mtr", "-4", "-n", "--raw", "-m", "1", "-i", str(INTERVAL_S), "-c", str(count), RIGHT]
    said = world.sender.run(*argv)
    return [int(line.split()[2]) / 1e6 for line in said.splitlines() if line.startswith("p ")]


def by_icmplib(world: World, count: int) -> Rtts:
    import icmplib

    host = world.sender.inside(lambda: icmplib.ping(RIGHT, count=count, interval=INTERVAL_S, timeout=1))
    return [rtt_ms / 1e3 for rtt_ms in host.rtts]


def by_netdiag(world: World, count: int) -> Rtts:
    request = EchoRequest(address=RIGHT, count=count, interval_s=INTERVAL_S, timeout_s=1.0)
    series = world.sender.measure(lambda: KernelNetwork(SystemClock(), packets_per_second=1000.0).echo(request))
    return [sample.rtt_s for sample in series.samples if sample.rtt_s is not None]


def by_netdiag_tcp(world: World, count: int) -> Rtts:
    async def handshakes() -> Rtts:
        clock = SystemClock()
        network = KernelNetwork(clock, packets_per_second=1000.0, connections_per_second=1000.0)
        found = []
        for _ in range(count):
            shake = await network.handshake(HandshakeRequest(address=RIGHT, port=PORT))
            found.append(shake.rtt_s)
            await clock.sleep(INTERVAL_S)
        return [rtt_s for rtt_s in found if rtt_s is not None]

    return world.sender.measure(handshakes)


TOOLS: dict[str, Callable[[World, int], Rtts]] = {
    "netdiag icmp": by_netdiag,
    "ping": by_ping,
    "fping": by_fping,
    "mtr": by_mtr,
    "icmplib": by_icmplib,
    "netdiag tcp": by_netdiag_tcp,
}
TARGETS = {"netdiag icmp": (15, 60), "netdiag tcp": (30, 150)}  # p50 and p99, microseconds


@contextlib.contextmanager
def worlds() -> Iterator[list[tuple[World, Callable[[], None]]]]:
    """Each with what to do before it is used."""
    with (
        namespaces("a", "b") as (near, far),
        emulated_line() as emulated,
        TemporaryDirectory(prefix="nd-rtt") as folder,
    ):
        wire(near, "wan", ["10.73.0.1/24"], far, "wan", [f"{RIGHT}/24"])
        with accepting(far), accepting(emulated.right):
            found = [(World("veth", near, Path(folder)), lambda: None)]
            for delay_s in (0.0005, 0.025):
                name = f"{delay_s * 2e3:g} ms"
                settings = LinkSettings(delay_s=delay_s)
                world = World(name, emulated.left, Path(folder))
                found.append((world, lambda settings=settings: emulated.control.set("both", settings)))
            yield found


@contextlib.contextmanager
def accepting(host: Namespace) -> Iterator[None]:
    """A server that takes each connection and closes it: with a full backlog no SYN would be answered."""
    with host.listen(PORT) as listener:
        stop = threading.Event()

        def serve() -> None:
            listener.settimeout(0.2)
            while not stop.is_set():
                with contextlib.suppress(TimeoutError):
                    listener.accept()[0].close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


@contextlib.contextmanager
def busy_core(wanted: bool) -> Iterator[None]:
    if not wanted:
        yield
        return
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def errors(world: World, tool: str, count: int) -> list[float]:
    """Absolute, sorted, seconds. Raises RuntimeError where tool and capture do not tell of the same packets."""
    file = world.folder / "capture"
    words, truth = ("tcp", handshake_truth) if tool.endswith("tcp") else ("icmp", echo_truth)
    with capture(world.sender, file, words):
        told = TOOLS[tool](world, count)
    true = truth(file)
    if len(told) != len(true):
        raise RuntimeError(f"{tool} told of {len(told)} round trips, the capture of {len(true)}")
    return sorted(abs(one - other) for one, other in zip(told, true, strict=True))


def show(world: World, load: str, count: int) -> None:
    for tool in TOOLS:
        if not (tool.startswith("netdiag") or installed(tool) or importlib.util.find_spec(tool)):
            print(f"{world.name:>6} {load:>5}  {tool:<13} not installed")
            continue
        try:
            found = errors(world, tool, count)
        except RuntimeError as error:
            print(f"{world.name:>6} {load:>5}  {tool:<13} {error}")
            continue
        at = [found[min(int(len(found) * q), len(found) - 1)] * 1e6 for q in (0.5, 0.99, 1.0)]
        target = "/".join(str(limit) for limit in TARGETS.get(tool, ()))
        row = f"{world.name:>6} {load:>5}  {tool:<13}{len(found):>6}{at[0]:>9.0f}{at[1]:>9.0f}{at[2]:>9.0f}{target:>9}"
        print(row, flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=300, help="round trips per row")
    count = parser.parse_args(arguments).count
    print(f"{'path':>6} {'core':>5}  {'tool':<13}{'n':>6}{'p50 us':>9}{'p99 us':>9}{'max us':>9}{'target':>9}")
    with worlds() as prepared:
        for world, prepare in prepared:
            prepare()
            world.sender.run("ping", "-c", "2", RIGHT)  # neighbours known
            for load in ("idle", "busy"):
                with busy_core(load == "busy"):
                    show(world, load, count)


if __name__ == "__main__":
    main()
