"""One node of a sandbox cluster: its directory, its processes, and what can be done to them."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pymysql

from sandbox import disks, marked, servers
from sandbox.packages import ROOT, Packages
from sandbox.processes import wait_for


class SandboxError(Exception):
    """What was asked for cannot be done; one line that says why."""


@dataclass(frozen=True, kw_only=True)
class Node:
    """A node that runs, is frozen, or is down; nothing of its state is in this object."""

    name: str
    address: str
    directory: Path
    packages: Packages
    shared_env: Mapping[str, str]
    # What comes before the pilot's command, where the node is in a namespace; the size of its own disk.
    enter: tuple[str, ...] = ()
    disk_mb: int | None = None
    # The tree whose `bin` and `etc` it runs.
    code: Path = ROOT
    # The program `containerpilot` where that is its pilot; None for the Consul agent.
    containerpilot: Path | None = None

    @property
    def disk(self) -> Path:
        """Where its data is: a file system of its own if it has a `disk_mb`."""
        return self.directory if self.disk_mb is None else self.directory / "disk"

    @property
    def env(self) -> dict[str, str]:
        """The environment of this node's pilot and hooks."""
        path = f"{self.directory / 'bin'}:{self.shared_env['PATH']}"
        return {
            **self.shared_env,
            "PATH": path,
            "PILOT": "consul" if self.containerpilot is None else "containerpilot",
            "NODE_NAME": self.name,
            "NODE_ADDRESS": self.address,
            "CONSUL_AGENT": self.shared_env.get("CONSUL_AGENT", "1"),
            "CONSUL_CLIENT_ADDRESS": self.address,
            "MYSQL_DATADIR": str(self.disk / "data"),
            "RUN_DIR": str(self.directory / "run"),
            "MYSQL_CONF": str(self.directory / "my.cnf"),
            "MYSQL_CONF_DIR": str(self.directory / "conf.d"),
            "SCRATCH_DIR": str(self.directory / "scratch"),
        }

    @property
    def log(self) -> Path:
        """What the node's programs and hooks printed, since it was added."""
        return self.directory / "node.log"

    @property
    def socket(self) -> Path:
        """mysqld's socket."""
        return self.directory / "run" / "mysqld.sock"

    @property
    def running(self) -> bool:
        """True if any process of the node exists."""
        return bool(marked.processes(self.directory))

    def start(self) -> None:
        """Start the pilot, on the node's old data if it has some; does not wait for it.

        SandboxError if any process of the node is there already.
        """
        if self.running:
            raise SandboxError(f"{self.name} is running already")
        self._prepare()
        command = [
            *self.enter,
            *self._named(),
            str(self.packages.python),
            str(self.code / "bin" / "pilot.py"),
        ]
        marked.start_marked(self.directory, command, env=self.env, log=self.log)

    def _named(self) -> list[str]:
        """What gives the node a host name of its own: ContainerPilot names it by that."""
        if self.containerpilot is None:
            return []
        rights = [] if os.getuid() == 0 else ["--map-current-user", "--keep-caps"]
        return ["unshare", "--uts", *rights, "sh", "-c", 'hostname "$0" && exec "$@"', self.name]

    def _prepare(self) -> None:
        """Make the directories, and tell mysqld where its own files are in the cache."""
        if self.containerpilot is not None:
            (self.directory / "bin").mkdir(parents=True, exist_ok=True)
            program = self.directory / "bin" / "containerpilot"
            program.unlink(missing_ok=True)
            program.symlink_to(self.containerpilot)
        if self.disk_mb is not None:
            disks.mount(self.disk, self.disk_mb)
        (self.directory / "conf.d").mkdir(parents=True, exist_ok=True)
        for directory in (self.disk / "data", self.directory / "run", self.directory / "scratch"):
            if not directory.exists():
                directory.mkdir(parents=True)
                if os.getuid() == 0:
                    shutil.chown(directory, servers.server_user())
        lines = [option.removeprefix("--") for option in servers.mysql_options(self.packages)]
        # A mysqld that starts removes all temporary tables there, another server's as well (measured with 5.6).
        lines.append(f"tmpdir={self.directory / 'run'}")
        (self.directory / "conf.d" / "sandbox.cnf").write_text("\n".join(["[mysqld]", *lines, ""]))

    def kill(self) -> None:
        """SIGKILL for all of its processes: the container killed, the host gone."""
        marked.kill(self.directory)

    def freeze(self) -> None:
        """SIGSTOP for all of its processes."""
        marked.freeze(self.directory)

    def thaw(self) -> None:
        """SIGCONT for all of its processes."""
        marked.thaw(self.directory)

    def stop(self, seconds: float = 75.0) -> None:
        """SIGTERM to its pilot, as `docker stop` does; what is left after `seconds` is killed."""
        self.thaw()
        with contextlib.suppress(FileNotFoundError, ValueError):
            pid = int((self.directory / "run" / "pilot.pid").read_text())
            if pid in marked.processes(self.directory):
                os.kill(pid, signal.SIGTERM)
                wait_for(lambda: pid not in marked.processes(self.directory), seconds)
        self.kill()

    def logs(self) -> str:
        """What the node has printed so far."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    @property
    def client_file(self) -> Path | None:
        """The option file with the hooks' own password; None where the server needs none from them."""
        file = self.directory / "run" / "client.cnf"
        return file if file.exists() else None

    def mysql(self, sql: str, args: Sequence[Any] = (), *, seconds: float = 30.0) -> list[dict[str, Any]]:
        """Run one statement over the node's socket with the hooks' account; pymysql's errors as they are.

        `seconds` is the longest time to wait for the server's answer.
        """
        with (
            pymysql.connect(
                unix_socket=str(self.socket),
                user="autopilot",
                read_default_file=str(self.client_file) if self.client_file else None,
                ssl_disabled=True,
                autocommit=True,
                connect_timeout=5,
                read_timeout=seconds,
                write_timeout=seconds,
                cursorclass=pymysql.cursors.DictCursor,
            ) as connection,
            connection.cursor() as cursor,
        ):
            cursor.execute(sql, args or None)
            return list(cursor.fetchall())

    def mysql_command(self, *options: str) -> list[str]:
        """The command line of an interactive client on this node."""
        return [
            str(self.packages.mysql_bindir / "mysql"),
            f"--defaults-file={self.client_file}" if self.client_file else "--no-defaults",
            f"--socket={self.socket}",
            "--user=autopilot",
            *options,
        ]
