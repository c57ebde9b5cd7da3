"""Faults done to a world, and undone. What world.clear() puts back by itself is left to it.

Filter rules of one host are gathered from all faults and put in force together, for a host has one table.
"""

from __future__ import annotations

import datetime as dt
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from netdiag.lab import faults as kind
from netdiag.lab.certificates import Authority
from netdiag.lab.emulator import BOTH, LEFT_TO_RIGHT, RIGHT_TO_LEFT, LinkSettings, Window
from netdiag.lab.errors import LabError
from netdiag.lab.lifecycle import TLS, certificate_names
from netdiag.lab.names import DATABASE, DATABASE_PORT, DOMAIN, ROLE
from netdiag.lab.patience import wait_while
from netdiag.lab.postgres import TlsFiles
from netdiag.lab.services.haproxy import BALANCER
from netdiag.lab.topology import Family
from netdiag.lab.wiring import write_name_sources
from netdiag.lab.world import World

READY_S = 60.0
_DIRECTIONS = {"both": BOTH, "there": LEFT_TO_RIGHT, "back": RIGHT_TO_LEFT}
_ANSWERS = {
    "silence": "drop",
    "reset": "reject with tcp reset",
    "prohibited": "reject with icmpx type admin-prohibited",
    "port-unreachable": "reject with icmpx type port-unreachable",
}
_TOO_BIG = ("icmp type destination-unreachable icmp code frag-needed drop", "icmpv6 type packet-too-big drop")
_FAMILIES: tuple[Family, Family] = (4, 6)
_DAY = dt.timedelta(days=1)
_PROXY_PORT = 6544
_FEW_PORTS = "40000 40063"
_LABEL = "{part}-{number:02}-of-a-name-nearly-as-long-as-a-label-may-be-63-bytes"  # RFC 1035, 2.3.4
ROUTE_METRIC = "1"  # BIRD's routes have 32


@dataclass
class Stage:
    """What several faults share while they are done."""

    world: World
    folder: Path
    rules: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    props: list[Path] = field(default_factory=list)  # logs of what was spawned

    def rule(self, host: str, chain: str, *rules: str) -> None:
        self.rules.setdefault(host, {}).setdefault(chain, []).extend(rules)

    def prop(self, host: str, *arguments: str) -> None:
        """Start a program of props.py on a host."""
        self.folder.mkdir(exist_ok=True)
        log = self.folder / f"{len(self.props)}-{arguments[0]}.log"
        log.write_text("")
        self.world.hosts[host].spawn([sys.executable, "-m", "netdiag.lab.props", *arguments], log=log)
        self.props.append(log)

    def await_props(self) -> None:
        """Raises LabError with what one said instead of ready."""
        if late := wait_while(lambda: [log for log in self.props if "ready\n" not in log.read_text()], READY_S):
            said = late[0].read_text().strip().splitlines()
            raise LabError(f"{late[0].stem}: not ready: {said[-1] if said else 'it said nothing'}")

    def filter(self) -> None:
        for host, chains in self.rules.items():
            self.world.nft(host, "\n".join(chain_text(name, rules) for name, rules in chains.items()))

    def addresses(self, name: str) -> tuple[str, ...]:
        """A host's main ones, or the literal itself."""
        if name not in self.world.hosts:
            return (name,)
        return tuple(self.world.hosts[name].address(family) for family in _FAMILIES)


def chain_text(name: str, rules: Sequence[str]) -> str:
    """A chain of the hook that it is named after."""
    hook = "type nat hook prerouting priority -100" if name == "prerouting" else f"type filter hook {name} priority 0"
    return f"chain {name} {{ {hook}; policy accept;\n" + "\n".join(rules) + "\n}"


def inject(world: World, faults: Sequence[kind.Fault], folder: Path) -> None:
    """Do all of them. ``folder`` is for what their programs say. Raises LabError; undo() may follow in any case."""
    stage = Stage(world=world, folder=folder)
    for fault in faults:
        _DO[type(fault)](stage, fault)
    stage.filter()
    for fault in faults:
        if isinstance(fault, kind.Resolver) and fault.problem == "upstream":
            world.resolver(fault.host).flush()
    stage.await_props()


def undo(world: World, faults: Sequence[kind.Fault]) -> None:
    """What world.clear() does not know of. Safe to call again, and where nothing was done."""
    for fault in reversed(faults):
        take_back = _UNDO.get(type(fault))
        if take_back is not None:
            take_back(world, fault)


# Links and routers


def _link(stage: Stage, fault: kind.Link) -> None:
    usual = stage.world.usual(fault.link)
    worse = replace(
        usual,
        delay_s=usual.delay_s + fault.add_delay_s,
        jitter_s=max(usual.jitter_s, fault.jitter_s),
        loss=fault.loss,
        burst=fault.burst,
        rate_bps=fault.rate_bps,
        queue_bytes=fault.queue_bytes,
        mtu_drop_bytes=fault.mtu_drop_bytes,
        duplicate=fault.duplicate,
        reorder=fault.reorder,
        window=_window(fault.on_s, fault.period_s),
    )
    _set_link(stage, fault.link, fault.direction, usual, worse)


def _window(on_s: float | None, period_s: float | None) -> Window | None:
    if on_s is None:
        return None
    return Window(on_s=on_s, period_s=period_s or 2 * on_s)


def _set_link(stage: Stage, link: str, direction: str, usual: LinkSettings, worse: LinkSettings) -> None:
    """The pattern is the link's own, not the scenario's: a fresh one for each injection."""
    seed = time.time_ns() & 0xFFFFFFFF
    stage.world.link(link).set(_DIRECTIONS[direction], usual, worse, seed=seed)


def _transit(stage: Stage, fault: kind.Transit) -> None:
    link = fault.name.replace("transit-", "east-")
    if fault.down_s is None:
        stage.world.cut(link)
        return
    usual = stage.world.usual(link)
    _set_link(stage, link, "both", usual, replace(usual, loss=1.0, window=_window(fault.down_s, fault.period_s)))


def _mtu(stage: Stage, fault: kind.Mtu) -> None:
    stage.world.mtu(fault.link, fault.size)
    for end in ("left", "right") if not fault.signalled else ():
        host, _ = stage.world.interface(fault.link, end)
        stage.rule(host, "output", *_TOO_BIG)


def _route(stage: Stage, fault: kind.Route) -> None:
    for words in _routes(stage.world, fault):
        stage.world.hosts[fault.at].ip(*words[:1], "route", "replace", *words[1:], "metric", ROUTE_METRIC)


def _unroute(world: World, fault: kind.Route) -> None:
    for words in _routes(world, fault):
        _quietly(world, fault.at, *words[:1], "route", "del", *words[1:], "metric", ROUTE_METRIC)


def _routes(world: World, fault: kind.Route) -> Iterator[tuple[str, ...]]:
    """(family option, network, "via", gateway): the transit's end that faces the router."""
    topology = world.topology
    link = topology.link(fault.transit.replace("transit-", "west-" if fault.at == "edge-west" else "east-"))
    near = link.left if link.left.host == fault.transit else link.right
    network = topology.network(topology.ports(fault.to)[0].network)
    for family in _FAMILIES:
        gateway = topology.network(near.network).address(near.number or 0, family)
        yield f"-{family}", network.cidr(family), "via", gateway


def _barred(stage: Stage, fault: kind.Barred) -> None:
    for family, address in zip(_FAMILIES, stage.addresses(fault.to), strict=True):
        stage.world.hosts[fault.host].ip(f"-{family}", "route", "add", fault.how, address)


def _unbarred(world: World, fault: kind.Barred) -> None:
    for family in _FAMILIES:
        _quietly(world, fault.host, f"-{family}", "route", "del", fault.how, world.hosts[fault.to].address(family))


def _mss(stage: Stage, fault: kind.Mss) -> None:
    """What a cached path MTU does to the MSS that is advertised, without its ten minutes."""
    for family, address in zip(_FAMILIES, stage.addresses(fault.to), strict=True):
        host = stage.world.hosts[fault.host]
        via = host.ip(f"-{family}", "route", "get", address).split()
        gateway = via[via.index("via") + 1]
        host.ip(f"-{family}", "route", "replace", address, "via", gateway, "advmss", str(fault.size))


def _unmss(world: World, fault: kind.Mss) -> None:
    for family in _FAMILIES:
        _quietly(world, fault.host, f"-{family}", "route", "del", world.hosts[fault.to].address(family))


def _quietly(world: World, host: str, *words: str) -> None:
    """What is not there need not be removed."""
    world.hosts[host].run(["ip", *words], check=False)


# Filters


def add_filter(stage: Stage, fault: kind.Filter) -> None:
    """Its rules, among those that ``stage.filter`` puts in force."""
    if fault.after_bytes is not None:
        stage.world.hosts[fault.at].sysctl("net.netfilter.nf_conntrack_acct", 1)
    for match in _matches(stage, fault):
        words = (match, *_conditions(fault), "counter", _ANSWERS[fault.answer])
        stage.rule(fault.at, fault.chain, " ".join(word for word in words if word))


def _matches(stage: Stage, fault: kind.Filter) -> Iterator[str]:
    """One for each family where an address or ICMP is named, else one for both."""
    ends = ((fault.source, "saddr"), (fault.to, "daddr"))
    if fault.icmp is None and not (fault.source or fault.to):
        yield _protocol(fault, "")
        return
    for index, family in enumerate(("", "6")):
        hosts = " ".join(f"ip{family} {end} {stage.addresses(host)[index]}" for host, end in ends if host)
        yield f"{hosts} {_protocol(fault, family)}".strip()


def _protocol(fault: kind.Filter, family: str) -> str:
    if fault.icmp is not None:
        return f"icmp{'v6' if family else ''} type {fault.icmp}"
    if fault.protocol == "icmp":
        return f"meta l4proto {'ipv6-icmp' if family else 'icmp'}"
    ports = [f"{fault.protocol} dport {fault.port}"] * (fault.port is not None)
    ports += [f"{fault.protocol} sport {fault.source_port}"] * (fault.source_port is not None)
    ports += [f"{fault.protocol} dport != {fault.except_port}"] * (fault.except_port is not None)
    return " ".join(ports) or ("" if fault.protocol == "any" else f"meta l4proto {fault.protocol}")


def _conditions(fault: kind.Filter) -> Iterator[str]:
    if fault.established:
        yield "ct state established"
    if fault.after_bytes is not None:
        yield f"ct bytes > {fault.after_bytes}"
    if fault.share < 1.0:
        yield f"numgen random mod 10000 < {round(fault.share * 10000)}"
    if fault.above_per_s is not None:
        yield f"limit rate over {fault.above_per_s}/second burst 1 packets"


def _idle_timeout(stage: Stage, fault: kind.IdleTimeout) -> None:
    """Strict tracking: a packet in the middle of a forgotten connection is no new one (tcp_loose off)."""
    stage.rule(fault.at, "forward", "ct state invalid counter drop")
    host = stage.world.hosts[fault.at]
    host.sysctl("net.netfilter.nf_conntrack_tcp_loose", 0)
    host.sysctl("net.netfilter.nf_conntrack_tcp_timeout_established", fault.after_s)


# Servers


def _service(stage: Stage, fault: kind.Service) -> None:
    service = stage.world.service(fault.service)
    if fault.action == "freeze":
        service.signal(signal.SIGSTOP)
    elif fault.action == "kill":
        service.kill()
    else:
        service.stop()


def _sql(stage: Stage, fault: kind.Sql) -> None:
    for statement in fault.do:
        stage.world.sql(fault.host, statement)


def _unsql(world: World, fault: kind.Sql) -> None:
    for statement in fault.undo:
        world.sql(fault.host, statement)


def _setting(stage: Stage, fault: kind.Setting) -> None:
    stage.world.sql(fault.host, f"ALTER SYSTEM SET {fault.name} = '{fault.setting}'")
    stage.world.sql(fault.host, "SELECT pg_reload_conf()")


def _hba(stage: Stage, fault: kind.Hba) -> None:
    service = stage.world.service(fault.host)
    lines = (
        f"host all all {address}/{128 if ':' in address else 32} reject" for address in stage.addresses(fault.source)
    )
    service.configure("\n".join(lines) + "\n" + service.configuration)


def _conninfo(stage: Stage, host: str) -> str:
    return f"host={stage.world.state_dir / 'postgres' / host} port={DATABASE_PORT} user={ROLE} dbname={DATABASE}"


def _sessions(stage: Stage, fault: kind.Sessions) -> None:
    """None free: as many as there are to be had, and any that comes free later."""
    if fault.free == 0:
        stage.prop(fault.host, "sessions", _conninfo(stage, fault.host), "0")
        return
    slots = "current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int"
    count = int(stage.world.sql(fault.host, f"SELECT {slots}")) - fault.free
    stage.prop(fault.host, "sessions", _conninfo(stage, fault.host), str(count))


def _load(stage: Stage, fault: kind.Load) -> None:
    words = ("sessions", _conninfo(stage, fault.host), str(fault.sessions), "--statement", fault.statement)
    stage.prop(fault.host, *words)


def _closing(stage: Stage, fault: kind.Closing) -> None:
    stage.prop(fault.host, "sessions", _conninfo(stage, fault.host), "1")
    stage.await_props()
    stage.world.service(fault.host).signal(signal.SIGTERM)  # PostgreSQL's smart shutdown


def _certificate(stage: Stage, fault: kind.Certificate) -> None:
    stage.world.install_certificate(fault.host, _bad_certificate(stage, fault))


def _bad_certificate(stage: Stage, fault: kind.Certificate) -> TlsFiles:
    now, names = dt.datetime.now(dt.UTC), certificate_names(fault.host)
    authority, valid = stage.world.authority, (now - _DAY, now + 30 * _DAY)
    if fault.problem == "unknown-issuer":
        authority = Authority(stage.folder / "other-ca", "Another CA")
    elif fault.problem == "wrong-name":
        names = ("another-host.vantage.example",)
    elif fault.problem == "expired":
        valid = (now - 30 * _DAY, now - _DAY)
    else:
        valid = (now + _DAY, now + 30 * _DAY)
    return authority.issue(names, label=f"fault-{fault.host}", valid=valid)


def _impostor(stage: Stage, fault: kind.Impostor) -> None:
    stage.world.service(fault.service).stop()
    stage.prop(fault.host, "impostor", str(DATABASE_PORT), fault.says)


def _backend(stage: Stage, fault: kind.Backend) -> None:
    service = stage.world.service(BALANCER)
    lines = service.configuration.splitlines()
    marked = [f"{line} disabled" if line.strip().startswith(f"server {fault.name} ") else line for line in lines]
    service.configure("\n".join(marked) + "\n")


def _startup(stage: Stage, fault: kind.Startup) -> None:
    """Only connections from outside meet the proxy: those of this host do not pass prerouting."""
    files = [str(stage.world.state_dir / TLS / f"{fault.host}.{suffix}") for suffix in ("pem", "key")]
    words = ("startup", str(_PROXY_PORT), "127.0.0.1", str(DATABASE_PORT), fault.version, *files)
    stage.prop(fault.host, *words)
    stage.rule(fault.host, "prerouting", f"tcp dport {DATABASE_PORT} redirect to :{_PROXY_PORT}")


# Names


def _record(stage: Stage, fault: kind.Record) -> None:
    addresses = [address for name in fault.addresses for address in stage.addresses(name)]
    if fault.at is not None:
        stage.world.resolver(fault.at).override(fault.name, addresses)
        return
    stage.world.zone.remove(fault.name)
    owner = _chained(stage, fault) if fault.chain else fault.name
    stage.world.zone.set(owner, "A", [address for address in addresses if ":" not in address])
    stage.world.zone.set(owner, "AAAA", [address for address in addresses if ":" in address])
    stage.world.zone.publish()


def _chained(stage: Stage, fault: kind.Record) -> str:
    """Aliases from the name to the one that holds the addresses. No label comes twice: nothing to compress."""
    zone, owner = stage.world.zone, fault.name
    for number in range(fault.chain):
        alias = ".".join(_LABEL.format(part=part, number=number) for part in "abc")
        zone.set(owner, "CNAME", [f"{alias}.{DOMAIN}."])
        owner = alias
    return owner


def _resolver(stage: Stage, fault: kind.Resolver) -> None:
    if fault.problem == "refuses":
        stage.world.resolver(fault.host).refuse()
    elif fault.problem == "no-cache":
        service = stage.world.service(fault.host)
        service.configure(service.configuration.replace("server:\n", "server:\n  cache-max-ttl: 0\n", 1))
    else:
        stage.rule(fault.host, "output", "udp dport 53 counter reject", "tcp dport 53 counter reject with tcp reset")


# This host


def _name_sources(stage: Stage, fault: kind.NameSources) -> None:
    write_name_sources(stage.world.hosts[fault.host].namespace, fault.sources)


def _usual_name_sources(world: World, fault: kind.NameSources) -> None:
    write_name_sources(world.hosts[fault.host].namespace)


def _stream(stage: Stage, fault: kind.Stream) -> None:
    stage.prop(fault.source, "stream", stage.world.hosts[fault.to].address(4), str(fault.bits_per_s))


def _fill(stage: Stage, fault: kind.Fill) -> None:
    host, address = stage.world.hosts[fault.host], stage.world.hosts[fault.to].address(4)
    if fault.what == "ports":
        host.sysctl("net.ipv4.ip_local_port_range", _FEW_PORTS)
        stage.prop(fault.host, "ports", address, str(DATABASE_PORT))
        return
    stage.rule(fault.host, "output", "ct state invalid counter")
    stage.filter()  # before the first datagram, or it is not tracked
    stage.prop(fault.host, "conntrack")


_DO: dict[type, Callable[[Stage, Any], None]] = {
    kind.Link: _link,
    kind.Filter: add_filter,
    kind.Mtu: _mtu,
    kind.IdleTimeout: _idle_timeout,
    kind.Service: _service,
    kind.Sql: _sql,
    kind.Setting: _setting,
    kind.Hba: _hba,
    kind.Sessions: _sessions,
    kind.Load: _load,
    kind.Closing: _closing,
    kind.Certificate: _certificate,
    kind.Impostor: _impostor,
    kind.Record: _record,
    kind.Resolver: _resolver,
    kind.Backend: _backend,
    kind.Transit: _transit,
    kind.Route: _route,
    kind.Barred: _barred,
    kind.Mss: _mss,
    kind.Stream: _stream,
    kind.Fill: _fill,
    kind.Startup: _startup,
    kind.NameSources: _name_sources,
}
_UNDO: dict[type, Callable[[World, Any], None]] = {
    kind.Sql: _unsql,
    kind.Route: _unroute,
    kind.Barred: _unbarred,
    kind.Mss: _unmss,
    kind.NameSources: _usual_name_sources,
}
