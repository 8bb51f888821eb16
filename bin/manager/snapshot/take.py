"""Taking a snapshot: engine, pipeline, store, check, and only then the manifest."""

from __future__ import annotations

import contextlib
import logging
import time

from manager import nodefile
from manager.errors import CannotList, SnapshotError, StoreError
from manager.mysql.connection import Connection
from manager.mysql.state import read_state
from manager.settings import Settings
from manager.snapshot import engines
from manager.snapshot.encryption import Keys
from manager.snapshot.manifest import Manifest
from manager.snapshot.naming import is_ours, manifest_name
from manager.snapshot.pipeline import Digest, outgoing
from manager.snapshot.progress import Pace, Report
from manager.storage import Store
from manager.storage.base import check_name

log = logging.getLogger(__name__)


def take(
    settings: Settings,
    conn: Connection,
    store: Store,
    *,
    cluster_id: str,
    name: str,
    progress: Report | None = None,
) -> Manifest:
    """Take a snapshot of the server behind `conn`, store it as `name`, and return its manifest.

    The caller holds the snapshot lock, and this node's lock of the same kind. `progress` is told a line every
    few seconds (without it, the log is), by another thread too; what it raises ends the work. Until the return
    nothing that could be taken for a snapshot is in the store; what an earlier, killed run left there and here is
    removed.
    SnapshotError if the server or the disk cannot give one, StoreError if the store fails.
    """
    keys = Keys(settings)
    _ask_store(settings, store, check_name(name))
    engine = engines.choose(settings, conn)
    at = int(time.time())
    before = read_state(conn)
    with engine.copy(settings, conn, progress) as copy:
        pace, digest = Pace(progress, "storing", copy.expected), Digest()
        stream = outgoing(copy.chunks(), pace, digest, rate=settings.snapshot_rate, keys=keys)
        with contextlib.closing(stream):
            path = store.put_stream(name, stream, at_most=keys.at_most(copy.expected + copy.expected // 100))
        held = copy.held()
    manifest = Manifest(
        id=name,
        path=path,
        cluster_id=cluster_id,
        service_name=settings.service_name,
        server_version=before.version,
        server_uuid=before.server_uuid,
        gtid=str(held.gtid),
        gtid_after=str(held.gtid_after),
        size=digest.size,
        sha256=digest.sha256,
        unpacked=held.unpacked,
        engine=engine.name,
        origin=_origin(settings),
        taken_on=settings.node_title,
        from_replica=before.replication is not None,
        at=at,
        binlog=before.binlog_file,
        encryption=keys.encryption,
        recipient=keys.recipient,
    )
    try:
        pace.finish()
        _check_stored(store, manifest)
        store.put_bytes(manifest.name, manifest.to_json())
    except BaseException:
        with contextlib.suppress(StoreError):
            store.delete(manifest.name)  # its answer may have been lost only on the way back
            store.delete(name)
        raise
    return manifest


def _ask_store(settings: Settings, store: Store, name: str) -> None:
    """Find out before the costly part that the store answers, and that nothing would be overwritten."""
    with contextlib.suppress(CannotList):
        if any(each.name in (name, manifest_name(name)) for each in store.list(name)):
            raise SnapshotError(f"{name} is in the store already; BACKUP_NAME must make a new name each time")
    try:
        removed = store.clear_leftovers(lambda each: is_ours(settings, each))
    except StoreError as error:
        log.warning("leftovers of cut-off snapshots stay in the store: %s", error)
    else:
        if removed:
            log.info("removed %d leftovers of cut-off snapshots from the store", removed)


def _check_stored(store: Store, manifest: Manifest) -> None:
    with contextlib.suppress(CannotList):
        stored = store.stat(manifest.id)
        if stored.size != manifest.size:
            raise SnapshotError(f"{manifest.path} has {stored.size} bytes, but {manifest.size} were sent")


def _origin(settings: Settings) -> str:
    file = nodefile.read(settings.mysql_datadir)
    return file.origin if file is not None else ""
