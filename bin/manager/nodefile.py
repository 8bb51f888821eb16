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
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Literal

from manager.errors import AutopilotError

FORMAT = 1
Origin = Literal["initialised", "restored", "adopted"]
STATE_FILE = ".autopilot.json"
LOST_AND_FOUND = "lost+found"
BUILDING_FILE = ".autopilot-building"


@dataclass(frozen=True, kw_only=True)
class NodeFile:
    """What is known of this data directory.

    `ready` is the marker that the first set-up (founding, or joining) is complete; it is written last.
    `may_found` tells whether the store was asked and has no snapshot of this service. `opened_epoch` is the epoch
    at which the server was open as the primary when it was last up, 0 if it was not the primary then.
    `scripts_done` tells that the users' first-start scripts have run in it; `snapshot` is
    the one that was restored here. `server` is the version of the server that has run on it last, empty if unknown.
    """

    format: int = FORMAT
    origin: Origin
    cluster_id: str | None = None
    ready: bool = False
    may_found: bool = False
    why_not_found: str = ""
    opened_epoch: int = 0
    scripts_done: bool = False
    snapshot: str = ""
    server: str = ""

    def joined(self, cluster_id: str, *, opened_epoch: int = 0) -> NodeFile:
        """The same data directory, now part of a cluster for good; as its primary where an epoch is given."""
        return replace(self, cluster_id=cluster_id, ready=True, opened_epoch=opened_epoch)


def read(datadir: Path) -> NodeFile | None:
    """Return the file's content, or None where there is none; AutopilotError if it is damaged or of a newer format.

    What a newer version of the same format has added is passed over, so that the older one can go on.
    """
    path = datadir / STATE_FILE
    try:
        found = dict(json.loads(path.read_text()))
        form = int(found.get("format", FORMAT))
        if form <= FORMAT:
            names = {field.name for field in fields(NodeFile)}
            return NodeFile(**{name: value for name, value in found.items() if name in names})
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise AutopilotError(
            f"{path} is damaged ({error}); restore it or remove it to have the data adopted"
        ) from None
    raise AutopilotError(f"{path} has format {form}; this version reads up to {FORMAT}, use a newer one")


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


def contents(directory: Path) -> list[Path]:
    """Return what belongs to a database in its directory, by name: everything that is not hidden, lost+found aside."""
    return sorted(e for e in directory.iterdir() if not e.name.startswith(".") and e.name != LOST_AND_FOUND)


def empty(datadir: Path) -> None:
    """Remove what a cut-off initialisation or restore left; the mark itself goes last, in `end_building`."""
    remove(entry for entry in datadir.iterdir() if entry.name not in (BUILDING_FILE, LOST_AND_FOUND))


def remove(entries: Iterable[Path]) -> None:
    """Remove files, and directories with all that is in them."""
    for entry in entries:
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
