"""A file that somebody named, read whole: with a limit, and never waiting for ever for a pipe that nobody fills."""

from __future__ import annotations

import errno
import os
import select
import stat
from pathlib import Path

PATIENCE_S = 10.0  # for the first byte of a pipe: a vault that has to be asked, not a writer that never comes


def read_at_most(path: Path, limit: int) -> bytes:
    """Up to ``limit`` + 1 bytes, so that a longer file shows. Raises OSError."""
    with open(path, "rb", opener=_open) as file:
        return file.read(limit + 1)


def _open(path: str, flags: int) -> int:
    """Opening a FIFO waits for its writer (fifo(7)), reading it for its first byte: here neither beyond PATIENCE_S."""
    descriptor = os.open(path, flags | os.O_NONBLOCK)
    try:
        if stat.S_ISFIFO(os.fstat(descriptor).st_mode) and not _readable(descriptor):
            raise TimeoutError(errno.ETIMEDOUT, "a pipe that nobody writes to")
        os.set_blocking(descriptor, True)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _readable(descriptor: int) -> bool:
    """Also at the end of what was written; a FIFO that never had a writer shows nothing at all (poll(2))."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(PATIENCE_S * 1000))
