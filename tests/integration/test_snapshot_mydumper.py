"""Logical snapshots of MySQL 5.6.24, 5.7.22 and 8.0.15 (addresses 127.0.106.10 and up, eight for each worker)."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pymysql
import pytest

from manager import nodefile
from manager.errors import SnapshotError
from manager.gtid import GtidSet
from manager.settings import Settings
from manager.snapshot import room, verify
from manager.snapshot.engines import mydumper as engine
from manager.snapshot.logical import dump
from manager.snapshot.manifest import GOOD, Manifest
from manager.snapshot.programs import Program
from manager.snapshot.restore import restore
from manager.snapshot.take import take
from manager.storage import Store, open_store
from sandbox import disks, mysqls, servers
from sandbox.packages import DEFAULT_MYSQL
from sandbox.processes import wait_for
from tests.conftest import BETWEEN
from tests.integration import dumped
from tests.integration.dumped import sql
from tests.integration.inserting import Writers
from tests.integration.mysql_nodes import AWKWARD, LONG, Node

WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
SOURCE, RESTORED, S3 = (f"127.0.106.{10 + 8 * WORKER + number}" for number in range(3))
NEWER = [pytest.param(series, marks=pytest.mark.servers) for series in BETWEEN]
MODES = "ANSI_QUOTES,NO_BACKSLASH_ESCAPES,PAD_CHAR_TO_FULL_LENGTH"
BIN = Path(__file__).resolve().parents[2] / "bin"


@pytest.fixture(scope="module")
def programs(module_directory: Path) -> Iterator[None]:
    """mydumper and myloader are in PATH."""
    dumped.write_programs(module_directory / "programs")
    before = os.environ["PATH"]
    os.environ["PATH"] = f"{module_directory / 'programs'}:{before}"
    yield
    os.environ["PATH"] = before


def node(directory: Path, series: str, address: str, **environ: str) -> Node:
    return Node(
        mysqls.chosen(series), directory / address, address, SCRATCH_DIR=str(directory / "scratch"), **environ
    )


def begin(source: Node, series: str) -> None:
    """Start it, with everything in it."""
    source.start()
    dumped.open_server(source)
    own = {
        "5.6": dumped.STAMPED,
        "5.7": (*dumped.STAMPED, *dumped.GENERATED),
        "8.0": (*dumped.GENERATED, *dumped.WITH_LITERAL),
    }[series]
    sql(source, *dumped.TABLES)
    sql(source, *own)
    sql(source, *dumped.PROGRAMS_WITHIN)
    dumped.make_accounts(source, series)
    nodefile.write(
        source.settings.mysql_datadir, nodefile.NodeFile(origin="initialised", cluster_id="c-1", ready=True)
    )


def everything(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file())


def tables(source: Node) -> list[str]:
    rows = sql(
        source,
        "SELECT CONCAT('`', TABLE_SCHEMA, '`.`', TABLE_NAME, '`') FROM information_schema.TABLES"
        " WHERE TABLE_TYPE = 'BASE TABLE' AND TABLE_SCHEMA IN ('app', 'o-d''d') ORDER BY 1",
    )
    return [*(name for (name,) in rows), "autopilot.marker"]


def content(server: Node) -> list[Any]:
    """The checksum of each table; the rows themselves where there is JSON, whose checksums change by themselves."""
    checked = [name for name in tables(server) if name not in ("`app`.`generated`", "`app`.`literal`")]
    rows = [sql(server, f"SELECT * FROM {name} ORDER BY 1") for name in tables(server) if name not in checked]
    return [sql(server, f"CHECKSUM TABLE {', '.join(checked)}"), *rows]


def definitions(server: Node) -> list[Any]:
    """What the server shows of all that is no row; a restored event is one of a replica."""
    shown = [str(sql(server, f"SHOW CREATE TABLE {name}")[0][1]) for name in tables(server)]
    if mysqls.version(server.packages) < (8, 0, 0):
        # These forget their counters at a restart.
        shown = [re.sub(r" AUTO_INCREMENT=\d+", "", each) for each in shown]
    found: list[Any] = list(shown)
    for text in (
        "SELECT * FROM information_schema.SCHEMATA WHERE SCHEMA_NAME IN ('app', 'o-d''d') ORDER BY 2",
        "SELECT * FROM information_schema.VIEWS WHERE TABLE_SCHEMA IN ('app', 'o-d''d') ORDER BY 2, 3",
        "SHOW CREATE FUNCTION app.joined",
        "SHOW CREATE PROCEDURE app.quoted",
        "SHOW CREATE PROCEDURE app.in_latin1",
        "SELECT EVENT_NAME, DEFINER, TIME_ZONE, EVENT_DEFINITION, INTERVAL_VALUE, STARTS, SQL_MODE, ON_COMPLETION,"
        " REPLACE(STATUS, 'SLAVESIDE_DISABLED', 'ENABLED') FROM information_schema.EVENTS ORDER BY 1",
        "SELECT TRIGGER_NAME, ACTION_STATEMENT, SQL_MODE, DEFINER, CHARACTER_SET_CLIENT, COLLATION_CONNECTION,"
        " DATABASE_COLLATION FROM information_schema.TRIGGERS WHERE TRIGGER_SCHEMA = 'app' ORDER BY 1",
    ):
        found.append(sql(server, text))
    return found


@contextlib.contextmanager
def running(*nodes: Node) -> Iterator[None]:
    """Kill at the end what runs of them."""
    try:
        yield
    finally:
        for each in nodes:
            if each.process is not None:
                each.process.kill()


def store_of(source: Node) -> Store:
    assert source.settings.storage_dir is not None
    source.settings.storage_dir.mkdir(exist_ok=True)
    return open_store(source.settings)


def snapshot(
    source: Node, store: Store, name: str, progress: Callable[[str], None] | None = None
) -> Manifest:
    with source.local(timeout=5.0) as conn:
        return take(source.settings, conn, store, cluster_id="c-1", name=name, progress=progress)


def half_made(target: Node) -> Path:
    """An empty data directory, marked as pre_start does."""
    datadir = target.settings.mysql_datadir
    target.own(datadir)
    nodefile.begin_building(datadir)
    return datadir


def copied_at_begin(target: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let its empty database be a copy of one that was initialised, which saves seconds."""
    fresh = target.directory / "fresh"
    servers.initialised_datadir(target.packages, fresh)
    copy = ["cp", "-a", f"{fresh}/.", str(target.settings.mysql_datadir)]
    monkeypatch.setattr(engine, "initialise", lambda own: subprocess.run(copy, check=True))


def hidden(datadir: Path) -> set[str]:
    return {path.name for path in datadir.iterdir() if path.name.startswith(".")}


@pytest.mark.parametrize("series", ["5.6", *NEWER])
@pytest.mark.usefixtures("programs")
def test_a_snapshot_under_writers_restores_and_catches_up(
    series: str, server_directory: Path, s3_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, restored = (node(server_directory, series, address) for address in (SOURCE, RESTORED))
    with running(source, restored):
        begin(source, series)
        # What changes the form of values must not change them.
        sql(source, f"SET GLOBAL sql_mode = '{MODES}', time_zone = '+05:00'")
        lines: list[str] = []
        with Writers(lambda: dumped.connect(source), 4):
            assert wait_for(lambda: sql(source, "SELECT COUNT(*) FROM app.t")[0][0] > 200, LONG)
            manifest = snapshot(source, s3_store, "mysql-backup-1", lines.append)
        sql(source, "SET GLOBAL sql_mode = DEFAULT, time_zone = DEFAULT")
        assert (manifest.engine, manifest.gtid) == ("mydumper", manifest.gtid_after)
        assert any(line.startswith("copying: ") and "done in" in line for line in lines)
        assert everything(server_directory / "scratch") == []

        # Smaller than some statements of the load are.
        (restored.settings.mysql_conf_dir / "packet.cnf").write_text("[mysqld]\nmax_allowed_packet = 256K\n")
        datadir = half_made(restored)
        if series != "5.6":
            copied_at_begin(restored, monkeypatch)
        restore(restored.settings, s3_store, "mysql-backup-1", datadir, progress=lines.append)
        assert any(line.startswith("loading: ") and "done in" in line for line in lines)
        assert hidden(datadir) == {nodefile.BUILDING_FILE}
        restored.start()
        gtid = GtidSet.parse(manifest.gtid)
        for name in ("gtid_executed", "gtid_purged"):
            assert GtidSet.parse(sql(restored, f"SELECT @@global.{name}")[0][0]) == gtid
        assert sql(restored, "SELECT * FROM autopilot.node") == ()
        key = ", GET_MASTER_PUBLIC_KEY = 1" if series == "8.0" else ""
        options = f"MASTER_USER = 'repl', MASTER_PASSWORD = %s, MASTER_AUTO_POSITION = 1{key}"
        sql(
            restored,
            (f"CHANGE MASTER TO MASTER_HOST = %s, {options}", (source.address, AWKWARD)),
            "START SLAVE",
        )
        everyone = sql(source, "SELECT @@global.gtid_executed")
        assert wait_for(lambda: sql(restored, "SELECT @@global.gtid_executed") == everyone, LONG)
        # So is a replica that has nothing to apply.
        monkeypatch.setattr(dump, "LONG_QUERY", 1)
        monkeypatch.setattr(dump, "QUIET_TIME", 1.0)
        idle = "SELECT MIN(TIME) FROM information_schema.PROCESSLIST WHERE USER = 'system user'"
        assert wait_for(lambda: sql(restored, idle)[0][0] >= 2, LONG)
        again = snapshot(restored, s3_store, "mysql-backup-2")
        assert GtidSet.parse(everyone[0][0]) <= GtidSet.parse(again.gtid)
        dumped.open_server(restored)
        assert content(restored) == content(source)
        assert definitions(restored) == definitions(source)
        states = "SELECT EVENT_NAME, STATUS FROM information_schema.EVENTS ORDER BY 1"
        assert sql(restored, states) == (("e_1", "SLAVESIDE_DISABLED"), ("e_2", "DISABLED"))
        assert dumped.accounts(restored) == dumped.accounts(source)
        with (
            dumped.connect(restored, "ümlaut", AWKWARD, ssl_disabled=True) as login,
            login.cursor() as cursor,
        ):
            cursor.execute("SELECT COUNT(*) FROM app.t")


@pytest.fixture
def s3_store(server_directory: Path, start_s3: Callable[..., servers.S3]) -> Store:
    s3 = start_s3(S3)
    environment = {
        "BACKUP_DRIVER": "s3",
        "AWS_ENDPOINT_URL": s3.endpoint,
        "AWS_BUCKET": "backups",
        "AWS_ACCESS_KEY": s3.access_key,
        "AWS_SECRET_ACCESS_KEY": s3.secret_key,
    }
    return open_store(node(server_directory / "s3-client", "5.6", S3, **environment).settings)


# --- One server of 5.6, and what goes wrong --------------------------------------------------------------


@pytest.fixture(scope="module")
def source(programs: None, module_directory: Path) -> Iterator[Node]:
    one = node(module_directory, "5.6", f"127.0.106.{13 + 8 * WORKER}")
    with running(one):
        begin(one, "5.6")
        # A right that outlives its table.
        sql(one, "CREATE TABLE app.gone (id INT)", "CREATE USER stale@localhost")
        sql(one, "GRANT SELECT ON app.gone TO stale@localhost", "GRANT SELECT ON app.t TO stale@localhost")
        sql(one, "DROP TABLE app.gone")
        yield one


@pytest.fixture
def store(source: Node) -> Iterator[Store]:
    yield store_of(source)
    assert source.settings.storage_dir is not None
    shutil.rmtree(source.settings.storage_dir)


@pytest.fixture
def taken(source: Node, store: Store) -> Store:
    """A store that holds the snapshot `mysql-backup-1`."""
    snapshot(source, store, "mysql-backup-1")
    return store


@pytest.fixture
def target(server_directory: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    """A node of 5.6 that is about to be filled."""
    one = node(server_directory, "5.6", RESTORED)
    half_made(one)
    copied_at_begin(one, monkeypatch)
    return one


def refused(source: Node, store: Store, line: str) -> None:
    """No snapshot can be taken, which is told in this line; nothing of it is left."""
    with pytest.raises(SnapshotError, match=line):
        snapshot(source, store, "mysql-backup-refused")
    assert store.list("") == []
    assert everything(source.settings.scratch_dir) == []


def processes(word: str) -> list[int]:
    """The processes that have `word` in their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if word.encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return found


def after_begin(monkeypatch: pytest.MonkeyPatch, act: Callable[[Program], None]) -> None:
    """Do something when mydumper's transactions have begun."""
    await_begin = dump._await_begin

    def then(program: Program, log: Path) -> None:
        await_begin(program, log)
        act(program)

    monkeypatch.setattr(dump, "_await_begin", then)


def test_mydumper_is_killed(source: Node, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        after_begin(patch, lambda program: program.process.kill())
        refused(source, store, "mydumper was killed by signal 9")
    snapshot(source, store, "mysql-backup-next")


def test_mydumper_hangs_when_it_has_begun(
    source: Node, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dump, "STALL_TIME", 1.0)
    stopped: list[int] = []

    def stop(program: Program) -> None:
        if len(stopped) < hangs:
            program.process.send_signal(signal.SIGSTOP)
            stopped.append(program.process.pid)

    after_begin(monkeypatch, stop)
    hangs = 3
    refused(source, store, "mydumper has written nothing for 1 s")
    assert len(stopped) == 3
    assert processes(str(source.settings.scratch_dir)) == []
    stopped.clear()
    hangs = 2
    snapshot(source, store, "mysql-backup-third-try")
    assert everything(source.settings.scratch_dir) == []


@pytest.mark.long
def test_mydumper_passes_over_tables(source: Node, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it does when its threads race: those of the schemas that come late."""
    dump_rows = dump.dump_rows
    lost = 3

    def without(settings: Settings, conn: Any, scratch: Path, target: Path, pace: Any) -> GtidSet:
        nonlocal lost
        noted = dump_rows(settings, conn, scratch, target, pace)
        if lost:
            lost -= 1
            for path in target.glob("app.kinds.*"):
                path.unlink()
        return noted

    monkeypatch.setattr(dump, "dump_rows", without)
    refused(source, store, r"mydumper has left out the table app\.kinds")
    lost = 1
    snapshot(source, store, "mysql-backup-second-try")


def test_the_lock_is_given_back_by_a_mydumper_that_hangs(
    source: Node, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = dump.running

    @contextlib.contextmanager
    def frozen(command: list[str]) -> Iterator[Program]:
        with start(command) as program:
            program.process.send_signal(signal.SIGSTOP)
            yield program

    monkeypatch.setattr(dump, "BEGIN_TIME", 1.0)
    monkeypatch.setattr(dump, "running", frozen)
    refused(source, store, "mydumper did not begin within 1 s")
    assert processes(str(source.settings.scratch_dir)) == []
    sql(source, "SET SESSION lock_wait_timeout = 1", "INSERT INTO app.t (worker) VALUES (0)")


TAKER = """
import os, signal, sys
from manager.mysql.connection import local
from manager.settings import load
from manager.snapshot.logical import dump
from manager.snapshot.take import take
from manager.storage import open_store

def stop(program, log):
    program.process.send_signal(signal.SIGSTOP)
    print(program.process.pid, flush=True)
    sys.stdin.read()

dump._await_begin = stop
settings = load(os.environ)
with local(settings, timeout=5.0) as conn:
    take(settings, conn, open_store(settings), cluster_id="c-1", name="mysql-backup-killed")
"""


def test_the_hook_is_killed_under_the_lock(source: Node, store: Store) -> None:
    command = [sys.executable, "-c", TAKER]
    environment = {**os.environ, **source.environ, "PYTHONPATH": str(BIN)}
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as taker:
        assert taker.stdout is not None
        pid = int(taker.stdout.readline())
        assert sql(source, "SHOW PROCESSLIST")
        taker.kill()
    assert wait_for(lambda: not Path(f"/proc/{pid}").exists(), 5.0)
    sql(source, "SET SESSION lock_wait_timeout = 5", "INSERT INTO app.t (worker) VALUES (0)")
    assert everything(source.settings.scratch_dir) != []
    assert store.list("") == []
    snapshot(source, store, "mysql-backup-next")
    assert everything(source.settings.scratch_dir) == []


def test_what_would_make_everybody_wait_is_waited_for_only_so_long(
    source: Node, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dump, "QUIET_TIME", 1.0)
    monkeypatch.setattr(dump, "LONG_QUERY", 1)
    with dumped.connect(source) as other, other.cursor() as cursor:

        def sleep() -> None:
            with contextlib.suppress(pymysql.MySQLError):  # it is killed in the end
                cursor.execute("SELECT SLEEP(60) FROM app.parent")

        query = threading.Thread(target=sleep)
        query.start()
        long = "SELECT ID FROM information_schema.PROCESSLIST WHERE INFO LIKE 'SELECT SLEEP%' AND TIME >= 1"
        assert wait_for(lambda: bool(sql(source, long)), LONG)
        refused(source, store, r"connection \d+ has been in one query for \d+ s, and with them all writes")
        sql(source, f"KILL QUERY {sql(source, long)[0][0]}")
        query.join()
        cursor.execute("LOCK TABLES app.parent WRITE")
        refused(source, store, "the tables are in use all the time, and with them all writes would wait")


@pytest.mark.skipif(os.getuid() != 0, reason="a small disk needs root")
@pytest.mark.parametrize(
    ("step", "left", "line"),
    [
        # It fails, or it hangs: then it may have said nothing.
        ("write_login", 1 << 20, "SCRATCH_DIR has no room left: mydumper "),
        ("dump_rows", 0, "SCRATCH_DIR: cannot write"),
    ],
)
def test_a_full_scratch_disk(
    source: Node,
    store: Store,
    server_directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    left: int,
    line: str,
) -> None:
    scratch = server_directory / "small"
    small = source.renamed(scratch_dir=scratch)
    disks.mount(scratch, 32)
    do = getattr(dump, step)

    def then_fill(*args: Any) -> Any:
        done = do(*args)
        disks.fill(scratch)
        os.truncate(scratch / disks.FILLER, (scratch / disks.FILLER).stat().st_size - left)
        return done

    monkeypatch.setattr(dump, step, then_fill)
    try:
        with source.local(timeout=5.0) as conn, pytest.raises(SnapshotError) as caught:
            take(small, conn, store, cluster_id="c-1", name="mysql-backup-refused")
        assert str(caught.value).startswith(line)
        assert "\n" not in str(caught.value)
        assert everything(scratch) == [disks.FILLER]
        assert store.list("") == []
    finally:
        disks.unmount_below(server_directory)


def test_a_scratch_disk_that_is_too_small(
    source: Node, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1000))
    refused(
        source, store, r"SCRATCH_DIR .* has 1\.0 kB free, a snapshot \(by the server's estimate\) needs .* MB"
    )


@pytest.mark.parametrize(
    ("table", "line"),
    [
        ("app.`a.b` (id INT)", r"cannot copy app\.a\.b: no name may hold"),
        ("app.`x-schema` (id INT)", "cannot copy app.x-schema"),
        ("app.old (id INT) ENGINE = MyISAM", r"would lack the rows of app\.old"),
        ("app.fake (id INT PRIMARY KEY) COMMENT 'VIEW'", r"mydumper would take app\.fake for a view"),
    ],
)
def test_a_table_whose_rows_would_be_lost(source: Node, store: Store, table: str, line: str) -> None:
    sql(source, f"CREATE TABLE {table}")
    try:
        refused(source, store, line)
    finally:
        sql(source, f"DROP TABLE {table.partition(' (')[0]}")


def test_a_view_that_nobody_could_make_again(source: Node, store: Store) -> None:
    sql(source, "CREATE TABLE app.below (id INT)", "CREATE VIEW app.v AS SELECT * FROM app.below")
    sql(source, "DROP TABLE app.below")
    try:
        refused(source, store, r"the view app\.v is invalid")
    finally:
        sql(source, "DROP VIEW app.v")


@pytest.mark.parametrize(
    ("statement", "undo", "line"),
    [
        ("CREATE TABLE app.new (id INT)", "DROP TABLE app.new", "tables or other definitions were changed"),
        ("CREATE USER new@localhost", "DROP USER new@localhost", "accounts were changed"),
        # A consistent view shows it empty.
        ("TRUNCATE TABLE app.in_two", "DO 0", r"the table app/in_two was truncated or rebuilt"),
    ],
)
def test_what_is_changed_while_it_is_copied(
    source: Node, store: Store, monkeypatch: pytest.MonkeyPatch, statement: str, undo: str, line: str
) -> None:
    sql(source, "CREATE TABLE IF NOT EXISTS app.in_two (id INT)")
    after_begin(monkeypatch, lambda program: None)
    dump_rows = dump.dump_rows

    def then_change(*args: Any) -> GtidSet:
        noted = dump_rows(*args)
        sql(source, statement)
        return noted

    monkeypatch.setattr(dump, "dump_rows", then_change)
    try:
        refused(source, store, line)
    finally:
        sql(source, undo)


@pytest.mark.parametrize(
    ("series", "statements", "line"),
    [
        (
            "8.0",
            ["CREATE TABLE app.s (id INT, made TIMESTAMP DEFAULT CURRENT_TIMESTAMP)"],
            r"mydumper would lose the values of app\.s\.made \(DEFAULT_GENERATED\)",
        ),
        (
            "5.7",
            dumped.WITH_LITERAL,
            r"mydumper would lose the values of app\.literal\.k \(STORED GENERATED\)",
        ),
        (
            "5.7",
            ["CREATE DATABASE `o'o`", "CREATE TABLE `o'o`.s (id INT, v INT AS (id * 2))"],
            r"mydumper would lose the values of o'o\.s\.v \(VIRTUAL GENERATED\)",
        ),
        (
            "5.7",
            [
                "CREATE TABLESPACE s ADD DATAFILE 's.ibd' ENGINE = InnoDB",
                "CREATE TABLE app.s (id INT) TABLESPACE s",
            ],
            r"app\.s lies in a general tablespace",
        ),
    ],
)
@pytest.mark.servers
@pytest.mark.usefixtures("programs")
def test_what_newer_servers_have_and_mydumper_loses(
    series: str, statements: list[str], line: str, server_directory: Path
) -> None:
    one = node(server_directory, series, SOURCE)
    with running(one):
        one.start()
        dumped.open_server(one)
        sql(one, "CREATE DATABASE app", *statements)
        refused(one, store_of(one), line)


def failed(target: Node, store: Store, line: str) -> None:
    """The snapshot cannot be restored, which is told in this line; what is left is removed as pre_start does."""
    datadir = target.settings.mysql_datadir
    with pytest.raises(SnapshotError, match=line):
        restore(target.settings, store, "mysql-backup-1", datadir)
    assert processes(str(datadir)) == []
    nodefile.empty(datadir)


def test_a_restore_that_is_cut_off_and_begun_again(
    target: Node, taken: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    start = engine.running

    @contextlib.contextmanager
    def killed(command: list[str]) -> Iterator[Program]:
        with start(command) as program:
            program.process.kill()
            yield program

    with monkeypatch.context() as patch:
        patch.setattr(engine, "running", killed)
        failed(target, taken, "mysql-backup-1 cannot be restored: myloader was killed by signal 9")

    load = engine._load

    def without_server(own: Settings, *args: Any) -> None:
        os.kill(int(own.pid_file.read_text()), signal.SIGKILL)
        load(own, *args)

    with monkeypatch.context() as patch:
        patch.setattr(engine, "_load", without_server)
        failed(target, taken, "cannot be restored: the private mysqld was killed: memory may be too short")

    def cut(own: Settings, place: Path, *args: Any) -> None:
        file = place / engine.ROWS / "app.negative.sql"
        file.write_bytes(file.read_bytes()[:-2])  # what myloader passes over
        load(own, place, *args)

    with monkeypatch.context() as patch:
        patch.setattr(engine, "_load", cut)
        failed(target, taken, r"app\.negative has 0 rows after the load, 2 were written")

    datadir = target.settings.mysql_datadir
    manifest = restore(target.settings, taken, "mysql-backup-1", datadir)
    assert verify._look_inside(target.settings, datadir, manifest) == (GOOD, True)
    assert hidden(datadir) == {nodefile.BUILDING_FILE}
    stale = [record.getMessage() for record in caplog.records if "stale" in record.getMessage()]
    assert ["keeps no right to what is gone" in line for line in stale] == [True]
    with running(target):
        target.start()
        assert sql(target, "SHOW GRANTS FOR stale@localhost")[1:] == (
            ("GRANT SELECT ON `app`.`t` TO 'stale'@'localhost'",),
        )


RESTORER = """
import os, subprocess, sys
from pathlib import Path
from manager.settings import load
from manager.snapshot.engines import mydumper
from manager.snapshot.restore import restore
from manager.storage import open_store

def stop(own, place, pace):
    print("loading", flush=True)
    sys.stdin.read()

copy = ["cp", "-a", os.environ["FRESH"] + "/.", os.environ["MYSQL_DATADIR"]]
mydumper.initialise = lambda own: subprocess.run(copy, check=True)
mydumper._load = stop
settings = load(os.environ)
restore(settings, open_store(settings), "mysql-backup-1", settings.mysql_datadir)
"""


def test_a_restoring_hook_is_killed(target: Node, source: Node, taken: Store) -> None:
    assert source.settings.storage_dir is not None
    environment = {**os.environ, **target.environ, "PYTHONPATH": str(BIN)}
    environment |= {"STORAGE_DIR": str(source.settings.storage_dir), "FRESH": str(target.directory / "fresh")}
    with subprocess.Popen(
        [sys.executable, "-c", RESTORER],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as hook:
        assert hook.stdout is not None
        assert hook.stdout.readline() == "loading\n"
        datadir = target.settings.mysql_datadir
        assert processes(str(datadir)) != []
        hook.kill()
    assert wait_for(lambda: processes(str(datadir)) == [], 5.0)
    nodefile.empty(datadir)
    assert hidden(datadir) == {nodefile.BUILDING_FILE}
    restore(target.settings, taken, "mysql-backup-1", datadir)


@pytest.mark.parametrize("series", NEWER)
def test_a_snapshot_of_5_6_restores_to_a_newer_server(
    series: str, source: Node, taken: Store, server_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer = node(server_directory, series, RESTORED)
    datadir = half_made(newer)
    copied_at_begin(newer, monkeypatch)
    restore(newer.settings, taken, "mysql-backup-1", datadir)
    with running(newer):
        newer.start()
        dumped.open_server(newer)
        assert rows(newer) == rows(source)
        for user, host in dumped.accounts(source):
            stored = "SELECT plugin, {} FROM mysql.user WHERE User = %s AND Host = %s"
            hashed = "IF(Password <> '', Password, authentication_string)"
            assert sql(newer, (stored.format("authentication_string"), (user, host))) == sql(
                source, (stored.format(hashed), (user, host))
            )
        with dumped.connect(newer, "ümlaut", AWKWARD, ssl_disabled=True) as login, login.cursor() as cursor:
            cursor.execute("SELECT COUNT(*) FROM app.t")
        assert "REQUIRE ISSUER" in sql(newer, "SHOW CREATE USER 'dq\"`u'@localhost")[0][0]


def rows(server: Node) -> list[Any]:
    return [sql(server, f"SELECT * FROM {name} ORDER BY 1") for name in tables(server)]


def test_accounts_that_a_newer_server_cannot_have_are_named(server_directory: Path, taken: Store) -> None:
    newest = node(server_directory, DEFAULT_MYSQL, RESTORED)
    with pytest.raises(
        SnapshotError, match=r"MySQL 9\..* has no mysql_native_password, .*: .*repl@%.*; give them"
    ):
        restore(newest.settings, taken, "mysql-backup-1", half_made(newest))
