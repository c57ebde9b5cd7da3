"""BIRD's control socket, read only: "restrict" comes first, and nothing else is said where it is not acknowledged.

The socket is a Unix one; who may open it is the file's permission. BIRD answers one command at a time.
"""

from __future__ import annotations

import asyncio
import errno as errnos
import socket

from probes.contract import Clock
from probes.exchanges import BirdReply, BirdRequest
from probes.failures import timed_out
from probes.model import Failure, FailureKind, NetworkFailure
from probes.wire.bird import HELLO, RESTRICTED, BirdError, is_complete, reply_lines

LARGEST_REPLY = 4 << 20  # some thousand sessions
STATUS, COMMAND = b"show status\n", b"show protocols all\n"
_ERRORS = (b"8", b"9")  # first digit of the codes


async def ask(request: BirdRequest, clock: Clock) -> BirdReply:
    """The replies to "show status" and "show protocols all", or why there is none.

    That is a socket that does not open, or whatever else broke.
    """
    started = clock.monotonic()
    deadline = started + request.timeout_s
    payload, failure = None, None
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.setblocking(False)
            payload = await asyncio.wait_for(_conversation(sock, request.control), deadline - clock.monotonic())
    except TimeoutError:
        failure = timed_out("receive")
    except OSError as error:
        code = errnos.errorcode.get(error.errno or 0)
        failure = Failure(kind=FailureKind.LOCAL, operation="connect", errno=code)
    except NetworkFailure as broken:
        failure = broken.failure
    except BirdError as error:
        failure = Failure(kind=FailureKind.PROTOCOL, operation="receive", detail=str(error))
    return BirdReply(seconds=clock.monotonic() - started, payload=payload, failure=failure)


async def _conversation(sock: socket.socket, control: str) -> bytes:
    await asyncio.get_running_loop().sock_connect(sock, control)
    _expect(await _reply(sock), HELLO)
    _expect(await _reply(sock, b"restrict\n"), RESTRICTED)
    status = await _reply(sock, STATUS)
    return (b"" if status.startswith(_ERRORS) else status) + await _reply(sock, COMMAND)


def _expect(reply: bytes, code: int) -> None:
    found = reply_lines(reply)[0].code
    if found != code:
        raise BirdError(f"reply {found:04} where {code:04} was due")


async def _reply(sock: socket.socket, command: bytes = b"") -> bytes:
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(sock, command)
    received = bytearray()
    while not is_complete(bytes(received[-4096:])):
        data = await loop.sock_recv(sock, 65536)
        if not data:
            raise NetworkFailure(Failure(kind=FailureKind.CLOSED, operation="receive"))
        received += data
        if not received[:4].isdigit() and len(received) >= 4:
            raise BirdError("not a reply of BIRD")
        if len(received) > LARGEST_REPLY:
            raise BirdError(f"a reply of more than {LARGEST_REPLY} bytes")
    return bytes(received)
