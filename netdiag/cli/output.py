"""How netdiag speaks: results on stdout, everything else on stderr, one line per error, no secret in any of them."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from typing import IO, Any

ERROR_SCHEMA = "netdiag.error/1"
LONGEST_LINE = 500
NARROWEST, WIDEST = 60, 110  # columns of a report; below 60 its figures would stand one under another

OK, DEGRADED, CRITICAL, UNKNOWN = 0, 1, 2, 3
STATUS = {"healthy": OK, "degraded": DEGRADED, "critical": CRITICAL, "unknown": UNKNOWN}

_URL_USERINFO = re.compile(r"(://)\S*@")  # to the last @ of the word: a password may have / and @ in it
_USERINFO = re.compile(r"[^\s/]*:(?!//)\S*@")  # also where a path's normalisation ate one slash of "://"
_SETTING = re.compile(r"(?i)(pass(?:word|wd|phrase)?\s*=\s*)('(?:[^'\\]|\\.)*'|\S+)")


class UserError(Exception):
    """What the person at the keyboard can put right. One line per problem; ``hint`` says what to do."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class OutputLost(UserError):
    """Standard output itself cannot be written: to be told on stderr, whatever the format."""


def is_terminal(stream: IO[str] | None) -> bool:
    """False also for a stream that was closed before we started."""
    return stream is not None and stream.isatty()


def terminal_width(stream: IO[str] | None) -> int | None:
    """Columns to write in, between NARROWEST and the report's own width; None where ``stream`` is no terminal."""
    if stream is None or not is_terminal(stream):
        return None
    stated = os.environ.get("COLUMNS", "")
    columns = int(stated) if stated.isdecimal() and int(stated) else os.get_terminal_size(stream.fileno()).columns
    return max(NARROWEST, min(columns or WIDEST, WIDEST))


def emit(text: str) -> bool:
    """Write a result to stdout. A reader that went away (head, less) ends the output, not the command; then False."""
    if sys.stdout is None:
        raise OutputLost("standard output is closed")
    if not text.endswith("\n"):
        text += "\n"
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        silence(sys.stdout)
        return False
    except OSError as error:
        raise lost_output(error) from None
    return True


def lost_output(error: OSError) -> OutputLost:
    if sys.stdout is not None:
        silence(sys.stdout)
    return OutputLost(f"standard output cannot be written ({error.strerror or error})", "is the disk full?")


def silence(stream: IO[str]) -> None:
    """Let what is still buffered, and the interpreter's last flush, go nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def note(text: str) -> None:
    """Write a line to stderr; where there is no stderr nothing is said."""
    try:
        sys.stderr.write(text + "\n")
        sys.stderr.flush()
    except (OSError, ValueError, AttributeError):
        return


def warn(text: str) -> None:
    note(f"netdiag: warning: {one_line(text)}")


def tell_error(message: str, hint: str | None, style: str) -> int:
    """Say what went wrong in the way that the output format demands; the exit status is always UNKNOWN.

    ``style``: "text" (stderr), "json" (a netdiag.error/1 document on stdout) or "nagios" (a status line on stdout).
    """
    lines = [one_line(line) for line in message.splitlines()] or ["unknown error"]
    if style == "json":
        emit(to_json({"schema": ERROR_SCHEMA, "error": "; ".join(lines), "hint": hint}))
    elif style == "nagios":
        emit(f"NETDIAG UNKNOWN - {plugin_text('; '.join(lines))}")
    else:
        for line in lines:
            note(f"netdiag: {line}")
        if hint:
            note(f"netdiag: {one_line(hint)}")
    return UNKNOWN


def tell_interrupted(style: str) -> int:
    """Whoever pressed Ctrl-C knows it; a program that reads the output wants its document or its line all the same."""
    return UNKNOWN if style == "text" else tell_error("interrupted", None, style)


def to_json(document: Any) -> str:
    import json

    return json.dumps(document, ensure_ascii=False, indent=2)


def plugin_text(text: str) -> str:
    """Text that may stand before the ``|`` of a monitoring plugin's line."""
    return one_line(text).replace("|", "/")


def one_line(text: str) -> str:
    """Printable, on one line, of bounded length, and without what looks like a password."""
    printable = "".join(character if character.isprintable() else " " for character in text)
    line = " ".join(scrub(printable).split())
    return line if len(line) <= LONGEST_LINE else line[: LONGEST_LINE - 1] + "…"


def scrub(text: str) -> str:
    text = _USERINFO.sub("***@", _URL_USERINFO.sub(r"\1***@", text))
    return _SETTING.sub(r"\1***", text)


def without_arguments(message: str, arguments: Sequence[str]) -> str:
    """``message`` without those of the command's own arguments that may carry a password."""
    parts = {part for argument in arguments for part in (argument, argument.partition("=")[2]) if part}
    for part in sorted(parts, key=len, reverse=True):
        if re.search(r"(?i):.*@|pass.*=|://|:.*:.*:", part):
            for form in (part, repr(part)[1:-1], os.path.normpath(part)):
                message = message.replace(form, "***")
    return message
