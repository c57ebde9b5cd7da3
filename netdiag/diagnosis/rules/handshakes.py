"""Every TCP connection attempt of a run to one address and port, whichever probe made it, and what answered.

The rules about closed, rejected, dropped and unreachable ports all read the same tally, so that they cannot
contradict each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import Any

from netdiag.diagnosis.rule import Case
from netdiag.diagnosis.rules.subjects import Place, sockets
from netdiag.evidence import Evidence
from probes.database import DatabaseMeasurement
from probes.exchanges import Handshake
from probes.latency import LatencyMeasurement
from probes.loss import LossMeasurement
from probes.model import Failure, FailureKind, IcmpError, Measurement, Outcome, value
from probes.path import PathMeasurement
from probes.ports import PortsMeasurement
from probes.sampling import RttSample


class Answer(StrEnum):
    OPEN = "SYN-ACK"
    RESET = "RST"
    REJECTED = "ICMP rejection"
    UNREACHABLE = "ICMP unreachable or no route"
    SILENT = "unanswered"
    NOT_SENT = "not sent"


@value
class Try:
    """One attempt. ``syns`` counts the packets of it, retransmissions included."""

    answer: Answer
    syns: int
    seconds: float | None
    failure: Failure | None
    measurement: str

    @property
    def icmp(self) -> IcmpError | None:
        return self.failure.icmp if self.failure else None


@value
class Tries:
    """All attempts at one address and port. ``sources`` are our own addresses, where known."""

    tries: tuple[Try, ...]
    sources: tuple[str, ...]

    def of(self, answer: Answer) -> tuple[Try, ...]:
        return tuple(t for t in self.tries if t.answer is answer)

    def count(self, *answers: Answer) -> int:
        return sum(t.answer in answers for t in self.tries)

    @property
    def sent(self) -> int:
        """Attempts that left this host: a local failure to send says nothing of the network."""
        return len(self.tries) - self.count(Answer.NOT_SENT)

    @property
    def syns(self) -> int:
        return sum(t.syns for t in self.tries if t.answer is not Answer.NOT_SENT)

    @property
    def all_silent(self) -> bool:
        return 0 < self.sent == self.count(Answer.SILENT)

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(sorted({t.measurement for t in self.tries}))

    @property
    def tally(self) -> str:
        """``3 RST, 1 unanswered``, in the order of Answer."""
        counts = ((answer, self.count(answer)) for answer in Answer)
        return ", ".join(f"{count} {answer}" for answer, count in counts if count)

    @property
    def local_reason(self) -> str | None:
        """Why this host could not send, where it could not."""
        failures = [t.failure for t in self.of(Answer.NOT_SENT) if t.failure]
        return next((f.errno or f.detail or str(f.kind) for f in failures), None)


def answer_of(outcome: Outcome, failure: Failure | None) -> Answer:
    """TCP knows no port-unreachable: an ICMP error behind a refusal is a filter's, the host's own or another's."""
    icmp = failure.icmp if failure else None
    if outcome is Outcome.REFUSED:
        return Answer.REJECTED if icmp else Answer.RESET
    return {
        Outcome.REJECTED: Answer.REJECTED,
        Outcome.UNREACHABLE: Answer.UNREACHABLE,
        Outcome.EXPIRED: Answer.UNREACHABLE,
        Outcome.LOST: Answer.SILENT,
        Outcome.TOO_BIG: Answer.SILENT,
        Outcome.NOT_SENT: Answer.NOT_SENT,
    }.get(outcome, Answer.OPEN)


def tries_at(evidence: Evidence, address: str | None, port: int) -> Tries:
    """What the run knows of one address and port; empty without an address."""
    if address is None:
        return Tries(tries=(), sources=())
    return _tries((m, t) for m, number, t in _every_try(evidence, address) if number == port)


def tries_beside(evidence: Evidence, address: str | None, port: int) -> Tries:
    """The same of every other port of the address."""
    if address is None:
        return Tries(tries=(), sources=())
    return _tries((m, t) for m, number, t in _every_try(evidence, address) if number != port)


def every_try(evidence: Evidence, address: str) -> Tries:
    """The same of all its ports."""
    return _tries((m, t) for m, _, t in _every_try(evidence, address))


def _tries(found: Iterable[tuple[Measurement[Any], Try]]) -> Tries:
    found = tuple(found)
    return Tries(tries=tuple(t for _, t in found), sources=tuple(sorted({m.source for m, _ in found if m.source})))


def _every_try(evidence: Evidence, address: str) -> Iterator[tuple[Measurement[Any], int, Try]]:
    """Each attempt at any port of ``address``, in the order of measurement ids."""
    for ports in evidence.of(PortsMeasurement, address=address):
        for attempt in ports.data.attempts if ports.data else ():
            yield ports, attempt.port, _of_handshake(attempt.handshake, ports.id)
    for database in evidence.of(DatabaseMeasurement, address=address):
        for waterfall in database.data.attempts if database.data else ():
            yield database, database.data.port if database.data else 0, _of_handshake(waterfall.handshake, database.id)
    series: tuple[Measurement[LatencyMeasurement] | Measurement[LossMeasurement], ...] = (
        *evidence.of(LatencyMeasurement, address=address),
        *evidence.of(LossMeasurement, address=address),
    )
    for one in series:
        if one.data and one.data.method == "tcp" and one.target.port:
            for sample in one.data.samples:
                yield one, one.target.port, _of_sample(sample, one.id)


def _of_handshake(handshake: Handshake, measurement: str) -> Try:
    return Try(
        answer=answer_of(handshake.outcome, handshake.failure),
        syns=1 + (handshake.syn_retransmits or 0),
        seconds=handshake.rtt_s or handshake.seconds,
        failure=handshake.failure,
        measurement=measurement,
    )


def _of_sample(sample: RttSample, measurement: str) -> Try:
    return Try(
        answer=answer_of(sample.outcome, sample.failure),
        syns=1 + (sample.retransmits or 0),
        seconds=sample.rtt_s,
        failure=sample.failure,
        measurement=measurement,
    )


@value
class Proof:
    """Something that came back from the host itself although the port in question said nothing."""

    statement: str
    measurement: str


def proofs_of_life(evidence: Evidence, address: str, port: int) -> tuple[Proof, ...]:
    """Answers of ``address`` by any other way than ``port``: another port, an echo, a traced path that reached it."""
    return (*_other_ports(evidence, address, port), *_echoes(evidence, address), *_paths(evidence, address, port))


def way_beside(evidence: Evidence, address: str, port: int, tries: Tries) -> tuple[Proof, ...]:
    """Proof that the host is reached while every attempt at ``port`` is told by somebody's ICMP that it is not.

    A filter says so of one port (nft and iptables reject with any ICMP code); a missing route holds for all of them.
    Echoes count only if none was lost: a route that comes and goes is no filter.
    """
    told = tries.of(Answer.UNREACHABLE)
    if not told or len(told) != tries.sent or any(t.icmp is None or is_expired(t) for t in told):
        return ()
    if set(offenders(told)) <= set(tries.sources):
        return ()
    return (*_other_ports(evidence, address, port), *_echoes(evidence, address, every=True))


def is_expired(attempt: Try) -> bool:
    """Time exceeded: ICMP type 11, ICMPv6 type 3."""
    icmp = attempt.icmp
    return icmp is not None and icmp.type == (3 if icmp.family == 6 else 11)


def _other_ports(evidence: Evidence, address: str, port: int) -> Iterator[Proof]:
    said: set[int] = set()
    for measurement, number, attempt in _every_try(evidence, address):
        if number != port and number not in said and _is_hosts_own(attempt, address):
            said.add(number)
            yield Proof(
                statement=f"port {number} of the same host answers ({attempt.answer})", measurement=measurement.id
            )


def _is_hosts_own(attempt: Try, address: str) -> bool:
    if attempt.answer is Answer.REJECTED:
        return attempt.icmp is not None and attempt.icmp.offender == address
    return attempt.answer in (Answer.OPEN, Answer.RESET)


def _echoes(evidence: Evidence, address: str, *, every: bool = False) -> Iterator[Proof]:
    """``every``: only where none was lost."""
    for measurement in evidence.of(LatencyMeasurement, address=address):
        if measurement.data and measurement.data.method == "icmp" and measurement.data.rtt.n:
            if every and measurement.data.loss.lost:
                continue
            yield Proof(statement="ICMP echo is answered", measurement=measurement.id)
            return


def _paths(evidence: Evidence, address: str, port: int) -> Iterator[Proof]:
    for measurement in evidence.of(PathMeasurement, address=address):
        if measurement.data and measurement.data.reached and measurement.data.port != port:
            how = f"port {measurement.data.port}" if measurement.data.port else "ICMP"
            hop = measurement.data.reached_ttl
            yield Proof(statement=f"a trace by {how} reaches it at hop {hop}", measurement=measurement.id)


@value
class Traces:
    """The path to the port in question, and one to the same host that went through."""

    service: Measurement[PathMeasurement]
    control: Measurement[PathMeasurement]

    @property
    def ids(self) -> tuple[str, str]:
        return (self.service.id, self.control.id)


def traces(evidence: Evidence, address: str, port: int) -> Traces | None:
    """The first pair by id, or None where either is missing."""
    measured = evidence.of(PathMeasurement, address=address)
    service = next((m for m in measured if m.data and m.data.port == port and m.data.method == "tcp"), None)
    control = next((m for m in measured if m.data and m.data.port != port and m.data.reached), None)
    return Traces(service=service, control=control) if service and control else None


def routers(path: PathMeasurement) -> dict[int, str]:
    """The router that answered "time exceeded" at each TTL; the first one where several did."""
    found: dict[int, str] = {}
    for hop in path.hops:
        expired = [r.address for r in hop.replies if r.outcome is Outcome.EXPIRED and r.address]
        if expired:
            found[hop.ttl] = expired[0]
    return found


@value
class Silence:
    """Where SYNs to a port die: ``after`` is the last TTL that was answered (0: none), and the next one is the first
    that was not although the control's was. ``before_host``: that next one is a router, not the host."""

    after: int
    after_address: str | None
    next_address: str
    before_host: bool
    measurements: tuple[str, ...]

    @property
    def hops(self) -> str:
        return f"{self.after}-{self.after + 1}"

    @property
    def statement(self) -> str:
        start = f"hop {self.after} ({self.after_address})" if self.after_address else "here"
        end = "the host itself" if not self.before_host else f"hop {self.after + 1} ({self.next_address})"
        return f"between {start} and {end}"


def silence(evidence: Evidence, address: str, port: int) -> Silence | None:
    """The bracket: the filter is at hop k or at k+1. None unless the control was answered at k+1."""
    pair = traces(evidence, address, port)
    if pair is None or pair.service.data is None or pair.control.data is None or pair.service.data.reached:
        return None
    answered, control = routers(pair.service.data), routers(pair.control.data)
    last, reached = max(answered, default=0), pair.control.data.reached_ttl
    beyond = address if reached == last + 1 else control.get(last + 1)
    if beyond is None:
        return None
    return Silence(
        after=last,
        after_address=answered.get(last),
        next_address=beyond,
        before_host=reached != last + 1,
        measurements=pair.ids,
    )


@value
class EarlyReset:
    """A RST that came from nearer than the host: at ``ttl`` the control's trace shows a router."""

    ttl: int
    router: str
    host_ttl: int
    measurements: tuple[str, ...]


def early_reset(evidence: Evidence, address: str, port: int) -> EarlyReset | None:
    """A RST forged on the way, seen by distance. Both traces must agree up to there: flows may be split."""
    pair = traces(evidence, address, port)
    if pair is None or pair.service.data is None or pair.control.data is None:
        return None
    ttl, host_ttl = _reset_ttl(pair.service.data), pair.control.data.reached_ttl
    ours, control = routers(pair.service.data), routers(pair.control.data)
    if ttl is None or host_ttl is None or ttl >= host_ttl or ttl not in control:
        return None
    if not _agree(ours, control, ttl):
        return None
    return EarlyReset(ttl=ttl, router=control[ttl], host_ttl=host_ttl, measurements=pair.ids)


def _reset_ttl(path: PathMeasurement) -> int | None:
    resets = (hop.ttl for hop in path.hops if any(r.outcome is Outcome.REFUSED for r in hop.replies))
    return next(resets, None)


def _agree(ours: dict[int, str], control: dict[int, str], ttl: int) -> bool:
    common = [t for t in range(1, ttl) if t in ours and t in control]
    return all(ours[t] == control[t] for t in common) and (ttl == 1 or bool(common))


def offenders(attempts: Iterable[Try]) -> tuple[str, ...]:
    """Who sent the ICMP errors, each once, in order."""
    return tuple(sorted({t.icmp.offender for t in attempts if t.icmp and t.icmp.offender}))


def is_local(attempt: Try) -> bool:
    """This host's own word (its routing table), not a packet's."""
    return attempt.failure is not None and attempt.failure.kind is FailureKind.LOCAL


def open_beside(case: Case, place: Place) -> tuple[Place, Tries] | None:
    """Another address of the same endpoint whose port accepts connections."""
    for other in sockets(case):
        if other.endpoint.name == place.endpoint.name and other.address not in (place.address, None):
            tries = tries_at(case.evidence, other.address, other.port)
            if tries.count(Answer.OPEN):
                return other, tries
    return None
