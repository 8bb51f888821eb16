"""Snapshots of a real server, taken and restored (addresses 127.0.43.30 and up, four for each worker)."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pymysql
import pytest

from manager import nodefile
from manager.errors import LockLost, ObjectMissing, SnapshotDamaged, SnapshotError, StoreError
from manager.gtid import GtidSet
from manager.mysql.connection import Connection, local
from manager.settings import Settings, load
from manager.snapshot import room
from manager.snapshot.catalogue import find, service_snapshots
from manager.snapshot.engines import clone
from manager.snapshot.progress import Pace
from manager.snapshot.restore import restore
from manager.snapshot.take import take
from manager.storage import Store, open_store
from manager.waiting import Deadline, poll_until
from sandbox import servers
from sandbox.packages import Packages
from tests.integration.inserting import Writers

WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
FIRST = 30 + 4 * WORKER
SOURCE, RESTORED, S3 = (f"127.0.43.{FIRST + number}" for number in range(3))
BIN = Path(__file__).resolve().parents[2] / "bin"
OPTIONS = (
    "--gtid-mode=ON",
    "--enforce-gtid-consistency=ON",
    "--plugin-load-add=auth_socket.so",
    "--plugin-load-add=mysql_clone.so",
    "--skip-replica-start",
)


class Server:
    """A mysqld with the hooks' account, as the tests drive it."""

    def __init__(self, mysql: servers.Mysql) -> None:
        self.mysql = mysql

    def connect(self) -> pymysql.Connection[pymysql.cursors.Cursor]:
        return pymysql.connect(
            unix_socket=str(self.mysql.socket), user="root", autocommit=True, read_timeout=60
        )

    def sql(self, *statements: str) -> tuple[tuple[object, ...], ...]:
        with self.connect() as connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            return tuple(cursor.fetchall())

    def value(self, statement: str) -> str:
        return str(self.sql(statement)[0][0])


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="autopilot-snapshot-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="module")
def source(packages: Packages, directory: Path) -> Iterator[Server]:
    options = (*OPTIONS, "--server-id=1")
    with servers.mysqld(packages, directory / "source", address=SOURCE, options=options) as mysql:
        server = Server(mysql)
        user = pwd.getpwuid(os.geteuid()).pw_name
        server.sql(
            "SET sql_log_bin = 0",
            f"CREATE USER autopilot@localhost IDENTIFIED WITH auth_socket AS '{user}'",
            "GRANT ALL ON *.* TO autopilot@localhost WITH GRANT OPTION",
            "CREATE USER repl@'%' IDENTIFIED BY 'secret'",
            "GRANT REPLICATION SLAVE ON *.* TO repl@'%'",
            "SET sql_log_bin = 1",
            "CREATE DATABASE app",
            "CREATE TABLE app.t (id INT AUTO_INCREMENT PRIMARY KEY, worker INT, text VARCHAR(200))",
            "CREATE TABLE app.blobs (id INT AUTO_INCREMENT PRIMARY KEY, content LONGBLOB)",
            "INSERT INTO app.blobs (content) SELECT RANDOM_BYTES(1024) FROM mysql.help_topic",
            "CREATE DATABASE `o-d'd`",
            "CREATE TABLE `o-d'd`.`täble 1` (id INT PRIMARY KEY) PARTITION BY HASH (id) PARTITIONS 3",
            "INSERT INTO `o-d'd`.`täble 1` VALUES (1), (2), (3)",
        )
        nodefile.write(mysql.datadir, nodefile.NodeFile(origin="initialised", cluster_id="c-1", ready=True))
        yield server


@pytest.fixture
def environment(packages: Packages, source: Server, directory: Path) -> Iterator[dict[str, str]]:
    """The hooks' environment on the source, with an empty store and an empty scratch directory."""
    store = directory / "store"
    store.mkdir()
    yield {
        "BACKUP_DRIVER": "local",
        "STORAGE_DIR": str(store),
        "SCRATCH_DIR": str(directory / "scratch"),
        "MYSQL_DATADIR": str(source.mysql.datadir),
        "RUN_DIR": str(source.mysql.socket.parent),
        "MYSQL_BINDIR": str(packages.mysql_bindir),
        "MYSQLD_USER": servers.server_user(),
        "NODE_NAME": "node-1",
        "NODE_ADDRESS": SOURCE,
    }
    shutil.rmtree(store)
    shutil.rmtree(directory / "scratch", ignore_errors=True)


@pytest.fixture
def settings(environment: dict[str, str]) -> Settings:
    return load(environment)


@pytest.fixture
def store(settings: Settings) -> Store:
    return open_store(settings)


@pytest.fixture
def conn(settings: Settings) -> Iterator[Connection]:
    with local(settings, timeout=5.0) as connection:
        yield connection


@pytest.fixture
def datadir(directory: Path) -> Iterator[Path]:
    """An empty data directory, marked as being built, as pre_start gives it."""
    path = directory / "restored" / "data"
    path.mkdir(parents=True)
    nodefile.begin_building(path)
    yield path
    shutil.rmtree(path.parent)


def everything(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file())


def statements(source: Server, beginning: str, state: str = "") -> int:
    """How many statements that begin so are running, in a state whose name contains `state`."""
    rows = source.sql("SHOW FULL PROCESSLIST")
    return sum(str(row[7]).startswith(beginning) and state in str(row[6]) for row in rows)


def checksums(server: Server) -> tuple[tuple[object, ...], ...]:
    return server.sql("CHECKSUM TABLE app.t, app.blobs, `o-d'd`.`täble 1`")


def test_a_snapshot_under_writers_restores_and_catches_up(
    packages: Packages,
    directory: Path,
    source: Server,
    settings: Settings,
    store: Store,
    conn: Connection,
    datadir: Path,
) -> None:
    lines: list[str] = []
    with Writers(source.connect, 4):
        assert poll_until(lambda: int(source.value("SELECT COUNT(*) FROM app.t")) > 200, Deadline(60.0))
        manifest = take(settings, conn, store, cluster_id="c-1", name="mysql-backup-1", progress=lines.append)
    assert any(line.startswith("copying: ") and "done in" in line for line in lines)
    assert any(line.startswith("storing: ") and "done in" in line for line in lines)
    assert everything(directory / "scratch") == []
    assert everything(directory / "store") == ["mysql-backup-1", "mysql-backup-1.manifest.json"]
    assert (manifest.origin, manifest.taken_on, manifest.from_replica) == (
        "initialised",
        "mysql-node-1",
        False,
    )
    assert manifest.server_version == conn.version
    assert manifest.size == store.stat("mysql-backup-1").size

    assert service_snapshots(store, settings) == ["mysql-backup-1"]
    assert find(store, "mysql-backup-1") == manifest
    assert restore(settings, store, "mysql-backup-1", datadir, progress=lines.append) == manifest
    assert lines[-1].startswith("restoring: ")
    assert (datadir / nodefile.BUILDING_FILE).exists()
    assert not (datadir / "auto.cnf").exists()

    subprocess.run(["chown", "-R", servers.server_user(), str(datadir)], check=True)
    options = (*OPTIONS, "--server-id=2", "--super-read-only=ON")
    with servers.mysqld(packages, directory / "restored", address=RESTORED, options=options) as mysql:
        restored = Server(mysql)
        executed = GtidSet.parse(restored.value("SELECT @@global.gtid_executed"))
        assert GtidSet.parse(manifest.gtid) <= executed <= GtidSet.parse(manifest.gtid_after)
        assert restored.value("SELECT @@server_uuid") != manifest.server_uuid
        restored.sql(
            f"CHANGE REPLICATION SOURCE TO SOURCE_HOST='{SOURCE}', SOURCE_USER='repl',"
            " SOURCE_PASSWORD='secret', SOURCE_AUTO_POSITION=1, SOURCE_SSL=1",
            "START REPLICA",
        )
        everyone = source.value("SELECT @@global.gtid_executed")
        assert restored.value(f"SELECT WAIT_FOR_EXECUTED_GTID_SET('{everyone}', 60)") == "0"
        assert checksums(restored) == checksums(source)

        # A snapshot of the replica holds its replication settings, and says so.
        restored.sql("SET GLOBAL super_read_only = 1")
        replica = load(
            {
                "BACKUP_DRIVER": "local",
                "STORAGE_DIR": str(directory / "store"),
                "SCRATCH_DIR": str(directory / "scratch"),
                "MYSQL_DATADIR": str(mysql.datadir),
                "RUN_DIR": str(mysql.socket.parent),
                "NODE_NAME": "node-2",
                "NODE_ADDRESS": RESTORED,
            }
        )
        with local(replica, timeout=5.0) as other:
            second = take(replica, other, store, cluster_id="c-1", name="mysql-backup-2")
        assert second.from_replica
        assert second.taken_on == "mysql-node-2"
    assert set(service_snapshots(store, settings)) == {"mysql-backup-1", "mysql-backup-2"}


def test_a_snapshot_through_s3(
    packages: Packages, directory: Path, environment: dict[str, str], conn: Connection, datadir: Path
) -> None:
    with servers.s3_server(packages, directory / "s3", address=S3) as server:
        environment |= {
            "BACKUP_DRIVER": "s3",
            "AWS_ENDPOINT_URL": server.endpoint,
            "AWS_BUCKET": "backups",
            "AWS_ACCESS_KEY": server.access_key,
            "AWS_SECRET_ACCESS_KEY": server.secret_key,
        }
        settings = load(environment)
        store = open_store(settings)
        manifest = take(settings, conn, store, cluster_id="c-1", name="mysql-backup-1")
        assert manifest.path == "backups/mysql-backup-1"
        assert [each.name for each in store.list("")] == ["mysql-backup-1", "mysql-backup-1.manifest.json"]
        restore(settings, store, "mysql-backup-1", datadir)
        assert (datadir / "mysql.ibd").is_file()

        wrong = load({**environment, "AWS_SECRET_ACCESS_KEY": "another-secret"})
        lines: list[str] = []
        with pytest.raises(StoreError, match="AWS_SECRET_ACCESS_KEY is wrong"):
            take(wrong, conn, open_store(wrong), cluster_id="c", name="n", progress=lines.append)
        assert lines == [], "the copy was made although the store refuses us"


def test_a_snapshot_through_a_driver_of_two_verbs(
    directory: Path,
    environment: dict[str, str],
    conn: Connection,
    datadir: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (directory / "two_verbs.py").write_text(
        textwrap.dedent("""
            import os, shutil
            class Driver:
                def put_backup(self, backup_id, infile):
                    return shutil.copy(infile, os.path.join(os.environ["STORAGE_DIR"], backup_id))
                def get_backup(self, backup_id):
                    source = os.path.join(os.environ["STORAGE_DIR"], backup_id)
                    shutil.copy(source, os.path.join(os.environ["SCRATCH_DIR"], backup_id))
        """)
    )
    monkeypatch.syspath_prepend(str(directory))
    environment["BACKUP_DRIVER"] = "two_verbs:Driver"
    for name in ("STORAGE_DIR", "SCRATCH_DIR"):
        monkeypatch.setenv(name, environment[name])
    settings = load(environment)
    store = open_store(settings)
    manifest = take(settings, conn, store, cluster_id="c-1", name="mysql-backup-1")
    assert restore(settings, store, "mysql-backup-1", datadir) == manifest
    assert everything(directory / "scratch") == []
    assert everything(directory / "store") == ["mysql-backup-1", "mysql-backup-1.manifest.json"]


def test_what_is_damaged_in_the_store_is_not_restored(
    directory: Path, settings: Settings, store: Store, conn: Connection, datadir: Path
) -> None:
    take(settings, conn, store, cluster_id="c-1", name="mysql-backup-1")
    stored, described = (
        directory / "store" / "mysql-backup-1",
        directory / "store" / "mysql-backup-1.manifest.json",
    )
    whole, manifest = stored.read_bytes(), described.read_bytes()

    def attempt(error: type[Exception], line: str) -> None:
        with pytest.raises(error, match=line):
            restore(settings, store, "mysql-backup-1", datadir)
        nodefile.empty(datadir)

    middle = len(whole) // 2
    stored.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    attempt(
        SnapshotError, "mysql-backup-1 (cannot be restored: the archive is damaged|is damaged in the store)"
    )
    stored.write_bytes(whole[:middle])
    attempt(
        SnapshotError, "cannot be restored: (the archive is damaged or ends early|it is damaged in the store)"
    )
    stored.write_bytes(whole + b"x")
    attempt(SnapshotError, "the archive is damaged|is damaged in the store: .* its manifest says")
    stored.write_bytes(whole)
    changed = {**json.loads(manifest), "sha256": "0" * 64}
    described.write_text(json.dumps(changed))
    attempt(SnapshotError, "is damaged in the store")
    described.write_text(json.dumps({**json.loads(manifest), "format": 2}))
    attempt(SnapshotError, "has format 2.*upgrade")
    described.write_text("{}")
    attempt(SnapshotError, "no manifest of a snapshot, or is damaged")
    described.write_bytes(manifest)
    stored.unlink()
    attempt(SnapshotDamaged, "it has a manifest, but its object is gone")
    described.unlink()
    attempt(ObjectMissing, "has no manifest in the store")


def test_a_restore_needs_an_empty_directory_and_a_server_that_is_not_older(
    settings: Settings, store: Store, conn: Connection, datadir: Path, directory: Path
) -> None:
    take(settings, conn, store, cluster_id="c-1", name="mysql-backup-1")
    (datadir / "ibdata1").write_bytes(b"precious")
    with pytest.raises(SnapshotError, match="is not empty: it holds ibdata1"):
        restore(settings, store, "mysql-backup-1", datadir)
    assert (datadir / "ibdata1").read_bytes() == b"precious"
    (datadir / "ibdata1").unlink()
    described = directory / "store" / "mysql-backup-1.manifest.json"
    described.write_text(json.dumps({**json.loads(described.read_text()), "server_version": "99.1.0"}))
    with pytest.raises(SnapshotError, match=r"comes from MySQL 99\.1\.0, this server is 9\."):
        restore(settings, store, "mysql-backup-1", datadir)


TAKER = """
import os, sys
from manager.mysql.connection import local
from manager.settings import load
from manager.snapshot.take import take
from manager.storage import open_store

def report(line):
    if "copying" in line and "done" in line:
        print("copied", flush=True)
        sys.stdin.read()

settings = load(os.environ)
with local(settings, timeout=5.0) as conn:
    print("connected", flush=True)
    take(settings, conn, open_store(settings), cluster_id="c-1", name="mysql-backup-killed", progress=report)
"""


@pytest.fixture
def start_taker(environment: dict[str, str]) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Starts a process that takes a snapshot, and stops after the copy until it is killed."""
    started: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        taker = subprocess.Popen(
            [sys.executable, "-c", TAKER],
            env={**os.environ, **environment, "PYTHONPATH": str(BIN)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(taker)
        assert taker.stdout is not None
        assert taker.stdout.readline() == "connected\n"
        return taker

    yield start
    for taker in started:
        if taker.poll() is None:
            taker.send_signal(signal.SIGKILL)
        taker.communicate(timeout=30)


def test_a_taker_that_is_killed_leaves_nothing_that_counts(
    directory: Path,
    settings: Settings,
    store: Store,
    conn: Connection,
    start_taker: Callable[[], subprocess.Popen[str]],
) -> None:
    taker = start_taker()
    assert taker.stdout is not None
    assert taker.stdout.readline() == "copied\n"
    taker.send_signal(signal.SIGKILL)
    taker.wait(timeout=30)
    assert store.list("") == []
    assert service_snapshots(store, settings) == []
    assert everything(directory / "scratch") != []
    take(settings, conn, store, cluster_id="c-1", name="mysql-backup-next")
    assert everything(directory / "scratch") == []
    assert service_snapshots(store, settings) == ["mysql-backup-next"]


@pytest.fixture
def held_copy(source: Server) -> Iterator[None]:
    """Every CLONE waits for a table change, which waits for a transaction that stays open."""
    source.sql("SET GLOBAL clone_block_ddl = ON")
    change = threading.Thread(target=source.sql, args=("ALTER TABLE app.blobs COMMENT 'changed'",))
    with source.connect() as reader, reader.cursor() as cursor:
        cursor.execute("BEGIN")
        cursor.execute("SELECT MAX(id) FROM app.blobs")
        change.start()
        assert poll_until(lambda: statements(source, "ALTER", "metadata lock") == 1, Deadline(60.0))
        yield
        cursor.execute("COMMIT")
    change.join()
    source.sql("SET GLOBAL clone_block_ddl = OFF")


@pytest.mark.usefixtures("held_copy")
def test_a_copy_that_the_server_goes_on_with_is_ended_by_the_next_run(
    source: Server,
    settings: Settings,
    conn: Connection,
    start_taker: Callable[[], subprocess.Popen[str]],
) -> None:
    taker = start_taker()
    assert poll_until(lambda: statements(source, "CLONE", "backup lock") == 1, Deadline(60.0))
    taker.send_signal(signal.SIGKILL)
    taker.wait(timeout=30)
    assert statements(source, "CLONE") == 1
    with clone.workspace(settings, conn) as work:
        assert statements(source, "CLONE") == 0
        assert list(work.iterdir()) == []


@pytest.mark.usefixtures("held_copy")
def test_a_lost_lock_ends_the_copy(
    directory: Path,
    source: Server,
    settings: Settings,
    store: Store,
    conn: Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def lost(pace: Pace, done: int) -> None:
        if statements(source, "CLONE", "backup lock"):
            raise LockLost("the snapshot lock is gone")

    monkeypatch.setattr(Pace, "reached", lost)
    with pytest.raises(LockLost):
        take(settings, conn, store, cluster_id="c-1", name="mysql-backup-lost")
    assert statements(source, "CLONE") == 0
    assert everything(directory / "scratch") == []
    assert store.list("") == []


def test_a_lost_lock_takes_the_object_back(
    directory: Path, settings: Settings, store: Store, conn: Connection
) -> None:
    def lost_after_copy(line: str) -> None:
        if line.startswith("storing"):
            assert [each.name for each in store.list("")] == ["mysql-backup-lost"]
            raise LockLost("the snapshot lock is gone")

    with pytest.raises(LockLost):
        take(settings, conn, store, cluster_id="c-1", name="mysql-backup-lost", progress=lost_after_copy)
    assert everything(directory / "scratch") == []
    assert store.list("") == []


def test_an_existing_name_is_not_overwritten(settings: Settings, store: Store, conn: Connection) -> None:
    store.put_bytes("mysql-backup-1", b"good")
    with pytest.raises(SnapshotError, match="mysql-backup-1 is in the store already; BACKUP_NAME"):
        take(settings, conn, store, cluster_id="c-1", name="mysql-backup-1")
    assert store.get_bytes("mysql-backup-1") == b"good"


def test_tables_of_other_engines_are_refused(
    source: Server, settings: Settings, store: Store, conn: Connection
) -> None:
    source.sql("CREATE TABLE app.old (id INT) ENGINE=MyISAM")
    try:
        with pytest.raises(SnapshotError, match=r"would lack the rows of app\.old"):
            take(settings, conn, store, cluster_id="c-1", name="mysql-backup-1")
    finally:
        source.sql("DROP TABLE app.old")


def test_a_scratch_directory_without_room(
    settings: Settings, store: Store, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1000))
    with pytest.raises(SnapshotError, match=r"SCRATCH_DIR .* has 1\.0 kB free, a snapshot needs .* MB"):
        take(settings, conn, store, cluster_id="c-1", name="mysql-backup-1")


def test_a_scratch_directory_that_cannot_be_entered(
    directory: Path, environment: dict[str, str], store: Store, conn: Connection
) -> None:
    """Not by mysqld's OS user where that is another one, else not by anybody."""
    closed = directory / "closed"
    closed.mkdir(mode=0)
    settings = load({**environment, "SCRATCH_DIR": str(closed / "scratch")})
    try:
        with pytest.raises(SnapshotError, match="SCRATCH_DIR"):
            take(settings, conn, store, cluster_id="c-1", name="mysql-backup-1")
    finally:
        closed.chmod(0o700)
