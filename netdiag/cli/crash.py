"""The last resort: a defect of netdiag becomes one line and a file, never a traceback on somebody's terminal.

The file holds the frames and the exceptions' types. Messages and values are left out: they may quote a password.
"""

from __future__ import annotations

import datetime as dt
import os
import traceback

from netdiag.paths import own_state_folder

KEPT = 20  # newest: a defect under cron comes every minute


def record(error: BaseException) -> str:
    """Write the crash file; what to tell the user about it."""
    name = type(error).__name__
    where = traceback.extract_tb(error.__traceback__)[-1:]
    place = f" at {os.path.basename(where[0].filename)}:{where[0].lineno}" if where else ""
    try:
        path = _write(error)
    except OSError:
        return f"internal error: {name}{place}; this is a defect of netdiag (no crash file could be written)"
    return f"internal error: {name}{place}; this is a defect of netdiag, please report it with {path}"


def _write(error: BaseException) -> str:
    folder = own_state_folder(os.environ)
    path = folder / f"crash-{dt.datetime.now(dt.UTC):%Y%m%dT%H%M%SZ}-{os.getpid()}.txt"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write("\n".join(_frames(error)) + "\n")
    for old in sorted(folder.glob("crash-*.txt"))[:-KEPT]:
        old.unlink(missing_ok=True)
    return str(path)


def _frames(error: BaseException | None) -> list[str]:
    """Oldest cause first, as Python prints them."""
    if error is None:
        return []
    lines = _frames(error.__cause__ or error.__context__)
    lines.append(type(error).__name__)
    for frame in traceback.extract_tb(error.__traceback__):
        lines.append(f"  {frame.filename}:{frame.lineno} in {frame.name}")
    return lines
