"""PgBouncer before a real server: what it refuses, it refuses with 08P01 whatever the reason."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from netdiag.lab.postgres import free_port, postgres_server
from tests.command_line import Ran, run

PROGRAM = shutil.which("pgbouncer") or shutil.which("/usr/sbin/pgbouncer")
pytestmark = [
    pytest.mark.loopback,
    pytest.mark.skipif(PROGRAM is None, reason="needs pgbouncer (make debian installs it)"),
]
CONFIGURATION = """[databases]
postgres = host=127.0.0.1 port={server}
away = host=127.0.0.1 port={nobody} dbname=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {folder}/users
pool_mode = transaction
default_pool_size = 1
query_wait_timeout = 1
"""


@pytest.fixture(scope="module")
def pooler(tmp_path_factory) -> Iterator[int]:
    folder, port = tmp_path_factory.mktemp("pgbouncer"), free_port()
    with postgres_server(
        hba=("host all all all scram-sha-256",), setup=("CREATE ROLE app LOGIN PASSWORD 'right'",)
    ) as s:
        (folder / "users").write_text('"app" "right"\n')
        text = CONFIGURATION.format(server=s.port, nobody=free_port(), port=port, folder=folder)
        (folder / "pgbouncer.ini").write_text(text)
        process = subprocess.Popen(
            [*_as_nobody(folder), str(PROGRAM), "-q", str(folder / "pgbouncer.ini")], stderr=subprocess.DEVNULL
        )
        try:
            _await(port, process)
            yield port
        finally:
            process.terminate()
            process.wait(30)


def _as_nobody(folder: Path) -> list[str]:
    """It refuses to run as root."""
    if os.geteuid() != 0:
        return []
    for path in (folder, *folder.parents[:3]):
        path.chmod(path.stat().st_mode | 0o055)
    return ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]


def _await(port: int, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 30
    while process.poll() is None and time.monotonic() < end:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise RuntimeError("pgbouncer did not start")


def dsn(port: int, dbname: str = "postgres", password: str = "right") -> str:
    return f"postgresql://app:{password}@127.0.0.1:{port}/{dbname}?connect_timeout=5"


def only(ran: Ran, code: str) -> str:
    assert (ran.causes, ran.status) == ([code], 2), ran
    return str(ran.cause(code)["statement"])


def test_healthy(pooler):
    ran = run(dsn(pooler))
    assert (ran.causes, ran.status) == ([], 0), ran


@pytest.mark.parametrize(
    ("dbname", "password", "code"),
    [("nowhere", "right", "db.no-database"), ("postgres", "wrong", "db.auth-failed")],
)
def test_what_the_pooler_itself_refuses(pooler, dbname, password, code):
    assert "08P01" in only(run(dsn(pooler, dbname, password)), code)


def test_a_database_behind_it_that_is_away(pooler):
    assert "PgBouncer had no server connection" in only(run(dsn(pooler, "away")), "db.server-error")


def test_a_pool_that_is_taken(pooler):
    with psycopg.connect(dsn(pooler)) as holder:
        holder.execute("SELECT 1")  # a transaction holds the pool's one connection
        assert "PgBouncer had no server connection" in only(run(dsn(pooler)), "db.server-error")
