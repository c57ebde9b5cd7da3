"""Every code of the database, firewall and balancer rules has its page, under the fixed headings."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest

from netdiag.diagnosis.rules import balancer, database, firewall, idle, replication

RULES = (*database.RULES, *firewall.RULES, *balancer.RULES, *idle.RULES, *replication.RULES)
HEADINGS = [
    "What it means",
    "What looks like it",
    "How netdiag tells them apart",
    "How it is fixed",
    "Check the fix",
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.code)
def test_each_code_has_a_page_under_the_fixed_headings(rule):
    page = files("netdiag.explain").joinpath("pages", f"{rule.code}.md").read_text("utf-8")
    assert page.startswith(f"# {rule.code}: ")
    assert re.findall(r"^## (.*)$", page, re.MULTILINE) == HEADINGS


def test_pages_name_no_code_that_no_rule_gives():
    from netdiag.diagnosis.catalogue import RULES as ALL

    known = {rule.code for rule in ALL}
    for rule in RULES:
        page = files("netdiag.explain").joinpath("pages", f"{rule.code}.md").read_text("utf-8")
        named = set(re.findall(r"`((?:db|firewall|lb|net|dns|mtu|link)\.[a-z-]+)`", page))
        assert named <= known, rule.code
