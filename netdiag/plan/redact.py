"""A plan without its secrets: what a run keeps, saves and reports."""

from __future__ import annotations

from dataclasses import replace

from netdiag.plan.model import Endpoint, Plan
from probes.model import Secret


def redacted(plan: Plan) -> Plan:
    """The same plan with ``***`` for each password; that there was one still shows."""
    return replace(plan, endpoints=tuple(map(_endpoint, plan.endpoints)))


def _endpoint(endpoint: Endpoint) -> Endpoint:
    if endpoint.credentials is None or endpoint.credentials.password is None:
        return endpoint
    return replace(endpoint, credentials=replace(endpoint.credentials, password=Secret("***")))
