"""The host's own getaddrinfo, with a deadline that holds.

getaddrinfo cannot be interrupted and may take 28 s. asyncio's executor would be joined when the process exits, and
its few threads would queue up behind dead resolvers; a daemon thread of its own does neither.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from typing import Any

from probes.contract import Clock
from probes.exchanges import HostLookup
from probes.failures import clean_text, from_gai_error, timed_out
from probes.model import Failure, FailureKind

Resolve = Callable[[str], tuple[str, ...]]


def resolve(host: str) -> tuple[str, ...]:
    """Addresses in getaddrinfo's order (RFC 6724), each once. Raises OSError or ValueError (not a possible name)."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return tuple(dict.fromkeys(_text(entry[4]) for entry in found))


async def lookup(host: str, timeout_s: float, clock: Clock, resolver: Resolve = resolve) -> HostLookup:
    """Ask the host's resolver; after ``timeout_s`` the answer is no longer waited for and kind is TIMEOUT."""
    started = clock.monotonic()
    addresses: tuple[str, ...] = ()
    failure: Failure | None = None
    try:
        async with asyncio.timeout(timeout_s):
            addresses = await _in_daemon_thread(resolver, host)
    except TimeoutError:
        failure = timed_out("resolve")
    except OSError as error:
        failure = from_gai_error(error)
    except ValueError as error:  # an empty or overlong label, a zero byte: no name at all
        failure = Failure(kind=FailureKind.NAME, operation="resolve", detail=clean_text(str(error)))
    return HostLookup(name=host, seconds=clock.monotonic() - started, addresses=addresses, failure=failure)


def _in_daemon_thread(resolver: Resolve, host: str) -> asyncio.Future[tuple[str, ...]]:
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[tuple[str, ...]] = loop.create_future()

    def work() -> None:
        addresses: tuple[str, ...] = ()
        failure: Exception | None = None
        try:
            addresses = resolver(host)
        except Exception as error:  # whatever it is, it belongs to the waiting side
            failure = error
        try:
            loop.call_soon_threadsafe(_settle, answer, addresses, failure)
        except RuntimeError:
            return  # the loop is closed: nobody waits any more

    threading.Thread(target=work, name="getaddrinfo", daemon=True).start()
    return answer


def _settle(answer: asyncio.Future[tuple[str, ...]], addresses: tuple[str, ...], failure: Exception | None) -> None:
    if answer.done():
        return
    if failure is not None:
        answer.set_exception(failure)
    else:
        answer.set_result(addresses)


def _text(address: tuple[Any, ...]) -> str:
    """The scope of a link-local address is part of it: without it nobody can connect."""
    scope = address[3] if len(address) == 4 else 0
    return f"{address[0]}%{socket.if_indextoname(scope)}" if scope else str(address[0])
