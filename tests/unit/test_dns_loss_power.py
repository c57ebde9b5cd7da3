"""How reliably a resolver's loss is found, and how rarely invented: the probe's own steppers and the rule, end to end,
against a channel that loses at random. Strengths are drawn; the bounds are those of Wald's test as it is set."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache

import dns.message
import dns.rrset
import pytest

from netdiag.diagnosis.finding import Finding, FindingRole
from netdiag.diagnosis.rules import dns as rules
from netdiag.schedule import NAME_SAMPLES
from probes.exchanges import DnsReply, HostLookup, ResolverConfig
from probes.model import Failure, FailureKind, Outcome, Target
from probes.names import Ask, NamesMeasurement, NamesOptions, ResolverAddress, ResolverStepper, SampleStepper
from probes.wire.dns import question
from tests.fakes.evidence import case, measured

RESOLVER = ResolverAddress(label="192.0.2.53", address="192.0.2.53")
QUESTIONS = tuple(question("db.example", kind) for kind in ("A", "AAAA"))
SILENCE = DnsReply(outcome=Outcome.LOST, seconds=2.0, failure=Failure(kind=FailureKind.TIMEOUT, operation="receive"))
RUNS = 60


@cache
def answer(kind: str, *, edns: bool) -> bytes:
    asked = question("db.example", kind, message_id=0, edns=edns)
    reply = dns.message.make_response(dns.message.from_wire(asked.wire), recursion_available=True)
    if kind == "A":
        reply.answer.append(dns.rrset.from_text("db.example.", 60, "IN", "A", "198.51.100.7"))
    return reply.to_wire()


def causes(lost: Callable[[], bool]) -> list[str]:
    def reply(ask: Ask) -> DnsReply:
        if ask.transport == "udp" and lost():
            return SILENCE
        payload = ask.question.wire[:2] + answer(ask.question.record_type, edns=ask.how != "plain")[2:]
        return DnsReply(outcome=Outcome.ANSWERED, seconds=0.002, payload=payload)

    options = NamesOptions(samples=NAME_SAMPLES)
    asked, sample = ResolverStepper(RESOLVER, QUESTIONS, options), SampleStepper(RESOLVER, QUESTIONS, options)
    while (due := asked.next()) is not None:
        asked.tell(reply(due))
    while batch := sample.next():
        sample.tell([(ask, reply(ask)) for ask in batch])
    data = NamesMeasurement(
        name="db.example",
        system=HostLookup(name="db.example", seconds=0.003, addresses=("198.51.100.7",)),
        config=ResolverConfig(nameservers=("192.0.2.53",), search=(), options=(), source="test"),
        resolvers=("192.0.2.53",),
        queries=(*asked.result(), *sample.result()),
    )
    world = case(measured("names", Target(host="db.example"), data))
    found = [j for rule in rules.RULES for j in rule.judge(world) if isinstance(j, Finding)]
    return [finding.code for finding in found if finding.role is FindingRole.CAUSE]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_tenth_and_more_is_found(seed: int) -> None:
    """At one in ten 99 runs in 100 find it (false_below): 7 misses of 60 are one case in 300,000."""
    draw = random.Random(seed)
    rates = [draw.uniform(0.1, 0.6) for _ in range(RUNS)]
    missed = [rate for rate in rates if causes(lambda rate=rate: draw.random() < rate) != ["dns.loss"]]
    assert len(missed) < 7, (seed, missed)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_hundredth_and_less_is_not(seed: int) -> None:
    """One run in a thousand by the sample, some more by the questions before it: 4 of 60 are one case in 10,000."""
    draw = random.Random(seed)
    rates = [draw.choice([0.0, draw.uniform(0.0, 0.01)]) for _ in range(RUNS)]
    invented = [rate for rate in rates if causes(lambda rate=rate: draw.random() < rate)]
    assert len(invented) < 4, (seed, invented)
    assert 0.0 not in invented, "without a single loss there is nothing to be mistaken for one"
