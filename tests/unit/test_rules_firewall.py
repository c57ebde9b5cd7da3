"""firewall.drop, firewall.reject, net.unreachable: what each claims, and what the other two look like."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from netdiag.diagnosis.finding import Finding, FindingRole, NotMeasured, RuledOut, Severity
from netdiag.diagnosis.rules import database, firewall
from netdiag.diagnosis.rules.firewall import drop_confidence
from probes.model import Failure, FailureKind, IcmpError, Outcome
from tests.fakes import evidence as ev

RULES = {rule.code: rule for rule in (*firewall.RULES, *database.RULES)}
DROP, REJECT, UNREACHABLE = RULES["firewall.drop"], RULES["firewall.reject"], RULES["net.unreachable"]
CLOSED = RULES["db.port-closed"]
ADDRESS = "198.51.100.7"
SILENT = ev.unconnected(Outcome.LOST, syns=2)
RESET = ev.unconnected(Outcome.REFUSED, errno="ECONNREFUSED")
CONTROL = {54321: [RESET]}


def only(rule, world):
    (judgement,) = ev.judged(rule, world)
    return judgement


def rejected(offender, code=13):
    return ev.unconnected(Outcome.REJECTED, icmp=ev.prohibited(offender, code=code))


def routed(ports_measurement, service, control):
    """A trace by the service port that dies, and one by a control port that a RST of the host ends."""
    at_control = ev.target(port=54321)
    return ev.case(ports_measurement, ev.path(service), ev.path(control, end=Outcome.REFUSED, at=at_control, ordinal=2))


WORLDS = {
    "open": ev.case(ev.ports([ev.connected()]), ev.latency([0.01] * 10)),
    "dropped": ev.case(ev.ports([SILENT] * 4, CONTROL)),
    "dropped-echo": ev.case(ev.ports([SILENT] * 4), ev.latency([0.01] * 3, method="icmp")),
    "nothing-answers": ev.case(ev.ports([SILENT] * 4, {54321: [SILENT] * 4})),
    "rejected": ev.case(ev.ports([rejected("203.0.113.9")])),
    "rejected-by-host": ev.case(ev.ports([rejected(ADDRESS)])),
    "closed": ev.case(ev.ports([RESET])),
    "lossy": ev.case(ev.ports([SILENT, ev.connected()]), ev.latency([0.01, None, None, 0.01])),
    "no-route": ev.case(ev.ports([ev.unconnected(Outcome.UNREACHABLE, errno="ENETUNREACH")])),
    "host-unreachable": ev.case(
        ev.ports([ev.unconnected(Outcome.UNREACHABLE, icmp=ev.prohibited("203.0.113.1", code=1))])
    ),
    "not-sent": ev.case(ev.ports([ev.unconnected(Outcome.NOT_SENT, errno="EADDRNOTAVAIL")])),
    "unmeasured": ev.case(ev.names()),
    "unresolved": ev.case(),
}
EXPECTED = {  # what fires in each world: none but these
    "open": set(),
    "dropped": {"firewall.drop"},
    "dropped-echo": {"firewall.drop"},
    "nothing-answers": {"net.unreachable"},
    "rejected": {"firewall.reject"},
    "rejected-by-host": {"firewall.reject"},
    "closed": {"db.port-closed"},
    "lossy": set(),
    "no-route": {"net.unreachable"},
    "host-unreachable": {"net.unreachable"},
    "not-sent": set(),
    "unmeasured": set(),
    "unresolved": set(),
}


def unreachable(offender="203.0.113.1", kind=3, code=1):
    icmp = IcmpError(family=4, type=kind, code=code, offender=offender)
    return ev.unconnected(Outcome.EXPIRED if kind == 11 else Outcome.UNREACHABLE, icmp=icmp)


ECHO = ev.latency([0.01] * 20, method="icmp")


@pytest.mark.parametrize("code", [0, 1])
@pytest.mark.parametrize("proof", ["control", "echo"])
def test_unreachable_for_one_port_alone_is_a_filters_word(code, proof):
    """nft and iptables may reject with any ICMP code; no route knows ports."""
    tried = [unreachable(code=code)] * 4
    world = ev.case(ev.ports(tried, CONTROL)) if proof == "control" else ev.case(ev.ports(tried), ECHO)
    found, ruled = only(REJECT, world), only(UNREACHABLE, world)
    assert isinstance(found, Finding)
    assert isinstance(ruled, RuledOut)
    assert "203.0.113.1" in found.statement
    assert found.confidence == 0.9
    assert len(ruled.evidence) >= 1
    assert not isinstance(only(DROP, world), Finding)


LOOKALIKES = {
    "nothing-beside": [ev.ports([unreachable()] * 4, {54321: [unreachable()] * 4})],
    "a-route-that-comes-and-goes": [
        ev.ports([unreachable()] * 4), ev.latency([0.01, None, 0.01, None], method="icmp")
    ],
    "some-open": [ev.ports([unreachable(), ev.connected()], CONTROL)],
    "a-loop": [ev.ports([unreachable(kind=11, code=0)] * 4), ECHO],
    "this-host": [ev.ports([unreachable(offender=ev.SOURCE)] * 4), ECHO],
}  # fmt: skip


@pytest.mark.parametrize("name", LOOKALIKES)
def test_what_is_no_filters_unreachable(name):
    world = ev.case(*LOOKALIKES[name])
    assert not isinstance(only(REJECT, world), Finding)
    assert isinstance(only(UNREACHABLE, world), Finding)


@pytest.mark.parametrize("name", WORLDS)
def test_one_world_one_cause(name):
    rules = (DROP, REJECT, UNREACHABLE, CLOSED)
    fired = {j.code for rule in rules for j in ev.judged(rule, WORLDS[name]) if isinstance(j, Finding)}
    assert fired == EXPECTED[name]


@pytest.mark.parametrize("name", WORLDS)
@pytest.mark.parametrize("rule", [DROP, REJECT, UNREACHABLE, CLOSED], ids=lambda rule: rule.code)
def test_what_every_rule_keeps_to(rule, name):
    ev.assert_one_each(rule, WORLDS[name])
    ev.assert_deterministic(rule, WORLDS[name], seed=len(name))
    ev.assert_evidence_carries(rule, WORLDS[name])


@pytest.mark.parametrize("seed", range(8))
def test_a_drop_is_as_sure_as_the_syns_that_loss_would_have_to_eat(seed):
    draw = random.Random(seed)
    attempts, syns = draw.randint(4, 9), draw.randint(1, 3)
    world = ev.case(ev.ports([ev.unconnected(Outcome.LOST, syns=syns)] * attempts, CONTROL))
    finding = only(DROP, world)
    assert f"All {attempts * syns} SYNs of {attempts} connection attempts" in finding.statement
    # 30 % each way: one exchange in 0.51 fails; one of two paths dead; a full accept queue keeps 5 % for itself
    chance = max(0.51 ** (attempts * syns), 0.5**attempts)
    assert finding.confidence == pytest.approx(min(0.95, 1 - chance), abs=5e-4)


def test_confidence_against_the_table_of_silent_drop_versus_loss():
    """at 30 % two-way loss five SYNs are all lost with 3.4e-2, eleven with 6e-4."""
    assert 1 - drop_confidence(5, 5, before_host=True) == pytest.approx(3.4e-2, rel=0.05)
    assert drop_confidence(11, 11, before_host=True) == 0.99
    assert drop_confidence(11, 11, before_host=False) == 0.95


def test_few_connections_may_all_be_on_a_dead_path_however_often_their_syns_are_repeated():
    assert 1 - drop_confidence(24, 4, before_host=True) == pytest.approx(1 / 16, abs=1e-3)
    assert drop_confidence(12, 12, before_host=True) == 0.99


def test_three_silent_syns_prove_nothing():
    judgement = only(DROP, ev.case(ev.ports([ev.unconnected(Outcome.LOST)] * 3, CONTROL)))
    assert isinstance(judgement, NotMeasured)
    assert "Only 3 SYNs" in judgement.statement


@pytest.mark.parametrize("seed", range(5))
def test_one_completed_handshake_anywhere_in_the_run_ends_the_suspicion(seed):
    draw = random.Random(seed)
    rtts = [None] * draw.randint(5, 30) + [0.01]
    draw.shuffle(rtts)
    judgement = only(DROP, ev.case(ev.ports([SILENT] * 4, CONTROL), ev.latency(rtts)))
    assert isinstance(judgement, RuledOut)
    assert "loss or a full accept queue" in judgement.statement


def test_the_drop_lies_between_the_last_hop_that_answers_and_the_next_one_of_the_control():
    measured = ev.ports([SILENT] * 12, CONTROL)
    routers = ["10.0.0.1", "10.0.1.1", "10.0.2.1"]
    world = routed(measured, routers[:2] + [None] * 3, routers)
    finding = only(DROP, world)
    assert "between hop 2 (10.0.1.1) and hop 3 (10.0.2.1)" in finding.statement
    assert finding.subject.hop == "2-3"
    assert finding.confidence > 0.95
    assert len(finding.evidence) == 3
    assert "accept queue" not in finding.statement


def test_silence_only_at_the_host_keeps_the_accept_queue_in_view():
    measured = ev.ports([SILENT] * 4, CONTROL)
    finding = only(DROP, routed(measured, ["10.0.0.1", None, None], ["10.0.0.1"]))
    assert "between hop 1 (10.0.0.1) and the host itself" in finding.statement
    assert "accept queue" in finding.statement
    assert finding.confidence <= 0.95
    assert [action.owner for action in finding.actions] == ["firewall", "database"]


def test_no_bracket_where_the_control_is_silent_at_the_next_hop():
    measured = ev.ports([SILENT] * 4, CONTROL)
    finding = only(DROP, routed(measured, ["10.0.0.1", None], ["10.0.0.1", None, "10.0.2.1"]))
    assert finding.subject.hop is None
    assert "die between" not in finding.statement


def test_a_rejection_names_who_rejects_and_with_what():
    statement = only(REJECT, WORLDS["rejected"]).statement
    assert "rejected by 203.0.113.9 (ICMP 3/13 communication administratively prohibited)" in statement
    assert "the host's own firewall" in only(REJECT, WORLDS["rejected-by-host"]).statement


def test_port_unreachable_behind_a_refusal_is_a_filter_and_no_closed_port():
    """TCP answers a closed port by RST; ICMP 3/3 comes from a REJECT rule, the host's own one here."""
    refused = ev.unconnected(Outcome.REFUSED, icmp=ev.prohibited(ADDRESS, code=3), errno="ECONNREFUSED")
    world = ev.case(ev.ports([refused]))
    assert isinstance(only(REJECT, world), Finding)
    assert isinstance(only(CLOSED, world), NotMeasured)


def test_a_rejection_of_some_connections_is_a_warning_with_its_interval():
    world = ev.case(ev.ports([rejected("203.0.113.9"), ev.connected(), ev.connected(), ev.connected()]))
    finding = only(REJECT, world)
    assert finding.severity is Severity.WARNING
    assert "1 of 4 (95% CI 4.6-70%)" in finding.statement  # Wilson, as by R's binom.wilson


def test_a_rst_from_nearer_than_the_host_is_a_rejection():
    measured = ev.ports([RESET], {22: [ev.connected()]})
    other = ev.target(port=22)
    routers = ["10.0.0.1", "10.0.1.1", "10.0.2.1"]
    near = ev.path(routers[:1], end=Outcome.REFUSED)
    far = ev.path(routers, end=Outcome.ANSWERED, at=other, ordinal=2)
    world = ev.case(measured, near, far)
    assert "reset at hop 2" in only(REJECT, world).statement
    assert isinstance(only(CLOSED, world), RuledOut)
    ev.assert_evidence_carries(REJECT, world)


def test_two_flows_over_different_routers_prove_no_forged_rst():
    near = ev.path(["10.9.0.1"], end=Outcome.REFUSED)
    far = ev.path(["10.0.0.1", "10.0.1.1"], end=Outcome.ANSWERED, at=ev.target(port=22), ordinal=2)
    world = ev.case(ev.ports([RESET], {22: [ev.connected()]}), near, far)
    assert isinstance(only(CLOSED, world), Finding)
    assert isinstance(only(REJECT, world), RuledOut)


def test_nothing_comes_back_is_said_without_a_confidence():
    finding = only(UNREACHABLE, WORLDS["nothing-answers"])
    assert finding.confidence is None
    assert "cannot tell which" in finding.statement
    assert isinstance(only(DROP, WORLDS["nothing-answers"]), NotMeasured)


def test_unanswered_echo_is_no_sign_at_all():
    quiet = ev.latency([None] * 10, method="icmp")
    before = only(UNREACHABLE, ev.case(ev.ports([ev.connected()])))
    assert only(UNREACHABLE, ev.case(ev.ports([ev.connected()]), quiet)) == before


def test_who_says_unreachable():
    assert "no route to it (ENETUNREACH)" in only(UNREACHABLE, local_failure()).statement
    assert "answered by 203.0.113.1 with ICMP 3/1" in only(UNREACHABLE, WORLDS["host-unreachable"]).statement
    own = ev.unconnected(Outcome.UNREACHABLE, icmp=ev.prohibited(ev.SOURCE, code=1))
    assert "does not answer ARP" in only(UNREACHABLE, ev.case(ev.ports([own]))).statement
    loop = ev.unconnected(Outcome.EXPIRED, icmp=IcmpError(family=4, type=11, code=0, offender="10.0.0.9"))
    assert "routing loop" in only(UNREACHABLE, ev.case(ev.ports([loop]))).statement


def test_where_no_syn_gets_through_no_drop_is_ruled_out():
    for name in ("no-route", "host-unreachable"):
        assert isinstance(only(DROP, WORLDS[name]), NotMeasured)


def local_failure():
    from dataclasses import replace

    from probes.model import Failure, FailureKind

    failure = Failure(kind=FailureKind.LOCAL, operation="connect", errno="ENETUNREACH")
    return ev.case(ev.ports([replace(ev.unconnected(Outcome.UNREACHABLE), failure=failure)]))


def test_each_address_of_a_name_is_judged_by_itself():
    two = ev.case(
        ev.names(addresses=("198.51.100.7", "198.51.100.8", "2001:db8::8")),
        ev.ports([SILENT] * 4, CONTROL),
        ev.ports([ev.connected()], at=ev.target("198.51.100.8")),
    )
    by_address = {j.subject.address: type(j) for j in ev.judged(DROP, two)}
    assert by_address == {"198.51.100.7": Finding, "198.51.100.8": RuledOut, "2001:db8::8": NotMeasured}


def test_a_socket_that_two_endpoints_share_is_judged_once():
    first, second = ev.endpoint(name="web", database=False, role="host"), ev.endpoint(name="db")
    world = ev.case(ev.ports([SILENT] * 4, CONTROL, at=ev.target(of=first)), endpoints=[first, second])
    finding = only(DROP, world)
    assert finding.subject.endpoint == "db"


def test_an_ipv6_address_on_a_host_without_ipv6_is_a_note_while_the_other_address_works() -> None:
    dual = ev.endpoint("db.example")
    no_route = replace(
        ev.unconnected(Outcome.UNREACHABLE, errno="ENETUNREACH"),
        failure=Failure(kind=FailureKind.LOCAL, operation="connect", errno="ENETUNREACH"),
    )
    six = ev.ports([no_route] * 4, at=ev.target("2001:db8::7", of=dual))
    works = ev.case(six, ev.ports([ev.connected()], at=ev.target(of=dual)), endpoints=(dual,))
    alone = ev.case(six, ev.ports([ev.unconnected(Outcome.REFUSED)] * 4, at=ev.target(of=dual)), endpoints=(dual,))
    rule = next(rule for rule in firewall.RULES if rule.code == "net.unreachable")
    [note] = [j for j in ev.judged(rule, works) if isinstance(j, Finding)]
    [cause] = [j for j in ev.judged(rule, alone) if isinstance(j, Finding)]
    assert (note.role, note.severity, note.subject.address) == (FindingRole.NOTE, Severity.INFO, "2001:db8::7")
    assert (cause.role, cause.severity) == (FindingRole.CAUSE, Severity.CRITICAL)
