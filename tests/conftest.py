"""What every test may ask for, and what happens where this machine lacks it.

A test that needs a program or root says so with a marker and skips, visibly, with the reason. In CI everything is
installed, so a skip there is a hole in the proof and fails.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator
from typing import Any

import hypothesis
import pytest

# No test asserts a time; Hypothesis asserts 200 ms for each example unless told not to.
hypothesis.settings.register_profile("netdiag", deadline=None)
hypothesis.settings.load_profile("netdiag")

IN_CI = os.environ.get("CI", "") not in ("", "0", "false")
SYSTEM_PATHS = "/usr/sbin:/sbin:/usr/lib/postgresql/15/bin"


def pytest_configure(config: pytest.Config) -> None:
    os.environ["PATH"] = f"{os.environ.get('PATH', '')}:{SYSTEM_PATHS}"  # daemons live in sbin, off a user's PATH
    config.addinivalue_line("markers", "needs(*programs): Debian programs that the test runs")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("kernel") and os.geteuid() != 0:
        pytest.skip("needs root: it makes network namespaces")
    for marker in item.iter_markers("needs"):
        missing = [program for program in marker.args if shutil.which(program) is None]
        if missing:
            pytest.skip(f"needs {', '.join(missing)} (make debian installs it)")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[Any]) -> Generator[None, Any, Any]:
    report = yield
    if IN_CI and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI, where nothing may be missing: {report.longrepr}"
    return report
