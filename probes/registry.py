"""Every probe by name, imported when it is used (start-up stays cheap); others may join by entry point."""

from __future__ import annotations

from importlib import import_module

from probes.contract import AnyProbe

PROBES: dict[str, str] = {
    "latency": "probes.latency:PROBE",
    "loss": "probes.loss:PROBE",
    "stamp": "probes.stamp:PROBE",
    "names": "probes.names:PROBE",
    "ports": "probes.ports:PROBE",
    "path": "probes.path:PROBE",
    "mtu": "probes.mtu:PROBE",
    "database": "probes.database:PROBE",
    "idle": "probes.idle:PROBE",
    "routing": "probes.routing:PROBE",
    "balancer": "probes.balancer:PROBE",
    "replication": "probes.replication:PROBE",
    "host": "probes.host:PROBE",
}

ENTRY_POINT_GROUP = "netdiag.probes"


def probe_names() -> tuple[str, ...]:
    """Built-in probes in their order, then third-party ones by name."""
    from importlib.metadata import entry_points

    third_party = sorted({point.name for point in entry_points(group=ENTRY_POINT_GROUP)} - PROBES.keys())
    return (*PROBES, *third_party)


def load(name: str) -> AnyProbe:
    """The probe called ``name``. Raises KeyError for a name nobody registered."""
    if name in PROBES:
        module, attribute = PROBES[name].split(":")
        probe: AnyProbe = getattr(import_module(module), attribute)
        return probe
    from importlib.metadata import entry_points

    for point in entry_points(group=ENTRY_POINT_GROUP, name=name):
        third_party: AnyProbe = point.load()
        return third_party
    raise KeyError(name)
