"""A host of the lab: a network namespace, and running things inside."""

from __future__ import annotations

import ctypes
import os
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from netdiag.lab.errors import LabError
from netdiag.lab.journal import Journal
from netdiag.lab.processes import NETNS, identify
from netdiag.lab.topology import Family, Topology

T = TypeVar("T")
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)
TABLE = "netdiag"  # the nftables table that faults go into


class LabHost:
    """Commands see /etc/resolv.conf and /etc/hosts of this host. ``environment`` is added to what they inherit."""

    def __init__(
        self, name: str, namespace: str, topology: Topology, journal: Journal, environment: Mapping[str, str]
    ) -> None:
        self.name = name
        self.namespace = namespace
        self.environment = environment
        self._topology = topology
        self._journal = journal

    @property
    def enter(self) -> tuple[str, ...]:
        """The command that enters the namespace, to be put before another."""
        return ("ip", "netns", "exec", self.namespace)

    def address(self, family: Family = 4) -> str:
        """Of its main interface. Raises LookupError for a bridge."""
        return self._topology.address(self.name, family)

    def addresses(self, family: Family = 4) -> tuple[str, ...]:
        return self._topology.addresses(self.name, family)

    def run(
        self,
        argv: Sequence[str],
        *,
        input: str | None = None,
        timeout: float = 60.0,
        check: bool = True,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Raises LabError (``check``, status not 0), subprocess.TimeoutExpired after ``timeout`` seconds."""
        done = subprocess.run(
            [*self.enter, *argv],
            input=input,
            stdin=subprocess.DEVNULL if input is None else None,
            capture_output=True,
            text=True,
            timeout=timeout,
            env=self._environ(env),
            cwd=cwd,
            check=False,
        )
        if check and done.returncode != 0:
            raise LabError(f"{self.name}: {' '.join(argv)}: {done.stderr.strip() or done.stdout.strip()}")
        return done

    def spawn(
        self, argv: Sequence[str], *, env: Mapping[str, str] | None = None, log: Path | None = None
    ) -> subprocess.Popen[bytes]:
        """A process in the background, ended by the world's ``clear`` or ``down``. Its output goes to ``log``."""
        with Path(log or os.devnull).open("ab") as output:
            process = subprocess.Popen(
                [*self.enter, *argv],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self._environ(env),
                start_new_session=True,
            )
        identity = identify(process.pid)
        if identity is not None:
            self._journal.process(identity)
        return process

    def ip(self, *argv: str) -> str:
        return command("ip", "-n", self.namespace, *argv)

    def nft(self, rules: str) -> None:
        """Replace the inside of the table "inet netdiag". Raises LabError with what nft says."""
        text = f"table inet {TABLE}\ndelete table inet {TABLE}\n"
        if rules.strip():
            text += f"table inet {TABLE} {{\n{rules}\n}}\n"
        self.run(["nft", "-f", "-"], input=text)

    def sysctl(self, name: str, setting: object) -> None:
        """Of this namespace; a world's ``clear`` puts it back. Raises LabError where the kernel refuses."""
        self._journal.sysctl(self.name, name, self.read_sysctl(name))
        self.write_sysctls({name: str(setting)})

    def read_sysctl(self, name: str) -> str:
        """Raises LabError where there is none of that name."""
        try:
            return self.inside(lambda: _sysctl_path(name).read_text().strip())
        except OSError as error:
            raise LabError(f"{self.name}: sysctl {name}: {error}") from error

    def write_sysctls(self, settings: Mapping[str, str]) -> None:
        """Without a way back. Raises LabError."""

        def write() -> None:
            for name, setting in settings.items():
                _sysctl_path(name).write_text(setting)

        try:
            self.inside(write)
        except OSError as error:
            raise LabError(f"{self.name}: sysctl {', '.join(settings)}: {error}") from error

    def inside(self, function: Callable[[], T]) -> T:
        """Call ``function`` in a thread that lives in this namespace. Sockets that it opens stay there."""
        return inside_namespace(self.namespace, function)

    def _environ(self, more: Mapping[str, str] | None) -> dict[str, str]:
        return {**os.environ, **self.environment, **(more or {})}


def command(*argv: str, input: str | None = None) -> str:
    """Standard output of a program on this machine. Raises LabError with what it said."""
    done = subprocess.run(argv, input=input, capture_output=True, text=True, timeout=60.0, check=False)
    if done.returncode != 0:
        raise LabError(f"{' '.join(argv)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def inside_namespace(namespace: str, function: Callable[[], T]) -> T:
    """Call ``function`` in a thread of its own inside the namespace."""
    results: list[T] = []
    failures: list[BaseException] = []

    def work() -> None:
        try:
            _enter(namespace)
            results.append(function())
        except BaseException as error:  # whatever it is goes to the caller's thread
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return results[0]


def _enter(namespace: str) -> None:
    descriptor = os.open(NETNS / namespace, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.setns(descriptor, _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"setns {namespace}")
    finally:
        os.close(descriptor)


def _sysctl_path(name: str) -> Path:
    return Path("/proc/sys", *name.split("."))
