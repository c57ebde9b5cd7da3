"""Every command that a report prints does what it says: it is run here against the very server it was printed about."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from netdiag.lab.postgres import Server, postgres_server
from tests.command_line import Ran, run, shell

pytestmark = [pytest.mark.loopback, pytest.mark.needs("psql", "nc", "ping", "ss", "nstat")]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    setup = ("CREATE ROLE app LOGIN PASSWORD 'right'",)
    with postgres_server(hba=("host all all all scram-sha-256",), setup=setup) as started:
        yield started


def dsn(server: Server) -> str:
    return f"postgresql://app@{server.host}:{server.port}/postgres"


def statuses(ran: Ran, password: str) -> dict[str, int]:
    """Each command of the report and its exit status; none may fail for another reason than the fault."""
    commands = ran.commands()
    # Without ICMP sockets nothing was measured that a ping would reproduce.
    expected = {"netdiag", "nc"} | ({"ping"} if "icmp-echo" in ran.document["privileges"] else set())
    assert {command.split()[0] for command in commands} >= expected, commands
    done = {command: shell(command, environment={"PGPASSWORD": password}) for command in commands}
    for command, result in done.items():
        said = result.stdout + result.stderr
        assert not any(word in said for word in ("not found", "sage:", "nvalid option", "Traceback")), (command, said)
    return {command: result.status for command, result in done.items()}


def of_program(found: dict[str, int], program: str) -> list[int]:
    return [status for command, status in found.items() if command.split()[0] == program]


def test_of_a_healthy_database(server):
    ran = run(dsn(server), environment={"PGPASSWORD": "right"})
    assert ran.status == 0, ran
    found = statuses(ran, "right")
    assert any(command.startswith("psql") for command in found)
    assert set(found.values()) == {0}, found


def test_of_a_wrong_password(server):
    ran = run(dsn(server), environment={"PGPASSWORD": "wrong"})
    assert ran.causes == ["db.auth-failed"], ran
    found = statuses(ran, "wrong")
    assert of_program(found, "psql") == [2], found  # psql(1): the connection went bad
    assert {*of_program(found, "ping"), *of_program(found, "nc"), *of_program(found, "netdiag")} == {0}, found


def test_of_a_place_without_credentials(server):
    ran = run(f"{server.host}:{server.port}")
    assert set(statuses(ran, "").values()) == {0}


def test_of_a_stopped_server():
    with postgres_server() as server:
        pass
    ran = run(dsn(server))
    assert ran.causes == ["db.port-closed"], ran
    found = statuses(ran, "")
    assert of_program(found, "nc") == [1], found
    assert set(of_program(found, "ping")) <= {0}
    assert set(of_program(found, "netdiag")) == {0}, "a probe that measured a fault has measured"


def test_of_a_hostile_user_name(server):
    """What a DSN says becomes one argument, whatever is in it."""
    user = "app'; touch /tmp/owned; $(false) `false` \\"
    quoted = user.replace("\\", "\\\\").replace("'", "\\'")
    target = f"host={server.host} port={server.port} dbname=postgres user='{quoted}'"
    ran = run(target, environment={"PGPASSWORD": "right"})
    assert ran.causes == ["db.auth-failed"], ran
    (command,) = [command for command in ran.commands() if command.startswith("psql")]
    result = shell(command, environment={"PGPASSWORD": "right"})
    assert result.status == 2
    assert f'user "{user}"' in result.stderr
