"""Whose networks a path crosses, by an opt-in DNS zone of origin ASes; and a BIRD router's own BGP sessions."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address

from probes.contract import Context, Probe, ProbeUnavailable
from probes.exchanges import BirdRequest, DnsReply, DnsRequest
from probes.model import Failure, NetworkFailure, Outcome, Target, value
from probes.sampling import DEADLINE
from probes.wire.bird import BirdClock, BirdError, BirdSession, reply_lines
from probes.wire.bird import clock as bird_clock
from probes.wire.bird import sessions as bgp_sessions
from probes.wire.dns import Question, Reply, parse_reply, question
from probes.wire.origin import Origin, is_askable, origin_name, parse_origins

FINAL = frozenset({"NOERROR", "NXDOMAIN"})


@value
class RoutingOptions:
    hops: tuple[str | None, ...] = ()  # addresses by TTL, the target last where it answered; None: silent
    origin_zone: str | None = None  # such as "origin.asn.cymru.com"; it learns of every address asked
    resolvers: tuple[str, ...] = ()  # addresses, optionally "address#port"; empty: the host's own
    router: str | None = None  # how the report calls it
    bird: str | None = None  # path of its BIRD's control socket
    timeout_s: float = 2.0  # of one query, of one conversation with BIRD


@value
class OriginQuery:
    """One question to one resolver. An error rcode is an answer: ``outcome`` ANSWERED."""

    address: str
    resolver: str
    seconds: float
    outcome: Outcome
    rcode: str | None = None
    failure: Failure | None = None


@value
class HopOrigin:
    """``origin`` is None for a silent hop, a private address, one that nobody announces and one without an answer."""

    address: str | None
    origin: Origin | None


@value
class RoutingMeasurement:
    """Either the origins of a path's hops or the sessions of a router; the other part is empty."""

    zone: str | None
    hops: tuple[HopOrigin, ...]
    as_path: tuple[int | None, ...]  # an estimate: each AS once in a row; None: hops of unknown or several origins
    queries: tuple[OriginQuery, ...]
    router: str | None = None
    sessions: tuple[BirdSession, ...] | None = None  # None: no router was asked
    clock: BirdClock | None = None  # of the router's daemon, as it told the sessions


@value
class OriginAsk:
    address: str
    resolver: str
    question: Question


class OriginSteps:
    """Which address to ask of which resolver. A stepper: no I/O.

    1. Every address that a public table can know is asked once, in the order of the hops.
    2. A resolver that does not answer, or answers neither NOERROR nor NXDOMAIN, is followed by the next one; each
       exchange is recorded.
    3. The resolver that answered is asked first from then on: a dead one costs its timeout once.
    """

    def __init__(self, hops: Iterable[str | None], zone: str, resolvers: Iterable[str]) -> None:
        self._hops, self._zone = tuple(hops), zone
        self._resolvers = list(resolvers)
        self._due = [address for address in dict.fromkeys(self._hops) if address and self._name(address)]
        self._tried = 0
        self._origins: dict[str, Origin] = {}
        self._queries: list[OriginQuery] = []

    def _name(self, address: str) -> str | None:
        return origin_name(address, self._zone) if is_askable(address) else None

    def next(self) -> OriginAsk | None:
        if not self._due or not self._resolvers:
            return None
        address = self._due[0]
        asked = question(self._name(address) or self._zone, "TXT")
        return OriginAsk(address=address, resolver=self._resolvers[self._tried], question=asked)

    def tell(self, ask: OriginAsk, reply: DnsReply) -> None:
        query, read = _read(ask, reply)
        self._queries.append(query)
        if read is not None and read.rcode in FINAL:
            self._settle(ask, read)
        else:
            self._tried += 1
            if self._tried == len(self._resolvers):
                self._advance()

    def result(self) -> RoutingMeasurement:
        hops = tuple(HopOrigin(address=a, origin=self._origins.get(a) if a else None) for a in self._hops)
        return RoutingMeasurement(
            zone=self._zone, hops=hops, as_path=as_path(hop.origin for hop in hops), queries=tuple(self._queries)
        )

    def _settle(self, ask: OriginAsk, read: Reply) -> None:
        origin = parse_origins(record.value for record in read.answers if record.type == "TXT")
        if origin is not None:
            self._origins[ask.address] = origin
        self._resolvers.remove(ask.resolver)
        self._resolvers.insert(0, ask.resolver)
        self._advance()

    def _advance(self) -> None:
        self._due.pop(0)
        self._tried = 0


def _read(ask: OriginAsk, reply: DnsReply) -> tuple[OriginQuery, Reply | None]:
    outcome, failure, read = reply.outcome, reply.failure, None
    if reply.payload is not None:
        try:
            read = parse_reply(ask.question, reply.payload)
        except NetworkFailure as broken:
            outcome, failure = Outcome.FAILED, broken.failure
    return OriginQuery(
        address=ask.address,
        resolver=ask.resolver,
        seconds=reply.seconds,
        outcome=outcome,
        rcode=read.rcode if read else None,
        failure=failure,
    ), read


def as_path(origins: Iterable[Origin | None]) -> tuple[int | None, ...]:
    """Consecutive duplicates merged. A hop of several origins is unknown: which of them carried it cannot be told."""
    path: list[int | None] = []
    for origin in origins:
        asn = origin.asns[0] if origin and len(origin.asns) == 1 else None
        if not path or path[-1] != asn:
            path.append(asn)
    return tuple(path)


async def measure(context: Context, target: Target, options: RoutingOptions) -> RoutingMeasurement:
    """The hops' origins, or the router's sessions where ``bird`` names one.

    Raises ProbeUnavailable without either, for a zone that DNS cannot carry, and where BIRD cannot be asked.
    """
    if options.bird is not None:
        return await _router(context, options, options.bird)
    if options.origin_zone is None:
        raise ProbeUnavailable("routing needs the plan's dns.origin_zone, or a router's BIRD control socket")
    servers = _servers(options.resolvers or context.network.resolver_config().nameservers)
    try:
        steps = OriginSteps(options.hops, options.origin_zone, servers)
        while (ask := steps.next()) is not None:
            steps.tell(ask, await _exchange(context, ask, servers[ask.resolver], options.timeout_s))
    except ValueError as error:
        raise ProbeUnavailable(str(error)) from error
    return steps.result()


def _servers(labels: Iterable[str]) -> dict[str, tuple[str, int]]:
    """Each resolver's address and port by its label."""
    try:
        return {label: _server(label) for label in labels}
    except ValueError as error:
        raise ProbeUnavailable(f"a resolver is an IP address, optionally with #port: {error}") from error


def _server(label: str) -> tuple[str, int]:
    host, _, port = label.partition("#")
    literal = host.removeprefix("[").removesuffix("]")
    ip_address(literal)
    return literal, int(port or 53)


async def _exchange(context: Context, ask: OriginAsk, server: tuple[str, int], timeout_s: float) -> DnsReply:
    if context.remaining() < timeout_s:
        return DnsReply(outcome=Outcome.NOT_SENT, seconds=0.0, failure=DEADLINE)
    address, port = server
    request = DnsRequest(server=address, port=port, payload=ask.question.wire, timeout_s=timeout_s)
    return await context.network.dns(request)


async def _router(context: Context, options: RoutingOptions, control: str) -> RoutingMeasurement:
    reply = await context.network.bird(BirdRequest(control=control, timeout_s=options.timeout_s))
    if reply.payload is None:
        raise ProbeUnavailable(f"BIRD's control socket {control} cannot be asked ({_why(reply.failure)})")
    try:
        lines = reply_lines(reply.payload)
        found, clock = bgp_sessions(lines), bird_clock(lines)
    except BirdError as error:
        raise ProbeUnavailable(f"BIRD's control socket {control}: {error}") from error
    return RoutingMeasurement(
        zone=None, hops=(), as_path=(), queries=(), router=options.router, sessions=found, clock=clock
    )


def _why(failure: Failure | None) -> str:
    return (failure.errno or failure.detail or str(failure.kind)) if failure else "no reason given"


PROBE = Probe(
    name="routing",
    schema="routing/1",
    summary="The AS path behind a path's hops, by an opt-in DNS zone; or the BGP sessions of a BIRD router.",
    options=RoutingOptions,
    measurement=RoutingMeasurement,
    measure=measure,
)
