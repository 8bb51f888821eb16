"""Servers with the hooks' own my.cnf and init file, as pre_start would start them."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pymysql

from manager.mysql import accounts, config, connection, operations
from manager.mysql.connection import Connection
from manager.mysql.dialect import Capabilities, Dialect
from manager.mysql.initialise import is_database
from manager.mysql.state import ServerState, read_state
from manager.settings import Settings, load
from sandbox import servers
from sandbox.packages import Packages
from sandbox.processes import Process, wait_for

# Quotes, a backslash, both comment signs, a placeholder, a variable, and letters outside of latin-1.
AWKWARD = "p'ä\"\\%s;#$HOME-ł"
ONE_SECOND_OPTIONS = "max_connections = 60\n"
LONG = 60.0


class Node:
    """One server: started, stopped and killed by its test, which also talks to it like the hooks do."""

    def __init__(self, packages: Packages, directory: Path, address: str, **environ: str) -> None:
        directory.mkdir(parents=True)
        conf_d = directory / "conf.d"
        conf_d.mkdir()
        given = [*servers.mysql_options(packages), servers.small_redo_log(packages)]
        options = "\n".join(option.removeprefix("--") for option in given)
        options += f"\ntmpdir={directory / 'run'}"  # a server that starts removes the temporary tables there
        (conf_d / "server.cnf").write_text(f"[mysqld]\n{options}\n{ONE_SECOND_OPTIONS}")
        self.packages = packages
        self.directory = directory
        self.environ = {
            "NODE_NAME": address,
            "NODE_ADDRESS": address,
            "MYSQL_DATADIR": str(directory / "data"),
            "RUN_DIR": str(directory / "run"),
            "MYSQL_CONF": str(directory / "my.cnf"),
            "MYSQL_CONF_DIR": str(conf_d),
            "MYSQL_BINDIR": str(packages.mysql_bindir),
            "MYSQLD_USER": servers.server_user(),
            "INNODB_BUFFER_POOL_SIZE": "32",
            "BACKUP_DRIVER": "local",
            "STORAGE_DIR": str(directory / "store"),
            "MYSQL_USER": "app",
            "MYSQL_PASSWORD": AWKWARD,
            "MYSQL_DATABASE": "my_db",
            "MYSQL_REPL_USER": "repl",
            "MYSQL_REPL_PASSWORD": AWKWARD,
            **environ,
        }
        self.settings: Settings = load(self.environ)
        self.process: Process | None = None
        self.own(self.settings.run_dir)

    @property
    def address(self) -> str:
        return self.settings.node_address

    @property
    def log(self) -> Path:
        return self.directory / "mysqld.log"

    def own(self, directory: Path) -> None:
        """Make a directory that belongs to mysqld's OS user."""
        directory.mkdir()
        if os.getuid() == 0:
            shutil.chown(directory, servers.server_user())

    def start(self, *options: str) -> None:
        """What pre_start does, but on a copy of a database if there is none; returns once it answers."""
        settings = self.settings
        if not is_database(settings.mysql_datadir):
            servers.initialised_datadir(self.packages, settings.mysql_datadir)
        for stale in ("mysqld.sock", "mysqld.sock.lock", "mysqld.pid"):
            (settings.run_dir / stale).unlink(missing_ok=True)
        config.write_config(settings)
        config.write_init_file(settings)
        mysqld = str(self.packages.mysql_bindir / "mysqld")
        self.process = Process([mysqld, f"--defaults-file={settings.mysql_conf}", *options], log=self.log)
        self.process.wait_ready(lambda: servers.greets(settings.socket), LONG)

    def stop(self) -> None:
        """End it cleanly."""
        if self.process is not None:
            self.process.stop()

    def kill(self) -> None:
        """SIGKILL."""
        assert self.process is not None
        self.process.kill()

    def local(self, timeout: float = 20.0) -> Connection:
        return connection.local(self.settings, timeout=timeout)

    def remote(self, timeout: float = 20.0) -> Connection:
        return connection.remote(self.settings, self.address, self.settings.mysql_port, timeout=timeout)

    @property
    def has(self) -> Capabilities:
        """What its server has, as it says."""
        with self.local() as conn:
            return conn.capabilities

    @property
    def words(self) -> Dialect:
        """What its server is told."""
        with self.local() as conn:
            return Dialect.of(conn.version)

    def admin(self) -> Connection:
        """Over the administrative port."""
        return connection.remote(
            self.settings, config.admin_address(self.settings), connection.ADMIN_PORT, timeout=20.0
        )

    def state(self) -> ServerState:
        with self.local() as conn:
            return read_state(conn)

    def client(self, **options: Any) -> pymysql.Connection[Any]:
        """A connection of the application, whatever driver it would use."""
        assert self.settings.mysql_password is not None
        given = {
            "host": self.address,
            "port": self.settings.mysql_port,
            "user": self.settings.mysql_user,
            "password": self.settings.mysql_password.value.encode(),
            "autocommit": True,
            "connect_timeout": 20,
            "read_timeout": 60,
            "write_timeout": 60,
            **options,
        }
        return pymysql.connect(**given)

    def found(self, lease_s: float = 600.0) -> None:
        """Make it a primary: accounts, then open for writing."""
        with self.local() as conn:
            accounts.bootstrap_accounts(conn, self.settings, lambda password: None)
            self.open(conn, lease_s)

    def open(self, conn: Connection, lease_s: float = 600.0, epoch: int = 1) -> None:
        operations.open_for_writing(
            conn, cluster_id="cluster", epoch=epoch, version=1, record="{}", lease_s=lease_s
        )

    def follow(self, source: Node, *, reading: bool = True) -> None:
        """Make it a replica of `source`, caught up."""
        assert self.settings.mysql_repl_user is not None
        assert self.settings.mysql_repl_password is not None
        with self.local() as conn:
            operations.follow(
                conn,
                host=source.address,
                port=source.settings.mysql_port,
                user=self.settings.mysql_repl_user,
                password=self.settings.mysql_repl_password.value,
            )
            if reading:
                operations.open_for_reading(conn)
        assert self.catches_up(source)

    def catches_up(self, source: Node) -> bool:
        """True once it has executed all that `source` has executed by now."""
        target = source.state().executed
        return wait_for(lambda: target <= self.state().executed, LONG)

    def renamed(self, **changes: Any) -> Settings:
        return replace(self.settings, **changes)


@contextlib.contextmanager
def nodes(packages: Packages, directory: Path, *addresses: str) -> Iterator[tuple[Node, ...]]:
    """Nodes at these addresses, not started yet; what still runs at the end is killed."""
    made = tuple(Node(packages, directory / packages.mysql.name / address, address) for address in addresses)
    try:
        yield made
    finally:
        for node in made:
            if node.process is not None and node.process.alive:
                node.process.kill()
