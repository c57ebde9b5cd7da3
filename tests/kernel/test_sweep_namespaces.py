"""`netdiag probe latency --targets` in a namespace of its own: every packet is counted by the kernel there."""

from __future__ import annotations

import json
import random
import signal
import subprocess
from collections.abc import Iterator, Sequence

import pytest

from tests.command_line import PROGRAM, clean_environment, netdiag
from tests.kernel.netns import Namespace, namespaces

pytestmark = [pytest.mark.kernel, pytest.mark.needs("ip", "nft")]

TARGETS = 1000


@pytest.fixture
def host() -> Iterator[Namespace]:
    with namespaces("h") as (namespace,):
        yield namespace


def addresses(count: int) -> list[str]:
    """Loopback has 16 million of them."""
    return [f"127.0.{number // 250}.{number % 250 + 1}" for number in range(count)]


def sweep(host: Namespace, targets: Sequence[str], *settings: str, rate: int = 2000) -> tuple[int, list[dict]]:
    """Exit status and the documents of the JSON lines."""
    launcher = ("ip", "netns", "exec", host.name)
    arguments = ["--targets", "-", "--rate", str(rate), "--format", "json"]
    for setting in settings:
        arguments += ["--set", setting]
    ran = netdiag("probe", "latency", *arguments, launcher=launcher, stdin="\n".join(targets))
    assert ran.stderr == ""
    return ran.status, [json.loads(line) for line in ran.stdout.splitlines()]


def received_echoes(host: Namespace) -> int:
    """IcmpInEchos of this namespace."""
    names, figures = [
        line.split() for line in host.run("cat", "/proc/net/snmp").splitlines() if line.startswith("Icmp:")
    ]
    return int(figures[names.index("InEchos")])


def lost(document: dict) -> int:
    (measurement,) = document["measurements"]
    return measurement["data"]["loss"]["lost"]


def test_a_thousand_targets_are_each_told_once_and_no_reply_is_lost(host):
    status, documents = sweep(host, addresses(TARGETS), "count=3", "interval_s=0.1")
    *lines, summary = documents
    assert status == 0
    assert {line["schema"] for line in lines} == {"netdiag.probe/1"}
    assert sorted(line["measurements"][0]["to"]["host"] for line in lines) == sorted(addresses(TARGETS))
    assert received_echoes(host) == 3 * TARGETS
    assert [line for line in lines if lost(line)] == []
    assert (summary["schema"], summary["end_reason"], summary["answering"]) == ("netdiag.sweep/1", "finished", TARGETS)
    assert summary["packets"] == {"sent": 3 * TARGETS, "lost": 0, "late": 0, "not_sent": 0}


def test_the_silent_ones_among_many_are_exactly_those_that_were_silenced(host):
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")  # noqa: T201
    chance = random.Random(seed)
    targets = addresses(200)
    dead = set(chance.sample(targets, chance.randint(1, 60)))
    host.nft(
        "table ip t {\nset dead {\ntype ipv4_addr; elements = { " + ", ".join(dead) + " }\n}\n"
        "chain i {\ntype filter hook input priority 0;\nicmp type echo-request ip daddr @dead drop\n}\n}"
    )
    status, (*lines, summary) = sweep(host, targets, "count=2", "interval_s=0.05", "timeout_s=0.3")
    assert status == 0
    silent = {line["measurements"][0]["to"]["host"] for line in lines if lost(line)}
    assert silent == dead
    assert (summary["silent"], summary["packets"]["lost"]) == (len(dead), 2 * len(dead))


def test_each_target_that_does_not_answer_is_told_by_its_reason(host):
    """Silent: nothing came back. Unreachable: an ICMP error did. Unsent: nothing left this host."""
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")  # noqa: T201
    chance = random.Random(seed)
    targets = addresses(60)
    chance.shuffle(targets)
    cuts = sorted(chance.sample(range(5, 55), 2))
    silent, rejected = targets[: cuts[0]], targets[cuts[0] : cuts[1]]
    unsent = [f"fe80::{number:x}" for number in range(1, chance.randint(2, 9))]  # without a zone there is no way there
    host.nft(
        "table ip t {\nchain i {\ntype filter hook input priority 0;\n"
        f"icmp type echo-request ip daddr {{ {', '.join(silent)} }} drop\n"
        f"icmp type echo-request ip daddr {{ {', '.join(rejected)} }} reject with icmp type admin-prohibited\n}}\n}}"
    )
    status, (*lines, summary) = sweep(host, targets + unsent, "count=2", "interval_s=0.05", "timeout_s=0.3")
    assert status == 0
    assert len(lines) == len(targets + unsent)
    expected = {
        "answering": len(targets) - cuts[1],
        "unreachable": len(rejected),
        "silent": len(silent),
        "unsent": len(unsent),
        "unmeasured": 0,
    }
    assert {key: summary[key] for key in expected} == expected, f"seed {seed}"


def test_no_packet_more_once_nobody_reads(host, tmp_path):
    """netdiag probe latency --targets ... | head -1, with targets for a minute"""
    (tmp_path / "targets").write_text("\n".join(addresses(TARGETS)))
    command = (
        f"{PROGRAM} probe latency --targets {tmp_path / 'targets'} --rate 50 --format json --set count=3 | head -1"
    )
    status, told = subprocess.getstatusoutput(f"ip netns exec {host.name} bash -c 'set -o pipefail; {command}'")
    (line,) = told.splitlines()
    assert json.loads(line)["schema"] == "netdiag.probe/1"
    assert status == 3
    assert received_echoes(host) < 3 * TARGETS


def test_handshakes_where_a_port_is_named(host):
    with host.listen(5433, "127.0.0.1"):
        status, (*lines, summary) = sweep(host, ["127.0.0.1:5433", "127.0.0.2:5433", "127.0.0.3"], "count=2")
    assert status == 0
    found = {line["measurements"][0]["to"]["endpoint"]: line["measurements"][0]["data"] for line in lines}
    outcomes = {name: (data["method"], {s["outcome"] for s in data["samples"]}) for name, data in found.items()}
    assert outcomes == {
        "127.0.0.1:5433": ("tcp", {"answered"}),
        "127.0.0.2:5433": ("tcp", {"refused"}),
        "127.0.0.3": ("icmp", {"answered"}),
    }
    assert summary["answering"] == 3


def test_a_name_without_address_is_told_and_the_rest_is_measured(host):
    """Nothing can leave this namespace, so no resolver hears of the name."""
    status, (*lines, summary) = sweep(host, ["127.0.0.1", "db.example"], "count=1")
    told = {line["measurements"][0]["to"]["host"]: line["measurements"][0] for line in lines}
    assert (status, summary["measured"], summary["unmeasured"]) == (3, 1, 1)
    assert told["db.example"]["outcome"] == "unavailable"
    assert "cannot be resolved" in told["db.example"]["reason"]
    assert told["127.0.0.1"]["outcome"] == "measured"


def test_an_interrupt_ends_it_with_what_there_is(host, tmp_path):
    host.nft("table ip t {\nchain i {\ntype filter hook input priority 0;\nip daddr 127.0.0.2 drop\n}\n}")
    (tmp_path / "targets").write_text("127.0.0.1\n127.0.0.2\n")
    arguments = (
        "--targets",
        str(tmp_path / "targets"),
        "--format",
        "json",
        "--set",
        "timeout_s=50",
        "--set",
        "count=1",
    )
    child = host.spawn(
        str(PROGRAM), "probe", "latency", *arguments, stdout=subprocess.PIPE, env=clean_environment(tmp_path)
    )
    assert child.stdout is not None
    first = json.loads(child.stdout.readline())
    child.send_signal(signal.SIGINT)
    rest, _ = child.communicate(timeout=60)
    (summary,) = [json.loads(line) for line in rest.splitlines()]
    assert first["measurements"][0]["to"]["host"] == "127.0.0.1"
    assert (child.returncode, summary["end_reason"], summary["unmeasured"]) == (3, "signal", 1)


def test_a_deadline_ends_it_and_says_what_is_missing(host):
    launcher = ("ip", "netns", "exec", host.name)
    arguments = ("--targets", "-", "--rate", "100", "--timeout", "2s", "--format", "json", "--set", "timeout_s=0.2")
    ran = netdiag("probe", "latency", *arguments, launcher=launcher, stdin="\n".join(addresses(TARGETS)))
    *lines, summary = [json.loads(line) for line in ran.stdout.splitlines()]
    assert (ran.status, summary["end_reason"]) == (3, "deadline")
    assert 0 < len(lines) < TARGETS
    assert summary["unmeasured"] >= TARGETS - len(lines)
    assert summary["packets"]["lost"] == 0, "what there was no time for is not lost"
    assert received_echoes(host) == summary["packets"]["sent"]


def test_the_table_has_a_row_for_each(host):
    launcher = ("ip", "netns", "exec", host.name)
    arguments = ("--targets", "-", "--set", "count=2", "--set", "interval_s=0.01")
    ran = netdiag("probe", "latency", *arguments, launcher=launcher, stdin="127.0.0.1\n127.0.0.2\n")
    assert ran.status == 0
    heading, *rows, _blank, total = ran.stdout.splitlines()
    assert heading.split()[:3] == ["target", "sent", "lost"]
    assert sorted(row.split()[:3] for row in rows) == [["127.0.0.1", "2", "0"], ["127.0.0.2", "2", "0"]]
    assert "2 targets" in total
