"""Files that somebody named: bounded, and a pipe that nobody fills is an error and no wait for ever."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from netdiag import reading
from netdiag.reading import read_at_most


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    return path


def test_a_file_and_no_more_than_its_limit(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abcdef")
    assert read_at_most(tmp_path / "file", 100) == b"abcdef"
    assert read_at_most(tmp_path / "file", 3) == b"abcd"
    assert len(read_at_most(Path("/dev/zero"), 9)) == 10


def test_a_pipe_without_a_writer_is_an_error(fifo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "PATIENCE_S", 0.05)
    with pytest.raises(TimeoutError, match="nobody writes"):
        read_at_most(fifo, 10)


def test_a_pipe_is_read_to_its_end_whoever_comes_first(fifo: Path) -> None:
    text = b"x" * 300_000  # several buffers of a pipe
    writer = threading.Thread(target=fifo.write_bytes, args=(text,))
    reader = threading.Timer(0.05, writer.start)  # after the reader
    reader.start()
    assert read_at_most(fifo, 1 << 20) == text
    writer.join()


@pytest.mark.parametrize(
    "arguments",
    [
        ("plan", "check"),
        ("replay",),
        ("run", "--plan"),
        ("run", "127.0.0.1:1", "--against"),
        ("probe", "latency", "--targets"),
    ],
)
def test_every_command_that_reads_a_file_refuses_an_idle_pipe(fifo: Path, arguments: tuple[str, ...]) -> None:
    code = (
        "import sys; from netdiag import reading; reading.PATIENCE_S = 0.05\n"
        "from netdiag.cli.main import invoke; sys.exit(invoke(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, *arguments, str(fifo)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (3, "")
    assert f"{fifo}: cannot be read (a pipe that nobody writes to)" in done.stderr


def test_process_substitution_is_a_file() -> None:
    """``netdiag plan check <(make-plan)``: the shell's own pipe, its writer slower than its reader."""
    plan = 'version = 1\\n[[endpoint]]\\nname = "a"\\nhost = "b"\\n'
    program = Path(sys.executable).with_name("netdiag")
    script = f"{program} plan check <(sleep 0.2; printf '{plan}')"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "good; 1 endpoint: a" in done.stdout
