"""probes/ measures, netdiag/ explains, and netdiag imports probes, never back: read off the imports themselves."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PURE = ("probes/stats", "probes/wire", "netdiag/diagnosis", "netdiag/report", "netdiag/plan", "netdiag/advice")
IO_MODULES = {"asyncio", "subprocess", "selectors", "ssl", "requests", "urllib.request", "http.client"}
# The module's constants and exceptions are not sockets.
SOCKETS = {"socket.socket", "socket.create_connection", "socket.create_server", "socket.socketpair", "open"}


def modules(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def calls(path: Path) -> set[str]:
    return {ast.unparse(n.func) for n in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(n, ast.Call)}


def starts(names: set[str], prefix: str) -> set[str]:
    return {name for name in names if name == prefix or name.startswith(prefix + ".")}


@pytest.mark.parametrize("path", modules("probes"), ids=lambda p: str(p.relative_to(ROOT)))
def test_probes_know_nothing_of_netdiag(path: Path) -> None:
    assert not starts(imports(path), "netdiag")


@pytest.mark.parametrize("path", sorted((ROOT / "probes").glob("*.py")), ids=lambda p: p.name)
def test_a_probe_imports_no_other_probe_and_opens_no_socket(path: Path) -> None:
    from probes.registry import PROBES

    others = {target.split(":")[0] for target in PROBES.values()} - {f"probes.{path.stem}"}
    if path.stem != "registry":
        assert not imports(path) & others
    assert not imports(path) & {"ssl", "subprocess"}
    assert not calls(path) & SOCKETS
    assert not starts(imports(path), "probes.net")


@pytest.mark.parametrize("folder", PURE)
def test_pure_folders_do_no_input_or_output(folder: str) -> None:
    for path in modules(folder):
        assert not imports(path) & IO_MODULES, path
        assert not calls(path) & SOCKETS, path


def test_only_the_command_line_prints_exits_or_reads_the_environment() -> None:
    outside = [p for p in modules("netdiag") if not {"cli", "lab"} & set(p.relative_to(ROOT / "netdiag").parts)]
    for path in [*outside, *modules("probes")]:
        assert not {"print", "sys.exit", "os.getenv", "os.environ.get"} & calls(path), path


def test_no_function_body_is_over_fifty_lines() -> None:
    for path in [*modules("netdiag"), *modules("probes")]:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                documented = ast.get_docstring(node) is not None and len(node.body) > 1
                first = node.body[1] if documented else node.body[0]
                assert (node.end_lineno or 0) - first.lineno + 1 <= 50, f"{path}: {node.name}"
