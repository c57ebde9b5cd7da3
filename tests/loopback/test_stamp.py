"""The STAMP sender and `netdiag reflect` on loopback, and what the reflector refuses."""

from __future__ import annotations

import asyncio
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_network

import pytest

from probes import stamp
from probes.contract import Context
from probes.exchanges import TimestampSource
from probes.model import Outcome, Target, Vantage
from probes.net.clock import SystemClock
from probes.net.kernel import KernelNetwork
from probes.net.reflector import Reflector, open_reflector_socket
from probes.wire.stamp import ErrorEstimate, SenderPacket, decode_reflector, encode_sender

pytestmark = pytest.mark.loopback

LOOPBACK = ("127.0.0.0/8", "::1/128")


@asynccontextmanager
async def reflecting(
    *, address: str = "127.0.0.1", allow: tuple[str, ...] = LOOPBACK, rate: float = 1000.0
) -> AsyncIterator[tuple[int, Reflector]]:
    stop = asyncio.Event()
    with open_reflector_socket(address, 0) as sock:
        networks = [ip_network(network) for network in allow]
        reflector = Reflector(sock, SystemClock(), networks, rate, synchronized=True)
        running = asyncio.create_task(reflector.run(stop))
        try:
            yield sock.getsockname()[1], reflector
        finally:
            stop.set()
            await running


async def probe(port: int, address: str = "127.0.0.1", **options: object) -> stamp.StampMeasurement:
    clock = SystemClock()
    network = KernelNetwork(clock, packets_per_second=2000.0)
    context = Context(network=network, clock=clock, vantage=Vantage(name="test"), deadline=clock.monotonic() + 30)
    given = stamp.StampOptions(**{"count": 30, "interval_s": 0.01, "timeout_s": 0.5, **options})
    return await stamp.measure(context, Target(host=address, address=address, port=port), given)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
async def test_one_clock_has_no_offset_within_its_uncertainty(address):
    """Both ends are this host: the true offset is 0."""
    async with reflecting(address=address) as (port, reflector):
        measured = await probe(port, address)
    assert [s.outcome for s in measured.samples] == [Outcome.ANSWERED] * 30
    assert measured.timestamp_source in {TimestampSource.KERNEL_RX_TX, TimestampSource.KERNEL_RX}
    # The ends stamp at different places of the stack; a busy machine puts some microseconds between them.
    assert abs(measured.clock_offset_s) <= measured.clock_offset_uncertainty_s + 20e-6
    assert measured.rtt.minimum_s > 0
    assert (measured.forward_loss.lost, measured.reverse_loss.lost, measured.unattributed) == (0, 0, 0)
    assert {s.ttl_at_reflector for s in measured.samples} == {64}
    assert measured.reflector_synchronized is True
    assert (reflector.counts().reflected, reflector.counts().sessions) == (30, 1)


async def test_each_session_counts_from_zero():
    async with reflecting() as (port, reflector):
        for _ in range(2):
            measured = await probe(port, count=5)
            assert [s.reflector_sequences for s in measured.samples] == [(n,) for n in range(5)]
    assert reflector.counts().sessions == 2


class Stateless(asyncio.DatagramProtocol):
    """A reflector that only copies (RFC 8762 4.3.1), by an encoding of its own, and ignores some sequences."""

    def __init__(self, ignored: set[int]) -> None:
        self.ignored = ignored

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        sequence = data[:4]
        if int.from_bytes(sequence, "big") in self.ignored:
            return
        now = time.time_ns()
        ntp = (now // 10**9 + 2_208_988_800).to_bytes(4, "big") + (now % 10**9 * 2**32 // 10**9).to_bytes(4, "big")
        answer = sequence + ntp + b"\x00\x01" + bytes(2) + ntp + data[:14] + bytes(2) + b"\x40" + bytes(3)
        self.transport.sendto(answer, addr)


async def test_a_reflector_that_copies_is_seen_to():
    lost = set(random.sample(range(2, 30), 5))
    print(f"lost {sorted(lost)}")  # noqa: T201 - a failure must be repeatable
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(lambda: Stateless(lost), local_addr=("127.0.0.1", 0))
    try:
        measured = await probe(transport.get_extra_info("sockname")[1], timeout_s=0.2)
    finally:
        transport.close()
    assert {s.sequence for s in measured.samples if s.outcome is Outcome.LOST} == lost
    assert (measured.stateful, measured.forward_loss, measured.reverse_loss) == (False, None, None)
    assert abs(measured.clock_offset_s) <= measured.clock_offset_uncertainty_s + 1e-6


async def test_a_stranger_gets_no_answer():
    async with reflecting(allow=("10.0.0.0/8",)) as (port, reflector):
        measured = await probe(port, count=3, timeout_s=0.1)
    assert [s.outcome for s in measured.samples] == [Outcome.LOST] * 3
    assert (reflector.counts().not_allowed, reflector.counts().reflected) == (3, 0)


async def test_an_address_has_its_rate():
    """Two a second with one at once: of 40 packets in 0.2 s the first is answered, and what the time allows."""
    async with reflecting(rate=2.0) as (port, reflector):
        measured = await probe(port, count=40, interval_s=0.005, timeout_s=0.2)
    answered = sum(s.outcome is Outcome.ANSWERED for s in measured.samples)
    assert answered == reflector.counts().reflected
    assert reflector.counts().over_rate == 40 - answered
    assert 1 <= answered < 20


def ask(port: int, payload: bytes, source_port: int = 0) -> bytes | None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", source_port))
        sock.settimeout(0.3)
        sock.sendto(payload, ("127.0.0.1", port))
        try:
            return sock.recv(65536)
        except TimeoutError:
            return None


def packet(size: int) -> bytes:
    return encode_sender(SenderPacket(sequence=5, sent_ns=1, error=ErrorEstimate(), session=321), size)


async def test_an_answer_is_as_long_as_the_question():
    size = random.randrange(44, 1400)
    print(f"size {size}")  # noqa: T201 - a failure must be repeatable
    async with reflecting() as (port, reflector):
        answer = await asyncio.to_thread(ask, port, packet(size))
        short = [await asyncio.to_thread(ask, port, packet(44)[:length]) for length in (0, 14, 43)]
    assert answer is not None
    assert len(answer) == size
    assert (decode_reflector(answer).sender_sequence, decode_reflector(answer).session) == (5, 321)
    assert short == [None] * 3
    assert reflector.counts().malformed == 3


async def test_two_reflectors_cannot_be_set_on_each_other():
    """A packet forged from one to the other would go to and fro for ever; 127.0.0.2 plays the forger here."""
    async with reflecting() as (port, reflector):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as forger:
            forger.bind(("127.0.0.2", port))
            forger.sendto(packet(44), ("127.0.0.1", port))
        await probe(port, count=1)
    assert (reflector.counts().not_allowed, reflector.counts().reflected) == (1, 1)


async def test_a_closed_port_is_refused_and_not_lost():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    measured = await probe(port, count=3)
    assert {s.outcome for s in measured.samples} == {Outcome.REFUSED}
    assert measured.loss.lost == 0
    assert measured.forward_loss is None


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


@asynccontextmanager
async def command(*arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """`netdiag reflect`, once it has said where it listens; killed if it is still there at the end."""
    argv = ("-m", "netdiag", "reflect", *arguments)
    child = await asyncio.create_subprocess_exec(sys.executable, *argv, stderr=asyncio.subprocess.PIPE)
    try:
        assert child.stderr is not None
        assert b"for this host only" in await child.stderr.readline()
        yield child
    finally:
        if child.returncode is None:
            child.kill()
        await child.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_the_command_reflects_and_ends_politely(number):
    port = free_port()
    async with command("--port", str(port)) as child:
        measured = await probe(port, count=7)
        child.send_signal(number)
        _, rest = await child.communicate()
    assert measured.loss.lost == 0
    assert child.returncode == 0
    assert b"reflected 7 packets of 1 sessions" in rest


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--listen", "0.0.0.0"], "without --allow would answer nobody"),
        (["--allow", "10.0.0.1/8"], "has host bits set"),
        (["--listen", "db.example", "--allow", "10.0.0.0/8"], "does not appear to be"),
        (["--listen", "198.51.100.7", "--allow", "10.0.0.0/8", "--port", "8620"], "cannot listen on 198.51.100.7"),
    ],
)
def test_the_command_refuses(arguments, told):
    argv = [sys.executable, "-m", "netdiag", "reflect", *arguments]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30)
    assert done.returncode == 3
    assert told in done.stderr


async def test_a_step_of_the_wall_clock_changes_no_delay(monkeypatch):
    """The sender's wall clock jumps an hour, back and forth, with every reading; the kernel's stamps do not."""
    real, readings = time.time_ns, iter(range(10**9))
    monkeypatch.setattr(time, "time_ns", lambda: real() + (next(readings) % 3 - 1) * 3600 * 10**9)
    port = free_port()
    async with command("--port", str(port)):
        measured = await probe(port, count=20)
    assert [s.outcome for s in measured.samples] == [Outcome.ANSWERED] * 20
    assert measured.clock_steps > 0
    assert 0 <= measured.rtt.minimum_s <= measured.rtt.maximum_s < 0.5, "an answer later than that is LATE"
    assert (measured.forward_loss.lost, measured.reverse_loss.lost) == (0, 0)
