"""`netdiag doctor`: what this host and user may do, found out by doing it on loopback."""

from __future__ import annotations

import asyncio
import resource
import socket
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

from netdiag.cli.output import DEGRADED, OK, emit, to_json
from probes.contract import Capability, Network
from probes.exchanges import DatagramRequest, Handshake, HandshakeRequest, TcpInfo
from probes.model import Outcome, value

SCHEMA = "netdiag.doctor/1"
LOOPBACK = "127.0.0.1"
_LOOPBACK_UP = "ip link set lo up"
FEW_PORTS = 4096  # ephemeral ports; fewer are used up by a busy application
FEW_DESCRIPTORS = 1024


@value
class Ability:
    """One thing that netdiag would like to do here. ``loss`` and ``grant`` matter where ``able`` is False."""

    name: str
    able: bool
    found: str
    loss: str
    grant: str


def doctor_command(as_json: bool) -> int:
    """0: everything; 1: something is degraded. Nothing here keeps netdiag from a verdict."""
    abilities = asyncio.run(examine())
    able = all(ability.able for ability in abilities)
    if as_json:
        rows = [{field.name: getattr(ability, field.name) for field in fields(ability)} for ability in abilities]
        emit(to_json({"schema": SCHEMA, "complete": able, "abilities": rows}))
    else:
        emit("\n".join(line for ability in abilities for line in _lines(ability)))
    return OK if able else DEGRADED


def _lines(ability: Ability) -> Iterator[str]:
    yield f"{'yes' if ability.able else 'NO ':<5}{ability.name:<28}{ability.found}"
    if not ability.able:
        yield f"{'':<5}without it: {ability.loss}"
        yield f"{'':<5}to grant:   {ability.grant}"


async def examine() -> list[Ability]:
    from probes.net.clock import SystemClock
    from probes.net.kernel import KernelNetwork

    async with KernelNetwork(SystemClock()) as network:
        return [
            *_sockets(network),
            await _error_queue(network),
            await _tcp_info(network),
            _resolvers(network),
            _ports(),
            _descriptors(),
        ]


def _sockets(network: Network) -> Iterator[Ability]:
    capabilities = network.capabilities()
    icmp, ipv6 = Capability.ICMP_ECHO in capabilities, Capability.IPV6 in capabilities
    yield Ability(
        name="ICMP echo",
        able=icmp,
        found="an ICMP socket opens" if icmp else "no ICMP socket may be opened",
        loss="round-trip time and loss are measured by TCP alone; hosts without an open port are not measured",
        grant='sysctl -w net.ipv4.ping_group_range="0 2147483647"',
    )
    yield Ability(
        name="IPv6",
        able=ipv6,
        found="IPv6 sockets work" if ipv6 else "no IPv6 here",
        loss="IPv6 addresses of a target are not measured",
        grant="sysctl -w net.ipv6.conf.all.disable_ipv6=0",
    )


async def _error_queue(network: Network) -> Ability:
    """A datagram to a closed port of this host: its ICMP answer must come back with its sender (ip(7), IP_RECVERR)."""
    reply = await network.datagram(DatagramRequest(address=LOOPBACK, port=_closed_port(), packet_bytes=128))
    icmp = reply.failure.icmp if reply.failure else None
    told = f"port-unreachable from {icmp.offender}" if icmp else str(reply.outcome)
    return Ability(
        name="ICMP errors (error queue)",
        able=reply.outcome is Outcome.REFUSED and icmp is not None,
        found=told,
        loss="who rejects a packet, the hops of a path and signalled MTUs stay unknown",
        grant=_LOOPBACK_UP
        if reply.outcome is Outcome.UNREACHABLE
        else "let ICMP in on lo: nft list ruleset; a sandbox such as gVisor may not have it at all",
    )


def _closed_port() -> int:
    """A UDP port that was free a moment ago."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((LOOPBACK, 0))
        port: int = sock.getsockname()[1]
        return port


async def _tcp_info(network: Network) -> Ability:
    handshake = await _own_handshake(network)
    info = handshake.info
    missing = [field.name for field in fields(TcpInfo) if info is None or getattr(info, field.name) is None]
    return Ability(
        name="TCP_INFO",
        able=not missing,
        found=f"handshake {handshake.outcome}; " + (f"missing: {', '.join(missing)}" if missing else "every field"),
        loss="retransmissions and the kernel's round-trip times are not told, or coarser",
        grant=_LOOPBACK_UP if handshake.outcome is Outcome.UNREACHABLE else "a newer kernel; nothing to set",
    )


async def _own_handshake(network: Network) -> Handshake:
    """With a listener of our own: the kernel answers for it, nobody needs to accept."""
    with socket.create_server((LOOPBACK, 0)) as server:
        return await network.handshake(HandshakeRequest(address=LOOPBACK, port=server.getsockname()[1]))


def _resolvers(network: Network) -> Ability:
    config = network.resolver_config()
    return Ability(
        name="resolv.conf",
        able=bool(config.nameservers),
        found=f"{config.source}: {', '.join(config.nameservers) or 'no nameserver'}",
        loss="resolvers are not asked one by one; getaddrinfo alone is",
        grant="name them in the plan: [dns] resolvers = [...]",
    )


def _ports() -> Ability:
    low, high = _port_range()
    return Ability(
        name="ephemeral ports",
        able=high - low + 1 >= FEW_PORTS,
        found=f"{low}-{high}",
        loss="a busy application uses them up, and netdiag's own connections fail with it",
        grant='sysctl -w net.ipv4.ip_local_port_range="32768 60999"',
    )


def _port_range(path: Path = Path("/proc/sys/net/ipv4/ip_local_port_range")) -> tuple[int, int]:
    try:
        low, high = path.read_text().split()
        return int(low), int(high)
    except (OSError, ValueError):
        return 32768, 60999  # the kernel's default


def _descriptors() -> Ability:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    told = ["unlimited" if limit == resource.RLIM_INFINITY else str(limit) for limit in (soft, hard)]
    return Ability(
        name="file descriptors",
        able=soft == resource.RLIM_INFINITY or soft >= FEW_DESCRIPTORS,
        found=f"soft {told[0]}, hard {told[1]}",
        loss="many targets at once are measured in smaller groups",
        grant=f"ulimit -n {FEW_DESCRIPTORS}",
    )
