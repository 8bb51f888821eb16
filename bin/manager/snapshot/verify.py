"""Verifying a snapshot: restore it into a scratch directory, start a private mysqld on it, and look at every table.

The server that runs is not touched: the private one listens on a socket alone, in a directory of its own, with
128 MB of buffer pool, and its files are removed in any case. What a killed run has left goes before the next begins.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from manager import process
from manager.errors import MySQLError, ServerUnreachable, SnapshotDamaged, SnapshotError
from manager.gtid import GtidSet
from manager.mysql import config
from manager.mysql.connection import Connection, local, quote_name
from manager.mysql.initialise import program
from manager.mysql.ownership import give_to_mysqld
from manager.node import Node
from manager.settings import Settings
from manager.snapshot.clone import check_room
from manager.snapshot.manifest import GOOD, Manifest
from manager.snapshot.restore import restore
from manager.waiting import Deadline, poll_until

LOG = logging.getLogger(__name__)

START_TIME = 600.0
STOP_TIME = 60.0
TABLE_TIME = 4 * 3600.0
# They win over my.cnf: no network, no events, no replication, little memory, and the machine's others first.
PRIVATE = (
    "--skip-networking",
    "--skip-log-bin",
    "--skip-replica-start",
    "--event-scheduler=OFF",
    "--performance-schema=OFF",
    "--innodb-buffer-pool-size=128M",
)


def verify(node: Node, manifest: Manifest) -> str:
    """Return the verdict: GOOD, or in words what is wrong with the snapshot.

    The caller keeps it from being removed, and other verifications of this node away. SnapshotError if this node
    cannot tell, for want of room or of a fitting server; StoreError if the store fails.
    """
    with _workspace(node) as settings:
        check_room(settings.run_dir.parent, manifest.unpacked, "SCRATCH_DIR", "a verification")
        try:
            restore(settings, node.store, manifest.id, settings.mysql_datadir)
        except SnapshotDamaged as damage:
            return str(damage)
        config.write_config(settings)
        config.write_init_file(settings)
        give_to_mysqld(settings, settings.run_dir.parent)
        return _look_inside(settings, manifest)


@contextlib.contextmanager
def _workspace(node: Node) -> Iterator[Settings]:
    """Settings for a server of its own in SCRATCH_DIR; at the end, and at the begin, nothing of it is left."""
    directory = node.settings.scratch_dir / f".verify-{node.name}"
    settings = replace(
        node.settings,
        mysql_datadir=directory / "data",
        run_dir=directory / "run",
        mysql_conf=directory / "my.cnf",
        innodb_buffer_pool_size=None,
    )
    _clear(settings, directory)
    try:
        for path in (settings.mysql_datadir, settings.run_dir):
            path.mkdir(parents=True)
        directory.chmod(0o700)
    except OSError as error:
        raise SnapshotError(f"SCRATCH_DIR {node.settings.scratch_dir}: {error.strerror}") from None
    try:
        yield settings
    finally:
        _clear(settings, directory)


def _clear(settings: Settings, directory: Path) -> None:
    process.send(settings, signal.SIGKILL)
    if not poll_until(lambda: process.pid(settings) is None, Deadline(STOP_TIME)):
        raise SnapshotError(f"the mysqld of an earlier verification in {directory} does not end")
    shutil.rmtree(directory, ignore_errors=True)


def _look_inside(settings: Settings, manifest: Manifest) -> str:
    log = settings.run_dir / "mysqld.log"
    command = [program(settings, "mysqld"), f"--defaults-file={settings.mysql_conf}", *PRIVATE]
    with open(log, "wb") as output:
        server = subprocess.Popen(
            ["nice", "-n", "10", *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, "MYSQL_UNIX_PORT": str(settings.socket)},
        )
    try:
        return _ask(settings, server, log, manifest)
    finally:
        server.terminate()
        try:
            server.wait(STOP_TIME)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _ask(settings: Settings, server: subprocess.Popen[bytes], log: Path, manifest: Manifest) -> str:
    def answers() -> bool:
        with contextlib.suppress(MySQLError), local(settings) as conn:
            return bool(conn.value("SELECT 1"))
        return False

    if not poll_until(lambda: answers() or server.poll() is not None, Deadline(START_TIME), interval=0.5):
        raise SnapshotError(f"mysqld did not start within {START_TIME:.0f} s on a restored snapshot")
    if server.poll() is not None:
        return f"mysqld does not start on it: {_complaint(log)}"
    asked = "its GTID set"
    try:
        with local(settings, timeout=5.0) as conn:
            if fault := _wrong_gtid(conn, manifest):
                return fault
            for schema, name in _tables(conn):
                asked = f"{schema}.{name}"
                if fault := _wrong_table(conn, schema, name):
                    return f"{asked}: {fault}"
    except ServerUnreachable:
        if server.poll() is None and not poll_until(lambda: server.poll() is not None, Deadline(STOP_TIME)):
            raise
        return f"mysqld ended while it looked at {asked}: {_complaint(log)}"
    return GOOD


def _wrong_gtid(conn: Connection, manifest: Manifest) -> str:
    """What was in the server before the copy must be there, and nothing that came after it."""
    executed = GtidSet.parse(conn.value("SELECT @@global.gtid_executed"))
    missing, more = GtidSet.parse(manifest.gtid) - executed, executed - GtidSet.parse(manifest.gtid_after)
    if missing:
        return f"it lacks transactions that its manifest names: {missing}"
    return f"it holds transactions that its manifest does not name: {more}" if more else ""


def _tables(conn: Connection) -> list[tuple[str, str]]:
    rows = conn.rows(
        "SELECT TABLE_SCHEMA AS db, TABLE_NAME AS name FROM information_schema.TABLES WHERE TABLE_TYPE = 'BASE TABLE'"
        " AND TABLE_SCHEMA NOT IN ('information_schema', 'performance_schema') ORDER BY TABLE_SCHEMA, TABLE_NAME"
    )
    return [(str(row["db"]), str(row["name"])) for row in rows]


def _wrong_table(conn: Connection, schema: str, name: str) -> str:
    with conn.timeout(TABLE_TIME):
        rows = conn.rows(f"CHECK TABLE {quote_name(schema)}.{quote_name(name)}")
    # A note is none: an engine that cannot be checked says so (CSV, in the system's own schema).
    faults = [str(row["Msg_text"]) for row in rows if row["Msg_type"] in ("error", "Error", "warning")]
    return faults[0] if faults else ""


def _complaint(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()
    errors = [line for line in lines if "[ERROR]" in line]
    return (errors or lines[-1:] or ["it said nothing"])[0].strip()[:300]
