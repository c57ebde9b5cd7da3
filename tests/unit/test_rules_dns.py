"""The DNS rules. Waits are those measured on glibc 2.36; ratios are Wilson's, worked by hand."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from netdiag.diagnosis.finding import Finding, FindingRole, NotMeasured, RuledOut, Severity
from netdiag.diagnosis.rules import dns
from netdiag.diagnosis.rules.resolvers import stub_wait
from probes.exchanges import ResolverConfig
from probes.model import Failure, FailureKind, Outcome
from tests.fakes.evidence import (
    assert_deterministic,
    assert_evidence_carries,
    assert_one_each,
    case,
    connected,
    endpoint,
    judged,
    ports,
    target,
    unconnected,
)
from tests.fakes.path_evidence import FIRST, LIVE, OTHER, SECOND, good, query, resolved, same

RULES = {rule.code: rule for rule in dns.RULES}
DEAD = "198.51.100.99"


def at_resolver(code, world):
    return {j.subject.resolver: j for j in judged(RULES[code], world)}


def only(code, world):
    (judgement,) = judged(RULES[code], world)
    return judgement


def causes(world):
    found = [j for rule in dns.RULES for j in judged(rule, world) if isinstance(j, Finding)]
    return sorted(j.code for j in found if j.role is FindingRole.CAUSE)


def silent(resolver=FIRST, **how):
    return same(resolver, outcome=Outcome.LOST, **how)


HEALTHY = case(resolved({FIRST: good(FIRST), SECOND: good(SECOND)}), ports([connected()] * 2))


def test_a_finding_stands_in_the_section_of_its_rule():
    for world in WORLDS.values():
        for rule in dns.RULES:
            assert all(j.section is rule.section for j in judged(rule, world) if isinstance(j, Finding))


def test_healthy_resolvers_give_no_finding():
    for rule in dns.RULES:
        assert all(isinstance(j, RuledOut) for j in judged(rule, HEALTHY)), rule.code


def test_an_address_literal_needs_no_resolver():
    literal = case(endpoints=(endpoint("198.51.100.7"),))
    assert [j for rule in dns.RULES for j in judged(rule, literal)] == []


def test_localhost_from_files_is_healthy_even_with_dead_resolvers():
    local = endpoint("localhost")
    for answers in (silent(), same(rcode="NXDOMAIN"), same(rcode="SERVFAIL"), same(rcode="REFUSED")):
        world = case(
            resolved({FIRST: answers}, name="localhost", system=("::1", "127.0.0.1")),
            ports([unconnected(Outcome.REFUSED)] * 4, at=target("::1", of=local)),
            ports([connected()] * 2, at=target("127.0.0.1", of=local)),
            endpoints=(local,),
        )
        assert causes(world) == []
        assert judged(RULES["dns.stale-record"], world) == []


# The stub resolver's waits, as measured on glibc 2.36


@pytest.mark.parametrize(
    ("servers", "dead", "options", "seconds"),
    [
        (1, 1, (), 10.0),
        (2, 2, (), 20.0),
        (3, 3, (), 28.0),
        (2, 1, (), 5.0),
        (2, 2, ("timeout:1", "attempts:1"), 2.0),
        (1, 1, ("timeout:0", "attempts:1"), 1.0),
    ],
)
def test_the_wait_is_what_glibc_was_measured_to_wait(servers, dead, options, seconds):
    addresses = tuple(f"192.0.2.{n}" for n in range(servers))
    config = ResolverConfig(nameservers=addresses, search=(), options=options, source="test")
    assert stub_wait(config, frozenset(addresses[:dead])) == seconds


def test_a_dead_second_server_costs_no_wait():
    config = ResolverConfig(nameservers=(FIRST, SECOND), search=(), options=(), source="test")
    assert stub_wait(config, frozenset({SECOND})) == 0.0
    assert stub_wait(config, frozenset({"192.0.2.99"})) is None


# dns.resolver-down


def test_the_first_of_two_resolvers_down_is_critical_and_costs_five_seconds():
    world = case(resolved({FIRST: silent(), SECOND: good(SECOND)}, seconds=5.01))
    told = at_resolver("dns.resolver-down", world)
    found = told[FIRST]
    assert isinstance(found, Finding)
    assert found.severity is Severity.CRITICAL
    assert "waits 5 s before another resolver" in found.statement
    assert "getaddrinfo took 5.01 s" in found.statement
    assert f"{SECOND} answers" in found.statement
    assert "0 of 4 (95% CI 0-49%) over UDP" in found.statement
    assert isinstance(told[SECOND], RuledOut)
    assert causes(world) == ["dns.resolver-down"]


def test_the_second_of_two_down_is_a_warning():
    world = case(resolved({FIRST: good(FIRST), SECOND: silent(SECOND)}))
    found = at_resolver("dns.resolver-down", world)[SECOND]
    assert isinstance(found, Finding)
    assert found.severity is Severity.WARNING


def test_all_resolvers_down_fails_after_twenty_seconds():
    world = case(resolved({FIRST: silent(), SECOND: silent(SECOND)}, system=(), seconds=20.0))
    told = at_resolver("dns.resolver-down", world)
    assert all(isinstance(j, Finding) and j.severity is Severity.CRITICAL for j in told.values())
    assert "fails after 20 s" in told[FIRST].statement


def test_a_refused_port_is_certain_and_costs_nothing():
    world = case(resolved({FIRST: same(outcome=Outcome.REFUSED), SECOND: good(SECOND)}))
    found = at_resolver("dns.resolver-down", world)[FIRST]
    assert isinstance(found, Finding)
    assert (found.severity, found.confidence) == (Severity.WARNING, 0.99)
    assert "no waiting" in found.statement


def test_udp_filtered_while_tcp_answers_is_down_for_the_stub():
    queries = [*silent(transports=("udp",)), *same(transports=("tcp",), addresses=(LIVE,))]
    found = only("dns.resolver-down", case(resolved({FIRST: queries}, system=())))
    assert isinstance(found, Finding)
    assert "UDP port 53 is filtered" in found.statement


def test_a_resolver_that_takes_the_connection_and_says_nothing_is_told_apart():
    queries = [*silent(transports=("udp",)), *silent(transports=("tcp",), operation="receive")]
    assert "accepts TCP connections" in only("dns.resolver-down", case(resolved({FIRST: queries}, system=()))).statement
    deaf = [*silent(transports=("udp",)), *silent(transports=("tcp",), operation="connect")]
    assert "answers nothing" in only("dns.resolver-down", case(resolved({FIRST: deaf}, system=()))).statement


@pytest.mark.parametrize(
    "queries",
    [
        [query(outcome=Outcome.LOST), query(attempt=2, addresses=(LIVE,)), query(kind="AAAA")],
        [query(outcome=Outcome.LATE, addresses=(LIVE,), seconds=2.5)],
        [query(rcode="SERVFAIL")],
        [query(addresses=(LIVE,)), *silent(transports=("tcp",))],
    ],
)
def test_lost_once_or_late_or_an_error_is_not_down(queries):
    assert isinstance(only("dns.resolver-down", case(resolved({FIRST: queries}))), RuledOut)


def test_a_slow_resolver_is_not_down():
    world = case(resolved({FIRST: silent(transports=("udp",))}, seconds=3.1))
    assert isinstance(only("dns.resolver-down", world), NotMeasured)
    found = only("dns.loss", world)
    assert isinstance(found, Finding)
    assert "succeeds after 3.10 s" in found.statement


def test_the_probes_own_order_of_asking_is_enough():
    """As probes/names asks a dead server: A twice by UDP and once by TCP, then AAAA once by UDP."""
    a = [query(outcome=Outcome.LOST, attempt=n) for n in (1, 2)]
    tcp = query(outcome=Outcome.LOST, transport="tcp", operation="connect")
    aaaa = query(kind="AAAA", outcome=Outcome.LOST)
    found = at_resolver(
        "dns.resolver-down", case(resolved({FIRST: [*a, tcp, aaaa], SECOND: good(SECOND)}, seconds=5.0))
    )
    assert isinstance(found[FIRST], Finding)
    assert found[FIRST].confidence == 0.93  # 1 - 0.51 ** 4: four exchanges at 30 % loss each way
    blocked = [query(addresses=(LIVE,)), tcp, query(kind="AAAA")]
    assert isinstance(only("dns.tcp-blocked", case(resolved({FIRST: blocked}))), Finding)


@pytest.mark.parametrize("seed", range(60))
def test_any_set_of_dead_resolvers_is_named_exactly(seed):
    draw = random.Random(seed)
    servers = [f"192.0.2.{n}" for n in range(draw.randint(1, 3))]
    dead = {server for server in servers if draw.random() < 0.5}
    config = ResolverConfig(nameservers=tuple(servers), search=(), options=(), source="test")
    wait = stub_wait(config, frozenset(dead)) or 0.0
    answers = {server: silent(server) if server in dead else good(server) for server in servers}
    world = case(resolved(answers, system=() if dead == set(servers) else (LIVE,), seconds=wait + 0.01))
    found = {r: j for r, j in at_resolver("dns.resolver-down", world).items() if isinstance(j, Finding)}
    assert set(found) == dead
    before_a_live_one = {server for n, server in enumerate(servers) if set(servers[: n + 1]) <= dead}
    assert {r for r, j in found.items() if j.severity is Severity.CRITICAL} == before_a_live_one


def test_one_lost_datagram_and_unsent_queries_are_no_verdict():
    for queries in ([query(outcome=Outcome.LOST)], same(outcome=Outcome.NOT_SENT)):
        assert isinstance(only("dns.resolver-down", case(resolved({FIRST: queries}, system=()))), NotMeasured)


@pytest.mark.parametrize(("tcp", "verdict"), [(Outcome.LOST, NotMeasured), (Outcome.ANSWERED, RuledOut)])
def test_what_this_hosts_own_filter_keeps_back_is_no_silence_of_a_resolver(tcp, verdict):
    """EPERM for each datagram; a SYN that is dropped in the same place looks unanswered."""
    refused = Failure(kind=FailureKind.LOCAL, operation="send", errno="EPERM")
    datagrams = [replace(q, failure=refused) for q in same(transports=("udp",), outcome=Outcome.NOT_SENT)]
    queries = datagrams + same(transports=("tcp",), outcome=tcp)
    assert isinstance(only("dns.resolver-down", case(resolved({FIRST: queries}, system=()))), verdict)
    unfiltered = same(transports=("udp",), outcome=Outcome.NOT_SENT) + same(transports=("tcp",), outcome=Outcome.LOST)
    assert isinstance(only("dns.resolver-down", case(resolved({FIRST: unfiltered}, system=()))), Finding)


def test_a_resolver_is_judged_over_all_names():
    other = endpoint("replica.example", name="replica")
    world = case(
        resolved({FIRST: silent()}, system=()),
        resolved({FIRST: good(FIRST)}, name="replica.example"),
        endpoints=(endpoint(), other),
    )
    assert isinstance(only("dns.resolver-down", world), RuledOut)
    found = [j for j in judged(RULES["dns.servfail"], world) if isinstance(j, Finding)]
    assert [j.subject.name for j in found] == ["db.example"]
    assert "never answers for db.example" in found[0].statement


# dns.servfail, dns.refused


def test_servfail_names_the_extended_error_and_the_resolver_that_works():
    world = case(resolved({FIRST: same(rcode="SERVFAIL", ede=22), SECOND: good(SECOND)}))
    found = at_resolver("dns.servfail", world)[FIRST]
    assert isinstance(found, Finding)
    assert "8 of 8" in found.statement
    assert "EDE 22, no reachable authority" in found.statement
    assert f"{SECOND} answers with addresses" in found.statement
    assert found.severity is Severity.WARNING
    assert causes(world) == ["dns.servfail"]


def test_servfail_everywhere_is_critical():
    world = case(resolved({FIRST: same(rcode="SERVFAIL")}, system=()))
    assert only("dns.servfail", world).severity is Severity.CRITICAL
    assert isinstance(only("dns.nxdomain", world), NotMeasured)


def test_one_servfail_among_good_answers_is_a_note():
    found = only("dns.servfail", case(resolved({FIRST: [query(rcode="SERVFAIL"), *good(FIRST)]})))
    assert (found.role, found.severity) == (FindingRole.NOTE, Severity.INFO)


def test_refused_is_its_own_code():
    world = case(resolved({FIRST: same(rcode="REFUSED"), SECOND: good(SECOND)}))
    assert causes(world) == ["dns.refused"]
    assert isinstance(at_resolver("dns.servfail", world)[FIRST], RuledOut)


# dns.nxdomain


def test_nxdomain_from_all_is_critical():
    world = case(resolved({FIRST: same(rcode="NXDOMAIN"), SECOND: same(SECOND, rcode="NXDOMAIN")}, system=()))
    found = only("dns.nxdomain", world)
    assert isinstance(found, Finding)
    assert (found.severity, found.confidence) == (Severity.CRITICAL, 0.99)
    assert "EAI_AGAIN" in found.statement
    assert causes(world) == ["dns.nxdomain"]


def test_a_missing_aaaa_is_normal_by_nodata_or_nxdomain():
    for rcode in ("NOERROR", "NXDOMAIN"):
        queries = [query(addresses=(LIVE,)), query(kind="AAAA", rcode=rcode)]
        assert isinstance(only("dns.nxdomain", case(resolved({FIRST: queries}))), RuledOut)


def test_nodata_of_both_types_has_no_address():
    found = only("dns.nxdomain", case(resolved({FIRST: same(rcode="NOERROR")}, system=())))
    assert isinstance(found, Finding)
    assert "NODATA" in found.statement


def test_nodata_of_aaaa_says_nothing_when_a_was_lost():
    queries = [query(outcome=Outcome.LOST), query(attempt=2, outcome=Outcome.LOST), query(kind="AAAA")]
    assert isinstance(only("dns.nxdomain", case(resolved({FIRST: queries}, system=()))), NotMeasured)


def test_etc_hosts_makes_it_a_note_and_a_search_domain_nothing():
    found = only("dns.nxdomain", case(resolved({FIRST: same(rcode="NXDOMAIN")})))
    assert (found.role, found.severity) == (FindingRole.NOTE, Severity.INFO)
    searched = case(resolved({FIRST: same(rcode="NXDOMAIN")}, search=("corp.example",)))
    assert isinstance(only("dns.nxdomain", searched), RuledOut)


# dns.inconsistent


def test_one_denies_what_another_gives():
    world = case(resolved({FIRST: same(rcode="NXDOMAIN"), SECOND: good(SECOND)}, system=()))
    found = only("dns.inconsistent", world)
    assert isinstance(found, Finding)
    assert found.severity is Severity.CRITICAL
    assert f"{FIRST} says NXDOMAIN" in found.statement
    assert "takes its word" in found.statement
    assert isinstance(only("dns.nxdomain", world), RuledOut)


def test_different_addresses_are_a_note_and_never_a_cause():
    world = case(
        resolved({FIRST: good(FIRST, (LIVE,)), SECOND: good(SECOND, (OTHER,))}),
        ports([connected()] * 2),
        ports([connected()] * 2, at=target(OTHER)),
    )
    assert only("dns.inconsistent", world).role is FindingRole.NOTE
    assert causes(world) == []


def test_the_order_of_addresses_and_a_lost_query_are_no_difference():
    one, two = good(FIRST, (LIVE, OTHER)), good(SECOND, (OTHER, LIVE))
    assert isinstance(only("dns.inconsistent", case(resolved({FIRST: one, SECOND: two}))), RuledOut)
    half = [query(SECOND, outcome=Outcome.LOST), query(SECOND, "AAAA")]
    assert isinstance(only("dns.inconsistent", case(resolved({FIRST: one, SECOND: half}))), RuledOut)


def test_one_answer_alone_cannot_disagree():
    world = case(resolved({FIRST: good(FIRST), SECOND: silent(SECOND)}))
    assert isinstance(only("dns.inconsistent", world), NotMeasured)
    assert judged(RULES["dns.inconsistent"], case(resolved({FIRST: good(FIRST)}))) == []


# dns.stale-record


def dialled(answers, dead, *, system=(LIVE, DEAD)):
    return case(
        resolved(answers, system=system),
        ports([connected()] * 2),
        ports([unconnected(dead)] * 4, at=target(DEAD)),
    )


@pytest.mark.parametrize("dead", [Outcome.LOST, Outcome.REFUSED])
def test_a_dead_address_that_only_one_resolver_gives_is_stale(dead):
    world = dialled({FIRST: good(FIRST, (DEAD,)), SECOND: good(SECOND, (LIVE,))}, dead)
    found = only("dns.stale-record", world)
    assert isinstance(found, Finding)
    assert (found.role, found.severity, found.confidence) == (FindingRole.CAUSE, Severity.CRITICAL, 0.9)
    assert (found.subject.address, found.subject.resolver) == (DEAD, FIRST)
    assert "TTL 60 s" in found.statement
    assert f"and not {SECOND}" in found.statement
    assert causes(world) == ["dns.stale-record"]


@pytest.mark.parametrize(
    ("dead", "kind"), [(Outcome.REFUSED, Finding), (Outcome.REJECTED, Finding), (Outcome.LOST, NotMeasured)]
)
def test_one_refusal_is_enough_and_one_silence_is_not(dead, kind):
    """The port probe does not ask again where it was refused."""
    world = case(
        resolved({FIRST: good(FIRST, (DEAD,)), SECOND: good(SECOND, (LIVE,))}, system=(DEAD,)),
        ports([connected()]),
        ports([unconnected(dead)], at=target(DEAD)),
    )
    assert isinstance(only("dns.stale-record", world), kind)


def test_a_dead_address_that_all_give_may_be_a_dead_backend():
    both = (LIVE, DEAD)
    found = only("dns.stale-record", dialled({FIRST: good(FIRST, both), SECOND: good(SECOND, both)}, Outcome.REFUSED))
    assert (found.role, found.severity) == (FindingRole.NOTE, Severity.INFO)
    assert found.confidence < 0.5


def test_a_resolver_that_knows_no_address_at_all_does_not_speak_against_one():
    answers = {FIRST: good(FIRST, (LIVE, DEAD)), SECOND: same(SECOND, rcode="NXDOMAIN")}
    assert only("dns.stale-record", dialled(answers, Outcome.REFUSED)).role is FindingRole.NOTE


def test_a_dead_line_in_etc_hosts_is_stale():
    found = only("dns.stale-record", dialled({FIRST: good(FIRST, (LIVE,))}, Outcome.LOST, system=(DEAD,)))
    assert isinstance(found, Finding)
    assert "/etc/hosts" in found.statement
    assert found.role is FindingRole.CAUSE


def test_a_service_that_is_down_everywhere_is_no_stale_record():
    world = case(resolved({FIRST: good(FIRST)}), ports([unconnected(Outcome.REFUSED)] * 4))
    assert isinstance(only("dns.stale-record", world), NotMeasured)


def test_an_address_that_was_not_dialled_is_not_dead():
    world = case(
        resolved({FIRST: good(FIRST, (DEAD,)), SECOND: good(SECOND)}),
        ports([connected()] * 2),
        ports([unconnected(Outcome.NOT_SENT)] * 4, at=target(DEAD)),
    )
    left = only("dns.stale-record", world)
    assert isinstance(left, NotMeasured)
    assert DEAD in left.statement


# dns.tcp-blocked


def tcp_dead(flags=("RD", "RA")):
    datagrams = [query(addresses=(LIVE,), flags=flags), query(kind="AAAA", flags=flags)]
    return [*datagrams, *silent(transports=("tcp",))]


def test_blocked_tcp_is_a_note_until_an_answer_is_truncated():
    plain = only("dns.tcp-blocked", case(resolved({FIRST: tcp_dead()})))
    assert (plain.role, plain.severity) == (FindingRole.NOTE, Severity.INFO)
    cut = only("dns.tcp-blocked", case(resolved({FIRST: tcp_dead(("TC", "RD"))}, system=())))
    assert (cut.role, cut.severity) == (FindingRole.CAUSE, Severity.CRITICAL)
    assert "2 of its UDP answers are truncated" in cut.statement


def cut_short(resolver=FIRST):
    """As unbound answers what is too long for a datagram: TC, and not one record."""
    datagrams = [query(resolver, kind=kind, flags=("TC", "RD", "RA")) for kind in ("A", "AAAA")]
    return [*datagrams, *silent(resolver, transports=("tcp",))]


def test_a_truncated_answer_without_records_denies_nothing():
    world = case(resolved({FIRST: cut_short(), SECOND: good(SECOND)}))
    assert isinstance(only("dns.inconsistent", world), NotMeasured)
    assert causes(world) == ["dns.tcp-blocked"]
    alone = case(resolved({FIRST: cut_short(), SECOND: cut_short(SECOND)}, system=()))
    assert isinstance(only("dns.nxdomain", alone), NotMeasured)
    assert isinstance(only("dns.inconsistent", alone), NotMeasured)
    assert causes(alone) == ["dns.tcp-blocked", "dns.tcp-blocked"]


def test_a_dead_resolver_is_not_called_tcp_blocked():
    assert isinstance(only("dns.tcp-blocked", case(resolved({FIRST: silent()}, system=()))), NotMeasured)


# dns.loss


def test_lost_queries_need_three_and_a_provable_share():
    queries = [query(outcome=Outcome.LOST if n % 2 else Outcome.ANSWERED, addresses=(LIVE,)) for n in range(8)]
    found = only("dns.loss", case(resolved({FIRST: queries})))
    assert isinstance(found, Finding)
    assert "4 of 8 (95% CI 22-78%)" in found.statement  # Wilson: 21.5 % to 78.5 %


def test_one_lost_query_rules_out_and_a_cold_cache_is_left_open():
    one = [query(outcome=Outcome.LOST), query(attempt=2, addresses=(LIVE,)), query(kind="AAAA")]
    assert isinstance(only("dns.loss", case(resolved({FIRST: one}))), RuledOut)
    cold = [
        query(kind=kind, attempt=attempt, outcome=Outcome.LOST if attempt == 1 else Outcome.ANSWERED, addresses=(LIVE,))
        for kind in ("A", "AAAA")
        for attempt in (1, 2)
    ]
    assert isinstance(only("dns.loss", case(resolved({FIRST: cold}))), NotMeasured)


def test_a_record_type_that_is_never_answered_is_dropped_by_content():
    queries = [
        query(kind=kind, attempt=attempt, outcome=outcome, addresses=(LIVE,) if kind == "A" else ())
        for kind, outcome in (("A", Outcome.ANSWERED), ("AAAA", Outcome.LOST))
        for attempt in (1, 2)
    ]
    found = only("dns.loss", case(resolved({FIRST: queries})))
    assert isinstance(found, Finding)
    assert "no AAAA query" in found.statement


@pytest.mark.parametrize("rate", [0.0, 0.003])
def test_a_healthy_resolver_never_fires_by_chance(rate):
    """Four queries and their repeats: three losses of at most eight at 0.3 % are one run in 600,000."""
    draw = random.Random(20240125)
    for _ in range(1000):
        queries = []
        for kind in ("A", "AAAA"):
            for attempt in (1, 2):
                fate = Outcome.LOST if draw.random() < rate else Outcome.ANSWERED
                queries += [query(kind=kind, attempt=attempt, outcome=fate, addresses=(LIVE,) if kind == "A" else ())]
        assert causes(case(resolved({FIRST: queries}))) == []


# What every rule must keep to

WORLDS = {
    "nothing": case(),
    "healthy": HEALTHY,
    "first down": case(resolved({FIRST: silent(), SECOND: good(SECOND)}, seconds=5.0), ports([connected()])),
    "servfail": case(resolved({FIRST: same(rcode="SERVFAIL"), SECOND: good(SECOND)})),
    "refused": case(resolved({FIRST: same(rcode="REFUSED"), SECOND: good(SECOND)})),
    "nxdomain": case(resolved({FIRST: same(rcode="NXDOMAIN")}, system=())),
    "contradiction": case(resolved({FIRST: same(rcode="NXDOMAIN"), SECOND: good(SECOND)}, system=())),
    "stale": dialled({FIRST: good(FIRST, (DEAD,)), SECOND: good(SECOND)}, Outcome.REFUSED),
    "truncated": case(resolved({FIRST: tcp_dead(("TC", "RD"))}, system=())),
}


@pytest.mark.parametrize("code", sorted(RULES))
@pytest.mark.parametrize("world", sorted(WORLDS))
def test_judgements_keep_to_the_rules_of_every_rule(code, world):
    assert_one_each(RULES[code], WORLDS[world])
    assert_deterministic(RULES[code], WORLDS[world], len(world))


@pytest.mark.parametrize("code", sorted(RULES))
@pytest.mark.parametrize("world", sorted(WORLDS))
def test_without_the_names_measurement_every_question_is_open_again(code, world):
    judgements = judged(RULES[code], WORLDS[world])
    if all(isinstance(j, NotMeasured) for j in judgements):
        return
    unavailable = tuple(m for m in WORLDS[world].evidence if m.probe != "names")
    after = judged(RULES[code], replace(WORLDS[world], evidence=type(WORLDS[world].evidence)(unavailable)))
    assert after
    assert all(isinstance(j, NotMeasured) and j.remedy for j in after)


def test_evidence_ids_exist_and_carry_the_judgement():
    for code in ("dns.resolver-down", "dns.servfail", "dns.nxdomain", "dns.tcp-blocked", "dns.loss"):
        for world in WORLDS.values():
            assert_evidence_carries(RULES[code], world)


def test_a_hostile_extended_error_stays_on_one_line():
    queries = same(rcode="SERVFAIL", ede=0)
    bad = [replace(q, extended_errors=(replace(q.extended_errors[0], text="x\n\x1b[31m| y"),)) for q in queries]
    statement = only("dns.servfail", case(resolved({FIRST: bad}, system=()))).statement
    assert "\n" not in statement
    assert "\x1b" not in statement
