"""The engine `xtrabackup` with real programs and servers (addresses 127.0.104.1 and up).

XtraBackup itself cannot be had here. Its pipeline runs with `mariadb-backup`, the fork that takes the same options and
writes the same stream, against a real MariaDB server, under the names of the original. Only two things of it are given
as MySQL's would be: what `xtrabackup --version` answers, and the GTID of the position, since MariaDB's are others.
The whole way of `take` and `restore`, which speak MySQL, runs against MySQL with a script in XtraBackup's place, that
streams the files of the stopped server.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from manager import nodefile
from manager.errors import SnapshotDamaged, SnapshotError
from manager.gtid import GtidSet
from manager.mysql import private
from manager.mysql.connection import Connection, local
from manager.settings import Settings, load
from manager.snapshot import programs
from manager.snapshot.encryption import Keys
from manager.snapshot.engines import base, choose, xtrabackup, xtrabackup_tool
from manager.snapshot.engines.xtrabackup import XtraBackupEngine
from manager.snapshot.manifest import Manifest
from manager.snapshot.pipeline import Digest, incoming, outgoing
from manager.snapshot.progress import Pace
from manager.snapshot.restore import restore
from manager.snapshot.take import take
from manager.storage import Store, open_store
from sandbox import disks, servers
from sandbox.packages import Packages
from sandbox.processes import states, wait_for
from tests.integration import mariadb
from tests.integration.inserting import Writers
from tests.integration.mariadb import MariaDB
from tests.integration.mysql_nodes import AWKWARD, Node

SOURCE, RESTORED, S3, MYSQL = (f"127.0.104.{number}" for number in range(1, 5))
BIN = Path(__file__).resolve().parents[2] / "bin"
NAME = "mysql-backup-1"
MARIADB_UUID = "3e11fa47-71ca-11e1-9e33-c80aa9429562"
SETUP = 4  # transactions of the fixture below
WHOLE = 'copy "$@"'


# --- mariadb-backup, a real MariaDB ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def source(module_directory: Path) -> Iterator[MariaDB]:
    with mariadb.running(module_directory / "source", address=SOURCE, server_id=1) as server:
        server.sql(
            "CREATE DATABASE app",
            "CREATE TABLE app.t (id INT AUTO_INCREMENT PRIMARY KEY, worker INT, text VARCHAR(200))",
            "CREATE TABLE app.other (id INT AUTO_INCREMENT PRIMARY KEY, text LONGTEXT) ENGINE=MyISAM",
            "INSERT INTO app.other (text) SELECT REPEAT('y', 4000) FROM app.seq_1_to_500",
            "SET sql_log_bin = 0",
            "CREATE USER repl@'%' IDENTIFIED BY 'secret'",
            "GRANT REPLICATION SLAVE ON *.* TO repl@'%'",
        )
        assert server.value("SELECT @@gtid_binlog_pos") == f"0-1-{SETUP}"
        yield server


@pytest.fixture
def shims(module_directory: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory for programs, first in PATH."""
    path = module_directory / "programs"
    path.mkdir()
    monkeypatch.setenv("PATH", f"{path}:{os.environ['PATH']}")
    yield path
    shutil.rmtree(path)


@pytest.fixture
def gtids_as_of_mysql(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where MariaDB's tool names the transaction 0-1-N, MySQL's would name the set UUID:1-N."""
    real = xtrabackup_tool.position

    def position(text: str) -> GtidSet:
        return real(re.sub(r"'0-1-(\d+)'", rf"'{MARIADB_UUID}:1-\1'", text))

    monkeypatch.setattr(xtrabackup_tool, "position", position)


@pytest.fixture
def environment(source: MariaDB, module_directory: Path) -> Iterator[dict[str, str]]:
    store, scratch = module_directory / "store", module_directory / "scratch"
    store.mkdir()
    yield {
        "BACKUP_DRIVER": "local",
        "STORAGE_DIR": str(store),
        "SCRATCH_DIR": str(scratch),
        "MYSQL_DATADIR": str(source.datadir),
        "RUN_DIR": str(source.socket.parent),
        "MYSQL_CONF": str(module_directory / "my.cnf"),
        "MYSQLD_USER": servers.server_user(),
        "NODE_NAME": "node-1",
        "NODE_ADDRESS": SOURCE,
    }
    shutil.rmtree(store)
    shutil.rmtree(scratch, ignore_errors=True)


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
def datadir(module_directory: Path) -> Iterator[Path]:
    """An empty data directory, marked as being built, as pre_start gives it."""
    path = module_directory / "restored" / "data"
    path.mkdir(parents=True)
    nodefile.begin_building(path)
    yield path
    shutil.rmtree(path.parent)


def put(settings: Settings, conn: Connection, store: Store) -> tuple[base.Held, Manifest]:
    """What `take` does between engine and store; it asks MySQL for more than MariaDB knows."""
    with XtraBackupEngine().copy(settings, conn, None) as copy:
        digest = Digest()
        stream = outgoing(
            copy.chunks(), Pace(None, "storing", copy.expected), digest, rate=None, keys=Keys(settings)
        )
        path = store.put_stream(NAME, stream, at_most=copy.expected + copy.expected // 100)
        held = copy.held()
    assert 0.4 < copy.expected / held.unpacked < 1.5  # writers go on meanwhile
    manifest = Manifest(
        id=NAME,
        path=path,
        cluster_id="c-1",
        service_name=settings.service_name,
        server_version="9.7.4",
        server_uuid=MARIADB_UUID,
        gtid=str(held.gtid),
        gtid_after=str(held.gtid_after),
        size=digest.size,
        sha256=digest.sha256,
        unpacked=held.unpacked,
        engine=XtraBackupEngine.name,
        origin="initialised",
        taken_on="mysql-node-1",
        from_replica=False,
        at=1,
        binlog=None,
    )
    return held, manifest


def build(settings: Settings, store: Store, manifest: Manifest, datadir: Path, lines: list[str]) -> None:
    """What the engine's `restore` does before MySQL is asked for its GTID set."""
    chunks = incoming(store, manifest, Pace(lines.append, "restoring", manifest.size), Keys(settings))
    xtrabackup.build(xtrabackup_tool.find(settings), chunks, datadir, lines.append)


def files(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file())


def checksums(server: MariaDB) -> tuple[tuple[object, ...], ...]:
    return server.sql("CHECKSUM TABLE app.t, app.other")


def restored_follows(directory: Path, source: MariaDB, last: int) -> None:
    """Start MariaDB on what was restored: it has each row up to the position, and catches up from there."""
    with mariadb.running(directory, address=RESTORED, server_id=2) as restored:
        assert int(restored.value("SELECT COUNT(*) FROM app.t")) == last - SETUP
        restored.sql(
            f"SET GLOBAL gtid_slave_pos = '0-1-{last}'",
            f"CHANGE MASTER TO MASTER_HOST='{SOURCE}', MASTER_USER='repl', MASTER_PASSWORD='secret',"
            " MASTER_USE_GTID=slave_pos",
            "START SLAVE",
        )
        assert (
            restored.value(f"SELECT MASTER_GTID_WAIT('{source.value('SELECT @@gtid_binlog_pos')}', 60)")
            == "0"
        )
        assert checksums(restored) == checksums(source)


@pytest.mark.usefixtures("gtids_as_of_mysql")
def test_a_copy_under_writers_is_restored_and_catches_up(
    module_directory: Path,
    source: MariaDB,
    shims: Path,
    settings: Settings,
    store: Store,
    conn: Connection,
    datadir: Path,
) -> None:
    mariadb.xtrabackup(shims, "9.7.0", WHOLE)
    with Writers(source.connect, 3):
        assert wait_for(lambda: int(source.value("SELECT COUNT(*) FROM app.t")) > 100, 60.0)
        held, manifest = put(settings, conn, store)
    assert files(module_directory / "scratch") == []
    assert files(module_directory / "store") == [NAME]
    assert held.gtid == held.gtid_after
    assert held.gtid.count > SETUP + 100
    assert held.gtid <= GtidSet.parse(
        f"{MARIADB_UUID}:1-{source.value('SELECT @@gtid_binlog_pos').split('-')[2]}"
    )

    lines: list[str] = []
    build(settings, store, manifest, datadir, lines)
    assert [line.split(":")[0] for line in lines] == ["restoring", "preparing"]
    assert not [name for name in files(datadir) if name.startswith(("xtrabackup_", "backup-my"))]
    assert (datadir / nodefile.BUILDING_FILE).exists()
    assert {path.stat().st_mode & 0o777 for path in datadir.rglob("*.ibd")} == {0o640}
    restored_follows(datadir.parent, source, held.gtid.count)


@pytest.mark.usefixtures("gtids_as_of_mysql")
def test_a_copy_through_s3(
    packages: Packages,
    module_directory: Path,
    source: MariaDB,
    shims: Path,
    environment: dict[str, str],
    conn: Connection,
    datadir: Path,
) -> None:
    mariadb.xtrabackup(shims, "9.7.0", WHOLE)
    with servers.s3_server(packages, module_directory / "s3", address=S3) as server:
        settings = load(
            environment
            | {
                "BACKUP_DRIVER": "s3",
                "AWS_ENDPOINT_URL": server.endpoint,
                "AWS_BUCKET": "backups",
                "AWS_ACCESS_KEY": server.access_key,
                "AWS_SECRET_ACCESS_KEY": server.secret_key,
            }
        )
        store = open_store(settings)
        mariadb.xtrabackup(shims, "9.7.0", f"{WHOLE}; exit 1")
        with pytest.raises(SnapshotError, match=r"^xtrabackup failed \(1\)"):
            put(settings, conn, store)
        assert store.list("") == []
        mariadb.xtrabackup(shims, "9.7.0", WHOLE)
        _, manifest = put(settings, conn, store)
        assert [each.name for each in store.list("")] == [NAME]
        build(settings, store, manifest, datadir, [])
    assert (datadir / "app" / "t.ibd").stat().st_size == (source.datadir / "app" / "t.ibd").stat().st_size


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("kill -9 $$", r"^xtrabackup was killed by signal 9$"),
        ('copy "$@" | head -c 3000000; kill -9 $$', r"^xtrabackup was killed by signal 9$"),
        (f"{WHOLE}; kill -9 $$", r"^xtrabackup was killed by signal 9$"),
        (
            f"{WHOLE}; echo '0 [ERROR] too late' >&2; exit 1",
            r"^xtrabackup failed \(1\): 0 \[ERROR\] too late$",
        ),
        ('copy "$@" | head -c 3000000', r"^xtrabackup ended without 'completed OK!'; its last line: "),
        ('copy "$@" 2>/dev/null', r"^xtrabackup ended without 'completed OK!'; its last line: $"),
        ('copy "$@" --socket=/nowhere', r"^xtrabackup failed \(1\): .*Can't connect to local server"),
    ],
    ids=[
        "before-the-first-byte",
        "in-the-middle",
        "after-the-last-byte",
        "late",
        "short",
        "silent",
        "no-server",
    ],
)
@pytest.mark.usefixtures("gtids_as_of_mysql")
def test_a_copy_that_fails_anywhere_is_no_object(
    module_directory: Path,
    shims: Path,
    settings: Settings,
    store: Store,
    conn: Connection,
    script: str,
    why: str,
) -> None:
    mariadb.xtrabackup(shims, "9.7.0", script)
    with pytest.raises(SnapshotError, match=why):
        put(settings, conn, store)
    assert files(module_directory / "store") == []
    assert files(module_directory / "scratch") == []


@pytest.mark.usefixtures("gtids_as_of_mysql")
def test_the_tool_itself_is_killed(shims: Path, settings: Settings, store: Store, conn: Connection) -> None:
    mariadb.xtrabackup(shims, "9.7.0", f'exec {" ".join(mariadb.backup_words())} "$@"')
    with XtraBackupEngine().copy(settings, conn, None) as copy:
        assert isinstance(copy, xtrabackup.Backup)

        def killed() -> Iterator[bytes]:
            for number, chunk in enumerate(copy.chunks()):
                if number == 3:
                    os.kill(copy._program.process.pid, signal.SIGKILL)
                yield chunk

        with pytest.raises(SnapshotError, match=r"^xtrabackup was killed by signal 9$"):
            store.put_stream(
                NAME, outgoing(killed(), Pace(None, "storing"), Digest(), rate=None, keys=Keys(settings))
            )
    assert store.list("") == []


def test_a_copy_without_a_gtid_is_no_object(
    module_directory: Path, shims: Path, settings: Settings, store: Store, conn: Connection
) -> None:
    info = f"{module_directory}/scratch/.snapshot-node-1/info/xtrabackup_info"
    mariadb.xtrabackup(shims, "9.7.0", f"{WHOLE}; sed -i \"s/, GTID of the last change '.*'//\" {info}")
    with pytest.raises(SnapshotError, match=r"names no GTID set for its copy: the server needs gtid_mode=ON"):
        put(settings, conn, store)
    assert files(module_directory / "store") == []


def test_a_password_is_in_no_command_line(
    module_directory: Path, source: MariaDB, shims: Path, settings: Settings
) -> None:
    """As it will have to be given where the hooks' account needs one."""
    mariadb.xtrabackup(shims, "9.7.0", f"cat /proc/$$/cmdline > {module_directory}/argv; {WHOLE}")
    quoted = AWKWARD.replace("\\", "\\\\").replace("'", "''")
    source.sql(
        "SET sql_log_bin = 0",
        f"CREATE USER backup@localhost IDENTIFIED BY '{quoted}'",
        "GRANT ALL ON *.* TO backup@localhost",
    )
    scratch = module_directory / "secret-scratch"
    scratch.mkdir()

    def ends(password: str) -> str:
        options = xtrabackup.write_options(scratch, settings.mysql_conf, password)
        tool = xtrabackup_tool.find(settings)
        command = xtrabackup_tool.backup_command(
            tool, options, scratch, datadir=source.datadir, socket=source.socket, user="backup"
        )
        with programs.running(command, stdout=True) as program:
            try:
                assert sum(map(len, program.output())) > 1_000_000
            finally:
                options.unlink()
            return program.said

    assert ends(AWKWARD).endswith(xtrabackup.COMPLETED)
    argv = (module_directory / "argv").read_bytes()
    assert b"--user=backup" in argv
    assert b"ssword" not in argv
    assert AWKWARD.encode() not in argv
    with pytest.raises(SnapshotError, match="Access denied"):
        ends("wrong")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts")
@pytest.mark.usefixtures("gtids_as_of_mysql")
def test_full_disks(
    module_directory: Path,
    shims: Path,
    settings: Settings,
    store: Store,
    conn: Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mariadb.xtrabackup(shims, "9.7.0", WHOLE)
    _, manifest = put(settings, conn, store)
    small = module_directory / "small"
    try:
        disks.mount(small, 4)
        with pytest.raises(SnapshotError, match="xbstream failed .*No space left"):
            build(settings, store, manifest, small, [])
        store.delete(NAME)
        full = replace(settings, scratch_dir=small)
        disks.fill(small)
        with pytest.raises(SnapshotError, match=r"^SCRATCH_DIR .* has 0 B free, a snapshot needs 70 MB"):
            put(full, conn, store)
        monkeypatch.setattr(xtrabackup, "LEAST_ROOM", 0)
        with pytest.raises(
            SnapshotError, match=r"^SCRATCH_DIR: xtrabackup could not write .*: give it more room$"
        ):
            put(full, conn, store)
        assert files(module_directory / "store") == []
        assert not (small / ".snapshot-node-1").exists()
    finally:
        disks.unmount_below(small)


def test_a_stream_that_brings_what_is_none_of_the_servers(
    module_directory: Path, shims: Path, settings: Settings, datadir: Path
) -> None:
    mariadb.xtrabackup(shims, "9.7.0", WHOLE)
    (module_directory / ".autopilot.json").write_text("{}")
    stream = subprocess.run(
        [*mariadb.stream_words(), "-c", ".autopilot.json"],
        cwd=module_directory,
        check=True,
        capture_output=True,
    ).stdout
    tool = xtrabackup_tool.find(settings)
    with pytest.raises(SnapshotError, match=r"Can't open backup-my\.cnf"):  # mbstream writes no hidden file
        xtrabackup.build(tool, iter([stream]), datadir, None)
    with pytest.raises(SnapshotError, match=r"xbstream ended before it had read all: .*invalid filename"):
        xtrabackup.build(tool, iter([stream, bytes(1 << 20), bytes(1 << 20)]), datadir, None)
    with pytest.raises(SnapshotError, match="xbstream failed"):
        xtrabackup.build(tool, iter([b"no stream at all"]), datadir, None)
    assert files(datadir) == [nodefile.BUILDING_FILE]


def test_a_preparation_that_does_not_say_that_it_is_complete(
    module_directory: Path, shims: Path, settings: Settings, datadir: Path
) -> None:
    mariadb.xtrabackup(shims, "9.7.0", "echo 'almost done' >&2")
    (module_directory / "ibdata1").write_text("")
    stream = subprocess.run(
        [*mariadb.stream_words(), "-c", "ibdata1"], cwd=module_directory, check=True, capture_output=True
    ).stdout
    with pytest.raises(
        SnapshotError, match=r"^xtrabackup --prepare ended without 'completed OK!'.*: almost done$"
    ):
        xtrabackup.build(xtrabackup_tool.find(settings), iter([stream]), datadir, None)


# --- MySQL, its files streamed by a script ---------------------------------------------------------------


@pytest.fixture(scope="module")
def node(packages: Packages, module_directory: Path) -> Iterator[Node]:
    """A MySQL node. Beside its data directory are the files of its last stop, but for its binlogs."""
    made = Node(
        packages,
        module_directory / "mysql",
        MYSQL,
        SCRATCH_DIR=str(module_directory / "mysql" / "scratch"),
        SNAPSHOT_ENGINE="xtrabackup",
    )
    made.own(made.directory / "elsewhere")
    (made.directory / "store").mkdir()
    try:
        made.start()
        made.found()
        with made.client() as client, client.cursor() as cursor:
            cursor.execute("CREATE TABLE my_db.t (id INT PRIMARY KEY)")
            cursor.execute("INSERT INTO my_db.t VALUES (1), (2)")
        made.stop()
        stopped = made.directory / "stopped"
        subprocess.run(
            ["cp", "-a", "--reflink=auto", str(made.settings.mysql_datadir), str(stopped)], check=True
        )
        for path in (*stopped.glob("binlog.*"), *stopped.glob(".*"), stopped / "auto.cnf"):
            path.unlink()
        made.start(f"--innodb-directories={made.directory / 'elsewhere'}")
        with made.local() as conn:
            made.open(conn)
        yield made
    finally:
        if made.process is not None and made.process.alive:
            made.process.kill()


@pytest.fixture
def emptied(node: Node) -> Iterator[Path]:
    """A data directory to restore into; the node's store is empty again at the end."""
    path = node.directory / "restored"
    path.mkdir()
    yield path
    shutil.rmtree(path)
    for entry in (node.directory / "store").rglob("*"):
        if entry.is_file():
            entry.unlink()


def of_mysql(shims: Path, node: Node, *, version: str = "9.7.0", gtid: str = "", before: str = "") -> None:
    """Programs that stream the files of the node's last stop, and have nothing to prepare; `before` runs first."""
    gtid = gtid or str(node.state().executed)
    info = f"binlog_pos = filename 'binlog.000002', position '157', GTID of the last change '{gtid}'"
    streamed = f"find . -type f -printf '%P\\n' | xargs {' '.join(mariadb.stream_words())} -c"
    where = node.settings.scratch_dir / f".snapshot-{node.settings.node_name}" / xtrabackup_tool.EXTRA
    mariadb.xtrabackup(
        shims,
        version,
        f"""case "$*" in *--backup*)
{before}
mkdir {where} && cd {node.directory / "stopped"} && echo "{info}" > {where}/xtrabackup_info && {streamed} || exit 1
esac
echo 'completed OK!' >&2""",
    )


def taken(node: Node, settings: Settings | None = None) -> Manifest:
    settings = settings or node.settings
    with local(settings, timeout=5.0) as conn:
        return take(settings, conn, open_store(settings), cluster_id="c-1", name=NAME)


def test_mysql_restores_it_with_its_position(shims: Path, node: Node, emptied: Path) -> None:
    of_mysql(shims, node)
    manifest = taken(node, replace(node.settings, snapshot_engine=None))
    assert manifest.engine == "xtrabackup"
    assert manifest.gtid == manifest.gtid_after == str(node.state().executed)
    assert files(node.settings.scratch_dir) == []
    lines: list[str] = []
    store = open_store(node.settings)
    assert restore(node.settings, store, NAME, emptied, progress=lines.append) == manifest
    with private.place(node.settings, emptied) as own, private.server(own) as server:
        assert server.answers()
        with local(own, timeout=5.0) as conn:
            assert conn.value("SELECT @@gtid_executed").replace("\n", "") == manifest.gtid
            assert conn.value("SELECT COUNT(*) FROM my_db.t") == 2

    # Its rows are there already: replication would bring them a second time.
    fewer = replace(manifest, gtid=f"{manifest.server_uuid}:1-3", gtid_after=f"{manifest.server_uuid}:1-3")
    nodefile.empty(emptied)
    chunks = incoming(store, fewer, Pace(None, "restoring"), Keys(node.settings))
    with pytest.raises(SnapshotDamaged, match=f"that its manifest does not name: {manifest.server_uuid}:4-"):
        XtraBackupEngine().restore(node.settings, fewer, chunks, emptied, None)

    # An XtraBackup that does not fit is no damage to what is stored.
    of_mysql(shims, node, version="8.4.0")
    nodefile.empty(emptied)
    with pytest.raises(
        SnapshotError, match=r"cannot be restored: XtraBackup 8\.4 copies servers 8\.4, not 9"
    ) as no:
        restore(node.settings, store, NAME, emptied)
    assert not isinstance(no.value, SnapshotDamaged)
    assert files(emptied) == []


def test_where_it_does_not_fit_another_engine_is_chosen(shims: Path, node: Node) -> None:
    free = replace(node.settings, snapshot_engine=None)
    with node.local() as conn:
        with pytest.raises(
            SnapshotError, match=r"^SNAPSHOT_ENGINE=xtrabackup .*: there is no program xtrabackup$"
        ):
            choose(node.settings, conn)
        assert choose(free, conn).name == "clone"
        of_mysql(shims, node, version="8.0.35")
        with pytest.raises(
            SnapshotError, match=r"xtrabackup .*: XtraBackup 8\.0 copies servers 8\.0, not 9\."
        ):
            choose(node.settings, conn)
        assert choose(free, conn).name == "clone"
        of_mysql(shims, node)
        assert choose(free, conn).name == "xtrabackup"
        (shims / "xbstream").unlink()
        with pytest.raises(SnapshotError, match="there is no program xbstream$"):
            choose(node.settings, conn)


def test_tables_that_a_copy_cannot_hold_are_refused(shims: Path, node: Node, emptied: Path) -> None:
    of_mysql(shims, node)
    elsewhere = node.directory / "elsewhere"
    with node.local() as conn:
        conn.run("SET sql_log_bin = 0")
        conn.run(f"CREATE TABLE my_db.far (id INT) DATA DIRECTORY = '{elsewhere}'")
        try:
            with pytest.raises(
                SnapshotError, match=rf"{elsewhere}/my_db/far.ibd lies outside the data directory"
            ):
                taken(node)
        finally:
            conn.run("DROP TABLE my_db.far")
    assert files(node.directory / "store") == []


TAKER = """
import os
from manager.mysql.connection import local
from manager.settings import load
from manager.snapshot.take import take
from manager.storage import open_store

settings = load(os.environ)
with local(settings, timeout=5.0) as conn:
    take(settings, conn, open_store(settings), cluster_id="c-1", name="mysql-backup-2026-11-27T01-02-03Z")
"""


def test_a_hook_that_is_killed_takes_the_tool_with_it(shims: Path, node: Node, emptied: Path) -> None:
    pid_file = node.directory / "tool.pid"
    of_mysql(shims, node, before=f"head -c 30000000 /dev/urandom; echo $$ > {pid_file}; exec sleep 60")
    given = (
        "STORAGE_DIR",
        "SCRATCH_DIR",
        "MYSQL_DATADIR",
        "RUN_DIR",
        "NODE_NAME",
        "NODE_ADDRESS",
        "MYSQLD_USER",
    )
    settings = node.settings
    values = (
        settings.storage_dir,
        settings.scratch_dir,
        settings.mysql_datadir,
        settings.run_dir,
        settings.node_name,
        settings.node_address,
        settings.mysql_user_os,
    )
    environ = {**os.environ, **dict(zip(given, map(str, values), strict=True))}
    environ |= {"PYTHONPATH": str(BIN), "BACKUP_DRIVER": "local", "SNAPSHOT_ENGINE": "xtrabackup"}
    taker = subprocess.Popen([sys.executable, "-c", TAKER], env=environ)
    assert wait_for(lambda: pid_file.exists() and pid_file.read_text().strip() != "", 30.0)
    pid = int(pid_file.read_text())
    taker.send_signal(signal.SIGKILL)
    taker.wait()
    assert wait_for(lambda: not states(pid), 10.0)
    assert open_store(settings).list("") == []
    left = [*files(settings.scratch_dir), *files(node.directory / "store")]
    assert left, "nothing was begun"
    of_mysql(shims, node)
    taken(node)
    assert files(settings.scratch_dir) == []
    assert files(node.directory / "store") == [NAME, f"{NAME}.manifest.json"]
