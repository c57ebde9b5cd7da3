"""What each command loads, in a fresh interpreter: heavy libraries only where the command is about them."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {"rich", "dns", "psycopg", "scapy", "jinja2", "cryptography", "numpy", "pydantic", "hypothesis"}
LOOPS = {"asyncio", "msgspec", "ssl"}
CHILD = """
import sys
from netdiag.cli.main import invoke
status = invoke(sys.argv[1:])
print("\\n".join(name for name in sys.modules if "." not in name), file=sys.stderr)
sys.exit(status)
"""


def loaded_by(*arguments: str) -> tuple[int, set[str]]:
    child = subprocess.run([sys.executable, "-c", CHILD, *arguments], capture_output=True, text=True, timeout=60)
    return child.returncode, set(child.stderr.split())


def test_version_loads_no_parser_either():
    status, loaded = loaded_by("--version")
    assert status == 0
    assert loaded & (HEAVY | LOOPS | {"typer"}) == set()
    assert "netdiag" in loaded


@pytest.mark.parametrize(
    "arguments", [("--help",), ("run", "--help"), ("plan", "schema"), ("version",), ("check", "--help")]
)
def test_what_only_prints_loads_nothing_that_measures(arguments):
    status, loaded = loaded_by(*arguments)
    assert status == 0
    assert loaded & (HEAVY | LOOPS) == set()


def test_a_usage_error_is_as_cheap():
    status, loaded = loaded_by("run", "--no-such-option")
    assert status == 3
    assert loaded & (HEAVY | LOOPS) == set()


@pytest.mark.parametrize("name", ["latency", "ports", "database"])
def test_a_probe_loads_only_what_it_speaks(name):
    status, loaded = loaded_by("probe", name, "127.0.0.1:1", "--timeout", "10s")
    assert status == 0
    assert loaded & HEAVY == set()


@pytest.mark.parametrize("arguments", [("explain",), ("doctor",)])
def test_explaining_and_examining_load_no_protocol_library(arguments):
    status, loaded = loaded_by(*arguments)
    assert status in (0, 1)
    assert loaded & HEAVY == set()


def test_a_probe_alone_loads_neither_rules_nor_report():
    child = CHILD.replace('if "." not in name', 'if name.startswith("netdiag.")')
    arguments = ("probe", "latency", "127.0.0.1:1", "--set", "count=1")
    done = subprocess.run([sys.executable, "-c", child, *arguments], capture_output=True, text=True, timeout=60)
    loaded = set(done.stderr.split())
    assert "netdiag.cli.probe" in loaded
    assert {name for name in loaded if name.startswith(("netdiag.diagnosis", "netdiag.report"))} == set()
