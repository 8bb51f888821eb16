"""The record's values and its text."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manager.discovery.record import Record, SnapshotRecord
from manager.errors import RecordError

A, B = "aaaaaaaa-0000-0000-0000-000000000001", "bbbbbbbb-0000-0000-0000-000000000002"


def founding() -> Record:
    return Record.founding(primary=A, primary_name="node-1", origin="initialised", reason="empty", at=100)


def test_a_founding_record() -> None:
    record = founding()
    assert (record.format, record.version, record.epoch, record.state) == (1, 1, 1, "founding")
    assert (record.primary, record.primaries, record.members) == (A, (A,), ())
    assert len(record.id) == 36
    assert founding().id != record.id


def test_opening_changes_nothing_but_the_state() -> None:
    record = founding().opened(at=101)
    assert (record.version, record.epoch, record.state, record.primary) == (2, 1, "open", A)


def test_a_promotion_begins_an_epoch_without_members() -> None:
    record = replace(founding().opened(at=101), members=(B,)).promoted(B, "node-2", "node-1 is dead", at=102)
    assert (record.version, record.epoch, record.primary, record.primary_name) == (3, 2, B, "node-2")
    assert (record.primaries, record.members) == ((A, B), ())
    assert (record.reason, record.at) == ("node-1 is dead", 102)
    back = record.promoted(A, "node-1", "hand-over", at=103)
    assert (back.epoch, back.primaries) == (3, (A, B))


def test_a_forced_promotion_goes_beyond_what_others_may_have_seen() -> None:
    record = founding().opened(at=101).promoted(B, "node-2", "forced", after=1007, at=102)
    assert (record.epoch, record.history[-1].split(": ")[0].split()[-1]) == (1008, "1008")


def test_a_takeover_keeps_the_id_and_forgets_the_first_founder() -> None:
    first = founding()
    record = first.taken_over(primary=B, primary_name="node-2", reason="node-1 is gone", at=101)
    assert (record.id, record.state, record.version, record.epoch) == (first.id, "founding", 2, 2)
    assert record.primaries == (B,)


def test_an_open_cluster_cannot_be_taken_over() -> None:
    with pytest.raises(ValueError, match="still being founded"):
        founding().opened().taken_over(primary=B, primary_name="node-2", reason="no")


def test_a_touch_changes_the_version_only() -> None:
    record = founding()
    assert record.touched() == replace(record, version=2)
    # A container made anew: the same data under another name.
    assert record.touched(primary_name="node-9") == replace(record, version=2, primary_name="node-9")


@pytest.mark.parametrize(
    ("epoch", "version", "older"), [(1, 1, False), (1, 2, True), (2, 0, True), (0, 9, False)]
)
def test_older_than(epoch: int, version: int, older: bool) -> None:
    assert founding().older_than(epoch, version) is older


texts = st.text(max_size=20)
counts = st.integers(min_value=0, max_value=2**53)
records = st.builds(
    Record,
    id=texts,
    version=counts,
    state=st.sampled_from(["founding", "open"]),
    durability=st.sampled_from(["async", "semisync"]),
    origin=st.sampled_from(["initialised", "adopted", "snapshot"]),
    epoch=counts,
    primary=texts,
    primary_name=texts,
    primaries=st.lists(texts).map(tuple),
    members=st.lists(texts).map(tuple),
    reason=texts,
    at=counts,
)


@given(records)
def test_a_record_survives_its_text(record: Record) -> None:
    assert Record.from_json(record.to_json()) == record


def test_fields_of_a_later_version_with_the_same_format_are_ignored() -> None:
    fields = json.loads(founding().to_json())
    assert Record.from_json(json.dumps({**fields, "extra": 1})).primary == A


@pytest.mark.parametrize("text", ["", "null", "[]", "{", "{}", "mysql-node-1", "\x00"])
def test_damaged_records(text: str) -> None:
    with pytest.raises(RecordError, match="is damaged"):
        Record.from_json(text)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("version", "1"),
        ("version", True),
        ("state", "closed"),
        ("primaries", "x"),
        ("members", [1]),
        ("primary", None),
    ],
)
def test_a_damaged_field_is_named(name: str, value: Any) -> None:
    fields = {**json.loads(founding().to_json()), name: value}
    with pytest.raises(RecordError, match=f"is damaged: {name} is"):
        Record.from_json(json.dumps(fields))


def test_a_newer_format_is_refused_whatever_else_it_holds() -> None:
    with pytest.raises(RecordError, match="has format 2; this version reads up to 1"):
        Record.from_json('{"format": 2, "primary": {"new": "shape"}}')


def snapshot() -> SnapshotRecord:
    return SnapshotRecord(
        id="mysql-backup-1",
        path="backups/mysql-backup-1",
        cluster_id="c",
        gtid=f"{A}:1-5",
        size=7,
        sha256="00",
        server_version="9.7.4",
        at=100,
        binlog="mysql-bin.000002",
    )


def test_a_snapshot_record_survives_its_text() -> None:
    assert SnapshotRecord.from_json(snapshot().to_json()) == snapshot()


def test_a_snapshots_time_may_have_fractions() -> None:
    fields = {**json.loads(snapshot().to_json()), "at": 100.75}
    assert SnapshotRecord.from_json(json.dumps(fields)) == snapshot()


@pytest.mark.parametrize("text", ["", "{}", '{"id": "x"}'])
def test_damaged_snapshot_records(text: str) -> None:
    with pytest.raises(RecordError, match="last snapshot's entry in Consul is damaged"):
        SnapshotRecord.from_json(text)


def test_the_original_projects_last_backup_is_told_from_damage() -> None:
    text = '{"id": "mysql-backup-2016-11-05T02-00-00Z", "dt": "2016-11-05T02:00:00.000000Z"}'
    with pytest.raises(
        RecordError, match=r"LAST_BACKUP_KEY\) is the original project's, .* docs/moving-in\.md"
    ):
        SnapshotRecord.from_json(text)
