"""The control sockets of two real BIRDs that speak BGP over loopback; birdc as the second opinion."""

from __future__ import annotations

import contextlib
import random
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import pytest

from netdiag.diagnosis.rules.standing import Seen, fell_between
from probes.exchanges import BirdRequest
from probes.model import FailureKind
from probes.net.clock import SystemClock
from probes.net.kernel import KernelNetwork
from probes.wire.bird import BirdSession, clock, reply_lines, sessions

pytestmark = pytest.mark.loopback
needs_bird = pytest.mark.needs("bird", "birdc")
PATIENCE_S = 20.0


def configuration(folder: Path, own: int, net: int, base: int, routes: int) -> str:
    """No kernel protocol: nothing but BIRD's own tables changes."""
    other = 3 - own
    static = " ".join(f"route 203.0.{own}.{n}/32 blackhole;" for n in range(routes))
    return (
        f'log "{folder}/{own}.log" all;\nrouter id 10.0.0.{own};\nprotocol device {{ scan time 60; }}\n'
        f"protocol static {{ ipv4; {static} }}\n"
        "protocol bgp peer { hold time 9; connect delay time 1; connect retry time 1; error wait time 1, 2; multihop;\n"
        f" local 127.99.{net}.{own} port {base + own} as {65010 + own};\n"
        f" neighbor 127.99.{net}.{other} port {base + other} as {65010 + other};\n"
        " ipv4 { import all; export all; }; }\n"
    )


@contextlib.contextmanager
def daemon(folder: Path, own: int, text: str) -> Iterator[Path]:
    path, control = folder / f"{own}.conf", folder / f"{own}.ctl"
    path.write_text(text)
    process = subprocess.Popen(["bird", "-f", "-c", str(path), "-s", str(control)], stderr=subprocess.DEVNULL)
    try:
        until(control.exists)
        yield control
    finally:
        process.kill()
        process.wait()


def until(true) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline, "BIRD did not get there"
        time.sleep(0.1)


def birdc(control: Path, *words: str) -> str:
    argv = ["birdc", "-r", "-s", str(control), *words]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


async def told(control: Path) -> BirdSession:
    network = KernelNetwork(SystemClock())
    reply = await network.bird(BirdRequest(control=str(control)))
    assert reply.payload is not None, reply.failure
    (session,) = sessions(reply_lines(reply.payload))
    return session


@needs_bird
async def test_a_session_that_stands_and_then_dies(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    draw = random.Random(seed)
    routes, net, base = draw.randint(1, 40), draw.randint(1, 250), draw.randint(20000, 30000)
    texts = {own: configuration(tmp_path, own, net, base, routes) for own in (1, 2)}
    with daemon(tmp_path, 1, texts[1]) as control:
        with daemon(tmp_path, 2, texts[2]):
            until(lambda: f"{routes} imported" in birdc(control, "show", "protocols", "all", "peer"))
            up = await told(control)
            shown = birdc(control, "show", "protocols", "peer").splitlines()[-1].split()
            assert [up.name, "BGP", "---", up.state, up.since, up.info] == shown
            assert (up.bgp_state, up.neighbor_as, up.imported) == ("Established", 65012, routes), f"seed {seed}"
            assert up.import_updates == routes, f"seed {seed}"
            assert up.last_error is None
        until(lambda: "Established" not in birdc(control, "show", "protocols", "peer"))
        until(lambda: "Last error" in birdc(control, "show", "protocols", "all", "peer"))
        down = await told(control)
        assert down.state == "start"
        assert down.last_error
        assert down.since != up.since


@needs_bird
async def test_sessions_that_stand_never_fell_however_their_hour_moves(tmp_path: Path) -> None:
    """BIRD writes the hour of the same event anew for each answer: of many protocols some always move."""
    seed = random.randrange(2**32)
    draw = random.Random(seed)
    peers = "".join(
        f"protocol bgp p{n} {{ local 127.99.{draw.randint(1, 250)}.1 as 65001; neighbor 127.99.251.{n} as 65002;"
        " multihop; passive; disabled; ipv4 { import all; export all; }; }\n"
        for n in range(1, 101)
    )
    with daemon(tmp_path, 1, f'log "{tmp_path}/1.log" all;\nrouter id 10.0.0.1;\n{peers}') as control:
        for n in range(1, 101):
            birdc_wide(control, "enable", f"p{n}")
        readings = [await seen(control) for _ in range(60)]
    assert all(len(reading) == 100 for reading in readings)
    fallen = {name for one, other in pairwise(readings) for name in one if fell_between(one[name], other[name])}
    assert not fallen, f"seed {seed}"


def birdc_wide(control: Path, *words: str) -> None:
    subprocess.run(["birdc", "-s", str(control), *words], capture_output=True, check=True)


async def seen(control: Path) -> dict[str, Seen]:
    """Every session of one reading, as if it were up: what is asked of here is its time."""
    at = datetime.now(UTC)
    reply = await KernelNetwork(SystemClock()).bird(BirdRequest(control=str(control)))
    assert reply.payload is not None, reply.failure
    lines = reply_lines(reply.payload)
    told = clock(lines)
    assert told is not None
    return {session.name: Seen(session=session, clock=told, at=at) for session in sessions(lines)}


@needs_bird
async def test_the_conversation_changes_nothing(tmp_path: Path) -> None:
    """Restricted: the socket that asked could not have stopped the daemon, and the sessions stay as they were."""
    with daemon(tmp_path, 1, configuration(tmp_path, 1, 7, 31000, 1)) as control:
        await told(control)
        assert "Daemon is up" in birdc(control, "show", "status")
        said = (tmp_path / "1.log").read_text()
        assert "Shutting down" not in said


@pytest.mark.parametrize("kind", ["absent", "closed"])
async def test_a_socket_that_does_not_open_is_a_local_failure(tmp_path: Path, kind: str) -> None:
    control = tmp_path / "bird.ctl"
    if kind != "absent":
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(control))
    reply = await KernelNetwork(SystemClock()).bird(BirdRequest(control=str(control)))
    assert reply.payload is None
    assert reply.failure is not None
    assert reply.failure.kind is FailureKind.LOCAL
    assert reply.failure.errno == ("ENOENT" if kind == "absent" else "ECONNREFUSED")


@contextlib.contextmanager
def impostor(path: Path, *replies: bytes) -> Iterator[list[bytes]]:
    """Says one reply at once and one after each command; keeps what it was told."""
    heard: list[bytes] = []
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen(1)

        def work() -> None:
            peer, _ = sock.accept()
            with peer, contextlib.suppress(OSError):
                for reply in replies:
                    peer.sendall(reply)
                    heard.append(peer.recv(100))

        thread = threading.Thread(target=work)
        thread.start()
        yield heard
        thread.join()


async def test_nothing_more_is_said_where_the_restriction_is_refused(tmp_path: Path) -> None:
    with impostor(tmp_path / "x", b"0001 BIRD ready.\n", b"9001 syntax error\n") as heard:
        reply = await KernelNetwork(SystemClock()).bird(BirdRequest(control=str(tmp_path / "x")))
    assert reply.failure is not None
    assert reply.failure.kind is FailureKind.PROTOCOL
    assert heard == [b"restrict\n", b""]


async def test_a_stranger_on_the_socket_is_no_bird(tmp_path: Path) -> None:
    with impostor(tmp_path / "x", b"220 smtp ready\n") as heard:
        reply = await KernelNetwork(SystemClock()).bird(BirdRequest(control=str(tmp_path / "x")))
    assert reply.failure is not None
    assert reply.failure.kind is FailureKind.PROTOCOL
    assert heard == [b""]


async def test_silence_ends_at_the_timeout(tmp_path: Path) -> None:
    with impostor(tmp_path / "x", b"0001 BIRD rea") as _:
        reply = await KernelNetwork(SystemClock()).bird(BirdRequest(control=str(tmp_path / "x"), timeout_s=0.2))
    assert reply.failure is not None
    assert reply.failure.kind is FailureKind.TIMEOUT
