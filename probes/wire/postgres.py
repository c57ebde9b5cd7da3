"""The PostgreSQL frontend/backend protocol 3.0, as far as a session that asks one question needs it. No I/O.

Source: PostgreSQL documentation, "Message Formats". A server's answer is not trusted: lengths are capped as libpq
caps them (fe-protocol3.c, fe-connect.c), and whatever the protocol does not allow raises ProtocolError.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from hashlib import md5

from probes.model import value

PROTOCOL_3_0 = 196608
SSL_REQUEST = struct.pack("!II", 8, 80877103)
SYNC = b"S\x00\x00\x00\x04"
TERMINATE = b"X\x00\x00\x00\x04"

SHORT_MESSAGE_LIMIT = 30_000  # libpq's MAX_ERRLEN and its bound for every message that has no reason to be long
LONG_MESSAGE_LIMIT = 4 << 20  # rows
OLD_ERROR_LIMIT = 2_000  # characters of an error that a pre-7.4 server sends without length or fields

_BACKEND_TYPES = frozenset(b"RSKZvENTDCIAGHWdc123nstV")
_LONG_TYPES = frozenset(b"TDd")
_HEADER = 5  # type byte and int32 length, which counts itself and not the type


class ProtocolError(ValueError):
    """Bytes that the protocol does not allow. The message names what was wrong and quotes no more than one byte."""


@value
class AuthenticationRequest:
    """``code``: 0 ok, 3 cleartext, 5 md5, 7 GSSAPI, 9 SSPI, 10/11/12 SASL; ``data`` is what follows it."""

    code: int
    data: bytes = b""


@value
class ParameterStatus:
    name: str
    setting: str


@value
class BackendKeyData:
    pid: int


@value
class ReadyForQuery:
    status: str  # "I" idle, "T" in a transaction, "E" in a failed one


@value
class NegotiateProtocolVersion:
    newest_minor: int
    unknown_options: tuple[str, ...]


@value
class ErrorResponse:
    """``severity`` is never localised (field V) where the server is 9.6 or newer; text is as the server sent it."""

    severity: str | None
    sqlstate: str | None
    message: str
    detail: str | None = None
    hint: str | None = None


@value
class NoticeResponse:
    severity: str | None
    sqlstate: str | None
    message: str


@value
class DataRow:
    columns: tuple[bytes | None, ...]


@value
class CommandComplete:
    tag: str


@value
class OtherMessage:
    """A message that the protocol knows and a probe has no use for."""

    kind: str
    body: bytes


Message = (
    AuthenticationRequest
    | ParameterStatus
    | BackendKeyData
    | ReadyForQuery
    | NegotiateProtocolVersion
    | ErrorResponse
    | NoticeResponse
    | DataRow
    | CommandComplete
    | OtherMessage
)


# What the client says.


def startup_message(parameters: Mapping[str, str]) -> bytes:
    """StartupMessage 3.0. ``parameters`` must hold "user". Raises ValueError for a NUL in any text."""
    body = b"".join(_cstring(name) + _cstring(setting) for name, setting in parameters.items())
    return struct.pack("!II", 9 + len(body), PROTOCOL_3_0) + body + b"\0"


def password_message(password: str) -> bytes:
    return _message(b"p", _cstring(password))


def md5_password_message(user: str, password: str, salt: bytes) -> bytes:
    """The answer to AuthenticationMD5Password; ``salt`` is its four bytes."""
    inner = md5(password.encode() + user.encode(), usedforsecurity=False).hexdigest()
    return password_message("md5" + md5(inner.encode() + salt, usedforsecurity=False).hexdigest())


def sasl_initial_response(mechanism: str, data: bytes) -> bytes:
    return _message(b"p", _cstring(mechanism) + struct.pack("!I", len(data)) + data)


def sasl_response(data: bytes) -> bytes:
    return _message(b"p", data)


def query_message(sql: str) -> bytes:
    """A simple Query. Raises ValueError for a NUL in ``sql``."""
    return _message(b"Q", _cstring(sql))


def _message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!I", len(body) + 4) + body


def _cstring(text: str) -> bytes:
    if "\0" in text:
        raise ValueError("a NUL cannot be sent inside a PostgreSQL string")
    return text.encode() + b"\0"


# What the server says.


class MessageReader:
    """Bytes in, messages out. Never holds more than one message's cap plus what was fed last."""

    def __init__(self, long_limit: int = LONG_MESSAGE_LIMIT) -> None:
        self._buffer = bytearray()
        self._long_limit = long_limit

    def feed(self, data: bytes) -> None:
        self._buffer += data

    def pending(self) -> int:
        """Bytes fed and not yet read as messages."""
        return len(self._buffer)

    def head(self, count: int) -> bytes:
        """The first bytes that are not read yet: after a ProtocolError, what was wrong."""
        return bytes(self._buffer[:count])

    def next(self) -> Message | None:
        """The next message, or None until more bytes come. Raises ProtocolError; the reader is then of no more use."""
        if not self._buffer:
            return None
        if self._buffer[0] not in _BACKEND_TYPES:
            raise ProtocolError(f"no message of the protocol starts with byte 0x{self._buffer[0]:02x}")
        if len(self._buffer) < _HEADER:
            return None
        return self._old_error() if self._is_old_error() else self._framed()

    def _framed(self) -> Message | None:
        kind, length = struct.unpack_from("!BI", self._buffer)
        limit = self._long_limit if kind in _LONG_TYPES else SHORT_MESSAGE_LIMIT
        if not 4 <= length <= limit:
            raise ProtocolError(f"a message of type {chr(kind)} claims {length} bytes")
        if len(self._buffer) < 1 + length:
            return None
        body = bytes(self._buffer[_HEADER : 1 + length])
        del self._buffer[: 1 + length]
        return decode(chr(kind), body)

    def _is_old_error(self) -> bool:
        """Before 7.4, and still in answer to protocol 2: "E", text, NUL. Read as a length, text is 538 MB or more."""
        return self._buffer[0] == ord("E") and all(0x20 <= byte < 0x7F for byte in self._buffer[1:_HEADER])

    def _old_error(self) -> Message | None:
        end = self._buffer.find(b"\0", 0, OLD_ERROR_LIMIT)
        if end < 0:
            if len(self._buffer) >= OLD_ERROR_LIMIT:
                raise ProtocolError("an error text without fields has no end")
            return None
        text = _text(bytes(self._buffer[1:end])).strip()
        del self._buffer[: end + 1]
        severity, colon, rest = text.partition(":")
        return ErrorResponse(
            severity=severity if colon else None, sqlstate=None, message=rest.strip() if colon else text
        )


def decode(kind: str, body: bytes) -> Message:
    """One message from its type letter and body. Raises ProtocolError where the body does not fit the type."""
    decoder = _DECODERS.get(kind)
    if decoder is None:
        return OtherMessage(kind=kind, body=body)
    try:
        return decoder(body)
    except (struct.error, IndexError) as error:
        raise ProtocolError(f"a message of type {kind} is cut short") from error


def _authentication(body: bytes) -> Message:
    (code,) = struct.unpack_from("!I", body)
    return AuthenticationRequest(code=code, data=body[4:])


def _parameter_status(body: bytes) -> Message:
    name, rest = _take_cstring(body)
    setting, _ = _take_cstring(rest)
    return ParameterStatus(name=name, setting=setting)


def _key_data(body: bytes) -> Message:
    (pid,) = struct.unpack_from("!I", body)
    return BackendKeyData(pid=pid)


def _ready(body: bytes) -> Message:
    if body not in (b"I", b"T", b"E"):
        raise ProtocolError("ReadyForQuery with an unknown transaction status")
    return ReadyForQuery(status=body.decode("ascii"))


def _negotiate(body: bytes) -> Message:
    newest, count = struct.unpack_from("!II", body)
    rest, options = body[8:], []
    if count > len(rest):
        raise ProtocolError("NegotiateProtocolVersion names more options than it holds")
    for _ in range(count):
        option, rest = _take_cstring(rest)
        options.append(option)
    return NegotiateProtocolVersion(newest_minor=newest & 0xFFFF, unknown_options=tuple(options))


def _fields(body: bytes) -> dict[str, str]:
    fields: dict[str, str] = {}
    while body[0]:
        code = chr(body[0])
        fields[code], body = _take_cstring(body[1:])
    return fields


def _error(body: bytes) -> Message:
    fields = _fields(body)
    return ErrorResponse(
        severity=fields.get("V", fields.get("S")),
        sqlstate=fields.get("C"),
        message=fields.get("M", ""),
        detail=fields.get("D"),
        hint=fields.get("H"),
    )


def _notice(body: bytes) -> Message:
    fields = _fields(body)
    return NoticeResponse(
        severity=fields.get("V", fields.get("S")), sqlstate=fields.get("C"), message=fields.get("M", "")
    )


def _data_row(body: bytes) -> Message:
    (count,) = struct.unpack_from("!H", body)
    at, columns = 2, []
    for _ in range(count):
        (length,) = struct.unpack_from("!i", body, at)
        at += 4
        if length > len(body) - at or length < -1:
            raise ProtocolError("a column is longer than its row")
        columns.append(None if length == -1 else body[at : at + length])
        at += max(0, length)
    return DataRow(columns=tuple(columns))


def _command_complete(body: bytes) -> Message:
    return CommandComplete(tag=_take_cstring(body)[0])


def _take_cstring(body: bytes) -> tuple[str, bytes]:
    text, end, rest = body.partition(b"\0")
    if not end:
        raise ProtocolError("a string has no end")
    return _text(text), rest


def _text(raw: bytes) -> str:
    # Before the session's encoding is settled, a server sends its own; better a replacement character than no error.
    return raw.decode("utf-8", errors="replace")


_DECODERS: dict[str, Callable[[bytes], Message]] = {
    "R": _authentication,
    "S": _parameter_status,
    "K": _key_data,
    "Z": _ready,
    "v": _negotiate,
    "E": _error,
    "N": _notice,
    "D": _data_row,
    "C": _command_complete,
}
