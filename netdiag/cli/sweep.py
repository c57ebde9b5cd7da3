"""`netdiag probe latency --targets FILE`: one probe on many targets, told as each of them finishes.

As many targets are under way as the rate can serve even if none of them answers, so memory does not grow with their
number, and the rate, not the slowest target, decides how long it takes.
"""

from __future__ import annotations

import asyncio
import dataclasses
import math
import resource
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from netdiag.cli.output import OK, UNKNOWN, UserError, emit, warn
from netdiag.cli.probe import (
    LOOKUP_S,
    SCHEMA,
    ProbeArguments,
    document,
    load_probe,
    measure_one,
    read_settings,
    unavailable,
)
from netdiag.cli.sweep_report import Counts, JsonLines, Table, TerminalLine
from netdiag.cli.targets import duration_option, rate_option
from netdiag.plan.dsn import TargetError, parse_place, place_name
from netdiag.plan.endpoints import is_address
from netdiag.plan.model import Limits
from netdiag.reading import read_at_most
from probes.contract import AnyProbe, Context, ProbeUnavailable
from probes.latency import LatencyOptions
from probes.model import Measurement, Target, Vantage, value
from probes.net.clock import SystemClock
from probes.net.kernel import KernelNetwork
from probes.sampling import check_schedule

SUMMARY_SCHEMA = "netdiag.sweep/1"
LARGEST_LIST = 64 << 20  # bytes of the list of targets
LOOKUPS_AT_ONCE = 16  # more would measure the resolver's queue, and getaddrinfo costs a thread each
FEWEST_AT_ONCE = 16
SPARE_DESCRIPTORS = 64
WITHOUT_END_S = 30 * 86400.0


@value
class Place:
    """One line of the list."""

    host: str
    port: int | None

    def label(self) -> str:
        return place_name(self.host, self.port)


def sweep_command(arguments: ProbeArguments, file: Path) -> int:
    chosen = load_probe(arguments.name)
    if chosen.options is not LatencyOptions:
        raise UserError(f"--targets is for the latency probe, not for {chosen.name}")
    given = read_settings(chosen.options, arguments.settings)
    _check(LatencyOptions(**given))
    places = read_places(file)
    seconds = duration_option(arguments.timeout, "--timeout") if arguments.timeout else WITHOUT_END_S
    rate = rate_option(arguments.rate) or Limits().packets_per_second
    sweep = _Sweep(chosen, given, places, rate, arguments.as_json)
    return asyncio.run(sweep.run(seconds or WITHOUT_END_S))


def _check(options: LatencyOptions) -> None:
    """Raises UserError where answers would be called late or lost for the schedule's sake."""
    try:
        check_schedule(options.interval_s, options.timeout_s)
    except ProbeUnavailable as error:
        raise UserError(f"--set: {error}") from None


def read_places(file: Path) -> list[Place]:
    """One target per line: ``host``, ``host:port``, an address; ``#`` begins a comment, ``-`` is standard input.

    Each target once, in the file's order. Raises UserError with the number of each line that is none.
    """
    found: dict[Place, None] = {}
    wrong, repeated = [], 0
    for number, line in enumerate(_read(file).splitlines(), start=1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        try:
            host, port = parse_place(text)
        except TargetError as error:
            wrong.append(f"{file}, line {number}: {error}")
            continue
        repeated += Place(host=host, port=port) in found
        found[Place(host=host, port=port)] = None
    _complain(file, wrong, found)
    if repeated:
        warn(f"{file}: {repeated} lines name a target again; each is measured once")
    return list(found)


def _complain(file: Path, wrong: list[str], found: dict[Place, None]) -> None:
    if wrong:
        more = [f"and {len(wrong) - 5} lines more"] if len(wrong) > 5 else []
        raise UserError("\n".join(wrong[:5] + more), "one target per line: a host, host:port or an address")
    if not found:
        raise UserError(f"{file}: no targets in it")


def _read(file: Path) -> str:
    try:
        raw = sys.stdin.buffer.read(LARGEST_LIST + 1) if str(file) == "-" else read_at_most(file, LARGEST_LIST)
        text = raw.decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"--targets {file}: cannot be read ({error.strerror or error})") from None
    except (UnicodeDecodeError, AttributeError):
        raise UserError(f"--targets {file}: not a text in UTF-8") from None
    if len(raw) > LARGEST_LIST:
        raise UserError(f"--targets {file}: larger than {LARGEST_LIST >> 20} MiB")
    return text


def at_once(options: LatencyOptions, rate: float, descriptors: int) -> int:
    """Targets under way together: what the rate can serve even if each of them waits for all its answers in vain.

    By TCP each attempt that is still open holds a descriptor.
    """
    longest_s = (options.count - 1) * options.interval_s + 2 * options.timeout_s
    wanted = max(FEWEST_AT_ONCE, math.ceil(rate * longest_s / options.count))
    open_at_once = min(options.count, 1 + math.ceil(options.timeout_s / max(options.interval_s, 1e-3)))
    return max(1, min(wanted, (descriptors - SPARE_DESCRIPTORS) // open_at_once))


def _descriptors() -> int:
    """The limit on open files, raised as far as this user may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard if hard != resource.RLIM_INFINITY else 1 << 20


class _Sweep:
    def __init__(
        self, chosen: AnyProbe, given: dict[str, Any], places: Sequence[Place], rate: float, as_json: bool
    ) -> None:
        self._chosen, self._given, self._places, self._rate = chosen, given, places, rate
        self._counts = Counts(targets=len(places))
        self._line = TerminalLine(self._counts)
        widest = max(len(place.label()) for place in places)
        self._report: JsonLines | Table = JsonLines() if as_json else Table(widest)
        self._lookups = asyncio.Semaphore(LOOKUPS_AT_ONCE)
        self._stop = asyncio.Event()  # set by a signal, and where nobody reads on
        self._unread = False

    async def run(self, seconds: float) -> int:
        """The exit status. Ctrl-C, SIGTERM and a closed pipe end it early; what has finished by then has been told."""
        clock = SystemClock()
        started = clock.monotonic()
        async with KernelNetwork(clock, packets_per_second=self._rate) as network:
            vantage = Vantage(name=socket.gethostname())
            context = Context(network=network, clock=clock, vantage=vantage, deadline=started + seconds)
            stopped = await self._measure_all(context)
        unmeasured = self._counts.targets - self._counts.finished
        reason = "unread" if self._unread else "signal" if stopped else "deadline" if unmeasured else "finished"
        self._line.clear()
        summary = {"schema": SUMMARY_SCHEMA, "probe": self._chosen.name, "end_reason": reason}
        emit(self._report.summary(summary | self._counts.document(clock.monotonic() - started)))
        return OK if self._counts.measured == self._counts.targets else UNKNOWN

    async def _measure_all(self, context: Context) -> bool:
        """Whether a signal ended it, or that nobody reads on."""
        remaining = iter(self._places)
        limit = at_once(self._options(None), self._rate, _descriptors())
        workers = [asyncio.create_task(self._work(context, remaining)) for _ in range(min(limit, len(self._places)))]
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, self._stop.set)
        stopping: asyncio.Task[bool] = asyncio.create_task(self._stop.wait())
        everything = asyncio.create_task(_all(workers))
        await asyncio.wait((stopping, everything), return_when=asyncio.FIRST_COMPLETED)
        for task in (stopping, everything, *workers):
            task.cancel()
        await asyncio.gather(stopping, everything, *workers, return_exceptions=True)
        _raise_first(workers)
        return self._stop.is_set()

    async def _work(self, context: Context, remaining: Iterator[Place]) -> None:
        for place in remaining:
            if not context.remaining():
                return
            measurements = await self._measure(context, place)
            self._counts.add(measurements)
            self._line.clear()
            told = self._report.target({"schema": SCHEMA, "measurements": [document(m) for m in measurements]})
            if not emit(told):  # no packet more for a reader that went away
                self._unread = True
                self._stop.set()
                return
            self._line.show()

    async def _measure(self, context: Context, place: Place) -> list[Measurement[Any]]:
        options = self._options(place.port)
        target = Target(host=place.host, port=place.port, endpoint=place.label())
        if is_address(place.host):
            return [await measure_one(self._chosen, context, dataclasses.replace(target, address=place.host), options)]
        async with self._lookups:
            found = await context.network.lookup(place.host, min(LOOKUP_S, context.remaining()))
        if found.failure or not found.addresses:
            why = (found.failure and (found.failure.errno or found.failure.detail)) or "no address"
            return [unavailable(self._chosen, context, target, options, f"cannot be resolved ({why})")]
        located = [dataclasses.replace(target, address=address) for address in found.addresses]
        return [await measure_one(self._chosen, context, one, options) for one in located]

    def _options(self, port: int | None) -> LatencyOptions:
        """By handshake where a port is named, else by echo; ``--set method=`` decides otherwise."""
        method = "icmp" if port is None else "tcp"
        return LatencyOptions(**({"method": method} | self._given))


async def _all(workers: Sequence[asyncio.Task[None]]) -> bool:
    """Until the last has ended, or the first has failed."""
    await asyncio.wait(workers, return_when=asyncio.FIRST_EXCEPTION)
    return True


def _raise_first(workers: Sequence[asyncio.Task[None]]) -> None:
    """A defect must not pass for an end."""
    for worker in workers:
        if not worker.cancelled():
            worker.result()
