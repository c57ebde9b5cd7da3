"""The lab for an ordinary user: a user namespace of its own, where the kernel allows one.

    status = rerun([sys.executable, "-m", "netdiag", "lab", "run", "lb-packet-loss"])

The caller keeps its uid (PostgreSQL refuses 0) and holds ambient capabilities over what it makes inside. A private
tmpfs lies over /run, where `ip netns` keeps its names and the world its files, and a copy of /etc over /etc. The whole
ends with the command: nothing of it is ever visible outside, so `up` and `attach` from two commands do not meet here.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

_UNSHARE = ("unshare", "--user", "--map-current-user", "--keep-caps", "--mount", "--net")
_SUPERVISE = ("--pid", "--fork", "--kill-child", "--mount-proc")
_CAP_SYS_ADMIN = 21
_DAEMONS = "/usr/sbin:/sbin"
STATE_DIR = Path("/run/netdiag-lab")


def may_make_namespaces() -> bool:
    """Whether this process may as it is: root, or already inside."""
    status = Path("/proc/self/status").read_text()
    effective = next(line for line in status.splitlines() if line.startswith("CapEff:")).split()[1]
    return bool(int(effective, 16) >> _CAP_SYS_ADMIN & 1)


def refusal() -> str | None:
    """The exact words with which this kernel refuses a user namespace to this user; None where it grants one."""
    done = subprocess.run([*_UNSHARE, *_SUPERVISE, "true"], capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else done.stderr.strip() or f"unshare ended with {done.returncode}"


def rerun(argv: Sequence[str]) -> int:
    """Run a command where it may make namespaces; its exit status. Its streams are the caller's."""
    inside = [sys.executable, "-m", "netdiag.lab.rootless", *argv]
    path = f"{os.environ.get('PATH', os.defpath)}:{_DAEMONS}"
    return subprocess.run([*_UNSHARE, *_SUPERVISE, *inside], env={**os.environ, "PATH": path}, check=False).returncode


def _prepare() -> None:
    """Raises subprocess.CalledProcessError where the kernel refuses a mount."""
    _mount("--make-rprivate", "/")
    _mount("-t", "tmpfs", "-o", "mode=711", "netdiag-lab", "/run")
    # What this user cannot read of /etc (shadow, keys) it does not need either.
    subprocess.run(["cp", "-a", "/etc", "/run/etc"], stderr=subprocess.DEVNULL, check=False)
    _mount("--bind", "/run/etc", "/etc")


def _mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True)


if __name__ == "__main__":
    _prepare()
    os.execvp(sys.argv[1], sys.argv[1:])
