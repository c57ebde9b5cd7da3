"""Port states behind a real router with a real packet filter."""

import pytest

from probes.contract import Context
from probes.model import Target, Vantage
from probes.net.clock import SystemClock
from probes.net.kernel import KernelNetwork
from probes.ports import PortsOptions, PortState, host_answers, measure
from tests.kernel.pathworld import inside, listener, run, world

pytestmark = pytest.mark.kernel
PORT = 5432
REJECTIONS = {
    "reject with icmp type admin-prohibited": PortState.REJECTED,
    "reject with icmp type port-unreachable": PortState.REJECTED,
    "reject with icmp type host-unreachable": PortState.UNREACHABLE,
}


async def ask(made, family=4, options=None):
    clock = SystemClock()
    context = Context(
        network=KernelNetwork(clock), clock=clock, vantage=Vantage(name="test"), deadline=clock.monotonic() + 40
    )
    address = made.address(family)
    with inside(made.client):
        return await measure(context, Target(host=address, address=address, port=PORT), options or PortsOptions())


def states(measurement):
    return [port.state for port in measurement.ports]


@pytest.mark.parametrize("family", [4, 6])
async def test_open_and_closed(family):
    with world() as made:
        closed = await ask(made, family)
        with listener(made, PORT, family):
            opened = await ask(made, family)
    assert states(opened) == [PortState.OPEN]
    assert states(closed) == [PortState.RESET, PortState.RESET]
    assert host_answers(closed)


async def test_dropped_port_and_a_control_that_answers():
    with world() as made, listener(made, PORT):
        made.nft(made.nodes[1], "forward", "tcp dport 5432 counter drop")
        measurement = await ask(made, options=PortsOptions(attempts=3, timeout_s=0.5))
        listed = run("ip", "netns", "exec", made.nodes[1], "nft", "list", "table", "inet", "forward_rules")
    assert states(measurement) == [PortState.SILENT, PortState.RESET]
    assert [port.attempts for port in measurement.ports] == [3, 1]
    assert "packets 3 " in listed
    assert host_answers(measurement)


async def test_a_dead_host_answers_on_no_port():
    with world() as made, listener(made, PORT):
        made.nft(made.nodes[1], "forward", "tcp dport 1-65535 drop")
        measurement = await ask(made, options=PortsOptions(attempts=3, timeout_s=0.5))
    assert states(measurement) == [PortState.SILENT, PortState.SILENT]
    assert not host_answers(measurement)


@pytest.mark.parametrize("rule", REJECTIONS)
async def test_a_rejection_names_the_router(rule):
    with world() as made, listener(made, PORT):
        made.nft(made.nodes[1], "forward", f"tcp dport 5432 {rule}")
        measurement = await ask(made)
    service = measurement.ports[0]
    assert (service.state, service.answered_by) == (REJECTIONS[rule], made.router_address(1))


async def test_the_targets_own_filter_is_told_from_a_reset():
    with world() as made, listener(made, PORT):
        made.nft(made.server, "input", "tcp dport 5432 reject with icmp type port-unreachable")
        measurement = await ask(made)
    service = measurement.ports[0]
    assert (service.state, service.answered_by) == (PortState.REJECTED, made.address())
    assert host_answers(measurement)


async def test_a_lost_first_syn_is_seen_and_forgiven():
    with world() as made, listener(made, PORT):
        made.nft(made.nodes[1], "forward", "tcp dport 5432 numgen inc mod 1000 < 1 drop")
        measurement = await ask(made, options=PortsOptions(timeout_s=0.5))
    assert (measurement.ports[0].state, measurement.ports[0].attempts) == (PortState.OPEN, 2)
