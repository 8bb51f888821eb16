"""Waiting with a deadline: the only place in the hooks that sleeps."""

from __future__ import annotations

import time
from collections.abc import Callable


class Deadline:
    """A point in time, on the monotonic clock, that several steps share."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds left, never below zero."""
        return max(0.0, self._end - time.monotonic())

    @property
    def over(self) -> bool:
        """True once the time is used up."""
        return self.left <= 0.0


def pause(seconds: float) -> None:
    """Sleep for `seconds`, for the few loops that wait for an outside event."""
    time.sleep(seconds)


def poll_until(condition: Callable[[], bool], deadline: Deadline, *, interval: float = 0.05) -> bool:
    """Ask `condition` until it is true (returns True) or the deadline is over (returns its last answer)."""
    while not condition():
        if deadline.over:
            return condition()
        pause(min(interval, deadline.left))
    return True
