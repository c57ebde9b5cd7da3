"""The evidence on disk as it comes in: kill -9, a power cut or a defect after measuring cost nothing.

One JSON line for the run, then one per measurement. The file is removed once the run has been judged and written
whole; what a broken run leaves behind, `netdiag replay FILE` judges like any saved run.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from netdiag.paths import own_state_folder
from netdiag.run_file import journal_entry, journal_header
from netdiag.runner import Event, MeasurementFinished, Started

KEPT = 20  # journals of broken runs, newest


class Journal:
    """A listener to the runner's events. A disk that cannot be written costs the journal, never the run."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._file: BinaryIO | None = None
        self.path: Path | None = None
        self._kept = False

    def keep(self) -> None:
        """What was measured is saved nowhere else."""
        self._kept = True

    def __call__(self, event: Event) -> None:
        try:
            if isinstance(event, Started):
                self._begin(event)
            elif isinstance(event, MeasurementFinished):
                self._write(journal_entry(event.measurement))
        except OSError:
            self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Done with: the run was judged and written. After an exception the file stays."""
        self._close()
        if kind is None and not self._kept and self.path is not None:
            with contextlib.suppress(OSError):
                self.path.unlink(missing_ok=True)

    def _begin(self, event: Started) -> None:
        folder = self._folder or own_state_folder(os.environ, "journal")
        folder.mkdir(parents=True, exist_ok=True)
        if self._folder is None:
            _forget_old(folder)
        self.path = folder / f"{event.run.run_id}.jsonl"
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        self._file = os.fdopen(descriptor, "wb")
        self._write(journal_header(event.run))

    def _write(self, line: bytes) -> None:
        if self._file is not None:
            self._file.write(line + b"\n")
            self._file.flush()

    def _close(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None


def _forget_old(folder: Path) -> None:
    """Journals of runs that broke are kept for a while, not for ever. Names begin with the time."""
    for path in sorted(folder.glob("*.jsonl"))[: -KEPT or None]:
        with contextlib.suppress(OSError):
            path.unlink()
