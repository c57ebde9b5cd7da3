"""TCP ports of one address: open, reset, rejected by ICMP (and by whom), unreachable, or silent."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum
from ipaddress import ip_address

from probes.contract import Context, Probe, ProbeUnavailable
from probes.exchanges import Handshake, HandshakeRequest
from probes.model import Failure, FailureKind, Outcome, Target, value

# IANA's dynamic ports (RFC 6335), above Linux's default ip_local_port_range: nothing is likely to listen there.
RANDOM_CONTROL_PORTS = range(61000, 65536)


class PortState(StrEnum):
    OPEN = "open"
    RESET = "reset"  # RST: from the host, or from something that forges one
    REJECTED = "rejected"  # ICMP prohibited or port-unreachable; the offender is in the failure
    UNREACHABLE = "unreachable"  # ICMP host/net unreachable, or no route
    SILENT = "silent"
    UNDECIDED = "undecided"  # silence so far, but fewer attempts than "silent" needs: the deadline came first
    NOT_SENT = "not-sent"


@value
class PortsOptions:
    attempts: int = 4  # SYN-level attempts per port before "silent" is said; fewer once something answered
    spread: int = 8  # and as many of the service port at once, from source ports drawn at random: see PortsSteps
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


@value
class PortRound:
    """Handshakes to make at the same time, ``pause_s`` seconds or more after the round before began."""

    pause_s: float
    requests: tuple[HandshakeRequest, ...]


class PortsSteps:
    """Which port to ask next, and what the answers mean. A stepper: no I/O.

    1. The service port and the plan's control ports are asked together; a round begins ``interval_s`` after the
       one before.
    2. The random control port joins once the service port was not open on its first attempt: a healthy service
       needs no control, and a control port asked at the same time tells a dropped port from a dead host.
    3. A port that answered (open, reset, rejected) is not asked again; any other is asked ``attempts`` times.
    4. A service port that did not answer by then is asked ``spread`` times more. Routers that have several paths
       choose one by the source port (RFC 2992), and connect(2) takes neighbouring ones in a row: where one of two
       paths is dead, four in a row may all be on it, and twelve of which eight are random are so in 1 run of 4,096.
    """

    def __init__(self, address: str, port: int, options: PortsOptions, random_port: int | None) -> None:
        self._address, self._port, self._options = address, port, options
        self._random_port = random_port if options.random_control else None
        self._ports = [port, *(control for control in dict.fromkeys(options.control_ports) if control != port)]
        self._attempts: list[PortAttempt] = []
        self._asked: tuple[int, ...] = ()

    def next(self) -> PortRound | None:
        self._asked = tuple(port for port in self._ports if self._is_open_question(port)) or self._spread()
        if not self._asked:
            return None
        requests = tuple(self._request(port) for port in self._asked)
        return PortRound(pause_s=self._options.interval_s if self._attempts else 0.0, requests=requests)

    def _spread(self) -> tuple[int, ...]:
        """The service port, as often as it is to be asked at once. This host's own refusal knows no source port."""
        tried = self._handshakes(self._port)
        told = any(_definite_state(h) or (h.failure and h.failure.kind is FailureKind.LOCAL) for h in tried)
        left = any(h.outcome is not Outcome.NOT_SENT for h in tried)
        again = left and not told and len(tried) == self._options.attempts
        return (self._port,) * self._options.spread if again else ()

    def tell(self, handshakes: Sequence[Handshake]) -> None:
        """One handshake for each request of the round, in its order."""
        first_round = not self._attempts
        for port, handshake in zip(self._asked, handshakes, strict=True):
            self._attempts.append(PortAttempt(port=port, control=port != self._port, handshake=handshake))
        if first_round and self._random_port is not None and handshakes[0].outcome is not Outcome.ANSWERED:
            self._ports.append(self._random_port)

    def result(self) -> PortsMeasurement:
        return PortsMeasurement(
            address=self._address,
            ports=tuple(self._port_result(port) for port in self._ports),
            attempts=tuple(self._attempts),
        )

    def _request(self, port: int) -> HandshakeRequest:
        return HandshakeRequest(
            address=self._address,
            port=port,
            timeout_s=self._options.timeout_s,
            source_port=0 if len(self._handshakes(port)) >= self._options.attempts else None,
            syn_count=1,
        )

    def _handshakes(self, port: int) -> list[Handshake]:
        return [attempt.handshake for attempt in self._attempts if attempt.port == port]

    def _is_open_question(self, port: int) -> bool:
        handshakes = self._handshakes(port)
        answered = any(_definite_state(handshake) for handshake in handshakes)
        return not answered and len(handshakes) < self._options.attempts

    def _port_result(self, port: int) -> PortResult:
        handshakes = self._handshakes(port)
        state, witness = _port_state(handshakes, self._options.attempts)
        return PortResult(
            port=port,
            control=port != self._port,
            state=state,
            attempts=len(handshakes),
            answered_by=_offender(witness) if witness else None,
        )


def _offender(handshake: Handshake) -> str | None:
    icmp = handshake.failure.icmp if handshake.failure else None
    return icmp.offender if icmp else None


def _definite_state(handshake: Handshake) -> PortState | None:
    """What one handshake settles. An ICMP port-unreachable is a rejection, whoever sent it: TCP says RST."""
    if handshake.outcome is Outcome.ANSWERED:
        return PortState.OPEN
    if handshake.outcome is Outcome.REJECTED:
        return PortState.REJECTED
    if handshake.outcome is Outcome.REFUSED:
        return PortState.REJECTED if handshake.failure and handshake.failure.icmp else PortState.RESET
    return None


def _port_state(handshakes: Sequence[Handshake], needed: int) -> tuple[PortState, Handshake | None]:
    """The state that these attempts add up to, and the attempt that shows it."""
    for handshake in handshakes:
        if state := _definite_state(handshake):
            return state, handshake
    for handshake in handshakes:
        # "Time exceeded" for a SYN that had its full TTL is a routing loop: the host cannot be reached.
        if handshake.outcome in (Outcome.UNREACHABLE, Outcome.EXPIRED):
            return PortState.UNREACHABLE, handshake
    silences = sum(handshake.outcome is not Outcome.NOT_SENT for handshake in handshakes)
    if silences == 0:
        return PortState.NOT_SENT, None
    return (PortState.SILENT if silences >= needed else PortState.UNDECIDED), None


def host_answers(measurement: PortsMeasurement) -> bool:
    """Did anything come from the address itself: a SYN-ACK, a RST or an ICMP error of its own?"""
    return any(
        attempt.handshake.outcome in (Outcome.ANSWERED, Outcome.REFUSED)
        or _is_address(_offender(attempt.handshake), measurement.address)
        for attempt in measurement.attempts
    )


def _is_address(offender: str | None, address: str) -> bool:
    return offender is not None and ip_address(offender) == ip_address(address)


def choose_random_port(avoid: Sequence[int]) -> int:
    """A high port for this run's control that is none of ``avoid``."""
    return secrets.choice([port for port in RANDOM_CONTROL_PORTS if port not in avoid])


async def measure(context: Context, target: Target, options: PortsOptions) -> PortsMeasurement:
    """Ask the service port and its controls. Silence counts only where it had its whole timeout: with less time left
    the first round is made all the same, for an answer is one, and no other.

    Raises ProbeUnavailable where the target has no address or no port.
    """
    if target.address is None or target.port is None:
        raise ProbeUnavailable(f"ports needs a resolved address and a port; {target.label()} lacks one")
    random_port = choose_random_port((target.port, *options.control_ports))
    steps = PortsSteps(target.address, target.port, options, random_port)
    round_started = context.clock.monotonic()
    while (step := steps.next()) is not None:
        pause = max(0.0, round_started + step.pause_s - context.clock.monotonic())
        timeout_s = min(options.timeout_s, context.remaining() - pause)
        if timeout_s <= 0 or (timeout_s < options.timeout_s and step.pause_s):
            break
        await context.clock.sleep(pause)
        round_started = context.clock.monotonic()
        requests = tuple(replace(request, timeout_s=timeout_s) for request in step.requests)
        try:
            async with asyncio.timeout(context.remaining()):  # the network may hold some back for its rate ceiling
                heard = await _handshakes(context, requests)
        except TimeoutError:
            break
        steps.tell(heard if timeout_s == options.timeout_s else tuple(map(_cut_short, heard)))
        if timeout_s < options.timeout_s:
            break
    return steps.result()


async def _handshakes(context: Context, requests: Sequence[HandshakeRequest]) -> tuple[Handshake, ...]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(context.network.handshake(request)) for request in requests]
    return tuple(task.result() for task in tasks)


def _cut_short(handshake: Handshake) -> Handshake:
    """Silence that the run's deadline cut short says nothing of the network."""
    if handshake.outcome is not Outcome.LOST:
        return handshake
    failure = Failure(kind=FailureKind.LOCAL, operation="connect", detail="the run's time was up")
    return replace(handshake, outcome=Outcome.NOT_SENT, failure=failure)


PROBE = Probe(
    name="ports",
    schema="ports/1",
    summary="Is the service port open, reset, rejected (by whom), unreachable or silent, beside control ports?",
    options=PortsOptions,
    measurement=PortsMeasurement,
    measure=measure,
)
