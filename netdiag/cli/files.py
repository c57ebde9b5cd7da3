"""Files that are either written whole or not at all, and read with a limit."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from netdiag.cli.output import UserError
from netdiag.reading import read_at_most

LARGEST_RUN = 512 * 1024 * 1024  # bytes


def write_atomically(path: Path, content: bytes, mode: int = 0o644) -> None:
    """A temporary file beside ``path``, flushed to the disk, then renamed. Raises OSError, leaving nothing behind."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def prepare_folder(folder: Path) -> None:
    """Make the folder for the output, and see that it can be written before a minute is spent. Raises UserError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        message = f"--output {folder}: cannot be written ({error.strerror or error})"
        raise UserError(message, "name a folder that you may write to") from None


def read_whole(path: Path) -> bytes:
    """Raises UserError, in one line."""
    try:
        raw = read_at_most(path, LARGEST_RUN)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})", "name a file saved by netdiag") from None
    except ValueError:  # a zero byte in the name
        raise UserError("the file's name cannot be a file's name", "name a file saved by netdiag") from None
    if len(raw) > LARGEST_RUN:
        raise UserError(f"{path}: larger than {LARGEST_RUN} bytes", "name a file saved by netdiag")
    return raw
