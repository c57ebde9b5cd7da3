"""kill -9 in the middle of a run: the evidence so far is on the disk and can be judged."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from netdiag.cli.journal import Journal

pytestmark = pytest.mark.loopback


def until(ready: object, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not ready():  # type: ignore[operator]  # a callable, for brevity
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_killed_run_leaves_evidence_that_replays(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        command = [sys.executable, "-m", "netdiag", "run", f"127.0.0.1:{port}", "--output", str(tmp_path)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

        def measured() -> bool:
            return any(path.read_bytes().count(b"\n") >= 3 for path in tmp_path.glob("*.jsonl"))

        until(measured)
        process.send_signal(signal.SIGKILL)
        process.wait()
    [journal] = tmp_path.glob("*.jsonl")
    journal.write_bytes(journal.read_bytes() + b'{"id": "torn')
    replay = [sys.executable, "-m", "netdiag", "replay", str(journal), "--format", "json"]
    done = subprocess.run(replay, capture_output=True, text=True, timeout=60, check=False)
    found = json.loads(done.stdout)
    assert (found["partial"], found["end_reason"]) == (True, "interrupted")
    assert len(found["measurements"]) >= 2
    assert found["finished"] > found["started"]


def test_a_run_that_ends_well_leaves_no_journal(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        target = f"127.0.0.1:{listener.getsockname()[1]}"
        environ = os.environ | {"XDG_STATE_HOME": str(tmp_path)}
        command = [sys.executable, "-m", "netdiag", "run", target, "--quick"]
        subprocess.run(command, env=environ, capture_output=True, timeout=60, check=True)
    assert list(tmp_path.rglob("*.jsonl")) == []


def test_evidence_that_could_be_saved_nowhere_else_stays_in_the_journal(tmp_path: Path) -> None:
    (tmp_path / "run.json").mkdir()  # so nothing can be written under that name
    command = [sys.executable, "-m", "netdiag", "run", "127.0.0.1:1", "--quick", "--output", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "run.json could not be written" in done.stderr
    [journal] = tmp_path.glob("*.jsonl")
    replay = [sys.executable, "-m", "netdiag", "replay", str(journal), "--format", "json"]
    again = json.loads(subprocess.run(replay, capture_output=True, text=True, timeout=60, check=False).stdout)
    assert [finding["code"] for finding in again["findings"]] == ["db.port-closed"]


def test_a_disk_that_cannot_be_written_costs_the_journal_only(tmp_path: Path) -> None:
    from netdiag.evidence import Evidence, Run, Tool
    from netdiag.plan.model import Plan
    from netdiag.runner import Started
    from probes.model import Vantage
    from tests.fakes.clock import START

    run = Run(
        run_id="r", tool=Tool(), plan=Plan(endpoints=()), vantage=Vantage(name="test"), started=START, finished=START,
        end_reason="interrupted", partial=True, privileges=(), evidence=Evidence(()),
    )  # fmt: skip
    (tmp_path / "file").write_text("")
    with Journal(tmp_path / "file" / "below") as journal:
        journal(Started(run=run, budget_s=1.0))
    assert journal.path is None
