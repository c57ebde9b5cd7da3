"""What a tired person types, and what a sick machine does: one clear line, the right exit status, never a traceback."""

from __future__ import annotations

import json
import os
import pty
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from netdiag.cli.measure import stopping_signals
from netdiag.lab.postgres import Server, free_port, postgres_server
from tests.command_line import PATIENCE_S, PROGRAM, Ran, clean_environment, netdiag

pytestmark = pytest.mark.loopback
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it mounts, or drops privileges")


@pytest.fixture(autouse=True)
def hangup_as_usual() -> Iterator[None]:
    """Under nohup SIGHUP is ignored, here and in every child."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


CLOSED = f"127.0.0.1:{free_port()}"
NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs")

ENDPOINT = "[[endpoint]]\nname = 'x'\nurl = '127.0.0.1:1'\n"
PLANS = {  # where the fault is not in the endpoint, ENDPOINT stands below it
    "an unknown key": ("version = 1\n[limits]\nbudgte = '60s'\n", (":3:", "budgte", "budget")),
    "a wrong unit": ("version = 1\n[limits]\nbudget = '60 parsecs'\n", (":3:", "budget", "s, m")),
    "a wrong type": ("version = 1\n[limits]\npackets_per_second = 'many'\n", (":3:", "packets_per_second")),
    "a negative limit": ("version = 1\n[limits]\npackets_per_second = -1\n", (":3:", "packets_per_second")),
    "no TOML": ("version = 1\n[limits\n", (":2:", "TOML")),
    "a later version": ("version = 99\n", (":1:", "version")),
    "port 0": ("version = 1\n[[endpoint]]\nname = 'x'\nurl = 'postgresql://h:0/d'\n", (":4:", "url", "65535")),
    "an unknown role": ("version = 1\n[[endpoint]]\nname = 'x'\nrole = 'leader'\nurl = 'h:1'\n", (":4:", "role")),
    "binary": ("version = 1\0\n", (":1:", "TOML")),
}
TARGETS = {
    "nothing": ((), "no target"),
    "empty": (("",), "no target"),
    "blank": (("  ",), "no target"),
    "port 0": (("127.0.0.1:0",), "65535"),
    "port 70000": (("127.0.0.1:70000",), "65535"),
    "port 0 in a URL": (("postgresql://app@127.0.0.1:0/db",), "65535"),
    "port 70000 in a URL": (("postgresql://app@127.0.0.1:70000/db",), "65535"),
    "no port": (("127.0.0.1:",), "65535"),
    "a port in words": (("127.0.0.1:postgres",), "65535"),
    "another scheme": (("https://db.example/",), "not PostgreSQL"),
    "a number": (("5432",), "number"),
    "control characters": (("db\x1b[2J.example:1",), "control"),
    "a socket": (("host=/var/run/postgresql",), "Unix socket"),
    "an unknown sslmode": (("postgresql://127.0.0.1/db?sslmode=maybe",), "sslmode"),
    "no such service": (("service=nowhere",), "nowhere"),
    "a bad budget": (("127.0.0.1:1", "--budget", "soon"), "--budget"),
    "a budget of nothing": (("127.0.0.1:1", "--budget", "0s"), "--budget"),
    "an unknown option": (("127.0.0.1:1", "--fast"), "--fast"),
    "a bad format": (("127.0.0.1:1", "--format", "yaml"), "yaml"),
    "an earlier run that is not there": (("127.0.0.1:1", "--against", "/nonexistent.json"), "/nonexistent.json"),
    "a plan that is not there": (("--plan", "/nonexistent.toml"), "/nonexistent.toml"),
    "a plan that is a folder": (("--plan", "/"), "directory"),
    "an output folder that cannot be": (("127.0.0.1:1", "--output", "/proc/netdiag"), "/proc/netdiag"),
    "an output folder that is a file": (("127.0.0.1:1", "--output", "/etc/passwd"), "/etc/passwd"),
}


def refused(ran: Ran, *said: str) -> None:
    """One clear line, and at most one more that says what to do."""
    assert (ran.status, ran.stdout) == (3, ""), ran
    lines = ran.stderr.splitlines()
    assert 1 <= len(lines) <= 2, ran.stderr
    assert all(line.startswith("netdiag: ") for line in lines), ran.stderr
    for text in said:
        assert text in ran.stderr
    assert "Traceback" not in ran.stderr
    assert lines[0].isprintable()


def refused_as_json(ran: Ran, *said: str) -> None:
    assert (ran.status, ran.document["schema"]) == (3, "netdiag.error/1"), ran
    assert set(ran.document) == {"schema", "error", "hint"}
    for text in said:
        assert text in f"{ran.document['error']} {ran.document['hint']}"
    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize("case", TARGETS)
def test_a_bad_target(case):
    arguments, said = TARGETS[case]
    refused(netdiag("run", *arguments), said)


@pytest.mark.parametrize("case", [case for case in TARGETS if case != "a bad format"])
def test_a_bad_target_as_json(case):
    arguments, said = TARGETS[case]
    refused_as_json(netdiag("run", "--format", "json", *arguments), said)


@pytest.mark.parametrize("case", PLANS)
def test_a_bad_plan(case, tmp_path):
    text, said = PLANS[case]
    plan = tmp_path / "plan.toml"
    plan.write_text(text if "endpoint" in text else text + ENDPOINT)
    refused(netdiag("run", "--plan", str(plan)), str(plan), *said)
    refused_as_json(netdiag("run", "--plan", str(plan), "--format=json"), *said)
    refused(netdiag("plan", "check", str(plan)), str(plan), *said)
    line = netdiag("check", "--plan", str(plan))
    assert (line.status, line.stdout.count("\n")) == (3, 1)
    assert line.stdout.startswith("NETDIAG UNKNOWN - ")


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"[]", b"null", b'{"schema": "netdiag.run/9"}', b'{"schema": "netdiag.run/1"}', b"\xff\xfe\x00"]
)
def test_a_run_that_is_none(raw, tmp_path):
    saved = tmp_path / "run.json"
    saved.write_bytes(raw)
    refused(netdiag("replay", str(saved)))
    refused_as_json(netdiag("replay", str(saved), "--format", "json"))


@pytest.mark.parametrize(
    "arguments",
    [(), ("no-such-command",), ("probe", "portz", CLOSED), ("probe", "ports", CLOSED, "--set", "x=1"), ("replay",)],
)
def test_bad_usage_is_status_3(arguments):
    refused(netdiag(*arguments))


@needs_root
def test_an_unreadable_plan(tmp_path):
    plan = tmp_path / "plan.toml"
    plan.write_text("version = 1\n")
    plan.chmod(0o000)
    tmp_path.chmod(0o755)
    refused(netdiag("run", "--plan", str(plan), launcher=NOBODY), str(plan))


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    setup = ("CREATE ROLE app LOGIN PASSWORD 'right'",)
    with postgres_server(hba=("host all all all scram-sha-256",), setup=setup) as started:
        yield started


@needs_root
@pytest.mark.parametrize("mode", [0o000, 0o644])
def test_a_password_file_that_libpq_would_not_use_is_said_once_and_is_no_failed_login(server, tmp_path, mode):
    """Too open, or not readable: the run goes on without a password, and says why the login is not measured."""
    passwords = tmp_path / "pgpass"
    passwords.write_text("*:*:*:*:right\n")
    passwords.chmod(mode)
    for folder in (tmp_path, tmp_path.parent):
        folder.chmod(0o755)
    ran = netdiag(
        "run",
        f"postgresql://app@{server.host}:{server.port}/postgres",
        "--quick",
        "--format=json",
        launcher=NOBODY,
        environment={"PGPASSFILE": str(passwords)},
    )
    assert (ran.causes, ran.status) == ([], 0), ran
    assert [line for line in ran.stderr.splitlines() if str(passwords) in line], ran.stderr
    assert len(ran.stderr.splitlines()) == 1
    assert "db.auth-failed" in ran.not_measured()


def test_several_problems_of_a_plan_are_told_together(tmp_path):
    plan = tmp_path / "plan.toml"
    plan.write_text("version = 1\ncolour = 'red'\n[limits]\nbudget = 'long'\n" + ENDPOINT)
    ran = netdiag("plan", "check", str(plan))
    assert ran.status == 3
    first, second, _ = ran.stderr.splitlines()
    assert (":2:" in first, ":4:" in second) == (True, True), ran.stderr


# Stopped in the middle


@contextmanager
def under_way(*arguments: str, home: Path) -> Iterator[subprocess.Popen[str]]:
    """A run against a listener that never answers, once its connections have begun."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as silent:
        silent.settimeout(PATIENCE_S)
        target = f"postgresql://app:right@127.0.0.1:{silent.getsockname()[1]}/db?connect_timeout=20"
        process = subprocess.Popen(
            [str(PROGRAM), "run", target, "--budget", "60s", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=clean_environment(home),
            cwd=home,
        )
        try:
            connection, _ = silent.accept()  # the port probe's
            connection.close()
            connection, _ = silent.accept()  # the first of the database's
            with connection:
                yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_run_with_the_report_so_far(number, tmp_path):
    with under_way("--format", "json", home=tmp_path) as process:
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=20)
    ran = Ran(argv=(), status=process.returncode, stdout=stdout, stderr=stderr)
    assert (ran.document["partial"], ran.document["end_reason"]) == (True, "interrupted")
    assert ran.status in (0, 1, 2, 3)
    assert "Traceback" not in stderr
    assert ran.causes == [], "what was interrupted is no fault"
    assert ran.measurements("ports")[0]["outcome"] == "measured"
    assert ran.measurements("database")[0]["outcome"] == "interrupted"


def test_an_interrupted_text_report_says_so(tmp_path):
    with under_way(home=tmp_path) as process:
        process.send_signal(signal.SIGTERM)
        stdout, _ = process.communicate(timeout=20)
    assert "Issue Description" in stdout
    assert "partial" in stdout or "interrupted" in stdout


def test_a_second_signal_does_not_break_the_report(tmp_path):
    with under_way("--format", "json", home=tmp_path) as process:
        process.send_signal(signal.SIGINT)
        time.sleep(0.05)
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=20)
    assert '"netdiag.run/1"' in stdout
    assert "Traceback" not in stderr


def test_a_terminal_that_is_gone_costs_the_print_and_not_the_files(tmp_path):
    """ssh breaks off at 03:00: the kernel sends SIGHUP, and every write to the terminal is EIO from then on."""
    ours, theirs = pty.openpty()
    with socket.create_server(("127.0.0.1", 0), backlog=64) as silent:
        silent.settimeout(PATIENCE_S)
        target = f"postgresql://app:right@127.0.0.1:{silent.getsockname()[1]}/db?connect_timeout=20"
        process = subprocess.Popen(
            ["setsid", "--ctty", "--wait", str(PROGRAM), "run", target, "--output", str(tmp_path / "out")],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=clean_environment(tmp_path),
        )
        os.close(theirs)
        connection, _ = silent.accept()
        os.close(ours)
        assert process.wait(timeout=30) == 3
        connection.close()
    saved = json.loads((tmp_path / "out" / "run.json").read_bytes())
    assert (saved["partial"], saved["end_reason"]) == (True, "interrupted")
    assert (tmp_path / "out" / "report.txt").exists()
    assert not list((tmp_path / ".local/state/netdiag").glob("crash-*"))


def test_nohup_keeps_a_run_going(monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert signal.SIGHUP not in stopping_signals()
    finally:
        signal.signal(signal.SIGHUP, before)
    assert signal.SIGHUP in stopping_signals()


def test_nothing_is_left_behind_after_kill(tmp_path):
    output = tmp_path / "out"
    with under_way("--output", str(output), home=tmp_path) as process:
        process.kill()
        process.communicate()
        children = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True)
    assert children.stdout.split() == []
    left = [path for path in output.rglob("*") if path.name.startswith(".") or path.name.startswith("report")]
    assert left == [], "half a report, or a temporary file"


def test_a_reader_that_goes_away_is_no_error():
    """netdiag ... | head -1"""
    command = f"{PROGRAM} run {CLOSED} --quick | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.startswith("netdiag - Network Diagnosis Summary")
    assert done.stderr == ""


@needs_root
def test_a_full_disk_costs_the_files_and_not_the_report(tmp_path):
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", str(place)], check=True)
    try:
        ran = netdiag("run", CLOSED, "--quick", "--output", str(place))
        left = {path.name for path in place.iterdir() if path.name.startswith(".")}
    finally:
        subprocess.run(["umount", str(place)], check=True)
    assert ran.status == 2
    assert ran.stdout.startswith("netdiag - Network Diagnosis Summary")
    assert "answers connection attempts by RST" in ran.stdout
    complaints = [line for line in ran.stderr.splitlines() if "No space left" in line]
    assert complaints
    assert all(line.startswith("netdiag: ") for line in ran.stderr.splitlines())
    assert left == set(), "a temporary file was left"


@needs_root
def test_standard_output_on_a_full_disk():
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [str(PROGRAM), "run", CLOSED, "--quick"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 3
    assert "No space left" in done.stderr
    assert "Traceback" not in done.stderr


# Refused by the kernel


def test_few_file_descriptors_are_a_local_reason_and_no_loss():
    """ulimit -n: what this host cannot open, it did not send."""
    command = f"ulimit -n 24; exec {PROGRAM} run {CLOSED} --quick --format json"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=False)
    assert "Traceback" not in done.stderr
    assert done.returncode in (2, 3)
    ran = Ran(argv=(), status=done.returncode, stdout=done.stdout, stderr=done.stderr)
    if ran.document["schema"] == "netdiag.run/1":
        assert not {"link.loss", "firewall.drop"} & set(ran.causes), ran
