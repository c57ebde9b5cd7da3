"""TCP beside echoes: what each TCP exchange took at a moment when the echoes of the same path waited, or did not.

Hosts and routers answer echoes when they have time, so that a queue is believed by TCP's word; but one that comes and
goes may be empty when the few handshakes of a run are made. Live sessions are there all the while. Their exchanges have
the server's own time in them, so that only their likeness to the echoes says anything.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator

from netdiag.diagnosis.rule import Case
from netdiag.diagnosis.rules.paths import Path, Sampled, sampled
from netdiag.diagnosis.rules.subjects import ids, ratio
from netdiag.diagnosis.thresholds import LEVEL, RTT_SAMPLES
from probes.database import DatabaseMeasurement
from probes.model import Measurement, value
from probes.stats.intervals import wilson

_NEAR_S = 0.5  # between an exchange and the echo that it is compared with

Moment = tuple[float, float]  # seconds since 1970, seconds it took


@value
class Together:
    """Exchanges of TCP above the limit, and all of them: while the nearest echo was above it, and while it was not."""

    late: tuple[int, int]
    quick: tuple[int, int]
    evidence: tuple[str, ...]

    @property
    def confirmed(self) -> bool:
        """Most of them wait when the echoes do, and most do not when they do not."""
        share = wilson(*self.late, LEVEL)
        waits, all_quick = self.quick
        return self.late[1] >= RTT_SAMPLES and share is not None and share.low > 0.5 and 2 * waits <= all_quick

    @property
    def denied(self) -> bool:
        share = wilson(*self.late, LEVEL)
        return self.late[1] >= RTT_SAMPLES and share is not None and share.high < 0.5

    @property
    def shown(self) -> str:
        return f"{ratio(*self.late)} TCP exchanges beside slow echoes are slow, {ratio(*self.quick)} beside quick ones"


def together(case: Case, path: Path, limit: float) -> Together:
    echoes = sorted(moment for m in sampled(case, path, "icmp") for moment in _of_samples(m))
    handshakes = sampled(case, path, "tcp")
    sessions = case.evidence.of(DatabaseMeasurement, address=path.address, port=path.port) if path.address else ()
    exchanges = [moment for m in handshakes for moment in _of_samples(m)]
    exchanges += [moment for m in sessions for moment in _of_session(m)]
    pairs = [(took > limit, echo > limit) for at, took in exchanges for echo in _nearest(echoes, at)]
    return Together(
        late=_count(slow for slow, waited in pairs if waited),
        quick=_count(slow for slow, waited in pairs if not waited),
        evidence=ids([*handshakes, *(m for m in sessions if m.data and m.data.held)]),
    )


def _count(slow: Iterable[bool]) -> tuple[int, int]:
    found = list(slow)
    return sum(found), len(found)


def _of_samples(measured: Sampled) -> Iterator[Moment]:
    began = measured.started.timestamp()
    for sample in measured.data.samples if measured.data else ():
        if sample.sent_s is not None and sample.rtt_s is not None:
            yield began + sample.sent_s, sample.rtt_s


def _of_session(measured: Measurement[DatabaseMeasurement]) -> Iterator[Moment]:
    """Holding is the last thing that the probe does. What was sent again shows loss, not delay."""
    held = measured.data.held if measured.data else None
    if held is None:
        return
    began = measured.started.timestamp() + measured.duration_s - held.seconds
    for exchange in held.exchanges:
        if exchange.seconds is not None and not exchange.retransmits:
            yield began + exchange.at_s, exchange.seconds


def _nearest(echoes: list[Moment], at: float) -> tuple[float, ...]:
    """What the echo took that was sent nearest to then; none if there was none about that time."""
    place = bisect_left(echoes, (at, 0.0))
    near = min(echoes[max(0, place - 1) : place + 1], key=lambda echo: abs(echo[0] - at), default=None)
    return (near[1],) if near is not None and abs(near[0] - at) <= _NEAR_S else ()
