"""The strict reader of a plan: TOML -> Plan, or one line per problem with file, line, key and what was meant."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path as FilePath
from typing import Any

from netdiag.plan import model
from netdiag.plan.declarations import PLAN, Key, Table
from netdiag.plan.dsn import TargetError, check_host, parse_target
from netdiag.plan.lines import LineFinder, Path
from netdiag.reading import read_at_most

LARGEST_PLAN = 4 * 1024 * 1024  # bytes; a plan is a page or two, and /dev/zero has no end


class PlanError(Exception):
    """A plan that cannot be used. ``problems`` holds one line each; so does its text."""

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def read_plan(path: FilePath, environ: Mapping[str, str], home: FilePath | None = None) -> model.Plan:
    """Read and check a plan file. Raises PlanError.

    ``environ`` and ``home`` are where libpq looks for what the urls leave out: PGPASSWORD, ~/.pgpass, services.
    """
    try:
        raw = read_at_most(path, LARGEST_PLAN)
    except OSError as error:
        raise PlanError(f"{path}: cannot be read ({error.strerror or error}); give the path of a plan file") from None
    if len(raw) > LARGEST_PLAN:
        raise PlanError(f"{path}: larger than {LARGEST_PLAN} bytes; this is not a plan")
    try:
        text = raw.decode("utf-8-sig")  # editors on Windows begin a file with a byte order mark
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise PlanError(f"{path}:{line}: not UTF-8; save the plan as UTF-8") from None
    return parse_plan(text, str(path), environ, home)


def parse_plan(text: str, source: str, environ: Mapping[str, str], home: FilePath | None = None) -> model.Plan:
    """Read and check the text of a plan; ``source`` names it in errors. Raises PlanError."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise PlanError(_syntax(source, text, error)) from None
    except RecursionError:
        raise PlanError(f"{source}: nested too deeply; this is not a plan") from None
    reader = _Reader(source, LineFinder(text))
    values = reader.table(PLAN, document, ())
    plan = _Builder(reader, environ, home).plan(values)
    if reader.problems or plan is None:
        raise PlanError(*(f"{source}:{line}: {complaint}" for line, complaint in sorted(reader.problems)))
    return plan


def _syntax(source: str, text: str, error: tomllib.TOMLDecodeError) -> str:
    """tomllib writes "Expected ... (at line 3, column 5)" or "(at end of document)"."""
    complaint, _, place = str(error).partition(" (at ")
    line = place.removeprefix("line ").partition(",")[0] if place.startswith("line ") else str(text.count("\n") + 1)
    return f"{source}:{line}: not TOML: {_plain(complaint)}; quotes, brackets and one key per line, see toml.io"


def _plain(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)[:200]


def dotted(path: Path) -> str:
    """``endpoint[0].health.url``."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return _plain(text.removeprefix("."))


class _Reader:
    """Walks the document beside its declaration; every problem is kept, with its line."""

    def __init__(self, source: str, finder: LineFinder) -> None:
        self.source, self._finder = source, finder
        self.problems: list[tuple[int, str]] = []

    def complain(self, path: Path, complaint: str) -> None:
        self.problems.append((self._finder.find(path), f"{dotted(path) or 'plan'}: {complaint}"))

    def table(self, table: Table, found: Any, path: Path) -> dict[str, Any] | None:
        """The keys that could be read, by the model's field names; None where it is no table at all."""
        if not isinstance(found, dict):
            self.complain(path, f"must be a table with the keys {', '.join(table.keys)}")
            return None
        for name in found.keys() - table.keys.keys():
            self.complain((*path, name), _unknown(name, table))
        for name, key in table.keys.items():
            if key.required and name not in found:
                self.complain(path, f"the key `{name}` is missing ({key.about})")
        read = {
            key.field or name: self._key(key, found[name], (*path, name))
            for name, key in table.keys.items()
            if name in found
        }
        return {name: value for name, value in read.items() if value is not _BAD}

    def _key(self, key: Key, found: Any, path: Path) -> Any:
        if not key.many:
            return self._one(key, found, path)
        if not isinstance(found, list):
            return self._bad(path, _one_of_many(key, path))
        items = [self._one(key, item, (*path, index)) for index, item in enumerate(found)]
        return tuple(item for item in items if item is not _BAD)

    def _one(self, key: Key, found: Any, path: Path) -> Any:
        if isinstance(key.kind, Table):
            read = self.table(key.kind, found, path)
            return _BAD if read is None else read
        try:
            return key.kind.read(found)
        except ValueError as error:
            return self._bad(path, str(error))

    def _bad(self, path: Path, complaint: str) -> Any:
        self.complain(path, complaint)
        return _BAD


_BAD: Any = object()


def _one_of_many(key: Key, path: Path) -> str:
    if isinstance(key.kind, Table):
        return f"may come several times: write [[{path[-1]}]]"
    return 'must be a list: write it as ["..."]'


def _unknown(name: str, table: Table) -> str:
    import difflib  # only a faulty plan pays for it

    near = difflib.get_close_matches(name, table.keys, n=1)
    if near:
        return f"unknown key; did you mean `{near[0]}`?"
    return f"unknown key; known here: {', '.join(table.keys)}"


class _Builder:
    """Read tables -> the model, with the checks that look at more than one key."""

    def __init__(self, reader: _Reader, environ: Mapping[str, str], home: FilePath | None) -> None:
        self._reader, self._environ, self._home = reader, environ, home
        self._warnings: list[str] = []

    def plan(self, values: dict[str, Any] | None) -> model.Plan | None:
        """None, or a plan that counts only if no problem was found on the way."""
        if values is None:
            return None
        tables: Sequence[dict[str, Any]] = values.get("endpoint", ())
        endpoints = tuple(filter(None, (self._endpoint(table, index) for index, table in enumerate(tables))))
        self._check_names(tables, "endpoint")
        self._check_names(values.get("router", ()), "router")
        self._check_backends(tables)
        if "endpoint" in values and not tables:
            self._reader.complain(("endpoint",), "the plan has no endpoint: write at least one [[endpoint]]")
        routers = tuple(filter(None, map(self._router, values.get("router", ()), range(len(values.get("router", ()))))))
        vantage = model.VantagePlan(**values.get("vantage", {}))
        baselines = tuple(self._baselines(values.get("baseline", ()), (*tables, values.get("vantage", {}))))
        return model.Plan(
            endpoints=endpoints,
            ticket=model.Ticket(**values.get("ticket", {})),
            impact=model.Impact(**values.get("impact", {})),
            vantage=vantage,
            baselines=baselines,
            routers=routers,
            dns=model.Dns(**values.get("dns", {})),
            limits=model.Limits(**values.get("limits", {})),
            warnings=tuple(dict.fromkeys(self._warnings)),
        )

    def _endpoint(self, table: dict[str, Any], index: int) -> model.Endpoint | None:
        place = self._place(table, ("endpoint", index))
        if place is None or "name" not in table:
            return None
        role = table.get("role", place.role)
        health = table.get("health")
        return model.Endpoint(
            name=table["name"],
            role=role,
            region=table.get("region"),
            host=place.host,
            port=place.port,
            address=place.address,
            database=place.database or role in model.DATABASE_ROLES,
            credentials=place.credentials,
            alternatives=place.alternatives and replace(place.alternatives, hosts=(table["name"],)),
            backends=table.get("backends", ()),
            stats=table.get("stats"),
            health=model.Health(**health) if health and "url" in health else None,
        )

    def _place(self, table: dict[str, Any], path: Path) -> model.Endpoint | None:
        """Host, port and credentials of one endpoint, from its url or from host and port."""
        if ("url" in table) == ("host" in table):
            self._reader.complain(path, "an endpoint needs either `url` or `host` (with `port`), and not both")
            return None
        try:
            if "host" in table:
                host = check_host(table["host"].removeprefix("[").removesuffix("]"))
                return model.Endpoint(name="", host=host, port=table.get("port"))
            if "port" in table:
                self._reader.complain((*path, "port"), "the url says the port; `port` goes with `host`")
            return self._from_url(table["url"], path)
        except TargetError as error:
            self._reader.complain((*path, "url" if "url" in table else "host"), str(error))
            return None

    def _from_url(self, url: str, path: Path) -> model.Endpoint | None:
        targets = parse_target(url, self._environ, self._home, written_in="plan")
        if len(targets.endpoints) != 1:
            found = len(targets.endpoints)
            self._reader.complain((*path, "url"), f"names {found} hosts; write one [[endpoint]] for each")
            return None
        self._warnings += [f"{dotted((*path, 'url'))}: {warning}" for warning in targets.warnings]
        return targets.endpoints[0]

    def _check_names(self, tables: Sequence[dict[str, Any]], what: str) -> None:
        seen: dict[str, int] = {}
        for index, table in enumerate(tables):
            name = table.get("name")
            if name is not None and seen.setdefault(name, index) != index:
                self._reader.complain((what, index, "name"), f'"{name}" is already {what}[{seen[name]}]; rename one')

    def _check_backends(self, tables: Sequence[dict[str, Any]]) -> None:
        names = [table["name"] for table in tables if "name" in table]
        for index, table in enumerate(tables):
            for position, backend in enumerate(table.get("backends", ())):
                others = [name for name in dict.fromkeys(names) if name != table.get("name")]
                if backend not in others:
                    complaint = f'"{backend}" is not the name of another endpoint{_meant(backend, others)}'
                    self._reader.complain(("endpoint", index, "backends", position), complaint)

    def _router(self, table: dict[str, Any], index: int) -> model.Router | None:
        if ("bird" in table) == ("frr" in table):
            self._reader.complain(("router", index), "a router needs either `bird` or `frr`, and not both")
            return None
        return model.Router(**table) if "name" in table else None

    def _baselines(
        self, tables: Sequence[dict[str, Any]], places: Sequence[dict[str, Any]]
    ) -> Iterator[model.Baseline]:
        """``places``: the endpoints and the vantage as written, also where something else is wrong with them."""
        known = sorted({place[key] for place in places for key in ("name", "region") if key in place})
        for index, table in enumerate(tables):
            for key, field in (("from", "source"), ("to", "target")):
                if field in table and table[field] not in known:
                    complaint = f'"{table[field]}" is no region or endpoint of this plan{_meant(table[field], known)}'
                    self._reader.complain(("baseline", index, key), complaint)
            if {"source", "target"} <= table.keys():
                yield model.Baseline(**table)


def _meant(name: str, names: Sequence[str]) -> str:
    import difflib  # only a faulty plan pays for it

    near = difflib.get_close_matches(name, names, n=1)
    if near:
        return f"; did you mean `{near[0]}`?"
    return f"; there are {', '.join(names)}" if names else ""
