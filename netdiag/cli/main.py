"""The entry point: the only place that ends the process.

Exit status everywhere: 0 healthy, 1 degraded, 2 critical, 3 could not tell (bad usage included).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from netdiag.cli.output import UNKNOWN, OutputLost, UserError, tell_error, without_arguments


def main() -> None:
    """The console script. The only place that ends the process."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a Latin-1 terminal shows escapes instead of a UnicodeEncodeError
            stream.reconfigure(errors="backslashreplace")
    sys.exit(invoke(sys.argv[1:]))


def invoke(arguments: Sequence[str]) -> int:
    """Run one command; its exit status. Whatever goes wrong is told in one line."""
    style = error_style(arguments)
    if list(arguments) == ["--version"]:  # needs no parser: half of what is left of start-up
        return _version()
    try:
        from netdiag.cli.commands import app

        return _status(app(args=list(arguments), prog_name="netdiag", standalone_mode=False))
    except OutputLost as error:
        return tell_error(str(error), error.hint, "text")
    except UserError as error:
        return tell_error(without_arguments(str(error), arguments), error.hint, style)
    except (BrokenPipeError, KeyboardInterrupt):
        return UNKNOWN
    except SystemExit as error:  # shell completion, and typer's own answer to a closed pipe
        return 0 if error.code in (0, None) else UNKNOWN
    except Exception as error:  # the last resort: no traceback reaches the user
        return _unexpected(error, arguments, style)


def _unexpected(error: Exception, arguments: Sequence[str], style: str) -> int:
    from typer.exceptions import TyperException

    if isinstance(error, TyperException):
        return _usage_error(error, arguments, style)
    from netdiag.cli.crash import record

    return tell_error(record(error), None, style)


def _status(outcome: object) -> int:
    """Commands give their status back; --help and --version give 0; Ctrl-C gives 130, which is no answer."""
    if not isinstance(outcome, int):
        return 0
    return outcome if 0 <= outcome <= UNKNOWN else UNKNOWN


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
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "netdiag"
    format_message = getattr(error, "format_message", error.__str__)
    return tell_error(without_arguments(format_message(), arguments), f"see `{command} --help`", style)


if __name__ == "__main__":
    main()
