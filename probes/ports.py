"""TCP ports of one address: open, reset, rejected by ICMP (and by whom), unreachable, or silent."""

from __future__ import annotations

from enum import StrEnum

from probes.exchanges import Handshake
from probes.model import value


class PortState(StrEnum):
    OPEN = "open"
    RESET = "reset"  # RST: from the host, or from something that forges one
    REJECTED = "rejected"  # ICMP prohibited or port-unreachable; the offender is in the failure
    UNREACHABLE = "unreachable"  # ICMP host/net unreachable, or no route
    SILENT = "silent"
    NOT_SENT = "not-sent"


@value
class PortsOptions:
    attempts: int = 4  # SYN-level attempts per port before "silent" is said; fewer once something answered
    interval_s: float = 0.4  # silence in bursts is not silence
    timeout_s: float = 1.5
    control_ports: tuple[int, ...] = ()  # asked of the same address at the same time: does the host answer at all?
    random_control: bool = True  # one high port, chosen per run: a RST from it proves the host reachable


@value
class PortAttempt:
    port: int
    control: bool
    handshake: Handshake


@value
class PortResult:
    port: int
    control: bool
    state: PortState
    attempts: int
    answered_by: str | None  # who rejected: the ICMP offender


@value
class PortsMeasurement:
    address: str
    ports: tuple[PortResult, ...]  # the service port first
    attempts: tuple[PortAttempt, ...]
