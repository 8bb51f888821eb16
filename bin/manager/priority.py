"""What a busy machine must not starve: the hooks that others wait for, and the server that the hooks wait for."""

from __future__ import annotations

import contextlib
import os


def prefer() -> None:
    """Let a busy machine not starve this process and its children, where the system allows that."""
    with contextlib.suppress(OSError):
        os.nice(-10)
