"""A web server that reads lines says nothing to an SSLRequest (eight bytes, no line's end): it is told from a database
that is frozen by one GET."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from netdiag.lab.postgres import free_port
from tests.command_line import run

pytestmark = pytest.mark.loopback


@pytest.fixture
def web_server(tmp_path: Path) -> Iterator[int]:
    """`python -m http.server`, as anybody would start it."""
    port = free_port()
    command = [sys.executable, "-u", "-m", "http.server", str(port), "--bind", "127.0.0.1"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        assert b"Serving HTTP" in process.stdout.readline()
        yield port
        process.terminate()


def test_a_line_reading_web_server_behind_a_database_dsn_speaks_the_wrong_protocol(web_server: int) -> None:
    found = run(f"postgresql://app@127.0.0.1:{web_server}/shop", "--quick")
    assert found.status == 2
    assert found.causes == ["lb.wrong-protocol"]


def test_the_same_server_as_a_plain_target_is_healthy(web_server: int) -> None:
    found = run(f"127.0.0.1:{web_server}", "--quick")
    assert (found.status, found.causes) == (0, [])
