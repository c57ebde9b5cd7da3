"""When the schedule asks for a path, for the networks behind it, and for a router's sessions."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from netdiag.evidence import Evidence
from netdiag.plan.model import Baseline, Dns, Plan, Router, VantagePlan
from netdiag.schedule import Request, Schedule, ScheduleSettings
from probes.model import Measurement, Outcome
from probes.routing import RoutingMeasurement
from tests.fakes import evidence as made

ADDRESS = "198.51.100.7"
NORMAL = Baseline(source="us-east", target="us-west", as_path=(65010, 65100, 65020))
ZONE = Dns(resolvers=("192.0.2.53",), origin_zone="origin.asn.example")
NETWORKS = RoutingMeasurement(zone="origin.asn.example", hops=(), as_path=(), queries=())
ANSWERS = {
    "ports": made.ports([made.connected()]),
    "database": made.database([made.waterfall()]),
    "latency-tcp": made.latency([0.01] * 10),
    "latency-icmp": made.latency([0.01] * 20, method="icmp"),
    "mtu": made.mtu(),
    "replication": made.measured("replication", made.target(), None),
    "idle": made.measured("idle", made.target(), None),
    "path": made.path(["192.0.2.254", None, "192.0.2.3"], end=Outcome.ANSWERED),
    "routing": made.measured("routing", made.target(), NETWORKS),
}


def a_plan(**more: Any) -> Plan:
    endpoint = made.endpoint(ADDRESS, region="us-west", port=more.pop("port", 5432))
    given = {"vantage": VantagePlan(region="us-east"), "baselines": (NORMAL,), "dns": ZONE}
    return Plan(endpoints=(endpoint,), **(given | more))


def walk(plan: Plan, *, watch_s: float = 0.0, answers: dict[str, Measurement[Any]] | None = None) -> list[Request]:
    icmp = plan.endpoints[0].port is None
    stepper = Schedule(plan, ScheduleSettings(vantage="test", watch_s=watch_s, icmp=icmp))
    evidence, asked, elapsed = Evidence(()), [], 0.0
    while requests := stepper.next(evidence, elapsed):
        asked += requests
        told = ((r, (ANSWERS | (answers or {}))[r.id.split("/")[1]]) for r in requests)
        evidence = evidence.plus(*(replace(m, id=r.id, target=r.target, probe=r.probe) for r, m in told))
        elapsed += 5.0 if any(request.sampling for request in requests) else 0.1
        assert len(asked) < 200
    return asked


def of(asked: list[Request], probe: str) -> list[Request]:
    return [request for request in asked if request.probe == probe]


def test_a_normal_route_is_compared_by_path_and_networks() -> None:
    asked = walk(a_plan())
    (path,), (routing,) = of(asked, "path"), of(asked, "routing")
    assert path.options.method == "tcp"
    assert routing.options.hops == ("192.0.2.254", None, "192.0.2.3", ADDRESS)
    assert routing.options.origin_zone == "origin.asn.example"
    assert routing.options.resolvers == ("192.0.2.53",)
    assert not path.sampling
    assert not routing.sampling


def test_nobody_is_told_of_hops_without_a_zone() -> None:
    asked = walk(a_plan(dns=Dns()), watch_s=35.0)
    assert len(of(asked, "path")) == 1
    assert of(asked, "routing") == []


@pytest.mark.parametrize("baseline", [replace(NORMAL, as_path=()), replace(NORMAL, source="eu")])
def test_without_a_normal_route_from_here_no_path_is_walked(baseline: Baseline) -> None:
    asked = walk(a_plan(baselines=(baseline,)), watch_s=35.0)
    assert of(asked, "path") == of(asked, "routing") == []


def test_while_sampling_the_route_is_read_again_each_ten_seconds() -> None:
    asked = walk(a_plan(), watch_s=35.0)
    assert len(of(asked, "path")) == len(of(asked, "routing")) == 4  # at 0, 10, 20 and 30 s
    assert [request.sampling for request in of(asked, "path")] == [False, True, True, True]
    assert len({request.id for request in asked}) == len(asked)


def test_the_next_walk_is_ten_seconds_after_the_last_one_however_late_that_was() -> None:
    stepper = Schedule(a_plan(), ScheduleSettings(vantage="test", watch_s=60.0, icmp=False))
    evidence, walks, elapsed = Evidence(()), [], 12.5
    while requests := stepper.next(evidence, elapsed):
        walks += [elapsed for request in requests if request.probe == "path"]
        told = ((r, ANSWERS[r.id.split("/")[1]]) for r in requests)
        evidence = evidence.plus(*(replace(m, id=r.id, target=r.target, probe=r.probe) for r, m in told))
        elapsed += 0.5
    assert walks[0] < 16.0
    assert len(walks) > 3
    assert all(10.0 <= later - one <= 10.5 for one, later in pairwise(walks))


def test_a_blocked_port_has_its_networks_named_too() -> None:
    blocked = made.ports([made.unconnected(Outcome.LOST)] * 3)
    asked = walk(a_plan(), answers={"ports": blocked})
    assert len(of(asked, "routing")) == 1


def test_a_path_that_was_not_measured_asks_for_no_networks() -> None:
    assert of(walk(a_plan(), answers={"path": made.measured("path", made.target(), None)}), "routing") == []


def test_a_host_is_traced_by_icmp() -> None:
    asked = walk(a_plan(port=None))
    assert [request.options.method for request in of(asked, "path")] == ["icmp"]
    assert len(of(asked, "routing")) == 1


def test_a_router_is_read_at_once_and_while_sampling() -> None:
    routers = (Router(name="edge", bird="/run/bird.ctl"), Router(name="other", frr="vtysh"))
    quick = of(walk(a_plan(routers=routers, baselines=())), "routing")
    assert [(r.target.host, r.options.bird, r.options.router) for r in quick] == [("edge", "/run/bird.ctl", "edge")]
    assert quick[0].id == "test/routing/edge/1"
    watched = of(walk(a_plan(routers=routers, baselines=()), watch_s=35.0), "routing")
    assert len(watched) == 7  # at 0, 5, ... 30 s
    assert {r.options.origin_zone for r in watched} == {None}
