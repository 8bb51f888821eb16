"""A mysqld of our own on a data directory that nobody serves: on a socket alone, modest, and dead with this process.

Its own files are in a hidden directory of the data directory, which mysqld does not look into (measured) and which
goes with the half-made data directory if this process is killed.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from manager.errors import MySQLError, SnapshotError
from manager.mysql import config
from manager.mysql.connection import local
from manager.mysql.initialise import complaint, program
from manager.mysql.ownership import give_to_mysqld
from manager.settings import Settings
from manager.waiting import Deadline, poll_until

PLACE = ".private"
LONGEST_LINE = 300
START_TIME = 600.0
STOP_TIME = 60.0
LONGEST_SOCKET = 103  # bytes: the system's limit for the name of a socket
# They win over my.cnf and the user's own files: no network, no events, little memory, no path outside.
OPTIONS = (
    "--skip-networking",
    "--loose-create-admin-listener-thread=OFF",  # 8.0.15 crashes at its stop otherwise (measured)
    "--event-scheduler=OFF",
    "--performance-schema=OFF",
    "--innodb-buffer-pool-size=128M",
    "--general-log=OFF",
    "--slow-query-log=OFF",
)
PATHS = ("innodb-data-home-dir", "innodb-log-group-home-dir", "innodb-undo-directory")


@contextlib.contextmanager
def place(settings: Settings, datadir: Path) -> Iterator[Settings]:
    """Yield settings for a private server on `datadir`, its configuration written; remove its files in the end.

    SnapshotError if the place cannot be made, or its name is too long for a socket.
    """
    directory = datadir / PLACE
    own = replace(
        settings,
        mysql_datadir=datadir,
        run_dir=directory,
        mysql_conf=directory / "my.cnf",
        innodb_buffer_pool_size=None,
    )
    if len(os.fsencode(own.socket)) > LONGEST_SOCKET:
        raise SnapshotError(f"the name {own.socket} is too long for a socket: use a shorter directory")
    shutil.rmtree(directory, ignore_errors=True)
    try:
        directory.mkdir(mode=0o700)
    except OSError as error:
        raise SnapshotError(f"{directory}: {error.strerror}") from None
    config.write_config(own)
    config.write_init_file(own)
    give_to_mysqld(own, directory)
    try:
        yield own
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@dataclass(frozen=True)
class Private:
    """A server that may still be starting, or has ended; `settings` is what `local` logs in to it with."""

    settings: Settings
    process: subprocess.Popen[bytes]
    log: Path

    def answers(self) -> bool:
        """Wait for it: True once it lets the hooks in, False if it has ended.

        SnapshotError after 10 minutes, or if somebody killed it.
        """
        settled = poll_until(
            lambda: self._lets_in() or self.process.poll() is not None, Deadline(START_TIME), interval=0.5
        )
        if not settled:
            raise SnapshotError(f"a private mysqld did not start within {START_TIME:.0f} s")
        if self.process.poll() is None:
            return True
        self.check_own_end()
        return False

    def ends(self, seconds: float = STOP_TIME) -> bool:
        """True if it ends within that time."""
        return poll_until(lambda: self.process.poll() is not None, Deadline(seconds))

    def check_own_end(self) -> None:
        """SnapshotError if it was killed, by the system for want of memory say: that says nothing of its data."""
        if self.process.returncode in (-signal.SIGKILL, -signal.SIGTERM):
            raise SnapshotError("the private mysqld was killed: memory may be too short for it here")

    @property
    def said(self) -> str:
        """The line of its log that says why it has ended."""
        return complaint(self.log.read_text(errors="replace"))[:LONGEST_LINE]

    def _lets_in(self) -> bool:
        with contextlib.suppress(MySQLError), local(self.settings) as conn:
            return bool(conn.value("SELECT 1"))
        return False


@contextlib.contextmanager
def server(settings: Settings, options: Sequence[str] = ()) -> Iterator[Private]:
    """Start mysqld with what `place` gives; end it, cleanly if it can, at the end of the block."""
    log = settings.run_dir / "mysqld.log"
    log.touch()
    give_to_mysqld(settings, settings.mysql_datadir)
    paths = [f"--{name}={settings.mysql_datadir}" for name in PATHS]
    # A mysqld that starts removes the temporary tables that it finds there, whose ever they are (measured with 5.6).
    paths.append(f"--tmpdir={settings.run_dir}")
    command = [
        program(settings, "mysqld"),
        f"--defaults-file={settings.mysql_conf}",
        *OPTIONS,
        f"--log-error={log}",  # "stderr" would be the name of a file in the data directory (measured)
        *options,
        *paths,
    ]
    rights: list[str] = []
    if os.geteuid() == 0:
        # As mysqld's user from the begin: the kernel forgets the signal where a process changes its user.
        account = pwd.getpwnam(settings.mysql_user_os)
        rights = [f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"]
    with open(log, "ab") as output:
        try:
            process = subprocess.Popen(
                ["setpriv", *rights, "--pdeathsig=KILL", *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        except OSError as error:
            raise SnapshotError(f"cannot run setpriv, of util-linux: {error.strerror}") from None
    try:
        yield Private(settings, process, log)
    finally:
        process.terminate()
        try:
            process.wait(STOP_TIME)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
