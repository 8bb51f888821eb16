"""Restoring a snapshot into an empty data directory."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from manager.errors import ObjectMissing, SnapshotDamaged, SnapshotError
from manager.mysql.initialise import server_version
from manager.settings import Settings
from manager.snapshot import archive
from manager.snapshot.catalogue import find
from manager.snapshot.clone import ENGINE
from manager.snapshot.manifest import Manifest
from manager.snapshot.progress import Pace, Report, size_text
from manager.storage import Store


def restore(
    settings: Settings, store: Store, manifest_id: str, datadir: Path, *, progress: Report | None = None
) -> Manifest:
    """Stream the snapshot `manifest_id` into `datadir` and return its manifest.

    `datadir` is empty but for files whose names begin with a dot. The caller marks it as half-made until this
    returns (`nodefile.begin_building`), and gives the files to mysqld's user: they belong to this process.
    The copy of a replica holds its replication settings; the caller forgets them before anything starts.
    SnapshotDamaged if the snapshot is, SnapshotError if it does not fit, ObjectMissing if there is no manifest,
    StoreError from the store.
    """
    manifest = find(store, manifest_id)
    _check_fits(manifest, server_version(settings), datadir)
    pace, digest = Pace(progress, "restoring", manifest.size), archive.Digest()
    stream = digest.follow(pace.count(store.get_stream(manifest.id)))
    try:
        archive.unpack(stream, datadir)
    except SnapshotError as error:
        raise type(error)(f"snapshot {manifest.id} cannot be restored: {error}") from None
    except ObjectMissing:
        raise SnapshotDamaged(f"snapshot {manifest.id} has a manifest, but its object is gone") from None
    pace.finish()
    if (digest.size, digest.sha256) != (manifest.size, manifest.sha256):
        raise SnapshotDamaged(
            f"snapshot {manifest.id} is damaged in the store: {digest.size} bytes, sha256 {digest.sha256};"
            f" its manifest says {manifest.size} and {manifest.sha256}"
        )
    return manifest


def readable_by(snapshot_version: str, version: str) -> bool:
    """True unless the server is of an older series than the snapshot: MySQL does not open newer data files.

    Within a series both ways are allowed for LTS releases (manual, "Downgrading MySQL"); whether a step up is
    allowed is left to mysqld, which says so itself.
    """
    return _series(snapshot_version) <= _series(version)


def _check_fits(manifest: Manifest, version: str, datadir: Path) -> None:
    if manifest.engine != ENGINE:
        raise SnapshotError(
            f"snapshot {manifest.id} was made by {manifest.engine!r}, unknown to this version"
        )
    if not readable_by(manifest.server_version, version):
        raise SnapshotError(
            f"snapshot {manifest.id} comes from MySQL {manifest.server_version}, this server is {version}:"
            " use the same or a newer series"
        )
    names = sorted(entry.name for entry in datadir.iterdir())
    in_the_way = [name for name in names if not name.startswith(".") and name != "lost+found"]
    if in_the_way:
        raise SnapshotError(f"{datadir} is not empty: it holds {in_the_way[0]}")
    free = shutil.disk_usage(datadir).free
    if free < manifest.unpacked:
        raise SnapshotError(
            f"{datadir} has {size_text(free)} free,"
            f" snapshot {manifest.id} needs {size_text(manifest.unpacked)}"
        )


def _series(version: str) -> tuple[int, ...]:
    match = re.match(r"(\d+)\.(\d+)", version)
    if match is None:
        raise SnapshotError(f"{version!r} is no version of a MySQL server")
    return int(match[1]), int(match[2])
