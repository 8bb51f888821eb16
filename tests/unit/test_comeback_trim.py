"""When the end of a binlog may be cut off, and when not: each condition of SPEC 7 by itself."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from pathlib import Path

import pytest

from manager.comeback import save, state, trim
from manager.comeback.state import Comeback, Phase
from manager.comeback.trim import Tail, find_tail, server_uuid
from manager.errors import ComebackError
from manager.gtid import GtidSet
from manager.node import Node
from manager.settings import load
from tests.unit.binlog_files import (
    PAYLOAD,
    TABLE_AND_ROWS,
    XA_PREPARE,
    BinlogFile,
    Events,
    datadir,
    query,
    rows,
)
from tests.unit.kills import KilledError, kill_at
from tests.unit.worlds import record, server

A, B = (f"{letter * 8}-0000-4000-8000-000000000000" for letter in "ab")


def killed(numbers: Iterable[int] = range(6, 11), previous: str = f"{A}:1-5", **options: bool) -> BinlogFile:
    """The last binlog of a server that was killed: A:6-10 after A:1-5 in older files."""
    file = BinlogFile(previous, **options)
    for number in numbers:
        file.add(f"{A}:{number}")
    return file


def older() -> BinlogFile:
    file = BinlogFile(in_use=False)
    for number in range(1, 6):
        file.add(f"{A}:{number}")
    return file


def expect_none(directory: Path, reason: str, *files: BinlogFile, theirs: str = f"{A}:1-7") -> None:
    tail, why = find_tail(datadir(directory, *files), GtidSet.parse(theirs))
    assert tail is None
    assert reason in why


def test_the_tail_is_what_the_primary_lacks(tmp_path: Path) -> None:
    last = killed()
    tail, _ = find_tail(datadir(tmp_path, older(), last), GtidSet.parse(f"{A}:1-7,{B}:1-99"))
    assert tail == Tail(
        file=tmp_path / "binlog.000002",
        head=last.head,
        start=last.at[2],
        end=len(last.data),
        extra=GtidSet.parse(f"{A}:8-10"),
    )


def test_the_tail_may_be_all_that_is_in_the_file(tmp_path: Path) -> None:
    last = killed()
    tail, _ = find_tail(datadir(tmp_path, older(), last), GtidSet.parse(f"{A}:1-5"))
    assert tail is not None
    assert (tail.start, str(tail.extra)) == (last.head, f"{A}:6-10")


def test_tagged_transactions_are_cut_off_as_well(tmp_path: Path) -> None:
    last = killed()
    last.add(f"{A}:blue:3")
    tail, _ = find_tail(datadir(tmp_path, last), GtidSet.parse(f"{A}:1-10:blue:1-2"))
    assert tail is not None
    assert (tail.start, str(tail.extra)) == (last.at[-1], f"{A}:blue:3")


@pytest.mark.parametrize("more", [0, 1, 30, 90])
def test_half_a_transaction_at_the_end_goes_with_the_tail(tmp_path: Path, more: int) -> None:
    last = killed()
    end = len(last.data)
    last.add(f"{A}:11", [query("BEGIN"), *TABLE_AND_ROWS])
    last.data = last.data[: end + more]
    tail, _ = find_tail(datadir(tmp_path, last), GtidSet.parse(f"{A}:1-9"))
    assert tail is not None
    assert (tail.start, tail.end, str(tail.extra)) == (last.at[4], end, f"{A}:10")


def test_half_a_transaction_alone_is_left_to_recovery(tmp_path: Path) -> None:
    last = killed()
    last.add(f"{A}:11", [query("BEGIN"), *TABLE_AND_ROWS])
    expect_none(tmp_path, "has every complete transaction", last, theirs=f"{A}:1-10")


def test_nothing_is_lacking(tmp_path: Path) -> None:
    expect_none(tmp_path, "the primary has everything", killed(), theirs=f"{A}:1-12")


def test_no_binlog_at_all(tmp_path: Path) -> None:
    assert find_tail(tmp_path, GtidSet()) == (None, "there is no binlog")


def test_a_file_that_was_closed_cleanly_is_committed(tmp_path: Path) -> None:
    expect_none(tmp_path, "was closed cleanly", killed(in_use=False))


def test_what_is_in_an_older_file_is_committed(tmp_path: Path) -> None:
    expect_none(tmp_path, "2 transactions in older files", older(), killed(), theirs=f"{A}:1-3")


def test_a_file_that_is_not_in_the_index_yet(tmp_path: Path) -> None:
    datadir(tmp_path, older(), killed())
    killed().write(tmp_path / "binlog.000003")
    tail, why = find_tail(tmp_path, GtidSet.parse(f"{A}:1-7"))
    assert tail is None
    assert "newer file than binlog.000002" in why


@pytest.mark.parametrize(
    "events",
    [
        (query("BEGIN"), *TABLE_AND_ROWS, query("COMMIT")),
        (query("DROP TABLE t"),),
        (query("XA START X'78'"), *TABLE_AND_ROWS, (XA_PREPARE, bytes(9))),
        ((PAYLOAD, bytes(99)),),
    ],
)
def test_one_that_cannot_be_rolled_back(tmp_path: Path, events: Events) -> None:
    last = killed()
    last.add(f"{A}:11", events)
    last.add(f"{A}:12")
    expect_none(tmp_path, f"{A}:11 cannot be rolled back", last)


def test_the_same_before_the_tail_does_no_harm(tmp_path: Path) -> None:
    last = killed()
    last.add(f"{A}:11", (query("DROP TABLE t"),))
    last.add(f"{A}:12")
    tail, _ = find_tail(datadir(tmp_path, last), GtidSet.parse(f"{A}:1-11"))
    assert tail is not None
    assert str(tail.extra) == f"{A}:12"


def test_one_without_a_gtid(tmp_path: Path) -> None:
    last = killed()
    last.add("", rows())
    expect_none(tmp_path, "a transaction without a GTID cannot be rolled back", last)


def test_one_that_the_primary_has_behind_one_that_it_lacks(tmp_path: Path) -> None:
    expect_none(tmp_path, f"has {A}:9, which comes after", killed(), theirs=f"{A}:1-7:9")


def test_a_damaged_tail(tmp_path: Path) -> None:
    last = killed()
    data = bytearray(last.data)
    data[last.at[4] + 40] ^= 4
    last.data = bytes(data)
    expect_none(tmp_path, "is damaged", last, theirs=f"{A}:1-8")


# --- The cut ------------------------------------------------------------------------------------


@pytest.fixture
def node(tmp_path: Path) -> Node:
    """A node whose server was killed with A:6-10 in its last binlog, and whose tail from A:8 is saved."""
    data = tmp_path / "data"
    data.mkdir()
    last = killed()
    datadir(data, last)
    (data / "auto.cnf").write_text(f"[auto]\nserver-uuid={A}\n")
    trimming = Comeback(
        phase=Phase.TRIMMING,
        cluster_id="cluster-1",
        server_uuid=A,
        folder="folder",
        extra=f"{A}:8-10",
        cut_file="binlog.000001",
        cut_at=last.at[2],
    )
    state.write(data, trimming)
    return Node(
        load(
            {
                "MYSQL_DATADIR": str(data),
                "RUN_DIR": str(tmp_path),
                "BACKUP_DRIVER": "local",
                "STORAGE_DIR": str(tmp_path),
                "NODE_ADDRESS": "127.0.0.1",
                "CONSUL": "127.0.0.1",
            }
        )
    )


def left(node: Node) -> tuple[bool, list[str], Phase]:
    """Whether the identity is there, which transactions are, and the phase."""
    data = node.settings.mysql_datadir
    with trim.Binlog(data / "binlog.000001") as log:
        numbers = [str(number) for _, _, number in log.begins()]
    comeback = state.read(data)
    assert comeback is not None
    return (data / "auto.cnf").exists(), numbers, comeback.phase


def test_a_cut_that_was_begun_is_finished(node: Node) -> None:
    assert server_uuid(node.settings.mysql_datadir) == A
    trim.before_start(node)
    assert left(node) == (False, ["6", "7"], Phase.TRIMMED)
    assert server_uuid(node.settings.mysql_datadir) == ""
    trim.before_start(node)
    assert left(node) == (False, ["6", "7"], Phase.TRIMMED)


@pytest.mark.parametrize("name", ["unlink", "fsync", "replace"])
@pytest.mark.parametrize("call", [1, 2, 3])
def test_a_cut_that_is_killed_on_the_way_is_done_again(
    node: Node, monkeypatch: pytest.MonkeyPatch, name: str, call: int
) -> None:
    kill_at(monkeypatch, name, call)
    try:
        trim.before_start(node)
    except KilledError:
        identity, numbers, phase = left(node)
        assert phase is Phase.TRIMMING
        assert identity or numbers in (["6", "7"], ["6", "7", "8", "9", "10"])
        assert not identity or len(numbers) == 5, "cut before the identity was removed"
    monkeypatch.undo()
    trim.before_start(node)
    assert left(node) == (False, ["6", "7"], Phase.TRIMMED)


def test_a_file_that_a_server_has_recovered_meanwhile_is_left_alone(node: Node) -> None:
    killed(in_use=False).write(node.settings.mysql_datadir / "binlog.000001")
    with pytest.raises(ComebackError, match="left as it is"):
        trim.before_start(node)
    assert left(node) == (True, ["6", "7", "8", "9", "10"], Phase.TRIMMED)


def test_a_store_that_hangs_does_not_keep_mysqld_from_its_start(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = node.settings.mysql_datadir
    ended = threading.Event()

    def hang(*_: object, **__: object) -> None:
        ended.wait(60)

    monkeypatch.setattr(save, "save", hang)
    monkeypatch.setattr(trim, "SAVE_TIME", 0.2)
    tail, _ = find_tail(data, GtidSet.parse(f"{A}:1-7"))
    saving = state.read(data)
    assert tail is not None
    assert saving is not None
    try:
        with pytest.raises(ComebackError, match="the store has not taken the tail in 0 s"):
            trim._save(node, saving, tail, record(), server())
    finally:
        ended.set()
