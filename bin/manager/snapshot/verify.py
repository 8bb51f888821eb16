"""Verifying a snapshot: restore it into a scratch directory, start a private mysqld on it, and look at every table.

The server that runs is not touched: the private one listens on a socket alone, in a directory of its own, with
128 MB of buffer pool, dies with this process, and is the first to go where memory is short.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from manager.errors import Busy, MySQLError, ServerUnreachable, SnapshotDamaged, SnapshotError
from manager.gtid import GtidSet
from manager.mysql import config
from manager.mysql.connection import Connection, local, quote_name
from manager.mysql.initialise import complaint, initialise, program
from manager.mysql.ownership import give_to_mysqld
from manager.node import Node
from manager.settings import Settings
from manager.snapshot.clone import check_room
from manager.snapshot.manifest import GOOD, Manifest
from manager.snapshot.restore import restore
from manager.waiting import Deadline, poll_until

LOG = logging.getLogger(__name__)

LOCK = "verify"
READS = 2
LEAST_ROOM = 64 << 20
LONGEST_LINE = 300
START_TIME = 600.0
STOP_TIME = 60.0
TABLE_TIME = 4 * 3600.0
LONGEST_SOCKET = 103  # bytes: the system's limit for the name of a socket
# They win over my.cnf and the user's own files: no network, no events, no replication, little memory, no path outside.
PRIVATE = (
    "--skip-networking",
    "--skip-log-bin",
    "--skip-replica-start",
    "--event-scheduler=OFF",
    "--performance-schema=OFF",
    "--innodb-buffer-pool-size=128M",
    "--general-log=OFF",
    "--slow-query-log=OFF",
    "--log-error=stderr",
)
PRIVATE_PATHS = ("innodb-data-home-dir", "innodb-log-group-home-dir", "innodb-undo-directory")


def verify(node: Node, manifest: Manifest) -> str:
    """Return the verdict: GOOD, or in words what is wrong with the snapshot.

    The caller holds this node's LOCK, and keeps the snapshot from being removed. SnapshotError if this node cannot
    tell: it lacks room, memory, or a server that fits; StoreError if the store fails.
    """
    with _workspace(node) as settings:
        check_room(settings.run_dir.parent, manifest.unpacked, "SCRATCH_DIR", "a verification")
        for number in range(READS):
            try:
                restore(settings, node.store, manifest.id, settings.mysql_datadir)
                break
            except SnapshotDamaged as damage:
                if number == READS - 1:
                    return str(damage)
                _empty(settings)
        verdict, started = _look_inside(settings, manifest)
        if verdict != GOOD and shutil.disk_usage(settings.run_dir).free < LEAST_ROOM:
            raise SnapshotError(f"SCRATCH_DIR has no room left for a verification: {verdict}")
        if verdict != GOOD and not started and not _starts_on_an_empty_one(settings):
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
def _workspace(node: Node) -> Iterator[Settings]:
    """Settings for a server of its own in SCRATCH_DIR; at the end, and at the begin, nothing of it is left."""
    directory = _place(node)
    settings = replace(
        node.settings,
        mysql_datadir=directory / "data",
        run_dir=directory / "run",
        mysql_conf=directory / "my.cnf",
        innodb_buffer_pool_size=None,
    )
    if len(os.fsencode(settings.socket)) > LONGEST_SOCKET:
        raise SnapshotError(f"SCRATCH_DIR: the name {settings.socket} is too long for a socket")
    shutil.rmtree(directory, ignore_errors=True)
    try:
        settings.run_dir.mkdir(parents=True)
        directory.chmod(0o700)
        _empty(settings)
    except OSError as error:
        raise SnapshotError(f"SCRATCH_DIR {node.settings.scratch_dir}: {error.strerror}") from None
    config.write_config(settings)
    config.write_init_file(settings)
    try:
        yield settings
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _empty(settings: Settings) -> None:
    shutil.rmtree(settings.mysql_datadir, ignore_errors=True)
    settings.mysql_datadir.mkdir()


def _starts_on_an_empty_one(settings: Settings) -> bool:
    _empty(settings)
    initialise(settings)
    with _server(settings) as (server, _):
        return _answers(settings, server)


def _look_inside(settings: Settings, manifest: Manifest) -> tuple[str, bool]:
    """Return the verdict, and whether a server was there to give it."""
    with _server(settings) as (server, log):
        if not _answers(settings, server):
            return f"mysqld does not start on it: {_said(log)}", False
        asked = "its GTID set"
        try:
            with local(settings, timeout=5.0) as conn:
                if fault := _wrong_gtid(conn, manifest):
                    return fault, True
                for schema, name in _tables(conn):
                    asked = f"{schema}.{name}"
                    if fault := _wrong_table(conn, schema, name):
                        return f"{asked}: {fault}", True
        except ServerUnreachable:
            if not poll_until(lambda: server.poll() is not None, Deadline(STOP_TIME)):
                raise
            _check_own_end(server)
            return f"mysqld ended while it looked at {asked}: {_said(log)}", True
    return GOOD, True


@contextlib.contextmanager
def _server(settings: Settings) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """A mysqld on the workspace, which may not answer yet, and its log."""
    log = settings.run_dir / "mysqld.log"
    give_to_mysqld(settings, settings.run_dir.parent)
    paths = [f"--{name}={settings.mysql_datadir}" for name in PRIVATE_PATHS]
    command = [program(settings, "mysqld"), f"--defaults-file={settings.mysql_conf}", *PRIVATE, *paths]
    rights: list[str] = []
    if os.geteuid() == 0:
        # As mysqld's user from the begin: the kernel forgets the signal where a process changes its user.
        account = pwd.getpwnam(settings.mysql_user_os)
        rights = [f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"]
    with open(log, "wb") as output:
        try:
            server = subprocess.Popen(
                ["setpriv", *rights, "--pdeathsig=KILL", *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        except OSError as error:
            raise SnapshotError(f"cannot run setpriv, of util-linux: {error.strerror}") from None
    try:
        yield server, log
    finally:
        server.terminate()
        try:
            server.wait(STOP_TIME)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _answers(settings: Settings, server: subprocess.Popen[bytes]) -> bool:
    """True once the server lets the hooks in, False if it has ended; SnapshotError after 10 minutes, or if killed."""

    def lets_in() -> bool:
        with contextlib.suppress(MySQLError), local(settings) as conn:
            return bool(conn.value("SELECT 1"))
        return False

    if not poll_until(lambda: lets_in() or server.poll() is not None, Deadline(START_TIME), interval=0.5):
        raise SnapshotError(f"a private mysqld did not start within {START_TIME:.0f} s")
    if server.poll() is None:
        return True
    _check_own_end(server)
    return False


def _check_own_end(server: subprocess.Popen[bytes]) -> None:
    """A server that was killed by somebody, by the system for want of memory say, has said nothing of its data."""
    if server.returncode in (-signal.SIGKILL, -signal.SIGTERM):
        raise SnapshotError("the private mysqld was killed: memory may be too short for a verification here")


def _wrong_gtid(conn: Connection, manifest: Manifest) -> str:
    """What was in the server before the copy must be there, and nothing that came after it."""
    executed = GtidSet.parse(conn.value("SELECT @@global.gtid_executed"))
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


def _said(log: Path) -> str:
    return complaint(log.read_text(errors="replace"))[:LONGEST_LINE]
