"""SCRAM-SHA-256 and SCRAM-SHA-256-PLUS (RFC 5802, RFC 7677), the client's side, as PostgreSQL speaks it. No I/O.

The only channel binding is tls-server-end-point (RFC 5929), the only one that PostgreSQL has.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import secrets
import stringprep
import unicodedata
from hashlib import pbkdf2_hmac, sha256

MECHANISM = "SCRAM-SHA-256"
MECHANISM_PLUS = "SCRAM-SHA-256-PLUS"
MAX_ITERATIONS = 1_000_000  # a hostile server may not occupy this host; PostgreSQL's default is 4096


class ScramError(ValueError):
    """The server's side of the exchange is malformed or does not prove that it knows the password's verifier."""


class ScramClient:
    """first() -> bytes; final(server_first) -> bytes; verify(server_final). In this order, once."""

    def __init__(
        self,
        password: str,
        *,
        binding: bytes | None = None,
        plus: bool = False,
        username: str = "",
        nonce: str | None = None,
    ) -> None:
        """``binding``: the session's tls-server-end-point. ``username`` stays empty: PostgreSQL takes the startup's."""
        self._password = saslprep(password).encode()
        self._gs2 = _gs2_header(binding, plus)
        self._binding = binding if plus and binding is not None else b""
        self._nonce = nonce or base64.b64encode(secrets.token_bytes(18)).decode("ascii")
        self._first_bare = f"n={_escape(username)},r={self._nonce}"
        self._server_signature: bytes | None = None

    def first(self) -> bytes:
        return (self._gs2 + self._first_bare).encode()

    def final(self, server_first: bytes) -> bytes:
        """client-final-message. Raises ScramError when the server's nonce, salt or iteration count is unfit."""
        nonce, salt, iterations = self._challenge(server_first)
        salted = pbkdf2_hmac("sha256", self._password, salt, iterations)
        binding = base64.b64encode(self._gs2.encode() + self._binding).decode("ascii")
        without_proof = f"c={binding},r={nonce}"
        signed = b",".join((self._first_bare.encode(), server_first, without_proof.encode()))
        self._server_signature = _hmac(_hmac(salted, b"Server Key"), signed)
        proof = base64.b64encode(_proof(salted, signed)).decode("ascii")
        return f"{without_proof},p={proof}".encode()

    def verify(self, server_final: bytes) -> None:
        """Raises ScramError unless the server proves that it knows the verifier."""
        attributes = _attributes(server_final)
        if "e" in attributes:
            raise ScramError("the server ended the SCRAM exchange with an error")
        signature = _base64(attributes.get("v", ""))
        if self._server_signature is None or not hmac.compare_digest(signature, self._server_signature):
            raise ScramError("the server's SCRAM signature is wrong: it does not know the password's verifier")

    def _challenge(self, server_first: bytes) -> tuple[str, bytes, int]:
        attributes = _attributes(server_first)
        nonce, salt = attributes.get("r", ""), _base64(attributes.get("s", ""))
        if not nonce.startswith(self._nonce) or len(nonce) == len(self._nonce):
            raise ScramError("the server's SCRAM nonce does not continue the client's")
        count = attributes.get("i", "")
        if not (count.isascii() and count.isdigit() and len(count) < 10 and 1 <= int(count) <= MAX_ITERATIONS):
            raise ScramError(f"the SCRAM iteration count is not a number from 1 to {MAX_ITERATIONS}")
        if not salt:
            raise ScramError("the SCRAM salt is empty")
        return nonce, salt, int(count)


def saslprep(text: str) -> str:
    """RFC 4013, with PostgreSQL's way out (saslprep.c): ASCII stays as it is, and so does what the RFC prohibits."""
    if text.isascii():
        return text
    mapped = "".join(_mapped(char) for char in text)
    prepared = unicodedata.normalize("NFKC", mapped)
    return prepared if prepared and not _prohibited(prepared) and _bidi_fits(prepared) else text


def _mapped(char: str) -> str:
    if stringprep.in_table_c12(char):
        return " "
    return "" if stringprep.in_table_b1(char) else char


_PROHIBITED = (
    stringprep.in_table_c12,
    stringprep.in_table_c21_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
    stringprep.in_table_a1,
)


def _prohibited(text: str) -> bool:
    return any(table(char) for char in text for table in _PROHIBITED)


def _bidi_fits(text: str) -> bool:
    """RFC 3454, 6: right-to-left text has no left-to-right letters and starts and ends right-to-left."""
    if not any(stringprep.in_table_d1(char) for char in text):
        return True
    edges = stringprep.in_table_d1(text[0]) and stringprep.in_table_d1(text[-1])
    return edges and not any(stringprep.in_table_d2(char) for char in text)


def _gs2_header(binding: bytes | None, plus: bool) -> str:
    if plus:
        return "p=tls-server-end-point,,"
    # "y": this client could bind and the server did not offer to; lets the server notice that its offer was removed.
    return "n,," if binding is None else "y,,"


def _proof(salted: bytes, signed: bytes) -> bytes:
    client_key = _hmac(salted, b"Client Key")
    signature = _hmac(sha256(client_key).digest(), signed)
    return bytes(left ^ right for left, right in zip(client_key, signature, strict=True))


def _hmac(key: bytes, message: bytes) -> bytes:
    return hmac.digest(key, message, "sha256")


def _escape(name: str) -> str:
    return name.replace("=", "=3D").replace(",", "=2C")


def _attributes(message: bytes) -> dict[str, str]:
    try:
        text = message.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ScramError("a SCRAM message is not UTF-8") from error
    pairs = (part.partition("=") for part in text.split(","))
    return {name: setting for name, _, setting in pairs}


def _base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ScramError("a SCRAM attribute is not base64") from error
