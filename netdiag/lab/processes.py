"""Processes by pid and start time (a pid alone may be another's by now), and those inside a network namespace."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Collection, Iterable
from pathlib import Path

from netdiag.lab.patience import wait_while
from probes.model import value

NETNS = Path("/var/run/netns")
POLL_S = 0.01


@value
class ProcessId:
    pid: int
    start: int  # clock ticks since boot, proc(5) field 22

    def is_alive(self) -> bool:
        """A zombie is not: it only waits for its parent."""
        return _stat(self.pid) == (self.start, True)

    def send(self, number: int) -> None:
        """Nothing happens where it is gone."""
        if self.is_alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def wait(self, timeout_s: float) -> bool:
        """Whether it ended in time."""
        return not wait_while(self.is_alive, timeout_s, POLL_S)


def identify(pid: int) -> ProcessId | None:
    """None where there is no such process."""
    found = _stat(pid)
    return ProcessId(pid=pid, start=found[0]) if found else None


def _stat(pid: int) -> tuple[int, bool] | None:
    """Start time, and whether it still runs."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(")")[2].split()  # the name before may hold anything
    return int(fields[19]), fields[0] not in "ZX"


def children(parent: ProcessId) -> tuple[ProcessId, ...]:
    try:
        text = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ()
    found = (identify(int(pid)) for pid in text.split())
    return tuple(process for process in found if process is not None)


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def inside(namespaces: Iterable[str]) -> tuple[ProcessId, ...]:
    """All processes inside the named network namespaces, whoever started them."""
    wanted = set()
    for name in namespaces:
        with contextlib.suppress(FileNotFoundError):
            wanted.add(_identity(NETNS / name))
    found = (identify(int(entry.name)) for entry in Path("/proc").iterdir() if _is_inside(entry, wanted))
    return tuple(process for process in found if process is not None)


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _is_inside(entry: Path, namespaces: Collection[tuple[int, int]]) -> bool:
    if not entry.name.isdecimal() or not namespaces:
        return False
    try:
        return _identity(entry / "ns/net") in namespaces
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return False


def end(processes: Iterable[ProcessId], number: int = signal.SIGTERM, patience_s: float = 3.0) -> None:
    """Ask all, wait for all together, kill the rest. A stopped one is continued, else it would not hear."""
    doomed = tuple(processes)
    for process in doomed:
        process.send(number)
        process.send(signal.SIGCONT)
    deadline = time.monotonic() + patience_s
    for process in doomed:
        if not process.wait(max(deadline - time.monotonic(), 0.0)):
            process.send(signal.SIGKILL)
            process.wait(patience_s)


def at_work_on(folder: Path, programs: Collection[str]) -> tuple[ProcessId, ...]:
    """Processes of these programs whose command line names the folder: a killed owner's helpers go on without it."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = entry.read_bytes().decode(errors="replace").split("\0")
            if Path(words[0]).name in programs and any(str(folder) in word for word in words[1:]):
                found.append(identify(int(entry.parent.name)))
    return tuple(process for process in found if process is not None)
