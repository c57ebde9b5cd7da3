"""libpq's two files: the password file (~/.pgpass) and the connection service file (pg_service.conf).

By libpq's manual, sections 34.16 and 34.17, and its fe-connect.c where the manual is silent.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

from netdiag.plan.conninfo import TargetError
from netdiag.reading import read_at_most
from probes.model import Secret, value

LARGEST_SERVICES = 1 << 20  # bytes
_FIELD = re.compile(r"((?:\\.|[^:\\])*\\?)(?::|$)", re.DOTALL)
_ESCAPE = re.compile(r"\\(.?)", re.DOTALL)
# Where Debian's and the community's builds look when PGSYSCONFDIR is not set.
_SYSTEM_FOLDERS = ("/etc/postgresql-common", "/etc/sysconfig/pgsql", "/etc")


@value
class PasswordLookup:
    """``source``: where the password was found, or why there is none, where anybody meant there to be one."""

    password: Secret | None = None
    warning: str | None = None
    source: str | None = None


def _unusable(warning: str) -> PasswordLookup:
    return PasswordLookup(warning=warning, source=warning)


def find_password(path: Path, *, explicit: bool, host: str, port: int, dbname: str, user: str) -> PasswordLookup:
    """The first line of the password file that matches. Like libpq, a file that others may read is not used."""
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            return _unusable(f"password file {path} is not a plain file: not used")
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            return _unusable(
                f"password file {path} may be read by group or others: not used (as libpq); chmod 0600 {path}"
            )
        lines = path.read_text(encoding="utf-8", errors="surrogateescape").split("\n")
    except FileNotFoundError:
        return _unusable(f"password file {path} does not exist") if explicit else PasswordLookup()
    except OSError as error:
        return _unusable(f"password file {path} cannot be read ({error.strerror}): not used")
    password = _match(lines, (host, str(port), dbname, user))
    if password is None:
        return PasswordLookup(source=f"password file {path} has no line for {host}:{port}, {dbname}, {user}")
    return PasswordLookup(password=password, source=f"password file {path}")


def _match(lines: Iterable[str], wanted: tuple[str, str, str, str]) -> Secret | None:
    for line in lines:
        if line.startswith("#"):
            continue
        fields = _FIELD.findall(line.rstrip("\r"))
        if len(fields) < 5:
            continue
        if all(field == "*" or _unescape(field) == want for field, want in zip(fields, wanted, strict=False)):
            return Secret(_unescape(fields[4])) if fields[4] else None
    return None


def _unescape(field: str) -> str:
    return _ESCAPE.sub(r"\1", field)


def read_service(name: str, environ: Mapping[str, str], home: Path | None) -> dict[str, str]:
    """The settings of one service. Raises TargetError where no file defines it."""
    explicit = environ.get("PGSERVICEFILE")
    files = _service_files(environ, home)
    for path in files:
        try:
            text = read_at_most(path, LARGEST_SERVICES).decode(errors="replace")
        except OSError as error:
            if explicit and path == Path(explicit):
                raise TargetError(f"service file {path} cannot be read ({error.strerror}); see PGSERVICEFILE") from None
            continue
        settings = _section(text, name, path)
        if settings is not None:
            return settings
    raise TargetError(f"no definition of service {name!r} in {', '.join(map(str, files))}; see PGSERVICEFILE")


def _service_files(environ: Mapping[str, str], home: Path | None) -> list[Path]:
    if "PGSERVICEFILE" in environ:
        first = [Path(environ["PGSERVICEFILE"])]
    else:
        first = [home / ".pg_service.conf"] if home else []
    folders = [environ["PGSYSCONFDIR"]] if "PGSYSCONFDIR" in environ else _SYSTEM_FOLDERS
    return [*first, *(Path(folder) / "pg_service.conf" for folder in folders)]


def _section(text: str, name: str, path: Path) -> dict[str, str] | None:
    found: dict[str, str] | None = None
    for number, line in enumerate(map(str.strip, text.splitlines()), start=1):
        if not line or line.startswith("#"):
            continue
        if line.startswith("["):
            if found is not None:
                return found
            found = {} if line == f"[{name}]" else None
        elif found is not None:
            key, equals, setting = line.partition("=")
            if not equals or key == "service":
                raise TargetError(f"{path}:{number}: not of the form keyword=value, or a service within a service")
            found.setdefault(key, setting)
    return found
