"""Losses that come in runs: what a sequence of fates (True = lost) says beyond its ratio."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby, pairwise

from probes.model import value

WORST_DESIGN = 9.0  # (2 - r) / r at a mean burst 1 / r of 5 packets and little loss


@value
class Bursts:
    """``events`` is the number of loss runs: one, however long, for every time loss began."""

    events: int
    longest: int
    lengths: tuple[int, ...]  # of each run, in order


def bursts(fates: Sequence[bool]) -> Bursts:
    lengths = tuple(len(list(run)) for lost, run in groupby(fates) if lost)
    return Bursts(events=len(lengths), longest=max(lengths, default=0), lengths=lengths)


def design_effect(fates: Sequence[bool]) -> float:
    """How many packets of this sequence weigh as much as one independent packet: 1 .. WORST_DESIGN.

    Simple Gilbert model: p = P(lost | previous arrived), r = P(arrived | previous lost), lag-one autocorrelation
    rho = 1 - p - r, effective size n (1 - rho) / (1 + rho). A sequence of one fate alone shows no correlation
    and gives 1; so does one that alternates. The ceiling keeps a blackout in mid-run from counting for nothing.
    """
    onset, onsets_possible = _changes(fates, before=False)
    relief, reliefs_possible = _changes(fates, before=True)
    if not onsets_possible or not reliefs_possible:
        return 1.0
    rho = 1 - onset / onsets_possible - relief / reliefs_possible
    return min(WORST_DESIGN, (1 + rho) / (1 - rho)) if 0 < rho < 1 else WORST_DESIGN if rho >= 1 else 1.0


def _changes(fates: Sequence[bool], *, before: bool) -> tuple[int, int]:
    """Of the packets that follow one with fate ``before``: how many differ from it, and how many there are."""
    followers = [after for first, after in pairwise(fates) if first is before]
    return sum(after is not before for after in followers), len(followers)
