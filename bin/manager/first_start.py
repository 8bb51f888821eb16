"""The users' first-start scripts, and how far a founding node has come with them.

They run once, on the node that founds the cluster, before it is opened (hooks/first_start.py). While they run, the
data directory is marked as half-made: whatever ends them, the next start of mysqld begins again with an empty one.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path

from manager import flock, nodefile
from manager.errors import AutopilotError
from manager.nodefile import NodeFile
from manager.settings import Settings
from manager.waiting import Deadline, poll_until

LOCK = "first_start"
SUFFIXES = (".sql", ".sql.gz", ".sh")
LOOK_TIME = 0.5
END_TIME = 10.0
_WORD = "first_start.json"


class Phase(Enum):
    """Where this node is with its scripts."""

    NOTHING = "nothing to do: there are none, they have run, or this node does not found"
    WANTED = "they are still to be run"
    RUNNING = "they are running"
    FAILED = "one has failed"
    CUT_OFF = "they were cut off"


@dataclass(frozen=True)
class FirstStart:
    """The phase, and what the runner said last: the script that runs, or the one that failed and how."""

    phase: Phase = Phase.NOTHING
    word: str = ""


@dataclass(frozen=True, kw_only=True)
class _Word:
    text: str = "their begin"
    failed: bool = False
    group: int = 0


def scripts(settings: Settings) -> tuple[list[Path], list[Path]]:
    """Return the scripts of MYSQL_INITDB_DIR in the order of their names, and what else lies there."""
    try:
        found = sorted(e for e in settings.mysql_initdb_dir.iterdir() if not e.name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        return [], []
    wanted = [entry for entry in found if entry.name.endswith(SUFFIXES)]
    return wanted, [entry for entry in found if entry not in wanted]


def due(settings: Settings, file: NodeFile) -> bool:
    """True if scripts are still to be run in this data directory, which we initialised and nobody has opened."""
    fresh = file.origin == "initialised" and not file.ready and not file.scripts_done
    return fresh and bool(scripts(settings)[0])


def look(settings: Settings, file: NodeFile) -> FirstStart:
    """Return how far this node is. Every process of a script holds the runner's lock: once it is free none is left."""
    if file.ready or file.scripts_done or file.origin != "initialised":
        return FirstStart()
    half_made = nodefile.is_building(settings.mysql_datadir)
    if nodefile.wanted_snapshot(settings.mysql_datadir) or not (half_made or due(settings, file)):
        return FirstStart()
    if flock.taken(settings.run_dir / f"{LOCK}.lock"):
        return FirstStart(Phase.RUNNING, _said(settings.run_dir).text)
    # Looked at again: the runner may have ended in between.
    if half_made and nodefile.is_building(settings.mysql_datadir):
        said = _said(settings.run_dir)
        return FirstStart(Phase.FAILED if said.failed else Phase.CUT_OFF, said.text)
    return FirstStart(Phase.WANTED) if due(settings, file) else FirstStart()


def say(run_dir: Path, text: str, *, failed: bool = False) -> None:
    """Tell the hooks what the runner, whose process group this is, does, or what has failed."""
    path = run_dir / _WORD
    temporary = path.with_name(f"{_WORD}.new")
    temporary.write_text(json.dumps(asdict(_Word(text=text, failed=failed, group=os.getpgrp()))))
    os.replace(temporary, path)


def end(run_dir: Path) -> None:
    """Before mysqld starts: end what is left of a runner, which must not go on in another database.

    AutopilotError if a script's process goes on elsewhere than in the runner's process group.
    """
    lock = run_dir / f"{LOCK}.lock"

    def ended() -> bool:
        return not flock.taken(lock)

    # A health run that looks holds the lock for an instant.
    if not poll_until(ended, Deadline(LOOK_TIME)):
        group = _said(run_dir).group
        if group:
            # Still theirs: a group's number is not given away while the group has a member.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(group, signal.SIGKILL)
        if not poll_until(ended, Deadline(END_TIME)):
            raise AutopilotError(
                f"a first-start script of the last start still runs, and holds {lock}: end it"
            )
    (run_dir / _WORD).unlink(missing_ok=True)


def _said(run_dir: Path) -> _Word:
    try:
        return _Word(**json.loads((run_dir / _WORD).read_text()))
    except (OSError, ValueError, TypeError):
        return _Word()
