"""The engines that make snapshots (SNAPSHOT_ENGINE), and which of them does it here."""

from __future__ import annotations

from manager.errors import SnapshotError
from manager.mysql.connection import Connection
from manager.settings import Settings
from manager.snapshot.engines.base import Engine
from manager.snapshot.engines.clone import CloneEngine
from manager.snapshot.engines.mydumper import MydumperEngine
from manager.snapshot.engines.xtrabackup import XtraBackupEngine
from manager.snapshot.manifest import Manifest

__all__ = ["ENGINES", "Engine", "choose", "named"]

ENGINES: dict[str, Engine] = {
    engine.name: engine for engine in (XtraBackupEngine(), CloneEngine(), MydumperEngine())
}
"""In the order of preference."""


def choose(settings: Settings, conn: Connection) -> Engine:
    """Return SNAPSHOT_ENGINE, else the first engine that can copy this server; SnapshotError if none can."""
    if settings.snapshot_engine is not None:
        engine = ENGINES[settings.snapshot_engine]
        if why := engine.lacks(settings, conn):
            raise SnapshotError(f"SNAPSHOT_ENGINE={engine.name} cannot copy this server: {why}")
        return engine
    refusals = []
    for engine in ENGINES.values():
        why = engine.lacks(settings, conn)
        if not why:
            return engine
        refusals.append(f"{engine.name}: {why}")
    raise SnapshotError(f"no engine can copy this server: {'; '.join(refusals)}")


def named(manifest: Manifest) -> Engine:
    """Return the engine that made a snapshot; SnapshotError if this version does not know it."""
    engine = ENGINES.get(manifest.engine)
    if engine is None:
        raise SnapshotError(
            f"snapshot {manifest.id} was made by {manifest.engine!r}, unknown to this version"
        )
    return engine
