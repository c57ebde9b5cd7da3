"""One TCP connection under a probe's control, in clear or under TLS. Implements probes.exchanges.Stream."""

from __future__ import annotations

from typing import TYPE_CHECKING

from probes.exchanges import Handshake, TcpInfo, TlsRequest, TlsSession
from probes.model import Failure, FailureKind, NetworkFailure
from probes.net.raw import RawStream
from probes.net.tcpinfo import read_tcp_info

if TYPE_CHECKING:
    from probes.net.tls import TlsLayer

_CLOSE_NOTICE_S = 0.2  # for TLS' close_notify to leave; the peer's is not waited for


class TcpStream:
    """The stream of KernelNetwork.open_stream(). Only one task may use it at a time."""

    def __init__(self, raw: RawStream, handshake: Handshake) -> None:
        self.handshake = handshake
        self._raw = raw
        self._tls: TlsLayer | None = None
        self._closed = False

    async def send(self, data: bytes, deadline: float) -> None:
        self._refuse_when_closed("send")
        await (self._tls or self._raw).send(data, deadline)

    async def receive(self, limit: int, deadline: float) -> bytes:
        self._refuse_when_closed("receive")
        return await (self._tls or self._raw).receive(limit, deadline)

    async def start_tls(self, request: TlsRequest, deadline: float) -> TlsSession:
        """The TLS handshake. A chain or a name that does not verify is kind TLS, with the reason in ``detail``."""
        from probes.net.tls import TlsLayer

        self._refuse_when_closed("tls")
        layer = TlsLayer(self._raw, request)
        session = await layer.handshake(deadline)
        self._tls = layer
        return session

    def channel_binding(self) -> bytes | None:
        return self._tls.channel_binding() if self._tls is not None else None

    def info(self) -> TcpInfo | None:
        return None if self._closed else read_tcp_info(self._raw.sock)

    async def close(self) -> None:
        """An orderly end (FIN). Safe to call again."""
        if self._closed:
            return
        self._closed = True
        try:
            if self._tls is not None:
                await self._tls.say_goodbye(self._raw.clock.monotonic() + _CLOSE_NOTICE_S)
        finally:
            self._raw.sock.close()

    def _refuse_when_closed(self, operation: str) -> None:
        if self._closed:
            raise NetworkFailure(Failure(kind=FailureKind.LOCAL, operation=operation, errno="EBADF"))
