"""When a failover is due, and the hand-over that a person or a clean stop asks for; `promotion` carries both out."""

from __future__ import annotations

import contextlib
import logging
import time
from contextlib import ExitStack
from dataclasses import replace

from manager.decide.failover import Watch, When, choose, when
from manager.discovery.cluster import ClusterView
from manager.discovery.lock import Lock
from manager.discovery.record import Record
from manager.errors import AutopilotError, MySQLError, TransactionRefused
from manager.gtid import GtidSet
from manager.mysql import operations
from manager.mysql.state import read_state
from manager.node import Node
from manager.opening import open_primary
from manager.promotion import (
    Frozen,
    Outcome,
    Plan,
    carry_out,
    check_record,
    fence,
    guarded,
    prospects,
    replicas,
)
from manager.view import Peer, in_parallel, read_peers
from manager.waiting import Deadline, pause

LOG = logging.getLogger(__name__)

DECIDE_TIME = 60.0
HEADS_UP = 0.7
CATCH_UP_TIME = 10.0
CLOSED_CATCH_UP_TIME = 2.0


def run(node: Node, lock: Lock) -> Outcome:
    """Fail over if SPEC 7's table says so; ConsulError or MySQLError where a step could not be done."""
    cluster, peers, verdict, reason = _decide(node, lock)
    record = cluster.record
    if record is None or verdict in (When.NOTHING, When.WAIT):
        return Outcome(None, reason)
    LOG.info("failover: %s", reason)
    if verdict is When.FINISH:
        return _finish_opening(node, record, peers)
    plan = Plan(cluster=cluster, record=record, peers=peers, old=_primary(record, peers), reason=reason)
    if verdict is When.HAND_OVER:
        return _hand_over(node, lock, plan)
    with ExitStack() as stack:
        if plan.old is not None:
            fence(node, plan.old)
            _wait_for_one(node, plan, CLOSED_CATCH_UP_TIME)
        return carry_out(node, lock, stack, plan)


def switch_over(node: Node, lock: Lock, *, to: str | None, reason: str) -> Outcome:
    """Hand the role over to `to`, or to whoever is chosen; the primary must serve and hold PRIMARY_KEY."""
    # The primary serves meanwhile. What the lock has started on the other nodes advertises the outcome at once.
    pause(HEADS_UP)
    lock.step("looking at the servers")
    cluster = node.discovery.view()
    record = cluster.record
    if record is None or record.state != "open" or cluster.lock_session is None:
        return Outcome(None, "there is no primary that holds PRIMARY_KEY: a failover is what is needed")
    peers = read_peers(node, cluster, others_only=False)
    old = _primary(record, peers)
    if old is None or old.state is None or not old.state.serves:
        return Outcome(None, f"{record.primary_name} does not serve: a failover is what is needed")
    if to == old.name:
        return Outcome(None, f"{to} is the primary already")
    able = [p.name for p in replicas(peers, record)]
    if not able or (to is not None and to not in able):
        return Outcome(
            None, f"{to or 'no node'} is a replica that answers; there are: {', '.join(able) or 'none'}"
        )
    plan = Plan(cluster=cluster, record=record, peers=peers, old=old, reason=reason, only=to)
    if why := _nobody_able(plan):
        return Outcome(None, why)
    return _hand_over(node, lock, plan)


def _nobody_able(plan: Plan) -> str:
    """Return why nobody can be promoted however far it gets; looked at before the primary is closed for it."""
    candidates = prospects(plan.peers, plan.record, plan.cluster)
    if plan.record.durability == "semisync":
        # They were not looked at in the same moment: each will have what any of them has now.
        everything = GtidSet.parse("")
        for one in candidates:
            everything |= one.received
        candidates = tuple(replace(one, executed=everything) for one in candidates)
    choice = choose(plan.record, candidates, only=plan.only)
    if choice.chosen is not None:
        return ""
    why = choice.rejected.get(plan.only or "", "")
    return f"{choice.reason} ({plan.only}: {why})" if why else choice.reason


def force(node: Node, lock: Lock) -> Outcome:
    """Promote the most advanced node that answers, whatever the members say; a person accepts the loss.

    Refused while the primary serves and holds PRIMARY_KEY.
    """
    cluster = node.discovery.view()
    record = cluster.record
    if record is None:
        return Outcome(None, "there is no cluster record: `bootstrap --force` founds anew")
    peers = read_peers(node, cluster, others_only=False)
    old = _primary(record, peers)
    if old is not None and old.state is not None and old.state.serves and cluster.lock_session is not None:
        return Outcome(None, f"{old.name} holds PRIMARY_KEY and serves: use switchover")
    plan = Plan(
        cluster=cluster, record=record, peers=peers, old=old, reason="forced by a person", forced=True
    )
    with ExitStack() as stack:
        return carry_out(node, lock, stack, plan)


def _hand_over(node: Node, lock: Lock, plan: Plan) -> Outcome:
    """Close the old primary under its guard, so that its health does not open it again; then promote."""
    assert plan.old is not None
    with ExitStack() as stack:
        lock.step(f"closing {plan.old.name}")
        context, conn, error = guarded(node, plan.old)
        if context is None or conn is None:
            return Outcome(None, f"{plan.old.name} could not be guarded: {error}")
        stack.push(context)
        check_record(node, plan)
        operations.close_server(conn)
        old = Frozen(peer=plan.old, conn=conn, state=read_state(conn), drained=True)
        if not _wait_for_one(node, plan, CATCH_UP_TIME):
            outcome = Outcome(None, f"nobody has caught up with {old.peer.name} in {CATCH_UP_TIME:.0f} s")
        else:
            try:
                outcome = carry_out(node, lock, stack, plan, handing_over=old)
            except AutopilotError:
                _open_again(node, plan, old)
                raise
        if outcome.promoted is None:
            _open_again(node, plan, old)
        return outcome


def _open_again(node: Node, plan: Plan, old: Frozen) -> None:
    """The hand-over did not come about: the old primary goes on, if it is still the one."""
    now = node.discovery.view()
    if now.record == plan.record and now.lock_session == plan.cluster.lock_session is not None:
        # The promotion may be on its way still.
        record = plan.record.touched()
        node.discovery.touch(record, plan.cluster.record_index)
        open_primary(old.conn, record, old.state, lease=node.settings.lease)


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
    old = _primary(cluster.record, peers) if cluster.record is not None else None
    return old is not None and old.state is not None and old.state.serves


def _since_promotion(record: Record | None) -> float:
    if record is None or record.epoch <= 1:
        return 1e9
    return max(0.0, time.time() - record.at)


def _primary(record: Record, peers: tuple[Peer, ...]) -> Peer | None:
    return next((p for p in peers if p.state is not None and p.state.server_uuid == record.primary), None)


def _wait_for_one(node: Node, plan: Plan, seconds: float) -> bool:
    """Let a replica (the wanted one, if there is one) receive all that the closed old primary has; bounded."""
    assert plan.old is not None
    deadline = Deadline(seconds)
    try:
        with node.remote(plan.old.address, plan.old.port, timeout=2.0) as conn:
            target = read_state(conn).executed
    except MySQLError:
        return False
    wanted = [p for p in replicas(plan.peers, plan.record) if plan.only in (None, p.name)]

    def has_all(peer: Peer) -> bool:
        with contextlib.suppress(MySQLError), node.remote(peer.address, peer.port) as conn:
            state = read_state(conn)
            source = state.replication
            return target <= (state.executed | (source.retrieved if source else GtidSet.parse("")))
        return False

    while wanted and not any(in_parallel(has_all, wanted)):
        if deadline.over:
            return False
        pause(0.05)
    return bool(wanted)


def _finish_opening(node: Node, record: Record, peers: tuple[Peer, ...]) -> Outcome:
    """A runner died between the promotion and the opening: go on where it stopped."""
    peer = next(p for p in peers if p.state is not None and p.state.server_uuid == record.primary)
    context, conn, error = guarded(node, peer)
    if context is None or conn is None:
        raise AutopilotError(f"failover: {peer.name} could not be guarded: {error}")
    with context:
        now = node.discovery.view()
        if now.record != record or now.lock_session is None:
            raise TransactionRefused("the cluster record has changed; looking again")
        open_primary(conn, record, read_state(conn), lease=node.settings.lease)
    return Outcome(peer.name, "opened; it had been promoted already")
