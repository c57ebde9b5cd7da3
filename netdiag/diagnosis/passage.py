"""What the application lives through where its connection string, or a name in it, gives more than one place to go.

A driver tries the addresses of each host in turn. libpq goes on to the next one after a name that does not resolve, a
TCP connection that fails, a server that is starting (57P03), a session of the wrong kind (target_session_attrs) and a
connect_timeout that runs out at any point; any other answer, and a close, end its attempt (fe-connect.c,
PQconnectPoll). Without connect_timeout a server that accepts and says nothing holds it for ever. pgjdbc goes on after
errors too. So a host that is down is critical only where no other would serve.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from enum import StrEnum

from netdiag.diagnosis.finding import Action, Finding, FindingRole, Horizon, Severity, Subject
from netdiag.diagnosis.rule import Case
from netdiag.diagnosis.rules.handshakes import Answer, tries_at
from netdiag.diagnosis.rules.subjects import Place, addresses_of, milliseconds
from netdiag.diagnosis.rules.waterfalls import (
    LOCAL,
    NO_PASSWORD,
    PASSED,
    STARTING,
    UNCONNECTED,
    Attempt,
    attempts_at,
    login_check,
    unsuited,
)
from netdiag.plan.endpoints import at, is_address, is_database
from netdiag.plan.model import Alternatives, Endpoint
from probes.model import FailureKind, value
from probes.names import NamesMeasurement

_CONCERNED = ("db.", "firewall.", "lb.backend-down", "lb.wrong-protocol", "net.unreachable", "dns.nxdomain")
_PGJDBC_CONNECT_S = 10.0  # its default connectTimeout; libpq has none
_AT_ONCE_S = 0.05


class Meeting(StrEnum):
    SERVES = "serves"
    PASSED_BY = "passed by"  # the driver goes on to the next
    STOPS = "stops"  # the driver gives up here, or waits for ever
    UNKNOWN = "unknown"


@value
class Step:
    """One place as the driver meets it. ``seconds``: what it costs to get past; None: until the kernel gives up."""

    place: Place
    meeting: Meeting
    seconds: float | None = 0.0


@value
class Passage:
    """The steps in the order in which they are tried, addresses as getaddrinfo gave them."""

    choices: Alternatives
    steps: tuple[Step, ...]

    @property
    def serving(self) -> int | None:
        return next((n for n, step in enumerate(self.steps) if step.meeting is Meeting.SERVES), None)

    @property
    def stopping(self) -> int | None:
        """The first place that is not got past."""
        blocks = (Meeting.STOPS, Meeting.UNKNOWN)
        return next((n for n, step in enumerate(self.steps) if step.meeting in blocks), None)

    def index(self, subject: Subject) -> int | None:
        """The first step that ``subject`` is about."""
        return next((n for n, step in enumerate(self.steps) if _concerns(subject, step.place)), None)


def weigh(case: Case, findings: Iterable[Finding]) -> list[Finding]:
    """Causes at one of several places, with what the application makes of them."""
    ways = [passage(case, choices) for choices in _choices(case)]
    return [_weighed(finding, ways) for finding in findings]


def _choices(case: Case) -> tuple[Alternatives, ...]:
    """Each DSN once; an endpoint by itself is one of one host."""
    declared = (endpoint for endpoint in case.plan.endpoints if is_database(endpoint) and endpoint.port is not None)
    return tuple(dict.fromkeys(e.alternatives or Alternatives(hosts=(e.name,)) for e in declared))


def passage(case: Case, choices: Alternatives) -> Passage:
    by_name = {endpoint.name: endpoint for endpoint in case.plan.endpoints}
    hosts = (by_name[name] for name in choices.hosts if name in by_name)
    steps = (_step(case, place, choices) for endpoint in hosts for place in _dialled(case, endpoint))
    return Passage(choices=choices, steps=tuple(steps))


def _dialled(case: Case, endpoint: Endpoint) -> tuple[Place, ...]:
    """The addresses that the application's own look-up gives, in its order; one place without an address if none."""
    port = endpoint.port or 0
    if endpoint.address or is_address(endpoint.host):
        known = addresses_of(case.evidence, endpoint)
        addresses: tuple[str | None, ...] = (endpoint.address or known[0],)
    else:
        looked_up = [
            m.data.system for m in case.evidence.of(NamesMeasurement, host=endpoint.host) if m.data and m.data.system
        ]
        addresses = tuple(dict.fromkeys(a for system in looked_up for a in system.addresses)) or (None,)
    return tuple(Place(endpoint=endpoint, address=address, port=port) for address in addresses)


def _step(case: Case, place: Place, choices: Alternatives) -> Step:
    if place.address is None:
        return _unresolved(case, place)
    attempts = [attempt for attempt in attempts_at(case, place) if attempt.fate != LOCAL]
    good = [attempt for attempt in attempts if attempt.fate in (PASSED, NO_PASSWORD)]
    if good:
        wrong = all(unsuited(attempt, choices.target_session_attrs) for attempt in good)
        return Step(place=place, meeting=Meeting.PASSED_BY if wrong else Meeting.SERVES)
    connected = [attempt for attempt in attempts if attempt.fate != UNCONNECTED]
    return _answered(place, connected, choices) if connected else _unconnected(case, place, choices)


def _unresolved(case: Case, place: Place) -> Step:
    failed = [
        m.data.system for m in case.evidence.of(NamesMeasurement, host=place.endpoint.host) if m.data and m.data.system
    ]
    if not failed:
        return Step(place=place, meeting=Meeting.UNKNOWN)
    return Step(place=place, meeting=Meeting.PASSED_BY, seconds=min(system.seconds for system in failed))


def _answered(place: Place, attempts: list[Attempt], choices: Alternatives) -> Step:
    """Past TCP, and none of them through."""
    silent = any(a.failure is not None and a.failure.kind is FailureKind.TIMEOUT for a in attempts)
    if silent:
        limit = _connect_timeout(place)
        meeting = Meeting.STOPS if limit is None else Meeting.PASSED_BY
        return Step(place=place, meeting=meeting, seconds=limit)
    goes_on = choices.driver == "pgjdbc" or all(attempt.fate == STARTING for attempt in attempts)
    return Step(place=place, meeting=Meeting.PASSED_BY if goes_on else Meeting.STOPS)


def _unconnected(case: Case, place: Place, choices: Alternatives) -> Step:
    tries = tries_at(case.evidence, place.address, place.port)
    if not tries.sent or tries.count(Answer.OPEN):
        return Step(place=place, meeting=Meeting.UNKNOWN)
    if not tries.count(Answer.SILENT):
        return Step(place=place, meeting=Meeting.PASSED_BY)
    limit = _connect_timeout(place)
    default = _PGJDBC_CONNECT_S if choices.driver == "pgjdbc" else None
    return Step(place=place, meeting=Meeting.PASSED_BY, seconds=default if limit is None else limit)


def _connect_timeout(place: Place) -> float | None:
    return place.endpoint.credentials.connect_timeout if place.endpoint.credentials else None


def _concerns(subject: Subject, place: Place) -> bool:
    if subject.endpoint is None:
        return subject.name is not None and subject.name == place.endpoint.host
    return subject.endpoint == place.endpoint.name and subject.address in (None, place.address)


def _weighed(finding: Finding, ways: list[Passage]) -> Finding:
    if finding.role is not FindingRole.CAUSE or not finding.code.startswith(_CONCERNED):
        return finding
    if finding.severity is not Severity.CRITICAL:
        return finding  # it hits some connections only, or says itself what serves beside it
    for way in ways:
        number = way.index(finding.subject)
        if number is not None and way.serving is not None and len(way.steps) > 1:
            return _beside_one_that_serves(finding, way, number, way.serving)
    return finding


def _beside_one_that_serves(finding: Finding, way: Passage, number: int, serving: int) -> Finding:
    server, stopping = _label(way.steps[serving].place), way.stopping
    driver = way.choices.driver
    if way.choices.shuffled:
        return _told(finding, _shuffled_words(way, number))
    if number > serving:
        return _told(finding, f"The application does not meet it: {driver} tries {server} first, and that one serves.")
    if stopping is None or stopping > serving:
        return _past(finding, way, number, serving)
    if stopping == number and way.steps[number].meeting is Meeting.STOPS:
        lasting = way.steps[number].seconds is None
        why = "waits here for ever, as no connect_timeout is set" if lasting else "gives up after such an answer"
        said = f"{driver} {why}, and does not go on to {server}, which would serve."
        return _told(finding, said, finding.severity)
    return finding


def _past(finding: Finding, way: Passage, number: int, serving: int) -> Finding:
    costs = [step.seconds for step in way.steps[:serving]]
    step, server = way.steps[number], _label(way.steps[serving].place)
    told = _told(finding, f"The application still connects: {way.choices.driver} goes on to {server}{_after(costs)}.")
    return replace(told, actions=(*told.actions, _sooner(step.place))) if step.seconds is None else told


def _after(costs: list[float | None]) -> str:
    known = [cost for cost in costs if cost is not None]
    if len(known) < len(costs):
        return ", but only when the kernel gives up its SYNs after some two minutes: no connect_timeout is set"
    return " at once" if sum(known) < _AT_ONCE_S else f" after {milliseconds(sum(known))}, each time"


def _shuffled_words(way: Passage, number: int) -> str:
    """load_balance_hosts=random draws the host that comes first."""
    hosts, step = len(way.choices.hosts), way.steps[number]
    share = f"With load_balance_hosts=random 1 connection in {hosts} tries this host first"
    if step.meeting is Meeting.PASSED_BY:
        return f"{share} and goes on{_after([step.seconds])}."
    return f"{share} and ends there; the others are served."


def _sooner(place: Place) -> Action:
    step = "Set connect_timeout=2 or a little more in the DSN, so that the next host is tried that much sooner."
    return Action(owner="application", horizon=Horizon.SHORT_TERM, step=step, check=login_check(place))


def _told(finding: Finding, said: str, severity: Severity = Severity.WARNING) -> Finding:
    return replace(finding, statement=f"{finding.statement} {said}", severity=severity)


def _label(place: Place) -> str:
    return at(place.endpoint.host if place.address is None else place.address, place.port)
