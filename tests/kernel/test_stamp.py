"""Loss and delay by direction against nft's own counters: client -- router -- server, a reflector on the server."""

from __future__ import annotations

import random
import re
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from probes import stamp
from probes.contract import Context
from probes.model import Target, Vantage
from probes.net.clock import SystemClock
from probes.net.kernel import KernelNetwork
from tests.kernel.netns import Line, Namespace, line

pytestmark = [pytest.mark.kernel, pytest.mark.needs("ip", "nft")]

PORT = 862
COUNT = 300
RULES = """table inet t {{
  counter forward_seen {{}}
  counter forward_dropped {{}}
  counter reverse_seen {{}}
  counter reverse_dropped {{}}
  chain f {{
    type filter hook forward priority 0;
    udp dport {port} counter name forward_seen numgen random mod 1000 < {forward} counter name forward_dropped drop
    udp sport {port} counter name reverse_seen numgen random mod 1000 < {reverse} counter name reverse_dropped drop
  }}
}}"""


@pytest.fixture(scope="module")
def world() -> Iterator[Line]:
    with line() as made:
        child = made.server.spawn(
            sys.executable, "-m", "netdiag", "reflect", "--allow", "10.71.0.0/16", stderr=subprocess.PIPE
        )
        assert child.stderr is not None
        try:
            assert b"0.0.0.0:862/udp" in child.stderr.readline()
            yield made
            child.send_signal(signal.SIGTERM)
            _, told = child.communicate(timeout=20)
            assert child.returncode == 0
            assert b"0 not allowed, 0 over the rate, 0 malformed, 0 not sent" in told
        finally:
            child.kill()
            child.wait()


@pytest.fixture
def lossy(world: Line) -> Iterator[Line]:
    yield world
    world.router.run("nft", "flush", "ruleset")


async def probe(address: str) -> stamp.StampMeasurement:
    clock = SystemClock()
    network = KernelNetwork(clock, packets_per_second=1000.0)
    context = Context(network=network, clock=clock, vantage=Vantage(name="test"), deadline=clock.monotonic() + 60)
    options = stamp.StampOptions(count=COUNT, interval_s=0.01, timeout_s=0.5)
    return await stamp.measure(context, Target(host=address, address=address, port=PORT), options)


def lose(router: Namespace, *, forward: int, reverse: int) -> None:
    """Per mille of each direction, at random in the router."""
    print(f"per mille lost: {forward} forward, {reverse} reverse")  # noqa: T201 - a failure must be repeatable
    router.nft(RULES.format(port=PORT, forward=forward, reverse=reverse))


def test_forward_loss_is_forward(lossy):
    lose(lossy.router, forward=random.randrange(50, 300), reverse=0)
    measured = lossy.client.measure(lambda: probe(lossy.server_address))
    dropped = lossy.router.counter("forward_dropped")
    assert dropped > 0
    assert measured.forward_loss.lost + measured.unattributed == dropped == measured.loss.lost
    assert (measured.reverse_loss.sent, measured.reverse_loss.lost) == (COUNT - dropped, 0)
    assert measured.forward_loss.low <= dropped / COUNT <= measured.forward_loss.high


def test_reverse_loss_is_reverse(lossy):
    lose(lossy.router, forward=0, reverse=random.randrange(50, 300))
    measured = lossy.client.measure(lambda: probe(lossy.server_address))
    dropped = lossy.router.counter("reverse_dropped")
    assert dropped > 0
    assert measured.reverse_loss.lost + measured.unattributed == dropped == measured.loss.lost
    assert measured.forward_loss.lost == 0
    assert measured.reverse_loss.sent + measured.unattributed == lossy.router.counter("reverse_seen") == COUNT


def test_loss_both_ways_is_split_as_nft_counted_it(lossy):
    lose(lossy.router, forward=random.randrange(50, 200), reverse=random.randrange(50, 200))
    measured = lossy.client.measure(lambda: probe(lossy.server_address))
    forward, reverse = (lossy.router.counter(f"{way}_dropped") for way in ("forward", "reverse"))
    assert lossy.router.counter("forward_seen") == COUNT
    assert 0 <= forward - measured.forward_loss.lost <= measured.unattributed
    assert 0 <= reverse - measured.reverse_loss.lost <= measured.unattributed
    assert measured.forward_loss.lost + measured.reverse_loss.lost + measured.unattributed == forward + reverse


def test_one_kernel_one_clock_and_a_router_on_the_way(world):
    """Both ends read the same clock, so that the true offset is 0; the router takes one from the TTL."""
    measured = world.client.measure(lambda: probe(world.server_address))
    assert abs(measured.clock_offset_s) <= measured.clock_offset_uncertainty_s + 1e-6
    assert {s.ttl_at_reflector for s in measured.samples} == {63}
    assert (measured.loss.lost, measured.forward_loss.lost, measured.reverse_loss.lost) == (0, 0, 0)


@pytest.mark.needs("tcpdump")
def test_a_capture_saw_as_many_questions_as_answers_of_the_same_length(lossy, tmp_path):
    """On the reflector's wire: nobody gets more octets out of it than went in."""
    lose(lossy.router, forward=100, reverse=100)
    capture = tmp_path / "stamp.txt"
    with capture.open("wb") as out:
        dump = lossy.server.spawn(
            "tcpdump", "-n", "-l", "-tt", "-i", "wan", "udp", "port", str(PORT), stdout=out, stderr=subprocess.PIPE
        )
        assert b"listening" in _until(dump, b"listening")
        measured = lossy.client.measure(lambda: probe(lossy.server_address))
        dump.send_signal(signal.SIGINT)
        dump.communicate(timeout=20)
    lines = re.findall(r"IP (\S+) > (\S+): UDP, length (\d+)", capture.read_text())
    asked = [length for _, to, length in lines if to.endswith(f".{PORT}")]
    answered = [length for source, _, length in lines if source.endswith(f".{PORT}")]
    assert asked == answered == ["44"] * len(asked)
    assert len(asked) == COUNT - lossy.router.counter("forward_dropped")
    assert measured.reverse_loss.sent <= len(answered)


def _until(child: subprocess.Popen[bytes], word: bytes) -> bytes:
    said = b""
    while word not in said and child.stderr is not None and (line := child.stderr.readline()):
        said += line
    return said
