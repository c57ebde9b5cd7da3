"""The path MTU steppers against a drawn path: MTU each way, with or without ICMP, loss, filters, rate limits.

The path model knows sizes only; it shares no code with the probe.
"""

import itertools
import random

import pytest

from probes.contract import ProbeUnavailable
from probes.exchanges import DatagramReply, LocalRoute, TcpInfo
from probes.model import Failure, FailureKind, IcmpError, NetworkFailure, Outcome, Secret, Target
from probes.mtu import (
    CONNECTIONS_AT_MOST,
    PROBE,
    DirectionMtu,
    MtuOptions,
    SegmentSteps,
    SegmentTrial,
    WatchedStream,
    measure,
    merge_forward,
)
from probes.sizes import SizeSearch
from tests.fakes.clock import FakeClock
from tests.fakes.network import ScriptedNetwork, context

TARGET = Target(host="db.example", address="203.0.113.9", port=5432)
TARGET6 = Target(host="db.example", address="2001:db8::9", port=5432)
ROUTER = "198.51.100.1"


class UdpPath:
    """One narrow link behind one router, and a target with Linux's ICMP rate limit (burst 6, then 1 a second)."""

    def __init__(self, clock, *, mtu, icmp=True, answers=True, told=True, loss=0.0, seed=0, rtt=0.02, local=1500):
        self.clock, self.mtu, self.icmp, self.answers, self.told = clock, mtu, icmp, answers, told
        self.loss, self.random, self.rtt, self.local = loss, random.Random(seed), rtt, local
        self.tokens, self.refilled = 6.0, clock.now
        self.sent = []
        self.rate_limited = 0

    def datagram(self, request):
        self.sent.append((self.clock.now, request.packet_bytes))
        silence = DatagramReply(outcome=Outcome.LOST, seconds=request.timeout_s)
        if request.packet_bytes > self.local:
            failure = Failure(kind=FailureKind.TOO_BIG, operation="send", errno="EMSGSIZE")
            return DatagramReply(outcome=Outcome.NOT_SENT, seconds=0.0, failure=failure)
        if self.random.random() < self.loss:
            return silence
        if request.packet_bytes > self.mtu:
            return self.too_big() if self.icmp else silence
        return self.port_unreachable() if self.answers and self.allowed() else silence

    def allowed(self):
        self.tokens = min(6.0, self.tokens + self.clock.now - self.refilled)
        self.refilled = self.clock.now
        self.rate_limited += self.tokens < 1.0
        if self.tokens < 1.0:
            return False
        self.tokens -= 1.0
        return True

    def too_big(self):
        icmp = IcmpError(family=4, type=3, code=4, offender=ROUTER, mtu=self.mtu if self.told else 0)
        failure = Failure(kind=FailureKind.TOO_BIG, operation="send", icmp=icmp)
        return DatagramReply(outcome=Outcome.TOO_BIG, seconds=self.rtt, failure=failure)

    def port_unreachable(self):
        icmp = IcmpError(family=4, type=3, code=3, offender=TARGET.address)
        failure = Failure(kind=FailureKind.REFUSED, operation="receive", icmp=icmp)
        return DatagramReply(outcome=Outcome.REFUSED, seconds=self.rtt, failure=failure)


async def ask(target=TARGET, options=None, seconds=60.0, route_mtu=1500, **path):
    clock = FakeClock()
    model = UdpPath(clock, **path)
    route = LocalRoute(source="192.0.2.1", mtu=route_mtu)
    network = ScriptedNetwork(clock, datagram=model.datagram, route=route)
    measurement = await measure(context(network, seconds), target, options or MtuOptions())
    return measurement, model, clock.now - 1000.0


async def test_a_healthy_path_costs_one_packet():
    measurement, model, _ = await ask(mtu=1500)
    assert [size for _, size in model.sent] == [1500]
    assert measurement.to_target == DirectionMtu(
        largest_delivered=1500,
        smallest_lost=None,
        signalled_mtu=None,
        signalled_by=None,
        black_hole=False,
        method="udp-df",
    )
    assert measurement.from_target.black_hole is None
    assert measurement.from_target.reason


@pytest.mark.parametrize("seed", range(40))
async def test_a_signalled_mtu_is_confirmed(seed):
    mtu = random.Random(seed).randint(1280, 1499)
    measurement, model, _ = await ask(mtu=mtu, seed=seed)
    forward = measurement.to_target
    assert (forward.largest_delivered, forward.signalled_mtu, forward.signalled_by) == (mtu, mtu, ROUTER)
    assert forward.black_hole is False
    assert len(model.sent) == 2


@pytest.mark.parametrize("seed", range(20))
async def test_an_old_router_tells_no_size(seed):
    mtu = random.Random(seed).randint(1280, 1499)
    measurement, _, _ = await ask(mtu=mtu, told=False)
    forward = measurement.to_target
    assert forward.black_hole is False
    assert mtu - 4 < forward.largest_delivered <= mtu
    assert (forward.signalled_mtu, forward.signalled_by) == (None, ROUTER)


@pytest.mark.parametrize("seed", range(60))
async def test_a_black_hole_is_found_to_within_four_bytes(seed):
    draw = random.Random(seed)
    mtu = draw.randint(1280, 1480)
    measurement, _, seconds = await ask(mtu=mtu, icmp=False, rtt=draw.uniform(0.001, 0.2))
    forward = measurement.to_target
    assert forward.black_hole is True
    assert forward.largest_delivered <= mtu < forward.smallest_lost
    assert forward.smallest_lost - forward.largest_delivered <= 4
    assert forward.signalled_mtu is None
    assert seconds < 40


@pytest.mark.parametrize("mtu", [1280, 1400, 1420, 1450, 1460, 1476, 1492])
async def test_common_sizes_are_exact(mtu):
    measurement, _, _ = await ask(mtu=mtu, icmp=False)
    assert (measurement.to_target.largest_delivered, measurement.to_target.smallest_lost) == (mtu, mtu + 1)


@pytest.mark.parametrize("mtu", [1500, 8500])
async def test_jumbo_frames_into_a_smaller_world(mtu):
    measurement, _, _ = await ask(mtu=mtu, icmp=False, local=9001, route_mtu=9001)
    assert measurement.to_target.black_hole is True
    assert measurement.to_target.largest_delivered == mtu


@pytest.mark.parametrize("icmp", [True, False])
async def test_filtered_udp_tells_nothing_and_says_why(icmp):
    measurement, _, seconds = await ask(mtu=1400, answers=False, icmp=icmp)
    forward = measurement.to_target
    assert (forward.black_hole, forward.largest_delivered, forward.smallest_lost) == (None, None, None)
    assert forward.signalled_mtu == (1400 if icmp else None)
    assert "UDP" in forward.reason
    assert seconds < 5


async def test_a_rate_limit_is_never_a_black_hole():
    """The target's tokens are used up by others: full-size datagrams get no answer at first, yet they arrive."""
    for seed in range(50):
        clock = FakeClock()
        model = UdpPath(clock, mtu=1500)
        model.tokens = random.Random(seed).uniform(0.0, 1.0)
        network = ScriptedNetwork(clock, datagram=model.datagram)
        measurement = await measure(context(network), TARGET, MtuOptions())
        assert measurement.to_target.black_hole is False
        assert measurement.to_target.largest_delivered == 1500
        assert model.rate_limited > 0


@pytest.mark.parametrize("seed", range(150))
async def test_any_drawn_world_is_told_soundly(seed):
    draw = random.Random(seed)
    world = {"mtu": draw.choice([1500, draw.randint(1280, 1499)]), "icmp": draw.random() < 0.5}
    world |= {"answers": draw.random() < 0.7, "told": draw.random() < 0.7, "rtt": draw.uniform(0.0005, 0.25)}
    measurement, _, seconds = await ask(**world)
    forward = measurement.to_target
    narrow = world["mtu"] < 1500
    expected = None if not world["answers"] else narrow and not world["icmp"]
    assert forward.black_hole is expected
    assert forward.reason or forward.black_hole is not None
    if world["answers"]:
        assert world["mtu"] - 4 < forward.largest_delivered <= world["mtu"]
    assert (forward.signalled_by == ROUTER) == (narrow and world["icmp"])
    assert seconds < 40


async def test_an_allowance_that_others_use_up_is_not_a_black_hole():
    """Somebody else at our address draws "port unreachable" all the time: half of the tokens are gone at random."""
    runs, false = 300, 0
    for seed in range(runs):
        clock = FakeClock()
        model = UdpPath(clock, mtu=1500)
        draw = random.Random(seed)

        def datagram(request, model=model, draw=draw):
            model.tokens = min(model.tokens, draw.uniform(0.0, 1.5))
            return model.datagram(request)

        measurement = await measure(context(ScriptedNetwork(clock, datagram=datagram)), TARGET, MtuOptions())
        false += measurement.to_target.black_hole is True
    assert false <= runs // 100


@pytest.mark.parametrize("loss", [0.05, 0.15, 0.3])
async def test_loss_alone_is_hardly_ever_a_black_hole(loss):
    """A false claim needs 1 + 3 + 3 silences, with answers between: at most loss ** 7 of the runs."""
    runs = 300
    false = 0
    for seed in range(runs):
        measurement, _, _ = await ask(mtu=1500, loss=loss, seed=seed)
        false += measurement.to_target.black_hole is True
    assert false <= 1 + 3 * runs * loss**7


async def test_ipv6_never_goes_under_its_minimum():
    measurement, model, _ = await ask(TARGET6, mtu=1400, icmp=False)
    assert min(size for _, size in model.sent) == 1280
    assert measurement.to_target.largest_delivered == 1400


async def test_a_remembered_path_mtu_does_not_hide_the_path():
    measurement, model, _ = await ask(mtu=1500, route_mtu=1400)
    assert [size for _, size in model.sent] == [1500]
    assert (measurement.local_mtu, measurement.to_target.largest_delivered) == (1400, 1500)


async def test_a_small_local_interface_is_not_a_signal():
    measurement, _, _ = await ask(mtu=1400, local=1400, route_mtu=1400, options=MtuOptions(largest=1500))
    assert (measurement.to_target.largest_delivered, measurement.to_target.signalled_by) == (1400, None)


async def test_a_deadline_before_the_proof_is_no_claim():
    measurement, _, seconds = await ask(mtu=1333, icmp=False, seconds=9.0)
    forward = measurement.to_target
    assert seconds <= 9.0
    assert (forward.black_hole, forward.smallest_lost) == (None, None)
    assert forward.largest_delivered <= 1333
    assert "deadline" in forward.reason


# Loss that depends on size: nobody's limit


class ByteQueue(UdpPath):
    """A saturated queue of bytes: what is free when a packet comes is drawn anew, and small packets fit more often."""

    def __init__(self, clock, *, free, **known):
        super().__init__(clock, mtu=1500, **known)
        self.free = free

    def datagram(self, request):
        if request.packet_bytes > self.random.uniform(*self.free):
            self.sent.append((self.clock.now, request.packet_bytes))
            return DatagramReply(outcome=Outcome.LOST, seconds=request.timeout_s)
        return super().datagram(request)


class Policer(UdpPath):
    """Drops a share of the packets above a size, at random."""

    def __init__(self, clock, *, above, share, **known):
        super().__init__(clock, mtu=1500, **known)
        self.above, self.share = above, share

    def datagram(self, request):
        if request.packet_bytes > self.above and self.random.random() < self.share:
            return DatagramReply(outcome=Outcome.LOST, seconds=request.timeout_s)
        return super().datagram(request)


async def ask_of(kind, seed, **known):
    clock = FakeClock()
    model = kind(clock, seed=seed, **known)
    measurement = await measure(context(ScriptedNetwork(clock, datagram=model.datagram), 60.0), TARGET, MtuOptions())
    return measurement.to_target


async def test_a_full_byte_queue_is_no_black_hole():
    """From a queue with room for 500 to 1,600 bytes to one that hardly ever takes more than the small packet."""
    runs = [random.Random(seed) for seed in range(300)]
    drawn = [(draw.uniform(0, 580), draw.uniform(1000, 1800)) for draw in runs]
    found = [await ask_of(ByteQueue, seed, free=free) for seed, free in enumerate(drawn)]
    assert sum(each.black_hole is True for each in found) == 0
    assert sum(bool(each.partial) for each in found) > 100


@pytest.mark.parametrize(("share", "most", "least"), [(0.6, 0, 10), (0.8, 0, 60), (0.9, 2, 90), (0.95, 10, 90)])
async def test_a_policer_of_large_packets_is_no_black_hole(share, most, least):
    """All of 41 packets or more above a size must vanish by chance: 0.95 ** 41 is 12 %, and 0.9 ** 41 1.3 %."""
    found = [
        await ask_of(Policer, seed, share=share, above=random.Random(seed).randint(600, 1490)) for seed in range(200)
    ]
    assert sum(each.black_hole is True for each in found) <= most
    # It is looked for where the first datagram was lost, and the target's rate limit hides some of it.
    assert sum(bool(each.partial) for each in found) > least


@pytest.mark.parametrize("loss", [0.04, 0.1, 0.19])
async def test_a_black_hole_is_found_beside_loss(loss):
    """2 to 10 % each way, of small packets and large ones alike."""
    found = []
    for seed in range(100):
        mtu = random.Random(seed).randint(600, 1490)
        measurement, _, _ = await ask(mtu=mtu, icmp=False, loss=loss, seed=seed)
        forward = measurement.to_target
        found.append(forward.black_hole)
        if forward.black_hole:
            # A run of six silences below the limit sets the search one step too low: rare, and never too high.
            assert forward.largest_delivered <= mtu
    assert found.count(False) <= 1
    assert found.count(True) >= 90


async def test_plain_loss_does_not_depend_on_size():
    found = [(await ask(mtu=1500, loss=0.3, seed=seed))[0].to_target for seed in range(300)]
    assert sum(each.black_hole is True for each in found) == 0
    assert sum(bool(each.partial) for each in found) <= 4


async def test_rejected_udp_names_who():
    icmp = IcmpError(family=4, type=3, code=13, offender=ROUTER)
    failure = Failure(kind=FailureKind.REJECTED, operation="send", icmp=icmp)
    reply = DatagramReply(outcome=Outcome.REJECTED, seconds=0.01, failure=failure)
    network = ScriptedNetwork(FakeClock(), datagram=lambda request: reply)
    measurement = await measure(context(network), TARGET, MtuOptions())
    assert measurement.to_target.black_hole is None
    assert ROUTER in measurement.to_target.reason


async def test_every_datagram_is_in_the_record():
    measurement, model, _ = await ask(mtu=1371, icmp=False)
    assert sum(len(trial.replies) for trial in measurement.datagrams) == len(model.sent)


async def test_without_an_address_it_cannot_run():
    with pytest.raises(ProbeUnavailable):
        await PROBE.measure(context(ScriptedNetwork(FakeClock())), Target(host="x", port=1), MtuOptions())


# The segment experiment: the trial model is "delivered if the packets fit".

STALL = Failure(kind=FailureKind.TIMEOUT, operation="receive")


def tcp_info(**known):
    numbers = dict.fromkeys(TcpInfo.__slots__, 0)
    return TcpInfo(**{**numbers, "advmss": 1448, "rcv_mss": 1448, "snd_mss": 1448, **known})


def trial(step, delivered, failure=None, received=None, **info):
    return SegmentTrial(
        direction=step.direction,
        max_segment=step.max_segment,
        packet_bytes=step.packet_bytes,
        payload_bytes=step.payload_bytes,
        received_bytes=step.payload_bytes if received is None else received,
        delivered=delivered,
        seconds=0.1,
        info=tcp_info(**info),
        failure=failure if not delivered else None,
    )


def transfer(direction, world, *, user="app", hints=(), headers=40):
    steps = SegmentSteps(direction, 1500, headers, MtuOptions(user=user), hints, CONNECTIONS_AT_MOST)
    while (step := steps.next()) is not None:
        steps.tell(world(step))
    return steps


@pytest.mark.parametrize("direction", ["from-target", "to-target"])
@pytest.mark.parametrize("seed", range(40))
def test_segments_find_the_black_hole_within_sixteen_connections(direction, seed):
    mtu = random.Random(seed).randint(1280, 1480)
    steps = transfer(direction, lambda step: trial(step, step.packet_bytes <= mtu, STALL))
    found = steps.result()
    assert found.black_hole is True
    assert found.largest_delivered <= mtu < found.smallest_lost
    assert found.smallest_lost - found.largest_delivered <= 8
    assert len(steps.trials()) <= CONNECTIONS_AT_MOST
    for done in steps.trials():
        assert done.max_segment is None or done.max_segment + 40 == done.packet_bytes


def test_what_is_planned_is_what_is_asked_next_and_no_more_than_told():
    """The runner begins planned steps together: they must be the very ones that the proof and the repeats ask for."""
    steps = SegmentSteps("from-target", 1500, 40, MtuOptions(user="app"), (), CONNECTIONS_AT_MOST)
    planned, asked, together = [], [], 0
    while (step := steps.next()) is not None:
        new = list(steps.planned())
        assert not (planned and new)
        planned += new
        if planned:
            assert planned.pop(0) == step
            together += 1
        asked.append(step.packet_bytes)
        steps.tell(trial(step, step.packet_bytes <= 1400, STALL))
    assert steps.planned() == ()
    assert (together, asked[:4]) == (2 + 4, [1500, 576, 576, 1500])
    before = len(steps.trials())
    steps.note(steps.trials()[0])
    assert len(steps.trials()) == before + 1


def test_a_silent_database_is_planned_nothing():
    steps = SegmentSteps("from-target", 1500, 40, MtuOptions(user="app"), (), CONNECTIONS_AT_MOST)
    while (step := steps.next()) is not None:
        assert steps.planned() == ()
        steps.tell(trial(step, False, STALL))


def test_a_hint_from_udp_needs_ten_connections():
    steps = transfer("from-target", lambda step: trial(step, step.packet_bytes <= 1389, STALL), hints=(1389,))
    assert (steps.result().largest_delivered, steps.result().smallest_lost) == (1389, 1390)
    assert len(steps.trials()) == 10


def test_a_delivered_default_is_one_connection_and_shows_the_packet():
    steps = transfer("from-target", lambda step: trial(step, True))
    assert len(steps.trials()) == 1
    assert (steps.result().black_hole, steps.result().largest_delivered) == (False, 1500)
    clamped = transfer("from-target", lambda step: trial(step, True, rcv_mss=1348))
    assert clamped.result().largest_delivered == 1400
    plain = transfer("from-target", lambda step: trial(step, True, rcv_mss=1460, advmss=1460))
    assert plain.result().largest_delivered == 1500


def test_stalling_at_every_size_is_not_a_matter_of_size():
    steps = transfer("from-target", lambda step: trial(step, False, STALL))
    assert steps.result().black_hole is None
    assert "not a matter of size" in steps.result().reason
    assert len(steps.trials()) == 2


def test_one_stall_is_an_accident():
    asked = []

    def world(step):
        asked.append(step)
        return trial(step, len(asked) > 1, STALL)

    steps = transfer("from-target", world)
    assert steps.result().black_hole is False
    assert len(steps.trials()) == 4


@pytest.mark.parametrize("direction", ["from-target", "to-target"])
@pytest.mark.parametrize("chance", [0.4, 0.6])
def test_a_stall_that_does_not_repeat_is_no_limit_of_size(direction, chance):
    """Large transfers get through at times: a limit of size never lets them."""
    draw, runs = random.Random(chance), 300
    found = [
        transfer(direction, lambda s: trial(s, s.packet_bytes < 1000 or draw.random() < chance, STALL))
        for _ in range(runs)
    ]
    claims = [each.result() for each in found if each.result().black_hole]
    # Both defaults stall, and at the end both sides of a size do as a limit would, twice.
    assert len(claims) <= 3 * runs * (1 - chance) ** 4 * chance**2
    assert all(claim.largest_delivered < claim.smallest_lost for claim in claims)


@pytest.mark.parametrize(("direction", "sign"), [("from-target", {"rcv_mss": 1448}), ("to-target", {"sacked": 3})])
def test_full_segments_that_arrive_in_a_stalled_transfer_are_loss(direction, sign):
    def world(step):
        return trial(step, True if step.packet_bytes == 576 else None, STALL, **sign)

    steps = transfer(direction, world)
    assert steps.result().black_hole is None
    assert "no limit of size" in steps.result().reason
    assert "1 of 1 TCP transfers" in steps.result().partial
    assert len(steps.trials()) == 3


def test_a_limit_that_datagrams_showed_needs_one_stall_of_tcp():
    steps = SegmentSteps("to-target", 1500, 40, MtuOptions(user="app"), (1400,), CONNECTIONS_AT_MOST, limit_known=True)
    while (step := steps.next()) is not None:
        steps.tell(trial(step, step.packet_bytes <= 1400, STALL))
    assert (len(steps.trials()), steps.result().black_hole) == (1, None)
    assert merge_forward(direction(True, 1400, "udp-df"), steps.result()).black_hole is True


@pytest.mark.parametrize("first", [0, 1])
def test_a_balancer_before_one_dead_end_is_not_a_matter_of_size(first):
    """Connections go to two backends in turn, and nothing, large or small, comes back from one of them."""
    asked = itertools.count(first)
    steps = transfer("from-target", lambda step: trial(step, next(asked) % 2 != 0, STALL))
    assert steps.result().black_hole is not True


def test_refused_login_falls_back_to_the_certificate():
    refused = Failure(kind=FailureKind.SERVER, operation="startup", sqlstate="28P01")

    def world(step):
        if step.payload == "query":
            return trial(step, None, refused)
        return trial(step, True, received=4000)

    steps = transfer("from-target", world)
    assert [done.failure and done.failure.sqlstate for done in steps.trials()] == ["28P01", None]
    assert steps.result().black_hole is False


def test_a_small_certificate_shows_nothing():
    steps = transfer("from-target", lambda step: trial(step, True, received=1200), user=None)
    assert steps.result().black_hole is None
    assert "1200 bytes" in steps.result().reason


def test_no_connection_is_no_verdict():
    refused = Failure(kind=FailureKind.REFUSED, operation="connect", errno="ECONNREFUSED")
    steps = transfer("to-target", lambda step: trial(step, None, refused))
    assert steps.result().black_hole is None
    assert "ECONNREFUSED" in steps.result().reason


def test_the_way_there_is_tried_up_to_what_the_way_back_delivers():
    steps = transfer(
        "to-target", lambda step: trial(step, True if step.packet_bytes <= 1400 else None, STALL), hints=(1400,)
    )
    assert (steps.result().black_hole, steps.result().largest_delivered) == (None, 1400)
    assert "1400" in steps.result().reason


def direction(black_hole, size, method):
    return DirectionMtu(
        largest_delivered=size,
        smallest_lost=size + 1 if black_hole and size else None,
        signalled_mtu=None,
        signalled_by=None,
        black_hole=black_hole,
        method=method,
    )


@pytest.mark.parametrize(
    ("udp", "tcp", "black_hole", "method"),
    [
        (True, True, True, "udp-df"),
        (True, False, False, "tcp-send"),
        (False, True, True, "tcp-send"),
        (None, True, True, "tcp-send"),
        (None, False, False, "tcp-send"),
        (True, None, True, "udp-df"),
        (False, None, False, "udp-df"),
    ],
)
def test_the_databases_own_protocol_decides(udp, tcp, black_hole, method):
    sizes = (1400 if udp is not None else None, 1400 if tcp is not None else None)
    merged = merge_forward(direction(udp, sizes[0], "udp-df"), direction(tcp, sizes[1], "tcp-send"))
    assert (merged.black_hole, merged.method) == (black_hole, method)


def test_a_datagram_that_arrives_refutes_a_limit_that_tcp_seems_to_meet():
    merged = merge_forward(direction(False, 1500, "udp-df"), direction(True, 1380, "tcp-send"))
    assert (merged.black_hole, merged.smallest_lost) == (None, None)
    assert "1381 bytes stall, datagrams of 1500 arrive" in merged.reason


def test_full_segments_of_tcp_are_no_clamp():
    merged = merge_forward(direction(True, 1400, "udp-df"), direction(False, 1500, "tcp-send"))
    assert merged.black_hole is False
    assert "segments of 1500 do not" in merged.reason


class StallingStream:
    """``replies``: what each receive does: bytes, or seconds of silence in which ``grows`` more bytes arrive."""

    handshake = None

    def __init__(self, clock, replies, grows=0, largest=536):
        self.largest = largest  # segment that arrived; 536 is the kernel's first guess
        self.clock, self.replies, self.grows, self.arrived, self.closed = clock, list(replies), grows, 0, False

    async def receive(self, limit, deadline):
        step = self.replies.pop(0)
        if isinstance(step, bytes):
            return step
        await self.clock.sleep(deadline - self.clock.now)
        self.arrived += self.grows
        raise NetworkFailure(STALL)

    async def send(self, data, deadline):
        self.sent_until = deadline

    def info(self):
        return tcp_info(bytes_received=self.arrived, bytes_acked=0, rcv_mss=self.largest)

    async def close(self):
        self.closed = True


async def test_no_progress_is_a_stall_after_its_own_time():
    clock = FakeClock()
    watched = WatchedStream(StallingStream(clock, [None]), clock, stall_s=3.0)
    with pytest.raises(NetworkFailure):
        await watched.receive(10, clock.now + 60)
    assert clock.now == 1003.0


async def test_slow_progress_is_no_stall():
    clock = FakeClock()
    watched = WatchedStream(StallingStream(clock, [None, None, b"end"], grows=100), clock, stall_s=3.0)
    assert await watched.receive(10, clock.now + 60) == b"end"
    assert clock.now == 1006.0


async def test_progress_does_not_outlive_the_deadline():
    clock = FakeClock()
    watched = WatchedStream(StallingStream(clock, [None] * 99, grows=1), clock, stall_s=3.0)
    with pytest.raises(NetworkFailure):
        await watched.receive(10, 1010.0)
    assert clock.now == 1010.0


async def test_a_stall_after_a_full_segment_arrived_is_loss_and_not_size():
    clock = FakeClock()
    network = ScriptedNetwork(
        clock,
        datagram=UdpPath(clock, mtu=1500).datagram,
        stream=lambda request: StallingStream(clock, [None], grows=0, largest=1448),
        route=LocalRoute(source=None, mtu=1500),
    )
    options = MtuOptions(user="app", password=Secret("x"), use_database=True, stall_s=3.0)
    measurement = await measure(context(network), TARGET, options)
    assert measurement.from_target.black_hole is None


async def test_a_silent_database_costs_two_connections_that_are_closed():
    clock = FakeClock()
    streams = []

    def stream(request):
        streams.append((clock.now, request.max_segment, StallingStream(clock, [None])))
        return streams[-1][2]

    udp = UdpPath(clock, mtu=1500)
    network = ScriptedNetwork(clock, datagram=udp.datagram, stream=stream, route=LocalRoute(source=None, mtu=1500))
    options = MtuOptions(user="app", password=Secret("x"), use_database=True, stall_s=3.0)
    measurement = await measure(context(network), TARGET, options)
    assert [(segment, opened.closed) for _, segment, opened in streams] == [(None, True), (536, True)]
    assert measurement.from_target.black_hole is None
    assert "not a matter of size" in measurement.from_target.reason
    assert measurement.to_target.black_hole is False


async def test_at_most_five_connections_a_second():
    clock = FakeClock()
    starts = []

    def stream(request):
        starts.append(clock.now)
        raise NetworkFailure(Failure(kind=FailureKind.REFUSED, operation="connect", errno="ECONNREFUSED"))

    udp = UdpPath(clock, mtu=1500)
    network = ScriptedNetwork(clock, datagram=udp.datagram, stream=stream)
    measurement = await measure(context(network), TARGET, MtuOptions(user="app", use_database=True))
    assert len(starts) == len(measurement.segments) == 2
    assert starts[1] - starts[0] >= 0.2 - 1e-9


@pytest.mark.parametrize("seed", range(100))
def test_size_search_always_brackets_the_truth(seed):
    draw = random.Random(seed)
    truth, tolerance = draw.randint(577, 65000), draw.randint(1, 16)
    search = SizeSearch(576, 65535, tolerance, tuple(draw.sample(range(577, 65535), 2)))
    for asked in itertools.count():
        size = search.next()
        if size is None:
            break
        assert asked < 40
        search.tell(size, delivered=size <= truth)
    assert search.delivered <= truth < search.lost
    assert search.lost - search.delivered <= max(1, tolerance)


def test_a_later_delivery_overrules_a_lost_one():
    search = SizeSearch(576, 1400, 4)
    search.tell(1450, delivered=True)
    assert (search.delivered, search.lost) == (1450, 1451)
