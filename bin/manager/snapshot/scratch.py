"""The place where a snapshot of this node is made before it is stored."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from manager.errors import SnapshotError
from manager.settings import Settings


def place(settings: Settings) -> Path:
    """The directory in SCRATCH_DIR in which this node makes its snapshots, one at a time."""
    return settings.scratch_dir / f".snapshot-{settings.node_name}"


@contextlib.contextmanager
def directory(settings: Settings) -> Iterator[Path]:
    """Yield `place`, empty, and such that mysqld may write to it; remove it in the end.

    What a killed run has left there is removed first. SnapshotError if the directory cannot be made.
    """
    path = place(settings)
    try:
        if path.is_dir():
            shutil.rmtree(path)
        settings.scratch_dir.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700)
        owner = os.stat(settings.mysql_datadir)  # mysqld's own user, whoever we are
        if owner.st_uid != os.geteuid():
            os.chown(path, owner.st_uid, owner.st_gid)
    except OSError as error:
        raise SnapshotError(
            f"SCRATCH_DIR {settings.scratch_dir}: {error.strerror} ({error.filename})"
        ) from None
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
