"""The `mydumper` engine: a logical copy, for servers without the clone plugin where there is no XtraBackup.

Rows come from mydumper, in one consistent view of all tables; definitions and accounts are read beside it, before and
after, and must be the same. A restore initialises an empty database and runs all of that in it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from manager.errors import MySQLError, SnapshotDamaged, SnapshotError
from manager.gtid import GtidSet
from manager.mysql import private
from manager.mysql.accounts import complete_replication_account
from manager.mysql.connection import Connection, local, quote_name
from manager.mysql.dialect import series
from manager.mysql.initialise import initialise, server_version
from manager.mysql.operations import let_hooks_write
from manager.settings import Settings
from manager.snapshot import archive, position, scratch
from manager.snapshot.engines.base import Copy, Engine, Held, Packed
from manager.snapshot.engines.clone import refuse_other_engines
from manager.snapshot.logical import dump
from manager.snapshot.logical.accounts import NATIVE, Account, read_accounts, replace_accounts
from manager.snapshot.logical.definitions import (
    Definitions,
    Program,
    Table,
    make_programs,
    make_tables,
    read_definitions,
)
from manager.snapshot.manifest import Manifest
from manager.snapshot.programs import running
from manager.snapshot.progress import Pace, Report
from manager.snapshot.room import check_room
from manager.storage.base import sync_tree

LOG = logging.getLogger(__name__)

CONTENT = "content.json"
ROWS = "rows"
PLACE = ".dump"
FORMAT = 1
# The last series that it copies: of later ones mydumper notes no GTID set.
NEWEST = (8, 0)
# From here on there are no accounts of mysql_native_password.
NO_NATIVE = (9, 0)
FRESH_DATABASE = 200 << 20  # bytes: an empty one, its logs included
READ_TIME = 600.0
MAKE_TIME = 3600.0
COUNT_TIME = 4 * 3600.0
DEATH_TIME = 2.0
LOADERS = 4
TRIES = 3
# Nothing of it is in a binlog, and a load that is cut off begins again.
LOADING = (
    "--max-allowed-packet=1G",
    "--default-time-zone=+00:00",
    "--sql-mode=NO_ENGINE_SUBSTITUTION",
    "--innodb-flush-log-at-trx-commit=2",
    "--sync-binlog=0",
)


class MydumperEngine(Engine):
    """mydumper writes the rows into SCRATCH_DIR; they are packed from there, with all that goes with them."""

    name = "mydumper"
    logical = True

    def lacks(self, settings: Settings, conn: Connection) -> str:
        if series(conn.version) > NEWEST:
            return f"it is MySQL {conn.version}: mydumper {dump.VERSION} notes no GTID set of it"
        if conn.capabilities.clone:
            return "it has the clone plugin, which copies more"
        try:
            dump.program(settings, "mydumper")
            dump.program(settings, "myloader")
        except SnapshotError as error:
            return str(error)
        return ""

    @contextlib.contextmanager
    def copy(self, settings: Settings, conn: Connection, report: Report | None) -> Iterator[Copy]:
        with scratch.directory(settings) as directory, conn.timeout(READ_TIME):
            try:
                copied = _copy_again(settings, conn, directory, report)
            except OSError as error:
                where = error.filename or directory
                raise SnapshotError(f"SCRATCH_DIR: cannot write {where}: {error.strerror}") from None
            yield copied

    def restore(
        self,
        settings: Settings,
        manifest: Manifest,
        chunks: Iterator[bytes],
        datadir: Path,
        report: Report | None,
    ) -> None:
        dump.program(settings, "myloader")
        version = server_version(settings)
        place = datadir / PLACE
        try:
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(mode=0o700)
        except OSError as error:
            raise SnapshotError(f"cannot write {place}: {error.strerror}") from None
        archive.unpack(chunks, place)
        content = _Content.read(place / CONTENT)
        _check_accounts(content.accounts, version)
        gtid = dump.read_gtid(place / ROWS)
        if gtid != GtidSet.parse(manifest.gtid):
            raise SnapshotDamaged(f"its rows are of the GTID set {gtid}, its manifest says {manifest.gtid}")
        with private.place(settings, datadir) as own:
            initialise(own)
            with private.server(own, LOADING) as server:
                if not server.answers():
                    raise SnapshotError(f"mysqld does not start on an empty database: {server.said}")
                try:
                    older = series(manifest.server_version) < series(version)
                    _fill(own, content, place, Pace(report, "loading", manifest.unpacked), older=older)
                except (MySQLError, OSError, SnapshotError) as error:
                    # Its clients are told of its death a moment before we are.
                    if not server.ends(DEATH_TIME):
                        raise SnapshotError(str(error)) from None
                    server.check_own_end()
                    raise SnapshotError(f"mysqld ended while it loaded: {server.said}") from None
        shutil.rmtree(place)
        position.hold(settings, datadir, gtid)
        sync_tree(datadir)  # mysqld does not care for each of its small files


def _copy_again(settings: Settings, conn: Connection, directory: Path, report: Report | None) -> Packed:
    """`_copy`, once more where mydumper's threads have raced."""
    for number in range(1, TRIES):
        one = directory / f"try-{number}"
        one.mkdir(mode=0o700)
        try:
            return _copy(settings, conn, one, report)
        except dump.Raced as error:
            LOG.warning("%s: the copy is begun anew", error)
        shutil.rmtree(one)
    return _copy(settings, conn, directory, report)


def _copy(settings: Settings, conn: Connection, directory: Path, report: Report | None) -> Packed:
    refuse_other_engines(conn)
    before, ids = _read(conn), dump.table_ids(conn)
    dump.refuse_what_is_lost(conn, before.definitions.tables)
    dump.warn_of_floats(conn)
    data = _data_size(conn)
    check_room(settings.scratch_dir, data, "SCRATCH_DIR", "a snapshot (by the server's estimate)")
    target = directory / "copy"
    target.mkdir(mode=0o700)
    pace = Pace(report, "copying", data)
    gtid = dump.dump_rows(settings, conn, directory, target / ROWS, pace)
    pace.reached(archive.tree_size(target))
    pace.finish()
    after = _read(conn)
    _check_same(before, after)
    _check_untouched(ids, dump.table_ids(conn))
    dump.check_complete(target / ROWS, after.definitions.tables)
    after.write(target / CONTENT)
    size = archive.content_size(target)
    held = Held(gtid=gtid, gtid_after=gtid, unpacked=size + data + FRESH_DATABASE)
    return Packed(target, held, size)


@dataclass(frozen=True)
class _Content:
    """What is in a copy beside the rows."""

    definitions: Definitions
    accounts: list[Account]

    def write(self, path: Path) -> None:
        """It holds the hashes of passwords: for nobody else to read."""
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w") as file:
            json.dump({"format": FORMAT, **asdict(self)}, file, indent=1)

    @staticmethod
    def read(path: Path) -> _Content:
        """SnapshotDamaged if it is not what `write` writes; SnapshotError if it is of a newer format."""
        try:
            stored = json.loads(path.read_text())
            if stored["format"] > FORMAT:
                raise SnapshotError(f"its {CONTENT} has format {stored['format']}: upgrade")
            given = stored["definitions"]
            definitions = Definitions(
                schemas=given["schemas"],
                tables=[Table(**each) for each in given["tables"]],
                programs=[Program(**each) for each in given["programs"]],
            )
            return _Content(definitions, [Account(**each) for each in stored["accounts"]])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SnapshotDamaged(f"it holds no {CONTENT} of a dump: {error}") from None


def _read(conn: Connection) -> _Content:
    return _Content(read_definitions(conn), read_accounts(conn))


def _check_same(before: _Content, after: _Content) -> None:
    if not before.definitions.same_as(after.definitions):
        raise SnapshotError("tables or other definitions were changed while they were copied")
    if before.accounts != after.accounts:
        raise SnapshotError("accounts were changed while the server was copied")


def _check_untouched(before: dict[str, int], after: dict[str, int]) -> None:
    changed = sorted(name for name in before if after.get(name, before[name]) != before[name])
    if changed:
        raise SnapshotError(f"the table {changed[0]} was truncated or rebuilt while it was copied")


def _data_size(conn: Connection) -> int:
    """About the number of bytes that the users' tables take, by the server's own estimate."""
    if not conn.version.startswith("5."):
        conn.run("SET SESSION information_schema_stats_expiry = 0")
    size = conn.value(
        "SELECT SUM(DATA_LENGTH + INDEX_LENGTH) FROM information_schema.TABLES WHERE TABLE_TYPE = 'BASE TABLE'"
        " AND TABLE_SCHEMA NOT IN ('information_schema', 'performance_schema', 'mysql', 'sys')"
    )
    return int(size or 0)


def _check_accounts(accounts: list[Account], version: str) -> None:
    """SnapshotError, naming them, if there are accounts of a kind that the server has no more."""
    native = [f"{each.user}@{each.host}" for each in accounts if each.plugin == NATIVE]
    if native and series(version) >= NO_NATIVE:
        raise SnapshotError(
            f"MySQL {version} has no {NATIVE}, by which these log in: {', '.join(native)}; give them"
            " caching_sha2_password on the primary, then take a snapshot"
        )


def _fill(own: Settings, content: _Content, place: Path, pace: Pace, *, older: bool) -> None:
    """Load it all; `older`: it comes from a server of an older series."""
    with local(own, timeout=MAKE_TIME) as conn:
        let_hooks_write(conn)
        conn.run("SET SESSION sql_log_bin = 0, lock_wait_timeout = 3600")
        # For what mydumper writes without its usual first lines.
        conn.run("SET GLOBAL foreign_key_checks = 0")
        make_tables(conn, content.definitions)
        _load(own, place, pace)
        with conn.timeout(COUNT_TIME):
            _check_loaded(conn, place / ROWS)
        make_programs(conn, content.definitions)
        replace_accounts(conn, content.accounts)
        if older:
            complete_replication_account(conn, own)


def _load(own: Settings, place: Path, pace: Pace) -> None:
    login = place / "myloader.cnf"
    dump.write_login(own, login, "myloader")
    command = [
        dump.program(own, "myloader"),
        f"--defaults-file={login}",
        f"--directory={place / ROWS}",
        f"--threads={LOADERS}",
        "--queries-per-transaction=20",
        "--verbose=1",
    ]
    with running(command) as program:
        program.wait(lambda: pace.reached(archive.tree_size(own.mysql_datadir)))
    pace.reached(archive.tree_size(own.mysql_datadir))
    pace.finish()


def _check_loaded(conn: Connection, rows: Path) -> None:
    """SnapshotError unless every row that was written is there: myloader passes over what it does not understand."""
    for (schema, table), written in sorted(dump.row_counts(rows).items()):
        there = conn.value(f"SELECT COUNT(*) FROM {quote_name(schema)}.{quote_name(table)}")
        if there != written:
            raise SnapshotError(f"{schema}.{table} has {there} rows after the load, {written} were written")
