"""Making another node primary, in SPEC 7's order, for a failover and for a switchover alike.

What keeps two runners apart is the guard in each server and the one promotion transaction; the failover lock
only saves work. Cut off before the transaction, everything can be begun again (a frozen replica's own health
starts it again after a touch of the record). Cut off after it, any hook of the chosen node opens it.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from contextlib import ExitStack
from dataclasses import dataclass

from manager import membership, rpladmin
from manager.decide.failover import Candidate, Choice, choose
from manager.decide.join import received
from manager.decide.series import cannot_follow
from manager.discovery.cluster import ClusterView
from manager.discovery.lock import Lock
from manager.discovery.record import FORCED_LEAP, Record
from manager.errors import AutopilotError, ConsulError, GuardBusy, GuardLost, MySQLError, TransactionRefused
from manager.frozen import Frozen
from manager.gtid import GtidSet
from manager.mysql import operations, semisync
from manager.mysql.connection import Connection
from manager.mysql.guard import guard, held, kill_stale_guard
from manager.mysql.state import ServerState, read_state
from manager.node import Node
from manager.opening import open_primary
from manager.stale import STALE
from manager.view import Peer, highest_epoch, in_parallel
from manager.waiting import Deadline, pause

LOG = logging.getLogger(__name__)

DRAIN_TIME = 30.0
# A round lasts as long as its slowest applier; writes wait for it even if another node has everything already.
DRAIN_ROUND = 0.05
GUARD_PATIENCE = 1.0
GUARD_WAIT = 6.0
STEP_TIME = 10.0
FOLLOWER_TIME = 3.0


@dataclass(frozen=True)
class Outcome:
    """`promoted` is the new primary's name, None if nothing was done; `reason` says why, either way."""

    promoted: str | None
    reason: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a runner has decided on: the cluster as it was read before the freeze, the nodes, and why.

    `old` is the record's primary if it answers. `only` names the one node that may be chosen; `forced` takes
    the most advanced node that answers, whatever the members say (a person accepts the loss).
    """

    cluster: ClusterView
    record: Record
    peers: tuple[Peer, ...]
    old: Peer | None
    reason: str
    only: str | None = None
    forced: bool = False


def candidate(
    name: str, state: ServerState, cluster: ClusterView, *, executed: GtidSet, drained: bool
) -> Candidate:
    """Return the pure view of a replica for the choice. `executed` is what it has, or will have once drained."""
    return Candidate(
        name=name,
        uuid=state.server_uuid,
        version=state.version,
        executed=executed,
        received=received(state),
        acknowledges=state.semisync is not None and state.semisync.replica_on,
        drained=drained,
        priority=state.row.priority if state.row is not None else 0,
        session=cluster.sessions.get(name),
    )


def prospects(peers: tuple[Peer, ...], record: Record, cluster: ClusterView) -> tuple[Candidate, ...]:
    """The replicas as they will be once their appliers are through, which a failover waits for."""
    return tuple(
        candidate(p.name, p.state, cluster, executed=received(p.state), drained=True)
        for p in replicas(peers, record)
        if p.state is not None
    )


def carry_out(
    node: Node, lock: Lock, plan: Plan, frozen: list[Frozen], handing_over: Frozen | None = None
) -> Outcome:
    """Freeze the replicas that `guard_replicas` has guarded, drain, choose, fence, promote, open, re-point.

    `handing_over` is the old primary, closed under its guard by this runner; it then follows the new one.
    """
    lock.step("freezing the replicas")
    in_parallel(lambda f: operations.stop_io(f.conn), frozen)
    members = plan.record.members if plan.record.durability == "semisync" and not plan.forced else None
    able = _able(plan, frozen, handing_over)
    _drain(lock, able, members)
    choice = choose(
        plan.record,
        tuple(
            candidate(f.peer.name, f.state, plan.cluster, executed=f.state.executed, drained=f.drained)
            for f in able
        ),
        only=plan.only,
        forced=plan.forced,
    )
    for name, why in choice.rejected.items():
        LOG.warning("not %s: %s", name, why)
    LOG.info("%s", choice.reason)
    if choice.chosen is None:
        return Outcome(None, choice.reason)
    chosen = next(f for f in frozen if f.peer.name == choice.chosen.name)
    _catch_up(node, frozen, chosen, choice)
    if handing_over is not None and not handing_over.state.executed <= chosen.state.executed:
        return Outcome(None, f"{chosen.peer.name} lacks transactions of {handing_over.peer.name}")
    if plan.old is not None and handing_over is None:
        lock.step(f"fencing {plan.old.name}")
        fence(node, plan.old)
    lock.step(f"promoting {chosen.peer.name}")
    guards = [*frozen, handing_over] if handing_over is not None else frozen
    promoted, index, session = _promote(node, plan, chosen, choice, guards)
    done = rpladmin.NOTHING
    if handing_over is None:
        others = _sound(chosen, [f for f in frozen if f is not chosen])
        step = f"{rpladmin.NAME} re-points to {chosen.peer.name}"
        done = rpladmin.repoint(node.settings, promoted, chosen, others, lambda: _say(lock, step))
    open_primary(chosen.conn, promoted, chosen.state, lease=node.settings.lease)
    if chosen.peer.name == node.name:
        # Here this runner is in its witness's place.
        with contextlib.suppress(ConsulError):
            node.pilot.advertise("primary", passing=True, note=f"promoted at epoch {promoted.epoch}")
    if handing_over is not None:
        in_parallel(lambda f: _drain_one(f, 0.0), [f for f in frozen if f not in able])
        others = _sound(chosen, [f for f in frozen if f is not chosen])
    # The one that hands over comes last: it takes up to a second to switch semi-sync off (measured).
    last = _sound(chosen, [handing_over] if handing_over is not None else [])
    tried: list[Frozen] = []
    if promoted.durability == "semisync" and chosen.state.semisync is not None:
        primary = membership.Primary(
            discovery=node.discovery,
            conn=chosen.conn,
            connect=lambda: node.remote(chosen.peer.address, chosen.peer.port),
            record=promoted,
            index=index,
            session=session,
        )
        tried = _admit_one(node, lock, primary, chosen, [*others, *last])
    for group in (others, last):
        _attach(node, lock, chosen, [f for f in group if f not in tried and f.peer.name not in done.right])
    return Outcome(chosen.peer.name, "; ".join(filter(None, (plan.reason, choice.reason, done.said))))


def fence(node: Node, old: Peer) -> None:
    """Close the old primary if it still answers; closing needs no guard. Its silence is no reason to stop."""
    try:
        with node.remote(old.address, old.port, timeout=3.0) as conn:
            operations.close_server(conn)
    except MySQLError as error:
        LOG.warning("%s could not be fenced: %s", old.name, error)


def replicas(peers: tuple[Peer, ...], record: Record) -> list[Peer]:
    """The nodes of `joined` that follow somebody."""
    return [p for p in joined(peers, record) if p.state is not None and p.state.replication is not None]


def joined(peers: tuple[Peer, ...], record: Record) -> list[Peer]:
    """The nodes that answer, but for the primary, and have joined this cluster: their hooks have read its record."""
    return [
        p
        for p in peers
        if p.state is not None
        and p.state.server_uuid != record.primary
        and p.state.row is not None
        and p.state.row.cluster_id == record.id
    ]


def guard_replicas(node: Node, stack: ExitStack, plan: Plan) -> list[Frozen]:
    """Guard every replica that answers, as `carry_out` needs them; at least one, or AutopilotError.

    The guards are kept in `stack`. The record is read again once they are held: whoever changed it meanwhile has
    made this look stale. TransactionRefused then.
    """
    candidates = replicas(plan.peers, plan.record)
    if not candidates:
        raise AutopilotError("no replica answers")
    results = in_parallel(lambda peer: guarded(node, peer), candidates)
    found = []
    for peer, (context, conn, error) in zip(candidates, results, strict=True):
        if context is None or conn is None:
            raise AutopilotError(f"{peer.name} answers, but could not be guarded: {error}")
        stack.push(context)
        found.append((peer, conn))
    _check_record(node, plan)
    return in_parallel(lambda one: Frozen(peer=one[0], conn=one[1], state=read_state(one[1])), found)


def _check_record(node: Node, plan: Plan) -> None:
    """TransactionRefused if the record has changed since the look that this plan rests on."""
    if node.discovery.view().record_index != plan.cluster.record_index:
        raise TransactionRefused("the cluster record has changed since this began; looking again")


def guarded(node: Node, peer: Peer) -> tuple[ExitStack | None, Connection | None, str]:
    """Return the server's guard and the connection that holds it, or why there is none."""
    stack = ExitStack()
    try:
        conn = stack.enter_context(node.remote(peer.address, peer.port, timeout=STEP_TIME))
        try:
            stack.enter_context(guard(conn, wait=GUARD_PATIENCE))
        except GuardBusy:
            # This runner has the failover lock, so whoever has held the guard for so long makes no progress.
            kill_stale_guard(conn, older_than_s=STALE)
            stack.enter_context(guard(conn, wait=GUARD_WAIT))
    except MySQLError as error:
        stack.close()
        return None, None, str(error)
    return stack, conn, ""


def _able(plan: Plan, frozen: list[Frozen], handing_over: Frozen | None) -> list[Frozen]:
    """Those that may be chosen and are waited for: a person's choice alone, where nobody can have more than the primary
    that hands over to it. Semisync looks at every member."""
    if handing_over is None or plan.only is None or plan.record.durability == "semisync":
        return frozen
    return [f for f in frozen if f.peer.name == plan.only]


def _drain(lock: Lock, frozen: list[Frozen], members: tuple[str, ...] | None) -> None:
    """Let every applier get through what it has received, at once for all, and read the sets that result.

    Waited for are `members`, the only ones that may be chosen; without them (None), whoever may have more than one
    that is through. The others are as far as they are: what they received they keep.
    """

    def matters(item: Frozen) -> bool:
        if members is not None:
            return item.state.server_uuid in members
        return not any(f.drained and received(item.state) <= f.state.executed for f in frozen)

    deadline = Deadline(DRAIN_TIME)
    waiting = [f for f in frozen if matters(f)]
    while waiting and not deadline.over:
        in_parallel(lambda item: _drain_one(item, DRAIN_ROUND), waiting)
        waiting = [f for f in waiting if not f.drained and f.may_get_on and matters(f)]
        if waiting:
            lock.step("draining the appliers")
    in_parallel(lambda item: _drain_one(item, 0.0), [f for f in frozen if not f.drained and not f.fault])


def _drain_one(item: Frozen, seconds: float) -> None:
    try:
        item.drained = operations.drain(item.conn, Deadline(seconds))
        item.state = read_state(item.conn)
    except MySQLError as error:
        LOG.warning("%s: its applier cannot be drained: %s", item.peer.name, error)
        item.drained, item.fault = False, str(error)


def _catch_up(node: Node, frozen: list[Frozen], chosen: Frozen, choice: Choice) -> None:
    """Fetch what the chosen node lacks from the replica that has it, and check that it arrived."""
    if choice.catch_up_from is None:
        return
    source = next(f for f in frozen if f.peer.name == choice.catch_up_from.name)
    assert node.settings.mysql_repl_user is not None
    _follow(node, chosen, source, node.settings.mysql_repl_user)  # on a replica no account can be made
    deadline = Deadline(DRAIN_TIME)
    while not source.state.executed <= chosen.state.executed:
        if deadline.over:
            raise AutopilotError(f"{chosen.peer.name} did not catch up from {source.peer.name}")
        pause(0.1)
        chosen.state = read_state(chosen.conn)
    operations.stop_io(chosen.conn)


def _follow(node: Node, replica: Frozen, source: Frozen, user: str) -> None:
    settings = node.settings
    assert settings.mysql_repl_password is not None
    operations.follow(
        replica.conn,
        host=source.peer.address,
        port=source.peer.port,
        user=user,
        password=settings.mysql_repl_password.value,
        tls=source.state.capabilities.tls,
    )


def _promote(
    node: Node, plan: Plan, chosen: Frozen, choice: Choice, frozen: list[Frozen]
) -> tuple[Record, int, str]:
    """The one transaction that makes a primary, at the index that was read before the freeze.

    Returns the record, its index, and the session that holds PRIMARY_KEY.
    """
    assert choice.chosen is not None
    assert choice.chosen.session is not None
    for item in frozen:
        if not held(item.conn):
            raise GuardLost(f"the guard of {item.peer.name} was lost: it may no longer be frozen")
    after = max(plan.record.epoch, highest_epoch(plan.peers)) + FORCED_LEAP if plan.forced else 0
    promoted = plan.record.promoted(chosen.state.server_uuid, chosen.peer.name, plan.reason, after=after)
    index = node.discovery.promote(
        promoted,
        plan.cluster.record_index,
        choice.chosen.session,
        unlock_session=plan.cluster.lock_session,
    )
    LOG.info("%s is the primary of epoch %d", chosen.peer.name, promoted.epoch)
    return promoted, index, choice.chosen.session


def _sound(chosen: Frozen, others: list[Frozen]) -> list[Frozen]:
    """Those that can follow the new primary. The others are left alone: their own health rebuilds one that has
    diverged, and says that one is too old."""
    found = []
    for item in others:
        extra = item.state.executed - chosen.state.executed
        if extra or not item.drained:
            LOG.warning("%s is not re-pointed (extra: %s)", item.peer.name, extra or "unknown")
        elif why := cannot_follow(item.state.version, chosen.state.version):
            LOG.warning("%s is not re-pointed: %s", item.peer.name, why)
        else:
            found.append(item)
    return found


def _admit_one(
    node: Node, lock: Lock, primary: membership.Primary, chosen: Frozen, followers: list[Frozen]
) -> list[Frozen]:
    """Semisync: commits on the new primary wait until there is a member; re-point one, and admit it.

    Returns whom it has tried, the last of them with success unless all failed. Nothing more is done here to one
    that failed: its receiver may run with the switch ON, and it may be a member whose record's answer was lost.
    """
    tried = []
    for item in followers:

        def receive(item: Frozen = item) -> None:
            _follow(node, item, chosen, _let_in(node, chosen, item))

        tried.append(item)
        _say(lock, f"admitting {item.peer.name}")
        try:
            with item.conn.timeout(FOLLOWER_TIME):
                semisync.become_replica(item.conn)
                membership.admit_first(primary, item.conn, item.state.server_uuid, receive)
        except AutopilotError as error:
            LOG.warning("%s: %s; its own health goes on with it", item.peer.name, error)
        else:
            LOG.info("%s follows %s and is a member", item.peer.name, chosen.peer.name)
            break
    return tried


def _attach(node: Node, lock: Lock, chosen: Frozen, others: list[Frozen]) -> None:
    """Let them follow, in parallel, each verified, none acknowledging; its own health sees to one that does not."""

    def repoint(item: Frozen) -> None:
        try:
            with item.conn.timeout(FOLLOWER_TIME):
                if item.state.semisync is not None:
                    semisync.become_replica(item.conn)
                with letting_in:
                    user = _let_in(node, chosen, item)
                _follow(node, item, chosen, user)
        except MySQLError as error:
            LOG.warning("%s: %s; its own health goes on with it", item.peer.name, error)
        else:
            LOG.info("%s follows %s", item.peer.name, chosen.peer.name)

    letting_in = threading.Lock()  # one connection to the new primary, for all of them
    if others:
        _say(lock, f"re-pointing {', '.join(item.peer.name for item in others)}")
    in_parallel(repoint, others)


def _say(lock: Lock, step: str) -> None:
    """After the promotion the lock is a courtesy: what is left is done without it."""
    with contextlib.suppress(ConsulError):
        lock.step(step)


def _let_in(node: Node, chosen: Frozen, item: Frozen) -> str:
    """Return the name of the account under which `item` may replicate from `chosen`."""
    assert node.settings.mysql_repl_password is not None
    return semisync.let_in(chosen.conn, item.state.server_uuid, node.settings.mysql_repl_password.value)
