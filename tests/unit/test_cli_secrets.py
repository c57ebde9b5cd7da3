"""A canary password goes in by every door; nothing that netdiag prints or writes may carry it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from netdiag.cli.main import invoke

CANARY = "C4n%2Fary"  # percent-encoded, so that the decoded form is looked for too
PLAIN = "C4n/ary"
FORMS = [
    "postgresql://u:{}@127.0.0.1:1/x",
    "postgres://127.0.0.1:1/x?user=u&password={}",
    "jdbc:postgresql://127.0.0.1:1/x?user=u&password={}",
    "jdbc:yugabytedb://u:{}@127.0.0.1:1/x",
    "host=127.0.0.1 port=1 user=u password={}",
    "host=127.0.0.1 port=1 user=u password='{}'",
]
BROKEN = [
    "postgresql://u:{}@127.0.0.1:x/x",
    "postgresql://u:{}@/x",
    "postgresql://u:{}/y@127.0.0.1/x",
    "postgresql://u:12/{}@127.0.0.1/x",
    "postgresql://u:{}@127.0.0.1:1/x?sslmode=bad",
    "mysql://u:{}@127.0.0.1/x",
    "u:{}@127.0.0.1",
    "u:{}@127.0.0.1:5432",
    "host=127.0.0.1 port=1 user=u password='{}",
    "password={}",
]
COMMANDS = [
    ["run", "{}", "--quick"],
    ["run", "{}", "--quick", "--format", "json"],
    ["check", "{}"],
    ["probe", "database", "{}", "--set", "attempts=1"],
    ["probe", "database", "{}", "--set", "attempts=1", "--format", "json"],
    ["probe", "mtu", "{}", "--timeout", "5s"],
]
MISUSED = [
    ["{}"],
    ["{}", "--format", "json"],
    ["run", "--plan", "{}"],
    ["run", "--against", "{}", "h"],
    ["run", "--output", "/proc/{}", "h"],
    ["run", "--budget", "{}", "h"],
    ["run", "--format", "{}", "h"],
    ["run", "--format={}", "h"],
    ["run", "--rate={}", "h"],
    ["run", "--{}", "h"],
    ["run", "--vantage", "x\n{}", "h"],
    ["probe", "{}", "h"],
    ["probe", "latency", "h", "{}"],
    ["probe", "latency", "h:1", "--set", "{}"],
    ["probe", "latency", "h:1", "--set", "count={}"],
    ["probe", "latency", "--timeout", "{}", "h:1"],
    ["check", "--timeout", "{}", "h"],
    ["check", "--no-such={}", "h"],
    ["replay", "{}"],
    ["replay", "x", "{}"],
    ["explain", "{}"],
    ["plan", "check", "{}"],
    ["plan", "{}"],
    ["version", "{}"],
    ["doctor", "{}"],
]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def assert_clean(capsys, folder: Path, *allowed: Path) -> None:
    told = capsys.readouterr()
    written = [path for path in folder.rglob("*") if path.is_file() and path not in allowed]
    everything = told.out + told.err + "".join(path.read_text() + path.name for path in written)
    assert CANARY not in everything
    assert PLAIN not in everything
    assert "Traceback" not in everything


def filled(arguments: list[str], form: str) -> list[str]:
    return [argument.replace("{}", form) for argument in arguments]


@pytest.mark.loopback
@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("form", FORMS[:1] + FORMS[4:5])
def test_every_command_that_measures(arguments, form, folder, capsys):
    output = ["--output", str(folder / "out")] if arguments[0] == "run" else []
    assert invoke([*filled(arguments, form.format(CANARY)), *output]) in (0, 2)
    assert_clean(capsys, folder)


@pytest.mark.loopback
def test_every_form_in_one_run_and_its_replay(folder, capsys):
    invoke(["run", "--quick", "--output", str(folder / "out"), *(form.format(CANARY) for form in FORMS)])
    assert_clean(capsys, folder)
    assert invoke(["replay", str(folder / "out" / "run.json"), "--format", "json"]) == 2
    assert_clean(capsys, folder)


@pytest.mark.loopback
def test_environment_password_file_service_and_plan(folder, capsys, monkeypatch):
    passfile, service, plan = folder / ".pgpass", folder / ".pg_service.conf", folder / "plan.toml"
    passfile.write_text(f"*:*:*:*:{PLAIN}\n")
    passfile.chmod(0o600)
    service.write_text(f"[svc]\nhost=127.0.0.1\nport=1\nuser=u\npassword={PLAIN}\n")
    plan.write_text(f'version = 1\n[[endpoint]]\nname = "a"\nurl = "postgresql://u:{CANARY}@127.0.0.1:1/x"\n')
    for arguments in (["run", "--quick", "host=127.0.0.1 port=1 user=u"], ["check", "service=svc"]):
        assert invoke(arguments) == 2
    assert invoke(["check", "--plan", str(plan)]) == 2
    assert invoke(["plan", "check", str(plan)]) == 0
    monkeypatch.setenv("PGPASSWORD", PLAIN)
    assert invoke(["run", "--quick", "--format", "json", "postgresql://u@127.0.0.1:1/x"]) == 2
    assert_clean(capsys, folder, passfile, service, plan)


@pytest.mark.parametrize("form", BROKEN)
@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_every_error_about_a_target(arguments, form, folder, capsys):
    assert invoke(filled(arguments, form.format(CANARY))) == 3
    assert_clean(capsys, folder)


@pytest.mark.parametrize("form", [FORMS[0], FORMS[4], BROKEN[6]])
@pytest.mark.parametrize("arguments", MISUSED, ids=" ".join)
def test_a_dsn_where_none_belongs(arguments, form, folder, capsys):
    assert invoke(filled(arguments, form.format(CANARY))) == 3
    assert_clean(capsys, folder)


def test_a_faulty_plan_with_a_password_in_it(folder, capsys):
    plan = folder / "plan.toml"
    good = f'version = 1\n[[endpoint]]\nname = "a"\nurl = "postgresql://u:{CANARY}@127.0.0.1:1/x"\n'
    for old, new in (
        (":1/x", ":99999/x"),
        ('/x"\n', "/x\n"),
        ("url", "ulr"),
        ('"postgres', '["postgres'),
        ("u:", "u:/"),
    ):
        plan.write_text(good.replace(old, new))
        assert invoke(["plan", "check", str(plan)]) == 3
        assert invoke(["run", "--plan", str(plan), "--format", "json"]) == 3
        assert invoke(["check", "--plan", str(plan)]) == 3
    assert_clean(capsys, folder, plan)


def test_a_defect_with_a_password_in_its_hands(folder):
    child = """
import sys
from netdiag.cli import run
from netdiag.cli.main import main
def defect(plan, *more):
    raise RuntimeError(plan.endpoints[0].credentials.password.reveal())
run.measure = defect
main()
"""
    command = [sys.executable, "-c", child, "run", FORMS[0].format(CANARY)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=os.environ.copy())
    (crash,) = (folder / "state" / "netdiag").iterdir()
    everything = done.stdout + done.stderr + crash.read_text()
    assert done.returncode == 3
    assert "internal error: RuntimeError" in everything
    assert PLAIN not in everything
    assert CANARY not in everything
    assert "Traceback" not in everything
