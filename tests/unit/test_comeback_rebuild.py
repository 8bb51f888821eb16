"""The exchange of a data directory and its copy, with a kill at any rename; and where the copy is put."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

import pytest

from manager import nodefile
from manager.comeback import rebuild, state
from manager.comeback.state import Comeback, Phase
from manager.errors import AutopilotError, ComebackError
from manager.gtid import GtidSet
from manager.node import Node
from manager.nodefile import NodeFile
from manager.settings import load
from tests.unit.kills import KilledError, kill_at
from tests.unit.worlds import cluster, gtids, server, snapshot

A = "aaaaaaaa-0000-4000-8000-000000000000"
OLD = {
    "mysql/user.ibd": "old",
    "app/t.ibd": "old",
    "ibdata1": "old",
    "auto.cnf": "old",
    "binlog.000001": "old",
}
CARRIED = {"mysqld-auto.cnf": "old", "server-key.pem": "old"}
NEW = {"mysql/user.ibd": "new", "app/t.ibd": "new", "ibdata1": "new", "#innodb_redo/1": "new"}
SPARED = {".hidden": "old", "lost+found/x": "old"}


def fill(directory: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(content)


def content(directory: Path) -> dict[str, str]:
    """All files below a directory that are not ours."""
    paths = (path.relative_to(directory) for path in directory.rglob("*") if path.is_file())
    return {
        str(path): (directory / path).read_text()
        for path in paths
        if not path.parts[0].startswith((".autopilot", ".rebuild"))
    }


@pytest.fixture(params=["beside", "inside"])
def node(tmp_path: Path, request: pytest.FixtureRequest) -> Node:
    """A node with a copy that is complete, and whose exchange may begin."""
    data = tmp_path / "data"
    fill(data, OLD | CARRIED | SPARED)
    place = data / ".rebuild" if request.param == "inside" else tmp_path / ".data-rebuild"
    fill(place / "new", NEW)
    environ = {"MYSQL_DATADIR": str(data), "RUN_DIR": str(tmp_path), "NODE_ADDRESS": "127.0.0.1"}
    nodefile.write(data, NodeFile(origin="initialised", cluster_id="cluster-1", ready=True, opened_epoch=3))
    copied = Comeback(
        phase=Phase.COPIED,
        cluster_id="cluster-1",
        server_uuid=A,
        folder="f",
        extra=f"{A}:1",
        place=str(place),
    )
    state.write(data, rebuild.ready_to_move(copied))
    return Node(load({**environ, "CONSUL": "127.0.0.1"}))


def now(node: Node) -> Comeback:
    comeback = state.read(node.settings.mysql_datadir)
    assert comeback is not None
    return comeback


def exchanged(node: Node) -> None:
    comeback = now(node)
    assert comeback.phase is Phase.MOVED
    assert content(node.settings.mysql_datadir) == NEW | CARRIED | SPARED
    assert content(Path(comeback.place) / "old-1") == OLD | CARRIED
    assert node.file() == NodeFile(origin="restored", cluster_id="cluster-1")


def test_the_exchange(node: Node) -> None:
    rebuild.exchange(node)
    exchanged(node)
    rebuild.exchange(node)
    exchanged(node)
    rebuild.clean(now(node))
    assert content(node.settings.mysql_datadir) == NEW | CARRIED | SPARED
    assert not Path(now(node).place).exists()
    rebuild.clean(now(node))


@pytest.mark.parametrize("name", ["rename", "replace", "fsync"])
@pytest.mark.parametrize("call", range(1, 14))
def test_killed_at_any_step_and_run_again(
    node: Node, monkeypatch: pytest.MonkeyPatch, name: str, call: int
) -> None:
    kill_at(monkeypatch, name, call)
    with contextlib.suppress(KilledError):
        rebuild.exchange(node)
    monkeypatch.undo()
    rebuild.exchange(node)
    exchanged(node)


def test_a_copy_that_is_gone_leaves_the_old_files(node: Node) -> None:
    copy = Path(now(node).place) / "new"
    copy.rename(copy.with_name("away"))
    rebuild.exchange(node)
    assert content(node.settings.mysql_datadir) == OLD | CARRIED | SPARED
    assert now(node).phase is Phase.SAVED


def test_a_copy_that_is_gone_half_way_stops_the_start(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    kill_at(monkeypatch, "rename", 3)
    with pytest.raises(KilledError):
        rebuild.exchange(node)
    monkeypatch.undo()
    copy = Path(now(node).place) / "new"
    copy.rename(copy.with_name("away"))
    with pytest.raises(ComebackError, match="the copy in .* is gone; the old files are in"):
        rebuild.exchange(node)


def test_a_file_that_cannot_be_moved_stops_the_start(node: Node) -> None:
    (Path(now(node).place) / "old-1" / "app" / "in the way").mkdir(parents=True)
    with pytest.raises(
        ComebackError, match="moving the old files out: .*app: Directory not empty; mysqld stays"
    ):
        rebuild.exchange(node)


def test_a_second_rebuild_keeps_the_first_old_files(node: Node) -> None:
    rebuild.exchange(node)
    fill(Path(now(node).place) / "new", NEW)
    again = rebuild.ready_to_move(now(node))
    assert again.old == "old-2"


def test_nothing_to_exchange(tmp_path: Path) -> None:
    fill(tmp_path, OLD)
    settings = load({"MYSQL_DATADIR": str(tmp_path), "NODE_ADDRESS": "127.0.0.1", "CONSUL": "127.0.0.1"})
    rebuild.exchange(Node(settings))
    assert content(tmp_path) == OLD


def test_the_place_of_the_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (tmp_path / "link").symlink_to(data)
    assert rebuild.beside(data) == tmp_path / ".data-rebuild"
    assert rebuild.beside(tmp_path / "link") == tmp_path / ".data-rebuild"
    monkeypatch.setattr("os.path.ismount", lambda path: True)
    assert rebuild.beside(data) == data / ".rebuild"


# --- What is known of a return ------------------------------------------------------------------


def test_the_state_is_kept(node: Node) -> None:
    data = node.settings.mysql_datadir
    comeback = now(node).now(Phase.COPIED, copied_at=12.5, epoch=4, note="")
    state.write(data, comeback)
    assert state.read(data) == comeback
    state.clear(data)
    assert state.read(data) is None
    state.clear(data)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"phase": "dancing"}', '{"phase": "saved", "more": 1}'])
def test_a_damaged_state_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / state.FILE).write_text(text)
    with pytest.raises(AutopilotError, match="cannot be read"):
        state.read(tmp_path)


def test_what_counts_as_saved(node: Node) -> None:
    comeback = now(node).now(Phase.SAVED, extra=f"{A}:5-9", note="gone with the next phase")
    assert comeback.note == "gone with the next phase"
    assert comeback.now(Phase.COPIED).note == ""
    assert comeback.has_saved(GtidSet.parse(f"{A}:6-9"))
    assert not comeback.has_saved(GtidSet.parse(f"{A}:6-10"))
    assert not comeback.now(Phase.SAVING).has_saved(GtidSet.parse(f"{A}:6"))


def test_a_copy_that_fails_is_tried_again_less_and_less_often() -> None:
    comeback = Comeback(phase=Phase.SAVED, cluster_id="c", server_uuid="u", folder="", extra="")
    assert comeback.waits(1000.0) == 0.0
    failed = [replace(comeback, failures=number, failed_at=1000.0) for number in range(1, 10)]
    assert [one.waits(1000.0) for one in failed] == [5, 10, 20, 40, 80, 160, 320, 600, 600]
    assert failed[0].waits(1004.0) == 1.0
    assert failed[0].waits(1006.0) == 0.0
    assert failed[0].waits(10.0) == 5.0, "a clock that was set back makes it wait for ever"


def test_a_copy_is_made_of_a_snapshot_of_this_cluster_that_the_primary_fits() -> None:
    sound = cluster(last_snapshot=snapshot())
    assert rebuild._usable(sound, server()) == snapshot()
    assert rebuild._usable(sound, server(purged=gtids("A:1-8"))) == snapshot()
    assert rebuild._usable(sound, server(purged=gtids("A:1-9"))) is None
    assert rebuild._usable(sound, server(executed=gtids("A:1-7"))) is None
    assert rebuild._usable(cluster(last_snapshot=snapshot(cluster_id="cluster-2")), server()) is None
    assert rebuild._usable(cluster(), server()) is None
