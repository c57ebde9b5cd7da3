"""Bulk reads through a real router with real connection tracking, from a real server."""

from __future__ import annotations

import os
import random
import signal
from contextlib import contextmanager

import pytest

from netdiag.diagnosis.finding import Finding, NotMeasured, RuledOut
from netdiag.diagnosis.rules import bulk as rule
from netdiag.lab.postgres import postgres_server
from probes.bulk import BulkEnd, BulkOptions, measure
from probes.model import Secret
from tests.kernel import asking
from tests.kernel.asking import PORT, ask_database
from tests.kernel.netns import Line, line

pytestmark = pytest.mark.kernel
LOGIN = {"user": "app", "password": Secret("right"), "dbname": "postgres", "sslmode": "disable"}
SEED = random.randrange(1 << 32)


@contextmanager
def world():
    with (
        line() as made,
        postgres_server(
            host=made.server_address,
            port=PORT,
            hba=("local all all trust", "host all all all scram-sha-256"),
            setup=("CREATE ROLE app LOGIN PASSWORD 'right'",),
            launcher=("ip", "netns", "exec", made.server.name),
        ) as server,
    ):
        made.router.sysctl(net__netfilter__nf_conntrack_acct=1)
        yield made, server


def filtered(made: Line, words: str) -> None:
    made.router.nft(f"table inet t {{\nchain f {{ type filter hook forward priority 0; {words}; }}\n}}")


def ask(made: Line, *, meanwhile=None, after_s: float = 0.0, **options):
    chosen = BulkOptions(**(LOGIN | options))
    return ask_database(made, measure, chosen, deadline_s=90.0, meanwhile=meanwhile, after_s=after_s)


def judged(target, measurement):
    return asking.judged(rule, "bulk", target, measurement)


def test_a_router_that_ends_a_connection_by_its_amount_is_found():
    amount = random.Random(SEED).randint(100_000, 5_000_000)
    with world() as (made, server):
        filtered(made, f"tcp sport {PORT} ct bytes > {amount} drop")
        target, found = ask(made)
        left = server.sql("SELECT count(*) FROM pg_stat_activity WHERE usename = 'app' AND state = 'active'")
    judgement = judged(target, found)
    assert isinstance(judgement, Finding), (judgement, found)
    assert {r.end for r in found.reads} == {BulkEnd.SILENT}
    assert all(0.7 * amount - 70_000 < r.moved <= amount for r in found.reads), (SEED, found)
    assert left == "0", "a server's session waits for nobody"


def test_a_router_that_drops_only_what_the_server_sends_after_an_amount_is_told_by_the_servers_own_word():
    """Its acknowledgements pass: what has data in it is longer."""
    amount = random.Random(SEED).randint(100_000, 5_000_000)
    with world() as (made, _):
        filtered(made, f"tcp sport {PORT} ct bytes > {amount} meta length > 100 drop")
        target, found = ask(made)
    assert isinstance(judged(target, found), Finding), found
    assert {r.end for r in found.reads} == {BulkEnd.ACKNOWLEDGED}
    assert all(r.activity for r in found.reads)


def test_a_way_without_a_fault_is_ruled_out():
    with world() as (made, _):
        target, found = ask(made)
    assert isinstance(judged(target, found), RuledOut), found
    assert found.reads[0].end is BulkEnd.COMPLETE


def test_packets_of_full_size_that_vanish_are_no_stall_by_amount():
    size = random.Random(SEED).randint(1300, 1480)
    with world() as (made, _):
        filtered(made, f"tcp sport {PORT} meta length > {size} drop")
        target, found = ask(made)
    judgement = judged(target, found)
    assert isinstance(judgement, NotMeasured), (judgement, found)
    assert "mtu.black-hole" in judgement.statement


def test_lost_packets_are_slow_and_no_stall():
    loss = random.Random(SEED).randint(8, 15)
    with world() as (made, _):
        filtered(made, f"numgen random mod 100 < {loss} drop")
        target, found = ask(made)
    assert not isinstance(judged(target, found), Finding), found


def test_a_way_that_is_dead_for_everybody_is_no_stall():
    with world() as (made, _):
        filtered(made, "counter")
        target, found = ask(
            made, mebibytes=1000, meanwhile=lambda: made.router.nft("add rule inet t f drop"), after_s=0.3
        )
    assert not isinstance(judged(target, found), Finding), found
    assert found.reads[0].end is BulkEnd.SILENT


def test_a_server_that_hangs_is_no_stall_on_the_way():
    """Its kernel acknowledges, and nobody is served."""
    frozen: list[int] = []
    with world() as (made, server):

        def freeze() -> None:
            frozen.extend(map(int, server.sql("SELECT pid FROM pg_stat_activity WHERE usename = 'app'").split()))
            for number in (server.process.pid, *frozen):
                os.kill(number, signal.SIGSTOP)

        try:
            target, found = ask(made, mebibytes=1000, meanwhile=freeze, after_s=0.3)
        finally:
            for number in (server.process.pid, *frozen):
                os.kill(number, signal.SIGCONT)
    assert frozen
    assert not isinstance(judged(target, found), Finding), found
    assert found.reads[0].end is BulkEnd.ACKNOWLEDGED
