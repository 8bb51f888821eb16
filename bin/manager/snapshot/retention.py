"""Which snapshots may go (SNAPSHOT_KEEP, SNAPSHOT_KEEP_DAYS), and their removal from the store.

What is said of a snapshot is its manifest: it goes first, so that a removal that is cut off leaves nothing that could
be taken for a snapshot; the object without it is removed by the next run.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence

from manager.errors import ObjectMissing
from manager.settings import Settings
from manager.snapshot.manifest import Manifest
from manager.snapshot.naming import MANIFEST_SUFFIX, fixed_prefix, is_ours, manifest_name
from manager.storage import Store

LOG = logging.getLogger(__name__)

DAY = 86400.0
ORPHAN_AGE = DAY
"""Seconds after which an object without a manifest belongs to no snapshot that is still being taken."""


def surplus(
    manifests: Sequence[Manifest],
    *,
    cluster_id: str,
    keep: int | None,
    keep_days: int | None,
    now: float,
    spared: Collection[str],
) -> list[Manifest]:
    """Return what may go, the oldest first. Pure. `now` in seconds since 1970.

    A snapshot stays if either rule keeps it: it is one of the `keep` newest, or younger than `keep_days`. Without a
    rule all stay. Those of another cluster, those in `spared`, and the newest that is not known to be bad always stay.
    """
    mine = [manifest for manifest in manifests if manifest.cluster_id == cluster_id]
    ours = sorted(mine, key=lambda manifest: (manifest.at, manifest.id), reverse=True)
    stay = set(spared)
    if keep is None and keep_days is None:
        return []
    # A verdict may be wrong: it costs nobody his place.
    stay |= {m.id for m in ours[: keep or 0]}
    stay |= {m.id for m in [m for m in ours if not m.bad][: max(keep or 0, 1)]}
    if keep_days is not None:
        stay |= {m.id for m in ours if now - m.at < keep_days * DAY}
    return [m for m in reversed(ours) if m.id not in stay]


def remove(store: Store, manifest: Manifest, being_restored: Callable[[], Collection[str]]) -> bool:
    """Remove a snapshot; False if it stays, since somebody restores it now.

    Whoever restores says so first and reads the manifest then. So one of two is true: he finds no manifest, or
    what is asked last is asked after he has said so, and the manifest is put back.
    """
    if manifest.id in being_restored():
        return False
    store.delete(manifest.name)
    if manifest.id in being_restored():
        store.put_bytes(manifest.name, manifest.to_json())
        return False
    store.delete(manifest.id)
    return True


def remove_orphans(settings: Settings, store: Store, now: float, since: float) -> int:
    """Remove this service's objects that have had no manifest for a day; returns how many. CannotList, StoreError.

    Only what was written after `since`, when this cluster began to take snapshots: older ones may be somebody's who
    knew no manifests. To be called by the holder of the snapshot lock.
    """
    objects = {each.name: each for each in store.list(fixed_prefix(settings))}
    removed = 0
    for name, each in objects.items():
        orphan = not name.endswith(MANIFEST_SUFFIX) and manifest_name(name) not in objects
        if orphan and is_ours(settings, name) and since < each.mtime < now - ORPHAN_AGE:
            try:
                store.stat(manifest_name(name))
            except ObjectMissing:
                store.delete(name)
                removed += 1
                LOG.info("removed %s, an object without a manifest", name)
    return removed
