"""How a client proves itself to PostgreSQL: a stepper over the server's authentication requests. No I/O."""

from __future__ import annotations

from collections.abc import Callable

from probes.model import Failure, FailureKind, NetworkFailure, Secret
from probes.wire import scram
from probes.wire.postgres import (
    AuthenticationRequest,
    ProtocolError,
    md5_password_message,
    password_message,
    sasl_initial_response,
    sasl_response,
)

OK, CLEARTEXT, MD5, SASL, SASL_CONTINUE, SASL_FINAL = 0, 3, 5, 10, 11, 12
_UNSPOKEN = {2: "kerberos", 6: "scm", 7: "gss", 8: "gss", 9: "sspi"}


class UnsupportedAuthentication(Exception):
    """The server asks in a way that only libpq answers; ``method`` names it ("gss", "sspi", ...)."""

    def __init__(self, method: str) -> None:
        super().__init__(method)
        self.method = method


class Authentication:
    """tell(request) -> bytes to send (empty: nothing), until ``done``.

    ``method`` is what the server asked for: "trust" as long as it asked nothing, "cleartext", "md5",
    "scram-sha-256", "scram-sha-256-plus", or another's name.
    """

    def __init__(
        self,
        user: str,
        password: Secret | None,
        channel_binding: bytes | None = None,
        nonce: str | None = None,
        *,
        bound: bool = False,
        guarded: bool = False,
    ) -> None:
        """``bound``: accept nothing but a bound channel (channel_binding=require). ``guarded``: do not send the
        password, or its MD5, where anybody may read it."""
        self.method = "trust"
        self.done = False
        self._user, self._password, self._binding, self._nonce = user, password, channel_binding, nonce
        self._bound, self._guarded = bound, guarded
        self._scram: scram.ScramClient | None = None
        self._server_proved = False

    def tell(self, request: AuthenticationRequest) -> bytes:
        """Raises NetworkFailure (CREDENTIALS: no password where one is asked), UnsupportedAuthentication,
        ProtocolError and ScramError."""
        steps: dict[int, Callable[[bytes], bytes]] = {
            OK: self._ok,
            CLEARTEXT: self._cleartext,
            MD5: self._md5,
            SASL: self._sasl,
            SASL_CONTINUE: self._sasl_continue,
            SASL_FINAL: self._sasl_final,
        }
        step = steps.get(request.code)
        if self.done or step is None:
            self._refuse(request.code)
        assert step is not None
        return step(request.data)

    def _refuse(self, code: int) -> None:
        if self.done:
            raise ProtocolError("an authentication request after AuthenticationOk")
        self.method = _UNSPOKEN.get(code, f"code {code}")
        raise UnsupportedAuthentication(self.method)

    def _ok(self, data: bytes) -> bytes:
        if self._bound and self.method != scram.MECHANISM_PLUS.lower():
            self._unbound()
        if self._scram is not None and not self._server_proved:
            raise ProtocolError("AuthenticationOk before the server's own SCRAM proof")
        self.done = True
        return b""

    def _cleartext(self, data: bytes) -> bytes:
        self.method = "cleartext"
        self._in_the_open()
        return password_message(self._reveal())

    def _md5(self, data: bytes) -> bytes:
        self.method = "md5"
        self._in_the_open()
        if len(data) != 4:
            raise ProtocolError("an md5 salt that is not four bytes")
        return md5_password_message(self._user, self._reveal(), data)

    def _sasl(self, data: bytes) -> bytes:
        offered = [name.decode("ascii", "replace") for name in data.split(b"\0") if name]
        plus = self._binding is not None and scram.MECHANISM_PLUS in offered
        if not plus and scram.MECHANISM not in offered:
            self.method = ", ".join(offered)[:64].lower() or "sasl"
            raise UnsupportedAuthentication(self.method)
        mechanism = scram.MECHANISM_PLUS if plus else scram.MECHANISM
        self.method = mechanism.lower()
        if self._bound and not plus:
            self._unbound()
        self._scram = scram.ScramClient(self._reveal(), binding=self._binding, plus=plus, nonce=self._nonce)
        return sasl_initial_response(mechanism, self._scram.first())

    def _sasl_continue(self, data: bytes) -> bytes:
        return sasl_response(self._exchange().final(data))

    def _sasl_final(self, data: bytes) -> bytes:
        self._exchange().verify(data)
        self._server_proved = True
        return b""

    def _exchange(self) -> scram.ScramClient:
        if self._scram is None:
            raise ProtocolError("a SASL message outside of a SASL exchange")
        return self._scram

    def _unbound(self) -> None:
        """As libpq has it: "channel binding required but not supported by server's authentication request"."""
        detail = f"channel_binding=require, and the server's authentication ({self.method}) does not bind the channel"
        raise NetworkFailure(Failure(kind=FailureKind.TLS, operation="startup", detail=detail))

    def _in_the_open(self) -> None:
        if self._bound:
            self._unbound()
        if self._guarded:
            detail = f"the server asks for the password ({self.method}) without TLS, and netdiag does not send it there"
            raise NetworkFailure(Failure(kind=FailureKind.CREDENTIALS, operation="startup", detail=detail))

    def _reveal(self) -> str:
        """Never an empty password: the server would log a failure that nobody caused."""
        password = self._password.reveal() if self._password is not None else ""
        if not password:
            raise NetworkFailure(
                Failure(
                    kind=FailureKind.CREDENTIALS,
                    operation="startup",
                    detail=f"the server asks for a password ({self.method}) and none was given",
                )
            )
        return password
