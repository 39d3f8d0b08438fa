"""How tests wait: for a condition, never for a time."""

import time
from collections.abc import Callable

import pytest

PAUSE_S = 0.05


def wait_until[T](
    condition: Callable[[], T], *, what: str, within_s: float = 120, story: Callable[[], str] = str
) -> T:
    """The first true value of `condition`; when the time is over, a failure with `what` and the `story`."""
    deadline = time.monotonic() + within_s
    while not (value := condition()):
        if time.monotonic() > deadline:
            pytest.fail(f"not within {within_s:g} s: {what}\n{story()}")
        time.sleep(PAUSE_S)
    return value
