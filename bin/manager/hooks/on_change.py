"""`on_change`: the set of healthy primaries has changed, or health found none (SPEC 3)."""

from __future__ import annotations

import contextlib
import logging

from manager import failover
from manager.discovery.cluster import ClusterView
from manager.errors import (
    AutopilotError,
    Busy,
    ConsulError,
    ConsulUnavailable,
    GuardBusy,
    GuardLost,
    LockHeld,
    LockLost,
    MySQLError,
    TransactionRefused,
)
from manager.hooks import health
from manager.node import Node
from manager.view import primary_instance
from manager.waiting import Deadline, pause, poll_until

LOG = logging.getLogger(__name__)

TOTAL = 100.0
WAIT_FOR_WINNER = 30.0
WAIT_FOR_HEALTH = 15.0
WAIT_FOR_OPENING = 5.0


def run(node: Node, *, witness: bool = False) -> int:
    """Return 0 when there is a healthy primary, or another process of this node sees to it; 1 if not yet.

    A `witness` is started when the failover lock is taken or given back. It begins no failover: one that can
    promote nobody would otherwise start the next one, without end.
    """
    try:
        with node.alone("witness" if witness else "on_change"):
            return _witness(node) if witness else _run(node, Deadline(TOTAL))
    except Busy as busy:
        LOG.debug("%s", busy)
        return 0


def _run(node: Node, deadline: Deadline) -> int:
    while not deadline.over:
        cluster = node.discovery.view()
        if cluster.failover_session is not None:
            _wait_for_winner(node, cluster)
            cluster = node.discovery.view()
        if primary_instance(cluster) is not None:
            _check_own_health(node)
            return 0
        try:
            return _fail_over(node)
        except LockHeld as held:
            LOG.info("another node fails over (%s): waiting for it", held)
        except (TransactionRefused, GuardBusy, GuardLost, LockLost) as error:
            LOG.info("%s; starting over", error)
            pause(0.3)
    raise AutopilotError(f"no healthy primary after {TOTAL:.0f} s; health runs try again")


def _witness(node: Node) -> int:
    cluster = node.discovery.view()
    if cluster.failover_session is not None:
        _wait_for_winner(node, cluster)
        if _there_is_a_primary(node):
            _check_own_health(node)
    return 0


def _fail_over(node: Node) -> int:
    with node.discovery.failover_lock("no healthy primary") as lock:
        outcome = failover.run(node, lock)
        if outcome.promoted is None:
            LOG.warning("no failover: %s", outcome.reason)
            return 1
        LOG.info("failover to %s: %s", outcome.promoted, outcome.reason)
        _check_own_health(node)
        lock.step(f"waiting for {outcome.promoted} to be healthy in Consul")
        if not poll_until(lambda: _there_is_a_primary(node), Deadline(WAIT_FOR_HEALTH), interval=0.1):
            LOG.warning("%s is not healthy in Consul after %.0f s", outcome.promoted, WAIT_FOR_HEALTH)
    return 0


def _there_is_a_primary(node: Node) -> bool:
    return primary_instance(node.discovery.view()) is not None


def _wait_for_winner(node: Node, begun: ClusterView) -> None:
    """Until the runner is done, or the new primary is healthy in Consul.

    The one that was says at once that it is no longer, and this node, if it is promoted, that it is.
    """
    before, old = begun.lock_session, primary_instance(begun)
    deadline = Deadline(WAIT_FOR_WINNER)

    def moved_or_over() -> bool:
        with contextlib.suppress(ConsulUnavailable):
            primary, failover_lock = node.discovery.lock_sessions()
            return primary not in (None, before) or failover_lock is None
        return False

    poll_until(moved_or_over, deadline)
    cluster = node.discovery.view()
    if cluster.lock_session in (None, before):
        return
    holder = cluster.lock_holder
    if holder is not None and holder.name == node.name:
        _wait_until_open(node)
        _check_own_health(node)
    elif old is not None and old.name == node.name:
        node.discovery.advertise(
            "replica", passing=False, note=f"the role went to {holder.name if holder else 'another'}"
        )

    def done() -> bool:
        now = node.discovery.view()
        return now.failover_session is None or primary_instance(now) is not None

    poll_until(done, deadline, interval=0.3)


def _wait_until_open(node: Node) -> None:
    """The runner opens this node's server; if that takes long, its own health does."""
    with contextlib.suppress(MySQLError), node.local() as conn:
        poll_until(
            lambda: conn.value("SELECT @@global.offline_mode OR @@global.read_only") == 0,
            Deadline(WAIT_FOR_OPENING),
        )


def _check_own_health(node: Node) -> None:
    """Act on the outcome at once instead of at the next interval; the next one does it if this fails."""
    try:
        with node.alone("health", wait=5.0), node.local() as conn:
            verdict, _ = health.check(node, conn)
            LOG.info("%s: %s", verdict.role, verdict.reason)
    except (Busy, MySQLError, ConsulError) as error:
        LOG.info("own health: %s", error)
