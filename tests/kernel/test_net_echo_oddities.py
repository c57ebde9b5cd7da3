"""Echo against a peer that answers late, twice, too short or with somebody else's bytes; and without privileges."""

from __future__ import annotations

import contextlib
import os
import random
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from scapy.layers.inet import ICMP, IP
from scapy.packet import Raw

from probes.contract import Capability, ProbeUnavailable
from probes.exchanges import EchoRequest, EchoSeries, HandshakeRequest, TimestampSource
from probes.model import Outcome
from probes.net import mmsg
from probes.net.clock import SystemClock
from probes.net.kernel import KernelNetwork
from tests.kernel.netns import Line, line

pytestmark = [pytest.mark.kernel, pytest.mark.needs("ip", "nft")]

NOBODY = 65534
Answer = Callable[[ICMP], list[tuple[float, ICMP]]]  # (seconds to wait, reply)


def network() -> KernelNetwork:
    return KernelNetwork(SystemClock(), packets_per_second=5000.0)


@pytest.fixture(scope="module")
def world() -> Iterator[Line]:
    with line() as made:
        made.server.sysctl(net__ipv4__icmp_echo_ignore_all=1)
        yield made


@pytest.fixture(params=["datagram", "raw", "raw-singly"], autouse=True)
def icmp_kind(request, monkeypatch, world):
    """ "singly": as where the C library has no sendmmsg."""
    kind, _, singly = request.param.partition("-")
    world.client.sysctl(net__ipv4__ping_group_range="0 0" if kind == "datagram" else "1 0")
    monkeypatch.setattr(mmsg, "AVAILABLE", mmsg.AVAILABLE and not singly)
    return kind


@contextlib.contextmanager
def responder(world: Line, answer: Answer) -> Iterator[None]:
    """A raw socket on the server; scapy reads and writes the messages, our codec has no part in it."""
    sock = world.server.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP))
    stop = threading.Event()

    def work() -> None:
        due: list[tuple[float, bytes]] = []
        while not stop.is_set():
            if select.select([sock], [], [], 0.005)[0]:
                message = IP(sock.recv(65535))[ICMP]
                if message.type == 8:
                    now = time.monotonic()
                    due += [(now + wait, bytes(reply)) for wait, reply in answer(message)]
            for moment, packet in [entry for entry in due if entry[0] <= time.monotonic()]:
                sock.sendto(packet, (world.client_address, 0))
                due.remove((moment, packet))

    with sock:
        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


def reply_to(request: ICMP, **changes) -> ICMP:
    fields = {"id": request.id, "seq": request.seq, "payload": bytes(request.payload), **changes}
    return ICMP(type=0, id=fields["id"], seq=fields["seq"]) / Raw(fields["payload"])


def echo(world: Line, **fields) -> EchoSeries:
    defaults = {"address": world.server_address, "count": 4, "interval_s": 0.02, "timeout_s": 0.5}
    return world.client.measure(lambda: network().echo(EchoRequest(**{**defaults, **fields})))


def outcomes(series: EchoSeries) -> list[Outcome]:
    return [sample.outcome for sample in series.samples]


def test_an_answer_after_the_timeout_is_late_and_keeps_its_time(world):
    def answer(request: ICMP) -> list[tuple[float, ICMP]]:
        return [(0.3 if request.seq == 1 else 0.0, reply_to(request))]

    with responder(world, answer):
        series = echo(world, timeout_s=0.2)
    assert outcomes(series) == [Outcome.ANSWERED, Outcome.LATE, Outcome.ANSWERED, Outcome.ANSWERED]
    late = series.samples[1].rtt_s
    assert late is not None
    assert 0.3 <= late <= 0.6


class HeldUpClock(SystemClock):
    """A process that the scheduler takes off its core now and then, just after it has read its clock."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance

    def monotonic(self) -> float:
        now = super().monotonic()
        if self._chance.random() < 0.1:
            time.sleep(self._chance.uniform(0.0, 0.008))
        return now


def test_a_process_held_up_reports_no_round_trip_below_the_truth(world):
    """Replies that come while we are held up are not timed by what our clock said before."""
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")  # noqa: T201
    chance = random.Random(seed)
    waits = [chance.uniform(0.0, 0.03) for _ in range(120)]
    held_up = KernelNetwork(HeldUpClock(random.Random(seed)), packets_per_second=5000.0)
    request = EchoRequest(address=world.server_address, count=120, interval_s=0.005, timeout_s=2.0)
    with responder(world, lambda asked: [(waits[asked.seq], reply_to(asked))]):
        series = world.client.measure(lambda: held_up.echo(request))
    assert outcomes(series) == [Outcome.ANSWERED] * 120
    assert series.timestamp_source is TimestampSource.KERNEL_RX_TX
    assert all(sample.rtt_s > wait for sample, wait in zip(series.samples, waits, strict=True)), f"seed {seed}"


def test_the_last_answer_is_waited_for(world):
    with responder(world, lambda request: [(0.2, reply_to(request))]):
        series = echo(world, timeout_s=0.4)
    assert outcomes(series) == [Outcome.ANSWERED] * 4
    assert all(sample.rtt_s is not None and sample.rtt_s >= 0.2 for sample in series.samples)


def test_duplicates_are_counted_and_are_no_answers_of_their_own(world):
    def answer(request: ICMP) -> list[tuple[float, ICMP]]:
        return [(0.0, reply_to(request))] * (3 if request.seq == 0 else 1)

    with responder(world, answer):
        series = echo(world)
    assert outcomes(series) == [Outcome.ANSWERED] * 4
    assert [sample.duplicates for sample in series.samples] == [2, 0, 0, 0]


@pytest.mark.parametrize(
    "changes",
    [{"id": 1}, {"seq": 60000}, {"payload": b""}, {"payload": bytes(56)}],
    ids=["identifier", "sequence", "no-payload", "other-payload"],
)
def test_what_is_not_our_echo_is_no_answer(world, changes):
    with responder(world, lambda request: [(0.0, reply_to(request, **changes))]):
        series = echo(world, count=2, timeout_s=0.1)
    assert outcomes(series) == [Outcome.LOST] * 2


def test_a_payload_cut_short_is_still_our_echo(world):
    with responder(world, lambda request: [(0.0, reply_to(request, payload=bytes(request.payload)[:16]))]):
        series = echo(world, count=2)
    assert outcomes(series) == [Outcome.ANSWERED] * 2


def test_each_series_has_its_own_token_and_identifier(world):
    seen: list[tuple[int, bytes]] = []

    def answer(request: ICMP) -> list[tuple[float, ICMP]]:
        seen.append((request.id, bytes(request.payload)))
        return [(0.0, reply_to(request))]

    with responder(world, answer):
        for _ in range(3):
            echo(world, count=2, interval_s=0.0)
    assert len(seen) == 6
    assert len(set(seen)) == 3


def as_nobody(world: Line, function: Callable[[], str]) -> str:
    """Run in a child without any privilege, inside the client; what it says."""
    reader, writer = os.pipe()

    def child() -> int:
        process = os.fork()
        if process == 0:
            try:
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)
                os.write(writer, function().encode())
            except BaseException as error:
                os.write(writer, repr(error).encode())
            os._exit(0)
        return process

    process = world.client.inside(child)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        said = pipe.read()
    os.waitpid(process, 0)
    return said


def test_without_privileges_echo_says_what_would_grant_it(world):
    world.client.sysctl(net__ipv4__ping_group_range="1 0")

    def attempt() -> str:
        import asyncio

        try:
            asyncio.run(network().echo(EchoRequest(address=world.server_address, count=1)))
        except ProbeUnavailable as reason:
            return f"{Capability.ICMP_ECHO in network().capabilities()} {reason}"
        return "sent"

    said = as_nobody(world, attempt)
    assert said.startswith("False ")
    assert "sysctl -w net.ipv4.ping_group_range" in said


def test_without_privileges_a_tcp_probe_still_names_the_router(world):
    def attempt() -> str:
        import asyncio

        request = HandshakeRequest(address=world.server_address, port=5433, ttl=1, timeout_s=2.0)
        failure = asyncio.run(network().handshake(request)).failure
        return str(failure.icmp.offender if failure is not None and failure.icmp is not None else failure)

    assert as_nobody(world, attempt) == world.router_address


def test_the_granted_range_is_enough_for_an_ordinary_user(world):
    world.client.sysctl(net__ipv4__ping_group_range=f"{NOBODY} {NOBODY}")

    def attempt() -> str:
        import asyncio

        series = asyncio.run(network().echo(EchoRequest(address=world.router_address, count=2, interval_s=0.0)))
        return f"{series.socket} {series.timestamp_source} {[str(sample.outcome) for sample in series.samples]}"

    assert as_nobody(world, attempt) == "datagram kernel-rx-tx ['answered', 'answered']"
