"""`first_start`: started by health beside itself on the node that founds the cluster; it runs the users' scripts.

Health has 4 s and a script may load a whole database. What they write is in the binlog, so replicas get it.
"""

from __future__ import annotations

import contextlib
import gzip
import logging
import os
import re
import shutil
import subprocess
import threading
from dataclasses import replace
from pathlib import Path
from typing import IO

from manager import first_start, nodefile
from manager.errors import AutopilotError, Busy, ConfigError, FirstStartError, TransactionRefused
from manager.mysql import operations
from manager.mysql.connection import LOCAL_ACCOUNT, Connection, client_file, local_password
from manager.mysql.guard import guard
from manager.mysql.initialise import program
from manager.node import Node
from manager.settings import Settings

LOG = logging.getLogger(__name__)

GUARD_WAIT = 6.0
STEP_TIME = 5.0
# A looking health run holds the lock for an instant.
LOCK_WAIT = 2.0
OUTPUT_TIME = 5.0
# `near '...'` repeats the statement, and with it a password that the script gives somebody.
_QUOTED = re.compile(r"(ERROR (?:1064|1149) .*? at line \d+).*")
_COMPLAINT = re.compile(r"ERROR .* at line \d+")


def run(node: Node) -> int:
    """Return 0 when the scripts have run, or another process runs them; AutopilotError otherwise."""
    try:
        with node.alone(first_start.LOCK, wait=LOCK_WAIT) as lock:
            file = node.file()
            if file is None or not first_start.due(node.settings, file):
                return 0
            if nodefile.is_building(node.settings.mysql_datadir):
                LOG.info("the scripts were begun before: mysqld starts again with an empty database first")
                return 0
            _run(node, lock)
            node.write_file(replace(file, scripts_done=True))
            nodefile.end_building(node.settings.mysql_datadir)
    except Busy as busy:
        LOG.debug("%s", busy)
    return 0


def _run(node: Node, lock: int) -> None:
    """Run them all. Afterwards the mark of a half-made data directory stands, whether they succeeded or not."""
    with contextlib.suppress(PermissionError):  # health has made it the leader of a session already
        os.setpgid(0, 0)
    settings = node.settings
    wanted, others = first_start.scripts(settings)
    for other in others:
        LOG.warning("MYSQL_INITDB_DIR: %s is none of %s: left out", other, ", ".join(first_start.SUFFIXES))
    with node.local(timeout=STEP_TIME) as conn:
        first_start.say(settings.run_dir, wanted[0].name)
        with guard(conn, wait=GUARD_WAIT):
            _check_founding(node, conn)
            nodefile.begin_building(settings.mysql_datadir)
            operations.let_hooks_write(conn)
    try:
        for script in wanted:
            LOG.info("running %s", script)
            first_start.say(settings.run_dir, script.name)
            _run_one(settings, script, lock)
    except AutopilotError as error:
        first_start.say(settings.run_dir, str(error), failed=True)
        raise
    finally:
        with node.local(timeout=STEP_TIME) as conn, guard(conn, wait=GUARD_WAIT):
            operations.close_server(conn)
    LOG.info("the first-start scripts have run: %s", ", ".join(script.name for script in wanted))


def _check_founding(node: Node, conn: Connection) -> None:
    cluster, session = node.discovery.view(), node.discovery.ensure_session()
    record = cluster.record
    uuid = str(conn.value("SELECT @@server_uuid"))
    if (
        record is None
        or (record.state, record.origin, record.primary) != ("founding", "initialised", uuid)
        or cluster.lock_session != session
    ):
        raise TransactionRefused("this node founds the cluster no more")


def _run_one(settings: Settings, script: Path, lock: int) -> None:
    """Run one script to its end; FirstStartError, fit for Consul, if it fails. Its processes keep `lock`."""
    path = os.environ.get("PATH", os.defpath)
    if settings.mysql_bindir:
        path = f"{settings.mysql_bindir}{os.pathsep}{path}"
    # The client's own variable for the socket, so that a shell script needs no more than `mysql --user=autopilot`.
    environment = {**os.environ, "PATH": path, "MYSQL_UNIX_PORT": str(settings.socket)}
    if password := local_password(settings):
        environment["MYSQL_PWD"] = password
    feeder: _Feeder | None = None
    if script.suffix == ".sh":
        command = [str(script)] if os.access(script, os.X_OK) else ["sh", str(script)]
    else:
        file = client_file(settings)
        options = f"--defaults-file={file}" if file.exists() else "--no-defaults"
        command = [program(settings, "mysql"), options, f"--user={LOCAL_ACCOUNT}"]
        command += ["--default-character-set=utf8mb4", f"--socket={settings.socket}"]
        command += [f"--database={settings.mysql_database}"] if settings.mysql_database else []
        feeder = _Feeder(script)
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE if feeder else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            pass_fds=(lock,),
        )
    except OSError as error:
        raise ConfigError(f"MYSQL_INITDB_DIR: cannot run {script}: {error.strerror}") from None
    with contextlib.ExitStack() as stack:
        stack.callback(process.kill)
        if feeder:
            assert process.stdin is not None
            feeder.begin(process.stdin)
        assert process.stdout is not None
        follower = _Follower(script, process.stdout)
        process.wait()
        complaint = follower.end()
    if feeder and (fault := feeder.end()):
        raise FirstStartError(f"first-start script {script.name} cannot be read: {fault}")
    if process.returncode:
        why = complaint or f"exit code {process.returncode}"
        raise FirstStartError(f"first-start script {script.name} has failed: {why}; the log has what it said")


class _Follower:
    """A thread that logs what a script says while it runs."""

    def __init__(self, script: Path, output: IO[bytes]) -> None:
        self._name = script.name
        self._output = output
        self._complaint = ""
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def end(self) -> str:
        """Return how the script has named its error, without any statement's text; empty if it did not.

        What it leaves in the background may keep its output open, and is not waited for.
        """
        self._thread.join(OUTPUT_TIME)
        return self._complaint

    def _follow(self) -> None:
        for raw in self._output:
            line = _QUOTED.sub(r"\1: syntax error", raw.decode(errors="replace").rstrip())
            LOG.info("%s: %s", self._name, line)
            found = _COMPLAINT.match(line)
            self._complaint = found[0] if found else self._complaint


class _Feeder:
    """A thread that hands a script, unpacked, to the client that runs it."""

    def __init__(self, script: Path) -> None:
        self._script = script
        self._fault = ""
        self._thread: threading.Thread | None = None

    def begin(self, target: IO[bytes]) -> None:
        """Start it."""
        self._thread = threading.Thread(target=self._feed, args=(target,), daemon=True)
        self._thread.start()

    def end(self) -> str:
        """Wait for its end; returns why the script could not be read, nothing if it could."""
        assert self._thread is not None
        self._thread.join()
        return self._fault

    def _feed(self, target: IO[bytes]) -> None:
        opened = gzip.open if self._script.suffix == ".gz" else open
        # A client that has ended takes no more; its exit code says why.
        with contextlib.suppress(BrokenPipeError), target:
            try:
                with opened(self._script, "rb") as source:
                    shutil.copyfileobj(source, target)
            except (OSError, EOFError) as error:
                if not isinstance(error, BrokenPipeError):
                    self._fault = str(error)
