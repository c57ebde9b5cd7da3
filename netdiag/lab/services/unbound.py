"""unbound on dns1 and dns2: recursive for the lab's zones; nothing else exists, and no root server is asked."""

from __future__ import annotations

from pathlib import Path

from netdiag.lab.hosts import command
from netdiag.lab.services.service import ServiceSpec, by_command
from netdiag.lab.services.zones import AUTHORITY, ZONES
from netdiag.lab.topology import Topology


def unbound(topology: Topology, host: str, folder: Path) -> ServiceSpec:
    """``folder``/NAME.sock is its control socket."""
    configuration = folder / f"{host}.conf"
    return ServiceSpec(
        name=host,
        host=host,
        argv=("unbound", "-d", "-c", str(configuration)),
        log=folder / f"{host}.log",
        configuration=configuration,
        pristine=configure(topology, host, folder),
        ready=lambda: "is running" in control(configuration, "status"),
        reload=by_command("unbound-control", "-c", str(configuration), "reload"),
    )


def control(configuration: Path, *words: str) -> str:
    """unbound-control. Raises LabError."""
    return command("unbound-control", "-c", str(configuration), *words)


def configure(topology: Topology, host: str, folder: Path) -> str:
    listen = "\n".join(f"  interface: {topology.address(host, family)}" for family in (4, 6))
    known = "\n".join(f'  local-zone: "{zone}." transparent' for zone in ZONES)
    stubs = "\n".join(_stub(topology, zone) for zone in ZONES)
    return f"""\
server:
  directory: "{folder}"
  chroot: ""
  username: ""
  pidfile: ""
  use-syslog: no
  logfile: ""
  verbosity: 1
{listen}
  access-control: 198.18.0.0/15 allow
  access-control: fd00::/8 allow
  module-config: "iterator"
  num-threads: 1
  msg-cache-size: 1m
  rrset-cache-size: 1m
  ede: yes
  local-zone: "." static
{known}
remote-control:
  control-enable: yes
  control-interface: {folder}/{host}.sock
  control-use-cert: no
{stubs}
"""


def _stub(topology: Topology, zone: str) -> str:
    servers = "\n".join(f"  stub-addr: {topology.address(AUTHORITY, family)}" for family in (4, 6))
    return f'stub-zone:\n  name: "{zone}."\n{servers}'
