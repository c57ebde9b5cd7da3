"""What this host could not send: named where it is the host's, an open question where it is netdiag's own."""

from __future__ import annotations

import dataclasses

import pytest

from netdiag.diagnosis.engine import conclude
from netdiag.diagnosis.finding import Finding, NotMeasured, RuledOut, Severity, Verdict
from netdiag.diagnosis.rules import sending
from probes.model import Outcome
from tests.fakes import evidence as ev

(SENDING,) = sending.RULES


def unsent(errno):
    return ev.unconnected(Outcome.NOT_SENT, errno=errno)


def world(*handshakes, attempts=()):
    return ev.case(ev.ports(list(handshakes)), ev.database(attempts))


def only(rule, case):
    (judgement,) = ev.judged(rule, case)
    return judgement


WORLDS = {
    "healthy": (world(ev.connected()), set()),
    "no port": (world(*[unsent("EADDRNOTAVAIL")] * 4), set()),
    "some without a port": (world(ev.connected(), unsent("EADDRNOTAVAIL")), set()),
    "prohibited": (world(*[unsent("EACCES")] * 4), {SENDING.code}),
    "black hole": (world(*[unsent("EINVAL")] * 4), {SENDING.code}),
    "no memory": (world(unsent("ENOBUFS"), ev.connected()), {SENDING.code}),
    "own descriptors": (world(*[unsent("EMFILE")] * 4), set()),
    "time was up": (world(unsent(None)), set()),
    "no route": (world(ev.unconnected(Outcome.UNREACHABLE, errno="ENETUNREACH")), set()),
    "refused": (world(ev.unconnected(Outcome.REFUSED)), set()),
    "nothing tried": (ev.case(), set()),
}


@pytest.mark.parametrize("name", WORLDS)
@pytest.mark.parametrize("rule", sending.RULES, ids=lambda rule: rule.code)
def test_what_every_rule_keeps_to(rule, name):
    case, expected = WORLDS[name]
    ev.assert_one_each(rule, case)
    ev.assert_deterministic(rule, case, seed=len(name))
    ev.assert_evidence_carries(rule, case)
    assert isinstance(only(rule, case), Finding) == (rule.code in expected)


@pytest.mark.parametrize("name", ["no port", "some without a port", "prohibited", "own descriptors", "no memory"])
def test_a_connection_that_this_host_held_back_is_never_healthy(name):
    case, _ = WORLDS[name]
    attempts = ev.database([ev.waterfall()] * 3)
    beside = dataclasses.replace(case, evidence=case.evidence.plus(dataclasses.replace(attempts, id="more")))
    diagnosis = conclude(beside, [j for rule in sending.RULES for j in rule.judge(beside)])
    assert diagnosis.verdict is not Verdict.HEALTHY


def test_the_runs_own_end_is_no_lack_of_health():
    case = world(ev.connected(), unsent(None), attempts=[ev.waterfall()])
    assert conclude(case, []).verdict is Verdict.HEALTHY


def test_a_part_is_a_warning_and_all_of_it_is_critical():
    assert only(SENDING, WORLDS["no memory"][0]).severity is Severity.WARNING
    assert only(SENDING, WORLDS["prohibited"][0]).severity is Severity.CRITICAL


def test_ruled_out_says_how_small_a_fault_would_have_shown():
    judgement = only(SENDING, WORLDS["healthy"][0])
    assert isinstance(judgement, RuledOut)
    assert "79%" in judgement.smallest_fault  # Wilson, 0 of 1: z^2 / (1 + z^2) = 3.841 / 4.841


def test_netdiags_own_limit_names_itself_and_its_remedy():
    judgement = only(SENDING, WORLDS["own descriptors"][0])
    assert isinstance(judgement, NotMeasured)
    assert "netdiag itself" in judgement.statement
    assert "ulimit -n" in judgement.remedy


def test_a_link_local_address_without_its_zone_is_no_blackhole_route():
    at = ev.target("fe80::99")
    judgement = only(SENDING, ev.case(ev.ports([unsent("EINVAL")] * 4, at=at)))
    assert isinstance(judgement, NotMeasured)
    assert "on which link" in judgement.statement
