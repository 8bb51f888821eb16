"""`health`: look, decide, act, until there is nothing left to do in this run; then say how this node is.

One run does all the work; `--as node` answers for the `-node` service (the server answers, whatever its
role), `--as primary` and `--as replica` repeat the last run's verdict for pilots with two advertisements.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from manager import nodefile
from manager.decide.health import FINAL, Action, Decision, decide, newest_copy
from manager.discovery.cluster import ClusterView
from manager.discovery.record import Origin, Record
from manager.errors import (
    AutopilotError,
    GuardBusy,
    MySQLError,
    NotClosed,
    ServerUnreachable,
    SessionInvalid,
    TransactionRefused,
    Unhealthy,
)
from manager.hooks import known
from manager.hooks.verdict import Verdict, advertise, judge, repeat, start_on_change, write
from manager.mysql import accounts, operations
from manager.mysql.connection import Connection
from manager.mysql.guard import guard, kill_stale_guard
from manager.mysql.state import LocalRow
from manager.node import Node
from manager.view import View, gather

LOG = logging.getLogger(__name__)

ROUNDS = 6
STALE_GUARD = 5.0
STEP_TIME = 3.0


def run(node: Node, ask: str | None) -> int:
    """Return the exit code (SPEC 3): 0 healthy, 1 trying again may help, 2 certainly not healthy."""
    if ask in ("primary", "replica"):
        return repeat(node, ask)
    try:
        with node.alone("health", wait=1.5), node.local() as conn:
            verdict = check(node, conn)
    except ServerUnreachable as error:
        # Critical, not a warning: only that makes Consul end the session of a dead server (measured).
        raise Unhealthy(str(error)) from None
    except AutopilotError as error:
        if ask != "node":
            raise
        return _answers(node, error)
    level = logging.DEBUG if verdict.healthy else logging.INFO
    LOG.log(level, "%s: %s", verdict.role if verdict.healthy else "not healthy", verdict.reason)
    if ask == "node" or verdict.healthy:
        return 0
    return 2 if verdict.role == "unassigned" else 1


def _answers(node: Node, error: AutopilotError) -> int:
    """The run failed for a reason that is not the server's silence: `-node` passes if the server answers."""
    try:
        with node.local() as conn:
            conn.value("SELECT 1")
    except MySQLError as silence:
        raise Unhealthy(str(silence)) from None
    LOG.warning("the server answers, but: %s", error)
    return 0


def check(node: Node, conn: Connection) -> Verdict:
    """Do one health run on an open connection to the own server, and write and advertise its verdict."""
    file = node.file()
    if file is None:
        return Verdict("unassigned", False, "pre_start has not prepared this data directory")
    decision, view = _settle(node, conn, file)
    verdict = judge(decision, view)
    write(node, verdict)
    if view.cluster is not None:
        advertise(node, view, verdict)
        if decision.failover and view.cluster.failover_session is None:
            start_on_change(node)
    return verdict


def _settle(node: Node, conn: Connection, file: nodefile.NodeFile) -> tuple[Decision, View]:
    for _ in range(ROUNDS):
        view = gather(node, conn, file, known.read(node))
        _remember(node, conn, view)
        decision = decide(view)
        (LOG.debug if decision.action in FINAL else LOG.info)(
            "%s: %s", decision.action.value, decision.reason
        )
        try:
            _STEPS[decision.action](_Work(node=node, conn=conn, view=view, decision=decision))
        except TransactionRefused as refused:
            LOG.info("the record has changed meanwhile (%s); looking again", refused)
            continue
        except GuardBusy as busy:
            if not _runner_is_at_work(view.cluster):
                kill_stale_guard(conn, older_than_s=STALE_GUARD)
            return Decision(Action.WAIT, str(busy)), view
        file = node.file() or file
        if decision.action in FINAL:
            return decision, view
    return Decision(Action.WAIT, f"still busy: {decision.reason}"), view


def _runner_is_at_work(cluster: ClusterView | None) -> bool:
    """The guards of a runner that holds the failover lock are left alone while it makes progress."""
    at = cluster.failover_step_at if cluster is not None else None
    return at is not None and time.time() - at <= STALE_GUARD


# --- The steps ----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Work:
    node: Node
    conn: Connection
    view: View
    decision: Decision

    @property
    def uuid(self) -> str:
        return self.view.server.server_uuid

    @property
    def cluster(self) -> ClusterView:
        assert self.view.cluster is not None
        return self.view.cluster

    @property
    def record(self) -> Record:
        assert self.cluster.record is not None
        return self.cluster.record

    @property
    def session(self) -> str:
        assert self.view.session is not None
        return self.view.session

    def still_true(self, *, lock: bool) -> None:
        """Read the record again, holding the guard; TransactionRefused if what was decided on has changed."""
        now = self.node.discovery.view()
        if now.record_index != self.cluster.record_index:
            raise TransactionRefused("another version of the record")
        if lock and now.lock_session != self.view.session:
            raise TransactionRefused("PRIMARY_KEY is not held by this node any more")


def _found(work: _Work) -> None:
    origin: Origin = "adopted" if work.view.file.origin == "adopted" else "initialised"
    base = str(work.view.server.executed)
    record = Record.founding(
        primary=work.uuid, primary_name=work.node.name, origin=origin, base=base, reason=work.decision.reason
    )
    work.node.discovery.found(record, work.session)


def _take_over(work: _Work) -> None:
    record = work.record.taken_over(
        primary=work.uuid, primary_name=work.node.name, reason=work.decision.reason
    )
    work.node.discovery.take_over(record, work.cluster.record_index, work.session)


def _bootstrap(work: _Work) -> None:
    node, conn = work.node, work.conn
    with guard(conn), conn.timeout(STEP_TIME):
        work.still_true(lock=True)
        if work.view.file.origin == "adopted":
            accounts.missing_accounts(conn, node.settings)
        else:
            accounts.bootstrap_accounts(conn, node.settings, print_root_password)
        node.write_file(work.view.file.joined(work.record.id))
        node.discovery.update(work.record.opened(), work.cluster.record_index, work.session)


def print_root_password(password: str) -> None:
    """Say the generated root password once, as the user asked (G7); not a log line, so nothing redacts it.

    Not on stderr where there is a log file: the agent that runs this keeps what its checks print, and serves
    it to everybody who can reach it.
    """
    line = f"GENERATED ROOT PASSWORD: {password}\n"
    path = os.environ.get("AUTOPILOT_LOG")
    if path:
        with open(path, "a") as file:
            file.write(line)
    else:
        sys.stderr.write(line)


def _retake(work: _Work) -> None:
    touched = work.record.touched()
    work.node.discovery.retake(touched, work.cluster.record_index, work.session)


def _rewrite(work: _Work) -> None:
    record = newest_copy(work.view).touched()
    work.node.discovery.retake(record, work.cluster.record_index, work.session)


def _open(work: _Work) -> None:
    node, conn, record = work.node, work.conn, work.record
    with guard(conn), conn.timeout(STEP_TIME):
        work.still_true(lock=True)
        if work.view.server.replication is not None:
            operations.stop_replication(conn)
            operations.forget_source(conn)
        operations.open_for_writing(
            conn,
            cluster_id=record.id,
            epoch=record.epoch,
            version=record.version,
            record=record.to_json(),
            lease_s=node.settings.lease,
        )
        node.write_file(work.view.file.joined(record.id))


def _serve(work: _Work) -> None:
    """Refresh the lease, see that the watchdog runs, renew the session (after MySQL has answered)."""
    node, conn, view = work.node, work.conn, work.view
    if not work.decision.confirmed:
        return
    with conn.timeout(2.0):
        operations.refresh_lease(conn, node.settings.lease)
    row = view.server.row
    if view.cluster is None or row is None:
        return
    try:
        node.discovery.renew_session()
    except SessionInvalid as error:
        LOG.warning("%s: this node takes PRIMARY_KEY again in its next run", error)
        return
    if not operations.watchdog_runs(conn):
        LOG.info("the watchdog in mysqld does not run (yet): opening again, which starts it")
        with contextlib.suppress(GuardBusy, TransactionRefused):  # the next run tries again
            _open(work)
    if row.events_epoch != work.record.epoch:
        enabled = operations.enable_users_events(conn)
        if enabled:
            LOG.info("events enabled on the new primary: %s", ", ".join(enabled))
        operations.write_row(conn, replace(row, events_epoch=work.record.epoch))
    known.write(node, view.cluster)


def _close(work: _Work) -> None:
    try:
        operations.close_server(work.conn)
    except NotClosed as error:
        LOG.error("%s: killing mysqld, which comes back closed", error)
        work.node.kill_server()


def _follow(work: _Work) -> None:
    node, settings, primary = work.node, work.node.settings, work.view.primary
    assert primary is not None
    assert settings.mysql_repl_user is not None
    assert settings.mysql_repl_password is not None
    with guard(work.conn), work.conn.timeout(STEP_TIME):
        work.still_true(lock=False)
        if work.view.file.origin == "restored" and not work.view.file.ready:
            operations.forget_source(work.conn)  # that of the server whose copy this is
        operations.follow(
            work.conn,
            host=primary.address,
            port=primary.port,
            user=settings.mysql_repl_user,
            password=settings.mysql_repl_password.value,
        )
        node.write_file(work.view.file.joined(work.record.id))


def _start(work: _Work) -> None:
    """A stopped IO thread may be a runner's freeze: nothing is received again before a touch of the record
    has been confirmed under this server's guard, so that the runner's late promotion is refused."""
    with guard(work.conn), work.conn.timeout(STEP_TIME):
        work.node.discovery.touch(work.record.touched(), work.cluster.record_index)
        operations.start_replication(work.conn)


def _replicate(work: _Work) -> None:
    if work.view.server.offline_mode and work.view.cluster is not None:
        with guard(work.conn):
            work.still_true(lock=False)
            operations.open_for_reading(work.conn)
    if work.view.cluster is not None and not work.view.file.ready:
        work.node.write_file(work.view.file.joined(work.record.id))
    _renew(work)


def _renew(work: _Work) -> None:
    if work.view.session is not None and work.view.cluster is not None:
        try:
            work.node.discovery.renew_session()
        except SessionInvalid as error:
            LOG.info("%s: a new one is made in the next run", error)


def _begin_anew(work: _Work) -> None:
    """The database is this node's own empty initialisation: pre_start empties it and restores a snapshot."""
    nodefile.begin_building(work.node.settings.mysql_datadir)
    work.node.kill_server()


_STEPS: dict[Action, Callable[[_Work], None]] = {
    Action.FOUND: _found,
    Action.TAKE_OVER: _take_over,
    Action.BOOTSTRAP: _bootstrap,
    Action.RETAKE: _retake,
    Action.REWRITE: _rewrite,
    Action.OPEN: _open,
    Action.SERVE: _serve,
    Action.CLOSE: _close,
    Action.FOLLOW: _follow,
    Action.START: _start,
    Action.REPLICATE: _replicate,
    Action.BEGIN_ANEW: _begin_anew,
    Action.WAIT: _renew,
}


def _remember(node: Node, conn: Connection, view: View) -> None:
    """Keep the newest record, and this node's priority, in the server's own row (SPEC 7, Seen).

    Done under the guard, since a super_read_only server lets hooks write for a moment; else in the next run.
    """
    record = view.cluster.record if view.cluster is not None else None
    priority = node.settings.failover_priority
    own, row = view.own, view.server.row or LocalRow(server_uuid=view.server.server_uuid)
    if record is None or (own is not None and record.older_than(own.epoch, own.version)):
        return
    newest = replace(
        row,
        cluster_id=record.id,
        epoch=record.epoch,
        version=record.version,
        record=record.to_json(),
        priority=priority,
    )
    if newest == row:
        return
    try:
        with guard(conn), conn.timeout(STEP_TIME):
            operations.write_row(conn, newest)
    except GuardBusy:
        LOG.debug("the record's version %d is remembered later: the guard is taken", record.version)
