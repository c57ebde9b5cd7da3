"""The command line's promises: exit statuses, one JSON document, errors in one line, output that is whole or absent."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager

import pytest

from netdiag.cli import conclude, output
from netdiag.cli import run as run_module
from netdiag.cli.conclude import conclude as concluded
from netdiag.cli.main import invoke
from netdiag.diagnosis.finding import Verdict
from netdiag.explain import codes
from tests.unit.cli_support import a_run, diagnosis

COMMAND = [sys.executable, "-m", "netdiag.cli.main"]


def command(*arguments: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=90, **options)


def error_document(text: str) -> dict:
    document = json.loads(text)
    assert set(document) == {"schema", "error", "hint"}
    assert document["schema"] == "netdiag.error/1"
    return document


@pytest.fixture
def measured(monkeypatch):
    """What was handed to the runner; the run itself is a ready-made one."""
    handed = []

    def measure(plan, settings, *listeners):
        handed.append((plan, settings))
        return a_run()

    monkeypatch.setattr(run_module, "measure", measure)
    return handed


@contextmanager
def listener():
    """A server that accepts and never says anything; yields its port and an event: somebody connected."""
    connected = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        held = []

        def accept():
            while True:
                try:
                    held.append(server.accept()[0])
                except OSError:
                    return
                connected.set()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield server.getsockname()[1], connected
        server.shutdown(socket.SHUT_RDWR)
        thread.join(10)
        for connection in held:
            connection.close()


# --- usage -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no command given"),
        (["nonsense"], "No such command 'nonsense'"),
        (["run", "--nonsense"], "No such option: --nonsense"),
        (["run", "--format", "yaml", "h"], "Invalid value for '--format'"),
        (["run", "--rate", "x", "h"], "Invalid value for '--rate'"),
        (["run", "--rate", "0", "h"], "Invalid value for '--rate'"),
        (["run", "--rate", "inf", "h"], "--rate: must be a finite number"),
        (["run", "--bulk-read", "16", "h"], "--bulk-read: a size needs its unit"),
        (["run", "--bulk-read", "0MiB", "h"], "--bulk-read: must be more than nothing and at most 1GiB"),
        (["run", "--bulk-read", "2GiB", "h"], "--bulk-read: must be more than nothing and at most 1GiB"),
        (["run", "--budget", "60", "h"], '--budget: a duration needs its unit; write "60ms" or "60s"'),
        (["run", "--budget", "9d", "h"], "--budget: must be more than nothing and at most 7d"),
        (["run", "--vantage", "a\x1b[31m", "h"], "--vantage: must be printable"),
        (["run", "h:0"], "the port is not a number from 1 to 65535"),
        (["run", "h:1", "h:70000"], "target 2: the port is not a number"),
        (
            ["run", "--against", "/proc/nonexistent", "h"],
            "/proc/nonexistent: cannot be read (No such file or directory)",
        ),
        (["run", "--plan", "/proc/nonexistent"], "/proc/nonexistent: cannot be read (No such file or directory)"),
        (["run", "--output", "/proc/nonexistent/x", "h"], "--output /proc/nonexistent/x: cannot be written"),
        (["replay"], "Missing argument 'RUN.json'"),
        (["replay", "/etc"], "/etc: cannot be read (Is a directory)"),
        (["replay", "/dev/null"], "/dev/null: not JSON"),
        (["probe", "latency"], "no target given"),
        (["probe", "latncy", "h"], "no probe is called 'latncy'"),
        (["probe", "latency", "h:1", "--set", "cuont=3"], "did you mean count?"),
        (["probe", "latency", "h:1", "--set", "count=many"], "--set count: Expected `int`"),
        (["probe", "database", "h:1", "--set", "password=x"], "--set password: a secret is not an argument"),
        (["explain", "db.port-colsed"], "no finding has the code 'db.port-colsed'"),
        (["plan"], "Missing command"),
        (["plan", "check", "/proc/nonexistent"], "cannot be read"),
    ],
)
def test_bad_usage_is_status_3_one_line_and_no_output(arguments, message, capsys):
    assert invoke(arguments) == 3
    told = capsys.readouterr()
    assert told.out == ""
    assert message in told.err
    assert all(line.startswith("netdiag: ") for line in told.err.splitlines())
    assert len(told.err.splitlines()) <= 2
    if "--format" not in arguments and len(arguments) > 1 and arguments[:2] != ["plan"]:
        assert invoke([*arguments, "--format", "json"]) == 3
        told = capsys.readouterr()
        assert message in error_document(told.out)["error"] + str(error_document(told.out)["hint"])
        assert told.err == ""


def test_a_typing_mistake_is_answered_with_what_was_meant(capsys):
    if "db.port-closed" not in codes():
        pytest.fail("the page of db.port-closed is missing")
    invoke(["explain", "db.port-colsed"])
    invoke(["probe", "latncy", "h"])
    told = capsys.readouterr().err
    assert "did you mean db.port-closed" in told
    assert "did you mean latency?" in told


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["run", "--help"], ["--version"], ["plan", "schema"]])
def test_asking_for_help_is_no_error(arguments, capsys):
    assert invoke(arguments) == 0
    assert capsys.readouterr().err == ""


def test_every_command_of_the_product_has_help(capsys):
    invoke(["--help"])
    listed = capsys.readouterr().out
    for name in ("run", "probe", "check", "replay", "explain", "doctor", "plan", "version"):
        assert re.search(rf"^  {name} ", listed, re.MULTILINE)
        assert invoke([name, "--help"]) == 0


def test_the_shell_completes_commands_codes_and_probes():
    def complete(words: str, at: int) -> list[str]:
        environ = os.environ | {"_NETDIAG_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(at)}
        return command(env=environ).stdout.split()

    assert complete("netdiag re", 1) == ["reflect", "replay"]
    assert complete("netdiag probe la", 2) == ["latency"]
    assert complete("netdiag explain db.", 2) == [code for code in codes() if code.startswith("db.")]


# --- run and replay ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verdict", "status"),
    [(Verdict.HEALTHY, 0), (Verdict.DEGRADED, 1), (Verdict.CRITICAL, 2), (Verdict.UNKNOWN, 3)],
)
def test_the_exit_status_is_the_verdict(measured, monkeypatch, capsys, verdict, status):
    monkeypatch.setattr(conclude, "diagnose", lambda run: diagnosis(verdict))
    assert invoke(["run", "db:5432", "--format", "json"]) == status
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "netdiag.run/1"
    assert document["verdict"] == verdict


def test_options_reach_the_runner(measured, capsys):
    arguments = ["--budget", "1500ms", "--rate", "50", "--quick", "--vantage", "app-7", "--region", "eu"]
    invoke(["run", "db:5432", "[::1]:1", *arguments])
    ((plan, settings),) = measured
    assert [endpoint.name for endpoint in plan.endpoints] == ["db:5432", "[::1]:1"]
    assert (settings.budget_s, settings.packets_per_second, settings.quick) == (1.5, 50.0, True)
    assert (plan.vantage.name, plan.vantage.region) == ("app-7", "eu")


def test_a_target_selects_an_endpoint_of_the_plan_by_name(measured, tmp_path, capsys):
    plan_file = tmp_path / "plan.toml"
    plan_file.write_text(
        'version = 1\n[[endpoint]]\nname = "a"\nhost = "ha"\n[[endpoint]]\nname = "b"\nrole = "replica"\nhost = "hb"\n'
    )
    invoke(["run", "--plan", str(plan_file)])
    invoke(["run", "--plan", str(plan_file), "b", "other:1"])
    assert [[e.name for e in plan.endpoints] for plan, _ in measured] == [["a", "b"], ["b", "other:1"]]
    assert measured[1][0].endpoints[0].role == "replica"
    assert measured[1][0].warnings == ("other:1 is no endpoint of the plan (a, b): taken as a target of its own",)
    assert "other:1 is no endpoint of the plan" in capsys.readouterr().err


def test_no_target_means_the_environment(measured, monkeypatch, capsys):
    monkeypatch.setenv("PGHOST", "from-env")
    monkeypatch.setenv("PGUSER", "u")
    invoke(["run"])
    ((plan, _),) = measured
    assert (plan.endpoints[0].host, plan.endpoints[0].credentials.user) == ("from-env", "u")


def test_an_earlier_run_is_the_baseline(measured, tmp_path, capsys):
    earlier = tmp_path / "run.json"
    earlier.write_bytes(concluded(a_run()).document())
    invoke(["run", "db:5432", "--against", str(earlier)])
    ((plan, _),) = measured
    assert [(baseline.target, baseline.loss) for baseline in plan.baselines] in ([], [("db:5432", 0.25)])


def test_output_writes_three_files_and_replay_gives_the_same_bytes(measured, tmp_path, capsysbinary):
    invoke(["run", "db:5432", "--output", str(tmp_path / "new" / "folder")])
    printed = capsysbinary.readouterr().out
    folder = tmp_path / "new" / "folder"
    assert sorted(path.name for path in folder.iterdir()) == ["report.md", "report.txt", "run.json"]
    assert (folder / "report.txt").read_bytes() == printed
    for form, name in (("text", "report.txt"), ("markdown", "report.md"), ("json", "run.json")):
        invoke(["replay", str(folder / "run.json"), "--format", form])
        assert capsysbinary.readouterr().out == (folder / name).read_bytes()


def test_replay_reads_standard_input(tmp_path):
    document = concluded(a_run()).document()
    child = subprocess.run(
        [*COMMAND, "replay", "-", "--format", "json"], input=document, capture_output=True, timeout=60
    )
    assert child.stdout == document


def test_a_full_disk_costs_the_file_and_not_the_report(measured, tmp_path, monkeypatch, capsys):
    def full(path, content, mode=0o644):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run_module, "write_atomically", full)
    invoke(["run", "db:5432", "--output", str(tmp_path)])
    told = capsys.readouterr()
    assert told.out.startswith("netdiag - Network Diagnosis Summary")
    assert told.err.count("could not be written (No space left on device); the report follows") == 3


def test_an_atomic_write_that_fails_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    from netdiag.cli.files import write_atomically

    path = tmp_path / "run.json"
    write_atomically(path, b"old")
    monkeypatch.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


# --- streams and signals -----------------------------------------------------------------------------------------


def test_a_reader_that_went_away_is_no_error():
    reader, writer = os.pipe()
    os.close(reader)
    child = subprocess.run([*COMMAND, "plan", "schema"], stdout=writer, stderr=subprocess.PIPE, timeout=60)
    os.close(writer)
    assert (child.returncode, child.stderr) == (0, b"")


@pytest.mark.parametrize(
    "arguments",
    [
        ("plan", "schema"),
        ("--version",),
        ("--help",),
        ("run", "--help"),
        ("explain",),
        ("run", "host:port", "--format", "json"),  # an error, told as a document
        ("check", "host:port"),  # an error, told as a plugin's line
    ],
)
def test_a_full_standard_output_is_told_on_stderr(arguments):
    with open("/dev/full", "w") as full:
        child = subprocess.run([*COMMAND, *arguments], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert child.returncode == 3
    assert "netdiag: standard output cannot be written (No space left on device)" in child.stderr
    assert "Traceback" not in child.stderr


def test_a_full_standard_error_does_not_change_the_status():
    with open("/dev/full", "w") as full:
        child = subprocess.run([*COMMAND, "run", "host:port"], stdout=subprocess.PIPE, stderr=full, timeout=60)
    assert (child.returncode, child.stdout) == (3, b"")


@pytest.mark.parametrize("closing", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_streams_are_no_traceback(closing):
    line = f'"{sys.executable}" -m netdiag.cli.main plan schema {closing}'
    child = subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=60)
    assert child.returncode == (0 if closing == "2>&-" else 3)
    assert "Traceback" not in child.stderr


def test_a_latin_1_terminal_gets_escapes_and_no_traceback(tmp_path):
    (tmp_path / "p.toml").write_text('version = 1\n[[endpoint]]\nname = "Zürich→"\nhost = "h"\n', encoding="utf-8")
    environ = {**os.environ, "PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"}
    command_line = [*COMMAND, "plan", "check", str(tmp_path / "p.toml")]
    child = subprocess.run(command_line, capture_output=True, timeout=60, env=environ)
    assert child.returncode == 0
    assert "Zürich\\u2192".encode("latin-1") in child.stdout


@pytest.mark.loopback
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_run_which_still_reports(number):
    with listener() as (port, connected):
        child = subprocess.Popen(
            [*COMMAND, "run", f"127.0.0.1:{port}", "--format", "json", "--budget", "60s"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert connected.wait(60)
        child.send_signal(number)
        out, err = child.communicate(timeout=30)
    document = json.loads(out)
    assert err == b""
    assert (document["end_reason"], document["partial"]) == ("interrupted", True)
    assert child.returncode == {"healthy": 0, "degraded": 1, "critical": 2, "unknown": 3}[document["verdict"]]


@pytest.mark.loopback
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(("form", "stdout"), [("text", None), ("json", {"error": "interrupted"})])
def test_a_signal_to_a_probe_is_status_3_and_still_one_document(number, form, stdout):
    with listener() as (port, connected):
        child = subprocess.Popen(
            [*COMMAND, "probe", "database", f"127.0.0.1:{port}", "--format", form],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert connected.wait(60)
        child.send_signal(number)
        out, err = child.communicate(timeout=30)
    told = {"schema": "netdiag.error/1", "hint": None, **stdout} if stdout else None
    assert (child.returncode, json.loads(out) if out else None, err) == (3, told, b"")


@pytest.mark.parametrize("module", ["netdiag.cli.output", "netdiag.cli.commands", "typer", "netdiag.cli.version"])
def test_an_interrupted_start_is_no_traceback(module):
    """Ctrl-C while ``module`` is being imported."""
    code = f"""
import sys
class Interrupting:
    def find_spec(self, name, *more):
        if name == {module!r}:
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupting())
from netdiag.cli.main import main
main()
"""
    child = subprocess.run([sys.executable, "-c", code, "version"], capture_output=True, text=True, timeout=60)
    assert (child.returncode, child.stdout, child.stderr) == (3, "", "")


def on_a_terminal(*arguments: str, environ: dict[str, str]) -> str:
    """The output of a command whose three streams are one terminal."""
    parent, terminal = pty.openpty()
    child = subprocess.Popen(
        [*COMMAND, *arguments], stdin=terminal, stdout=terminal, stderr=terminal, env=os.environ | environ
    )
    os.close(terminal)
    received = b""
    while True:
        ready, _, _ = select.select([parent], [], [], 60)
        try:
            chunk = os.read(parent, 65536) if ready else b""
        except OSError:  # EIO: the last process on the terminal is gone
            chunk = b""
        if not chunk:
            break
        received += chunk
    child.wait(30)
    os.close(parent)
    return received.decode()


@pytest.mark.loopback
def test_a_terminal_run_ends_with_five_lines():
    shown = on_a_terminal("run", "127.0.0.1:1", "--quick", environ={"TERM": "dumb"})
    ending = shown.replace("\r\n", "\n").rstrip("\n").split("\n")[-5:]
    assert [line.split(":")[0] for line in ending] == ["Verdict", "Cause", "Place", "Confidence", "Do now"]
    assert "\x1b" not in shown


@pytest.mark.loopback
@pytest.mark.parametrize(("columns", "width"), [("80", 80), ("40", 60), ("1000", 110), ("x", 110)])
@pytest.mark.parametrize("form", ["text", "markdown"])
def test_a_terminal_gets_lines_of_its_own_width(tmp_path, columns, width, form):
    (tmp_path / "run.json").write_bytes(conclude.conclude(a_run()).document())
    shown = on_a_terminal("replay", str(tmp_path / "run.json"), "--format", form, environ={"COLUMNS": columns})
    piped = command("replay", str(tmp_path / "run.json"), "--format", form, env=os.environ | {"COLUMNS": columns})
    report = shown.replace("\r\n", "\n").rpartition("\n\nVerdict: ")[0]
    assert sorted(report.split()) == sorted(piped.stdout.split())
    if form == "text":
        longest = max(len(line) for line in report.partition("\nEvidence:\n")[0].splitlines())
        assert width - 15 < longest <= width


def test_no_color_leaves_no_colour_on_a_terminal():
    shown = on_a_terminal("run", "127.0.0.1:1", "--quick", environ={"TERM": "xterm-256color", "NO_COLOR": "1"})
    assert "measured" in shown  # the progress line was there
    assert re.findall(r"\x1b\[[0-9;]*m", shown) == []


@pytest.mark.loopback
def test_a_pipe_gets_the_report_and_silence():
    child = command("run", "127.0.0.1:1", "--quick")
    assert child.stderr == ""
    assert "\x1b" not in child.stdout
    assert child.returncode == 2


# --- probe, explain, doctor, version -----------------------------------------------------------------------------


@pytest.mark.loopback
def test_a_probe_measures_every_address_of_every_host():
    with listener() as (port, _):
        child = command("probe", "ports", f"postgresql://127.0.0.1:{port},[::1]:{port}/x", "--format", "json")
    document = json.loads(child.stdout)
    assert child.returncode == 0
    assert document["schema"] == "netdiag.probe/1"
    states = {m["to"]["address"]: m["data"]["ports"][0]["state"] for m in document["measurements"]}
    assert states["127.0.0.1"] == "open"
    assert states["::1"] in ("reset", "unreachable", "not-sent")


@pytest.mark.loopback
def test_a_probe_for_the_eye_names_address_outcome_and_figures():
    child = command("probe", "latency", "127.0.0.1:1", "--set", "count=2", "--set", "interval_s=0.05")
    assert child.returncode == 0
    assert re.match(r"latency 127\.0\.0\.1:1  \d\.\d{3} s  measured\n", child.stdout)
    assert len(re.findall(r"^ +[01] .*refused", child.stdout, re.MULTILINE)) == 2


def test_a_name_that_does_not_resolve_is_one_line():
    child = command("probe", "ports", "nothing.invalid:1", "--timeout", "15s")
    assert child.returncode == 3
    assert child.stderr.startswith("netdiag: nothing.invalid cannot be resolved (")


def test_settings_are_read_by_the_types_of_the_options():
    from netdiag.cli.probe import read_settings
    from probes.names import NamesOptions

    settings = ["resolvers=192.0.2.1,192.0.2.2", "attempts=4", "timeout_s=0.5", "transports="]
    assert read_settings(NamesOptions, settings) == {
        "resolvers": ("192.0.2.1", "192.0.2.2"),
        "attempts": 4,
        "timeout_s": 0.5,
        "transports": (),
    }


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("count=0", "a whole number from 1 to"),
        ("count=-1", "a whole number from 1 to"),
        ("count=1000000000", "a whole number from 1 to"),
        ("timeout_s=0", "a number above 0"),
        ("timeout_s=nan", "a number above 0"),
        ("timeout_s=inf", "a number above 0"),
        ("timeout_s=1e300", "a number above 0"),
        ("interval_s=-1", "a number from 0"),
    ],
)
def test_an_absurd_setting_is_refused_before_anything_is_sent(setting, told, capsys):
    assert invoke(["probe", "latency", "127.0.0.1:1", "--set", setting, "--format", "json"]) == 3
    assert f"--set {setting.partition('=')[0]}: must be {told}" in error_document(capsys.readouterr().out)["error"]


def test_a_port_of_a_list_is_a_port(capsys):
    assert invoke(["probe", "ports", "127.0.0.1:1", "--set", "control_ports=22,70000"]) == 3
    assert "--set control_ports: must be a whole number from 1 to 65535" in capsys.readouterr().err


def test_explain_lists_and_shows_every_code(capsys):
    assert invoke(["explain"]) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert tuple(listed) == codes()
    for code in codes():
        assert invoke(["explain", code, "--format", "json"]) == 0
        assert json.loads(capsys.readouterr().out)["code"] == code


def test_doctor_examines_what_probes_use(capsys):
    assert invoke(["doctor", "--format", "json"]) in (0, 1)
    document = json.loads(capsys.readouterr().out)
    names = {ability["name"] for ability in document["abilities"]}
    assert {"ICMP echo", "IPv6", "TCP_INFO", "resolv.conf", "file descriptors"} <= names
    assert document["complete"] == all(ability["able"] for ability in document["abilities"])


def test_doctor_says_what_is_lost_and_the_command_that_grants_it(capsys, monkeypatch):
    from netdiag.cli import doctor

    monkeypatch.setattr(doctor.resource, "getrlimit", lambda kind: (256, 4096))
    assert invoke(["doctor"]) == 1
    told = capsys.readouterr().out
    assert "NO   file descriptors" in told
    assert "to grant:   ulimit -n 1024" in told


# --- the last resort ---------------------------------------------------------------------------------------------


def test_a_defect_is_one_line_and_a_file_without_values(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)

    def defect(*arguments):
        try:
            raise KeyError("C4nary in a cause")
        except KeyError as error:
            raise RuntimeError("C4nary in a message") from error

    monkeypatch.setattr(run_module, "measure", defect)
    assert invoke(["run", "postgresql://u:C4nary@db/x"]) == 3
    told = capsys.readouterr()
    assert told.out == ""
    assert re.search(
        r"^netdiag: internal error: RuntimeError at test_cli\.py:\d+; this is a defect", told.err, re.MULTILINE
    )
    (crash,) = (tmp_path / "netdiag").iterdir()
    text = crash.read_text()
    assert crash.stat().st_mode & 0o777 == 0o600
    assert "KeyError" in text
    assert "RuntimeError" in text
    assert "in run_command" in text
    assert "C4nary" not in text + told.err
    for day in range(40):
        (tmp_path / "netdiag" / f"crash-20240101T0000{day}Z-1.txt").touch()
    assert invoke(["run", "db"]) == 3
    assert len(list((tmp_path / "netdiag").glob("crash-*"))) == 20
    assert crash.exists()
    monkeypatch.setenv("XDG_STATE_HOME", "/proc/self")
    assert invoke(["run", "db", "--format", "json"]) == 3
    assert "no crash file could be written" in error_document(capsys.readouterr().out)["error"]


def test_lines_told_are_bounded_printable_and_scrubbed():
    told = output.one_line(
        "a\x1b[31m\nb \u202e postgresql://u:pw@h password=pw2 PASSWORD = pw3 password='p w 4' " + "x" * 9999
    )
    assert told.isprintable()
    assert len(told) == output.LONGEST_LINE
    assert not re.search(r"pw|p w", told)
    assert "postgresql://***@h" in told
