"""Port states behind a real router with a real packet filter."""

import pytest

from probes.model import Target
from probes.ports import PortsOptions, PortState, host_answers, measure
from tests.kernel.pathworld import chain

pytestmark = pytest.mark.kernel
PORT = 5432
REJECTIONS = {
    "reject with icmp type admin-prohibited": PortState.REJECTED,
    "reject with icmp type port-unreachable": PortState.REJECTED,
    "reject with icmp type host-unreachable": PortState.UNREACHABLE,
}


def ask(made, family=4, options=None):
    address = made.address(family)
    target = Target(host=address, address=address, port=PORT)
    return made.measure(lambda context: measure(context, target, options or PortsOptions()))


def states(measurement):
    return [port.state for port in measurement.ports]


@pytest.mark.parametrize("family", [4, 6])
def test_open_and_closed(family):
    with chain() as made:
        closed = ask(made, family)
        with made.listening(PORT, family):
            opened = ask(made, family)
    assert states(opened) == [PortState.OPEN]
    assert states(closed) == [PortState.RESET, PortState.RESET]
    assert host_answers(closed)


def test_dropped_port_and_a_control_that_answers():
    with chain() as made, made.listening(PORT):
        made.filter(made.router(1), "forward", "tcp dport 5432 counter drop")
        measurement = ask(made, options=PortsOptions(attempts=3, spread=8, timeout_s=0.5))
        listed = made.router(1).run("nft", "list", "table", "inet", "t_forward")
    assert states(measurement) == [PortState.SILENT, PortState.RESET]
    assert [port.attempts for port in measurement.ports] == [3 + 8, 1]
    assert "packets 11 " in listed
    assert host_answers(measurement)


def test_a_dead_host_answers_on_no_port():
    with chain() as made, made.listening(PORT):
        made.filter(made.router(1), "forward", "tcp dport 1-65535 drop")
        measurement = ask(made, options=PortsOptions(attempts=3, timeout_s=0.5))
    assert states(measurement) == [PortState.SILENT, PortState.SILENT]
    assert not host_answers(measurement)


@pytest.mark.parametrize("rule", REJECTIONS)
def test_a_rejection_names_the_router(rule):
    with chain() as made, made.listening(PORT):
        made.filter(made.router(1), "forward", f"tcp dport 5432 {rule}")
        measurement = ask(made)
    service = measurement.ports[0]
    assert (service.state, service.answered_by) == (REJECTIONS[rule], made.router_address(1))


def test_the_targets_own_filter_is_told_from_a_reset():
    with chain() as made, made.listening(PORT):
        made.filter(made.server, "input", "tcp dport 5432 reject with icmp type port-unreachable")
        measurement = ask(made)
    service = measurement.ports[0]
    assert (service.state, service.answered_by) == (PortState.REJECTED, made.address())
    assert host_answers(measurement)


def test_a_lost_first_syn_is_seen_and_forgiven():
    with chain() as made, made.listening(PORT):
        made.filter(made.router(1), "forward", "tcp dport 5432 numgen inc mod 1000 < 1 drop")
        measurement = ask(made, options=PortsOptions(timeout_s=0.5))
    assert (measurement.ports[0].state, measurement.ports[0].attempts) == (PortState.OPEN, 2)
