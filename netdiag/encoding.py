"""Values as JSON types. Apart from run_file.py, so that a probe alone starts without diagnosis and report."""

from __future__ import annotations

from typing import Any

import msgspec

from probes.model import Secret


def builtins(thing: Any) -> Any:
    """Values as JSON types; a Secret as ``***``."""
    return msgspec.to_builtins(thing, enc_hook=_encode_other)


def _encode_other(thing: Any) -> Any:
    if isinstance(thing, Secret):
        return "***"
    raise NotImplementedError(f"no JSON form for {type(thing).__name__}")
