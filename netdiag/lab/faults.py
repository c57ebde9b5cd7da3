"""The kinds of fault that a scenario may name, each with its keys: values only, what they do is in inject.py.

``host``, ``at``, ``to`` and ``source`` are hosts of the lab, ``link`` one of its links (``netdiag lab doctor`` lists
both). Times are seconds, sizes bytes, shares 0 to 1.
"""

from __future__ import annotations

import types
from dataclasses import MISSING, fields
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from probes.model import value


class FaultError(ValueError):
    """A fault that makes no sense. One line, without the file's name."""


@value
class Link:
    """What the emulator does to a link. ``on_s`` of every ``period_s``; between, the link is as usual."""

    link: str
    direction: Literal["both", "there", "back"] = "both"
    loss: float = 0.0
    burst: float | None = None  # mean frames lost in a row
    add_delay_s: float = 0.0  # on top of the link's usual delay
    jitter_s: float | None = None
    rate_bps: float | None = None
    queue_bytes: int | None = None
    mtu_drop_bytes: int | None = None  # longer packets vanish without a word
    on_s: float | None = None
    period_s: float | None = None


@value
class Filter:
    """A packet filter's rule. ``share`` below 1: so many of the packets, at random."""

    at: str
    answer: Literal["silence", "reset", "prohibited", "port-unreachable"] = "silence"
    chain: Literal["forward", "input", "output"] = "forward"
    protocol: Literal["tcp", "udp", "icmp", "any"] = "tcp"
    to: str | None = None
    source: str | None = None
    port: int | None = None  # of the destination
    source_port: int | None = None
    icmp: str | None = None  # one type of ICMP: "time-exceeded", "echo-request", "echo-reply"
    share: float = 1.0
    above_per_s: int | None = None  # only what exceeds this rate


@value
class Mtu:
    """A link that narrows. Not signalled: the router's "fragmentation needed" is filtered."""

    link: str
    size: int
    signalled: bool = True


@value
class IdleTimeout:
    """A stateful firewall that forgets connections after ``after_s`` and drops what it does not know."""

    at: str
    after_s: int


@value
class Service:
    """A server's processes: ended in order, killed, or stopped in their tracks (they keep their sockets)."""

    host: str
    service: str
    action: Literal["stop", "kill", "freeze"]


@value
class Sql:
    """Statements as the superuser, and those that take them back."""

    host: str
    do: list[str]
    undo: list[str]


@value
class Setting:
    """A server setting for new connections (ALTER SYSTEM and a reload)."""

    host: str
    name: str
    setting: str


@value
class Hba:
    """A line put on top of pg_hba.conf."""

    host: str
    line: str


@value
class Sessions:
    """Real sessions held open: all of the slots but ``free``."""

    host: str
    free: int


@value
class Load:
    """A client that holds a transaction, or works, on the database, as an application would."""

    host: str
    sessions: int
    statement: str


@value
class Closing:
    """A shutdown that waits for an open session: new ones are told that the server is shutting down."""

    host: str


@value
class Certificate:
    """The server's certificate, exchanged."""

    host: str
    problem: Literal["expired", "not-yet-valid", "wrong-name", "unknown-issuer"]


@value
class Impostor:
    """Something else on the service's port, in the server's place."""

    host: str
    says: Literal["http", "nothing", "garbage", "close"]


@value
class Record:
    """The zone, changed at the authoritative server; caches are flushed. Without ``addresses`` the name goes."""

    name: str
    addresses: list[str]
    at: str | None = None  # only at this resolver: what the others say stays
    ttl_s: int = 60


@value
class Resolver:
    """A resolver that cannot reach anybody (SERVFAIL), or declines to answer this host."""

    host: str
    problem: Literal["upstream", "refuses"]


@value
class Backend:
    """A backend that the balancer takes out, as an operator or its health check would."""

    name: str


@value
class Transit:
    """One of the two ways between the regions: down, or down for ``down_s`` of every ``period_s``."""

    name: str
    down_s: float | None = None
    period_s: float | None = None


@value
class Replay:
    """A replica that receives and does not apply, while the primary writes; or whose replication is cut."""

    host: str
    problem: Literal["paused", "cut"]


@value
class Fill:
    """A table of the kernel, filled in one namespace: connection tracking, or ephemeral ports towards a host."""

    host: str
    what: Literal["conntrack", "ports"]
    to: str | None = None


@value
class Startup:
    """The startup parameters that a YugabyteDB node sends, by a proxy on the wire."""

    host: str
    version: str


Fault = (
    Link
    | Filter
    | Mtu
    | IdleTimeout
    | Service
    | Sql
    | Setting
    | Hba
    | Sessions
    | Load
    | Closing
    | Certificate
    | Impostor
    | Record
    | Resolver
    | Backend
    | Transit
    | Replay
    | Fill
    | Startup
)

KINDS: dict[str, type[Any]] = {
    "link": Link,
    "filter": Filter,
    "mtu": Mtu,
    "idle-timeout": IdleTimeout,
    "service": Service,
    "sql": Sql,
    "setting": Setting,
    "hba": Hba,
    "sessions": Sessions,
    "load": Load,
    "closing": Closing,
    "certificate": Certificate,
    "impostor": Impostor,
    "record": Record,
    "resolver": Resolver,
    "backend": Backend,
    "transit": Transit,
    "replay": Replay,
    "fill": Fill,
    "startup": Startup,
}


def read_fault(found: Any) -> Fault:
    """A ``[[fault]]`` table with its drawn values filled in. Raises FaultError."""
    if not isinstance(found, dict) or found.get("kind") not in KINDS:
        raise FaultError(f"fault.kind: must be one of {', '.join(KINDS)}")
    kind = KINDS[found["kind"]]
    given = {key: item for key, item in found.items() if key != "kind"}
    hints = get_type_hints(kind)
    _check_keys(found["kind"], given, kind)
    for key, item in given.items():
        if not _fits(item, hints[key]):
            raise FaultError(f"fault {found['kind']}: {key}: {item!r} does not fit")
    fault: Fault = kind(**given)
    return fault


def _check_keys(name: str, given: dict[str, Any], kind: type[Any]) -> None:
    import difflib

    known = {field.name: field for field in fields(kind)}
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            meant = f"; did you mean `{near[0]}`?" if near else f"; known here: {', '.join(known)}"
            raise FaultError(f"fault {name}: {key}: unknown key{meant}")
    for key, field in known.items():
        if field.default is MISSING and key not in given:
            raise FaultError(f"fault {name}: the key `{key}` is missing")


def _fits(item: Any, hint: Any) -> bool:
    origin = get_origin(hint)
    if origin is Literal:
        return item in get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(item, each) for each in get_args(hint))
    if origin is list:
        return isinstance(item, list) and all(_fits(each, get_args(hint)[0]) for each in item)
    if isinstance(item, bool):
        return hint is bool
    return isinstance(item, (int, float) if hint is float else hint)
