"""The path stepper against drawn topologies: one flow, honest ends, bounded time."""

import random

import pytest

from probes.contract import ProbeUnavailable
from probes.exchanges import EchoSample, EchoSeries, Handshake, TimestampSource
from probes.model import Failure, FailureKind, IcmpError, Outcome, Target
from probes.path import PROBE, PathOptions, last_answering_hop, measure
from tests.fakes.clock import FakeClock
from tests.fakes.network import ScriptedNetwork, context

ADDRESS = "203.0.113.9"
TARGET = Target(host="db.example", address=ADDRESS, port=5432)
KINDS = {
    Outcome.REFUSED: FailureKind.REFUSED,
    Outcome.REJECTED: FailureKind.REJECTED,
    Outcome.EXPIRED: FailureKind.EXPIRED,
    Outcome.UNREACHABLE: FailureKind.UNREACHABLE,
    Outcome.LOST: FailureKind.TIMEOUT,
    Outcome.NOT_SENT: FailureKind.LOCAL,
}


class Road:
    """Routers in a row; ``silent`` TTLs do not answer; what meets ``end_ttl`` and more gets ``end``."""

    def __init__(self, end_ttl, *, silent=(), end=Outcome.ANSWERED, end_by=None, taken=()):
        self.end_ttl, self.silent, self.end, self.end_by = end_ttl, set(silent), end, end_by
        self.taken = list(taken)  # ordinals of requests that meet EADDRNOTAVAIL
        self.asked = []
        self.next_port = 40000

    def handshake(self, request):
        self.asked.append(request)
        if not request.source_port:
            self.next_port += 1
        port = request.source_port or self.next_port
        if len(self.asked) in self.taken:
            return self.answer(request, Outcome.NOT_SENT, port, 0.0, errno="EADDRNOTAVAIL")
        if request.ttl >= self.end_ttl:
            seconds = request.timeout_s if self.end is Outcome.LOST else 0.03
            return self.answer(request, self.end, port, seconds, self.end_by)
        if request.ttl in self.silent:
            return self.answer(request, Outcome.LOST, port, request.timeout_s)
        return self.answer(request, Outcome.EXPIRED, port, 0.001 * request.ttl, router(request.ttl))

    def answer(self, request, outcome, port, seconds, offender=None, errno=None):
        icmp = IcmpError(family=4, type=11, code=0, offender=offender) if offender else None
        failure = None
        if outcome is not Outcome.ANSWERED:
            failure = Failure(kind=KINDS[outcome], operation="connect", icmp=icmp, errno=errno)
        return Handshake(
            outcome=outcome,
            seconds=seconds,
            rtt_s=seconds if outcome is Outcome.ANSWERED else None,
            timestamp_source=TimestampSource.TCP_INFO,
            syn_retransmits=0,
            source_address="192.0.2.1",
            source_port=port,
            failure=failure,
        )


def router(ttl):
    return f"198.51.100.{ttl}"


async def walk(road, options=None, seconds=60.0):
    clock = FakeClock()
    network = ScriptedNetwork(clock, handshake=road.handshake)
    measurement = await measure(context(network, seconds), TARGET, options or PathOptions())
    return measurement, clock.now - 1000.0


async def test_every_drawn_road_is_drawn_again():
    generator = random.Random(11)
    for _ in range(200):
        end_ttl = generator.randint(1, 20)
        silent = {ttl for ttl in range(1, end_ttl) if generator.random() < 0.2}
        road = Road(end_ttl, silent=silent, end=generator.choice([Outcome.ANSWERED, Outcome.REFUSED]))
        measurement, _ = await walk(road)
        if any(set(range(ttl, ttl + 5)) <= silent for ttl in range(1, end_ttl)):
            assert (measurement.reached, measurement.reached_ttl) == (True, None)
            continue
        assert (measurement.end_reason, measurement.reached_ttl) == ("reached", end_ttl)
        assert [hop.ttl for hop in measurement.hops] == list(range(1, end_ttl + 1))
        for hop in measurement.hops[:-1]:
            expected = {None} if hop.ttl in silent else {router(hop.ttl)}
            assert {reply.address for reply in hop.replies} == expected
        assert {reply.address for reply in measurement.hops[-1].replies} == {ADDRESS}


async def test_one_flow_and_one_connection_to_the_target():
    road = Road(6)
    measurement, _ = await walk(road)
    assert [request.source_port for request in road.asked[:1]] == [None]
    assert {request.source_port for request in road.asked[1:]} == {40001}
    assert measurement.flow == "192.0.2.1:40001 -> 203.0.113.9:5432"
    assert measurement.flows == (measurement.flow,)
    assert sum(request.ttl >= 6 for request in road.asked) == 1


async def test_router_replies_carry_their_time():
    measurement, _ = await walk(Road(4))
    assert [[reply.rtt_s for reply in hop.replies] for hop in measurement.hops] == [
        [0.001, 0.001],
        [0.002, 0.002],
        [0.003, 0.003],
        [0.03],
    ]


@pytest.mark.parametrize("dropped_after", [1, 4, 9])
async def test_drop_ends_silent_within_fifteen_seconds(dropped_after):
    measurement, seconds = await walk(Road(dropped_after + 1, end=Outcome.LOST))
    assert (measurement.end_reason, measurement.reached) == ("silent", False)
    assert last_answering_hop(measurement).ttl == dropped_after
    assert seconds < 15.0


async def test_silent_routers_before_an_open_port():
    measurement, _ = await walk(Road(12, silent=range(3, 12)))
    assert (measurement.reached, measurement.reached_ttl, measurement.end_reason) == (True, None, "reached")
    assert measurement.hops[-1].ttl == 30
    assert [hop.ttl for hop in measurement.hops] == [1, 2, 3, 4, 5, 6, 7, 30]


@pytest.mark.parametrize(("outcome", "reason"), [(Outcome.REJECTED, "rejected"), (Outcome.UNREACHABLE, "unreachable")])
async def test_a_refusing_router_ends_the_walk(outcome, reason):
    measurement, _ = await walk(Road(3, end=outcome, end_by=router(2)))
    assert (measurement.end_reason, measurement.reached) == (reason, False)
    assert measurement.hops[-1].replies[0].address == router(2)
    assert last_answering_hop(measurement).ttl == 3


async def test_a_taken_port_means_a_new_recorded_flow():
    road = Road(5, taken=[4])
    measurement, _ = await walk(road)
    assert measurement.end_reason == "reached"
    assert measurement.flows == (
        "192.0.2.1:40001 -> 203.0.113.9:5432",
        "192.0.2.1:40002 -> 203.0.113.9:5432",
    )
    assert [reply.outcome for reply in measurement.hops[1].replies][:2] == [Outcome.EXPIRED, Outcome.NOT_SENT]


async def test_no_port_at_all_is_not_sent():
    measurement, _ = await walk(Road(5, taken=range(1, 100)))
    assert (measurement.end_reason, measurement.reached) == ("not-sent", False)


async def test_max_ttl_and_deadline():
    measurement, _ = await walk(Road(99), PathOptions(max_ttl=8))
    assert measurement.end_reason == "max-ttl"
    cut, _ = await walk(Road(5, silent=range(1, 5)), seconds=3.5)
    assert (cut.end_reason, cut.reached) == ("deadline", False)


async def test_a_retransmitted_syn_has_no_rtt():
    road = Road(1)

    def handshake(request):
        answer = road.handshake(request)
        return Handshake(**{**{f: getattr(answer, f) for f in answer.__slots__}, "syn_retransmits": 1, "rtt_s": None})

    network = ScriptedNetwork(FakeClock(), handshake=handshake)
    measurement = await measure(context(network), TARGET, PathOptions())
    assert measurement.hops[0].replies[0].rtt_s is None


async def test_icmp_method_reads_expired_samples():
    def echo(request):
        if request.ttl < 3:
            icmp = IcmpError(family=4, type=11, code=0, offender=router(request.ttl))
            failure = Failure(kind=FailureKind.EXPIRED, operation="echo", icmp=icmp)
            sample = EchoSample(sequence=0, sent_s=0.0, outcome=Outcome.EXPIRED, rtt_s=0.002, failure=failure)
        else:
            sample = EchoSample(sequence=0, sent_s=0.0, outcome=Outcome.ANSWERED, rtt_s=0.004)
        return EchoSeries(samples=(sample,) * request.count, timestamp_source=TimestampSource.USER, socket="datagram")

    network = ScriptedNetwork(FakeClock(), echo=echo)
    measurement = await measure(context(network), TARGET, PathOptions(method="icmp"))
    assert (measurement.reached_ttl, measurement.port, measurement.flow) == (3, None, None)
    assert [hop.replies[0].address for hop in measurement.hops] == [router(1), router(2), ADDRESS]
    assert [len(hop.replies) for hop in measurement.hops] == [2, 2, 2]


async def test_it_says_why_it_cannot_run():
    network = ScriptedNetwork(FakeClock())
    for target, options in [
        (Target(host="x", port=1), PathOptions()),
        (Target(host="x", address=ADDRESS), PathOptions()),
        (TARGET, PathOptions(method="icmp")),
        (TARGET, PathOptions(method="udp")),
    ]:
        with pytest.raises(ProbeUnavailable):
            await PROBE.measure(context(network), target, options)
