"""Verifying a snapshot: restore it into a scratch directory, start a private mysqld on it, and look at every table.

The server that runs is not touched: the private one listens on a socket alone, in a directory of its own, with
128 MB of buffer pool, dies with this process, and is the first to go where memory is short.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from manager.errors import Busy, ServerUnreachable, SnapshotDamaged, SnapshotError
from manager.gtid import GtidSet
from manager.mysql import private
from manager.mysql.connection import Connection, local, quote_name
from manager.mysql.initialise import initialise, server_version
from manager.mysql.state import read_executed
from manager.node import Node
from manager.settings import Settings
from manager.snapshot.manifest import GOOD, Manifest
from manager.snapshot.restore import restore
from manager.snapshot.room import check_room

LOCK = "verify"
LEAST_ROOM = 64 << 20
TABLE_TIME = 4 * 3600.0


def verify(node: Node, manifest: Manifest) -> str:
    """Return the verdict: GOOD, or in words what is wrong with the snapshot.

    The caller holds this node's LOCK, and keeps the snapshot from being removed. SnapshotError if this node cannot
    tell: it lacks room, memory, or a server that fits; StoreError if the store fails.
    """
    settings = node.settings
    with _scratch(node) as datadir:
        check_room(datadir, manifest.unpacked, "SCRATCH_DIR", "a verification")
        try:
            restore(settings, node.store, manifest.id, datadir)
        except SnapshotDamaged as damage:
            return str(damage)
        verdict, started = _look_inside(settings, datadir, manifest)
        if verdict != GOOD and shutil.disk_usage(datadir).free < LEAST_ROOM:
            raise SnapshotError(f"SCRATCH_DIR has no room left for a verification: {verdict}")
        if verdict != GOOD and not started and not _starts_on_an_empty_one(settings, datadir):
            raise SnapshotError(f"no private mysqld starts here, whatever the data: {verdict}")
        return verdict


def clear(node: Node) -> None:
    """Remove what a verification that was killed has left, unless one is at work."""
    with contextlib.suppress(Busy), node.alone(LOCK):
        shutil.rmtree(_place(node), ignore_errors=True)


def be_modest() -> None:
    """Let this process, and what it starts, go last for the processor, and first where memory is short."""
    os.nice(10)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def _place(node: Node) -> Path:
    return node.settings.scratch_dir / f".verify-{node.name}"


@contextlib.contextmanager
def _scratch(node: Node) -> Iterator[Path]:
    """An empty data directory in SCRATCH_DIR; at the end, and at the begin, nothing of it is left."""
    directory = _place(node)
    shutil.rmtree(directory, ignore_errors=True)
    datadir = directory / "data"
    try:
        directory.mkdir(parents=True)
        # Entered by mysqld's user, who owns what is in it; nobody else may read the data.
        directory.chmod(0o711)
        datadir.mkdir(mode=0o700)
    except OSError as error:
        raise SnapshotError(f"SCRATCH_DIR {node.settings.scratch_dir}: {error.strerror}") from None
    try:
        yield datadir
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _empty(datadir: Path) -> None:
    shutil.rmtree(datadir, ignore_errors=True)
    datadir.mkdir(mode=0o700)


def _starts_on_an_empty_one(settings: Settings, datadir: Path) -> bool:
    _empty(datadir)
    with private.place(settings, datadir) as own:
        initialise(own)
        with private.server(own, _options(own)) as server:
            return server.answers()


def _options(settings: Settings) -> tuple[str, ...]:
    """No binlog, which nothing needs here; but 5.6 has its GTID set nowhere else."""
    return () if server_version(settings).startswith("5.6") else ("--skip-log-bin",)


def _look_inside(settings: Settings, datadir: Path, manifest: Manifest) -> tuple[str, bool]:
    """Return the verdict, and whether a server was there to give it."""
    with private.place(settings, datadir) as own, private.server(own, _options(own)) as server:
        if not server.answers():
            return f"mysqld does not start on it: {server.said}", False
        asked = "its GTID set"
        try:
            with local(own, timeout=5.0) as conn:
                if fault := _wrong_gtid(conn, manifest):
                    return fault, True
                for schema, name in _tables(conn):
                    asked = f"{schema}.{name}"
                    if fault := _wrong_table(conn, schema, name):
                        return f"{asked}: {fault}", True
        except ServerUnreachable:
            if not server.ends():
                raise
            server.check_own_end()
            return f"mysqld ended while it looked at {asked}: {server.said}", True
    return GOOD, True


def _wrong_gtid(conn: Connection, manifest: Manifest) -> str:
    """What was in the server before the copy must be there, and nothing that came after it."""
    executed = read_executed(conn)
    missing, more = GtidSet.parse(manifest.gtid) - executed, executed - GtidSet.parse(manifest.gtid_after)
    if missing:
        return f"it lacks transactions that its manifest names: {missing}"
    return f"it holds transactions that its manifest does not name: {more}" if more else ""


def _tables(conn: Connection) -> list[tuple[str, str]]:
    rows = conn.rows(
        "SELECT TABLE_SCHEMA AS db, TABLE_NAME AS name FROM information_schema.TABLES"
        " WHERE TABLE_TYPE = 'BASE TABLE' AND TABLE_SCHEMA NOT IN ('information_schema', 'performance_schema')"
        " ORDER BY TABLE_SCHEMA, TABLE_NAME"
    )
    return [(str(row["db"]), str(row["name"])) for row in rows]


def _wrong_table(conn: Connection, schema: str, name: str) -> str:
    with conn.timeout(TABLE_TIME):
        rows = conn.rows(f"CHECK TABLE {quote_name(schema)}.{quote_name(name)}")
    # A note is none: an engine that cannot be checked says so (CSV, in the system's own schema).
    faults = [str(row["Msg_text"]) for row in rows if row["Msg_type"] in ("error", "Error", "warning")]
    return faults[0] if faults else ""
