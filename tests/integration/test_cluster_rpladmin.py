"""FAILOVER_ENGINE=mysqlrpladmin, the real tool, with a cluster of MySQL 5.6 (127.0.109).

Each of the tool's measured weaknesses (facts/mysql.md) ends in a right state here, or in one clear line.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pymysql
import pytest

from manager import rpladmin_check
from manager.gtid import GtidSet
from manager.mysql import config
from sandbox import marked, mysqls, rpladmin
from sandbox.cluster import DATABASE, Cluster
from sandbox.node import Node
from tests.integration import mysql_nodes
from tests.integration.clusters import (
    LONG,
    ask,
    converged,
    local,
    lock_session,
    look,
    manage,
    not_converged,
    open_nodes,
    roles,
    rows_of,
    running,
    same_rows,
    server_pid,
    shown,
    the_record,
    until,
    write,
    writer,
)

pytestmark = pytest.mark.timeout(600)
# `make test` runs two of these, `make test-mysql` the rest.
servers = pytest.mark.servers

ENGINE = {"FAILOVER_ENGINE": "mysqlrpladmin", "LEASE": "5", "AUTO_REBUILD": "no"}
ROWS = 40
BIG = 120  # rows of a megabyte, in one transaction
# What stands before the tool: it notes the arguments, does once what a test asks for, and becomes the tool.
SHIM = """
import json, os, sys, time
words, place, fault = sys.argv[1:], {place!r}, {{}}
open(place + "/command-lines", "a").write(open("/proc/self/cmdline").read() + "\\n")
if "failover" in words:
    with open(place + "/calls", "a") as calls:
        calls.write(json.dumps(words) + "\\n")
    if os.path.exists(place + "/fault"):
        fault = json.load(open(place + "/fault"))
        os.remove(place + "/fault")
for number, pids in fault.get("signals", {{}}).items():
    for pid in pids:
        os.kill(pid or os.getppid(), int(number))
    time.sleep(0.5)
    open(place + "/goes-on", "a").close()
if "password" in fault:
    words = [w.split(":")[0] + ":" + fault["password"] if w.startswith("--rpl-user") else w for w in words]
os.execvp("python2.7", ["python2.7", "-u", {tool!r}] + words)
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    packages = mysqls.chosen("5.6")
    with running(packages, "rpladmin", "127.0.109", nodes=3, env=ENGINE) as made:
        for node in made.nodes:
            _put_shim(made, node)
        converged(made, 2)
        write(made, f"CREATE TABLE {DATABASE}.t (n INT PRIMARY KEY, v LONGBLOB)")
        yield made


def _put_shim(cluster: Cluster, node: Node) -> Node:
    shim = node.directory / "bin" / rpladmin.NAME
    shim.parent.mkdir(exist_ok=True)
    tool = str(rpladmin.tools() / rpladmin.NAME)
    shim.write_text(SHIM.format(place=str(cluster.directory), tool=tool))
    shim.chmod(0o755)
    return node


def arm(cluster: Cluster, **fault: Any) -> None:
    """Let the tool's next run go wrong: first send `signals` to processes (0: the runner), or change the `password`."""
    (cluster.directory / "fault").write_text(json.dumps(fault))


def calls(cluster: Cluster) -> list[list[str]]:
    """The arguments of every run of the tool that was to fail over."""
    file = cluster.directory / "calls"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def slaves(cluster: Cluster) -> list[str]:
    """The names of the servers that the last run was given, in their order."""
    (option,) = [word for word in calls(cluster)[-1] if word.startswith("--slaves=")]
    addresses = {node.address: node.name for node in cluster.nodes}
    return [addresses[each.rsplit("@")[-1].split(":")[0]] for each in option.split(",")]


def said(cluster: Cluster) -> list[str]:
    """What the runners have said of the tool, of all failovers so far."""
    lines = [line for node in cluster.nodes for line in node.logs().splitlines()]
    return sorted(line for line in lines if "failover to" in line and "mysqlrpladmin re-pointed" in line)


def repointed(cluster: Cluster, node: Node) -> int:
    """How often a runner has said that this node follows the new primary."""
    return sum(one.logs().count(f" {node.name} follows ") for one in cluster.nodes)


@contextlib.contextmanager
def failing_over(cluster: Cluster, replicas: int = 2) -> Iterator[Node]:
    """A primary that the block takes away; at the end another one serves, made so with one run of the tool."""
    before, runs = converged(cluster, replicas), len(calls(cluster))
    yield cluster.node(before["primary_name"])
    cluster.wait_primary(LONG, other_than=before["primary_name"])
    after = the_record(cluster)
    assert after["epoch"] == before["epoch"] + 1
    until(lambda: open_nodes(cluster) == [after["primary_name"]], LONG, "the new primary is not open")
    assert len(calls(cluster)) == runs + 1
    assert slaves(cluster)[0] == after["primary_name"], "the tool was not given the chosen one first"
    assert "--force" not in calls(cluster)[-1]
    hosts = ask(cluster.node(after["primary_name"]), "SELECT Host FROM mysql.user WHERE User = 'repl'")
    assert hosts == [{"Host": "%"}], "the tool has made an account"
    password = cluster.secrets["MYSQL_REPL_PASSWORD"]
    assert not any(password in node.logs() for node in cluster.nodes)


def last_said(cluster: Cluster, count: int) -> str:
    """Wait for what the runner says in the end, which is the line after `count` others."""
    return until(lambda: said(cluster)[count:], LONG, "the runner says nothing of the tool")[-1]


def insert(cluster: Cluster, count: int = ROWS) -> set[int]:
    """Write rows, and return all that are there."""
    primary, _ = roles(cluster)
    first = max(rows_of(primary, "t"), default=0) + 1
    write(
        cluster, f"INSERT INTO {DATABASE}.t (n) VALUES " + ", ".join(f"({first + i})" for i in range(count))
    )
    return rows_of(primary, "t")


def executed(node: Node) -> GtidSet:
    server = look(node)
    assert server is not None
    return server.executed


def received(node: Node) -> GtidSet:
    rows = ask(node, "SHOW SLAVE STATUS")
    return GtidSet.parse(rows[0]["Retrieved_Gtid_Set"] if rows else "")


def no_more_than_the_primary(cluster: Cluster) -> None:
    primary, replicas = roles(cluster)
    for node in replicas:
        assert executed(node) <= executed(primary), f"{node.name} has what the primary lacks"


@servers
@pytest.mark.feature("failover by mysqlrpladmin", server="5.6")
def test_the_primary_killed_under_a_writer(cluster: Cluster) -> None:
    count = len(said(cluster))
    client = writer(cluster)
    with failing_over(cluster) as killed:
        client.start()
        try:
            until(lambda: len(client.history.acknowledged) >= 100, LONG, "the writer gets nothing written")
            killed.kill()
            cluster.wait_primary(LONG, other_than=killed.name)
            acknowledged = len(client.history.acknowledged)
            until(
                lambda: len(client.history.acknowledged) > acknowledged, LONG, "nothing is written after it"
            )
        finally:
            client.stop()
    assert "mysqlrpladmin re-pointed 1 of 1" in last_said(cluster, count)
    primary, replicas = roles(cluster)
    follower = next(node for node in replicas if node != killed)
    until(lambda: executed(follower) == executed(primary), LONG, "the other replica does not follow")
    history, present = client.history, rows_of(primary, "sandbox_rows")
    assert not history.unexpected(present)
    killed.start()
    until(
        lambda: not not_converged(cluster, 2) or kept_out(cluster, killed),
        LONG,
        lambda: not_converged(cluster, 2),
    )
    # Async: what the old primary had acknowledged and no replica had received is on it alone.
    assert history.missing(present) <= (
        rows_of(killed, "sandbox_rows") if kept_out(cluster, killed) else set()
    )
    if kept_out(cluster, killed):
        replace(cluster, killed)
    converged(cluster, 2)
    no_more_than_the_primary(cluster)


def kept_out(cluster: Cluster, node: Node) -> bool:
    return "diverged" in str(shown(cluster, node.name).get("note", ""))


def replace(cluster: Cluster, node: Node) -> None:
    """What a person does with a node that has diverged: a fresh one in its place."""
    cluster.remove_node(node.name)
    _put_shim(cluster, cluster.add_node())


def test_a_wrong_replication_password(cluster: Cluster) -> None:
    """The tool says that all is well, with status 0, and the replica cannot log in."""
    count, present = len(said(cluster)), insert(cluster)
    same_rows(cluster, "t", present)
    arm(cluster, password="wrong")
    with failing_over(cluster) as killed:
        killed.kill()
    assert "mysqlrpladmin re-pointed 0 of 1" in last_said(cluster, count)
    noticed = "mysqlrpladmin has not re-pointed node-\\d: error connecting to master"
    assert any(re.search(noticed, node.logs()) for node in cluster.nodes)
    shown_by_ps = (cluster.directory / "command-lines").read_text()
    assert rpladmin.NAME in shown_by_ps
    assert cluster.env["MYSQL_REPL_PASSWORD"] not in shown_by_ps
    killed.start()
    converged(cluster, 2)
    same_rows(cluster, "t", insert(cluster))


def test_one_replica_is_ahead_and_its_applier_is_stopped(cluster: Cluster) -> None:
    """It is chosen, with all that it had received; the one that is behind follows it."""
    count = len(said(cluster))
    with failing_over(cluster) as killed, contextlib.ExitStack() as stack:
        _, (behind, ahead) = roles(cluster)  # by name, `behind` would be first
        # Their own health would start them again.
        for node, thread in ((behind, "IO_THREAD"), (ahead, "SQL_THREAD")):
            cursor = stack.enter_context(stack.enter_context(local(node)).cursor())
            cursor.execute("SELECT GET_LOCK('autopilot', 20)")
            cursor.execute(f"STOP SLAVE {thread}")
        present = insert(cluster)
        until(
            lambda: executed(killed) <= executed(ahead) | received(ahead), LONG, "it does not receive", 0.01
        )
        assert not executed(killed) <= executed(ahead)
        assert not executed(killed) <= executed(behind) | received(behind)
        killed.kill()
    assert "mysqlrpladmin re-pointed 1 of 1" in last_said(cluster, count)
    assert the_record(cluster)["primary_name"] == ahead.name
    killed.start()
    converged(cluster, 2)
    same_rows(cluster, "t", present)


@servers
def test_a_replica_that_freezes_under_the_tool(cluster: Cluster) -> None:
    """The tool hangs; it is ended, and the new primary opens all the same."""
    count = len(said(cluster))
    with failing_over(cluster) as killed:
        _, replicas = roles(cluster)
        frozen = max(replicas, key=lambda node: node.name)  # the other one is chosen
        pid = server_pid(frozen)
        arm(cluster, signals={signal.SIGSTOP: [pid]})
        killed.kill()
    assert "did not end within" in last_said(cluster, count)
    assert not tool_runs(cluster)
    os.kill(pid, signal.SIGCONT)
    killed.start()
    converged(cluster, 2)
    same_rows(cluster, "t", insert(cluster))


@servers
def test_a_replica_that_dies_under_the_tool(cluster: Cluster) -> None:
    """The tool does nothing for anybody then; the third node follows all the same."""
    _put_shim(cluster, cluster.add_node())
    converged(cluster, 3)
    count, present = len(said(cluster)), insert(cluster)
    same_rows(cluster, "t", present)
    with failing_over(cluster, replicas=3) as killed:
        chosen, other, dying = sorted(roles(cluster)[1], key=lambda node: node.name)
        done = repointed(cluster, other)
        # Its pilot would start it again. The runner may be on this node.
        pilot = int((dying.directory / "run" / "pilot.pid").read_text())
        arm(cluster, signals={signal.SIGSTOP: [pilot], signal.SIGKILL: [server_pid(dying)]})
        killed.kill()
    assert slaves(cluster) == [node.name for node in (chosen, other, dying)]
    assert "mysqlrpladmin re-pointed 0 of 2" in last_said(cluster, count)
    assert repointed(cluster, other) == done + 1, "the runner has left it to the node's own health"
    present = insert(cluster)
    until(lambda: rows_of(other, "t") == present, LONG, "the third node does not follow")
    dying.kill()
    cluster.remove_node(dying.name)
    killed.start()
    converged(cluster, 2)
    same_rows(cluster, "t", insert(cluster))


@servers
def test_the_runner_is_killed_under_the_tool(cluster: Cluster) -> None:
    """The tool goes with it, and another hook opens the node that was promoted."""
    count = len(said(cluster))
    (cluster.directory / "goes-on").unlink(missing_ok=True)
    with failing_over(cluster) as killed:
        arm(cluster, signals={signal.SIGKILL: [0]})
        killed.kill()
    assert not (cluster.directory / "goes-on").exists()
    assert len(said(cluster)) == count
    killed.start()
    converged(cluster, 2)
    same_rows(cluster, "t", insert(cluster))


def tool_runs(cluster: Cluster) -> bool:
    found = marked.processes(cluster.directory)
    return any(rpladmin.NAME in " ".join(marked.command_line(pid)) for pid in found)


@servers
def test_the_old_primary_is_still_alive(cluster: Cluster) -> None:
    """Without its hooks and its agent; the writable ones are counted all the while."""
    most = 0

    def counted() -> bool:
        nonlocal most
        most = max(most, len(open_nodes(cluster)))
        primary = cluster.catalogue.primary
        return primary is not None and primary.node != old.name

    with failing_over(cluster) as old:
        pid = server_pid(old)
        marked.send(old.directory, signal.SIGSTOP, lambda found: found != pid)
        until(counted, LONG, "nobody takes over", 0.05)
    assert most == 1
    marked.thaw(old.directory)
    converged(cluster, 2)
    same_rows(cluster, "t", insert(cluster))
    no_more_than_the_primary(cluster)


@servers
def test_an_errant_transaction(cluster: Cluster) -> None:
    """Its node is neither chosen nor handed to the tool, and nothing of it gets into the others."""
    errant = _put_shim(cluster, cluster.add_node())  # which never was the primary
    converged(cluster, 3)
    count, present = len(said(cluster)), insert(cluster)
    same_rows(cluster, "t", present)
    with failing_over(cluster, replicas=3) as killed:
        with local(errant) as conn, conn.cursor() as cursor:
            cursor.execute(f"INSERT INTO {DATABASE}.t (n) VALUES (1000000)")
        killed.kill()
    assert len(slaves(cluster)) == 2
    assert errant.name not in slaves(cluster)
    assert "mysqlrpladmin re-pointed 1 of 1" in last_said(cluster, count)
    killed.start()
    until(lambda: kept_out(cluster, errant), LONG, lambda: f"{shown(cluster, errant.name)}")
    assert rows_of(errant, "t") == present | {1000000}, "its data was touched"
    cluster.remove_node(errant.name)
    converged(cluster, 2)
    same_rows(cluster, "t", present)


@servers
def test_half_a_transaction(cluster: Cluster) -> None:
    """Killed in the middle of sending: what is named as received never comes, and nobody waits for it."""
    count, present = len(said(cluster)), insert(cluster)
    same_rows(cluster, "t", present)
    with failing_over(cluster) as dead:
        _, replicas = roles(cluster)
        before = {node.name: received(node) for node in replicas}
        pid = server_pid(dead)
        sending = threading.Thread(target=_send_much, args=(dead,))
        sending.start()
        until(lambda: all(received(n) != before[n.name] for n in replicas), LONG, "nothing arrives", 0.001)
        os.kill(pid, signal.SIGKILL)
        halves = [received(node) - executed(node) for node in replicas]
        dead.kill()
        sending.join()
    assert [half.count for half in halves] == [1, 1], "the whole transaction had arrived: nothing was seen"
    assert "mysqlrpladmin re-pointed 1 of 1" in last_said(cluster, count)
    for node in replicas:
        assert rows_of(node, "t") == present
    dead.start()
    until(lambda: not not_converged(cluster, 2) or kept_out(cluster, dead), LONG, "it does not come back")
    if kept_out(cluster, dead):  # the whole transaction may have got into its binlog
        replace(cluster, dead)
    converged(cluster, 2)
    same_rows(cluster, "t", insert(cluster))


def _send_much(node: Node) -> None:
    with contextlib.suppress(pymysql.MySQLError), local(node, LONG) as conn, conn.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO {DATABASE}.t (n, v)"
            f" SELECT n + 2000000, REPEAT('x', 1048576) FROM {DATABASE}.t LIMIT {BIG}"
        )


# --- What is refused before anything is begun -----------------------------------------------------------


def alone(server: str, directory: Path, **environ: str) -> mysql_nodes.Node:
    """A node of that MySQL server, for the hooks alone."""
    given = {"FAILOVER_ENGINE": "mysqlrpladmin", "MYSQL_REPL_PASSWORD": "plain", "LOG_LEVEL": "ERROR"}
    given |= {"CONSUL": "127.0.109.99", "SCRATCH_DIR": str(directory / "scratch"), **environ}
    node = mysql_nodes.Node(mysqls.chosen(server), directory / server, "127.0.109.90", **given)
    return node


def refused(node: mysql_nodes.Node, path: Sequence[Path], **environ: str) -> str:
    """The one line with which `pre_start` ends; nothing was made."""
    words = [str(node.packages.venv_bin), *map(str, path), "/usr/bin:/bin"]
    ran = manage(node.packages, {**node.environ, "PATH": ":".join(words), **environ}, "pre_start")
    assert ran.code == 2, ran
    assert not node.settings.mysql_datadir.exists() or not any(node.settings.mysql_datadir.iterdir())
    return ran.one_line()


@servers
def test_refused_without_the_tool_or_its_python_or_with_an_awkward_password(
    module_directory: Path, tmp_path: Path
) -> None:
    node = alone("5.6", module_directory)
    line = refused(node, [])
    assert "FAILOVER_ENGINE: there is no mysqlrpladmin in PATH" in line
    (tmp_path / rpladmin.NAME).symlink_to(rpladmin.tools() / rpladmin.NAME)
    line = refused(node, [tmp_path])
    assert "FAILOVER_ENGINE: mysqlrpladmin needs Python 2.7, and there is no python2.7 in PATH" in line
    (tmp_path / "python2.7").symlink_to("/bin/false")
    assert "FAILOVER_ENGINE: " in (line := refused(node, [tmp_path]))
    assert "does not run: " in line
    for password in ("a,b", "a:b", "a'b", "a\\b", '"ab"', "äb"):
        line = refused(node, [rpladmin.tools()], MYSQL_REPL_PASSWORD=password)
        assert "MYSQL_REPL_PASSWORD: FAILOVER_ENGINE=mysqlrpladmin takes printable ASCII" in line
        assert password not in line
    assert "works with DURABILITY=async only" in refused(node, [rpladmin.tools()], DURABILITY="semisync")


@servers
def test_a_person_without_the_tool(cluster: Cluster) -> None:
    """A dry run says so; a failover says so in one line, and is done without it."""
    killed = cluster.node(converged(cluster, 2)["primary_name"])
    assert "engine: mysqlrpladmin 1.4.3" in cluster.manage("failover", "--dry-run").stdout
    env = cluster.env | {"NODE_NAME": "client", "NODE_ADDRESS": "127.0.0.1", "CONSUL_AGENT": "no"}
    env |= {
        "PATH": f"{cluster.packages.venv_bin}:/usr/bin:/bin",
        "RUN_DIR": str(cluster.directory / "client"),
    }
    lacks = "FAILOVER_ENGINE: there is no mysqlrpladmin in PATH"
    assert f"engine: native: {lacks}" in manage(cluster.packages, env, "failover", "--dry-run").out
    runs = len(calls(cluster))
    assert cluster.manage("pause").returncode == 0
    killed.kill()
    until(lambda: lock_session(cluster) is None, LONG, "the dead primary's session lives on")
    ran = manage(cluster.packages, env, "failover", "--force")
    assert ran.code == 0, ran
    (line,) = (line for line in ran.lines if " ERROR " in line)
    assert lacks in line
    assert len(calls(cluster)) == runs
    assert cluster.manage("resume").returncode == 0
    killed.start()
    converged(cluster, 2)
    same_rows(cluster, "t", insert(cluster))


@servers
def test_a_later_server_is_refused_unless_the_tool_can_do_it(
    module_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which the tool as it is cannot (5.7); with three edits it can (measured)."""
    node = alone("5.7", module_directory)
    line = refused(node, [rpladmin.tools()])
    why = "IndexError: list index out of range"
    assert f"FAILOVER_ENGINE: mysqlrpladmin 1.4.3 does not work with MySQL 5.7.22: {why}" in line
    edited = tmp_path / "edited"
    shutil.copytree(rpladmin.tools(), edited)
    for name, old, new in (
        ("replication.py", 'password = "" as', 'authentication_string = "" as'),
        (
            "replication.py",
            "'Enabled_auto_position',",
            "'Enabled_auto_position', 'Channel_name', 'Tls_version',",
        ),
        ("server.py", "SHOW VARIABLES LIKE 'gtid_executed'", "SHOW GLOBAL VARIABLES LIKE 'gtid_executed'"),
    ):
        file = edited / "mysql" / "utilities" / "common" / name
        assert old in file.read_text()
        file.write_text(file.read_text().replace(old, new))
    monkeypatch.setenv("PATH", f"{edited}:{os.environ['PATH']}")
    config.write_config(node.settings)
    rpladmin_check.check(node.settings)
    assert not list(node.settings.scratch_dir.iterdir()), "the private server's files are left"
