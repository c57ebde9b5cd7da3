"""What a database says of itself: closed, refusing, full, starting, silent, distrusted or slow. Not the network.

Every attempt of the waterfall belongs to one code at most (waterfalls.fate), so two rules never claim the same one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial

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
from netdiag.diagnosis.rules.handshakes import Answer, Tries, early_reset, open_beside, tries_at
from netdiag.diagnosis.rules.subjects import (
    Place,
    database_places,
    finding_id,
    ids,
    milliseconds,
    ratio,
    sockets,
    unseen_share,
)
from netdiag.diagnosis.rules.waterfalls import (
    AUTH,
    CUT,
    HBA,
    LIMIT,
    LOCAL,
    NO_DATABASE,
    NO_PASSWORD,
    SERVER_ERROR,
    SILENT,
    STARTING,
    TLS,
    Attempt,
    Question,
    Sample,
    attempts_at,
    cause,
    login_check,
    open_question,
)
from netdiag.diagnosis.thresholds import (
    CERTAIN,
    LIKELY,
    PATIENT_ROUND_TRIPS,
    POSSIBLE,
    SLOW_ATTEMPTS,
    SLOW_PHASE_ROUND_TRIPS,
    SLOW_PHASE_S,
)
from probes.database import Phase
from probes.exchanges import Certificate
from probes.model import FailureKind, Measurement
from probes.mtu import MtuMeasurement

CLOSED, SLOW = "db.port-closed", "db.slow"


def _finding(
    code: str,
    place: Place,
    sample: Sample,
    *,
    statement: str,
    confidence: float | None,
    would_refute: str,
    step: str,
    owner: str = "database",
) -> Finding:
    """A cause at one place, with its one action."""
    action = Action(owner=owner, horizon=Horizon.IMMEDIATE, step=step, check=login_check(place))
    return cause(
        code,
        Section.DATABASE,
        place,
        sample,
        statement=statement,
        confidence=confidence,
        would_refute=would_refute,
        action=action,
    )


def _share(place: Place, sample: Sample) -> str:
    return f"{ratio(len(sample.hits), len(sample.tested))} connections to {place.label}"


def _quoted(attempt: Attempt) -> str:
    """``SQLSTATE 28P01 "password authentication failed ..."``; the text is remote and already one printable line."""
    failure = attempt.failure
    state = f"SQLSTATE {failure.sqlstate}" if failure and failure.sqlstate else "an error without SQLSTATE"
    return f'{state} "{failure.detail}"' if failure and failure.detail else state


# The server says no


def _said(code: str, place: Place, sample: Sample, *, meaning: str, step: str, owner: str = "database") -> Finding:
    """The server itself named the reason, by SQLSTATE."""
    return _finding(
        code,
        place,
        sample,
        statement=f"{_share(place, sample)} are refused by the server: {_quoted(sample.hits[0])}. {meaning}",
        confidence=CERTAIN,
        would_refute=f"A connection to {place.label} with the same settings that the server lets through.",
        step=step,
        owner=owner,
    )


def _user(place: Place) -> str:
    credentials = place.endpoint.credentials
    return f"user {credentials.user}" if credentials and credentials.user else "the user"


def _auth_failed(place: Place, sample: Sample) -> Finding:
    step = f"Give the application the right login for {_user(place)}, or set its role and password on the server."
    meaning = f"{_password_origin(place)}The network carried the question and the answer: no network team is needed."
    return _said(AUTH, place, sample, meaning=meaning, step=step, owner="application")


def _password_origin(place: Place) -> str:
    """As libpq's own error has it ("password retrieved from file ..."): an old file is the usual culprit."""
    credentials = place.endpoint.credentials
    if credentials is None or credentials.password is None or credentials.password_from is None:
        return ""
    return f"The password came from {credentials.password_from}. "


def _hba_rejected(place: Place, sample: Sample) -> Finding:
    step = f"Add a pg_hba.conf line for {_user(place)} from this host's address as the server sees it, then reload"
    step += "." if sample.hits[0].waterfall.tls else "; or connect with sslmode=require, if it takes TLS alone."
    meaning = "The server refuses this source, user, database or encryption by its own table: not the network."
    return _said(HBA, place, sample, meaning=meaning, step=step)


_LIMIT = "A limit of the server, of the role or of the database is reached: not the network."


def _limit_reached(place: Place, sample: Sample) -> Finding:
    step = "Free connection slots (idle sessions first), then put a pool in front or raise the limit."
    return _said(LIMIT, place, sample, meaning=_LIMIT, step=step)


def _starting(place: Place, sample: Sample) -> Finding:
    step = "Read the server's log for recovery or shutdown, and wait for or restart the server."
    return _said(STARTING, place, sample, meaning="It is starting, recovering or shutting down.", step=step)


def _no_database(place: Place, sample: Sample) -> Finding:
    step = "Correct the database name in the DSN, or create the database."
    meaning = "The login itself was accepted: not the network."
    return _said(NO_DATABASE, place, sample, meaning=meaning, step=step, owner="application")


_STEPS_BY_SQLSTATE = {
    "42501": "Grant the role what it lacks, CONNECT on the database first.",
    "55000": "Let the database accept connections again (ALTER DATABASE ... ALLOW_CONNECTIONS true), or take another.",
    "57P01": "Find who ends sessions (pg_terminate_backend) or shuts the server down; its log says when.",
    "57P02": "A backend crashed and took the others along: read the server's log.",
}


_POOL_MEANING = (
    "PgBouncer had no server connection for it in time: its pool is taken, or its own database does not answer it."
)
_POOL_STEP = (
    "On PgBouncer's console, SHOW POOLS (cl_waiting, sv_active) tells a full pool from a database that is away; then "
    "raise default_pool_size, end idle transactions, or mend the database behind it."
)


def _server_error(place: Place, sample: Sample) -> Finding:
    failure = sample.hits[0].failure
    if failure is not None and failure.kind is FailureKind.PROTOCOL:
        return _against_the_protocol(place, sample, failure.detail or "no detail on record")
    if failure is not None and "query_wait_timeout" in (failure.detail or ""):
        return _said(SERVER_ERROR, place, sample, meaning=_POOL_MEANING, step=_POOL_STEP)
    state = failure.sqlstate if failure is not None else None
    step = _STEPS_BY_SQLSTATE.get(state or "", "Look the SQLSTATE up in the server's log at the time of the attempt.")
    return _said(SERVER_ERROR, place, sample, meaning="The server answered: not the network.", step=step)


def _against_the_protocol(place: Place, sample: Sample, detail: str) -> Finding:
    phase = sample.hits[0].waterfall.failed_phase
    return _finding(
        SERVER_ERROR,
        place,
        sample,
        statement=f"{_share(place, sample)} log in and are then answered against the PostgreSQL protocol in phase "
        f"{phase}: {detail}. The network carried it: a server, pooler or proxy speaks wrongly.",
        confidence=LIKELY,
        would_refute=f"A session with {place.label} that passes phase {phase}.",
        step="Find out what answers there: its version, and a pooler or proxy between.",
    )


QUESTIONS: dict[str, Question] = {
    question.code: question
    for question in (
        Question(
            code=AUTH,
            could_show=lambda a: a.passed(Phase.STARTUP),
            fine="{n} of {n} logins at {place} were accepted.",
            found=_auth_failed,
        ),
        Question(
            code=HBA,
            could_show=lambda a: a.passed(Phase.STARTUP) or a.fate in (AUTH, NO_PASSWORD),
            fine="pg_hba.conf at {place} let {n} of {n} connections through.",
            found=_hba_rejected,
        ),
        Question(
            code=LIMIT,
            could_show=lambda a: a.passed(Phase.READY),
            fine="{n} of {n} connections got a slot at {place}.",
            found=_limit_reached,
        ),
        Question(
            code=STARTING,
            could_show=lambda a: a.passed(Phase.STARTUP) or bool(a.failure and a.failure.sqlstate),
            fine="{n} of {n} connections met a server at {place} that had finished starting.",
            found=_starting,
        ),
        Question(
            code=NO_DATABASE,
            could_show=lambda a: a.passed(Phase.READY),
            fine="{n} of {n} connections found their database at {place}.",
            found=_no_database,
        ),
        Question(
            code=SERVER_ERROR,
            could_show=lambda a: a.passed(Phase.READY),
            fine="{n} of {n} connections to {place} drew no other error from the server.",
            found=_server_error,
        ),
    )
}


def _judge(question: Question, case: Case) -> Iterator[Judgement]:
    for place in database_places(case):
        yield question.ask(case, place)


# db.port-closed


def judge_closed(case: Case) -> Iterator[Judgement]:
    for place in sockets(case):
        yield _closed(case, place)


def _closed(case: Case, place: Place) -> Judgement:
    tries = tries_at(case.evidence, place.address, place.port)
    resets = tries.count(Answer.RESET)
    forged = early_reset(case.evidence, place.address, place.port) if resets and place.address else None
    if resets and not forged:
        return _closed_finding(place, tries, open_beside(case, place))
    if forged or tries.count(Answer.OPEN):
        said = f"{tries.count(Answer.OPEN)} of {tries.sent} connection attempts to {place.label} completed"
        if forged:
            said = f"The RST for {place.label} comes from hop {forged.ttl}, before the host at hop {forged.host_ttl}"
        return RuledOut(
            code=CLOSED,
            subject=place.subject,
            statement=f"{said} ({tries.tally}).",
            smallest_fault=f"a port that is closed for more than {unseen_share(tries.sent)} of the attempts",
            evidence=tuple(sorted({*tries.ids, *(forged.measurements if forged else ())})),
        )
    what = f"{place.label} answered neither SYN-ACK nor RST" if tries.sent else f"No SYN was sent to {place.label}"
    text = f"{what} ({tries.tally})." if tries.tries else f"{what}."
    return NotMeasured(
        code=CLOSED,
        subject=place.subject,
        statement=text,
        remedy=f"Run `{place.command('ports')}` once it answers.",
    )


def _not_loopback_alone(place: Place) -> str:
    """The usual slip of a server that other hosts are meant to reach."""
    return "" if place.address in ("127.0.0.1", "::1") else " and not on loopback alone"


def _closed_severity(tries: Tries, beside: bool) -> Severity:
    return Severity.WARNING if beside or tries.count(Answer.OPEN) else Severity.CRITICAL


def _closed_finding(place: Place, tries: Tries, beside: tuple[Place, Tries] | None) -> Finding:
    resets = tries.of(Answer.RESET)
    took = min((t.seconds for t in resets if t.seconds is not None), default=None)
    after = f", after {milliseconds(took)} at best" if took is not None else ""
    share = ratio(len(resets), tries.sent)
    restart = f"Start the server on {place.address}, or make it listen on {place.label}{_not_loopback_alone(place)}."
    still = f" {beside[0].label}, of the same name, accepts connections." if beside else ""
    harmless = beside is not None and {place.address, beside[0].address} == {"127.0.0.1", "::1"}
    return Finding(
        id=finding_id(CLOSED, place.subject),
        code=CLOSED,
        role=FindingRole.NOTE if harmless else FindingRole.CAUSE,  # a local RST costs a client microseconds
        severity=Severity.INFO if harmless else _closed_severity(tries, beside is not None),
        confidence=LIKELY,
        section=Section.DATABASE if place.is_database else Section.INFRASTRUCTURE,
        subject=place.subject,
        statement=f"{place.label} answers connection attempts by RST, {share}{after}: nothing listens there, "
        f"or a filter beside the host says so in its name.{still}",
        evidence=tries.ids,
        would_refute=f"The server's own list of sockets showing a listener on {place.label} at that time.",
        actions=(
            Action(
                owner="database" if place.is_database else "application",
                horizon=Horizon.IMMEDIATE,
                step=restart,
                check=place.command("ports"),
            ),
        ),
    )


# db.unresponsive


def judge_unresponsive(case: Case) -> Iterator[Judgement]:
    for place in database_places(case):
        question = Question(
            code=SILENT,
            could_show=lambda a: a.spoke_postgresql,
            fine="{n} of {n} TCP connections to {place} were answered by the server, not by its kernel alone.",
            found=partial(_unresponsive, case),
            needs_login=False,
        )
        yield question.ask(case, place)


def _unresponsive(case: Case, place: Place, sample: Sample) -> Judgement:
    blackholes = _black_holes(case, place)
    stalls = [a for a in sample.hits if _is_stall(a)]
    in_tls = bool(stalls) and all(a.waterfall.failed_phase is Phase.TLS for a in sample.hits)
    if in_tls and len(stalls) == len(sample.hits) and any(_is_black_hole(m) for m in blackholes):
        return _explained_by_mtu(place, sample, blackholes)
    doubt = _doubt(sample, in_tls and not any(_is_told(m) for m in blackholes), _lossy(case, place))
    return _finding(
        SILENT,
        place,
        sample,
        statement=_unresponsive_statement(place, sample) + _direct_words(sample) + doubt,
        confidence=None if doubt else (LIKELY if stalls else POSSIBLE),
        would_refute=f"An answer from {place.label} in phase {sample.hits[0].waterfall.failed_phase} to any client.",
        step=_stall_step(stalls[0]) if stalls else _CUT_STEP,
    )


def _direct_words(sample: Sample) -> str:
    """sslnegotiation=direct sends a ClientHello where older servers expect a startup packet: they close."""
    direct = sample.hits[0].measurement.options.get("ssl_negotiation") == "direct"
    if not direct or sample.hits[0].waterfall.failed_phase is not Phase.TLS:
        return ""
    return " sslnegotiation=direct takes a server of PostgreSQL 17 or later: older ones close like this."


def _stall_step(stall: Attempt) -> str:
    """A server that has asked for the password lives: what it asks in turn does not."""
    phase = stall.waterfall.failed_phase
    if phase is Phase.STARTUP and stall.waterfall.authentication is not None:
        return _LOGIN_STEP
    return _SESSION_STEP if phase in (Phase.READY, Phase.FIRST_QUERY, Phase.SECOND_QUERY) else _STALL_STEP


_LOGIN_STEP = (
    "See what the server asks to check the login (LDAP, RADIUS, PAM, reverse DNS): it has asked for the password and "
    "does not come to a decision."
)
_SESSION_STEP = (
    "On the server, see what this backend waits for (pg_stat_activity: locks, IO, replication), and whether it is "
    "stopped."
)
_STALL_STEP = "On the server, see whether the process is stopped, swapping or out of workers; restart it if it is."
_CUT_STEP = (
    "Read the server's log at that time (a crash, a startup packet it did not understand). If a balancer stands "
    "between, see whether it has a live backend, and whether one end of it alone speaks the PROXY protocol."
)


def _is_stall(attempt: Attempt) -> bool:
    return attempt.failure is not None and attempt.failure.kind is FailureKind.TIMEOUT


def _black_holes(case: Case, place: Place) -> tuple[Measurement[MtuMeasurement], ...]:
    return case.evidence.of(MtuMeasurement, address=place.address)


def _is_black_hole(measurement: Measurement[MtuMeasurement]) -> bool:
    data = measurement.data
    return data is not None and bool(data.to_target.black_hole or data.from_target.black_hole)


def _is_told(measurement: Measurement[MtuMeasurement]) -> bool:
    """The server's certificate comes towards us: that direction must have been settled."""
    return measurement.data is not None and measurement.data.from_target.black_hole is not None


def _explained_by_mtu(place: Place, sample: Sample, found: tuple[Measurement[MtuMeasurement], ...]) -> RuledOut:
    cited = tuple(m for m in found if _is_black_hole(m))
    return RuledOut(
        code=SILENT,
        subject=place.subject,
        statement=f"{_share(place, sample)} stall in TLS, where the certificate fills whole packets and those vanish: "
        "the server answers, its large packets do not arrive.",
        smallest_fault="a server that leaves SSLRequest, one byte each way, unanswered",
        evidence=tuple(sorted({*sample.ids, *ids(cited)})),
    )


def _unacknowledged(sample: Sample) -> bool:
    """The last bytes we sent were never acknowledged: not even the server's kernel is known to have them."""
    infos = [a.waterfall.info for a in sample.hits]
    return any(info is not None and info.unacked > 0 for info in infos)


def _lossy(case: Case, place: Place) -> bool:
    """SYNs to this port were lost although others were answered, or our data was sent twice."""
    tries = tries_at(case.evidence, place.address, place.port)
    infos = [a.waterfall.info for a in attempts_at(case, place)]
    resent = any(info is not None and info.total_retrans > 0 for info in infos)
    return resent or tries.count(Answer.SILENT) > 0 or tries.syns > tries.sent


def _cut_short(attempt: Attempt) -> bool:
    """The attempt's time ran out when the phase had lasted a few round trips only: so short a silence says nothing."""
    lasted, trip = attempt.seconds(attempt.waterfall.failed_phase or Phase.TCP), _round_trip(attempt)
    return _is_stall(attempt) and lasted is not None and trip is not None and lasted < PATIENT_ROUND_TRIPS * trip


def _round_trip(attempt: Attempt) -> float | None:
    """The longer of the handshake's and the connection's smoothed one: a queue grows while a connection is made."""
    handshake, info = attempt.waterfall.handshake, attempt.waterfall.info
    known = [
        trip for trip in (handshake.rtt_s if handshake else None, info.rtt_s if info else None) if trip is not None
    ]
    return max(known, default=None)


def _slow_way(sample: Sample) -> str:
    first = sample.hits[0]
    trip, lasted = _round_trip(first) or 0.0, first.seconds(first.waterfall.failed_phase or Phase.TCP) or 0.0
    return (
        f" A round trip takes {milliseconds(trip)}, and of the time for a connection {milliseconds(lasted)} were left "
        "for that phase: too little to tell a silent server from a long or crowded way."
    )


def _doubt(sample: Sample, untold: bool, lossy: bool) -> str:
    """The look-alike that this evidence leaves open, as one more sentence; empty where it leaves none."""
    if all(_cut_short(a) for a in sample.hits):
        return _slow_way(sample)
    if _unacknowledged(sample):
        return " What we sent was not acknowledged either: a full accept queue or a filter looks the same."
    if untold:
        return " A black hole for the certificate's large packets looks the same: the MTU was not measured."
    if lossy and len(sample.hits) < len(sample.tested):
        return " Packets to this port were lost in this run: loss alone could explain it."
    return ""


def _unresponsive_statement(place: Place, sample: Sample) -> str:
    first = sample.hits[0]
    phase = first.waterfall.failed_phase or Phase.TCP
    lasted = first.seconds(phase)
    for_how_long = f" ({milliseconds(lasted)})" if lasted is not None else ""
    ends = {
        FailureKind.TIMEOUT: "then get no answer",
        FailureKind.CLOSED: "are then closed without an answer",
        FailureKind.RESET: "are then reset",
    }
    kind = first.failure.kind if first.failure else FailureKind.TIMEOUT
    return f"{_share(place, sample)} complete TCP and {ends.get(kind, 'then break')} in phase {phase}{for_how_long}."


# db.connection-cut


def judge_cut(case: Case) -> Iterator[Judgement]:
    question = Question(
        code=CUT,
        could_show=lambda a: a.spoke_postgresql,
        fine="{n} of {n} conversations with {place} ran without a RST.",
        found=_cut,
        needs_login=False,
    )
    yield from _judge(question, case)


def _cut(place: Place, sample: Sample) -> Finding:
    phases = ", ".join(sorted({str(a.waterfall.failed_phase) for a in sample.hits}))
    return _finding(
        CUT,
        place,
        sample,
        statement=f"{_share(place, sample)} are reset in the middle of the conversation ({phases}), at a place where "
        "the server answers. A server that ends a session says why, with a SQLSTATE; a RST without a word is from "
        "something on the way that cuts connections, or from a backend that crashed.",
        confidence=POSSIBLE,
        would_refute="The server's log at that time: a crash or an error for that connection clears the way to it.",
        step='Read the server\'s log at that time. If it only lost its client ("connection reset by peer"), look for '
        "the firewall, balancer or inspection device between that resets connections.",
        owner="network",
    )


# db.tls-invalid


def judge_tls(case: Case) -> Iterator[Judgement]:
    for place in database_places(case):
        yield _tls(case, place)


def _tls(case: Case, place: Place) -> Judgement:
    attempts = attempts_at(case, place)
    hits = tuple(a for a in attempts if a.fate == TLS)
    good = tuple(a for a in attempts if a.passed(Phase.TLS) and a.waterfall.tls and a.fate != TLS)
    if hits:
        return _tls_finding(place, Sample(hits=hits, tested=(*hits, *good)))
    refused = tuple(a for a in attempts if a.waterfall.tls_given_up is not None)
    if refused and not good:
        return _tls_given_up(place, refused)
    if good:
        outdated = tuple(a for a in good if _certificate(a) and _date_problem(a))
        return _tls_note(place, outdated) if outdated else _tls_fine(place, good)
    if any(a.waterfall.ssl_answer == "N" for a in attempts):
        return NotMeasured(
            code=TLS,
            subject=place.subject,
            statement=f"{place.label} offers no TLS, and sslmode={attempts[0].sslmode} goes on without.",
            remedy="Set sslmode=require or more if this connection is meant to be encrypted.",
        )
    return open_question(TLS, case, place, attempts, needs_login=False)


def _tls_given_up(place: Place, refused: tuple[Attempt, ...]) -> Finding:
    """sslmode=prefer or allow: TLS did not come about, and libpq goes on in clear. The application works."""
    failure = refused[0].waterfall.tls_given_up
    why = (failure.detail or failure.kind) if failure else "no reason on record"
    mode = refused[0].sslmode
    return _tls_notice(
        place,
        refused,
        f'TLS with {place.label} does not come about ("{why}"), so sslmode={mode} goes on in clear: whoever is on the '
        "way can read it.",
        step="Mend TLS or its line in pg_hba.conf, then ask for sslmode=require, which never goes on in clear.",
        would_refute=f"A TLS session with {place.label} that logs in.",
    )


def _certificate(attempt: Attempt) -> Certificate | None:
    """The one that was refused, as seen on a second connection without verification; else the one accepted."""
    session = attempt.waterfall.tls_inspected or attempt.waterfall.tls
    return session.certificate if session else None


def _date_problem(attempt: Attempt) -> str | None:
    """Judged by the time of the measurement, so that a replay next year says the same."""
    certificate, then = _certificate(attempt), attempt.measurement.started
    if certificate is None:
        return None
    if then > _instant(certificate.not_after):
        return f"expired (not after {certificate.not_after})"
    if then < _instant(certificate.not_before):
        return f"not yet valid (not before {certificate.not_before})"
    return None


def _instant(text: str) -> datetime:
    moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _name_problem(attempt: Attempt, host: str) -> str | None:
    certificate = _certificate(attempt)
    if certificate is None or any(_matches(pattern, host) for pattern in certificate.names):
        return None
    return f"made out to {', '.join(certificate.names[:3]) or certificate.subject}, not to {host}"


def _matches(pattern: str, host: str) -> bool:
    """RFC 6125: a wildcard stands for the whole leftmost label and nothing else."""
    pattern, host = pattern.lower().rstrip("."), host.lower().rstrip(".")
    if pattern.startswith("*."):
        return host.partition(".")[2] == pattern[2:]
    return pattern == host


def _tls_problem(attempt: Attempt, host: str) -> str:
    """Dates, then the name where sslmode demands it, then what the TLS library said."""
    named = _name_problem(attempt, host) if attempt.sslmode == "verify-full" else None
    problem = _date_problem(attempt) or named
    if problem:
        return f"its certificate is {problem}"
    detail = attempt.failure.detail if attempt.failure and attempt.failure.detail else "no reason given"
    certificate = _certificate(attempt)
    distrusted = certificate is not None and "verify failed" in detail
    return f"{detail} (issuer {certificate.issuer})" if certificate and distrusted else detail


_CERTIFICATE_STEP = (
    "Install a certificate that is in date, made out to the name in the DSN and signed by a root it trusts."
)
_TLS_STEPS = (
    ("root certificate file", "application", "Put the root certificate where the DSN names it, readable for the user."),
    ("client certificate or key", "application", "Put the client's certificate and key where the DSN names them."),
    ("channel_binding", "application", "Log in by scram-sha-256 over TLS, or ask for channel_binding=prefer."),
    ("does not speak TLS", "database", "Switch TLS on at the server (ssl = on); until then this sslmode cannot work."),
    ("PROTOCOL", "database", "Let server and client share a TLS version (ssl_min_protocol_version at both ends)."),
    # What a server says whose own crypto policy forbids the version that it settled on.
    (
        "ALERT_INTERNAL_ERROR",
        "database",
        "Read the server's log at that time: it broke TLS off. Mostly its crypto policy forbids the TLS version or key "
        "that its settings ask for (ssl_min_protocol_version, ssl_max_protocol_version, ssl_ciphers).",
    ),
)


def _tls_finding(place: Place, sample: Sample) -> Finding:
    first = sample.hits[0]
    problem = _tls_problem(first, place.endpoint.host)
    owner, step = next(
        ((owner, step) for fragment, owner, step in _TLS_STEPS if fragment in problem), ("database", _CERTIFICATE_STEP)
    )
    return _finding(
        TLS,
        place,
        sample,
        statement=f"{_share(place, sample)} fail at TLS with sslmode={first.sslmode}: {problem}. Not the network.",
        confidence=CERTAIN,
        would_refute=f"A TLS session with {place.label} that passes under the same sslmode and root certificate.",
        step=step,
        owner=owner,
    )


def _tls_note(place: Place, outdated: tuple[Attempt, ...]) -> Finding:
    first = outdated[0]
    return _tls_notice(
        place,
        outdated,
        f"The certificate of {place.label} is {_date_problem(first)}; sslmode={first.sslmode} does not look.",
        step="Renew the certificate before a client asks for sslmode=verify-full.",
        would_refute="A certificate that is in date at the time of the run.",
    )


def _tls_notice(
    place: Place, attempts: tuple[Attempt, ...], statement: str, *, step: str, would_refute: str
) -> Finding:
    """What TLS lacks although the application connects."""
    return Finding(
        id=finding_id(TLS, place.subject),
        code=TLS,
        role=FindingRole.NOTE,
        severity=Severity.INFO,
        confidence=CERTAIN,
        section=Section.DATABASE,
        subject=place.subject,
        statement=statement,
        evidence=ids(a.measurement for a in attempts),
        would_refute=would_refute,
        actions=(Action(owner="database", horizon=Horizon.LONG_TERM, step=step, check=login_check(place)),),
    )


def _tls_fine(place: Place, good: tuple[Attempt, ...]) -> RuledOut:
    certificate = _certificate(good[0])
    until = f"; the certificate is valid until {certificate.not_after}" if certificate else ""
    n = len(good)
    return RuledOut(
        code=TLS,
        subject=place.subject,
        statement=f"{n} of {n} TLS sessions with {place.label} passed under sslmode={good[0].sslmode}{until}.",
        smallest_fault=f"a certificate that fails sslmode={good[0].sslmode} in more than {unseen_share(n)} of sessions",
        evidence=ids(a.measurement for a in good),
    )


# db.slow


def judge_slow(case: Case) -> Iterator[Judgement]:
    for place in database_places(case):
        yield _slow(case, place)


def _slow(case: Case, place: Place) -> Judgement:
    attempts = attempts_at(case, place)
    clean = tuple(a for a in attempts if _is_clean(a))
    slow = slow_attempts(attempts)
    answered = tuple(a for a in attempts if _is_answered(a))
    if not answered:
        return open_question(SLOW, case, place, attempts, needs_login=False)
    if len(clean) < SLOW_ATTEMPTS:
        few = f"{len(clean) or 'None'} of {len(answered)} connections to {place.label}"
        text = f"{few} was free of retransmissions; it takes {SLOW_ATTEMPTS}."
        return NotMeasured(code=SLOW, subject=place.subject, statement=text, remedy=f"Run `{login_check(place)}`.")
    if len(slow) >= SLOW_ATTEMPTS:
        return _slow_finding(place, Sample(hits=slow, tested=clean))
    longest = max(t.seconds for a in clean for t in a.waterfall.phases if t.phase is not Phase.TCP)
    return RuledOut(
        code=SLOW,
        subject=place.subject,
        statement=f"The longest phase of {len(clean)} connections to {place.label} took {milliseconds(longest)}.",
        smallest_fault=f"{SLOW_ATTEMPTS} connections with a phase of {milliseconds(SLOW_PHASE_S)} "
        f"and {SLOW_PHASE_ROUND_TRIPS:.0f} round trips",
        evidence=ids(a.measurement for a in clean),
    )


def slow_attempts(attempts: Iterable[Attempt], least_rtt: float = 0.0) -> tuple[Attempt, ...]:
    """Slow by both measures, however long a round trip may have become after the handshake."""
    return tuple(attempt for attempt in attempts if _is_clean(attempt) and _slow_phase(attempt, least_rtt))


def _is_clean(attempt: Attempt) -> bool:
    """Answered, with a round trip to compare with, and without a retransmission that would explain the delay."""
    info = attempt.waterfall.info
    retransmitted = info is not None and info.total_retrans > 0
    return _is_answered(attempt) and attempt.waterfall.handshake.rtt_s is not None and not retransmitted


def _is_answered(attempt: Attempt) -> bool:
    return attempt.fate != LOCAL and any(attempt.passed(p) for p in Phase if p is not Phase.TCP)


def _slow_phase(attempt: Attempt, least_rtt: float = 0.0) -> Phase | None:
    """The longest phase if it is slow by both measures."""
    rtt = max(attempt.waterfall.handshake.rtt_s or 0.0, least_rtt)
    bound = max(SLOW_PHASE_S, SLOW_PHASE_ROUND_TRIPS * rtt)
    slow = [t for t in attempt.waterfall.phases if attempt.passed(t.phase) and t.phase is not Phase.TCP]
    worst = max(slow, key=lambda t: t.seconds, default=None)
    return worst.phase if worst and worst.seconds >= bound else None


def _slow_finding(place: Place, sample: Sample) -> Finding:
    first = sample.hits[0]
    phase = _slow_phase(first) or Phase.STARTUP
    took = sorted(seconds for a in sample.hits if (seconds := a.seconds(phase)) is not None)
    rtt = min(a.waterfall.handshake.rtt_s or 0.0 for a in sample.hits)
    span = f"{milliseconds(took[0])} to {milliseconds(took[-1])}" if len(took) > 1 else milliseconds(took[0])
    statement = (
        f"{_share(place, sample)} spend {span} in phase {phase}, over a path with a round trip of {milliseconds(rtt)}"
    )
    finding = _finding(
        SLOW,
        place,
        sample,
        statement=f"{statement} and without a retransmission of ours.",
        confidence=LIKELY,
        would_refute=f"The same phase below {milliseconds(SLOW_PHASE_S)} from the same place.",
        step=_SLOW_STEPS.get(phase, "See what the server waits for in this phase: its log, its locks, its load."),
    )
    return replace(finding, severity=Severity.WARNING)  # slow is not down


_SLOW_STEPS = {
    Phase.STARTUP: "See what authentication waits for: reverse DNS (log_hostname), LDAP, RADIUS, or a loaded server.",
    Phase.READY: "On YugabyteDB, catalogue reads from the master leader: measure the round trip to it, use a pool.",
    Phase.FIRST_QUERY: "Compare with the second query: a slow first one alone is a cold catalogue cache; use a pool.",
}


def _rule(code: str, judge: Callable[[Case], Iterator[Judgement]], fires: str, quiet: str, refuted_by: str) -> Rule:
    return Rule(code=code, section=Section.DATABASE, fires=fires, quiet=quiet, refuted_by=refuted_by, judge=judge)


def _said_rule(code: str, fires: str, quiet: str) -> Rule:
    return _rule(code, partial(_judge, QUESTIONS[code]), fires, quiet, "The same login, let through by the server.")


RULES = (
    _rule(
        CLOSED,
        judge_closed,
        "RST answers the connection attempts, and it comes from the host's own distance.",
        "An ICMP error stands behind the refusal, or the RST comes from nearer than the host: that is firewall.reject.",
        "A listener on the port at the time of the run.",
    ),
    _said_rule(AUTH, "SQLSTATE 28P01, or 28000 of a method or role.", "No user, no password: nothing is concluded."),
    _said_rule(HBA, "SQLSTATE 28000 before any password is asked.", "28P01: a line matched, the password did not."),
    _said_rule(LIMIT, "SQLSTATE 53300.", "Silent drops of a full accept queue: no SQLSTATE comes."),
    _said_rule(STARTING, "SQLSTATE 57P03.", "A server that says nothing at all: that is db.unresponsive."),
    _said_rule(NO_DATABASE, "SQLSTATE 3D000.", "A login that is refused before the database is looked up."),
    _said_rule(SERVER_ERROR, "Any other error of the server during login or the first queries.", "A code of its own."),
    _rule(
        SILENT,
        judge_unresponsive,
        "TCP completes, which the kernel does alone, and the server then says nothing, closes or resets.",
        "Another protocol answers (lb.wrong-protocol), or TLS stalls on a proven black hole (mtu.black-hole).",
        "An answer of the server in that phase.",
    ),
    _rule(
        CUT,
        judge_cut,
        "A RST comes in the middle of a conversation, without an error of the server's, where the server answers.",
        "The server says why it ends the session (SQLSTATE), or answers nobody there (db.unresponsive).",
        "The server's log: a crash, or an error for that connection.",
    ),
    _rule(
        TLS,
        judge_tls,
        "TLS fails as the sslmode demands: out of date, wrong name, unknown issuer, no TLS where it is required.",
        "sslmode does not look at the certificate: an expired one is a note, not a cause.",
        "A session that passes under the same sslmode.",
    ),
    _rule(
        SLOW,
        judge_slow,
        "A phase takes a second and ten round trips, more than once, without a retransmission.",
        "A long path (it is measured against the round trip), or loss (retransmissions explain the delay).",
        "The same phase fast from the same place.",
    ),
)
