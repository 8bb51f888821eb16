"""What the last health run found, kept in RUN_DIR: for pilots that ask for each advertisement by itself.

It imports little, so that such a question costs a fraction of a health run.
"""

from __future__ import annotations

import json
import logging
import os
import time
from pathlib import Path

LOG = logging.getLogger(__name__)

VERDICT = "health.json"
ANSWERED = "answered"
AGE = 7.0
"""Seconds after which what was found counts no longer."""
QUESTIONS = ("alive", "primary", "replica")


def keep(run_dir: Path, *, role: str, healthy: bool, reason: str) -> None:
    """Keep a finished run's verdict."""
    path = run_dir / VERDICT
    temporary = path.with_name(f"{VERDICT}.{os.getpid()}")
    temporary.write_text(json.dumps({"at": time.time(), "role": role, "healthy": healthy, "reason": reason}))
    os.replace(temporary, path)


def answered(run_dir: Path, *, yes: bool) -> None:
    """Keep that the server has answered just now, or that it does not answer."""
    mark = run_dir / ANSWERED
    if yes:
        mark.touch()
    else:
        mark.unlink(missing_ok=True)


def forget(run_dir: Path) -> None:
    """mysqld is not running: nothing that was found of it counts any more."""
    (run_dir / VERDICT).unlink(missing_ok=True)
    (run_dir / ANSWERED).unlink(missing_ok=True)


def was_primary(run_dir: Path) -> bool:
    """True if the last finished run found this node to be the primary, however long ago."""
    try:
        return bool(json.loads((run_dir / VERDICT).read_text())["role"] == "primary")
    except (OSError, ValueError, LookupError, TypeError):
        return False


def answer(run_dir: Path, ask: str) -> int:
    """Return the exit code for one of QUESTIONS: 0 if the last run found so, else 2; the reason is for debugging."""
    why = _against(run_dir, ask, time.time())
    if why:
        LOG.debug("not %s: %s", ask, why)
    return 2 if why else 0


def _against(run_dir: Path, ask: str, now: float) -> str:
    try:
        if ask == "alive":
            return _age(now - (run_dir / ANSWERED).stat().st_mtime)
        last = json.loads((run_dir / VERDICT).read_text())
        if last["role"] != ask or not last["healthy"]:
            return f"{last['role']}, {last['reason']}"
        return _age(now - float(last["at"]))
    except FileNotFoundError:
        return "no health run has got so far yet"
    except (OSError, ValueError, LookupError, TypeError) as error:
        return f"what the last run wrote cannot be read: {error}"


def _age(seconds: float) -> str:
    # One from the future is of no use either: a clock was set back.
    return "" if 0 <= seconds <= AGE else f"the last health run was {seconds:.0f} s ago"
