"""The link emulator's settings and control messages: strict, and one line for every mistake."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest

from netdiag.lab.emulator import Direction, LinkSettings, SettingsError, Window
from netdiag.lab.emulator.control import Commands
from netdiag.lab.emulator.ports import ip_length, with_tag
from netdiag.lab.emulator.settings import from_json, to_json

FULL = LinkSettings(
    delay_s=0.025,
    jitter_s=0.002,
    loss=0.05,
    burst=4.0,
    burst_loss=0.8,
    rate_bps=1e7,
    queue_bytes=50_000,
    mtu_drop_bytes=1400,
    duplicate=0.01,
    reorder=0.02,
    reorder_s=0.005,
    window=Window(period_s=30, on_s=10, offset_s=5),
)


def commands() -> Commands:
    return Commands([Direction("left-to-right", 1), Direction("right-to-left", 1)])


def ask(to: Commands, **request: Any) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(to.answer(json.dumps(request).encode()))
    return answer


@pytest.mark.parametrize("settings", [LinkSettings(), FULL], ids=["default", "full"])
def test_settings_survive_json(settings: LinkSettings) -> None:
    assert from_json(json.loads(json.dumps(to_json(settings)))) == settings


def test_defaults_are_not_spelled_out() -> None:
    assert to_json(LinkSettings(delay_s=0.1)) == {"delay_s": 0.1}


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        ([], "settings: not an object"),
        ({"delay": 1}, "settings: unknown key 'delay'"),
        ({"delay_s": "1"}, "delay_s: not a number"),
        ({"delay_s": True}, "delay_s: not a number"),
        ({"delay_s": -0.1}, "delay_s: -0.1 is not between 0 and 60"),
        ({"delay_s": float("nan")}, "delay_s: nan is not between 0 and 60"),
        ({"loss": 5}, "loss: 5 is not between 0 and 1"),
        ({"loss": None}, "loss: not a number"),
        ({"rate_bps": 0}, "rate_bps: 0 is not between 1 and 1e+11"),
        ({"rate_bps": 1e6, "queue_bytes": 1.5}, "queue_bytes: not a whole number"),
        ({"queue_bytes": 1000}, "queue_bytes: needs rate_bps, nothing queues for a link without a rate"),
        ({"mtu_drop_bytes": 0}, "mtu_drop_bytes: 0 is not between 1 and 1.07374e+09"),
        ({"loss": 0.9, "burst": 2}, "loss: 0.9 with bursts of 2 cannot exceed 0.6667"),
        ({"burst": 0.5}, "burst: 0.5 is not between 1 and 1e+06"),
        ({"burst_loss": 0.5}, "burst_loss: needs burst"),
        ({"window": 3}, "window: not an object"),
        ({"window": {"period_s": 30}}, "window.on_s: missing"),
        ({"window": {"period_s": 30, "on_s": 31}}, "window.on_s: 31 is not between 0 and 30"),
        ({"window": {"period_s": 30, "on_s": 1, "x\n": 1}}, r"window: unknown key 'x\n'"),
    ],
)
def test_a_mistake_in_the_settings_is_one_exact_line(plain: object, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        from_json(plain)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"\xff", "message: not JSON"),
        (b"[" * 40_000, "message: not JSON"),
        (b"[]", "message: not an object"),
        (b"{}", "do: not one of set, counters, settings, stop"),
        (b'{"do": ["set"]}', "do: not one of set, counters, settings, stop"),
        (b'{"do": "stop", "now": 1}', "stop: unknown key 'now'"),
        (b'{"do": "set", "direction": "both"}', "settings: not a list of at most 32"),
        (b'{"do": "set", "direction": "both", "settings": [], "seed": 1.5}', "seed: not a whole number"),
        (
            b'{"do": "set", "direction": "up", "settings": []}',
            "direction: not one of left-to-right, right-to-left, both",
        ),
        (
            b'{"do": "set", "direction": ["both"], "settings": []}',
            "direction: not one of left-to-right, right-to-left, both",
        ),
        (b'{"do": "set", "direction": "both", "settings": [{"lag": 1}]}', "settings: unknown key 'lag'"),
    ],
)
def test_a_mistake_in_a_message_is_answered_with_one_exact_line(raw: bytes, message: str) -> None:
    assert json.loads(commands().answer(raw)) == {"error": message}


def test_settings_reach_the_direction_they_are_for() -> None:
    to = commands()
    assert ask(to, do="set", direction="right-to-left", settings=[{"loss": 0.5}]) == {"ok": None}
    assert ask(to, do="settings") == {"ok": {"left-to-right": [], "right-to-left": [{"loss": 0.5}]}}
    assert ask(to, do="set", direction="both", settings=[{"delay_s": 1}]) == {"ok": None}
    assert ask(to, do="settings")["ok"]["left-to-right"] == [{"delay_s": 1}]


def test_a_refused_message_changes_nothing() -> None:
    to = commands()
    ask(to, do="set", direction="both", settings=[{"delay_s": 1}])
    assert "error" in ask(to, do="set", direction="both", settings=[{"delay_s": 2}, {"delay_s": -1}])
    assert ask(to, do="settings")["ok"]["left-to-right"] == [{"delay_s": 1}]


def test_stop_stops() -> None:
    to = commands()
    assert not to.stopped
    assert ask(to, do="stop") == {"ok": None}
    assert to.stopped


# Frames as tcpdump -xx shows them.
ARP = bytes.fromhex("ffffffffffff02000000000108060001080006040001020000000001" + "0a490001" + "00" * 6 + "0a490002")
IPV4 = bytes.fromhex("020000000002020000000001" + "0800" + "4500054a00004000400100000a4900010a490002") + b"\0" * 1334
IPV6 = bytes.fromhex("020000000002020000000001" + "86dd" + "6000000000083a40") + b"\0" * 40


@pytest.mark.parametrize(("frame", "length"), [(ARP, None), (IPV4, 1354), (IPV6, 48), (b"\0" * 13, None)])
def test_the_length_of_the_ip_packet_is_the_one_its_header_states(frame: bytes, length: int | None) -> None:
    assert ip_length(frame) == length
    assert ip_length(with_tag(frame, 0x8100, 42)) == length
    assert ip_length(with_tag(with_tag(frame, 0x8100, 42), 0x88A8, 7)) == length


def test_a_tag_goes_behind_the_addresses() -> None:
    tagged = with_tag(IPV4, 0x8100, 0x2064)
    assert tagged[:12] == IPV4[:12]
    assert struct.unpack("!HH", tagged[12:16]) == (0x8100, 0x2064)
    assert tagged[16:] == IPV4[12:]
