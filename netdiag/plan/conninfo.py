"""PostgreSQL connection strings -> keyword and value, by libpq's own rules (its manual, section 34.1.1).

psycopg could do this and costs 35 ms of start-up, refuses options of other drivers (``load_balance_hosts=true``,
``topology_keys``) and quotes the text, password included, in its errors. Here no error repeats anything of the
text: a mistyped password may stand wherever a host or a port was meant.
"""

from __future__ import annotations

import re
from urllib.parse import unquote_plus

URI_SCHEMES = ("postgresql://", "postgres://")
JDBC_PORTS = {"jdbc:postgresql:": 5432, "jdbc:yugabytedb:": 5433}

_PERCENT = re.compile(rb"%([0-9A-Fa-f]{2})?")
_USERINFO = re.compile(r"([^@/]*)@")
_BRACKETED = re.compile(r"\[([^\]]*)\](?=[:/?,]|$)")
_NAME = re.compile(r"[^:/?,]*")
_PORT = re.compile(r":([^/?,]*)")
_PAIR = re.compile(r"([^=\s]*)\s*=\s*(?:'((?:\\.|[^'\\])*)'|(?!')((?:\\.|[^\s\\])*\\?))\s*", re.DOTALL | re.ASCII)
_ESCAPE = re.compile(r"\\(.?)", re.DOTALL)


class TargetError(ValueError):
    """A target that cannot be read: one line, with nothing in it that may be a password."""


def decode(text: str) -> str:
    """Percent-decode as libpq does: strict, and ``+`` is a plus sign."""

    def octet(match: re.Match[bytes]) -> bytes:
        if match[1] is None or match[1] == b"00":
            raise TargetError("the URL has a % that is not followed by two hexadecimal digits; write %25 for %")
        return bytes.fromhex(match[1].decode())

    try:
        return _PERCENT.sub(octet, text.encode()).decode()
    except UnicodeError:
        raise TargetError("the URL's percent-encoded bytes are not UTF-8") from None


def parse_uri(text: str) -> dict[str, str]:
    """``postgresql://[user[:password]@][host[:port],...][/dbname][?keyword=value&...]``."""
    options, rest = _userinfo(text.partition("://")[2])
    hosts, ports, rest = _places(rest)
    options |= _present(host=decode(",".join(hosts)), port=decode(",".join(ports)))
    path, _, query = rest.partition("?")
    if "@" in path:
        raise TargetError('the URL has an "@" after its first "/"; in a password write %2F for "/" and %40 for "@"')
    options |= _present(dbname=decode(path.removeprefix("/")))
    return options | _query(query)


def _present(**options: str) -> dict[str, str]:
    return {key: value for key, value in options.items() if value}


def _userinfo(rest: str) -> tuple[dict[str, str], str]:
    match = _USERINFO.match(rest)
    if match is None:
        return {}, rest
    user, _, password = match[1].partition(":")
    found = {"user": user, "password": password}
    return {key: decode(value) for key, value in found.items() if value}, rest[match.end() :]


def _places(rest: str) -> tuple[list[str], list[str], str]:
    """Hosts, their ports ("" where none is given), and what follows."""
    hosts: list[str] = []
    ports: list[str] = []
    while True:
        host = (_BRACKETED if rest.startswith("[") else _NAME).match(rest)
        if host is None or (rest.startswith("[") and not host[1]):
            raise TargetError('an IPv6 address in a URL is written "[address]:port"')
        hosts.append(host[1] if rest.startswith("[") else host[0])
        rest = rest[host.end() :]
        port = _PORT.match(rest)
        ports.append(port[1] if port else "")
        rest = rest[port.end() :] if port else rest
        if not rest.startswith(","):
            return hosts, ports, rest
        rest = rest[1:]


def _query(query: str) -> dict[str, str]:
    options: dict[str, str] = {}
    query = query.removesuffix("&") if len(query) > 1 else query
    for number, pair in enumerate(query.split("&") if query else (), start=1):
        key, equals, value = pair.partition("=")
        if not equals or "=" in value:
            raise TargetError(f'parameter {number} after the "?" of the URL is not of the form keyword=value')
        options[decode(key)] = decode(value)
    if options.get("ssl") == "true" and "sslmode" not in options:  # libpq's own courtesy to JDBC URLs
        options["sslmode"] = "require"
    options.pop("ssl", None)
    return options


def parse_keywords(text: str) -> dict[str, str]:
    """``host=... port=...``; values in single quotes where they have spaces; backslash escapes."""
    options: dict[str, str] = {}
    at = len(text) - len(text.lstrip())
    while at < len(text):
        match = _PAIR.match(text, at)
        if match is None or not match[1]:
            number = len(options) + 1
            raise TargetError(f"setting {number} is not of the form keyword=value; put a value with spaces into '...'")
        value = match[2] if match[2] is not None else match[3]
        options[match[1]] = _ESCAPE.sub(r"\1", value)
        at = match.end()
    return options


def parse_jdbc(text: str) -> dict[str, str]:
    """``jdbc:postgresql://host:port,host:port/database?user=...&password=...`` and YugabyteDB's like.

    pgjdbc decodes ``+`` as a space in parameters, and its ``ssl=true`` means verify-full.
    """
    scheme = next(scheme for scheme in JDBC_PORTS if text.startswith(scheme))
    body, _, query = text.removeprefix(scheme).partition("?")
    if not body.startswith("//"):
        body = f"//localhost/{body.removeprefix('/')}"
    options = parse_uri(f"postgresql:{body}")
    options.setdefault("host", "localhost")
    options["port"] = _jdbc_ports(options, JDBC_PORTS[scheme])
    return options | _jdbc_query(query)


def _jdbc_ports(options: dict[str, str], default: int) -> str:
    given = options.get("port", "").split(",")
    count = options["host"].count(",") + 1
    return ",".join(port or str(default) for port in given + [""] * (count - len(given)))


_JDBC_KEYWORDS = {
    "connectTimeout": "connect_timeout",
    "sslNegotiation": "sslnegotiation",
    "loadBalanceHosts": "load_balance_hosts",
    "targetServerType": "target_session_attrs",
}
_JDBC_SERVER_TYPES = {
    "master": "primary",
    "preferPrimary": "any",
    "secondary": "standby",
    "slave": "standby",
    "preferSecondary": "prefer-standby",
    "preferSlave": "prefer-standby",
}


def _jdbc_query(query: str) -> dict[str, str]:
    pairs = (pair.partition("=") for pair in query.split("&") if pair)
    given = {unquote_plus(key): unquote_plus(value) for key, _, value in pairs}
    if "ssl" in given and given.pop("ssl") in ("", "true"):
        given.setdefault("sslmode", "verify-full")
    if given.get("targetServerType") in _JDBC_SERVER_TYPES:
        given["targetServerType"] = _JDBC_SERVER_TYPES[given["targetServerType"]]
    # A JDBC URL's host and port stand in its authority: pgjdbc's PGHOST-like properties are not ours.
    return {_JDBC_KEYWORDS.get(key, key): value for key, value in given.items() if key not in ("host", "port")}
