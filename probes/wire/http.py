"""As much of HTTP/1.1 as a health check needs: one GET, and a reader of one response. No sockets.

RFC 9110 and 9112. The server is not trusted: line ends may be bare LF (9112 2.2), everything else is bounded, and a
response that says its length in two ways is an error (9112 6.3), not a guess.
"""

from __future__ import annotations

import re

from probes.failures import clean_text
from probes.model import value

HEAD_LIMIT = 16 * 1024  # of one status line with its fields, bytes; nginx, HAProxy and Envoy send less by default
INTERIM_LIMIT = 8  # 1xx responses before the final one
LINE_LIMIT = 1024  # of a chunk's size with its extensions, or of one trailer field, bytes

_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})(?: .*)?", re.DOTALL)
_FIELD_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_TARGET = re.compile(r"[!-~]+")
_HOST = re.compile(r"[0-9A-Za-z.:_%\[\]~-]+")
_BODILESS = frozenset({204, 304})


class HttpError(Exception):
    """What came is not a response of HTTP/1.x, or more than is read of one."""


@value
class Head:
    """Status line and fields. Names are lower case; of a repeated field the first counts."""

    status: int
    fields: dict[str, str]  # remote text, printable

    @property
    def server(self) -> str | None:
        return self.fields.get("server")


def get(target: str, host: str) -> bytes:
    """A GET that asks for the connection to be closed. Raises ValueError where either would break out of its line."""
    if not _TARGET.fullmatch(target) or not _HOST.fullmatch(host):
        raise ValueError(f"cannot be asked for over HTTP: {clean_text(target)!r} at {clean_text(host)!r}")
    fields = (f"Host: {host}", "User-Agent: netdiag", "Accept: */*", "Connection: close")
    return "\r\n".join((f"GET {target} HTTP/1.1", *fields, "", "")).encode("ascii")


class ResponseReader:
    """feed() what arrives, end() when the peer closed; both raise HttpError.

    ``head`` is set as soon as it is whole; ``complete`` when the body is. A body over ``body_limit`` bytes is an error;
    None reads the head alone, whatever body it announces.
    """

    def __init__(self, body_limit: int | None) -> None:
        self.head: Head | None = None
        self.complete = False
        self._limit = body_limit or 0
        self._head_only = body_limit is None
        self._pending = bytearray()
        self._body = bytearray()
        self._interims = 0
        self._left: int | None = None  # of the body or the chunk; None: until the peer closes
        self._chunked = self._in_trailer = False

    @property
    def body(self) -> bytes:
        return bytes(self._body)

    def feed(self, data: bytes) -> None:
        if self.complete:
            return
        self._pending += data
        if self.head is None:
            self._read_heads()
        if self.head is not None and not self.complete:
            self._read_body()

    def end(self) -> None:
        """The peer closed: the end of a body without a length, and of no other."""
        if self.head is None:
            raise HttpError("closed before a whole response came")
        if not self.complete and (self._chunked or self._left is not None):
            raise HttpError("closed in the middle of the body")
        self.complete = True

    # The head

    def _read_heads(self) -> None:
        while self.head is None:
            raw = self._cut_head()
            if raw is None:
                return
            head = parse_head(raw)
            if head.status >= 200:
                self.head = head
                self._frame(head)
                return
            self._interims += 1
            if head.status == 101 or self._interims > INTERIM_LIMIT:
                raise HttpError(f"an interim response {head.status} that nobody asked for")

    def _cut_head(self) -> bytes | None:
        """The first head, taken off what is pending; None where it is not whole yet."""
        if not b"HTTP/1.".startswith(self._pending[:7]):
            raise HttpError(f"not HTTP: {clean_text(bytes(self._pending[:64]))}")
        found = re.search(rb"\r?\n\r?\n", self._pending[:HEAD_LIMIT])
        if found is None:
            if len(self._pending) >= HEAD_LIMIT:
                raise HttpError(f"a head of more than {HEAD_LIMIT} bytes")
            return None
        raw = bytes(self._pending[: found.start()])
        del self._pending[: found.end()]
        return raw

    def _frame(self, head: Head) -> None:
        """Where the body ends (RFC 9112 6.3)."""
        coding, length = head.fields.get("transfer-encoding"), head.fields.get("content-length")
        if self._head_only or head.status in _BODILESS:
            self.complete = True
        elif coding is not None:
            if length is not None or coding.strip().lower() != "chunked":
                raise HttpError("a body whose length is said in two ways, or in a coding that is not read")
            self._chunked, self._left = True, 0
        elif length is not None:
            self._left = _number(length, 10, self._limit)

    # The body

    def _read_body(self) -> None:
        if self._chunked:
            self._read_chunks()
        else:
            self._take_body()
            self.complete = self._left == 0

    def _take_body(self) -> None:
        count = len(self._pending) if self._left is None else min(self._left, len(self._pending))
        if len(self._body) + count > self._limit:
            raise HttpError(f"a body of more than {self._limit} bytes")
        self._body += self._pending[:count]
        del self._pending[:count]
        if self._left is not None:
            self._left -= count

    def _read_chunks(self) -> None:
        """RFC 9112 7.1; extensions and trailers are skipped."""
        while not self.complete:
            if self._left:
                self._take_body()
                if self._left:
                    return
                self._left = None  # the CRLF after the chunk's data is due
            line = self._cut_line()
            if line is None:
                return
            self._chunk_line(line)

    def _chunk_line(self, line: bytes) -> None:
        if self._in_trailer:
            self.complete = not line
        elif self._left is None:
            if line:
                raise HttpError("a chunk that is longer than it says")
            self._left = 0
        else:
            self._left = _number(line.partition(b";")[0].decode("latin-1"), 16, self._limit)
            self._in_trailer = self._left == 0

    def _cut_line(self) -> bytes | None:
        end = self._pending.find(b"\n", 0, LINE_LIMIT)
        if end < 0:
            if len(self._pending) >= LINE_LIMIT:
                raise HttpError("a chunk's line without an end")
            return None
        line = bytes(self._pending[:end]).removesuffix(b"\r")
        del self._pending[: end + 1]
        return line


def parse_head(raw: bytes) -> Head:
    """A head without its empty line. Raises HttpError."""
    first, *lines = re.split(rb"\r?\n", raw)
    status = _STATUS_LINE.fullmatch(first)
    if status is None:
        raise HttpError(f"not an HTTP status line: {clean_text(first)}")
    fields: dict[str, str] = {}
    for line in lines:
        name, colon, text = line.partition(b":")
        if not colon or not _FIELD_NAME.fullmatch(name):
            raise HttpError(f"not an HTTP field: {clean_text(line)}")
        key, said = name.decode("ascii").lower(), clean_text(text.strip())
        if key == "content-length" and fields.setdefault(key, said) != said:
            raise HttpError("two different Content-Lengths")
        fields.setdefault(key, said)
    return Head(status=int(status[1]), fields=fields)


def _number(text: str, base: int, limit: int) -> int:
    """Digits alone, in ``base`` 10 or 16, and no more than ``limit``: int() would also take signs and underscores."""
    stripped = text.strip(" \t")
    if not re.fullmatch(r"[0-9]{1,15}" if base == 10 else r"[0-9a-fA-F]{1,15}", stripped):
        raise HttpError(f"not a length: {clean_text(text)}")
    found = int(stripped, base)
    if found > limit:
        raise HttpError(f"a body of more than {limit} bytes")
    return found
