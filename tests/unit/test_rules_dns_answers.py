"""The DNS rules on what is asked beside the plain questions: samples, without EDNS, without checking; and the host's
own look-up against all of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from netdiag.diagnosis.finding import Finding, FindingRole, NotMeasured, RuledOut, Severity
from netdiag.diagnosis.rules import dns
from probes.model import Failure, FailureKind, Outcome
from tests.fakes.evidence import assert_deterministic, assert_evidence_carries, assert_one_each, case, judged
from tests.fakes.path_evidence import FIRST, LIVE, OTHER, SECOND, good, query, repeated, resolved, same

RULES = {rule.code: rule for rule in dns.RULES}
ANSWERED, LATE, LOST = Outcome.ANSWERED, Outcome.LATE, Outcome.LOST


def only(code, world):
    (judgement,) = judged(RULES[code], world)
    return judgement


def named(world):
    """(code, role) of all findings."""
    found = [j for rule in dns.RULES for j in judged(rule, world) if isinstance(j, Finding)]
    return sorted((j.code, str(j.role)) for j in found)


def causes(world):
    return [code for code, role in named(world) if role == "cause"]


# Lost and late


def test_a_sample_tells_the_share_that_is_lost():
    fates = [LOST if n in (3, 11, 17, 24, 33) else ANSWERED for n in range(50)]
    found = only("dns.loss", case(resolved({FIRST: good() + repeated(fates)})))
    assert (found.role, found.severity) == (FindingRole.CAUSE, Severity.WARNING)
    assert "5 of 50 (95% CI 4.3-21%)" in found.statement  # Wilson's interval, worked by hand
    assert "samples=" in found.actions[0].check


@pytest.mark.parametrize("lost", [(), (20,), (20, 31), (20, 21, 22, 23, 24)])
def test_an_accident_or_one_outage_is_no_loss(lost):
    fates = [LOST if n in lost else ANSWERED for n in range(60)]
    assert causes(case(resolved({FIRST: good() + repeated(fates)}))) == []


def test_late_answers_are_no_loss_and_no_silence():
    """Four seconds each: the questions met silence for their 2 s, the sample waited longer."""
    asked = [query(outcome=LOST, attempt=n) for n in (1, 2)] + [query(kind="AAAA", outcome=LOST)]
    world = case(resolved({FIRST: asked + repeated([LATE] * 10, seconds=4.0)}, seconds=4.01))
    assert causes(world) == ["dns.loss"]
    found = only("dns.loss", world)
    assert "answers late: in 4.00 s (median of 10" in found.statement
    assert "getaddrinfo took 4.01 s" in found.statement
    assert found.actions[0].owner == "dns"
    assert isinstance(only("dns.resolver-down", world), RuledOut)


@pytest.mark.parametrize(("seconds", "fires"), [(0.3, False), (0.7, False), (1.5, True)])
def test_a_far_resolver_is_no_slow_one(seconds, fires):
    asked = [query(addresses=(LIVE,), seconds=seconds), query(kind="AAAA", seconds=seconds)]
    world = case(resolved({FIRST: asked + repeated([ANSWERED] * 10, seconds=seconds)}, seconds=seconds))
    assert causes(world) == ["dns.loss"] * fires


def test_a_cold_cache_is_no_slow_resolver():
    asked = [query(addresses=(LIVE,), seconds=1.8), query(kind="AAAA", seconds=1.8)]
    assert causes(case(resolved({FIRST: asked + repeated([ANSWERED] * 50)}, seconds=1.8))) == []
    assert causes(case(resolved({FIRST: asked}, seconds=1.8))) == []


def test_cold_caches_of_several_names_are_no_loss():
    """Each name's first A and AAAA too late for the probe; the sample, from the cache, loses nothing."""
    names = [f"db-{n}.example" for n in range(4)]
    cold = [
        query(kind=kind, attempt=n, outcome=fate, addresses=(LIVE,) if kind == "A" else ())
        for kind in ("A", "AAAA")
        for n, fate in ((1, LOST), (2, ANSWERED))
    ]
    made = [resolved({FIRST: cold}, name=name, seconds=2.2) for name in names]
    sample = resolved({FIRST: repeated([ANSWERED] * 50)}, name=names[0], ordinal=2)
    assert causes(case(*made, sample)) == []


@pytest.mark.parametrize(("options", "role"), [((), "note"), (("edns0",), "cause"), (("trust-ad",), "cause")])
def test_edns_that_is_dropped_harms_whom_sends_it(options, role):
    """resolv.conf(5): glibc sends EDNS with these options only."""
    asked = [
        query(kind=kind, attempt=attempt, how=how, outcome=ANSWERED if how == "plain" else LOST, addresses=addresses)
        for kind, addresses in (("A", (LIVE,)), ("AAAA", ()))
        for attempt, how in ((1, "edns"), (2, "plain"))
    ]
    sample = repeated([LOST if n % 4 < 2 else ANSWERED for n in range(12)])
    world = case(resolved({FIRST: asked + sample}, options=options))
    assert named(world) == [("dns.loss", role)]
    assert "no query with EDNS" in only("dns.loss", world).statement


def test_a_sample_that_meets_silence_makes_a_dead_server_sure():
    asked = [query(outcome=LOST, attempt=n) for n in (1, 2)] + [query(kind="AAAA", outcome=LOST)]
    found = only("dns.resolver-down", case(resolved({FIRST: asked + repeated([LOST] * 10)}, system=(), seconds=10.0)))
    assert found.confidence == 0.99
    assert "0 of 13" in found.statement


def test_nonsense_is_said_to_be_nonsense_and_makes_the_stub_wait():
    """As measured on glibc 2.36: a datagram that answers another question is not taken, and 5 s pass."""
    junk = [query(outcome=LOST, strays=1, attempt=n) for n in (1, 2)] + [query(kind="AAAA", outcome=LOST, strays=1)]
    found, _ = judged(RULES["dns.resolver-down"], case(resolved({FIRST: junk, SECOND: good(SECOND)}, seconds=5.01)))
    assert isinstance(found, Finding)
    assert "sends what is no answer" in found.statement
    assert "waits 5 s" in found.statement
    assert found.severity is Severity.CRITICAL


def test_a_wait_that_glibc_did_not_make_is_not_claimed():
    dead = same(outcome=LOST)
    found, _ = judged(RULES["dns.resolver-down"], case(resolved({FIRST: dead, SECOND: good(SECOND)}, seconds=0.01)))
    assert "yet getaddrinfo took 10.0 ms" in found.statement
    assert "Every look-up" not in found.statement


def test_a_host_that_asks_over_tcp_only_misses_no_udp():
    queries = [*same(outcome=Outcome.REFUSED, transports=("udp",)), *same(transports=("tcp",), addresses=(LIVE,))]
    assert named(case(resolved({FIRST: queries}, options=("use-vc",)))) == [("dns.resolver-down", "note")]
    assert causes(case(resolved({FIRST: queries}, system=(), seconds=0.01))) == ["dns.resolver-down"]


# Errors


def test_a_third_of_servfails_is_a_cause_and_one_is_a_note():
    third = repeated([ANSWERED] * 30)
    bad = [query(rcode="SERVFAIL", sampled=True, kind=("A", "AAAA")[n % 2]) for n in range(15)]
    found = only("dns.servfail", case(resolved({FIRST: good() + third + bad})))
    assert (found.role, found.severity) == (FindingRole.CAUSE, Severity.WARNING)
    assert only("dns.servfail", case(resolved({FIRST: good() + third + bad[:1]}))).role is FindingRole.NOTE


def test_one_servfail_that_broke_this_hosts_own_lookup_is_a_cause():
    """glibc takes SERVFAIL for the A and NODATA for the AAAA as "no address" and asks no other server (measured)."""
    one = [query(rcode="SERVFAIL"), *good()]
    failed = case(resolved({FIRST: one, SECOND: good(SECOND)}, system=()))
    assert causes(failed) == ["dns.servfail"]
    assert "own look-up of the name fails (EAI_AGAIN)" in judged(RULES["dns.servfail"], failed)[0].statement


def test_an_error_for_one_type_names_the_type():
    asked = [query(addresses=(LIVE,)), query(kind="AAAA", rcode="SERVFAIL")]
    found = only("dns.servfail", case(resolved({FIRST: asked + asked})))
    assert "SERVFAIL for db.example AAAA in 2 of 2 (95% CI 34-100%) answers" in found.statement


@pytest.mark.parametrize("rcode", ["SERVFAIL", "REFUSED", "NOTIMP"])
def test_an_error_for_the_aaaa_beside_an_a_that_serves_is_a_note(rcode):
    """Old balancers do so (RFC 4074); glibc takes the A."""
    asked = [query(addresses=(LIVE,)), query(kind="AAAA", rcode=rcode)]
    assert [role for _, role in named(case(resolved({FIRST: asked + asked})))] == ["note"]
    assert len(causes(case(resolved({FIRST: asked + asked}, seconds=5.0)))) == 1, "a client that waits for it"
    assert len(causes(case(resolved({FIRST: asked + asked}, system=(), seconds=0.1)))) == 1
    reverse = [query(rcode=rcode), query(kind="AAAA", addresses=("2001:db8::7",))]
    assert len(causes(case(resolved({FIRST: reverse + reverse}, system=("2001:db8::7",))))) == 1


def unchecked(rcode):
    bad = [query(rcode="SERVFAIL", kind=k, transport=t) for k in ("A", "AAAA") for t in ("udp", "tcp")]
    return bad + [query(rcode=rcode, kind=k, attempt=2, how="unchecked", addresses=(LIVE,)) for k in ("A", "AAAA")]


def test_an_answer_without_checking_tells_dnssec():
    world = case(resolved({FIRST: unchecked("NOERROR")}, system=()))
    found = only("dns.servfail", world)
    assert "DNSSEC validation fails" in found.statement
    assert "signatures" in found.actions[0].step
    assert isinstance(only("dns.nxdomain", world), NotMeasured), "nobody may use what is bogus"
    other = only("dns.servfail", case(resolved({FIRST: unchecked("SERVFAIL")}, system=())))
    assert "it is not DNSSEC" in other.statement


def test_luck_without_checking_is_no_dnssec():
    passing = [query(rcode="SERVFAIL"), query(how="unchecked", attempt=2), *good()]
    assert "DNSSEC" not in only("dns.servfail", case(resolved({FIRST: passing}))).statement


def test_formerr_to_edns_alone_is_a_note():
    asked = [query(rcode="FORMERR", kind=kind) for kind in ("A", "AAAA")]
    plain = [query(how="plain", attempt=2, addresses=(LIVE,)), query(kind="AAAA", how="plain", attempt=2)]
    assert named(case(resolved({FIRST: asked + plain}))) == [("dns.refused", "note")]
    assert "answers those without" in only("dns.refused", case(resolved({FIRST: asked + plain}))).statement
    assert causes(case(resolved({FIRST: asked}, system=(), seconds=0.01))) == ["dns.refused"]


def lame(resolver):
    return same(resolver, flags=("RD",))


def test_a_referral_is_no_denial():
    """glibc asks the next server after it (res_send.c); NODATA from a server that recurses ends its search."""
    world = case(resolved({FIRST: lame(FIRST), SECOND: good(SECOND)}))
    assert causes(world) == ["dns.refused"]
    both = case(resolved({FIRST: lame(FIRST), SECOND: lame(SECOND)}, system=()))
    assert causes(both) == ["dns.refused", "dns.refused"]
    assert all("referral" in j.statement for j in judged(RULES["dns.refused"], both))
    recursing = case(resolved({FIRST: same(FIRST), SECOND: same(SECOND)}, system=()))
    assert causes(recursing) == ["dns.nxdomain"]


def test_an_empty_answer_beside_an_address_is_no_referral():
    asked = [query(addresses=(LIVE,), flags=("RD",)), query(kind="AAAA", flags=("RD",))]
    assert named(case(resolved({FIRST: asked}))) == []


def test_an_alias_that_leads_nowhere_is_named():
    gone = same(FIRST, rcode="NXDOMAIN", aliases=("db.other.example.", "gone.other.example."))
    found = only("dns.nxdomain", case(resolved({FIRST: gone}, system=())))
    assert "2 CNAMEs, the last to gone.other.example." in found.statement
    failing = same(FIRST, rcode="SERVFAIL", aliases=("db.down.example.",))
    assert "after the alias db.down.example." in only("dns.servfail", case(resolved({FIRST: failing}))).statement


# The host's own look-up


def failed_lookup(queries, *, kind=FailureKind.NAME, seconds=0.002, **more):
    made = resolved(queries, system=(), seconds=seconds, **more)
    failure = Failure(kind=kind, operation="resolve", errno="EAI_NONAME")
    return case(with_failure(made, failure))


def with_failure(made, failure):
    return replace(made, data=replace(made.data, system=replace(made.data.system, failure=failure)))


def test_a_lookup_that_fails_where_dns_is_well():
    world = failed_lookup({FIRST: good(), SECOND: good(SECOND)}, options=("no-aaaa",))
    assert causes(world) == ["dns.host-lookup"]
    found = only("dns.host-lookup", world)
    assert found.severity is Severity.CRITICAL
    assert "EAI_NONAME" in found.statement
    assert "nsswitch.conf" in found.statement
    assert "options no-aaaa" in found.statement


@pytest.mark.parametrize(
    "world",
    [
        failed_lookup({FIRST: good()}, seconds=10.0, kind=FailureKind.TIMEOUT),
        failed_lookup({FIRST: good()}, seconds=2.0),  # it waited: something was lost
        failed_lookup({FIRST: good()}, nameservers=("192.0.2.99",)),  # the plan's resolvers are not the host's
        failed_lookup({FIRST: good(), SECOND: same(SECOND, rcode="NXDOMAIN")}),
        failed_lookup({FIRST: [query(rcode="SERVFAIL"), *good()]}),
    ],
    ids=["timed out", "waited", "other resolvers", "denied by one", "servfail"],
)
def test_a_lookup_that_the_resolvers_explain_is_theirs(world):
    assert "dns.host-lookup" not in causes(world)
    assert isinstance(only("dns.host-lookup", world), NotMeasured)


def test_other_addresses_than_dns_gives_are_a_note_with_their_source():
    searched = {"search": ("corp.example",), "options": ("ndots:5",)}
    found = only("dns.host-lookup", case(resolved({FIRST: good()}, system=(OTHER,), **searched)))
    assert found.role is FindingRole.NOTE
    assert "search list (corp.example with ndots:5)" in found.statement
    assert "search list" not in only("dns.host-lookup", case(resolved({FIRST: good()}, system=(OTHER,)))).statement
    assert isinstance(only("dns.host-lookup", case(resolved({FIRST: good()}))), RuledOut)
    assert isinstance(only("dns.host-lookup", case(resolved({FIRST: good()}, system=("127.0.0.1",)))), RuledOut)


WORLDS = {
    "lookup": failed_lookup({FIRST: good()}),
    "lossy": case(resolved({FIRST: good() + repeated([ANSWERED, LOST] * 10)})),
    "lame": case(resolved({FIRST: lame(FIRST)}, system=())),
    "bogus": case(resolved({FIRST: unchecked("NOERROR")}, system=())),
}


@pytest.mark.parametrize("code", sorted(RULES))
@pytest.mark.parametrize("world", sorted(WORLDS))
def test_judgements_keep_to_the_rules_of_every_rule(code, world):
    assert_one_each(RULES[code], WORLDS[world])
    assert_deterministic(RULES[code], WORLDS[world], len(world))
    assert_evidence_carries(RULES[code], WORLDS[world])
