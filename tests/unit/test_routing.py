"""Origin names and answers, BIRD's replies, and which resolver the routing probe asks next.

Independent sources: RFC 1035 reverse names as Python's reverse_pointer writes them, Team Cymru's own published example
answers, and a reply that BIRD 2.0.12 gave.
"""

from __future__ import annotations

import random
from ipaddress import IPv4Address, IPv6Address, ip_address

import dns.message
import dns.rcode
import dns.rrset
import pytest

from probes.contract import ProbeUnavailable
from probes.exchanges import BirdReply, DnsReply, DnsRequest
from probes.failures import timed_out
from probes.model import Failure, FailureKind, Outcome, Target
from probes.routing import PROBE, RoutingOptions, as_path, measure
from probes.wire.bird import BirdClock, BirdError, clock, is_complete, reply_lines, sessions
from probes.wire.origin import Origin, is_askable, origin_name, parse_origins
from tests.fakes.clock import FakeClock
from tests.fakes.network import ScriptedNetwork, context

ZONE = "origin.asn.example"
TARGET = Target(host="db", address="198.18.3.10", port=5433, endpoint="db-west")

# wire/origin.py


@pytest.mark.parametrize("seed", range(5))
def test_names_are_those_of_reverse_dns_under_another_zone(seed: int) -> None:
    draw = random.Random(seed)
    v4, v6 = IPv4Address(draw.getrandbits(32)), IPv6Address(draw.getrandbits(128))
    assert origin_name(str(v4), ZONE) == v4.reverse_pointer.removesuffix("in-addr.arpa") + ZONE, f"seed {seed}"
    assert origin_name(str(v6), ZONE) == v6.reverse_pointer.removesuffix("ip6.arpa") + "origin6.asn.example", seed


def test_a_zone_without_a_sibling_has_no_ipv6() -> None:
    assert origin_name("2001:db8::1", "as.example") is None
    assert origin_name("192.0.2.1", "as.example.") == "1.2.0.192.as.example"


@pytest.mark.parametrize(
    ("address", "askable"),
    [
        ("8.8.8.8", True), ("198.18.3.1", True), ("2001:4860:4860::8888", True),
        ("10.1.2.3", False), ("172.31.0.1", False), ("172.32.0.1", True), ("192.168.1.1", False),
        ("100.64.0.1", False), ("127.0.0.1", False), ("169.254.1.1", False), ("224.0.0.1", False),
        ("fd00::1", True), ("fe80::1%eth0", False), ("::1", False),
    ],
)  # fmt: skip
def test_private_addresses_are_told_to_nobody(address: str, askable: bool) -> None:
    assert is_askable(address) is askable


def test_answers_in_the_form_that_the_service_documents() -> None:
    moas = ['"23028 | 216.90.108.0/24 | US | arin | 1998-09-25"', '"701 1239 | 216.90.0.0/16 | US | arin | 1998-09-25"']
    assert parse_origins(moas) == Origin(asns=(23028,), prefix="216.90.108.0/24")
    assert parse_origins(moas[1:]) == Origin(asns=(701, 1239), prefix="216.90.0.0/16")
    assert parse_origins(['"15169 | 2001:4860::/32 " "| US | arin | 2005-03-14"']) == Origin(
        asns=(15169,), prefix="2001:4860::/32"
    )


@pytest.mark.parametrize(
    "text", ["", '""', '"v=spf1 -all"', '"x | 192.0.2.0/24 | US"', '"1 | not-a-prefix"', '"0 | 192.0.2.0/24"',
             '"4294967296 | 192.0.2.0/24"', '"NA | 192.0.2.0/24 | | |"']
)  # fmt: skip
def test_what_is_no_answer_of_that_form_is_no_origin(text: str) -> None:
    assert parse_origins([text]) is None


def test_an_as_path_merges_neighbours_and_keeps_unknown_hops() -> None:
    one, two = Origin(asns=(1,), prefix="192.0.2.0/24"), Origin(asns=(2,), prefix="198.51.100.0/24")
    both = Origin(asns=(1, 2), prefix="203.0.113.0/24")
    assert as_path([one, one, None, both, two, two, one]) == (1, None, 2, 1)
    assert as_path([]) == ()


# wire/bird.py: BIRD 2.0.12's own words, over its control socket

ESTABLISHED = b"""\
2002-Name       Proto      Table      State  Since         Info
1002-device1    Device     ---        up     16:29:04.852  
1006-
1002-peer       BGP        ---        up     16:29:05.653  Established   
1006-  BGP state:          Established
     Neighbor address: 127.0.99.2
     Neighbor AS:      65012
     Local AS:         65011
     Hold timer:       6.506/9
   Channel ipv4
     State:          UP
     Routes:         1 imported, 1 exported, 1 preferred
     Route change stats:     received   rejected   filtered    ignored   accepted
       Import updates:              7          0          0          0          1
       Import withdraws:            3          0        ---          0          0
       Export updates:              2          1          0        ---          1
   Channel ipv6
     Routes:         4 imported, 1 exported, 1 preferred
       Import updates:              5          0          0          0          1
 
0000 
"""
DOWN = b"""\
2002-Name       Proto      Table      State  Since         Info
1002-peer       BGP        ---        start  2024-01-25 16:29:10  Active        Socket: Connection refused
1006-  BGP state:          Active
     Neighbor address: 127.0.99.2
     Neighbor AS:      65012
     Local AS:         65011
     Last error:       Socket: Connection refused
 
0000 
"""


STATUS = b"""\
1000-BIRD 2.0.12
1011-Router ID is 10.0.0.1
 Hostname is edge
 Current server time is 2024-01-25 16:29:12.004
 Last reboot on 2024-01-25 16:29:04.852
 Last reconfiguration on 2024-01-25 16:29:04.852
0013 Daemon is up and running
"""


def test_the_daemons_clock_stands_beside_its_sessions() -> None:
    lines = reply_lines(STATUS + ESTABLISHED)
    assert clock(lines) == BirdClock(now="2024-01-25 16:29:12.004", started="2024-01-25 16:29:04.852")
    assert sessions(lines) == sessions(reply_lines(ESTABLISHED))
    assert clock(reply_lines(ESTABLISHED)) is None


def test_an_established_session_with_its_counters_over_all_channels() -> None:
    (found,) = sessions(reply_lines(ESTABLISHED))
    assert (found.name, found.state, found.since, found.info) == ("peer", "up", "16:29:05.653", "Established")
    assert (found.bgp_state, found.neighbor, found.neighbor_as) == ("Established", "127.0.99.2", 65012)
    assert (found.local_as, found.imported, found.last_error) == (65011, 5, None)
    assert (found.import_updates, found.import_withdraws) == (12, 3)


def test_a_session_that_is_down_has_its_error_and_no_counters() -> None:
    (found,) = sessions(reply_lines(DOWN))
    assert (found.state, found.since) == ("start", "2024-01-25 16:29:10")
    assert found.info == "Active Socket: Connection refused"
    assert found.last_error == "Socket: Connection refused"
    assert (found.imported, found.import_updates, found.import_withdraws) == (None, None, None)


def test_a_reply_is_whole_only_with_its_last_line() -> None:
    for cut in range(len(ESTABLISHED)):
        assert not is_complete(ESTABLISHED[:cut])
    assert is_complete(ESTABLISHED)


@pytest.mark.parametrize("reply", [b"8007 Access denied\n", b"9001 syntax error\n", b"HTTP/1.1 400\n", b" x\n"])
def test_errors_and_other_protocols_are_no_reply(reply: bytes) -> None:
    with pytest.raises(BirdError):
        reply_lines(reply)


def test_hostile_text_is_cleaned() -> None:
    (found,) = sessions(reply_lines(DOWN.replace(b"Socket: Connection", b"\x1b[31mSo\xffcket:")))
    assert "\x1b" not in found.info + (found.last_error or "")


# probes/routing.py


def answer(request: DnsRequest, table: dict[str, str], rcode: str | None = None) -> DnsReply:
    asked = dns.message.from_wire(request.payload)
    reply = dns.message.make_response(asked)
    name = asked.question[0].name
    if rcode:
        reply.set_rcode(dns.rcode.from_text(rcode))
    elif (told := table.get(name.to_text(omit_final_dot=True))) is not None:
        reply.answer.append(dns.rrset.from_text(name, 300, "IN", "TXT", f'"{told}"'))
    else:
        reply.set_rcode(dns.rcode.NXDOMAIN)
    return DnsReply(outcome=Outcome.ANSWERED, seconds=0.001, payload=reply.to_wire())


TABLE = {
    "1.1.18.198." + ZONE: "65010 | 198.18.1.0/24 | ZZ",
    "2.100.18.198." + ZONE: "65100 | 198.18.100.0/24 | ZZ",
    "6.100.18.198." + ZONE: "65100 | 198.18.100.0/24 | ZZ",
    "10.3.18.198." + ZONE: "65020 | 198.18.3.0/24 | ZZ",
}
HOPS = ("198.18.1.1", None, "10.0.0.1", "198.18.100.2", "198.18.100.6", "198.18.3.10")


async def routed(dns_script, **options):
    network = ScriptedNetwork(FakeClock(), dns=dns_script)
    chosen = RoutingOptions(**{"hops": HOPS, "origin_zone": ZONE, "resolvers": ("192.0.2.1", "192.0.2.2"), **options})
    return await measure(context(network), TARGET, chosen), network


async def test_hops_become_an_as_path() -> None:
    found, network = await routed(lambda request: answer(request, TABLE))
    assert found.as_path == (65010, None, 65100, 65020)
    assert [hop.address for hop in found.hops] == list(HOPS)
    assert [query.address for query in found.queries] == [h for h in HOPS if h and h != "10.0.0.1"]
    assert all(request.server == "192.0.2.1" for request in network.asked)


async def test_the_next_resolver_is_asked_and_then_kept() -> None:
    def script(request: DnsRequest) -> DnsReply:
        if request.server == "192.0.2.1":
            return DnsReply(outcome=Outcome.LOST, seconds=2.0, failure=timed_out("receive"))
        return answer(request, TABLE)

    found, network = await routed(script)
    assert found.as_path == (65010, None, 65100, 65020)
    assert [request.server for request in network.asked].count("192.0.2.1") == 1
    assert [query.outcome for query in found.queries][:2] == [Outcome.LOST, Outcome.ANSWERED]


async def test_servfail_and_garbage_leave_hops_unknown_and_on_record() -> None:
    def script(request: DnsRequest) -> DnsReply:
        if request.server == "192.0.2.1":
            return answer(request, TABLE, "SERVFAIL")
        return DnsReply(outcome=Outcome.ANSWERED, seconds=0.001, payload=b"\x00" * 5)

    found, _ = await routed(script)
    assert found.as_path == (None,)
    assert {(query.outcome, query.rcode) for query in found.queries} == {
        (Outcome.ANSWERED, "SERVFAIL"),
        (Outcome.FAILED, None),
    }


async def test_without_a_zone_nobody_is_asked() -> None:
    network = ScriptedNetwork(FakeClock())
    with pytest.raises(ProbeUnavailable, match="origin_zone"):
        await measure(context(network), TARGET, RoutingOptions(hops=HOPS))
    assert network.asked == []


async def test_no_query_is_cut_short_by_the_deadline() -> None:
    network = ScriptedNetwork(FakeClock(), dns=lambda request: answer(request, TABLE))
    chosen = RoutingOptions(hops=HOPS[:1], origin_zone=ZONE, resolvers=("192.0.2.1",))
    found = await measure(context(network, seconds=1.0), TARGET, chosen)
    assert [query.outcome for query in found.queries] == [Outcome.NOT_SENT]
    assert network.asked == []


@pytest.mark.parametrize("options", [{"resolvers": ("dns.example",)}, {"hops": ("nowhere",)}, {"origin_zone": "a..b"}])
async def test_options_that_cannot_be_asked(options: dict[str, object]) -> None:
    with pytest.raises(ProbeUnavailable):
        await routed(lambda request: answer(request, TABLE), **options)


async def test_a_router_tells_its_sessions() -> None:
    network = ScriptedNetwork(FakeClock(), bird=lambda _: BirdReply(seconds=0.01, payload=DOWN))
    found = await measure(context(network), TARGET, RoutingOptions(router="edge", bird="/run/bird.ctl"))
    assert found.router == "edge"
    assert found.sessions is not None
    assert [session.name for session in found.sessions] == ["peer"]
    assert network.asked[0].control == "/run/bird.ctl"


async def test_a_router_that_cannot_be_asked_says_why() -> None:
    failure = Failure(kind=FailureKind.LOCAL, operation="connect", errno="EACCES")
    network = ScriptedNetwork(FakeClock(), bird=lambda _: BirdReply(seconds=0.0, failure=failure))
    with pytest.raises(ProbeUnavailable, match="EACCES"):
        await measure(context(network), TARGET, RoutingOptions(router="edge", bird="/run/bird.ctl"))


def test_the_registry_finds_it() -> None:
    from probes.registry import load

    assert load("routing") is PROBE
    assert ip_address(HOPS[0]).is_private  # the benchmarking block: private to Python, asked all the same
