"""The control: a Unix socket (SOCK_SEQPACKET, one JSON object per message) through which a running link is changed.

    {"do": "set", "direction": "both", "settings": [{"delay_s": 0.025}], "seed": 7}
    {"do": "counters"}      {"do": "settings"}      {"do": "stop"}

A Unix socket with a path is reached from any network namespace. Connections and not datagrams: the answer finds its way
back without a file of the client's. The answer is {"ok": ...} or {"error": "one line"}.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import stat
import time
from collections.abc import Callable, Iterable
from dataclasses import fields
from pathlib import Path
from types import FrameType
from typing import Any

from netdiag.lab.emulator.model import Counters, Direction
from netdiag.lab.emulator.settings import LinkSettings, SettingsError, from_json, to_json

MAX_MESSAGE = 65536
MAX_CLIENTS = 16
MAX_LAYERS = 32
LEFT_TO_RIGHT, RIGHT_TO_LEFT, BOTH = "left-to-right", "right-to-left", "both"
_KEYS = {"set": {"do", "direction", "settings", "seed"}, "counters": {"do"}, "settings": {"do"}, "stop": {"do"}}


class Commands:
    """What the control understands, apart from how it is asked. ``refresh`` is called before counters are read."""

    def __init__(self, directions: Iterable[Direction], refresh: Callable[[], None] = lambda: None) -> None:
        self._directions = {direction.name: direction for direction in directions}
        self._refresh = refresh
        self.stopped = False

    def answer(self, message: bytes) -> bytes:
        """Never raises: whatever is wrong with the message is the answer."""
        try:
            result: dict[str, Any] = {"ok": self._do(_request(message))}
        except SettingsError as error:
            result = {"error": str(error)}
        return json.dumps(result).encode()

    def _do(self, request: dict[str, Any]) -> object:
        match request["do"]:
            case "set":
                self._set(request)
            case "counters":
                self._refresh()
                return {name: counters_to_json(each.counters()) for name, each in self._directions.items()}
            case "settings":
                return {name: [to_json(one) for one in each.settings] for name, each in self._directions.items()}
            case "stop":
                self.stopped = True
        return None

    def _set(self, request: dict[str, Any]) -> None:
        settings = _layers(request.get("settings"))
        seed = request.get("seed")
        if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int)):
            raise SettingsError("seed: not a whole number")
        name = request.get("direction")
        if name not in [*self._directions, BOTH]:
            raise SettingsError(f"direction: not one of {', '.join([*self._directions, BOTH])}")
        now = time.monotonic()  # one instant for both, so that their windows coincide
        for direction in self._directions.values():
            if name in (BOTH, direction.name):
                direction.put_in_force(settings, now=now, seed=seed)


def _request(message: bytes) -> dict[str, Any]:
    try:
        request = json.loads(message)
    except (ValueError, RecursionError):
        raise SettingsError("message: not JSON") from None
    if not isinstance(request, dict):
        raise SettingsError("message: not an object")
    do = request.get("do")
    if not isinstance(do, str) or do not in _KEYS:
        raise SettingsError(f"do: not one of {', '.join(_KEYS)}")
    unknown = sorted(request.keys() - _KEYS[do])
    if unknown:
        raise SettingsError(f"{do}: unknown key {unknown[0][:40]!r}")
    return request


def _layers(plain: object) -> tuple[LinkSettings, ...]:
    if not isinstance(plain, list) or len(plain) > MAX_LAYERS:
        raise SettingsError(f"settings: not a list of at most {MAX_LAYERS}")
    return tuple(from_json(each) for each in plain)


def counters_to_json(counters: Counters) -> dict[str, Any]:
    return {field.name: getattr(counters, field.name) for field in fields(counters)}


class ControlServer:
    """Serves ``Commands`` at a path, for the forwarder's loop. Ends the loop also on SIGTERM or SIGINT, when the parent
    is gone, and when the path is: a lab whose folder was removed leaves no process behind.

    Raises OSError: EADDRINUSE if a living emulator listens there.
    """

    def __init__(self, path: Path, commands: Commands, parent: int | None) -> None:
        self._path, self._commands = path, commands
        self._parent = None if parent is None else _pidfd(parent)
        self._wake, self._signalled = socket.socketpair()
        self._listener = _listen(path)
        self._inode = path.stat().st_ino
        self._clients: dict[int, socket.socket] = {}
        self._over = False

    def catch_signals(self) -> None:
        """SIGTERM and SIGINT end the loop at once and not at its next look."""
        self._signalled.setblocking(False)
        signal.set_wakeup_fd(self._signalled.fileno())
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._end)

    def descriptors(self) -> list[int]:
        always = [self._wake.fileno(), self._listener.fileno(), *self._clients]
        return always if self._parent is None else [*always, self._parent]

    def serve(self, ready: Iterable[int]) -> None:
        for descriptor in ready:
            if descriptor == self._listener.fileno():
                self._accept()
            elif descriptor in self._clients:
                self._converse(self._clients[descriptor])
            else:
                self._over = True  # a signal, or the parent ended

    def ended(self) -> bool:
        return self._over or self._commands.stopped or not self._path_is_ours()

    def close(self) -> None:
        """Leaves no file. The socket of a successor at the same path is left alone."""
        if self._path_is_ours():
            self._path.unlink()
        for sock in (*self._clients.values(), self._listener, self._wake, self._signalled):
            sock.close()
        if self._parent is not None:
            os.close(self._parent)

    def _end(self, number: int, frame: FrameType | None) -> None:
        self._over = True

    def _path_is_ours(self) -> bool:
        try:
            return self._path.stat().st_ino == self._inode
        except OSError:
            return False

    def _accept(self) -> None:
        try:
            client, _ = self._listener.accept()
        except OSError:  # the client went away first, or no descriptor is left
            return
        client.setblocking(False)
        if len(self._clients) >= MAX_CLIENTS:
            client.close()
        else:
            self._clients[client.fileno()] = client

    def _converse(self, client: socket.socket) -> None:
        message = b""
        with contextlib.suppress(OSError):  # a client that is gone, or reads no answers, is let go
            message = client.recv(MAX_MESSAGE)
            if message:
                client.send(self._commands.answer(message))
                return
        del self._clients[client.fileno()]
        client.close()


def _pidfd(parent: int) -> int | None:
    """None for a parent outside this PID namespace (0), which cannot be watched."""
    return os.pidfd_open(parent) if parent > 0 else None


def _listen(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.setblocking(False)
    before = os.umask(0o177)
    try:
        _remove_stale(path)
        sock.bind(str(path))
        sock.listen(MAX_CLIENTS)
    except OSError:
        sock.close()
        raise
    finally:
        os.umask(before)
    return sock


def _remove_stale(path: Path) -> None:
    """The socket of an emulator that was killed; anything else at ``path`` stays and makes bind fail."""
    if not path.exists() or not stat.S_ISSOCK(path.stat().st_mode):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        try:
            sock.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
