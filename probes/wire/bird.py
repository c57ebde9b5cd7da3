"""Replies of BIRD's control socket, read by their four-digit codes and not by their layout. Pure.

Each line is ``CCCC-text`` (more follows), ``CCCC text`` (the last) or `` text`` (more of the code before). Codes used:
0001 hello, 0016 restricted, 1002 a row of "show protocols", 1006 its details, 1011 a row of "show status", 8xxx and
9xxx errors.

Every time that BIRD writes is the wall clock as it is asked, less the age by the monotonic clock (lib/timer.c,
``tm_format_time``), and the two are read at different moments of one turn of its loop. So the same event is told some
milliseconds earlier or later from one reply to the next, and moves with every step of the wall clock.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from probes.failures import clean_text
from probes.model import value

HELLO, RESTRICTED, PROTOCOL, DETAILS, STATUS = 1, 16, 1002, 1006, 1011
_FIRST_ERROR = 8000
_NOW, _STARTED = "Current server time is ", "Last reboot on "
_CODED = re.compile(r"^(\d{4})([- ])(.*)$")
_ROUTES = re.compile(r"(\d+) imported")
# Name, Proto, Table, State; Since is one word or a date and a time; the rest is Info.
_ROW = re.compile(r"^(\S+)\s+(\S+)\s+(\S+)\s+(\S+)\s+(\d{4}-\d\d-\d\d(?:\s+[\d:.]+)?|\S+)\s*(.*)$")


class BirdError(ValueError):
    """What came back is no reply of BIRD, or is its own error message."""


@value
class BirdLine:
    code: int
    text: str


@value
class BirdSession:
    """One BGP session as BIRD tells it. Counters are summed over its channels; None where BIRD shows none."""

    name: str
    state: str  # of the protocol: "up", "start", "down"
    since: str  # as written: BIRD's own clock and time format; see the top of the file for how it moves
    info: str  # "Established", "Active Socket: No route to host", ...
    bgp_state: str | None = None
    neighbor: str | None = None
    neighbor_as: int | None = None
    local_as: int | None = None
    last_error: str | None = None
    imported: int | None = None  # routes
    import_updates: int | None = None  # received since the protocol was configured
    import_withdraws: int | None = None


@value
class BirdClock:
    """What "show status" says at the same moment as the sessions: only together they tell how long one has stood."""

    now: str
    started: str  # of the daemon


def is_complete(reply: bytes) -> bool:
    """Whether the last line is one with a code and a blank, and has its end of line."""
    if not reply.endswith(b"\n"):
        return False
    last = reply[:-1].rpartition(b"\n")[2]
    return len(last) > 4 and last[:4].isdigit() and last[4:5] == b" "


def reply_lines(reply: bytes) -> tuple[BirdLine, ...]:
    """Raises BirdError for bytes of another protocol and for an error reply."""
    return tuple(_lines(reply.decode("utf-8", "replace").splitlines()))


def _lines(raw: Sequence[str]) -> Iterator[BirdLine]:
    code: int | None = None
    for text in raw:
        coded = _CODED.match(text)
        if coded:
            code, text = int(coded[1]), coded[3]
        elif code is None or not text.startswith(" "):
            raise BirdError(f"not a reply of BIRD: {clean_text(text)}")
        if code >= _FIRST_ERROR:
            raise BirdError(f"BIRD says {code}: {clean_text(text)}")
        yield BirdLine(code=code, text=text)


def sessions(lines: Sequence[BirdLine]) -> tuple[BirdSession, ...]:
    """The BGP protocols in a reply to "show protocols all", in its order."""
    return tuple(_session(row, details) for row, details in _protocols(lines) if row[2] == "BGP")


def clock(lines: Sequence[BirdLine]) -> BirdClock | None:
    """None where the reply to "show status" is missing, or lacks one of them."""
    told = [line.text.strip() for line in lines if line.code == STATUS]
    now, started = (_after(words, told) for words in (_NOW, _STARTED))
    return BirdClock(now=now, started=started) if now and started else None


def _after(words: str, told: Sequence[str]) -> str | None:
    return next((clean_text(text.removeprefix(words)) for text in told if text.startswith(words)), None)


def _protocols(lines: Sequence[BirdLine]) -> Iterator[tuple[re.Match[str], list[str]]]:
    row: re.Match[str] | None = None
    details: list[str] = []
    for line in lines:
        if line.code == PROTOCOL:
            if row:
                yield row, details
            row, details = _ROW.match(line.text), []
        elif line.code == DETAILS:
            details.append(line.text.strip())
    if row:
        yield row, details


def _session(row: re.Match[str], details: Sequence[str]) -> BirdSession:
    told = _told(details)
    return BirdSession(
        name=clean_text(row[1]),
        state=clean_text(row[4]),
        since=clean_text(row[5]),
        info=clean_text(row[6]),
        bgp_state=told.get("BGP state"),
        neighbor=told.get("Neighbor address"),
        neighbor_as=_number(told.get("Neighbor AS")),
        local_as=_number(told.get("Local AS")),
        last_error=told.get("Last error"),
        imported=_sum(int(found[1]) for text in details if (found := _ROUTES.search(text))),
        import_updates=_sum(_counts(details, "Import updates:")),
        import_withdraws=_sum(_counts(details, "Import withdraws:")),
    )


def _told(details: Sequence[str]) -> dict[str, str]:
    """``key: value`` lines, the first of each key: those of the session come before those of its channels."""
    told: dict[str, str] = {}
    for text in details:
        key, colon, rest = text.partition(":")
        if colon:
            told.setdefault(key.strip(), clean_text(rest))
    return told


def _counts(details: Sequence[str], label: str) -> Iterator[int]:
    """The first column (received) of a row of "Route change stats"."""
    for text in details:
        words = text.removeprefix(label).split() if text.startswith(label) else []
        if words and words[0].isdecimal():
            yield int(words[0])


def _sum(numbers: Iterator[int]) -> int | None:
    found = list(numbers)
    return sum(found) if found else None


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdecimal() else None
