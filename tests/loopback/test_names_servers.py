"""Names against real servers on loopback: Knot (authoritative), Unbound (validating resolver), and dig as a witness.

knot serves lab.test and bogus.test. unbound forwards to it and holds a DS record for bogus.test, which is not signed,
so that everything in it is bogus: SERVFAIL with an extended error.
"""

from __future__ import annotations

import random
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from probes.contract import Context
from probes.exchanges import HostLookup
from probes.model import FailureKind, Outcome, Target, Vantage
from probes.names import DnsQuery, NamesMeasurement, NamesOptions, measure
from probes.net.clock import SystemClock
from probes.net.kernel import KernelNetwork

pytestmark = pytest.mark.loopback
PATIENCE_S = 20.0  # for a slow machine to start a server; nothing is measured by it

LAB_ZONE = """$ORIGIN lab.test.
$TTL 60
@ SOA ns admin 1 3600 600 86400 30
@ NS ns
ns A 127.0.0.1
db A 192.0.2.10
db AAAA 2001:db8::10
www 300 CNAME alias
alias 120 CNAME db
broken CNAME missing
""" + "".join(f'big TXT "{n:03d}-{"x" * 80}"\n' for n in range(40))

BOGUS_ZONE = """$ORIGIN bogus.test.
$TTL 60
@ SOA ns admin 1 3600 600 86400 30
@ NS ns
ns A 127.0.0.1
db A 192.0.2.66
"""

KNOT = """server:
    rundir: "{folder}"
    listen: [ "127.0.0.1@{port}", "::1@{port}" ]
log:
  - target: stderr
    any: info
database:
    storage: "{folder}"
zone:
  - domain: lab.test
    file: "{folder}/lab.zone"
  - domain: bogus.test
    file: "{folder}/bogus.zone"
"""

UNBOUND = """server:
    directory: "{folder}"
    chroot: ""
    username: ""
    pidfile: ""
    use-syslog: no
    logfile: ""
    verbosity: 1
    interface: 127.0.0.1
    port: {port}
    num-threads: 1
    do-not-query-localhost: no
    ede: yes
    module-config: "validator iterator"
    local-zone: "test." nodefault
    trust-anchor: "bogus.test. DS 12345 13 2 {digest}"
stub-zone:
    name: "lab.test."
    stub-addr: 127.0.0.1@{upstream}
stub-zone:
    name: "bogus.test."
    stub-addr: 127.0.0.1@{upstream}
remote-control:
    control-enable: no
"""


def free_port() -> int:
    """A port that is free for both transports, on both families."""
    for _ in range(100):
        with socket.socket(socket.AF_INET6) as tcp, socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as udp:
            tcp.bind(("::", 0))
            try:
                udp.bind(("::", tcp.getsockname()[1]))
            except OSError:
                continue
            return int(tcp.getsockname()[1])
    raise RuntimeError("no port is free for both UDP and TCP")


@contextmanager
def daemon(command: list[str], log: Path, ready: tuple[str, ...]) -> Iterator[None]:
    """Runs ``command`` until the block ends; enters it once every text of ``ready`` is in the log."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        patience = time.monotonic() + PATIENCE_S
        while not all(text in log.read_text() for text in ready):
            if process.poll() is not None or time.monotonic() > patience:
                raise RuntimeError(f"{command[0]} did not start:\n{log.read_text()}")
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


@pytest.fixture(scope="module")
def knot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    folder, port = tmp_path_factory.mktemp("knot"), free_port()
    (folder / "lab.zone").write_text(LAB_ZONE)
    (folder / "bogus.zone").write_text(BOGUS_ZONE)
    (folder / "knot.conf").write_text(KNOT.format(folder=folder, port=port))
    ready = ("[lab.test.] loaded", "[bogus.test.] loaded", "server started")
    with daemon(["knotd", "-c", str(folder / "knot.conf")], folder / "log", ready):
        yield port


@pytest.fixture(scope="module")
def unbound(tmp_path_factory: pytest.TempPathFactory, knot: int) -> Iterator[int]:
    folder, port = tmp_path_factory.mktemp("unbound"), free_port()
    text = UNBOUND.format(folder=folder, port=port, upstream=knot, digest="0123456789abcdef" * 4)
    (folder / "unbound.conf").write_text(text)
    with daemon(["unbound", "-d", "-c", str(folder / "unbound.conf")], folder / "log", ("start of service",)):
        yield port


class LoopbackNetwork(KernelNetwork):
    """The kernel's network, but for getaddrinfo, which would ask the machine's own resolvers."""

    async def lookup(self, host: str, timeout_s: float) -> HostLookup:
        return HostLookup(name=host, seconds=0.0, addresses=())


async def ask(
    name: str,
    *ports: int,
    types: tuple[str, ...] = ("A",),
    network: type[KernelNetwork] = LoopbackNetwork,
    timeout_s: float = 5.0,
    host: str = "127.0.0.1",
    transports: tuple[str, ...] = ("udp", "tcp"),
) -> NamesMeasurement:
    clock = SystemClock()
    async with network(clock) as real:
        context = Context(network=real, clock=clock, vantage=Vantage(name="test"), deadline=clock.monotonic() + 60)
        options = NamesOptions(
            resolvers=tuple(f"{host}#{port}" for port in ports),
            record_types=types,
            timeout_s=timeout_s,
            transports=transports,
        )
        return await measure(context, Target(host=name), options)


def dig(name: str, kind: str, port: int) -> list[tuple[str, str, int]]:
    """The answer section as dig tells it: type, value, TTL in seconds."""
    command = ["dig", "+noall", "+answer", "+tries=1", "@127.0.0.1", "-p", str(port), name, kind]
    lines = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.splitlines()
    return [(kind, value, int(ttl)) for _, ttl, _, kind, value in (line.split(None, 4) for line in lines if line)]


def told(query: DnsQuery) -> list[tuple[str, str, int]]:
    return [(record.type, record.value, record.ttl_s) for record in query.answers]


@pytest.mark.needs("knotd", "dig")
@pytest.mark.parametrize(
    ("name", "kind"), [("db.lab.test", "A"), ("db.lab.test", "AAAA"), ("www.lab.test", "A"), ("lab.test", "SOA")]
)
async def test_an_answer_is_what_dig_says(knot, name, kind):
    measured = await ask(name, knot, types=(kind,))
    witness = dig(name, kind, knot)
    assert witness
    for query in measured.queries:
        assert (query.outcome, query.rcode, query.edns) == (Outcome.ANSWERED, "NOERROR", True)
        assert told(query) == witness
        assert "AA" in query.flags
        assert "RA" not in query.flags
    assert [q.transport for q in measured.queries] == ["udp", "tcp"]


@pytest.mark.needs("knotd")
async def test_a_chain_of_cnames_keeps_its_order(knot):
    measured = await ask("www.lab.test", knot)
    assert told(measured.queries[0]) == [
        ("CNAME", "alias.lab.test.", 300),
        ("CNAME", "db.lab.test.", 120),
        ("A", "192.0.2.10", 60),
    ]


@pytest.mark.needs("knotd")
@pytest.mark.parametrize(
    ("name", "kind", "rcode", "answers"),
    [
        ("nothing.lab.test", "A", "NXDOMAIN", []),
        ("ns.lab.test", "AAAA", "NOERROR", []),  # NODATA
        ("broken.lab.test", "A", "NXDOMAIN", [("CNAME", "missing.lab.test.", 60)]),
        ("db.elsewhere.test", "A", "REFUSED", []),
    ],
)
async def test_an_error_is_an_answer_with_its_time(knot, name, kind, rcode, answers):
    measured = await ask(name, knot, types=(kind,))
    assert [q.transport for q in measured.queries] == ["udp", "tcp"], "an error answer is not asked for again"
    for query in measured.queries:
        assert (query.outcome, query.rcode, query.failure) == (Outcome.ANSWERED, rcode, None)
        assert told(query) == answers
        assert query.seconds > 0


@pytest.mark.needs("knotd", "unbound")
async def test_a_resolver_answers_through_its_upstream(unbound):
    measured = await ask("db.lab.test", unbound, types=("A", "AAAA"))
    assert [q.answers[0].value for q in measured.queries] == ["192.0.2.10"] * 2 + ["2001:db8::10"] * 2
    assert all("RA" in q.flags and "AA" not in q.flags for q in measured.queries)


@pytest.mark.needs("knotd", "unbound")
async def test_a_bogus_zone_is_servfail_with_the_reason(unbound):
    measured = await ask("db.bogus.test", unbound)
    query = measured.queries[0]
    assert (query.outcome, query.rcode, query.answers) == (Outcome.ANSWERED, "SERVFAIL", ())
    assert [error.code for error in query.extended_errors] == [9]  # RFC 8914: DNSKEY missing


@pytest.mark.needs("knotd")
async def test_truncation_shows_by_udp_and_the_whole_by_tcp(knot):
    by_udp, by_tcp = (await ask("big.lab.test", knot, types=("TXT",))).queries
    assert "TC" in by_udp.flags
    assert "TC" not in by_tcp.flags
    assert len(by_tcp.answers) == 40


@pytest.mark.needs("knotd")
async def test_ipv6_and_digs_brackets(knot):
    measured = await ask("db.lab.test", knot, host="[::1]")
    assert measured.resolvers == (f"[::1]#{knot}",)
    assert [told(q) for q in measured.queries] == [[("A", "192.0.2.10", 60)]] * 2


@pytest.mark.needs("knotd")
async def test_one_dead_resolver_hides_nothing_of_the_other(knot):
    """The Resolver classes of libraries would report success here and no more."""
    dead = free_port()
    measured = await ask("db.lab.test", dead, knot)
    outcomes = {q.resolver: q.outcome for q in measured.queries}
    assert outcomes == {f"127.0.0.1#{dead}": Outcome.REFUSED, f"127.0.0.1#{knot}": Outcome.ANSWERED}


@pytest.mark.needs("knotd")
async def test_the_hosts_own_lookup_may_differ_from_dns(knot):
    """localhost is in /etc/hosts (or built in), and no name of knot's."""
    measured = await ask("localhost", knot, network=KernelNetwork, transports=("udp",))
    assert set(measured.system.addresses) & {"127.0.0.1", "::1"}
    assert measured.queries[0].rcode == "REFUSED"


async def test_a_closed_port_answers_at_once():
    measured = await ask("db.lab.test", free_port(), types=("A", "AAAA"), timeout_s=5.0)
    assert [(q.transport, q.attempt, q.outcome) for q in measured.queries] == [
        ("udp", 1, Outcome.REFUSED),
        ("tcp", 1, Outcome.REFUSED),
    ] * 2
    assert all(q.failure is not None and q.failure.kind is FailureKind.REFUSED for q in measured.queries)


async def test_silence_is_repeated_and_recorded():
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as nobody_reads:
        nobody_reads.bind(("127.0.0.1", 0))
        port = nobody_reads.getsockname()[1]
        measured = await ask("db.lab.test", port, types=("A", "AAAA"), timeout_s=0.3, transports=("udp",))
        arrived = [datagram_of(nobody_reads) for _ in measured.queries]
    assert [(q.record_type, q.attempt, q.outcome) for q in measured.queries] == [
        ("A", 1, Outcome.LOST),
        ("A", 2, Outcome.LOST),
        ("AAAA", 1, Outcome.LOST),
    ]
    assert all(q.seconds >= 0.3 for q in measured.queries)
    assert all(len(data) > 12 for data in arrived), "every attempt was one datagram"


def datagram_of(sock: socket.socket) -> bytes:
    sock.settimeout(5)
    return sock.recv(4096)


@contextmanager
def udp_server(answer: Callable[[int, bytes], bytes | None]) -> Iterator[int]:
    """Answers each datagram with ``answer(its ordinal, it)``, or not at all for None."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    stop = b"stop"

    def serve() -> None:
        ordinal = 0
        while (received := sock.recvfrom(4096))[0] != stop:
            reply = answer(ordinal, received[0])
            ordinal += 1
            if reply is not None:
                sock.sendto(reply, received[1])

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield sock.getsockname()[1]
    finally:
        sock.sendto(stop, sock.getsockname())
        thread.join()
        sock.close()


def nxdomain(query: bytes) -> bytes:
    """The query's own header and question with QR and rcode 3: hand-made, without EDNS."""
    end = query.index(b"\0", 12) + 5
    return query[:2] + b"\x81\x83" + b"\0\1\0\0\0\0\0\0" + query[12:end]


async def test_one_lost_packet_is_not_a_dead_server():
    with udp_server(lambda ordinal, query: None if ordinal == 0 else nxdomain(query)) as port:
        measured = await ask("db.lab.test", port, timeout_s=1.0, transports=("udp",))
    assert [(q.attempt, q.outcome, q.rcode) for q in measured.queries] == [
        (1, Outcome.LOST, None),
        (2, Outcome.ANSWERED, "NXDOMAIN"),
    ]
    assert measured.queries[1].edns is False


async def test_junk_with_our_id_is_a_broken_conversation():
    with udp_server(lambda ordinal, query: query[:2] + b"\x81\x80" + b"\xff" * 40) as port:
        measured = await ask("db.lab.test", port, timeout_s=1.0, transports=("udp",))
    (query,) = measured.queries
    assert query.outcome is Outcome.FAILED
    assert query.failure is not None
    assert query.failure.kind is FailureKind.PROTOCOL


async def test_an_answer_to_another_question_is_not_taken():
    with udp_server(lambda ordinal, query: nxdomain(query).replace(b"lab", b"bal")) as port:
        measured = await ask("db.lab.test", port, timeout_s=1.0, transports=("udp",))
    (query,) = measured.queries
    assert (query.outcome, query.rcode) == (Outcome.FAILED, None)


# What a hostile or broken server sends; each is recorded as what it was, and none is waited for beyond the timeout


def noerror(query: bytes, flags: bytes = b"\x81\x80") -> bytes:
    """An empty NOERROR with RA: hand-made, without EDNS."""
    end = query.index(b"\0", 12) + 5
    return query[:2] + flags + b"\0\1\0\0\0\0\0\0" + query[12:end]


def has_edns(query: bytes) -> bool:
    return query[10:12] == b"\0\1"


def looping(query: bytes) -> bytes:
    """An answer whose name is a compression pointer to itself (RFC 1035 4.1.4)."""
    end = query.index(b"\0", 12) + 5
    pointer = bytes([0xC0 | end >> 8, end & 0xFF])
    return query[:2] + b"\x81\x80\0\1\0\1\0\0\0\0" + query[12:end] + pointer + b"\0\1\0\1\0\0\0\x3c\0\4\x7f\0\0\1"


@pytest.mark.parametrize(
    ("junk", "outcome", "strays"),
    [
        (lambda query: bytes([query[0] ^ 1]) + noerror(query)[1:], Outcome.LOST, 1),
        (lambda query: b"", Outcome.LOST, 1),
        (lambda query: query[:11], Outcome.LOST, 1),
        (lambda query: query[:2] + b"\x81\x80" + bytes(8), Outcome.FAILED, 0),  # a header without the question
        (lambda query: query, Outcome.FAILED, 0),  # the query itself, reflected
        (looping, Outcome.FAILED, 0),
        (lambda query: noerror(query) + b"\xff" * 60_000, Outcome.ANSWERED, 0),  # trailing bytes harm nobody
    ],
    ids=["other id", "empty", "cut", "header", "reflected", "compression loop", "trailing"],
)
async def test_junk_is_recorded_as_what_it_is(junk, outcome, strays):
    with udp_server(lambda ordinal, query: junk(query)) as port:
        measured = await ask("db.lab.test", port, timeout_s=0.5, transports=("udp",))
    first = measured.queries[0]
    assert (first.outcome, first.strays) == (outcome, strays)


async def test_a_server_that_drops_edns_answers_the_second_attempt():
    with udp_server(lambda ordinal, query: None if has_edns(query) else noerror(query)) as port:
        measured = await ask("db.lab.test", port, timeout_s=0.5, transports=("udp",), types=("A", "AAAA"))
    assert [(q.record_type, q.how, q.outcome, q.edns) for q in measured.queries] == [
        (kind, how, outcome, edns)
        for kind in ("A", "AAAA")
        for how, outcome, edns in (("edns", Outcome.LOST, None), ("plain", Outcome.ANSWERED, False))
    ]


@pytest.mark.needs("knotd", "unbound")
async def test_what_is_bogus_is_answered_without_checking(unbound):
    checked, unchecked, by_tcp = (await ask("db.bogus.test", unbound)).queries
    assert (checked.rcode, by_tcp.rcode) == ("SERVFAIL", "SERVFAIL")
    assert (unchecked.how, unchecked.rcode, told(unchecked)[0][1]) == ("unchecked", "NOERROR", "192.0.2.66")
    assert "CD" in unchecked.flags


@pytest.mark.needs("knotd", "unbound", "dig")
def test_dig_sees_the_same_without_checking(unbound):
    words = ["dig", "+noall", "+answer", "+tries=1", "@127.0.0.1", "-p", str(unbound), "db.bogus.test", "A"]
    checked = subprocess.run(words, capture_output=True, text=True, check=True, timeout=30).stdout
    unchecked = subprocess.run([*words, "+cdflag"], capture_output=True, text=True, check=True, timeout=30).stdout
    assert ("192.0.2.66" in checked, "192.0.2.66" in unchecked) == (False, True)


async def sampled(port: int, **options: Any) -> tuple[DnsQuery, ...]:
    clock = SystemClock()
    async with LoopbackNetwork(clock) as real:
        context = Context(network=real, clock=clock, vantage=Vantage(name="test"), deadline=clock.monotonic() + 60)
        wanted = NamesOptions(resolvers=(f"127.0.0.1#{port}",), transports=(), lookup=False, samples=150, **options)
        return (await measure(context, Target(host="db.lab.test"), wanted)).queries


@pytest.mark.needs("knotd")
async def test_a_healthy_server_is_asked_fifty_times(knot):
    queries = await sampled(knot)
    assert len(queries) == 50
    assert {(q.outcome, q.rcode, q.answers) for q in queries} == {(Outcome.ANSWERED, "NOERROR", ())}


@pytest.mark.parametrize("seed", [5, 6])
async def test_a_lossy_server_is_counted_as_it_lost(seed):
    """The server keeps its own book of what it left unanswered."""
    draw, left = random.Random(seed), []
    share = draw.uniform(0.2, 0.6)

    def answer(ordinal: int, query: bytes) -> bytes | None:
        left.append(draw.random() < share)
        return None if left[-1] else noerror(query)

    with udp_server(answer) as port:
        queries = await sampled(port, timeout_s=0.3, late_s=0.0)
    assert sum(q.outcome is Outcome.LOST for q in queries) == sum(left), (seed, share)
    assert len(queries) == len(left) < 150, "settled before the cap"


async def test_a_late_answer_is_late_and_not_lost():
    def answer(ordinal: int, query: bytes) -> bytes:
        if ordinal == 0:
            time.sleep(0.6)  # the rest comes behind it: the server has one thread
        return noerror(query)

    with udp_server(answer) as port:
        queries = await sampled(port, timeout_s=0.3, late_s=10.0, interval_s=0.0)
    assert {q.outcome for q in queries[:10]} == {Outcome.LATE}
    assert min(q.seconds for q in queries) > 0.3
    assert len(queries) == 10, "late is not asked on"
