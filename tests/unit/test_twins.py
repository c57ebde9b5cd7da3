"""One fault at two addresses of a name is one finding; a fault of one family alone says so."""

from __future__ import annotations

import pytest

from netdiag.diagnosis.engine import diagnose
from netdiag.diagnosis.finding import Finding, FindingRole, Section, Severity, Subject
from netdiag.diagnosis.twins import fold_twins
from netdiag.evidence import Evidence, Run, Tool
from netdiag.plan.dsn import parse_target
from netdiag.plan.model import Plan
from probes.database import Phase, Waterfall
from probes.model import FailureKind, Outcome, Target, Vantage
from tests.fakes import evidence as ev

V4, V6 = "198.51.100.1", "2001:db8::1"


def refused(sqlstate: str, detail: str) -> Waterfall:
    return ev.waterfall(failed=Phase.STARTUP, kind=FailureKind.SERVER, sqlstate=sqlstate, detail=detail)


def causes(attempts: dict[str, Waterfall | None], host: str = "db.example", dsn: str = "") -> list[Finding]:
    """One name with these addresses; each connection to one ends as its waterfall, None is a closed port."""
    plan = Plan(endpoints=parse_target(dsn or f"postgresql://app@{host}/db", {}, None).endpoints)
    found = [ev.names(host, tuple(attempts))]
    for address, attempt in attempts.items():
        endpoint = next((e for e in plan.endpoints if e.host == address), plan.endpoints[0])
        at = Target(host=endpoint.host, address=address, port=5432, endpoint=endpoint.name)
        if attempt is None:
            found.append(ev.ports([ev.unconnected(Outcome.REFUSED)], at=at))
        else:
            found += [ev.ports([ev.connected()], at=at), ev.database([attempt] * 3, at=at)]
    run = Run(
        run_id="test", tool=Tool(), plan=plan, vantage=Vantage(name="test"), started=ev.STARTED, finished=ev.STARTED,
        end_reason="complete", partial=False, privileges=(), evidence=Evidence(tuple(found)),
    )  # fmt: skip
    return [finding for finding in diagnose(run).findings if finding.code.startswith(("db.", "lb."))]


@pytest.mark.parametrize(
    ("over4", "over6"),
    [
        (refused("28P01", "wrong"), refused("28P01", "wrong")),
        (refused("28000", f'no pg_hba.conf entry for host "{V4}"'), refused("28000", 'no pg_hba.conf entry "::1"')),
        (ev.waterfall(failed=Phase.SSL_REQUEST, phase_s=2.0), ev.waterfall(failed=Phase.SSL_REQUEST, phase_s=2.1)),
        (None, None),
    ],
    ids=["auth", "hba", "frozen", "closed"],
)
def test_the_same_over_both_families_is_one_cause(over4, over6):
    if over6 is not None and over6.failure and over6.failure.detail == 'no pg_hba.conf entry "::1"':
        over6 = refused("28000", 'no pg_hba.conf entry for host "2001:db8::99"')
    (finding,) = causes({V4: over4, V6: over6})
    assert finding.subject.address == V4
    assert f"The same over IPv6 at [{V6}]:5432." in finding.statement
    assert any(V6 in name for name in finding.evidence)
    assert any(V4 in name for name in finding.evidence)
    steps = [(action.owner, action.step) for action in finding.actions]
    assert len(steps) == len(set(steps))


def test_different_faults_stay_apart():
    found = causes({V4: refused("28P01", "wrong"), V6: None})
    assert sorted(finding.code for finding in found) == ["db.auth-failed", "db.port-closed"]
    assert not any("The same" in finding.statement for finding in found)


def test_the_same_code_for_another_reason_stays_apart():
    found = causes({V4: refused("28000", "no pg_hba.conf entry"), V6: refused("28000", "pg_hba.conf rejects")})
    assert [finding.subject.address for finding in found] == [V4, V6]


@pytest.mark.parametrize(("hit", "free", "family"), [(V6, V4, "IPv6"), (V4, V6, "IPv4")])
def test_one_family_alone_is_named(hit, free, family):
    (finding,) = causes({hit: refused("28000", "no pg_hba.conf entry"), free: ev.waterfall()})
    assert f"Over {family} alone: " in finding.statement
    assert free in finding.statement
    assert any(free in name for name in finding.evidence)


def test_a_name_of_one_family_says_nothing_of_families():
    (finding,) = causes({V4: refused("28P01", "wrong")})
    assert "IPv" not in finding.statement


def test_a_wrong_login_is_one_cause_for_all_hosts_of_a_dsn_and_a_dead_host_is_its_own():
    other = "198.51.100.2"
    dsn = f"postgresql://app@{V4},{other}/db"
    (finding,) = causes({V4: refused("28P01", "no"), other: refused("28P01", "no")}, dsn=dsn)
    assert f"The same at {other}:5432." in finding.statement
    assert [f.subject.address for f in causes({V4: None, other: None}, dsn=dsn)] == [V4, other]


def finding_at(
    address: str, statement: str, *, code: str = "link.loss", severity: Severity = Severity.CRITICAL
) -> Finding:
    subject = Subject(endpoint="db", address=address, port=5432)
    return Finding(
        id=f"{code}/{address}", code=code, role=FindingRole.CAUSE, severity=severity, confidence=0.97,
        section=Section.INFRASTRUCTURE, subject=subject, statement=statement, evidence=(f"here/loss/{address}",),
        would_refute="-",
    )  # fmt: skip


def test_loss_over_both_families_is_one_finding_with_the_figures_of_both():
    over4 = f"The path to {V4} loses 17% of packets."
    over6 = f"The path to [{V6}] loses 12% of packets. Up to 3 in a row."
    (one,) = fold_twins([finding_at(V6, over6), finding_at(V4, over4)], Plan(endpoints=()))
    assert one.subject.address == V4
    assert one.statement == f"{over4} Over IPv6 as well: The path to [{V6}] loses 12% of packets."
    assert one.evidence == tuple(sorted((f"here/loss/{V4}", f"here/loss/{V6}")))


def test_two_addresses_of_one_family_have_paths_of_their_own():
    apart = [finding_at(V4, "loses 17%."), finding_at("198.51.100.2", "loses 12%.")]
    assert fold_twins(apart, Plan(endpoints=())) == apart
    third = [*apart, finding_at(V6, "loses 9%.")]
    assert fold_twins(third, Plan(endpoints=())) == third


def test_a_worse_family_is_not_hidden_in_the_other():
    apart = [finding_at(V4, "loses 17%."), finding_at(V6, "loses 2%.", severity=Severity.WARNING)]
    assert fold_twins(apart, Plan(endpoints=())) == apart


@pytest.mark.parametrize(("hop6", "left"), [(1, 1), (3, 2)])
def test_a_drop_is_one_only_where_it_is_as_many_hops_away(hop6, left):
    over4 = f"SYNs to {V4}:5432 die between hop 1 (198.51.100.254) and the host itself."
    over6 = f"SYNs to [{V6}]:5432 die between hop {hop6} (2001:db8::fe) and the host itself."
    findings = [finding_at(V4, over4, code="firewall.drop"), finding_at(V6, over6, code="firewall.drop")]
    assert len(fold_twins(findings, Plan(endpoints=()))) == left
