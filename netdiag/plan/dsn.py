"""A target as the application writes it -> Endpoints: DSN forms, ``host:port``, ``host``.

Order of precedence as in libpq: the text, then its service, then the PG* environment, then the password file. A
plain ``host`` or ``host:port`` takes nothing from the environment: the user of another database, and its password,
have no business at a place that was only named.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from netdiag.plan.conninfo import JDBC_PORTS, URI_SCHEMES, TargetError, parse_jdbc, parse_keywords, parse_uri
from netdiag.plan.libpq_files import PasswordLookup, find_password, read_service
from netdiag.plan.model import Alternatives, Credentials, Endpoint
from probes.model import Secret, value

__all__ = ["TargetError", "Targets", "parse_place", "parse_target"]

POSTGRESQL_PORT = 5432
SESSION_ATTRIBUTES = ("any", "read-write", "read-only", "primary", "standby", "prefer-standby")
SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
ENVIRONMENT = {
    "host": "PGHOST",
    "hostaddr": "PGHOSTADDR",
    "port": "PGPORT",
    "dbname": "PGDATABASE",
    "user": "PGUSER",
    "password": "PGPASSWORD",
    "passfile": "PGPASSFILE",
    "sslmode": "PGSSLMODE",
    "sslrootcert": "PGSSLROOTCERT",
    "sslcert": "PGSSLCERT",
    "sslkey": "PGSSLKEY",
    "sslnegotiation": "PGSSLNEGOTIATION",
    "channel_binding": "PGCHANNELBINDING",
    "connect_timeout": "PGCONNECT_TIMEOUT",
    "target_session_attrs": "PGTARGETSESSIONATTRS",
    "load_balance_hosts": "PGLOADBALANCEHOSTS",
    "service": "PGSERVICE",
}
_PASSWORD_FROM = " password from"  # no keyword of libpq's has a blank in it
_SQLALCHEMY = re.compile(r"\Apostgres(?:ql)?\+[a-z0-9_]+://")  # postgresql+psycopg2://: the driver is not ours
_LABEL = re.compile(r"[^\W_](?:[\w-]{0,61}[^\W_])?|_[\w-]{0,62}|[^\W_][\w-]{0,61}_")
_FORMS = "a DSN (postgresql://..., host=..., service=..., jdbc:postgresql://...), host:port or a host"


@value
class Targets:
    """What one target names. ``warnings`` are for the person who wrote it."""

    endpoints: tuple[Endpoint, ...]
    warnings: tuple[str, ...] = ()


def parse_target(text: str, environ: Mapping[str, str], home: Path | None, *, written_in: str = "argument") -> Targets:
    """Read one target; an empty one means the PG* environment. Raises TargetError.

    ``written_in`` is "argument" or "plan": where the text stands, for the warning about a password in it.
    """
    text = text.strip()
    if any(not character.isprintable() and character not in "\t\n\r\f\v" for character in text):
        raise TargetError("the target has control characters in it")
    if not text and not (environ.get("PGHOST") or environ.get("PGHOSTADDR") or environ.get("PGSERVICE")):
        raise TargetError(f"no target: give {_FORMS}, or set PGHOST")
    text = _SQLALCHEMY.sub("postgresql://", text)
    if text.startswith(URI_SCHEMES):
        return _database(parse_uri(text), environ, home, written_in)
    if text.startswith(tuple(JDBC_PORTS)):
        return _database(parse_jdbc(text), environ, home, written_in, driver="pgjdbc")
    if "://" in text.partition("=")[0]:
        raise TargetError(f"the target is a URL that is not PostgreSQL's; give {_FORMS}")
    if "=" in text or not text:
        return _database(parse_keywords(text), environ, home, written_in)
    host, port = parse_place(text)
    return Targets(endpoints=(Endpoint(name=place_name(host, port), host=host, port=port),))


def parse_place(text: str) -> tuple[str, int | None]:
    """``host``, ``host:port``, an IPv6 literal, ``[v6]``, ``[v6]:port``. Raises TargetError."""
    if "@" in text:
        raise TargetError('an "@" in a target: a user belongs into a DSN, postgresql://user@host:port/database')
    bracketed = re.fullmatch(r"\[([^\]]*)\](?::(.*))?", text, re.DOTALL)
    if bracketed:
        return _ipv6(bracketed[1]), None if bracketed[2] is None else read_port(bracketed[2])
    if text.count(":") > 1:
        return _ipv6(text), None
    host, colon, port = text.partition(":")
    if host.isdecimal():
        raise TargetError("a number alone is not a host; give host:port")
    return check_host(host), read_port(port) if colon else None


def _ipv6(text: str) -> str:
    try:
        return str(ipaddress.IPv6Address(text))
    except ValueError:
        raise TargetError('not an IPv6 address; give host:port, or "[address]:port" for IPv6') from None


def read_port(text: str, what: str = "the port") -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 5 and 1 <= int(text) <= 65535):
        raise TargetError(f"{what} is not a number from 1 to 65535")
    return int(text)


def check_host(host: str) -> str:
    """The host itself, if it may be a name or an address. Raises TargetError, which does not repeat it."""
    if not host:
        raise TargetError(f"the target names no host; give {_FORMS}")
    if host.startswith(("/", "@")):
        raise TargetError(
            "the host is a Unix socket, which has no network to diagnose; give the server's name or address"
        )
    if ":" in host:
        return _ipv6(host)
    labels = host.removesuffix(".").split(".")
    if len(host) > 254 or not all(_LABEL.fullmatch(label) for label in labels):
        raise TargetError(
            'the host is not a name or an address; in a DSN write "@", ":" and "/" of a password as %40, %3A, %2F'
        )
    return host


def place_name(host: str, port: int | None) -> str:
    if port is None:
        return host
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _database(
    stated: dict[str, str],
    environ: Mapping[str, str],
    home: Path | None,
    written_in: str,
    *,
    driver: Literal["libpq", "pgjdbc"] = "libpq",
) -> Targets:
    options = _complete(stated, environ, home)
    warnings = [_password_warning(written_in)] if stated.get("password") else []
    endpoints: dict[str, Endpoint] = {}
    places = _places(options)
    alternatives = _alternatives(options, tuple(dict.fromkeys(place_name(h, p) for h, _, p in places)), driver)
    for host, address, port in places:
        credentials, warning = _credentials(options, host, port, home)
        warnings += [warning] if warning and warning not in warnings else []
        name = place_name(host, port)
        endpoints[name] = Endpoint(
            name=name,
            role="database",
            host=host,
            port=port,
            address=address if address != host else None,
            database=True,
            credentials=credentials,
            alternatives=alternatives,
        )
    return Targets(endpoints=tuple(endpoints.values()), warnings=tuple(warnings))


def _alternatives(
    options: Mapping[str, str], hosts: tuple[str, ...], driver: Literal["libpq", "pgjdbc"]
) -> Alternatives | None:
    """None where the driver has no choice to make. YugabyteDB's drivers write load_balance_hosts=true."""
    attributes = options.get("target_session_attrs", "any")
    if attributes not in SESSION_ATTRIBUTES:
        raise TargetError(f"target_session_attrs is none of {', '.join(SESSION_ATTRIBUTES)}")
    if len(hosts) == 1 and attributes in ("any", "prefer-standby"):
        return None
    shuffled = options.get("load_balance_hosts", "disable").lower() in ("random", "true")
    return Alternatives(hosts=hosts, target_session_attrs=attributes, shuffled=shuffled, driver=driver)


def _password_warning(written_in: str) -> str:
    if written_in == "plan":
        return "a password stands in the plan's url: move it to ~/.pgpass or PGPASSWORD"
    return (
        "a password stands in the command line, where the process list and the shell's history show it:"
        " move it to ~/.pgpass or PGPASSWORD"
    )


def _complete(stated: dict[str, str], environ: Mapping[str, str], home: Path | None) -> dict[str, str]:
    """What is stated, then what its service says, then the environment. An empty value counts as not stated."""
    given = {key: setting for key, setting in stated.items() if setting}
    service = given.get("service") or environ.get("PGSERVICE")
    named = read_service(service, environ, home) if service else {}
    inherited = {key: environ[name] for key, name in ENVIRONMENT.items() if environ.get(name)}
    named = {key: setting for key, setting in named.items() if setting}
    layers = (("the connection string", given), (f"service {service}", named), ("PGPASSWORD", inherited))
    origin = {_PASSWORD_FROM: next((where for where, layer in layers if "password" in layer), "")}
    return inherited | named | given | origin


def _places(options: Mapping[str, str]) -> list[tuple[str, str | None, int]]:
    """(host, address to dial or None, port) of each place. Counts must agree, as in libpq."""
    hosts = options.get("host", "").split(",") if options.get("host") else []
    addresses = options.get("hostaddr", "").split(",") if options.get("hostaddr") else []
    if not hosts and not addresses:
        raise TargetError("the target names no host (libpq would use a local socket); add host=... or set PGHOST")
    if hosts and addresses and len(hosts) != len(addresses):
        raise TargetError(f"{len(hosts)} hosts but {len(addresses)} hostaddr: give as many of one as of the other")
    count = max(len(hosts), len(addresses))
    ports = options.get("port", "").split(",")
    if len(ports) not in (1, count):
        raise TargetError(f"{len(ports)} ports for {count} hosts: give one port, or one for each host")
    ports = ports * count if len(ports) == 1 else ports
    return [
        _place(hosts[index] if hosts else "", addresses[index] if addresses else "", ports[index], index + 1)
        for index in range(count)
    ]


def _place(host: str, address: str, port: str, number: int) -> tuple[str, str | None, int]:
    if address:
        try:
            address = str(ipaddress.ip_address(address))
        except ValueError:
            raise TargetError(f"hostaddr {number} is not an IP address") from None
    dialled = check_host(host or address)
    return dialled, address or None, read_port(port, f"the port of host {number}") if port else POSTGRESQL_PORT


def _credentials(
    options: Mapping[str, str], host: str, port: int, home: Path | None
) -> tuple[Credentials | None, str | None]:
    """Credentials only where a user or TLS settings are stated: no user is ever invented."""
    mode, negotiation = options.get("sslmode", "prefer"), options.get("sslnegotiation", "postgres")
    if mode not in SSL_MODES:
        raise TargetError(f"sslmode is none of {', '.join(SSL_MODES)}")
    if negotiation not in ("postgres", "direct"):
        raise TargetError("sslnegotiation is neither postgres nor direct")
    binding = options.get("channel_binding", "prefer")
    if binding not in ("disable", "prefer", "require"):
        raise TargetError("channel_binding is none of disable, prefer, require")
    user = options.get("user")
    found = _password(options, host, port, home) if user else PasswordLookup()
    credentials = Credentials(
        user=user,
        password=found.password,
        password_from=found.source,
        dbname=options.get("dbname"),
        sslmode=mode,
        **_tls_files(options, mode, home),
        sslnegotiation=negotiation,
        channel_binding=binding,
        connect_timeout=_connect_timeout(options),
    )
    if user is None and credentials == Credentials(dbname=credentials.dbname):
        return None, found.warning
    return credentials, found.warning


def _tls_files(options: Mapping[str, str], mode: str, home: Path | None) -> dict[str, str | None]:
    """The files that libpq would use, its defaults in ~/.postgresql included (its manual, 34.19).

    A root certificate that is not there counts only where the server's must be verified, a client's never does. With
    none at all the system's store verifies, where libpq would give up.
    """
    folder = home / ".postgresql" if home else None
    root = options.get("sslrootcert") or _existing(folder, "root.crt")
    if root not in (None, "system") and mode not in ("verify-ca", "verify-full") and not _there(root):
        root = None
    certificate = options.get("sslcert") or _existing(folder, "postgresql.crt")
    if certificate is None or not _there(certificate):
        return {"sslrootcert": root, "sslcert": None, "sslkey": None}
    key = options.get("sslkey") or (str(folder / "postgresql.key") if folder else None)
    return {"sslrootcert": root, "sslcert": certificate, "sslkey": key}


def _existing(folder: Path | None, name: str) -> str | None:
    return str(folder / name) if folder is not None and _there(str(folder / name)) else None


def _there(path: str) -> bool:
    """False also where a folder on the way may not be entered, as libpq's stat() has it."""
    return os.path.exists(path)


def _password(options: Mapping[str, str], host: str, port: int, home: Path | None) -> PasswordLookup:
    if options.get("password"):
        return PasswordLookup(password=Secret(options["password"]), source=options.get(_PASSWORD_FROM))
    explicit = options.get("passfile")
    if not explicit and home is None:
        return PasswordLookup()
    path = Path(explicit) if explicit else (home or Path()) / ".pgpass"
    user = options["user"]
    return find_password(
        path, explicit=bool(explicit), host=host, port=port, dbname=options.get("dbname", user), user=user
    )


def _connect_timeout(options: Mapping[str, str]) -> float | None:
    """Seconds; None where libpq would wait for ever (not set, zero or negative)."""
    text = options.get("connect_timeout", "0").strip()
    if not re.fullmatch(r"[+-]?\d{1,9}", text):
        raise TargetError("connect_timeout is not a whole number of seconds")
    return float(text) if int(text) > 0 else None
