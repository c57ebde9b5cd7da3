"""The lab's world for those who break it: scenarios, demonstrations, tests.

    world = World.up(state_dir)                 # two regions, real servers; removes what a dead owner left there
    world = World.attach(state_dir)             # the same world from another process
    world.down(); World.clean(state_dir)        # nothing is left; the second also where nobody knows what is there

    app = world.hosts["app"]                    # hosts: topology.py draws them
    app.run(["ping", "-c1", "198.18.3.10"])     # CompletedProcess[str]; raises unless check=False; input, timeout, env
    app.spawn(["psql", "-c", "select pg_sleep(60)"])  # Popen; ended by clear()
    app.address(4); app.addresses(6)
    app.sysctl("net.ipv4.tcp_syn_retries", 2)   # put back by clear()
    app.inside(lambda: socket.create_connection(...))  # a call in a thread inside the namespace

    world.link("east-a")                        # LinkControl; emulated: east-a west-a east-b west-b lb db-east
    world.usual("east-a")                       # its LinkSettings when nothing is broken (the transit's delay)
    world.cut("east-a"); world.mend("east-a")   # any link, also those without an emulator
    world.mtu("east-a", 1400)                   # both ends' interfaces; end="left" or "right" for one
    world.interface("fw-db", "left")            # (host, interface name)
    world.nft("fw", "chain forward { type filter hook forward priority 0; tcp dport 5433 drop; }")
                                                # the inside of "table inet netdiag" of that host, replaced whole
    world.service("dns1").stop() .start() .restart() .signal(SIGSTOP) .kill() .reload() .is_running()
                                                # dns1 dns2 dns-auth lb db-east db-west health-east health-west
                                                # edge-east edge-west transit-a transit-b, link:NAME per emulator
    world.service("lb").configure(text)         # its configuration, then reload; clear() puts the pristine one back
    world.service("lb").configuration           # the text in force (of a database: pg_hba.conf)
    world.sql("db-east", "SELECT ...")          # as superuser, over the local socket; rows as text
    world.zone.set("db", "A", ["198.18.1.20"], ttl_s=60)  # vantage.example at dns-auth; no data: the name goes
    world.zone.publish()                        # new serial and reload; resolvers' caches flushed unless flush=False
    world.resolver("dns1").override("db", ["198.18.1.99"])  # what this resolver alone says; .refuse(), .flush()
    world.authority.issue(names, label="expired", valid=(start, end))  # TlsFiles from the lab's CA: certificates.py
    world.install_certificate("db-east", files)  # and reload
    world.clear()                               # the pristine state again: verified, LabError names what differs

    world.plan_toml()                           # the plan for netdiag; family=6 names addresses of that family alone
    world.run_netdiag(["run", "--plan", str(path)])  # inside app, as the application's user: CompletedProcess[str]
    world.environment                           # what it sets: HOME with .pgpass and the lab's CA

Links' left end is the one nearer to the application: "left-to-right" is away from it. Every process, namespace and
folder is written to the state file before it is made (journal.py), so a world whose owner was killed is still known.
All calls are for one thread at a time.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Literal

from netdiag.lab import dns, lifecycle, memory, plan, pristine, processes
from netdiag.lab import journal as journals
from netdiag.lab.certificates import Authority
from netdiag.lab.dns import Resolver, Zone
from netdiag.lab.emulator import LinkControl, LinkSettings
from netdiag.lab.errors import LabError
from netdiag.lab.hosts import LabHost
from netdiag.lab.journal import Journal, Recorded
from netdiag.lab.lifecycle import DEFAULT_STATE_DIR
from netdiag.lab.names import domain_name, namespace, new_world_id
from netdiag.lab.patience import wait_while
from netdiag.lab.postgres import TlsFiles
from netdiag.lab.services import bird, catalogue, links, postgres
from netdiag.lab.services.haproxy import BALANCER, servers_up
from netdiag.lab.services.service import Service
from netdiag.lab.services.zones import AUTHORITY
from netdiag.lab.topology import Family, Link, two_regions
from netdiag.lab.wiring import RESOLVERS

SETTLE_S = 30.0
NETDIAG_TIMEOUT_S = 300.0
MIN_MTU = 1280
End = Literal["left", "right"]
ENDS: tuple[End, End] = ("left", "right")


class World:
    """See the top of this file."""

    def __init__(self, state_dir: Path, recorded: Recorded, *, detached: bool) -> None:
        self.state_dir = state_dir
        self.world_id = recorded.world_id
        self.topology = two_regions(ecmp=recorded.ecmp)
        self.authority = Authority(state_dir / lifecycle.TLS)
        self.environment = _environment(state_dir / lifecycle.HOME)
        journal = Journal(state_dir)
        self.hosts = {host.name: self._host(host.name, journal) for host in self.topology.hosts}
        self.services = {
            spec.name: Service(
                spec,
                self.hosts[spec.host],
                journal,
                detached=detached,
                process=recorded.services.get(spec.name),
            )
            for spec in catalogue.specs(self.topology, state_dir)
        }
        self.zone = Zone(self.topology, state_dir / catalogue.DNS, self.services[AUTHORITY], self._flush_resolvers)

    def _host(self, name: str, journal: Journal) -> LabHost:
        return LabHost(name, namespace(self.world_id, name), self.topology, journal, self.environment)

    @classmethod
    def up(
        cls,
        state_dir: Path = DEFAULT_STATE_DIR,
        *,
        detached: bool = False,
        ecmp: bool = False,
        progress: Callable[[str], None] = lambda _: None,
    ) -> World:
        """Build and start everything. What an earlier world left in ``state_dir`` is removed first.

        ``detached``: the servers outlive this process; else they end with it, though its namespaces stay until the next
        ``up`` or ``clean``. ``ecmp``: both transits carry traffic. ``progress`` is told what is under way.
        Raises LabError; then nothing is left.
        """
        lifecycle.require_root()
        with lifecycle.locked(state_dir):
            lifecycle.tear_down(state_dir)
            try:
                return cls._up(state_dir, detached, ecmp, progress)
            except BaseException:
                lifecycle.tear_down(state_dir)
                raise

    @classmethod
    def _up(cls, state_dir: Path, detached: bool, ecmp: bool, progress: Callable[[str], None]) -> World:
        world_id = new_world_id()
        topology = two_regions(ecmp=ecmp)
        progress(f"{world_id}: namespaces, links, databases")
        journal = lifecycle.prepare(state_dir, world_id, topology)
        lifecycle.build(state_dir, world_id, topology, journal)
        world = cls(state_dir, _recorded(state_dir), detached=detached)
        progress(f"{world_id}: {len(world.services)} servers")
        for service in world.services.values():
            service.launch()
        world.settle()
        pristine.save(state_dir, pristine.observe(world.hosts.values()))
        world.warm_up()
        journal.complete()
        return world

    @classmethod
    def attach(cls, state_dir: Path = DEFAULT_STATE_DIR) -> World:
        """A world that is up. What it starts from here on is as detached as the rest. Raises LabError without one."""
        recorded = _recorded(state_dir)
        if not recorded.complete:
            raise LabError(f"the lab in {state_dir} did not come up: `netdiag lab down` removes it")
        return cls(state_dir, recorded, detached=True)

    @classmethod
    def clean(cls, state_dir: Path = DEFAULT_STATE_DIR) -> None:
        """Remove whatever world there is or was; nothing happens where there is none. Raises LabError."""
        lifecycle.require_root()
        with lifecycle.locked(state_dir):
            lifecycle.tear_down(state_dir)

    def down(self) -> None:
        """Nothing is left. Safe to call again."""
        self.clean(self.state_dir)

    def __enter__(self) -> World:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()

    def service(self, name: str) -> Service:
        """Raises LabError for a name that is none."""
        if name not in self.services:
            raise LabError(f"no service {name!r} in the lab; there are {', '.join(self.services)}")
        return self.services[name]

    def link(self, name: str) -> LinkControl:
        """Raises LabError for a link without an emulator, KeyError for no link."""
        if not self.topology.link(name).emulated:
            emulated = ", ".join(link.name for link in self.topology.emulated_links())
            raise LabError(f"link {name} has no emulator; those with one: {emulated}")
        return LinkControl(self.state_dir / catalogue.LINKS / f"{name}.sock")

    def usual(self, name: str) -> LinkSettings:
        """Of an emulated link when nothing is broken. Raises KeyError."""
        return links.usual(self.topology.link(name))

    def cut(self, name: str) -> None:
        """Everything on it vanishes; interfaces of an emulated link keep their carrier. Raises KeyError, LabError."""
        link = self.topology.link(name)
        if link.emulated:
            self.link(name).set("both", LinkSettings(delay_s=link.delay_s, loss=1.0))
        else:
            self._bridge_end(link, "down")

    def mend(self, name: str) -> None:
        """The contrary of ``cut``. Raises KeyError, LabError."""
        link = self.topology.link(name)
        if link.emulated:  # ready is one that took its usual settings; one just started again may not listen yet
            self.services[links.service_name(name)].wait_ready()
        else:
            self._bridge_end(link, "up")

    def _bridge_end(self, link: Link, state: Literal["up", "down"]) -> None:
        """A LAN's end of a cable: a host's own interface would lose its addresses and routes."""
        port = link.left if link.left.number is None else link.right
        self.hosts[port.host].ip("link", "set", port.interface, state)

    def interface(self, name: str, end: End) -> tuple[str, str]:
        """Host and interface at one end of a link. Raises KeyError."""
        link = self.topology.link(name)
        port = link.left if end == "left" else link.right
        return port.host, port.interface

    def mtu(self, name: str, size: int, *, end: Literal["left", "right", "both"] = "both") -> None:
        """Of the hosts' interfaces, 1280 to 1500 bytes. Raises KeyError, LabError."""
        if size < MIN_MTU:
            raise LabError(f"an interface with an MTU below {MIN_MTU} loses its IPv6 addresses (RFC 8200, section 5)")
        for which in ENDS:
            if end in (which, "both"):
                host, interface = self.interface(name, which)
                self.hosts[host].ip("link", "set", interface, "mtu", str(size))

    def nft(self, host: str, rules: str) -> None:
        """Replace the inside of "table inet netdiag" on a host. Raises LabError with what nft says."""
        self.hosts[host].nft(rules)

    def sql(self, host: str, *statements: str, dbname: str = "postgres") -> str:
        """As superuser on db-east or db-west, over the local socket; rows as psql -At. Raises LabError."""
        return postgres.sql(catalogue.database(host, self.state_dir), *statements, dbname=dbname)

    def install_certificate(self, host: str, files: TlsFiles) -> None:
        """For new connections to db-east or db-west. Raises LabError."""
        postgres.install_certificate(catalogue.database(host, self.state_dir), files)
        self.service(host).reload()

    def resolver(self, name: str) -> Resolver:
        """dns1 or dns2."""
        return Resolver(self.services[name], self.hosts[name], self.topology)

    def _flush_resolvers(self) -> None:
        for name in RESOLVERS:
            self.resolver(name).flush()

    def plan_toml(self, family: Family | None = None) -> str:
        """The deployment as netdiag's plan. ``family``: addresses of that family instead of names."""
        return plan.plan_toml(self.topology, self.state_dir, family)

    def run_netdiag(
        self, arguments: Sequence[str], *, timeout: float = NETDIAG_TIMEOUT_S, host: str = "app"
    ) -> subprocess.CompletedProcess[str]:
        """Inside ``host``, with the application's password file and authority. Raises subprocess.TimeoutExpired."""
        argv = [sys.executable, "-m", "netdiag", *arguments]
        return self.hosts[host].run(argv, timeout=timeout, check=False)

    def settle(self, timeout_s: float = SETTLE_S) -> None:
        """Wait until all servers answer, routes stand, the replica streams and the balancer sees both databases.

        Raises LabError with what is still missing.
        """
        for service in self.services.values():
            service.wait_ready()
        if missing := wait_while(lambda: list(self._unsettled()), timeout_s):
            raise LabError(f"after {timeout_s:g} s still: {'; '.join(missing)}")

    def _unsettled(self) -> Iterator[str]:
        for router in (host.name for host in self.topology.hosts if host.asn is not None):
            down = [name for name, up in bird.sessions(self.bird_control(router)).items() if not up]
            if down:
                yield f"{router}: BGP sessions {', '.join(down)} not established"
        if self.sql(postgres.PRIMARY, "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'") != "1":
            yield "the replica does not stream"
        out = [
            name for name, up in servers_up(self.state_dir / f"{catalogue.BALANCING}/{BALANCER}.sock").items() if not up
        ]
        if out:
            yield f"the balancer has taken out {', '.join(out)}"

    def warm_up(self) -> None:
        """Resolvers know the deployment's names, as those of a running application do. Raises LabError."""
        names = [domain_name(host) for host in ("db", "db-east", "db-west", "lb")]
        servers = [self.hosts[name].address() for name in RESOLVERS]
        if silent := self.hosts["app"].inside(partial(dns.ask_all, servers, names)):
            raise LabError(f"no answer from resolver {', '.join(silent)}")

    def clear(self) -> None:
        """The pristine state: faults are undone, caches and counters forgotten, names known again.

        Raises LabError naming what still differs after ``SETTLE_S``. What it does not know of: files and tables of the
        databases, addresses and routes added by hand (it names them).
        """
        recorded = _recorded(self.state_dir)
        processes.end(recorded.strays, patience_s=1.0)
        for host in self.hosts.values():
            pristine.reset_host(host, self.topology)
            host.write_sysctls(recorded.sysctls.get(host.name, {}))
        for service in self.services.values():
            service.restore()
        for link in self.topology.links:
            self.mend(link.name)
        self._clear_servers()
        for name in (host.name for host in self.topology.addressed_hosts()):
            memory.forget(self.hosts[name])
        self.settle()
        self._verify()
        self.warm_up()

    def _clear_servers(self) -> None:
        for name in (postgres.PRIMARY, postgres.REPLICA):
            self.services[name].wait_ready()
            target = catalogue.database(name, self.state_dir)
            if postgres.reset(target, self.authority.files(name)):
                self.services[name].restart()
        self.services[BALANCER].restart()  # its counters begin anew, and operators' orders are forgotten
        self.zone.reset()
        for name in RESOLVERS:
            self.services[name].reload()

    def _verify(self) -> None:
        expected = pristine.load(self.state_dir)
        if found := wait_while(lambda: self._differences(expected), SETTLE_S, every_s=0.2):
            raise LabError(f"not pristine: {'; '.join(found)}")

    def _differences(self, expected: pristine.State) -> list[str]:
        return list(pristine.differences(expected, pristine.observe(self.hosts.values())))

    def bird_control(self, router: str) -> Path:
        """BIRD's control socket of a router; reached from any namespace."""
        return self.state_dir / catalogue.BIRD / f"{router}.ctl"


def _recorded(state_dir: Path) -> Recorded:
    recorded = journals.read(state_dir)
    if recorded is None:
        raise LabError(f"no lab in {state_dir}: `netdiag lab up` makes one")
    return recorded


def _environment(home: Path) -> Mapping[str, str]:
    """The application's user: its own home folder, and nothing of the caller's that would lead elsewhere."""
    return {
        "HOME": str(home),
        "XDG_STATE_HOME": str(home / "state"),
        "PGPASSFILE": str(home / ".pgpass"),
        "PGSSLROOTCERT": str(home / ".postgresql/root.crt"),
    }
