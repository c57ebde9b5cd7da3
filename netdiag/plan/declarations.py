"""The plan's TOML, declared once: the strict reader, the JSON Schema and the reference page are made from this.

A kind reads one TOML value into what the model holds and raises ValueError with what to write instead.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import re
from collections.abc import Callable, Mapping
from typing import Any, get_args

from netdiag.plan.model import Role
from netdiag.plan.units import (
    DURATION_PATTERN,
    LARGEST_BULK,
    LONGEST_BUDGET_S,
    RATIO_PATTERN,
    SIZE_PATTERN,
    parse_bulk,
    parse_duration,
    parse_ratio,
)
from probes.model import value


@value
class Kind:
    """What a value must be. ``schema`` is its JSON Schema."""

    words: str
    read: Callable[[Any], Any]
    schema: Mapping[str, Any]


@value
class Key:
    """One key of a table. ``field`` is the model's name for it where that differs."""

    kind: Kind | Table
    about: str
    required: bool = False
    many: bool = False  # an array of ``kind``
    field: str | None = None


@value
class Table:
    """``either``: keys of which exactly one must stand. ``along``: a key, and the one that it must stand beside."""

    about: str
    keys: Mapping[str, Key]
    either: tuple[str, ...] = ()
    along: Mapping[str, str] | None = None


def _check(good: bool, complaint: str) -> None:
    if not good:
        raise ValueError(complaint)


def _text(found: Any) -> str:
    _check(isinstance(found, str), "must be text in quotes")
    _check(bool(found.strip()), "must not be empty; leave the key out instead")
    _check(all(character.isprintable() or character == "\n" for character in found), "has control characters in it")
    return str(found)


def _host_text(found: Any) -> str:
    text = _text(found)
    _check(re.search(r"\s", text) is None, "must not have spaces in it")
    return text


def _web_url(found: Any) -> str:
    text = _host_text(found)
    _check(re.match(r"https?://[^/?#]|tcp://[^/?#]", text) is not None, 'must be a URL such as "http://host:port/path"')
    _check("@" not in text.split("/")[2], "must not carry a user and password: they would show in the report")
    return text


def _resolver(found: Any) -> str:
    text = _text(found)
    address, mark, port = text.partition("#")
    _check(not mark or (port.isdecimal() and 1 <= int(port) <= 65535), 'must be an address, or "address#port"')
    try:
        return f"{ipaddress.ip_address(address)}{mark}{port}"
    except ValueError:
        raise ValueError("must be an IP address: a resolver's name would need a resolver") from None


def _zone(found: Any) -> str | None:
    _check(found is not True, 'must be false or the name of a zone, such as "origin.asn.cymru.com"')
    return None if found is False else _host_text(found)


def _duration(found: Any) -> float:
    return parse_duration(_measure(found, "duration", '"{}ms" or "{}s"'))


def _positive_duration(found: Any) -> float:
    seconds = _duration(found)
    _check(seconds > 0, "must be more than nothing")
    return seconds


def _budget(found: Any) -> float:
    seconds = _positive_duration(found)
    _check(seconds <= LONGEST_BUDGET_S, "must be at most 7d")
    return seconds


def _ratio(found: Any) -> float:
    return parse_ratio(_measure(found, "ratio", '"{}%"'))


def _bulk(found: Any) -> int:
    return parse_bulk(_measure(found, "size", '"{}MiB"'))


def _measure(found: Any, what: str, examples: str) -> str:
    number = isinstance(found, int | float) and not isinstance(found, bool)
    _check(not number, f"a {what} needs its unit, in quotes; write {examples.replace('{}', str(found))}")
    return _text(found)


def _day(found: Any) -> dt.date:
    if isinstance(found, dt.datetime):
        return found.date()
    _check(isinstance(found, dt.date), "must be a date without quotes, such as 2024-01-25")
    day: dt.date = found
    return day


def _choice(*choices: str) -> Kind:
    def read(found: Any) -> str:
        _check(isinstance(found, str) and found in choices, f"must be one of {', '.join(choices)}")
        return str(found)

    return Kind(words=" | ".join(choices), read=read, schema={"enum": list(choices)})


def _integer(low: int, high: int | None = None) -> Kind:
    words = f"a whole number from {low} to {high}" if high is not None else f"a whole number of at least {low}"

    def read(found: Any) -> int:
        whole = isinstance(found, int) and not isinstance(found, bool)
        _check(whole and found >= low and (high is None or found <= high), f"must be {words}")
        return int(found)

    schema = {"type": "integer", "minimum": low} | ({} if high is None else {"maximum": high})
    return Kind(words=words, read=read, schema=schema)


def _number(low: float, *, above: bool = False) -> Kind:
    words = f"a number above {low:g}" if above else f"a number of at least {low:g}"

    def read(found: Any) -> float:
        number = isinstance(found, int | float) and not isinstance(found, bool)
        _check(number and (found > low if above else found >= low) and found < 1e15, f"must be {words}")
        return float(found)

    return Kind(words=words, read=read, schema={"type": "number", ("exclusiveMinimum" if above else "minimum"): low})


def _version(found: Any) -> int:
    _check(found == 1 and type(found) is int, "this netdiag reads plans of version 1: write version = 1")
    return 1


VERSION = Kind(words="1", read=_version, schema={"const": 1})
TEXT = Kind(words="text", read=_text, schema={"type": "string", "pattern": r"\S"})
HOST = Kind(words="a name or address", read=_host_text, schema={"type": "string", "pattern": r"^\S+$"})
WEB_URL = Kind(
    words="a URL", read=_web_url, schema={"type": "string", "pattern": r"^(https?|tcp)://[^/?#@\s]+([/?#]\S*)?$"}
)
DURATION = Kind(words='a duration: "50ms"', read=_duration, schema={"type": "string", "pattern": DURATION_PATTERN})
POSITIVE = Kind(
    words='a duration: "60s"',
    read=_positive_duration,
    schema={"type": "string", "pattern": DURATION_PATTERN.replace("^", "^(?=.*[1-9])", 1)},
)
BUDGET = Kind(words='a duration: "60s"', read=_budget, schema=POSITIVE.schema)
RATIO = Kind(words='a ratio: "0.1%"', read=_ratio, schema={"type": "string", "pattern": RATIO_PATTERN})
SIZE = Kind(
    words='a size: "16MiB"',
    read=_bulk,
    schema={"type": "string", "pattern": SIZE_PATTERN.replace("^", "^(?=.*[1-9])", 1)},
)
DATE = Kind(words="a date: 2024-01-25", read=_day, schema={"type": "string", "format": "date"})
ADDRESS = Kind(words='an address, or "address#port"', read=_resolver, schema={"type": "string", "minLength": 2})
ZONE = Kind(words="false or a zone's name", read=_zone, schema={"anyOf": [{"const": False}, {"type": "string"}]})

TICKET = Table(
    about="Carried into the report as it stands; all of it optional, none of it invented.",
    keys={
        "id": Key(kind=TEXT, about="the ticket's number"),
        "customer": Key(kind=TEXT, about="whose incident it is"),
        "priority": Key(kind=TEXT, about="in the ticket system's words"),
        "status": Key(kind=TEXT, about="in the ticket system's words"),
        "created": Key(kind=DATE, about="day of the ticket"),
        "escalated": Key(kind=DATE, about="day of the escalation"),
        "summary": Key(kind=TEXT, about="the complaint, in the customer's words"),
        "level": Key(kind=TEXT, about="escalation level"),
        "engineer": Key(kind=TEXT, about="assigned engineer"),
        "contact": Key(kind=TEXT, about="the customer's contact"),
        "sentiment": Key(kind=TEXT, about="customer sentiment, a line each", many=True),
        "current_status": Key(kind=TEXT, about="what is under way, a line each", many=True),
    },
)
IMPACT = Table(
    about="What is at stake; the report scales it by the measured failure ratio.",
    keys={
        "users": Key(kind=_integer(0), about="users of the application"),
        "revenue_per_day": Key(kind=_number(0), about="in the ticket's currency"),
        "sla": Key(kind=RATIO, about="promised availability"),
    },
)
VANTAGE = Table(
    about="Where netdiag runs.",
    keys={
        "name": Key(kind=TEXT, about="default: the host's name"),
        "region": Key(kind=TEXT, about="region of this host"),
    },
)
HEALTH = Table(
    about="The balancer's own health check, as it is configured there.",
    keys={
        "url": Key(kind=WEB_URL, about='with "{backend}" where each backend\'s host goes', required=True),
        "matcher": Key(kind=TEXT, about="status codes that count as healthy"),
        "interval": Key(kind=POSITIVE, about="between checks"),
        "timeout": Key(kind=POSITIVE, about="of one check"),
        "unhealthy": Key(kind=_integer(1, 100), about="failures in a row until a backend is taken out"),
    },
)
ENDPOINT = Table(
    about="One named place: a balancer, a database, a host.",
    keys={
        "name": Key(kind=TEXT, about="how the plan and the report call it", required=True),
        "role": Key(kind=_choice(*get_args(Role)), about="default: database with a database's url, else host"),
        "region": Key(kind=TEXT, about="region it stands in"),
        "url": Key(kind=TEXT, about="the application's own DSN, or host:port; password not here but in ~/.pgpass"),
        "host": Key(kind=HOST, about="instead of url"),
        "port": Key(kind=_integer(1, 65535), about="with host"),
        "backends": Key(kind=TEXT, about="names of the endpoints behind this balancer", many=True),
        "stats": Key(kind=WEB_URL, about="where the balancer tells its own view"),
        "health": Key(kind=HEALTH, about="the balancer's health check"),
    },
    either=("url", "host"),
    along={"port": "host"},
)
BASELINE = Table(
    about="What is normal from one region or endpoint to another; one direction.",
    keys={
        "from": Key(kind=TEXT, about="region or endpoint", required=True, field="source"),
        "to": Key(kind=TEXT, about="region or endpoint", required=True, field="target"),
        "rtt": Key(kind=POSITIVE, about="normal round-trip time"),
        "loss": Key(kind=RATIO, about="normal loss"),
        "mtu": Key(kind=_integer(576, 65535), about="normal path MTU, bytes"),
        "as_path": Key(kind=_integer(1, 2**32 - 1), about="normal AS path", many=True),
    },
)
ROUTER = Table(
    about="A router that will speak: one of bird and frr.",
    keys={
        "name": Key(kind=TEXT, about="how the report calls it", required=True),
        "bird": Key(kind=TEXT, about="path of BIRD's control socket"),
        "frr": Key(kind=TEXT, about="the vtysh command of FRR"),
    },
    either=("bird", "frr"),
)
DNS = Table(
    about="Which resolvers are asked.",
    keys={
        "resolvers": Key(kind=ADDRESS, about="default: the host's own", many=True),
        "origin_zone": Key(kind=ZONE, about="zone for IP -> ASN lookups; they tell a third party what is looked at"),
    },
)
LIMITS = Table(
    about="Ceilings that keep production safe.",
    keys={
        "budget": Key(kind=BUDGET, about="the whole run, an absolute deadline; at most 7d"),
        "packets_per_second": Key(kind=_number(0, above=True), about="across all targets; only --rate raises it"),
        "connections_per_second": Key(kind=_number(0, above=True), about="new database connections per address"),
        "bulk_read": Key(
            kind=SIZE,
            about="how much is read of each database address at the end of a run, one after the other, to see whether "
            f"a large transfer stalls; at most {LARGEST_BULK >> 30}GiB. Default: nothing is",
        ),
    },
)
PLAN = Table(
    about="A deployment that netdiag measures.",
    keys={
        "version": Key(kind=VERSION, about="of the plan's format: version = 1", required=True),
        "ticket": Key(kind=TICKET, about=TICKET.about),
        "impact": Key(kind=IMPACT, about=IMPACT.about),
        "vantage": Key(kind=VANTAGE, about=VANTAGE.about),
        "endpoint": Key(kind=ENDPOINT, about=ENDPOINT.about, many=True, required=True),
        "baseline": Key(kind=BASELINE, about=BASELINE.about, many=True),
        "router": Key(kind=ROUTER, about=ROUTER.about, many=True),
        "dns": Key(kind=DNS, about=DNS.about),
        "limits": Key(kind=LIMITS, about=LIMITS.about),
    },
)
