"""The entry point: the only place that ends the process.

Exit status everywhere: 0 healthy, 1 degraded, 2 critical, 3 could not tell (bad usage included).
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what is imported inside functions can be interrupted without a traceback
    from collections.abc import Sequence
    from types import FrameType

_TYPERS_CTRL_C = 130  # what typer gives back for one; no answer of ours


def main() -> None:
    """The console script. The only place that ends the process."""
    try:
        _prepare()
        status = invoke(sys.argv[1:])
        _flush()
    except KeyboardInterrupt:  # before anything could be told
        status = 3
    sys.exit(status)


def _prepare() -> None:
    import signal

    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a Latin-1 terminal shows escapes instead of a UnicodeEncodeError
            stream.reconfigure(errors="backslashreplace")
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _terminated)


def _flush() -> None:
    """What the interpreter cannot flush as it ends, on a terminal that is gone, would make the exit status 120."""
    from netdiag.cli.output import silence

    for stream in (sys.stdout, sys.stderr):
        if stream is not None and not stream.closed:
            try:
                stream.flush()
            except OSError:
                silence(stream)


def _terminated(number: int, frame: FrameType | None) -> None:
    """SIGTERM ends a command as Ctrl-C does. A run puts a handler of its own in this one's place.

    asyncio.run() cancels its task on Ctrl-C by a handler that it sets for the time; an exception raised here instead
    would come up wherever the loop happens to be, and is lost where Python ignores those (finalizers).
    """
    import signal

    interrupt = signal.getsignal(signal.SIGINT)
    if not callable(interrupt):  # ignored, as a shell does for what it starts in the background
        raise KeyboardInterrupt
    interrupt(number, frame)


def invoke(arguments: Sequence[str]) -> int:
    """Run one command; its exit status. Whatever goes wrong is told in one line."""
    from netdiag.cli.output import OutputLost, tell_error

    try:
        return _told(arguments, error_style(arguments))
    except OutputLost as error:  # so there is only stderr to tell it on, whatever the format
        return tell_error(str(error), error.hint, "text")


def _told(arguments: Sequence[str], style: str) -> int:
    """Raises OutputLost alone."""
    from netdiag.cli.output import UNKNOWN, OutputLost, UserError, tell_error, tell_interrupted, without_arguments

    try:
        return _command(arguments)
    except OutputLost:
        raise
    except UserError as error:
        return tell_error(without_arguments(str(error), arguments), error.hint, style)
    except KeyboardInterrupt:
        return tell_interrupted(style)
    except BrokenPipeError:
        return UNKNOWN
    except SystemExit as error:  # shell completion, and typer's own answer to a closed pipe
        return 0 if error.code in (0, None) else UNKNOWN
    except Exception as error:  # the last resort: no traceback reaches the user
        return _unexpected(error, arguments, style)


def _command(arguments: Sequence[str]) -> int:
    if list(arguments) == ["--version"]:  # needs no parser: half of what is left of start-up
        return _version()
    from netdiag.cli.commands import app

    return _status(app(args=list(arguments), prog_name="netdiag", standalone_mode=False))


def _status(outcome: object) -> int:
    """Commands give their status back; --help and --version give 0."""
    if outcome == _TYPERS_CTRL_C:
        raise KeyboardInterrupt
    if not isinstance(outcome, int):
        return 0
    return outcome if 0 <= outcome <= 3 else 3


def _unexpected(error: Exception, arguments: Sequence[str], style: str) -> int:
    from typer.exceptions import TyperException

    from netdiag.cli.output import lost_output, tell_error

    if isinstance(error, TyperException):
        return _usage_error(error, arguments, style)
    if isinstance(error, OSError) and _while_printing(error):  # typer prints --help by itself
        raise lost_output(error) from None
    from netdiag.cli.crash import record

    return tell_error(record(error), None, style)


def _while_printing(error: OSError) -> bool:
    import traceback

    return any(frame.name == "echo" for frame in traceback.extract_tb(error.__traceback__))


def error_style(arguments: Sequence[str]) -> str:
    """How errors are told, seen before the arguments are parsed, for parsing is one of the things that fail."""
    if next((argument for argument in arguments if not argument.startswith("-")), None) == "check":
        return "nagios"
    pairs = zip(arguments, [*arguments, ""][1:], strict=True)
    return "json" if any(a == "--format=json" or (a, b) == ("--format", "json") for a, b in pairs) else "text"


def _version() -> int:
    from netdiag.cli.version import print_short_version

    print_short_version()
    return 0


def _usage_error(error: Exception, arguments: Sequence[str], style: str) -> int:
    from netdiag.cli.output import tell_error, without_arguments

    context = getattr(error, "ctx", None)
    command = context.command_path if context else "netdiag"
    format_message = getattr(error, "format_message", error.__str__)
    return tell_error(without_arguments(format_message(), arguments), f"see `{command} --help`", style)


if __name__ == "__main__":
    main()
