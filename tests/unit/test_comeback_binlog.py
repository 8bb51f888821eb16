"""Reading binlogs: which transactions a file holds, where each lies, how it ends, and where the file is torn."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manager.comeback import binlog
from manager.comeback.binlog import Binlog, End
from manager.errors import BinlogError
from manager.gtid import GtidSet
from tests.unit.binlog_files import (
    PAYLOAD,
    TABLE_AND_ROWS,
    XA_PREPARE,
    XID,
    BinlogFile,
    Events,
    datadir,
    gtid_set,
    query,
    rows,
    unsigned,
)

A, B = (f"{letter * 8}-0000-4000-8000-0123456789ff" for letter in "ab")
SOURCES = st.tuples(st.sampled_from([A, B]), st.sampled_from(["", "blue", "t" * 32]))
SETS = st.lists(st.tuples(SOURCES, st.integers(1, 2**62), st.integers(0, 300)), max_size=8)


def read(file: BinlogFile, directory: Path, size: int | None = None) -> list[tuple[str, int, int, End]]:
    """What is found in a file: GTID, begin, end, and how it ends."""
    with Binlog(file.write(directory / "binlog.000001", size)) as log:
        found = list(log.transactions())
        assert [(t.start, t.source, t.number) for t in found] == list(log.begins())
        return [(str(binlog.gtids([(t.source, t.number)])), t.start, t.end, t.how) for t in found]


@pytest.mark.parametrize(
    ("events", "how"),
    [
        (rows(), End.XID),
        ((query("BEGIN"), query("UPDATE t SET a = 1"), (XID, bytes(8))), End.XID),
        ((query("BEGIN"), *TABLE_AND_ROWS, query("COMMIT")), End.OTHER),  # MyISAM
        ((query("BEGIN"), query("ROLLBACK")), End.OTHER),
        ((query("CREATE TABLE t (a INT)"),), End.OTHER),
        ((query("CREATE TABLE t (a INT) START TRANSACTION"), *TABLE_AND_ROWS, (XID, bytes(8))), End.OTHER),
        (
            (query("XA START X'78'"), *TABLE_AND_ROWS, query("XA END X'78'"), (XA_PREPARE, bytes(9))),
            End.OTHER,
        ),
        (((PAYLOAD, bytes(99)),), End.OTHER),
        ((query("BEGIN"), (26, b"incident"), (XID, bytes(8))), End.OTHER),
        ((query("BEGIN"), (99, b"of a version to come"), (XID, bytes(8))), End.OTHER),
        ((*rows(), (99, b"behind the end")), End.OTHER),
        ((query("BEGIN"), *TABLE_AND_ROWS), End.HALF),
        ((query("BEGIN"),), End.HALF),
        ((), End.HALF),
    ],
)
def test_how_a_transaction_ends(tmp_path: Path, events: Events, how: End) -> None:
    file = BinlogFile()
    file.add(f"{A}:1")
    file.add(f"{A}:2", events)
    middle = file.at[1]
    assert read(file, tmp_path) == [
        (f"{A}:1", file.head, middle, End.XID),
        (f"{A}:2", middle, len(file.data), how),
    ]


@pytest.mark.parametrize("checksums", [True, False])
def test_tags_long_transactions_and_what_has_no_gtid(tmp_path: Path, checksums: bool) -> None:
    file = BinlogFile(checksums=checksums)
    file.add(f"{A}:blue:7")
    file.add(f"{A}:{2**62}", [query("BEGIN"), (30, bytes(20_000)), (XID, bytes(8))])
    file.add("")
    file.add(f"{B}:1")
    found = read(file, tmp_path)
    assert [gtid for gtid, *_ in found] == [f"{A}:blue:7", f"{A}:{2**62}", "", f"{B}:1"]
    assert [how for *_, how in found] == [End.XID, End.XID, End.OTHER, End.XID]


@pytest.mark.parametrize("torn", range(1, 500, 7))
def test_a_file_torn_at_any_byte_shows_what_was_complete(tmp_path: Path, torn: int) -> None:
    file = BinlogFile()
    for number in (1, 2, 3):
        file.add(f"{A}:{number}")
    size = len(file.data) - torn
    whole = read(file, tmp_path)
    found = read(file, tmp_path, size)
    complete = [one for one in whole if one[2] <= size]
    assert found[: len(complete)] == complete
    assert [how for *_, how in found[len(complete) :]] in ([], [End.HALF])
    with Binlog(tmp_path / "binlog.000001") as log:
        assert log.whole <= size
        assert log.sound(log.head.end, log.whole)


@given(SETS)
def test_the_gtids_of_older_files(parts: list[tuple[tuple[str, str], int, int]]) -> None:
    texts = [
        f"{server}:{tag}:{n}-{n + m}" if tag else f"{server}:{n}-{n + m}" for (server, tag), n, m in parts
    ]
    gtids = GtidSet.parse(",".join(texts))
    assert binlog._gtid_set(gtid_set(gtids)) == gtids


@given(st.integers(0, 2**64 - 1))
def test_numbers_of_variable_length(value: int) -> None:
    assert binlog._number(unsigned(value) + b"behind", 0) == (value, len(unsigned(value)))


def test_a_number_as_the_server_writes_it() -> None:
    assert binlog._number(bytes.fromhex("7503"), 0) == (0xDD, 2)
    assert binlog._number(bytes.fromhex("a2"), 0) == (0x51, 1)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "is empty"),
        (b"\xfdbin" + bytes(600), "is encrypted"),
        (b"#!/bin/sh", "is no binlog"),
        (b"\xfebin", "does not begin with the GTIDs"),
        (BinlogFile().data[:60], "does not begin with the GTIDs"),
        (b"\xfebin" + bytes(600), "is damaged at byte 4"),
    ],
)
def test_what_is_no_binlog_is_refused(tmp_path: Path, content: bytes, complaint: str) -> None:
    path = tmp_path / "binlog.000001"
    path.write_bytes(content)
    with pytest.raises(BinlogError, match=complaint):
        Binlog(path)
    with pytest.raises(BinlogError, match="cannot be read"):
        Binlog(tmp_path / "binlog.000002")


def test_a_flipped_bit_is_seen(tmp_path: Path) -> None:
    file = BinlogFile()
    file.add(f"{A}:1")
    flipped = bytearray(file.data)
    flipped[-10] ^= 1
    path = tmp_path / "binlog.000001"
    path.write_bytes(flipped)
    with Binlog(path) as log:
        assert not log.sound(file.head, len(flipped))
    file.write(path)
    with Binlog(path) as log:
        assert log.sound(file.head, len(file.data))
        assert not log.sound(file.head, len(file.data) - 1)


def test_which_files_hold_a_transaction(tmp_path: Path) -> None:
    files = [BinlogFile(), BinlogFile(f"{A}:1-5"), BinlogFile(f"{A}:1-9,{B}:1")]
    paths = binlog.files(datadir(tmp_path, *files))

    def names(gtids: str) -> list[str]:
        return [path.name for path in binlog.holding(paths, GtidSet.parse(gtids))]

    assert names(f"{A}:3") == ["binlog.000001"]
    assert names(f"{A}:5-6") == ["binlog.000001", "binlog.000002"]
    assert names(f"{B}:1") == ["binlog.000002"]
    assert names(f"{A}:5:10") == ["binlog.000001", "binlog.000003"]
    assert names("") == []
    assert binlog.files(tmp_path / "nowhere") == []
