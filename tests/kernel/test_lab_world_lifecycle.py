"""After the lab nothing is left, whatever became of its owner. Judged by ip, /proc and the file system."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from netdiag.lab.errors import LabError
from netdiag.lab.world import World

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.needs("bird", "haproxy", "knotd", "unbound", "nft", "ip", "postgres", "psql"),
    pytest.mark.timeout(300),
]
UP = "import sys, time; from pathlib import Path; from netdiag.lab.world import World\n"
UP += "world = World.up(Path(sys.argv[1]), detached={detached}); print('up', flush=True)\n"
PATIENCE_S = 20.0


@pytest.fixture
def place() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix=f"nd{os.getpid()}-"))
    folder.chmod(0o711)
    try:
        yield folder / "lab"
    finally:
        World.clean(folder / "lab")
        folder.rmdir()  # fails where the world left a file


def processes_of(place: Path) -> list[str]:
    """By what their command line names: it knows nothing of state files."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if str(place) in command:
                found.append(command)
    return found


def world_id(place: Path) -> str:
    return str(json.loads((place / "world.jsonl").read_text().splitlines()[0])["world"])


def await_begun(place: Path, process: subprocess.Popen[str]) -> None:
    """Until the first line of the state file is whole: a file is there before its text."""
    journal = place / "world.jsonl"
    while not (journal.exists() and journal.read_text().endswith("\n")):
        assert process.poll() is None
        time.sleep(0.01)


def left_of(identity: str, place: Path) -> list[str]:
    namespaces = [line.split()[0] for line in subprocess.check_output(["ip", "netns"], text=True).splitlines() if line]
    found = [name for name in namespaces if name.startswith(identity)]
    found += [str(path) for path in Path("/etc/netns").glob(f"{identity}*")]
    return found + processes_of(place) + ([str(place)] if place.exists() else [])


def owner(place: Path, *, detached: bool, then: str = "") -> subprocess.Popen[str]:
    program = UP.format(detached=detached) + then
    return subprocess.Popen([sys.executable, "-c", program, str(place)], stdout=subprocess.PIPE, text=True)


def test_down_leaves_nothing_and_may_be_said_twice(place):
    world = World.up(place)
    identity = world.world_id
    shell = world.hosts["app"].run(["sh", "-c", "sleep 1000 >/dev/null 2>&1 & echo $!"]).stdout.strip()
    assert len(left_of(identity, place)) > 30
    world.down()
    assert left_of(identity, place) == []
    state = subprocess.run(["ps", "-o", "stat=", "-p", shell], capture_output=True, text=True, check=False).stdout
    assert state.strip() in ("", "Z")  # nobody had written it down; it was inside. Init reaps it in its own time
    world.down()


def test_killed_while_it_comes_up(place):
    seed = random.SystemRandom().randrange(10**6)
    sys.stdout.write(f"seed {seed}\n")
    draw = random.Random(seed)
    for _ in range(3):
        process = owner(place, detached=draw.choice([True, False]))
        try:
            await_begun(place, process)
            time.sleep(draw.uniform(0.0, 4.0))
            identity = world_id(place)
        finally:
            process.kill()
            process.wait()
        World.clean(place)
        assert left_of(identity, place) == []


def test_a_command_that_is_told_to_end_takes_its_world_down(place):
    seed = random.SystemRandom().randrange(10**6)
    sys.stdout.write(f"seed {seed}\n")
    command = [sys.executable, "-m", "netdiag", "lab", "up", "--state", str(place)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        await_begun(place, process)
        identity = world_id(place)
        time.sleep(random.Random(seed).uniform(0.0, 2.0))
        process.send_signal(signal.SIGTERM)
        process.communicate()
    assert process.returncode == 3
    assert left_of(identity, place) == []


def test_a_detached_world_outlives_its_command_and_the_next_up_replaces_it(place):
    process = owner(place, detached=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    process.wait()
    first = World.attach(place)
    assert all(service.is_running() for service in first.services.values())
    second = World.up(place)
    assert left_of(first.world_id, place / "of the first") == []
    second.down()
    assert left_of(second.world_id, place) == []


def test_an_owner_killed_takes_its_servers_along_and_clean_the_rest(place):
    process = owner(place, detached=False, then="time.sleep(1000)")
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    identity = world_id(place)
    process.send_signal(signal.SIGKILL)
    process.wait()
    end = time.monotonic() + PATIENCE_S
    while processes_of(place):
        assert time.monotonic() < end, processes_of(place)
        time.sleep(0.1)
    assert left_of(identity, place)  # namespaces
    World.clean(place)
    assert left_of(identity, place) == []


def test_two_worlds_side_by_side(place):
    with World.up(place.with_name("one")) as one, World.up(place.with_name("two")) as two:
        one.nft("fw", "chain f { type filter hook forward priority 0; drop; }")
        assert two.hosts["app"].run(["ping", "-c", "1", "198.18.3.10"], check=False).returncode == 0
        assert one.hosts["app"].run(["ping", "-c", "1", "-W", "1", "198.18.3.10"], check=False).returncode == 1


def test_a_failure_on_the_way_up_leaves_nothing(place, monkeypatch):
    monkeypatch.setattr("netdiag.lab.services.bird.configure", lambda *_: "nonsense;")
    with pytest.raises(LabError, match=r"did not start.*syntax error"):
        World.up(place)
    assert not place.exists()
    assert processes_of(place) == []


def test_where_there_is_none_attach_says_so_and_clean_is_content(place):
    World.clean(place)
    with pytest.raises(LabError, match="no lab in"):
        World.attach(place)
