"""Logging: stderr, and the file AUTOPILOT_LOG where the pilot swallows a hook's output."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from collections.abc import Iterable


class _Redact(logging.Filter):
    """Replaces every known secret in a finished message: the last line of defence (G7)."""

    def __init__(self, secrets: Iterable[str]) -> None:
        super().__init__()
        self._secrets = sorted({s for s in secrets if len(s) >= 4}, key=len, reverse=True)

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        for secret in self._secrets:
            text = text.replace(secret, "***")
        record.msg, record.args = text, ()
        return True


def configure(level: str, hook: str, secrets: Iterable[str]) -> None:
    """Send our own log lines to stderr and to $AUTOPILOT_LOG; libraries speak from WARNING on.

    `level` is a name of the standard library; at no level does a library's wire log show a secret.
    """
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    path = os.environ.get("AUTOPILOT_LOG")
    if path:
        # The pilot names its own output, which is gone when the pilot is: a detached hook still goes on.
        with contextlib.suppress(OSError):
            handlers.append(logging.FileHandler(path))
    form = logging.Formatter(
        f"%(asctime)s.%(msecs)03dZ %(levelname)s {hook}[{os.getpid()}] %(message)s", "%Y-%m-%dT%H:%M:%S"
    )
    form.converter = time.gmtime
    redact = _Redact(secrets)
    root = logging.getLogger()
    root.handlers[:] = handlers
    root.setLevel(logging.WARNING)
    for handler in handlers:
        handler.setFormatter(form)
        handler.addFilter(redact)
    logging.getLogger("manager").setLevel(level)
