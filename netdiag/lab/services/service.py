"""One server of the lab: a program on a host with a configuration; started, stopped, frozen, changed, put back."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from netdiag.lab import processes
from netdiag.lab.errors import LabError
from netdiag.lab.hosts import LabHost
from netdiag.lab.journal import Journal
from netdiag.lab.patience import wait_while
from netdiag.lab.processes import ProcessId, identify
from probes.model import value

START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 5.0
_POLL_S = 0.02
# Not the caller's: a replica, for one, would look for client certificates in HOME.
_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", "HOME": "/"}
_ENVIRONMENT |= {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}  # the emulators are ours


@value
class ServiceSpec:
    """``reload`` makes a running server read its configuration again; None: it is restarted instead.

    ``ready`` may raise LabError or OSError for "not yet". ``user`` is a numeric uid and gid to run as.
    """

    name: str
    host: str
    argv: tuple[str, ...]
    log: Path
    configuration: Path | None = None
    pristine: str = ""
    ready: Callable[[], bool] = lambda: True
    reload: Callable[[LabHost, ProcessId], None] | None = None
    stop_signal: int = signal.SIGTERM
    user: tuple[int, int] | None = None
    lock: Path | None = None  # a file by which it finds itself running; left behind where it was killed


def by_signal(number: int) -> Callable[[LabHost, ProcessId], None]:
    return lambda _host, process: process.send(number)


def by_command(*argv: str) -> Callable[[LabHost, ProcessId], None]:
    def reload(host: LabHost, _process: ProcessId) -> None:
        host.run(argv)

    return reload


class Service:
    """Handle of a server; ``process`` is what an earlier owner started."""

    def __init__(
        self, spec: ServiceSpec, host: LabHost, journal: Journal, *, detached: bool, process: ProcessId | None = None
    ) -> None:
        self.spec = spec
        self.name = spec.name
        self._host = host
        self._journal = journal
        self._detached = detached
        self._process = process
        self._popen: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None and self.is_running() else None

    @property
    def configuration(self) -> str:
        """The text in force; "" for a service without a file."""
        return self.spec.configuration.read_text() if self.spec.configuration else ""

    def is_running(self) -> bool:
        return self._process is not None and self._process.is_alive()

    def is_frozen(self) -> bool:
        """Stopped by SIGSTOP."""
        if self._process is None or not self.is_running():
            return False
        return Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"

    def launch(self) -> None:
        """Start without waiting. Nothing happens where it runs."""
        if self.is_running():
            return
        if self.spec.lock is not None:
            self.spec.lock.unlink(missing_ok=True)
        self._write_pristine_if_missing()
        with self.spec.log.open("ab") as log:
            self._popen = subprocess.Popen(
                [*self._host.enter, *self._privileges(), *self.spec.argv],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env=_ENVIRONMENT,
                start_new_session=True,
            )
        self._process = identify(self._popen.pid)
        if self._process is not None:
            self._journal.process(self._process, self.name)

    def _privileges(self) -> Sequence[str]:
        """An owner that is killed takes its servers along, unless detached (PR_SET_PDEATHSIG, prctl(2))."""
        words = (
            [] if self._detached else ["--pdeathsig", signal.Signals(self.spec.stop_signal).name.removeprefix("SIG")]
        )
        if self.spec.user is not None:
            uid, gid = self.spec.user
            words += [f"--reuid={uid}", f"--regid={gid}", "--clear-groups"]
        return ["setpriv", *words] if words else []

    def _write_pristine_if_missing(self) -> None:
        if self.spec.configuration and not self.spec.configuration.exists():
            self.spec.configuration.write_text(self.spec.pristine)

    def wait_ready(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Raises LabError with the end of its log."""
        if wait_while(self._is_coming, timeout_s, _POLL_S) or not self.is_running():
            raise LabError(f"{self.name} did not start: {self._last_words()}")

    def _is_coming(self) -> bool:
        """Neither ready nor ended."""
        self._reap()
        return self.is_running() and not self._is_ready()

    def _is_ready(self) -> bool:
        try:
            return self.is_running() and self.spec.ready()
        except (LabError, OSError):
            return False

    def _last_words(self) -> str:
        lines = self.spec.log.read_text(errors="replace").splitlines() if self.spec.log.exists() else []
        return " | ".join(lines[-3:]) or "it said nothing"

    def start(self) -> None:
        """And wait until it answers. Raises LabError."""
        self.launch()
        self.wait_ready()

    def stop(self) -> None:
        """In order, or by force after a few seconds. Nothing happens where it does not run."""
        if self._process is not None:
            processes.end([self._process], self.spec.stop_signal, STOP_TIMEOUT_S)
        self._reap()

    def kill(self) -> None:
        """SIGKILL: no farewell to anybody. Its children have ended as well, by force where they linger."""
        if self._process is not None:
            family = (self._process, *processes.children(self._process))
            self._process.send(signal.SIGKILL)
            for process in family:
                process.wait(STOP_TIMEOUT_S)
            processes.end(family, signal.SIGKILL)
        self._reap()

    def signal(self, number: int) -> None:
        """To its main process. SIGSTOP: the kernel still completes TCP handshakes, and nobody speaks."""
        if self._process is not None:
            self._process.send(number)

    def restart(self) -> None:
        self.stop()
        self.start()

    def configure(self, text: str) -> None:
        """Write its configuration and reload. Raises LabError for a service without one."""
        if self.spec.configuration is None:
            raise LabError(f"{self.name} has no configuration file")
        self.spec.configuration.write_text(text)
        self.reload()

    def reload(self) -> None:
        """Read the configuration again. Raises LabError where it does not run or does not accept it."""
        if self._process is None or not self.is_running():
            raise LabError(f"{self.name} does not run")
        if self.spec.reload is None:
            self.restart()
        else:
            self.spec.reload(self._host, self._process)

    def restore(self) -> None:
        """Continued, running, with its pristine configuration. Raises LabError."""
        self.signal(signal.SIGCONT)
        changed = self.spec.configuration is not None and self.configuration != self.spec.pristine
        if changed and self.spec.configuration is not None:
            self.spec.configuration.write_text(self.spec.pristine)
        if self.is_running() and changed:
            self.reload()
        self.launch()

    def _reap(self) -> None:
        if self._popen is not None:
            self._popen.poll()
