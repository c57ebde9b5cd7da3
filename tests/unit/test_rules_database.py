"""What a database says of itself, told from what the network does to it."""

from __future__ import annotations

import random
import shlex
from dataclasses import replace
from urllib.parse import unquote, urlsplit

import pytest

from netdiag.diagnosis.finding import Finding, FindingRole, NotMeasured, RuledOut, Severity
from netdiag.diagnosis.rules import balancer, database, firewall
from netdiag.plan.model import Credentials
from probes.database import Phase
from probes.model import Failure, FailureKind, Outcome, Secret
from tests.fakes import evidence as ev

RULES = {rule.code: rule for rule in (*database.RULES, *balancer.RULES, *firewall.RULES)}
AUTH, HBA, LIMIT = RULES["db.auth-failed"], RULES["db.hba-rejected"], RULES["db.connection-limit"]
SILENT, TLS, SLOW, CLOSED = RULES["db.unresponsive"], RULES["db.tls-invalid"], RULES["db.slow"], RULES["db.port-closed"]
EXPIRED = ev.certificate(not_after="2024-01-01T00:00:00Z")


def only(rule, world):
    (judgement,) = ev.judged(rule, world)
    return judgement


def refused(sqlstate, detail="no", phase=Phase.STARTUP, **more):
    return ev.waterfall(failed=phase, kind=FailureKind.SERVER, sqlstate=sqlstate, detail=detail, **more)


def stalled(phase, **more):
    return ev.waterfall(failed=phase, phase_s=5.0, ssl_answer=None if phase is Phase.SSL_REQUEST else "S", **more)


def world(*attempts, beside=(), **options):
    return ev.case(ev.ports([ev.connected()]), ev.database(attempts, **options), *beside)


def healthy(**more):
    return ev.waterfall(ssl_answer="S", tls=ev.tls(), **more)


def bad_tls(detail="certificate has expired", seen=None):
    seen = seen or ev.certificate()
    return ev.waterfall(
        failed=Phase.TLS, kind=FailureKind.TLS, detail=detail, ssl_answer="S", tls_inspected=ev.tls(seen)
    )


BLACK_HOLE = ev.mtu(from_target=ev.direction(delivered=1388, lost=1400, black_hole=True))
NO_BLACK_HOLE = ev.mtu()
WORLDS = {
    "healthy": (world(healthy(), healthy(), healthy(), sslmode="require"), set()),
    "healthy-in-clear": (world(ev.waterfall(), ev.waterfall()), set()),
    "no-user": (world(ev.waterfall(last=Phase.SSL_REQUEST), credentials=False), set()),
    "no-password": (world(ev.waterfall(failed=Phase.STARTUP, kind=FailureKind.CREDENTIALS)), set()),
    "wrong-password": (world(refused("28P01"), refused("28P01")), {"db.auth-failed"}),
    "peer-method": (world(refused("28000", 'Peer authentication failed for user "app"')), {"db.auth-failed"}),
    "no-role": (world(refused("28000", 'role "app" does not exist')), {"db.auth-failed"}),
    "no-hba-line": (world(refused("28000", 'no pg_hba.conf entry for host "192.0.2.1"')), {"db.hba-rejected"}),
    "hba-in-german": (world(refused("28000", "kein pg_hba.conf-Eintrag für Host »192.0.2.1«")), {"db.hba-rejected"}),
    "full": (world(refused("53300", phase=Phase.READY)), {"db.connection-limit"}),
    "full-before-login": (world(refused("53300", "sorry, too many clients already")), {"db.connection-limit"}),
    "starting": (world(refused("57P03")), {"db.starting"}),
    "no-database": (world(refused("3D000", phase=Phase.READY)), {"db.no-database"}),
    "no-database-by-pgbouncer": (world(refused("08P01", "no such database: shop")), {"db.no-database"}),
    "wrong-password-by-pgbouncer": (world(refused("08P01", "SASL authentication failed")), {"db.auth-failed"}),
    "full-by-pgbouncer": (
        world(refused("08P01", "no more connections allowed (max_client_conn)")),
        {"db.connection-limit"},
    ),
    "pool-wait-by-pgbouncer": (world(refused("08P01", "query_wait_timeout")), {"db.server-error"}),
    "no-right": (world(refused("42501", phase=Phase.READY)), {"db.server-error"}),
    "stopped": (world(stalled(Phase.SSL_REQUEST), stalled(Phase.SSL_REQUEST)), {"db.unresponsive"}),
    "stopped-after-tls": (world(stalled(Phase.STARTUP, tls=ev.tls())), {"db.unresponsive"}),
    "closed-at-once": (
        world(ev.waterfall(failed=Phase.SSL_REQUEST, kind=FailureKind.CLOSED, ssl_answer=None)),
        {"db.unresponsive"},
    ),
    "cut-in-query": (world(ev.waterfall(failed=Phase.FIRST_QUERY, kind=FailureKind.RESET)), {"db.connection-cut"}),
    "reset-at-once": (
        world(ev.waterfall(failed=Phase.SSL_REQUEST, kind=FailureKind.RESET, ssl_answer=None)),
        {"db.unresponsive"},
    ),
    "reset-at-once-beside-one-that-speaks": (
        world(ev.waterfall(failed=Phase.SSL_REQUEST, kind=FailureKind.RESET, ssl_answer=None), ev.waterfall()),
        {"db.connection-cut"},
    ),
    "ended-with-a-word": (world(refused("57P01", phase=Phase.FIRST_QUERY)), {"db.server-error"}),
    "black-hole": (world(stalled(Phase.TLS), beside=[BLACK_HOLE]), set()),
    "tls-stall": (world(stalled(Phase.TLS), beside=[NO_BLACK_HOLE]), {"db.unresponsive"}),
    "expired": (world(bad_tls(seen=EXPIRED), sslmode="verify-full"), {"db.tls-invalid"}),
    "tls-refused": (world(bad_tls("unknown issuer"), sslmode="verify-ca"), {"db.tls-invalid"}),
    "garbage-after-login": (world(ev.waterfall(failed=Phase.READY, kind=FailureKind.PROTOCOL)), {"db.server-error"}),
    "not-postgresql": (
        world(ev.waterfall(failed=Phase.SSL_REQUEST, kind=FailureKind.PROTOCOL, first_bytes="220 smtp")),
        {"lb.wrong-protocol"},
    ),
    "out-of-time": (world(ev.waterfall(failed=Phase.STARTUP, kind=FailureKind.LOCAL)), set()),
    "slow": (world(*[ev.waterfall(phase_s=1.4, attempt=n) for n in (1, 2, 3)]), {"db.slow"}),
    "port-closed": (ev.case(ev.ports([ev.unconnected(Outcome.REFUSED)])), {"db.port-closed"}),
    "only-names": (ev.case(ev.names()), set()),
    "unavailable": (ev.case(ev.names(), ev.measured("database", ev.target(), None)), set()),
    "unresolved": (ev.case(), set()),
}


@pytest.mark.parametrize("name", WORLDS)
def test_one_world_one_cause(name):
    case, expected = WORLDS[name]
    fired = {j.code for rule in RULES.values() for j in ev.judged(rule, case) if isinstance(j, Finding)}
    assert fired == expected


@pytest.mark.parametrize("name", WORLDS)
@pytest.mark.parametrize("rule", database.RULES, ids=lambda rule: rule.code)
def test_what_every_rule_keeps_to(rule, name):
    case, _ = WORLDS[name]
    ev.assert_one_each(rule, case)
    ev.assert_deterministic(rule, case, seed=len(name))
    ev.assert_evidence_carries(rule, case)
    assert len(ev.judged(rule, case)) == 1


@pytest.mark.parametrize("rule", database.RULES, ids=lambda rule: rule.code)
def test_every_code_is_ruled_out_by_three_healthy_connections(rule):
    judgement = only(rule, WORLDS["healthy"][0])
    assert isinstance(judgement, RuledOut)
    assert judgement.smallest_fault


def test_the_smallest_fault_is_the_upper_end_of_wilsons_interval():
    """0 of 3 at 95 %: 56.2 % (z^2 / (n + z^2) = 3.841 / 6.841)."""
    assert "more than 56% of the connections" in only(AUTH, WORLDS["healthy"][0]).smallest_fault


@pytest.mark.parametrize("seed", range(6))
def test_a_share_of_refusals_carries_its_interval_and_is_a_warning(seed):
    draw = random.Random(seed)
    bad, good = draw.randint(1, 12), draw.randint(1, 12)
    attempts = [refused("53300", phase=Phase.READY)] * bad + [ev.waterfall()] * good
    draw.shuffle(attempts)
    finding = only(LIMIT, world(*attempts))
    assert finding.severity is Severity.WARNING
    assert finding.statement.startswith(f"{bad} of {bad + good} (95% CI ")


def test_a_refusal_with_a_sqlstate_is_postgresqls_own_answer():
    """The server refuses in place of S or N: it is a PostgreSQL all the same, and it is not silent."""
    case = world(refused("53300", "sorry, too many clients already", Phase.SSL_REQUEST, ssl_answer="E"))
    assert isinstance(only(LIMIT, case), Finding)
    assert isinstance(only(SILENT, case), RuledOut)
    assert isinstance(only(RULES["lb.wrong-protocol"], case), RuledOut)


def test_a_wrong_password_is_critical_and_blames_no_network():
    case = WORLDS["wrong-password"][0]
    finding = only(AUTH, case)
    assert finding.severity is Severity.CRITICAL
    assert "SQLSTATE 28P01" in finding.statement
    assert "no network team" in finding.statement
    assert {action.owner for action in finding.actions} == {"application"}
    assert isinstance(only(HBA, case), RuledOut), "a line matched, else no password would have been asked"


@pytest.mark.parametrize("name", ["no-user", "no-password"])
def test_without_credentials_the_login_is_an_open_question(name):
    for rule in (AUTH, LIMIT):
        judgement = only(rule, WORLDS[name][0])
        assert isinstance(judgement, NotMeasured)
        assert judgement.remedy
    assert isinstance(only(SILENT, WORLDS[name][0]), RuledOut)


def test_an_attempt_that_this_host_stopped_says_nothing():
    for rule in database.RULES:
        if rule is not CLOSED:
            judgement = only(rule, world(ev.waterfall(failed=Phase.SSL_REQUEST, kind=FailureKind.LOCAL)))
            assert isinstance(judgement, NotMeasured), rule.code


def test_a_stopped_server_is_told_by_its_phase():
    finding = only(SILENT, WORLDS["stopped"][0])
    assert "2 of 2" in finding.statement
    assert "get no answer in phase ssl-request (5.00 s)" in finding.statement
    assert finding.confidence == 0.9


def test_bytes_that_were_never_acknowledged_leave_the_confidence_open():
    unheard = stalled(Phase.SSL_REQUEST, info=ev.tcp_info(unacked=1, backoff=3))
    finding = only(SILENT, world(unheard))
    assert finding.confidence is None
    assert "not acknowledged" in finding.statement


@pytest.mark.parametrize("seed", range(4))
def test_a_deadline_that_cuts_a_slow_way_short_is_not_the_servers_silence(seed):
    """Three round trips of silence on a way of this length say nothing; five do, whatever the way's length."""
    draw = random.Random(seed)
    trip = draw.uniform(0.05, 0.8)
    handshake = ev.connected(trip)
    short = ev.waterfall(failed=Phase.READY, phase_s=draw.uniform(0.1, 3.0) * trip, handshake=handshake)
    long = ev.waterfall(failed=Phase.READY, phase_s=draw.uniform(5.0, 9.0) * trip, handshake=handshake)
    doubtful, sure = only(SILENT, world(short, short)), only(SILENT, world(long, long))
    assert (doubtful.confidence, sure.confidence) == (None, 0.9)
    assert "too little to tell" in doubtful.statement
    assert only(SILENT, world(short, long)).confidence == 0.9, "one patient silence is enough"


def test_a_queue_that_grew_after_the_handshake_counts_by_the_connections_own_round_trip():
    crowded = ev.waterfall(
        failed=Phase.STARTUP, phase_s=1.2, handshake=ev.connected(0.05), info=replace(ev.tcp_info(), rtt_s=0.45)
    )
    assert only(SILENT, world(crowded)).confidence is None


def test_a_stall_in_tls_is_the_black_holes_where_one_is_proven():
    judgement = only(SILENT, WORLDS["black-hole"][0])
    assert isinstance(judgement, RuledOut)
    assert any("/mtu/" in cited for cited in judgement.evidence)


def test_a_stall_before_any_large_packet_is_not_the_black_holes():
    assert isinstance(only(SILENT, world(stalled(Phase.SSL_REQUEST), beside=[BLACK_HOLE])), Finding)


@pytest.mark.parametrize("beside", [[], [ev.mtu(from_target=ev.direction(black_hole=None))]])
def test_a_stall_in_tls_without_an_mtu_is_undecided(beside):
    finding = only(SILENT, world(stalled(Phase.TLS), beside=beside))
    assert finding.confidence is None
    assert "the MTU was not measured" in finding.statement


def test_an_expired_certificate_is_judged_by_the_time_of_the_measurement():
    finding = only(TLS, WORLDS["expired"][0])
    assert "expired (not after 2024-01-01T00:00:00Z)" in finding.statement
    still_good = ev.certificate(not_after="2024-01-25T03:00:01Z")  # a second after ev.STARTED
    accepted = ev.waterfall(ssl_answer="S", tls=ev.tls(still_good))
    assert isinstance(only(TLS, world(accepted, sslmode="prefer")), RuledOut)


@pytest.mark.parametrize("mode", ["prefer", "require", "allow"])
def test_an_expired_certificate_that_nobody_checks_is_a_note(mode):
    finding = only(TLS, world(ev.waterfall(ssl_answer="S", tls=ev.tls(EXPIRED)), sslmode=mode))
    assert finding.role is FindingRole.NOTE
    assert finding.severity is Severity.INFO


@pytest.mark.parametrize(
    ("names", "host", "wrong"),
    [
        (("db.example",), "db.example", False),
        (("*.example",), "db.example", False),
        (("*.example",), "a.db.example", True),
        (("other.example",), "db.example", True),
        (("DB.Example",), "db.example", False),
        ((), "db.example", True),
    ],
)
def test_a_certificate_of_another_name(names, host, wrong):
    place = ev.endpoint(host=host)
    attempt = bad_tls("hostname mismatch", ev.certificate(names=names))
    case = ev.case(ev.database([attempt], at=ev.target(of=place), sslmode="verify-full"), endpoints=[place])
    assert ("not to" in only(TLS, case).statement) is wrong


def test_no_tls_where_it_is_required():
    attempt = ev.waterfall(
        failed=Phase.SSL_REQUEST, kind=FailureKind.TLS, ssl_answer="N", detail="the server does not speak TLS"
    )
    assert "does not speak TLS" in only(TLS, world(attempt, sslmode="require")).statement


def test_no_tls_where_it_is_optional_is_an_open_question():
    assert isinstance(only(TLS, WORLDS["healthy-in-clear"][0]), NotMeasured)


@pytest.mark.parametrize(
    ("order", "harmless"), [(("127.0.0.1", "::1"), True), (("198.51.100.7", "2001:db8::7"), False)]
)
def test_a_refusal_on_loopback_beside_one_that_accepts_is_a_note(order, harmless):
    """localhost is ::1 as well, and most servers listen at 127.0.0.1 alone: a client loses microseconds by it."""
    place = ev.endpoint("localhost")
    accepts, refuses = (ev.target(address, of=place) for address in order)
    case = ev.case(
        ev.names("localhost", order),
        ev.ports([ev.connected()], at=accepts),
        ev.ports([ev.unconnected(Outcome.REFUSED)], at=refuses),
        endpoints=[place],
    )
    (found,) = [j for j in ev.judged(CLOSED, case) if isinstance(j, Finding)]
    assert found.role is (FindingRole.NOTE if harmless else FindingRole.CAUSE)
    assert found.severity is (Severity.INFO if harmless else Severity.WARNING)


def test_a_stall_after_the_password_was_asked_is_the_logins():
    finding = only(SILENT, world(stalled(Phase.STARTUP, authentication="cleartext")))
    assert "LDAP" in finding.actions[0].step
    assert "LDAP" not in only(SILENT, world(stalled(Phase.SSL_REQUEST))).actions[0].step


def test_bytes_against_the_protocol_after_the_login_are_not_called_a_refusal():
    case = world(ev.waterfall(failed=Phase.READY, kind=FailureKind.PROTOCOL, detail="no end of them"))
    assert "answered against the PostgreSQL protocol in phase ready" in only(RULES["db.server-error"], case).statement


def test_where_a_bound_channel_is_required_each_attempt_counts_once():
    attempt = ev.waterfall(failed=Phase.STARTUP, kind=FailureKind.TLS, detail="channel_binding=require", tls=ev.tls())
    finding = only(TLS, world(attempt, attempt, attempt, sslmode="require"))
    assert finding.statement.startswith("3 of 3 ")
    assert finding.severity is Severity.CRITICAL


def test_tls_that_was_given_up_for_clear_text_is_a_note():
    given_up = Failure(kind=FailureKind.TLS, operation="tls", detail="wrong version number")
    finding = only(TLS, world(*[ev.waterfall(tls_given_up=given_up)] * 3, sslmode="prefer"))
    assert (finding.role, finding.severity) == (FindingRole.NOTE, Severity.INFO)
    assert "goes on in clear" in finding.statement


def test_a_long_path_is_no_slow_database():
    far = [ev.waterfall(phase_s=1.4, handshake=ev.connected(0.2)) for _ in range(3)]
    assert isinstance(only(SLOW, world(*far)), RuledOut)


def test_one_slow_connection_is_no_slow_database():
    assert isinstance(only(SLOW, world(ev.waterfall(phase_s=3.0), ev.waterfall(), ev.waterfall())), RuledOut)


def test_a_delay_with_retransmissions_is_loss():
    lossy = [ev.waterfall(phase_s=1.4, info=ev.tcp_info(total_retrans=2)) for _ in range(3)]
    gap = only(SLOW, world(*lossy))
    assert isinstance(gap, NotMeasured)
    assert "None of 3 connections" in gap.statement
    assert "was free of retransmissions" in gap.statement


def test_a_single_connection_cannot_rule_slowness_out():
    assert isinstance(only(SLOW, world(ev.waterfall())), NotMeasured)


def test_some_stalls_on_a_lossy_path_may_be_the_loss():
    some = [stalled(Phase.STARTUP), ev.waterfall(handshake=ev.connected(retransmits=1)), ev.waterfall()]
    finding = only(SILENT, world(*some))
    assert finding.confidence is None
    assert "loss alone could explain it" in finding.statement
    assert only(SILENT, world(some[0], ev.waterfall())).confidence == 0.9
    assert only(SILENT, world(some[0], some[0])).confidence == 0.9


def test_slow_names_the_phase_its_time_and_the_round_trip():
    statement = only(SLOW, WORLDS["slow"][0]).statement
    assert "3 of 3" in statement
    assert "1.40 s" in statement
    assert "a round trip of 10.0 ms" in statement


def test_two_endpoints_at_one_address_are_judged_by_their_own_logins():
    good, bad = ev.endpoint(name="reader"), ev.endpoint(name="writer", credentials=Credentials(user="w"))
    case = ev.case(
        ev.database([ev.waterfall()], at=ev.target(of=good)),
        ev.database([refused("28P01")], at=ev.target(of=bad)),
        endpoints=[good, bad],
    )
    assert {j.subject.endpoint: type(j) for j in ev.judged(AUTH, case)} == {"reader": RuledOut, "writer": Finding}


def test_a_web_port_is_asked_no_database_question():
    web = ev.endpoint(name="web", role="host", port=443, database=False, credentials=None)
    case = ev.case(ev.ports([ev.connected()], at=ev.target(of=web)), endpoints=[web])
    assert [rule.code for rule in database.RULES if ev.judged(rule, case)] == ["db.port-closed"]


def test_ids_are_the_code_and_its_subject():
    finding = only(CLOSED, WORLDS["port-closed"][0])
    assert finding.id == "db.port-closed:ysql/198.51.100.7/5432"


def test_the_check_logs_in_as_the_application_does_and_stays_one_argument():
    odd = Credentials(user="a b'; rm -rf /", password=Secret("canary"), dbname="x/y", sslmode="require")
    place = ev.endpoint(credentials=odd)
    case = ev.case(ev.database([refused("28P01")], at=ev.target(of=place)), endpoints=[place])
    (action,) = only(AUTH, case).actions
    *command, dsn = shlex.split(action.check)
    assert command == ["netdiag", "probe", "database"]
    parts = urlsplit(dsn)
    assert (unquote(parts.username), parts.hostname, parts.port) == (odd.user, "db.example", 5432)
    assert unquote(parts.path) == "/x/y"
    assert "canary" not in repr(only(AUTH, case))


def test_a_closed_port_beside_an_open_one_of_the_same_name_is_a_warning() -> None:
    dual = ev.endpoint("db.example")
    refused = ev.ports([ev.unconnected(Outcome.REFUSED)], at=ev.target("198.51.100.8", of=dual))
    opened = ev.ports([ev.connected()], at=ev.target(of=dual))
    rule = next(rule for rule in database.RULES if rule.code == "db.port-closed")
    beside = [j for j in ev.judged(rule, ev.case(refused, opened, endpoints=(dual,))) if isinstance(j, Finding)]
    alone = [j for j in ev.judged(rule, ev.case(refused, endpoints=(dual,))) if isinstance(j, Finding)]
    assert [finding.severity for finding in beside] == [Severity.WARNING]
    assert "198.51.100.7:5432, of the same name, accepts connections" in beside[0].statement
    assert [finding.severity for finding in alone] == [Severity.CRITICAL]
