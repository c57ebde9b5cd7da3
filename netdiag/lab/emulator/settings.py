"""What one direction of an emulated link does to frames: a value, checked when it is made, and its JSON form."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from probes.model import value

MAX_DELAY_S = 60.0
MAX_RATE_BPS = 1e11
MAX_BYTES = 1 << 30


class SettingsError(ValueError):
    """Settings that make no sense. The text is one line and names the key."""


@value
class Window:
    """On for the first ``on_s`` seconds of every ``period_s``, ``offset_s`` after the settings were put in force."""

    period_s: float
    on_s: float
    offset_s: float = 0.0

    def __post_init__(self) -> None:
        _within("window.period_s", self.period_s, 1e-3, 1e6)
        _within("window.on_s", self.on_s, 0.0, self.period_s)
        _within("window.offset_s", self.offset_s, 0.0, 1e6)

    def is_on(self, elapsed_s: float) -> bool:
        """``elapsed_s``: seconds since the settings were put in force. Before ``offset_s`` it is off."""
        since = elapsed_s - self.offset_s
        return since >= 0.0 and math.fmod(since, self.period_s) < self.on_s


@value
class LinkSettings:
    """One direction of a link. The default is a plain wire.

    Of several settings in force together the last whose window is on applies alone, so a fault that comes and goes is
    the link's usual settings followed by ``replace(usual, loss=0.3, window=Window(period_s=30, on_s=10))``.
    Raises SettingsError.
    """

    delay_s: float = 0.0  # 0 to 60; every frame, after its transmission
    jitter_s: float = 0.0  # 0 to 60: uniform between 0 and this much on top of delay_s; never reorders (see Direction)
    loss: float = 0.0  # 0 to 1: mean ratio of frames lost
    burst: float | None = None  # Gilbert-Elliott: mean frames per bad spell, 1 or more; None: losses are independent
    burst_loss: float = 1.0  # Gilbert-Elliott: ratio lost in a bad spell, above 0 to 1; none is lost between spells
    rate_bps: float | None = (
        None  # bits per second of Ethernet frame without preamble and checksum, as tcpdump -e shows
    )
    queue_bytes: int | None = None  # bytes that may wait for rate_bps, with the frame in transmission; None: no limit
    mtu_drop_bytes: int | None = None  # IP packets longer than this vanish without an ICMP error
    duplicate: float = 0.0  # 0 to 1: ratio of frames sent twice, back to back
    reorder: float = 0.0  # 0 to 1: ratio of frames held back reorder_s while later ones pass
    reorder_s: float = 0.01  # above 0 to 60
    window: Window | None = None  # None: always

    def __post_init__(self) -> None:
        for name in ("delay_s", "jitter_s"):
            _within(name, getattr(self, name), 0.0, MAX_DELAY_S)
        for name in ("loss", "duplicate", "reorder"):
            _within(name, getattr(self, name), 0.0, 1.0)
        _within("reorder_s", self.reorder_s, 1e-6, MAX_DELAY_S)
        _within("burst_loss", self.burst_loss, 1e-6, 1.0)
        self._check_rate()
        self._check_burst()
        if self.window is not None and not isinstance(self.window, Window):
            raise SettingsError("window: not a window")

    def _check_rate(self) -> None:
        if self.rate_bps is not None:
            _within("rate_bps", self.rate_bps, 1.0, MAX_RATE_BPS)
        for name in ("queue_bytes", "mtu_drop_bytes"):
            size = getattr(self, name)
            if size is not None:
                _whole(name, size)
        if self.queue_bytes is not None and self.rate_bps is None:
            raise SettingsError("queue_bytes: needs rate_bps, nothing queues for a link without a rate")

    def _check_burst(self) -> None:
        if self.burst is None:
            if self.burst_loss != 1.0:
                raise SettingsError("burst_loss: needs burst")
            return
        _within("burst", self.burst, 1.0, 1e6)
        most = self.burst_loss * self.burst / (self.burst + 1.0)
        if self.loss > most:
            raise SettingsError(f"loss: {self.loss:g} with bursts of {self.burst:g} cannot exceed {most:.4g}")

    def spells(self) -> tuple[float, float]:
        """Gilbert-Elliott transition probabilities per frame (good to bad, bad to good). (0, 1) without bursts.

        The stationary ratio of bad frames is p / (p + r), and a bad spell lasts 1 / r frames (Gilbert 1960).
        """
        if self.burst is None:
            return 0.0, 1.0
        bad = self.loss / self.burst_loss
        leave = 1.0 / self.burst
        return bad * leave / (1.0 - bad), leave


def to_json(settings: LinkSettings) -> dict[str, Any]:
    """Builtins for JSON; keys at their default are left out."""
    plain = {f.name: getattr(settings, f.name) for f in fields(settings) if getattr(settings, f.name) != f.default}
    if settings.window is not None:
        plain["window"] = {f.name: getattr(settings.window, f.name) for f in fields(settings.window)}
    return plain


def from_json(plain: object) -> LinkSettings:
    """The inverse of ``to_json``. Raises SettingsError for unknown keys, wrong types and values out of range."""
    given = _known("settings", plain, LinkSettings)
    if given.get("window") is not None:
        window = _known("window", given["window"], Window)
        missing = [name for name in ("period_s", "on_s") if name not in window]
        if missing:
            raise SettingsError(f"window.{missing[0]}: missing")
        given["window"] = Window(**window)
    return LinkSettings(**given)


def _known(what: str, plain: object, kind: type[LinkSettings] | type[Window]) -> dict[str, Any]:
    if not isinstance(plain, Mapping):
        raise SettingsError(f"{what}: not an object")
    unknown = sorted(str(key) for key in plain.keys() - {f.name for f in fields(kind)})
    if unknown:
        raise SettingsError(f"{what}: unknown key {unknown[0][:40]!r}")
    return dict(plain)


def _within(name: str, number: object, low: float, high: float) -> None:
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise SettingsError(f"{name}: not a number")
    if not low <= number <= high:  # false for nan as well
        raise SettingsError(f"{name}: {number:g} is not between {low:g} and {high:g}")


def _whole(name: str, number: object) -> None:
    if isinstance(number, bool) or not isinstance(number, int):
        raise SettingsError(f"{name}: not a whole number")
    _within(name, number, 1, MAX_BYTES)
