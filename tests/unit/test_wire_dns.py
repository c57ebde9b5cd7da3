"""DNS messages against bytes laid out by hand from RFC 1035, RFC 6891 and RFC 8914."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probes.model import FailureKind, NetworkFailure
from probes.wire.dns import Question, Reply, parse_reply, question

QNAME = b"\x02db\x07example\x00"
A, CNAME, TXT, AAAA, OPT = 1, 5, 16, 28, 41
TO_QNAME = b"\xc0\x0c"  # the question's name, at offset 12
QR, AA, TC, RD, RA = 0x8000, 0x0400, 0x0200, 0x0100, 0x0080


def asked(record_type: str = "A") -> Question:
    return question("db.example", record_type, message_id=0x1234)


def resource(owner: bytes, kind: int, ttl: int, data: bytes) -> bytes:
    return owner + struct.pack("!HHIH", kind, 1, ttl, len(data)) + data


def opt(*options: tuple[int, bytes], extended_rcode: int = 0) -> bytes:
    data = b"".join(struct.pack("!HH", code, len(body)) + body for code, body in options)
    return b"\x00" + struct.pack("!HHIH", OPT, 1232, extended_rcode << 24, len(data)) + data


def reply(
    flags: int = QR | RD | RA,
    rcode: int = 0,
    answers: tuple[bytes, ...] = (),
    extra: tuple[bytes, ...] = (),
    *,
    message_id: int = 0x1234,
    qname: bytes = QNAME,
    qtype: int = A,
) -> bytes:
    header = struct.pack("!HHHHHH", message_id, flags | rcode, 1, len(answers), 0, len(extra))
    return header + qname + struct.pack("!HH", qtype, 1) + b"".join(answers) + b"".join(extra)


def test_the_question_byte_by_byte():
    header = struct.pack("!HHHHHH", 0x1234, RD, 1, 0, 0, 1)
    assert asked().wire == header + QNAME + struct.pack("!HH", A, 1) + opt()
    assert asked("AAAA").wire[len(header) + len(QNAME) :][:4] == struct.pack("!HH", AAAA, 1)


def test_ids_are_random():
    assert len({question("db.example", "A").id for _ in range(50)}) > 40


@pytest.mark.parametrize(
    ("name", "kind"), [("a" * 64, "A"), ("a..b", "A"), ("db.example", "NONSENSE"), ("x." * 128, "A")]
)
def test_what_dns_cannot_carry(name, kind):
    with pytest.raises(ValueError, match="not a DNS question"):
        question(name, kind)


def test_a_chain_in_its_order():
    alias = resource(TO_QNAME, CNAME, 300, b"\x02lb\x07example\x00")
    at_lb = b"\x02lb\x07example\x00"
    wire = reply(
        answers=(alias, resource(at_lb, A, 60, bytes([192, 0, 2, 10])), resource(at_lb, A, 60, bytes([192, 0, 2, 11])))
    )
    parsed = parse_reply(asked(), wire)
    assert [(r.type, r.value, r.ttl_s) for r in parsed.answers] == [
        ("CNAME", "lb.example.", 300),
        ("A", "192.0.2.10", 60),
        ("A", "192.0.2.11", 60),
    ]
    assert (parsed.rcode, parsed.edns, parsed.flags) == ("NOERROR", False, ("RD", "RA"))


@pytest.mark.parametrize(
    ("rcode", "text"), [(1, "FORMERR"), (2, "SERVFAIL"), (3, "NXDOMAIN"), (4, "NOTIMP"), (5, "REFUSED")]
)
def test_an_error_is_an_answer(rcode, text):
    assert parse_reply(asked(), reply(rcode=rcode)).rcode == text


def test_an_extended_rcode_comes_from_both_places():
    assert parse_reply(asked(), reply(rcode=0, extra=(opt(extended_rcode=1),))).rcode == "BADVERS"  # 1 << 4 | 0


def test_a_server_error_may_leave_the_question_out():
    wire = struct.pack("!HHHHHH", 0x1234, QR | RD | 2, 0, 0, 0, 0)
    assert parse_reply(asked(), wire).rcode == "SERVFAIL"


def test_extended_errors():
    why = struct.pack("!H", 22) + b"no reachable \x1b[31mauthority\n"
    parsed = parse_reply(asked(), reply(rcode=2, extra=(opt((15, why), (15, struct.pack("!H", 9))),)))
    assert [(e.code, e.text) for e in parsed.extended_errors] == [(22, "no reachable authority"), (9, "")]
    assert parsed.edns is True


def test_truncation_and_authority_are_flags():
    assert parse_reply(asked(), reply(QR | AA | TC | RD)).flags == ("AA", "TC", "RD")


def test_remote_text_is_one_short_printable_line():
    text = b"\x1b[2J" + b"x" * 246 + b"\r\n"
    parsed = parse_reply(
        asked("TXT"), reply(qtype=TXT, answers=(resource(TO_QNAME, TXT, 5, bytes([len(text)]) + text),))
    )
    assert len(parsed.answers[0].value) <= 200
    assert parsed.answers[0].value.isprintable()


@pytest.mark.parametrize(
    "wire",
    [
        b"",
        b"HTTP/1.1 400 Bad request\r\n\r\n",
        asked().wire,  # an echo of the question is no response
        reply(message_id=0x4321),
        reply(qname=b"\x02xx\x07example\x00"),
        reply(qtype=AAAA),
        reply()[:-3],
        reply(answers=(b"\xc0\xff" + resource(b"", A, 5, b"\x7f\x00\x00\x01"),)),  # pointer past the end
    ],
)
def test_what_is_no_answer_to_this_question(wire):
    with pytest.raises(NetworkFailure) as caught:
        parse_reply(asked(), wire)
    assert caught.value.failure.kind is FailureKind.PROTOCOL
    assert caught.value.failure.detail


def parsed_or_refused(wire: bytes) -> Reply | FailureKind:
    try:
        return parse_reply(asked(), wire)
    except NetworkFailure as error:
        return error.failure.kind


@given(st.binary(max_size=300))
def test_no_bytes_break_the_parser(body):
    for wire in (body, reply() + body, reply(answers=(b"",) * 3)[:30] + body):
        assert isinstance(parsed_or_refused(wire), Reply) or parsed_or_refused(wire) is FailureKind.PROTOCOL


@given(st.data())
def test_no_flipped_byte_breaks_the_parser(data):
    why = struct.pack("!H", 22) + b"no reachable authority"
    answer = resource(TO_QNAME, CNAME, 300, b"\x02lb\x07example\x00")
    wire = bytearray(reply(answers=(answer,), extra=(opt((15, why), (8, b"\x00\x01\x18\x00\xc0\x00\x02")),)))
    for _ in range(data.draw(st.integers(1, 4))):
        wire[data.draw(st.integers(0, len(wire) - 1))] = data.draw(st.integers(0, 255))
    result = parsed_or_refused(bytes(wire))
    if isinstance(result, Reply):
        assert all(record.value.isprintable() for record in result.answers)
    else:
        assert result is FailureKind.PROTOCOL
