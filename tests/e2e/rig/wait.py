"""Waiting for events: by polling with a deadline, never by a fixed sleep."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

# Generous: a deadline is there to end a hopeless wait, not to measure. Machines that test are slow and shared.
DEADLINE = 60.0


class TimedOut(Exception):
    """What was waited for did not come."""


def wait_for(what: str, probe: Callable[[], T | None], timeout: float = DEADLINE, interval: float = 0.02) -> T:
    """The first result of `probe` that is neither None nor False; `TimedOut` after `timeout` seconds."""
    end = time.monotonic() + timeout
    while True:
        result = probe()
        if result is not None and result is not False:
            return result
        if time.monotonic() >= end:
            raise TimedOut(f"no {what} within {timeout:.0f} s")
        time.sleep(interval)
