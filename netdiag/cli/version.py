"""`netdiag version`: what a bug report needs."""

from __future__ import annotations

import sys

from netdiag import __version__
from netdiag.cli.output import OK, emit, to_json

FOUNDATIONS = ("scapy", "dnspython", "psycopg", "cryptography", "tenacity", "typer")


def print_short_version() -> None:
    emit(f"netdiag {__version__}")


def version_command(as_json: bool) -> int:
    import platform

    versions = {"netdiag": __version__, "python": platform.python_version()}
    versions |= {name: _version(name) for name in FOUNDATIONS}
    versions |= {"kernel": f"{platform.system()} {platform.release()}", "executable": sys.executable}
    if as_json:
        emit(to_json({"schema": "netdiag.version/1", "versions": versions}))
    else:
        emit("\n".join(f"{name:<14}{text}" for name, text in versions.items()))
    return OK


def _version(distribution: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(distribution)
    except PackageNotFoundError:
        return "not installed"
