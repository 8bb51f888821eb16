"""Restoring a snapshot into an empty data directory; what comes damaged is read once more."""

from __future__ import annotations

import contextlib
import logging
import shutil
from pathlib import Path

from manager import nodefile
from manager.decide.series import cannot_take_over
from manager.errors import SnapshotDamaged, SnapshotError
from manager.mysql.dialect import series
from manager.mysql.initialise import server_version
from manager.settings import Settings
from manager.snapshot import engines
from manager.snapshot.catalogue import find
from manager.snapshot.encryption import Keys
from manager.snapshot.manifest import Manifest
from manager.snapshot.pipeline import incoming
from manager.snapshot.progress import Pace, Report, size_text
from manager.storage import Store

LOG = logging.getLogger(__name__)


def restore(
    settings: Settings, store: Store, manifest_id: str, datadir: Path, *, progress: Report | None = None
) -> Manifest:
    """Stream the snapshot `manifest_id` into `datadir` and return its manifest.

    `datadir` is empty but for files whose names begin with a dot. The caller marks it as half-made until this
    returns (`nodefile.begin_building`), and gives the files to mysqld's user: they belong to this process.
    The copy of a replica holds its replication settings; the caller forgets them before anything starts.
    SnapshotDamaged if it was read in a damaged form twice, SnapshotError if it does not fit or SNAPSHOT_KEY has no key
    for it, ObjectMissing if there is no manifest, StoreError from the store.
    """
    in_the_way = nodefile.contents(datadir)
    if in_the_way:
        raise SnapshotError(f"{datadir} is not empty: it holds {in_the_way[0].name}")
    try:
        return _restore(settings, store, manifest_id, datadir, progress)
    except SnapshotDamaged as damage:
        LOG.warning("%s; reading it once more", damage)
    nodefile.remove(nodefile.contents(datadir))
    return _restore(settings, store, manifest_id, datadir, progress)


def _restore(
    settings: Settings, store: Store, manifest_id: str, datadir: Path, progress: Report | None
) -> Manifest:
    manifest, keys = find(store, manifest_id), Keys(settings)
    engine = engines.named(manifest)
    _check_fits(manifest, engine, server_version(settings), datadir)
    try:
        keys.check(manifest.encryption, manifest.recipient)
        chunks = incoming(store, manifest, Pace(progress, "restoring", manifest.size), keys)
        with contextlib.closing(chunks):
            engine.restore(settings, manifest, chunks, datadir, progress)
    except SnapshotError as error:
        raise type(error)(f"snapshot {manifest.id} cannot be restored: {error}") from None
    return manifest


def readable_by(snapshot_version: str, version: str) -> bool:
    """True unless the server is of an older series than the snapshot: MySQL does not open newer data files.

    Within a series both ways are allowed for LTS releases (manual, "Downgrading MySQL").
    """
    return series(snapshot_version) <= series(version)


def _check_fits(manifest: Manifest, engine: engines.Engine, version: str, datadir: Path) -> None:
    if not readable_by(manifest.server_version, version):
        raise SnapshotError(
            f"snapshot {manifest.id} comes from MySQL {manifest.server_version}, this server is {version}:"
            " use the same or a newer series"
        )
    if not engine.logical and (why := cannot_take_over(manifest.server_version, version)):
        raise SnapshotError(f"snapshot {manifest.id} cannot be restored: {why}")
    free = shutil.disk_usage(datadir).free
    if free < manifest.unpacked:
        raise SnapshotError(
            f"{datadir} has {size_text(free)} free,"
            f" snapshot {manifest.id} needs {size_text(manifest.unpacked)}"
        )
