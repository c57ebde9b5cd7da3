"""Packet loss, probing until the question "more than x?" is answered or the cap is reached."""

from __future__ import annotations

from probes.latency import LossCount, RttSample, RttSummary  # noqa: F401
