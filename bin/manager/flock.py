"""Keeping two processes of one node apart, by a lock on a file that goes with the process."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from manager.errors import Busy
from manager.waiting import Deadline, poll_until


@contextlib.contextmanager
def flocked(path: Path, *, wait: float, busy: str) -> Iterator[int]:
    """Hold the lock on `path` within the block; Busy, with the text `busy`, if it is not free in `wait` seconds.

    Yields its descriptor: a child that is given it holds the lock as well, for as long as it lives.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if not poll_until(lambda: _locked(descriptor), Deadline(wait)):
            raise Busy(busy)
        yield descriptor
    finally:
        os.close(descriptor)


def taken(path: Path) -> bool:
    """True if another process holds the lock on `path` now."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return not _locked(descriptor, fcntl.LOCK_SH)  # two who look do not see each other
    finally:
        os.close(descriptor)


def _locked(descriptor: int, kind: int = fcntl.LOCK_EX) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
