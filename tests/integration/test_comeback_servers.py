"""Reading, cutting and copying with real servers, without a cluster around them (addresses 127.0.72.101 to .104)."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pymysql
import pytest

from manager import nodefile
from manager.comeback import binlog, rebuild, save, state, trim
from manager.comeback.binlog import Binlog, End
from manager.comeback.state import Comeback, Phase
from manager.discovery.cluster import ClusterView
from manager.discovery.record import Record
from manager.errors import SnapshotError
from manager.gtid import GtidSet
from manager.mysql import semisync
from manager.node import Node as Hooks
from manager.nodefile import NodeFile
from manager.view import Peer
from sandbox.packages import Packages
from sandbox.processes import wait_for
from tests.integration.mysql_nodes import Node, nodes

LONG = 90.0


@pytest.fixture
def one(packages: Packages, server_directory: Path) -> Iterator[Node]:
    """A primary of its own, with a table of each engine."""
    with nodes(packages, server_directory, "127.0.72.101") as (node,):
        node.start()
        node.found()
        with node.client() as conn, conn.cursor() as cursor:
            cursor.execute("CREATE TABLE my_db.t (n INT PRIMARY KEY, x LONGBLOB)")
            cursor.execute("CREATE TABLE my_db.m (n INT) ENGINE = MyISAM")
        yield node


def last(node: Node) -> Path:
    return binlog.files(node.settings.mysql_datadir)[-1]


def kinds(path: Path) -> list[End]:
    with Binlog(path) as log:
        found = list(log.transactions())
        assert [(t.start, t.source, t.number) for t in found] == list(log.begins())
        assert log.sound(log.head.end, log.whole)
        return [each.how for each in found]


def held(path: Path) -> GtidSet:
    with Binlog(path) as log:
        return binlog.gtids((s, n) for _, s, n in log.begins())


def wait_for_ack(node: Node, count: int, table: str = "t") -> list[threading.Thread]:
    """Let `count` rows be written that nobody acknowledges, and wait until all are in the binlog."""
    before = held(last(node))

    def insert(number: int) -> None:
        with contextlib.suppress(pymysql.MySQLError), node.client(read_timeout=LONG) as conn:
            conn.cursor().execute(f"INSERT INTO my_db.{table} (n) VALUES (%s)", (number,))

    with node.local() as conn:
        semisync.set_source(conn, on=True)
    writers = [threading.Thread(target=insert, args=(1000 + n,)) for n in range(count)]
    for writer in writers:
        writer.start()
    assert wait_for(lambda: (held(last(node)) - before).count == count, LONG)
    return writers


def kill(node: Node, writers: list[threading.Thread]) -> None:
    node.kill()
    for writer in writers:
        writer.join(LONG)


# --- Reading ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statements", "how"),
    [
        (["INSERT INTO my_db.t VALUES (1, REPEAT('x', 900000))"], [End.XID]),
        (["BEGIN", *(f"INSERT INTO my_db.t (n) VALUES ({n})" for n in range(40)), "COMMIT"], [End.XID]),
        (["SET gtid_next = 'AUTOMATIC:blue'", "INSERT INTO my_db.t (n) VALUES (1)"], [End.XID]),
        (["INSERT INTO my_db.m VALUES (1)"], [End.OTHER]),
        (["ALTER TABLE my_db.t ADD COLUMN y INT"], [End.OTHER]),
        (["CREATE TABLE my_db.u SELECT 1 AS n"], [End.XID]),  # undone by a cut as well
        (["CREATE USER u1"], [End.OTHER]),
        (
            [
                "XA START 'a'",
                "INSERT INTO my_db.t (n) VALUES (1)",
                "XA END 'a'",
                "XA PREPARE 'a'",
                "XA COMMIT 'a'",
            ],
            [End.OTHER, End.OTHER],
        ),
        (["SET binlog_transaction_compression = ON", "INSERT INTO my_db.t (n) VALUES (1)"], [End.OTHER]),
        (["SET binlog_format = STATEMENT", "INSERT INTO my_db.t (n) VALUES (1)"], [End.XID]),
        (["SET binlog_row_value_options = PARTIAL_JSON", "INSERT INTO my_db.t (n) VALUES (1)"], [End.XID]),
    ],
)
def test_what_a_real_server_writes(one: Node, statements: list[str], how: list[End]) -> None:
    with one.local() as conn:
        conn.run("FLUSH BINARY LOGS")
        before = GtidSet.parse(conn.value("SELECT @@gtid_executed"))
        for statement in statements:
            conn.run(statement)
        after = GtidSet.parse(conn.value("SELECT @@gtid_executed"))
        assert kinds(last(one)) == how
        assert held(last(one)) == after - before
        conn.run("SET gtid_next = 'AUTOMATIC'")
        conn.run("FLUSH BINARY LOGS")
    with Binlog(last(one)) as log:
        assert (log.head.in_use, log.head.previous) == (True, after)


def test_the_mark_of_a_file_that_was_left_open(one: Node) -> None:
    one.kill()
    with Binlog(last(one)) as log:
        assert log.head.in_use
    one.start()
    one.stop()
    with Binlog(last(one)) as log:
        assert not log.head.in_use


# --- Trimming -----------------------------------------------------------------------------------


def test_a_tail_that_is_cut_off_is_rolled_back(one: Node) -> None:
    with one.client() as conn:
        conn.cursor().execute("INSERT INTO my_db.t (n) VALUES (1)")
    acknowledged, uuid = one.state().executed, one.state().server_uuid
    kill(one, wait_for_ack(one, 6))
    tail, reason = trim.find_tail(one.settings.mysql_datadir, acknowledged)
    assert tail is not None, reason
    assert tail.extra.count == 6
    cut(one, tail, uuid)
    assert not (one.settings.mysql_datadir / "auto.cnf").exists()
    one.start()
    after = one.state()
    assert after.executed == acknowledged
    assert after.server_uuid != uuid
    with one.local() as conn:
        assert [row["n"] for row in conn.rows("SELECT n FROM my_db.t")] == [1]
        assert conn.rows("XA RECOVER") == []


def test_a_tail_with_a_table_that_cannot_roll_back_is_not_cut(one: Node) -> None:
    acknowledged = one.state().executed
    kill(one, [*wait_for_ack(one, 1), *wait_for_ack(one, 1, "m")])
    tail, reason = trim.find_tail(one.settings.mysql_datadir, acknowledged)
    assert tail is None
    assert "cannot be rolled back" in reason


def test_once_started_untrimmed_it_is_too_late(one: Node) -> None:
    acknowledged = one.state().executed
    kill(one, wait_for_ack(one, 2))
    one.start()
    assert (one.state().executed - acknowledged).count == 2
    one.kill()
    tail, reason = trim.find_tail(one.settings.mysql_datadir, acknowledged)
    assert tail is None
    assert "2 transactions in older files" in reason


def cut(node: Node, tail: trim.Tail, uuid: str) -> None:
    """What pre_start does once the tail is saved."""
    trimming = Comeback(
        phase=Phase.TRIMMING,
        cluster_id="cluster",
        server_uuid=uuid,
        folder="folder",
        extra=str(tail.extra),
        cut_file=tail.file.name,
        cut_at=tail.start,
    )
    state.write(node.settings.mysql_datadir, trimming)
    trim.before_start(Hooks(node.settings))


# --- Saving -------------------------------------------------------------------------------------


def gtids_in(text: str) -> GtidSet:
    return GtidSet.parse(",".join(re.findall(r"GTID_NEXT= '([0-9a-f-]{36}:[^']+)'", text)))


def numbers_in(text: str) -> set[int]:
    """The values of the first column of the rows in a decoded binlog."""
    return {int(number) for number in re.findall(r"^###   @1=(\d+)", text, re.MULTILINE)}


def test_what_is_saved_decodes_to_exactly_the_extra_transactions(one: Node) -> None:
    hooks = Hooks(one.settings)
    (one.directory / "store").mkdir()
    with one.local() as conn:
        before = GtidSet.parse(conn.value("SELECT @@gtid_executed"))
        for number in range(5):
            conn.run("INSERT INTO my_db.t (n) VALUES (%s)", (number,))
            if number == 2:
                conn.run("FLUSH BINARY LOGS")
                middle = GtidSet.parse(conn.value("SELECT @@gtid_executed"))
        extra = GtidSet.parse(conn.value("SELECT @@gtid_executed")) - before
    paths = binlog.holding(binlog.files(one.settings.mysql_datadir), extra)
    save.save(hooks, "whole", extra, [save.whole_file(path) for path in paths], {})
    text = hooks.store.get_bytes(f"whole/{save.DECODED}").decode()
    assert len(paths) == 2
    assert (gtids_in(text), numbers_in(text)) == (extra, {0, 1, 2, 3, 4})
    kill(one, wait_for_ack(one, 3))
    tail, _ = trim.find_tail(one.settings.mysql_datadir, extra | before)
    assert tail is not None
    piece = save.Piece(tail.file, ((0, tail.head), (tail.start, tail.end)))
    save.save(hooks, "tail", tail.extra, [piece], {})
    text = hooks.store.get_bytes(f"tail/{save.DECODED}").decode()
    assert (gtids_in(text), numbers_in(text)) == (tail.extra, {1000, 1001, 1002})
    raw = one.directory / "raw"
    raw.write_bytes(hooks.store.get_bytes(f"tail/{tail.file.name}"))
    text = decode(one, raw)
    assert (gtids_in(text), numbers_in(text)) == (tail.extra, {1000, 1001, 1002})
    assert middle <= extra | before


def decode(node: Node, path: Path) -> str:
    mysqlbinlog = str(node.packages.mysql_bindir / "mysqlbinlog")
    command = [mysqlbinlog, "--no-defaults", "--force-if-open", "-vv", str(path)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


# --- Rebuilding ---------------------------------------------------------------------------------


@pytest.fixture
def pair(packages: Packages, server_directory: Path) -> Iterator[tuple[Node, Node]]:
    """A primary with a row, and a closed node with data of its own and a certificate."""
    with nodes(packages, server_directory, "127.0.72.103", "127.0.72.104") as (primary, stray):
        for node in (primary, stray):
            node.start()
        primary.found()
        with primary.client() as conn, conn.cursor() as cursor:
            cursor.execute("CREATE TABLE my_db.t (n INT PRIMARY KEY)")
            cursor.execute("INSERT INTO my_db.t VALUES (7)")
        with stray.local() as conn:
            conn.run("SET GLOBAL super_read_only = 0")
            conn.run("CREATE DATABASE stray")
            conn.run("SET GLOBAL super_read_only = 1")
            conn.run("SET PERSIST max_connections = 77")
        yield primary, stray


def as_peer(node: Node) -> Peer:
    return Peer(name="primary", address=node.address, port=3306, passing=True, state=node.state())


def seen(node: Node) -> ClusterView:
    """What Consul would know of the primary's cluster; there is no snapshot."""
    record = Record.founding(
        primary=node.state().server_uuid, primary_name="primary", origin="initialised", reason="test"
    )
    return ClusterView(
        record=record,
        record_index=1,
        lock_session=None,
        lock_value=None,
        failover_session=None,
        failover_value=None,
        backup_session=None,
        sessions={},
        instances=(),
        last_snapshot=None,
        snapshot_fault=None,
        last_binlog=None,
    )


@pytest.mark.parametrize("inside", [False, True])
def test_a_clone_takes_the_place_of_the_old_files(pair: tuple[Node, Node], inside: bool) -> None:
    primary, stray = pair
    hooks, datadir = (
        Hooks(stray.renamed(scratch_dir=stray.directory / "scratch")),
        stray.settings.mysql_datadir,
    )
    place = datadir / ".rebuild" if inside else rebuild.beside(datadir)
    stray.own(stray.directory / "scratch")
    with stray.local() as conn:
        source = rebuild.fetch(hooks, conn, seen(primary), as_peer(primary), place)
        assert source == "a clone of primary"
        again = rebuild.fetch(hooks, conn, seen(primary), as_peer(primary), place)
        assert again == source, "a copy that is there already is in the way"
    old_uuid, executed = stray.state().server_uuid, primary.state().executed
    nodefile.write(datadir, NodeFile(origin="initialised", cluster_id="cluster", ready=True))
    copied = Comeback(
        phase=Phase.COPIED,
        cluster_id="cluster",
        server_uuid=old_uuid,
        folder="f",
        extra=str(stray.state().executed),
        place=str(place),
    )
    state.write(datadir, rebuild.ready_to_move(copied))
    stray.kill()
    stray.start()  # a server that dies while the copy is there starts on its own files
    assert stray.state().server_uuid == old_uuid
    stray.kill()
    rebuild.exchange(hooks)
    if os.getuid() == 0:
        for path in (datadir, *datadir.rglob("*")):
            shutil.chown(path, stray.settings.mysql_user_os)
    stray.start()
    after = stray.state()
    assert after.executed == executed
    assert after.server_uuid not in (old_uuid, primary.state().server_uuid)
    with stray.local() as conn:
        assert conn.value("SELECT n FROM my_db.t") == 7
        assert conn.value("SELECT @@max_connections") == 77
        assert conn.rows("SHOW DATABASES LIKE 'stray'") == []
    assert (place / "old-1" / "stray").is_dir()
    stray.follow(primary, reading=False)


def test_a_copy_that_cannot_be_made(pair: tuple[Node, Node], monkeypatch: pytest.MonkeyPatch) -> None:
    primary, stray = pair
    hooks, place = Hooks(stray.settings), rebuild.beside(stray.settings.mysql_datadir)

    def refused(expect: str, peer: Callable[[], Peer] = lambda: as_peer(primary)) -> None:
        with stray.local() as conn, pytest.raises(SnapshotError, match=expect):
            rebuild.fetch(hooks, conn, seen(primary), peer(), place)
        assert not (place / "new").exists()

    with primary.local() as conn:
        conn.run("REVOKE BACKUP_ADMIN ON *.* FROM repl")
    refused("could not make a copy in .*(BACKUP_ADMIN|3862)")
    with primary.local() as conn:
        conn.run("GRANT BACKUP_ADMIN ON *.* TO repl")
        conn.run("CREATE TABLE my_db.m (n INT) ENGINE = MyISAM")
    refused("would lack the rows of my_db.m")
    with primary.local() as conn:
        conn.run("DROP TABLE my_db.m")
        conn.run("REVOKE SHOW VIEW ON *.* FROM repl")
    refused("whether a copy would lack rows cannot be seen: GRANT SHOW VIEW")
    with primary.local() as conn:
        conn.run("GRANT SHOW VIEW ON *.* TO repl")
    usage = shutil.disk_usage(place)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    refused(r"the file system of .* has 1\.0 kB free, a copy of the primary needs .* MB")
