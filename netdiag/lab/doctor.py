"""What the lab needs of this machine, found out by trying, and the one line that installs what is missing."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator

from netdiag.lab import rootless
from netdiag.lab.postgres import debian_binaries
from probes.model import value

PACKAGES = {
    "ip": "iproute2",
    "nft": "nftables",
    "setpriv": "util-linux",
    "bird": "bird2",
    "haproxy": "haproxy",
    "knotd": "knot",
    "unbound": "unbound",
    "unbound-control": "unbound",
}
POSTGRESQL = "postgresql"
_PATH = "/usr/sbin:/sbin"  # daemons are off an ordinary user's PATH


@value
class Need:
    """``remedy`` is a command, or what to ask for; it matters where ``met`` is False."""

    name: str
    met: bool
    found: str
    remedy: str


def examine() -> tuple[Need, ...]:
    return (*_programs(), _postgresql(), _namespaces(), _packet_sockets())


def missing_packages() -> tuple[str, ...]:
    """Debian packages to install, sorted; none where the lab can run."""
    lacking = {PACKAGES[name] for name in PACKAGES if _path(name) is None}
    return tuple(sorted(lacking | ({POSTGRESQL} if debian_binaries() is None else set())))


def install_line() -> str | None:
    """The one line that installs what is missing, or None."""
    packages = missing_packages()
    return f"apt-get install --no-install-recommends {' '.join(packages)}" if packages else None


def _path(program: str) -> str | None:
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:{_PATH}")


def _programs() -> Iterator[Need]:
    for program, package in PACKAGES.items():
        path = _path(program)
        yield Need(name=program, met=path is not None, found=path or "missing", remedy=f"apt-get install {package}")


def _postgresql() -> Need:
    binaries = debian_binaries()
    found = str(binaries) if binaries else "missing (the wheel's has no TLS)"
    return Need(name="postgres", met=binaries is not None, found=found, remedy=f"apt-get install {POSTGRESQL}")


def _namespaces() -> Need:
    """Root makes them; anybody else only inside a user namespace, where the kernel allows that."""
    name = "network namespaces"
    if rootless.may_make_namespaces():
        done = subprocess.run(["unshare", "--net", "true"], capture_output=True, text=True, check=False)
        found = "allowed" if done.returncode == 0 else f"refused: {done.stderr.strip()}"
        return Need(name=name, met=done.returncode == 0, found=found, remedy="CAP_SYS_ADMIN")
    refused = rootless.refusal()
    found = f"uid {os.geteuid()}: in a user namespace, by `netdiag lab run` alone"
    if refused:
        found = f"uid {os.geteuid()}; a user namespace is refused ({refused})"
    return Need(name=name, met=refused is None, found=found, remedy="sudo netdiag lab ...")


def _packet_sockets() -> Need:
    """The emulators' own. In a user namespace they come with the network namespace."""
    import socket

    if not rootless.may_make_namespaces():
        found = rootless.refusal()
        return Need(name="packet sockets", met=found is None, found=found or "with the namespace", remedy="CAP_NET_RAW")
    try:
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close()
    except OSError as error:
        return Need(name="packet sockets", met=False, found=str(error), remedy="CAP_NET_RAW")
    return Need(name="packet sockets", met=True, found="allowed", remedy="")
