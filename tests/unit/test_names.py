"""Which questions go to which resolver, how often, and what each attempt leaves behind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest

from probes.contract import ProbeUnavailable
from probes.exchanges import DnsReply, DnsRequest, HostLookup, ResolverConfig
from probes.model import Failure, FailureKind, Outcome, Target
from probes.names import (
    Ask,
    NamesOptions,
    ResolverAddress,
    ResolverStepper,
    SampleStepper,
    measure,
    resolver_address,
)
from probes.wire.dns import question
from tests.fakes.clock import FakeClock
from tests.fakes.network import ScriptedNetwork, context

NAME = Target(host="db.example")
SILENCE = DnsReply(outcome=Outcome.LOST, seconds=2.0, failure=Failure(kind=FailureKind.TIMEOUT, operation="receive"))
PORT_CLOSED = DnsReply(
    outcome=Outcome.REFUSED, seconds=0.0, failure=Failure(kind=FailureKind.REFUSED, operation="receive")
)


def answer(request: DnsRequest, rcode: str = "NOERROR") -> DnsReply:
    asked = dns.message.from_wire(request.payload)
    reply = dns.message.make_response(asked)
    reply.set_rcode(dns.rcode.from_text(rcode))
    if rcode == "NOERROR" and asked.question[0].rdtype.name == "A":
        reply.answer.append(dns.rrset.from_text("db.example.", 60, "IN", "A", "192.0.2.10"))
    return DnsReply(outcome=Outcome.ANSWERED, seconds=0.01, payload=reply.to_wire())


def looked_up(name: str) -> HostLookup:
    return HostLookup(name=name, seconds=0.02, addresses=("192.0.2.10",))


def network(dns: Callable[[DnsRequest], DnsReply], nameservers: tuple[str, ...] = ("192.0.2.53",)) -> ScriptedNetwork:
    config = ResolverConfig(nameservers=nameservers, search=(), options=(), source="/etc/resolv.conf")
    return ScriptedNetwork(FakeClock(), dns=dns, lookup=looked_up, config=config)


def drive(replies: Callable[[str, str, int], DnsReply], options: NamesOptions | None = None):
    """The stepper alone against a function of (type, transport, attempt)."""
    chosen = options or NamesOptions()
    questions = tuple(question("db.example", kind) for kind in chosen.record_types)
    stepper = ResolverStepper(ResolverAddress(label="r", address="192.0.2.53"), questions, chosen)
    while (due := stepper.next()) is not None:
        stepper.tell(replies(due.question.record_type, due.transport, due.attempt))
    return [(q.record_type, q.transport, q.attempt, q.outcome.value) for q in stepper.result()]


async def test_every_type_over_every_transport_once_when_answered():
    measured = await measure(context(network(answer)), NAME, NamesOptions())
    assert [(q.resolver, q.record_type, q.transport, q.attempt) for q in measured.queries] == [
        ("192.0.2.53", "A", "udp", 1),
        ("192.0.2.53", "A", "tcp", 1),
        ("192.0.2.53", "AAAA", "udp", 1),
        ("192.0.2.53", "AAAA", "tcp", 1),
    ]
    first, empty = measured.queries[0], measured.queries[2]
    assert (first.rcode, first.seconds, first.answers[0].value, first.answers[0].ttl_s) == (
        "NOERROR",
        0.01,
        "192.0.2.10",
        60,
    )
    assert (empty.rcode, empty.answers) == ("NOERROR", ())
    assert measured.system == looked_up("db.example")
    assert measured.resolvers == ("192.0.2.53",)


@pytest.mark.parametrize("rcode", ["NXDOMAIN", "REFUSED"])
async def test_an_error_rcode_is_an_answer_and_is_not_asked_again(rcode):
    measured = await measure(context(network(lambda request: answer(request, rcode))), NAME, NamesOptions())
    assert [(q.rcode, q.outcome, q.seconds) for q in measured.queries] == [(rcode, Outcome.ANSWERED, 0.01)] * 4


def asked_how(request: DnsRequest) -> tuple[bool, bool]:
    """(with EDNS, with checking disabled) as the bytes say."""
    message = dns.message.from_wire(request.payload)
    return message.edns >= 0, bool(message.flags & dns.flags.CD)


async def test_a_servfail_is_asked_once_more_without_checking():
    scripted = network(lambda request: answer(request, "NOERROR" if asked_how(request)[1] else "SERVFAIL"))
    options = NamesOptions(record_types=("A",))
    measured = await measure(context(scripted), NAME, options)
    assert [(q.transport, q.attempt, q.how, q.rcode) for q in measured.queries] == [
        ("udp", 1, "edns", "SERVFAIL"),
        ("udp", 2, "unchecked", "NOERROR"),
        ("tcp", 1, "edns", "SERVFAIL"),
    ]
    assert [asked_how(r) for r in scripted.asked if isinstance(r, DnsRequest)] == [
        (True, False),
        (True, True),
        (True, False),
    ]


@pytest.mark.parametrize("rcode", ["FORMERR", "NOTIMP", None])
async def test_what_bears_no_edns_is_asked_without(rcode):
    """A server that says so (RFC 6891, 7), and one that says nothing: the second attempt is as glibc asks."""

    def without_edns(request: DnsRequest) -> DnsReply:
        if not asked_how(request)[0]:
            return answer(request)
        return SILENCE if rcode is None else answer(request, rcode)

    scripted = network(without_edns)
    measured = await measure(context(scripted), NAME, NamesOptions(record_types=("A",), transports=("udp",)))
    assert [(q.how, q.rcode) for q in measured.queries] == [("edns", rcode), ("plain", "NOERROR")]
    assert measured.queries[1].answers[0].value == "192.0.2.10"


# The sample

SAMPLE = NamesOptions(samples=150)
ON_TIME = DnsReply(outcome=Outcome.ANSWERED, seconds=0.002, payload=b"")


def sample(fates: Callable[[int], DnsReply], options: NamesOptions = SAMPLE) -> tuple[list[int], list[float]]:
    """The sizes of the batches that were asked, and how long each waited for what is late."""
    questions = tuple(question("db.example", kind) for kind in ("A", "AAAA"))
    stepper = SampleStepper(ResolverAddress(label="r", address="192.0.2.53"), questions, options)
    sizes, patience, number = [], [], 0
    while True:
        patience.append(stepper.late_s)
        batch = stepper.next()
        if not batch:
            return sizes, patience[:-1]
        sizes.append(len(batch))
        stepper.tell([(ask, _reply(ask, fates(number + place))) for place, ask in enumerate(batch)])
        number += len(batch)


def _reply(ask: Ask, fate: DnsReply) -> DnsReply:
    if fate.outcome not in (Outcome.ANSWERED, Outcome.LATE):
        return fate
    return replace(answer(DnsRequest(server="192.0.2.53", payload=ask.question.wire)), outcome=fate.outcome)


def test_fifty_answers_in_a_row_are_enough():
    """Wald: ln(0.01) / ln(0.9 / 0.99) = 48.3."""
    assert sample(lambda _: ON_TIME) == ([10] * 5, [3.0, 0.0, 0.0, 0.0, 0.0])


def test_silence_is_waited_for_once():
    assert sample(lambda _: SILENCE) == ([10], [3.0])


def test_a_resolver_that_is_only_late_is_asked_ten_times():
    assert sample(lambda _: replace(ON_TIME, outcome=Outcome.LATE)) == ([10], [3.0])


def test_one_outage_is_one_event_and_scattered_losses_are_several():
    outage, _ = sample(lambda n: SILENCE if 3 <= n < 9 else ON_TIME)
    assert sum(outage) > 50, "one event: asked on until it is outweighed"
    assert sum(sample(lambda n: SILENCE if n % 3 == 1 else ON_TIME)[0]) <= 20


def test_a_sample_ends_with_its_number_and_with_the_deadline():
    """Two losses in a hundred decide nothing between 1 % and 10 % so soon."""
    options = replace(SAMPLE, samples=25)
    assert sample(lambda n: SILENCE if n in (4, 14) else ON_TIME, options)[0] == [10, 10, 5]
    unsent = DnsReply(outcome=Outcome.NOT_SENT, seconds=0.0)
    assert sample(lambda n: ON_TIME if n < 12 else unsent)[0] == [10, 10]


async def test_a_sample_alternates_types_and_edns_and_keeps_no_records():
    scripted = network(answer)
    options = replace(SAMPLE, transports=(), lookup=False)
    measured = await measure(context(scripted), NAME, options)
    assert measured.system is None
    assert len(measured.queries) == 50
    assert all(q.sampled and q.transport == "udp" and not q.answers for q in measured.queries)
    assert [(q.record_type, q.how) for q in measured.queries[:4]] == [
        ("A", "edns"),
        ("AAAA", "edns"),
        ("A", "plain"),
        ("AAAA", "plain"),
    ]
    assert [asked_how(r)[0] for r in scripted.asked[:4]] == [True, True, False, False]
    assert len({r.payload[:2] for r in scripted.asked}) > 40, "an id of its own for each"


def test_one_lost_packet_and_a_dead_server_are_tellable():
    lossy = drive(lambda kind, transport, attempt: SILENCE if (kind, attempt) == ("A", 1) else PORT_CLOSED)
    assert lossy[:2] == [("A", "udp", 1, "lost"), ("A", "udp", 2, "refused")]
    assert drive(lambda *_: SILENCE) == [
        ("A", "udp", 1, "lost"),
        ("A", "udp", 2, "lost"),
        ("A", "tcp", 1, "lost"),
        ("AAAA", "udp", 1, "lost"),
    ]


def test_only_one_type_dropped_shows_as_such():
    asked = drive(lambda kind, transport, _: SILENCE if (kind, transport) == ("AAAA", "udp") else PORT_CLOSED)
    assert asked == [
        ("A", "udp", 1, "refused"),
        ("A", "tcp", 1, "refused"),
        ("AAAA", "udp", 1, "lost"),
        ("AAAA", "udp", 2, "lost"),
        ("AAAA", "tcp", 1, "refused"),
    ]


def test_a_server_that_has_answered_keeps_its_attempts():
    """UDP works, so that silence to two types is their own and each is worth repeating."""
    options = NamesOptions(record_types=("A", "AAAA", "MX"), transports=("udp",))
    asked = drive(lambda kind, *_: PORT_CLOSED if kind == "A" else SILENCE, options)
    assert [row[:3] for row in asked] == [
        ("A", "udp", 1),
        ("AAAA", "udp", 1),
        ("AAAA", "udp", 2),
        ("MX", "udp", 1),
        ("MX", "udp", 2),
    ]


def test_a_port_that_refuses_is_not_asked_twice_for_one_type():
    assert [row[:3] for row in drive(lambda *_: PORT_CLOSED)] == [
        ("A", "udp", 1),
        ("A", "tcp", 1),
        ("AAAA", "udp", 1),
        ("AAAA", "tcp", 1),
    ]


async def test_a_dead_resolver_takes_no_more_than_eight_seconds():
    """2 + 2 s for A by UDP, 2 s by TCP, 2 s for AAAA; the sum of what was waited, whatever ran beside."""
    scripted = network(lambda r: SILENCE if r.server == "192.0.2.54" else answer(r), ("192.0.2.53", "192.0.2.54"))
    measured = await measure(context(scripted), NAME, NamesOptions())
    dead = [q for q in measured.queries if q.resolver == "192.0.2.54"]
    assert sum(q.seconds for q in dead) == 8.0
    assert {q.outcome for q in measured.queries if q.resolver == "192.0.2.53"} == {Outcome.ANSWERED}


async def test_resolvers_are_asked_at_the_same_time():
    """Each resolver answers only once the other has been asked too."""
    asked = {server: asyncio.Event() for server in ("192.0.2.53", "192.0.2.54")}

    class Meeting(ScriptedNetwork):
        async def dns(self, request: DnsRequest) -> DnsReply:
            asked[request.server].set()
            await asyncio.gather(*(event.wait() for event in asked.values()))
            return answer(request)

    scripted = Meeting(FakeClock(), lookup=looked_up)
    options = NamesOptions(resolvers=tuple(asked), transports=("udp",))
    async with asyncio.timeout(10):
        measured = await measure(context(scripted), NAME, options)
    assert [q.resolver for q in measured.queries] == ["192.0.2.53"] * 2 + ["192.0.2.54"] * 2


@pytest.mark.parametrize("payload", [b"SSH-2.0-OpenSSH_9.2\r\n", b"", None])
async def test_what_is_no_dns_is_a_failed_conversation(payload):
    broken = DnsReply(outcome=Outcome.ANSWERED, seconds=0.01, payload=payload)
    measured = await measure(context(network(lambda request: broken)), NAME, NamesOptions(transports=("udp",)))
    for query in measured.queries:
        assert query.outcome is Outcome.FAILED
        assert query.failure is not None
        assert query.failure.kind is FailureKind.PROTOCOL
        assert (query.rcode, query.seconds) == (None, 0.01)


async def test_an_answer_to_somebody_else_is_not_ours():
    other = question("db.example", "A", message_id=1)
    stranger = answer(DnsRequest(server="192.0.2.53", payload=other.wire))
    measured = await measure(context(network(lambda request: stranger)), NAME, NamesOptions(transports=("udp",)))
    assert measured.queries[1].outcome is Outcome.FAILED  # the AAAA question got an answer about A


async def test_questions_that_the_deadline_leaves_no_room_for_are_recorded():
    measured = await measure(context(network(lambda request: SILENCE), seconds=5.0), NAME, NamesOptions())
    assert [q.outcome for q in measured.queries] == [Outcome.LOST, Outcome.LOST] + [Outcome.NOT_SENT] * 3
    assert measured.queries[-1].failure is not None
    assert measured.queries[-1].failure.kind is FailureKind.LOCAL


async def test_resolvers_of_the_options_go_before_the_hosts_own():
    scripted = network(answer)
    options = NamesOptions(resolvers=("127.0.0.1#5353", "127.0.0.1#5353", "[::1]#5354"), transports=("udp",))
    measured = await measure(context(scripted), NAME, options)
    assert measured.resolvers == ("127.0.0.1#5353", "[::1]#5354")
    assert {(r.server, r.port) for r in scripted.asked if isinstance(r, DnsRequest)} == {
        ("127.0.0.1", 5353),
        ("::1", 5354),
    }


async def test_without_a_resolver_the_host_still_looks_up():
    measured = await measure(context(network(answer, ())), NAME, NamesOptions())
    assert (measured.queries, measured.resolvers) == ((), ())
    assert measured.system.addresses == ("192.0.2.10",)


@pytest.mark.parametrize(
    ("text", "address", "port"),
    [
        ("192.0.2.53", "192.0.2.53", 53),
        ("127.0.0.1#5353", "127.0.0.1", 5353),
        ("::1", "::1", 53),
        ("::1#5353", "::1", 5353),
        ("[::1]#5353", "::1", 5353),
        ("fe80::1%eth0", "fe80::1%eth0", 53),
    ],
)
def test_digs_notation(text, address, port):
    parsed = resolver_address(text)
    assert (parsed.label, parsed.address, parsed.port) == (text, address, port)


@pytest.mark.parametrize("text", ["", "dns.example", "192.0.2.53#", "192.0.2.53#0", "::1#70000", "192.0.2.53:53"])
def test_what_is_no_resolver(text):
    with pytest.raises(ValueError):  # noqa: PT011 - ipaddress words it
        resolver_address(text)


@pytest.mark.parametrize(
    ("host", "options", "word"),
    [
        ("192.0.2.10", NamesOptions(), "no name to resolve"),
        ("2001:db8::1", NamesOptions(), "no name to resolve"),
        ("a" * 70 + ".example", NamesOptions(), "not a DNS question"),
        ("db.example", NamesOptions(record_types=("BOGUS",)), "BOGUS"),
        ("db.example", NamesOptions(transports=("quic",)), "quic"),
        ("db.example", NamesOptions(tolerated=0.2), "tolerated"),
        ("db.example", NamesOptions(false_above=0.0), "false_above"),
        ("db.example", NamesOptions(resolvers=("dns.example",)), "dns.example"),
    ],
)
async def test_unavailable_says_why(host, options, word):
    with pytest.raises(ProbeUnavailable, match=word):
        await measure(context(network(answer)), Target(host=host), options)
