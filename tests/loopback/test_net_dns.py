"""One DNS exchange against servers that answer, forge, truncate and refuse; and the host's own look-up."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import threading
import time

import pytest

from probes.exchanges import DatagramRequest, DnsRequest
from probes.model import FailureKind, Outcome
from probes.net.clock import SystemClock
from probes.net.kernel import KernelNetwork
from probes.net.lookup import lookup
from tests.loopback.test_net_tcp import closed_port, server

pytestmark = pytest.mark.loopback

HOST = "127.0.0.1"
QUERY = b"\x12\x34" + bytes(10) + b"question"
ANSWER = b"\x12\x34" + bytes(10) + b"answer"
FORGED = b"\x43\x21" + bytes(10) + b"forged"


def network() -> KernelNetwork:
    return KernelNetwork(SystemClock())


def ask(port: int, **fields):
    return network().dns(DnsRequest(**{"server": HOST, "payload": QUERY, "port": port, "timeout_s": 2.0, **fields}))


@contextlib.contextmanager
def udp_server(answer):
    """Call ``answer(socket, peer)`` for the first datagram."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((HOST, 0))
        sock.settimeout(5)

        def work() -> None:
            with contextlib.suppress(OSError):
                data, peer = sock.recvfrom(65535)
                assert data == QUERY
                answer(sock, peer)

        thread = threading.Thread(target=work)
        thread.start()
        yield sock.getsockname()[1]
        thread.join()


async def test_only_the_matching_answer_of_the_asked_server_counts():
    def answer(sock: socket.socket, peer) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.sendto(ANSWER + b" of a stranger", peer)
        sock.sendto(FORGED, peer)
        sock.sendto(b"", peer)
        sock.sendto(b"\x12\x34", peer)
        sock.sendto(ANSWER, peer)

    with udp_server(answer) as port:
        reply = await ask(port)
    assert (reply.outcome, reply.payload, reply.failure) == (Outcome.ANSWERED, ANSWER, None)
    assert reply.strays == 3, "a stranger's never reached the connected socket"


async def test_a_silent_server_is_lost():
    with udp_server(lambda sock, peer: sock.sendto(FORGED, peer)) as port:
        reply = await ask(port, timeout_s=0.3)
    assert reply.outcome is Outcome.LOST
    assert reply.failure is not None
    assert reply.failure.kind is FailureKind.TIMEOUT


async def test_an_answer_after_the_timeout_is_late():
    def answer(sock: socket.socket, peer) -> None:
        time.sleep(0.5)
        sock.sendto(ANSWER, peer)

    with udp_server(answer) as port:
        reply = await ask(port, timeout_s=0.2, late_s=10.0)
    assert (reply.outcome, reply.payload) == (Outcome.LATE, ANSWER)
    assert reply.seconds >= 0.5


@pytest.mark.parametrize("transport", ["udp", "tcp"])
async def test_a_closed_port_answers_at_once(transport):
    reply = await ask(closed_port(), transport=transport, timeout_s=60.0)
    assert reply.outcome is Outcome.REFUSED
    assert reply.seconds < 30.0
    assert reply.failure is not None
    assert reply.failure.errno == "ECONNREFUSED"


async def test_an_answer_over_tcp_may_come_in_pieces():
    large = ANSWER + os.urandom(65535 - len(ANSWER))

    def answer(connection: socket.socket) -> None:
        assert connection.recv(4096) == len(QUERY).to_bytes(2, "big") + QUERY
        framed = len(large).to_bytes(2, "big") + large
        for start in range(0, len(framed), 10_000):
            connection.sendall(framed[start : start + 10_000])

    with server(answer) as port:
        reply = await ask(port, transport="tcp")
    assert (reply.outcome, reply.payload) == (Outcome.ANSWERED, large)


@pytest.mark.parametrize(
    ("sent", "kind"),
    [
        (b"", FailureKind.CLOSED),
        (b"\x00\x40short", FailureKind.CLOSED),
        (b"\x00\x03abc", FailureKind.PROTOCOL),
        (len(FORGED).to_bytes(2, "big") + FORGED, FailureKind.PROTOCOL),
    ],
)
async def test_a_broken_answer_over_tcp_is_a_failure(sent, kind):
    def answer(connection: socket.socket) -> None:
        connection.recv(4096)
        connection.sendall(sent)

    with server(answer) as port:
        reply = await ask(port, transport="tcp")
    assert reply.outcome is Outcome.FAILED
    assert reply.failure is not None
    assert reply.failure.kind is kind


async def test_an_unknown_transport_is_the_callers_mistake():
    with pytest.raises(ValueError, match="carrier pigeon"):
        await ask(53, transport="carrier pigeon")


async def test_a_datagram_of_an_exact_size_is_answered():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((HOST, 0))
        sizes = []

        def work() -> None:
            data, peer = sock.recvfrom(65535)
            sizes.append(len(data))
            sock.sendto(b"", peer)

        thread = threading.Thread(target=work)
        thread.start()
        port = sock.getsockname()[1]
        reply = await network().datagram(DatagramRequest(address=HOST, port=port, packet_bytes=1400))
        thread.join()
    assert reply.outcome is Outcome.ANSWERED
    assert sizes == [1400 - 20 - 8]


async def test_a_datagram_to_a_closed_port_is_refused():
    reply = await network().datagram(DatagramRequest(address="::1", port=closed_port(), packet_bytes=100))
    assert reply.outcome is Outcome.REFUSED
    with pytest.raises(ValueError, match="headers"):
        await network().datagram(DatagramRequest(address=HOST, port=1, packet_bytes=20))


async def test_the_hosts_file_is_seen_by_the_lookup():
    found = await network().lookup("localhost", 5.0)
    assert "127.0.0.1" in found.addresses
    assert found.failure is None


async def test_an_address_is_its_own_answer():
    assert (await network().lookup("192.0.2.7", 5.0)).addresses == ("192.0.2.7",)
    assert (await network().lookup("2001:db8::7", 5.0)).addresses == ("2001:db8::7",)


@pytest.mark.parametrize("host", ["a..b", "x" * 70, "nul\0byte"])
async def test_an_impossible_name_is_a_name_failure(host):
    found = await network().lookup(host, 5.0)
    assert found.addresses == ()
    assert found.failure is not None
    assert found.failure.kind is FailureKind.NAME


async def test_getaddrinfos_error_keeps_its_symbol():
    def resolver(host: str) -> tuple[str, ...]:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    found = await lookup("x", 5.0, SystemClock(), resolver)
    assert found.failure is not None
    assert (found.failure.kind, found.failure.errno) == (FailureKind.NAME, "EAI_AGAIN")


async def test_the_deadline_of_a_lookup_holds():
    gate = threading.Event()
    found = await lookup("x", 0.1, SystemClock(), lambda host: ("192.0.2.1",) if gate.wait(60) else ())
    gate.set()
    assert found.addresses == ()
    assert found.failure is not None
    assert found.failure.kind is FailureKind.TIMEOUT
    await asyncio.sleep(0.05)  # the late answer must not disturb the loop


def test_a_hanging_lookup_does_not_keep_the_process_alive():
    program = """
import asyncio, time
from probes.net.clock import SystemClock
from probes.net.lookup import lookup
found = asyncio.run(lookup("x", 0.1, SystemClock(), lambda host: time.sleep(3600)))
print(found.failure.kind)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.strip() == "timeout"
    assert done.stderr == ""
