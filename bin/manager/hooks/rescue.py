"""`rescue`: started by health on a node that has diverged, or lacks what the primary has purged (SPEC 7).

It saves what the primary lacks, if anything, gets a copy of the primary, and cleans up.

Health has 4 s and this may take hours. Killed at any point, the next run goes on where it stopped.
"""

from __future__ import annotations

import contextlib
import logging
import time
from dataclasses import dataclass, replace
from pathlib import Path

from manager.comeback import binlog, rebuild, save, state
from manager.comeback.state import Comeback, Phase
from manager.decide.comeback import bars_a_rebuild
from manager.decide.health import Action, Decision, decide
from manager.decide.join import errant
from manager.discovery.cluster import ClusterView
from manager.discovery.record import Record
from manager.errors import AutopilotError, Busy, ComebackError
from manager.gtid import GtidSet
from manager.hooks import known
from manager.mysql import operations
from manager.mysql.connection import Connection
from manager.mysql.guard import check_held, guard
from manager.mysql.state import ServerState
from manager.node import Node
from manager.view import Peer, View, gather
from manager.waiting import Deadline, pause

LOG = logging.getLogger(__name__)

SECOND_LOOK = 1.5
DRAIN_TIME = 4.0
GUARD_WAIT = 6.0
COPY_AGE = 600.0
STEP_TIME = 5.0


def run(node: Node) -> int:
    """Return 0 when nothing is left to do, or another process of this node does it; AutopilotError otherwise."""
    try:
        with node.alone("rescue"), node.local(timeout=STEP_TIME) as conn:
            _run(node, conn)
    except Busy as busy:
        LOG.debug("%s", busy)
    return 0


def _run(node: Node, conn: Connection) -> None:
    datadir = node.settings.mysql_datadir
    view, decision = _look(node, conn)
    if decision.action in (Action.REPLICATE, Action.SERVE):
        if view.comeback is not None:
            rebuild.clean(view.comeback)
            state.clear(datadir)
            LOG.info("the return is complete: %s", decision.reason)
        return
    try:
        found = _confirmed(node, conn)
        if found is not None:
            _come_back(node, conn, found)
    except AutopilotError as error:
        with contextlib.suppress(AutopilotError):
            comeback = state.read(datadir)
            if comeback is not None:
                state.write(datadir, replace(comeback, note=str(error)))
        raise


@dataclass(frozen=True, kw_only=True)
class _Diverged:
    """One look at a node that has diverged: `extra` are the transactions that the primary lacks."""

    view: View
    cluster: ClusterView
    record: Record
    primary: Peer
    theirs: ServerState
    extra: GtidSet


def _look(node: Node, conn: Connection) -> tuple[View, Decision]:
    file = node.file()
    if file is None:
        raise ComebackError("pre_start has not prepared this data directory")
    view = gather(node, conn, file, known.read(node))
    return view, decide(view)


def _diverged(node: Node, conn: Connection) -> _Diverged | None:
    """Look once; None, with the reason in the log, if there is nothing to rescue (any more)."""
    view, decision = _look(node, conn)
    cluster, primary = view.cluster, view.primary
    if (
        decision.action is not Action.COME_BACK
        or cluster is None
        or cluster.record is None
        or primary is None
        or primary.state is None
    ):
        LOG.info("nothing to rescue: %s", decision.reason)
        return None
    return _Diverged(
        view=view,
        cluster=cluster,
        record=cluster.record,
        primary=primary,
        theirs=primary.state,
        extra=errant(view.server, primary.state),
    )


def _confirmed(node: Node, conn: Connection) -> _Diverged | None:
    """Two looks must agree: a commit that waits is on a replica before it is in the primary's executed set.

    What was received and is not applied yet is applied in between, so that it is in this server's own binlog.
    """
    first = _diverged(node, conn)
    if first is None:
        return None
    if not first.extra <= first.view.server.executed:
        with guard(conn, wait=GUARD_WAIT):
            operations.drain(conn, Deadline(DRAIN_TIME))
    pause(SECOND_LOOK)
    second = _diverged(node, conn)
    if second is not None and first.extra != second.extra:
        LOG.info("the difference to the primary has changed; the next run looks again")
        return None
    return second


def _come_back(node: Node, conn: Connection, found: _Diverged) -> None:
    comeback = found.view.comeback
    if not found.extra:
        if comeback is None or comeback.phase is Phase.SAVING:
            comeback = _nothing_to_save(node, found)
    elif comeback is None or not comeback.has_saved(found.extra):
        comeback = _save(node, found)
    barred = bars_a_rebuild(found.view)
    if barred:
        LOG.warning("not rebuilt: %s", barred)
        return
    copied = _copy(node, conn, found, comeback)
    if copied is not None:
        _restart(node, conn, copied)


# --- Its steps ----------------------------------------------------------------------------------


def _nothing_to_save(node: Node, found: _Diverged) -> Comeback:
    """It has nothing that the primary lacks: it is only too far behind for replication, or empty."""
    comeback = Comeback(
        phase=Phase.SAVED,
        cluster_id=found.record.id,
        server_uuid=found.view.server.server_uuid,
        folder="",
        extra="",
    )
    state.write(node.settings.mysql_datadir, comeback)
    return comeback


def _save(node: Node, found: _Diverged) -> Comeback:
    datadir, server, before = node.settings.mysql_datadir, found.view.server, found.view.comeback
    folder = save.folder_name(node, server.server_uuid, time.time())
    if before is not None and before.phase is Phase.SAVING and before.server_uuid == server.server_uuid:
        folder = before.folder  # a run that was cut off, or failed
    comeback = Comeback(
        phase=Phase.SAVING,
        cluster_id=found.record.id,
        server_uuid=server.server_uuid,
        folder=folder,
        extra=str(found.extra),
        note=before.note if before is not None else "",
        place=before.place if before is not None else "",
    )
    state.write(datadir, comeback)
    paths = binlog.holding(binlog.files(datadir), found.extra & server.executed)
    if not found.extra <= server.executed:
        paths += binlog.files(datadir, binlog.RELAY_INDEX)
    about = save.about(found.record, found.theirs, server_uuid=server.server_uuid, way="rebuild")
    LOG.warning("diverged: saving %d transactions as %s: %s", found.extra.count, folder, found.extra)
    save.save(node, folder, found.extra, [save.whole_file(path) for path in paths], about)
    comeback = comeback.now(Phase.SAVED)
    state.write(datadir, comeback)
    return comeback


def _copy(node: Node, conn: Connection, found: _Diverged, comeback: Comeback) -> Comeback | None:
    """Get a copy of the primary beside the data, unless a fresh one is there; None: it is too early to try again."""
    datadir = node.settings.mysql_datadir
    age = time.time() - comeback.copied_at
    complete = comeback.phase in (Phase.COPIED, Phase.MOVING_OUT)
    if complete and comeback.epoch == found.record.epoch and 0 <= age <= COPY_AGE:
        return comeback
    if wait := comeback.waits(time.time()):
        LOG.debug("the last copy failed: the next one is tried in %.0f s", wait)
        return None
    place = comeback.place or str(rebuild.beside(datadir))
    comeback = comeback.now(Phase.SAVED, place=place)
    state.write(datadir, comeback)
    try:
        source = rebuild.fetch(node, conn, found.cluster, found.primary, Path(place))
    except AutopilotError:
        state.write(datadir, replace(comeback, failures=comeback.failures + 1, failed_at=time.time()))
        raise
    comeback = comeback.now(
        Phase.COPIED,
        source=source,
        epoch=found.record.epoch,
        copied_at=time.time(),
        cluster_id=found.record.id,
        failures=0,
    )
    state.write(datadir, comeback)
    LOG.info("%s is complete", source)
    return comeback


def _restart(node: Node, conn: Connection, comeback: Comeback) -> None:
    """End mysqld, if it is still diverged and closed: pre_start exchanges the files before it starts again."""
    with guard(conn, wait=GUARD_WAIT):
        found = _diverged(node, conn)
        if (
            found is None
            or not comeback.has_saved(found.extra)
            or found.record.epoch != comeback.epoch
            or not found.view.server.super_read_only
        ):
            raise ComebackError("the cluster has changed while the copy was made; the next run looks again")
        if barred := bars_a_rebuild(found.view):
            raise ComebackError(barred)
        if found.view.server.server_uuid in found.record.members:
            # What it has acknowledged since the copy was made would be gone with it, and A would name nobody.
            operations.stop_io(conn)
            raise ComebackError("still a member: it receives nothing any more, and the primary removes it")
        check_held(conn)
        state.write(node.settings.mysql_datadir, rebuild.ready_to_move(comeback))
        LOG.warning("ending mysqld: it starts again on %s", comeback.source)
        node.kill_server()
