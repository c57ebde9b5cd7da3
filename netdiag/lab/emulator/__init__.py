"""A link with delay, loss, rate and the rest, between two interfaces, in user space.

For kernels without netem, and where the lab runs without root: a process joins two interfaces of its network namespace
with packet sockets and forwards every Ethernet frame (ARP, IPv4, IPv6, VLAN, anything) between them.

    with Emulator(left="l0", right="r0", control=folder / "a", seed=1, inside=("ip", "netns", "exec", "t")) as link:
        link.control.set("both", LinkSettings(delay_s=0.025, loss=0.01))
        link.control.counters()["left-to-right"].dropped

Shares no packet code with the probes: a mistake common to both would cancel out.
"""

from netdiag.lab.emulator.client import Emulator, EmulatorError, LinkControl
from netdiag.lab.emulator.control import BOTH, LEFT_TO_RIGHT, RIGHT_TO_LEFT
from netdiag.lab.emulator.model import Counters, Direction, DropReason
from netdiag.lab.emulator.settings import LinkSettings, SettingsError, Window

__all__ = [
    "BOTH",
    "LEFT_TO_RIGHT",
    "RIGHT_TO_LEFT",
    "Counters",
    "Direction",
    "DropReason",
    "Emulator",
    "EmulatorError",
    "LinkControl",
    "LinkSettings",
    "SettingsError",
    "Window",
]
