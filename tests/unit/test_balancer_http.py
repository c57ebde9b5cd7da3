"""The HTTP/1.1 response reader: RFC 9112's ways to end a body, and servers that mean ill."""

from __future__ import annotations

import contextlib
import http.client
import io
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probes.wire.http import HEAD_LIMIT, LINE_LIMIT, HttpError, ResponseReader, get

LIMIT = 10_000


def read(raw: bytes, *, limit: int | None = LIMIT, piece: int = 10**9, end: bool = True) -> ResponseReader:
    reader = ResponseReader(limit)
    for start in range(0, len(raw), piece):
        reader.feed(raw[start : start + piece])
    if end:
        reader.end()
    return reader


def response(*fields: str, body: bytes = b"", status: str = "HTTP/1.1 200 OK") -> bytes:
    return "\r\n".join((status, *fields, "", "")).encode("latin-1") + body


class Socket:
    def __init__(self, raw: bytes) -> None:
        self._raw = raw

    def makefile(self, mode: str) -> io.BytesIO:
        return io.BytesIO(self._raw)


def reference(raw: bytes) -> tuple[int, bytes]:
    """What Python's own reader makes of it."""
    parsed = http.client.HTTPResponse(Socket(raw))
    parsed.begin()
    return parsed.status, parsed.read()


def chunked(body: bytes, draw: random.Random) -> bytes:
    out = b""
    while body:
        size = draw.randint(1, len(body))
        out += f"{size:x}{draw.choice(['', ';name=value'])}\r\n".encode() + body[:size] + b"\r\n"
        body = body[size:]
    return out + b"0\r\n" + draw.choice([b"", b"Trailer: x\r\n"]) + b"\r\n"


@given(body=st.binary(max_size=300), kind=st.sampled_from(["length", "chunked", "close"]), seed=st.integers(0, 2**32))
def test_a_body_in_any_framing_and_any_pieces_is_what_the_reference_reads(body, kind, seed):
    draw = random.Random(seed)
    raw = {
        "length": response(f"Content-Length: {len(body)}", "Server: x", body=body),
        "chunked": response("Transfer-Encoding: chunked", body=chunked(body, draw)),
        "close": response("Connection: close", body=body),
    }[kind]
    reader = read(raw, piece=draw.randint(1, 50))
    assert (reader.head.status, reader.body) == reference(raw)
    assert reader.complete


def test_interim_responses_are_passed_over():
    reader = read(response(status="HTTP/1.1 103 Early Hints") + response("Server: late", "Content-Length: 0"))
    assert (reader.head.status, reader.head.server) == (200, "late")


def test_the_head_alone_is_read_whatever_body_it_announces():
    reader = read(response("Content-Length: 99999999999", body=b"zzz"), limit=None, end=False)
    assert reader.complete
    assert reader.body == b""


def test_remote_text_is_one_printable_line():
    reader = read(response("Server: ev\x1b[2Jil\x07" + "x" * 500, "Content-Length: 0"))
    assert reader.head.server.isprintable()
    assert len(reader.head.server) <= 200


@pytest.mark.parametrize(
    "raw",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"E\x00\x00\x00\x10",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 999 OK\r\n\r\n",
        response(status="HTTP/1.1 101 Switching Protocols"),
        response(status="HTTP/1.1 100 Continue") * 20,
        response("no colon"),
        response(" folded: x"),
        response("Content-Length: 1", "Content-Length: 2", body=b"xx"),
        response("Content-Length: 1", "Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
        response("Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n"),
        response("Content-Length: +1", body=b"x"),
        response("Content-Length: 1_0", body=b"x" * 10),
        response("Content-Length: -1"),
        response("Content-Length: 5", body=b"xxx"),
        response("Transfer-Encoding: chunked", body=b"5\r\nab"),
        response("Transfer-Encoding: chunked", body=b"0x5\r\nabcde\r\n0\r\n\r\n"),
        response("Transfer-Encoding: chunked", body=b"2\r\nabX\r\n0\r\n\r\n"),
        response("Transfer-Encoding: chunked", body=b"1" * LINE_LIMIT),
        response(f"X: {'y' * HEAD_LIMIT}"),
        response(f"Content-Length: {LIMIT + 1}"),
        response("Transfer-Encoding: chunked", body=f"{LIMIT + 1:x}\r\n".encode()),
        response("Transfer-Encoding: chunked", body=b"1000\r\n" + b"x" * 4096 + b"\r\n1900\r\n" + b"x" * 6400),
        response(body=b"x" * (LIMIT + 1)),
        b"HTTP/1.1 200 OK\r\n",
        b"",
    ],
)
def test_what_is_no_response_or_too_much_is_an_error(raw):
    with pytest.raises(HttpError):
        read(raw)


@given(raw=st.binary(max_size=400) | st.binary(max_size=200).map(lambda tail: b"HTTP/1.1 200 OK\r\n" + tail))
def test_any_bytes_end_in_a_response_or_in_the_one_error(raw):
    reader = None
    with contextlib.suppress(HttpError):
        reader = read(raw, piece=7)
    assert reader is None or (reader.complete and len(reader.body) <= len(raw))


def test_a_head_that_never_ends_is_given_up_at_its_limit():
    reader, line = ResponseReader(LIMIT), b"X: yyyy\r\n"
    reader.feed(b"HTTP/1.1 200 OK\r\n")
    for _ in range(HEAD_LIMIT // len(line) - 2):
        reader.feed(line)
    with pytest.raises(HttpError, match="a head of more"):
        reader.feed(line * 3)


def test_a_request_is_what_a_server_expects():
    assert get("/health?x=1", "[2001:db8::1]:13000") == (
        b"GET /health?x=1 HTTP/1.1\r\nHost: [2001:db8::1]:13000\r\nUser-Agent: netdiag\r\nAccept: */*\r\n"
        b"Connection: close\r\n\r\n"
    )


@pytest.mark.parametrize(("target", "host"), [("/a b", "h"), ("/\r\nX: y", "h"), ("/", "h\r\nX: y"), ("/", "h x")])
def test_a_request_cannot_be_broken_out_of(target, host):
    with pytest.raises(ValueError, match="cannot be asked"):
        get(target, host)
