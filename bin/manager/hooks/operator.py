"""What a person asks for: switchover, failover, pause and resume; and the hand-over of a clean stop."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from manager import failover, rpladmin_check
from manager.decide.failover import Watch, at_risk, choose, when
from manager.decide.series import cannot_follow
from manager.discovery.lock import Lock
from manager.errors import AutopilotError, LockHeld, MySQLError, TimeIsUp, TransactionRefused
from manager.mysql import operations
from manager.mysql.guard import guard
from manager.mysql.state import read_state
from manager.node import Node
from manager.priority import prefer
from manager.promotion import Outcome, joined, prospects
from manager.view import primary_instance, read_peers
from manager.waiting import Deadline, pause, poll_until

LOG = logging.getLogger(__name__)

LOCK_WAIT = 30.0
STOP_TIME = 20.0
HEALTHY_TIME = 15.0


def switchover(node: Node, *, to: str | None) -> int:
    """Hand the primary's role to `to`, or to whoever is chosen; 0 once the new one is healthy in Consul."""
    name = to.removeprefix("mysql-") if to is not None else None

    def hand_over(lock: Lock) -> Outcome:
        return failover.switch_over(node, lock, to=name, reason="switchover")

    return _report(_under_lock(node, "switchover", hand_over, LOCK_WAIT))


def fail_over(node: Node, *, dry_run: bool, forced: bool) -> int:
    """Fail over if the rules say so; `dry_run` only says what would be done; `forced` accepts a loss."""
    if dry_run:
        print(explain(node, forced=forced))
        return 0

    def run(lock: Lock) -> Outcome:
        return failover.force(node, lock) if forced else failover.run(node, lock)

    return _report(_under_lock(node, "failover by a person", run, LOCK_WAIT))


def explain(node: Node, *, forced: bool) -> str:
    """Return, in lines for people, what a failover would do now, to whom, and why not the others."""
    cluster = node.discovery.view()
    record = cluster.record
    if record is None:
        return "nothing: there is no cluster record"
    peers = read_peers(node, cluster, others_only=False)
    patient = Watch(closed=1e9, free=1e9)
    verdict, reason = when(cluster, peers, patient, lease=node.settings.lease, holdoff=0)
    lines = [f"{verdict.value}: {reason}"]
    choice = choose(record, prospects(peers, record, cluster), forced=forced)
    lines.append(f"would promote: {choice.chosen.name if choice.chosen else 'nobody'} ({choice.reason})")
    lines += [f"not {name}: {why}" for name, why in sorted(choice.rejected.items())]
    lines += [f"not {p.name}: it does not answer ({p.error})" for p in peers if p.state is None]
    if choice.chosen is not None:
        for peer in joined(peers, record):
            if peer.state is not None and (why := cannot_follow(peer.state.version, choice.chosen.version)):
                lines.append(f"would stay out: {peer.name}: {why}")
    lines += [f"at risk: {line}" for line in at_risk(record, choice, peers)]
    lines.append(f"engine: {rpladmin_check.explain(node.settings, record)}")
    return "\n".join(lines)


def pause_cluster(node: Node, *, reason: str) -> int:
    """Stop failover, hand-over by others and rebuild until `resume`; replication and membership go on."""
    text = f"by {node.title} at {time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())}"
    node.discovery.pause(f"{text}: {reason}" if reason else text)
    print("paused: nothing fails over until `manage.py resume`")
    return 0


def resume_cluster(node: Node) -> int:
    """Let automatic action go on."""
    node.discovery.resume()
    print("resumed")
    return 0


def pre_stop(node: Node) -> int:
    """Before mysqld is stopped: a primary hands its role over, as far as that can be done in 20 s.

    Ends with 0 once the server is closed, or dead: what cannot be handed over is left to the failover that follows.
    """

    def hand_over(lock: Lock) -> Outcome:
        return failover.switch_over(node, lock, to=None, reason=f"{node.title} is being stopped")

    try:
        holder = node.discovery.view().lock_holder
        if holder is not None and holder.name == node.name:
            _stop_channels(node)
            outcome = _under_lock(node, "hand-over of a stop", hand_over, STOP_TIME)
            LOG.info("hand-over: %s", outcome.promoted or outcome.reason)
    except (AutopilotError, TimeIsUp) as error:
        LOG.warning("no hand-over: %s", error)
    node.stops()
    _close_for_the_stop(node)
    return 0


def _stop_channels(node: Node) -> None:
    """They would go on in the closed server, with what only this one has then."""
    with node.local(timeout=3.0) as conn, guard(conn):
        operations.stop_channels(conn, read_state(conn).channels)


def _close_for_the_stop(node: Node) -> None:
    """A clean shutdown acknowledges commits that nobody else has (measured): only a closed server may have one."""
    try:
        with node.local(timeout=3.0) as conn:
            operations.close_server(conn)
    except MySQLError as error:
        LOG.warning("%s: SIGKILL instead of a clean stop", error)
        node.kill_server()


def _under_lock(node: Node, reason: str, work: Callable[[Lock], Outcome], seconds: float) -> Outcome:
    """Do `work` under the failover lock, waiting up to `seconds` for it; then wait for a healthy primary."""
    prefer()  # as the hooks of the agent: writes wait for it
    deadline = Deadline(seconds)
    while True:
        try:
            with node.discovery.failover_lock(reason) as lock:
                outcome = work(lock)
                _wait_until_healthy(node, outcome.promoted)
                return outcome
        except (LockHeld, TransactionRefused):
            if deadline.over:
                raise
            pause(0.2)


def _wait_until_healthy(node: Node, name: str | None) -> None:
    def is_healthy() -> bool:
        primary = primary_instance(node.discovery.view())
        return primary is not None and primary.name == name

    if name is not None and not poll_until(is_healthy, Deadline(HEALTHY_TIME), interval=0.1):
        LOG.warning("%s is not healthy in Consul after %.0f s", name, HEALTHY_TIME)


def _report(outcome: Outcome) -> int:
    if outcome.promoted is None:
        raise AutopilotError(f"nothing done: {outcome.reason}")
    print(f"mysql-{outcome.promoted} is the primary ({outcome.reason})")
    return 0
