"""Where netdiag keeps its files: the XDG folders, also under cron's bare environment (no HOME, no XDG)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

APPLICATION = "netdiag"


def home_folder(environ: Mapping[str, str]) -> Path | None:
    """HOME, or what the user database says; None for a user who has no home (a container's bare uid)."""
    stated = environ.get("HOME")
    if stated and os.path.isabs(stated):
        return Path(stated)
    import pwd

    try:
        return Path(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:
        return None


def state_folder(environ: Mapping[str, str]) -> Path:
    """Runs of `netdiag check`, its lock, crash files: systemd's STATE_DIRECTORY, else XDG's state folder."""
    given = environ.get("STATE_DIRECTORY", "").partition(":")[0]
    if os.path.isabs(given):
        return Path(given)
    import platformdirs  # only the commands that keep files pay for it

    folder = platformdirs.user_state_path(APPLICATION)
    return folder if folder.is_absolute() else Path("/var/tmp") / f"{APPLICATION}-{os.getuid()}"
