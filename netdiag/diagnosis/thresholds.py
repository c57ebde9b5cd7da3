"""The numbers that rules decide by, each with its reason. None is a measurement; all are dimensionless or SI."""

from __future__ import annotations

LEVEL = 0.95
"""Level of every interval in a statement. The report's convention; 19 runs in 20 cover the true ratio."""

ADVERSE_LOSS = 0.30
"""Loss in each direction that silence is tested against: twice the worst that the escalation names (15 %). What
survives this much loss is not explained by any loss that a database would still be used over."""

SILENT_SYNS = 4
"""SYNs that must all stay unanswered before silence is more than loss: a sequential test of 15 % loss against
"always dropped" at 1e-3 each way decides after four (FACTS 7)."""

CERTAIN = 0.99
"""A statement that the peer itself made on the wire (a SQLSTATE, an ICMP code, an HTTP status line). What is left is
somebody on the way who speaks in its name."""

LIKELY = 0.9
"""A well-formed sign with one rare look-alike that this vantage cannot exclude (a RST that a firewall forged at the
host's own distance, an answer that is no PostgreSQL but no known protocol either)."""

POSSIBLE = 0.7
"""A sign with a common look-alike that this vantage cannot exclude (a balancer that closes at once: no live backend,
or it expects the PROXY protocol)."""

DROP_AT_HOST = 0.95
"""Most that a silent port can be worth where the silence is not placed before the host: a full accept queue drops
SYNs in the same way, and only the server's own ListenDrops counter shows it (FACTS 4.6)."""

SLOW_PHASE_S = 1.0
"""A phase of the connection that takes this long is slow on any path: it is five round trips at the 200 ms of the
escalation, and no phase but the SCRAM exchange needs more than two."""

SLOW_PHASE_ROUND_TRIPS = 10.0
"""... and it must also be this many round trips, so that a long path alone is never a slow database: twice the five
that the longest phase (StartupMessage and the SCRAM exchange) needs at most."""
