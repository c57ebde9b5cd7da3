"""Waiting for set-up steps: until nothing is wanting, or until time is up and somebody is told what was."""

from __future__ import annotations

import pytest

from netdiag.lab.patience import insist, wait_while


def test_it_asks_until_nothing_is_wanting():
    answers = [["a", "b"], ["b"], []]
    assert wait_while(lambda: answers.pop(0), timeout_s=60.0, every_s=0.0) == []
    assert answers == []


def test_what_is_still_wanting_when_time_is_up_is_the_answer():
    assert wait_while(lambda: ["b"], timeout_s=0.0) == ["b"]
    assert wait_while(lambda: True, timeout_s=0.0) is True


def test_an_error_of_the_question_is_not_waited_out():
    with pytest.raises(LookupError):
        wait_while(lambda: {}["x"], timeout_s=60.0)


def test_a_step_that_fails_for_a_moment_is_done_in_the_end():
    failures = [OSError("busy"), OSError("busy")]

    def step() -> str:
        if failures:
            raise failures.pop()
        return "done"

    assert insist(step, timeout_s=60.0, every_s=0.0) == "done"
    with pytest.raises(OSError, match="stays"):
        insist(_never, timeout_s=0.0)


def _never() -> None:
    raise OSError("stays")
