"""json.md: every key of netdiag.run/1, from the types that write and read it; and the other documents' names."""

from __future__ import annotations

import datetime as dt
import re
from typing import Any

from docs.typed import Field, about, cell, closure, fields_of, table, type_words
from netdiag.diagnosis.engine import diagnose
from netdiag.diagnosis.finding import Finding, NotMeasured, RuledOut, Subject
from netdiag.evidence import Evidence, Run, Tool
from netdiag.plan.model import Plan, Ticket
from netdiag.report.compile import compile_report
from netdiag.report.model import Report
from netdiag.run_file import document
from probes.model import Measurement, Vantage
from probes.registry import PROBES, load

INTRO = """# JSON

`netdiag run --format json` and `run.json` hold one `netdiag.run/1` document; `netdiag replay` takes it back. Units
are SI: a key that ends in `_s` is seconds, one that ends in `_bytes` is bytes; ratios are 0..1. What was not
measured is `null`, never 0. Times are UTC, RFC 3339. Readers ignore keys that they do not know. Ids come from
vantage, probe, subject and ordinal, never from the order of completion, so the same subject has the same id in two
runs. No secret is in it."""

Top = tuple[Any, str]
TOP: dict[str, Top] = {
    "schema": (str, "`netdiag.run/1`"),
    "tool": (Tool, "what wrote it"),
    "run_id": (str, "begins with the UTC time of the start"),
    "ticket": (Ticket, "the plan's, as it stands"),
    "vantage": (Vantage, "where netdiag ran"),
    "started": (dt.datetime, "of the run"),
    "finished": (dt.datetime, "of the run"),
    "verdict": (str, "`healthy` \\| `degraded` \\| `critical` \\| `unknown`"),
    "end_reason": (str, "`complete` \\| `budget` \\| `interrupted`"),
    "partial": (bool, "true where the run ended before everything was measured"),
    "privileges": (tuple[str, ...], "what this host and user could do"),
    "findings": (tuple[Finding, ...], "ranked: causes, each before its consequences"),
    "ruled_out": (tuple[RuledOut, ...], "what the evidence speaks against"),
    "not_measured": (tuple[NotMeasured, ...], "questions left open"),
    "measurements": (tuple[Measurement[Any], ...], "the evidence, by id"),
    "report": (Report, "the report as a value; every rendering is made from it"),
    "plan": (Plan, "the deployment as it was read, secrets removed; `replay` needs it"),
}
OTHERS = {
    "netdiag.run/1": "a run: `run --format json`, `replay --format json`, `run.json`, the runs that `check` keeps",
    "netdiag.report/1": "the `report` object within a run",
    "netdiag.error/1": "what went wrong under `--format json`: `error`, and `hint` or null; exit status 3",
    "netdiag.probe/1": "`probe --format json`: `measurements`, as in a run",
    "netdiag.sweep/1": "the last of the JSON lines of `probe latency --targets`, after a `netdiag.probe/1` for each"
    " target: `end_reason` (finished, deadline, signal, unread: its reader left), `targets` and of them `measured`,"
    " `answering`, `unreachable` (nothing but ICMP errors), `silent`, `unsent` (this host could send nothing),"
    " `unmeasured`; `packets`, `duration_s`",
    "netdiag.doctor/1": "`doctor --format json`: `complete`; `abilities` with `name`, `able`, `found`, `loss`, `grant`",
    "netdiag.journal/1": "a run that broke off: JSON lines, first the run, then one per measurement; `replay` takes it",
    "netdiag.codes/1": "`explain --format json`: `codes`",
    "netdiag.page/1": "`explain CODE --format json`: `code`, and `page` as Markdown",
    "netdiag.version/1": "`version --format json`: `versions` by name",
    "netdiag.plan-check/1": "`plan check --format json`: `endpoints`, `warnings`",
    "netdiag.lab-list/1": "`lab list --json`: `scenarios` with `name`, `title`, `row`, `codes`",
    "netdiag.lab-doctor/1": "`lab doctor --json`: `able`, `install`, `needs` with `name`, `met`, `found`, `remedy`",
}
# Two values whose Python names differ from their JSON names (see netdiag/run_file.py).
RENAMED: dict[type, dict[str, str]] = {kind: {"source": "from", "target": "to"} for kind in (Measurement, Subject)}
TOLD = {
    (Measurement, "data"): "the probe's own type, see below; null where nothing was measured",
    (Subject, "source"): "region or endpoint",
    (Subject, "target"): "region or endpoint",
}


def page() -> str:
    _agree()
    names = list(PROBES)
    data = [load(name).measurement for name in names]
    values = [kind for kind in closure(Tool, Ticket, Vantage, Finding, RuledOut, NotMeasured, Measurement)]
    rest = [kind for kind in closure(Report, Plan) if kind not in values]
    of_probes = [kind for kind in closure(*data) if kind not in values]
    envelope = "`data` of a measurement, by its `schema`:"
    by_schema = table(("schema", "data"), [(f"`{load(n).schema}`", type_words(load(n).measurement)) for n in names])
    parts = [INTRO, _documents(), _top(), *map(_section, values), "## The data of each probe", envelope, by_schema]
    parts += [*map(_section, of_probes), "## The report and the plan", *map(_section, rest)]
    return "\n\n".join(parts)


def _agree() -> None:
    """The keys told here are those that a run is written with. Raises RuntimeError where they differ."""
    written = list(document(*_nothing()))
    if sorted(written) != sorted(TOP):
        raise RuntimeError(f"docs/pages/json.py tells {sorted(TOP)}, a run is written with {sorted(written)}")


def _nothing() -> tuple[Run, Any, Report]:
    start = dt.datetime(2024, 1, 25, tzinfo=dt.UTC)
    run = Run(
        run_id="", tool=Tool(), plan=Plan(endpoints=()), vantage=Vantage(name="app"), started=start, finished=start,
        end_reason="complete", partial=False, privileges=(), evidence=Evidence(()),
    )  # fmt: skip
    diagnosis = diagnose(run)
    return run, diagnosis, compile_report(run, diagnosis)


def _documents() -> str:
    rows = [(f"`{name}`", meaning) for name, meaning in OTHERS.items()]
    return f"## Documents\n\nEvery document names its schema.\n\n{table(('schema', 'where'), rows)}"


def _top() -> str:
    rows = [(f"`{key}`", type_words(kind), meaning) for key, (kind, meaning) in TOP.items()]
    return f"## netdiag.run/1\n\n{table(('key', 'type', 'meaning'), rows)}"


def _section(kind: type) -> str:
    rows = [_row(kind, field) for field in fields_of(kind)]
    parts = (f"### {kind.__name__}", re.sub(r"\bNone\b", "null", about(kind)), table(("key", "type", "meaning"), rows))
    return "\n\n".join(part for part in parts if part)


def _row(kind: type, field: Field) -> tuple[str, ...]:
    name = RENAMED.get(kind, {}).get(field.name, field.name)
    comment = re.sub(r"\bNone\b", "null", cell(field.comment))
    return (f"`{name}`", "any" if kind is Measurement and field.name == "data" else type_words(field.type),
            TOLD.get((kind, field.name), comment))  # fmt: skip
