"""The kinds of fault that a scenario may name, each with its keys: values only, what they do is in inject.py.

``host``, ``at``, ``to`` and ``source`` are hosts of the lab, ``link`` one of its links (topology.py draws
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
    """What the emulator does to a link; ``there`` is away from the application. With ``on_s``: for so long in every
    ``period_s``, and as usual between."""

    link: str
    direction: Literal["both", "there", "back"] = "both"
    loss: float = 0.0
    burst: float | None = None  # mean frames lost in a row
    add_delay_s: float = 0.0  # on top of the link's usual delay
    jitter_s: float = 0.0
    rate_bps: float | None = None
    queue_bytes: int | None = None
    mtu_drop_bytes: int | None = None  # longer packets vanish without a word
    duplicate: float = 0.0
    reorder: float = 0.0
    on_s: float | None = None
    period_s: float | None = None


@value
class Filter:
    """A packet filter's rule. ``share`` below 1: so many of the packets, at random."""

    at: str
    answer: Literal["silence", "reset", "prohibited", "port-unreachable"] = "silence"
    chain: Literal["forward", "input", "output"] = "forward"
    protocol: Literal["tcp", "udp", "icmp", "any"] = "tcp"
    source: str | None = None
    to: str | None = None
    port: int | None = None  # of the destination
    source_port: int | None = None
    except_port: int | None = None  # every destination port but this
    icmp: Literal["time-exceeded", "echo-request", "echo-reply"] | None = None
    established: bool = False  # only packets of connections that stand
    share: float = 1.0
    above_per_s: int | None = None  # only what exceeds this rate
    after_bytes: int | None = None  # only connections that have carried more, both ways together


@value
class Mtu:
    """A link that narrows. Not signalled: "fragmentation needed" of the routers at its ends is filtered."""

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
    """A server: ended in order, killed, or stopped in its tracks (it keeps its sockets)."""

    service: str
    action: Literal["stop", "kill", "freeze"]


@value
class Sql:
    """Statements as the superuser, and those that take them back (they must bear being run twice)."""

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
    """pg_hba.conf turns one host away."""

    host: str
    source: str


@value
class Sessions:
    """Real sessions of the application's role held open: all of its slots but ``free``."""

    host: str
    free: int


@value
class Load:
    """Sessions that run a statement over and over."""

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
    """Something else on the database's port of a host, in place of a service."""

    host: str
    service: str
    says: Literal["http", "nothing", "garbage", "close"]


@value
class Record:
    """A name of the zone, below its domain, with the addresses of these hosts (or literal ones); none: it is gone.

    ``at``: only this resolver says so. ``chain``: by way of so many aliases with long names.
    """

    name: str
    addresses: list[str]
    at: str | None = None
    chain: int = 0


@value
class Resolver:
    """A resolver that cannot reach the zone's server, declines to answer, or keeps nothing in its cache."""

    host: str
    problem: Literal["upstream", "refuses", "no-cache"]


@value
class Backend:
    """A backend that the balancer takes out, as an operator would."""

    name: str


@value
class Transit:
    """One of the two ways between the regions: gone, or gone for ``down_s`` of every ``period_s``."""

    name: str
    down_s: float | None = None
    period_s: float | None = None


@value
class Route:
    """A router sends what goes to a host's network by the given transit, whatever BGP says."""

    at: str
    to: str
    transit: str


@value
class Barred:
    """A host whose own routing table forbids an address: nothing is sent, and connect(2) says so."""

    host: str
    to: str
    how: Literal["prohibit", "blackhole"]


@value
class Mss:
    """A host that remembers a smaller path MTU towards another, and so advertises a smaller MSS."""

    host: str
    to: str
    size: int


@value
class Stream:
    """Datagrams from one host to another at a steady rate."""

    source: str
    to: str
    bits_per_s: int


@value
class Fill:
    """A table of the kernel, filled in one namespace: connection tracking, or local ports (towards ``to``)."""

    host: str
    what: Literal["conntrack", "ports"]
    to: str


@value
class NameSources:
    """Where a host looks names up: the hosts line of its nsswitch.conf(5)."""

    host: str
    sources: str


@value
class Startup:
    """The startup parameters of a YugabyteDB node, by a proxy on the wire that rewrites the server's own."""

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
    | Route
    | Barred
    | Mss
    | Stream
    | Fill
    | NameSources
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
    "route": Route,
    "barred": Barred,
    "mss": Mss,
    "stream": Stream,
    "fill": Fill,
    "name-sources": NameSources,
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
