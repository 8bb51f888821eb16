"""The cluster as the faults and the checker see it: who is primary, which processes are whose."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pymysql

from sandbox import marked
from sandbox.cluster import Cluster
from sandbox.node import Node

# Seconds after which a hook ends itself (SPEC 3), and for those without such a limit what they may take here.
HOOK_LIMITS = {"health": 4.0, "on_change": 120.0, "status": 30.0, "pre_start": 600.0, "snapshot_task": 600.0}
OTHER_LIMIT = 180.0
LATE = 10.0
SNAPSHOTS = 5
LOG_TAIL = 1 << 16
HOOK_LINE = re.compile(r"(?P<at>\S+Z) [A-Z]+ (?P<command>\w+)\[\d+\] (?P<text>.*)")


@dataclass(frozen=True)
class Hook:
    """A running manage.py: the command, and when it began (monotonic seconds)."""

    node: str
    pid: int
    command: str
    began: float


@dataclass
class World:
    """A running cluster; `say` tells the log what is being done."""

    cluster: Cluster
    say: Callable[[str], None]
    snapshots: list[Path] = field(default_factory=list)
    _last_primary: str = ""

    # --- Nodes ----------------------------------------------------------------------------------

    def record(self) -> dict[str, Any]:
        """The record in Consul, empty where there is none or no answer."""
        text = self.cluster.catalogue.key(f"{self.cluster.service_name}-cluster")
        with contextlib.suppress(ValueError):
            return dict(json.loads(text)) if text else {}
        return {}

    def primary(self) -> Node:
        """The node that the record names, or named when it was last read."""
        name = str(self.record().get("primary_name", ""))
        names = [node.name for node in self.cluster.nodes]
        if name in names:
            self._last_primary = name
        if self._last_primary not in names:
            self._last_primary = names[0]
        return self.cluster.node(self._last_primary)

    def others(self) -> list[Node]:
        """The nodes that are not the primary."""
        primary = self.primary().name
        return [node for node in self.cluster.nodes if node.name != primary]

    def target(self, role: str, die: float) -> Node:
        """The node that a fault is for: the primary, or one of the others."""
        others = self.others()
        if role == "primary" or not others:
            return self.primary()
        return others[int(die * len(others))]

    # --- Consul ---------------------------------------------------------------------------------

    @property
    def consul_directory(self) -> Path:
        """Where the Consul server is."""
        return self.cluster.directory / "consul"

    def consul(self, *arguments: str) -> bool:
        """Run a command of Consul's on its server; False if it failed or took more than 10 s."""
        address = f"-http-addr=http://{self.cluster.consul_address}:8500"
        command = [str(self.cluster.packages.consul), *arguments[:2], address, *arguments[2:]]
        with contextlib.suppress(subprocess.TimeoutExpired):
            return subprocess.run(command, capture_output=True, check=False, timeout=10).returncode == 0
        return False

    def save_consul(self) -> None:
        """Keep what Consul has now, and the last few states before it."""
        file = self.cluster.directory / f"consul-{time.monotonic():.3f}.snapshot"
        if self.consul("snapshot", "save", str(file)):
            self.snapshots.append(file)
        for old in self.snapshots[:-SNAPSHOTS]:
            old.unlink()
        del self.snapshots[:-SNAPSHOTS]

    # --- Processes ------------------------------------------------------------------------------

    def hooks(self, node: Node, command: str = "") -> list[Hook]:
        """The node's running hooks, or those with one command."""
        found = []
        for pid in marked.processes(node.directory):
            name = hook_command(pid)
            began = _began(pid)
            if name and began is not None and command in ("", name):
                found.append(Hook(node.name, pid, name, began))
        return found

    def hung(self, since: float) -> list[Hook]:
        """The hooks that are older than their limit, not counting the time before `since`."""
        now = time.monotonic()
        return [
            hook
            for node in self.cluster.nodes
            for hook in self.hooks(node)
            if now - max(hook.began, since) > HOOK_LIMITS.get(hook.command, OTHER_LIMIT) + LATE
        ]

    # --- Convergence ----------------------------------------------------------------------------

    def unsettled(self) -> str:
        """What is missing to one open primary with all others behind it; nothing if all is well."""
        record, catalogue = self.record(), self.cluster.catalogue
        if not record or record["state"] != "open":
            return "there is no open record in Consul" if not record else f"the record is {record['state']}"
        primary, name = catalogue.primary, record["primary_name"]
        if primary is None or primary.node != name:
            return f"the record names {name}, the healthy primary is {primary.node if primary else 'nobody'}"
        wanted = {node.name for node in self.cluster.nodes} - {name}
        healthy = {replica.node for replica in catalogue.replicas}
        if healthy != wanted:
            return f"healthy replicas are {sorted(healthy)}, not {sorted(wanted)}"
        members = min(int(self.cluster.env.get("SYNC_MEMBERS", "2")), len(wanted))
        if record["durability"] == "semisync" and len(record["members"]) != members:
            return f"{len(record['members'])} members, not {members}"
        for node in self.cluster.nodes:
            if problem := _not_as(node, primary=node.name == name):
                return f"{node.name} {problem}"
        return ""

    def strays(self) -> dict[str, str]:
        """The nodes that are neither the primary nor healthy replicas, and what their hooks said last."""
        settled = {one.node for one in self.cluster.catalogue.replicas} | {self.primary().name}
        return {node.name: last_word(node) for node in self.cluster.nodes if node.name not in settled}

    def keep_log(self, node: Node, directory: Path) -> None:
        """Copy what a node has printed."""
        with contextlib.suppress(FileNotFoundError):
            shutil.copy(node.log, directory / f"{node.name}.log")

    def replace(self, node: Node, directory: Path) -> None:
        """Give up a node: keep its log, delete its data, and put a new one in its place."""
        self.keep_log(node, directory)
        self.cluster.remove_node(node.name)
        self.cluster.add_node()


def last_word(node: Node) -> str:
    """The last line of a node's log that a hook wrote; empty if there is none near the end."""
    with contextlib.suppress(FileNotFoundError), open(node.log, "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - LOG_TAIL))
        lines = file.read().decode(errors="replace").splitlines()
        return next((line for line in reversed(lines) if HOOK_LINE.match(line)), "")
    return ""


def ask(node: Node, sql: str, seconds: float = 3.0) -> list[dict[str, Any]] | None:
    """Return the rows, or None where the server does not answer in time."""
    with contextlib.suppress(pymysql.MySQLError, OSError):
        return node.mysql(sql, seconds=seconds)
    return None


def _not_as(node: Node, *, primary: bool) -> str:
    """How a server differs from the primary, or from a replica that replicates."""
    rows = ask(node, "SELECT @@read_only AS ro, @@offline_mode AS off")
    if not rows:
        return "does not answer"
    if rows[0]["off"] or bool(rows[0]["ro"]) == primary:
        return f"has read_only={rows[0]['ro']}, offline_mode={rows[0]['off']}"
    states = ask(
        node,
        "SELECT c.SERVICE_STATE AS io, a.SERVICE_STATE AS sql_thread"
        " FROM performance_schema.replication_connection_status c"
        " JOIN performance_schema.replication_applier_status a USING (CHANNEL_NAME)",
    )
    if not primary and (not states or set(states[0].values()) != {"ON"}):
        return f"does not replicate: {states}"
    return ""


def is_server(pid: int) -> bool:
    """True for mysqld itself."""
    words = marked.command_line(pid)
    return bool(words) and words[0].endswith("/mysqld")


def is_agent(pid: int) -> bool:
    """True for the node's Consul agent."""
    words = marked.command_line(pid)
    return len(words) > 1 and words[0].endswith("/consul") and words[1] == "agent"


def is_pilot(pid: int) -> bool:
    """True for supervisord, the agent, and the hooks: everything but mysqld."""
    return not is_server(pid)


def hook_command(pid: int) -> str:
    """The command of a running manage.py; empty for any other process."""
    words = marked.command_line(pid)
    place = next((number for number, word in enumerate(words) if word.endswith("/manage.py")), None)
    if place is None:
        return ""
    if "--witness" in words:
        return "witness"
    return next((word for word in words[place + 1 :] if not word.startswith("-")), "pre_start")


def _began(pid: int) -> float | None:
    with contextlib.suppress(OSError, IndexError), open(f"/proc/{pid}/stat") as file:
        ticks = int(file.read().rpartition(")")[2].split()[19])
        return ticks / os.sysconf("SC_CLK_TCK") - time.clock_gettime(time.CLOCK_BOOTTIME) + time.monotonic()
    return None
