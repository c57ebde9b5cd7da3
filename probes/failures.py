"""Every way to fail, in one table: errno, getaddrinfo, ICMP, SQLSTATE and DNS rcodes become outcomes and Failures.

errno alone misleads: ECONNREFUSED is a RST, but with an ICMP 3/3 behind it the "refusal" is a firewall's; EHOSTUNREACH
may be a router's TTL, an administrator's prohibition or a missing route of this very host. Where the socket error queue
holds an ICMP error, the ICMP error decides; where it holds none, the errno is this host's own word (tcp(7), ip(7)).
"""

from __future__ import annotations

import errno as errnos
import re
import socket
import unicodedata

from probes.model import Failure, FailureKind, IcmpError, Outcome

TEXT_LIMIT = 200
_SCAN_LIMIT = 4096  # hostile text is cut before it is looked at

Verdict = tuple[Outcome, FailureKind]

_REFUSED: Verdict = (Outcome.REFUSED, FailureKind.REFUSED)
_REJECTED: Verdict = (Outcome.REJECTED, FailureKind.REJECTED)
_UNREACHABLE: Verdict = (Outcome.UNREACHABLE, FailureKind.UNREACHABLE)
_EXPIRED: Verdict = (Outcome.EXPIRED, FailureKind.EXPIRED)
_TOO_BIG: Verdict = (Outcome.TOO_BIG, FailureKind.TOO_BIG)
_LOST: Verdict = (Outcome.LOST, FailureKind.TIMEOUT)
_NOT_SENT: Verdict = (Outcome.NOT_SENT, FailureKind.LOCAL)
_NO_ROUTE: Verdict = (Outcome.UNREACHABLE, FailureKind.LOCAL)
_RESET: Verdict = (Outcome.FAILED, FailureKind.RESET)

# (family, type, code); a code of None stands for every other code of the type.
# RFC 792, RFC 1122 3.2.2.1, RFC 1812 5.2.7, RFC 4443. Codes 11/1 and 3/1 (reassembly time exceeded) come from the
# target for want of a fragment: that is loss, not an expired TTL.
_ICMP: dict[tuple[int, int, int | None], Verdict] = {
    (4, 3, 2): _REFUSED,  # protocol unreachable
    (4, 3, 3): _REFUSED,  # port unreachable
    (4, 3, 4): _TOO_BIG,
    (4, 3, 9): _REJECTED,
    (4, 3, 10): _REJECTED,
    (4, 3, 13): _REJECTED,
    (4, 3, 14): _REJECTED,  # host precedence violation
    (4, 3, 15): _REJECTED,  # precedence cutoff in effect
    (4, 3, None): _UNREACHABLE,
    (4, 11, 1): _LOST,
    (4, 11, None): _EXPIRED,
    (4, 12, None): _REJECTED,  # parameter problem
    (6, 1, 1): _REJECTED,
    (6, 1, 4): _REFUSED,  # port unreachable
    (6, 1, 5): _REJECTED,  # source address failed ingress/egress policy
    (6, 1, 6): _REJECTED,  # reject route to destination
    (6, 1, None): _UNREACHABLE,
    (6, 2, None): _TOO_BIG,
    (6, 3, 1): _LOST,
    (6, 3, None): _EXPIRED,
    (6, 4, 1): _REFUSED,  # unrecognized next header: v6 for "protocol unreachable"
    (6, 4, None): _REJECTED,
}

# Without an ICMP error behind it. EACCES and EINVAL on connect are this host's own prohibit and blackhole routes;
# EPERM is its own packet filter in OUTPUT (UDP and raw sockets; TCP merely stays silent).
_ERRNO: dict[int, Verdict] = {
    errnos.ECONNREFUSED: _REFUSED,
    errnos.ECONNRESET: _RESET,
    errnos.ECONNABORTED: _RESET,
    errnos.EPIPE: _RESET,
    errnos.ETIMEDOUT: _LOST,
    errnos.EMSGSIZE: (Outcome.TOO_BIG, FailureKind.LOCAL),
    errnos.EHOSTUNREACH: _NO_ROUTE,
    errnos.ENETUNREACH: _NO_ROUTE,
    errnos.EHOSTDOWN: _UNREACHABLE,
    errnos.ENETDOWN: _NO_ROUTE,
    errnos.EPROTO: (Outcome.FAILED, FailureKind.PROTOCOL),
}

_EAI_NAMES = {getattr(socket, name): name for name in dir(socket) if name.startswith("EAI_")}

_TERMINAL_SEQUENCE = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|\x9b[0-?]*[ -/]*[@-~]")


def from_os_error(error: OSError, operation: str, icmp: IcmpError | None = None) -> Failure:
    """The Failure of one failed system call; ``icmp`` is the ICMP error that caused it, where one is known."""
    return classify(error, operation, icmp)[1]


def classify(
    error: OSError, operation: str, icmp: IcmpError | None = None, target: str | None = None
) -> tuple[Outcome, Failure]:
    """Outcome and Failure of a failed system call. ``target`` is the address that was asked (see from_icmp)."""
    if isinstance(error, socket.gaierror):
        return Outcome.FAILED, from_gai_error(error, operation)
    if icmp is not None:
        outcome, kind = _of_icmp(icmp, target)
    else:
        outcome, kind = _of_errno(error, operation)
    return outcome, Failure(kind=kind, operation=operation, errno=errno_name(error), icmp=icmp)


def from_icmp(icmp: IcmpError, operation: str, target: str | None = None) -> tuple[Outcome, Failure]:
    """Outcome and Failure of an ICMP error.

    Port (or protocol) unreachable is REFUSED when its sender is ``target``, and REJECTED from anything else:
    a router has no business with ports, a firewall has. Without ``target`` it is REJECTED when a sender is known.
    """
    outcome, kind = _of_icmp(icmp, target)
    return outcome, Failure(kind=kind, operation=operation, icmp=icmp)


def from_gai_error(error: OSError, operation: str = "resolve") -> Failure:
    """A getaddrinfo failure (RFC 3493). EAI_AGAIN lumps timeout, SERVFAIL, REFUSED and bogus DNSSEC together."""
    name = _EAI_NAMES.get(error.errno or 0)
    return Failure(kind=FailureKind.NAME, operation=operation, errno=name, detail=clean_text(error.strerror or ""))


def from_sqlstate(sqlstate: str, message: str | bytes, operation: str) -> Failure:
    """The server's ErrorResponse; ``message`` is remote text."""
    return Failure(
        kind=FailureKind.SERVER, operation=operation, sqlstate=clean_text(sqlstate), detail=clean_text(message)
    )


def from_rcode(rcode: str, operation: str = "resolve") -> Failure:
    """A DNS answer whose rcode is an error, by its mnemonic (RFC 6895): "SERVFAIL"."""
    return Failure(kind=FailureKind.SERVER, operation=operation, detail=clean_text(rcode))


def timed_out(operation: str) -> Failure:
    """Silence until our own deadline: no errno, since no system call failed."""
    return Failure(kind=FailureKind.TIMEOUT, operation=operation)


def errno_name(error: OSError) -> str | None:
    """The symbolic name of the errno, or None where the error carries none."""
    return errnos.errorcode.get(error.errno) if error.errno else None


def clean_text(raw: str | bytes) -> str:
    """Remote text as one printable line of at most 200 characters.

    Control, escape, bidirectional, zero-width, private and unassigned characters are gone; blanks run together.
    """
    head = raw[:_SCAN_LIMIT]
    text = head.decode("utf-8", "replace") if isinstance(head, bytes) else head
    text = "".join(_printable(character) for character in _TERMINAL_SEQUENCE.sub("", text))
    line = " ".join(text.split())
    return line if len(line) <= TEXT_LIMIT else line[: TEXT_LIMIT - 1] + "…"


def _printable(character: str) -> str:
    category = unicodedata.category(character)
    if category in {"Cf", "Cs", "Co", "Cn"}:
        return ""
    return " " if category == "Cc" or category.startswith("Z") else character


def _of_icmp(icmp: IcmpError, target: str | None) -> Verdict:
    exact = _ICMP.get((icmp.family, icmp.type, icmp.code))
    verdict = exact or _ICMP.get((icmp.family, icmp.type, None), _UNREACHABLE)
    if verdict is _REFUSED and icmp.offender is not None and icmp.offender != target:
        return _REJECTED
    return verdict


def _of_errno(error: OSError, operation: str) -> Verdict:
    if isinstance(error, TimeoutError):
        return _LOST
    verdict = _ERRNO.get(error.errno or 0, _NOT_SENT)
    if verdict is _NO_ROUTE and operation not in {"connect", "send"}:
        return _UNREACHABLE  # on a live connection the errno is an ICMP error that nobody queued
    return verdict
