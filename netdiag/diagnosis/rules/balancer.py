"""A balancer, or anything else, that does not speak PostgreSQL where a database is declared; one without backends;
and one that loses packets where its neighbours do not.

A web server on a web port is healthy: the first two rules look only at databases' places.
"""

from __future__ import annotations

from collections.abc import Iterator

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
)
from netdiag.diagnosis.rule import Case, Rule
from netdiag.diagnosis.rules.link import Loss, ids_of, loss_fires, loss_limit, pooled_loss, quiet_basis
from netdiag.diagnosis.rules.paths import Path, paths, probe_command
from netdiag.diagnosis.rules.subjects import Place, database_places, finding_id, milliseconds, percent, ratio
from netdiag.diagnosis.rules.waterfalls import BACKEND, PROTOCOL, Attempt, Question, Sample, cause, login_check
from netdiag.diagnosis.thresholds import (
    BESIDE_PACKETS,
    CERTAIN,
    LEVEL,
    LIKELY,
    LINK_LOSS_CRITICAL,
    LINK_LOSS_CRITICAL_LOW,
    LOSS_SURE,
    LOSS_SURE_PACKETS,
    POSSIBLE,
)
from netdiag.plan.endpoints import peers_of
from probes.database import Phase
from probes.model import FailureKind, value
from probes.stats.intervals import Interval, newcombe

PACKET_LOSS = "lb.packet-loss"


def judge_protocol(case: Case) -> Iterator[Judgement]:
    for place in database_places(case):
        yield WRONG_PROTOCOL.ask(case, place)


def judge_backend(case: Case) -> Iterator[Judgement]:
    for place in database_places(case):
        if place.endpoint.role == "load-balancer":
            yield BACKEND_DOWN.ask(case, place)


# lb.wrong-protocol


def _wrong_protocol(place: Place, sample: Sample) -> Finding:
    web = next((a for a in sample.hits if _is_http(a)), None)
    said = _http_words(web) if web else _garbage_words(sample.hits[0])
    share = ratio(len(sample.hits), len(sample.tested))
    return cause(
        PROTOCOL,
        Section.INFRASTRUCTURE,
        place,
        sample,
        statement=f"{share} connections to {place.label} are answered {said}: no PostgreSQL client can work there.",
        confidence=CERTAIN if web else LIKELY,
        would_refute=f"One byte S or N from {place.label} in answer to SSLRequest.",
        action=_tcp_listener(place) if web else _right_service(place),
    )


def _is_http(attempt: Attempt) -> bool:
    waterfall = attempt.waterfall
    return waterfall.http_status is not None or (waterfall.first_bytes or "").startswith("HTTP/")


def _http_words(attempt: Attempt) -> str:
    waterfall = attempt.waterfall
    status = waterfall.http_status or waterfall.first_bytes
    server = f", Server: {waterfall.http_server}" if waterfall.http_server else ""
    return f'in HTTP ("{status}"{server})'


def _garbage_words(attempt: Attempt) -> str:
    waterfall, failure = attempt.waterfall, attempt.failure
    if (waterfall.first_bytes or "").startswith(r"\x15\x03"):
        return "with a TLS alert: what listens there wants TLS from the first byte (HTTPS, or sslnegotiation=direct)"
    if waterfall.first_bytes:
        return f'with bytes that are not PostgreSQL\'s ("{_one_line(waterfall.first_bytes)}")'
    detail = failure.detail if failure and failure.detail else "no bytes on record"
    return f"against the PostgreSQL protocol ({detail})"


def _one_line(first_bytes: str) -> str:
    """Without the line's end, which the printable form spells out."""
    return first_bytes.removesuffix(r"\x0a").removesuffix(r"\x0d")


def _tcp_listener(place: Place) -> Action:
    return Action(
        owner="load balancer",
        horizon=Horizon.IMMEDIATE,
        step=f"Make the listener on {place.label} a TCP one (layer 4): an HTTP balancer cannot carry PostgreSQL.",
        check=login_check(place),
    )


def _right_service(place: Place) -> Action:
    return Action(
        owner="load balancer" if place.endpoint.role == "load-balancer" else "database",
        horizon=Horizon.IMMEDIATE,
        step=f"Find out which service listens on {place.label}; point the DSN or the listener at the database.",
        check=login_check(place),
    )


# lb.backend-down


def _backend_down(place: Place, sample: Sample) -> Finding:
    first = sample.hits[0]
    phase = first.waterfall.failed_phase or Phase.SSL_REQUEST
    after = first.seconds(phase)
    took = f" after {milliseconds(after)}" if after is not None else ""
    how = "reset" if first.failure and first.failure.kind is FailureKind.RESET else "closed"
    share = ratio(len(sample.hits), len(sample.tested))
    return cause(
        BACKEND,
        Section.INFRASTRUCTURE,
        place,
        sample,
        statement=f"{share} connections to balancer {place.label} complete TCP and are {how}{took} without a byte: "
        "no live backend behind it, the PROXY protocol to a server without it, or a listener that wants TLS first.",
        confidence=POSSIBLE,
        would_refute=f"The balancer's own status showing a live backend for {place.label} at that time.",
        action=Action(
            owner="load balancer",
            horizon=Horizon.IMMEDIATE,
            step="Read the balancer's view of its backends; connect to one directly; compare its health check with it.",
            check=login_check(place),
        ),
    )


# lb.packet-loss


@value
class Peer:
    """A backend's or a neighbour's own loss, measured directly."""

    path: Path
    loss: Loss
    fires: bool


def judge_loss(case: Case) -> Iterator[Judgement]:
    for path in paths(case):
        if path.endpoint.role == "load-balancer":
            yield _packet_loss(case, path)


def _packet_loss(case: Case, path: Path) -> Judgement:
    tcp, icmp, limit = pooled_loss(case, path, "tcp"), pooled_loss(case, path, "icmp"), loss_limit(case, path)
    if tcp is None or not loss_fires(tcp, limit):
        basis = quiet_basis(tcp, icmp, limit)
        return _loss_unknown(path, "its own loss is not known") if basis is None else _lossless(path, basis, icmp)
    peers = _nearest(_peers(case, path), path)
    if sum(peer.loss.sent for peer in peers) < BESIDE_PACKETS:
        why = f"it loses {tcp.shown}, and too few packets were sent to its backends and neighbours to compare"
        return _loss_unknown(path, why)
    lost, sent = _weight(peers)
    apart = newcombe(*tcp.weight, lost, sent, LEVEL)
    if apart is None or apart.low <= 0 or any(peer.fires and not _stands_out(tcp, peer.loss) for peer in peers):
        return _shared(path, tcp, peers, apart)
    return _own_loss(path, tcp, icmp, peers, apart)


def _peers(case: Case, balancer: Path) -> tuple[Peer, ...]:
    """Of the same family and heard at all: what is blocked loses everything and tells nothing. By ICMP where TCP is
    not answered: echoes that are limited make a neighbour look worse, never the balancer."""
    names = {endpoint.name for endpoint in peers_of(case.plan, balancer.endpoint)}
    found = []
    for path in paths(case):
        if path.endpoint.name not in names or not _comparable(path, balancer):
            continue
        pooled = (pooled_loss(case, path, method) for method in ("tcp", "icmp"))
        loss = next((loss for loss in pooled if loss is not None and loss.answered), None)
        if loss is not None:
            found.append(Peer(path=path, loss=loss, fires=loss_fires(loss, loss_limit(case, path))))
    return tuple(found)


def _nearest(peers: tuple[Peer, ...], balancer: Path) -> tuple[Peer, ...]:
    """Those of its own region where they were sent enough: a far backend's own lossy way says nothing of it."""
    near = tuple(peer for peer in peers if peer.path.endpoint.region in {balancer.endpoint.region} - {None})
    return near if sum(peer.loss.sent for peer in near) >= BESIDE_PACKETS else peers


def _comparable(path: Path, balancer: Path) -> bool:
    if path.address is None or balancer.address is None or path.address == balancer.address:
        return False
    return (":" in path.address) == (":" in balancer.address)


def _weight(peers: tuple[Peer, ...]) -> tuple[int, int]:
    weights = [peer.loss.weight for peer in peers]
    return sum(lost for lost, _ in weights), sum(sent for _, sent in weights)


def _stands_out(ours: Loss, theirs: Loss) -> bool:
    apart = newcombe(*ours.weight, *theirs.weight, LEVEL)
    return apart is not None and apart.low > 0


def _loss_unknown(path: Path, why: str) -> NotMeasured:
    return NotMeasured(
        code=PACKET_LOSS,
        subject=path.subject,
        statement=f"Whether balancer {path.label} loses packets itself: {why}.",
        remedy=f"{probe_command('loss', path)}, and the same of its backends at the same time",
    )


def _lossless(path: Path, basis: Loss, icmp: Loss | None) -> RuledOut:
    return RuledOut(
        code=PACKET_LOSS,
        subject=path.subject,
        statement=f"Balancer {path.label} loses {basis.lost} of {basis.sent} packets.",
        smallest_fault=f"loss of more than {percent(basis.high)} at the balancer.",
        evidence=ids_of(basis, icmp),
    )


def _shared(path: Path, tcp: Loss, peers: tuple[Peer, ...], apart: Interval | None) -> RuledOut:
    bound = f"more than {percent(max(apart.high, 0.0))} above its neighbours'" if apart else "far above its neighbours'"
    return RuledOut(
        code=PACKET_LOSS,
        subject=path.subject,
        statement=f"Balancer {path.label} loses {tcp.shown}, and so does what lies beside it ({_shown(peers)}): it is "
        "the way that they share, not the balancer.",
        smallest_fault=f"loss at the balancer that is {bound}.",
        evidence=ids_of(tcp, *(peer.loss for peer in peers)),
    )


def _shown(peers: tuple[Peer, ...]) -> str:
    return ", ".join(f"{peer.path.endpoint.name} {peer.loss.lost} of {peer.loss.sent}" for peer in peers)


def _own_loss(path: Path, tcp: Loss, icmp: Loss | None, peers: tuple[Peer, ...], apart: Interval) -> Finding:
    only_tcp = icmp is not None and icmp.lost == 0 and icmp.high < tcp.low
    critical = tcp.ratio >= LINK_LOSS_CRITICAL and tcp.low > LINK_LOSS_CRITICAL_LOW
    sure = LOSS_SURE if tcp.lost >= LOSS_SURE_PACKETS else LIKELY
    echo = f" ICMP echo loses none of {icmp.sent}: a full accept queue there is as likely." if icmp and only_tcp else ""
    return Finding(
        id=finding_id(PACKET_LOSS, path.subject),
        code=PACKET_LOSS,
        role=FindingRole.CAUSE,
        severity=Severity.CRITICAL if critical else Severity.WARNING,
        confidence=POSSIBLE if only_tcp else sure,
        section=Section.INFRASTRUCTURE,
        subject=path.subject,
        statement=f"Load balancer {path.label} loses {tcp.shown} of TCP packets; beside it, asked directly: "
        f"{_shown(peers)}. That is {percent(apart.low)} to {percent(apart.high)} more ({LEVEL:.0%} CI): "
        f"the loss is at the balancer or its own link, not on the way that they share.{echo}",
        evidence=ids_of(tcp, icmp, *(peer.loss for peer in peers)),
        would_refute="A loss test of the balancer and of its backends at the same time in which all lose alike.",
        actions=_loss_actions(path),
    )


def _loss_actions(path: Path) -> tuple[Action, ...]:
    check = probe_command("loss", path)
    return (
        Action(
            owner="load balancer",
            horizon=Horizon.IMMEDIATE,
            step="Take this node out of the name or zone; read its interface drops, its switch port's errors and its "
            "ListenOverflows, and its own connection and packet limits.",
            check=check,
        ),
        Action(
            owner="application",
            horizon=Horizon.IMMEDIATE,
            step="Until then connect to the backends directly where policy allows: they lose less.",
            check=check,
        ),
    )


WRONG_PROTOCOL = Question(
    code=PROTOCOL,
    could_show=lambda a: a.spoke_postgresql,
    fine="{n} of {n} connections to {place} were answered in the PostgreSQL protocol.",
    found=_wrong_protocol,
    needs_login=False,
)

BACKEND_DOWN = Question(
    code=BACKEND,
    could_show=lambda a: a.spoke_postgresql or a.fate == PROTOCOL,
    fine="{n} of {n} connections through balancer {place} were answered with bytes.",
    found=_backend_down,
    needs_login=False,
)

RULES = (
    Rule(
        code=PROTOCOL,
        section=Section.INFRASTRUCTURE,
        fires="Where a database is declared, or on port 5432, 5433 or 6432, something answers that is not PostgreSQL.",
        quiet="A web server on any other port, and silence or a close without a byte: those are other codes.",
        refuted_by="The byte S or N in answer to SSLRequest.",
        judge=judge_protocol,
    ),
    Rule(
        code=BACKEND,
        section=Section.INFRASTRUCTURE,
        fires="A declared load balancer accepts the connection and closes it without a byte.",
        quiet="The same from a place that is no balancer: that is db.unresponsive.",
        refuted_by="The balancer's own status showing a live backend.",
        judge=judge_backend,
    ),
    Rule(
        code=PACKET_LOSS,
        section=Section.INFRASTRUCTURE,
        fires="TCP to a declared load balancer loses more than is allowed, and the interval of its difference to the "
        "pooled loss of its backends and neighbours, measured directly, lies above 0.",
        quiet="All lose alike (the way they share: link.loss), or too few packets were sent to the others to compare.",
        refuted_by="A simultaneous loss test in which the balancer and its backends lose alike.",
        judge=judge_loss,
    ),
)
