"""Bytes over a connected socket: what clear text, TLS and DNS over TCP all stand on."""

from __future__ import annotations

import asyncio
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

READS_AT_HAND = 16  # then the other tasks have a turn: one turn of the loop costs tens of microseconds


class RawStream:
    """Bytes over the socket, each wait bounded by an absolute deadline. Every method raises NetworkFailure."""

    def __init__(self, sock: socket.socket, clock: Clock, pending_errno: int | None = None) -> None:
        self.sock = sock
        self.clock = clock
        self._pending = pending_errno
        self._at_hand = 0  # reads in a row that did not have to wait

    async def send(self, data: bytes, deadline: float, operation: str = "send") -> None:
        rest = memoryview(data)
        while rest:
            sent = self._try(operation, partial(self.sock.send, rest))
            if sent is not None:
                rest = rest[sent:]
            elif not await writable(self.sock, deadline - self.clock.monotonic()):
                raise NetworkFailure(timed_out(operation))

    async def receive(self, limit: int, deadline: float, operation: str = "receive") -> bytes:
        """What is there is taken without waiting; a peer that never stops sending holds neither the deadline nor the
        other tasks up."""
        if self._at_hand >= READS_AT_HAND:
            self._at_hand = 0
            await asyncio.sleep(0)
        while True:
            if self._at_hand and self.clock.monotonic() >= deadline:
                raise NetworkFailure(timed_out(operation))
            data = self._try(operation, partial(self.sock.recv, limit))
            if data is not None:
                self._at_hand += 1
                return data
            self._at_hand = 0
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
