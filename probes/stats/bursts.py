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


def effective_size(fates: Sequence[bool]) -> float:
    """Independent packets that say as much as these: n / design_effect."""
    return len(fates) / design_effect(fates)


@value
class GilbertElliott:
    """A channel of two states. ``onset`` P(good -> bad), ``relief`` P(bad -> good), both per packet; in the bad state
    a packet is lost with chance ``bad_loss``, in the good one none is.
    """

    onset: float
    relief: float
    bad_loss: float

    @property
    def loss(self) -> float:
        return self.bad_loss * self.onset / (self.onset + self.relief)

    @property
    def mean_bad(self) -> float:
        """Packets that the bad state lasts, on average; with ``bad_loss`` 1 the mean length of a loss run."""
        return 1 / self.relief


def simple_gilbert(fates: Sequence[bool]) -> GilbertElliott | None:
    """Maximum likelihood where the bad state loses everything: onsets per arrival, reliefs per loss.

    None where no loss followed an arrival or no arrival a loss: the channel was then seen in one state only.
    """
    onset, onsets_possible = _changes(fates, before=False)
    relief, reliefs_possible = _changes(fates, before=True)
    if not onset or not relief:
        return None
    return GilbertElliott(onset=onset / onsets_possible, relief=relief / reliefs_possible, bad_loss=1.0)


def gilbert(fates: Sequence[bool]) -> GilbertElliott | None:
    """Gilbert's own estimate (1960) from a = P(x), b = P(x | x), c = P(xxx) / (P(x.x) + P(xxx)), x a loss.

    1 - relief = (a c - b^2) / (2 a c - b (a + c)), bad_loss = b / (1 - relief), onset = a relief / (bad_loss - a).
    Needs thousands of packets; None where they give no channel (too few losses, or none that last).
    """
    a, b, c = sum(fates) / len(fates) if fates else None, _given(fates, "xx", "x."), _given(fates, "xxx", "x.x")
    if a is None or b is None or c is None or (bottom := 2 * a * c - b * (a + c)) == 0:
        return None
    stay = (a * c - b * b) / bottom
    if not 0 < stay < 1 or not a < b / stay <= 1:
        return None
    return GilbertElliott(onset=a * (1 - stay) / (b / stay - a), relief=1 - stay, bad_loss=b / stay)


def _given(fates: Sequence[bool], word: str, other: str) -> float | None:
    """How often ``word`` (x: lost) occurs among it and ``other``."""
    text = "".join("x" if fate else "." for fate in fates)
    counts = [sum(text.startswith(w, n) for n in range(len(text) - len(w) + 1)) for w in (word, other)]
    return counts[0] / sum(counts) if sum(counts) else None


@value
class LossPattern:
    """RFC 3357: losses further apart than ``delta`` packets begin a period of their own."""

    distances: tuple[int, ...]  # from each loss to the one before it, in packets
    periods: tuple[int, ...]  # losses in each period
    noticeable: float | None  # share of losses that follow another within delta; None without a loss


def loss_pattern(fates: Sequence[bool], delta: int = 1) -> LossPattern:
    places = [place for place, lost in enumerate(fates) if lost]
    distances = tuple(after - before for before, after in pairwise(places))
    starts = [0, *(n + 1 for n, distance in enumerate(distances) if distance > delta), len(places)]
    near = sum(distance <= delta for distance in distances)
    return LossPattern(
        distances=distances,
        periods=tuple(end - start for start, end in pairwise(starts)) if places else (),
        noticeable=near / len(places) if places else None,
    )


def _changes(fates: Sequence[bool], *, before: bool) -> tuple[int, int]:
    """Of the packets that follow one with fate ``before``: how many differ from it, and how many there are."""
    followers = [after for first, after in pairwise(fates) if first is before]
    return sum(after is not before for after in followers), len(followers)
