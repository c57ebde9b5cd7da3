"""Waiting for what a set-up step began. Never around a sample: netdiag's own measurements are not taken twice.

tenacity is imported where it is used: a link emulator comes by here and waits for nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from tenacity import RetryCallState

T = TypeVar("T")


def wait_while(wanting: Callable[[], T], timeout_s: float, every_s: float = 0.05) -> T:
    """Ask until the answer is empty (or False); the last answer, which after ``timeout_s`` is what is still wanting."""
    from tenacity import Retrying, retry_if_result, stop_after_delay, wait_fixed

    patient = Retrying(
        retry=retry_if_result(bool),
        stop=stop_after_delay(timeout_s),
        wait=wait_fixed(every_s),
        retry_error_callback=_last_answer,
    )
    return patient(wanting)


def _last_answer(state: RetryCallState) -> Any:
    return None if state.outcome is None else state.outcome.result()


def insist(step: Callable[[], T], timeout_s: float, every_s: float = 0.05) -> T:
    """Do a step that fails for a moment (OSError) until it does not. Raises the last OSError after ``timeout_s``."""
    from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

    patient = Retrying(
        retry=retry_if_exception_type(OSError),
        stop=stop_after_delay(timeout_s),
        wait=wait_fixed(every_s),
        reraise=True,
    )
    return patient(step)
