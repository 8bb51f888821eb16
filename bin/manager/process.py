"""This node's mysqld as a process of the operating system."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

from manager.settings import Settings


def pid(settings: Settings) -> int | None:
    """Return the process id of the mysqld that runs; None without one, or if it has ended and is a zombie still."""
    try:
        number = int(settings.pid_file.read_text())
        name, _, rest = Path(f"/proc/{number}/stat").read_text().rpartition(")")
    except (OSError, ValueError):
        return None
    return number if name.endswith("(mysqld") and rest.split()[0] not in ("Z", "X") else None


def send(settings: Settings, what: signal.Signals) -> None:
    """Send a signal to the mysqld that runs; fine if there is none."""
    number = pid(settings)
    if number is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(number, what)
