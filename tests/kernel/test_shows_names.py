"""The command line between real hosts whose names come from real resolvers: what DNS did wrong, and nothing else."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.command_line import Ran
from tests.kernel.incident import (
    CLOSED,
    NAME,
    NOBODY,
    RESOLVERS,
    SERVER,
    STALE,
    Incident,
    counted,
    incident,
    resolv_conf,
)

pytestmark = [pytest.mark.kernel, pytest.mark.needs("nft", "knotd", "unbound")]
FIRST, SECOND = RESOLVERS


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Iterator[Incident]:
    with incident(tmp_path_factory.mktemp("incident")) as made:
        yield made


def only(ran: Ran, code: str, status: int = 2) -> dict:
    assert (ran.causes, ran.status) == ([code], status), ran
    return ran.cause(code)


def healthy(ran: Ran) -> None:
    assert (ran.causes, ran.found("consequence"), ran.status) == ([], [], 0), ran


@pytest.mark.parametrize("host", [NAME, f"{NAME}.", "alias.incident.test", "DB.Incident.TEST"])
def test_a_name_that_resolves(place, host):
    healthy(place.netdiag(place.dsn_of(host)))


def test_the_certificate_is_checked_against_the_name(place):
    settings = {"sslmode": "verify-full", "sslrootcert": str(place.tls.authority)}
    healthy(place.netdiag(place.dsn_of(NAME, **settings)))
    only(place.netdiag(place.dsn_of("alias.incident.test", **settings)), "db.tls-invalid")


@pytest.mark.parametrize(
    ("name", "said"), [("db.lame.test", "SERVFAIL"), ("db.bogus.test", "DNSSEC validation failed")]
)
def test_servfail(place, name, said):
    """lame.test: its server does not know it. bogus.test: its signatures are missing."""
    with place.resolvers(SECOND):
        cause = only(place.netdiag(place.dsn_of(name)), "dns.servfail")
    assert (cause["subject"]["name"], cause["subject"]["resolver"]) == (name, SECOND)
    assert said in cause["statement"]


def test_servfail_of_every_resolver_is_said_of_each(place):
    ran = place.netdiag(place.dsn_of("db.lame.test"))
    assert (ran.causes, ran.status) == (["dns.servfail"] * 2, 2), ran


@pytest.mark.parametrize("name", ["nothing.incident.test", "db.invalid"])
def test_nxdomain(place, name):
    ran = place.netdiag(place.dsn_of(name))
    cause = only(ran, "dns.nxdomain")
    assert cause["subject"]["name"] == name
    assert (FIRST in cause["statement"], SECOND in cause["statement"]) == (True, True)
    assert not {"db.port-closed", "firewall.drop", "link.loss"} & ran.ruled_out(), "nothing was connected to"


def test_a_dead_resolver_before_a_good_one(place):
    with place.at_router("forward", f"ip daddr {FIRST} drop"):
        ran = place.netdiag(place.dsn_of(NAME))
    cause = only(ran, "dns.resolver-down")
    assert cause["subject"]["resolver"] == FIRST
    names, sample = ran.measurements("names")
    assert names["data"]["system"]["seconds"] == pytest.approx(5.0, abs=1.0), "what glibc makes of it"
    assert {query["outcome"] for query in sample["data"]["queries"] if query["resolver"] == FIRST} == {"lost"}


def test_a_dead_resolver_behind_a_good_one_costs_nothing_yet(place):
    with place.at_router("forward", f"ip daddr {SECOND} drop"):
        cause = only(place.netdiag(place.dsn_of(NAME), user=NOBODY), "dns.resolver-down", status=1)
    assert cause["subject"]["resolver"] == SECOND


def test_the_only_resolver_is_dead(place):
    with place.resolvers(SECOND), place.at_router("forward", f"ip daddr {SECOND} drop"):
        cause = only(place.netdiag(place.dsn_of(NAME)), "dns.resolver-down")
    assert cause["subject"]["resolver"] == SECOND


def test_a_resolver_that_is_not_running_is_told_from_one_that_is_dropped(place):
    with place.resolvers(CLOSED, SECOND):
        cause = only(place.netdiag(place.dsn_of(NAME)), "dns.resolver-down", status=1)
    assert cause["subject"]["resolver"] == CLOSED
    assert "refuses port 53" in cause["statement"]


@pytest.mark.parametrize("first", RESOLVERS)
def test_a_stale_record(place, first):
    """FIRST gives an address that the service has left; it counts in full where this host asks FIRST first."""
    rest = [address for address in RESOLVERS if address != first]
    with place.resolvers(first, *rest):
        ran = place.netdiag(place.dsn_of(STALE))
    cause = only(ran, "dns.stale-record", status=2 if first == FIRST else 1)
    assert (cause["subject"]["address"], cause["subject"]["resolver"]) == (CLOSED, FIRST)
    assert SERVER in cause["statement"]
    assert [finding["code"] for finding in ran.found("consequence")] == ["db.port-closed"]


def test_truncation_never_came_so_a_closed_tcp_port_53_is_a_note(place):
    with place.at_router("forward", f"ip daddr {FIRST} tcp dport 53 drop"):
        ran = place.netdiag(place.dsn_of(NAME))
    healthy(ran)
    assert [note["code"] for note in ran.found("note")] == ["dns.tcp-blocked"]


def test_aaaa_queries_that_are_dropped(place):
    """The 5 s x k fingerprint: every look-up that asks for both types waits for the one that never comes."""
    offset = (8 + 12 + len(NAME) + 2) * 8  # bits: UDP, DNS header, the name's labels with their end; QTYPE follows
    with place.at_router("forward", f"udp dport 53 @th,{offset},16 28 drop"):
        ran = place.netdiag(place.dsn_of(NAME))
    assert set(ran.causes) == {"dns.loss"}, ran
    assert all("AAAA" in cause["statement"] for cause in ran.found("cause"))


@pytest.mark.parametrize("seed", [11, 12, 13])
@pytest.mark.parametrize("direction", ["daddr", "saddr"])
def test_queries_that_are_lost(place, seed, direction):
    """The path to one resolver loses 15 to 60 % of its UDP, questions or answers; nft's counters are the witness."""
    draw = random.Random(seed)
    share, victim = draw.uniform(0.15, 0.6), draw.choice(RESOLVERS)
    port = "dport" if direction == "daddr" else "sport"
    of = f"ip {direction} {victim} udp {port} 53"
    drop = f"{of} numgen random mod 1000 < {int(share * 1000)} counter name hit drop"
    with place.at_router("forward", f"{of} counter name seen", drop) as table:
        ran = place.netdiag(place.dsn_of(NAME), budget="60s")
        hit, seen = counted(place.router, table)
    cause = only(ran, "dns.loss", status=1)
    assert cause["subject"]["resolver"] == victim, (seed, share, hit, seen)
    lost = [
        query
        for measurement in ran.measurements("names")
        for query in measurement["data"]["queries"]
        if (query["resolver"], query["transport"], query["outcome"]) == (victim, "udp", "lost")
    ]
    assert 0 < len(lost) <= hit <= seen, "what was reported lost was dropped (glibc's own queries are in the count)"


def test_one_query_in_a_hundred_is_no_finding(place):
    with place.at_router("forward", "udp dport 53 numgen random mod 100 < 1 drop"):
        ran = place.netdiag(place.dsn_of(NAME), budget="60s")
    assert ran.causes == [], ran


@contextmanager
def etc(place: Incident, name: str, text: str) -> Iterator[None]:
    """``ip netns exec`` puts a file in its place as it does with resolv.conf."""
    path = resolv_conf(place.client).with_name(name)
    path.write_text(text)
    try:
        yield
    finally:
        path.unlink()


def test_a_name_in_etc_hosts_needs_no_resolver(place):
    with etc(place, "hosts", f"127.0.0.1 localhost\n{SERVER} db.lame.test\n"):
        healthy(place.netdiag(place.dsn_of("db.lame.test")))


@pytest.mark.skipif(not Path("/etc/nsswitch.conf").exists(), reason="no /etc/nsswitch.conf to put another over")
def test_a_host_that_does_not_ask_dns(place):
    with etc(place, "nsswitch.conf", "passwd: files\nhosts: files\n"):
        cause = only(place.netdiag(place.dsn_of(NAME)), "dns.host-lookup")
    assert cause["subject"]["name"] == NAME
    assert f"{FIRST} gives {SERVER}" in cause["statement"]


def test_a_host_without_a_nameserver_asks_itself(place):
    """resolv.conf(5): 127.0.0.1, where nothing listens."""
    with place.resolvers():
        cause = only(place.netdiag(place.dsn_of(NAME)), "dns.resolver-down")
    assert cause["subject"]["resolver"] == "127.0.0.1"


def test_a_bogus_zone_is_told_by_asking_without_checking(place):
    """Whether or not a resolver sends the extended error, its answer with CD set decides (RFC 4035 3.2.2)."""
    with place.resolvers(SECOND):
        cause = only(place.netdiag(place.dsn_of("db.bogus.test")), "dns.servfail")
    assert "with checking disabled (CD) it answers" in cause["statement"]
    assert "DS record" in cause["actions"][0]["step"]


# One name server answers every question over UDP with ``sys.argv[2]``'s kind of answer, by hand (RFC 1035 4.1): the
# codec of the code under test has no part in it. TCP is refused, as small forwarders do.
RESPONDER = """
import socket, sys, threading, time
address, kind, given = sys.argv[1:]
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind((address, 53))
print("ready", flush=True)

def answer(query, peer):
    end = query.index(b"\\0", 12) + 5
    question, wants_a = query[12:end], query[end - 4 : end - 2] == b"\\0\\1"
    record = b"\\xc0\\x0c\\0\\1\\0\\1\\0\\0\\0\\x3c\\0\\4" + socket.inet_aton(given)
    full = b"\\x81\\x80\\0\\1" + (b"\\0\\1" if wants_a else b"\\0\\0") + b"\\0\\0\\0\\0" + question + record * wants_a
    if kind == "edns" and query[10:12] == b"\\0\\1":
        return
    if kind == "late":
        time.sleep(2.6)
    lame = b"\\x81\\0\\0\\1\\0\\0\\0\\0\\0\\0" + question
    body = {"lame": lame, "junk": b"\\x81\\x80" + b"\\xff" * 40}.get(kind, full)
    sock.sendto(query[:2] + body, peer)

while True:
    threading.Thread(target=answer, args=sock.recvfrom(4096), daemon=True).start()
"""


@contextmanager
def responder(place: Incident, kind: str) -> Iterator[None]:
    """At CLOSED, while the block lasts."""
    words = (sys.executable, "-c", RESPONDER, CLOSED, kind, SERVER)
    process = place.server.spawn(*words, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield
    finally:
        process.terminate()
        process.wait(30)


@pytest.mark.parametrize(
    ("kind", "code", "status", "said"),
    [
        ("lame", "dns.refused", 1, "a referral instead of an answer"),
        ("late", "dns.loss", 1, "answers late: in 2.6"),
        ("junk", "dns.resolver-down", 2, "sends what is no answer"),
    ],
)
def test_a_first_resolver_of_the_wrong_kind(place, kind, code, status, said):
    """glibc asks the second at once after a referral, waits for the late one, and waits out what it cannot read."""
    with responder(place, kind), place.resolvers(CLOSED, SECOND):
        cause = only(place.netdiag(place.dsn_of(NAME)), code, status)
    assert cause["subject"]["resolver"] == CLOSED
    assert said in cause["statement"]


def test_a_resolver_that_drops_edns_serves_a_host_that_sends_none(place):
    with responder(place, "edns"), place.resolvers(CLOSED, SECOND):
        ran = place.netdiag(place.dsn_of(NAME))
    healthy(ran)
    assert {note["code"] for note in ran.found("note")} == {"dns.loss", "dns.tcp-blocked"}
    assert any("no query with EDNS" in note["statement"] for note in ran.found("note"))
