"""The port stepper: what is asked, when it stops, and what the answers add up to."""

import asyncio
import itertools
import random

import pytest

from probes.contract import ProbeUnavailable
from probes.model import Failure, FailureKind, IcmpError, Outcome, Target
from probes.ports import (
    PROBE,
    RANDOM_CONTROL_PORTS,
    PortsOptions,
    PortState,
    choose_random_port,
    host_answers,
    measure,
)
from tests.fakes.clock import FakeClock
from tests.fakes.network import ScriptedNetwork, context, failed_handshake, open_handshake

ADDRESS = "192.0.2.9"
TARGET = Target(host="db.example", address=ADDRESS, port=5432)


def icmp(offender, code=13, kind=FailureKind.REJECTED):
    error = IcmpError(family=4, type=3, code=code, offender=offender)
    return Failure(kind=kind, operation="connect", icmp=error)


RST = Failure(kind=FailureKind.REFUSED, operation="connect", errno="ECONNREFUSED")


async def ask(answers, options=None, seconds=60.0):
    """``answers``: port -> list of handshakes, the last one repeated; any other port is silent."""
    clock = FakeClock()
    started = []

    def handshake(request):
        started.append((request.port, clock.now))
        queue = answers.get(request.port) or [failed_handshake(Outcome.LOST, seconds=request.timeout_s)]
        return queue.pop(0) if len(queue) > 1 else queue[0]

    network = ScriptedNetwork(clock, handshake=handshake)
    measurement = await measure(context(network, seconds), TARGET, options or PortsOptions())
    return measurement, started


async def test_open_service_is_one_packet():
    measurement, started = await ask({5432: [open_handshake()]})
    assert [port for port, _ in started] == [5432]
    assert [(port.state, port.attempts, port.control) for port in measurement.ports] == [(PortState.OPEN, 1, False)]
    assert host_answers(measurement)


async def test_silence_needs_every_attempt_and_asks_a_random_control():
    measurement, started = await ask({}, PortsOptions(attempts=4, spread=8))
    service, control = measurement.ports
    assert (service.state, service.attempts) == (PortState.SILENT, 12)
    assert control.control
    assert control.port in RANDOM_CONTROL_PORTS
    assert (control.state, control.attempts) == (PortState.SILENT, 4)
    assert not host_answers(measurement)
    assert len(measurement.attempts) == len(started) == 16


@pytest.mark.parametrize("seed", range(8))
async def test_a_dead_member_of_several_paths_is_not_silence(seed):
    """The path goes by the source port; connect(2) takes neighbouring ones, all on the dead path."""
    draw = random.Random(seed)

    def handshake(request):
        dead = request.source_port is None or draw.random() < 0.5
        return failed_handshake(Outcome.LOST, seconds=request.timeout_s) if dead else open_handshake()

    network = ScriptedNetwork(FakeClock(), handshake=handshake)
    measurement = await measure(context(network), TARGET, PortsOptions())
    assert measurement.ports[0].state is PortState.OPEN
    outcomes = [attempt.handshake.outcome for attempt in measurement.attempts if not attempt.control]
    assert outcomes[:4] == [Outcome.LOST] * 4


async def test_this_hosts_own_refusal_is_not_asked_again_from_other_ports():
    refused = failed_handshake(Outcome.UNREACHABLE, Failure(kind=FailureKind.LOCAL, operation="connect"), 0.001)
    measurement, started = await ask({5432: [refused]}, PortsOptions(random_control=False))
    assert (measurement.ports[0].state, len(started)) == (PortState.UNREACHABLE, 4)


class HeldBack(ScriptedNetwork):
    """Its rate ceiling lets the first connections through, and the spread ones not in time."""

    async def handshake(self, request):
        if request.source_port is not None:
            await asyncio.Event().wait()
        return await super().handshake(request)


async def test_connections_that_the_rate_ceiling_holds_back_past_the_deadline_are_not_silence():
    network = HeldBack(FakeClock(), handshake=lambda request: failed_handshake(Outcome.LOST, seconds=0.1))
    options = PortsOptions(timeout_s=0.1, interval_s=0.1)
    measurement = await measure(context(network, 0.6), TARGET, options)
    assert (measurement.ports[0].state, measurement.ports[0].attempts) == (PortState.SILENT, 4)


async def test_attempts_are_spread_in_time():
    rst = failed_handshake(Outcome.UNREACHABLE, icmp("198.51.100.1", 1), seconds=0.001)
    _, started = await ask({5432: [rst]}, PortsOptions(interval_s=0.4, spread=0, random_control=False))
    times = [at for _, at in started]
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert len(gaps) == 3
    assert min(gaps) >= 0.4 - 1e-9


async def test_dropped_port_of_a_living_host():
    clock = FakeClock()

    def handshake(request):
        if request.port in RANDOM_CONTROL_PORTS:
            return failed_handshake(Outcome.REFUSED, RST, seconds=0.01)
        return failed_handshake(Outcome.LOST, seconds=request.timeout_s)

    measurement = await measure(context(ScriptedNetwork(clock, handshake=handshake)), TARGET, PortsOptions())
    service, control = measurement.ports
    assert service.state is PortState.SILENT
    assert (control.state, control.attempts) == (PortState.RESET, 1)
    assert host_answers(measurement)


async def test_a_lost_first_syn_is_no_verdict():
    measurement, _ = await ask({5432: [failed_handshake(Outcome.LOST), open_handshake()]})
    assert (measurement.ports[0].state, measurement.ports[0].attempts) == (PortState.OPEN, 2)


@pytest.mark.parametrize(
    ("outcome", "failure", "state", "by"),
    [
        (Outcome.REFUSED, RST, PortState.RESET, None),
        (Outcome.REFUSED, icmp(ADDRESS, 3, FailureKind.REFUSED), PortState.REJECTED, ADDRESS),
        (Outcome.REJECTED, icmp("198.51.100.7"), PortState.REJECTED, "198.51.100.7"),
        (Outcome.UNREACHABLE, icmp("198.51.100.1", 1, FailureKind.UNREACHABLE), PortState.UNREACHABLE, "198.51.100.1"),
        (Outcome.EXPIRED, icmp("198.51.100.2", 0, FailureKind.EXPIRED), PortState.UNREACHABLE, "198.51.100.2"),
        (Outcome.NOT_SENT, Failure(kind=FailureKind.LOCAL, operation="connect"), PortState.NOT_SENT, None),
    ],
)
async def test_states(outcome, failure, state, by):
    measurement, _ = await ask({5432: [failed_handshake(outcome, failure, 0.01)]}, PortsOptions(random_control=False))
    assert (measurement.ports[0].state, measurement.ports[0].answered_by) == (state, by)


@pytest.mark.parametrize("seconds", [2.0, 3.5, 5.0])
async def test_silence_cut_by_the_deadline_is_undecided(seconds):
    measurement, _ = await ask({}, PortsOptions(attempts=4, timeout_s=1.5, random_control=False), seconds)
    assert measurement.ports[0].state is PortState.UNDECIDED
    assert measurement.ports[0].attempts == int(seconds // 1.5)


async def test_no_time_at_all_is_not_sent():
    measurement, started = await ask({}, seconds=0.0)
    assert started == []
    assert (measurement.ports[0].state, measurement.ports[0].attempts) == (PortState.NOT_SENT, 0)


@pytest.mark.parametrize(
    ("answer", "state"),
    [
        (open_handshake(), PortState.OPEN),
        (failed_handshake(Outcome.REFUSED, RST, 0.01), PortState.RESET),
        (failed_handshake(Outcome.LOST), PortState.NOT_SENT),
    ],
)
async def test_with_less_time_than_the_timeout_an_answer_counts_and_silence_does_not(answer, state):
    measurement, started = await ask({5432: [answer]}, seconds=0.5)
    assert len(started) == 1
    assert (measurement.ports[0].state, measurement.ports[0].attempts) == (state, 1)


async def test_plan_controls_are_asked_together_with_the_service():
    _, started = await ask(
        {5432: [open_handshake()], 22: [open_handshake()]}, PortsOptions(control_ports=(22, 22, 5432))
    )
    assert sorted(port for port, _ in started) == [22, 5432]


async def test_icmp_from_the_target_itself_proves_it_answers():
    measurement, _ = await ask({5432: [failed_handshake(Outcome.REJECTED, icmp(ADDRESS, 10))]})
    assert host_answers(measurement)
    elsewhere, _ = await ask({5432: [failed_handshake(Outcome.REJECTED, icmp("198.51.100.7"))]})
    assert not host_answers(elsewhere)


async def test_any_mixture_of_answers_counts_every_attempt_once():
    generator = random.Random(5)
    kinds = [Outcome.ANSWERED, Outcome.LOST, Outcome.REFUSED, Outcome.UNREACHABLE, Outcome.NOT_SENT]
    for _ in range(200):
        answers = {
            port: [
                open_handshake() if (kind := generator.choice(kinds)) is Outcome.ANSWERED else failed_handshake(kind)
                for _ in range(4)
            ]
            for port in (5432, 22, 9000)
        }
        measurement, started = await ask(answers, PortsOptions(control_ports=(22, 9000)))
        assert len(measurement.attempts) == len(started) == sum(port.attempts for port in measurement.ports)
        for port in measurement.ports:
            outcomes = [item.handshake.outcome for item in measurement.attempts if item.port == port.port]
            assert (port.state is PortState.OPEN) == (Outcome.ANSWERED in outcomes)
            silent = outcomes.count(Outcome.LOST) >= 4 and set(outcomes) <= {Outcome.LOST, Outcome.NOT_SENT}
            assert port.state is not PortState.SILENT or silent
            assert not set(outcomes[:-1]) & {Outcome.ANSWERED, Outcome.REFUSED}


def test_random_port_avoids_the_plan():
    avoid = [port for port in RANDOM_CONTROL_PORTS if port != 61234]
    assert choose_random_port(avoid) == 61234


@pytest.mark.parametrize("target", [Target(host="x", port=1), Target(host="x", address=ADDRESS)])
async def test_without_address_or_port_it_cannot_run(target):
    with pytest.raises(ProbeUnavailable):
        await PROBE.measure(context(ScriptedNetwork(FakeClock())), target, PortsOptions())
