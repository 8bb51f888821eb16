"""`health`: look, decide, act, until there is nothing left to do in this run; then say how this node is.

One run does all the work; `--as node` answers for the `-node` service: the server answers, whatever its role.
"""

from __future__ import annotations

import contextlib
import logging
import time
from dataclasses import replace

from manager import first_start, nodefile, watched
from manager.decide.health import FINAL, Action, Decision, decide
from manager.errors import (
    AutopilotError,
    ConsulError,
    GuardBusy,
    MySQLError,
    ServerUnreachable,
    TimeIsUp,
    TransactionRefused,
    Unhealthy,
)
from manager.hooks import known, last, members, silence
from manager.hooks.steps import STEPS, Work, enable_events, take_in
from manager.hooks.verdict import Verdict, advertise, gauges, judge, start_long, start_on_change
from manager.mysql import operations
from manager.mysql.connection import Connection
from manager.mysql.guard import guard
from manager.mysql.state import LocalRow
from manager.node import Node
from manager.stale import stale_guard_taken
from manager.view import View, gather

LOG = logging.getLogger(__name__)

ROUNDS = 6
STEP_TIME = 3.0


def run(node: Node, ask: str | None) -> int:
    """Return the exit code (SPEC 3): 0 healthy, 1 trying again may help, 2 certainly not healthy."""
    try:
        with node.alone("health", wait=1.5), node.local() as conn:
            verdict, work = check(node, conn)
            silence.over(node)
            if work is not None:
                members.see_to(work)
                take_in(work)
                enable_events(work)
    except ServerUnreachable as error:
        silence.goes_on(node)
        # Critical, not a warning: only that makes Consul end the session of a dead server (measured).
        raise Unhealthy(str(error)) from None
    except (AutopilotError, TimeIsUp) as error:
        if ask != "node":
            raise
        return _answers(node, error)
    level = logging.DEBUG if verdict.healthy else logging.INFO
    LOG.log(level, "%s: %s", verdict.role if verdict.healthy else "not healthy", verdict.reason)
    if ask == "node" or verdict.healthy:
        if not verdict.healthy:
            print(verdict.reason)  # what `status` says of a node that has no role yet
        return 0
    return 2 if verdict.role == "unassigned" else 1


def _answers(node: Node, error: Exception) -> int:
    """The run failed for a reason that is not the server's silence: `-node` passes if the server answers."""
    try:
        with node.local() as conn:
            conn.value("SELECT 1")
    except MySQLError as silent:
        raise Unhealthy(str(silent)) from None
    silence.is_alive(node)
    LOG.warning("the server answers, but: %s", error)
    return 0


def check(node: Node, conn: Connection) -> tuple[Verdict, Work | None]:
    """Do one health run on an open connection to the own server, and write and advertise its verdict.

    Returns the verdict, and the work of a primary that serves, whose members are still to be seen to.
    """
    file = node.file()
    if file is None:
        return Verdict("unassigned", False, "pre_start has not prepared this data directory"), None
    if file.server != conn.version:
        file = replace(file, server=conn.version)
        node.write_file(file)
    decision, view = _settle(node, conn, file)
    verdict = judge(decision, view)
    last.keep(node.settings.run_dir, role=verdict.role, healthy=verdict.healthy, reason=verdict.reason)
    if view.cluster is not None:
        advertise(node, view, verdict)
        if decision.failover and view.cluster.failover_session is None:
            start_on_change(node)
        if decision.action is Action.COME_BACK or (verdict.healthy and view.comeback is not None):
            start_long(node, "rescue")
        if decision.action is Action.FIRST_START:
            start_long(node, first_start.LOCK)
    elif verdict.healthy and (decision.confirmed or verdict.role == "replica"):
        with contextlib.suppress(ConsulError):
            node.pilot.keep_advertised()
    node.pilot.put(gauges(view, verdict, time.time()))
    serves = decision.action is Action.SERVE and view.cluster is not None and view.session is not None
    return verdict, Work(node=node, conn=conn, view=view, decision=decision) if serves else None


def _settle(node: Node, conn: Connection, file: nodefile.NodeFile) -> tuple[Decision, View]:
    for _ in range(ROUNDS):
        view = _watch(node, gather(node, conn, file, known.read(node)))
        _remember(node, conn, view)
        decision = decide(view)
        (LOG.debug if decision.action in FINAL else LOG.info)(
            "%s: %s", decision.action.value, decision.reason
        )
        try:
            with stale_guard_taken(conn, view.cluster):
                STEPS[decision.action](Work(node=node, conn=conn, view=view, decision=decision))
        except TransactionRefused as refused:
            LOG.info("the record has changed meanwhile (%s); looking again", refused)
            continue
        except GuardBusy as busy:
            return Decision(Action.WAIT, str(busy)), view
        file = node.file() or file
        if decision.action in FINAL:
            return decision, view
    return Decision(Action.WAIT, f"still busy: {decision.reason}"), view


def _watch(node: Node, view: View) -> View:
    """Add for how long a restarted primary has waited for its members."""
    record = view.cluster.record if view.cluster is not None else None
    server = view.server
    if record is None or record.primary != server.server_uuid:
        watched.forget(node)
        return view
    if server.serves or not record.members:
        return view
    watch = watched.load(node)
    seen = watch.look(time.monotonic(), lost=(), waiting=False, acknowledged=-1, empty=False, restarting=True)
    watched.save(node, watch)
    return replace(view, watched=seen)


def _remember(node: Node, conn: Connection, view: View) -> None:
    """Keep the newest record, and this node's priority, in the server's own row (SPEC 7, Seen).

    Done under the guard, since a super_read_only server lets hooks write for a moment; else in the next run.
    """
    record = view.cluster.record if view.cluster is not None else None
    if record is None or view.file.cluster_id not in (None, record.id):
        return

    def newest(row: LocalRow) -> LocalRow:
        if record.older_than(row.epoch, row.version):
            return row
        return replace(
            row,
            cluster_id=record.id,
            epoch=record.epoch,
            version=record.version,
            record=record.to_json(),
            priority=node.settings.failover_priority,
        )

    if view.server.row is not None and newest(view.server.row) == view.server.row:
        return
    try:
        with guard(conn), conn.timeout(STEP_TIME):
            operations.change_row(conn, newest)
    except GuardBusy:
        LOG.debug("the record's version %d is remembered later: the guard is taken", record.version)
