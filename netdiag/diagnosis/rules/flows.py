"""Loss that goes by connection and not by packet: one of several paths is dead, or a filter knows source ports.

Routers and balancers choose a way by the 5-tuple, and a retransmitted SYN keeps its own. So a connection on the dead
way loses every SYN, however often it is repeated, while others, begun in between, are answered at once. Random loss
does not spare all the repeated ones, and a queue or a policer does not spare all the others.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import comb

from netdiag.diagnosis.rules.paths import Sampled
from netdiag.diagnosis.thresholds import FLOW_CHANCE, FLOW_TRIES, LEVEL
from probes.model import Outcome, value
from probes.sampling import RttSample
from probes.stats.intervals import wilson

SYN_INTERVAL_S = 1.0  # of the first retransmission (RFC 6298 2.1) and, with linear timeouts, of the next ones


@value
class Flows:
    """Connections that lose every SYN, beside others that lose none."""

    dead: int
    syns: int  # of the dead ones
    tried: int

    @property
    def statement(self) -> str:
        return (
            f"It goes by connection and not by packet: {self.dead} of {self.tried} lose every SYN ({self.syns}), while "
            "others, begun in between, are answered at the first. One of several paths or balancer members is dead, or "
            "a filter drops some source ports."
        )


def bound_to_flows(measured: Iterable[Sampled]) -> Flows | None:
    """None where packets by chance explain it, or where no repeated SYN says anything."""
    series = [[s for s in m.data.samples if s.outcome in _TOLD] for m in measured if m.data]
    samples = [sample for one in series for sample in one]
    dead = [sample for sample in samples if sample.outcome is Outcome.LOST]
    late = sum(sample.outcome is not Outcome.LOST and bool(sample.retransmits) for sample in samples)
    overtaken = sum(_is_overtaken(sample, one) for one in series for sample in one if sample in dead)
    if min(len(dead), len(samples) - len(dead), overtaken) < FLOW_TRIES:
        return None
    first = wilson(len(dead) + late, len(samples), LEVEL)
    repeated = sum(sample.retransmits or 0 for sample in dead)
    if first is None or _at_most(late, repeated + late, 1 - first.high) > FLOW_CHANCE:
        return None
    return Flows(dead=len(dead), syns=len(dead) + repeated, tried=len(samples))


def _at_most(found: int, tries: int, chance: float) -> float:
    """Binomial: ``found`` successes or fewer of ``tries``."""
    return sum(comb(tries, n) * chance**n * (1 - chance) ** (tries - n) for n in range(found + 1))


_TOLD = (Outcome.LOST, Outcome.ANSWERED, Outcome.LATE, Outcome.REFUSED)


def _is_overtaken(dead: RttSample, series: list[RttSample]) -> bool:
    """Another attempt was answered at its first SYN between this one's first SYN and its last."""
    if dead.sent_s is None or not dead.retransmits:
        return False
    last = dead.sent_s + dead.retransmits * SYN_INTERVAL_S
    return any(s.outcome is not Outcome.LOST and s.sent_s is not None and dead.sent_s < s.sent_s < last for s in series)
