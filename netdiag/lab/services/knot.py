"""Knot DNS on dns-auth: authoritative for every zone of the lab."""

from __future__ import annotations

from pathlib import Path

from netdiag.lab.hosts import command
from netdiag.lab.services.service import ServiceSpec, by_command
from netdiag.lab.services.zones import AUTHORITY, ZONES
from netdiag.lab.topology import Topology


def knot(topology: Topology, folder: Path) -> ServiceSpec:
    """Zone files are ``folder``/ZONE.zone."""
    configuration, control = folder / "knot.conf", folder / "knot.sock"
    knotc = ("knotc", "-s", str(control))
    return ServiceSpec(
        name=AUTHORITY,
        host=AUTHORITY,
        argv=("knotd", "-c", str(configuration)),
        log=folder / "knot.log",
        configuration=configuration,
        pristine=configure(topology, folder),
        ready=lambda: all(f"[{zone}.] role: master | serial: -" not in _status(knotc, zone) for zone in ZONES),
        reload=by_command(*knotc, "reload"),
    )


def _status(knotc: tuple[str, ...], zone: str) -> str:
    return command(*knotc, "zone-status", zone)


def configure(topology: Topology, folder: Path) -> str:
    listen = ", ".join(f"{topology.address(AUTHORITY, family)}@53" for family in (4, 6))
    zones = "\n".join(f"  - domain: {zone}\n    template: lab" for zone in ZONES)
    return f"""\
server:
  rundir: "{folder}"
  listen: [{listen}]
  udp-workers: 1
  tcp-workers: 1
  background-workers: 1
control:
  listen: "{folder}/knot.sock"
database:
  storage: "{folder}/db"
log:
  - target: stderr
    any: info
template:
  - id: lab
    storage: "{folder}"
    file: "%s.zone"
    zonefile-sync: -1
    zonefile-load: whole
    journal-content: none
zone:
{zones}
"""
