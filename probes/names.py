"""Every resolver asked separately for a name, A and AAAA, UDP then TCP; the host's own getaddrinfo beside them."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from ipaddress import ip_address

from probes.contract import Context, Probe, ProbeUnavailable
from probes.exchanges import DnsReply, DnsRequest, HostLookup, ResolverConfig
from probes.model import Failure, NetworkFailure, Outcome, Target, value
from probes.sampling import DEADLINE
from probes.wire.dns import Question, parse_reply
from probes.wire.dns import question as build_question


@value
class NamesOptions:
    resolvers: tuple[str, ...] = ()  # addresses, optionally "address#port" (dig's notation); empty: the host's own
    record_types: tuple[str, ...] = ("A", "AAAA")
    transports: tuple[str, ...] = ("udp", "tcp")
    attempts: int = 2  # per question; each is recorded
    timeout_s: float = 2.0
    lookup_timeout_s: float = 10.0  # for getaddrinfo


@value
class ExtendedError:
    """RFC 8914."""

    code: int
    text: str


@value
class Record:
    type: str
    value: str
    ttl_s: int


@value
class DnsQuery:
    """One question to one server over one transport. An error rcode is an answer: ``outcome`` ANSWERED."""

    resolver: str
    record_type: str
    transport: str
    attempt: int
    seconds: float
    outcome: Outcome
    rcode: str | None = None  # "NOERROR", "NXDOMAIN", "SERVFAIL", "REFUSED", ...
    extended_errors: tuple[ExtendedError, ...] = ()
    flags: tuple[str, ...] = ()  # "AA", "TC", "RD", "RA", "AD"
    edns: bool | None = None  # the answer carried an OPT record
    answers: tuple[Record, ...] = ()  # the CNAME chain and the addresses, in the answer's order
    failure: Failure | None = None


@value
class NamesMeasurement:
    name: str
    system: HostLookup
    config: ResolverConfig
    resolvers: tuple[str, ...]  # those asked
    queries: tuple[DnsQuery, ...]


@value
class ResolverAddress:
    """One server to ask; ``label`` is as it was written."""

    label: str
    address: str
    port: int = 53


def resolver_address(text: str) -> ResolverAddress:
    """``192.0.2.1``, ``192.0.2.1#5353``, ``2001:db8::1#5353`` or ``[2001:db8::1]#5353``: dig's notation.

    Raises ValueError for anything else: a resolver's own name would need a resolver.
    """
    host, _, port = text.partition("#")
    literal = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    ip_address(literal)
    number = int(port) if "#" in text else 53
    if not 0 < number < 65536:
        raise ValueError(f"no port: {text}")
    return ResolverAddress(label=text, address=literal, port=number)


@value
class Ask:
    """One attempt that is due."""

    question: Question
    transport: str
    attempt: int


class ResolverStepper:
    """The questions to one resolver, one after another: next() is the attempt due, tell() what became of it.

    1. Every type is asked over every transport, in the order of the options, type by type.
    2. A UDP question that met silence is asked again, up to ``attempts`` times: one lost packet and a dead server
       must be tellable. Anything else, an error rcode included, is an answer and ends the question.
    3. TCP repeats its own packets: one attempt a type.
    4. A transport that was silent to a whole question, and never answered, is not waited for again in full: UDP
       gets one attempt for each later type, TCP none. That bounds the time a dead server can take.
    """

    def __init__(self, resolver: ResolverAddress, questions: tuple[Question, ...], options: NamesOptions) -> None:
        self._resolver, self._options = resolver, options
        self._due = [(question, transport) for question in questions for transport in options.transports]
        self._attempt = 1
        self._answered: set[str] = set()
        self._dead: set[str] = set()
        self._queries: list[DnsQuery] = []

    def next(self) -> Ask | None:
        while self._due and self._due[0][1] == "tcp" and "tcp" in self._dead:
            self._due.pop(0)
        if not self._due:
            return None
        question, transport = self._due[0]
        return Ask(question=question, transport=transport, attempt=self._attempt)

    def tell(self, reply: DnsReply) -> None:
        question, transport = self._due[0]
        self._queries.append(_query(self._resolver.label, question, transport, self._attempt, reply))
        if reply.outcome is not Outcome.LOST:
            self._answered.add(transport)
        elif self._attempt < self._most_attempts(transport):
            self._attempt += 1
            return
        elif transport not in self._answered:
            self._dead.add(transport)
        self._due.pop(0)
        self._attempt = 1

    def _most_attempts(self, transport: str) -> int:
        return 1 if transport == "tcp" or transport in self._dead else self._options.attempts

    def result(self) -> tuple[DnsQuery, ...]:
        return tuple(self._queries)


def _query(resolver: str, question: Question, transport: str, attempt: int, reply: DnsReply) -> DnsQuery:
    query = DnsQuery(
        resolver=resolver,
        record_type=question.record_type,
        transport=transport,
        attempt=attempt,
        seconds=reply.seconds,
        outcome=reply.outcome,
        failure=reply.failure,
    )
    return query if reply.outcome is not Outcome.ANSWERED else _answered(query, question, reply.payload or b"")


def _answered(query: DnsQuery, question: Question, payload: bytes) -> DnsQuery:
    try:
        reply = parse_reply(question, payload)
    except NetworkFailure as error:
        return replace(query, outcome=Outcome.FAILED, failure=error.failure)
    return replace(
        query,
        rcode=reply.rcode,
        extended_errors=tuple(ExtendedError(code=e.code, text=e.text) for e in reply.extended_errors),
        flags=reply.flags,
        edns=reply.edns,
        answers=tuple(Record(type=r.type, value=r.value, ttl_s=r.ttl_s) for r in reply.answers),
    )


async def measure(context: Context, target: Target, options: NamesOptions) -> NamesMeasurement:
    """Ask for ``target.host`` as an absolute name: every resolver at once, its questions one after another.

    The host's getaddrinfo, which does apply the search list and /etc/hosts, runs beside. Raises ProbeUnavailable
    for an IP literal, for a name or type that DNS cannot carry, and for a resolver that is not an address.
    """
    questions = _questions(target.host, options)
    config = context.network.resolver_config()
    resolvers = _resolvers(options.resolvers or config.nameservers)
    async with asyncio.TaskGroup() as group:
        system = group.create_task(context.network.lookup(target.host, options.lookup_timeout_s))
        asked = [
            group.create_task(_ask(context, ResolverStepper(r, questions, options), r, options)) for r in resolvers
        ]
    return NamesMeasurement(
        name=target.host,
        system=system.result(),
        config=config,
        resolvers=tuple(resolver.label for resolver in resolvers),
        queries=tuple(query for task in asked for query in task.result()),
    )


def _questions(name: str, options: NamesOptions) -> tuple[Question, ...]:
    if _is_address(name):
        raise ProbeUnavailable(f"{name} is an address: there is no name to resolve")
    if unknown := set(options.transports) - {"udp", "tcp"}:
        raise ProbeUnavailable(f'transport {min(unknown)!r} is neither "udp" nor "tcp"')
    try:
        return tuple(build_question(name, record_type) for record_type in options.record_types)
    except ValueError as error:
        raise ProbeUnavailable(str(error)) from error


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _resolvers(texts: tuple[str, ...]) -> tuple[ResolverAddress, ...]:
    try:
        return tuple(resolver_address(text) for text in dict.fromkeys(texts))
    except ValueError as error:
        raise ProbeUnavailable(f"a resolver is an IP address, optionally with #port: {error}") from error


async def _ask(
    context: Context, stepper: ResolverStepper, resolver: ResolverAddress, options: NamesOptions
) -> tuple[DnsQuery, ...]:
    while (due := stepper.next()) is not None:
        stepper.tell(await _exchange(context, resolver, due, options.timeout_s))
    return stepper.result()


async def _exchange(context: Context, resolver: ResolverAddress, due: Ask, timeout_s: float) -> DnsReply:
    """One exchange, or NOT_SENT where its whole timeout does not fit: an answer cut short is not silence."""
    if context.remaining() < timeout_s:
        return DnsReply(outcome=Outcome.NOT_SENT, seconds=0.0, failure=DEADLINE)
    request = DnsRequest(
        server=resolver.address,
        port=resolver.port,
        payload=due.question.wire,
        transport=due.transport,
        timeout_s=timeout_s,
    )
    return await context.network.dns(request)


PROBE = Probe(
    name="names",
    schema="names/1",
    summary="Every resolver asked separately for the name, beside the host's own look-up",
    options=NamesOptions,
    measurement=NamesMeasurement,
    measure=measure,
)
