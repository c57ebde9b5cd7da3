"""The PostgreSQL codec: bytes as the protocol's documentation and a capture have them, and bytes from nowhere."""

from __future__ import annotations

import hashlib
import itertools
import random
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probes.model import FailureKind, NetworkFailure, Secret
from probes.wire import postgres as wire
from probes.wire.auth import Authentication, UnsupportedAuthentication
from probes.wire.scram import ScramError

# What a PostgreSQL 15 said to StartupMessage under "trust", shortened: R0, S, S, K, Z.
CAPTURED = bytes.fromhex(
    "52 00000008 00000000"
    "53 00000017 696e5f686f745f7374616e646279 00 6f6666 00"
    "53 00000019 7365727665725f76657273696f6e 00 31352e3138 00"
    "4b 0000000c 000029ed 5c3a1f77"
    "5a 00000005 49"
)
CAPTURED_MESSAGES = [
    wire.AuthenticationRequest(code=0),
    wire.ParameterStatus(name="in_hot_standby", setting="off"),
    wire.ParameterStatus(name="server_version", setting="15.18"),
    wire.BackendKeyData(pid=10733),
    wire.ReadyForQuery(status="I"),
]


def message(kind: str, body: bytes) -> bytes:
    return kind.encode() + struct.pack("!I", len(body) + 4) + body


def read_all(reader: wire.MessageReader) -> list[wire.Message]:
    messages = []
    while (got := reader.next()) is not None:
        messages.append(got)
    return messages


def read(data: bytes) -> list[wire.Message]:
    reader = wire.MessageReader()
    reader.feed(data)
    return read_all(reader)


def test_what_the_client_says_is_what_the_protocol_says():
    assert bytes.fromhex("00000008 04d2162f") == wire.SSL_REQUEST
    startup = wire.startup_message({"user": "app", "database": "db"})
    assert startup == struct.pack("!II", 30, 0x00030000) + b"user\0app\0database\0db\0\0"
    assert len(startup) == 30
    assert wire.query_message("SELECT 1") == b"Q\0\0\0\rSELECT 1\0"
    assert wire.password_message("x") == b"p\0\0\0\x06x\0"
    assert wire.sasl_initial_response("M", b"abc") == b"p\0\0\0\x0dM\0\0\0\0\x03abc"
    assert wire.sasl_response(b"abc") == b"p\0\0\0\x07abc"


def test_a_nul_cannot_end_a_string_early():
    with pytest.raises(ValueError, match="NUL"):
        wire.startup_message({"user": "app\0database\0secret"})


def test_md5_as_postgresql_computes_it():
    # printf '%s' foobar | md5sum ("bar" of user "foo" reversed: password + user), then with the salt 01020304
    inner = "96948aad3fcae80c08a35c9b5958cd89"  # md5("barfoo")
    assert wire.md5_password_message("foo", "bar", b"\1\2\3\4")[5:-1].startswith(b"md5")
    expected = b"md5" + hashlib.md5(inner.encode() + b"\1\2\3\4").hexdigest().encode()
    assert wire.md5_password_message("foo", "bar", b"\1\2\3\4") == message("p", expected + b"\0")


def test_a_captured_startup():
    assert read(CAPTURED) == CAPTURED_MESSAGES


@given(st.lists(st.integers(1, len(CAPTURED) - 1), max_size=8))
def test_it_does_not_matter_how_tcp_cuts_the_bytes(cuts):
    reader, messages, edges = wire.MessageReader(), [], [0, *sorted(cuts), len(CAPTURED)]
    for start, end in itertools.pairwise(edges):
        reader.feed(CAPTURED[start:end])
        messages += read_all(reader)
    assert messages == CAPTURED_MESSAGES


def test_an_error_and_a_notice_by_their_fields():
    fields = b"SFEHLER\0VERROR\0C42601\0Mbad\0Dwhy\0Hdo\0Fscan.l\0\0"
    assert read(message("E", fields)) == [
        wire.ErrorResponse(severity="ERROR", sqlstate="42601", message="bad", detail="why", hint="do")
    ]
    assert read(message("N", b"SNOTICE\0C00000\0Mhello\0\0")) == [
        wire.NoticeResponse(severity="NOTICE", sqlstate="00000", message="hello")
    ]


def test_an_error_of_before_7_4_has_text_only():
    text = b"EFATAL:  unsupported frontend protocol 2.0: server supports 3.0 to 3.0\n\0"
    assert read(text) == [
        wire.ErrorResponse(
            severity="FATAL", sqlstate=None, message="unsupported frontend protocol 2.0: server supports 3.0 to 3.0"
        )
    ]
    assert read(text[:-1]) == []


def test_an_old_error_without_an_end_is_not_waited_for():
    with pytest.raises(wire.ProtocolError):
        read(b"E" + b"a" * wire.OLD_ERROR_LIMIT)


@pytest.mark.parametrize(
    ("kind", "length"), [("E", 10 << 20), ("S", 1 << 20), ("Z", 3), ("D", (4 << 20) + 1), ("R", 0)]
)
def test_an_impossible_length_is_refused_from_its_header_alone(kind, length):
    reader = wire.MessageReader()
    reader.feed(kind.encode() + struct.pack("!I", length))
    with pytest.raises(wire.ProtocolError, match=str(length)):
        reader.next()
    assert reader.pending() == 5


@pytest.mark.parametrize(
    "other", [b"HTTP/1.1 400 Bad Request", b"SSH-2.0-OpenSSH_9.2", b"\x15\x03\x01\x00\x02", b"220 mail"]
)
def test_another_protocol_is_told_from_its_first_bytes(other):
    with pytest.raises(wire.ProtocolError):
        read(other)


def test_rows():
    row = b"\0\3" + struct.pack("!i", 2) + b"ab" + struct.pack("!i", -1) + struct.pack("!i", 0)
    assert read(message("D", row)) == [wire.DataRow(columns=(b"ab", None, b""))]
    assert read(message("C", b"SELECT 1\0")) == [wire.CommandComplete(tag="SELECT 1")]
    assert read(message("T", b"\0\0")) == [wire.OtherMessage(kind="T", body=b"\0\0")]


def test_negotiate_protocol_version():
    body = struct.pack("!II", 0x00030000, 1) + b"_pq_.x\0"
    assert read(message("v", body)) == [wire.NegotiateProtocolVersion(newest_minor=0, unknown_options=("_pq_.x",))]


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("R", b"\0\0"),
        ("S", b"name\0no end"),
        ("S", b"name"),
        ("K", b""),
        ("Z", b"X"),
        ("Z", b""),
        ("E", b"Mno end"),
        ("E", b"Mno terminator\0"),
        ("E", b""),
        ("D", b"\0\2\0\0\0\1a"),
        ("D", b"\0\1\0\0\0\5a"),
        ("D", b"\0\1\xff\xff\xff\xfe"),
        ("v", struct.pack("!II", 0, 0xFFFFFFFF)),
    ],
)
def test_a_body_that_does_not_fit_is_a_protocol_error(kind, body):
    with pytest.raises(wire.ProtocolError):
        wire.decode(kind, body)


@given(st.sampled_from("RSKZvENTDCIAGHWdc123nstV"), st.binary(max_size=300))
def test_no_body_raises_anything_else(kind, body):
    try:
        wire.decode(kind, body)
    except wire.ProtocolError:
        return


@given(st.lists(st.binary(min_size=1, max_size=100), max_size=20))
def test_no_bytes_raise_anything_else(chunks):
    reader = wire.MessageReader()
    try:
        for chunk in chunks:
            reader.feed(chunk)
            read_all(reader)
    except wire.ProtocolError:
        return


def test_damaged_real_bytes_raise_nothing_else():
    rng = random.Random(1006)
    outcomes = set()
    for _ in range(3000):
        damaged = bytearray(CAPTURED)
        for _ in range(rng.randint(1, 4)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        try:
            read(bytes(damaged))
            outcomes.add("read")
        except wire.ProtocolError:
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}


# The authentication stepper.


def request(code: int, data: bytes = b"") -> wire.AuthenticationRequest:
    return wire.AuthenticationRequest(code=code, data=data)


def test_trust_asks_nothing():
    exchange = Authentication("app", None)
    assert exchange.tell(request(0)) == b""
    assert (exchange.done, exchange.method) == (True, "trust")


@pytest.mark.parametrize("password", [None, Secret("")])
@pytest.mark.parametrize(("code", "data"), [(3, b""), (5, b"abcd"), (10, b"SCRAM-SHA-256\0\0")])
def test_an_empty_password_is_never_sent(password, code, data):
    with pytest.raises(NetworkFailure) as caught:
        Authentication("app", password).tell(request(code, data))
    assert caught.value.failure.kind is FailureKind.CREDENTIALS


@pytest.mark.parametrize(
    ("binding", "offered", "method"),
    [
        (b"x", b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0", "scram-sha-256-plus"),
        (b"x", b"SCRAM-SHA-256\0\0", "scram-sha-256"),
        (None, b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0", "scram-sha-256"),
    ],
)
def test_plus_is_chosen_where_both_sides_can(binding, offered, method):
    exchange = Authentication("app", Secret("p"), binding)
    assert exchange.tell(request(10, offered)).startswith(b"p")
    assert exchange.method == method


@pytest.mark.parametrize(("code", "method"), [(7, "gss"), (9, "sspi"), (2, "kerberos"), (99, "code 99")])
def test_what_only_libpq_speaks_is_named(code, method):
    with pytest.raises(UnsupportedAuthentication) as caught:
        Authentication("app", Secret("p")).tell(request(code))
    assert caught.value.method == method


def test_an_unknown_sasl_mechanism_is_named():
    with pytest.raises(UnsupportedAuthentication) as caught:
        Authentication("app", Secret("p")).tell(request(10, b"OAUTHBEARER\0\0"))
    assert caught.value.method == "oauthbearer"


def test_ok_before_the_servers_own_proof_is_not_believed():
    exchange = Authentication("app", Secret("p"))
    exchange.tell(request(10, b"SCRAM-SHA-256\0\0"))
    with pytest.raises(wire.ProtocolError, match="proof"):
        exchange.tell(request(0))


@pytest.mark.parametrize(("code", "data"), [(11, b""), (12, b""), (5, b"abc")])
def test_a_request_out_of_place_is_a_protocol_error(code, data):
    with pytest.raises(wire.ProtocolError):
        Authentication("app", Secret("p")).tell(request(code, data))


@given(st.integers(0, 2**32 - 1), st.binary(max_size=60))
def test_no_request_raises_anything_else(code, data):
    exchange = Authentication("app", Secret("p"), nonce="abc")
    try:
        exchange.tell(request(10, b"SCRAM-SHA-256\0\0"))
        exchange.tell(request(code, data))
    except (wire.ProtocolError, ScramError, UnsupportedAuthentication):
        return
