"""Whole clusters for the tests, and what their tests ask of them.

A test file has subnets of its own. Every cluster is taken down with its fixture, whatever became of the test;
what a run that was killed has left behind is taken down by the next run of the same file.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import re
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pymysql

from manager.gtid import GtidSet
from manager.mysql.dialect import Dialect
from sandbox import marked, mysqls
from sandbox.cluster import DATABASE, Cluster, SandboxError
from sandbox.node import Node
from sandbox.packages import ROOT, Packages
from sandbox.writer import TABLE, Writer

T = TypeVar("T")

# The cores are shared with other tests: what takes 20 s on an idle machine has that long.
LONG = 150.0
# The default of the setting of that name.
SYNC_MEMBERS = 2
LINES = 40

RUNNING: list[Cluster] = []
"""What a failing test's report tells about."""

_HOOK_LINE = re.compile(r"\S+Z (DEBUG|INFO|WARNING|ERROR|CRITICAL) \w+\[\d+\] ")


@contextlib.contextmanager
def running(
    packages: Packages, name: str, subnet: str, *, nodes: int = 0, **options: Any
) -> Iterator[Cluster]:
    """Start a cluster and that many nodes without waiting for them; at the end nothing of it is left.

    `name` tells this cluster's directory from those of other files; `options` are those of Cluster.
    """
    directory = Path(f"/tmp/autopilot-test-{name}-{os.getuid()}")
    with only_one(directory.with_suffix(".lock")):
        Cluster(directory, packages=packages).down()
        cluster = Cluster(directory, subnet=subnet, packages=packages, **options)
        try:
            RUNNING.append(cluster)
            cluster.up(nodes)
            yield cluster
        finally:
            RUNNING.remove(cluster)
            cluster.down()


@contextlib.contextmanager
def only_one(path: Path) -> Iterator[None]:
    """Two runs of one file would use the same addresses, and take down each other's nodes."""
    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RuntimeError(f"another run of these tests is at work ({path} is locked)") from None
        yield
        path.unlink(missing_ok=True)


def until(
    condition: Callable[[], T], seconds: float, complaint: str | Callable[[], str], interval: float = 0.2
) -> T:
    """Ask `condition` until its answer is true, and return it; AssertionError with `complaint` if it never is."""
    begin = time.monotonic()
    while not (answer := condition()):
        if time.monotonic() - begin >= seconds:
            text = complaint if isinstance(complaint, str) else complaint()
            raise AssertionError(f"after {seconds:.0f} s: {text}")
        time.sleep(interval)
    return answer


def never(condition: Callable[[], object], seconds: float, complaint: str, interval: float = 0.2) -> None:
    """Watch for some seconds that `condition` stays false; AssertionError with its answer if it does not."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if answer := condition():
            raise AssertionError(f"{complaint}: {answer}")
        time.sleep(interval)


# --- What Consul says ---------------------------------------------------------------------------


def consul(cluster: Cluster, path: str) -> Any:
    """Return the answer to GET /v1/`path`, None if there is none."""
    with (
        contextlib.suppress(OSError, ValueError),
        urllib.request.urlopen(f"http://{cluster.consul_address}:8500/v1/{path}", timeout=3.0) as answer,
    ):
        return json.load(answer)
    return None


def record(cluster: Cluster) -> dict[str, Any] | None:
    """The cluster's record, or None."""
    text = cluster.catalogue.key(f"{cluster.service_name}-cluster")
    return json.loads(text) if text else None


def the_record(cluster: Cluster) -> dict[str, Any]:
    """The cluster's record, which must be there."""
    found = record(cluster)
    assert found is not None, "there is no cluster record in Consul"
    return found


def lock_session(cluster: Cluster) -> str | None:
    """The session that holds PRIMARY_KEY, None while it is free."""
    found = consul(cluster, f"kv/{cluster.service_name}-primary")
    return found[0].get("Session") if found else None


def failover_step(cluster: Cluster) -> str:
    """What the holder of the failover lock does, empty while nobody holds it."""
    found = consul(cluster, f"kv/{cluster.service_name}-failover")
    if not found or "Session" not in found[0]:
        return ""
    return str(json.loads(base64.b64decode(found[0]["Value"]))["step"])


def roles(cluster: Cluster) -> tuple[Node, list[Node]]:
    """The primary's node, and the others."""
    name = the_record(cluster)["primary_name"]
    return cluster.node(name), [node for node in cluster.nodes if node.name != name]


# --- What the servers say -----------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Server:
    """One look at a node's server."""

    uuid: str
    read_only: bool
    offline: bool
    executed: GtidSet

    @property
    def open(self) -> bool:
        """True if an application could write."""
        return not self.read_only and not self.offline


def ask(node: Node, sql: str, seconds: float = 2.0) -> list[dict[str, Any]] | None:
    """Return the rows, or None where the server does not answer in time."""
    with (
        contextlib.suppress(pymysql.MySQLError, OSError),
        local(node, seconds) as conn,
        conn.cursor() as cursor,
    ):
        cursor.execute(sql)
        return list(cursor.fetchall())
    return None


def local(node: Node, seconds: float = 10.0) -> Any:
    """A connection with the hooks' account over the node's socket; pymysql's errors as they are."""
    return pymysql.connect(
        unix_socket=str(node.socket),
        user="autopilot",
        read_default_file=str(node.client_file) if node.client_file else None,
        autocommit=True,
        connect_timeout=int(max(1.0, seconds)),
        read_timeout=seconds,
        write_timeout=seconds,
        cursorclass=pymysql.cursors.DictCursor,
    )


def look(node: Node, seconds: float = 2.0) -> Server | None:
    """Return how a node's server is, None if it does not answer."""
    rows = ask(
        node,
        "SELECT @@server_uuid AS uuid, @@read_only AS ro, @@global.gtid_executed AS gtid,"
        f" {'@@offline_mode' if mysqls.version(node.packages) >= (5, 7, 0) else '0'} AS off",
        seconds,
    )
    if not rows:
        return None
    row = rows[0]
    executed = GtidSet.parse(row["gtid"])
    return Server(uuid=row["uuid"], read_only=bool(row["ro"]), offline=bool(row["off"]), executed=executed)


def open_nodes(cluster: Cluster) -> list[str]:
    """The nodes on which an application could write now."""
    return [node.name for node in cluster.nodes if (server := look(node)) is not None and server.open]


def rows_of(node: Node, table: str, column: str = "n") -> set[int]:
    """The numbers that a node's server holds, whether applications can log in there or not."""
    return {int(row[column]) for row in node.mysql(f"SELECT {column} FROM {DATABASE}.{table}")}


def write(cluster: Cluster, sql: str, *args: object) -> None:
    """Run a statement as the application, on the primary that Consul shows; pymysql's errors as they are."""
    primary = cluster.catalogue.primary
    assert primary is not None, "there is no healthy primary to write to"
    with (
        pymysql.connect(
            host=primary.address,
            port=primary.port,
            user="app",
            password=cluster.secrets["MYSQL_PASSWORD"],
            database=DATABASE,
            autocommit=True,
            connect_timeout=10,
            read_timeout=20,
            write_timeout=20,
        ) as conn,
        conn.cursor() as cursor,
    ):
        cursor.execute(sql, args or None)


def writer(cluster: Cluster) -> Writer:
    """A client that writes rows from `start` to `stop`; its table is there, and empty."""
    made = Writer(
        cluster.catalogue,
        user="app",
        password=cluster.secrets["MYSQL_PASSWORD"],
        database=DATABASE,
        pause=0.02,
    )
    until(lambda: _table_made(cluster, made), LONG, "the writer's table cannot be made")
    return made


@contextlib.contextmanager
def writing(cluster: Cluster) -> Iterator[Writer]:
    """A writer at work on a cluster of three; at the end it is whole again, and holds what was acknowledged."""
    converged(cluster, 2)
    made = writer(cluster)
    made.start()
    until(lambda: len(made.history.acknowledged) > 20, LONG, "the writer does not get going")
    yield made
    made.stop()
    converged(cluster, 2)
    primary = cluster.catalogue.primary
    assert primary is not None
    present = made.read(primary)
    assert made.history.missing(present) == set(), "acknowledged rows are missing"
    assert made.history.unexpected(present) == set()


def goes_on(client: Writer, seconds: float = LONG) -> float:
    """Wait until the writer is acknowledged again, and return how long it was not."""
    begin = time.monotonic()
    until(lambda: bool(client.history.gap(begin)), seconds, "the writer was not acknowledged again", 0.05)
    return client.history.gap(begin) or 0.0


def _table_made(cluster: Cluster, made: Writer) -> bool:
    with contextlib.suppress(pymysql.MySQLError, OSError, AssertionError):
        # A former writer's numbers would be refused.
        write(cluster, f"DROP TABLE IF EXISTS {TABLE}")
        made.create_table()
        return True
    return False


# --- The whole ----------------------------------------------------------------------------------


def not_converged(cluster: Cluster, replicas: int) -> str:
    """Return what is missing to one open primary with that many healthy replicas; nothing if all is well."""
    found, primary = record(cluster), cluster.catalogue.primary
    if found is None or found["state"] != "open":
        return f"the record is {found}"
    if primary is None or primary.node != found["primary_name"]:
        return f"the record names {found['primary_name']}, the healthy primary is {primary}"
    healthy = sorted(one.node for one in cluster.catalogue.replicas)
    if len(healthy) != replicas:
        return f"healthy replicas are {healthy}, not {replicas}"
    if found["durability"] == "semisync" and len(found["members"]) < min(replicas, SYNC_MEMBERS):
        return f"members are {found['members']}: the next fault does not count yet"
    opened = open_nodes(cluster)
    if opened != [primary.node]:
        return f"open for writing are {opened}, not {primary.node} alone"
    # For a moment Consul shows what a node was before its restart: its server has to say so as well.
    reasons = (not_serving(cluster.node(name), primary.address) for name in healthy)
    return next(filter(None, reasons), "")


def not_serving(replica: Node, primary: str) -> str:
    """Return what is missing to a replica that serves reads and follows the primary at that address."""
    dialect = Dialect.of(".".join(map(str, mysqls.version(replica.packages))))
    server, found = look(replica), ask(replica, dialect.replica_status)
    if server is None or not found:
        return f"{replica.name} does not answer as a replica"
    names = dialect.columns
    status = {name: found[0][name] for name in (names.source_host, names.io_running, names.sql_running)}
    if server.offline or not server.read_only or tuple(status.values()) != (primary, "Yes", "Yes"):
        return f"{replica.name} is {server}, {status}"
    return ""


def converged(cluster: Cluster, replicas: int, seconds: float = LONG) -> dict[str, Any]:
    """Wait for one open primary with that many healthy replicas, and return the record."""
    until(lambda: not not_converged(cluster, replicas), seconds, lambda: not_converged(cluster, replicas))
    return the_record(cluster)


def same_rows(cluster: Cluster, table: str, expected: set[int], column: str = "n") -> None:
    """Wait until every node of the cluster holds exactly these numbers."""
    for node in cluster.nodes:
        held = {node.name: set[int]()}

        def complete(node: Node = node, held: dict[str, set[int]] = held) -> bool:
            with contextlib.suppress(pymysql.MySQLError, OSError):
                held[node.name] = rows_of(node, table, column)
            return held[node.name] == expected

        until(
            complete,
            LONG,
            lambda node=node, held=held: (
                f"{node.name} lacks {sorted(expected - held[node.name])[:10]}"
                f" and has besides {sorted(held[node.name] - expected)[:10]}"
            ),
        )


def shown(cluster: Cluster, node: str) -> dict[str, Any]:
    """What `status --json` says of a node; empty where it says nothing."""
    try:
        nodes = json.loads(cluster.status("--json"))["nodes"]
    except (SandboxError, subprocess.TimeoutExpired):
        return {}
    return next((dict(one) for one in nodes if one["node"] == f"mysql-{node}"), {})


def server_pid(node: Node) -> int:
    """The process id of the node's mysqld; it runs."""
    return int((node.directory / "run" / "mysqld.pid").read_text())


def kill_consul(cluster: Cluster) -> None:
    """SIGKILL for the Consul server; its data stays."""
    marked.kill(cluster.directory / "consul")


@dataclass(frozen=True)
class Ran:
    """A run of manage.py: exit code, lines on stderr, text on stdout, seconds."""

    code: int
    lines: list[str]
    out: str
    seconds: float

    def one_line(self) -> str:
        """Return the only line; AssertionError if it said more, or nothing, or showed a traceback."""
        assert len(self.lines) == 1, f"not one line, but: {self.lines}"
        assert "Traceback" not in self.lines[0]
        return self.lines[0]


def manage(packages: Packages, env: Mapping[str, str], *arguments: str, seconds: float = 120.0) -> Ran:
    """Run bin/manage.py as a process of its own."""
    begin = time.monotonic()
    done = subprocess.run(
        [str(packages.python), str(ROOT / "bin" / "manage.py"), *arguments],
        env=dict(env),
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return Ran(done.returncode, lines, done.stdout, time.monotonic() - begin)


def diagnosis(cluster: Cluster) -> str:
    """What a person needs to understand a failed test: the status, and what the hooks said last."""
    try:
        parts = [cluster.status()]
    except (SandboxError, subprocess.TimeoutExpired) as error:
        parts = [f"no status: {error}"]
    parts.append(f"record: {record(cluster)}; PRIMARY_KEY held by {lock_session(cluster)}")
    for node in cluster.nodes:
        hooks = [line for line in node.logs().splitlines() if _HOOK_LINE.match(line)]
        parts += [f"--- {node.name}: {look(node)}", *hooks[-LINES:]]
    return "\n".join(parts)
