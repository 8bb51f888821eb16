"""The node that a hook works for: its settings, its server, Consul and the store, handed to each hook."""

from __future__ import annotations

import contextlib
import signal
import time
from functools import cached_property
from pathlib import Path

from manager import nodefile, process
from manager.discovery.discovery import Discovery
from manager.errors import ServerUnreachable, TooManyConnections
from manager.flock import flocked
from manager.mysql import config, connection
from manager.mysql.connection import Connection
from manager.pilot import open_pilot
from manager.settings import Settings
from manager.storage import Store, open_store
from manager.waiting import Deadline, pause

STOP_TIME = 60.0
SPARE_TIME = 1.0


class Node:
    """One mysqld with its hooks and its pilot (SPEC 1)."""

    def __init__(self, settings: Settings, *, timeout: float = 2.0) -> None:
        """`timeout` bounds each call to Consul, in seconds."""
        self.settings = settings
        self.name = settings.node_name
        self.title = settings.node_title
        self.address = settings.node_address
        self.port = settings.mysql_port
        self.discovery = Discovery(settings, timeout=timeout)
        self.pilot = open_pilot(settings, timeout=timeout)

    @cached_property
    def store(self) -> Store:
        """The snapshot store; made only by hooks that use it, so that a broken store harms no other (G4)."""
        return open_store(self.settings)

    def local(self, *, timeout: float = 1.0) -> Connection:
        """A connection to this node's own server over its socket; see `connection.local` for the errors.

        Where clients have used up all connections it goes over the administrative port: that server is not dead.
        TooManyConnections from one without such a port (5.6, 5.7), if the one connection that it spares for
        privileged accounts is not free within SPARE_TIME.
        """
        try:
            return connection.local(self.settings, timeout=timeout)
        except TooManyConnections:
            address = config.admin_address(self.settings)
            with contextlib.suppress(ServerUnreachable):
                return connection.remote(self.settings, address, connection.ADMIN_PORT, timeout=timeout)
        deadline = Deadline(SPARE_TIME)
        while True:
            try:
                return connection.local(self.settings, timeout=timeout)
            except TooManyConnections:
                if deadline.over:
                    raise
            pause(0.1)

    def remote(self, address: str, port: int, *, timeout: float = 1.0) -> Connection:
        """A connection to another node's server as MYSQL_REPL_USER; errors as of `connection.remote`."""
        return connection.remote(self.settings, address, port, timeout=timeout)

    def file(self) -> nodefile.NodeFile | None:
        """The durable facts about this node's data directory, None before pre_start has made it."""
        return nodefile.read(self.settings.mysql_datadir)

    def write_file(self, content: nodefile.NodeFile) -> None:
        """Replace the durable facts about this node's data directory."""
        nodefile.write(self.settings.mysql_datadir, content)

    def alone(self, what: str, *, wait: float = 0.0) -> contextlib.AbstractContextManager[int]:
        """Keep two processes of this node from doing `what` at once; Busy if another one still does after `wait` s."""
        return flocked(
            self.settings.run_dir / f"{what}.lock", wait=wait, busy=f"another {what} of this node is running"
        )

    @property
    def stopping(self) -> bool:
        """True from `stops` on, until `starts`, or for 60 s: longer than a stop may take."""
        with contextlib.suppress(FileNotFoundError):
            return 0 <= time.time() - self._stop_mark.stat().st_mtime < STOP_TIME
        return False

    def stops(self) -> None:
        """Let no hook open the server again before it is stopped."""
        self._stop_mark.touch()

    def starts(self) -> None:
        """The server is about to start."""
        self._stop_mark.unlink(missing_ok=True)

    @property
    def _stop_mark(self) -> Path:
        return self.settings.run_dir / "stopping"

    def kill_server(self) -> None:
        """SIGKILL this node's mysqld: the fence when it cannot be closed in time (SPEC 7)."""
        process.send(self.settings, signal.SIGKILL)
