"""The lab as an ordinary user, in a user namespace: uid 65534, without any capability outside."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
INSIDE = """
import os
from netdiag.lab.rootless import STATE_DIR
from netdiag.lab.world import World
with World.up(STATE_DIR) as world:
    print(world.world_id, os.getuid())
    print(world.sql("db-west", "SELECT pg_is_in_recovery()"))
    world.nft("fw", "chain f { type filter hook forward priority 0; drop; }")
    print(world.hosts["app"].run(["ping", "-c", "1", "-W", "1", "198.18.3.10"], check=False).returncode)
    world.clear()
    print(world.hosts["app"].run(["ping", "-c", "1", "-W", "1", "198.18.3.10"], check=False).returncode)
"""
OUTSIDE = "import sys; from netdiag.lab.rootless import *; assert not may_make_namespaces(); "
OUTSIDE += "print(refusal(), flush=True); sys.exit(rerun(sys.argv[1:]))"


@pytest.mark.kernel
@pytest.mark.needs("bird", "haproxy", "knotd", "unbound", "nft", "ip", "postgres", "psql", "ping", "setpriv")
def test_an_ordinary_user_brings_the_lab_up_breaks_and_mends_it():
    python = f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}"  # one that every user may execute
    if not Path(python).exists():
        pytest.skip(f"needs {python}, for this interpreter may be out of another user's reach")
    done = as_nobody(python, "-c", OUTSIDE, python, "-c", INSIDE)
    assert (done.returncode, done.stderr) == (0, "")
    refused, world, *said = done.stdout.split()
    assert (refused, said) == ("None", ["65534", "t", "1", "0"])
    assert world not in subprocess.check_output(["ip", "netns"], text=True)
    doctor = as_nobody(python, "-m", "netdiag", "lab", "doctor")
    assert (doctor.returncode, doctor.stderr) == (0, "")
    assert "in a user namespace, by `netdiag lab run` alone" in doctor.stdout


def as_nobody(*command: str) -> subprocess.CompletedProcess[str]:
    packages = f"{sysconfig.get_paths()['purelib']}:{ROOT}"
    environment = {"PATH": os.environ["PATH"], "HOME": "/tmp", "PYTHONPATH": packages, "PYTHONDONTWRITEBYTECODE": "1"}
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"]
    return subprocess.run([*nobody, *command], capture_output=True, text=True, env=environment, cwd="/", check=False)
