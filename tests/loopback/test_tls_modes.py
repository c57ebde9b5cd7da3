"""Every sslmode against servers that take TLS, refuse it or break it: netdiag's verdict beside psql's own answer."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from netdiag.lab.postgres import Server, TlsFiles, debian_binaries, find_binaries, make_tls, postgres_server
from tests.command_line import Ran, netdiag, run

pytestmark = [
    pytest.mark.loopback,
    pytest.mark.skipif(debian_binaries() is None, reason="needs a PostgreSQL with TLS (make debian installs it)"),
]
MODES = ("disable", "allow", "prefer", "require")
HBA = (
    "hostnossl all clear all trust",
    "hostssl all encrypted all trust",
    "host all salted all scram-sha-256",
    "host all hashed all md5",
)
SETUP = (
    "CREATE ROLE clear LOGIN",
    "CREATE ROLE encrypted LOGIN",
    "CREATE ROLE salted LOGIN PASSWORD 'right'",
    "SET password_encryption = 'md5'",
    "CREATE ROLE hashed LOGIN PASSWORD 'right'",
)


@pytest.fixture(scope="module")
def certified(tmp_path_factory) -> Iterator[tuple[Server, TlsFiles]]:
    files = make_tls(tmp_path_factory.mktemp("tls"))
    with postgres_server(tls=files, hba=HBA, setup=SETUP) as started:
        yield started, files


def psql_connects(text: str) -> bool:
    command = [str(find_binaries(tls=True) / "psql"), "-XAtqw", "-c", "SELECT 1", text]
    environment = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent"}
    return subprocess.run(command, capture_output=True, timeout=60, check=False, env=environment).returncode == 0


def agrees(ran: Ran, text: str) -> bool:
    """Healthy exactly where psql gets a connection; returns which."""
    connects = psql_connects(text)
    assert (ran.document["verdict"] == "healthy") == connects, ran
    assert connects or ran.status == 2, ran
    return connects


def dsn(server: Server, user: str, **settings: object) -> str:
    query = "&".join(f"{name}={setting}" for name, setting in settings.items())
    return f"postgresql://{user}:right@{server.host}:{server.port}/postgres?{query}"


@pytest.mark.parametrize("user", ["clear", "encrypted"])
@pytest.mark.parametrize("mode", MODES)
def test_pg_hba_lines_for_one_kind_of_connection_alone(certified, user, mode):
    server, files = certified
    text = dsn(server, user, sslmode=mode, sslrootcert=files.authority)
    ran = run(text)
    connects = agrees(ran, text)
    noted = [note["code"] for note in ran.found("note")]
    assert noted == (["db.tls-invalid"] if user == "clear" and mode in ("allow", "prefer") else [])
    if not connects:
        assert ran.causes == ["db.hba-rejected"]
    if (user, mode) == ("encrypted", "disable"):
        assert "sslmode=require" in ran.cause("db.hba-rejected")["actions"][0]["step"]


@pytest.mark.parametrize("mode", ["prefer", "require"])
def test_a_server_of_old_tls_versions(tmp_path, mode):
    old = {"ssl_min_protocol_version": "TLSv1", "ssl_max_protocol_version": "TLSv1.1"}
    with postgres_server(tls=make_tls(tmp_path), hba=HBA, setup=SETUP, settings=old) as server:
        text = dsn(server, "salted", sslmode=mode)
        ran = run(text)
        if not agrees(ran, text):
            assert ran.causes == ["db.tls-invalid"]
            assert "TLS version" in ran.cause("db.tls-invalid")["actions"][0]["step"]


@pytest.mark.parametrize("mode", ["require", "verify-ca", "verify-full"])
def test_a_root_certificate_that_is_not_there(certified, mode):
    """libpq's "require" goes on without one, and verification does not."""
    server, _ = certified
    text = dsn(server, "salted", sslmode=mode, sslrootcert="/nonexistent.pem")
    ran = run(text)
    if not agrees(ran, text):
        cause = ran.cause("db.tls-invalid")
        assert '"/nonexistent.pem"' in cause["statement"]
        assert {action["owner"] for action in cause["actions"]} == {"application"}


def test_a_client_certificate_that_is_not_there_is_not_missed(certified):
    server, _ = certified
    text = dsn(server, "salted", sslmode="require", sslcert="/nonexistent.crt", sslkey="/nonexistent.key")
    assert agrees(run(text), text)


def test_libpqs_own_folder_gives_the_root_certificate(certified, tmp_path):
    """~/.postgresql/root.crt: with it "require" verifies, and a foreign root refuses."""
    server, files = certified
    home = tmp_path / "home"
    (home / ".postgresql").mkdir(parents=True)
    root = home / ".postgresql" / "root.crt"
    root.write_bytes(files.authority.read_bytes())
    good = netdiag("run", dsn(server, "salted", sslmode="verify-full"), "--quick", "--format=json", home=home)
    assert (good.status, good.causes) == (0, []), good
    root.write_bytes(make_tls(tmp_path / "other").authority.read_bytes())
    bad = netdiag("run", dsn(server, "salted", sslmode="require"), "--quick", "--format=json", home=home)
    assert (bad.status, bad.causes) == (2, ["db.tls-invalid"]), bad


@pytest.mark.parametrize(
    ("user", "binding"),
    [("salted", "disable"), ("salted", "prefer"), ("salted", "require"), ("hashed", "require")],
)
def test_channel_binding(certified, user, binding):
    server, _ = certified
    text = dsn(server, user, sslmode="require", channel_binding=binding)
    ran = run(text)
    if agrees(ran, text):
        (spoken,) = {a["authentication"] for m in ran.measurements("database") for a in m["data"]["attempts"]}
        assert spoken == {"hashed": "md5"}.get(user, "scram-sha-256" + ("-plus" if binding != "disable" else ""))
    else:
        assert "channel_binding=require" in ran.cause("db.tls-invalid")["statement"]


def test_direct_tls_with_a_server_that_does_not_know_it(certified):
    server, _ = certified
    if int(server.version.split(".")[0]) >= 17:
        pytest.skip("this PostgreSQL knows sslnegotiation=direct")
    ran = run(dsn(server, "salted", sslmode="require", sslnegotiation="direct"))
    assert (ran.status, ran.causes) == (2, ["db.unresponsive"]), ran
    assert "PostgreSQL 17" in ran.cause("db.unresponsive")["statement"]


def test_what_a_certificates_folder_that_may_not_be_entered_costs(tmp_path: Path):
    """Path.exists() raises there; libpq's stat() just fails."""
    from netdiag.plan.dsn import parse_target

    (endpoint,) = parse_target(
        "postgresql://u@h/d?sslmode=require&sslrootcert=/proc/1/cwd/x.pem", {}, tmp_path
    ).endpoints
    assert endpoint.credentials is not None
    assert endpoint.credentials.sslrootcert is None
