"""Saving to a store that is a directory: what is stored, what is refused, and a run that was cut off."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyrage
import pytest

from manager.comeback import save
from manager.comeback.save import Piece, folder_name, held_by, whole_file
from manager.errors import ComebackError, StoreError
from manager.gtid import GtidSet
from manager.node import Node
from manager.settings import Secret, load
from tests.unit.binlog_files import BinlogFile

A = "aaaaaaaa-0000-4000-8000-000000000000"
FOLDER = f"mysql-diverged-node-7-{A}-2026-11-26T12-00-00Z"


@pytest.fixture
def node(tmp_path: Path) -> Node:
    for name in ("store", "data", "run"):
        (tmp_path / name).mkdir()
    environ = {
        "NODE_NAME": "node-7",
        "NODE_ADDRESS": "127.0.0.1",
        "CONSUL": "127.0.0.1",
        "MYSQL_DATADIR": str(tmp_path / "data"),
        "MYSQL_BINDIR": str(tmp_path / "no-mysqlbinlog-here"),
        "RUN_DIR": str(tmp_path / "run"),
        "BACKUP_DRIVER": "local",
        "STORAGE_DIR": str(tmp_path / "store"),
    }
    return Node(load(environ))


def last_binlog(node: Node, *, torn: int = 0) -> tuple[BinlogFile, Path]:
    file = BinlogFile(f"{A}:1-5")
    for number in range(6, 11):
        file.add(f"{A}:{number}")
    size = len(file.data)
    if torn:
        file.add(f"{A}:11")
        size += torn
    return file, file.write(node.settings.mysql_datadir / "binlog.000002", size)


def stored(node: Node) -> dict[str, bytes]:
    names = [each.name for each in node.store.list("")]
    return {name.removeprefix(f"{FOLDER}/"): node.store.get_bytes(name) for name in names}


def test_a_whole_file(node: Node) -> None:
    file, path = last_binlog(node, torn=30)
    extra = GtidSet.parse(f"{A}:9-10")
    save.save(node, FOLDER, extra, [whole_file(path)], {"way": "rebuild"})
    found = stored(node)
    assert set(found) == {"binlog.000002", "diverged.json"}
    assert file.data.startswith(found["binlog.000002"])
    description = json.loads(found["diverged.json"])
    assert description["extra"] == f"{A}:9-10"
    assert (description["node"], description["way"], description["decoded"]) == (
        "mysql-node-7",
        "rebuild",
        None,
    )
    assert description["files"][0]["size"] == len(found["binlog.000002"])


def test_head_and_tail(node: Node) -> None:
    file, path = last_binlog(node)
    tail = Piece(path, ((0, file.head), (file.at[3], len(file.data))))
    assert str(held_by([tail])) == f"{A}:9-10"
    save.save(node, FOLDER, GtidSet.parse(f"{A}:9-10"), [tail], {})
    assert stored(node)["binlog.000002"] == file.data[: file.head] + file.data[file.at[3] :]


def test_with_a_key_all_but_the_description_is_encrypted(node: Node) -> None:
    key = pyrage.x25519.Identity.generate()
    node.settings = replace(node.settings, snapshot_key=(Secret(str(key)),))
    file, path = last_binlog(node)
    save.save(node, FOLDER, GtidSet.parse(f"{A}:9-10"), [whole_file(path)], {})
    found = stored(node)
    assert set(found) == {"binlog.000002.age", "diverged.json"}
    sealed = found["binlog.000002.age"]
    assert pyrage.decrypt(sealed, [key]) == file.data
    description = json.loads(found["diverged.json"])
    assert (description["encryption"], description["recipient"]) == ("age", str(key.to_public()))
    (entry,) = description["files"]
    assert (entry["name"], entry["object"]) == ("binlog.000002", f"{FOLDER}/binlog.000002.age")
    assert (entry["size"], entry["sha256"]) == (len(sealed), hashlib.sha256(sealed).hexdigest())


def test_with_a_key_what_cannot_be_read_is_told_as_ever(node: Node) -> None:
    node.settings = replace(node.settings, snapshot_key=(Secret(str(pyrage.x25519.Identity.generate())),))
    _, path = last_binlog(node)
    longer = Piece(path, ((0, path.stat().st_size + 1),))
    with pytest.raises(ComebackError, match="has become shorter while it was saved"):
        save.save(node, FOLDER, GtidSet.parse(f"{A}:10"), [longer], {})
    assert stored(node) == {}


def test_what_is_in_no_binlog_cannot_be_saved(node: Node) -> None:
    _, path = last_binlog(node)
    with pytest.raises(
        ComebackError, match=f"2 of its extra transactions are in no binlog of its own: {A}:4-5"
    ):
        save.save(node, FOLDER, GtidSet.parse(f"{A}:4-6"), [whole_file(path)], {})
    assert stored(node) == {}


def test_a_store_that_is_away(node: Node, tmp_path: Path) -> None:
    _, path = last_binlog(node)
    (tmp_path / "store").rename(tmp_path / "away")
    with pytest.raises(StoreError, match="STORAGE_DIR"):
        save.save(node, FOLDER, GtidSet.parse(f"{A}:10"), [whole_file(path)], {})


def test_the_description_comes_last(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut off before it, the folder is not complete; the next run replaces what is there."""
    _, path = last_binlog(node)
    extra = GtidSet.parse(f"{A}:10")

    def killed(*_: Any, **__: Any) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(node.store, "put_bytes", killed)
    with pytest.raises(KeyboardInterrupt):
        save.save(node, FOLDER, extra, [whole_file(path)], {})
    assert set(stored(node)) == {"binlog.000002"}
    monkeypatch.undo()
    save.save(node, FOLDER, extra, [whole_file(path)], {})
    assert set(stored(node)) == {"binlog.000002", "diverged.json"}


def test_the_name_of_the_folder(node: Node) -> None:
    assert folder_name(node, A, 1795694400.5) == FOLDER
