"""How far a return has come, in `.autopilot-comeback.json` beside the database: durable, read by every hook.

Written by `rescue` (one per node, by flock) and by pre_start (while mysqld is down), so by one at a time.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from manager.errors import AutopilotError, ComebackError
from manager.gtid import GtidSet
from manager.storage.base import sync_directory

FILE = ".autopilot-comeback.json"
FIRST_PAUSE = 5.0
LONGEST_PAUSE = 600.0


class Phase(StrEnum):
    """What has been done last, or is being done: each is written before the step that it names begins."""

    SAVING = "saving"
    SAVED = "saved"
    COPIED = "copied"
    MOVING_OUT = "moving the old files out"
    MOVING_IN = "moving the copy in"
    MOVED = "moved"
    TRIMMING = "trimming"
    TRIMMED = "trimmed"


@dataclass(frozen=True, kw_only=True)
class Comeback:
    """`extra` are the transactions that are, or are being, saved in the store under `folder`.

    `server_uuid` is the server that had them, `note` what the last attempt failed with. `place` is the directory
    beside the data that holds the copy (from `source`, at `epoch`, complete at `copied_at`, epoch seconds) and
    in it `old`, the former files. `cut_file` is to be cut at byte `cut_at`. `failures` copies in
    a row have failed, the last one at `failed_at`.
    """

    phase: Phase
    cluster_id: str
    server_uuid: str
    folder: str
    extra: str
    note: str = ""
    place: str = ""
    old: str = ""
    source: str = ""
    epoch: int = 0
    copied_at: float = 0.0
    cut_file: str = ""
    cut_at: int = 0
    failures: int = 0
    failed_at: float = 0.0

    def has_saved(self, extra: GtidSet) -> bool:
        """True if all of `extra` is in the store."""
        return self.phase is not Phase.SAVING and extra <= GtidSet.parse(self.extra)

    def waits(self, now: float) -> float:
        """Seconds until a copy may be tried again: 5 s after the first failure, then twice as long each, to 10 min."""
        if not self.failures:
            return 0.0
        pause = min(FIRST_PAUSE * 2.0 ** (self.failures - 1), LONGEST_PAUSE)
        return max(0.0, min(self.failed_at + pause - now, pause))  # the clock may have been set back

    def now(self, phase: Phase, **changes: Any) -> Comeback:
        """The next phase; a note on what failed before is dropped."""
        return replace(self, phase=phase, **{"note": "", **changes})


def read(datadir: Path) -> Comeback | None:
    """Return what is known, None if no return is under way; AutopilotError if the file is damaged."""
    path = datadir / FILE
    try:
        content = json.loads(path.read_text())
        return Comeback(**{**content, "phase": Phase(content["phase"])})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise AutopilotError(
            f"{path} cannot be read ({error}); it says how far this node's return has come: have it looked at"
        ) from None


def write(datadir: Path, comeback: Comeback) -> None:
    """Replace the file: after a crash either the old or the new content is there. ComebackError: it cannot be."""
    temporary = datadir / f"{FILE}.new"
    try:
        with open(temporary, "w") as file:
            json.dump(asdict(comeback), file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, datadir / FILE)
        sync_directory(datadir)
    except OSError as error:
        raise ComebackError(f"cannot write {datadir / FILE}: {error.strerror}") from None


def clear(datadir: Path) -> None:
    """The return is over."""
    (datadir / FILE).unlink(missing_ok=True)
    sync_directory(datadir)
