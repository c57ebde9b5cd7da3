"""Commands of reports about names and filters, run on the host that the report was written on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.command_line import Ran, shell
from tests.kernel.incident import NAME, PASSWORD, PORT, RESOLVERS, Incident, incident

pytestmark = [pytest.mark.kernel, pytest.mark.needs("nft", "knotd", "unbound", "dig", "psql", "nc", "ping", "ss")]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Iterator[Incident]:
    with incident(tmp_path_factory.mktemp("incident")) as made:
        yield made


def done(place: Incident, ran: Ran) -> dict[str, Ran]:
    launcher = ("ip", "netns", "exec", place.client.name)
    results = {c: shell(c, launcher=launcher, environment={"PGPASSWORD": PASSWORD}) for c in ran.commands()}
    for command, result in results.items():
        said = result.stdout + result.stderr
        assert not any(word in said for word in ("not found", "sage:", "nvalid option", "Traceback")), (command, said)
    return results


def of_program(results: dict[str, Ran], program: str) -> list[Ran]:
    return [result for command, result in results.items() if command.split()[0] == program]


def test_of_a_healthy_name(place):
    settings = {"sslmode": "verify-full", "sslrootcert": str(place.tls.authority)}
    place.tls.authority.chmod(0o644)
    ran = place.netdiag(place.dsn_of(NAME, **settings))
    results = done(place, ran)
    assert {command.split()[0] for command in results} >= {"dig", "psql", "nc", "ping", "netdiag"}
    assert {command: result.status for command, result in results.items() if result.status} == {}


def test_of_a_name_that_is_servfail(place):
    with place.resolvers(*RESOLVERS):
        ran = place.netdiag(place.dsn_of("db.lame.test"))
        results = done(place, ran)
    (dig,) = of_program(results, "dig")
    assert (dig.status, "SERVFAIL" in dig.stdout) == (0, True)
    assert all(result.status in (0, 3) for result in of_program(results, "netdiag"))  # nothing resolves: nothing to do


def test_of_a_dropped_port(place):
    with place.at_router("forward", f"tcp dport {PORT} drop"):
        ran = place.netdiag(place.dsn)
        results = done(place, ran)
    assert ran.causes == ["firewall.drop"], ran
    assert [result.status for result in of_program(results, "nc")] == [1]
    assert {result.status for result in of_program(results, "netdiag")} == {0}
    assert {result.status for result in (*of_program(results, "ping"), *of_program(results, "ss"))} == {0}
