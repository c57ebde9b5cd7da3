"""A canary for a password, in every form in which a DSN may carry one, through every output and error path.

It must reach the server, and appear nowhere else: not on stdout or stderr, not in a file, not in the argument list of a
child.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from netdiag.lab.postgres import Server, free_port, postgres_server
from tests.command_line import Ran, netdiag

pytestmark = pytest.mark.loopback
CANARY = f"Canary-{secrets.token_hex(8)}"
AWKWARD = f"{CANARY} '@:/\\%?#&="  # needs quoting in every form


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    setup = tuple(
        f"CREATE ROLE {role} LOGIN PASSWORD '{text.replace(chr(39), chr(39) * 2)}'"
        for role, text in (("app", CANARY), ("awkward", AWKWARD))
    )
    with postgres_server(hba=("host all all all scram-sha-256",), setup=setup) as started:
        yield started


def forms(port: int, user: str, password: str) -> dict[str, str]:
    """Every way in which an application writes it down."""
    escaped, quoted = quote(password, safe=""), password.replace("\\", "\\\\").replace("'", "\\'")
    return {
        "userinfo": f"postgresql://{user}:{escaped}@127.0.0.1:{port}/postgres",
        "short scheme": f"postgres://{user}:{escaped}@127.0.0.1:{port}/postgres",
        "query": f"postgresql://127.0.0.1:{port}/postgres?user={user}&password={escaped}",
        "several hosts": f"postgresql://{user}:{escaped}@127.0.0.1:{port},127.0.0.1:{port}/postgres",
        "keywords": f"host=127.0.0.1 port={port} user={user} dbname=postgres password='{quoted}'",
        "jdbc": f"jdbc:postgresql://127.0.0.1:{port}/postgres?user={user}&password={escaped}",
        "jdbc yugabyte": f"jdbc:yugabytedb://127.0.0.1:{port}/postgres?user={user}&password={escaped}",
    }


FORMS = tuple(forms(1, "app", "x"))


def silent(ran: Ran, *folders: Path) -> Ran:
    """Fails where the canary shows. Half of it would be too much, so half of it is looked for."""
    half = CANARY[: len(CANARY) // 2 + 4]
    assert half not in ran.stdout
    assert half not in ran.stderr
    for folder in folders:
        for path in folder.rglob("*"):
            if path.is_file():
                assert half.encode() not in path.read_bytes(), path
    assert "Traceback" not in ran.stderr
    return ran


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("user", ["app", "awkward"])
def test_every_form_logs_in_and_no_output_shows_it(server, tmp_path, form, user):
    target = forms(server.port, user, {"app": CANARY, "awkward": AWKWARD}[user])[form]
    out = tmp_path / "out"
    ran = silent(netdiag("run", target, "--quick", "--format", "json", "--output", str(out), home=tmp_path), tmp_path)
    assert (ran.causes, ran.status) == ([], 0), ran
    assert {path.name for path in out.iterdir()} >= {"report.txt", "report.md", "run.json"}
    assert "warning" in ran.stderr, "a password in the argument list deserves one"


@pytest.mark.parametrize("form", ["text", "markdown", "json"])
@pytest.mark.parametrize("password", [CANARY, f"{CANARY}-wrong"])
def test_every_rendering(server, tmp_path, form, password):
    target = forms(server.port, "app", password)["userinfo"]
    ran = silent(netdiag("run", target, "--quick", "--format", form, home=tmp_path), tmp_path)
    assert ran.status == (0 if password == CANARY else 2)


def places(server: Server, tmp_path: Path) -> dict[str, dict[str, str]]:
    """Where libpq finds a password that no argument shows."""
    passwords, services = tmp_path / "pgpass", tmp_path / "services"
    passwords.write_text(f"127.0.0.1:{server.port}:*:app:{CANARY}\n")
    passwords.chmod(0o600)
    services.write_text(f"[db]\nhost=127.0.0.1\nport={server.port}\nuser=app\ndbname=postgres\npassword={CANARY}\n")
    plain = {"PGHOST": "127.0.0.1", "PGPORT": str(server.port), "PGUSER": "app", "PGDATABASE": "postgres"}
    return {
        "environment": {**plain, "PGPASSWORD": CANARY},
        "password file": {**plain, "PGPASSFILE": str(passwords)},
        "service file": {"PGSERVICE": "db", "PGSERVICEFILE": str(services)},
    }


@pytest.mark.parametrize("place", ["environment", "password file", "service file"])
def test_passwords_that_no_argument_shows(server, tmp_path, place):
    home = tmp_path / "home"
    home.mkdir()
    environment = places(server, tmp_path)[place]
    ran = silent(netdiag("run", "--quick", "--format", "json", home=home, environment=environment), home)
    assert (ran.causes, ran.status) == ([], 0), ran
    (database,) = ran.measurements("database")
    assert all(attempt["outcome"] == "answered" for attempt in database["data"]["attempts"])


@pytest.mark.parametrize("form", ["userinfo", "keywords", "jdbc"])
def test_probe_and_check(server, tmp_path, form):
    target = forms(server.port, "app", CANARY)[form]
    for arguments in (("probe", "database", target), ("probe", "database", target, "--format", "json")):
        ran = silent(netdiag(*arguments, home=tmp_path), tmp_path)
        assert ran.status == 0, ran
    ran = silent(netdiag("check", target, home=tmp_path), tmp_path)
    assert ran.status == 0, ran
    assert list(tmp_path.rglob("*.json")), "the run that check keeps"


def test_a_plan_with_a_password_its_check_and_a_replay(server, tmp_path):
    plan, saved = tmp_path / "plan.toml", tmp_path / "saved"
    url = forms(server.port, "app", CANARY)["userinfo"]
    plan.write_text(f"version = 1\n[[endpoint]]\nname = 'ysql'\nrole = 'primary'\nurl = '{url}'\n")
    assert silent(netdiag("plan", "check", str(plan))).status == 0
    ran = silent(netdiag("run", "--plan", str(plan), "--quick", "--output", str(saved), home=saved), saved)
    assert ran.status == 0, ran
    for form in ("text", "json"):
        assert silent(netdiag("replay", str(saved / "run.json"), "--format", form)).status == 0
    kept = json.loads((saved / "run.json").read_text())
    assert "***" in json.dumps(kept), "that there was one still shows"


BAD = {
    "port": "postgresql://app:{canary}@127.0.0.1:70000/db",
    "host": "postgresql://app:{canary}@exa mple/db",
    "slash in the password": "postgresql://app:{canary}/x@127.0.0.1/db",
    "at sign in the password": "postgresql://app:{canary}@x@127.0.0.1:1/db",
    "setting": "postgresql://app:{canary}@127.0.0.1/db?sslmode=perhaps",
    "unknown setting": "postgresql://app:{canary}@127.0.0.1/db?passwrod={canary}",
    "escape": "postgresql://app:{canary}%zz@127.0.0.1/db",
    "scheme": "mysql://app:{canary}@127.0.0.1/db",
    "half a URL": "app:{canary}@127.0.0.1:5432",
    "keywords": "host=127.0.0.1 password={canary} port=0",
    "open quote": "host=127.0.0.1 password='{canary}",
    "no equals": "password {canary} host=127.0.0.1",
    "jdbc": "jdbc:postgresql://127.0.0.1:x/db?password={canary}",
    "jdbc userinfo": "jdbc:postgresql://app:{canary}@127.0.0.1/db?sslmode=perhaps",
    "socket": "host=/tmp password={canary}",
}


@pytest.mark.parametrize("case", BAD)
def test_a_target_that_cannot_be_read_is_not_quoted(case, tmp_path):
    target = BAD[case].format(canary=CANARY)
    plan = tmp_path / "plan.toml"
    plan.write_text(f"version = 1\n[[endpoint]]\nname = 'x'\nurl = {json.dumps(target)}\n")
    for arguments in (
        ("run", target, "--quick"),
        ("run", target, "--quick", "--format", "json"),
        ("check", target),
        ("probe", "ports", target),
        ("plan", "check", str(plan)),
    ):
        ran = silent(netdiag(*arguments, "--budget=2s") if arguments[0] == "run" else netdiag(*arguments))
        assert ran.status in (0, 2, 3), ran


def test_usage_errors_do_not_repeat_their_arguments():
    target = forms(1, "app", CANARY)["userinfo"]
    for arguments in (
        ("run", target, "--nonsense"),
        ("run", f"--bugdet={CANARY}", target),
        (target,),
        ("rnu", target),
        ("replay", target),
        ("probe", target, "ports"),
        ("probe", "database", target, "--set", f"password={CANARY}"),
        ("run", "127.0.0.1:1", "--plan", target),
        ("run", "127.0.0.1:1", "--against", target),
        ("check", target, "--timeout", "now"),
        ("explain", target),
    ):
        assert silent(netdiag(*arguments)).status == 3, arguments


def test_an_unreachable_server(tmp_path):
    target = forms(free_port(), "app", CANARY)["userinfo"]
    out = tmp_path / "out"
    ran = silent(netdiag("run", target, "--quick", "--output", str(out), home=tmp_path), tmp_path)
    assert ran.status == 2


def test_a_crash_of_netdiag_itself(tmp_path):
    """A defect, made by a module that shadows one of the standard library's and fails with the DSN in its message."""
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "sitecustomize.py").write_text(
        "import sys\n"
        "import netdiag.runner\n"
        "async def broken(plan, *args, **kwargs):\n"
        "    raise RuntimeError(repr(sys.argv), plan.endpoints[0].credentials.password.reveal())\n"
        "netdiag.runner.execute = broken\n"
    )
    target = forms(1, "app", CANARY)["userinfo"]
    for form in ("text", "json"):
        ran = silent(
            netdiag("run", target, "--format", form, home=tmp_path, environment={"PYTHONPATH": str(broken)}), tmp_path
        )
        assert ran.status == 3
        assert "internal error: RuntimeError" in ran.stdout + ran.stderr
    assert list(tmp_path.rglob("crash-*.txt"))
