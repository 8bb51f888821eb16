"""The `xtrabackup` engine: Percona XtraBackup streams a hot copy, which is prepared when it is restored.

It reads the server's files beside the server, so nothing of the copy's size is written here but what passes.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from manager.errors import SnapshotDamaged, SnapshotError
from manager.gtid import GtidSet
from manager.mysql.connection import LOCAL_ACCOUNT, Connection, local_password
from manager.settings import Settings
from manager.snapshot import archive, position, programs
from manager.snapshot.engines import xtrabackup_tool as tool
from manager.snapshot.engines.base import Copy, Engine, Held
from manager.snapshot.engines.clone import refuse_other_engines, workspace
from manager.snapshot.engines.xtrabackup_tool import Tool
from manager.snapshot.manifest import Manifest
from manager.snapshot.programs import Program
from manager.snapshot.progress import Pace, Report
from manager.snapshot.room import check_room
from manager.storage.base import sync_directory

LEAST_ROOM = 64 << 20  # bytes in SCRATCH_DIR, for the redo log of the time that a copy takes
COMPLETED = "completed OK!"
# Their tables are copied nowhere, or not by every series and into a hidden directory.
_LEFT_OUT = ("TokuDB", "ROCKSDB")
# Binlogs and relay logs, redo logs, temporary tablespaces.
_NOT_COPIED = re.compile(r".*\.\d{6,}|ib_logfile\d+|#ib_redo\d+.*|ibtmp\d+|temp_\d+\.ibt")


class XtraBackupEngine(Engine):
    """XtraBackup's own stream is what is stored."""

    name = "xtrabackup"

    def lacks(self, settings: Settings, conn: Connection) -> str:
        try:
            found = tool.find(settings)
        except SnapshotError as error:
            return str(error)
        if why := tool.misfit(found.version, conn.version):
            return why
        return _unreadable(_datadir(conn))

    @contextlib.contextmanager
    def copy(self, settings: Settings, conn: Connection, report: Report | None) -> Iterator[Copy]:
        refuse_other_engines(conn, _LEFT_OUT)
        datadir = _datadir(conn)
        _refuse_outside(conn, datadir)
        found = tool.find(settings)
        with workspace(settings, conn) as directory:
            check_room(directory, LEAST_ROOM, "SCRATCH_DIR", "a snapshot")
            options = write_options(directory, settings.mysql_conf, local_password(settings))
            command = tool.backup_command(
                found, options, directory, datadir=datadir, socket=settings.socket, user=LOCAL_ACCOUNT
            )
            with programs.running(command, stdout=True) as program:
                yield Backup(program, directory, _size(datadir))

    def restore(
        self,
        settings: Settings,
        manifest: Manifest,
        chunks: Iterator[bytes],
        datadir: Path,
        report: Report | None,
    ) -> None:
        found = tool.find(settings)
        if why := tool.misfit(found.version, manifest.server_version):
            raise SnapshotError(why)
        build(found, chunks, datadir, report)
        gtid = GtidSet.parse(manifest.gtid)
        if more := position.hold(settings, datadir, gtid) - gtid:
            # Its rows are there: replication would bring them a second time.
            raise SnapshotDamaged(f"it holds transactions that its manifest does not name: {more}")


class Backup(Copy):
    """What XtraBackup writes to its standard output, and the position that it then names in `directory`."""

    def __init__(self, program: Program, directory: Path, expected: int) -> None:
        self.expected = expected
        self._program = program
        self._directory = directory
        self._passed = 0
        self._gtid = GtidSet()

    def chunks(self) -> Iterator[bytes]:
        for chunk in self._program.output():
            self._passed += len(chunk)
            yield chunk
        _check_completed(self._program, "xtrabackup")
        # Before the object is complete: one that nobody can follow on from is to be none.
        self._gtid = read_position(self._directory, self._program.said)

    def held(self) -> Held:
        return Held(gtid=self._gtid, gtid_after=self._gtid, unpacked=self._passed)


def read_position(directory: Path, said: str) -> GtidSet:
    """Return the GTID set of a copy, from the info file in `directory`, or where there is none from what was `said`.

    SnapshotError if neither names one: the server works without GTIDs, or has not executed anything.
    """
    info = directory / tool.EXTRA / tool.INFO
    if info.is_file():
        said = info.read_text(errors="replace")
        if "binlog_pos" not in said:  # mariadb-backup's status is 0 all the same (measured)
            raise SnapshotError(f"SCRATCH_DIR: xtrabackup could not write {info}: give it more room")
    if gtid := tool.position(said):
        return gtid
    raise SnapshotError(
        "xtrabackup names no GTID set for its copy: the server needs gtid_mode=ON, and one transaction at least"
    )


def write_options(directory: Path, mysql_conf: Path, password: str | None) -> Path:
    """Write the option file that XtraBackup reads, and nothing else: the server's own, and the account's password.

    Nobody but this process's user may read it; it is in `directory`, which goes when the copy is made.
    """
    lines = [f"!include {mysql_conf}"] if mysql_conf.is_file() else []
    if password is not None:
        quoted = password.replace("\\", "\\\\").replace('"', '\\"')
        lines += ["[xtrabackup]", f'password = "{quoted}"']
    path = directory / "options.cnf"
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w") as file:
            file.write("".join(f"{line}\n" for line in lines))
    except OSError as error:
        raise SnapshotError(f"SCRATCH_DIR: cannot write {path}: {error.strerror}") from None
    return path


def build(found: Tool, chunks: Iterator[bytes], datadir: Path, report: Report | None) -> None:
    """Unpack and prepare a copy in `datadir`, durably. SnapshotDamaged if it is none, SnapshotError otherwise."""
    ours = {entry.name for entry in datadir.iterdir()}
    with programs.running(tool.unpack_command(found, datadir), stdin=True) as program:
        program.feed(chunks)
    _check_tree(datadir, ours)
    pace = Pace(report, "preparing")
    with programs.running(tool.prepare_command(found, datadir)) as program:
        program.wait(lambda: pace.reached(archive.tree_size(datadir)))
        _check_completed(program, "xtrabackup --prepare")
    pace.reached(archive.tree_size(datadir))
    pace.finish()
    try:
        for entry in datadir.iterdir():
            if tool.is_own_file(entry.name) and entry.is_file():
                entry.unlink()
        _sync(datadir, ours)
    except OSError as error:
        raise SnapshotError(f"cannot write {error.filename or datadir}: {error.strerror}") from None


def _check_completed(program: Program, name: str) -> None:
    """The exit status alone is not all that XtraBackup's manual asks to be looked at."""
    last = program.said.rpartition("\n")[2]
    if not last.endswith(COMPLETED):
        raise SnapshotError(
            f"{name} ended without {COMPLETED!r}; its last line: {last[: programs.LONGEST_LINE]}"
        )


def _check_tree(datadir: Path, ours: set[str]) -> None:
    for parent, directories, files in os.walk(datadir):
        for name in (*directories, *files):
            path = Path(parent, name)
            mode = path.lstat().st_mode
            where = path.relative_to(datadir)
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise SnapshotDamaged(f"it holds {str(where)!r}, which is neither a file nor a directory")
            if where.parts[0].startswith(".") and where.parts[0] not in ours:
                raise SnapshotDamaged(f"it holds {str(where)!r}, which is no name for a file of the database")
            if path.suffix == ".isl":
                raise SnapshotDamaged(f"it holds {str(where)!r}: a table's file outside the data directory")


def _sync(datadir: Path, ours: set[str]) -> None:
    """Give every file its mode and make it durable, then the directories."""
    for parent, directories, files in os.walk(datadir, topdown=False):
        for name in files:
            path = Path(parent, name)
            if path.relative_to(datadir).parts[0] in ours:
                continue
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fchmod(descriptor, archive.FILE_MODE)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        for name in directories:
            path = Path(parent, name)
            if path.relative_to(datadir).parts[0] not in ours:
                path.chmod(archive.DIRECTORY_MODE)
        sync_directory(Path(parent))


def _datadir(conn: Connection) -> Path:
    return Path(str(conn.value("SELECT @@datadir")))


def _unreadable(datadir: Path) -> str:
    """Return that this process may not read mysqld's files, or nothing."""
    if os.access(datadir, os.R_OK | os.X_OK) and os.access(datadir / "ibdata1", os.R_OK):
        return ""
    return f"{datadir} cannot be read: run the hooks as root or as mysqld's OS user"


def _refuse_outside(conn: Connection, datadir: Path) -> None:
    """SnapshotError if a tablespace lies elsewhere: a restore would look for it there, where another server's is."""
    rows = conn.rows(
        "SELECT FILE_NAME AS name FROM information_schema.FILES"
        " WHERE ENGINE = 'InnoDB' AND FILE_TYPE <> 'TEMPORARY' AND FILE_NAME LIKE '/%'"
    )
    for row in rows:
        if not Path(str(row["name"])).is_relative_to(datadir):
            raise SnapshotError(f"{row['name']} lies outside the data directory: move it into {datadir}")


def _size(datadir: Path) -> int:
    """About what a copy takes, in bytes."""
    total = 0
    for parent, _, files in os.walk(datadir):
        for name in files:
            if not _NOT_COPIED.fullmatch(name):
                with contextlib.suppress(OSError):  # it may go meanwhile
                    total += os.lstat(os.path.join(parent, name)).st_size
    return total
