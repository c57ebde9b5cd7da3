"""The runs that `netdiag check` keeps: so many, so much, and nothing that an interrupted one left behind."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from netdiag.cli.files import write_atomically

LARGEST_HISTORY = 256 * 1024 * 1024  # bytes: 2,000 runs of one endpoint take 100 MB, a large plan's fewer runs as much
LEFTOVER_S = 3600.0  # no write takes that long


def keep_run(folder: Path, name: str, document: bytes, most: int) -> None:
    """Write ``name`` into ``folder``, then drop the oldest beyond ``most`` and LARGEST_HISTORY. Raises OSError."""
    try:
        write_atomically(folder / name, document, mode=0o600)
    finally:  # also where the disk is full
        _forget(folder, name, most)


def _forget(folder: Path, newest: str, most: int) -> None:
    """Names begin with the time of the run. Those later than ``newest`` are from a clock that was ahead: they go
    first, for otherwise they would stay for years in the place of what is kept now. ``newest`` itself stays.
    """
    runs = sorted(folder.glob("*.json"), key=lambda path: (path.name <= newest, path.name))
    sizes = {path: _size(path) for path in runs}
    for path in runs[:-1]:
        if len(sizes) <= most and sum(sizes.values()) <= LARGEST_HISTORY:
            break
        path.unlink(missing_ok=True)
        del sizes[path]
    for path in folder.glob(".*.json.*"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > LEFTOVER_S:
                path.unlink()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # another check was faster
        return 0
