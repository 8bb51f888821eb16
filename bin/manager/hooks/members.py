"""The members of a serving primary: one look at the other nodes, and one step if one is due.

Done last in a health run, when the lease is refreshed and the role advertised: a node that does not answer costs
a second here, and nothing else has to wait for it.
"""

from __future__ import annotations

import logging
import time
from dataclasses import replace

from manager import membership, watched
from manager.decide.membership import Step, change, is_good
from manager.errors import AutopilotError, ConsulUnavailable, MySQLError, TransactionRefused
from manager.hooks.steps import STEP_TIME, Work
from manager.mysql.guard import guard
from manager.stale import stale_guard_taken
from manager.view import View, read_peers
from manager.watched import Watched

LOG = logging.getLogger(__name__)


def see_to(work: Work) -> None:
    """Do one membership step, if one is due; what goes wrong is tried again in the next run."""
    node, settings = work.node, work.node.settings
    if work.view.server.semisync is None or not settings.replication:
        return
    try:
        # In async nothing depends on what they say.
        peers = read_peers(node, work.cluster) if work.record.durability == "semisync" else ()
        view = replace(work.view, peers=peers)
        due = change(
            work.record,
            view.server,
            view.peers,
            _watch(work, view),
            wanted=settings.durability,
            most=settings.sync_members,
        )
        if due.step is Step.NONE:
            return
        with (
            stale_guard_taken(work.conn, work.cluster),
            guard(work.conn),
            work.conn.timeout(STEP_TIME),
        ):
            work.still_true(lock=True)
            membership.carry_out(node, work.primary(), due, view)
    except (TransactionRefused, MySQLError, ConsulUnavailable) as error:
        LOG.info("members: not done: %s", error)
    except AutopilotError as error:
        LOG.warning("members: %s", error)


def _watch(work: Work, view: View) -> Watched:
    """For how long the members have been in trouble."""
    server = view.server
    assert server.semisync is not None
    good = {p.state.server_uuid for p in view.peers if p.state and is_good(p, server.server_uuid)}
    watch = watched.load(work.node)
    seen = watch.look(
        time.monotonic(),
        lost=set(work.record.members) - good,
        waiting=server.semisync.waiting,
        acknowledged=server.semisync.acknowledged,
        empty=not work.record.members and server.semisync.source_on,
        restarting=False,
    )
    watched.save(work.node, watch)
    return seen
