"""Records examples/first-incident anew, from a real run: ``python -m examples.record`` (root, unbound, PostgreSQL).

application -- router 1 -- router 2 -- database, each a network namespace. Router 1 forwards no packet above 1400 bytes
towards either side and does not say so: a path MTU black hole, as a tunnel makes it whose ICMP is filtered.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from netdiag.lab.postgres import TlsFiles, make_tls, postgres_server
from tests.kernel.netns import Namespace
from tests.kernel.pathworld import Chain, chain

FOLDER = Path(__file__).parent / "first-incident"
NAME = "db.shop.example"
PORT = 5432
MTU = 1400  # bytes
PASSWORD = "example-only"
SETUP = (f"CREATE ROLE app LOGIN PASSWORD '{PASSWORD}'", "CREATE DATABASE shop OWNER app")
HBA = ("hostssl all all all scram-sha-256",)
UNBOUND = """server:
  interface: {address}
  access-control: 0.0.0.0/0 allow
  do-daemonize: no
  username: ""
  chroot: ""
  pidfile: ""
  use-syslog: no
  directory: "{folder}"
  local-zone: "shop.example." static
  local-data: "{name}. 60 IN A {database}"
remote-control:
  control-enable: no
"""


def main() -> int:
    """The exit status that netdiag gave: 2, critical."""
    with tempfile.TemporaryDirectory(prefix="netdiag-example-") as place, chain(routers=2) as world:
        world.narrow(MTU, forward=True)
        world.narrow(MTU, forward=False)
        world.silence_too_big()
        with _resolver(world, Path(place)), _database(world, make_tls(Path(place), (NAME,))):
            return _run(world.client)


@contextlib.contextmanager
def _resolver(world: Chain, place: Path) -> Iterator[None]:
    """Router 1 resolves for the application, which finds it in a resolv.conf of its own (ip-netns(8))."""
    address = world.router_address(1)
    conf = place / "unbound.conf"
    conf.write_text(UNBOUND.format(address=address, folder=place, name=NAME, database=world.address()))
    private = Path("/etc/netns") / world.client.name
    private.mkdir(parents=True)
    (private / "resolv.conf").write_text(f"nameserver {address}\n")
    server = world.router(1).spawn("unbound", "-d", "-c", str(conf), stderr=subprocess.DEVNULL)
    try:
        _await_name(world.client, address)
        yield
    finally:
        server.terminate()
        server.wait()
        shutil.rmtree(private)


def _await_name(client: Namespace, address: str) -> None:
    for _ in range(100):
        with contextlib.suppress(RuntimeError):
            if client.run("dig", "+short", "+tries=1", "+time=1", f"@{address}", NAME):
                return
        time.sleep(0.05)
    raise RuntimeError(f"{address} does not answer for {NAME}")


def _database(world: Chain, tls: TlsFiles) -> contextlib.AbstractContextManager[object]:
    launcher = ("ip", "netns", "exec", world.server.name)
    return postgres_server(host=world.address(), port=PORT, tls=tls, hba=HBA, setup=SETUP, launcher=launcher)


def _run(client: Namespace) -> int:
    """netdiag, started on the application's host as its user would."""
    netdiag = [str(Path(sys.executable).with_name("netdiag")), "run", "--plan", "plan.toml", "--quick", "--output", "."]
    command = ["ip", "netns", "exec", client.name, *netdiag]
    return subprocess.run(command, cwd=FOLDER, env=os.environ | {"PGPASSWORD": PASSWORD}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
