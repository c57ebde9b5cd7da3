"""What `netdiag probe` and `netdiag explain` list for the eye."""

from __future__ import annotations

import random

from netdiag.cli.main import invoke
from netdiag.cli.tables import MOST_ROWS, WIDEST_TABLE, measurement_lines
from netdiag.explain import codes, page
from tests.fakes.evidence import connected, database, tcp_info, waterfall
from tests.unit.cli_support import latency


def test_a_narrow_table_has_its_columns():
    lines = list(measurement_lines(latency(0.010, None, 0.030)))
    head = next(line for line in lines if "sequence" in line)
    column = head.index("outcome")
    after = lines.index(head) + 1
    assert [line[column:].split()[0] for line in lines[after : after + 3]] == ["answered", "lost", "answered"]


def test_a_wide_table_is_told_row_by_row():
    tries = [waterfall(attempt=n, handshake=connected(info=tcp_info()), server_version="15.18") for n in (1, 2, 3)]
    lines = list(measurement_lines(database(tries)))
    starts = [line.split()[1] for line in lines if line.startswith("    - ")]
    assert starts == ["attempt=1", "attempt=2", "attempt=3"]
    assert max(map(len, lines)) <= WIDEST_TABLE
    words = " ".join(lines).split()
    assert words.count("server_version=15.18") == words.count("handshake.info.pmtu=1500") == 3


def test_a_long_table_says_how_much_more_there_is():
    count = MOST_ROWS + random.Random(7).randint(1, 50)
    told = latency(*[0.001] * count)
    assert f"    ... {count - MOST_ROWS} more (--format json has all)" in list(measurement_lines(told))


def test_the_list_of_codes_has_each_page_in_one_line(capsys):
    assert invoke(["explain"]) == 0
    told = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert told == {code: page(code).splitlines()[0].split(": ", 1)[1] for code in codes()}
