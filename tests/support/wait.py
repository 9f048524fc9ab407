"""Waiting for something to become true, with a deadline instead of a guessed sleep."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def until(condition: Callable[[], T], *, within_s: float = 15.0, what: str = "", every_s: float = 0.02) -> T:
    """The first truthy value of `condition()`; `AssertionError` naming `what` when the time is over."""
    deadline = time.monotonic() + within_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            name = what or getattr(condition, "__name__", "condition")
            raise AssertionError(f"{name}: not within {within_s:g} s (last value: {value!r})")
        time.sleep(every_s)
