"""Routes between networks: bgp.route-change, bgp.flapping and bgp.asymmetric, from measured AS paths and a router's own
sessions.

What both rest on
1. An AS path from outside is an estimate: hops of unknown origin are wildcards, and a path that merely misses
   networks is no change. Only a network that was not there before, or another order, is one.
2. Several paths inside one network are one AS path; a longer queue is none. The minimum RTT stands beside.
3. A network that only comes in between, with every other still there, may be an exchange's LAN: it takes the RTT too.
   And if it shows at one hop alone, that hop may only answer from there: a router takes the address of the interface
   that its answer leaves by (RFC 1812 4.3.2.4), so that it tells of the way back.
4. BIRD's own state needs no estimate. A session that an operator disabled is down, not broken.
5. Coming and going is told from readings of this run alone: there and back, never one step. Each walk over TCP has a
   source port of its own, so paths of equal cost through two networks look like one that changes: only readings of one
   flow count, or a router's own session as the witness. How long a session stands is for standing.py.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from netdiag.diagnosis.finding import (
    Action,
    Finding,
    FindingRole,
    Horizon,
    Judgement,
    NotMeasured,
    RuledOut,
    Section,
    Severity,
    Subject,
)
from netdiag.diagnosis.rule import Case, Rule
from netdiag.diagnosis.rules.link import ARRIVED, baseline_of, delay_limit
from netdiag.diagnosis.rules.paths import Path, paths, probe_command, sampled
from netdiag.diagnosis.rules.standing import Seen, fell_between
from netdiag.diagnosis.rules.subjects import finding_id, ids, milliseconds
from netdiag.diagnosis.thresholds import (
    CERTAIN,
    LIKELY,
    POSSIBLE,
    ROUTE_SURE,
    RTT_CRITICAL_FACTOR,
    RTT_SAMPLES,
)
from netdiag.plan.endpoints import at
from netdiag.plan.model import Baseline, Router
from probes.model import Measurement, value
from probes.path import PathMeasurement
from probes.routing import RoutingMeasurement, as_path
from probes.stamp import DEFAULT_PORT
from probes.wire.bird import BirdSession

CHANGE, FLAPPING, ASYMMETRIC = "bgp.route-change", "bgp.flapping", "bgp.asymmetric"
Reading = Measurement[RoutingMeasurement]


def _in_order(measured: Iterable[Measurement[Any]]) -> tuple[Measurement[Any], ...]:
    """As they were taken; the ids' ordinals decide between equal times."""
    return tuple(sorted(measured, key=lambda m: (m.started, len(m.id), m.id)))


def _spelled(path: Iterable[int | None]) -> str:
    return " ".join("?" if asn is None else f"AS{asn}" for asn in path) or "unknown"


def _merged(path: Iterable[int | None]) -> tuple[int, ...]:
    """Known networks, each once in a row (a prepended path is the same path)."""
    out: list[int] = []
    for asn in path:
        if asn is not None and out[-1:] != [asn]:
            out.append(asn)
    return tuple(out)


@value
class Comparison:
    """A measured AS path against the normal one. At most one of ``changed`` and ``same`` is true."""

    changed: bool
    same: bool  # every network of the normal path but the vantage's own was seen, in order
    only_more: bool  # nothing of the normal path is gone for sure: a network came in between
    gone: tuple[int, ...]
    diverges: int | None  # index of the first hop that is not on the normal path
    strays: tuple[int, ...]  # indices of the hops in networks that are not on it at all


def compare(normal: Sequence[int], now: RoutingMeasurement) -> Comparison:
    expected, known = _merged(normal), _merged(now.as_path)
    diverges = _first_stray(expected, now)
    gone = tuple(asn for asn in expected[1:] if asn not in known)
    return Comparison(
        changed=diverges is not None,
        same=diverges is None and not gone,
        only_more=diverges is not None and _may_be_whole(expected, now),
        gone=gone,
        diverges=diverges,
        strays=tuple(index for index, asn in _known(now) if asn not in expected),
    )


def _known(now: RoutingMeasurement) -> Iterator[tuple[int, int]]:
    """Index and network of each hop that lies in one network for sure."""
    for index, hop in enumerate(now.hops):
        if hop.origin is not None and len(hop.origin.asns) == 1:
            yield index, hop.origin.asns[0]


def _may_be_whole(expected: Sequence[int], now: RoutingMeasurement) -> bool:
    """Each network of the normal path was seen, in order, or may be where a hop of unknown origin is: a router that
    rarely answers takes its network out of the trace and not out of the path."""
    path = [a for a in as_path(hop.origin for hop in now.hops) if a is None or a in expected]
    seen = _merged(path)
    if seen != tuple(asn for asn in expected if asn in seen):
        return False
    return all(None in _where(asn, expected, path) for asn in expected[1:] if asn not in seen)


def _where(missing: int, expected: Sequence[int], path: Sequence[int | None]) -> Sequence[int | None]:
    """The part of a path between what the normal one has before a network that was not seen, and behind it."""
    place = expected.index(missing)
    before = [index for index, asn in enumerate(path) if asn in expected[:place]]
    behind = [index for index, asn in enumerate(path) if asn in expected[place + 1 :]]
    return path[max(before, default=-1) + 1 : min(behind, default=len(path))]


def _first_stray(expected: Sequence[int], now: RoutingMeasurement) -> int | None:
    """The hop at which the known networks stop being a subsequence of the expected ones."""
    place = 0
    for index, asn in _known(now):
        while place < len(expected) and expected[place] != asn:
            place += 1
        if place == len(expected):
            return index
    return None


@value
class Route:
    """One path with a known AS path: what is normal and what was measured."""

    path: Path
    baseline: Baseline
    readings: tuple[Reading, ...]
    comparisons: tuple[Comparison, ...]
    flows: tuple[str | None, ...]  # whose way each reading shows; None: not known

    @property
    def subject(self) -> Subject:
        return replace(self.path.subject, source=self.baseline.source, target=self.baseline.target)

    @property
    def turns(self) -> int:
        """How often the path changed between normal and not, from one reading to the next."""
        return _turns(self.comparisons)

    @property
    def turns_of_a_flow(self) -> int:
        """The same, of readings that walked one flow's way: paths of equal cost make no turn."""
        known = {flow for flow in self.flows if flow is not None}
        ways = ([c for c, other in zip(self.comparisons, self.flows, strict=True) if other == flow] for flow in known)
        return max(map(_turns, ways), default=0)


def _is_decided(compared: Comparison) -> bool:
    """Normal, or surely not. A network that merely came in between is neither: its hop answers now and then."""
    return compared.same or (compared.changed and not compared.only_more)


def _turns(comparisons: Iterable[Comparison]) -> int:
    return sum(one.changed != other.changed for one, other in pairwise(filter(_is_decided, comparisons)))


def _routes(case: Case) -> Iterator[Route]:
    for path in paths(case):
        baseline = baseline_of(case, path.endpoint)
        if baseline is None or not baseline.as_path or path.is_loopback:
            continue
        readings = _readings(case, path)
        compared = tuple(compare(baseline.as_path, m.data) for m in readings if m.data)
        flows = tuple(_flow(case, m) for m in readings)
        yield Route(path=path, baseline=baseline, readings=readings, comparisons=compared, flows=flows)


def _readings(case: Case, path: Path) -> tuple[Reading, ...]:
    if path.address is None:
        return ()
    found = case.evidence.of(RoutingMeasurement, address=path.address, port=path.port)
    return _in_order(m for m in found if m.data and m.data.zone is not None)


def _flow(case: Case, reading: Reading) -> str | None:
    """The 5-tuple that routers hash; of an echo they hash the addresses, which are the same in every walk."""
    walk_id = reading.id.replace(f"{reading.vantage}/routing/", f"{reading.vantage}/path/", 1)
    walks = case.evidence.of(PathMeasurement, address=reading.target.address)
    data = next((m.data for m in walks if m.id == walk_id), None)
    if data is None:
        return None
    return "icmp" if data.method == "icmp" else data.flow if len(data.flows) <= 1 else None


@value
class Floor:
    """The smallest of at least RTT_SAMPLES round trips, seconds."""

    minimum_s: float
    evidence: tuple[str, ...]


def _floor(case: Case, path: Path) -> Floor | None:
    for method in ("tcp", "icmp"):
        measured = sampled(case, path, method)
        samples = [s for m in measured if m.data for s in m.data.samples]
        rtts = [s.rtt_s for s in samples if s.rtt_s is not None and s.outcome in ARRIVED]
        if len(rtts) >= RTT_SAMPLES:
            return Floor(minimum_s=min(rtts), evidence=ids(measured))
    return None


# A router's sessions


@value
class RouterReadings:
    router: Router
    readings: tuple[Reading, ...]

    @property
    def subject(self) -> Subject:
        return Subject(name=self.router.name)

    def histories(self) -> dict[str, tuple[Seen, ...]]:
        """Each session over the readings, by its name."""
        found: dict[str, list[Seen]] = {}
        for measurement in self.readings:
            data = measurement.data
            for session in (data.sessions if data else None) or ():
                seen = Seen(session=session, clock=data.clock if data else None, at=measurement.started)
                found.setdefault(session.name, []).append(seen)
        return {name: tuple(history) for name, history in sorted(found.items())}

    def flapping(self) -> dict[str, tuple[Seen, ...]]:
        return {name: history for name, history in self.histories().items() if _changes(history) >= 2}


def _routers(case: Case) -> Iterator[RouterReadings]:
    for router in case.plan.routers:
        found = case.evidence.of(RoutingMeasurement, host=router.name)
        readings = _in_order(m for m in found if m.data and m.data.sessions is not None)
        yield RouterReadings(router=router, readings=readings)


def _changes(history: Sequence[Seen]) -> int:
    """Changes of state; a session that stands at two readings and fell between them went and came back: two."""
    count = 0
    for before, after in pairwise(history):
        states = before.session.state, after.session.state
        if states[0] != states[1] and "up" in states:
            count += 1
        elif states == ("up", "up") and fell_between(before, after):
            count += 2
    return count


def _is_broken(session: BirdSession) -> bool:
    """It tries to come up and says why it does not; one that is disabled is in state "down"."""
    return session.state == "start" and bool(session.last_error)


def _told(session: BirdSession) -> str:
    where = ", ".join(
        part for part in (f"AS{session.neighbor_as}" if session.neighbor_as else "", session.neighbor or "") if part
    )
    return f"{session.name} ({where or 'neighbour unknown'})"


def _flapping_systems(case: Case) -> frozenset[int]:
    """Neighbour ASes of sessions that came and went during the run."""
    histories = (history for routed in _routers(case) for history in routed.flapping().values())
    sessions = (seen.session for history in histories for seen in history)
    return frozenset(session.neighbor_as for session in sessions if session.neighbor_as)


def _flaps(case: Case, route: Route) -> bool:
    """One flow's way there and back; or any turn while the router's own session of a network on the path comes and
    goes. Different flows that take different ways are no sign of time."""
    known = bool(_flapping_systems(case) & set(route.baseline.as_path))
    return route.turns_of_a_flow >= 2 or (route.turns >= 1 and known)


def _is_of_equal_cost(route: Route) -> bool:
    """Or looks so: one reading is normal, another is not, and no flow was seen on both ways."""
    return route.turns >= 1 and not route.turns_of_a_flow


# bgp.route-change


def judge_route_change(case: Case) -> Iterator[Judgement]:
    for route in _routes(case):
        yield _route_change(case, route)
    for routed in _routers(case):
        yield _sessions(case, routed)


def _route_change(case: Case, route: Route) -> Judgement:
    if not route.readings:
        return _unmeasured(case, route)
    last, compared, now = route.readings[-1], route.comparisons[-1], route.readings[-1].data
    assert now is not None  # _readings keeps measured ones alone
    floor, normal = _floor(case, route.path), route.baseline.rtt
    longer = _is_longer(floor, normal)
    figures = f"{_way(route)}: normal {_spelled(route.baseline.as_path)}, now {_spelled(now.as_path)}"
    if _flaps(case, route):
        return _open(route, f"{figures}; it changed back and forth during the run.", "See bgp.flapping.")
    if _answers_from_elsewhere(compared) and longer:
        return _open(route, f"{figures}. Nothing of the normal path is gone.", f"See {ASYMMETRIC}.")
    if compared.changed and (longer or _router_agrees(case, compared) or _is_sure(route, compared)):
        return _change_finding(case, route, last, compared, floor, longer=longer, figures=figures)
    if compared.changed and _is_of_equal_cost(route):
        said = f"{figures}. The way of another flow is the normal one and the minimum RTT has not moved: paths of equal"
        remedy = f"Compare with the router's own table, or later: {probe_command('path', route.path)}"
        return _open(route, f"{said} cost look so.", remedy)
    if compared.changed:
        said = f"{figures}. Nothing of the normal path is gone for sure and the RTT has not moved"
        return _open(
            route,
            f"{said}: an exchange's LAN looks so.",
            f"Compare with the router's own table, or later: {probe_command('path', route.path)}",
        )
    if not compared.same:
        said = f"{figures}. Nothing contradicts the normal path, but {_spelled(compared.gone)} was not seen."
        return _open(route, said, "Give a router of the path as [[router]], or trace from another vantage.")
    return RuledOut(
        code=CHANGE,
        subject=route.subject,
        statement=f"{figures}{_floor_told(floor, normal)}.",
        smallest_fault="a route through one network more or other than these; a change inside one is not visible.",
        evidence=ids(route.readings),
    )


def _is_longer(floor: Floor | None, normal: float | None) -> bool:
    return bool(floor and normal and floor.minimum_s > delay_limit(normal))


def _is_sure(route: Route, compared: Comparison) -> bool:
    return not compared.only_more and not _is_of_equal_cost(route)


def _router_agrees(case: Case, compared: Comparison) -> bool:
    return bool(_broken_systems(case)[0] & set(compared.gone))


def _answers_from_elsewhere(compared: Comparison) -> bool:
    """The normal path whole, and one hop with an address of another network between."""
    return compared.only_more and not compared.gone and len(compared.strays) == 1


def _way(route: Route) -> str:
    return f"AS path {route.baseline.source} -> {route.baseline.target} ({route.path.label})"


def _floor_told(floor: Floor | None, normal: float | None) -> str:
    if floor is None:
        return ""
    usual = f"normal {milliseconds(normal)}, " if normal is not None else ""
    return f"; minimum RTT {usual}now {milliseconds(floor.minimum_s)}"


def _open(route: Route, statement: str, remedy: str) -> NotMeasured:
    return NotMeasured(code=CHANGE, subject=route.subject, statement=statement, remedy=remedy)


def _unmeasured(case: Case, route: Route) -> NotMeasured:
    said = f"{_way(route)} against the normal {_spelled(route.baseline.as_path)}: "
    if case.plan.dns.origin_zone is None:
        remedy = "Set dns.origin_zone (it tells a third party which addresses are looked at) or give a [[router]]."
        return _open(route, f"{said}no zone says whose networks the hops are in.", remedy)
    return _open(route, f"{said}no hop's network was asked for.", f"Once it can: {probe_command('path', route.path)}")


def _change_finding(
    case: Case,
    route: Route,
    last: Reading,
    compared: Comparison,
    floor: Floor | None,
    *,
    longer: bool,
    figures: str,
) -> Finding:
    broken, router_ids = _broken_systems(case)
    agree = bool(broken & set(compared.gone))
    normal = route.baseline.rtt
    critical = bool(floor and normal and floor.minimum_s >= RTT_CRITICAL_FACTOR * normal)
    surely = LIKELY if (longer or agree) and not compared.only_more else POSSIBLE
    by_router = (
        f" A router's own session with {_spelled(sorted(broken & set(compared.gone)))} is down." if agree else ""
    )
    return Finding(
        id=finding_id(CHANGE, route.subject),
        code=CHANGE,
        role=FindingRole.CAUSE,
        severity=Severity.CRITICAL if critical else Severity.WARNING,
        confidence=ROUTE_SURE if longer and agree else surely,
        section=Section.INFRASTRUCTURE,
        subject=route.subject,
        statement=f"{figures}, from {_hop(last, compared)} on{_floor_told(floor, normal)}.{by_router}",
        evidence=tuple(
            sorted({*ids(route.readings), *(floor.evidence if floor else ()), *(router_ids if agree else ())})
        ),
        would_refute=f"The path through {_spelled(route.baseline.as_path)} again, or a router's table that shows it.",
        actions=_actions(probe_command("path", route.path)),
    )


def _hop(last: Reading, compared: Comparison) -> str:
    index = compared.diverges or 0
    return f"hop {index + 1} ({last.data.hops[index].address if last.data else None})"


def _broken_systems(case: Case) -> tuple[frozenset[int], tuple[str, ...]]:
    """Neighbour ASes of broken sessions, and the readings that say so."""
    latest = [routed.readings[-1] for routed in _routers(case) if routed.readings]
    broken = [(m, s) for m in latest for s in (m.data.sessions if m.data else None) or () if _is_broken(s)]
    return frozenset(s.neighbor_as for _, s in broken if s.neighbor_as), ids(m for m, _ in broken)


def _actions(check: str) -> tuple[Action, ...]:
    return (
        Action(
            owner="network",
            horizon=Horizon.IMMEDIATE,
            step="Ask the carrier of the network that is gone what happened to the prefix; compare both ends' tables.",
            check=check,
        ),
        Action(
            owner="network",
            horizon=Horizon.LONG_TERM,
            step="Watch the AS path and the sessions (BFD, alarms on state); agree on a second path of like length.",
            check=check,
        ),
    )


def _sessions(case: Case, routed: RouterReadings) -> Judgement:
    if not routed.readings or not routed.histories():
        return _no_sessions(CHANGE, routed)
    last = routed.readings[-1]
    sessions = (last.data.sessions if last.data else None) or ()
    broken = [session for session in sessions if _is_broken(session)]
    flapping = routed.flapping()
    if broken and all(session.name in flapping for session in broken):
        said = f"{routed.router.name}: {', '.join(map(_told, broken))} came and went during the run."
        return NotMeasured(code=CHANGE, subject=routed.subject, statement=said, remedy="See bgp.flapping.")
    if broken:
        return _session_finding(case, routed, last, broken)
    down = [session for session in sessions if session.state != "up"]
    idle = f" {', '.join(map(_told, down))} is down without an error: disabled or never up." if down else ""
    return RuledOut(
        code=CHANGE,
        subject=routed.subject,
        statement=f"{routed.router.name}: {len(sessions) - len(down)} of {len(sessions)} BGP sessions stand.{idle}",
        smallest_fault="one session of this router that is down when it is asked; routes that change inside one are not"
        " seen.",
        evidence=ids(routed.readings),
    )


def _session_finding(case: Case, routed: RouterReadings, last: Reading, broken: Sequence[BirdSession]) -> Finding:
    normal = {asn for baseline in case.plan.baselines for asn in baseline.as_path}
    used = any(session.neighbor_as in normal for session in broken)
    states = "; ".join(f"{_told(s)} is {s.bgp_state or s.state} since {s.since}: {s.last_error}" for s in broken)
    return Finding(
        id=finding_id(CHANGE, routed.subject),
        code=CHANGE,
        role=FindingRole.CAUSE,
        severity=Severity.WARNING,
        confidence=LIKELY if used else POSSIBLE,
        section=Section.INFRASTRUCTURE,
        subject=routed.subject,
        statement=f"{routed.router.name} has lost {len(broken)} of {len((last.data and last.data.sessions) or ())} BGP "
        f"sessions, and the routes learnt there: {states}.",
        evidence=ids(routed.readings),
        would_refute="The sessions Established, or a note that they have been down on purpose since before.",
        actions=_actions(_birdc(routed.router)),
    )


def _birdc(router: Router) -> str:
    return shlex.join(("birdc", "-r", "-s", router.bird or "", "show", "protocols"))


def _no_sessions(code: str, routed: RouterReadings) -> NotMeasured:
    router = routed.router
    if router.bird is None:
        said, remedy = "FRR is not read by this version", "By hand: vtysh -c 'show bgp summary json'"
    elif routed.readings:
        said, remedy = "it has no BGP session", "Name a router that speaks BGP."
    else:
        said, remedy = "its control socket was not read", f"As a user who may open it: {_birdc(router)}"
    return NotMeasured(
        code=code, subject=routed.subject, statement=f"BGP sessions of {router.name}: {said}.", remedy=remedy
    )


# bgp.flapping


def judge_flapping(case: Case) -> Iterator[Judgement]:
    for route in _routes(case):
        yield _path_flapping(case, route)
    for routed in _routers(case):
        yield _session_flapping(routed)


def _path_flapping(case: Case, route: Route) -> Judgement:
    decided = [c for c in route.comparisons if _is_decided(c)]
    shown = ", ".join(_spelled(m.data.as_path) for m in route.readings if m.data)
    if _flaps(case, route):
        return _flapping_finding(
            route.subject,
            f"{_way(route)} changes back and forth: {shown} (normal {_spelled(route.baseline.as_path)}), "
            f"{len(route.readings)} readings in this run.",
            (*route.readings, *(m for routed in _routers(case) if routed.flapping() for m in routed.readings)),
            confidence=LIKELY,
            check=probe_command("path", route.path),
        )
    if not _is_steady(route):
        said = f"{_way(route)}: {len(decided)} readings tell whether it is normal, {route.turns} changes among them."
        why = "No flow was seen on both ways: equal cost looks so." if _is_of_equal_cost(route) else ""
        return NotMeasured(
            code=FLAPPING,
            subject=route.subject,
            statement=f"{said} {why or 'Coming and going takes three.'}",
            remedy="Run for longer, without --quick, with dns.origin_zone set; or give a [[router]].",
        )
    return RuledOut(
        code=FLAPPING,
        subject=route.subject,
        statement=f"{_way(route)}: the same in {_told_apart(route)} readings.",
        smallest_fault=f"a route that is gone at one of {_told_apart(route)} readings; shorter ones fall between them.",
        evidence=ids(route.readings),
    )


def _is_steady(route: Route) -> bool:
    """Three readings that agree, if only in that none of them is the normal path."""
    return _told_apart(route) >= 3 and not route.turns


def _told_apart(route: Route) -> int:
    """Readings that tell, by the strictest measure by which they agree."""
    seen = [c for c in route.comparisons if c.changed or c.same]
    return len(seen) if len(_strange(route)) == 1 else sum(map(_is_decided, seen))


def _strange(route: Route) -> frozenset[bool]:
    """Whether the readings that tell anything show a network that does not belong there: both, where they differ."""
    return frozenset(c.changed for c in route.comparisons if c.changed or c.same)


def _session_flapping(routed: RouterReadings) -> Judgement:
    histories = routed.histories()
    if not routed.readings or not histories:
        return _no_sessions(FLAPPING, routed)
    flapping = routed.flapping()
    if flapping:
        return _flapping_finding(
            routed.subject,
            f"{routed.router.name}: {'; '.join(_history(history) for history in flapping.values())}, "
            f"{len(routed.readings)} readings in this run.",
            routed.readings,
            confidence=CERTAIN,
            check=_birdc(routed.router),
        )
    if len(routed.readings) < 2 or any(_changes(history) for history in histories.values()):
        seen = "one change of a session's state" if len(routed.readings) > 1 else "one reading"
        return NotMeasured(
            code=FLAPPING,
            subject=routed.subject,
            statement=f"BGP sessions of {routed.router.name}: {seen} is not coming and going.",
            remedy="Run for longer, without --quick: the router is read every few seconds.",
        )
    return RuledOut(
        code=FLAPPING,
        subject=routed.subject,
        statement=f"{routed.router.name}: no BGP session changed its state in {len(routed.readings)} readings.",
        smallest_fault="a session that falls between the first reading and the last and is back after a second or"
        " more: its age tells.",
        evidence=ids(routed.readings),
    )


def _history(history: Sequence[Seen]) -> str:
    sessions = [seen.session for seen in history]
    states = " -> ".join(session.bgp_state or session.state for session in sessions)
    error = next((session.last_error for session in reversed(sessions) if session.last_error), None)
    return f"session {_told(sessions[0])} changed {_changes(history)} times ({states})" + (
        f": {error}" if error else ""
    )


def _flapping_finding(
    subject: Subject, statement: str, readings: Iterable[Reading], *, confidence: float, check: str
) -> Finding:
    return Finding(
        id=finding_id(FLAPPING, subject),
        code=FLAPPING,
        role=FindingRole.CAUSE,
        severity=Severity.WARNING,
        confidence=confidence,
        section=Section.INFRASTRUCTURE,
        subject=subject,
        statement=statement,
        evidence=ids(readings),
        would_refute="One state through readings that cover several of its periods.",
        actions=(
            Action(
                owner="network",
                horizon=Horizon.IMMEDIATE,
                step="Take the unstable session or circuit out (drain it) until its cause is known; a steady long way "
                "is better than one that comes and goes.",
                check=check,
            ),
            Action(
                owner="network",
                horizon=Horizon.SHORT_TERM,
                step="Read the link's errors and the session's last error at both ends; compare BFD and hold timers.",
                check=check,
            ),
        ),
    )


# bgp.asymmetric


def judge_asymmetry(case: Case) -> Iterator[Judgement]:
    for route in _routes(case):
        yield _asymmetry(case, route)


def _asymmetry(case: Case, route: Route) -> Judgement:
    floor, normal = _floor(case, route.path), route.baseline.rtt
    longer, elsewhere = _is_longer(floor, normal), [c for c in route.comparisons if _answers_from_elsewhere(c)]
    if longer and floor and elsewhere and not _comes_and_goes(case, route):
        return _asymmetric_finding(route, floor, elsewhere[-1])
    if floor and normal and not longer:
        return RuledOut(
            code=ASYMMETRIC,
            subject=route.subject,
            statement=f"{_both_ways(route)}{_floor_told(floor, normal)}: neither way has become a detour.",
            smallest_fault=f"a way back that lifts the minimum RTT above {milliseconds(delay_limit(normal))}; another "
            "one of the same length does not show.",
            evidence=floor.evidence,
        )
    reflector = shlex.quote(at(route.path.address or route.path.endpoint.host, DEFAULT_PORT))
    return NotMeasured(
        code=ASYMMETRIC,
        subject=route.subject,
        statement=f"{_both_ways(route)}{_floor_told(floor, normal)}: no reflector at the far end tells the ways apart.",
        remedy=f"Run `netdiag reflect` on {route.path.endpoint.name}, then here: netdiag probe stamp {reflector}",
    )


def _comes_and_goes(case: Case, route: Route) -> bool:
    """Whatever it is that does: a way back that differs stays."""
    strange = [c.changed for c in route.comparisons if c.changed or c.same]
    return _flaps(case, route) or sum(one != other for one, other in pairwise(strange)) >= 2


def _both_ways(route: Route) -> str:
    return f"{route.baseline.source} -> {route.baseline.target} ({route.path.label}) and back"


def _asymmetric_finding(route: Route, floor: Floor, compared: Comparison) -> Finding:
    reading = next(m for m, c in zip(route.readings, route.comparisons, strict=True) if c is compared)
    hop = reading.data.hops[compared.strays[0]] if reading.data else None
    stray = _spelled(hop.origin.asns if hop and hop.origin else ())
    where = f"hop {compared.strays[0] + 1} answers from {hop.address if hop else None}, an address of {stray}"
    return Finding(
        id=finding_id(ASYMMETRIC, route.subject),
        code=ASYMMETRIC,
        role=FindingRole.CAUSE,
        severity=Severity.WARNING,
        confidence=POSSIBLE,
        section=Section.INFRASTRUCTURE,
        subject=replace(route.subject, direction="from-target"),
        statement=f"The way back from {route.path.label} differs: the way there is the normal "
        f"{_spelled(route.baseline.as_path)}, but {where}, so that its answers leave by {stray}"
        f"{_floor_told(floor, route.baseline.rtt)}. A network of one router that came in between would look the same.",
        evidence=tuple(sorted({*ids(route.readings), *floor.evidence})),
        would_refute=f"A trace from the far end towards here that does not cross {stray}, or the reverse delay of "
        "`netdiag probe stamp` as usual.",
        actions=(
            Action(
                owner="network",
                horizon=Horizon.SHORT_TERM,
                step=f"At the far end compare the route towards {route.baseline.source} with the normal one: local "
                f"preference, prepending, the session with {_spelled(route.baseline.as_path[1:-1])}.",
                check=probe_command("path", route.path),
            ),
        ),
    )


RULES: tuple[Rule, ...] = (
    Rule(
        code=CHANGE,
        section=Section.INFRASTRUCTURE,
        fires="The measured AS path holds a network that the baseline's as_path does not, or another order; or a BIRD "
        "session is down with an error.",
        quiet="Hops of unknown origin could be the missing networks, several paths run inside one network, a network "
        "only came in between while the minimum RTT stayed (an exchange's LAN, its neighbours silent or not) or at one "
        "hop alone (that hop answers by another way: bgp.asymmetric), another flow's way is the normal one while the "
        "minimum RTT stayed (equal cost), or a session was disabled.",
        refuted_by="The baseline's AS path measured again, or the router's own table showing it.",
        judge=judge_route_change,
    ),
    Rule(
        code=FLAPPING,
        section=Section.INFRASTRUCTURE,
        fires="The AS path of one flow changed there and back between readings of one run, or once while a BIRD "
        "session of a network on it came and went; or a BIRD session changed state twice, or stands for a shorter time "
        "than has passed since it was seen standing.",
        quiet="There was one change only, or one reading; readings of different flows differ (equal cost); a network "
        "came in between at a hop that answers now and then; or the hour since when a session stands moved while its "
        "age fits (BIRD computes it anew for every reply, and a step of the wall clock moves it).",
        refuted_by="One state through readings that cover several of its periods; the router's log without a fall of "
        "that session.",
        judge=judge_flapping,
    ),
    Rule(
        code=ASYMMETRIC,
        section=Section.INFRASTRUCTURE,
        fires="The minimum RTT is above the baseline's, every network of the normal path is there in order, and one "
        "hop between them answers from an address of another network.",
        quiet="The minimum RTT has not moved, networks of the normal path are gone or several hops lie in the other "
        "one (bgp.route-change), or the route changes during the run.",
        refuted_by="A trace from the far end that does not cross that network; a reverse delay as usual (STAMP).",
        judge=judge_asymmetry,
    ),
)
