"""The finder of lines against tomllib: every key of a random document is found, on the line where it was written."""

from __future__ import annotations

import tomllib

from hypothesis import given, settings
from hypothesis import strategies as st

from netdiag.plan.lines import LineFinder

AWKWARD = """\
# a [comment] = "x"
"quoted key" = "has # and = and ] in it"

[ticket]
summary = \"\"\"
[[endpoint]]
name = "not a key"
\"\"\"
sentiment = [
  "one",   # the first, of two
  'two ] "',
]

[[endpoint]]
name = 'a'
health = { url = "http://x/{y}", matcher = "200" }

[[endpoint]]
name = "b"
health.url = "u"
[endpoint.deep."x.y"]
n = 1_000
when = 2024-01-25T10:00:00Z
"""


def test_lines_of_an_awkward_document():
    assert tomllib.loads(AWKWARD)["endpoint"][1]["deep"]["x.y"]["n"] == 1000
    finder = LineFinder(AWKWARD)
    assert finder.find(("quoted key",)) == 2
    assert finder.find(("ticket", "summary")) == 5
    assert finder.find(("ticket", "sentiment", 0)) == 10
    assert finder.find(("ticket", "sentiment", 1)) == 11
    assert finder.find(("endpoint", 0)) == 14
    assert finder.find(("endpoint", 0, "health", "matcher")) == 16
    assert finder.find(("endpoint", 1)) == 18
    assert finder.find(("endpoint", 1, "health", "url")) == 20
    assert finder.find(("endpoint", 1, "deep", "x.y", "n")) == 22
    assert finder.find(("endpoint", 1, "deep", "x.y", "when")) == 23


def test_a_missing_key_has_the_line_of_its_table():
    finder = LineFinder('version = 1\n\n[[endpoint]]\nname = "a"\n')
    assert finder.find(("endpoint", 0, "role")) == 3
    assert finder.find(("nothing",)) == 1


def test_windows_line_ends():
    assert LineFinder("a = 1\r\nb = 2\r\n").find(("b",)) == 2


TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=12)
SCALARS = st.one_of(st.integers(0, 10**6), st.booleans(), TEXTS)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3), max_leaves=6
)


def quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, list):
        return "[ # items\n" + "".join(toml(item) + ",\n" for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{quoted(key)} = {toml(item)}" for key, item in value.items()) + "}"
    return str(value)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.dictionaries(TEXTS, st.dictionaries(TEXTS, VALUES, max_size=3), max_size=4))
def test_every_key_of_a_random_document_is_on_its_line(tables):
    """The writer below counts its own lines; tomllib confirms that the document says what was meant."""
    lines, expected = [], {}
    for name, table in tables.items():
        expected[(name,)] = sum(map(len, (chunk.split("\n") for chunk in lines))) + 1
        lines.append(f"[{quoted(name)}]")
        for key, value in table.items():
            expected[(name, key)] = sum(map(len, (chunk.split("\n") for chunk in lines))) + 1
            lines.append(f"{quoted(key)} = {toml(value)}")
    text = "\n".join(lines) + "\n"
    assert tomllib.loads(text) == tables
    finder = LineFinder(text)
    assert {path: finder.find(path) for path in expected} == expected
