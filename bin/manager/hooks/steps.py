"""The steps of a health run: each does what the decision says, under the server's guard where that is needed."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from manager import membership, nodefile
from manager.decide import foreign
from manager.decide.health import Action, Decision, newest_copy
from manager.decide.join import received
from manager.discovery.cluster import ClusterView
from manager.discovery.record import Durability, Origin, Record
from manager.errors import (
    ConfigError,
    ConsulError,
    GuardBusy,
    MySQLError,
    NotClosed,
    ServerUnreachable,
    SessionInvalid,
    TransactionRefused,
)
from manager.gtid import GtidSet
from manager.hooks import known
from manager.mysql import accounts, operations, semisync
from manager.mysql.connection import Connection
from manager.mysql.guard import guard
from manager.mysql.state import ServerState, read_state
from manager.node import Node
from manager.opening import open_primary
from manager.stale import stale_guard_taken
from manager.view import View

LOG = logging.getLogger(__name__)

STEP_TIME = 3.0
EVENTS_TIME = 1.5


@dataclass(frozen=True, kw_only=True)
class Work:
    """One step of a health run: the node, its open connection, what was seen, and what was decided."""

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

    def primary(self) -> membership.Primary:
        """This node's server as the primary whose members change; its guard is held."""
        return membership.Primary(
            discovery=self.node.discovery,
            conn=self.conn,
            connect=self.node.local,
            record=self.record,
            index=self.cluster.record_index,
            session=self.session,
        )

    def still_true(self, *, lock: bool) -> None:
        """Read the record again, holding the guard; TransactionRefused if what was decided on has changed."""
        now = self.node.discovery.view()
        if now.record_index != self.cluster.record_index:
            raise TransactionRefused("another version of the record")
        if lock and now.lock_session != self.view.session:
            raise TransactionRefused("PRIMARY_KEY is not held by this node any more")


def _found(work: Work) -> None:
    origin: Origin = "adopted" if work.view.file.origin == "adopted" else "initialised"
    base = str(work.view.server.executed)
    record = Record.founding(
        primary=work.uuid,
        primary_name=work.node.name,
        origin=origin,
        base=base,
        durability=wanted_durability(work.node, work.view.server),
        reason=work.decision.reason,
    )
    work.node.discovery.found(record, work.session)


def wanted_durability(node: Node, server: ServerState) -> Durability:
    """The durability of a cluster that this node founds: DURABILITY, or semisync where the plugins are there."""
    if node.settings.durability == "semisync" and server.semisync is None:
        raise ConfigError(
            f"DURABILITY: semisync needs semi-sync plugins, which MySQL {server.version} here lacks"
        )
    if node.settings.durability is not None:
        return node.settings.durability
    return "semisync" if server.semisync is not None else "async"


def _take_over(work: Work) -> None:
    record = work.record.taken_over(
        primary=work.uuid, primary_name=work.node.name, reason=work.decision.reason
    )
    work.node.discovery.retake(record, work.cluster.record_index, work.session)


def _first_start(work: Work) -> None:
    """The scripts find the accounts and the database; they run beside this hook, and may take their time."""
    with guard(work.conn), work.conn.timeout(STEP_TIME):
        work.still_true(lock=True)
        accounts.bootstrap_accounts(work.conn, work.node.settings, print_root_password)
    _renew(work)


def _bootstrap(work: Work) -> None:
    node, conn = work.node, work.conn
    with guard(conn), conn.timeout(STEP_TIME):
        work.still_true(lock=True)
        if work.view.file.origin == "adopted":
            accounts.missing_accounts(conn, node.settings)
        else:
            accounts.bootstrap_accounts(conn, node.settings, print_root_password)
        # The scripts have run: their mark must not outlive the founding, since what bears it is emptied at a start.
        nodefile.end_building(node.settings.mysql_datadir)
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


def _retake(work: Work) -> None:
    touched = work.record.touched(primary_name=work.node.name)
    work.node.discovery.retake(touched, work.cluster.record_index, work.session)


def _rewrite(work: Work) -> None:
    record = newest_copy(work.view).touched(primary_name=work.node.name)
    work.node.discovery.retake(record, work.cluster.record_index, work.session)


def _open(work: Work) -> None:
    node, conn = work.node, work.conn
    with guard(conn), conn.timeout(STEP_TIME):
        work.still_true(lock=True)
        # A restart has switched semi-sync off: whatever an earlier run has on its way is refused from now on.
        record = work.record.touched()
        node.discovery.update(record, work.cluster.record_index, work.session)
        open_primary(conn, record, read_state(conn), lease=node.settings.lease)
        node.write_file(work.view.file.joined(record.id, opened_epoch=record.epoch))


def _alone(work: Work) -> None:
    with guard(work.conn), work.conn.timeout(STEP_TIME):
        work.still_true(lock=True)
        operations.let_hooks_write(work.conn)
        membership.go_alone(work.primary(), harmless=membership.not_acknowledging(work.view.peers))


def _serve(work: Work) -> None:
    """Refresh the lease, see that the watchdog runs, renew the session (after MySQL has answered)."""
    node, conn, view = work.node, work.conn, work.view
    if not work.decision.confirmed:
        return
    with conn.timeout(2.0):
        operations.refresh_lease(conn, node.settings.lease)
    row = view.server.row
    if view.cluster is None or view.session is None or row is None:
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
    known.write(node, view.cluster)
    if view.file.opened_epoch != work.record.epoch:  # opened by the runner of a failover
        node.write_file(view.file.joined(work.record.id, opened_epoch=work.record.epoch))


def take_in(work: Work) -> None:
    """Write into the record which transactions of other servers are the cluster's own (`decide.foreign`)."""
    server, conn = work.view.server, work.conn
    try:
        nodes = semisync.accounts(conn) if server.further_sources else {}
        base = foreign.base(work.record, server, frozenset(nodes))
        if base == GtidSet.parse(work.record.base):
            return
        record = work.record.beginning_with(str(base))
        work.node.discovery.update(record, work.cluster.record_index, work.session)
    except (MySQLError, ConsulError) as error:
        LOG.info("what came from other servers is written into the record later: %s", error)
        return
    LOG.info("of other servers the record now names %s", base)


def enable_events(work: Work) -> None:
    """Let the users' events run on a new primary, once. Their ALTER waits for an acknowledgement, so it is done
    last, on a connection of its own, without the guard; what cannot be done now is done in a later run."""
    row, epoch = work.view.server.row, work.record.epoch
    if row is None or row.events_epoch == epoch:
        return
    try:
        with work.node.local(timeout=EVENTS_TIME) as conn:
            enabled = operations.enable_users_events(conn)
        with guard(work.conn):
            operations.change_row(work.conn, lambda now: replace(now, events_epoch=epoch))
    except (MySQLError, ConsulError) as error:
        LOG.info("the users' events are enabled later: %s", error)
        return
    if enabled:
        LOG.info("events enabled on the new primary: %s", ", ".join(enabled))


def _close(work: Work) -> None:
    try:
        operations.close_server(work.conn)
    except NotClosed as error:
        LOG.error("%s: killing mysqld, which comes back closed", error)
        work.node.kill_server()


def _follow(work: Work) -> None:
    node, settings, primary = work.node, work.node.settings, work.view.primary
    assert primary is not None
    assert settings.mysql_repl_password is not None
    with guard(work.conn), work.conn.timeout(STEP_TIME):
        work.still_true(lock=False)
        password = settings.mysql_repl_password.value
        if work.view.file.origin == "restored" and not work.view.file.ready:
            operations.forget_source(work.conn)  # the configuration of the server that it is a copy of
        if work.view.server.semisync is not None:
            operations.stop_io(work.conn)
            semisync.become_replica(work.conn)
        with (
            _elsewhere(),
            node.remote(primary.address, primary.port, timeout=STEP_TIME) as there,
            stale_guard_taken(there, work.cluster),
            guard(there, wait=1.0),
        ):
            work.still_true(lock=False)
            # Compared again, now that nothing can arrive: the former source may have sent more meanwhile.
            if extra := received(read_state(work.conn)) - read_state(there).executed:
                raise TransactionRefused(f"{extra.count} transactions have arrived that {primary.name} lacks")
            user = semisync.let_in(there, work.uuid, password)
            tls = there.capabilities.tls
        operations.follow(
            work.conn,
            host=primary.address,
            port=primary.port,
            user=user,
            password=password,
            tls=tls,
        )
        node.write_file(work.view.file.joined(work.record.id))


@contextlib.contextmanager
def _elsewhere() -> Iterator[None]:
    """Another server's silence must not count as that of this node's own."""
    try:
        yield
    except ServerUnreachable as error:
        raise MySQLError(str(error), error.errno) from None


def _start(work: Work) -> None:
    """A stopped IO thread may be a runner's freeze: nothing is received again before a touch of the record
    has been confirmed under this server's guard, so that the runner's late promotion is refused."""
    with guard(work.conn), work.conn.timeout(STEP_TIME):
        work.node.discovery.touch(work.record.touched(), work.cluster.record_index)
        if work.view.server.semisync is not None and work.uuid not in work.record.members:
            operations.stop_io(work.conn)  # one that runs would go on as it was started
            semisync.set_replica(work.conn, on=False)
        operations.start_replication(work.conn)


def _leave(work: Work) -> None:
    with guard(work.conn), work.conn.timeout(STEP_TIME):
        work.still_true(lock=False)
        operations.stop_io(work.conn)


def _part(work: Work) -> None:
    with guard(work.conn), work.conn.timeout(STEP_TIME):
        work.still_true(lock=False)
        operations.stop_channels(work.conn, work.view.server.channels)


def _replicate(work: Work) -> None:
    if work.view.server.offline_mode and work.view.cluster is not None:
        with guard(work.conn):
            work.still_true(lock=False)
            operations.open_for_reading(work.conn)
    if work.view.cluster is not None and not work.view.file.ready:
        work.node.write_file(work.view.file.joined(work.record.id))
    _renew(work)


def _renew(work: Work) -> None:
    if work.view.session is not None and work.view.cluster is not None:
        try:
            work.node.discovery.renew_session()
        except SessionInvalid as error:
            LOG.info("%s: a new one is made in the next run", error)


def _begin_anew(work: Work) -> None:
    """The database is this node's own empty initialisation: pre_start empties it and restores a snapshot."""
    if not nodefile.is_building(work.node.settings.mysql_datadir):  # the mark may name a snapshot already
        nodefile.begin_building(work.node.settings.mysql_datadir)
    work.node.kill_server()


STEPS: dict[Action, Callable[[Work], None]] = {
    Action.FOUND: _found,
    Action.TAKE_OVER: _take_over,
    Action.FIRST_START: _first_start,
    Action.BOOTSTRAP: _bootstrap,
    Action.RETAKE: _retake,
    Action.REWRITE: _rewrite,
    Action.OPEN: _open,
    Action.ALONE: _alone,
    Action.SERVE: _serve,
    Action.CLOSE: _close,
    Action.FOLLOW: _follow,
    Action.START: _start,
    Action.LEAVE: _leave,
    Action.PART: _part,
    Action.REPLICATE: _replicate,
    Action.COME_BACK: _renew,
    Action.BEGIN_ANEW: _begin_anew,
    Action.WAIT: _renew,
}
