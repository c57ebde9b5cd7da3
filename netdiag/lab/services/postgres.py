"""PostgreSQL in two regions: a primary, and a replica that streams from it over TLS.

The replica begins as a copy of the primary's files, taken before either has started: it needs no base backup over a
link of 50 ms. Clients connect as the role "app" with SCRAM, over IPv4 and IPv6.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

from netdiag.lab.errors import LabError
from netdiag.lab.hosts import command
from netdiag.lab.names import DATABASE, DATABASE_PORT, ROLE
from netdiag.lab.postgres import TlsFiles, debian_binaries
from netdiag.lab.services.service import ServiceSpec, by_signal
from probes.model import value

PRIMARY, REPLICA = "db-east", "db-west"
REPLICATION_ROLE = "replicator"
AUTOCONF = "postgresql.auto.conf"  # what ALTER SYSTEM writes
_HBA = """\
local all all trust
host replication replicator 198.18.0.0/15 scram-sha-256
host all all 0.0.0.0/0 scram-sha-256
host all all ::/0 scram-sha-256
"""
_SETTINGS = """\
listen_addresses = '*'
port = {port}
unix_socket_directories = '{folder}'
max_connections = 100
shared_buffers = 16MB
fsync = off
full_page_writes = off
wal_level = replica
hot_standby = on
wal_keep_size = 256MB
wal_sender_timeout = 10s
wal_receiver_timeout = 10s
wal_retrieve_retry_interval = 1s
autovacuum = off
jit = off
log_min_messages = info
ssl = on
cluster_name = '{host}'
"""


@value
class Passwords:
    application: str
    replication: str


@value
class Cluster:
    """Where one server's files are, and as whom it runs."""

    host: str
    folder: Path
    binaries: Path
    user: tuple[int, int] | None

    @property
    def data(self) -> Path:
        return self.folder / "data"


def cluster(host: str, folder: Path) -> Cluster:
    """Raises LabError where this machine has no server with TLS."""
    binaries = debian_binaries()
    if binaries is None:
        raise LabError("no PostgreSQL server with TLS here: apt-get install postgresql")
    return Cluster(host=host, folder=folder, binaries=binaries, user=_user())


def _user() -> tuple[int, int] | None:
    """PostgreSQL refuses uid 0. None: as the caller."""
    if os.geteuid() != 0:
        return None
    import pwd

    found = pwd.getpwnam("postgres")
    return found.pw_uid, found.pw_gid


def create(primary: Cluster, passwords: Passwords) -> None:
    """The primary's files, with role and database. Raises LabError with what initdb said."""
    make_folder(primary)
    initdb = [str(primary.binaries / "initdb"), "-D", str(primary.data), "-U", "postgres", "-A", "trust"]
    _run_as(primary, [*initdb, "-E", "UTF8", "--locale=C", "--no-sync", "--no-instructions"])
    statements = (
        f"CREATE ROLE {ROLE} LOGIN PASSWORD '{passwords.application}'",
        f"GRANT pg_monitor TO {ROLE}",
        f"CREATE ROLE {REPLICATION_ROLE} REPLICATION LOGIN PASSWORD '{passwords.replication}'",
        f"CREATE DATABASE {DATABASE} OWNER {ROLE}",
    )
    single = [str(primary.binaries / "postgres"), "--single", "-F", "-D", str(primary.data), "postgres"]
    _run_as(primary, single, input="".join(f"{statement}\n" for statement in statements))


def copy(primary: Cluster, replica: Cluster) -> None:
    """Before either runs: both then continue from the same point of the same log."""
    make_folder(replica)
    _run_as(replica, ["cp", "-a", "--reflink=auto", str(primary.data), str(replica.data)])


def make_folder(target: Cluster) -> None:
    target.folder.mkdir(mode=0o700)
    _own(target, target.folder)


def configure(target: Cluster, tls: TlsFiles, *, upstream: str | None, passwords: Passwords) -> None:
    """``upstream``: the primary's address; this server becomes its replica."""
    text = _SETTINGS.format(port=DATABASE_PORT, folder=target.folder, host=target.host)
    if upstream is not None:
        text += (
            f"primary_conninfo = 'host={upstream} port={DATABASE_PORT} user={REPLICATION_ROLE} "
            f"password={passwords.replication} sslmode=require application_name={target.host}'\n"
        )
        write(target, target.data / "standby.signal", "")
    write(target, target.data / "conf.d.conf", text)
    with (target.data / "postgresql.conf").open("a") as file:
        file.write("include 'conf.d.conf'\n")
    write(target, target.data / "pg_hba.conf", _HBA)
    install_certificate(target, tls)


def install_certificate(target: Cluster, tls: TlsFiles) -> None:
    """For new connections after a reload."""
    write(target, target.data / "server.crt", tls.certificate.read_text())
    write(target, target.data / "server.key", tls.key.read_text())


def service(target: Cluster) -> ServiceSpec:
    """Its configuration, in the sense of ``Service.configure``, is pg_hba.conf."""
    return ServiceSpec(
        name=target.host,
        host=target.host,
        argv=(str(target.binaries / "postgres"), "-D", str(target.data)),
        log=target.folder.parent / f"{target.host}.log",
        configuration=target.data / "pg_hba.conf",
        pristine=_HBA,
        ready=lambda: sql(target, "SELECT 1") == "1",
        reload=by_signal(signal.SIGHUP),
        stop_signal=signal.SIGINT,
        user=target.user,
        lock=target.data / "postmaster.pid",
    )


def sql(target: Cluster, *statements: str, dbname: str = "postgres") -> str:
    """As the superuser over the local socket; the rows as psql -At prints them. Raises LabError."""
    psql = [str(target.binaries / "psql"), "-XAtq", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", dbname]
    commands = [word for statement in statements for word in ("-c", statement)]
    return command(*psql, "-h", str(target.folder), "-p", str(DATABASE_PORT), *commands).strip()


def reset(target: Cluster, tls: TlsFiles) -> bool:
    """Settings, certificate, replay and statistics as they were. Whether it must be restarted for that."""
    if (target.data / "server.crt").read_bytes() != tls.certificate.read_bytes():
        install_certificate(target, tls)
    changed = settings_changed(target)
    if changed:
        write(target, target.data / AUTOCONF, "")
    sql(target, "SELECT pg_reload_conf()", _RESUME, "SELECT pg_stat_reset() FROM pg_database LIMIT 1")
    return changed


_RESUME = "SELECT CASE WHEN pg_is_in_recovery() THEN pg_wal_replay_resume() END"


def settings_changed(target: Cluster) -> bool:
    """Whether ALTER SYSTEM left anything."""
    lines = (target.data / AUTOCONF).read_text().splitlines()
    return any(line and not line.startswith("#") for line in lines)


def write(target: Cluster, path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text)
    _own(target, path)


def _own(target: Cluster, path: Path) -> None:
    if target.user is not None:
        shutil.chown(path, *target.user)


def _run_as(target: Cluster, argv: list[str], input: str | None = None) -> None:
    who: list[str] = []
    if target.user is not None:
        uid, gid = target.user
        who = [f"--reuid={uid}", f"--regid={gid}", "--clear-groups"]
    done = subprocess.run(
        ["setpriv", *who, "--pdeathsig", "KILL", *argv],
        input=input,
        capture_output=True,
        text=True,
        cwd="/",
        check=False,
    )
    if done.returncode != 0 or "ERROR:" in done.stderr:  # a single-user server goes on after an error
        raise LabError(f"{Path(argv[0]).name}: {done.stderr.strip()}")
