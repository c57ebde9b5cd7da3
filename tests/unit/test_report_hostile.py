"""Hostile text in every field of run, plan and diagnosis: it moves no cursor and changes no structure.

The oracle for Markdown is markdown-it-py, an independent CommonMark parser with GitHub's tables.
"""

from __future__ import annotations

import json as standard_json
import unicodedata
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from datetime import datetime
from enum import Enum

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from netdiag.evidence import Evidence
from netdiag.report import json, markdown, text
from netdiag.report.compile import compile_report
from netdiag.report.sanitize import clean
from netdiag.report.summary import five_lines
from tests.unit.golden.worlds import WORLDS

PARSER = MarkdownIt("commonmark").enable(["table", "strikethrough"])

HOSTILE = {
    "colour": "\x1b[31mred\x1b[0m",
    "clear screen": "\x1b[2J\x1b[H",
    "window title": "\x1b]0;owned\x07",
    "eight-bit CSI": "\x9b2J",
    "unclosed OSC": "\x1b]52;c;",
    "carriage return": "\rVerdict: healthy",
    "backspaces": "\b\b\b\b",
    "new heading": "\n# Verdict: healthy\n",
    "SQL error": 'ERROR:  syntax error\nLINE 1: SELECT\n               ^\n',
    "underlined heading": "\n\nIssue Description:\n-----------------\n",
    "bidi override": "\u202egnp.exe\u202c\u2066x\u2069",
    "line separators": "a\u2028b\u2029c\x85d\x0be\x0cf",
    "surrogate": "\ud800",
    "script": "</script><script>alert(1)</script>",
    "html": "<img src=x onerror=alert(1)><!--",
    "link": "[click](javascript:alert(1)) ![x](http://evil/)",
    "autolink": "<http://evil/> http://evil/ www.evil.example",
    "reference": "[a]: http://evil/",
    "table": "| a | b |\n|---|---|\n| c | d |",
    "pipe": "\\| \\\\| |",
    "fence": "```\n~~~\n```",
    "backtick": "` `` ``` `",
    "emphasis": "**bold** _it_ ~~gone~~ __x__",
    "entity": "&lt;b&gt; &#0; &nbsp;",
    "list": "\n- a\n- b\n1. c\n",
    "quote": "\n> q",
    "rule": "\n---\n***\n===\n",
    "mathematics": "$$x$$ $y$",
    "backslash": "\\",
    "code block": "\n\n    indented\n",
    "leading": "# x",
    "long underline": f" {'-' * 109} {'=' * 109} ",
}  # fmt: skip

WORLDS_COMPILED = {name: compile_report(*world()) for name, world in WORLDS.items()}


def poisoned(thing, change):
    """``thing`` with ``change`` made to every string in it but enums."""
    if isinstance(thing, Enum | datetime):
        return thing
    if isinstance(thing, str):
        return change(thing)
    if isinstance(thing, Evidence):
        return Evidence(tuple(poisoned(m, change) for m in thing.measurements))
    if isinstance(thing, tuple):
        return tuple(poisoned(item, change) for item in thing)
    if isinstance(thing, Mapping):
        return {key: poisoned(item, change) for key, item in thing.items()}
    if is_dataclass(thing):
        return replace(thing, **{field.name: poisoned(getattr(thing, field.name), change) for field in fields(thing)})
    return thing


def report_of(name, change):
    run, diagnosis = WORLDS[name]()
    return compile_report(poisoned(run, change), poisoned(diagnosis, change))


def structure(source):
    """Blocks with their nesting, and in each the kinds of its inline parts but plain text."""
    tokens = PARSER.parse(source)
    return [(token.type, token.tag, token.level, inline_kinds(token)) for token in tokens]


def inline_kinds(token):
    return [child.type for child in token.children or () if child.type not in {"text", "text_special"}]


def either_side(payload):
    return {"behind": lambda s: s + payload, "before": lambda s: payload + s, "around": lambda s: payload + s + payload}


@pytest.mark.parametrize("side", ["behind", "before", "around"])
@pytest.mark.parametrize("payload", HOSTILE)
def test_structure_is_that_of_a_benign_report(payload, side):
    for name in WORLDS:
        hostile = markdown.render(report_of(name, either_side(HOSTILE[payload])[side]))
        benign = markdown.render(report_of(name, either_side("benign")[side]))
        assert structure(hostile) == structure(benign)


@pytest.mark.parametrize("payload", HOSTILE)
def test_nothing_moves_the_cursor(payload):
    for name in WORLDS:
        report = report_of(name, either_side(HOSTILE[payload])["around"])
        for rendered in (text.render(report), markdown.render(report), five_lines(report)):
            assert {unicodedata.category(char) for char in rendered.replace("\n", "")} & {
                "Cc",
                "Cf",
                "Cs",
                "Zl",
                "Zp",
            } == set()
            rendered.encode("utf-8")
        assert five_lines(report).count("\n") == 4
        assert json.restore(standard_json.loads(json.render(report))) == report


@pytest.mark.parametrize("payload", HOSTILE)
def test_headings_of_the_text_cannot_be_forged(payload):
    for name in WORLDS:
        hostile = text.render(report_of(name, either_side(HOSTILE[payload])["around"]))
        assert underlined(hostile) == underlined(text.render(WORLDS_COMPILED[name]))


def underlined(rendered):
    lines = rendered.splitlines()
    return [lines[at - 1] for at, line in enumerate(lines) if line and not set(line) - set("-=")][1:]


def test_honest_text_behind_an_unclosed_sequence_is_kept():
    assert clean("Server: \x1b]52;c; loses 9.8% of packets") == "Server: 52;c; loses 9.8% of packets"
    assert clean("a\x1b[31mb\x1b[0m c\td\r\ne") == "ab c d e"
    assert clean("  many   spaces ") == "many spaces"
    assert clean("abcdef", 4) == "abc…"


anything = st.text(st.characters(codec=None, categories=None)) | st.text("\x1b[]()<>|`*_~$&#+-=.:!\\0123 \n\tab@/w")


@given(anything)
def test_clean_is_one_printable_line_and_changes_nothing_twice(raw):
    line = clean(raw)
    assert not {unicodedata.category(char) for char in line} & {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
    assert line == line.strip()
    assert clean(line) == line


@given(anything)
@example("1. x")
@example("- - x")
@example("a\\")
@example("[ ] x")
def test_a_list_item_shows_exactly_the_text(raw):
    line = clean(raw)
    tokens = PARSER.parse(f"- {markdown.escape(line)}\n")
    assert [token.type for token in tokens if token.type.endswith("_open")][:2] == [
        "bullet_list_open",
        "list_item_open",
    ]
    assert len([token for token in tokens if token.type.endswith("_open")]) == (3 if line else 2)
    assert shown(tokens) == line


@given(anything)
@example("a|b")
@example("\\|")
@example("\\\\|")
@example("`|`")
def test_a_table_cell_shows_exactly_the_text(raw):
    line = clean(raw)
    tokens = PARSER.parse(f"| x | y |\n| --- | --- |\n| {markdown.escape(line)} | end |\n")
    assert [token.type for token in tokens].count("td_open") == 2
    inlines = [token for token in tokens if token.type == "inline"]
    assert [shown([inline]) for inline in inlines] == ["x", "y", line, "end"]


@given(anything)
def test_a_code_span_shows_exactly_the_command(raw):
    line = clean(raw)
    if line:
        inline = PARSER.parseInline(f"check: {markdown.code(line)})")[0]
        assert [child.content for child in inline.children if child.type == "code_inline"] == [line]


def shown(tokens):
    inlines = [token for token in tokens if token.type == "inline"]
    assert all(child.type in {"text", "text_special"} for token in inlines for child in token.children)
    return "".join(child.content for token in inlines for child in token.children)
