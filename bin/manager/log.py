"""Logging: stderr; or, where the pilot swallows a hook's output, the file AUTOPILOT_LOG, and errors alone on stderr."""

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
    """Send our own log lines to $AUTOPILOT_LOG, or else to stderr; libraries speak from WARNING on.

    `level` is a name of the standard library; at no level does a library's wire log show a secret.
    """
    stderr = logging.StreamHandler(sys.stderr)
    handlers: list[logging.Handler] = [stderr]
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
    if len(handlers) > 1:
        # An agent tells the server whenever a check's output changes, and while that server does not answer it
        # runs no checks (measured, 1.8): what stands there is always the same.
        stderr.setLevel(logging.ERROR)
        stderr.setFormatter(logging.Formatter("%(message)s"))
    logging.getLogger("manager").setLevel(level)
