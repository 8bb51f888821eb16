"""Which snapshots a store holds."""

from __future__ import annotations

import json
import logging

from manager.errors import ObjectMissing, SnapshotDamaged, SnapshotError
from manager.settings import Settings
from manager.snapshot.manifest import Manifest
from manager.snapshot.naming import MANIFEST_SUFFIX, fixed_prefix, is_ours, manifest_name
from manager.storage import Store, StoredObject
from manager.storage.base import SMALL

log = logging.getLogger(__name__)


def service_snapshots(store: Store, settings: Settings) -> list[str]:
    """Return the ids of this SERVICE_NAME's snapshots in the store, the newest first.

    Asked are manifests whose names begin as BACKUP_NAME or its default does. One that cannot be read counts
    if its name is one of this service's: it may belong to a cluster that lives.
    StoreError if the store is away, CannotList if the driver cannot tell.
    """
    dated = []
    for each in _stored_manifests(store, settings):
        at = _taken_at(store, settings, each)
        if at is not None:
            dated.append((at, each.name.removesuffix(MANIFEST_SUFFIX)))
    return [snapshot_id for _, snapshot_id in sorted(dated, reverse=True)]


def manifests(store: Store, settings: Settings) -> list[Manifest]:
    """Return the manifests of this SERVICE_NAME's snapshots that can be read, the newest first.

    StoreError if the store is away, CannotList if the driver cannot tell.
    """
    found = []
    for each in _stored_manifests(store, settings):
        try:
            found.append(find(store, each.name.removesuffix(MANIFEST_SUFFIX)))
        except (ObjectMissing, SnapshotError) as error:
            log.warning("%s", error)
    ours = [each for each in found if each.service_name == settings.service_name]
    return sorted(ours, key=lambda each: (each.at, each.id), reverse=True)


def find(store: Store, snapshot_id: str) -> Manifest:
    """Return the manifest of a snapshot.

    ObjectMissing (a StoreError) if there is none, SnapshotError if it is not usable, StoreError if the store
    is away.
    """
    name = manifest_name(snapshot_id)
    try:
        data = store.get_bytes(name)
    except ObjectMissing:
        raise ObjectMissing(
            f"snapshot {snapshot_id} has no manifest in the store: it was never completed, or is none of ours"
        ) from None
    manifest = Manifest.from_json(data, name)
    if manifest.id != snapshot_id:
        raise SnapshotDamaged(f"{name} describes another snapshot, {manifest.id}")
    return manifest


def _stored_manifests(store: Store, settings: Settings) -> list[StoredObject]:
    found: dict[str, StoredObject] = {}
    for prefix in {fixed_prefix(settings), f"{settings.service_name}-backup-"}:
        found |= {each.name: each for each in store.list(prefix) if each.name.endswith(MANIFEST_SUFFIX)}
    return list(found.values())


def _taken_at(store: Store, settings: Settings, stored: StoredObject) -> float | None:
    """When this service's snapshot was taken (the object's time if unknown); None if another service's."""
    try:
        content = json.loads(store.get_bytes(stored.name)) if stored.size <= SMALL else None
    except ObjectMissing:  # deleted meanwhile
        return None
    except ValueError:
        content = None
    if isinstance(content, dict) and isinstance(content.get("service_name"), str):
        at = content.get("at")
        if content["service_name"] != settings.service_name:
            return None
        return float(at) if isinstance(at, int | float) else stored.mtime
    log.warning("%s cannot be read as a manifest", stored.name)
    return stored.mtime if is_ours(settings, stored.name) else None
