"""Bytes over a connected socket: what clear text, TLS and DNS over TCP all stand on."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from probes.contract import Clock
from probes.failures import from_os_error, timed_out
from probes.model import NetworkFailure
from probes.net.sockets import readable, writable

T = TypeVar("T")


class RawStream:
    """Bytes over the socket, each wait bounded by an absolute deadline. Every method raises NetworkFailure."""

    def __init__(self, sock: socket.socket, clock: Clock, pending_errno: int | None = None) -> None:
        self.sock = sock
        self.clock = clock
        self._pending = pending_errno

    async def send(self, data: bytes, deadline: float, operation: str = "send") -> None:
        rest = memoryview(data)
        while rest:
            sent = self._try(operation, partial(self.sock.send, rest))
            if sent is not None:
                rest = rest[sent:]
            elif not await writable(self.sock, deadline - self.clock.monotonic()):
                raise NetworkFailure(timed_out(operation))

    async def receive(self, limit: int, deadline: float, operation: str = "receive") -> bytes:
        while True:
            data = self._try(operation, partial(self.sock.recv, limit))
            if data is not None:
                return data
            if not await readable(self.sock, deadline - self.clock.monotonic()):
                raise NetworkFailure(timed_out(operation))

    def _try(self, operation: str, call: Callable[[], T]) -> T | None:
        """The result of a socket call, or None where it would block."""
        try:
            self._raise_pending()
            return call()
        except BlockingIOError:
            return None
        except OSError as error:
            raise NetworkFailure(from_os_error(error, operation)) from error

    def _raise_pending(self) -> None:
        """An error that came with the end of the handshake is told on first use: the kernel has forgotten it."""
        if self._pending is not None:
            code, self._pending = self._pending, None
            raise OSError(code, os.strerror(code))
