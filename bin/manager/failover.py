"""When a failover is due, and the hand-over that a person or a clean stop asks for; `promotion` carries both out."""

from __future__ import annotations

import contextlib
import logging
import time
from contextlib import ExitStack
from dataclasses import replace

from manager.decide.failover import Choice, Watch, When, choose, when
from manager.decide.series import cannot_lead, following, oldest
from manager.discovery.cluster import ClusterView
from manager.discovery.lock import Lock
from manager.discovery.record import Record
from manager.errors import AutopilotError, MySQLError, TransactionRefused
from manager.frozen import Frozen
from manager.gtid import GtidSet
from manager.mysql import operations
from manager.mysql.connection import Connection
from manager.mysql.dialect import Dialect, series
from manager.mysql.state import read_executed, read_replication, read_state
from manager.node import Node
from manager.opening import open_primary
from manager.promotion import (
    Outcome,
    Plan,
    carry_out,
    fence,
    guard_replicas,
    guarded,
    joined,
    prospects,
    replicas,
)
from manager.view import Peer, in_parallel, read_peers
from manager.waiting import Deadline, pause, poll_until

LOG = logging.getLogger(__name__)

DECIDE_TIME = 60.0
HEADS_UP = 0.7
NEAR = 20  # transactions
NEAR_TIME = 5.0
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
            _let_one_receive(node, plan)
        return carry_out(node, lock, plan, guard_replicas(node, stack, plan))


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
    if others := old.state.further_sources:
        # Its applier goes on while the server is closed: what came after the hand-over only this one would have.
        return Outcome(
            None, f"{old.name} replicates by the channel {others}: stop that first (docs/moving-in.md)"
        )
    able = [p.name for p in replicas(peers, record)]
    if not able or (to is not None and to not in able):
        return Outcome(
            None, f"{to or 'no node'} is a replica that answers; there are: {', '.join(able) or 'none'}"
        )
    plan = Plan(cluster=cluster, record=record, peers=peers, old=old, reason=reason, only=to)
    versions = {p.name: p.state.version for p in joined(peers, record) if p.state is not None}
    if to is not None and (why := cannot_lead(to, versions, old.state.version)):
        return Outcome(None, why)
    followers = following(versions, old.state.version)
    choice = _prospect(plan, oldest(followers))
    if choice.chosen is None:
        why = "; ".join(
            f"{name}: {why}" for name, why in sorted(choice.rejected.items()) if to in (None, name)
        )
        return Outcome(None, f"{choice.reason} ({why})" if why else choice.reason)
    if why := cannot_lead(choice.chosen.name, versions, old.state.version):
        return Outcome(None, why)
    if len(set(map(series, followers.values()))) > 1:
        plan = replace(plan, only=choice.chosen.name)  # one that is newer may be further when it comes to it
    _wait_until_near(node, plan)
    return _hand_over(node, lock, plan)


def _prospect(plan: Plan, of_the_oldest: frozenset[str]) -> Choice:
    """Return who would be promoted however far it gets; looked at before the primary is closed for it.

    Without a wish it is one of the oldest series, which all others can follow.
    """
    candidates = prospects(plan.peers, plan.record, plan.cluster)
    if plan.record.durability == "semisync":
        # They were not looked at in the same moment: each will have what any of them has now.
        everything = GtidSet.parse("")
        for one in candidates:
            everything |= one.received
        candidates = tuple(replace(one, executed=everything) for one in candidates)
    elif plan.only is None:
        candidates = tuple(one for one in candidates if one.name in of_the_oldest)
    return choose(plan.record, candidates, only=plan.only)


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
        return carry_out(node, lock, plan, guard_replicas(node, stack, plan))


def _hand_over(node: Node, lock: Lock, plan: Plan) -> Outcome:
    """Close the old primary under its guard, so that its health does not open it again; then promote.

    What takes no closed primary is done before: from then on writes wait.
    """
    assert plan.old is not None
    with ExitStack() as stack:
        lock.step(f"guarding {plan.old.name} and the replicas")
        context, conn, error = guarded(node, plan.old)
        if context is None or conn is None:
            return Outcome(None, f"{plan.old.name} could not be guarded: {error}")
        stack.push(context)
        frozen = guard_replicas(node, stack, plan)
        old = Frozen(peer=plan.old, conn=conn, state=read_state(conn), drained=True)
        lock.step(f"closing {plan.old.name}")
        operations.close_server(conn)
        old.state = replace(old.state, executed=read_executed(conn))
        wanted = [f.conn for f in frozen if plan.only in (None, f.peer.name)]
        if not _one_receives(old.state.executed, wanted, CATCH_UP_TIME):
            outcome = Outcome(None, f"nobody has caught up with {old.peer.name} in {CATCH_UP_TIME:.0f} s")
        else:
            try:
                outcome = carry_out(node, lock, plan, frozen, handing_over=old)
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


def _wait_until_near(node: Node, plan: Plan) -> None:
    """Let a replica that may be chosen apply nearly all, while the primary still serves: writes wait for the rest.

    One that stays behind, or does not answer, is no reason not to go on.
    """
    with ExitStack() as stack, contextlib.suppress(MySQLError):
        primary, wanted = _look(node, stack, plan)

        def is_near() -> bool:
            target = read_executed(primary)
            return any((target - read_executed(other)).count <= NEAR for other in wanted)

        poll_until(is_near, Deadline(NEAR_TIME), interval=0.1)


def _let_one_receive(node: Node, plan: Plan) -> None:
    """Let a replica that may be chosen receive all that the closed old primary has, if that answers; bounded."""
    with ExitStack() as stack, contextlib.suppress(MySQLError):
        primary, wanted = _look(node, stack, plan)
        _one_receives(read_executed(primary), wanted, CLOSED_CATCH_UP_TIME)


def _look(node: Node, stack: ExitStack, plan: Plan) -> tuple[Connection, list[Connection]]:
    """Connections, kept in `stack`, to the old primary and to the replicas that may be chosen and answer.

    MySQLError if the primary does not.
    """
    assert plan.old is not None
    wanted = [p for p in replicas(plan.peers, plan.record) if plan.only in (None, p.name)]

    def connect(peer: Peer) -> Connection | None:
        with contextlib.suppress(MySQLError):
            return node.remote(peer.address, peer.port)
        return None

    primary = stack.enter_context(node.remote(plan.old.address, plan.old.port, timeout=2.0))
    found = [conn for conn in in_parallel(connect, wanted) if conn is not None]
    return primary, [stack.enter_context(conn) for conn in found]


def _one_receives(target: GtidSet, wanted: list[Connection], seconds: float) -> bool:
    """Wait until one of these servers has received all of `target`; return whether one has. Bounded."""

    def has_all(conn: Connection) -> bool:
        with contextlib.suppress(MySQLError):
            source = read_replication(conn)
            found = read_executed(conn)
            if source is not None and not Dialect.of(conn.version).retrieved_holds_halves:
                found |= source.retrieved
            return target <= found
        return False

    if not wanted:
        return False
    return poll_until(lambda: any(in_parallel(has_all, wanted)), Deadline(seconds), interval=0.02)


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
