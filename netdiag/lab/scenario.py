"""A scenario: one incident of the lab as data, with the answer that netdiag owes. Read strictly, from TOML.

    name = "firewall-drop"                 # the file's name
    title = "The firewall drops every SYN to one database"
    row = 5                                # of the mission table in PRODUCT.md
    family = "ipv4"                        # the plan has addresses of this family; "both", the default: names

    [draw]
    place = { of = ["db-east", "db-west"] }

    [[fault]]                              # netdiag/lab/faults.py lists the kinds and their keys
    kind = "drop"
    to = "$place"

    [expect]
    verdict = "critical"
    may = ["db.unresponsive"]              # only consequences of the musts, by netdiag/diagnosis/causes.py

    [[expect.must]]                        # the code, and what its subject must say
    code = "firewall.drop"
    endpoint = "$place"

    [[expect.also]]                        # where the same fault may be seen as well, and need not
    code = "firewall.drop"
    endpoint = "ysql"

Every code that is neither in ``must`` nor in ``may`` must not be named. A scenario without faults or musts is healthy.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Iterable, Mapping
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any

from netdiag.diagnosis.causes import CONSEQUENCES
from netdiag.lab.draw import Choice, DrawError, Drawn, Range, draw, fill, read_draw
from netdiag.lab.faults import Fault, FaultError, read_fault
from probes.model import value

FAMILIES = ("ipv4", "ipv6", "both")
VERDICTS = ("healthy", "degraded", "critical", "unknown")
ROWS = range(1, 22)
_TEXT_PARTS = ("endpoint", "address", "host", "resolver", "name", "hop", "direction")
_NUMBER_PARTS = ("port", "size", "tolerance")


class ScenarioError(ValueError):
    """A scenario that cannot be used. One line: the file, the key and what is wrong."""


@value
class Pattern:
    """A finding that is due: its code, and the parts of its subject that are said. None: anything will do.

    ``host`` and ``resolver`` are hosts of the lab; they stand for all their addresses. ``size`` holds within
    ``tolerance`` bytes.
    """

    code: str
    endpoint: str | None = None
    address: str | None = None
    host: str | None = None
    resolver: str | None = None
    name: str | None = None
    hop: str | None = None
    direction: str | None = None
    port: int | None = None
    size: int | None = None
    tolerance: int = 0


@value
class Expectation:
    """``also``: where a must's fault or its consequence is seen from as well, such as through the balancer."""

    verdicts: tuple[str, ...]  # any of these is right
    must: tuple[Pattern, ...] = ()
    also: tuple[Pattern, ...] = ()
    may: frozenset[str] = frozenset()


@value
class Incident:
    """A scenario with a seed: what to do to the world, and the answer that is due."""

    scenario: str
    seed: int
    drawn: Drawn
    faults: tuple[Fault, ...]
    expected: Expectation


@value
class Scenario:
    """``implemented`` False: netdiag has no rule for it yet. It is run all the same and counted as missed."""

    name: str
    title: str
    row: int | None
    family: str
    implemented: bool
    quick: bool  # one look is enough: no watching on for faults that come and go
    fast: bool  # part of the fast subset
    settle_s: float  # between the fault and netdiag: what the fault itself needs to show
    plan: str  # more of netdiag's plan, as it stands: the ticket, say
    draws: Mapping[str, Range | Choice]
    faults: tuple[Mapping[str, Any], ...]
    expect: Mapping[str, Any]

    @property
    def is_healthy(self) -> bool:
        return not self.expect.get("must")

    @property
    def codes(self) -> frozenset[str]:
        return frozenset(must["code"] for must in self.expect.get("must", ()))

    @property
    def digest(self) -> str:
        """Of what decides a trial and its answer: a scenario that has another one is another scenario."""
        draws = {name: repr(each) for name, each in self.draws.items()}
        decisive = [self.family, self.quick, self.settle_s, self.plan, draws, self.faults, self.expect]
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:8]

    def incident(self, seed: int) -> Incident:
        """Raises ScenarioError where a drawn value does not fit its place."""
        drawn = draw(self.draws, seed)
        try:
            faults = tuple(read_fault(fill(fault, drawn)) for fault in self.faults)
            expected = _expectation(fill(self.expect, drawn))
        except (DrawError, FaultError) as error:
            raise ScenarioError(f"{self.name}.toml: {error}") from None
        return Incident(scenario=self.name, seed=seed, drawn=drawn, faults=faults, expected=expected)


_KEYS: dict[str, type | tuple[type, ...]] = {
    "name": str,
    "title": str,
    "row": int,
    "family": str,
    "implemented": bool,
    "quick": bool,
    "fast": bool,
    "settle_s": (int, float),
    "plan": str,
    "draw": dict,
    "fault": list,
    "expect": dict,
}
_REQUIRED = ("name", "title", "expect")


def all_scenarios() -> tuple[Scenario, ...]:
    """Every scenario that comes with netdiag, by name. Raises ScenarioError."""
    folder = resources.files("netdiag.lab") / "scenarios"
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".toml")), key=lambda file: file.name)
    return tuple(read_scenario(file) for file in files)


def scenario_named(name: str) -> Scenario:
    """Raises ScenarioError with what was meant."""
    import difflib

    known = {scenario.name: scenario for scenario in all_scenarios()}
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=1)
    raise ScenarioError(f"no scenario is called {name!r}" + (f"; did you mean {near[0]}?" if near else ""))


def read_scenario(file: Traversable) -> Scenario:
    """Read and check one file. Raises ScenarioError."""
    return parse_scenario(file.read_text(encoding="utf-8"), file.name)


def parse_scenario(text: str, source: str) -> Scenario:
    """``source`` is the file's name, ``<name>.toml``. Raises ScenarioError."""
    try:
        document = tomllib.loads(text)
        scenario = _scenario(document, source)
        scenario.incident(seed=0)
    except tomllib.TOMLDecodeError as error:
        raise ScenarioError(f"{source}: not TOML: {error}") from None
    except DrawError as error:
        raise ScenarioError(f"{source}: {error}") from None
    return scenario


def _scenario(document: dict[str, Any], source: str) -> Scenario:
    _check_keys(document, source)
    if f"{document['name']}.toml" != source:
        raise ScenarioError(f"{source}: name: must be the file's own name")
    if document.get("family", "both") not in FAMILIES:
        raise ScenarioError(f"{source}: family: must be one of {', '.join(FAMILIES)}")
    if document.get("row", 1) not in ROWS:
        raise ScenarioError(f"{source}: row: must be a line of the mission table, 1 to 21")
    _check_expectation(document["expect"], source)
    return Scenario(
        name=document["name"],
        title=document["title"],
        row=document.get("row"),
        family=document.get("family", "both"),
        implemented=document.get("implemented", True),
        quick=document.get("quick", False),
        fast=document.get("fast", False),
        settle_s=document.get("settle_s", 0.0),
        plan=document.get("plan", ""),
        draws=_draws(document.get("draw", {}), source),
        faults=tuple(document.get("fault", ())),
        expect=document["expect"],
    )


def _check_keys(document: dict[str, Any], source: str) -> None:
    _no_unknown(document, _KEYS, source, "")
    for key in _REQUIRED:
        if key not in document:
            raise ScenarioError(f"{source}: the key `{key}` is missing")
    for key, found in document.items():
        wrong_bool = isinstance(found, bool) and _KEYS[key] is not bool
        if wrong_bool or not isinstance(found, _KEYS[key]):
            raise ScenarioError(f"{source}: {key}: has the wrong type")


def _no_unknown(found: Iterable[str], known: Iterable[str], source: str, where: str) -> None:
    import difflib

    for key in found:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            meant = f"; did you mean `{near[0]}`?" if near else f"; known here: {', '.join(known)}"
            raise ScenarioError(f"{source}: {where}{key}: unknown key{meant}")


def _draws(found: dict[str, Any], source: str) -> dict[str, Range | Choice]:
    read = {}
    for name, each in found.items():
        try:
            read[name] = read_draw(each)
        except DrawError as error:
            raise ScenarioError(f"{source}: draw.{name}: {error}") from None
    return read


def _check_expectation(found: dict[str, Any], source: str) -> None:
    _no_unknown(found, ("verdict", "must", "also", "may", "must_not"), source, "expect.")
    if "verdict" not in found:
        raise ScenarioError(f"{source}: expect.verdict is missing")
    for which in ("must", "also"):
        for index, pattern in enumerate(found.get(which, ())):
            _no_unknown(pattern, ("code", *_TEXT_PARTS, *_NUMBER_PARTS), source, f"expect.{which}[{index}].")
            if "code" not in pattern:
                raise ScenarioError(f"{source}: expect.{which}[{index}].code is missing")
    for verdict in _verdicts(found["verdict"]):
        if verdict not in VERDICTS:
            raise ScenarioError(f"{source}: expect.verdict: must be one of {', '.join(VERDICTS)}")
    _check_may(found, source)


def _check_may(found: dict[str, Any], source: str) -> None:
    must = {each["code"] for each in found.get("must", ())}
    allowed = consequences(must)
    for also in found.get("also", ()):
        if also["code"] not in must | allowed:
            raise ScenarioError(f"{source}: expect.also: {also['code']} is neither a must nor its consequence")
    for code in found.get("may", ()):
        if code not in allowed:
            raise ScenarioError(
                f"{source}: expect.may: {code} is no consequence of {', '.join(sorted(must)) or 'none'}"
            )
    for code in found.get("must_not", ()):
        if code in must or code in found.get("may", ()):
            raise ScenarioError(f"{source}: expect.must_not: {code} is expected as well")


def consequences(codes: Iterable[str]) -> frozenset[str]:
    """Every code that the cause graph lets ``codes`` explain, directly or through what they explain."""
    reached: set[str] = set()
    frontier = list(codes)
    while frontier:
        new = CONSEQUENCES.get(frontier.pop(), frozenset()) - reached
        reached |= new
        frontier.extend(new)
    return frozenset(reached)


def _verdicts(found: Any) -> tuple[str, ...]:
    return (found,) if isinstance(found, str) else tuple(found)


def _expectation(filled: Mapping[str, Any]) -> Expectation:
    return Expectation(
        verdicts=_verdicts(filled["verdict"]),
        must=tuple(Pattern(**must) for must in filled.get("must", ())),
        also=tuple(Pattern(**also) for also in filled.get("also", ())),
        may=frozenset(filled.get("may", ())),
    )
