"""The rows of a server's tables, as mydumper 0.10 writes them: how it is run, what it cannot do, what it has written.

What is said here of mydumper and myloader was measured with Debian's 0.10.1, which calls itself 0.10.0.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from manager.errors import MySQLError, SnapshotError
from manager.gtid import GtidSet
from manager.mysql.connection import LOCAL_ACCOUNT, Connection, local, local_password
from manager.mysql.schema import SCHEMA
from manager.mysql.state import read_executed
from manager.settings import Settings
from manager.snapshot import archive
from manager.snapshot.logical.definitions import SYSTEM_SCHEMAS, USERS_OWN, Table
from manager.snapshot.programs import LONGEST_LINE, Program, find, running, version_text
from manager.snapshot.progress import Pace
from manager.waiting import Deadline, poll_until

LOG = logging.getLogger(__name__)

THREADS = 4
FILE_SIZE = 64  # megabytes, about: one thread loads one file
VERSION = "0.10"
LONG_QUERY = 5  # seconds
QUIET_TIME = 60.0
LOCK_WAIT = 1  # seconds
LOCK_PAUSE = 2.0
BEGIN_TIME = 5.0
STALL_TIME = 60.0
FULL = 16 << 20
# The one table of the hooks' own whose rows are the same everywhere, since they come through replication.
MARKER = (SCHEMA, "marker")
_SYSTEM = "|".join(SYSTEM_SCHEMAS)
_WANTED = rf"^(?!({_SYSTEM})\.)(?!{SCHEMA}\.(?!{MARKER[1]}$))"
# Their tables have no rows that a copy could keep.
_WITHOUT_ROWS = "MEMORY,BLACKHOLE,FEDERATED,MRG_MYISAM"
_BEGUN = "Transactions started, unlocking tables"
_LOCK_WAIT_TIMEOUT = 1205
_FILE = re.compile(r"([^.]+)\.([^.]+?)(?:\.\d{5,})?\.sql", re.DOTALL)
_TABLESPACE = re.compile(r"/\*!50100 TABLESPACE `(?!innodb_)")
_GTID = re.compile(r"SHOW MASTER STATUS:\n.*?\tGTID:(.*?)\n\n", re.DOTALL)


class Raced(SnapshotError):
    """mydumper hangs, or has passed over tables: its threads may have raced, and another try may go well.

    Its main thread queues the schemas one by one. Where it is kept from that until the threads are through with those
    that are queued, they tell it that this was all: they stop before the tables of the others, and the last of them
    tells it once more, by a queue that is freed (read in 0.10.1; seen once in some 50 runs on a busy machine).
    """


def program(settings: Settings, name: str) -> str:
    """Return the path of mydumper or myloader; SnapshotError if it is missing, or of another version."""
    path = find(settings, name)
    if path is None:
        raise SnapshotError(f"there is no {name}")
    text = version_text(path)
    if f"{name} {VERSION}." not in text:
        raise SnapshotError(f"{name} must be of version {VERSION}, not {text.strip()[:80]!r}")
    return path


def write_login(settings: Settings, path: Path, group: str, *lines: str) -> None:
    """Write the option file with which a program logs in as the hooks do, readable by nobody else.

    `lines` are options of its own `group`.
    """
    password = local_password(settings)
    login = [f"user = {LOCAL_ACCOUNT}", f"socket = {settings.socket}"]
    login += [f"password = {password}"] if password else []
    text = "\n".join(["[client]", *login, f"[{group}]", *lines, ""])
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w") as file:
        file.write(text)


def dump_rows(settings: Settings, conn: Connection, scratch: Path, target: Path, pace: Pace) -> GtidSet:
    """Let mydumper write all rows into `target`, which it makes, and return the GTIDs that are in them.

    `scratch` takes its option file and its log. Until its transactions have begun all writes of the server wait:
    the lock is ours, so that it is given back in time whatever becomes of mydumper (8.0.15: with its own lock it
    hangs for ever). SnapshotError if it fails, or if the lock cannot be had; Raced if it hangs.
    """
    login, log = scratch / "mydumper.cnf", scratch / "mydumper.log"
    # The server's own mode could change how rows are written: NO_BACKSLASH_ESCAPES, PAD_CHAR_TO_FULL_LENGTH.
    write_login(settings, login, "mydumper", "init-command = \"SET SESSION sql_mode = ''\"")
    command = [
        program(settings, "mydumper"),
        f"--defaults-file={login}",
        f"--outputdir={target}",
        f"--logfile={log}",
        "--verbose=3",
        f"--threads={THREADS}",
        f"--regex={_WANTED}",
        f"--ignore-engines={_WITHOUT_ROWS}",
        "--no-schemas",
        "--no-locks",
        "--trx-consistency-only",
        # Else a table that has been read could not be altered, nor then used, until the last one has been.
        "--use-savepoints",
        # Without it the last row of a table with generated columns may come without the names of its columns.
        "--complete-insert",
        "--build-empty-files",
        # Not by --rows: it loses all rows of a table whose keys are all negative.
        f"--chunk-filesize={FILE_SIZE}",
    ]
    with contextlib.ExitStack() as stack:
        with _locked(settings, conn) as executed:
            mydumper = stack.enter_context(running(command))
            _await_begin(mydumper, log)
        try:
            mydumper.wait(_watch(target, log, pace))
        except SnapshotError as error:
            raise _refused(error, log, scratch) from None
    noted = read_gtid(target)
    if noted != executed:
        raise SnapshotError(f"mydumper has noted the GTID set {noted}, under the lock it was {executed}")
    return noted


@contextlib.contextmanager
def _locked(settings: Settings, conn: Connection) -> Iterator[GtidSet]:
    """Keep everybody from writing within the block; yields the GTIDs that the server has executed.

    Waits for a moment without long queries: behind a lock that waits for one, all writes would wait.
    SnapshotError if there is none for a minute.
    """
    deadline = Deadline(QUIET_TIME)
    with local(settings, timeout=LOCK_WAIT + 5.0) as own:
        own.run("SET SESSION lock_wait_timeout = %s", (LOCK_WAIT,))
        why = ""

        def taken() -> bool:
            nonlocal why
            why = _long_query(conn)
            if why:
                return False
            try:
                own.run("FLUSH TABLES WITH READ LOCK")
            except MySQLError as error:
                if error.errno != _LOCK_WAIT_TIMEOUT:
                    raise
                why = "the tables are in use all the time"
                return False
            return True

        if not poll_until(taken, deadline, interval=LOCK_PAUSE):
            raise SnapshotError(f"no snapshot: {why}, and with them all writes would wait for the lock")
        yield read_executed(own)


def _long_query(conn: Connection) -> str:
    """What a client does for long, nothing if none does; 8.0.15 shows an applier that waits for more as a query."""
    row = conn.row(
        "SELECT ID AS id, TIME AS seconds FROM information_schema.PROCESSLIST"
        " WHERE COMMAND = 'Query' AND USER <> 'system user' AND TIME >= %s AND ID <> CONNECTION_ID()"
        " ORDER BY TIME DESC LIMIT 1",
        (LONG_QUERY,),
    )
    return f"connection {row['id']} has been in one query for {row['seconds']} s" if row else ""


def _await_begin(mydumper: Program, log: Path) -> None:
    def settled() -> bool:
        return mydumper.process.poll() is not None or _BEGUN in _read(log)

    if not poll_until(settled, Deadline(BEGIN_TIME), interval=0.02):
        raise SnapshotError(f"mydumper did not begin within {BEGIN_TIME:.0f} s")


def _watch(target: Path, log: Path, pace: Pace) -> Callable[[], None]:
    """Return what tells `pace` how far mydumper is, and raises Raced when it has written nothing for STALL_TIME."""
    seen, deadline = (-1, -1), Deadline(STALL_TIME)

    def tick() -> None:
        nonlocal seen, deadline
        now = archive.tree_size(target), log.stat().st_size if log.exists() else 0
        pace.reached(now[0])
        if now != seen:
            seen, deadline = now, Deadline(STALL_TIME)
        elif deadline.over:
            raise Raced(f"mydumper has written nothing for {STALL_TIME:.0f} s")

    return tick


def _read(log: Path) -> str:
    with contextlib.suppress(FileNotFoundError):
        return log.read_text(errors="replace")
    return ""


def _refused(error: SnapshotError, log: Path, scratch: Path) -> SnapshotError:
    """The error with what mydumper has written into its log; a full disk may have kept it from that."""
    lines = [line for line in _read(log).splitlines() if "[ERROR]" in line]
    full = "SCRATCH_DIR has no room left: " if shutil.disk_usage(scratch).free < FULL else ""
    if not lines and not full:
        return error
    return SnapshotError(full + (f"mydumper failed: {lines[0][:LONGEST_LINE]}" if lines else str(error)))


def read_gtid(directory: Path) -> GtidSet:
    """Return the GTID set in mydumper's metadata, which may span lines; SnapshotError if there is none."""
    try:
        text = (directory / "metadata").read_text()
    except OSError as error:
        raise SnapshotError(f"mydumper has written no metadata: {error.strerror}") from None
    match = _GTID.search(text)
    if match is None or not match[1].strip():
        raise SnapshotError("mydumper has noted no GTID set: nobody could follow from this copy")
    try:
        return GtidSet.parse(match[1])
    except ValueError as error:
        raise SnapshotError(f"mydumper has noted what is no GTID set: {error}") from None


def refuse_what_is_lost(conn: Connection, tables: Iterable[Table]) -> None:
    """SnapshotError, naming the table, if mydumper 0.10 or myloader would lose rows or values of one.

    Their files are named SCHEMA.TABLE.sql and told apart by their names. MySQL 8.0.13 and later call a column with a
    default of CURRENT_TIMESTAMP, or of another expression, DEFAULT_GENERATED: mydumper takes that for a generated one,
    and leaves its values out.
    """
    for table in tables:
        title = f"{table.schema}.{table.name}"
        for name in (table.schema, table.name):
            if any(part in name for part in (".", "/", "`", "-schema")):
                raise SnapshotError(
                    f"mydumper cannot copy {title}: no name may hold '.', '/', '`' or '-schema'"
                )
        if _TABLESPACE.search(table.create):
            raise SnapshotError(
                f"{title} lies in a general tablespace, which a dump does not hold: move it out"
            )
    view = conn.row(
        "SELECT CONCAT_WS('.', TABLE_SCHEMA, TABLE_NAME) AS name FROM information_schema.TABLES"
        f" WHERE TABLE_TYPE = 'BASE TABLE' AND BINARY TABLE_COMMENT = 'VIEW' AND TABLE_SCHEMA {USERS_OWN} LIMIT 1"
    )
    if view:
        raise SnapshotError(f"mydumper would take {view['name']} for a view: it must have another comment")
    # It asks for generated columns by names that it does not escape; and 5.7 reads a literal in an expression in the
    # character set of whoever loads the rows, which is binary: JSON then refuses it, other values come out wrong.
    columns = [
        "EXTRA LIKE '%%DEFAULT_GENERATED%%'",
        "EXTRA LIKE '%%GENERATED%%' AND CONCAT(TABLE_SCHEMA, TABLE_NAME) REGEXP %s",
    ]
    if conn.version.startswith("5.7"):
        columns.append("GENERATION_EXPRESSION LIKE '%%\\'%%'")
    lost = conn.row(
        "SELECT CONCAT_WS('.', TABLE_SCHEMA, TABLE_NAME, COLUMN_NAME) AS name, EXTRA AS extra"
        f" FROM information_schema.COLUMNS WHERE TABLE_SCHEMA {USERS_OWN} AND ({' OR '.join(columns)})"
        " ORDER BY 1 LIMIT 1",
        (r"['\\]",),
    )
    if lost:
        raise SnapshotError(f"mydumper would lose the values of {lost['name']} ({lost['extra']})")


def table_ids(conn: Connection) -> dict[str, int]:
    """Return what tells a table, or a partition, from what a TRUNCATE makes of it; nothing where that is not needed.

    Up to 5.7 a consistent view shows a table empty that was truncated since; 8.0 refuses to show it (measured).
    """
    if not conn.version.startswith("5."):
        return {}
    # Beside temporary tables, and those that an ALTER is about to make.
    rows = conn.rows(
        "SELECT NAME AS name, TABLE_ID AS id FROM information_schema.INNODB_SYS_TABLES"
        " WHERE NAME NOT LIKE '%/#sql%' AND NAME NOT LIKE 'mysql/%'"
    )
    return {str(row["name"]): int(row["id"]) for row in rows}


def warn_of_floats(conn: Connection) -> None:
    """Say which values come out as MySQL prints them, with six digits, like in every logical dump."""
    rows = conn.rows(
        "SELECT CONCAT_WS('.', TABLE_SCHEMA, TABLE_NAME, COLUMN_NAME) AS name FROM information_schema.COLUMNS"
        f" WHERE DATA_TYPE = 'float' AND TABLE_SCHEMA {USERS_OWN} ORDER BY 1 LIMIT 4"
    )
    if rows:
        some = ", ".join(str(row["name"]) for row in rows[:3]) + (" and others" if len(rows) > 3 else "")
        LOG.warning("the snapshot holds six digits of each FLOAT: %s", some)


def written(directory: Path) -> Iterator[tuple[tuple[str, str], Path]]:
    """Yield the files of rows, each with the schema and the name of its table."""
    for path in directory.iterdir():
        if match := _FILE.fullmatch(path.name):
            yield (match[1], match[2]), path


def check_complete(directory: Path, tables: Iterable[Table]) -> None:
    """Raced if mydumper has passed over one of the tables, which it does without an error."""
    expected = {(table.schema, table.name) for table in tables if table.engine == "InnoDB"}
    missing = sorted(expected - {table for table, _ in written(directory)})
    if missing:
        raise Raced(f"mydumper has left out the table {'.'.join(missing[0])}")


def row_counts(directory: Path) -> Counter[tuple[str, str]]:
    """Return how many rows mydumper has written for each table, empty ones included."""
    counts: Counter[tuple[str, str]] = Counter()
    for table, path in written(directory):
        with open(path, "rb") as file:
            # A row is a line; a line's end within a value is escaped.
            counts[table] += sum(line.startswith(b"(") for line in file)
    return counts
