"""A finding's subject in words: where the fault is."""

from __future__ import annotations

from netdiag.diagnosis.finding import Subject


def place(subject: Subject) -> str:
    """What is known of it: ``us-east -> us-west, db-west 198.18.1.30:5433``; "not localised" where nothing is."""
    parts = (
        _span(subject.source, subject.target),
        _endpoint(subject),
        f"name {subject.name}" if subject.name else None,
        f"resolver {subject.resolver}" if subject.resolver else None,
        f"hop {subject.hop}" if subject.hop else None,
        f"direction {subject.direction}" if subject.direction else None,
        f"flow {subject.flow}" if subject.flow else None,
        f"packets of {subject.size:,} bytes" if subject.size is not None else None,
    )
    return ", ".join(part for part in parts if part) or "not localised"


def _span(source: str | None, target: str | None) -> str | None:
    if source and target:
        return f"{source} -> {target}"
    return source or target


def _endpoint(subject: Subject) -> str | None:
    address = subject.address
    if address and subject.port is not None:
        address = f"[{address}]:{subject.port}" if ":" in address else f"{address}:{subject.port}"
    elif subject.port is not None:
        address = f"port {subject.port}"
    if address == _span(subject.source, subject.target):
        return None
    name = subject.endpoint if subject.endpoint not in (subject.source, subject.target, address) else None
    return " ".join(part for part in (name, address) if part) or None


def names_only(endpoint: str, host: str) -> bool:
    """``endpoint`` is just the ``host`` or ``host:port`` that somebody typed: no name of its own."""
    return host in (endpoint, endpoint.rpartition(":")[0].strip("[]"))
