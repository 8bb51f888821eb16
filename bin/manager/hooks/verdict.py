"""What a health run says of its node in the end: to Consul, to the next hook, and to the pilot."""

from __future__ import annotations

import contextlib
import logging
import subprocess
import sys
import time
from dataclasses import dataclass

from manager.decide.health import Action, Decision
from manager.errors import Busy
from manager.node import Node
from manager.view import View

LOG = logging.getLogger(__name__)

BESIDE_INTERVAL = 5.0


@dataclass(frozen=True)
class Verdict:
    """How this node is: its role (`primary`, `replica` or `unassigned`), whether it is healthy in it, why."""

    role: str
    healthy: bool
    reason: str


def judge(decision: Decision, view: View) -> Verdict:
    """Return the verdict on a node whose run ended with this decision. Pure."""
    if decision.action is Action.SERVE:
        return Verdict("primary", True, decision.reason)
    if decision.action is Action.REPLICATE:
        return Verdict("replica", True, decision.reason)
    replica = view.server.replication is not None and view.file.ready
    return Verdict("replica" if replica else "unassigned", False, decision.reason)


def advertise(node: Node, view: View, verdict: Verdict) -> None:
    """An empty node registers only its `-node` service; one that has had a role shows it, healthy or not."""
    if verdict.role == "primary":
        node.pilot.advertise("primary", passing=True, note=verdict.reason)
        if view.cluster is not None:
            stale = [one for one in view.cluster.of("primary") if one.passing and one.name != node.name]
            node.pilot.take_place_of(stale)
    elif verdict.role == "replica" or view.file.ready:
        node.pilot.advertise("replica", passing=verdict.healthy, note=verdict.reason)


def gauges(view: View, verdict: Verdict, now: float) -> dict[str, float]:
    """Return this run's metrics by name (metrics.METRICS); `now` in seconds since 1970. Pure."""
    source = view.server.replication
    found: dict[str, float] = {
        "primary": verdict.healthy and verdict.role == "primary",
        "replica": verdict.healthy and verdict.role == "replica",
        "health_timestamp_seconds": now,
        "replication_running": source is not None and source.io_running == "Yes" and source.sql_running,
        "replication_lag_seconds": (source.lag or 0) if source is not None else 0,
    }
    if view.cluster is not None and view.cluster.record is not None:
        found["epoch"] = view.cluster.record.epoch
        found["semisync"] = view.cluster.record.durability == "semisync"
        found["members"] = len(view.cluster.record.members)
    if view.cluster is not None and view.cluster.last_snapshot is not None:
        found["snapshot_timestamp_seconds"] = view.cluster.last_snapshot.at
        found["snapshot_size_bytes"] = view.cluster.last_snapshot.size
    return {name: float(value) for name, value in found.items()}


def start_on_change(node: Node) -> None:
    """Start `on_change` beside this hook; one runs per node at a time."""
    LOG.info("no healthy primary: starting on_change")
    _start_beside("on_change")


def start_long(node: Node, command: str) -> None:
    """Start `rescue`, `first_start` or `verify` beside this hook, at most every 5 s; one runs per node at a time."""
    mark = node.settings.run_dir / f"{command}.started"
    with contextlib.suppress(FileNotFoundError):
        if 0 <= time.time() - mark.stat().st_mtime < BESIDE_INTERVAL:
            return
    try:
        with node.alone(command):
            mark.touch()
    except Busy:
        return
    _start_beside(command)


def _start_beside(command: str) -> None:
    """A process of its own, which goes on when this hook ends."""
    subprocess.Popen(
        [sys.executable, sys.argv[0], command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        close_fds=True,
    )
