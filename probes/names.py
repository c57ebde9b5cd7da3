"""Every resolver asked separately for a name, A and AAAA, UDP then TCP; the host's own getaddrinfo beside them.

For the share of its queries that is lost, the same questions are sampled: the answers are in its cache by then, so
that a silence is the path's or the server's own. What drops by content (a record type, EDNS) shows in the same sample.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from ipaddress import ip_address
from itertools import cycle, islice, product
from math import log
from typing import Literal

from probes.contract import Context, Probe, ProbeUnavailable
from probes.exchanges import DnsReply, DnsRequest, HostLookup, ResolverConfig
from probes.model import Failure, NetworkFailure, Outcome, Target, value
from probes.sampling import DEADLINE
from probes.stats.sprt import steps
from probes.wire.dns import Question, parse_reply
from probes.wire.dns import question as build_question

How = Literal["edns", "plain", "unchecked"]  # with EDNS; without, as glibc asks; with EDNS and checking disabled (CD)
NO_EDNS = frozenset({"FORMERR", "NOTIMP", "BADVERS"})  # what a server that does not bear EDNS may say (RFC 6891, 7)


@value
class NamesOptions:
    resolvers: tuple[str, ...] = ()  # addresses, optionally "address#port" (dig's notation); empty: the host's own
    record_types: tuple[str, ...] = ("A", "AAAA")
    transports: tuple[str, ...] = ("udp", "tcp")
    attempts: int = 2  # per question; each is recorded
    timeout_s: float = 2.0
    lookup: bool = True  # the host's own getaddrinfo beside the resolvers
    lookup_timeout_s: float = 10.0  # for getaddrinfo
    samples: int = 0  # more queries to each resolver over UDP, at most, for the share that is lost
    tolerated: float = 0.01  # "more than this is lost" ends the sample, and so does "less than" the question
    question: float = 0.10
    false_above: float = 0.001  # probability, at most, that the sample ends with "more" at ``tolerated``
    false_below: float = 0.01  # and with "less" at ``question``
    batch: int = 10  # samples between two looks
    interval_s: float = 0.1  # between samples: each of four questions at 2.5 a second, below usual response rate limits
    late_s: float = 3.0  # with the timeout as long as glibc waits; only until a first sample is answered in time


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
    how: How = "edns"
    sampled: bool = False  # asked for the share that is lost; the records are not kept
    strays: int = 0  # datagrams from the server that were no answer: another id, or too short to have one


@value
class NamesMeasurement:
    name: str
    system: HostLookup | None  # None: not asked
    config: ResolverConfig
    resolvers: tuple[str, ...]  # those asked
    queries: tuple[DnsQuery, ...]

    @property
    def looked_up(self) -> tuple[str, ...]:
        """The addresses that the host's own look-up gave."""
        return self.system.addresses if self.system else ()


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
    how: How = "edns"
    sampled: bool = False


class ResolverStepper:
    """The questions to one resolver, one after another: next() is the attempt due, tell() what became of it.

    1. Every type is asked over every transport, in the order of the options, type by type.
    2. A UDP question that met silence is asked again, up to ``attempts`` times: one lost packet and a dead server
       must be tellable. The repeat goes without EDNS, which some middleboxes and old servers drop or refuse.
    3. A SERVFAIL over UDP is asked once more with checking disabled: an answer then shows that DNSSEC validation
       failed, whether or not the server says so (RFC 8914). Any other answer ends the question.
    4. TCP repeats its own packets: one attempt a type.
    5. A transport that was silent to a whole question, and never answered, is not waited for again in full: UDP
       gets one attempt for each later type, TCP none. That bounds the time a dead server can take.
    """

    def __init__(self, resolver: ResolverAddress, questions: tuple[Question, ...], options: NamesOptions) -> None:
        self._resolver, self._options = resolver, options
        self._due = [
            Ask(question=question, transport=transport, attempt=1)
            for question in questions
            for transport in options.transports
        ]
        self._answered: set[str] = set()
        self._dead: set[str] = set()
        self._queries: list[DnsQuery] = []

    def next(self) -> Ask | None:
        while self._due and self._due[0].transport == "tcp" and "tcp" in self._dead:
            self._due.pop(0)
        return self._due[0] if self._due else None

    def tell(self, reply: DnsReply) -> None:
        ask = self._due.pop(0)
        query = _query(self._resolver.label, ask, reply)
        self._queries.append(query)
        again = self._again(ask, query)
        if again is not None:
            question = _variant(ask.question, again)
            self._due.insert(0, Ask(question=question, transport="udp", attempt=ask.attempt + 1, how=again))

    def _again(self, ask: Ask, query: DnsQuery) -> How | None:
        if query.outcome is Outcome.LOST:
            if ask.attempt < self._most_attempts(ask.transport):
                return "plain"
            if ask.transport not in self._answered:
                self._dead.add(ask.transport)
            return None
        self._answered.add(ask.transport)
        if ask.transport != "udp" or ask.how != "edns":
            return None
        if query.rcode in NO_EDNS:
            return "plain"
        return "unchecked" if query.rcode == "SERVFAIL" else None

    def _most_attempts(self, transport: str) -> int:
        return 1 if transport == "tcp" or transport in self._dead else self._options.attempts

    def result(self) -> tuple[DnsQuery, ...]:
        return tuple(self._queries)


class SampleStepper:
    """More queries to one resolver over UDP: next() is the batch due, tell() what became of it.

    Every type is asked with and without EDNS in turn. It ends
    1. once it is known that more than ``tolerated`` or less than ``question`` is lost (Wald's test). A loss right
       after a loss is not counted: one short outage is one event, not five;
    2. after ``samples`` queries;
    3. after a batch without one answer in time, where none was before: silence or slowness, whatever its share;
    4. after a batch with attempts that the deadline kept back.
    """

    def __init__(self, resolver: ResolverAddress, questions: tuple[Question, ...], options: NamesOptions) -> None:
        self._resolver, self._options = resolver, options
        hows: tuple[How, ...] = ("edns", "plain")
        self._order = cycle(product(hows, questions))
        self._up, self._down = steps(options.tolerated, options.question)
        self._ratio = 0.0  # log-likelihood ratio of Wald's test
        self._queries: list[DnsQuery] = []
        self._prompt = self._over = self._after_loss = False

    @property
    def late_s(self) -> float:
        """How long to wait for a late answer: silence and slowness must be told apart once, not at every loss."""
        return 0.0 if self._prompt else self._options.late_s

    def next(self) -> tuple[Ask, ...]:
        if self._over:
            return ()
        size = min(self._options.batch, self._options.samples - len(self._queries))
        return tuple(
            Ask(
                question=_variant(question, how),
                transport="udp",
                attempt=len(self._queries) + ordinal,
                how=how,
                sampled=True,
            )
            for ordinal, (how, question) in enumerate(islice(self._order, max(0, size)), start=1)
        )

    def tell(self, batch: Sequence[tuple[Ask, DnsReply]]) -> None:
        queries = [_query(self._resolver.label, ask, reply) for ask, reply in batch]
        self._queries += queries
        for query in queries:
            self._count(query.outcome)
        self._prompt |= any(query.outcome is Outcome.ANSWERED for query in queries)
        late = any(query.outcome is Outcome.NOT_SENT for query in queries)
        self._over = self._decided() or late or not self._prompt

    def _count(self, outcome: Outcome) -> None:
        if outcome not in (Outcome.ANSWERED, Outcome.LATE, Outcome.LOST):
            return
        lost = outcome is Outcome.LOST
        if not self._after_loss:
            self._ratio += self._up if lost else self._down
        self._after_loss = lost

    def _decided(self) -> bool:
        above, below = self._options.false_above, self._options.false_below
        return not log(below / (1 - above)) < self._ratio < log((1 - below) / above)

    def result(self) -> tuple[DnsQuery, ...]:
        return tuple(self._queries)


def _variant(question: Question, how: How) -> Question:
    """The same question asked another way, with an id of its own."""
    return build_question(question.name, question.record_type, edns=how != "plain", checking=how != "unchecked")


def _query(resolver: str, ask: Ask, reply: DnsReply) -> DnsQuery:
    query = DnsQuery(
        resolver=resolver,
        record_type=ask.question.record_type,
        transport=ask.transport,
        attempt=ask.attempt,
        seconds=reply.seconds,
        outcome=reply.outcome,
        failure=reply.failure,
        how=ask.how,
        sampled=ask.sampled,
        strays=reply.strays,
    )
    return query if reply.outcome not in _WITH_ANSWER else _answered(query, ask, reply.payload or b"")


_WITH_ANSWER = (Outcome.ANSWERED, Outcome.LATE)


def _answered(query: DnsQuery, ask: Ask, payload: bytes) -> DnsQuery:
    try:
        reply = parse_reply(ask.question, payload)
    except NetworkFailure as error:
        return replace(query, outcome=Outcome.FAILED, failure=error.failure)
    records = () if ask.sampled else reply.answers
    return replace(
        query,
        rcode=reply.rcode,
        extended_errors=tuple(ExtendedError(code=e.code, text=e.text) for e in reply.extended_errors),
        flags=reply.flags,
        edns=reply.edns,
        answers=tuple(Record(type=r.type, value=r.value, ttl_s=r.ttl_s) for r in records),
    )


async def measure(context: Context, target: Target, options: NamesOptions) -> NamesMeasurement:
    """Ask for ``target.host`` as an absolute name: every resolver at once, its questions one after another.

    The host's getaddrinfo, which does apply the search list and /etc/hosts, runs beside. Raises ProbeUnavailable
    for an IP literal, for a name or type that DNS cannot carry, for a resolver that is not an address, and for
    bounds of the sample that no test could tell apart.
    """
    questions = _questions(target.host, options)
    config = context.network.resolver_config()
    resolvers = _resolvers(options.resolvers or config.nameservers)
    async with asyncio.TaskGroup() as group:
        system = group.create_task(_lookup(context, target.host, options))
        asked = [group.create_task(_ask(context, resolver, questions, options)) for resolver in resolvers]
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
    errors = (options.false_above, options.false_below)
    if not (0 < options.tolerated < options.question < 1 and all(0 < e < 0.5 for e in errors) and options.batch > 0):
        raise ProbeUnavailable("needs 0 < tolerated < question < 1, 0 < false_above, false_below < 0.5 and batch > 0")
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


async def _lookup(context: Context, host: str, options: NamesOptions) -> HostLookup | None:
    return await context.network.lookup(host, options.lookup_timeout_s) if options.lookup else None


async def _ask(
    context: Context, resolver: ResolverAddress, questions: tuple[Question, ...], options: NamesOptions
) -> tuple[DnsQuery, ...]:
    stepper = ResolverStepper(resolver, questions, options)
    while (due := stepper.next()) is not None:
        stepper.tell(await _exchange(context, resolver, due, options.timeout_s))
    if not options.samples or not questions:
        return stepper.result()
    sample = SampleStepper(resolver, questions, options)
    while batch := sample.next():
        sample.tell(await _batch(context, resolver, batch, options, sample.late_s))
    return (*stepper.result(), *sample.result())


async def _batch(
    context: Context, resolver: ResolverAddress, batch: tuple[Ask, ...], options: NamesOptions, late_s: float
) -> list[tuple[Ask, DnsReply]]:
    """All of a batch are under way at once: a lost one must not hold up the next."""
    async with asyncio.TaskGroup() as group:
        tasks = []
        for ask in batch:
            tasks.append(group.create_task(_exchange(context, resolver, ask, options.timeout_s, late_s)))
            await context.clock.sleep(options.interval_s)
    return [(ask, task.result()) for ask, task in zip(batch, tasks, strict=True)]


async def _exchange(
    context: Context, resolver: ResolverAddress, due: Ask, timeout_s: float, late_s: float = 0.0
) -> DnsReply:
    """One exchange, or NOT_SENT where its whole timeout does not fit: an answer cut short is not silence."""
    if context.remaining() < timeout_s + late_s:
        return DnsReply(outcome=Outcome.NOT_SENT, seconds=0.0, failure=DEADLINE)
    request = DnsRequest(
        server=resolver.address,
        port=resolver.port,
        payload=due.question.wire,
        transport=due.transport,
        timeout_s=timeout_s,
        late_s=late_s,
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
