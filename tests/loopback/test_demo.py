"""The demonstration as `make demo` runs it, on the wheel's PostgreSQL behind the TLS front."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.loopback


def test_both_verdicts_are_the_expected_ones_and_the_evidence_is_kept(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "netdiag.lab.demo", "--loopback", "--embedded", "--output", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    healthy = json.loads((tmp_path / "healthy" / "run.json").read_text())
    frozen = json.loads((tmp_path / "run.json").read_text())
    assert (healthy["verdict"], frozen["verdict"]) == ("healthy", "critical")
    assert [f["code"] for f in frozen["findings"] if f["role"] == "cause"] == ["db.unresponsive"]
    assert "TLSv1.3" in (tmp_path / "report.txt").read_text()
    assert "demo-only" not in done.stdout + done.stderr
