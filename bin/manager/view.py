"""Gathering: one look at Consul and at the MySQL servers, as frozen values that decisions read."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TypeVar

from manager import first_start
from manager.comeback import state as comeback
from manager.comeback.state import Comeback
from manager.discovery.cluster import ClusterView, Instance
from manager.discovery.record import Record
from manager.errors import AutopilotError, ConsulUnavailable, RecordError, SessionInvalid
from manager.first_start import FirstStart
from manager.mysql.connection import Connection
from manager.mysql.state import ServerState, read_state
from manager.node import Node
from manager.nodefile import NodeFile
from manager.watched import Watched

LOG = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, kw_only=True)
class Peer:
    """Another node: where its `-node` service says it is, and what its server answered (None: no answer)."""

    name: str
    address: str
    port: int
    passing: bool
    state: ServerState | None
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class View:
    """All that `health` decides from. `cluster` is None when Consul gave no answer, for the reason `why`.

    `session` is this node's live session, None while it could not get one. `primary` is the server behind the
    healthy primary service, read only when this node may have to follow it, or the record has changed. `peers` are
    read only when the record is gone or from the past, or Consul is away: they answer in the record's place.
    `comeback` tells how far the return of a node that had diverged has come; `stopping` that pre_stop has closed
    this server; `first_start` how far a founding node is with the users' scripts.
    """

    name: str
    address: str
    port: int
    replication_configured: bool
    max_lag: int | None
    file: NodeFile
    server: ServerState
    cluster: ClusterView | None
    why: str = ""
    session: str | None = None
    primary: Peer | None = None
    peers: tuple[Peer, ...] = ()
    known: frozenset[str] = frozenset()
    watched: Watched = field(default_factory=Watched)
    comeback: Comeback | None = None
    auto_rebuild: bool = True
    stopping: bool = False
    first_start: FirstStart = field(default_factory=FirstStart)

    @property
    def own(self) -> Record | None:
        """The newest record that this server's hooks have read, from its local row."""
        row = self.server.row
        return Record.from_json(row.record) if row is not None and row.record else None

    @property
    def holds_lock(self) -> bool:
        """True if PRIMARY_KEY is held by this node's live session."""
        return (
            self.cluster is not None
            and self.session is not None
            and self.cluster.lock_session == self.session
        )


def in_parallel(function: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """Apply `function` to all items at once; results in order. A call's own time limit bounds it."""
    work = list(items)
    if not work:
        return []
    with ThreadPoolExecutor(max_workers=min(16, len(work))) as pool:
        return list(pool.map(function, work))


def read_peer(node: Node, instance: Instance, *, timeout: float = 1.0) -> Peer:
    """Ask the server behind `instance` for its state; one that does not answer has none, and the reason."""
    state, error = None, ""
    try:
        with node.remote(instance.address, instance.port, timeout=timeout) as conn:
            state = read_state(conn)
    except AutopilotError as problem:
        error = str(problem)
    return Peer(
        name=instance.name,
        address=instance.address,
        port=instance.port,
        passing=instance.passing,
        state=state,
        error=error,
    )


def read_peers(node: Node, cluster: ClusterView, *, others_only: bool = True) -> tuple[Peer, ...]:
    """Ask every node of the cluster at once; takes as long as the slowest answer, about 2 s at most."""
    found = [i for i in one_per_address(cluster) if not (others_only and i.name == node.name)]
    return tuple(in_parallel(lambda instance: read_peer(node, instance), found))


def highest_epoch(peers: Iterable[Peer]) -> int:
    """The highest epoch that one of these servers has seen; 0 if none has seen any."""
    return max(
        (p.state.row.epoch for p in peers if p.state is not None and p.state.row is not None), default=0
    )


def one_per_address(cluster: ClusterView) -> list[Instance]:
    """The nodes, each server once: a container that is gone may have left its address to a new one.

    Consul keeps a dead node for days. Of two nodes at one address the passing one is there, or the one that
    has a session.
    """
    found = sorted(cluster.of("node"), key=lambda i: (i.passing, i.name in cluster.sessions))
    return sorted({(i.address, i.port): i for i in found}.values(), key=lambda i: i.name)


def primary_instance(cluster: ClusterView) -> Instance | None:
    """The healthy primary service, or None. If two nodes advertise themselves, the lock holder wins.

    While nobody holds PRIMARY_KEY there is none: what still passes is a check that nobody has looked at since.
    """
    passing = [i for i in cluster.of("primary") if i.passing]
    holder = cluster.lock_holder
    if cluster.lock_session is None:
        return None
    for instance in passing:
        if holder is not None and instance.name == holder.name:
            return instance
    return passing[0] if len(passing) == 1 and holder is None else None


def gather(node: Node, conn: Connection, file: NodeFile, known: frozenset[str]) -> View:
    """Look once at this server and at Consul, and at other servers only where the decision needs them."""
    server = read_state(conn)
    settings = node.settings
    cluster: ClusterView | None = None
    session: str | None = None
    why = ""
    try:
        with contextlib.suppress(SessionInvalid):
            session = node.discovery.ensure_session()
        cluster = node.discovery.view()
    except (ConsulUnavailable, RecordError) as error:
        why = str(error)
    view = View(
        name=node.name,
        address=node.address,
        port=node.port,
        replication_configured=settings.replication,
        max_lag=settings.replica_max_lag,
        file=file,
        server=server,
        cluster=cluster,
        why=why,
        session=session,
        known=known,
        comeback=_comeback(node),
        auto_rebuild=settings.auto_rebuild,
        stopping=node.stopping,
        first_start=first_start.look(settings, file),
    )
    return _with_others(node, view)


def _comeback(node: Node) -> Comeback | None:
    """A file that cannot be read must not keep a sound server from its work."""
    try:
        return comeback.read(node.settings.mysql_datadir)
    except AutopilotError as error:
        LOG.warning("%s", error)
        return None


def _with_others(node: Node, view: View) -> View:
    if not view.replication_configured:
        return view
    cluster, server = view.cluster, view.server
    own = view.own
    if cluster is None or (view.session is None and server.serves):
        return replace(view, peers=_known_peers(node, view.known)) if server.serves else view
    record = cluster.record
    past = own is not None and (record is None or record.older_than(own.epoch, own.version))
    restarted = record is not None and record.primary == server.server_uuid and not server.serves
    if past or (restarted and record is not None and record.members):
        return replace(view, peers=read_peers(node, cluster))
    if record is not None and record.primary != server.server_uuid:
        instance = primary_instance(cluster)
        # Whenever the primary's server has restarted, as another one maybe, it has changed the record.
        if instance is not None and not (replicates(server, instance) and _has_seen(server, record)):
            return replace(view, primary=read_peer(node, instance))
    return view


def _has_seen(server: ServerState, record: Record) -> bool:
    row = server.row
    return row is not None and (row.epoch, row.version) == (record.epoch, record.version)


def follows(server: ServerState, instance: Instance) -> bool:
    """True if replication points at that address (it may not be running)."""
    source = server.replication
    return source is not None and (source.source_host, source.source_port) == (
        instance.address,
        instance.port,
    )


def replicates(server: ServerState, instance: Instance) -> bool:
    """True if replication from that address is running, both threads."""
    source = server.replication
    return (
        follows(server, instance) and source is not None and source.io_running == "Yes" and source.sql_running
    )


def _known_peers(node: Node, known: frozenset[str]) -> tuple[Peer, ...]:
    instances = []
    for entry in sorted(known):
        name, address, port = entry.rsplit(" ", 2)
        instances.append(Instance(service="node", name=name, address=address, port=int(port), passing=False))
    return tuple(in_parallel(lambda instance: read_peer(node, instance), instances))
