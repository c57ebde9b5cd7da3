"""Reproduce commands: what they say, that a shell reads them as one harmless command, that they hold no secret."""

from __future__ import annotations

import shlex
import subprocess
from dataclasses import replace

import psycopg.conninfo
import pytest
from hypothesis import given
from hypothesis import strategies as st

from netdiag.report.reproduce import reproduce
from probes.model import Target
from probes.ports import PortState
from tests.unit.golden import worlds
from tests.unit.golden.worlds import EAST, measurement

HOSTILE = (
    "$(touch /tmp/owned)",
    "`id`",
    "a; id",
    "x' 'y",
    'x" "y',
    "a\nid",
    "-oProxyCommand=id",
    "--help",
    "a|b",
    "\x1b[2J",
)
PROBES = ("latency", "loss", "names", "ports", "path", "mtu", "database", "bulk", "weather")


@pytest.mark.parametrize(
    ("probe", "data", "options", "command"),
    [
        ("latency", worlds.latency([0.1]), {}, "netdiag probe latency 198.18.1.30:5433"),
        ("latency", worlds.latency([0.1], method="icmp"), {}, "ping -n -c 10 198.18.1.30"),
        ("latency", None, {"method": "icmp"}, "ping -n -c 10 198.18.1.30"),
        ("loss", worlds.loss(10, 1), {}, "netdiag probe loss 198.18.1.30:5433"),
        ("path", worlds.path(), {}, "netdiag probe path 198.18.1.30:5433"),
        ("mtu", None, {}, "netdiag probe mtu 198.18.1.30:5433"),
        ("ports", worlds.ports(PortState.SILENT), {}, "nc -vz -w 2 198.18.1.30 5433"),
        ("ports", None, {}, "nc -vz -w 2 198.18.1.30 5433"),
        ("names", None, {}, "dig +tries=1 +time=2 db-east.vantage.example A"),
        ("database", None, {"user": None}, "netdiag probe database 198.18.1.30:5433"),
        (
            "database",
            None,
            {"user": "app", "password": "***", "dbname": "yugabyte", "sslmode": "require"},
            "psql 'host=db-east.vantage.example hostaddr=198.18.1.30 port=5433 user=app dbname=yugabyte "
            "sslmode=require connect_timeout=5' -c 'SELECT 1'",
        ),
    ],
)
def test_commands(probe, data, options, command):
    assert reproduce(measurement(probe, EAST, data, options=options)) == command


def test_names_asks_what_went_wrong_first_and_on_its_port():
    queries = (worlds.query("198.18.1.54", "NOERROR"), worlds.query("198.18.1.53#5353", "SERVFAIL"))
    asked = measurement("names", EAST, worlds.names("db.example", queries))
    assert reproduce(asked) == "dig +tries=1 +time=2 @198.18.1.53 -p 5353 db.example A"


def test_a_share_is_asked_for_by_as_many_questions():
    """Of the resolvers that were sampled, which may be the plan's and not the host's."""
    query = replace(worlds.query("198.18.1.54", "NOERROR"), sampled=True)
    options = {"samples": 150, "resolvers": ["198.18.1.54", "198.18.1.53#5353"]}
    asked = measurement("names", Target(host="db.example"), worlds.names("db.example", (query,)), options=options)
    wanted = "netdiag probe names db.example --set samples=150 --set"
    assert reproduce(asked) == f"{wanted} 'resolvers=198.18.1.54,198.18.1.53#5353'"


@pytest.mark.parametrize(("how", "flag"), [("plain", "+noedns"), ("unchecked", "+cdflag")])
def test_dig_asks_as_it_was_asked(how, flag):
    query = replace(worlds.query("198.18.1.54", "SERVFAIL"), how=how)
    asked = measurement("names", EAST, worlds.names("db.example", (query,)))
    assert reproduce(asked) == f"dig +tries=1 +time=2 {flag} @198.18.1.54 db.example A"


def test_ipv6():
    target = Target(host="db.example", address="2001:db8::1", port=5433)
    assert reproduce(measurement("latency", target, None)) == "netdiag probe latency '[2001:db8::1]:5433'"


def words_of(command):
    """What a real POSIX shell makes of it."""
    shell = subprocess.run(
        ["/bin/sh", "-c", f"set -- {command}\nprintf '%s\\0' \"$@\""], capture_output=True, check=True, timeout=10
    )
    assert shell.stderr == b""
    return shell.stdout.decode().split("\0")[:-1]


@pytest.mark.parametrize("hostile", HOSTILE)
@pytest.mark.parametrize("probe", PROBES)
def test_a_shell_reads_a_hostile_name_as_one_word(probe, hostile):
    target = Target(host=hostile, port=5433)
    command = reproduce(measurement(probe, target, None, options={"user": "app", "method": "icmp"}))
    plain = reproduce(measurement(probe, Target(host="h", port=5433), None, options={"user": "app", "method": "icmp"}))
    assert "\n" not in command
    assert "\x1b" not in command
    found = words_of(command)
    extra = {"--"} if hostile.startswith("-") else set()
    assert len([w for w in found if w not in {"--", "-q", "-t"}]) == len(words_of(plain))
    assert found == shlex.split(command)
    if extra and probe not in {"names", "database", "bulk"}:
        assert found[found.index("--") + 1].startswith("-")
    if extra and probe == "names":
        assert found[found.index("-q") + 1].startswith("-")


@given(user=st.text(min_size=1), dbname=st.text(min_size=1), host=st.text(min_size=1))
def test_libpq_reads_back_what_was_meant(user, dbname, host):
    command = reproduce(
        measurement("database", Target(host=host, port=5433), None, options={"user": user, "dbname": dbname})
    )
    from netdiag.report.sanitize import clean

    found = psycopg.conninfo.conninfo_to_dict(shlex.split(command)[1])
    wanted = {"host": clean(host), "user": clean(user), "dbname": clean(dbname)}
    assert {key: found.get(key, "") for key in wanted} == wanted
    assert set(found) <= {"host", "port", "user", "dbname", "connect_timeout"}


def test_no_secret():
    options = {"user": "app", "password": "canary-7f3a", "ssl_key": "/k", "ssl_root_certificate": "/ca.pem"}
    command = reproduce(measurement("database", EAST, None, options=options))
    assert "canary-7f3a" not in command
    assert "sslrootcert=/ca.pem" in command


def test_a_bulk_read_is_repeated_with_its_login():
    options = {"user": "app", "dbname": "shop", "sslmode": "verify-full", "mebibytes": 8}
    command = reproduce(replace(measurement("bulk", EAST, None), options=options))
    *words, dsn, _, size = shlex.split(command)
    assert words == ["netdiag", "probe", "bulk"]
    assert psycopg.conninfo.conninfo_to_dict(dsn)["user"] == "app"
    assert size == "mebibytes=8"
