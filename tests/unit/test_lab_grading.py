"""Grading a verdict against what was due, keeping trials, and counting them: apart from any lab."""

from __future__ import annotations

import datetime as dt
import random
from dataclasses import replace
from pathlib import Path

import pytest

from netdiag.lab.accuracy import Trial, append_trial, code_hash, of_code, of_scenarios, pending, read_trials, seeds_for
from netdiag.lab.accuracy_page import page, share
from netdiag.lab.grade import Grade, Named, fits, grade, lines, named_in
from netdiag.lab.scenario import Expectation, Pattern, Scenario

ADDRESSES = {
    "db-east": frozenset({"10.1.2.10", "fd00:1:2::10"}),
    "db-west": frozenset({"10.2.1.10", "fd00:2:1::10"}),
    "dns-a": frozenset({"10.1.1.53"}),
}
NOW = dt.datetime(2026, 11, 23, 12, 0, tzinfo=dt.UTC)


def named(code: str, role: str = "cause", **subject: object) -> Named:
    return Named(code=code, role=role, severity="critical", subject=subject, statement=f"{code} was measured")


def expected(*must: Pattern, verdict: str = "critical", may: tuple[str, ...] = ()) -> Expectation:
    return Expectation(verdicts=(verdict,), must=must, may=frozenset(may))


def judged(findings: list[Named], due: Expectation, verdict: str = "critical") -> Grade:
    return grade(verdict, findings, due, ADDRESSES)


def scenario(name: str, *codes: str, implemented: bool = True) -> Scenario:
    return Scenario(
        name=name,
        title=f"what {name} does",
        row=5,
        family="ipv4",
        implemented=implemented,
        quick=False,
        fast=False,
        settle_s=0.0,
        plan="",
        draws={},
        faults=(),
        expect={"verdict": "critical", "must": [{"code": code} for code in codes]},
    )


def trial(name: str, seed: int, *codes: str, code: str = "c", right: bool = True, **more: object) -> Trial:
    """Of ``scenario(name, *codes)``."""
    digest = scenario(name, *codes).digest
    given: dict[str, object] = {"verdict": "critical", "verdict_right": right, "right": right, "seconds": 40.0}
    return Trial(scenario=name, seed=seed, code=code, digest=digest, started=NOW, **(given | more))  # type: ignore[arg-type]  # by name


# Grading

DROP = Pattern(code="firewall.drop", endpoint="db-east", host="db-east")


def test_the_code_at_its_place_is_found() -> None:
    graded = judged([named("firewall.drop", endpoint="db-east", address="10.1.2.10", port=5433)], expected(DROP))
    assert graded.right
    assert graded.found == ("firewall.drop",)
    assert lines(graded)[-1] == "right"


def test_the_same_code_at_another_place_is_missed_and_wrong() -> None:
    graded = judged([named("firewall.drop", endpoint="db-west", address="10.2.1.10")], expected(DROP))
    assert (graded.missed, [f.code for f in graded.wrong]) == (("firewall.drop",), ["firewall.drop"])
    assert not graded.right


def test_a_second_place_beside_the_right_one_is_wrong() -> None:
    right = named("firewall.drop", endpoint="db-east", address="10.1.2.10")
    graded = judged([right, named("firewall.drop", endpoint="db-west", address="10.2.1.10")], expected(DROP))
    assert graded.found == ("firewall.drop",)
    assert [f.subject["endpoint"] for f in graded.wrong] == ["db-west"]
    assert not graded.right


def test_what_no_list_allows_is_wrong_as_cause_and_as_consequence() -> None:
    drop = named("firewall.drop", endpoint="db-east", address="10.1.2.10")
    for role in ("cause", "consequence"):
        graded = judged([drop, named("db.slow", role, endpoint="db-east")], expected(DROP))
        assert [f.code for f in graded.wrong] == ["db.slow"]


def test_a_consequence_that_is_allowed_counts_neither_way() -> None:
    drop = named("firewall.drop", endpoint="db-east", address="10.1.2.10")
    graded = judged([drop, named("db.slow", "consequence")], expected(DROP, may=("db.slow",)))
    assert graded.right
    assert graded.folded == ("db.slow",)


def test_notes_count_neither_for_nor_against() -> None:
    assert judged([named("mtu.fragmentation", "note")], expected(verdict="healthy"), "healthy").right
    assert judged([named("firewall.drop", "note", endpoint="db-east")], expected(DROP)).missed == ("firewall.drop",)


def test_a_wrong_verdict_alone_is_not_right() -> None:
    drop = named("firewall.drop", endpoint="db-east", address="10.1.2.10")
    graded = judged([drop], expected(DROP), "degraded")
    assert (graded.verdict_right, graded.right, graded.missed, graded.wrong) == (False, False, (), ())


def test_two_musts_of_one_code_are_two_findings() -> None:
    both = expected(Pattern(code="dns.servfail", resolver="dns-a", name="a"), Pattern(code="dns.servfail", name="b"))
    graded = judged([named("dns.servfail", resolver="10.1.1.53", name="a")], both)
    assert (graded.found, graded.missed) == (("dns.servfail",), ("dns.servfail",))


@pytest.mark.parametrize("spelling", ["fd00:1:2::10", "fd00:1:2:0:0:0:0:10", "FD00:1:2::10"])
def test_an_address_is_the_same_in_every_spelling(spelling: str) -> None:
    assert fits(named("link.loss", address=spelling), Pattern(code="link.loss", host="db-east"), ADDRESSES)


def test_a_host_that_is_not_in_the_lab_fits_nothing() -> None:
    assert not fits(named("link.loss", address="10.9.9.9"), Pattern(code="link.loss", host="db-south"), ADDRESSES)
    assert not fits(named("link.loss"), Pattern(code="link.loss", host="db-south"), ADDRESSES)


def test_a_resolvers_port_is_not_part_of_its_address() -> None:
    pattern = Pattern(code="dns.loss", resolver="dns-a")
    assert fits(named("dns.loss", resolver="10.1.1.53#53"), pattern, ADDRESSES)


@pytest.mark.parametrize("seed", [random.randrange(1 << 32)])  # printed as the test's name
def test_a_size_fits_within_its_tolerance_and_not_beyond(seed: int) -> None:
    size, tolerance = random.Random(seed).randint(1280, 1499), random.Random(seed + 1).randint(0, 40)
    pattern = Pattern(code="mtu.black-hole", size=size, tolerance=tolerance)
    for off, fit in ((0, True), (tolerance, True), (-tolerance, True), (tolerance + 1, False), (-tolerance - 1, False)):
        assert fits(named("mtu.black-hole", size=size + off), pattern, ADDRESSES) is fit
    assert not fits(named("mtu.black-hole"), pattern, ADDRESSES)


def test_findings_are_read_from_a_runs_document() -> None:
    finding = {"code": "db.slow", "role": "cause", "severity": "warning", "statement": "s", "subject": {"port": 5433}}
    (found,) = named_in({"findings": [finding]})
    assert (found.code, found.role, found.subject) == ("db.slow", "cause", {"port": 5433})


# Trials


def test_trials_survive_the_file_and_a_line_cut_short(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "trials.jsonl"
    first, second = trial("a", 1, drawn={"loss": 0.1}), trial("b", 2, right=False, missed=("link.loss",))
    assert read_trials(file) == ()
    append_trial(file, first)
    file.write_bytes(file.read_bytes() + b'{"scenario": "a", "se')  # killed while writing
    append_trial(file, second)
    assert read_trials(file) == (first, second)


def test_a_trial_that_was_run_is_not_run_again_unless_the_lab_failed() -> None:
    scenarios = (scenario("a", "link.loss"), scenario("b", "db.slow"))
    done = (trial("a", 1, "link.loss"), trial("b", 1, "db.slow", trouble="the lab did not come up"))
    left = [(each.name, seed) for each, seed in pending(scenarios, (1, 2), done)]
    assert left == [("b", 1), ("a", 2), ("b", 2)]


def test_another_version_of_the_code_starts_anew_and_the_last_word_counts() -> None:
    trials = (trial("a", 1, code="old"), trial("a", 1, right=False), trial("a", 1, right=True))
    assert of_code(trials, "c") == (trials[2],)


def test_a_scenario_that_was_changed_is_run_again_and_its_old_trials_do_not_count() -> None:
    changed = replace(scenario("a"), settle_s=1.0)
    assert replace(scenario("a"), title="in other words", fast=True).digest == scenario("a").digest
    done = (trial("a", 1), trial("b", 1))
    assert [each.name for each, _ in pending((changed, scenario("b")), (1,), done)] == ["a"]
    assert of_scenarios(done, (changed, scenario("b"))) == (done[1],)


def test_unfinished_seeds_come_before_fresh_ones() -> None:
    scenarios = (scenario("a"), scenario("b"))
    done = (trial("a", 7), trial("b", 7), trial("a", 8))
    assert seeds_for(done, scenarios, 2, fresh=(100, 101, 102)) == (8, 100)
    assert seeds_for((), scenarios, 2, fresh=(100, 101)) == (100, 101)


def test_the_code_hash_follows_what_is_not_committed(tmp_path: Path) -> None:
    import subprocess

    def git(*arguments: str) -> str:
        who = ("-c", "user.name=t", "-c", "user.email=t@t.invalid")
        return subprocess.run(
            ["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout

    git("init", "-q")
    for folder in ("netdiag", "probes"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.py").write_text(f"{folder}\n")
    git("add", ".")
    git("commit", "-qm", "one")
    clean = code_hash(tmp_path)
    (tmp_path / "netdiag" / "lab").mkdir()
    (tmp_path / "netdiag" / "lab" / "judge.py").write_text("the lab is not judged")
    assert code_hash(tmp_path) == clean
    git("add", ".")
    git("commit", "-qm", "two")
    assert code_hash(tmp_path) == clean
    (tmp_path / "probes" / "a.py").write_text("changed\n")
    changed = code_hash(tmp_path)
    (tmp_path / "netdiag" / "new.py").write_text("new\n")
    assert len({clean, changed, code_hash(tmp_path)}) == 3
    with pytest.raises(RuntimeError, match="git"):
        code_hash(tmp_path / "netdiag" / "nowhere")


# The page


def test_shares_carry_wilsons_interval() -> None:
    # Wilson 1927, 95 %: 9 of 10 is 59.6-98.2 % (tabulated in Brown, Cai and DasGupta 2001).
    assert share(9, 10) == "9/10 (60-98%)"
    assert share(0, 0) == "-"


def test_the_page_counts_per_code_and_per_scenario() -> None:
    scenarios = (scenario("a", "link.loss"), scenario("b", "link.unheard-of", implemented=False))
    trials = [
        trial("a", 11, found=("link.loss",), seconds=30.0),
        trial("a", 12, right=False, missed=("link.loss",), wrong=("db.slow db-east",), wrong_codes=("db.slow",)),
        trial("b", 11, right=False, missed=("link.unheard-of",)),
        trial("b", 12, trouble="BIRD did not answer"),
    ]
    text = page(trials, scenarios)
    rows = {
        row.split("|")[1].strip(): [cell.strip() for cell in row.split("|")[2:-1]]
        for row in text.splitlines()
        if row.startswith("| `")
    }
    assert rows["`link.loss`"][:3] == ["yes", "1/2 (9-91%)", "1"]
    assert rows["`link.unheard-of`"][:3] == ["none yet", "0/1 (0-79%)", "1"]
    assert rows["`db.slow`"][3].startswith("1/3 ")
    assert rows["`db.slow`"][1] == "-"
    assert "- Seeds: 11, 12" in text
    assert "- All: 3 trials; verdict right 1/3 (6-79%); wholly right 1/3 (6-79%)" in text
    assert "- Faults whose codes have a rule: 2 trials; verdict right 1/2 (9-91%); wholly right 1/2 (9-91%)" in text
    assert "- Faults of which at least one code has no rule yet: 1 trials" in text
    assert "- Healthy" not in text
    assert "`b`, seed 12: BIRD did not answer" in text
    assert "2026-11-23" in text


def test_a_page_without_trials_says_so_and_lists_what_was_not_tried() -> None:
    text = page([], (scenario("a", "link.loss"),))
    assert "No trial has been run." in text
    assert "`a`: not tried" in text
