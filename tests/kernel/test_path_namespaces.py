"""The path through real routers (network namespaces): every hop by its own address, and where it ends."""

import json
import random

import pytest

from probes.model import Outcome, Target
from probes.path import PathOptions, last_answering_hop, measure
from tests.kernel.pathworld import chain

pytestmark = pytest.mark.kernel
PORT = 5432
PORT_SET = """table inet seen {
  set ports { type inet_service; flags dynamic; }
  chain it {
    type filter hook prerouting priority 0;
    tcp dport 5432 add @ports { tcp sport }
  }
}
"""


def walk(made, family=4, options=None):
    address = made.address(family)
    target = Target(host=address, address=address, port=PORT)
    return made.measure(lambda context: measure(context, target, options or PathOptions()))


def addresses(measurement):
    return [{reply.address for reply in hop.replies} for hop in measurement.hops]


@pytest.mark.parametrize("listening", [True, False])
def test_three_routers_and_the_end(listening):
    with chain(routers=3) as made:
        if listening:
            with made.listening(PORT):
                measurement = walk(made)
        else:
            measurement = walk(made)
        expected = [{made.router_address(number)} for number in (1, 2, 3)] + [{made.address()}]
        assert addresses(measurement) == expected
        assert (measurement.end_reason, measurement.reached_ttl) == ("reached", 4)
        assert measurement.hops[-1].replies[0].outcome is (Outcome.ANSWERED if listening else Outcome.REFUSED)
        assert len(measurement.flows) == 1


def test_one_source_port_on_the_wire():
    """Counted by the first router's own packet filter, not by the probe's account."""
    with chain(routers=2) as made, made.listening(PORT):
        made.router(1).nft(PORT_SET)
        measurement = walk(made)
        listed = made.router(1).run("nft", "-j", "list", "set", "inet", "seen", "ports")
        seen = json.loads(listed)["nftables"][1]["set"]["elem"]
        assert seen == [measurement.hops[0].replies[0].source_port]


def test_ipv6_routers():
    with chain(routers=2) as made, made.listening(PORT, 6):
        measurement = walk(made, 6)
        assert addresses(measurement) == [{made.router_address(1, 6)}, {made.router_address(2, 6)}, {made.address(6)}]
        assert measurement.reached_ttl == 3


@pytest.mark.parametrize("seed", range(2))
def test_a_drop_in_forward_is_placed_at_the_last_hop_that_answers(seed):
    filtering = random.Random(seed).randint(1, 3)
    with chain(routers=3) as made, made.listening(PORT):
        made.filter(made.router(filtering), "forward", "tcp dport 5432 drop")
        measurement = walk(made, options=PathOptions(timeout_s=0.5))
        assert (measurement.reached, measurement.end_reason) == (False, "silent")
        # Linux checks the TTL before FORWARD: the filtering router itself still answers.
        assert last_answering_hop(measurement).ttl == filtering


def test_a_reject_names_its_router():
    with chain(routers=2) as made, made.listening(PORT):
        made.filter(made.router(2), "forward", "tcp dport 5432 reject with icmp type admin-prohibited")
        measurement = walk(made)
        assert measurement.end_reason == "rejected"
        assert measurement.hops[-1].replies[0].address == made.router_address(2)
        assert measurement.hops[-1].replies[0].failure.icmp.code == 13
