"""The saved run: ``netdiag.run/1`` JSON out, and back into a Run.

What was measured is stored beside what was concluded; only the former is read back. The same Run always gives
the same bytes. A measurement of a probe that is not installed here keeps its raw data and is ignored by the rules.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any

import msgspec

from netdiag.diagnosis.finding import Diagnosis, Finding, NotMeasured, RuledOut
from netdiag.encoding import builtins as builtins
from netdiag.evidence import SCHEMA, Evidence, EvidenceError, Run, Tool
from netdiag.plan.model import Plan
from netdiag.report.model import Report
from probes import registry
from probes.model import Measurement, MeasurementOutcome, Secret, Target, Vantage

# The JSON says "from" and "to"; Python's grammar says those fields are called source and target.
_JSON_NAMES = {"source": "from", "target": "to"}
LARGEST_FIGURE = 1e15  # in seconds thirty million years, in bytes a petabyte
JOURNAL_SCHEMA = "netdiag.journal/1"
_FIELD_NAMES = {name: field for field, name in _JSON_NAMES.items()}


def encode(run: Run, diagnosis: Diagnosis, report: Report) -> bytes:
    """The whole document, indented, keys in the order of PRODUCT's list, with a final newline."""
    return msgspec.json.format(msgspec.json.encode(document(run, diagnosis, report)), indent=2) + b"\n"


def document(run: Run, diagnosis: Diagnosis, report: Report) -> dict[str, Any]:
    about = _about(run)
    return {
        "schema": SCHEMA,
        **{key: about[key] for key in ("tool", "run_id", "ticket", "vantage", "started", "finished")},
        "verdict": diagnosis.verdict.value,
        **{key: about[key] for key in ("end_reason", "partial", "privileges")},
        "findings": [_renamed(finding) for finding in diagnosis.findings],
        "ruled_out": [_renamed(line) for line in diagnosis.ruled_out],
        "not_measured": [_renamed(line) for line in diagnosis.not_measured],
        "measurements": [_renamed(measurement) for measurement in run.evidence],
        "report": builtins(report),
        "plan": about["plan"],
    }


def _about(run: Run) -> dict[str, Any]:
    return {
        "tool": builtins(run.tool),
        "run_id": run.run_id,
        "ticket": builtins(run.plan.ticket),
        "vantage": builtins(run.vantage),
        "started": builtins(run.started),
        "finished": builtins(run.finished),
        "end_reason": run.end_reason,
        "partial": run.partial,
        "privileges": list(run.privileges),
        "plan": builtins(run.plan),
    }


def journal_header(run: Run) -> bytes:
    """The first line of a run's journal: all that is known of it before its first measurement."""
    return msgspec.json.encode({"schema": JOURNAL_SCHEMA} | _about(run))


def journal_entry(measurement: Measurement[Any]) -> bytes:
    return msgspec.json.encode(_renamed(measurement))


def decode(raw: bytes, source: str) -> Run:
    """The Run in a saved document, or in the journal of a run that broke off.

    Raises EvidenceError, one line naming ``source`` and the place.
    """
    try:
        saved = _from_journal(raw) or msgspec.json.decode(raw)
    except msgspec.DecodeError as error:
        raise EvidenceError(f"{source}: not JSON: {error}") from None
    if not isinstance(saved, dict) or saved.get("schema") != SCHEMA:
        raise EvidenceError(f"{source}: {_not_a_run(saved)}")
    absurd = _absurd(saved.get("measurements"), "measurements")
    if absurd:
        raise EvidenceError(f"{source}: {absurd}")
    try:
        return _run_in(saved)
    except KeyError as error:
        raise EvidenceError(f"{source}: key {error} is missing") from None
    except (msgspec.ValidationError, TypeError, AttributeError) as error:
        raise EvidenceError(f"{source}: {error}") from None


def _absurd(thing: Any, place: str) -> str | None:
    """A figure that nothing can have measured, whose square would be no number any more."""
    left: list[tuple[str, Any]] = [(place, thing)]
    while left:
        where, part = left.pop()
        if isinstance(part, float) and abs(part) > LARGEST_FIGURE:
            return f"{where} is {part:g}, beyond anything that can be measured: the file was changed or garbled"
        if isinstance(part, dict):
            left.extend((f"{where}.{key}", item) for key, item in part.items())
        elif isinstance(part, list):
            left.extend((f"{where}[{at}]", item) for at, item in enumerate(part))
    return None


def _not_a_run(saved: Any) -> str:
    schema = saved.get("schema") if isinstance(saved, dict) else None
    if not isinstance(schema, str):
        return f'no "schema" in it, wanted "{SCHEMA}": is this a run saved by netdiag?'
    if schema.startswith(f"{SCHEMA.partition('/')[0]}/"):
        return f'schema is "{schema}", this netdiag reads "{SCHEMA}": use the netdiag that saved it'
    return f'schema is "{schema}", wanted "{SCHEMA}": is this a run saved by netdiag?'


def _from_journal(raw: bytes) -> dict[str, Any] | None:
    """A journal as the document it would have become; None for anything else. A torn last line is left out."""
    first, _, rest = raw.partition(b"\n")
    header = _json_object(first)
    if header is None or header.get("schema") != JOURNAL_SCHEMA:
        return None
    entries = [entry for line in rest.splitlines() if (entry := _json_object(line)) is not None]
    ended = max((_ended(entry) for entry in entries), default=header.get("finished"))
    broken_off = {"end_reason": "interrupted", "partial": True, "finished": ended}
    return header | broken_off | {"schema": SCHEMA, "measurements": entries}


def _ended(entry: Mapping[str, Any]) -> Any:
    try:
        started, duration_s = convert(entry["started"], dt.datetime), convert(entry["duration_s"], float)
    except (KeyError, msgspec.ValidationError) as error:
        raise EvidenceError(f"a journal's entry cannot be read: {error}") from None
    return builtins(started + dt.timedelta(seconds=duration_s))


def _json_object(line: bytes) -> dict[str, Any] | None:
    try:
        found = msgspec.json.decode(line)
    except msgspec.DecodeError:
        return None
    return found if isinstance(found, dict) else None


def _run_in(saved: Mapping[str, Any]) -> Run:
    return Run(
        run_id=convert(saved["run_id"], str),
        tool=convert(saved["tool"], Tool),
        plan=convert(saved["plan"], Plan),
        vantage=convert(saved["vantage"], Vantage),
        started=convert(saved["started"], dt.datetime),
        finished=convert(saved["finished"], dt.datetime),
        end_reason=convert(saved["end_reason"], str),
        partial=convert(saved["partial"], bool),
        privileges=convert(saved["privileges"], tuple[str, ...]),
        evidence=Evidence(tuple(_measurement_in(entry) for entry in saved["measurements"])),
    )


def convert(thing: Any, kind: Any) -> Any:
    return msgspec.convert(thing, kind, dec_hook=_decode_other)


def _measurement_in(entry: Mapping[str, Any]) -> Measurement[Any]:
    fields = {_FIELD_NAMES.get(key, key): item for key, item in entry.items()}
    return Measurement(
        id=convert(fields["id"], str),
        probe=convert(fields["probe"], str),
        schema=convert(fields["schema"], str),
        vantage=convert(fields["vantage"], str),
        source=convert(fields["source"], str | None),
        target=convert(fields["target"], Target),
        started=convert(fields["started"], dt.datetime),
        duration_s=convert(fields["duration_s"], float),
        options=convert(fields["options"], dict[str, Any]),
        timestamp_source=convert(fields["timestamp_source"], str),
        outcome=convert(fields["outcome"], MeasurementOutcome),
        reason=convert(fields.get("reason"), str | None),
        data=_data_in(fields),
    )


def _data_in(fields: Mapping[str, Any]) -> Any:
    data = fields.get("data")
    if data is None:
        return None
    try:
        probe = registry.load(fields["probe"])
    except KeyError:
        return data
    return convert(data, probe.measurement) if probe.schema == fields["schema"] else data


def _renamed(thing: Measurement[Any] | Finding | RuledOut | NotMeasured) -> dict[str, Any]:
    out: dict[str, Any] = {_JSON_NAMES.get(key, key): item for key, item in builtins(thing).items()}
    subject = out.get("subject")
    if isinstance(subject, dict):
        out["subject"] = {_JSON_NAMES.get(key, key): item for key, item in subject.items() if item is not None}
    return out


def _decode_other(kind: type, thing: Any) -> Any:
    if kind is Secret:
        return Secret(thing)
    raise NotImplementedError(f"no value of {kind.__name__} from JSON")
