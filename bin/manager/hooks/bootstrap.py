"""`bootstrap --force`: found the cluster anew on this node, after a total loss. A person has decided that."""

from __future__ import annotations

import contextlib
import logging
from dataclasses import replace

from manager import nodefile
from manager.discovery.cluster import ClusterView
from manager.discovery.record import FORCED_LEAP, Record
from manager.errors import AutopilotError, ConsulError, MySQLError
from manager.hooks.steps import wanted_durability
from manager.mysql.state import ServerState, read_state
from manager.node import Node
from manager.snapshot.catalogue import find
from manager.view import highest_epoch, read_peers
from manager.waiting import Deadline, pause, poll_until

LOG = logging.getLogger(__name__)

RESTORE_TIME = 3600.0
OPEN_TIME = 60.0
SESSION_TIME = 30.0


def run(node: Node, *, snapshot: str | None) -> int:
    """Return 0 once this node is the primary of a new cluster, with its present data or with that snapshot."""
    cluster = node.discovery.view()
    seen = _refuse_beside_a_primary(node, cluster)
    if snapshot is not None:
        _restore(node, snapshot)
    with node.local(timeout=5.0) as conn:
        server = read_state(conn)
    file = node.file()
    if file is None:
        raise AutopilotError("pre_start has not prepared this data directory")
    if nodefile.is_building(node.settings.mysql_datadir):
        raise AutopilotError("this data directory is half-made: restart the node first, which begins anew")
    session = _session(node)
    record = _record(node, cluster, server, file, seen)
    # Data that is there is no place for first-start scripts, whose end would be a condition of keeping it.
    scripts_done = file.scripts_done or bool(server.executed)
    fresh = replace(file, cluster_id=None, ready=False, may_found=True, why_not_found="")
    node.write_file(replace(fresh, scripts_done=scripts_done))
    node.discovery.retake(record, cluster.record_index, session)
    print(f"cluster {record.id} is founded on {node.title}; its next health run opens it")
    if not poll_until(lambda: _open(node, record), Deadline(OPEN_TIME), interval=0.5):
        raise AutopilotError(f"{node.title} is not open after {OPEN_TIME:.0f} s; `manage.py status` says why")
    return 0


def _session(node: Node) -> str:
    """This node's session, which it gets once its `-node` check passes; ConsulError if not within 30 s."""
    deadline = Deadline(SESSION_TIME)
    while True:
        try:
            return node.discovery.ensure_session()
        except ConsulError as error:
            if deadline.over:
                raise
            LOG.info("waiting for a Consul session: %s", error)
            pause(1.0)


def _refuse_beside_a_primary(node: Node, cluster: ClusterView) -> int:
    """Return the highest epoch that a server has seen."""
    peers = read_peers(node, cluster, others_only=False)
    serving = [p.name for p in peers if p.state and p.state.serves]
    if serving:
        raise AutopilotError(f"{', '.join(serving)} is open for writing: there is nothing to found anew")
    if cluster.lock_session is not None:
        raise AutopilotError("PRIMARY_KEY is held by a living session: stop that node first")
    return highest_epoch(peers)


def _record(
    node: Node, cluster: ClusterView, server: ServerState, file: nodefile.NodeFile, seen: int
) -> Record:
    """A new cluster's first record, above every epoch that a server or Consul has seen."""
    known = [seen, server.row.epoch if server.row else 0, cluster.record.epoch if cluster.record else 0]
    first = Record.founding(
        primary=server.server_uuid,
        primary_name=node.name,
        origin="initialised" if file.origin == "initialised" and not server.executed else "snapshot",
        base=str(server.executed),
        durability=wanted_durability(node, server),
        reason="bootstrap --force",
    )
    return replace(first, epoch=max(known) + FORCED_LEAP)


def _restore(node: Node, snapshot: str) -> None:
    """Put the snapshot into this node's data directory, which must be its own, empty and unused."""
    find(node.store, snapshot)
    file = node.file()
    datadir = node.settings.mysql_datadir
    if file is None or file.origin != "initialised" or file.ready:
        raise AutopilotError(f"MYSQL_DATADIR {datadir} holds data: restore into a fresh node")
    nodefile.begin_building(datadir, snapshot)
    node.kill_server()
    print(f"restoring {snapshot}; the pilot starts mysqld with it")

    def restored() -> bool:
        now = node.file()
        if now is None or now.origin != "restored" or now.snapshot != snapshot:
            return False
        with contextlib.suppress(MySQLError), node.local() as conn:
            return read_state(conn).closed
        return False

    if not poll_until(restored, Deadline(RESTORE_TIME), interval=1.0):
        raise AutopilotError(f"{snapshot} is not restored after {RESTORE_TIME:.0f} s; see the node's log")


def _open(node: Node, record: Record) -> bool:
    now = node.discovery.view().record
    if now is None or now.id != record.id or now.state != "open":
        return False
    with contextlib.suppress(MySQLError), node.local() as conn:
        return read_state(conn).serves
    return False
