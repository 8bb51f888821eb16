"""The GTID set of a restored data directory, set on a real server (address 127.0.105.1).

The data directories are those of a cleanly stopped replica without its logs, as a physical copy leaves them.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from manager.errors import SnapshotError
from manager.gtid import GtidSet
from manager.mysql import private
from manager.mysql.connection import local
from manager.snapshot import position
from sandbox.packages import Packages
from sandbox.processes import states, wait_for
from tests.integration.mysql_nodes import LONG, Node, nodes

BIN = Path(__file__).resolve().parents[2] / "bin"
NOBODY = "127.0.105.9"  # whom the replica follows
STRANGER = "3e11fa47-71ca-11e1-9e33-c80aa9429562"


@pytest.fixture(scope="module")
def node(packages: Packages, module_directory: Path) -> Iterator[Node]:
    with nodes(packages, module_directory, "127.0.105.1") as (made,):
        made.start()
        made.found()
        with made.client() as client, client.cursor() as cursor:
            cursor.execute("CREATE TABLE my_db.t (id INT PRIMARY KEY)")
            for number in range(20):
                cursor.execute("INSERT INTO my_db.t VALUES (%s)", (number,))
        with made.local() as conn:
            conn.run(
                f"CHANGE REPLICATION SOURCE TO SOURCE_HOST = '{NOBODY}', SOURCE_USER = 'repl', SOURCE_AUTO_POSITION = 1"
            )
        yield made


@pytest.fixture(scope="module")
def executed(node: Node) -> GtidSet:
    executed = node.state().executed
    node.stop()
    return executed


@pytest.fixture
def datadir(node: Node, executed: GtidSet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The server's files without its logs, in a directory that mysqld's user can reach.

    One that needs nothing done is in test_snapshot_xtrabackup.
    """
    assert executed
    path = node.directory / "restored"
    subprocess.run(["cp", "-a", "--reflink=auto", str(node.settings.mysql_datadir), str(path)], check=True)
    for log in (*path.glob("binlog.*"), *path.glob("relay.*")):
        log.unlink()
    yield path
    shutil.rmtree(path)


KILLED = """
import os, sys
from pathlib import Path
from manager.gtid import GtidSet
from manager.mysql.connection import Connection
from manager.settings import load
from manager.snapshot import position

run = Connection.run

def stopping(self, sql, args=()):
    run(self, sql, args)
    if sql.startswith(sys.argv[3]):
        print("there", flush=True)
        sys.stdin.read()

Connection.run = stopping
position.hold(load(os.environ), Path(sys.argv[1]), GtidSet.parse(sys.argv[2]))
"""


def _killed_after(node: Node, datadir: Path, gtid: GtidSet, statement: str) -> None:
    """Begin to hold a position, and kill -9 right after a statement; returns when its mysqld is gone as well."""
    names = ("MYSQL_BINDIR", "MYSQL_CONF_DIR", "MYSQLD_USER", "NODE_NAME", "NODE_ADDRESS")
    values = (
        node.settings.mysql_bindir,
        node.settings.mysql_conf_dir,
        node.settings.mysql_user_os,
        node.settings.node_name,
        node.settings.node_address,
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(datadir), str(gtid), statement],
        env={**os.environ, **dict(zip(names, map(str, values), strict=True)), "PYTHONPATH": str(BIN)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "there\n"
    mysqld = int((datadir / private.PLACE / "mysqld.pid").read_text())
    holder.send_signal(signal.SIGKILL)
    holder.communicate(timeout=LONG)
    assert wait_for(lambda: not states(mysqld), LONG)


def test_the_position_of_a_copy_is_held_whatever_its_table_says_and_whoever_is_killed(
    node: Node, datadir: Path, executed: GtidSet
) -> None:
    # It has others: what was loaded by statements has its own, and none of its snapshot's.
    (own_uuid,) = executed.uuids
    other = GtidSet.parse(f"{STRANGER}:1-70:blue:1-3,{own_uuid}:1-2:4-5")
    assert position.hold(node.settings, datadir, other) == executed
    assert not (datadir / private.PLACE).exists()

    # Its table lags: it knows of none.
    with private.place(node.settings, datadir) as own, private.server(own, ("--skip-log-bin",)) as server:
        assert server.answers()
        with local(own, timeout=LONG) as conn:
            assert GtidSet.parse(conn.value("SELECT @@gtid_executed")) == other
            conn.run("SET GLOBAL super_read_only = OFF")
            conn.run("SET SESSION sql_log_bin = OFF")
            conn.run("DELETE FROM mysql.gtid_executed")
    _killed_after(node, datadir, other, "RESET")
    assert position.hold(node.settings, datadir, executed) == GtidSet()

    # The node's own server on it, as pre_start would start it.
    shutil.move(node.settings.mysql_datadir, node.directory / "original")
    datadir.rename(node.settings.mysql_datadir)
    try:
        node.start()
        state = node.state()
        assert state.executed == state.purged == executed
        assert state.replication is not None
        assert (state.replication.source_host, state.replication.io_running) == (NOBODY, "No")
        with node.local() as conn:
            assert conn.value("SELECT COUNT(*) FROM my_db.t") == 20
    finally:
        node.stop()
        node.settings.mysql_datadir.rename(datadir)
        shutil.move(node.directory / "original", node.settings.mysql_datadir)


def test_a_data_directory_on_which_no_server_starts(node: Node, datadir: Path, executed: GtidSet) -> None:
    (datadir / "ibdata1").write_bytes(b"no tablespace")
    with pytest.raises(SnapshotError, match=r"mysqld does not start on it: .*\[ERROR\]"):
        position.hold(node.settings, datadir, executed)
