"""Two hosts on one Ethernet, joined by the link emulator in a namespace of its own; and captures at both of them.

left (10.73.0.1, fd73::1) -- l [emulator] r -- right (10.73.0.2, fd73::2), "wan" at both hosts
"""

from __future__ import annotations

import contextlib
import signal
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from netdiag.lab.emulator import Emulator, LinkControl
from tests.kernel.netns import Namespace, namespaces, offloads_off

LEFT, RIGHT = "10.73.0.1", "10.73.0.2"
LEFT6, RIGHT6 = "fd73::1", "fd73::2"
_NANOSECOND_PCAP = 0xA1B23C4D
_UDP_PAYLOAD = 14 + 20 + 8


@dataclass(frozen=True)
class EmulatedLine:
    left: Namespace
    middle: Namespace
    right: Namespace
    emulator: Emulator
    folder: Path

    @property
    def control(self) -> LinkControl:
        return self.emulator.control


@contextlib.contextmanager
def emulated_line(seed: int = 1, *, offloads: bool = False) -> Iterator[EmulatedLine]:
    """``offloads``: leave the hosts' own offloads on, as a lab that forgot them would."""
    with namespaces("l", "m", "r") as (left, middle, right), tempfile.TemporaryDirectory(prefix="nd-emulator") as where:
        for host, port, number in ((left, "l", 1), (right, "r", 2)):
            host.ip("link", "add", "wan", "type", "veth", "peer", "name", port, "netns", middle.name)
            if not offloads:
                host.inside(lambda: offloads_off("wan"))
            host.ip("addr", "add", f"10.73.0.{number}/24", "dev", "wan")
            host.ip("addr", "add", f"fd73::{number}/64", "dev", "wan", "nodad")
            host.ip("link", "set", "wan", "up")
        enter = ("ip", "netns", "exec", middle.name)
        with Emulator(left="l", right="r", control=Path(where, "control"), seed=seed, inside=enter) as emulator:
            yield EmulatedLine(left=left, middle=middle, right=right, emulator=emulator, folder=Path(where))


@contextlib.contextmanager
def capture(host: Namespace, file: Path, *words: str) -> Iterator[None]:
    """tcpdump on ``wan`` for as long as the block runs, nanosecond stamps, whole frames up to 96 bytes."""
    argv = ["tcpdump", "-Z", "root", "-U", "-i", "wan", "-s", "96", "-B", "8192", "--time-stamp-precision=nano"]
    process = host.spawn(*argv, "-w", str(file), *words, stderr=subprocess.PIPE)
    assert process.stderr is not None
    for line in process.stderr:
        if b"listening on" in line:
            break
    try:
        yield
        time.sleep(1.2)  # tcpdump asks the kernel for a block when it is full or a second old
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=10)


def numbered(file: Path) -> list[tuple[int, float]]:
    """(number at the start of the UDP payload, stamp in seconds) of each captured IPv4 frame, in order of capture."""
    raw = file.read_bytes()
    assert struct.unpack_from("=I", raw)[0] == _NANOSECOND_PCAP
    found, at = [], 24
    while at + 16 <= len(raw):
        seconds, nanoseconds, kept, _ = struct.unpack_from("=IIII", raw, at)
        (number,) = struct.unpack_from("!I", raw, at + 16 + _UDP_PAYLOAD)
        found.append((number, seconds + nanoseconds * 1e-9))
        at += 16 + kept
    return found
