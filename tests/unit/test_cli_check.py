"""`netdiag check`: the plugin line in every verdict, one at a time, never late, and the run kept."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from netdiag import paths
from netdiag.cli import check, conclude, history, nagios
from netdiag.cli.main import invoke
from netdiag.diagnosis.finding import Verdict
from netdiag.plan.model import Endpoint, Plan
from tests.unit.cli_support import ENDPOINT, a_run, diagnosis, latency

# The monitoring plugins' guidelines: 'label'=value[UOM];[warn];[crit];[min];[max], or U for an unknown value.
PERFDATA = re.compile(r"'((?:[^'=]|'')+)'=(?:U|(-?\d+(?:\.\d+)?)(us|ms|s|%|B|KB|MB|GB|TB|c)?(?:;[^; ]*){0,4})(?: |$)")
STATES = {"OK": 0, "WARNING": 1, "CRITICAL": 2, "UNKNOWN": 3}


def parse_plugin_line(output: str) -> tuple[int, str, dict[str, float | None]]:
    """As a monitoring core reads it."""
    assert output.endswith("\n")
    assert output.count("\n") == 1
    assert len(output.encode()) < 4096
    text, _, figures = output.rstrip("\n").partition("|")
    state = re.fullmatch(r"NETDIAG (OK|WARNING|CRITICAL|UNKNOWN) - (\S.*?) ?", text)
    assert state, text
    assert PERFDATA.sub("", figures.strip()) == ""
    return STATES[state[1]], state[2], {m[1]: m[2] and float(m[2]) for m in PERFDATA.finditer(figures.strip())}


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    return tmp_path / "netdiag"


@pytest.fixture
def verdict(monkeypatch):
    """Make the next check end with this verdict."""

    def arrange(verdict: Verdict, *statements: str, run=None):
        monkeypatch.setattr(check, "measure", lambda plan, settings, *listeners: run or a_run())
        monkeypatch.setattr(conclude, "diagnose", lambda run: diagnosis(verdict, *statements))

    return arrange


@pytest.mark.parametrize(
    ("wanted", "statements", "status", "text"),
    [
        (Verdict.HEALTHY, (), 0, "1 endpoint healthy, 1 measurement"),
        (Verdict.DEGRADED, ("it is slow.",), 1, "db.port-closed: it is slow."),
        (Verdict.CRITICAL, ("it is dead.", "and more."), 2, "db.port-closed: it is dead. (and 1 more)"),
        (Verdict.UNKNOWN, (), 3, "could not tell: no name resolves"),
        (Verdict.CRITICAL, ("hostile | text\nwith 'lines' | and\x1b[31m bars",), 2, None),
    ],
)
def test_the_line_and_the_status_of_every_verdict(verdict, capsys, wanted, statements, status, text):
    verdict(wanted, *statements)
    assert invoke(["check", "db:5432"]) == status
    state, told, figures = parse_plugin_line(capsys.readouterr().out)
    assert state == status
    assert text is None or told == text
    # 4 sent, 1 lost; nearest rank of 10, 20 and 30 ms.
    assert figures == {"db:5432 rtt_p50": 0.02, "db:5432 rtt_p95": 0.03, "db:5432 loss": 25.0}


def test_what_was_not_measured_is_u_and_never_0():
    run = a_run(latency(None, None), plan=Plan(endpoints=(ENDPOINT, replace(ENDPOINT, name="x=y'|z", database=True))))
    _, _, figures = parse_plugin_line(nagios.status_line(run, diagnosis(Verdict.HEALTHY)) + "\n")
    assert figures["db:5432 rtt_p50"] is None
    assert figures["db:5432 loss"] == 100.0
    others = {label: figure for label, figure in figures.items() if label.startswith("x_y_/z")}
    assert len(others) == 7
    assert set(others.values()) == {None}


def test_a_hundred_endpoints_stay_under_4_kb_and_end_at_a_whole_figure():
    endpoints = tuple(Endpoint(name=f"a-rather-long-name-of-a-place-{i}", host="h") for i in range(100))
    run = a_run(plan=Plan(endpoints=endpoints))
    _, _, figures = parse_plugin_line(nagios.status_line(run, diagnosis(Verdict.CRITICAL, "x" * 5000)) + "\n")
    assert len(figures) > 20


def test_quiet_says_nothing_when_healthy_and_speaks_otherwise(verdict, capsys):
    verdict(Verdict.HEALTHY)
    assert invoke(["check", "-q", "db"]) == 0
    assert capsys.readouterr().out == ""
    verdict(Verdict.CRITICAL, "dead.")
    assert invoke(["check", "-q", "db"]) == 2
    assert parse_plugin_line(capsys.readouterr().out)[0] == 2


def test_the_run_is_kept_readable_by_its_owner_alone_and_the_oldest_are_dropped(verdict, state):
    for number in range(5):
        verdict(Verdict.HEALTHY, run=replace(a_run(), run_id=f"20240125T03000{number}Z-0000000{number}"))
        assert invoke(["check", "--keep", "3", "db"]) == 0
    kept = sorted((state / "runs").iterdir())
    assert [path.name[:16] for path in kept] == ["20240125T030002Z", "20240125T030003Z", "20240125T030004Z"]
    assert json.loads(kept[0].read_bytes())["schema"] == "netdiag.run/1"
    assert kept[0].stat().st_mode & 0o777 == 0o600
    assert (state / "runs").stat().st_mode & 0o777 == 0o700


def test_runs_are_dropped_until_their_size_is_allowed_and_the_newest_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(history, "LARGEST_HISTORY", 2500)
    for number in range(5):
        history.keep_run(tmp_path, f"2024012{number}T000000Z-a.json", b"x" * 1000, 100)
    assert sorted(path.name[:8] for path in tmp_path.iterdir()) == ["20240123", "20240124"]
    history.keep_run(tmp_path, "20240125T000000Z-a.json", b"x" * 9000, 100)
    assert [path.name[:8] for path in tmp_path.iterdir()] == ["20240125"]


def test_runs_of_a_clock_that_was_ahead_do_not_push_out_those_of_today(tmp_path):
    for day in ("20990101", "20990102", "20240124", "20240125"):
        history.keep_run(tmp_path, f"{day}T000000Z-a.json", b"x", 2)
    assert sorted(path.name[:8] for path in tmp_path.iterdir()) == ["20240124", "20240125"]


def test_what_a_killed_check_left_half_written_goes_and_what_is_being_written_stays(tmp_path):
    for name, age in ((".20240124T000000Z-a.json.k2j3", 7200), (".20240125T000000Z-b.json.x1y2", 5)):
        (tmp_path / name).write_bytes(b"half")
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    history.keep_run(tmp_path, "20240125T000000Z-a.json", b"x", 9)
    assert {path.name for path in tmp_path.iterdir()} == {".20240125T000000Z-b.json.x1y2", "20240125T000000Z-a.json"}


def test_a_full_disk_still_forgets_the_oldest(tmp_path, monkeypatch):
    for number in range(4):
        history.keep_run(tmp_path, f"2024012{number}T000000Z-a.json", b"x", 9)

    def full(*arguments, **more):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(history, "write_atomically", full)
    with pytest.raises(OSError, match="No space left"):
        history.keep_run(tmp_path, "20240125T000000Z-a.json", b"x", 2)
    assert sorted(path.name[:8] for path in tmp_path.iterdir()) == ["20240122", "20240123"]


def test_a_state_folder_that_cannot_be_written_costs_the_history_only(verdict, capsys, monkeypatch):
    verdict(Verdict.HEALTHY)
    monkeypatch.setenv("XDG_STATE_HOME", "/proc/self")
    assert invoke(["check", "db"]) == 0
    told = capsys.readouterr()
    assert parse_plugin_line(told.out)[0] == 0
    assert "no lock: the state folder cannot be written" in told.err
    assert "the run was not kept" in told.err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["check", "db:70000"], "the port is not a number from 1 to 65535"),
        (["check", "--plan", "/nonexistent.toml"], "/nonexistent.toml: cannot be read"),
        (["check", "--no-such"], "No such option"),
        (["check", "--timeout", "55", "db"], "--timeout: a duration needs its unit"),
        (["check", "--timeout", "0s", "db"], "--timeout: must be more than nothing"),
        (["check", "--rate", "nan", "db"], "--rate: must be a finite number"),
        (["check"], "no target"),
    ],
)
def test_what_cannot_be_checked_is_unknown_on_one_line(capsys, monkeypatch, arguments, text):
    for name in ("PGHOST", "PGHOSTADDR", "PGSERVICE"):
        monkeypatch.delenv(name, raising=False)
    assert invoke(arguments) == 3
    state, told, _ = parse_plugin_line(capsys.readouterr().out)
    assert state == 3
    assert text in told


def test_a_second_check_of_the_same_targets_says_so_and_leaves(verdict, capsys):
    verdict(Verdict.HEALTHY)
    with check._lock(check._identity(Plan(endpoints=(ENDPOINT,))), []) as alone:
        assert alone
        assert invoke(["check", "db:5432"]) == 3
        assert "another netdiag check of the same targets is still running" in capsys.readouterr().out
        assert invoke(["check", "other:5432"]) == 0
    assert invoke(["check", "db:5432"]) == 0


HANGS = """
import sys, time
from netdiag.cli import check
from netdiag.cli.main import main
check.measure = lambda plan, settings, *listeners: time.sleep(600)
main()
"""


def test_whatever_hangs_the_check_ends_at_its_timeout():
    command = [sys.executable, "-c", HANGS, "check", "--timeout", "1s", "db"]
    child = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (child.returncode, child.stdout) == (3, "NETDIAG UNKNOWN - no result within 1 s\n")


@pytest.mark.loopback
@pytest.mark.parametrize("home", [True, False])
def test_under_an_empty_environment_as_cron_has_it(tmp_path, home):
    """A closed port of this host: the network answers at once, and the answer is critical."""
    environ = {"HOME": str(tmp_path)} if home else {"XDG_STATE_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "netdiag.cli.main", "check", "--timeout", "20s", "127.0.0.1:1"]
    child = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environ, cwd=Path.cwd())
    state, text, _ = parse_plugin_line(child.stdout)
    assert (child.returncode, state) == (2, 2)
    assert "db.port-closed" in text
    assert child.stderr == ""
    folder = tmp_path / (".local/state/netdiag" if home else "netdiag")
    (run,) = (folder / "runs").iterdir()
    assert json.loads(run.read_bytes())["verdict"] == "critical"


def test_no_home_at_all_uses_the_user_database(monkeypatch):
    import pwd

    from netdiag.paths import home_folder, state_folder

    assert home_folder({}) == Path(pwd.getpwuid(os.getuid()).pw_dir)
    assert home_folder({"HOME": "relative"}) == home_folder({})
    assert state_folder({"STATE_DIRECTORY": "/var/lib/netdiag:/other"}) == Path("/var/lib/netdiag")
    for name in ("HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert state_folder({}) == home_folder({}) / ".local/state/netdiag"
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    assert state_folder({}) == home_folder({}) / ".local/state/netdiag"


@pytest.fixture
def shared(tmp_path, monkeypatch) -> Path:
    """In the place of /var/tmp, for a user whose home does not exist."""
    monkeypatch.setattr(paths, "SHARED", tmp_path)
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setenv("HOME", "/nonexistent")
    return tmp_path / f"netdiag-{os.getuid()}"


def test_a_user_without_a_home_keeps_runs_in_a_folder_of_its_own(verdict, shared, capsys):
    verdict(Verdict.HEALTHY)
    assert invoke(["check", "db"]) == 0
    assert capsys.readouterr().err == ""
    assert len(list((shared / "runs").iterdir())) == 1
    assert shared.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("trap", ["link", "open to others"])
def test_a_folder_that_somebody_else_laid_out_is_not_used(verdict, shared, tmp_path, capsys, trap):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    if trap == "link":
        shared.symlink_to(elsewhere)
    else:
        shared.mkdir()
        shared.chmod(0o777)
    verdict(Verdict.HEALTHY)
    assert invoke(["check", "db"]) == 0
    told = capsys.readouterr()
    assert "is not this user's alone" in told.err
    assert parse_plugin_line(told.out)[0] == 0
    assert list(elsewhere.iterdir()) == []
    assert list(shared.iterdir()) == []


def test_quiet_is_silent_about_warnings_too_until_there_is_news(verdict, capsys, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", "/proc/self")
    verdict(Verdict.HEALTHY)
    assert invoke(["check", "-q", "db"]) == 0
    assert capsys.readouterr() == ("", "")
    verdict(Verdict.CRITICAL, "it is dead.")
    assert invoke(["check", "-q", "db"]) == 2
    told = capsys.readouterr()
    assert "the run was not kept" in told.err
    assert parse_plugin_line(told.out)[0] == 2
