"""Group Replication of the same MySQL: three plain servers in namespaces, single-primary, to compare with."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import pymysql

from sandbox import marked, servers
from sandbox.health import Endpoint
from sandbox.network import Network
from sandbox.node import SandboxError
from sandbox.packages import Packages
from sandbox.processes import wait_for

USER, PASSWORD, DATABASE = "app", "app-of-the-benchmark", "app"
RECOVERY = "recovery"
START = 120.0
REJOIN = 90.0
STOP_TIME = 60.0


class Members:
    """Finds the primary by asking the members: the one that a majority of them names."""

    def __init__(self, addresses: dict[str, str]) -> None:
        """`addresses` are the members' by their names."""
        self._addresses = addresses
        self._pool = ThreadPoolExecutor(2 * len(addresses))

    @property
    def primary(self) -> Endpoint | None:
        """Who two members name; an isolated primary goes on to name itself, so one is not enough."""
        votes: Counter[str] = Counter()
        asked = [self._pool.submit(self._named_by, address) for address in self._addresses.values()]
        for answer in as_completed(asked):
            if named := answer.result():
                votes[named] += 1
                if votes[named] > len(self._addresses) // 2:
                    name = next(name for name, address in self._addresses.items() if address == named)
                    return Endpoint(name, named, 3306)
        return None

    def _named_by(self, address: str) -> str | None:
        with contextlib.suppress(pymysql.MySQLError, OSError):
            rows = client(
                address,
                "SELECT MEMBER_HOST, MEMBER_ID = @@server_uuid AS self, MEMBER_ROLE, MEMBER_STATE"
                " FROM performance_schema.replication_group_members",
            )
            if any(row["self"] and row["MEMBER_STATE"] == "ONLINE" for row in rows):
                found = [
                    row for row in rows if row["MEMBER_ROLE"] == "PRIMARY" and row["MEMBER_STATE"] == "ONLINE"
                ]
                return str(found[0]["MEMBER_HOST"]) if len(found) == 1 else None
        return None


def client(address: str, sql: str) -> list[dict[str, Any]]:
    """Run a statement as the application, with short limits; pymysql's errors as they are."""
    with (
        pymysql.connect(
            host=address,
            user=USER,
            password=PASSWORD,
            connect_timeout=1,
            read_timeout=1,
            write_timeout=1,
            cursorclass=pymysql.cursors.DictCursor,
        ) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute(sql)
        return list(cursor.fetchall())


class Group:
    """Three servers in `directory`, on the network `subnet`."""

    user, password, database = USER, PASSWORD, DATABASE

    def __init__(
        self, packages: Packages, directory: Path, subnet: str, *, expel_timeout: int | None
    ) -> None:
        """`expel_timeout` is group_replication_member_expel_timeout in seconds, None for the server's default."""
        self.packages, self.directory = packages, directory
        self.network = Network(subnet)
        self.addresses = {f"member-{number}": f"{subnet}.{10 + number}" for number in (1, 2, 3)}
        self.finder = Members(self.addresses)
        self._expel_timeout = expel_timeout
        self._name = str(uuid.uuid4())

    # --- Life -----------------------------------------------------------------------------------

    def up(self) -> None:
        """Start the servers and the group; SandboxError if they do not come together."""
        self.down()
        self.directory.mkdir(parents=True)
        self.directory.chmod(0o755)
        self.network.create()
        for name, address in self.addresses.items():
            self.network.add(name, address)
            servers.initialised_datadir(self.packages, self.directory / name / "data")
            self.start(name)
        first = True
        for name in self.addresses:
            self._accounts(name)
            if first:
                self.sql(name, "SET GLOBAL group_replication_bootstrap_group = ON")
            self.sql(name, "START GROUP_REPLICATION")
            if first:
                self.sql(name, "SET GLOBAL group_replication_bootstrap_group = OFF")
                self.sql(name, f"CREATE DATABASE {DATABASE}")
                self.sql(name, f"CREATE USER {USER}@'%' IDENTIFIED BY '{PASSWORD}'")
                self.sql(name, f"GRANT ALL ON *.* TO {USER}@'%'")
            first = False
        self.settle()

    def down(self) -> None:
        """End everything and remove it; fine if there is nothing."""
        marked.kill(self.directory)
        self.network.destroy()
        shutil.rmtree(self.directory, ignore_errors=True)

    def start(self, name: str) -> None:
        """Start a member's server and wait until it answers; it is in no group yet."""
        directory, address = self.directory / name, self.addresses[name]
        run = directory / "run"
        if not run.exists():
            run.mkdir()
            shutil.chown(run, servers.server_user())
        seeds = ",".join(f"{one}:33061" for one in self.addresses.values())
        options = {
            "user": servers.server_user(),
            "datadir": directory / "data",
            "socket": run / "mysqld.sock",
            "pid-file": run / "mysqld.pid",
            "server-id": address.rpartition(".")[2],
            "report-host": address,
            "mysqlx": "OFF",
            "skip-name-resolve": "ON",
            "innodb-buffer-pool-size": "64M",
            "gtid-mode": "ON",
            "enforce-gtid-consistency": "ON",
            "plugin-load-add": "group_replication.so",
            "loose-group-replication-group-name": self._name,
            "loose-group-replication-start-on-boot": "OFF",
            "loose-group-replication-local-address": f"{address}:33061",
            "loose-group-replication-group-seeds": seeds,
            "loose-group-replication-ip-allowlist": f"{self.network.subnet}.0/24",
            "loose-group-replication-recovery-get-public-key": "ON",
        }
        if self._expel_timeout is not None:
            options["loose-group-replication-member-expel-timeout"] = self._expel_timeout
        command = [str(self.packages.mysql_bindir / "mysqld"), "--no-defaults"]
        command += servers.mysql_options(self.packages)
        command += [f"--{option}={value}" for option, value in options.items()]
        command = [*self.network.enter(name), *command]
        marked.start_marked(directory, command, env=os.environ, log=directory / "mysqld.log")
        if not wait_for(lambda: servers.greets(run / "mysqld.sock"), START, 0.1):
            raise SandboxError(f"{name} did not start; see {directory / 'mysqld.log'}")

    def sql(self, name: str, statement: str) -> list[dict[str, Any]]:
        """Run a statement as root over a member's socket; pymysql's errors as they are."""
        with (
            pymysql.connect(
                unix_socket=str(self.directory / name / "run" / "mysqld.sock"),
                user="root",
                autocommit=True,
                read_timeout=REJOIN,
                cursorclass=pymysql.cursors.DictCursor,
            ) as connection,
            connection.cursor() as cursor,
        ):
            cursor.execute(statement)
            return list(cursor.fetchall())

    def _accounts(self, name: str) -> None:
        with pymysql.connect(
            unix_socket=str(self.directory / name / "run" / "mysqld.sock"), user="root", autocommit=True
        ) as connection:
            for statement in (
                "SET SESSION sql_log_bin = 0",
                f"CREATE USER {RECOVERY}@'%' IDENTIFIED BY '{PASSWORD}'",
                f"GRANT REPLICATION SLAVE, BACKUP_ADMIN, CONNECTION_ADMIN, GROUP_REPLICATION_STREAM ON *.*"
                f" TO {RECOVERY}@'%'",
                f"CHANGE REPLICATION SOURCE TO SOURCE_USER = '{RECOVERY}', SOURCE_PASSWORD = '{PASSWORD}'"
                " FOR CHANNEL 'group_replication_recovery'",
            ):
                connection.cursor().execute(statement)

    # --- What the benchmark asks of it ----------------------------------------------------------

    def settle(self) -> None:
        """Bring every server back into the group, as an operator would, and wait; SandboxError after 4 min."""
        for name in self.addresses:
            if not marked.processes(self.directory / name):
                self.start(name)
                with contextlib.suppress(pymysql.MySQLError, OSError):
                    self.sql(name, "START GROUP_REPLICATION")
        if wait_for(self._complete, REJOIN / 3, 0.2):
            return
        for name in self.addresses:
            if self._state(name) != "ONLINE":
                with contextlib.suppress(pymysql.MySQLError, OSError):
                    self.sql(name, "STOP GROUP_REPLICATION")
                with contextlib.suppress(pymysql.MySQLError, OSError):
                    self.sql(name, "START GROUP_REPLICATION")
        if not wait_for(self._complete, REJOIN, 0.2):
            states = {name: self._state(name) for name in self.addresses}
            raise SandboxError(f"the group does not come together: {states}")

    def _complete(self) -> bool:
        return all(self._sees_all(name) for name in self.addresses) and bool(self.finder.primary)

    def _sees_all(self, name: str) -> bool:
        """True if it is online with all others; one that was expelled in a freeze calls itself online for a while."""
        with contextlib.suppress(pymysql.MySQLError, OSError):
            rows = self.sql(name, "SELECT MEMBER_STATE FROM performance_schema.replication_group_members")
            return [row["MEMBER_STATE"] for row in rows] == ["ONLINE"] * len(self.addresses)
        return False

    def _state(self, name: str) -> str:
        with contextlib.suppress(pymysql.MySQLError, OSError):
            rows = self.sql(
                name,
                "SELECT MEMBER_STATE FROM performance_schema.replication_group_members"
                " WHERE MEMBER_ID = @@server_uuid",
            )
            return str(rows[0]["MEMBER_STATE"]) if rows else "OFFLINE"
        return "no answer"

    def primary(self) -> Endpoint:
        """The primary; SandboxError if there is none for a minute."""
        found: list[Endpoint] = []

        def ask() -> bool:
            found.extend([primary] if (primary := self.finder.primary) else [])
            return bool(found)

        if not wait_for(ask, 60.0, 0.1):
            raise SandboxError("the group has no primary")
        return found[0]

    @contextlib.contextmanager
    def fault(self, kind: str) -> Iterator[None]:
        """Do one of the benchmark's faults to the primary, and undo it at the end."""
        name = self.primary().node
        directory, address = self.directory / name, self.addresses[name]
        if kind in ("mysqld_killed", "node_killed"):
            marked.kill(directory)
        elif kind == "frozen":
            marked.freeze(directory)
        elif kind == "partitioned":
            everybody = [*(one for one in self.addresses.values() if one != address), self.network.here]
            self.network.drop(name, incoming=everybody, outgoing=everybody)
        elif kind == "clean_stop":
            marked.send(directory, signal.SIGTERM)
        elif kind == "switchover":
            other = next(one for one in self.addresses if one != name)
            found = self.sql(other, "SELECT @@server_uuid AS uuid")[0]["uuid"]
            self.sql(name, f"SELECT group_replication_set_as_primary('{found}')")
        try:
            yield
        finally:
            marked.thaw(directory)
            self.network.heal(name, address)
            if kind == "clean_stop":
                wait_for(lambda: not marked.processes(directory), STOP_TIME)
                marked.kill(directory)
