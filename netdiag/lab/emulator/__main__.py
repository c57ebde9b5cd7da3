"""``python -m netdiag.lab.emulator --left IFACE --right IFACE --control PATH --seed N``: see the package."""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import ExitStack
from pathlib import Path

from netdiag.lab.emulator.control import LEFT_TO_RIGHT, RIGHT_TO_LEFT, Commands, ControlServer
from netdiag.lab.emulator.forwarder import Forwarder
from netdiag.lab.emulator.model import Direction
from netdiag.lab.emulator.ports import Port


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="netdiag.lab.emulator", description="Joins two interfaces by a bad link.")
    parser.add_argument("--left", required=True, help="interface of this network namespace")
    parser.add_argument("--right", required=True)
    parser.add_argument("--control", required=True, type=Path, help="where to make the control's Unix socket")
    parser.add_argument("--seed", required=True, type=int, help="decides every pseudo-random choice")
    parser.add_argument("--parent", type=int, help="process to end with; 0: none. Default: the one that started this")
    return parser.parse_args()


def serve(options: argparse.Namespace) -> None:
    """Forward until told to end. Raises OSError if an interface, the parent or the control's path is not usable."""
    parent = os.getppid() if options.parent is None else options.parent
    with ExitStack() as stack:
        left, right = (stack.enter_context(Port(name)) for name in (options.left, options.right))
        directions = Direction(LEFT_TO_RIGHT, options.seed), Direction(RIGHT_TO_LEFT, options.seed)
        forwarder = Forwarder(left, right, *directions)
        server = ControlServer(options.control, Commands(directions, forwarder.count_overruns), parent or None)
        stack.callback(server.close)
        server.catch_signals()
        forwarder.run(server)


def main() -> int:
    options = arguments()
    try:
        serve(options)
    except OSError as error:
        subject = f"{options.left}, {options.right}, {options.control}"
        sys.stderr.write(f"link emulator ({subject}): {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
