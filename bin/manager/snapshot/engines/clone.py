"""The `clone` engine: a hot physical copy of the server's InnoDB files, made by the server itself.

The server copies everything but its binlogs, its auto.cnf and tables of other engines, and needs as much
space as the data takes (measured: 1.2 s for 1.2 GB; several writers go on meanwhile).
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from manager.errors import MySQLError, SnapshotError
from manager.mysql.connection import Connection, local
from manager.mysql.state import read_executed
from manager.settings import Secret, Settings
from manager.snapshot import archive, scratch
from manager.snapshot.engines.base import Copy, Engine, Held, Packed
from manager.snapshot.manifest import Manifest
from manager.snapshot.progress import Pace, Report
from manager.snapshot.room import check_room
from manager.waiting import Deadline, poll_until

SLOWEST = 5_000_000  # bytes a second: a copy slower than this on average is given up
_CANNOT_CREATE = 1006
_LEFT_OUT = ("MyISAM", "MRG_MYISAM", "CSV", "ARCHIVE", "Aria", "TokuDB", "ROCKSDB")


class CloneEngine(Engine):
    """The server copies itself into SCRATCH_DIR; the copy is packed from there."""

    name = "clone"

    def lacks(self, settings: Settings, conn: Connection) -> str:
        return "" if conn.capabilities.clone else "it has no clone plugin (MySQL 8.0.17 and later)"

    @contextlib.contextmanager
    def copy(self, settings: Settings, conn: Connection, report: Report | None) -> Iterator[Copy]:
        refuse_other_engines(conn)
        with workspace(settings, conn) as directory:
            expected = data_size(conn)
            check_space(settings, expected)
            before = read_executed(conn)
            pace, target = Pace(report, "copying", expected), directory / "copy"
            with _bandwidth(conn, settings.snapshot_rate):
                copy_into(settings, conn, target, pace, expected)
            pace.reached(archive.tree_size(target))
            pace.finish()
            unpacked = archive.content_size(target)
            yield Packed(
                target, Held(gtid=before, gtid_after=read_executed(conn), unpacked=unpacked), unpacked
            )

    def restore(
        self,
        settings: Settings,
        manifest: Manifest,
        chunks: Iterator[bytes],
        datadir: Path,
        report: Report | None,
    ) -> None:
        # The copy's own table of GTIDs is up to date.
        archive.unpack(chunks, datadir)


@contextlib.contextmanager
def _bandwidth(conn: Connection, rate: int | None) -> Iterator[None]:
    """Let CLONE read `rate` bytes a second at most within the block; None: as the server is set."""
    if rate is None:
        yield
        return
    before = conn.value("SELECT @@global.clone_max_data_bandwidth")
    conn.run("SET GLOBAL clone_max_data_bandwidth = %s", (rate >> 20,))  # MiB a second
    try:
        yield
    finally:
        with contextlib.suppress(MySQLError):
            conn.run("SET GLOBAL clone_max_data_bandwidth = %s", (before,))


@contextlib.contextmanager
def workspace(settings: Settings, conn: Connection) -> Iterator[Path]:
    """Yield an empty directory of this node in SCRATCH_DIR that mysqld may write to; remove it in the end.

    First ends what a killed run may have left: its CLONE, which the server goes on with, and its files.
    """
    stop(conn, scratch.place(settings))
    with scratch.directory(settings) as directory:
        yield directory


def refuse_other_engines(conn: Connection, left_out: Sequence[str] = _LEFT_OUT) -> None:
    """SnapshotError if there are tables of the engines that a copy leaves out, or if that cannot be seen."""
    sees_all = conn.value(
        "SELECT COUNT(*) FROM information_schema.USER_PRIVILEGES"
        " WHERE PRIVILEGE_TYPE = 'SHOW VIEW' AND GRANTEE = CONCAT('\\'', REPLACE(CURRENT_USER(), '@',"
        " '\\'@\\''), '\\'')"
    )
    if not sees_all:
        raise SnapshotError(
            f"{conn.peer}: whether a copy would lack rows cannot be seen: GRANT SHOW VIEW ON *.* is missing"
        )
    marks = ", ".join(["%s"] * len(left_out))
    rows = conn.rows(
        "SELECT CONCAT(table_schema, '.', table_name) AS name FROM information_schema.tables"
        " WHERE table_schema NOT IN ('mysql', 'sys', 'information_schema', 'performance_schema')"
        f" AND engine IN ({marks}) ORDER BY 1 LIMIT 4",
        left_out,
    )
    names = [str(row["name"]) for row in rows]
    if names:
        some = ", ".join(names[:3]) + (" and others" if len(names) > 3 else "")
        raise SnapshotError(
            f"a snapshot would lack the rows of {some}: this engine does not copy them; convert these tables"
        )


def data_size(conn: Connection) -> int:
    """The size in bytes of the files that a copy holds, or a little more."""
    size = conn.value(
        "SELECT SUM(total_extents * extent_size) FROM information_schema.files"
        " WHERE engine = 'InnoDB' AND file_type <> 'TEMPORARY'"
    )
    return int(size or 0)


def check_space(settings: Settings, needed: int) -> None:
    """SnapshotError if SCRATCH_DIR has no room for `needed` bytes and a twentieth more."""
    check_room(settings.scratch_dir, needed, "SCRATCH_DIR", "a snapshot")


@dataclass(frozen=True, kw_only=True)
class Donor:
    """Another server that is copied over the network, and the account for it (BACKUP_ADMIN there)."""

    host: str
    port: int
    user: str
    password: Secret


def copy_into(
    settings: Settings,
    conn: Connection,
    target: Path,
    pace: Pace,
    expected: int,
    *,
    donor: Donor | None = None,
) -> None:
    """Let the server copy itself, or `donor`, into `target`, whose parent mysqld may write to; `expected` bytes.

    Works on a closed server (measured). The server shows a donor's password nowhere (measured). Bounded by
    SLOWEST. What `pace` reports to may end it by raising. SnapshotError if a server refuses.
    """
    failure: list[MySQLError] = []
    sql, values = "CLONE LOCAL DATA DIRECTORY = %s", [str(target)]
    if donor is not None:
        conn.run("SET GLOBAL clone_valid_donor_list = %s", (f"{donor.host}:{donor.port}",))
        sql = f"CLONE INSTANCE FROM %s@%s:{donor.port} IDENTIFIED BY %s DATA DIRECTORY = %s"
        values = [donor.user, donor.host, donor.password.value, str(target)]

    def run() -> None:
        try:
            with conn.timeout(600 + expected / SLOWEST):
                conn.run(sql, values)
        except MySQLError as error:
            failure.append(error)

    worker = threading.Thread(target=run, name="clone", daemon=True)
    worker.start()
    try:
        while worker.is_alive():
            worker.join(0.5)
            pace.reached(archive.tree_size(target))
        if failure:
            raise _refused(failure[0], settings, target)
    except BaseException:
        with contextlib.suppress(MySQLError, SnapshotError), local(settings) as other:
            stop(other, target.parent)
        worker.join(5.0)
        raise


def _refused(error: MySQLError, settings: Settings, target: Path) -> SnapshotError:
    hint = ""
    if error.errno == _CANNOT_CREATE:
        where = "SCRATCH_DIR" if target.is_relative_to(settings.scratch_dir) else str(target.parent)
        hint = f"; mysqld's OS user must be able to enter {where} and every directory above it"
    return SnapshotError(f"the server could not make a copy in {target}: {error}{hint}")


def stop(conn: Connection, directory: Path) -> None:
    """End every CLONE into `directory`; SnapshotError if one goes on for 30 s."""

    def running() -> list[int]:
        rows = conn.rows("SHOW FULL PROCESSLIST")
        statements = {int(row["Id"]): str(row["Info"] or "") for row in rows}
        return [
            key for key, text in statements.items() if text.startswith("CLONE ") and str(directory) in text
        ]

    for connection_id in running():
        with contextlib.suppress(MySQLError):
            conn.run("KILL %s", (connection_id,))
    if not poll_until(lambda: not running(), Deadline(30.0), interval=0.2):
        raise SnapshotError(f"an earlier CLONE into {directory} does not end")
