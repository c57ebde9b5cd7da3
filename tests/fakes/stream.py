"""A TCP connection whose server a test scripts: bytes it says, silence, delays, cuts; what the client said is kept.

stream = ScriptedStream(clock, b"N", after(0.05, ready()), handshake=open_handshake())
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from probes.exchanges import Handshake, TcpInfo, TlsRequest, TlsSession
from probes.failures import timed_out
from probes.model import Failure, NetworkFailure
from tests.fakes.clock import FakeClock
from tests.fakes.network import open_handshake

CLOSE = b""


@dataclass
class after:
    """The step comes this many seconds after the client began to wait for it."""

    seconds: float
    step: bytes | Failure | Callable[[bytes], bytes]


Step = bytes | Failure | after | Callable[[bytes], bytes]


class ScriptedStream:
    """Steps are played one per wait. A callable is given what the client said since the last step. After the last
    step comes silence. ``tls`` is what start_tls() returns, raises (a Failure) or, as None, never finishes."""

    def __init__(
        self,
        clock: FakeClock,
        *steps: Step,
        handshake: Handshake | None = None,
        tls: TlsSession | Failure | None = None,
        binding: bytes | None = None,
        infos: list[TcpInfo] | None = None,
    ) -> None:
        self.clock = clock
        self.handshake = handshake or open_handshake()
        self.sent: list[bytes] = []
        self.tls_requests: list[TlsRequest] = []
        self.closed = False
        self._steps, self._tls, self._binding, self._infos = list(steps), tls, binding, list(infos or [])
        self._ready = b""
        self._heard = 0  # of ``sent``, how many messages the script has seen

    async def send(self, data: bytes, deadline: float) -> None:
        assert not self.closed, "sent on a closed connection"
        self.sent.append(data)

    async def receive(self, limit: int, deadline: float) -> bytes:
        if not self._ready:
            step = await self._next_step(deadline)
            if step == CLOSE:
                self._steps.insert(0, CLOSE)
                return b""
            self._ready = step
        data, self._ready = self._ready[:limit], self._ready[limit:]
        return data

    async def _next_step(self, deadline: float) -> bytes:
        if not self._steps:
            await self._silence(deadline, "receive")
        step = self._steps.pop(0)
        if isinstance(step, after):
            if self.clock.monotonic() + step.seconds > deadline:
                await self._silence(deadline, "receive")
            await self.clock.sleep(step.seconds)
            step = step.step
        if isinstance(step, Failure):
            raise NetworkFailure(step)
        return step(self._news()) if callable(step) else step

    def _news(self) -> bytes:
        news, self._heard = b"".join(self.sent[self._heard :]), len(self.sent)
        return news

    async def _silence(self, deadline: float, operation: str) -> None:
        await self.clock.sleep(deadline - self.clock.monotonic())
        raise NetworkFailure(timed_out(operation))

    async def start_tls(self, request: TlsRequest, deadline: float) -> TlsSession:
        self.tls_requests.append(request)
        if self._tls is None:
            await self._silence(deadline, "tls")
        if isinstance(self._tls, Failure):
            raise NetworkFailure(self._tls)
        assert self._tls is not None
        return self._tls

    def channel_binding(self) -> bytes | None:
        return self._binding if self.tls_requests else None

    def info(self) -> TcpInfo | None:
        return (self._infos.pop(0) if len(self._infos) > 1 else self._infos[0]) if self._infos else None

    async def close(self) -> None:
        self.closed = True
