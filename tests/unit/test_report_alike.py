"""Lines that say the same of several places stand once; nothing that differs in a figure is hidden by it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest

from netdiag.diagnosis.finding import Diagnosis, NotMeasured, RuledOut, Subject, Verdict
from netdiag.report.alike import Said, drawn_together
from netdiag.report.compile import compile_report
from netdiag.report.model import Report
from netdiag.report.text import render
from probes.model import MeasurementOutcome, Target
from tests.unit.cli_support import a_run, latency


def subject(address: str, **more: str) -> Subject:
    return Subject(address=address, port=5432, **more)


def refused(address: str, attempts: int, *evidence: str) -> RuledOut:
    label = Target(host=address, port=5432).label()
    return RuledOut(
        code="firewall.drop",
        subject=subject(address),
        statement=f"{attempts} of {attempts} connection attempts to {label} were answered",
        smallest_fault=f"a rule that drops more than {100 / attempts:.0f}% of the connections",
        evidence=evidence,
    )


def report(ruled_out: Sequence[RuledOut] = (), not_measured: Sequence[NotMeasured] = ()) -> Report:
    one = latency(0.01)
    run = a_run(*(replace(one, id=f"m{number}", outcome=MeasurementOutcome.MEASURED) for number in range(1, 60)))
    verdict = Verdict.UNKNOWN
    return compile_report(
        run, Diagnosis(verdict=verdict, findings=(), ruled_out=tuple(ruled_out), not_measured=tuple(not_measured))
    )


def test_two_families_of_one_place_are_one_line_with_the_evidence_of_both() -> None:
    (line,) = report([refused("192.0.2.1", 17, "m1"), refused("2001:db8::1", 17, "m2", "m3")]).ruled_out.items
    assert line.text == (
        "17 of 17 connection attempts to 192.0.2.1:5432 were answered. The same for [2001:db8::1]:5432."
    )
    assert line.evidence == tuple(sorted(line.evidence, key=lambda number: int(number[1:])))
    assert len(line.evidence) == 3


def test_another_figure_is_another_line() -> None:
    lines = report([refused("192.0.2.1", 17, "m1"), refused("192.0.2.2", 16, "m2")]).ruled_out.items
    assert [line.text.split()[0] for line in lines] == ["17", "16"]


def test_another_code_is_another_line() -> None:
    other = replace(refused("192.0.2.2", 17, "m2"), code="firewall.reject")
    assert len(report([refused("192.0.2.1", 17, "m1"), other]).ruled_out.items) == 2


@pytest.mark.parametrize("seed", range(5))
def test_fifty_endpoints_are_one_line_and_each_is_named(seed: int) -> None:
    draw = random.Random(seed)
    addresses = [f"198.18.{draw.randrange(256)}.{number}" for number in range(1, 51)]
    lines = [refused(address, 14, f"m{number}") for number, address in enumerate(addresses, start=1)]
    text = render(report(lines))
    assert text.count("firewall.drop") == 1
    assert all(f"{address}:5432" in text for address in addresses)
    assert max(map(len, text.splitlines())) < 200


def test_a_name_and_a_resolver_are_drawn_together_one_way_only() -> None:
    """Two resolvers by three names: two lines of three names, not three of two and not one of six."""

    def said(pair: tuple[str, str]) -> Said:
        return Said(subject=Subject(resolver=pair[0], name=pair[1]), texts=(f"{pair[0]} knows {pair[1]}",))

    pairs = [
        (resolver, name) for name in ("a.example", "b.example", "c.example") for resolver in ("::53", "192.0.2.53")
    ]
    groups = drawn_together(pairs, said)
    assert [(group.first, group.others) for group in groups] == [
        (("::53", "a.example"), ("b.example", "c.example")),
        (("192.0.2.53", "a.example"), ("b.example", "c.example")),
    ]
    assert sorted(pair for group in groups for pair in group.members) == sorted(pairs)


def test_gaps_keep_their_remedy_and_their_codes() -> None:
    def gap(code: str, address: str, command: str) -> NotMeasured:
        label = Target(host=address, port=5432).label()
        text = f"No connection to {label} was tried"
        return NotMeasured(code=code, subject=subject(address), statement=text, remedy=f"Run `{command}`.")

    v4, v6 = "netdiag probe database 192.0.2.1:5432", "netdiag probe database '[2001:db8::1]:5432'"
    (line,) = report(
        not_measured=[
            gap("db.slow", "192.0.2.1", v4),
            gap("db.auth-failed", "192.0.2.1", v4),
            gap("db.slow", "2001:db8::1", v6),
            gap("db.auth-failed", "2001:db8::1", v6),
        ]
    ).not_measured.items
    assert line.codes == ("db.slow", "db.auth-failed")
    assert (line.text, line.remedy) == (
        "No connection to 192.0.2.1:5432 was tried. The same for [2001:db8::1]:5432.",
        f"Run `{v4}`.",
    )


def test_a_line_that_does_not_name_its_subject_stays_alone() -> None:
    texts = ("nothing listens",)
    said = [Said(subject=subject(address), texts=texts) for address in ("192.0.2.1", "192.0.2.2")]
    assert [group.others for group in drawn_together(said, lambda one: one)] == [(), ()]


def test_a_command_alone_is_a_sentence_in_the_report_and_stays_a_command_for_machines() -> None:
    gap = NotMeasured(
        code="mtu.black-hole", subject=Subject(), statement="Sizes were not tried", remedy="netdiag probe mtu h:1"
    )
    (line,) = report(not_measured=[gap]).not_measured.items
    assert line.remedy == "Run netdiag probe mtu h:1"
    assert "Run netdiag probe mtu h:1" in report(not_measured=[gap]).next_steps.items
    assert gap.remedy == "netdiag probe mtu h:1"
