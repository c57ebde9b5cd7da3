"""A world comes up, and goes down whatever became of its owner."""

from __future__ import annotations

import contextlib
import fcntl
import json
import secrets
import shutil
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from netdiag.lab import journal as journals
from netdiag.lab import processes, rootless, wiring
from netdiag.lab.certificates import Authority
from netdiag.lab.errors import LabError
from netdiag.lab.journal import Journal
from netdiag.lab.names import DATABASE_PORT, ROLE, domain_name
from netdiag.lab.patience import insist, wait_while
from netdiag.lab.processes import NETNS
from netdiag.lab.services import catalogue, postgres
from netdiag.lab.services.postgres import PRIMARY, REPLICA, Passwords
from netdiag.lab.topology import Topology

DEFAULT_STATE_DIR = Path("/var/lib/netdiag-lab")
HOME = "home"
TLS = "tls"
SECRETS = "passwords.json"
_PATIENCE_S = 20.0
_MAKERS = frozenset({"initdb", "pg_basebackup", "postgres", "pg_ctl", "setpriv"})  # of a database's files


@contextlib.contextmanager
def locked(state_dir: Path) -> Iterator[None]:
    """One command at a time brings this folder's world up or down. The lock goes with its holder."""
    path = state_dir.with_name(f".{state_dir.name}.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def prepare(state_dir: Path, world_id: str, topology: Topology) -> Journal:
    """An empty folder with a state file. Raises OSError."""
    state_dir.mkdir(parents=True)
    state_dir.chmod(0o711)  # PostgreSQL's user passes through
    journal = Journal(state_dir)
    journal.begin(world_id, ecmp=topology.ecmp)
    for name in (*catalogue.FOLDERS, TLS, HOME):
        (state_dir / name).mkdir(mode=0o711)
    (state_dir / catalogue.DNS / "db").mkdir()
    return journal


def build(state_dir: Path, world_id: str, topology: Topology, journal: Journal) -> None:
    """Everything but the servers' processes. Raises LabError, OSError."""
    passwords = Passwords(application=secrets.token_hex(12), replication=secrets.token_hex(12))
    _keep(state_dir, passwords)
    with ThreadPoolExecutor(max_workers=1) as pool:
        files = pool.submit(_make_databases, state_dir, topology, passwords)
        wiring.make_namespaces(topology, world_id, journal)
        wiring.connect(topology, world_id)
        catalogue.write_zones(topology, state_dir, serial=1)
        files.result()


def _keep(state_dir: Path, passwords: Passwords) -> None:
    """As an application keeps it: ~/.pgpass and ~/.postgresql/root.crt of a home folder."""
    home = state_dir / HOME
    pgpass = home / ".pgpass"
    pgpass.touch(mode=0o600)
    pgpass.write_text(f"*:{DATABASE_PORT}:*:{ROLE}:{passwords.application}\n")
    stored = state_dir / SECRETS
    stored.touch(mode=0o600)
    stored.write_text(json.dumps({"application": passwords.application, "replication": passwords.replication}))


def _make_databases(state_dir: Path, topology: Topology, passwords: Passwords) -> None:
    authority = Authority(state_dir / TLS)
    trusted = state_dir / HOME / ".postgresql/root.crt"
    trusted.parent.mkdir()
    shutil.copyfile(authority.certificate, trusted)
    primary, replica = (catalogue.database(name, state_dir) for name in (PRIMARY, REPLICA))
    postgres.create(primary, passwords)
    postgres.copy(primary, replica)
    for target, upstream in ((primary, None), (replica, topology.address(PRIMARY))):
        files = authority.issue(certificate_names(target.host), label=target.host)
        postgres.configure(target, files, upstream=upstream, passwords=passwords)


def certificate_names(host: str) -> tuple[str, ...]:
    """A database's own name, and the balancer's, for which it answers as well."""
    return domain_name(host), domain_name("db")


def tear_down(state_dir: Path) -> None:
    """Remove whatever the state file tells of. Safe to call again, and where nothing is. Raises LabError."""
    recorded = journals.read(state_dir)
    if recorded is not None:
        databases = [process for name, process in recorded.services.items() if name in (PRIMARY, REPLICA)]
        processes.end(databases, signal.SIGQUIT, patience_s=6.0)  # killed, they would leave shared memory behind
        processes.end(recorded.processes, patience_s=0.5)
        processes.end(processes.inside(recorded.namespaces), patience_s=0.5)
        for name in recorded.namespaces:
            _delete_namespace(name)
        for folder in recorded.folders:
            shutil.rmtree(folder, ignore_errors=True)
        _remove_if_empty(wiring.NETNS_ETC)
    processes.end(processes.at_work_on(state_dir, _MAKERS), signal.SIGKILL)
    _remove_tree(state_dir)


def _remove_tree(folder: Path) -> None:
    """Again and again: what a killed owner had begun (initdb's own children) may still put files there for a moment."""
    try:
        insist(lambda: shutil.rmtree(folder) if folder.exists() else None, _PATIENCE_S)
    except OSError as error:
        raise LabError(f"{folder} stays: {error}") from None


def _delete_namespace(name: str) -> None:
    """Again and again: the kernel says EBUSY for a moment after the last process has gone."""
    if said := wait_while(lambda: _refusal_to_delete(name), _PATIENCE_S, every_s=0.01):
        raise LabError(f"namespace {name} stays: {said}")


def _refusal_to_delete(name: str) -> str:
    """What ip says; empty once the namespace is gone."""
    if not (NETNS / name).exists():
        return ""
    done = subprocess.run(["ip", "netns", "del", name], capture_output=True, text=True, check=False)
    return done.stderr.strip() or "it is still there" if (NETNS / name).exists() else ""


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


def require_root() -> None:
    """Or its capabilities in a user namespace. Raises LabError for anybody else."""
    if not rootless.may_make_namespaces():
        raise LabError("a lab that stays up needs root; `netdiag lab run NAME` may go without")
