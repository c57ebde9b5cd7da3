"""A saved run in which one figure was garbled: a verdict or one clear line, never an internal error."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from netdiag.diagnosis.engine import diagnose
from netdiag.evidence import EvidenceError
from netdiag.run_file import decode

SAVED = sorted((Path(__file__).parents[2] / "examples").glob("*/run.json"))
ABSURD = (1e308, -1e308, 1e16, -1.0, 0.0, 1e-320)


def figures(part: Any) -> Iterator[tuple[Any, Any]]:
    """The container and key of every float."""
    for key, item in part.items() if isinstance(part, dict) else enumerate(part):
        if isinstance(item, float):
            yield part, key
        elif isinstance(item, dict | list):
            yield from figures(item)


@pytest.mark.parametrize("file", SAVED, ids=lambda file: file.parent.name)
@pytest.mark.parametrize("seed", range(12))
def test_a_garbled_figure_is_named_or_judged(file, seed):
    draw = random.Random(f"{file.parent.name}/{seed}")
    saved = json.loads(file.read_bytes())
    container, key = draw.choice(list(figures(saved["measurements"])))
    container[key] = draw.choice(ABSURD)
    text = json.dumps(saved).encode()
    if abs(container[key]) > 1e15:
        with pytest.raises(EvidenceError, match=f"{key} is "):
            decode(text, "run.json")
    else:
        assert diagnose(decode(text, "run.json")).verdict


def test_it_says_which_figure_and_what_it_is():
    saved = json.loads(SAVED[0].read_bytes())
    saved["measurements"][1]["duration_s"] = 1e300
    with pytest.raises(EvidenceError, match=r"run\.json: measurements\[1\]\.duration_s is 1e\+300, beyond anything"):
        decode(json.dumps(saved).encode(), "run.json")
