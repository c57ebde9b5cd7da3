"""Packet size: mtu.black-hole (large packets vanish and nothing says so) and mtu.fragmentation (a router says so).

1. Silence at one size proves nothing alone: a smaller packet of the same kind must have come through.
2. "Packet too big" refutes the black hole, if the size it names explains what was lost.
3. A path that does not answer at any size is not a matter of size. A low MSS is no fault: it is a clamp, or a memory.
4. A limit repeats itself: everything above it vanishes, what lies just below comes through as small packets do. A full
   queue or a policer loses large packets more often, not always, and does not turn within a few bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

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
from netdiag.diagnosis.rules.link import ARRIVED, baseline_of
from netdiag.diagnosis.rules.paths import Path, paths, probe_command
from netdiag.diagnosis.rules.subjects import finding_id
from netdiag.diagnosis.thresholds import CERTAIN, LIKELY, MTU_SEARCHED
from probes.model import Measurement, Outcome, value
from probes.mtu import DirectionMtu, MtuMeasurement

BLACK_HOLE, FRAGMENTATION = "mtu.black-hole", "mtu.fragmentation"
DIRECTIONS = ("to-target", "from-target")
IPV4_HEADERS, IPV6_HEADERS = 40, 60  # IP and TCP without options (RFC 6691)
TIMESTAMPS = 12  # RFC 7323 option in every segment, where both ends use it


@value
class Way:
    """What one measurement tells of one direction of a path."""

    path: Path
    direction: str
    known: DirectionMtu
    measurement: Measurement[MtuMeasurement]

    @property
    def local_mtu(self) -> int | None:
        return self.measurement.data.local_mtu if self.measurement.data else None

    @property
    def headers(self) -> int:
        return IPV6_HEADERS if ":" in (self.path.address or "") else IPV4_HEADERS

    @property
    def vanishes(self) -> bool:
        """Smaller came through, larger did not, and no router's word explains the size."""
        delivered, lost = self.known.largest_delivered, self.known.smallest_lost
        if not self.known.black_hole or delivered is None or (lost is not None and lost <= delivered):
            return False
        return not self._explained(lost) and not self._contradicted(lost)

    def _contradicted(self, lost: int | None) -> bool:
        """A packet of the size that vanishes, or a larger one, arrived."""
        if lost is None or self.measurement.data is None:
            return False
        ours, data = self.known.method == "udp-df", self.measurement.data
        datagrams = (t for t in data.datagrams if ours and t.packet_bytes >= lost)
        transfers = (t for t in data.segments if not ours and t.direction == self.direction and t.max_segment)
        return any(r.outcome in ARRIVED for t in datagrams for r in t.replies) or any(
            t.delivered and (t.packet_bytes or 0) >= lost for t in transfers
        )

    def _explained(self, lost: int | None) -> bool:
        signalled = self.known.signalled_mtu
        return signalled is not None and (lost is None or signalled < lost)

    @property
    def is_sound(self) -> bool:
        return self.known.largest_delivered is not None and (self.known.black_hole is False or self._is_signalled)

    @property
    def _is_signalled(self) -> bool:
        return bool(self.known.black_hole) and self._explained(self.known.smallest_lost)


def subject_of(path: Path, direction: str, size: int | None = None) -> Subject:
    return replace(path.subject, direction=direction, size=size)


def arrow(path: Path, direction: str) -> str:
    return f"to {path.label}" if direction == "to-target" else f"from {path.label}"


def way(case: Case, path: Path, direction: str) -> Way | None:
    """Of several measurements the one that saw a fault, else one that saw none, else one that could not tell."""
    if path.address is None:
        return None
    measured = case.evidence.of(MtuMeasurement, address=path.address, port=path.port)
    ways = [
        Way(
            path=path,
            direction=direction,
            known=m.data.to_target if direction == "to-target" else m.data.from_target,
            measurement=m,
        )
        for m in measured
        if m.data
    ]
    return min(ways, key=lambda w: (not w.vanishes, not w.is_sound), default=None)


# mtu.black-hole


def judge_black_hole(case: Case) -> Iterator[Judgement]:
    for path in paths(case):
        for direction in DIRECTIONS:
            yield _black_hole(case, path, direction, way(case, path, direction))


def _credentials(case: Case, path: Path) -> str:
    """What would make the measurement possible, where it is not there already."""
    endpoint = next((e for e in case.plan.endpoints if e.name == path.endpoint.name), None)
    has_user = endpoint is not None and endpoint.credentials is not None and endpoint.credentials.user is not None
    return "" if has_user else "With credentials in the plan, so that replies of several segments can be had: "


def _black_hole(case: Case, path: Path, direction: str, told: Way | None) -> Judgement:
    if told is not None and told.vanishes:
        return _black_hole_finding(told)
    if told is not None and told.is_sound:
        return _no_black_hole(told)
    return NotMeasured(
        code=BLACK_HOLE,
        subject=subject_of(path, direction),
        statement=f"Whether large packets {arrow(path, direction)} vanish: {_why_open(told)}.",
        remedy=f"{_credentials(case, path)}{probe_command('mtu', path)}",
    )


def _why_open(told: Way | None) -> str:
    if told is None:
        return "packet sizes were not tried"
    if told.known.reason:
        return told.known.reason
    if told.known.black_hole:
        if told.known.largest_delivered is not None:
            return "packets of the size that vanishes arrive as well, which is loss and no limit of size"
        return "nothing of any size came through, which is not a matter of size"
    return "no packet of a known size came through"


def _no_black_hole(told: Way) -> RuledOut:
    largest = told.known.largest_delivered
    said = (
        f" {told.known.signalled_by} names {told.known.signalled_mtu or 0:,} bytes." if told.known.signalled_by else ""
    )
    reason = f" {told.known.reason[0].upper()}{told.known.reason[1:]}." if told.known.reason else ""
    reason += f" Not all of them, though: {told.known.partial}." if told.known.partial else ""
    return RuledOut(
        code=BLACK_HOLE,
        subject=subject_of(told.path, told.direction),
        statement=f"Packets of {largest:,} bytes {arrow(told.path, told.direction)} come through.{said}{reason}",
        smallest_fault=f"silent loss of packets of {largest:,} bytes or less, by their size alone.",
        evidence=(told.measurement.id,),
    )


def _black_hole_finding(told: Way) -> Finding:
    known = told.known
    size = known.largest_delivered or 0
    subject = subject_of(told.path, told.direction, size if _is_narrowed(known) else None)
    return Finding(
        id=finding_id(BLACK_HOLE, subject),
        code=BLACK_HOLE,
        role=FindingRole.CAUSE,
        severity=Severity.CRITICAL,
        confidence=CERTAIN if known.method != "udp-df" and _is_narrowed(known) else LIKELY,
        section=Section.CONFIGURATION,
        subject=subject,
        statement=f"Black hole {_size_words(known)} {arrow(told.path, told.direction)}: {_trials(told)}, and no "
        f'"fragmentation needed" comes back{_last_word(known)}. {_effect(told)}',
        evidence=(told.measurement.id,),
        would_refute=f'A packet of {_lost_size(known)} bytes with DF that arrives, an ICMP "too big" that names its '
        f"limit, or packets of {size:,} bytes that are lost more often than small ones (a full queue, a policer).",
        actions=_actions(told, size),
    )


def _is_narrowed(known: DirectionMtu) -> bool:
    """The search came to its end: what arrives and what vanishes lie close together."""
    return known.smallest_lost is None or known.smallest_lost - (known.largest_delivered or 0) <= MTU_SEARCHED


def _size_words(known: DirectionMtu) -> str:
    if _is_narrowed(known):
        return f"above {known.largest_delivered or 0:,} bytes"
    between = f"between {known.largest_delivered or 0:,} and {known.smallest_lost:,} bytes"
    return f"somewhere {between} (the search was cut short)"


def _lost_size(known: DirectionMtu) -> str:
    return f"{known.smallest_lost:,}" if known.smallest_lost else f"more than {known.largest_delivered:,}"


def _trials(told: Way) -> str:
    lost = told.known.smallest_lost
    if told.known.method == "udp-df" and told.measurement.data:
        replies = [r for t in told.measurement.data.datagrams if t.packet_bytes == lost for r in t.replies]
        silent = sum(reply.outcome is Outcome.LOST for reply in replies)
        count = f"{silent} of {len(replies)} datagrams" if replies else "datagrams"
        return f"{count} of {_lost_size(told.known)} bytes with DF vanish"
    if told.measurement.data:
        trials = [t for t in told.measurement.data.segments if t.direction == told.direction]
        stalled, through = (sum(t.delivered is wanted for t in trials) for wanted in (False, True))
        if trials:
            return f"{stalled} TCP transfers with larger segments stall and {through} with smaller ones come through"
    return f"TCP transfers with packets of {_lost_size(told.known)} bytes stall, smaller ones come through"


def _last_word(known: DirectionMtu) -> str:
    if known.signalled_by is None:
        return ""
    return f" ({known.signalled_by} named {known.signalled_mtu or 0:,} bytes, and the loss is below that)"


def _effect(told: Way) -> str:
    if not _is_narrowed(told.known):
        return "Small packets come through, full ones do not."
    payload = (told.known.largest_delivered or 0) - told.headers - TIMESTAMPS
    if told.direction == "from-target":
        return f"Small queries work; results and TLS certificates over {payload:,} bytes stall."
    return f"Small queries work; statements and bulk loads over {payload:,} bytes stall."


def _actions(told: Way, size: int) -> tuple[Action, ...]:
    check = probe_command("mtu", told.path)
    if not _is_narrowed(told.known):
        step = "Have the size found with the path to itself, then clamp the TCP MSS to it."
        return (Action(owner="network", horizon=Horizon.IMMEDIATE, step=step, check=check),)
    return (
        Action(
            owner="network",
            horizon=Horizon.IMMEDIATE,
            step=f"Clamp the TCP MSS on the path to {size - told.headers} ({size} - {told.headers}), or set that MTU "
            "on the tunnel's ends.",
            check=check,
        ),
        Action(
            owner="firewall",
            horizon=Horizon.SHORT_TERM,
            step="Let ICMP type 3 code 4 (IPv6: type 2) through, both ways, so that senders learn the size.",
            check=check,
        ),
        Action(
            owner="database",
            horizon=Horizon.SHORT_TERM,
            step="Until then set net.ipv4.tcp_mtu_probing=1 on the sending host: it recovers by itself after seconds.",
            check=check,
        ),
    )


# mtu.fragmentation


def judge_fragmentation(case: Case) -> Iterator[Judgement]:
    """Only towards the target: what routers tell the far end does not reach us."""
    for path in paths(case):
        told = way(case, path, "to-target")
        if told is None or not told.vanishes:
            yield _fragmentation(case, path, told)


def _fragmentation(case: Case, path: Path, told: Way | None) -> Judgement:
    baseline = baseline_of(case, path.endpoint)
    normal = baseline.mtu if baseline else None
    if told is not None and _narrows(told, normal):
        return _fragmentation_finding(told, normal)
    if told is None or not told.is_sound:
        return NotMeasured(
            code=FRAGMENTATION,
            subject=subject_of(path, "to-target"),
            statement=f"Whether a router narrows the path to {path.label}: {_why_open(told)}.",
            remedy=probe_command("mtu", path),
        )
    return RuledOut(
        code=FRAGMENTATION,
        subject=subject_of(path, "to-target"),
        statement=f"No router on the way to {path.label} names a limit below {normal or told.local_mtu or 0:,} bytes; "
        f"packets of {told.known.largest_delivered:,} bytes with DF arrive.",
        smallest_fault=f"a limit below {told.known.largest_delivered:,} bytes that a router signals.",
        evidence=(told.measurement.id,),
    )


def _narrows(told: Way, normal: int | None) -> bool:
    signalled, limit = told.known.signalled_mtu, normal or told.local_mtu
    return signalled is not None and (limit is None or signalled < limit)


def _fragmentation_finding(told: Way, normal: int | None) -> Finding:
    signalled, path = told.known.signalled_mtu or 0, told.path
    subject = subject_of(path, "to-target", signalled)
    against = f"the baseline's {normal:,}" if normal else f"this host's {told.local_mtu or 0:,}"
    return Finding(
        id=finding_id(FRAGMENTATION, subject),
        code=FRAGMENTATION,
        role=FindingRole.CAUSE if normal else FindingRole.NOTE,
        severity=Severity.WARNING if normal else Severity.INFO,
        confidence=CERTAIN,
        section=Section.CONFIGURATION,
        subject=subject,
        statement=f"{told.known.signalled_by or 'A router'} narrows the path to {path.label} to {signalled:,} bytes "
        f"({against}) and says so: TCP adapts after one lost flight, UDP above that is fragmented or refused.",
        evidence=(told.measurement.id,),
        would_refute=f"A packet of more than {signalled:,} bytes with DF that arrives.",
        actions=(
            Action(
                owner="network",
                horizon=Horizon.LONG_TERM,
                step=f"If the tunnel is meant, set the MTU of its ends to {signalled}; if not, restore the link's MTU.",
                check=probe_command("mtu", path),
            ),
        ),
    )


RULES: tuple[Rule, ...] = (
    Rule(
        code=BLACK_HOLE,
        section=Section.CONFIGURATION,
        fires="In one direction packets up to a size arrive as small ones do, all larger ones vanish, repeatedly and "
        "in turn with them, and no ICMP names it.",
        quiet="Nothing of any size comes through, UDP is filtered, the MSS is merely low, a router names the size, or "
        "some large packets arrive (a full queue or a policer: link.loss).",
        refuted_by='An ICMP "fragmentation needed" / "packet too big" that explains the size, a large packet that '
        "arrives, or packets just below the size that are lost more often than small ones.",
        judge=judge_black_hole,
    ),
    Rule(
        code=FRAGMENTATION,
        section=Section.CONFIGURATION,
        fires="A router signals a smaller MTU than the baseline's (a cause), or else than this host's (a note).",
        quiet="No router signals anything, or the narrowing is silent (mtu.black-hole).",
        refuted_by="A packet larger than the signalled size with DF that arrives.",
        judge=judge_fragmentation,
    ),
)
