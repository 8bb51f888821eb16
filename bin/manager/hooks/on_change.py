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
from manager.hooks import health, last
from manager.mysql.state import serves
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
        if witness:
            # The pilot looks at this lock, by taking it for a moment.
            with node.alone("witness", wait=0.2):
                return _witness(node)
        with node.alone("on_change"):
            return _run(node, Deadline(TOTAL))
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
    return 0


def _fail_over(node: Node) -> int:
    with node.discovery.failover_lock("no healthy primary") as lock:
        outcome = failover.run(node, lock)
        if outcome.promoted is None:
            LOG.warning("no failover: %s", outcome.reason)
            return 1
        LOG.info("failover to %s: %s", outcome.promoted, outcome.reason)
        node.pilot.put({"failovers_total": 1})
        _check_own_health(node)
        lock.step(f"waiting for {outcome.promoted} to be healthy in Consul")
        if not poll_until(lambda: _there_is_a_primary(node), Deadline(WAIT_FOR_HEALTH), interval=0.1):
            LOG.warning("%s is not healthy in Consul after %.0f s", outcome.promoted, WAIT_FOR_HEALTH)
    return 0


def _there_is_a_primary(node: Node) -> bool:
    return primary_instance(node.discovery.view()) is not None


def _wait_for_winner(node: Node, begun: ClusterView) -> None:
    """Until the runner is done: the new primary says so in Consul, and the one that was that it is no longer.

    The others look at themselves only then: the runner has their guards until it is done.
    """
    before, old, first = begun.lock_session, primary_instance(begun), begun.lock_holder
    if old is None and first is not None and first.name == node.name:
        before = None  # promoted already, and it is not in Consul yet
    deadline = Deadline(WAIT_FOR_WINNER)

    def sessions() -> tuple[str | None, str | None]:
        """Whose PRIMARY_KEY is, and the failover lock; no answer from Consul is no news."""
        with contextlib.suppress(ConsulUnavailable):
            return node.discovery.lock_sessions()
        return before, begun.failover_session

    def moved_or_over() -> bool:
        primary, failover_lock = sessions()
        return primary not in (None, before) or failover_lock is None

    poll_until(moved_or_over, deadline)
    cluster = node.discovery.view()
    holder = cluster.lock_holder if cluster.lock_session != before else None
    promoted = holder is not None and holder.name == node.name
    if promoted:
        if _opens(node):
            with contextlib.suppress(ConsulError):
                node.pilot.advertise("primary", passing=True, note="promoted")
        _check_own_health(node)
    elif holder is not None and old is not None and old.name == node.name:
        reason = f"the role went to {holder.name}"
        last.keep(node.settings.run_dir, role="replica", healthy=False, reason=reason)
        node.pilot.advertise("replica", passing=False, note=reason)
    poll_until(lambda: sessions()[1] is None, deadline, interval=0.2)
    if not promoted:
        _check_own_health(node)


def _opens(node: Node) -> bool:
    """Wait until the runner has opened this node's server; False if that takes long: then its own health does."""
    with contextlib.suppress(MySQLError), node.local() as conn:
        return poll_until(lambda: serves(conn), Deadline(WAIT_FOR_OPENING), interval=0.02)
    return False


def _check_own_health(node: Node) -> None:
    """Act on the outcome at once instead of at the next interval; the next one does it if this fails."""
    try:
        with node.alone("health", wait=5.0), node.local() as conn:
            verdict, _ = health.check(node, conn)
            LOG.info("%s: %s", verdict.role, verdict.reason)
    except (Busy, MySQLError, ConsulError) as error:
        LOG.info("own health: %s", error)
