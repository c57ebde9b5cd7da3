"""A balancer's own health check, asked again of each backend, and the balancer's own view of them.

How a check is asked
1. The connection goes to the backend's address; the URL gives scheme, port and path, and "{backend}" in it stands
   for that address. ``http``: GET, any status that the matcher takes. ``https``: the same under TLS, with no
   certificate verified, as balancers do not verify it either. ``tcp``: the handshake alone.
2. Attempts begin ``interval_s`` apart. They end once ``unhealthy`` in a row failed, which is when a balancer takes
   the backend out; or after ``attempts`` of which the last did not fail; or where one more timeout no longer fits.
3. What this host could not send is no failed check and ends no row of them.

The view is HAProxy's statistics as CSV, read once, after the checks.
"""

from __future__ import annotations

import asyncio
import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from enum import StrEnum
from urllib.parse import SplitResult, urlsplit, urlunsplit

from probes.contract import Context, Probe, ProbeUnavailable
from probes.exchanges import ConnectFailure, HandshakeRequest, Stream, TlsRequest
from probes.failures import clean_text, timed_out
from probes.model import Failure, FailureKind, NetworkFailure, Outcome, Target, value
from probes.wire.http import Head, HttpError, ResponseReader, get

MOST_CHECKS = 32  # addresses that are checked in one measurement
MOST_SERVERS = 500  # rows of the balancer's view that are kept
VIEW_LIMIT = 1_000_000  # bytes of the balancer's view
_PORTS = {"http": 80, "https": 443}
_READ = 65536


class CheckPhase(StrEnum):
    """Where a check ended that did not pass."""

    TCP = "tcp"
    TLS = "tls"
    RESPONSE = "response"  # none came, or no HTTP
    STATUS = "status"  # HTTP, with a status that the matcher does not take


@value
class BalancerOptions:
    url: str | None = None  # of the health check, {backend} where the address goes; None: no check is known
    backends: tuple[str, ...] = ()  # addresses
    matcher: str = "200"  # status codes that pass: "200", "200,204", "200-399"
    interval_s: float = 1.0  # between the beginnings of two attempts
    timeout_s: float = 2.0  # of one attempt, or of the view
    unhealthy: int = 2  # failures in a row that take a backend out
    attempts: int = 3  # of each backend, where none fails
    stats: str | None = None  # URL of the balancer's view: HAProxy's CSV


@value
class CheckAttempt:
    attempt: int
    started_s: float  # offset from the first
    seconds: float
    outcome: Outcome
    passed: bool | None  # by the plan's matcher; None: this host could not send
    phase: CheckPhase | None = None  # where it ended; None where it passed
    status: int | None = None
    server: str | None = None  # the Server field, remote text
    failure: Failure | None = None


@value
class CheckedBackend:
    """``consecutive_failures`` is the longest row of them; at ``unhealthy`` the balancer takes the backend out."""

    address: str
    port: int
    url: str
    attempts: tuple[CheckAttempt, ...]
    consecutive_failures: int


@value
class ServerView:
    """One server as the balancer has it (HAProxy management guide 9.1); remote text, printable."""

    proxy: str
    name: str
    status: str | None  # "UP", "DOWN", "UP 1/2" (going down), "DOWN 1/2" (coming up), "MAINT", "no check"
    check_status: str | None  # L4TOUT, L4CON, L6RSP, L7STS, L7TOUT, ...
    check_code: int | None  # of layer 5 to 7: the HTTP status
    last_check: str | None  # the check's own words
    address: str | None = None  # where the balancer tells it


@value
class BalancerView:
    url: str
    seconds: float
    outcome: Outcome
    servers: tuple[ServerView, ...] = ()
    status: int | None = None  # of the HTTP answer
    failure: Failure | None = None


@value
class BalancerMeasurement:
    """``view`` is None where no ``stats`` URL was given."""

    matcher: str
    unhealthy: int
    backends: tuple[CheckedBackend, ...]
    view: BalancerView | None = None


# Pure: the check's address, its matcher, its row of attempts


@value
class CheckAddress:
    """Where a URL leads once the backend is put in."""

    url: str
    scheme: str
    host: str  # for Host and SNI
    port: int
    path: str  # with the query


def check_address(url: str, backend: str) -> CheckAddress:
    """``url`` with ``backend`` in place of "{backend}". Raises ProbeUnavailable where nothing can be asked."""
    host = f"[{backend}]" if ":" in backend else backend
    try:
        parts = urlsplit(url.replace("{backend}", host))
        port = parts.port or _PORTS.get(parts.scheme)
    except ValueError as error:
        raise ProbeUnavailable(f"no URL to ask: {clean_text(str(error))}") from None
    if parts.scheme not in ("http", "https", "tcp") or not parts.hostname or port is None:
        raise ProbeUnavailable("a health check is http://, https:// or tcp://HOST:PORT")
    return CheckAddress(
        url=_without_userinfo(parts), scheme=parts.scheme, host=parts.hostname, port=port, path=_path(parts)
    )


def _without_userinfo(parts: SplitResult) -> str:
    """A password has no place in evidence."""
    return clean_text(urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])))


def _path(parts: SplitResult) -> str:
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def matches(status: int, matcher: str) -> bool:
    """``status`` is one of "200", "200,204" or "200-399". Raises ProbeUnavailable for a matcher that is none."""
    ranges = [re.fullmatch(r"\s*(\d{3})(?:\s*-\s*(\d{3}))?\s*", part) for part in matcher.split(",")]
    if not all(ranges):
        raise ProbeUnavailable(f"the matcher {clean_text(matcher)!r} is no list of status codes and ranges")
    return any(int(found[1]) <= status <= int(found[2] or found[1]) for found in ranges if found)


def failures_in_a_row(attempts: Sequence[CheckAttempt]) -> int:
    """The longest row; an attempt that was not sent neither lengthens nor ends it."""
    longest = current = 0
    for attempt in attempts:
        if attempt.passed is not None:
            current = 0 if attempt.passed else current + 1
        longest = max(longest, current)
    return longest


class CheckSteps:
    """Whether one more attempt is due. A stepper: no I/O; rules 2 and 3 above."""

    def __init__(self, options: BalancerOptions) -> None:
        self._options = options
        self.attempts: tuple[CheckAttempt, ...] = ()

    def next(self) -> int | None:
        """The next attempt's number."""
        made = len(self.attempts)
        if failures_in_a_row(self.attempts) >= self._options.unhealthy:
            return None
        settled = made >= self._options.attempts and self.attempts[-1].passed is not False
        return None if settled or made >= self._options.attempts + self._options.unhealthy else made + 1

    def tell(self, attempt: CheckAttempt) -> None:
        self.attempts = (*self.attempts, attempt)


def servers_in(text: str) -> tuple[ServerView, ...]:
    """HAProxy's CSV ("show stat", or the URI with ";csv"), its servers alone. Raises HttpError for anything else."""
    lines = text.removeprefix("# ").splitlines()
    try:
        rows = csv.DictReader(lines)
        if not {"pxname", "svname", "status"} <= set(rows.fieldnames or ()):
            raise HttpError("not HAProxy's statistics as CSV: is ;csv missing from the URL?")
        return tuple(_servers(rows))
    except csv.Error as error:
        raise HttpError(f"not CSV: {clean_text(str(error))}") from None


def _servers(rows: csv.DictReader[str]) -> Iterator[ServerView]:
    kept = 0
    for row in rows:
        if row["svname"] in (None, "", "FRONTEND", "BACKEND") or kept == MOST_SERVERS:
            continue
        kept += 1
        code = row.get("check_code") or ""
        yield ServerView(
            proxy=clean_text(row["pxname"] or ""),
            name=clean_text(row["svname"]),
            status=_said(row, "status"),
            check_status=_said(row, "check_status"),
            check_code=int(code) if re.fullmatch(r"[0-9]{1,5}", code) else None,
            last_check=_said(row, "last_chk"),
            address=_said(row, "addr"),
        )


def _said(row: dict[str, str | None], column: str) -> str | None:
    return clean_text(row.get(column) or "") or None


# With the network


async def measure(context: Context, target: Target, options: BalancerOptions) -> BalancerMeasurement:
    """The checks of every backend at the same time, then the view.

    Raises ProbeUnavailable where neither a check with its backends nor a view is given, or a URL or matcher is none.
    """
    url = options.url
    if not (url and options.backends) and options.stats is None:
        raise ProbeUnavailable("needs url and backends, or stats: the plan's health, backends and stats of a balancer")
    matches(0, options.matcher)
    where = [(address, check_address(url, address)) for address in options.backends[:MOST_CHECKS]] if url else []
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_check_backend(context, address, at, options)) for address, at in where]
    return BalancerMeasurement(
        matcher=options.matcher,
        unhealthy=options.unhealthy,
        backends=tuple(task.result() for task in tasks),
        view=await _view(context, options) if options.stats else None,
    )


async def _check_backend(context: Context, address: str, at: CheckAddress, options: BalancerOptions) -> CheckedBackend:
    steps, clock = CheckSteps(options), context.clock
    begun = due = clock.monotonic()
    while (number := steps.next()) is not None:
        pause = max(0.0, due - clock.monotonic())
        if context.remaining() < pause + options.timeout_s:
            break
        await clock.sleep(pause)
        due = clock.monotonic() + options.interval_s
        steps.tell(await _attempt(context, address, at, options, number, begun))
    return CheckedBackend(
        address=address,
        port=at.port,
        url=at.url,
        attempts=steps.attempts,
        consecutive_failures=failures_in_a_row(steps.attempts),
    )


@value
class _Ending:
    """What became of one exchange."""

    outcome: Outcome
    seconds: float = 0.0  # on the wire: the wait for the run's rate ceiling is not in it
    phase: CheckPhase | None = None
    failure: Failure | None = None
    head: Head | None = None
    body: bytes = b""


async def _attempt(
    context: Context, address: str, at: CheckAddress, options: BalancerOptions, number: int, begun: float
) -> CheckAttempt:
    started = context.clock.monotonic()
    ending = await _exchange(context, address, at, options.timeout_s, None)
    passed = None if ending.outcome is Outcome.NOT_SENT else ending.outcome is Outcome.ANSWERED
    phase = ending.phase
    if ending.head is not None and passed and not matches(ending.head.status, options.matcher):
        passed, phase = False, CheckPhase.STATUS
    return CheckAttempt(
        attempt=number,
        started_s=round(started - begun, 6),
        seconds=ending.seconds,
        outcome=ending.outcome,
        passed=passed,
        phase=phase,
        status=ending.head.status if ending.head else None,
        server=ending.head.server if ending.head else None,
        failure=ending.failure,
    )


async def _exchange(
    context: Context, address: str, at: CheckAddress, timeout_s: float, body_limit: int | None
) -> _Ending:
    """Connect, and for HTTP ask, all within ``timeout_s``; the head alone where ``body_limit`` is None."""
    request = HandshakeRequest(address=address, port=at.port, timeout_s=timeout_s)
    try:
        async with asyncio.timeout(context.remaining()):  # the network may hold it back for its rate ceiling
            stream = await context.network.open_stream(request)
    except ConnectFailure as error:
        shake = error.handshake
        return _Ending(outcome=shake.outcome, phase=CheckPhase.TCP, failure=error.failure, seconds=shake.seconds)
    except TimeoutError:
        return _Ending(outcome=Outcome.NOT_SENT, phase=CheckPhase.TCP, failure=timed_out("connect"))
    connected, shook_s = context.clock.monotonic(), stream.handshake.seconds
    deadline = min(connected + timeout_s - shook_s, context.deadline)
    try:
        ending = await _converse(stream, at, deadline, body_limit)
        return replace(ending, seconds=shook_s + context.clock.monotonic() - connected)
    finally:
        await stream.close()


async def _converse(stream: Stream, at: CheckAddress, deadline: float, body_limit: int | None) -> _Ending:
    phase = CheckPhase.TLS if at.scheme == "https" else CheckPhase.RESPONSE
    try:
        if at.scheme == "tcp":
            return _Ending(outcome=Outcome.ANSWERED)
        if at.scheme == "https":
            await stream.start_tls(TlsRequest(server_name=at.host), deadline)
        phase = CheckPhase.RESPONSE
        return await _ask(stream, at, deadline, body_limit)
    except NetworkFailure as error:
        lost = error.failure.kind is FailureKind.TIMEOUT
        return _Ending(outcome=Outcome.LOST if lost else Outcome.FAILED, phase=phase, failure=error.failure)
    except (HttpError, ValueError) as error:  # ValueError: a path or host that no request can hold
        failure = Failure(kind=FailureKind.PROTOCOL, operation="receive", detail=clean_text(str(error)))
        return _Ending(outcome=Outcome.FAILED, phase=CheckPhase.RESPONSE, failure=failure)


async def _ask(stream: Stream, at: CheckAddress, deadline: float, body_limit: int | None) -> _Ending:
    host = f"[{at.host}]" if ":" in at.host else at.host
    usual = at.port == _PORTS.get(at.scheme)
    await stream.send(get(at.path, host if usual else f"{host}:{at.port}"), deadline)
    reader = ResponseReader(body_limit)
    while not reader.complete:
        data = await stream.receive(_READ, deadline)
        if not data and not reader.head:
            raise NetworkFailure(Failure(kind=FailureKind.CLOSED, operation="receive"))
        if data:
            reader.feed(data)
        else:
            reader.end()
    return _Ending(outcome=Outcome.ANSWERED, head=reader.head, body=reader.body)


async def _view(context: Context, options: BalancerOptions) -> BalancerView:
    """Every address of its host in turn, until one answers."""
    at = check_address(options.stats or "", "")
    started = context.clock.monotonic()
    ending = await _fetch(context, at, options.timeout_s)
    servers: tuple[ServerView, ...] = ()
    if ending.head is not None:
        try:
            servers = servers_in(ending.body.decode("utf-8", "replace")) if ending.head.status == 200 else ()
        except HttpError as error:
            failure = Failure(kind=FailureKind.PROTOCOL, operation="receive", detail=clean_text(str(error)))
            ending = replace(ending, outcome=Outcome.FAILED, failure=failure)
    return BalancerView(
        url=at.url,
        seconds=context.clock.monotonic() - started,
        outcome=ending.outcome,
        servers=servers,
        status=ending.head.status if ending.head else None,
        failure=ending.failure,
    )


async def _fetch(context: Context, at: CheckAddress, timeout_s: float) -> _Ending:
    lookup = await context.network.lookup(at.host, min(timeout_s, context.remaining()))
    ending = _Ending(outcome=Outcome.FAILED, failure=lookup.failure)
    for address in lookup.addresses[:2]:
        ending = await _exchange(context, address, at, min(timeout_s, context.remaining()), VIEW_LIMIT)
        if ending.head is not None:
            break
    return ending


PROBE = Probe(
    name="balancer",
    schema="balancer/1",
    summary="The balancer's own health check asked of each backend again, beside the balancer's own view",
    options=BalancerOptions,
    measurement=BalancerMeasurement,
    measure=measure,
)
