"""Connection tracking's own counters as Linux writes them (net/netfilter/nf_conntrack_standalone.c).

/proc/net/stat/nf_conntrack: a header line that names the columns, then one line per CPU in hexadecimal. Columns came
and went over the years, so they are found by name.
"""

from __future__ import annotations

from probes.model import value


@value
class ConntrackCounters:
    """Since the namespace began, over all CPUs. A counter that this kernel lacks is None."""

    drop: int | None  # packets for which there was no entry to be had, or that a tracker refused
    early_drop: int | None  # entries evicted to make room in a full table
    insert_failed: int | None  # mostly two packets of one flow that raced (harmless)


def parse_counters(text: str) -> ConntrackCounters | None:
    """None where the text is not such a table."""
    rows = [line.split() for line in text.splitlines() if line.strip()]
    if len(rows) < 2:
        return None
    try:
        cpus = [[int(cell, 16) for cell in row] for row in rows[1:]]
    except ValueError:
        return None
    if any(len(cpu) != len(rows[0]) for cpu in cpus):
        return None
    totals = dict(zip(rows[0], map(sum, zip(*cpus, strict=True)), strict=True))
    return ConntrackCounters(
        drop=totals.get("drop"), early_drop=totals.get("early_drop"), insert_failed=totals.get("insert_failed")
    )
