"""The documentation against the code: reference pages as generated, links that lead somewhere, commands that exist."""

from __future__ import annotations

import difflib
import os
import re
import shlex
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from docs import generate
from docs.pages.json import OTHERS
from docs.pages.plan import AHEAD
from docs.typed import closure
from netdiag.cli.commands import app
from netdiag.lab.postgres import free_port
from netdiag.plan.model import Plan
from netdiag.report.model import Report
from probes.registry import PROBES, load

ROOT = Path(__file__).parents[2]
WRITTEN = sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/README.md")])
FENCED = re.compile(r"^```[a-z]*\n(.*?)^```", re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("name", generate.PAGES)
def test_reference_is_what_the_code_says(name: str):
    path = generate.REFERENCE / name
    committed, made = path.read_text("utf-8").splitlines(), generate.content(name).splitlines()
    difference = "\n".join(difflib.unified_diff(committed, made, "committed", "generated", lineterm=""))
    assert not difference, f"{name} is not what the code says: run `make docs`\n{difference}"


def test_every_document_of_the_code_has_its_line():
    named = {
        found
        for path in ROOT.glob("netdiag/**/*.py")
        for found in re.findall(r'"(netdiag\.[a-z-]+/\d+)"', path.read_text())
    }
    assert named == set(OTHERS)


def test_every_value_has_a_section_of_its_own():
    kinds = closure(Report, Plan, *(load(name).measurement for name in PROBES))
    assert [name for name, count in Counter(kind.__name__ for kind in kinds).items() if count > 1] == []


def test_keys_said_to_be_unused_are_unused():
    code = "\n".join(
        line
        for path in ROOT.glob("netdiag/**/*.py")
        if "plan" not in path.relative_to(ROOT).parts
        for line in path.read_text().splitlines()
        if not line.startswith(("from ", "import "))
    )
    used = [key for key in AHEAD if re.search(_attribute(key), code)]
    assert used == [], "used now: take it out of AHEAD in docs/pages/plan.py and run `make docs`"


def _attribute(key: str) -> str:
    name = key.rpartition(".")[2]
    return rf"\.{'routers' if name == 'router' else name}\b"


def anchors(path: Path) -> set[str]:
    """As GitHub makes them."""
    prose = FENCED.sub("", path.read_text("utf-8"))
    titles = re.findall(r"^#+ (.*)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path):
    prose = FENCED.sub("", path.read_text("utf-8"))
    dead = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose):
        if not link.startswith(("http://", "https://")):
            file, _, anchor = link.partition("#")
            goal = (path.parent / file).resolve() if file else path
            if not goal.exists() or (anchor and anchor not in anchors(goal)):
                dead.append(link)
    assert dead == []


def commands_in(text: str) -> Iterator[list[str]]:
    """Every netdiag command of the blocks of code, after a prompt, a crontab's times or ``ExecStart=``."""
    for block in FENCED.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            found = re.match(r"(?:\$ |ExecStart=)?(?:[A-Z]+=\S+ )*(?:\S*/)?netdiag (?=[a-z-])(.*)", line.strip())
            if found:
                yield shlex.split(re.split(r" \| | ; | && | > | 2>", found[1])[0], comments=True)


def unknown_words(words: list[str]) -> list[str]:
    """Command names and options that the program does not have."""
    command: Any = get_command(app)
    words = list(words)
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        name = words.pop(0)
        if name not in command.commands:
            return [name]
        command = command.commands[name]
    known = {option for parameter in command.params for option in parameter.opts} | {"--help", "-h"}
    return [word for word in words if re.match(r"--?[a-z]", word) and word.partition("=")[0] not in known]


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_exist(path: Path):
    assert [
        (words, unknown_words(words)) for words in commands_in(path.read_text("utf-8")) if unknown_words(words)
    ] == []


def test_commands_exist_would_see_a_mistake():
    text = (
        "```\n$ netdiag run h:1 --fast\n*/5 * * * * netdiag check x\n$ netdiag measure h\n$ netdiag plan check p\n```\n"
    )
    found = list(commands_in(text))
    assert [unknown_words(words) for words in found] == [["--fast"], ["measure"], []]


@pytest.mark.parametrize("name", ["README.md", "docs/how-to/read-a-report.md"])
def test_what_is_quoted_of_the_example_is_in_it(name: str):
    report = set((ROOT / "examples" / "first-incident" / "report.txt").read_text().splitlines())
    blocks = [block.splitlines() for block in FENCED.findall((ROOT / name).read_text())]
    quoted = [line for block in blocks if not block[0].startswith(("make ", "netdiag ", "pipx ")) for line in block]
    assert len(quoted) > 10
    assert [line for line in quoted if line not in report] == []


@pytest.mark.loopback
def test_the_tutorial():
    """Its server, its commands in their order, and the verdicts that it shows. Times and ports are not compared."""
    port = free_port()
    server = [sys.executable, str(ROOT / "docs" / "tutorial" / "server.py"), str(port)]
    with subprocess.Popen(server, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as running:
        line = running.stdout.readline()
        process = int(re.search(r"process (\d+)", line)[1])
        url = re.search(r"postgresql://\S+(?=,)", line)[0]
        told = [tutorial_run(url, "try-me"), tutorial_run(url, "wrong")]
        os.kill(process, signal.SIGSTOP)
        told.append(tutorial_run(url, "try-me"))
        os.kill(process, signal.SIGCONT)
        running.stdin.write("\n")
        running.stdin.close()
        assert running.wait(60) == 0
    told.append(tutorial_run(url, "try-me"))
    assert [status for status, _ in told] == [0, 2, 2, 2]
    shown = re.findall(
        r"^Verdict: (\w+)\. Cause: (.*?)\.? Place:", (ROOT / "docs/tutorial/first-run.md").read_text(), re.M | re.S
    )
    assert [figureless(f"{verdict} {cause}") for verdict, cause in shown] == [figureless(cause) for _, cause in told]


def tutorial_run(url: str, password: str) -> tuple[int, str]:
    """netdiag's exit status, and verdict and cause as its report says them."""
    command = [sys.executable, "-m", "netdiag", "run", url, "--quick"]
    environment = os.environ | {"PGPASSWORD": password}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, check=False)
    verdict, cause = re.search(r"^Verdict: (\w+)\. Cause: (.*?)\.? Place:", done.stdout, re.M | re.S).groups()
    return done.returncode, f"{verdict} {cause}"


def figureless(text: str) -> str:
    """On one line, without what differs from run to run: addresses with ports, and times."""
    return re.sub(r"127\.0\.0\.1:\d+", "SERVER", re.sub(r"\d+(\.\d+)? m?s\b", "TIME", " ".join(text.split())))
