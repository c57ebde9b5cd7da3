"""Where netdiag keeps its files: the XDG folders, also under cron's bare environment (no HOME, no XDG)."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping
from pathlib import Path

APPLICATION = "netdiag"
SHARED = Path("/var/tmp")


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
    """Runs of `netdiag check`, its lock, crash files: systemd's STATE_DIRECTORY, else XDG's state folder.

    A user without a home (many a service's: /nonexistent) has one below /var/tmp.
    """
    given = environ.get("STATE_DIRECTORY", "").partition(":")[0]
    if os.path.isabs(given):
        return Path(given)
    import platformdirs  # only the commands that keep files pay for it

    home = home_folder(environ)
    if os.path.isabs(environ.get("XDG_STATE_HOME", "")) or (home is not None and home.is_dir()):
        folder = platformdirs.user_state_path(APPLICATION)
        if folder.is_absolute():
            return folder
    return SHARED / f"{APPLICATION}-{os.getuid()}"


def own_state_folder(environ: Mapping[str, str], name: str = "") -> Path:
    """The state folder, or one in it: made where missing, its owner's alone.

    Raises OSError, also where somebody else made the one below /var/tmp first: what is written there would be his.
    """
    folder = state_folder(environ)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if folder.parent == SHARED:
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
            raise PermissionError(errno.EPERM, f"{folder} is not this user's alone")
    (folder / name).mkdir(exist_ok=True, mode=0o700)
    return folder / name
