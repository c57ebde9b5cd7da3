"""host.port-exhaustion: what was never sent for want of a port, and a host without a source address."""

from __future__ import annotations

import pytest

from netdiag.diagnosis.finding import Finding, NotMeasured, RuledOut, Severity
from netdiag.diagnosis.rules import host
from probes.model import Outcome
from tests.fakes import evidence as ev

(RULE,) = host.RULES
NO_PORT = ev.unconnected(Outcome.NOT_SENT, errno="EADDRNOTAVAIL")
RESET = ev.unconnected(Outcome.REFUSED, errno="ECONNREFUSED")
SILENT = ev.unconnected(Outcome.LOST, syns=2)
WORLDS = {
    "none left": ev.case(ev.ports([NO_PORT] * 4, {54321: [RESET]})),
    "none left, control silent": ev.case(ev.ports([NO_PORT] * 4, {54321: [SILENT]})),
    "few left": ev.case(
        ev.ports([ev.connected()]), ev.database([ev.unconnected_waterfall(NO_PORT), ev.waterfall(attempt=2)])
    ),
    "no source address": ev.case(ev.ports([NO_PORT] * 4, {54321: [NO_PORT]})),
    "no control": ev.case(ev.ports([NO_PORT] * 4)),
    "fixed source port": ev.case(
        ev.ports([ev.unconnected(Outcome.NOT_SENT, errno="EADDRINUSE")] * 4, {54321: [RESET]})
    ),
    "open": ev.case(ev.ports([ev.connected()]), ev.latency([0.01] * 10)),
    "dropped": ev.case(ev.ports([SILENT] * 4, {54321: [RESET]})),
    "unmeasured": ev.case(ev.names()),
}
EXPECTED = {
    "none left": Finding,
    "none left, control silent": Finding,
    "few left": Finding,
    "no source address": NotMeasured,
    "no control": NotMeasured,
    "fixed source port": NotMeasured,
    "open": RuledOut,
    "dropped": RuledOut,
    "unmeasured": NotMeasured,
}


@pytest.mark.parametrize("name", WORLDS)
def test_what_is_said_of_each_world(name):
    (judgement,) = ev.judged(RULE, WORLDS[name])
    assert type(judgement) is EXPECTED[name]


@pytest.mark.parametrize("name", WORLDS)
@pytest.mark.parametrize("seed", range(3))
def test_it_keeps_to_the_form_of_a_rule(name, seed):
    ev.assert_one_each(RULE, WORLDS[name])
    ev.assert_deterministic(RULE, WORLDS[name], seed)
    ev.assert_evidence_carries(RULE, WORLDS[name])


def test_it_says_how_many_of_how_many_and_what_does_leave():
    (found,) = ev.judged(RULE, WORLDS["none left"])
    assert found.severity is Severity.CRITICAL
    assert found.statement.startswith("4 of 4 (95% CI 51-100%) connections to 198.51.100.7:5432 never leave this host")
    assert "another port of the same address is reached" in found.statement


def test_some_that_get_a_port_make_it_a_warning():
    (found,) = ev.judged(RULE, WORLDS["few left"])
    assert found.severity is Severity.WARNING
    assert "1 of 3" in found.statement
    assert "other attempts at it do leave" in found.statement


def test_one_attempt_at_another_port_refutes_a_missing_source_address():
    """The same four failures: what tells them apart is whether anything at all leaves for that address."""
    (open_question,) = ev.judged(RULE, WORLDS["no source address"])
    assert "no source address" in open_question.statement
    world = ev.case(ev.ports([NO_PORT] * 4, {54321: [NO_PORT, RESET]}))
    (found,) = ev.judged(RULE, world)
    assert isinstance(found, Finding)
