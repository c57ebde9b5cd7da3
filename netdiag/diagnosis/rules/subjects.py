"""What rules judge (one address and port of one endpoint), and the small vocabulary in which they say it.

Nothing here judges. Everything is a pure function of the case, in an order that does not depend on the evidence's.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import fields
from ipaddress import ip_address
from typing import Any

from netdiag.diagnosis.finding import Subject
from netdiag.diagnosis.rule import Case
from netdiag.diagnosis.thresholds import LEVEL
from netdiag.evidence import Evidence
from netdiag.plan.endpoints import at as at
from netdiag.plan.endpoints import is_address as is_address
from netdiag.plan.endpoints import is_database as is_database
from netdiag.plan.model import Endpoint
from probes.model import Measurement, value
from probes.names import NamesMeasurement
from probes.stats.intervals import wilson


@value
class Place:
    """One address and port of one endpoint; ``address`` is None where the name gave none."""

    endpoint: Endpoint
    address: str | None
    port: int

    @property
    def subject(self) -> Subject:
        return Subject(endpoint=self.endpoint.name, address=self.address, port=self.port)

    @property
    def label(self) -> str:
        """``10.0.0.1:5433``, ``[2001:db8::1]:5433``, or the host's name where no address is known."""
        return at(self.address or self.endpoint.host, self.port)

    def command(self, probe: str) -> str:
        """The command that asks ``probe`` of this place again; brackets of IPv6 are quoted for the shell."""
        return shlex.join(("netdiag", "probe", probe, self.label))

    @property
    def is_database(self) -> bool:
        return is_database(self.endpoint)


def address_order(address: str) -> tuple[int, int, str]:
    """Sort key: IPv4 before IPv6, then by number; what is no address comes last, by text."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return (9, 0, address)
    return (parsed.version, int(parsed), address)


def addresses_of(evidence: Evidence, endpoint: Endpoint) -> tuple[str, ...]:
    """Every address of an endpoint that the run knows: its literal, the host's own look-up, what was measured."""
    found = {endpoint.host} if is_address(endpoint.host) else set()
    for names in evidence.of(NamesMeasurement, host=endpoint.host):
        found.update(names.data.looked_up if names.data else ())
    for measurement in evidence:
        target = measurement.target
        if target.address and (target.endpoint == endpoint.name or target.host == endpoint.host):
            found.add(target.address)
    return tuple(sorted(found, key=address_order))


def places(case: Case) -> tuple[Place, ...]:
    """Every endpoint with a port, once per address (once with None where no address is known), in plan order."""
    found = []
    for endpoint in case.plan.endpoints:
        if endpoint.port is None:
            continue
        for address in addresses_of(case.evidence, endpoint) or (None,):
            found.append(Place(endpoint=endpoint, address=address, port=endpoint.port))
    return tuple(found)


def sockets(case: Case) -> tuple[Place, ...]:
    """places() with each address and port only once: a declared database's, else the first endpoint's."""
    chosen: dict[tuple[str | None, int, str], Place] = {}
    for place in places(case):
        key = (place.address, place.port, "" if place.address else place.endpoint.host)
        if key not in chosen or (place.endpoint.database and not chosen[key].endpoint.database):
            chosen[key] = place
    return tuple(chosen.values())


def database_places(case: Case) -> tuple[Place, ...]:
    return tuple(place for place in places(case) if place.is_database)


def subject_key(subject: Subject) -> str:
    """The subject's set fields in their declared order: the second half of a finding's id."""
    parts = ((field.name, getattr(subject, field.name)) for field in fields(subject))
    return "/".join(str(part) for _, part in parts if part is not None)


def finding_id(code: str, subject: Subject) -> str:
    return f"{code}:{subject_key(subject)}"


def ids(measurements: Iterable[Measurement[Any]]) -> tuple[str, ...]:
    """The ids of what a judgement rests on, each once, in order."""
    return tuple(sorted({measurement.id for measurement in measurements}))


def percent(ratio: float) -> str:
    """``9.8%``; whole numbers from 10 % on, as the figures carry no more."""
    shown = f"{ratio * 100:.1f}" if ratio < 0.0995 else f"{ratio * 100:.0f}"
    return f"{shown.removesuffix('.0')}%"


def ratio(count: int, total: int) -> str:
    """``3 of 3 (95% CI 44-100%)``: every ratio carries its sample size and its interval (Wilson)."""
    interval = wilson(count, total, LEVEL)
    if interval is None:
        return f"{count} of {total}"
    return f"{count} of {total} ({LEVEL:.0%} CI {percent(interval.low).rstrip('%')}-{percent(interval.high)})"


def unseen_share(trials: int) -> str:
    """The largest share of bad trials that ``trials`` good ones leave possible (Wilson upper bound of 0 of n)."""
    interval = wilson(0, trials, LEVEL)
    return percent(interval.high) if interval else "100%"


def seconds(figure: float) -> str:
    """``9.9 s`` below ten seconds, ``12 s`` from there on."""
    return f"{figure:.1f} s" if figure < 10 else f"{figure:.0f} s"


def milliseconds(seconds: float) -> str:
    """``24 us`` below a tenth of a millisecond, ``4.0 ms`` below one second, ``3.05 s`` from there on."""
    if 0 < seconds < 1e-4:
        return f"{seconds * 1e6:.0f} us"
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.1f} ms"
