"""What is asked of a balancer: its own check at the backends' addresses, and its neighbours' loss beside its own."""

from __future__ import annotations

from dataclasses import replace

import pytest

from netdiag.evidence import Evidence
from netdiag.plan.model import Health, Plan
from netdiag.schedule import RECHECK_S, Schedule, ScheduleSettings
from probes.model import Outcome
from tests.fakes import evidence as made

HEALTH = Health(url="http://{backend}:13000/health", matcher="200-299", interval=5.0, timeout=1.5, unhealthy=2)
LB = made.endpoint(
    "192.0.2.1",
    name="ysql",
    role="load-balancer",
    region="us-east",
    backends=("east", "west"),
    health=HEALTH,
    stats="http://192.0.2.1:8404/;csv",
)
EAST = made.endpoint("192.0.2.10", name="east", region="us-east")
WEST = made.endpoint("west.example", name="west", region="us-west")
WEB = made.endpoint("192.0.2.30", None, name="web", role="host", region="us-east", database=False, credentials=None)
FAR = made.endpoint("198.51.100.9", None, name="far", role="host", region="us-west", database=False, credentials=None)
WEST_ADDRESS = "198.51.100.20"

HEALTHY = {
    "names": made.names(WEST.host, [WEST_ADDRESS]),
    "ports": made.ports([made.connected()]),
    "database": made.database([made.waterfall()]),
    "latency-tcp": made.latency([0.01] * 10),
    "latency-icmp": made.latency([0.01] * 20, method="icmp"),
    "mtu": made.mtu(),
    "replication": made.measured("replication", made.target(), None),
    "idle": made.measured("idle", made.target(), None),
    "loss-tcp": made.latency([0.01] * 10),
    "path": made.path(["192.0.2.254"]),
    "loss-icmp": made.latency([0.01] * 10, method="icmp"),
    "balancer": made.measured("balancer", made.target(), None),
}
BLOCKED = made.ports([made.unconnected(Outcome.LOST)] * 4)
LOSSY = made.latency([0.01, None, 0.01])


def asked_of(plan, lossy=(), blocked=()):
    """Every request, answered as healthy but for the TCP latency of ``lossy`` and the ports of ``blocked``."""
    stepper = Schedule(plan, ScheduleSettings(vantage="test", watch_s=0.0, icmp=True))
    evidence, asked = Evidence(()), []
    while requests := stepper.next(evidence, 0.1):
        asked += requests
        for request in requests:
            kind, endpoint = request.id.split("/")[1:3]
            found = LOSSY if kind == "latency-tcp" and endpoint in lossy else HEALTHY[kind]
            found = BLOCKED if kind == "ports" and endpoint in blocked else found
            evidence = evidence.plus(replace(found, id=request.id, target=request.target, probe=request.probe))
        assert len(asked) < 100
    return asked


def plan(balancer=LB, others=(EAST, WEST, WEB, FAR)):
    return Plan(endpoints=(balancer, *others))


def losses(asked):
    return {tuple(request.id.split("/")[1:3]) for request in asked if request.probe == "loss"}


def test_the_check_goes_to_every_address_of_the_backends_once_their_names_are_resolved():
    asked = asked_of(plan())
    kinds = [request.probe for request in asked]
    assert kinds.index("names") < kinds.index("balancer")
    (request,) = [request for request in asked if request.probe == "balancer"]
    assert request.options.backends == ("192.0.2.10", WEST_ADDRESS)
    assert (request.options.url, request.options.matcher) == (HEALTH.url, HEALTH.matcher)
    assert (request.options.timeout_s, request.options.unhealthy, request.options.stats) == (1.5, 2, LB.stats)
    assert request.target.endpoint == "ysql"


@pytest.mark.parametrize(("interval", "unhealthy"), [(5.0, 2), (30.0, 2), (30.0, 10), (1.0, 100)])
def test_a_check_that_always_fails_is_decided_in_time(interval, unhealthy):
    health = replace(HEALTH, interval=interval, unhealthy=unhealthy)
    (request,) = [r for r in asked_of(plan(replace(LB, health=health))) if r.probe == "balancer"]
    assert request.options.interval_s <= interval
    assert request.options.interval_s * (request.options.unhealthy - 1) <= RECHECK_S


@pytest.mark.parametrize(
    ("more", "asked"),
    [
        ({"health": None, "stats": None}, 0),
        ({"backends": (), "stats": None}, 0),
        ({"stats": None}, 1),
        ({"health": None}, 1),
    ],
)
def test_only_what_the_plan_declares_is_asked(more, asked):
    assert sum(r.probe == "balancer" for r in asked_of(plan(replace(LB, **more)))) == asked


def test_loss_at_the_balancer_is_asked_of_its_backends_and_its_regions_hosts_too():
    assert losses(asked_of(plan(), lossy={"ysql"})) == {
        ("loss-tcp", "ysql"),
        ("loss-tcp", "east"),
        ("loss-tcp", "west"),
        ("loss-icmp", "web"),  # no port to ask by TCP
    }


def test_a_backend_whose_port_is_blocked_is_asked_by_icmp():
    assert ("loss-icmp", "east") in losses(asked_of(plan(), lossy={"ysql"}, blocked={"east"}))
    assert losses(asked_of(plan(), blocked={"east"})) == set()


def test_loss_at_a_backend_alone_asks_nothing_of_the_others():
    assert losses(asked_of(plan(), lossy={"east"})) == {("loss-tcp", "east")}


def test_no_loss_no_question():
    assert losses(asked_of(plan())) == set()


def test_every_loss_test_has_the_same_cap():
    caps = {request.options.count for request in asked_of(plan(), lossy={"ysql"}) if request.probe == "loss"}
    assert len(caps) == 1
