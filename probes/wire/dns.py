"""DNS messages as bytes: one question out, one answer in. dnspython builds and parses; no socket is near.

Queries ask for recursion and carry, unless told otherwise, EDNS (RFC 6891) with a payload of 1232 bytes, so that
extended errors (RFC 8914) can come back and nothing needs IP fragments. An answer with an error rcode is an answer;
what is not an answer to this question raises NetworkFailure with the kind PROTOCOL.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from probes.failures import clean_text
from probes.model import Failure, FailureKind, NetworkFailure, value

if TYPE_CHECKING:
    import dns.message
    import dns.rdatatype

PAYLOAD_BYTES = 1232  # DNS flag day 2020: below every usual path MTU
_FLAGS = ("AA", "TC", "RD", "RA", "AD", "CD")


@value
class Question:
    """``wire`` is the message to send; its id is random unless given."""

    name: str
    record_type: str
    id: int
    wire: bytes


@value
class ReplyRecord:
    type: str
    value: str  # presentation format (RFC 1035 5.1), one line, at most 200 characters
    ttl_s: int


@value
class ReplyError:
    """RFC 8914. ``text`` is remote text, cleaned."""

    code: int
    text: str


@value
class Reply:
    rcode: str  # mnemonic (RFC 6895), the number in decimal where there is none
    flags: tuple[str, ...]  # of AA TC RD RA AD CD, those that are set
    edns: bool
    extended_errors: tuple[ReplyError, ...]
    answers: tuple[ReplyRecord, ...]  # the answer section in its order


def question(
    name: str, record_type: str, *, message_id: int | None = None, edns: bool = True, checking: bool = True
) -> Question:
    """A recursive query in class IN. ``name`` is taken as absolute: no search list is applied.

    Without ``edns`` it is what glibc sends by default; without ``checking`` a validating resolver hands over what it
    found bogus (CD, RFC 4035 3.2.2). Raises ValueError for a name or a type that DNS cannot carry.
    """
    import dns.exception
    import dns.flags
    import dns.message
    import dns.rdatatype

    number = secrets.randbits(16) if message_id is None else message_id
    try:
        message = dns.message.make_query(name, record_type, id=number)
    except (dns.exception.DNSException, UnicodeError) as error:
        raise ValueError(clean_text(f"not a DNS question: {name} {record_type}: {error}")) from error
    if edns:
        message.use_edns(0, payload=PAYLOAD_BYTES)
    if not checking:
        message.flags |= dns.flags.CD
    return Question(name=name, record_type=record_type, id=number, wire=message.to_wire())


def parse_reply(asked: Question, wire: bytes) -> Reply:
    """Raises NetworkFailure where ``wire`` is no DNS message or answers another question."""
    import dns.edns
    import dns.message
    import dns.rcode

    message = _message(wire)
    if not dns.message.from_wire(asked.wire).is_response(message):
        raise _protocol("the reply answers another question")
    errors = (option for option in message.options if isinstance(option, dns.edns.EDEOption))
    return Reply(
        rcode=dns.rcode.to_text(message.rcode()),
        flags=_flags(message),
        edns=message.edns >= 0,
        extended_errors=tuple(ReplyError(code=int(e.code), text=clean_text(e.text or "")) for e in errors),
        answers=_answers(message),
    )


def _message(wire: bytes) -> dns.message.Message:
    import dns.exception
    import dns.message

    try:
        return dns.message.from_wire(wire, ignore_trailing=True)
    except (dns.exception.DNSException, ValueError, IndexError) as error:
        raise _protocol(f"not a DNS message: {type(error).__name__} {error}") from error


def _flags(message: dns.message.Message) -> tuple[str, ...]:
    import dns.flags

    return tuple(name for name in _FLAGS if message.flags & dns.flags.Flag[name])


def _answers(message: dns.message.Message) -> tuple[ReplyRecord, ...]:
    import dns.rdatatype

    return tuple(
        ReplyRecord(type=dns.rdatatype.to_text(rrset.rdtype), value=clean_text(rdata.to_text()), ttl_s=rrset.ttl)
        for rrset in message.answer
        for rdata in rrset
    )


def _protocol(detail: str) -> NetworkFailure:
    return NetworkFailure(Failure(kind=FailureKind.PROTOCOL, operation="resolve", detail=clean_text(detail)))
