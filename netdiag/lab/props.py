"""Small programs that a fault needs on stage: strangers on a port, sessions that are held, tables that are filled.

``python -m netdiag.lab.props NAME ...`` runs one in the namespace that it is started in, says ``ready`` on standard
output once the fault is there, and holds it until it is ended. They speak no probe's protocol code.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import signal
import socket
import ssl
import struct
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

HTTP_ANSWER = (
    b"HTTP/1.1 400 Bad Request\r\nServer: lab\r\nContent-Type: text/plain\r\nContent-Length: 12\r\n"
    b"Connection: close\r\n\r\nBad request\n"
)
SSL_REQUEST = struct.pack("!ii", 8, 80877103)
FILLING_ROUNDS, FRESH_FLOWS = 8, 20
ASSURED_AFTER_S = 2.2  # net/netfilter/nf_conntrack_proto_udp.c: a stream is what goes on after two seconds
SETTLED_REFUSALS = 3
REFUSED_PAUSE_S = 0.02
DATAGRAM_BYTES = 1200
DISCARD_PORT = 9  # RFC 863


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m netdiag.lab.props", description=__doc__)
    commands = parser.add_subparsers(dest="name", required=True)
    impostor = commands.add_parser("impostor")
    impostor.add_argument("port", type=int)
    impostor.add_argument("says", choices=["http", "nothing", "garbage", "close"])
    sessions = commands.add_parser("sessions")
    sessions.add_argument("conninfo")
    sessions.add_argument("count", type=int)
    sessions.add_argument("--statement")
    commands.add_parser("conntrack")
    ports = commands.add_parser("ports")
    ports.add_argument("address")
    ports.add_argument("port", type=int)
    stream = commands.add_parser("stream")
    stream.add_argument("address")
    stream.add_argument("bits_per_s", type=int)
    startup = commands.add_parser("startup")
    for name, kind in (("listen", int), ("address", str), ("port", int), ("version", str)):
        startup.add_argument(name, type=kind)
    for name in ("certificate", "key"):
        startup.add_argument(name, type=Path)
    given = vars(parser.parse_args())
    _COMMANDS[given.pop("name")](**given)


def _hold() -> None:
    """Say that the fault is there, and wait for the end."""
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    signal.pause()


# Something else on the service's port


def impostor(port: int, says: str) -> None:
    """Answers every client in the same way, on every address of the host."""
    listener = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=64)
    threading.Thread(target=_answer_all, args=(listener, says), daemon=True).start()
    _hold()


def _answer_all(listener: socket.socket, says: str) -> None:
    held = []
    while True:
        client, _ = listener.accept()
        if says == "nothing":
            held.append(client)  # or it would be closed with its last reference
            continue
        threading.Thread(target=_answer, args=(client, says), daemon=True).start()


def _answer(client: socket.socket, says: str) -> None:
    """A web server reads what comes before it complains; closing with unread bytes would send a RST."""
    with contextlib.suppress(OSError), client:
        client.settimeout(10.0)
        client.recv(4096)
        if says == "http":
            client.sendall(HTTP_ANSWER)
        elif says == "garbage":
            client.sendall(b"220 mail.lab.example ESMTP\r\n")
        if says != "close":
            client.shutdown(socket.SHUT_WR)
            client.recv(4096)


# Sessions of real clients


def sessions(conninfo: str, count: int, statement: str | None = None) -> None:
    """``count`` sessions; each runs ``statement`` over and over, or only stays. 0: all there are, now and later."""
    import psycopg

    if count == 0:
        ready = threading.Event()
        threading.Thread(target=_take_all, args=(conninfo, ready), daemon=True).start()
        ready.wait()
        _hold()
    held = [psycopg.connect(conninfo, autocommit=True) for _ in range(count)]
    for session in held if statement else ():
        threading.Thread(target=_work, args=(session, statement), daemon=True).start()
    _hold()


def _take_all(conninfo: str, ready: threading.Event) -> None:
    """Ready once a session was refused for the first time."""
    import psycopg

    held = []
    while True:
        try:
            held.append(psycopg.connect(conninfo, autocommit=True))
        except psycopg.OperationalError:
            ready.set()
            time.sleep(REFUSED_PAUSE_S)


def _work(session: object, statement: str) -> None:
    import psycopg

    with contextlib.suppress(psycopg.Error):
        while True:
            session.execute(statement)  # type: ignore[attr-defined]  # psycopg is imported only where it is used


# Tables of the kernel


def conntrack() -> None:
    """Fills the namespace's own table with flows between sockets of this host, answered and going on: whatever else is
    in a full table it evicts to make room (the rest is what conntrack calls "assured"). Ends where it still has room.
    """
    limit = int(Path("/proc/sys/net/netfilter/nf_conntrack_max").read_text())
    near, far = ([_local_socket() for _ in range(math.isqrt(limit))] for _ in "ab")
    for _ in range(FILLING_ROUNDS):
        begun = time.monotonic()
        _exchange(near, far)
        _exchange(far, near)
        if _is_full(far):
            _hold()
        time.sleep(max(0.0, begun + ASSURED_AFTER_S - time.monotonic()))
    sys.exit("the table still takes new connections")


def _is_full(far: Sequence[socket.socket]) -> bool:
    """None of some new flows gets in: what is dropped in the output hook is EPERM for its sender."""
    for receiver in far[:FRESH_FLOWS]:
        with _local_socket() as fresh, contextlib.suppress(PermissionError):
            fresh.sendto(b"", receiver.getsockname())
            return False
    return True


def _local_socket() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    return sock


def _exchange(senders: Sequence[socket.socket], receivers: Sequence[socket.socket]) -> None:
    addresses = [receiver.getsockname() for receiver in receivers]
    for sender in senders:
        for address in addresses:
            with contextlib.suppress(OSError):  # EPERM of a full table: that is the goal
                sender.sendto(b"", address)


def ports(address: str, port: int) -> None:
    """Connections to one port until this host has no local port left for another."""
    held: list[socket.socket] = []
    refusals = 0
    while refusals < SETTLED_REFUSALS:
        try:
            held.append(socket.create_connection((address, port), timeout=2.0))
        except OSError:
            refusals += 1
    _hold()


def stream(address: str, bits_per_s: int) -> None:
    """Datagrams at a steady rate."""
    threading.Thread(target=_send_steadily, args=(address, bits_per_s), daemon=True).start()
    _hold()


def _send_steadily(address: str, bits_per_s: int) -> None:
    interval, due = 8 * DATAGRAM_BYTES / bits_per_s, time.monotonic()
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as sender:
        while True:
            with contextlib.suppress(OSError):  # "port unreachable" of an earlier one
                sender.sendto(bytes(DATAGRAM_BYTES), (address, DISCARD_PORT))
            due += interval
            time.sleep(max(0.0, due - time.monotonic()))


# A proxy that changes what the server says of itself


def startup(listen: int, address: str, port: int, version: str, certificate: Path, key: Path) -> None:
    """Relays to ``address``:``port`` and writes ``version`` over the server's own in its ParameterStatus."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    listener = socket.create_server(("::", listen), family=socket.AF_INET6, dualstack_ipv6=True, backlog=64)
    relay = _Relay((address, port), version.encode(), context)
    threading.Thread(target=relay.serve, args=(listener,), daemon=True).start()
    _hold()


class _Relay:
    def __init__(self, server: tuple[str, int], version: bytes, context: ssl.SSLContext) -> None:
        self._server, self._version, self._context = server, version, context

    def serve(self, listener: socket.socket) -> None:
        while True:
            client, _ = listener.accept()
            threading.Thread(target=self._client, args=(client,), daemon=True).start()

    def _client(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError, EOFError):
            first = _exactly(client, len(SSL_REQUEST))
            if first == SSL_REQUEST:
                client.sendall(b"S")
                client = self._context.wrap_socket(client, server_side=True)
                first = b""
            with client, socket.create_connection(self._server, timeout=10.0) as server:
                server.settimeout(None)
                server.sendall(first)
                threading.Thread(target=_copy, args=(client, server), daemon=True).start()
                self._answers(server, client)

    def _answers(self, server: socket.socket, client: socket.socket) -> None:
        """Message by message until ReadyForQuery, then as it comes."""
        kind = b""
        while kind != b"Z":
            kind, length = struct.unpack("!ci", _exactly(server, 5))
            body = _exactly(server, length - 4)
            if kind == b"S" and body.startswith(b"server_version\0"):
                body = b"server_version\0" + self._version + b"\0"
            client.sendall(struct.pack("!ci", kind, len(body) + 4) + body)
        _copy(server, client)


def _exactly(stream: socket.socket, count: int) -> bytes:
    got = b""
    while len(got) < count:
        more = stream.recv(count - len(got))
        if not more:
            raise EOFError
        got += more
    return got


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while chunk := source.recv(65536):
            target.sendall(chunk)
        target.shutdown(socket.SHUT_WR)


_COMMANDS: dict[str, Callable[..., None]] = {
    "impostor": impostor,
    "sessions": sessions,
    "conntrack": conntrack,
    "ports": ports,
    "stream": stream,
    "startup": startup,
}

if __name__ == "__main__":
    main()
