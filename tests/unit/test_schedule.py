"""The schedule as a stepper: which probe follows from which evidence."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from netdiag.evidence import Evidence
from netdiag.plan.model import Baseline, Credentials, Plan
from netdiag.schedule import IDLE_AFTERWARDS_S, Request, Schedule, ScheduleSettings
from probes.database import Phase
from probes.idle import LOGIN_AFTER_S
from probes.model import Measurement, Outcome, Secret
from probes.names import DnsQuery, Record
from tests.fakes import evidence as made

ADDRESS = "198.51.100.7"


def schedule(plan: Plan, *, watch_s: float = 0.0, icmp: bool = False) -> Schedule:
    return Schedule(plan, ScheduleSettings(vantage="test", watch_s=watch_s, icmp=icmp))


def a_plan(host: str = ADDRESS, **more: object) -> Plan:
    return Plan(endpoints=(made.endpoint(host, **more),))


def answer(request: Request, measurement: Measurement[object]) -> Measurement[object]:
    """``measurement`` as the answer to ``request``: under its id and target."""
    return replace(measurement, id=request.id, target=request.target, probe=request.probe)


def walk(plan: Plan, answers: dict[str, Measurement[object]], *, watch_s: float = 0.0, icmp: bool = False) -> list[str]:
    """Everything the schedule asks for, each request answered from ``answers`` by its kind."""
    stepper, evidence, asked, elapsed = schedule(plan, watch_s=watch_s, icmp=icmp), Evidence(()), [], 0.0
    while requests := stepper.next(evidence, elapsed):
        asked += [request.id.removeprefix("test/") for request in requests]
        evidence = evidence.plus(*(answer(r, answers[r.id.split("/")[1]]) for r in requests))
        elapsed += 5.0 if any(request.sampling for request in requests) else 0.1
        assert len(asked) < 100
    return asked


HEALTHY = {
    "names": made.names(),
    "ports": made.ports([made.connected()]),
    "database": made.database([made.waterfall()]),
    "latency-tcp": made.latency([0.01] * 10),
    "latency-icmp": made.latency([0.01] * 20, method="icmp"),
    "mtu": made.mtu(),
    "replication": made.measured("replication", made.target(), None),
    "idle": made.measured("idle", made.target(), None),
    "path": made.path(["192.0.2.254"], end=Outcome.ANSWERED),
    "loss-tcp": made.latency([0.01] * 10),
    "loss-icmp": made.latency([0.01] * 10),
}


def of_kinds(asked: list[str]) -> list[str]:
    return [entry.split("/")[0] for entry in asked]


def test_a_healthy_database_is_asked_in_order_and_only_lightly() -> None:
    assert of_kinds(walk(a_plan(), HEALTHY)) == ["ports", "database", "latency-tcp", "mtu", "replication"]


@pytest.mark.parametrize(
    ("role", "attempts", "credentials", "asked"),
    [
        ("replica", [made.waterfall()], True, 1),
        ("database", [made.waterfall()], True, 1),
        ("primary", [made.waterfall(failed=Phase.STARTUP), made.waterfall()], True, 1),
        ("replica", [made.waterfall(failed=Phase.STARTUP)], True, 0),
        ("replica", [made.waterfall(last=Phase.SSL_REQUEST)], False, 0),
        ("load-balancer", [made.waterfall()], True, 0),
    ],
)
def test_a_server_is_asked_about_its_replication_after_a_login(role, attempts, credentials, asked) -> None:
    answers = HEALTHY | {"database": made.database(attempts, credentials=credentials)}
    assert of_kinds(walk(a_plan(role=role), answers)).count("replication") == asked


def test_replication_is_asked_with_the_applications_own_login() -> None:
    credentials = Credentials(user="app", password=Secret("x"), dbname="d", sslmode="verify-ca", sslrootcert="/ca.pem")
    stepper, evidence, options = schedule(a_plan(credentials=credentials)), Evidence(()), None
    while requests := stepper.next(evidence, 0.0):
        evidence = evidence.plus(*(answer(r, HEALTHY[r.id.split("/")[1]]) for r in requests))
        options = next((r.options for r in requests if r.probe == "replication"), options)
    assert options is not None
    assert (options.user, options.password, options.dbname) == ("app", Secret("x"), "d")
    assert (options.sslmode, options.ssl_root_certificate) == ("verify-ca", "/ca.pem")


def test_a_name_is_resolved_before_its_addresses_are_asked() -> None:
    asked = walk(a_plan("db.example"), HEALTHY)
    assert asked[0] == "names/db.example/1"
    assert asked[1] == f"ports/ysql/{ADDRESS}/1"


def test_addresses_that_only_a_resolver_gives_are_asked_too() -> None:
    stale = DnsQuery(
        resolver="192.0.2.54",
        record_type="A",
        transport="udp",
        attempt=1,
        seconds=0.001,
        outcome=Outcome.ANSWERED,
        rcode="NOERROR",
        answers=(Record(type="A", value="198.51.100.99", ttl_s=60),),
    )
    asked = walk(a_plan("db.example"), HEALTHY | {"names": made.names(queries=[stale])})
    assert "ports/ysql/198.51.100.99/1" in asked


def datagrams(*outcomes: Outcome) -> list[DnsQuery]:
    return [
        DnsQuery(resolver="192.0.2.53", record_type="A", transport="udp", attempt=1, seconds=0.1, outcome=outcome)
        for outcome in outcomes
    ]


KNOWN = {"rcode": "NOERROR", "flags": ("RD", "RA"), "answers": (Record(type="A", value=ADDRESS, ttl_s=60),)}


@pytest.mark.parametrize(
    ("queries", "sampled"),
    [
        ([replace(datagrams(Outcome.ANSWERED)[0], **KNOWN)], True),
        ([replace(datagrams(Outcome.ANSWERED)[0], rcode="NXDOMAIN", flags=("RA",))], True),
        (datagrams(Outcome.LOST, Outcome.LOST), True),  # dead, or slow
        ([replace(datagrams(Outcome.ANSWERED)[0], rcode="SERVFAIL", flags=("RA",))], False),
        ([replace(datagrams(Outcome.ANSWERED)[0], rcode="NOERROR")], False),  # a referral
        (datagrams(Outcome.REFUSED), False),
        (datagrams(Outcome.NOT_SENT), False),
        ([], False),
    ],
)
def test_a_resolver_is_sampled_where_a_sample_can_tell_something(queries: list[DnsQuery], sampled: bool) -> None:
    asked = walk(a_plan("db.example"), HEALTHY | {"names": made.names(queries=queries)})
    wanted = ["names/db.example/1", "names/db.example/2"]
    assert [entry for entry in asked if entry.startswith("names/")] == wanted[: 1 + sampled]


def test_each_resolver_is_sampled_once_at_a_name_that_it_knows() -> None:
    """The first name is known to one resolver only; no name is asked before all are known."""
    one, two = "192.0.2.53", "192.0.2.54"
    good, bad = replace(datagrams(Outcome.ANSWERED)[0], **KNOWN), datagrams(Outcome.LOST)[0]
    plan = made.case(endpoints=(made.endpoint("a.example", name="a"), made.endpoint("b.example", name="b"))).plan
    stepper = schedule(plan)
    assert [request.target.host for request in stepper.next(Evidence(()), 0.0)] == ["a.example", "b.example"]
    first = made.names("a.example", queries=[good, replace(bad, resolver=two)], resolvers=(one, two))
    second = made.names("b.example", queries=[good, replace(good, resolver=two)], resolvers=(one, two))
    half = stepper.next(Evidence((replace(first, id="test/names/a.example/1"),)), 1.0)
    assert [request for request in half if request.probe == "names"] == []
    both = Evidence((replace(first, id="test/names/a.example/1"), replace(second, id="test/names/b.example/1")))
    samples = [request for request in stepper.next(both, 2.0) if request.probe == "names"]
    assert [(request.target.host, request.options.resolvers) for request in samples] == [
        ("a.example", (one,)),
        ("b.example", (two,)),
    ]
    assert all(request.options.samples and not request.options.lookup for request in samples)


@pytest.mark.parametrize("outcome", [Outcome.LOST, Outcome.REFUSED, Outcome.REJECTED])
def test_a_port_that_is_not_open_gets_a_path_and_no_connections(outcome: Outcome) -> None:
    ports = made.ports([made.unconnected(outcome)] * 4, {39999: [made.unconnected(Outcome.REFUSED)]})
    asked = walk(a_plan(), HEALTHY | {"ports": ports})
    assert of_kinds(asked) == ["ports", "path", "path"]
    assert [entry[-1] for entry in asked] == ["1", "1", "2"]


def test_a_loss_seen_in_passing_is_followed_up_wherever_it_was() -> None:
    rng = random.Random(7)
    rtts: list[float | None] = [0.01] * 10
    rtts[rng.randrange(10)] = None
    asked = of_kinds(walk(a_plan(), HEALTHY | {"latency-tcp": made.latency(rtts)}, icmp=True))
    assert "loss-tcp" in asked
    assert "loss-icmp" not in asked


@pytest.mark.parametrize(("rtts", "tcp"), [([0.01] * 9 + [None], True), ([0.01] * 10, False), ([None] * 10, False)])
def test_lost_echoes_are_a_question_that_tcp_decides(rtts: list[float | None], tcp: bool) -> None:
    """A host that answers no echo at all asks nothing."""
    asked = of_kinds(walk(a_plan(), HEALTHY | {"latency-icmp": made.latency(rtts, method="icmp")}, icmp=True))
    assert ("loss-tcp" in asked, "loss-icmp" in asked) == (tcp, tcp)


@pytest.mark.parametrize(("normal", "question"), [(None, 0.01), (0.0, 0.01), (0.03, 0.03)])
def test_loss_is_asked_about_in_the_measure_that_it_is_judged_by(normal: float | None, question: float) -> None:
    plan = Plan(endpoints=(made.endpoint(ADDRESS),), baselines=(Baseline(source="test", target="ysql", loss=normal),))
    stepper, evidence, asked = schedule(plan), Evidence(()), {}
    answers = HEALTHY | {"latency-tcp": made.latency([0.01] * 9 + [None])}
    while requests := stepper.next(evidence, 0.0):
        asked |= {request.id.split("/")[1]: request for request in requests}
        evidence = evidence.plus(*(answer(r, answers[r.id.split("/")[1]]) for r in requests))
    assert asked["loss-tcp"].options.question == question


def test_large_replies_are_asked_for_without_an_ssl_request_too() -> None:
    """With sslmode=disable the login is the first thing that a PostgreSQL answers."""
    spoken = made.waterfall()
    plain = replace(spoken, phases=tuple(timing for timing in spoken.phases if timing.phase is not Phase.SSL_REQUEST))
    stepper, evidence, asked = schedule(a_plan()), Evidence(()), {}
    answers = HEALTHY | {"database": made.database([plain])}
    while requests := stepper.next(evidence, 0.0):
        asked |= {request.id.split("/")[1]: request for request in requests}
        evidence = evidence.plus(*(answer(r, answers[r.id.split("/")[1]]) for r in requests))
    assert asked["mtu"].options.use_database


def test_icmp_that_is_never_answered_is_not_a_question_about_loss() -> None:
    silent = made.latency([None] * 20, method="icmp")
    asked = of_kinds(walk(a_plan(), HEALTHY | {"latency-icmp": silent}, icmp=True))
    assert asked == ["latency-icmp", "ports", "database", "latency-tcp", "mtu", "replication"]


def test_a_path_follows_only_where_the_baseline_is_exceeded() -> None:
    slow = HEALTHY | {"latency-tcp": made.latency([0.2] * 10)}
    baseline = (Baseline(source="test", target="ysql", rtt=0.05),)
    plan = Plan(endpoints=(made.endpoint(ADDRESS),), baselines=baseline)
    assert "path" in of_kinds(walk(plan, slow))
    assert "path" not in of_kinds(walk(plan, HEALTHY))
    assert "path" not in of_kinds(walk(a_plan(), slow))


def test_sampling_goes_on_until_the_watch_ends_and_holds_a_session_where_it_may() -> None:
    asked = walk(a_plan(), HEALTHY, watch_s=20.0, icmp=True)
    assert of_kinds(asked)[:5] == ["latency-icmp", "ports", "database", "latency-tcp", "mtu"]
    assert set(of_kinds(asked)[5:7]) == {"replication", "idle"}
    assert set(of_kinds(asked)[7:]) == {"latency-icmp", "database"}
    assert 3 <= of_kinds(asked)[5:].count("database") <= 4


def test_without_credentials_sampling_uses_handshakes() -> None:
    anonymous = HEALTHY | {"database": made.database([made.waterfall()], credentials=False)}
    assert set(of_kinds(walk(a_plan(), anonymous, watch_s=12.0))[4:]) == {"latency-tcp"}


def test_the_first_verdict_is_due_once_all_but_the_sampling_is_in() -> None:
    stepper, evidence = schedule(a_plan(), watch_s=35.0), Evidence(())
    while requests := stepper.next(evidence, 1.0):
        if all(request.sampling for request in requests):
            break
        assert not stepper.settled(evidence)
        evidence = evidence.plus(*(answer(r, HEALTHY[r.id.split("/")[1]]) for r in requests))
    assert stepper.settled(evidence)


def idle_options(plan: Plan, answers=HEALTHY, *, watch_s: float, elapsed_s: float):
    """Those that the idle probe is asked with, each step of the run being taken at ``elapsed_s``."""
    stepper, evidence = schedule(plan, watch_s=watch_s), Evidence(())
    for _ in range(6):
        requests = stepper.next(evidence, elapsed_s)
        asked = [request for request in requests if request.probe == "idle"]
        if asked:
            assert all(request.sampling for request in asked), "the first verdict does not wait for it"
            return asked[0].options
        evidence = evidence.plus(*(answer(r, answers[r.id.split("/")[1]]) for r in requests))
    return None


@pytest.mark.parametrize("seed", range(4))
def test_connections_are_held_idle_as_long_as_the_watch_has_time(seed) -> None:
    rng = random.Random(seed)
    watch, elapsed = rng.uniform(30.0, 45.0), rng.uniform(0.0, 10.0)
    options = idle_options(a_plan(), watch_s=watch, elapsed_s=elapsed)
    assert options.seconds == pytest.approx(watch - elapsed - IDLE_AFTERWARDS_S, abs=0.1)
    assert options.user == "app"
    assert idle_options(a_plan(), watch_s=500.0, elapsed_s=0.0).seconds == LOGIN_AFTER_S


def test_nothing_is_held_idle_without_a_watch_or_where_its_time_is_too_short() -> None:
    assert idle_options(a_plan(), watch_s=0.0, elapsed_s=0.0) is None
    assert idle_options(a_plan(), watch_s=35.0, elapsed_s=25.0) is None


def test_nothing_is_held_idle_where_no_postgresql_answers_and_no_refused_login_is_tried_again() -> None:
    mute = HEALTHY | {"database": made.database([made.waterfall(failed=Phase.SSL_REQUEST)])}
    refused = HEALTHY | {"database": made.database([made.waterfall(failed=Phase.STARTUP)])}
    assert idle_options(a_plan(), mute, watch_s=35.0, elapsed_s=3.0) is None
    assert idle_options(a_plan(), refused, watch_s=35.0, elapsed_s=3.0).user is None


def test_every_request_is_given_once() -> None:
    stepper, evidence = schedule(a_plan("db.example")), Evidence(())
    assert len(stepper.next(evidence, 0.0)) == 1
    assert stepper.next(evidence, 0.1) == ()
