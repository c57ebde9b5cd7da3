"""TLS over our own socket (ssl.MemoryBIO), verified as libpq does it.

The chain is OpenSSL's business; the name is compared here, with libpq's rules (fe-secure-common.c,
fe-secure-openssl.c), because Python's differ: libpq falls back to the common name where the certificate has no
subjectAltName of the kind in question (a dNSName for a name, an iPAddress for an address).
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeVar

from probes.exchanges import Certificate, TlsRequest, TlsSession
from probes.failures import clean_text
from probes.model import Failure, FailureKind, NetworkFailure
from probes.net.certificate import certificate_facts, end_point_digest, name_mismatch
from probes.net.raw import RawStream

T = TypeVar("T")

_RECORD_SIZE = 65536
_OPERATION = "tls"


class TlsLayer:
    """One TLS session on a raw stream. Every method but channel_binding() raises NetworkFailure."""

    def __init__(self, raw: RawStream, request: TlsRequest) -> None:
        self._raw = raw
        self._request = request
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._session = _wrap(self._incoming, self._outgoing, request)

    async def handshake(self, deadline: float) -> TlsSession:
        await self._drive(self._session.do_handshake, deadline, _OPERATION)
        certificate = self._session.getpeercert(binary_form=True)
        if self._request.verify == "full":
            _demand_name(certificate, self._request.server_name)
        return TlsSession(
            version=self._session.version() or "",
            cipher=(self._session.cipher() or ("",))[0],
            certificate=_facts(certificate),
        )

    async def send(self, data: bytes, deadline: float) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[await self._drive(partial(self._session.write, rest), deadline, "send") :]

    async def receive(self, limit: int, deadline: float) -> bytes:
        """``b""`` also where the peer ended TCP without TLS' close_notify, as PostgreSQL does."""
        try:
            return await self._drive(partial(self._session.read, limit), deadline, "receive")
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            return b""

    def channel_binding(self) -> bytes | None:
        """tls-server-end-point, RFC 5929 section 4.1."""
        certificate = self._session.getpeercert(binary_form=True)
        return end_point_digest(certificate) if certificate else None

    async def say_goodbye(self, deadline: float) -> None:
        """Send close_notify; whether the peer answers is of no interest."""
        with contextlib.suppress(ssl.SSLError, ValueError):  # SSLWantRead: sent; else there is no session to end
            self._session.unwrap()
        with contextlib.suppress(NetworkFailure):
            await self._flush(deadline, "close")

    async def _drive(self, step: Callable[[], T], deadline: float, operation: str) -> T:
        """Repeat ``step`` while it asks for bytes, and carry the bytes both ways."""
        while True:
            try:
                result = step()
            except ssl.SSLWantReadError:
                await self._flush(deadline, operation)
                await self._feed(deadline, operation)
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError) as error:
                if operation == "receive":
                    raise
                raise NetworkFailure(Failure(kind=FailureKind.CLOSED, operation=operation)) from error
            except ssl.SSLError as error:
                await self._send_alert(deadline)
                raise NetworkFailure(_failure(error, operation)) from error
            else:
                await self._flush(deadline, operation)
                return result

    async def _feed(self, deadline: float, operation: str) -> None:
        data = await self._raw.receive(_RECORD_SIZE, deadline, operation)
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    async def _flush(self, deadline: float, operation: str) -> None:
        if self._outgoing.pending:
            await self._raw.send(self._outgoing.read(), deadline, operation)

    async def _send_alert(self, deadline: float) -> None:
        """Tell the server why we leave; it does not matter to the verdict whether it hears it."""
        with contextlib.suppress(NetworkFailure):
            await self._flush(deadline, _OPERATION)


def _wrap(incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, request: TlsRequest) -> ssl.SSLObject:
    try:
        context = _context(request)
        return context.wrap_bio(incoming, outgoing, server_hostname=request.server_name or None)
    except (OSError, ValueError) as error:  # a file that is no certificate; a name that cannot be sent as SNI
        detail = clean_text(str(error))
        raise NetworkFailure(Failure(kind=FailureKind.LOCAL, operation=_OPERATION, detail=detail)) from error


def _context(request: TlsRequest) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # see the top: libpq's rules, after the handshake
    if request.verify == "none":
        context.verify_mode = ssl.CERT_NONE
    elif request.root_certificate is None:
        context.load_default_certs()
    else:
        with _names_file("root certificate file", request.root_certificate):
            context.load_verify_locations(request.root_certificate)
    if request.client_certificate is not None:
        with _names_file("client certificate or key", request.client_certificate):
            context.load_cert_chain(request.client_certificate, request.client_key, password=_no_password)
    if request.alpn:
        context.set_alpn_protocols(list(request.alpn))
    return context


@contextlib.contextmanager
def _names_file(what: str, path: str) -> Iterator[None]:
    """libpq refuses to connect then, and names the file; OpenSSL's and the kernel's words do not."""
    try:
        yield
    except OSError as error:
        reason = error.reason if isinstance(error, ssl.SSLError) else error.strerror
        detail = clean_text(f'{what} "{path}" cannot be used: {reason or error}')
        raise NetworkFailure(Failure(kind=FailureKind.TLS, operation=_OPERATION, detail=detail)) from error


def _no_password() -> str:
    """OpenSSL would otherwise ask on the terminal for an encrypted key's password."""
    return ""


def _demand_name(certificate: bytes | None, server_name: str) -> None:
    problem = name_mismatch(certificate, server_name) if certificate else "the server sent no certificate"
    if problem is not None:
        raise NetworkFailure(Failure(kind=FailureKind.TLS, operation=_OPERATION, detail=clean_text(problem)))


def _facts(certificate: bytes | None) -> Certificate | None:
    return certificate_facts(certificate) if certificate else None


def _failure(error: ssl.SSLError, operation: str) -> Failure:
    """OpenSSL's reason: "self-signed certificate", "WRONG_VERSION_NUMBER", "TLSV1_ALERT_..."."""
    if isinstance(error, ssl.SSLCertVerificationError):
        detail = f"certificate verify failed: {error.verify_message}"
    else:
        detail = error.reason or str(error)
    return Failure(kind=FailureKind.TLS, operation=operation, detail=clean_text(detail))
