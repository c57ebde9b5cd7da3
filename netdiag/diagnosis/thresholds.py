"""The numbers that rules decide by, each with its reason. None is a measurement; all are dimensionless or SI."""

from __future__ import annotations

LEVEL = 0.95
"""Level of every interval in a statement. The report's convention; 19 runs in 20 cover the true ratio."""

ADVERSE_LOSS = 0.30
"""Loss in each direction that silence is tested against: twice the worst that the escalation names (15 %). What
survives this much loss is not explained by any loss that a database would still be used over."""

SILENT_SYNS = 4
"""SYNs that must all stay unanswered before silence is more than loss: a sequential test of 15 % loss against
"always dropped" at 1e-3 each way decides after four (Wald 1945)."""

DEAD_PATHS = 0.5
"""Share of the paths that are dead where routers or a balancer have several and choose by the source port: one of two
is the worst that still lets some connections through. Silence of few connections may be that, and no filter."""

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
SYNs in the same way, and only the server's own ListenDrops counter shows it (listen(2), nstat)."""

SLOW_PHASE_S = 1.0
"""A phase of the connection that takes this long is slow on any path: it is five round trips at the 200 ms of the
escalation, and no phase but the SCRAM exchange needs more than two."""

SLOW_PHASE_ROUND_TRIPS = 10.0
"""... and it must also be this many round trips, so that a long path alone is never a slow database: twice the five
that the longest phase (StartupMessage and the SCRAM exchange) needs at most."""

LINK_LOSS = 0.01
"""Loss that matters where the plan declares none: at 1 % a loss-based TCP flow over 50 ms is down to 2-3 Mb/s
(Padhye 1998), and carriers promise well below it."""

LINK_LOSS_PACKETS_LOST = 3
"""Fewest lost packets that can be a finding without the sequential verdict. A Wilson lower bound alone would fire on
one lost packet of 10; with three, a path that loses 0.3 % fires in under 0.5 % of runs, whatever their length."""

LINK_LOSS_CRITICAL = 0.05
"""The low end of what the escalation names (5-15 % at peak); a connect in 400 then takes more than one more second."""

LINK_LOSS_CRITICAL_LOW = 0.02
"""... with the interval's lower bound above this, so that one bad second is not critical."""

LINK_LOSS_PACKETS = 10
"""Fewest packets that rule anything out: 0 of 10 still leaves 27.8 % possible, and the line says so."""

BURST = 3
"""Consecutive losses that are worth a word: three in a row are one in a million at 1 % independent loss."""

RTT_FACTOR = 1.5
"""A minimum RTT this many times its baseline is a longer path: day-to-day floors move by a few percent."""

RTT_MARGIN_S = 0.010
"""... and by at least this much, which is 1000 km of fibre: below it a factor says nothing on a short path."""

RTT_SAMPLES = 5
"""Fewest clean samples for a floor. Five independent samples all above the median of a healthy path: 1 in 32; all
above 1.5 times its minimum: never seen on an idle one."""

RTT_TAIL_SAMPLES = 3
"""Fewest samples above the limit that are queueing and not one late interrupt."""

RTT_TAIL_SHARE = 0.05
"""... and the interval of their share must lie above this, so that the usual tail of a long run does not fire."""

RTT_STEADY_SPREAD = 0.25
"""p90 above the minimum by less than this share of the rise: a step without jitter, which a queue cannot make."""

RTT_CRITICAL_FACTOR = 3.0
"""Three times the baseline multiplies every connect and commit by three (50 -> 200 ms in the escalation is four)."""

FIBRE_KM_PER_RTT_S = 100_000.0
"""Light in fibre makes 200,000 km/s one way: 1 ms of round trip is 100 km of distance."""

DNS_ATTEMPTS = 2
"""Fewest unanswered queries before a resolver is more than one lost datagram away from healthy."""

DNS_LOSS = 0.03
"""Share of a resolver's answers missing, or errors, at the interval's lower bound: each costs 5 s of waiting
(resolv.conf(5)). With the sample of probes/names.py one in ten is found nearly always, one in a hundred hardly ever."""

DNS_QUERIES_LOST = 3
"""Two first queries (A and AAAA) that time out together are a cold cache, and losses in a row are one event; three
apart are neither."""

DNS_SLOW_S = 1.0
"""Median time of a resolver's answers to repeated questions. A resolver on the far side of the earth takes 0.3 s, one
behind a satellite 0.7 s."""

DNS_SLOW_ANSWERS = 5
"""Answers before a median time counts: A and AAAA by two first queries are a cold cache."""

SINCE_MOVED_S = 1.0
"""A BGP session that stands since later than before by less than this has stood: BIRD computes the hour anew for every
reply, a millisecond to and fro on an idle router (54 of 200 protocols moved in 200 readings) and as long as one turn of
its loop on a busy one. What falls and is back sooner is not seen: BIRD waits that long before it connects."""

ROUTE_SURE = 0.97
"""Another AS path, a longer minimum RTT and the router's own session agree; what is left is a detour of another cause
that happens to cross the same networks."""

LOCAL_LOOKUP_S = 1.0
"""A getaddrinfo that answers faster than this, of a name that no resolver knows, did not wait for DNS: glibc waits in
whole seconds (resolv.conf(5))."""

SAMPLES_PER_NAME = 2
"""Connection attempts that an address must leave in silence, with a sibling accepting, before its record is called
dead. A refusal is an answer: one is enough."""

LOSS_SURE = 0.97
"""Loss on TCP to the service port with LOSS_SURE_PACKETS lost: what is left is a server that drops SYNs itself."""

LOSS_SURE_PACKETS = 10
"""Ten losses put the interval's half-width under two thirds of the ratio: no longer a handful of accidents."""

SLOW_ATTEMPTS = 2
"""Slow connections before a database is called slow: one alone is a cold cache or one lost segment of the server's."""

LOOKUP_GRACE_S = 0.5
"""A getaddrinfo that is this much faster than a dead resolver's timeouts allow was answered by it."""

SYNS_PER_QUERY = 2
"""SYNs in one silent TCP query: the kernel repeats the first after 1 s, and a query waits 2 s (RFC 6298 2.1)."""

MTU_SEARCHED = 64
"""Bytes between the largest size that arrives and the smallest that vanishes, at most, for the size to be called found:
the probe's own search ends at 4 (UDP) or 8 (TCP), and one cut short has not begun to halve 1,000."""

BESIDE_PACKETS = 50
"""Fewest packets to what lies beside a place that loses, before the loss is laid at its door: 0 of 50 leaves at
most 7.1 % (Wilson), so that the 5-15 % of the escalation can stand out against it."""

FLOW_TRIES = 3
"""Connections that lose every SYN, and as many answered between theirs, before a loss is said to go by connection."""

FLOW_CHANCE = 0.01
"""... and the chance, at the upper bound of the first SYNs' loss, that so few of the repeated SYNs are answered."""

QUEUE_SAMPLES = 20
"""Fewest round trips in which a queue is seen to build up or drain; the first series of echoes has as many."""

QUEUE_SHARE = 0.15
"""Lower bound of the share of round trips that wait: a passing burst of a second is no congested link."""

QUEUE_SMOOTH = 3.3
"""Standard deviations by which neighbours must be more alike than independent samples: once in 2,000 by chance."""

QUEUE_TURNING_CHANCE = 0.0005
"""... and the chance of so few turning points in the middle of the range, which holds for jitter round any levels."""

QUEUE_RAMP = 8
"""... or this many samples in one rise or fall across the range. Eight of independent delays come in order twice in
40,320, and with a jump in their midst once in 160; both seldom pass the test of neighbours as well."""

QUEUE_RISES = 2
"""... or so many rises from the floor over steps to a level at the top: a queue that fills faster than samples come."""

QUEUE_PASSAGES = 4
"""... or so many rises and falls between the floor and a level at the top, over steps that keep to no few levels."""

QUEUE_RISES_CHANCE = 0.0005
"""... with this chance, were steps between floor and top as frequent at any other moment."""

QUEUE_STROKES = 0.4
"""Answers that keep to the strokes of one clock as well as this wait for it (simulated: 0.55 and more in nine of ten),
not in a queue (0.3 at most in a thousand)."""

QUEUE_EMPTY_SHARE = 0.1
"""Of the samples, and RTT_SAMPLES of them, that lie at the floor where a queue was seen empty; ..."""

QUEUE_EMPTY_S = 0.002
"""... within this: less than two large packets' time at 10 Mbit/s, so that a queue has no level to rest on there."""

QUEUE_LOSSES = 5
"""Losses before their round trips are compared with the rest: of five, one by chance does not decide."""

QUEUE_LOSSES_CHANCE = 0.02
"""Chance that losses fall on slow moments by accident, where they strengthen a queue that is seen already."""

CONNTRACK_FULL = 0.9
"""Share of nf_conntrack_max from which the table counts as full at a reading. It empties a little between a drop and
the next reading, and a host that works for months at nine tenths is one busy minute away from dropping."""

CONNTRACK_TRIES = 3
"""Attempts at one address that all got through, beside another's that all failed, before the difference is the far
ends' and not this host's: a full table asks nobody where a packet goes. By chance, at one half each, 1 in 64."""

PATIENT_ROUND_TRIPS = 4
"""Round trips of silence in one phase before the server is called silent: a lost packet alone costs up to three (RFC
6298: an RTO of SRTT + 4 RTTVAR, and RTTVAR begins at half a round trip)."""

RECEIVER_GONE_S = 10.0
"""A standby without a WAL receiver for longer than this has not just lost one: it starts the next after 5 s
(wal_retrieve_retry_interval), and a primary that restarts is back within the second 5."""

RECEIVER_SILENT_S = 5.0
"""A WAL receiver asks its sender for a sign of life after half of wal_receiver_timeout: an answer that is this much
overdue has been lost on any path."""

REPLICATION_LAG_S = 30.0
"""WAL that is not replayed for this long is lag: as long as PostgreSQL by itself lets a query on a standby hold replay
up (max_standby_streaming_delay)."""

REPLICATION_HELD_S = 10.0
"""Where time was short, this much of the wait must have been seen, and the last commit be as old as the rest: its age
alone is as large after an idle hour of the primary, and as wrong as the two servers' clocks are apart. Replay that
keeps up takes milliseconds."""

REPLICATION_LAG_BYTES = 8192
"""Least WAL that is worth a word: a page. An idle primary writes some hundred bytes a minute too, for no row."""

IDLE_FORGOTTEN = 2
"""Fewest idle connections that must be forgotten, none as idle being answered: one alone may have lost a path of its
own that died meanwhile."""

IDLE_RETRANSMITS = 3
"""Retransmissions of the bytes after the silence, all unacknowledged, before it counts: with the first sending and a
second connection that makes eight packets; 15 % loss each way takes all of them once in 28,000 times, 30 % once in
220. What settles it is that a fresh connection is served in the same seconds."""

IDLE_SILENCE_S = 3.0
"""... over at least this long: what is away for a second or two is an interruption."""

BULK_READS = 2
"""Fewest bulk reads that must stall, none being carried farther: one alone may have lost a path of its own."""

BULK_MOVED = 16_384
"""Bytes that a bulk read has carried before its stall counts as one: where packets of full size vanish (mtu.black-hole)
nothing comes but a part of the first ten segments (RFC 6928), 14.6 kB."""

BULK_RETRANSMITS = 3
"""Retransmissions of what was sent into the silence, all unacknowledged, before nobody is said to acknowledge it. By
then the server has sent its own bytes five times too: 15 % loss each way takes all of it once in two million times."""

BULK_SILENCE_S = 5.0
"""... and shortest silence that is a stall. A pause for a few retransmissions is none."""
