"""The list of targets, how many are under way at once, and what a sweep says of them."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from netdiag.cli.output import UserError
from netdiag.cli.probe import ProbeArguments
from netdiag.cli.sweep import Place, at_once, read_places, sweep_command
from netdiag.cli.sweep_report import Table
from probes.latency import LatencyOptions
from tests.command_line import netdiag


def written(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "targets"
    file.write_text(text, "utf-8")
    return file


def test_every_form_of_a_line(tmp_path):
    text = "# the east\n10.0.0.1\n\n  db.example:5433  # primary\n[2001:db8::1]:5432\n2001:db8::2\r\n\ufeff10.0.0.9"
    with pytest.raises(UserError, match="line 7"):
        read_places(written(tmp_path, text))
    assert read_places(written(tmp_path, "\ufeff" + text.replace("\ufeff", ""))) == [
        Place(host="10.0.0.1", port=None),
        Place(host="db.example", port=5433),
        Place(host="2001:db8::1", port=5432),
        Place(host="2001:db8::2", port=None),
        Place(host="10.0.0.9", port=None),
    ]


def test_a_target_named_twice_is_measured_once(tmp_path, capsys):
    assert len(read_places(written(tmp_path, "10.0.0.1\n10.0.0.2\n10.0.0.1\n10.0.0.1:80\n"))) == 3
    assert "1 lines name a target again" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b"# nothing\n\n", b"\xff\xfe1\x00", b"10.0.0.1:99999\n", b"user@host\n"])
def test_what_is_no_list_of_targets_is_refused(tmp_path, content):
    file = tmp_path / "targets"
    file.write_bytes(content)
    with pytest.raises(UserError, match="targets"):
        read_places(file)


def test_wrong_lines_are_named_and_a_password_in_one_is_not_told(tmp_path):
    file = written(tmp_path, "\n".join(["10.0.0.1"] + ["postgresql://app:hunter2@db/x"] * 7))
    ran = netdiag("probe", "latency", "--targets", str(file), "--format", "json")
    assert (ran.status, ran.document["schema"]) == (3, "netdiag.error/1")
    assert "line 2" in ran.document["error"]
    assert "and 2 lines more" in ran.document["error"]
    assert "hunter2" not in ran.stdout + ran.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("latency",), "no target given"),
        (("latency", "127.0.0.1:1", "--targets", "/dev/null"), "not both"),
        (("latency", "--targets", "/nonexistent/list"), "cannot be read"),
        (("mtu", "--targets", "/dev/null"), "for the latency probe"),
        (("latency", "--targets", "/dev/null", "--set", "count=0"), "--set count: must be a whole number from 1"),
    ],
)
def test_wrong_usage_is_told(arguments, said):
    ran = netdiag("probe", *arguments)
    assert (ran.status, ran.stdout) == (3, "")
    assert said in ran.stderr


@pytest.mark.parametrize("key", ["interval_s", "timeout_s"])
@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "-1", "1e300"])
def test_an_impossible_schedule_is_refused(key, text, tmp_path):
    """A timeout of none would call every answer late or lost."""
    (tmp_path / "targets").write_text("127.0.0.1")
    arguments = ProbeArguments(name="latency", target=None, settings=(f"{key}={text}",))
    with pytest.raises(UserError, match=key):
        sweep_command(arguments, tmp_path / "targets")


def test_silent_targets_do_not_hold_up_the_rate():
    """Little's law: at ``rate`` packets a second, so many targets are under way if each stays to the bitter end."""
    chance = random.Random(11)
    for _ in range(100):
        options = LatencyOptions(
            count=chance.randint(1, 50), interval_s=chance.uniform(0.01, 2), timeout_s=chance.uniform(0.1, 5)
        )
        rate = chance.uniform(10, 5000)
        longest_s = (options.count - 1) * options.interval_s + 2 * options.timeout_s
        packets_per_second = at_once(options, rate, 1 << 30) * options.count / longest_s
        assert packets_per_second >= rate * (1 - 1e-9)


def test_attempts_never_need_more_descriptors_than_there_are():
    options = LatencyOptions(count=10, interval_s=0.2, timeout_s=3.0)
    assert at_once(options, 1000.0, 1024) * options.count <= 1024


def test_a_row_says_why_there_is_no_figure():
    icmp = {"family": 4, "type": 3, "code": 13, "offender": "198.51.100.1", "mtu": None}
    failures = [
        ("rejected", {"icmp": icmp, "errno": None, "detail": None}),
        ("rejected", {"icmp": icmp, "errno": None, "detail": None}),
        ("not-sent", {"icmp": None, "errno": "ENOBUFS", "detail": None}),
        ("lost", {"icmp": None, "errno": None, "detail": None}),
        ("answered", None),
    ]
    data = {
        "loss": {"sent": 2, "lost": 1, "late": 0},
        "rtt": dict.fromkeys(("minimum_s", "p50_s", "maximum_s")),
        "samples": [{"outcome": outcome, "failure": failure} for outcome, failure in failures],
    }
    measurement = {"to": {"host": "h", "endpoint": "h", "address": "h"}, "data": data, "reason": None}
    row = Table(1).target({"measurements": [measurement]}).splitlines()[1]
    assert row.endswith("  2 rejected by 198.51.100.1  1 not-sent (ENOBUFS)")


def test_the_table_is_safe_to_print():
    measurement = {
        "to": {"host": "a\x1b[2Jb", "endpoint": "a\x1b[2Jb", "address": None},
        "data": None,
        "reason": "x\x1b]0;y\x07\nz",
    }
    row = Table(20).target({"measurements": [measurement]})
    assert "\x1b" not in row
    assert len(row.splitlines()) == 2  # the heading and one row
