from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manager.errors import ObjectMissing, SnapshotError
from manager.settings import Settings, load
from manager.snapshot.catalogue import find, manifests, service_snapshots
from manager.snapshot.manifest import Manifest
from manager.snapshot.restore import readable_by
from manager.storage import Store, open_store

UUID = "11111111-2222-3333-4444-555555555555"
MANIFEST = Manifest(
    id="mysql-backup-1",
    path="backups/mysql-backup-1",
    cluster_id="c-1",
    service_name="mysql",
    server_version="9.7.4-2",
    server_uuid=UUID,
    gtid=f"{UUID}:1-7",
    gtid_after=f"{UUID}:1-9",
    size=12,
    sha256="0" * 64,
    unpacked=100,
    engine="clone",
    origin="initialised",
    taken_on="mysql-node-1",
    from_replica=False,
    at=1_700_000_000,
    binlog=None,
)


@given(st.text(), st.integers(0, 2**63), st.none() | st.text())
def test_a_manifest_survives_its_stored_form(text: str, size: int, binlog: str | None) -> None:
    manifest = replace(MANIFEST, cluster_id=text, size=size, binlog=binlog)
    assert Manifest.from_json(manifest.to_json(), manifest.name) == manifest


def test_fields_of_later_versions_of_the_same_format_are_ignored() -> None:
    content = {**json.loads(MANIFEST.to_json()), "later": 1}
    assert Manifest.from_json(json.dumps(content).encode(), "m") == MANIFEST


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"format": 2}, "m has format 2; this version reads up to 1: upgrade"),
        ({"format": "1"}, "m has format 1"),
        ({"size": "12"}, "m has a wrong size"),
        ({"binlog": 3}, "m has a wrong binlog"),
        ({"from_replica": 1}, "m has a wrong from_replica"),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, object], line: str) -> None:
    content = {**json.loads(MANIFEST.to_json()), **change}
    with pytest.raises(SnapshotError, match=line):
        Manifest.from_json(json.dumps(content).encode(), "m")


@pytest.mark.parametrize("data", [b"", b"\xff", b"[]", b"3", b'"x"', b"{}", b'{"format": 1}'])
def test_what_is_no_manifest_is_one_line(data: bytes) -> None:
    with pytest.raises(SnapshotError) as caught:
        Manifest.from_json(data, "m")
    assert str(caught.value).startswith("m ")


@pytest.mark.parametrize(
    ("snapshot", "server", "fits"),
    [
        ("9.7.4-2", "9.7.4-2", True),
        ("9.7.4", "9.7.1", True),
        ("8.4.9", "9.7.4", True),
        ("9.7.4", "8.4.9", False),
        ("9.10.0", "9.9.0", False),
    ],
)
def test_newer_data_files_are_not_opened_by_an_older_series(snapshot: str, server: str, fits: bool) -> None:
    assert readable_by(snapshot, server) is fits


# --- catalogue ----------------------------------------------------------------------------------


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load(
        {
            "NODE_NAME": "n",
            "NODE_ADDRESS": "127.0.0.1",
            "BACKUP_DRIVER": "local",
            "STORAGE_DIR": str(tmp_path),
        }
    )


@pytest.fixture
def store(settings: Settings) -> Store:
    return open_store(settings)


def put(store: Store, name: str, **changes: object) -> None:
    manifest = replace(MANIFEST, id=name, **changes)  # type: ignore[arg-type]
    store.put_bytes(manifest.name, manifest.to_json())


def test_the_newest_of_this_service_comes_first(store: Store, settings: Settings) -> None:
    put(store, "mysql-backup-a", at=1)
    put(store, "mysql-backup-b", at=3)
    put(store, "mysql-backup-c", at=2)
    put(store, "mysql-backup-d", at=4, service_name="mysql-backup")
    store.put_bytes("mysql-backup-e", b"an object without a manifest")
    newest_first = ["mysql-backup-b", "mysql-backup-c", "mysql-backup-a"]
    assert service_snapshots(store, settings) == newest_first
    assert [each.id for each in manifests(store, settings)] == newest_first


def test_manifests_under_another_backup_name_are_found(tmp_path: Path, store: Store) -> None:
    put(store, "mysql-backup-a", at=1)
    put(store, "nightly-b", at=2)
    changed = load(
        {
            "NODE_NAME": "n",
            "NODE_ADDRESS": "127.0.0.1",
            "BACKUP_DRIVER": "local",
            "STORAGE_DIR": str(tmp_path),
            "BACKUP_NAME": "nightly-%Y%j",
        }
    )
    assert service_snapshots(store, changed) == ["nightly-b", "mysql-backup-a"]


def test_a_manifest_that_cannot_be_read_counts_if_its_name_is_ours(store: Store, settings: Settings) -> None:
    ours, other = "mysql-backup-2026-03-04T12-05-06Z", "mysql-backup-other"
    for content in (b"\xff", b"[]", b"{}", bytes((1 << 20) + 1)):
        store.put_bytes(f"{ours}.manifest.json", content)
        store.put_bytes(f"{other}.manifest.json", content)
        assert service_snapshots(store, settings) == [ours]
    with pytest.raises(Exception, match="larger than"):
        find(store, ours)


def test_a_manifest_of_a_newer_format_counts(store: Store, settings: Settings) -> None:
    put(store, "mysql-backup-a", format=2)
    assert service_snapshots(store, settings) == ["mysql-backup-a"]


def test_find(store: Store) -> None:
    put(store, "mysql-backup-a")
    assert find(store, "mysql-backup-a").id == "mysql-backup-a"
    with pytest.raises(ObjectMissing, match="snapshot mysql-backup-b has no manifest in the store"):
        find(store, "mysql-backup-b")
    store.put_bytes("mysql-backup-b.manifest.json", MANIFEST.to_json())
    with pytest.raises(SnapshotError, match="describes another snapshot, mysql-backup-1"):
        find(store, "mysql-backup-b")
