"""For each measurement the command that anyone can run to see it again: ordinary tools where they can, else netdiag.

No command holds a secret; every remote or typed word is quoted, so that a hostile name stays one argument.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from netdiag.plan.endpoints import is_local_name
from netdiag.report.sanitize import clean
from probes.balancer import BalancerMeasurement
from probes.model import Measurement, Outcome
from probes.names import DnsQuery, NamesMeasurement
from probes.ports import PortsMeasurement, PortState
from probes.routing import RoutingMeasurement
from probes.wire.origin import origin_name


def reproduce(measurement: Measurement[Any]) -> str:
    """A one-line POSIX shell command that repeats ``measurement``."""
    return _COMMANDS.get(measurement.probe, _netdiag)(measurement)


def _words(*words: str) -> str:
    return " ".join(shlex.quote(clean(word)) for word in words)


def _operand(word: str) -> tuple[str, ...]:
    """An operand that begins with a dash must not be read as an option (POSIX utility syntax, guideline 10)."""
    return ("--", word) if clean(word).startswith("-") else (word,)


def _where(measurement: Measurement[Any]) -> str:
    return measurement.target.address or measurement.target.host


def _netdiag(measurement: Measurement[Any]) -> str:
    return _words("netdiag", "probe", *_operand(measurement.probe), *_operand(measurement.target.label()))


def _latency(measurement: Measurement[Any]) -> str:
    method = getattr(measurement.data, "method", None) or measurement.options.get("method")
    if method == "icmp":
        return _words("ping", "-n", "-c", "10", *_operand(_where(measurement)))
    return _netdiag(measurement)


def _ports(measurement: Measurement[Any]) -> str:
    port = _telling_port(measurement)
    if port is None:
        return _netdiag(measurement)
    return _words("nc", "-vz", "-w", "2", *_operand(_where(measurement)), str(port))


def _telling_port(measurement: Measurement[Any]) -> int | None:
    """The first service port that is not open, else the one that the measurement was about."""
    if not isinstance(measurement.data, PortsMeasurement):
        return measurement.target.port
    services = [result for result in measurement.data.ports if not result.control]
    shut = [result.port for result in services if result.state is not PortState.OPEN]
    return next(iter((*shut, *(result.port for result in services))), measurement.target.port)


def _names(measurement: Measurement[Any]) -> str:
    data = measurement.data
    query = _telling_query(data) if isinstance(data, NamesMeasurement) else None
    name = data.name if isinstance(data, NamesMeasurement) else measurement.target.host
    base = ("dig", "+tries=1", "+time=2")
    if query is None and is_local_name(name):  # no resolver was asked: the host's own look-up is all there was
        return _words("getent", "ahosts", name)
    if query is None:
        return _words(*base, *_question(name, "A"))
    if query.sampled:  # a share is not to be had from one question
        return f"{_netdiag(measurement)} {_sample_settings(measurement)}"
    transport = ("+tcp",) if query.transport == "tcp" else ()
    return _words(*base, *transport, *_DIG[query.how], *_server(query.resolver), *_question(name, query.record_type))


_DIG: dict[str, tuple[str, ...]] = {"edns": (), "plain": ("+noedns",), "unchecked": ("+cdflag",)}


def _telling_query(data: NamesMeasurement) -> DnsQuery | None:
    """The first question that went wrong, else the first one asked."""
    wrong = (query for query in data.queries if query.outcome is not Outcome.ANSWERED or query.rcode != "NOERROR")
    return next(wrong, next(iter(data.queries), None))


def _sample_settings(measurement: Measurement[Any]) -> str:
    samples, resolvers = measurement.options.get("samples"), measurement.options.get("resolvers") or ()
    of = ("--set", f"resolvers={','.join(resolvers)}") if resolvers else ()
    return _words("--set", f"samples={samples}", *of)


def _server(resolver: str) -> tuple[str, ...]:
    address, _, port = resolver.partition("#")
    return (f"@{address}", "-p", port) if port else (f"@{address}",)


def _question(name: str, record_type: str) -> tuple[str, ...]:
    # dig reads "+word", "@word" and "-word" as its own wherever they stand; -q takes the next word as it is.
    return ("-q", name, "-t", record_type) if clean(name)[:1] in {"", "-", "+", "@"} else (name, record_type)


def _database(measurement: Measurement[Any]) -> str:
    user = measurement.options.get("user")
    if not user:
        return _netdiag(measurement)
    settings = " ".join(f"{key}={_conninfo(text)}" for key, text in _settings(measurement, str(user)))
    return _words("psql", settings, "-c", _STATEMENTS[measurement.probe])


_STATEMENTS = {
    "database": "SELECT 1",
    "replication": "SELECT pg_is_in_recovery(), pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn(), "
    "(SELECT count(*) FROM pg_stat_wal_receiver) AS receivers, (SELECT count(*) FROM pg_stat_replication) AS senders",
}


def _settings(measurement: Measurement[Any], user: str) -> list[tuple[str, str]]:
    target, options = measurement.target, measurement.options
    address = target.address if target.address != target.host else None
    wanted = {
        "host": target.host,
        "hostaddr": address,
        "port": target.port,
        "user": user,
        "dbname": options.get("dbname") or user,
        "sslmode": options.get("sslmode"),
        "sslrootcert": options.get("ssl_root_certificate"),
        "connect_timeout": 5,
    }
    return [(key, clean(str(setting))) for key, setting in wanted.items() if setting]


def _conninfo(text: str) -> str:
    """A keyword/value setting as libpq reads it (34.1.1.1): quotes where it has spaces, backslash before ' and \\."""
    if text and not set(text) & set(" '\\="):
        return text
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _balancer(measurement: Measurement[Any]) -> str:
    data = measurement.data
    if not isinstance(data, BalancerMeasurement) or not (data.backends or data.view):
        return _netdiag(measurement)
    checked = next(
        (backend for backend in data.backends if backend.consecutive_failures), next(iter(data.backends), None)
    )
    if checked is None:
        return _curl(data.view.url if data.view else "", ())
    if checked.url.startswith("tcp://"):
        return _words("nc", "-vz", "-w", "2", *_operand(checked.address), str(checked.port))
    host = urlsplit(checked.url).hostname
    address = f"[{checked.address}]" if ":" in checked.address else checked.address
    # The check goes to the backend's address, whatever name the URL gives for the Host field.
    elsewhere = () if host == checked.address else ("--connect-to", f"::{address}:{checked.port}")
    return _curl(checked.url, elsewhere)


def _curl(url: str, more: tuple[str, ...]) -> str:
    insecure = ("-k",) if url.startswith("https:") else ()  # as the check does
    return _words("curl", "-sS", *insecure, *more, "-m", "2", "-o", "/dev/null", "-w", r"%{http_code}\n", url)


def _routing(measurement: Measurement[Any]) -> str:
    """A router's sessions, or the first hop that was asked of the zone."""
    control = measurement.options.get("bird")
    if control:
        return _words("birdc", "-r", "-s", str(control), "show", "protocols", "all")
    name = _origin_question(measurement.data)
    return _netdiag(measurement) if name is None else _words("dig", "+short", name, "TXT")


def _origin_question(data: object) -> str | None:
    if not isinstance(data, RoutingMeasurement) or not data.queries or data.zone is None:
        return None
    return origin_name(data.queries[0].address, data.zone)


def _host(measurement: Measurement[Any]) -> str:
    return "cat /proc/sys/net/netfilter/nf_conntrack_count /proc/sys/net/netfilter/nf_conntrack_max"


def _idle(measurement: Measurement[Any]) -> str:
    """psql sends keepalives where the system says so, and cannot tell an unacknowledged packet."""
    seconds = measurement.options.get("seconds")
    return f"{_netdiag(measurement)}{f' --set seconds={seconds:g}' if isinstance(seconds, int | float) else ''}"


_COMMANDS: dict[str, Callable[[Measurement[Any]], str]] = {
    "latency": _latency,
    "loss": _latency,
    "names": _names,
    "ports": _ports,
    "database": _database,
    "replication": _database,
    "routing": _routing,
    "balancer": _balancer,
    "host": _host,
    "idle": _idle,
}
