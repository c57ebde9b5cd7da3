"""`netdiag probe NAME TARGET`: one probe alone, on every address of the target."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
from collections.abc import Sequence
from typing import Any, get_args, get_origin, get_type_hints

import msgspec

from netdiag.cli.output import OK, UNKNOWN, UserError, emit, to_json, warn
from netdiag.cli.tables import measurement_lines
from netdiag.cli.targets import duration_option, plan_of, rate_option
from netdiag.encoding import builtins
from netdiag.plan.model import Endpoint, Plan
from netdiag.plan.units import LONGEST_BUDGET_S
from probes import registry
from probes.contract import AnyProbe, Context, ProbeUnavailable
from probes.model import Measurement, MeasurementOutcome, Secret, Target, Vantage, value
from probes.net.clock import SystemClock
from probes.net.kernel import KernelNetwork

SCHEMA = "netdiag.probe/1"
LOOKUP_S = 10.0
DEADLINE_S = 60.0
LARGEST_COUNT = 10_000
BY_NAME = frozenset({"names"})  # probes of a name, not of an address

# What a DSN says, by the names that options give it.
_FROM_CREDENTIALS = {
    "user": "user",
    "password": "password",
    "dbname": "dbname",
    "sslmode": "sslmode",
    "ssl_root_certificate": "sslrootcert",
    "ssl_certificate": "sslcert",
    "ssl_key": "sslkey",
    "ssl_negotiation": "sslnegotiation",
    "channel_binding": "channel_binding",
}


@value
class ProbeArguments:
    name: str
    target: str | None
    settings: tuple[str, ...] = ()
    as_json: bool = False
    timeout: str | None = None
    rate: float | None = None


def probe_command(arguments: ProbeArguments) -> int:
    chosen = load_probe(arguments.name)
    given = read_settings(chosen.options, arguments.settings)
    if arguments.target is None:
        raise UserError("no target given", "a DSN, host:port or a host; or --targets FILE")
    plan = plan_of((arguments.target,), None)
    for warning in plan.warnings:
        warn(warning)
    seconds = duration_option(arguments.timeout, "--timeout")
    rate = rate_option(arguments.rate) or plan.limits.packets_per_second
    measurements = asyncio.run(_measure_all(chosen, given, plan, seconds, rate))
    if arguments.as_json:
        emit(to_json({"schema": SCHEMA, "measurements": [document(m) for m in measurements]}))
    else:
        emit("\n\n".join("\n".join(measurement_lines(m)) for m in measurements))
    return OK if all(m.outcome is MeasurementOutcome.MEASURED for m in measurements) else UNKNOWN


def load_probe(name: str) -> AnyProbe:
    try:
        return registry.load(name)
    except KeyError:
        import difflib

        near = difflib.get_close_matches(name, registry.probe_names(), n=1)
        hint = f"did you mean {near[0]}?" if near else f"the probes are {', '.join(registry.probe_names())}"
        raise UserError(f"no probe is called {name!r}", hint) from None


def read_settings(options: type, settings: Sequence[str]) -> dict[str, Any]:
    """``KEY=VALUE`` by the types of the probe's options. Raises UserError."""
    hints = get_type_hints(options)
    read: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or key not in hints:
            raise UserError(f"--set {_meant(key, hints)}", f"its options are {', '.join(sorted(hints))}")
        if Secret in (hints[key], *get_args(hints[key])):
            raise UserError(f"--set {key}: a secret is not an argument", "give it by ~/.pgpass, PGPASSWORD or the DSN")
        read[key] = _convert(key, text, hints[key])
    return read


def _meant(key: str, hints: dict[str, Any]) -> str:
    import difflib

    near = difflib.get_close_matches(key, hints, n=1)
    if key in hints:
        return f"{key}: write {key}=VALUE"
    return "KEY=VALUE: no such option" + (f"; did you mean {near[0]}?" if near else "")


def _convert(key: str, text: str, hint: Any) -> Any:
    given: Any = [part for part in text.split(",") if part] if get_origin(hint) is tuple else text
    try:
        found = msgspec.convert(given, hint, strict=False)
    except msgspec.ValidationError as error:
        raise UserError(f"--set {key}: {error}") from None
    for one in found if isinstance(found, tuple) else (found,):
        complaint = _absurd(key, one)
        if complaint:
            raise UserError(f"--set {key}: must be {complaint}")
    return found


def _absurd(key: str, found: object) -> str | None:
    """What a number should be instead: none makes sense that is negative, endless, or more than a run has time for."""
    if isinstance(found, int) and not isinstance(found, bool):
        most = 65535 if "port" in key else LARGEST_COUNT
        return None if 1 <= found <= most else f"a whole number from 1 to {most}"
    if isinstance(found, float):
        above = key.endswith("timeout_s")
        good = 0 <= found <= LONGEST_BUDGET_S and not (above and found == 0)
        return None if good else f"a number {'above' if above else 'from'} 0 and at most {LONGEST_BUDGET_S:.0f}"
    return None


async def _measure_all(
    chosen: AnyProbe, given: dict[str, Any], plan: Plan, seconds: float | None, rate: float
) -> list[Measurement[Any]]:
    """``seconds``: for all of it; None: DEADLINE_S, and more for a probe that takes longer by its own options."""
    clock = SystemClock()
    deadline = clock.monotonic() + (seconds or DEADLINE_S)
    async with KernelNetwork(clock, packets_per_second=rate) as network:
        context = Context(network=network, clock=clock, vantage=Vantage(name=socket.gethostname()), deadline=deadline)
        measurements = []
        for endpoint in plan.endpoints:
            options = _options(chosen, endpoint, given)
            for target in await _targets(chosen, endpoint, context):
                if seconds is None and chosen.takes_s is not None:
                    longer = max(deadline, clock.monotonic() + chosen.takes_s(options))
                    context = dataclasses.replace(context, deadline=longer)
                measurements.append(await measure_one(chosen, context, target, options))
        return measurements


async def _targets(chosen: AnyProbe, endpoint: Endpoint, context: Context) -> list[Target]:
    target = Target(host=endpoint.host, port=endpoint.port, endpoint=endpoint.name)
    if chosen.name in BY_NAME:
        return [target]
    if endpoint.address:
        return [dataclasses.replace(target, address=endpoint.address)]
    found = await context.network.lookup(endpoint.host, min(LOOKUP_S, context.remaining()))
    if found.failure or not found.addresses:
        why = (found.failure and (found.failure.errno or found.failure.detail)) or "no address"
        raise UserError(f"{endpoint.host} cannot be resolved ({why})", "`netdiag probe names` asks each resolver")
    return [dataclasses.replace(target, address=address) for address in found.addresses]


def _options(chosen: AnyProbe, endpoint: Endpoint, given: dict[str, Any]) -> Any:
    """The probe's defaults, then what the DSN says, then what --set says."""
    known = {field.name for field in dataclasses.fields(chosen.options)}
    stated = endpoint.credentials
    from_dsn = {
        option: getattr(stated, name) for option, name in _FROM_CREDENTIALS.items() if stated and option in known
    }
    if "use_database" in known and endpoint.database:
        from_dsn["use_database"] = True
    return chosen.options(**(from_dsn | given))


async def measure_one(chosen: AnyProbe, context: Context, target: Target, options: Any) -> Measurement[Any]:
    started, begun = context.clock.utc(), context.clock.monotonic()
    data, outcome, reason = None, MeasurementOutcome.MEASURED, None
    try:
        async with asyncio.timeout(context.remaining() + 1.0):
            data = await chosen.measure(context, target, options)
    except ProbeUnavailable as error:
        outcome, reason = MeasurementOutcome.UNAVAILABLE, str(error)
    except TimeoutError:
        outcome, reason = MeasurementOutcome.INTERRUPTED, "the deadline came first (see --timeout)"
    return dataclasses.replace(
        unavailable(chosen, context, target, options, reason),
        source=context.network.local_route(target.address).source if target.address else None,
        started=started,
        duration_s=round(context.clock.monotonic() - begun, 6),
        timestamp_source=str(getattr(data, "timestamp_source", "user")),
        outcome=outcome,
        data=data,
    )


def unavailable(
    chosen: AnyProbe, context: Context, target: Target, options: Any, reason: str | None
) -> Measurement[Any]:
    """A measurement that could not begin."""
    return Measurement(
        id=f"{context.vantage.name}/{chosen.name}/{target.host}/{target.address or '-'}/1",
        probe=chosen.name,
        schema=chosen.schema,
        vantage=context.vantage.name,
        source=None,
        target=target,
        started=context.clock.utc(),
        duration_s=0.0,
        options=builtins(options),
        timestamp_source="user",
        outcome=MeasurementOutcome.UNAVAILABLE,
        reason=reason,
    )


def document(measurement: Measurement[Any]) -> dict[str, Any]:
    names = {"source": "from", "target": "to"}
    return {names.get(key, key): item for key, item in builtins(measurement).items()}
