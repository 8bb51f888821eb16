"""What a health run says of its node in the end: to Consul, to the next hook, and to the pilot."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
import time
from dataclasses import dataclass

from manager.decide.health import Action, Decision
from manager.errors import Busy, Unhealthy
from manager.node import Node
from manager.view import View

LOG = logging.getLogger(__name__)

VERDICT_FILE = "health.json"
VERDICT_AGE = 10.0
RESCUE_INTERVAL = 5.0


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
        node.discovery.advertise("primary", passing=True, note=verdict.reason)
        if view.cluster is not None:
            stale = [one for one in view.cluster.of("primary") if one.passing and one.name != node.name]
            node.discovery.take_place_of(stale)
    elif verdict.role == "replica" or view.file.ready:
        node.discovery.advertise("replica", passing=verdict.healthy, note=verdict.reason)


def write(node: Node, verdict: Verdict) -> None:
    """Keep the verdict in RUN_DIR, for pilots that ask for each role by itself."""
    path = node.settings.run_dir / VERDICT_FILE
    temporary = path.with_name(f"{VERDICT_FILE}.{os.getpid()}")
    content = {"at": time.time(), "role": verdict.role, "healthy": verdict.healthy, "reason": verdict.reason}
    temporary.write_text(json.dumps(content))
    os.replace(temporary, path)


def was_primary(node: Node) -> bool:
    """True if the last finished run found this node to be the primary, however long ago."""
    try:
        return bool(json.loads((node.settings.run_dir / VERDICT_FILE).read_text())["role"] == "primary")
    except (OSError, ValueError, LookupError, TypeError):
        return False


def repeat(node: Node, ask: str) -> int:
    """Return 0 if the last run's verdict is a healthy `ask` and fresh; Unhealthy with the reason if not."""
    path = node.settings.run_dir / VERDICT_FILE
    try:
        last = json.loads(path.read_text())
    except (OSError, ValueError):
        raise Unhealthy("no health run has finished yet") from None
    age = time.time() - float(last["at"])
    if age > VERDICT_AGE:
        raise Unhealthy(f"the last health run finished {age:.0f} s ago")
    if last["role"] != ask or not last["healthy"]:
        raise Unhealthy(f"not a healthy {ask}: {last['role']}, {last['reason']}")
    return 0


def start_on_change(node: Node) -> None:
    """Start `on_change` beside this hook; one runs per node at a time."""
    LOG.info("no healthy primary: starting on_change")
    _start_beside("on_change")


def start_rescue(node: Node) -> None:
    """Start `rescue` beside this hook, at most every RESCUE_INTERVAL seconds; one runs per node at a time."""
    mark = node.settings.run_dir / "rescue.started"
    with contextlib.suppress(FileNotFoundError):
        if 0 <= time.time() - mark.stat().st_mtime < RESCUE_INTERVAL:
            return
    try:
        with node.alone("rescue"):
            mark.touch()
    except Busy:
        return
    _start_beside("rescue")


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
