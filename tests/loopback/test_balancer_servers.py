"""The balancer probe against real servers: Python's HTTP server, silence, and HAProxy itself."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import shlex
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from netdiag.report.reproduce import reproduce
from probes.balancer import BalancerOptions, CheckPhase, measure
from probes.contract import Context
from probes.model import FailureKind, Outcome, Target, Vantage
from probes.net.clock import SystemClock
from probes.net.kernel import KernelNetwork
from tests.fakes import evidence as ev

pytestmark = pytest.mark.loopback
HOST = "127.0.0.1"
CLOCK = SystemClock()
TARGET = Target(host=HOST, address=HOST, port=5433, endpoint="ysql")


async def probe(**options):
    network = KernelNetwork(CLOCK, packets_per_second=5000.0, connections_per_second=5000.0)
    context = Context(network=network, clock=CLOCK, vantage=Vantage(name="test"), deadline=CLOCK.monotonic() + 20)
    given = {"backends": (HOST,), "interval_s": 0.05, "timeout_s": 0.5} | options
    return await measure(context, TARGET, BalancerOptions(**given))


@contextlib.contextmanager
def page(status: int, host: str = HOST) -> Iterator[int]:
    class Page(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.send_response(status if self.path == "/health" else 404)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, *_: object) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

    with Server((host, 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(("host", "status"), [(HOST, 200), (HOST, 404), (HOST, 503), ("::1", 302)])
async def test_a_status_within_and_outside_of_the_matcher(host, status):
    with page(status, host) as port:
        url = f"http://{{backend}}:{port}/health"
        (passing,) = (await probe(url=url, backends=(host,), matcher=f"100-199,{status}")).backends
        (failing,) = (await probe(url=url, backends=(host,), matcher="599")).backends
    assert [a.passed for a in passing.attempts] == [True] * 3
    assert "BaseHTTP" in passing.attempts[0].server
    assert [(a.passed, a.phase, a.status) for a in failing.attempts] == [(False, CheckPhase.STATUS, status)] * 2


def closed_port() -> int:
    with socket.create_server((HOST, 0)) as listener:
        return int(listener.getsockname()[1])


async def test_nothing_listens():
    (backend,) = (await probe(url=f"http://{{backend}}:{closed_port()}/")).backends
    assert {(a.outcome, a.phase, a.failure.errno) for a in backend.attempts} == {
        (Outcome.REFUSED, CheckPhase.TCP, "ECONNREFUSED")
    }


async def test_a_listener_that_never_says_a_word_passes_by_tcp_and_not_by_http():
    with socket.create_server((HOST, 0)) as listener:
        port = listener.getsockname()[1]
        (http_check,) = (await probe(url=f"http://{{backend}}:{port}/", timeout_s=0.2)).backends
        (tcp_check,) = (await probe(url=f"tcp://{{backend}}:{port}")).backends
    assert {(a.outcome, a.phase) for a in http_check.attempts} == {(Outcome.LOST, CheckPhase.RESPONSE)}
    assert http_check.consecutive_failures == 2
    assert [a.passed for a in tcp_check.attempts] == [True] * 3


async def test_https_where_no_tls_is_spoken():
    with page(200) as port:
        (backend,) = (await probe(url=f"https://{{backend}}:{port}/health", timeout_s=2.0)).backends
    assert {a.phase for a in backend.attempts} == {CheckPhase.TLS}
    assert {a.failure.kind for a in backend.attempts} <= {FailureKind.TLS, FailureKind.CLOSED, FailureKind.PROTOCOL}


@pytest.mark.needs("curl")
async def test_the_reproduce_command_prints_the_status_that_was_measured():
    with page(503) as port:
        measured = await probe(url=f"http://db.example:{port}/health")
        command = reproduce(ev.measured("balancer", TARGET, measured))
        shown = await asyncio.to_thread(
            subprocess.run, shlex.split(command), capture_output=True, text=True, timeout=10, check=True
        )
    assert shown.stdout.strip() == str(measured.backends[0].attempts[0].status) == "503"


@contextlib.contextmanager
def haproxy(folder: Path, servers: dict[str, int]) -> Iterator[int]:
    """A balancer that checks each server's /health; yields the port of its statistics once it has judged them."""
    port, control = closed_port(), folder / "haproxy.sock"
    lines = "\n".join(f"  server {name} {HOST}:{at} check inter 100ms fall 2 rise 1" for name, at in servers.items())
    configuration = folder / "haproxy.cfg"
    configuration.write_text(
        f"global\n  stats socket {control}\ndefaults\n  timeout connect 1s\n  timeout client 5s\n  timeout server 5s\n"
        f"backend databases\n  mode http\n  option httpchk GET /health\n{lines}\n"
        f"frontend stats\n  mode http\n  bind {HOST}:{port}\n  stats enable\n  stats uri /stats\n"
    )
    with subprocess.Popen(["haproxy", "-db", "-f", str(configuration)], stderr=subprocess.DEVNULL) as running:
        try:
            judged(control)
            yield port
        finally:
            running.terminate()


def judged(control: Path) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(control))
            sock.sendall(b"show stat\n")
            if b"DOWN," in b"".join(iter(lambda: sock.recv(65536), b"")):
                return
        time.sleep(0.05)
    raise AssertionError("HAProxy judged nothing DOWN in 10 s")


@pytest.mark.needs("haproxy")
async def test_haproxys_own_view_and_the_check_asked_again_agree(tmp_path):
    with page(200) as well, page(503) as sick:
        servers = {"east": well, "west": sick, "gone": closed_port()}
        with haproxy(tmp_path, servers) as port:
            measured = await probe(url=None, backends=(), stats=f"http://{HOST}:{port}/stats;csv", timeout_s=2.0)
            again = {name: await probe(url=f"http://{{backend}}:{at}/health") for name, at in servers.items()}
    view = {server.name: server for server in measured.view.servers}
    assert {name: server.check_status for name, server in view.items() if name != "gone"} == {
        "east": "L7OK",
        "west": "L7STS",
    }
    assert (view["west"].status, view["west"].check_code) == ("DOWN", 503)
    failing = {name for name, found in again.items() if found.backends[0].consecutive_failures >= 2}
    assert failing == {"west", "gone"}
