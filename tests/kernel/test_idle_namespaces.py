"""Idle connections through a real router with real connection tracking, to a real server."""

from __future__ import annotations

import random
from contextlib import contextmanager

import pytest

from netdiag.diagnosis.finding import Finding, NotMeasured, RuledOut
from netdiag.diagnosis.rules import idle as rule
from netdiag.lab.postgres import debian_binaries, find_binaries, make_tls, postgres_server
from probes.idle import IdleEnd, IdleOptions, measure
from probes.model import Secret
from tests.kernel import asking
from tests.kernel.asking import PORT, ask_database
from tests.kernel.netns import Line, line

pytestmark = pytest.mark.kernel
LONGEST_S = 13.0
LOGIN = {"user": "app", "password": Secret("right"), "dbname": "postgres", "sslmode": "disable"}
SEED = random.randrange(1 << 32)
ANSWERS = {"silent": "drop", "reset": "meta l4proto tcp reject with tcp reset"}


@contextmanager
def world(tmp_path, *, tls: bool = False):
    """A strict router: a packet of a connection that it does not know is invalid."""
    with line() as made:
        files = make_tls(tmp_path, names=("db",)) if tls else None
        binaries = debian_binaries() if tls else find_binaries()
        with postgres_server(
            host=made.server_address,
            port=PORT,
            tls=files,
            binaries=binaries,
            hba=("local all all trust", "host all all all scram-sha-256"),
            setup=("CREATE ROLE app LOGIN PASSWORD 'right'",),
            launcher=("ip", "netns", "exec", made.server.name),
        ):
            yield made


def strict(made: Line, answer: str = "drop", timeout_s: int | None = None) -> None:
    rules = f"chain f {{ type filter hook forward priority 0; ct state invalid counter {answer}; }}"
    zone = "chain z { type filter hook prerouting priority -400; }"
    made.router.nft(f"table inet t {{\n{zone}\n{rules}\n}}")
    made.router.sysctl(net__netfilter__nf_conntrack_tcp_loose=0)
    if timeout_s is not None:
        made.router.sysctl(net__netfilter__nf_conntrack_tcp_timeout_established=timeout_s)


def ask(made: Line, *, meanwhile=None, after_s: float = 0.0, **options):
    chosen = IdleOptions(seconds=LONGEST_S, **options)
    return ask_database(made, measure, chosen, deadline_s=60.0, meanwhile=meanwhile, after_s=after_s)


def judged(target, measurement):
    return asking.judged(rule, "idle", target, measurement)


@pytest.mark.parametrize("answer", ANSWERS)
def test_a_router_that_forgets_is_found_and_bracketed(answer, tmp_path):
    timeout_s = random.Random(SEED).randint(4, 8)
    with world(tmp_path) as made:
        strict(made, ANSWERS[answer], timeout_s)
        target, found = ask(made, **LOGIN)
    judgement = judged(target, found)
    assert isinstance(judgement, Finding), (judgement, found)
    held = rule.Held(place=None, measurement=None, data=found)
    assert {c.end for c in held.forgotten} == {IdleEnd(answer)}
    assert held.longest < timeout_s + 1 <= held.shortest + 1, found


@pytest.mark.skipif(debian_binaries() is None, reason="TLS needs Debian's PostgreSQL: apt-get install postgresql")
def test_it_takes_no_login_where_the_server_speaks_tls(tmp_path):
    timeout_s = random.Random(SEED).randint(4, 8)
    with world(tmp_path, tls=True) as made:
        strict(made, "drop", timeout_s)
        target, found = ask(made)
    assert isinstance(judged(target, found), Finding), found


def test_a_router_that_remembers_is_ruled_out(tmp_path):
    with world(tmp_path) as made:
        strict(made)
        target, found = ask(made, **LOGIN)
    assert isinstance(judged(target, found), RuledOut), found
    assert {c.end for c in found.idle} == {IdleEnd.ANSWERED}


def test_a_firewall_that_loses_its_table_at_once_is_no_timeout(tmp_path):
    """A failover: from then on every older connection, idle or busy, is unknown."""
    after_s = random.Random(SEED).uniform(0.3, 0.8) * LONGEST_S
    with world(tmp_path) as made:
        strict(made)
        target, found = ask(
            made,
            meanwhile=lambda: made.router.nft("add rule inet t z ct zone set 7"),
            after_s=after_s,
            **LOGIN,
        )
    judgement = judged(target, found)
    assert isinstance(judgement, NotMeasured), (judgement, found)
    assert "connections of every age" in judgement.statement


def test_a_server_that_restarts_is_no_timeout(tmp_path):
    after_s = random.Random(SEED).uniform(0.3, 0.8) * LONGEST_S
    with line() as made:
        strict(made)
        with postgres_server(
            host=made.server_address,
            port=PORT,
            hba=("local all all trust", "host all all all scram-sha-256"),
            setup=("CREATE ROLE app LOGIN PASSWORD 'right'",),
            launcher=("ip", "netns", "exec", made.server.name),
        ) as server:
            target, found = ask(made, meanwhile=server.stop, after_s=after_s, **LOGIN)
    assert not isinstance(judged(target, found), Finding), found


def test_lost_packets_are_no_timeout(tmp_path):
    loss = random.Random(SEED).randint(10, 15)
    with world(tmp_path) as made:
        hook = "type filter hook forward priority 0"
        made.router.nft(f"table inet t {{\nchain f {{ {hook}; numgen random mod 100 < {loss} drop; }}\n}}")
        target, found = ask(made, **LOGIN)
    assert not isinstance(judged(target, found), Finding), found


def test_a_way_that_is_dead_for_everybody_is_no_timeout(tmp_path):
    after_s = random.Random(SEED).uniform(0.3, 0.8) * LONGEST_S
    with world(tmp_path) as made:
        strict(made)
        target, found = ask(
            made, meanwhile=lambda: made.router.nft("add rule inet t f counter drop"), after_s=after_s, **LOGIN
        )
    assert not isinstance(judged(target, found), Finding), found
