"""The plan: PRODUCT's own example, and each kind of mistake with its exact message."""

from __future__ import annotations

import datetime as dt
import re
import sys
from pathlib import Path

import pytest

from netdiag.plan.model import Baseline, Credentials, Health
from netdiag.plan.reader import PlanError, parse_plan, read_plan
from netdiag.plan.redact import redacted
from netdiag.plan.schema import plan_schema
from netdiag.plan.units import parse_duration, parse_ratio
from probes.model import Secret

EXAMPLE = """\
version = 1

[ticket]
id = "CE1006"
customer = "Vantage"
priority = "High"
status = "In Progress"
created = 2024-01-25
escalated = 2024-01-26
summary = "Intermittent connection timeouts and transaction failures at peak hours."
level = "Level 2"
engineer = "Senior Network Engineer"
contact = "Infrastructure Lead - Vantage"
sentiment = ["Customer is frustrated with ongoing network issues"]
current_status = ["Network team engaged for routing optimization"]

[impact]
users = 20_000
revenue_per_day = 100_000
sla = "99.9%"

[vantage]
name = "app-1"
region = "us-east"

[[endpoint]]
name = "ysql"
role = "load-balancer"
region = "us-east"
url = "postgresql://app@db.vantage.example:5433/yugabyte?sslmode=verify-full"
backends = ["db-east", "db-west"]
stats = "http://lb.vantage.example:8404/stats;csv"
health = { url = "http://{backend}:13000/health", matcher = "200", interval = "5s", timeout = "2s", unhealthy = 2 }

[[endpoint]]
name = "db-east"
role = "primary"
region = "us-east"
url = "postgresql://app@db-east.vantage.example:5433/yugabyte"

[[endpoint]]
name = "db-west"
role = "replica"
region = "us-west"
url = "postgresql://app@db-west.vantage.example:5433/yugabyte"

[[baseline]]
from = "us-east"
to = "us-west"
rtt = "50ms"
loss = "0.1%"
mtu = 1500
as_path = [65010, 65100, 65020]

[[router]]
name = "edge-east"
bird = "/run/bird/bird.ctl"

[dns]
resolvers = ["10.0.0.53", "10.0.1.53"]
origin_zone = false

[limits]
budget = "60s"
packets_per_second = 200
connections_per_second = 5
bulk_read = "16MiB"
"""
SHORT = 'version = 1\n[[endpoint]]\nname = "db"\nhost = "db.example"\nport = 5432\n'


def read(text: str, environ: dict[str, str] | None = None, home: Path | None = None):
    return parse_plan(text, "plan.toml", environ or {}, home)


def problems(text: str) -> list[str]:
    with pytest.raises(PlanError) as caught:
        read(text)
    assert str(caught.value).splitlines() == list(caught.value.problems)
    return list(caught.value.problems)


def test_the_example_of_the_product():
    plan = read(EXAMPLE)
    assert plan.ticket.created == dt.date(2024, 1, 25)
    assert plan.ticket.sentiment == ("Customer is frustrated with ongoing network issues",)
    assert (plan.impact.users, plan.impact.revenue_per_day, plan.impact.sla) == (20_000, 100_000.0, 0.999)
    assert plan.vantage.region == "us-east"
    ysql = plan.endpoints[0]
    assert (ysql.host, ysql.port, ysql.role, ysql.database) == ("db.vantage.example", 5433, "load-balancer", True)
    assert ysql.credentials == Credentials(user="app", dbname="yugabyte", sslmode="verify-full")
    assert ysql.backends == ("db-east", "db-west")
    assert ysql.health == Health(url="http://{backend}:13000/health", interval=5.0, timeout=2.0, unhealthy=2)
    assert plan.baselines == (
        Baseline(source="us-east", target="us-west", rtt=0.05, loss=0.001, mtu=1500, as_path=(65010, 65100, 65020)),
    )
    assert plan.routers[0].bird == "/run/bird/bird.ctl"
    assert plan.dns.resolvers == ("10.0.0.53", "10.0.1.53")
    assert plan.dns.origin_zone is None
    assert (plan.limits.budget, plan.limits.packets_per_second, plan.limits.connections_per_second) == (60, 200, 5)
    assert plan.limits.bulk_read == 16 << 20
    assert plan.warnings == ()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('rtt = "50ms"', 'rttt = "50ms"', "plan.toml:50: baseline[0].rttt: unknown key; did you mean `rtt`?"),
        (
            'rtt = "50ms"',
            "rtt = 50",
            'plan.toml:50: baseline[0].rtt: a duration needs its unit, in quotes; write "50ms" or "50s"',
        ),
        (
            'rtt = "50ms"',
            'rtt = "50"',
            'plan.toml:50: baseline[0].rtt: a duration needs its unit; write "50ms" or "50s"',
        ),
        (
            'rtt = "50ms"',
            'rtt = "50 parsecs"',
            "plan.toml:50: baseline[0].rtt: unknown unit; the units of time are us, ms, s, m, h, d",
        ),
        (
            'loss = "0.1%"',
            "loss = 0.1",
            'plan.toml:51: baseline[0].loss: a ratio needs its unit, in quotes; write "0.1%"',
        ),
        ('loss = "0.1%"', 'loss = "101%"', "plan.toml:51: baseline[0].loss: more than 100%"),
        ("mtu = 1500", "mtu = 70000", "plan.toml:52: baseline[0].mtu: must be a whole number from 576 to 65535"),
        ("mtu = 1500", "mtu = true", "plan.toml:52: baseline[0].mtu: must be a whole number from 576 to 65535"),
        (
            "[65010, 65100, 65020]",
            '[65010, "x"]',
            "plan.toml:53: baseline[0].as_path[1]: must be a whole number from 1 to 4294967295",
        ),
        (
            'from = "us-east"',
            'from = "us-eats"',
            'plan.toml:48: baseline[0].from: "us-eats" is no region or endpoint of this plan; did you mean `us-east`?',
        ),
        (
            '"db-east", "db-west"]',
            '"db-east", "db-wset"]',
            'plan.toml:31: endpoint[0].backends[1]: "db-wset" is not the name of another endpoint;'
            " did you mean `db-west`?",
        ),
        (
            'role = "replica"',
            'role = "secondary"',
            "plan.toml:43: endpoint[2].role: must be one of load-balancer, primary, replica, database, host",
        ),
        (
            'interval = "5s"',
            'intervall = "5s"',
            "plan.toml:33: endpoint[0].health.intervall: unknown key; did you mean `interval`?",
        ),
        (
            'url = "http://{backend}:13000/health", ',
            "",
            "plan.toml:33: endpoint[0].health: the key `url` is missing"
            ' (with "{backend}" where each backend\'s host goes)',
        ),
        (
            "version = 1",
            "version = 2",
            "plan.toml:1: version: this netdiag reads plans of version 1: write version = 1",
        ),
        ("version = 1", "", "plan.toml:1: plan: the key `version` is missing (of the plan's format: version = 1)"),
        (
            "created = 2024-01-25",
            'created = "25/1/24"',
            "plan.toml:8: ticket.created: must be a date without quotes, such as 2024-01-25",
        ),
        ('sla = "99.9%"', 'sla = "99.9"', 'plan.toml:20: impact.sla: a ratio is written in percent; write "99.9%"'),
        (
            'bird = "/run/bird/bird.ctl"',
            "",
            "plan.toml:55: router[0]: a router needs either `bird` or `frr`, and not both",
        ),
        (
            "origin_zone = false",
            "origin_zone = true",
            'plan.toml:61: dns.origin_zone: must be false or the name of a zone, such as "origin.asn.cymru.com"',
        ),
        (
            '"10.0.1.53"]',
            '"dns.example"]',
            "plan.toml:60: dns.resolvers[1]: must be an IP address: a resolver's name would need a resolver",
        ),
        ('budget = "60s"', 'budget = "0s"', "plan.toml:64: limits.budget: must be more than nothing"),
        ('budget = "60s"', 'budget = "600d"', "plan.toml:64: limits.budget: must be at most 7d"),
        (
            '"db-east", "db-west"]',
            '"db-east", "ysql"]',
            'plan.toml:31: endpoint[0].backends[1]: "ysql" is not the name of another endpoint;'
            " there are db-east, db-west",
        ),
        (
            "db-west.vantage.example:5433",
            "db-west.vantage.example:70000",
            "plan.toml:45: endpoint[2].url: the port of host 1 is not a number from 1 to 65535",
        ),
        (
            "app@db-west.vantage.example:5433",
            "app@a,b",
            "plan.toml:45: endpoint[2].url: names 2 hosts; write one [[endpoint]] for each",
        ),
        ("[dns]", "[[dns]]", "plan.toml:59: dns: must be a table with the keys resolvers, origin_zone"),
        (
            'stats = "http://lb',
            'stats = "http://admin:CANARY@lb',
            "plan.toml:32: endpoint[0].stats: must not carry a user and password: they would show in the report",
        ),
        (
            "[limits]",
            "[limits",
            "plan.toml:63: not TOML: Expected ']' at the end of a table declaration;"
            " quotes, brackets and one key per line, see toml.io",
        ),
    ],
)
def test_one_mistake_gives_one_line(old, new, message):
    assert EXAMPLE.count(old) >= 1
    assert problems(EXAMPLE.replace(old, new, 1)) == [message]


def test_a_name_may_be_given_once():
    text = EXAMPLE.replace('name = "db-west"', 'name = "db-east"').replace('"db-east", "db-west"]', '"db-east"]')
    assert problems(text) == ['plan.toml:42: endpoint[2].name: "db-east" is already endpoint[1]; rename one']


def test_all_mistakes_are_told_at_once_in_the_order_of_the_file():
    text = EXAMPLE.replace("users = 20_000", "users = -1").replace('rtt = "50ms"', "rtt = 50").replace("[dns]", "[dsn]")
    assert [problem.split(": ")[:2] for problem in problems(text)] == [
        ["plan.toml:18", "impact.users"],
        ["plan.toml:50", "baseline[0].rtt"],
        ["plan.toml:59", "dsn"],
    ]


def test_host_and_port_instead_of_a_url():
    (endpoint,) = read(SHORT).endpoints
    assert (endpoint.host, endpoint.port, endpoint.role, endpoint.database) == ("db.example", 5432, "host", False)
    assert endpoint.credentials is None


@pytest.mark.parametrize("role", ["primary", "replica", "database"])
def test_a_database_role_declares_a_database(role):
    (endpoint,) = read(SHORT + f'role = "{role}"\n').endpoints
    assert endpoint.database


def test_neither_host_nor_url():
    assert problems('version = 1\n[[endpoint]]\nname = "a"\n') == [
        "plan.toml:2: endpoint[0]: an endpoint needs either `url` or `host` (with `port`), and not both"
    ]


def test_an_empty_plan_and_one_without_endpoints():
    assert [problem.split(": ", 1)[1] for problem in problems("")] == [
        "plan: the key `endpoint` is missing (One named place: a balancer, a database, a host.)",
        "plan: the key `version` is missing (of the plan's format: version = 1)",
    ]
    assert problems("version = 1\nendpoint = []\n") == [
        "plan.toml:2: endpoint: the plan has no endpoint: write at least one [[endpoint]]"
    ]


def test_the_password_comes_from_the_password_file(tmp_path):
    passfile = tmp_path / ".pgpass"
    passfile.write_text("db-east.vantage.example:5433:yugabyte:app:s3cret\n")
    passfile.chmod(0o600)
    plan = read(EXAMPLE, {}, tmp_path)
    passwords = {endpoint.name: endpoint.credentials.password for endpoint in plan.endpoints}
    assert passwords == {"ysql": None, "db-east": Secret("s3cret"), "db-west": None}


def test_a_password_in_the_plan_works_with_a_warning_and_shows_nowhere():
    plan = read(EXAMPLE.replace("app@db-west", "app:CANARY@db-west"))
    assert plan.endpoints[2].credentials.password.reveal() == "CANARY"
    assert plan.warnings == (
        "endpoint[2].url: a password stands in the plan's url: move it to ~/.pgpass or PGPASSWORD",
    )
    assert "CANARY" not in repr(plan)
    assert redacted(plan).endpoints[2].credentials.password.reveal() == "***"
    assert redacted(plan).endpoints[:2] == plan.endpoints[:2]


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(PlanError, match=r"none\.toml: cannot be read \(No such file or directory\)"):
        read_plan(tmp_path / "none.toml", {})
    with pytest.raises(PlanError, match=r"cannot be read \(Is a directory\)"):
        read_plan(tmp_path, {})
    (tmp_path / "latin.toml").write_bytes(b"version = 1\n# caf\xe9\n")
    with pytest.raises(PlanError, match=r"latin\.toml:2: not UTF-8"):
        read_plan(tmp_path / "latin.toml", {})
    with pytest.raises(PlanError, match="this is not a plan"):
        read_plan(Path("/dev/zero"), {})


def test_a_byte_order_mark_and_line_ends_of_another_system(tmp_path):
    for name, raw in (("mark", b"\xef\xbb\xbf" + EXAMPLE.encode()), ("crlf", EXAMPLE.replace("\n", "\r\n").encode())):
        (tmp_path / name).write_bytes(raw)
        assert read_plan(tmp_path / name, {}) == read(EXAMPLE)


def test_a_deeply_nested_text_is_refused_and_not_a_traceback():
    depth = sys.getrecursionlimit() * 4
    assert problems("a = " + "[" * depth + "]" * depth) == ["plan.toml: nested too deeply; this is not a plan"]


def test_control_characters_of_a_key_do_not_reach_the_message():
    (unknown, _) = problems('version = 1\n"a\\u001b[31m" = 1\n')
    assert "\x1b" not in unknown


@pytest.mark.parametrize(
    ("text", "seconds"), [("50ms", 0.05), ("2s", 2), ("1m", 60), ("1.5 s", 1.5), ("250us", 0.00025), ("24h", 86400)]
)
def test_durations(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "ms", "-1s", "1e3s", "1 2s", "nan s", "inf", "٣s x"])
def test_no_durations(text):
    with pytest.raises(ValueError, match=r"duration|unit"):
        parse_duration(text)


@pytest.mark.parametrize(("text", "ratio"), [("99.9%", 0.999), ("0.1%", 0.001), ("0%", 0), ("100 %", 1)])
def test_ratios(text, ratio):
    assert parse_ratio(text) == ratio


def complaints(schema: dict, found: object, path: str = "") -> list[str]:
    """Just enough of JSON Schema for the plan's: independent of the reader and of the declarations."""
    kinds = {"object": dict, "array": list, "string": str, "integer": int, "number": (int, float)}
    kind = schema.get("type")
    if kind and (not isinstance(found, kinds[kind]) or (isinstance(found, bool) and kind != "boolean")):
        return [f"{path}: not {kind}"]
    bad = []
    bad += [f"{path}: enum"] if "enum" in schema and found not in schema["enum"] else []
    bad += [f"{path}: const"] if "const" in schema and found is not schema["const"] else []
    bad += [f"{path}: pattern"] if "pattern" in schema and not re.search(schema["pattern"], found) else []
    bad += [f"{path}: minLength"] if len(found if isinstance(found, str) else "xx") < schema.get("minLength", 0) else []
    bad += [f"{path}: minimum"] if "minimum" in schema and found < schema["minimum"] else []
    bad += [f"{path}: maximum"] if "maximum" in schema and found > schema["maximum"] else []
    bad += [f"{path}: exclusiveMinimum"] if "exclusiveMinimum" in schema and found <= schema["exclusiveMinimum"] else []
    if "anyOf" in schema and all(complaints(option, found) for option in schema["anyOf"]):
        bad.append(f"{path}: anyOf")
    if isinstance(found, dict):
        bad += [f"{path}.{key}: required" for key in schema.get("required", ()) if key not in found]
        for key, inner in found.items():
            known = schema["properties"].get(key)
            bad += complaints(known, inner, f"{path}.{key}") if known else [f"{path}.{key}: unknown"]
    if isinstance(found, list):
        bad += [
            line for index, item in enumerate(found) for line in complaints(schema["items"], item, f"{path}[{index}]")
        ]
    return bad


def as_json(text: str) -> object:
    """An editor's view of the TOML: dates are strings."""
    import json
    import tomllib

    return json.loads(json.dumps(tomllib.loads(text), default=str))


def verdict_of_an_editor(text: str) -> list[str]:
    from jsonschema import Draft202012Validator, FormatChecker

    Draft202012Validator.check_schema(plan_schema())
    validator = Draft202012Validator(plan_schema(), format_checker=FormatChecker())
    return [error.message for error in validator.iter_errors(as_json(text))]


@pytest.mark.parametrize("text", [EXAMPLE, SHORT])
def test_the_schema_accepts_what_the_reader_accepts(text):
    assert complaints(plan_schema(), as_json(text)) == []
    assert verdict_of_an_editor(text) == []
    read(text)


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ('rtt = "50ms"', "rtt = 50", ".baseline[0].rtt: not string"),
        ('rtt = "50ms"', 'rtt = "50"', ".baseline[0].rtt: pattern"),
        ('rtt = "50ms"', 'rttt = "50ms"', ".baseline[0].rttt: unknown"),
        ("mtu = 1500", "mtu = 70000", ".baseline[0].mtu: maximum"),
        ('role = "replica"', 'role = "x"', ".endpoint[2].role: enum"),
        ("origin_zone = false", "origin_zone = true", ".dns.origin_zone: anyOf"),
        ("packets_per_second = 200", "packets_per_second = 0", ".limits.packets_per_second: exclusiveMinimum"),
        ("version = 1\n", "", ".version: required"),
    ],
)
def test_the_schema_refuses_what_the_reader_refuses(old, new, complaint):
    text = EXAMPLE.replace(old, new, 1)
    assert complaints(plan_schema(), as_json(text)) == [complaint]
    assert len(problems(text)) == 1


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("version = 1\n", "version = 2\n"),
        ('role = "replica"', 'role = "replica"\nhost = "b"'),
        ("[[endpoint]]", '[[endpoint]]\nname = "x"\n[[endpoint]]'),
        ('role = "replica"', 'role = "replica"\nport = 5433'),
        ('bird = "/run/bird/bird.ctl"', ""),
        ('bird = "/run/bird/bird.ctl"', 'bird = "a"\nfrr = "b"'),
        ('budget = "60s"', 'budget = "0s"'),
        ('budget = "60s"', 'budget = "0.0 ms"'),
        ('customer = "Vantage"', 'customer = "  "'),
        ('stats = "http://lb', 'stats = "http://admin:CANARY@lb'),
        ('stats = "http://lb', 'stats = "ftp://lb'),
        ("created = 2024-01-25", 'created = "yesterday"'),
    ],
)
def test_an_editor_sees_each_of_these_as_the_reader_does(old, new):
    text = EXAMPLE.replace(old, new, 1)
    assert text != EXAMPLE
    assert problems(text)
    assert verdict_of_an_editor(text)
