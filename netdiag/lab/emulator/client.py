"""The lab's side: start an emulator, change it while it runs, read its counters."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from netdiag.lab.emulator.control import BOTH, MAX_MESSAGE
from netdiag.lab.emulator.model import Counters, DropReason
from netdiag.lab.emulator.settings import LinkSettings, SettingsError, from_json, to_json
from netdiag.lab.patience import wait_while

ANSWER_TIMEOUT_S = 5.0
START_TIMEOUT_S = 10.0


class EmulatorError(RuntimeError):
    """The emulator did not start, or is gone. The text is one line."""


class LinkControl:
    """Speaks to a running emulator. One connection per question: nothing to close, and safe from any thread."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def set(self, direction: str, *settings: LinkSettings, seed: int | None = None) -> None:
        """Put settings in force from now on; of several the last whose window is on applies, none is a plain wire.

        ``direction``: "left-to-right", "right-to-left" or "both". Windows count, and the pseudo-random pattern starts
        anew, from this instant: the pattern of ``seed``, or of the seed the emulator was started with.
        Raises SettingsError, EmulatorError.
        """
        plain = [to_json(each) for each in settings]
        self._ask({"do": "set", "direction": direction, "settings": plain, "seed": seed})

    def clear(self, direction: str = BOTH) -> None:
        """A plain wire again."""
        self.set(direction)

    def settings(self) -> dict[str, tuple[LinkSettings, ...]]:
        """Per direction. Raises EmulatorError."""
        answer = self._ask({"do": "settings"})
        return {name: tuple(from_json(each) for each in layers) for name, layers in answer.items()}

    def counters(self) -> dict[str, Counters]:
        """Per direction, since the emulator started. Raises EmulatorError."""
        return {name: _counters(plain) for name, plain in self._ask({"do": "counters"}).items()}

    def stop(self) -> None:
        """Ends the emulator; frames under way are lost. Raises EmulatorError."""
        self._ask({"do": "stop"})

    def _ask(self, request: dict[str, Any]) -> Any:
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
                sock.settimeout(ANSWER_TIMEOUT_S)
                sock.connect(str(self.path))
                sock.send(json.dumps(request).encode())
                raw = sock.recv(MAX_MESSAGE)
        except OSError as error:
            raise EmulatorError(f"link emulator at {self.path}: {error}") from error
        if not raw:
            raise EmulatorError(f"link emulator at {self.path}: ended without an answer")
        answer = json.loads(raw)
        if "error" in answer:
            raise SettingsError(answer["error"])
        return answer["ok"]


def _counters(plain: dict[str, Any]) -> Counters:
    dropped = {DropReason(reason): count for reason, count in plain.pop("dropped").items()}
    return Counters(dropped=dropped, **plain)


class Emulator:
    """An emulator process, ready when made, ended by ``stop()`` or at the end of a ``with`` block.

    ``inside`` is the command that enters the namespace with both interfaces: ("ip", "netns", "exec", NAME). Unless
    ``detached`` it also ends with the process that made it. Raises EmulatorError with what it said.
    """

    def __init__(
        self,
        *,
        left: str,
        right: str,
        control: Path,
        seed: int,
        inside: Sequence[str] = (),
        detached: bool = False,
    ) -> None:
        self.control = LinkControl(control)
        self._refuse_a_living_one()
        module = [sys.executable, "-m", "netdiag.lab.emulator", "--left", left, "--right", right]
        told = ["--control", str(control), "--seed", str(seed), "--parent", str(0 if detached else os.getpid())]
        self._process = subprocess.Popen(
            [*inside, *module, *told], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        try:
            self._wait_until_ready()
        except EmulatorError:
            self.stop()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    def stop(self) -> None:
        """Ask it to end, and see to it."""
        self._process.terminate()
        try:
            self._process.wait(ANSWER_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stderr is not None:
            self._process.stderr.close()

    def __enter__(self) -> Emulator:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _refuse_a_living_one(self) -> None:
        """Its answers would be taken for this one's."""
        if self._answers():
            raise EmulatorError(f"link emulator at {self.control.path}: another emulator answers there")

    def _wait_until_ready(self) -> None:
        if wait_while(self._is_coming, START_TIMEOUT_S, every_s=0.01):
            raise EmulatorError(f"link emulator at {self.control.path}: not ready after {START_TIMEOUT_S:g} s")
        if self._process.poll() is not None:
            said = self._process.stderr.read().strip() if self._process.stderr else ""
            raise EmulatorError(said.splitlines()[-1] if said else "link emulator: ended at once")

    def _is_coming(self) -> bool:
        """Neither answering nor ended."""
        return self._process.poll() is None and not self._answers()

    def _answers(self) -> bool:
        try:
            self.control.counters()
        except EmulatorError:
            return False
        return True
