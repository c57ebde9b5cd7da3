"""The state a world has when nothing is broken: recorded when it came up, put back and compared after a fault."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from netdiag.lab.hosts import LabHost
from netdiag.lab.topology import MTU, Topology

FILE = "pristine.json"
State = Mapping[str, str]


def observe(hosts: Iterable[LabHost]) -> State:
    """Links, addresses, routes and packet filters of all hosts, as ip and nft print them."""
    with ThreadPoolExecutor(max_workers=4) as pool:
        named = list(hosts)
        return dict(zip((host.name for host in named), pool.map(_observe, named), strict=True))


def _observe(host: LabHost) -> str:
    shown = [host.ip(*words) for words in (("-o", "link"), ("-o", "addr"), ("route",), ("-6", "route"))]
    rules = host.run(["nft", "list", "ruleset"]).stdout
    return "\n".join(sorted(line.strip() for text in shown for line in text.splitlines())) + f"\n{rules}"


def save(folder: Path, state: State) -> None:
    (folder / FILE).write_text(json.dumps(state, indent=1))


def load(folder: Path) -> State:
    found: State = json.loads((folder / FILE).read_text())
    return found


def differences(pristine: State, now: State) -> Iterator[str]:
    """One line each: "fw: + ..." is there and should not be, "fw: - ..." is missing."""
    for host, expected in pristine.items():
        for line in difflib.ndiff(expected.splitlines(), now[host].splitlines()):
            if line[0] in "+-" and line[1:].strip():
                yield f"{host}: {line}"


def reset_host(host: LabHost, topology: Topology) -> None:
    """Packet filter and interfaces. Raises LabError."""
    host.nft("")
    for port in topology.ports(host.name):
        host.ip("link", "set", port.interface, "mtu", str(MTU), "up")
