"""A front for a PostgreSQL built without TLS: answers ``S`` to the SSLRequest, terminates TLS, relays the rest.

Only for the demonstration, where Debian's PostgreSQL (which has TLS) is not installed. It says nothing of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SSL_REQUEST = struct.pack("!ii", 8, 80877103)
CHUNK = 65536


@contextmanager
def tls_front(host: str, backend_port: int, certificate: Path, key: Path) -> Iterator[int]:
    """Serve on ``host`` in a thread of its own; yields the port. Relays to ``host``:``backend_port``."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    front = _Front(host, backend_port, context)
    thread = threading.Thread(target=front.serve, name="tls-front")
    thread.start()
    try:
        yield front.port()
    finally:
        front.stop()
        thread.join()


class _Front:
    def __init__(self, host: str, backend_port: int, context: ssl.SSLContext) -> None:
        self._host, self._backend_port, self._context = host, backend_port, context
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._listening = threading.Event()
        self._port = 0

    def port(self) -> int:
        self._listening.wait()
        return self._port

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)

    def serve(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._client, self._host, 0)
        self._port = server.sockets[0].getsockname()[1]
        self._listening.set()
        await self._stop.wait()
        server.close()

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError), contextlib.closing(writer):
            first = await reader.readexactly(len(SSL_REQUEST))
            if first == SSL_REQUEST:
                writer.write(b"S")
                await writer.start_tls(self._context)
                first = b""
            await self._relay(reader, writer, first)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, first: bytes) -> None:
        back_reader, back_writer = await asyncio.open_connection(self._host, self._backend_port)
        with contextlib.closing(back_writer):
            back_writer.write(first)
            await asyncio.gather(_copy(reader, back_writer), _copy(back_reader, writer))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(CHUNK):
        writer.write(data)
        await writer.drain()
    writer.close()
