"""The durable facts about a data directory, in `.autopilot.json` beside the database.

The name begins with a dot because `mysqld --initialize` ignores such files. A second file,
`.autopilot-building`, stands while the directory is being filled, by first-start scripts too: whoever finds
it at a start empties the directory and begins again, so nothing half-made is ever started.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from manager.errors import AutopilotError

Origin = Literal["initialised", "restored", "adopted"]
STATE_FILE = ".autopilot.json"
BUILDING_FILE = ".autopilot-building"


@dataclass(frozen=True, kw_only=True)
class NodeFile:
    """What is known of this data directory.

    `ready` is the marker that the first set-up (founding, or joining) is complete; it is written last.
    `may_found` tells whether the store was asked and has no snapshot of this service. `opened_epoch` is the epoch
    at which the server was open as the primary when it was last up, 0 if it was not the primary then.
    `scripts_done` tells that the users' first-start scripts have run in it; `snapshot` is
    the one that was restored here.
    """

    origin: Origin
    cluster_id: str | None = None
    ready: bool = False
    may_found: bool = False
    why_not_found: str = ""
    opened_epoch: int = 0
    scripts_done: bool = False
    snapshot: str = ""

    def joined(self, cluster_id: str, *, opened_epoch: int = 0) -> NodeFile:
        """The same data directory, now part of a cluster for good; as its primary where an epoch is given."""
        return replace(self, cluster_id=cluster_id, ready=True, opened_epoch=opened_epoch)


def read(datadir: Path) -> NodeFile | None:
    """Return the file's content, or None where there is none; AutopilotError if it is damaged."""
    path = datadir / STATE_FILE
    try:
        return NodeFile(**json.loads(path.read_text()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise AutopilotError(
            f"{path} is damaged ({error}); restore it or remove it to have the data adopted"
        ) from None


def write(datadir: Path, content: NodeFile) -> None:
    """Write the file so that after a crash either the old or the new content is there."""
    path = datadir / STATE_FILE
    temporary = path.with_name(path.name + ".new")
    with open(temporary, "w") as file:
        json.dump(asdict(content), file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    _sync_directory(datadir)


def begin_building(datadir: Path, snapshot: str = "") -> None:
    """Mark the directory as half-made; `snapshot` names one that a person wants in it."""
    with open(datadir / BUILDING_FILE, "w") as file:
        file.write(snapshot)
        file.flush()
        os.fsync(file.fileno())
    _sync_directory(datadir)


def wanted_snapshot(datadir: Path) -> str:
    """The snapshot that a person wants in a half-made directory; empty if nobody said so."""
    try:
        return (datadir / BUILDING_FILE).read_text().strip()
    except FileNotFoundError:
        return ""


def is_building(datadir: Path) -> bool:
    """True if an initialisation or a restore was cut off here."""
    return (datadir / BUILDING_FILE).exists()


def end_building(datadir: Path) -> None:
    """Take the mark away: what is in the directory is complete."""
    (datadir / BUILDING_FILE).unlink(missing_ok=True)
    _sync_directory(datadir)


def empty(datadir: Path) -> None:
    """Remove what a cut-off initialisation or restore left; the mark itself goes last, in `end_building`."""
    for entry in datadir.iterdir():
        if entry.name in (BUILDING_FILE, "lost+found"):
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            with contextlib.suppress(FileNotFoundError):
                entry.unlink()


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
