"""Carrying out a failover, in SPEC 7's order. One runner at a time by the failover lock, which only saves
work: what keeps two runners apart is the guard in each server and the one promotion transaction.

Cut off before that transaction, everything can be begun again (a frozen replica's own health starts it again
after a touch of the record). Cut off after it, any hook of the chosen node opens it, since it was complete.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

from manager.decide.failover import Candidate, Choice, Watch, When, choose, when
from manager.discovery.cluster import ClusterView
from manager.discovery.lock import Lock
from manager.discovery.record import Record
from manager.errors import AutopilotError, GuardBusy, MySQLError, TransactionRefused
from manager.gtid import GtidSet
from manager.mysql import operations
from manager.mysql.connection import Connection
from manager.mysql.guard import check_held, guard, kill_stale_guard
from manager.mysql.state import ServerState, read_state
from manager.node import Node
from manager.view import Peer, in_parallel, read_peers
from manager.waiting import Deadline, pause

LOG = logging.getLogger(__name__)

DECIDE_TIME = 60.0
DRAIN_TIME = 30.0
DRAIN_ROUND = 2.0
CATCH_UP_TIME = 10.0
GUARD_PATIENCE = 1.0
GUARD_WAIT = 6.0
STALE_GUARD = 5.0
STEP_TIME = 10.0


@dataclass(frozen=True)
class Outcome:
    """`promoted` is the new primary's name, None if nothing was done; `reason` says why, either way."""

    promoted: str | None
    reason: str


@dataclass
class Frozen:
    """A replica that this runner has guarded and whose IO thread it has stopped."""

    peer: Peer
    conn: Connection
    state: ServerState
    drained: bool = False

    @property
    def applier_runs(self) -> bool:
        """False once the applier has stopped with an error: waiting for it is of no use."""
        return self.state.replication is not None and self.state.replication.sql_running

    def candidate(self, cluster: ClusterView) -> Candidate:
        """The pure view of it for the choice."""
        row = self.state.row
        return Candidate(
            name=self.peer.name,
            uuid=self.state.server_uuid,
            executed=self.state.executed,
            drained=self.drained,
            priority=row.priority if row is not None else 0,
            session=cluster.sessions.get(self.peer.name),
        )


def run(node: Node, lock: Lock) -> Outcome:
    """Fail over if SPEC 7's table says so; ConsulError or MySQLError where a step could not be done."""
    cluster, peers, verdict, reason = _decide(node, lock)
    record = cluster.record
    if record is None or verdict in (When.NOTHING, When.WAIT):
        return Outcome(None, reason)
    LOG.info("failover: %s", reason)
    if verdict is When.FINISH:
        return _finish_opening(node, record, peers)
    old = next((p for p in peers if p.state is not None and p.state.server_uuid == record.primary), None)
    with ExitStack() as stack:
        if verdict is When.HAND_OVER and old is not None:
            lock.step(f"closing {old.name}")
            _fence(node, old)
        if old is not None and old.state is not None:
            caught_up = _catch_up_with(node, peers, old, record)
            if verdict is When.HAND_OVER and not caught_up:
                return Outcome(None, f"no replica has caught up with {old.name} in {CATCH_UP_TIME:.0f} s")
        lock.step("freezing the replicas")
        frozen = _freeze(node, stack, cluster, record, peers)
        _drain(lock, frozen)
        choice = choose(record, tuple(f.candidate(cluster) for f in frozen))
        for name, why in choice.rejected.items():
            LOG.warning("failover: not %s: %s", name, why)
        LOG.info("failover: %s", choice.reason)
        if choice.chosen is None:
            return Outcome(None, choice.reason)
        chosen = next(f for f in frozen if f.peer.name == choice.chosen.name)
        _catch_up(node, frozen, chosen, choice)
        if old is not None:
            lock.step(f"fencing {old.name}")
            _fence(node, old)
        lock.step(f"promoting {chosen.peer.name}")
        promoted = _promote(node, cluster, record, chosen, choice, reason, frozen)
        _open(node, promoted, chosen)
        lock.step(f"re-pointing the replicas to {chosen.peer.name}")
        _repoint(node, chosen, [f for f in frozen if f is not chosen])
        return Outcome(chosen.peer.name, f"{reason}; {choice.reason}")


def _decide(node: Node, lock: Lock) -> tuple[ClusterView, tuple[Peer, ...], When, str]:
    """Look until the table says something else than to wait, or the time is over."""
    deadline = Deadline(DECIDE_TIME)
    settings = node.settings
    free_at = closed_at = None
    lock.step("looking at the servers")
    while True:
        cluster = node.discovery.view()
        peers = read_peers(node, cluster, others_only=False)
        now = time.monotonic()
        free_at = None if cluster.lock_session is not None else (free_at or now)
        closed_at = None if _primary_serves(cluster, peers) else (closed_at or now)
        watch = Watch(
            free=now - free_at if free_at else 0.0,
            closed=now - closed_at if closed_at else 0.0,
            since_promotion=_since_promotion(cluster.record),
        )
        verdict, reason = when(cluster, peers, watch, lease=settings.lease, holdoff=settings.failover_holdoff)
        if verdict is not When.WAIT or deadline.over:
            return cluster, peers, verdict, reason
        LOG.debug("failover: waiting: %s", reason)
        pause(0.2)


def _primary_serves(cluster: ClusterView, peers: tuple[Peer, ...]) -> bool:
    record = cluster.record
    return record is not None and any(
        p.state is not None and p.state.server_uuid == record.primary and p.state.serves for p in peers
    )


def _since_promotion(record: Record | None) -> float:
    if record is None or record.epoch <= 1:
        return 1e9
    return max(0.0, time.time() - record.at)


def _fence(node: Node, old: Peer) -> None:
    """Close the old primary if it still answers; closing needs no guard. Its silence is no reason to stop."""
    try:
        with node.remote(old.address, old.port, timeout=3.0) as conn:
            operations.close_server(conn)
    except MySQLError as error:
        LOG.warning("failover: %s could not be fenced: %s", old.name, error)


def _candidates(peers: tuple[Peer, ...], record: Record) -> list[Peer]:
    return [
        p
        for p in peers
        if p.state is not None and p.state.server_uuid != record.primary and p.state.replication is not None
    ]


def _catch_up_with(node: Node, peers: tuple[Peer, ...], old: Peer, record: Record) -> bool:
    """While a closed old primary still answers, let at least one replica receive all that it has; bounded."""
    deadline = Deadline(CATCH_UP_TIME)
    try:
        with node.remote(old.address, old.port, timeout=2.0) as conn:
            target = read_state(conn).executed
    except MySQLError:
        return False
    candidates = _candidates(peers, record)

    def has_all(peer: Peer) -> bool:
        with contextlib.suppress(MySQLError), node.remote(peer.address, peer.port) as conn:
            state = read_state(conn)
            source = state.replication
            return target <= (state.executed | (source.retrieved if source else GtidSet.parse("")))
        return False

    while candidates and not any(in_parallel(has_all, candidates)):
        if deadline.over:
            return False
        pause(0.2)
    return bool(candidates)


def _freeze(
    node: Node, stack: ExitStack, cluster: ClusterView, record: Record, peers: tuple[Peer, ...]
) -> list[Frozen]:
    """Guard every replica that answers and stop its IO thread; at least one, or AutopilotError.

    The record is read again once the guards are held: whoever changed it meanwhile has made this look stale.
    """
    candidates = _candidates(peers, record)
    if not candidates:
        raise AutopilotError("failover: no replica answers")
    results = in_parallel(lambda peer: _guarded(node, peer), candidates)
    frozen = []
    for peer, (context, conn, error) in zip(candidates, results, strict=True):
        if context is None or conn is None:
            raise AutopilotError(f"failover: {peer.name} answers, but could not be guarded: {error}")
        stack.push(context)
        frozen.append(Frozen(peer=peer, conn=conn, state=peer.state or read_state(conn)))
    if node.discovery.view().record_index != cluster.record_index:
        raise TransactionRefused("the cluster record has changed since this failover began; looking again")
    in_parallel(lambda f: operations.stop_io(f.conn), frozen)
    return frozen


def _guarded(node: Node, peer: Peer) -> tuple[ExitStack | None, Connection | None, str]:
    stack = ExitStack()
    try:
        conn = stack.enter_context(node.remote(peer.address, peer.port, timeout=STEP_TIME))
        try:
            stack.enter_context(guard(conn, wait=GUARD_PATIENCE))
        except GuardBusy:
            # This runner has the failover lock, so whoever has held the guard for so long makes no progress.
            kill_stale_guard(conn, older_than_s=STALE_GUARD)
            stack.enter_context(guard(conn, wait=GUARD_WAIT))
    except MySQLError as error:
        stack.close()
        return None, None, str(error)
    return stack, conn, ""


def _drain(lock: Lock, frozen: list[Frozen]) -> None:
    """Let every applier get through what it has received, at once for all, and read the sets that result."""

    def drain(item: Frozen) -> None:
        item.drained = operations.drain(item.conn, Deadline(DRAIN_ROUND))
        item.state = read_state(item.conn)

    deadline = Deadline(DRAIN_TIME)
    waiting = frozen
    while waiting and not deadline.over:
        lock.step("draining the appliers")
        in_parallel(drain, waiting)
        waiting = [f for f in waiting if not f.drained and f.applier_runs]


def _catch_up(node: Node, frozen: list[Frozen], chosen: Frozen, choice: Choice) -> None:
    """Fetch what the chosen node lacks from the replica that has it, and check that it arrived."""
    if choice.catch_up_from is None:
        return
    source = next(f for f in frozen if f.peer.name == choice.catch_up_from.name)
    _follow(node, chosen, source)
    deadline = Deadline(DRAIN_TIME)
    while not source.state.executed <= chosen.state.executed:
        if deadline.over:
            raise AutopilotError(f"failover: {chosen.peer.name} did not catch up from {source.peer.name}")
        pause(0.1)
        chosen.state = read_state(chosen.conn)
    operations.stop_io(chosen.conn)


def _follow(node: Node, replica: Frozen, source: Frozen) -> None:
    settings = node.settings
    assert settings.mysql_repl_user is not None
    assert settings.mysql_repl_password is not None
    operations.follow(
        replica.conn,
        host=source.peer.address,
        port=source.peer.port,
        user=settings.mysql_repl_user,
        password=settings.mysql_repl_password.value,
    )


def _promote(
    node: Node,
    cluster: ClusterView,
    record: Record,
    chosen: Frozen,
    choice: Choice,
    reason: str,
    frozen: list[Frozen],
) -> Record:
    """The one transaction that makes a primary, at the index that was read before the freeze."""
    assert choice.chosen is not None
    assert choice.chosen.session is not None
    for item in frozen:
        check_held(item.conn)
    promoted = record.promoted(chosen.state.server_uuid, chosen.peer.name, reason)
    node.discovery.promote(
        promoted,
        cluster.record_index,
        choice.chosen.session,
        unlock_session=cluster.lock_session,
    )
    LOG.info("failover: %s is the primary of epoch %d", chosen.peer.name, promoted.epoch)
    return promoted


def _open(node: Node, record: Record, chosen: Frozen) -> None:
    operations.stop_replication(chosen.conn)
    operations.forget_source(chosen.conn)
    operations.open_for_writing(
        chosen.conn,
        cluster_id=record.id,
        epoch=record.epoch,
        version=record.version,
        record=record.to_json(),
        lease_s=node.settings.lease,
    )


def _repoint(node: Node, chosen: Frozen, others: list[Frozen]) -> None:
    """Let the other replicas follow, in parallel, each verified; one that has diverged is left alone."""

    def repoint(item: Frozen) -> None:
        extra = item.state.executed - chosen.state.executed
        if extra or not item.drained:
            LOG.warning(
                "failover: %s is not re-pointed (extra transactions: %s)", item.peer.name, extra or "unknown"
            )
            return
        try:
            _follow(node, item, chosen)
            LOG.info("failover: %s follows %s", item.peer.name, chosen.peer.name)
        except MySQLError as error:
            LOG.warning("failover: %s: %s; its own health goes on with it", item.peer.name, error)

    in_parallel(repoint, others)


def _finish_opening(node: Node, record: Record, peers: tuple[Peer, ...]) -> Outcome:
    """A runner died between the promotion and the opening: go on where it stopped."""
    peer = next(p for p in peers if p.state is not None and p.state.server_uuid == record.primary)
    with _one_guarded(node, peer) as conn:
        now = node.discovery.view()
        if now.record != record or now.lock_session is None:
            raise TransactionRefused("the cluster record has changed; looking again")
        _open(node, record, Frozen(peer=peer, conn=conn, state=read_state(conn)))
    return Outcome(peer.name, "opened; it had been promoted already")


@contextlib.contextmanager
def _one_guarded(node: Node, peer: Peer) -> Iterator[Connection]:
    with node.remote(peer.address, peer.port, timeout=STEP_TIME) as conn, guard(conn, wait=GUARD_WAIT):
        yield conn
