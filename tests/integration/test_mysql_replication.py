"""Following, re-pointing, draining and stopping, on real replicas whose sources die at the worst moment."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from manager.errors import MySQLError, ReplicationFailed
from manager.mysql import operations
from manager.mysql.connection import Connection
from manager.mysql.dialect import Dialect
from manager.mysql.state import ReplicationState, read_replication, read_state
from manager.waiting import Deadline
from sandbox import mysqls
from sandbox.packages import Packages
from sandbox.processes import wait_for
from tests.integration.mysql_nodes import AWKWARD, LONG, Node, nodes
from tests.integration.wire import Wire

pytestmark = pytest.mark.feature("replication")

ADDRESSES = ("127.0.41.60", "127.0.41.61", "127.0.41.62")
WIRE = "127.0.41.63"
NOBODY = "127.0.41.64"
ROWS = 50
# Transactions that have changed a row, and hold its lock.
CHANGING = "SELECT COUNT(*) FROM information_schema.INNODB_TRX WHERE trx_rows_modified > 0"
CACHED = 0.2  # who asks more often is told the same again

Trio = tuple[Node, Node, Node]


@pytest.fixture
def channels(each_mysql: Packages) -> None:
    if mysqls.version(each_mysql) < (5, 7):
        pytest.skip("there are no channels before 5.7")


@pytest.fixture
def trio(each_mysql: Packages, server_directory: Path) -> Iterator[Trio]:
    """A primary with a table, and two replicas that have caught up."""
    with nodes(each_mysql, server_directory, *ADDRESSES) as (primary, one, other):
        for node in (primary, one, other):
            node.start()
        primary.found()
        write(primary, "CREATE TABLE my_db.t (id INT PRIMARY KEY AUTO_INCREMENT, v LONGBLOB)")
        write(primary, "INSERT INTO my_db.t (v) VALUES ('x')")
        one.follow(primary)
        other.follow(primary)
        yield primary, one, other


def write(node: Node, *statements: str) -> None:
    with node.client() as client, client.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


def insert_rows(node: Node) -> None:
    write(node, *["INSERT INTO my_db.t (v) VALUES ('y')"] * ROWS)


def follow(conn: Connection, host: str, *, password: str = AWKWARD) -> None:
    operations.follow(conn, host=host, port=3306, user="repl", password=password)


def status(conn: Connection) -> ReplicationState:
    state = read_replication(conn)
    assert state is not None
    return state


def rows(conn: Connection) -> Any:
    return conn.value("SELECT COUNT(*) FROM my_db.t")


def has_received(conn: Connection, primary: Node) -> bool:
    """All that the primary has executed is at least in the replica's relay log."""
    target = primary.state().executed
    return wait_for(lambda: target <= status(conn).retrieved | read_state(conn).executed, LONG)


def test_follow(trio: Trio) -> None:
    primary, one, _ = trio
    with one.local() as conn:
        state = read_state(conn)
        assert state.replication is not None
        assert state.replication.source_host == primary.address
        assert state.replication.source_uuid == primary.state().server_uuid
        assert (state.replication.io_running, state.replication.sql_running) == ("Yes", True)
        assert state.replication.auto_position
        assert wait_for(lambda: status(conn).applied_all, LONG)
        assert rows(conn) == 1
        assert state.server_uuid in primary.state().replicas
        receiver = (
            "SELECT ID FROM information_schema.PROCESSLIST WHERE STATE LIKE 'Waiting for % to send event'"
        )
        before = conn.value(receiver)
        assert before is not None
        follow(conn, primary.address)
        assert conn.value(receiver) == before
    assert state.executed.uuids == {primary.state().server_uuid}


def test_the_accounts_of_the_primary_are_on_its_replicas(trio: Trio) -> None:
    with trio[1].remote() as conn:
        assert conn.value("SELECT CURRENT_USER()") == "repl@%"
        follow(conn, trio[2].address)
        assert wait_for(lambda: status(conn).source_uuid == trio[2].state().server_uuid, LONG)


def test_a_closed_source_goes_on_feeding_its_replicas(trio: Trio) -> None:
    primary, one, _ = trio
    with one.local() as conn:
        operations.stop_io(conn)
        insert_rows(primary)
        with primary.local() as source:
            operations.close_server(source)
        follow(conn, primary.address)
        assert one.catches_up(primary)
        assert rows(conn) == 1 + ROWS


def test_a_persons_channel_is_not_started(channels: None, trio: Trio) -> None:
    _, one, other = trio
    with one.local() as conn:
        dialect = Dialect.of(conn.version)
        conn.run(
            f"{dialect.change_source} {dialect.option_prefix}_HOST = '{NOBODY}',"
            f" {dialect.option_prefix}_USER = 'mover', {dialect.option_prefix}_AUTO_POSITION = 1 FOR CHANNEL 'theirs'"
        )

        def theirs() -> list[tuple[str, bool]]:
            return [(channel.name, channel.runs) for channel in read_state(conn).channels]

        operations.stop_replication(conn)
        operations.start_replication(conn)
        assert theirs() == [("theirs", False)]
        operations.stop_replication(conn)
        assert operations.drain(conn, Deadline(LONG))
        assert theirs() == [("theirs", False)]
        follow(conn, other.address)
        assert theirs() == [("theirs", False)]


def test_replication_stands_still_after_a_restart(trio: Trio) -> None:
    primary, one, _ = trio
    one.stop()
    insert_rows(primary)
    one.start()
    with one.local() as conn:
        state = read_state(conn)
        assert state.closed
        assert state.replication is not None
        assert (state.replication.io_running, state.replication.sql_running) == ("No", False)
        assert not state.replication.applied_all
        operations.start_replication(conn)
        assert one.catches_up(primary)


@pytest.mark.parametrize("fault", ["wrong password", "nobody there"])
def test_a_source_that_cannot_be_reached_is_reported(trio: Trio, fault: str) -> None:
    primary, one, _ = trio
    host, password = (primary.address, "wrong") if fault == "wrong password" else (NOBODY, AWKWARD)
    with one.local() as conn:
        operations.stop_io(conn)
        begun = time.monotonic()
        with pytest.raises(ReplicationFailed, match=f"no replication from {host}:3306") as failed:
            follow(conn, host, password=password)
        assert time.monotonic() - begun < 30
        assert failed.value.errno in (1045, 2003)
        assert password not in str(failed.value)
        follow(conn, primary.address)
        assert one.catches_up(primary)


def test_a_source_that_lacks_what_is_needed_is_reported_at_once(trio: Trio) -> None:
    primary, one, _ = trio
    with one.local() as conn:
        operations.stop_io(conn)
        insert_rows(primary)
        with primary.local() as source:
            source.run("FLUSH BINARY LOGS")
            source.run("PURGE BINARY LOGS TO %s", (read_state(source).binlog_file,))
        with pytest.raises(ReplicationFailed, match="purged"):
            follow(conn, primary.address)


def test_stop_io_with_a_frozen_source(trio: Trio) -> None:
    primary, one, _ = trio
    assert primary.process is not None
    with one.local() as conn:
        primary.process.freeze()
        begun = time.monotonic()
        operations.stop_io(conn)
        assert time.monotonic() - begun < 5
        assert status(conn).io_running == "No"
        primary.process.thaw()


@pytest.mark.parametrize("applier", ["blocked", "stopped"])
def test_repointing_keeps_what_was_received(trio: Trio, applier: str) -> None:
    """50 transactions are received and not applied when the source dies; no other node has them."""
    primary, one, other = trio
    with one.local() as conn, one.local() as blocker:
        if applier == "blocked":
            blocker.run("LOCK TABLES my_db.t READ")
        else:
            conn.run(one.words.stop_applier)
        with other.local() as elsewhere:
            operations.stop_io(elsewhere)
        insert_rows(primary)
        assert has_received(conn, primary)
        primary.kill()
        assert not status(conn).applied_all
        if applier == "stopped" or one.words.source_changes_beneath_applier:
            follow(conn, other.address)
            blocker.run("UNLOCK TABLES")
        else:
            with pytest.raises(ReplicationFailed, match="still holds received transactions"):
                follow(conn, other.address)
            blocker.run("UNLOCK TABLES")
            follow(conn, other.address)
        assert operations.drain(conn, Deadline(LONG))
        assert rows(conn) == 1 + ROWS
        assert status(conn).source_host == other.address


def test_repointing_refuses_to_throw_away_what_was_received(trio: Trio) -> None:
    """The applier has stopped with an error: what it still holds is in no other place."""
    primary, one, other = trio
    with one.local() as conn:
        with operations.privileged_writes(conn):
            conn.run("SET sql_log_bin = 0")
            conn.run("INSERT INTO my_db.t VALUES (2, 'in the way')")
            conn.run("SET sql_log_bin = 1")
        insert_rows(primary)
        assert has_received(conn, primary)
        assert wait_for(lambda: status(conn).sql_errno == 1062, LONG)
        with pytest.raises(ReplicationFailed, match="still holds received transactions"):
            follow(conn, other.address)
        assert not operations.drain(conn, Deadline(LONG))
        assert status(conn).retrieved.count >= ROWS
        with operations.privileged_writes(conn):
            conn.run("SET sql_log_bin = 0")
            conn.run("DELETE FROM my_db.t WHERE id = 2")
            conn.run("SET sql_log_bin = 1")
        follow(conn, other.address)
        assert operations.drain(conn, Deadline(LONG))
        assert rows(conn) == 1 + ROWS


def test_drain_with_several_appliers(trio: Trio) -> None:
    primary, one, _ = trio
    with one.local() as conn, one.local() as blocker:
        workers = int(conn.value(f"SELECT @@{one.words.replica}_parallel_workers"))
        assert (workers > 1) is one.words.applying_column
        blocker.run("LOCK TABLES my_db.t READ")
        insert_rows(primary)
        assert has_received(conn, primary)
        operations.stop_io(conn)
        assert not operations.drain(conn, Deadline(0.5))
        blocker.run("UNLOCK TABLES")
        assert operations.drain(conn, Deadline(LONG))
        state = read_state(conn)
        assert state.executed == primary.state().executed
        operations.stop_replication(conn)
        assert not status(conn).sql_running
        assert operations.drain(conn, Deadline(LONG))


@pytest.fixture
def half(trio: Trio) -> Iterator[tuple[Node, Node, Connection]]:
    """The primary was killed when `one` had received half of a big transaction, which `other` has whole."""
    primary, one, other = trio
    wire = Wire(WIRE, primary.address)
    with one.local() as conn:
        follow(conn, WIRE)
        wire.arm(500_000)
        with primary.client(autocommit=False) as client, client.cursor() as cursor:
            cursor.execute("UPDATE my_db.t SET v = 'half' WHERE id = 1")
            for _ in range(30):
                cursor.execute("INSERT INTO my_db.t (v) VALUES (REPEAT('z', 100000))")
            client.commit()
        assert wire.cut_off.wait(LONG)
        assert other.catches_up(primary)
        wire.close()
        primary.kill()
        assert wait_for(lambda: conn.value(CHANGING) == 1, LONG, interval=CACHED)
        yield one, other, conn


def test_half_a_transaction_is_rolled_back_at_once(half: tuple[Node, Node, Connection]) -> None:
    _, _, conn = half
    assert operations.drain(conn, Deadline(LONG))
    assert conn.value(CHANGING) == 1
    begun = time.monotonic()
    operations.stop_replication(conn)
    assert time.monotonic() - begun < 10
    assert wait_for(lambda: conn.value(CHANGING) == 0, 2.0, interval=CACHED)
    operations.start_replication(conn)
    assert operations.drain(conn, Deadline(LONG))
    operations.forget_source(conn)
    assert read_replication(conn) is None
    assert rows(conn) == 1


def test_half_a_transaction_is_fetched_whole_from_another_node(half: tuple[Node, Node, Connection]) -> None:
    one, other, conn = half
    follow(conn, other.address)
    assert one.catches_up(other)
    assert rows(conn) == 31
    assert conn.value("SELECT v FROM my_db.t WHERE id = 1") == b"half"


def test_a_remote_runner_can_do_all_of_it(half: tuple[Node, Node, Connection]) -> None:
    """Freeze, drain, stop with half a transaction, promote: with the replication account's rights alone."""
    one, _, _ = half
    with one.remote() as conn:
        operations.stop_io(conn)
        assert operations.drain(conn, Deadline(LONG))
        operations.stop_replication(conn)
        operations.forget_source(conn)
        one.open(conn, epoch=2)
        assert read_state(conn).serves
    write(one, "INSERT INTO my_db.t (v) VALUES ('new')")


def test_received_transactions_survive_a_kill_of_the_replica(trio: Trio) -> None:
    primary, one, _ = trio
    with one.local() as conn, contextlib.suppress(MySQLError):
        conn.run(one.words.stop_applier)
        insert_rows(primary)
        assert has_received(conn, primary)
    primary.kill()
    one.kill()
    one.start()
    with one.local() as conn:
        assert operations.drain(conn, Deadline(LONG))
        assert rows(conn) == 1 + ROWS
