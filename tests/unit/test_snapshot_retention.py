"""Which snapshots retention lets go: never the wrong one, whatever the settings, and whoever shares the store."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manager.settings import load
from manager.snapshot import retention
from manager.snapshot.catalogue import manifests
from manager.snapshot.manifest import GOOD, Manifest
from manager.snapshot.naming import snapshot_name
from manager.storage import Store
from manager.storage.local import LocalStore

HOUR = 3600
START = 1_790_000_000


def manifest(at: int = START, *, cluster: str = "c-1", service: str = "mysql", verdict: str = "") -> Manifest:
    settings = load(
        {"SERVICE_NAME": service, "NODE_ADDRESS": "127.0.0.1", "BACKUP_DRIVER": "local", "STORAGE_DIR": "/"}
    )
    name = snapshot_name(settings, at)
    return Manifest(
        id=name,
        path=name,
        cluster_id=cluster,
        service_name=service,
        server_version="9.7.4",
        server_uuid="u",
        gtid="",
        gtid_after="",
        size=1,
        sha256="",
        unpacked=1,
        engine="clone",
        origin="initialised",
        taken_on="node-1",
        from_replica=False,
        at=at,
        binlog=None,
        verdict=verdict,
    )


def gone(found: Iterable[Manifest], **changes: object) -> list[int]:
    """By how many hours each one that may go is older than `now`."""
    now = changes.pop("now", START)
    assert isinstance(now, int)
    options: dict[str, object] = {
        "cluster_id": "c-1",
        "keep": None,
        "keep_days": None,
        "spared": (),
        **changes,
    }
    return [(now - one.at) // HOUR for one in retention.surplus(list(found), now=float(now), **options)]  # type: ignore[arg-type]


def hourly(count: int) -> list[Manifest]:
    return [manifest(START - number * HOUR) for number in range(count)]


def test_without_a_rule_all_stay() -> None:
    assert gone(hourly(50)) == []


def test_all_but_the_newest_go_the_oldest_first() -> None:
    assert gone(hourly(5), keep=2) == [4, 3, 2]


def test_younger_ones_stay_whatever_the_number() -> None:
    assert gone(hourly(30), keep=2, keep_days=1) == [29, 28, 27, 26, 25, 24]
    assert gone(hourly(30), keep=28, keep_days=1) == [29, 28]


def test_days_alone_leave_the_last_one() -> None:
    assert gone(hourly(3), keep_days=1, now=START + 100 * 24 * HOUR) == [100 * 24 + 2, 100 * 24 + 1]


def test_the_last_good_one_stays_although_newer_ones_are_bad() -> None:
    found = [manifest(START), manifest(START - HOUR, verdict="page 7 is damaged"), manifest(START - 2 * HOUR)]
    found[0] = manifest(START, verdict="its GTID set is another")
    found.append(manifest(START - 3 * HOUR, verdict=GOOD))
    assert gone(found, keep=1) == [3, 1]  # a verdict may be wrong: the newest has its place all the same


def test_what_is_spared_and_what_another_cluster_has_stays() -> None:
    found = hourly(4)
    others = [manifest(START - 9 * HOUR, cluster="c-2")]
    assert gone(found + others, keep=1, spared={found[2].id}) == [3, 1]


@given(
    st.lists(st.tuples(st.integers(0, 900), st.booleans()), unique_by=lambda each: each[0]),
    st.integers(1, 20),
    st.integers(1, 20),
)
def test_the_rules_hold_for_any_history(history: list[tuple[int, bool]], keep: int, days: int) -> None:
    found = [manifest(START - hours * HOUR, verdict="" if good else "bad") for hours, good in history]
    removed = {
        one.id
        for one in retention.surplus(found, cluster_id="c-1", keep=keep, keep_days=days, now=START, spared=())
    }
    newest = sorted(found, key=lambda one: -one.at)
    good = [one for one in newest if not one.bad]
    young = [one for one in found if START - one.at < days * retention.DAY]
    assert removed == {one.id for one in found} - {one.id for one in (*newest[:keep], *good[:keep], *young)}


# --- In a store ---------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return LocalStore(settings(tmp_path))


def settings(directory: Path, **changes: str):  # type: ignore[no-untyped-def]
    return load(
        {"BACKUP_DRIVER": "local", "STORAGE_DIR": str(directory), "NODE_ADDRESS": "127.0.0.1", **changes}
    )


def put(store: Store, one: Manifest) -> None:
    store.put_bytes(one.id, b"x")
    store.put_bytes(one.name, one.to_json())


def test_24_days_of_hourly_snapshots_keep_exactly_what_they_should(store: Store, tmp_path: Path) -> None:
    """Another service's, another cluster's and a stranger's objects lie in the same store."""
    own = settings(tmp_path, SNAPSHOT_KEEP="24", SNAPSHOT_KEEP_DAYS="2")
    others = [
        manifest(START + 1, service="mysql-2"),
        manifest(START + 2, cluster="c-2"),
    ]
    for other in others:
        put(store, other)
    store.put_bytes("mysql-backup-notes.txt", b"x")
    untouched = {each.name for each in store.list("")}
    for hour in range(24 * 24):
        now = START + hour * HOUR
        newest = manifest(now)
        put(store, newest)
        for old in retention.surplus(
            manifests(store, own),
            cluster_id="c-1",
            keep=own.snapshot_keep,
            keep_days=own.snapshot_keep_days,
            now=now,
            spared={newest.id},
        ):
            assert retention.remove(store, old, frozenset)
    expected = {manifest(START + hour * HOUR).id for hour in range(24 * 24 - 48, 24 * 24)}
    left = {each.name for each in store.list("")} - untouched
    assert untouched <= {each.name for each in store.list("")}
    assert left == expected | {f"{name}.manifest.json" for name in expected}


def test_one_that_is_being_restored_stays(store: Store) -> None:
    one = manifest()
    put(store, one)
    assert not retention.remove(store, one, lambda: {one.id})
    assert store.get_bytes(one.name) == one.to_json()


def test_one_that_somebody_begins_to_restore_meanwhile_is_put_back(store: Store) -> None:
    one = manifest()
    put(store, one)
    answers = iter([set(), {one.id}])
    assert not retention.remove(store, one, lambda: next(answers))
    assert store.get_bytes(one.name) == one.to_json()
    assert store.get_bytes(one.id) == b"x"


def test_an_object_that_never_got_its_manifest_goes_after_a_day(store: Store, tmp_path: Path) -> None:
    half, whole = manifest(START), manifest(START + HOUR)
    store.put_bytes(half.id, b"x")
    store.put_bytes("mysql-backup-notes.txt", b"x")
    store.put_bytes(manifest(START, service="mysql-2").id, b"x")
    put(store, whole)
    written = store.stat(half.id).mtime
    own = settings(tmp_path)
    assert retention.remove_orphans(own, store, written + retention.DAY - 60, written - 60) == 0
    assert retention.remove_orphans(own, store, written + retention.DAY + 60, written + 60) == 0
    assert retention.remove_orphans(own, store, written + retention.DAY + 60, written - 60) == 1
    assert {each.name for each in store.list("")} == {
        "mysql-backup-notes.txt",
        manifest(START, service="mysql-2").id,
        whole.id,
        whole.name,
    }
