"""This namespace's connection-tracking table, from /proc. Everybody may read it; where the module is not loaded, or a
container hides /proc/sys/net, there is nothing to read.
"""

from __future__ import annotations

import errno as errnos
from pathlib import Path

from probes.exchanges import ConntrackReading
from probes.wire.conntrack import ConntrackCounters, parse_counters

TABLE = Path("/proc/sys/net/netfilter")
COUNTERS = Path("/proc/net/stat/nf_conntrack")


def read_conntrack(table: Path = TABLE, counters: Path = COUNTERS) -> ConntrackReading:
    """The reading, or the reason why there is none; the counters may be missing alone."""
    try:
        entries = int((table / "nf_conntrack_count").read_text("ascii"))
        limit = int((table / "nf_conntrack_max").read_text("ascii"))
    except OSError as error:
        return ConntrackReading(reason=f"{error.filename}: {_why(error)}")
    except ValueError:
        return ConntrackReading(reason=f"{table}: not a number")
    return ConntrackReading(entries=entries, limit=limit, counters=_counters(counters))


def _counters(path: Path) -> ConntrackCounters | None:
    try:
        return parse_counters(path.read_text("ascii", "replace"))
    except OSError:
        return None


def _why(error: OSError) -> str:
    if error.errno == errnos.ENOENT:
        return "not there (connection tracking is not loaded, or hidden from this container)"
    return errnos.errorcode.get(error.errno or 0, "unreadable")
