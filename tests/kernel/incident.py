"""The deployment of an incident in network namespaces: one client, one router, one host with a database and resolvers.

with incident(folder) as place, place.at_router("forward", "tcp dport 5432 drop"):
    ran = place.netdiag(place.dsn)

A real PostgreSQL with TLS listens on SERVER:5432, two Unbound resolvers on RESOLVERS:53 before one Knot. Faults are nft
rules, or MTUs of routes, that last as long as their ``with`` block. The namespaces know no way out.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from netdiag.lab.postgres import Server, TlsFiles, make_tls, postgres_server
from tests.command_line import Ran, netdiag
from tests.kernel.netns import Line, Namespace, line

PORT = 5432
SERVER, CLOSED, ABSENT = Line.server_address, "10.71.2.7", "10.71.2.9"  # CLOSED is up, without a listener
RESOLVERS = ("10.71.2.53", "10.71.2.54")
NAME, STALE = "db.incident.test", "stale.incident.test"
PASSWORD = "correct-horse"
NOBODY = (
    "setpriv",
    "--reuid=65534",
    "--regid=65534",
    "--clear-groups",
    "--no-new-privs",
    "--inh-caps=-all",
    "--bounding-set=-all",
)
PATIENCE_S = 30.0  # for a slow machine to start a server; nothing is measured by it
_table = count()

ZONES = {
    "incident.test": f"""$ORIGIN incident.test.
$TTL 60
@ SOA ns admin 1 3600 600 86400 30
@ NS ns
ns A {SERVER}
db A {SERVER}
stale A {SERVER}
six AAAA {Line.server_address6}
alias CNAME db
""",
    "bogus.test": f"""$ORIGIN bogus.test.
$TTL 60
@ SOA ns admin 1 3600 600 86400 30
@ NS ns
ns A {SERVER}
db A {SERVER}
""",
}

KNOT = """server:
    rundir: "{folder}"
    listen: [ "127.0.0.1@5300" ]
log:
  - target: stderr
    any: info
database:
    storage: "{folder}"
zone:
"""

UNBOUND = """server:
    directory: "{folder}"
    chroot: ""
    username: ""
    pidfile: ""
    use-syslog: no
    logfile: ""
    verbosity: 1
    interface: {address}
    access-control: 10.71.0.0/16 allow
    num-threads: 1
    do-not-query-localhost: no
    ede: yes
    module-config: "validator iterator"
    local-zone: "test." nodefault
    trust-anchor: "bogus.test. DS 12345 13 2 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
{extra}
stub-zone:
    name: "incident.test."
    stub-addr: 127.0.0.1@5300
stub-zone:
    name: "bogus.test."
    stub-addr: 127.0.0.1@5300
stub-zone:
    name: "lame.test."
    stub-addr: 127.0.0.1@5300
remote-control:
    control-enable: no
"""


@dataclass(frozen=True)
class Incident:
    client: Namespace
    router: Namespace
    server: Namespace
    database: Server
    tls: TlsFiles
    folder: Path

    # Command lines

    @property
    def dsn(self) -> str:
        return self.dsn_of(SERVER)

    def dsn_of(self, host: str, **settings: str) -> str:
        query = "&".join(f"{name}={text}" for name, text in {"connect_timeout": "3", **settings}.items())
        return f"postgresql://app@{host}:{PORT}/postgres?{query}"

    def netdiag(self, *arguments: str, budget: str = "45s", user: Sequence[str] = (), quick: bool = True) -> Ran:
        """``netdiag run`` on the client. The password comes from the environment."""
        return netdiag(
            "run",
            *arguments,
            *(["--quick"] if quick else []),
            "--budget",
            budget,
            "--format",
            "json",
            launcher=("ip", "netns", "exec", self.client.name, *user),
            environment={"PGPASSWORD": PASSWORD},
        )

    # Faults

    def at_router(self, hook: str, *rules: str, priority: int = 0):
        return filtered(self.router, hook, *rules, priority=priority)

    def at_server(self, hook: str, *rules: str):
        return filtered(self.server, hook, *rules)

    @contextmanager
    def narrowed(self, mtu: int, *, to_server: bool = True, to_client: bool = True) -> Iterator[None]:
        """The router forwards no packet above ``mtu`` bytes in these directions, and says so by ICMP."""
        ways = [("10.71.2.0/24", "right")] * to_server + [("10.71.1.0/24", "left")] * to_client
        try:
            for net, link in ways:
                self.router.ip("route", "replace", net, "dev", link, "mtu", str(mtu))
            yield
        finally:
            for net, link in ways:
                self.router.ip("route", "replace", net, "dev", link)
            self.forget()

    def too_big_filtered(self):
        return self.at_router("output", "icmp type destination-unreachable icmp code frag-needed drop")

    def forget(self) -> None:
        """Remembered path MTUs and TCP metrics would outlive the fault that made them."""
        for host in (self.client, self.router, self.server):
            host.ip("route", "flush", "cache")
            host.ip("tcp_metrics", "flush", "all")

    @contextmanager
    def resolvers(self, *addresses: str, options: str = "") -> Iterator[None]:
        """What the client's resolv.conf says; ``ip netns exec`` puts the file in its place."""
        lines = [f"nameserver {address}" for address in addresses] + ([f"options {options}"] if options else [])
        path = resolv_conf(self.client)
        before = path.read_text()
        path.write_text("\n".join(lines) + "\n")
        try:
            yield
        finally:
            path.write_text(before)


@contextmanager
def filtered(host: Namespace, hook: str, *rules: str, priority: int = 0) -> Iterator[str]:
    """A table of these rules and of the counters ``seen`` and ``hit`` while the block lasts; gives the table's name."""
    name = f"t{next(_table)}"
    body = "\n".join(rules)
    host.nft(
        f"table inet {name} {{\n counter seen {{ }}\n counter hit {{ }}\n"
        f"chain it {{ type filter hook {hook} priority {priority}; policy accept;\n{body}\n}}\n}}\n"
    )
    try:
        yield name
    finally:
        host.nft(f"delete table inet {name}")


def counted(host: Namespace, table: str) -> tuple[int, int]:
    """(hit, seen): what the rules counted."""
    return host.counter("hit", f"inet {table}"), host.counter("seen", f"inet {table}")


def resolv_conf(host: Namespace) -> Path:
    return Path("/etc/netns") / host.name / "resolv.conf"


@contextmanager
def incident(folder: Path) -> Iterator[Incident]:
    with ExitStack() as stack:
        wires = stack.enter_context(line())
        for address in (CLOSED, *RESOLVERS):
            wires.server.ip("addr", "add", f"{address}/24", "dev", wires.server_link)
        stack.enter_context(_own_resolv_conf(wires.client))
        stack.enter_context(_knot(wires.server, folder))
        for address, extra in zip(RESOLVERS, (f'    local-data: "{STALE}. 60 A {CLOSED}"', ""), strict=True):
            stack.enter_context(_unbound(wires.server, folder, address, extra))
        tls = make_tls(folder / "tls", (NAME, SERVER))
        database = stack.enter_context(
            postgres_server(
                host=SERVER,
                port=PORT,
                tls=tls,
                hba=("host all all all scram-sha-256",),
                setup=(f"CREATE ROLE app LOGIN PASSWORD '{PASSWORD}'",),
                settings={"max_connections": "60"},
                launcher=("ip", "netns", "exec", wires.server.name),
            )
        )
        yield Incident(wires.client, wires.router, wires.server, database, tls, folder)


@contextmanager
def _own_resolv_conf(host: Namespace) -> Iterator[None]:
    """Nothing in the client may ever ask this machine's own resolvers."""
    path = resolv_conf(host)
    made_parent = not path.parent.parent.exists()
    path.parent.mkdir(parents=True)
    path.write_text("".join(f"nameserver {address}\n" for address in RESOLVERS))
    try:
        yield
    finally:
        shutil.rmtree(path.parent)
        if made_parent and not any(path.parent.parent.iterdir()):
            path.parent.parent.rmdir()


@contextmanager
def _knot(host: Namespace, folder: Path) -> Iterator[None]:
    place = folder / "knot"
    place.mkdir()
    text = KNOT.format(folder=place)
    for zone, records in ZONES.items():
        (place / f"{zone}.zone").write_text(records)
        text += f'  - domain: {zone}\n    file: "{place}/{zone}.zone"\n'
    (place / "knot.conf").write_text(text)
    ready = ("server started", *(f"[{zone}.] loaded" for zone in ZONES))
    with _daemon(host, place / "log", ready, "knotd", "-c", str(place / "knot.conf")):
        yield


@contextmanager
def _unbound(host: Namespace, folder: Path, address: str, extra: str) -> Iterator[None]:
    place = folder / f"unbound-{address}"
    place.mkdir()
    (place / "unbound.conf").write_text(UNBOUND.format(folder=place, address=address, extra=extra))
    with _daemon(host, place / "log", ("start of service",), "unbound", "-d", "-c", str(place / "unbound.conf")):
        yield


@contextmanager
def _daemon(host: Namespace, log: Path, ready: tuple[str, ...], *command: str) -> Iterator[None]:
    """Runs until the block ends; enters it once every text of ``ready`` is in the log."""
    with log.open("wb") as output:
        process = host.spawn(*command, stdout=output, stderr=subprocess.STDOUT)
    try:
        patience = time.monotonic() + PATIENCE_S
        while not all(text in log.read_text() for text in ready):
            if process.poll() is not None or time.monotonic() > patience:
                raise RuntimeError(f"{command[0]} did not start:\n{log.read_text()}")
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait(PATIENCE_S)
