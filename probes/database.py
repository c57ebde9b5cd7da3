"""The database connection as a waterfall: TCP, SSLRequest, TLS, startup/authentication, ready, two queries."""

from __future__ import annotations

from enum import StrEnum

from probes.exchanges import Handshake, TcpInfo, TlsSession
from probes.model import Failure, Outcome, Secret, value


class Phase(StrEnum):
    """In the order in which a connection passes through them."""

    TCP = "tcp"
    SSL_REQUEST = "ssl-request"
    TLS = "tls"
    STARTUP = "startup"  # StartupMessage -> AuthenticationOk: includes password exchange and the server's look-ups
    READY = "ready"  # AuthenticationOk -> ReadyForQuery: on YugabyteDB the catalogue reads
    FIRST_QUERY = "first-query"
    SECOND_QUERY = "second-query"


@value
class DatabaseOptions:
    """``user`` None: no credentials; the waterfall stops after SSLRequest/TLS, and says so."""

    user: str | None = None
    password: Secret | None = None
    dbname: str | None = None  # None: the user's name, as libpq
    sslmode: str = "prefer"  # libpq's: disable | allow | prefer | require | verify-ca | verify-full
    ssl_root_certificate: str | None = None
    ssl_certificate: str | None = None
    ssl_key: str | None = None
    ssl_negotiation: str = "postgres"  # or "direct" (libpq 17)
    attempts: int = 3
    interval_s: float = 0.2  # between connections to one address: 5 a second at most
    timeout_s: float = 5.0  # per attempt, all phases together
    query: str = "SELECT 1"
    hold_s: float = 0.0  # keep the last session this long and exchange Sync messages on it
    hold_interval_s: float = 0.1


@value
class PhaseTiming:
    phase: Phase
    seconds: float
    outcome: Outcome  # ANSWERED, or how the phase ended the attempt


@value
class Waterfall:
    """One connection attempt. Exactly one outcome; ``failed_phase`` is None where all phases that were due passed."""

    attempt: int
    started_s: float  # offset from the first attempt
    outcome: Outcome
    phases: tuple[PhaseTiming, ...]
    failed_phase: Phase | None
    failure: Failure | None
    handshake: Handshake
    ssl_answer: str | None = None  # "S", "N", "E", or another first byte as text ("H")
    first_bytes: str | None = None  # printable form of an unexpected answer, at most 64 characters
    http_status: str | None = None  # status line where an HTTP server answered
    http_server: str | None = None  # its Server header
    tls: TlsSession | None = None
    tls_inspected: TlsSession | None = None  # seen on a second, unverified connection after verification failed
    authentication: str | None = None  # "trust", "cleartext", "md5", "scram-sha-256", "scram-sha-256-plus", other
    server_version: str | None = None
    in_hot_standby: bool | None = None
    authenticated_as_superuser: bool | None = None
    backend_pid: int | None = None
    notices: tuple[str, ...] = ()
    info: TcpInfo | None = None  # at the end of the attempt


@value
class HeldExchange:
    at_s: float  # offset from the start of holding
    seconds: float | None
    retransmits: int  # our own, during this exchange


@value
class HeldSession:
    """One live session, a Sync every so often: loss and delay as an open connection sees them."""

    seconds: float
    exchanges: tuple[HeldExchange, ...]
    before: TcpInfo | None
    after: TcpInfo | None
    failure: Failure | None = None  # the session was cut


@value
class DatabaseMeasurement:
    address: str
    port: int
    credentials: bool
    attempts: tuple[Waterfall, ...]
    held: HeldSession | None = None
    coarse_reason: str | None = None  # why phases are coarser (libpq's connect_poll spoke instead of us)
