"""The link emulator between real hosts, judged by ping, by tcpdump's stamps and by the kernel's own counters."""

from __future__ import annotations

import math
import os
import re
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from random import Random, SystemRandom

import pytest

from netdiag.lab.emulator import Emulator, EmulatorError, LinkControl, LinkSettings, SettingsError, Window
from tests.kernel.emulated import LEFT, RIGHT, RIGHT6, EmulatedLine, capture, emulated_line, numbered
from tests.kernel.netns import Namespace, namespaces

pytestmark = pytest.mark.kernel
THERE, BACK = "left-to-right", "right-to-left"
# Before what else runs here: a sender that waits for its turn sends late, which says nothing of the link (sched(7)).
_RUN_FIRST = ("chrt", "--rr", "1")
FIRST = _RUN_FIRST if subprocess.run([*_RUN_FIRST, "true"], capture_output=True, check=False).returncode == 0 else ()
PORT = 9


@pytest.fixture(scope="module")
def shared() -> Iterator[EmulatedLine]:
    with emulated_line(seed=1) as line, line.right.inside(_sink):
        yield line


@pytest.fixture
def line(shared: EmulatedLine) -> Iterator[EmulatedLine]:
    shared.control.clear()
    shared.left.run("ping", "-c", "1", RIGHT)  # neighbours known
    shared.left.run("ping", "-c", "1", RIGHT6)
    yield shared
    shared.control.clear()


@pytest.fixture
def dice() -> Random:
    seed = SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")  # noqa: T201
    return Random(seed)


def _sink() -> socket.socket:
    """Without a socket every packet would draw an ICMP error."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((RIGHT, PORT))
    return sock


def send(line: EmulatedLine, count: int, *, size: int = 64, interval_s: float = 2e-4) -> None:
    def work() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.connect((RIGHT, PORT))
            for number in range(count):
                sock.send(struct.pack("!I", number).ljust(size, b"."))
                time.sleep(interval_s)

    line.left.inside(work)


def arrived(line: EmulatedLine, count: int, *, size: int = 64, settle_s: float = 0.3) -> list[int]:
    """The numbers of ``count`` packets as tcpdump saw them arrive."""
    file = line.folder / "arrived"
    with capture(line.right, file, "udp", "port", str(PORT)):
        send(line, count, size=size)
        time.sleep(settle_s)
    return [number for number, _ in numbered(file)]


def round_trips_ms(said: str) -> list[float]:
    return [float(word[5:]) for word in said.split() if word.startswith("time=")]


def wait_for(condition: Callable[[], bool], timeout_s: float = 5.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def test_ping_sees_the_set_delays_of_both_directions(line: EmulatedLine, dice: Random) -> None:
    there, back = dice.uniform(0.0, 0.05), dice.uniform(0.0, 0.05)
    line.control.set(THERE, LinkSettings(delay_s=there))
    line.control.set(BACK, LinkSettings(delay_s=back))
    for host in (RIGHT, RIGHT6):
        seen = round_trips_ms(line.left.run(*FIRST, "ping", "-c", "30", "-i", "0.02", host))
        assert statistics.median(seen) == pytest.approx((there + back) * 1e3, abs=1.0)
        assert min(seen) >= (there + back) * 1e3 - 0.01  # never early; ping prints three digits


@pytest.mark.needs("tcpdump")
def test_the_stamps_of_tcpdump_show_the_set_delay(line: EmulatedLine, dice: Random) -> None:
    delay = dice.uniform(0.0, 0.06)
    line.control.set(THERE, LinkSettings(delay_s=delay))
    sent, seen = line.folder / "sent", line.folder / "arrived"
    with capture(line.left, sent, "udp", "port", str(PORT)), capture(line.right, seen, "udp", "port", str(PORT)):
        send(line, 1000, interval_s=4e-4)
        time.sleep(delay)
    left = dict(numbered(sent))
    errors = [stamp - left[number] - delay for number, stamp in numbered(seen)]
    assert len(errors) == 1000
    assert min(errors) > -2e-6
    assert statistics.median(errors) < 5e-4


@pytest.mark.needs("tcpdump")
def test_the_loss_that_arrives_is_the_set_one_and_the_counted_one(line: EmulatedLine, dice: Random) -> None:
    loss = dice.uniform(0.02, 0.4)
    line.control.set(THERE, LinkSettings(loss=loss), seed=dice.getrandbits(32))
    before = line.control.counters()[THERE]
    seen = arrived(line, 4000)
    after = line.control.counters()[THERE]
    assert 1 - len(seen) / 4000 == pytest.approx(loss, abs=5 * math.sqrt(loss * (1 - loss) / 4000))
    # Beside the 4,000 a neighbour solicitation or two may have crossed, or have been lost.
    assert 0 <= after.received - before.received - 4000 <= 5
    assert 0 <= after.forwarded - before.forwarded - len(seen) <= 5
    assert 0 <= after.dropped["loss"] - before.dropped["loss"] - (4000 - len(seen)) <= 5
    assert after.dropped["overrun"] == before.dropped["overrun"]


@pytest.mark.needs("tcpdump")
def test_the_same_seed_loses_the_same_packets() -> None:
    patterns = []
    with emulated_line() as line, line.right.inside(_sink):
        # Nothing but the numbered packets may cross: a neighbour solicitation would shift the pattern.
        for host, other, address in ((line.left, line.right, RIGHT), (line.right, line.left, LEFT)):
            host.sysctl(net__ipv6__conf__all__disable_ipv6=1)
            host.ip("neigh", "replace", address, "lladdr", _mac(other), "dev", "wan", "nud", "permanent")
        for seed in (11, 11, 12):
            line.control.set(THERE, LinkSettings(loss=0.2, burst=3.0), seed=seed)
            patterns.append(arrived(line, 300))
    assert patterns[0] == patterns[1]
    assert patterns[0] != patterns[2]


def _mac(host: Namespace) -> str:
    return host.run("cat", "/sys/class/net/wan/address").strip()


@pytest.mark.needs("tcpdump")
def test_duplicates_and_reordering_arrive_as_counted(line: EmulatedLine, dice: Random) -> None:
    settings = LinkSettings(delay_s=0.005, duplicate=dice.uniform(0.05, 0.3), reorder=dice.uniform(0.05, 0.2))
    before = line.control.counters()[THERE]
    line.control.set(THERE, settings, seed=dice.getrandbits(32))
    seen = arrived(line, 2000)
    after = line.control.counters()[THERE]
    late = sum(number < max(seen[:place], default=-1) for place, number in enumerate(seen))
    # Beside the 2,000 a neighbour solicitation or two may have crossed, and have been doubled or overtaken.
    assert late > 0 < len(seen) - 2000
    assert 0 <= after.duplicated - before.duplicated - (len(seen) - 2000) <= 5
    assert 0 <= after.reordered - before.reordered - late <= 5
    assert set(seen) == set(range(2000))


def test_the_rate_holds_for_a_train_of_packets_and_its_queue_overflows(line: EmulatedLine, dice: Random) -> None:
    rate = dice.uniform(1e6, 4e6)
    line.control.set(THERE, LinkSettings(rate_bps=rate, queue_bytes=60_000))
    before = line.control.counters()[THERE]
    send(line, 200, size=1400, interval_s=0.0)  # 1,442 bytes of frame each, at once
    assert wait_for(lambda: line.control.counters()[THERE].waiting == 0)
    after = line.control.counters()[THERE]
    queued = 60_000 // 1442
    passed = after.forwarded - before.forwarded
    assert queued <= passed < 200
    assert after.dropped["queue"] - before.dropped["queue"] == pytest.approx(200 - passed, abs=2)


def test_a_queue_delays_before_it_drops(line: EmulatedLine) -> None:
    line.control.set(THERE, LinkSettings(rate_bps=1e6))
    # Five echo requests of 1,042 bytes sent at once leave 8.336 ms apart.
    said = line.left.run(*FIRST, "ping", "-l", "5", "-c", "5", "-s", "1000", RIGHT)
    expected = [8.336 * n for n in range(1, 6)]
    assert round_trips_ms(said) == pytest.approx(expected, abs=2.0)


def test_packets_above_the_size_vanish_without_a_word(line: EmulatedLine) -> None:
    line.control.set(THERE, LinkSettings(mtu_drop_bytes=1300))
    assert " 0% packet loss" in line.left.run("ping", "-c", "2", "-i", "0.1", "-s", "1272", "-M", "do", RIGHT)
    assert " 0% packet loss" in line.left.run("ping", "-c", "2", "-i", "0.1", "-s", "1252", RIGHT6)
    before = line.control.counters()[THERE].dropped["too-big"]
    for size, host in (("1273", RIGHT), ("1253", RIGHT6)):
        with pytest.raises(RuntimeError) as silence:
            line.left.run("ping", "-c", "2", "-i", "0.1", "-W", "0.5", "-s", size, "-M", "do", host)
        assert "too long" not in str(silence.value)
    assert line.control.counters()[THERE].dropped["too-big"] == before + 4


def test_a_window_is_bad_only_in_its_part_of_the_period(line: EmulatedLine) -> None:
    line.control.set(THERE, LinkSettings(loss=1.0, window=Window(period_s=2.0, on_s=1.0, offset_s=0.5)))
    said = line.left.run(*FIRST, "ping", "-c", "45", "-i", "0.1", "-O", "-W", "1", RIGHT)
    answered = {int(word[9:]) for word in said.split() if word.startswith("icmp_seq=") and word[9:].isdigit()}
    unanswered = {int(text.split("icmp_seq=")[1]) for text in said.splitlines() if "no answer yet" in text}
    good = sorted(answered - unanswered)
    gaps = [after - before - 1 for before, after in pairwise(good) if after - before > 1]
    assert len(gaps) == 2  # 0.5 to 1.5 s and 2.5 to 3.5 s; at 4.5 s the last ping is out
    assert all(8 <= gap <= 11 for gap in gaps), gaps


def test_arp_and_neighbour_discovery_pass(line: EmulatedLine) -> None:
    for host in (line.left, line.right):
        host.ip("neigh", "flush", "dev", "wan")
    for address in (RIGHT, RIGHT6):
        assert " 0% packet loss" in line.left.run("ping", "-c", "2", "-i", "0.1", address)


@pytest.mark.parametrize("tags", ["8100202a", "88a80007", "88a800078100202a"], ids=["C", "S", "S+C"])
def test_frames_with_vlan_tags_pass_unchanged(line: EmulatedLine, tags: str) -> None:
    # The full 1,500 bytes behind the tag: such a frame is longer than an untagged one may be.
    size = 1500 if len(tags) == 8 and tags.startswith("8100") else 1400
    addresses = bytes.fromhex(_mac(line.right).replace(":", "") + _mac(line.left).replace(":", ""))
    frame = addresses + bytes.fromhex(tags) + b"\x88\xb5" + os.urandom(size)  # IEEE 802: local experimental type
    file = line.folder / "tagged"
    with capture(line.right, file, "-s", "0", "ether", "src", _mac(line.left), "and", "greater", "1300"):
        line.left.inside(lambda: _send_raw(frame))
    assert file.read_bytes().endswith(frame)


def _send_raw(frame: bytes) -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
        sock.bind(("wan", 0))
        sock.send(frame)


@pytest.mark.needs("tcpdump")
def test_tcp_crosses_with_right_checksums_and_no_giant_segments(line: EmulatedLine) -> None:
    file = line.folder / "tcp"
    process = line.right.spawn(
        "tcpdump", "-Z", "root", "-U", "-i", "wan", "-w", str(file), "tcp", stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    assert any(b"listening on" in said for said in process.stderr)
    with line.right.listen(5000, RIGHT) as server:
        client = line.left.inside(lambda: socket.create_connection((RIGHT, 5000), timeout=5))
        accepted, _ = server.accept()
        with client, accepted:
            client.sendall(b"x" * 200_000)
            got = 0
            while got < 200_000:
                got += len(accepted.recv(65536))
    time.sleep(1.2)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=10)
    said = line.right.run("tcpdump", "-r", str(file), "-nn", "-vv", "-e")
    assert said.count("correct") > 130
    assert "incorrect" not in said
    assert max(int(length) for length in re.findall(r"ethertype IPv4 .0x0800., length (\d+):", said)) == 1514


def test_a_sender_that_left_its_offloads_on_shows_in_the_counters() -> None:
    with emulated_line(offloads=True) as line:
        line.left.run("ping", "-c", "1", RIGHT)
        with line.right.inside(_sink):
            send(line, 10)
        assert line.control.counters()[THERE].dropped["checksum"] == 10


def test_nothing_that_the_emulator_sends_comes_back_in(line: EmulatedLine) -> None:
    before = line.control.counters()
    send(line, 500)
    assert wait_for(lambda: line.control.counters()[THERE].forwarded - before[THERE].forwarded >= 500)
    after = line.control.counters()
    assert after[THERE].received - before[THERE].received < 520
    assert after[BACK].received - before[BACK].received < 20


def test_the_emulator_itself_is_silent_on_the_link() -> None:
    with emulated_line() as line:
        quiet = line.control.counters()
        for host in (line.left, line.right):
            own = int(host.run("cat", "/sys/class/net/wan/statistics/tx_packets"))
            way = THERE if host is line.left else BACK
            assert quiet[way].received <= own  # what came in was sent by the host, and nothing by the link's ends
        ends = line.middle.ip("-6", "addr", "show", "dev", "l") + line.middle.ip("-6", "addr", "show", "dev", "r")
        assert ends.strip() == ""


def test_a_refused_setting_leaves_the_link_as_it_was(line: EmulatedLine) -> None:
    line.control.set("both", LinkSettings(delay_s=0.01))
    with pytest.raises(SettingsError, match=r"^direction: not one of left-to-right, right-to-left, both$"):
        line.control.set("up", LinkSettings())
    assert line.control.settings() == {THERE: (LinkSettings(delay_s=0.01),), BACK: (LinkSettings(delay_s=0.01),)}


def test_a_client_that_never_reads_or_speaks_nonsense_does_not_stop_the_link(line: EmulatedLine) -> None:
    path = str(line.control.path)
    idle = [socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(8)]
    for number, sock in enumerate(idle):
        sock.connect(path)
        if number % 2:
            for _ in range(50):
                sock.send(b"\xff" * 1000)
    assert " 0% packet loss" in line.left.run("ping", "-c", "3", "-i", "0.1", RIGHT)
    assert line.control.counters()[THERE].forwarded > 0
    for sock in idle:
        sock.close()


class TestLife:
    """One emulator each: how it starts and how it ends."""

    @pytest.fixture
    def ends(self) -> Iterator[Namespace]:
        """A namespace with two interfaces."""
        with namespaces("e") as (middle,):
            for name in ("l", "r"):
                middle.ip("link", "add", "name", name, "type", "veth", "peer", "name", f"{name}x")
            yield middle

    def start(self, ends: Namespace, control: Path, right: str = "r", **more: bool) -> Emulator:
        enter = ("ip", "netns", "exec", ends.name)
        return Emulator(left="l", right=right, control=control, seed=1, inside=enter, **more)

    @pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT, None], ids=["TERM", "INT", "stop"])
    def test_it_ends_and_leaves_no_file(self, ends: Namespace, tmp_path: Path, end: signal.Signals | None) -> None:
        with self.start(ends, tmp_path / "c") as emulator:
            assert [file.name for file in tmp_path.iterdir()] == ["c"]
            assert (tmp_path / "c").stat().st_mode & 0o077 == 0
            if end is None:
                emulator.control.stop()
            else:
                os.kill(emulator.pid, end)
            assert wait_for(lambda: _gone(emulator.pid))
            assert list(tmp_path.iterdir()) == []

    def test_it_ends_when_its_path_is_removed(self, ends: Namespace, tmp_path: Path) -> None:
        folder = tmp_path / "lab"
        folder.mkdir()
        with self.start(ends, folder / "c") as emulator:
            shutil.rmtree(folder)
            assert wait_for(lambda: _gone(emulator.pid))

    @pytest.mark.parametrize("detached", [False, True])
    def test_it_ends_with_its_parent_unless_detached(self, ends: Namespace, tmp_path: Path, detached: bool) -> None:
        program = (
            "import os, signal; from pathlib import Path; from netdiag.lab.emulator import Emulator\n"
            f"Emulator(left='l', right='r', control=Path({str(tmp_path / 'c')!r}), seed=1, detached={detached},\n"
            f"         inside=('ip', 'netns', 'exec', {ends.name!r}))\n"
            "os.kill(os.getpid(), signal.SIGKILL)\n"
        )
        subprocess.run([sys.executable, "-c", program], check=False, timeout=30)
        if detached:
            LinkControl(tmp_path / "c").stop()
        assert wait_for(lambda: list(tmp_path.iterdir()) == [])

    def test_a_killed_one_is_succeeded_at_the_same_path_and_a_living_one_is_not(
        self, ends: Namespace, tmp_path: Path
    ) -> None:
        with self.start(ends, tmp_path / "c") as first:
            os.kill(first.pid, signal.SIGKILL)
            assert wait_for(lambda: _gone(first.pid))
        with self.start(ends, tmp_path / "c") as second:
            with pytest.raises(EmulatorError, match=r"/c: another emulator answers there$"):
                self.start(ends, tmp_path / "c")
            module = [sys.executable, "-m", "netdiag.lab.emulator", "--left", "l", "--right", "r", "--seed", "1"]
            with pytest.raises(RuntimeError, match="Address already in use"):
                ends.run(*module, "--control", str(tmp_path / "c"))
            assert second.control.counters()[THERE].waiting == 0

    def test_an_interface_that_is_not_there_is_named(self, ends: Namespace, tmp_path: Path) -> None:
        with pytest.raises(EmulatorError, match=r"^link emulator \(l, none, .*/c\): .*[Nn]o (such device|interface)"):
            self.start(ends, tmp_path / "c", right="none")
        assert list(tmp_path.iterdir()) == []


def _gone(pid: int) -> bool:
    """Ended, or a zombie that nobody has waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("ascii").rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


ROOTLESS = """
set -e
ip link add wan type veth peer name l
ip link add far type veth peer name r
unshare -n sleep 30 & other=$!
while [ "$(readlink /proc/$other/ns/net)" = "$(readlink /proc/$$/ns/net)" ]; do sleep 0.05; done
ip link set far netns $other
ip addr add 10.75.0.1/24 dev wan; ip link set wan up
nsenter -t $other -n sh -c 'ip addr add 10.75.0.2/24 dev far; ip link set far up'
"$PYTHON" -m netdiag.lab.emulator --left l --right r --control "$FOLDER/c" --seed 1 & emulator=$!
until [ -S "$FOLDER/c" ]; do kill -0 $emulator; sleep 0.1; done
"$PYTHON" -c "from netdiag.lab.emulator import *; import os
LinkControl(os.environ['FOLDER'] + '/c').set('both', LinkSettings(delay_s=0.02))"
ping -c 10 -i 0.2 10.75.0.2
kill $emulator $other; wait $emulator
"""


@pytest.mark.needs("unshare", "nsenter")
def test_it_works_in_a_user_namespace_without_the_capabilities_of_root(tmp_path: Path) -> None:
    """In a user namespace even root's file owner has no capability over the host: packet sockets must do without."""
    done = subprocess.run(
        [*FIRST, "unshare", "-U", "-r", "-n", "sh", "-c", ROOTLESS],
        env={**os.environ, "FOLDER": str(tmp_path), "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert statistics.median(round_trips_ms(done.stdout)) == pytest.approx(40.0, abs=1.5)
    assert list(tmp_path.iterdir()) == []
