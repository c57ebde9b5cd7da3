"""The emulators of the links, one process each, in the namespace where both of its interfaces end."""

from __future__ import annotations

import sys
import zlib
from pathlib import Path

from netdiag.lab.emulator import EmulatorError, LinkControl, LinkSettings
from netdiag.lab.services.service import ServiceSpec
from netdiag.lab.topology import WIRES, Link


def service_name(link: str) -> str:
    return f"link:{link}"


def usual(link: Link) -> LinkSettings:
    """Its settings when nothing is broken."""
    return LinkSettings(delay_s=link.delay_s)


def emulator(link: Link, folder: Path) -> ServiceSpec:
    control = folder / f"{link.name}.sock"
    ends = ("--left", f"{link.name}-l", "--right", f"{link.name}-r")
    identity = ("--control", str(control), "--seed", str(zlib.crc32(link.name.encode())), "--parent", "0")
    # Ends with its owner by the service's own means where it should; a parent to watch would be one too many.
    return ServiceSpec(
        name=service_name(link.name),
        host=WIRES,
        argv=(sys.executable, "-m", "netdiag.lab.emulator", *ends, *identity),
        log=folder / f"{link.name}.log",
        ready=lambda: _set_usual(control, link),
    )


def _set_usual(control: Path, link: Link) -> bool:
    try:
        LinkControl(control).set("both", usual(link))
    except EmulatorError:
        return False
    return True
