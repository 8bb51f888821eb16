"""The node's programs as supervisord starts them: mysqld behind its pre_start, and the snapshot loop."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from manager.settings import Settings
from manager.waiting import pause

START_INTERVAL = 2.0


def start_delay(last: float | None, now: float) -> float:
    """Return the seconds to wait so that two starts are START_INTERVAL apart.

    `last` is the time of the last start, None if there was none. A clock that was set back does not
    make it wait longer than that.
    """
    if last is None or last > now:
        return 0.0
    return max(0.0, START_INTERVAL - (now - last))


def run_mysqld(settings: Settings, manage: Sequence[str], mysqld: str) -> NoReturn:
    """Run pre_start, then become mysqld; ends with pre_start's status if that failed.

    supervisord starts this again at once whenever it ends, so the space between starts is kept here.
    """
    pause(start_delay(_last_start(settings), time.time()))
    _start_mark(settings).touch()
    done = subprocess.run([*manage, "pre_start"], check=False)
    if done.returncode:
        raise SystemExit(done.returncode)
    os.execv(mysqld, [mysqld, f"--defaults-file={settings.mysql_conf}"])


def run_snapshots(settings: Settings, manage: Sequence[str]) -> NoReturn:
    """Run snapshot_task every SNAPSHOT_INTERVAL seconds; it decides by itself whether one is due."""
    while True:
        pause(settings.snapshot_interval)
        subprocess.run([*manage, "snapshot_task"], check=False)


def _start_mark(settings: Settings) -> Path:
    return settings.run_dir / "mysqld.started"


def _last_start(settings: Settings) -> float | None:
    try:
        return _start_mark(settings).stat().st_mtime
    except FileNotFoundError:
        return None
