"""Free space on disk, asked for before anything costly begins."""

from __future__ import annotations

import shutil
from pathlib import Path

from manager.errors import SnapshotError
from manager.snapshot.progress import size_text


def check_room(directory: Path, needed: int, name: str, use: str) -> None:
    """SnapshotError, naming the directory, if it has no room for `needed` bytes and a twentieth more."""
    free = shutil.disk_usage(directory).free
    needed += needed // 20
    if free < needed:
        raise SnapshotError(
            f"{name} {directory} has {size_text(free)} free,"
            f" {use} needs {size_text(needed)}: give it more room"
        )
