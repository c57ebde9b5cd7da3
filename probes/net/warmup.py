"""Waiting until the kernel stamps what comes in.

Receive stamps are off until some socket of the host asks for them, and the first that asks is not heard at once: the
kernel turns them on from a work queue (net_enable_timestamp() in net/core/dev.c), on a busy machine well after
setsockopt() has returned. What comes before that has no stamp. No fixed wait is sure to be long enough; a datagram that
this host sends to itself and that comes back stamped is proof.
"""

from __future__ import annotations

import socket

from probes.contract import Clock
from probes.net.engine.messages import stamp_of
from probes.net.sockets import RECEIVE_STAMPS, SO_TIMESTAMPING

_LOOPBACK = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}
_BETWEEN_S = 0.001  # two datagrams
_LONGEST_S = 0.5  # for the work queue's turn
_SILENCE_S = 0.05  # until loopback counts as filtered
_BLIND_S = 0.010  # mostly enough, where nothing can be proved
_ANCILLARY = 256


class Stamping:
    """Of one address family. Where one attempt proved nothing, later ones only wait: each would cost as much again."""

    def __init__(self, family: socket.AddressFamily, clock: Clock) -> None:
        self._family, self._clock = family, clock
        self.provable = True

    async def in_force(self) -> None:
        """Return once received packets are stamped, or where that cannot be seen, a little later.

        For a caller whose own socket has asked for stamps: they stay on for as long as some socket wants them.
        """
        if self.provable:
            self.provable = await self._proved()
        if not self.provable:
            await self._clock.sleep(_BLIND_S)

    async def _proved(self) -> bool:
        try:
            with _to_itself(self._family) as sock:
                return await self._stamped(sock)
        except OSError:  # no loopback address, or a kernel that knows no stamps
            return False

    async def _stamped(self, sock: socket.socket) -> bool:
        """Send until one comes back stamped. Raises OSError."""
        begun, seen = self._clock.monotonic(), False
        while self._clock.monotonic() - begun < (_LONGEST_S if seen else _SILENCE_S):
            sock.send(b"")
            await self._clock.sleep(_BETWEEN_S)
            for ancillary in _received(sock):
                seen = True
                if stamp_of(ancillary) is not None:
                    return True
        return False


def _to_itself(family: socket.AddressFamily) -> socket.socket:
    """A connected datagram socket whose peer is itself, so that it takes no datagram but its own. Raises OSError."""
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPING, RECEIVE_STAMPS)
        sock.bind((_LOOPBACK[family], 0))
        sock.connect(sock.getsockname())
    except BaseException:
        sock.close()
        raise
    return sock


def _received(sock: socket.socket) -> list[list[tuple[int, int, bytes]]]:
    """The control messages of each datagram that has come. Raises OSError."""
    found = []
    while True:
        try:
            found.append(sock.recvmsg(1, _ANCILLARY)[1])
        except BlockingIOError:
            return found
