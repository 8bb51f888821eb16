"""What `health` does next: a pure function of one look at the world, with its reason in words.

The rule behind every line (SPEC 7): a server is writable only while its node holds PRIMARY_KEY *and* the
record names it at the epoch at which it opened. mysqld's own view, and replicas that still follow it, never
make a primary.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from manager.decide.comeback import bars_a_rebuild, next_step
from manager.decide.join import Join, errant, may_join, received
from manager.decide.series import cannot_follow
from manager.discovery.cluster import ClusterView
from manager.discovery.record import Record
from manager.first_start import Phase
from manager.gtid import GtidSet
from manager.mysql.semisync import account
from manager.view import Peer, View, primary_instance, replicates


class Action(Enum):
    """One step of `health`. After most steps it looks again; SERVE, REPLICATE and WAIT end the run."""

    FOUND = "write the first record and take PRIMARY_KEY"
    TAKE_OVER = "go on with a founding whose founder is gone"
    FIRST_START = "set up accounts and database, then run the first-start scripts"
    BOOTSTRAP = "set up accounts and database, then declare the cluster open"
    RETAKE = "take PRIMARY_KEY again, together with a touch of the record"
    REWRITE = "write the record again from this server's own copy, and take PRIMARY_KEY"
    OPEN = "open this server for writing"
    ALONE = "cut the members off and empty A, before this restarted primary opens alone"
    SERVE = "serve as the primary"
    CLOSE = "close this server"
    FOLLOW = "replicate from the primary"
    START = "start replication again"
    LEAVE = "stop replicating from a server of a newer series"
    PART = "stop the channels that are none of ours"
    REPLICATE = "serve as a replica"
    COME_BACK = "save what this diverged server has beyond the primary, then rebuild it"
    BEGIN_ANEW = "throw away this node's own empty database and restore a snapshot"
    WAIT = "wait"


RESTART_WAIT = 8.0
NOT_LET_IN = frozenset({1045, 3118})  # no such account (yet), account locked

CONNECTION_REFUSED = frozenset({1040, 1045, 1053, 1130, 3032, 3118, 3159})

FINAL = frozenset(
    {Action.SERVE, Action.REPLICATE, Action.WAIT, Action.COME_BACK, Action.BEGIN_ANEW, Action.FIRST_START}
)


# A server that is closed for its stop is not opened again, nor made the one to open.
OPENING = frozenset({Action.RETAKE, Action.REWRITE, Action.OPEN, Action.ALONE})


@dataclass(frozen=True)
class Decision:
    """`failover`: nobody is a healthy primary, so `on_change` is to be started as well.
    `confirmed`: (SERVE) that this node is the primary was seen just now, so its lease may be renewed."""

    action: Action
    reason: str
    failover: bool = False
    confirmed: bool = True


def decide(view: View) -> Decision:
    """Return the next step of this node's health run."""
    decision = _decide(view)
    if view.stopping and decision.action in OPENING:
        return Decision(Action.WAIT, f"this node is being stopped; else: {decision.reason}")
    return decision


def _decide(view: View) -> Decision:
    cluster = view.cluster
    if cluster is None:
        return _without_consul(view)
    record, own = cluster.record, view.own
    if own is not None and (record is None or record.older_than(own.epoch, own.version)):
        return _record_from_the_past(view, cluster, own)
    if record is None:
        return _without_record(view, cluster)
    if view.file.cluster_id not in (None, record.id):
        return _stay_out(
            view, f"this data directory belongs to cluster {view.file.cluster_id}, not to {record.id}"
        )
    if record.primary == view.server.server_uuid:
        if record.members and view.server.semisync is None:
            return _stay_out(view, "this server has no semi-sync plugins, and the record has members")
        return _named(view, cluster, record)
    return _another_named(view, cluster, record)


def _named(view: View, cluster: ClusterView, record: Record) -> Decision:
    if view.session is None:
        if view.server.serves and cluster.lock_session is None:
            return _without_lock(view, "no Consul session yet")
        return Decision(Action.WAIT, "the record names this node, which has no Consul session yet")
    if not view.holds_lock:
        if cluster.lock_session is not None:
            holder = cluster.lock_holder
            who = holder.name if holder else "a session of somebody else"
            return _stay_out(view, f"the record names this node, but {who} holds PRIMARY_KEY")
        return Decision(
            Action.RETAKE, f"the record names this node at epoch {record.epoch} and PRIMARY_KEY is free"
        )
    if record.state == "founding":
        return _founding(view)
    row = view.server.row
    if not view.server.serves or row is None or row.opened_epoch != record.epoch:
        if record.members and row is not None and row.opened_epoch == record.epoch:
            return _restarted(view, record)
        return Decision(
            Action.OPEN, f"this node holds PRIMARY_KEY and the record names it at epoch {record.epoch}"
        )
    holder = cluster.lock_holder
    if holder is None or (holder.address, holder.port) != (view.address, view.port):
        return Decision(Action.RETAKE, "this node's address has changed")
    return Decision(Action.SERVE, f"primary at epoch {record.epoch}")


def _founding(view: View) -> Decision:
    phase, word = view.first_start.phase, view.first_start.word
    match phase:
        case Phase.WANTED:
            return Decision(Action.FIRST_START, "this node founds the cluster, and has first-start scripts")
        case Phase.RUNNING:
            return Decision(Action.WAIT, f"this node founds the cluster: running {word}")
        case Phase.FAILED:
            return Decision(Action.WAIT, f"{word}. Mend it and restart this node, which then begins anew")
        case Phase.CUT_OFF:
            return Decision(Action.BEGIN_ANEW, f"the first-start scripts were cut off at {word}")
        case Phase.NOTHING:
            return Decision(Action.BOOTSTRAP, "this node founds the cluster")


def _restarted(view: View, record: Record) -> Decision:
    """A restarted primary's binlog may hold commits that nobody acknowledged: a member must have them first."""
    held_by = [
        p.name
        for p in view.peers
        if p.state is not None
        and p.state.server_uuid in record.members
        and view.server.executed <= received(p.state)
    ]
    if held_by:
        return Decision(Action.OPEN, f"restarted, and {held_by[0]} has received everything")
    waited = view.watched.restarting
    if waited < RESTART_WAIT:
        return Decision(
            Action.WAIT, f"restarted: waiting for a member to receive everything ({waited:.0f} s)"
        )
    return Decision(Action.ALONE, f"restarted, and no member has received everything in {waited:.0f} s")


def _another_named(view: View, cluster: ClusterView, record: Record) -> Decision:
    if view.first_start.phase in (Phase.RUNNING, Phase.FAILED, Phase.CUT_OFF):
        return Decision(
            Action.BEGIN_ANEW, f"{record.primary_name} founds the cluster: what the scripts did here goes"
        )
    if not view.server.super_read_only:
        return Decision(Action.CLOSE, f"epoch {record.epoch} belongs to {record.primary_name}")
    if others := view.server.further_sources:
        return Decision(
            Action.PART, f"a replica has all from {record.primary_name}, and nothing by the channel {others}"
        )
    if view.file.origin == "adopted" and not view.file.ready:
        return Decision(Action.WAIT, "an adopted data directory never joins: its rows may be in no binlog")
    if record.state == "founding":
        return _founding_by_another(view, cluster, record)
    if not view.replication_configured:
        return Decision(
            Action.WAIT, "MYSQL_REPL_USER and MYSQL_REPL_PASSWORD are not set: only one node works"
        )
    instance = primary_instance(cluster)
    if instance is None:
        reason = f"no healthy primary; the record names {record.primary_name} at epoch {record.epoch}"
        return Decision(Action.WAIT, reason, failover=view.file.ready)
    if replicates(view.server, instance):
        return _replicating(view, record)
    if view.primary is None or view.primary.state is None:
        why = view.primary.error if view.primary else "not asked"
        return Decision(Action.WAIT, f"primary {instance.name} does not answer: {why}")
    return _compared(view, record, view.primary)


def _compared(view: View, record: Record, primary: Peer) -> Decision:
    join, reason = may_join(view, record, primary)
    if join is Join.NEEDS_SNAPSHOT:
        fresh = view.file.origin == "initialised" and not view.file.ready and view.comeback is None
        if fresh and _has_snapshot(view, primary):
            return Decision(Action.BEGIN_ANEW, reason)
        barred = bars_a_rebuild(view)
        if barred:
            return Decision(Action.WAIT, f"{reason}; stays out: {barred}")
        note = f" (last attempt: {view.comeback.note})" if view.comeback and view.comeback.note else ""
        return Decision(Action.COME_BACK, f"{reason}; it gets a copy of the primary{note}")
    if join is Join.DIVERGED and primary.state is not None:
        rescue, how = next_step(view, errant(view.server, primary.state))
        return Decision(Action.COME_BACK if rescue else Action.WAIT, f"{reason}; {how}")
    if join is not Join.YES:
        return Decision(Action.WAIT, reason)
    source = view.server.replication
    pointed = source is not None and (source.source_host, source.source_port) == (
        primary.address,
        primary.port,
    )
    if source is None or not pointed:
        return Decision(Action.FOLLOW, f"{primary.name} is the primary, {reason}")
    if view.server.semisync is not None and source.source_user != account(view.server.server_uuid):
        # The primary could not cut it off (I2). mysqlrpladmin re-points so, and the server was upgraded afterwards.
        return Decision(
            Action.FOLLOW, f"it replicates from {primary.name} as {source.source_user}, not as itself"
        )
    if source.io_errno in NOT_LET_IN:
        return Decision(Action.FOLLOW, f"{primary.name} does not let this node in: attaching again")
    if source.sql_error or (source.io_running == "No" and not _may_pass(source.io_errno)):
        return Decision(
            Action.WAIT, f"replication from {primary.name} fails: {source.sql_error or source.io_error}"
        )
    if source.io_running == "Connecting":
        why = f": {source.io_error}" if source.io_error else ""
        return Decision(Action.WAIT, f"replication is connecting to {primary.name}{why}")
    return Decision(Action.START, f"replication from {primary.name} is stopped, {reason}")


def _has_snapshot(view: View, primary: Peer) -> bool:
    """True if the last snapshot holds all that the primary has purged, so that a restored node can follow."""
    cluster = view.cluster
    if cluster is None or cluster.record is None or cluster.last_snapshot is None or primary.state is None:
        return False
    last = cluster.last_snapshot
    return last.cluster_id == cluster.record.id and primary.state.purged <= GtidSet.parse(last.gtid)


def _may_pass(errno: int) -> bool:
    """True if a stopped receiver's last error is no reason not to start it again: none, or no connection.

    A runner's freeze stops receivers in the very moment in which they cannot reach their source.
    """
    return errno == 0 or 2000 <= errno < 3000 or errno in CONNECTION_REFUSED


def _replicating(view: View, record: Record) -> Decision:
    source = view.server.replication
    if source is None or source.source_uuid != record.primary:
        return Decision(Action.WAIT, f"replicating from a server that is not {record.primary_name}")
    theirs = view.primary.state if view.primary is not None else None
    if theirs is not None and (why := cannot_follow(view.server.version, theirs.version)):
        return Decision(Action.LEAVE, why)
    if view.max_lag is not None and (source.lag is None or source.lag > view.max_lag):
        return Decision(Action.WAIT, f"replica is {source.lag} s behind, REPLICA_MAX_LAG is {view.max_lag}")
    return Decision(Action.REPLICATE, f"replica of {record.primary_name} at epoch {record.epoch}")


def _founding_by_another(view: View, cluster: ClusterView, record: Record) -> Decision:
    if cluster.lock_session is not None:
        return Decision(Action.WAIT, f"{record.primary_name} is founding the cluster")
    if not _is_own_and_empty(view) or record.base or record.origin != "initialised":
        return Decision(
            Action.WAIT, f"{record.primary_name} was founding the cluster; only an empty node goes on"
        )
    if view.session is None:
        return Decision(Action.WAIT, "no Consul session yet")
    return Decision(Action.TAKE_OVER, f"{record.primary_name} is gone before it had founded the cluster")


def _without_record(view: View, cluster: ClusterView) -> Decision:
    if view.file.ready or view.file.cluster_id is not None or view.file.origin == "restored":
        reason = f"no cluster record in Consul, but this data is of cluster {view.file.cluster_id}"
        return _stay_out(view, f"{reason}; founding anew needs a person")
    if view.server.serves:
        return Decision(Action.CLOSE, "there is no cluster record")
    others = sorted({i.name for s in ("primary", "replica") for i in cluster.of(s) if i.name != view.name})
    if others:
        return Decision(
            Action.WAIT, f"no cluster record, but initialised nodes are registered: {', '.join(others)}"
        )
    if cluster.snapshot_fault is not None:
        return Decision(Action.WAIT, f"no cluster record, but {cluster.snapshot_fault}")
    if cluster.last_snapshot is not None:
        reason = f"no cluster record, but a snapshot is registered: {cluster.last_snapshot.id}"
        return Decision(Action.WAIT, f"{reason}; founding anew needs a person")
    if not view.file.may_found:
        return Decision(Action.WAIT, f"this node may not found a cluster: {view.file.why_not_found}")
    if view.session is None:
        return Decision(Action.WAIT, "no Consul session yet")
    if cluster.lock_session is not None:
        return Decision(Action.WAIT, "no cluster record, but PRIMARY_KEY is held")
    return Decision(Action.FOUND, "no cluster exists")


def _record_from_the_past(view: View, cluster: ClusterView, own: Record) -> Decision:
    """Consul came back empty or from an older backup: the copy on the servers counts (SPEC 7, Seen)."""
    was = "is gone" if cluster.record is None else "is older than the one this server has seen"
    row, server = view.server.row, view.server
    if own.primary != server.server_uuid or row is None:
        return _stay_out(view, f"the cluster record {was}: waiting for {own.primary_name} to write it again")
    if view.session is None:
        if server.serves and cluster.lock_session is None:
            return _without_lock(view, f"the cluster record {was}; no Consul session yet")
        return Decision(Action.WAIT, f"the cluster record {was}; no Consul session yet")
    if cluster.lock_session is not None and not view.holds_lock:
        return _stay_out(view, f"the cluster record {was} and somebody else holds PRIMARY_KEY")
    newer = [p.name for p in view.peers if _has_seen_more(p, newest_copy(view))]
    if newer:
        return _stay_out(view, f"the cluster record {was}, and {', '.join(newer)} has seen a newer one")
    if server.serves and row.opened_epoch == own.epoch:
        return Decision(Action.REWRITE, f"the cluster record {was}, and this node is the open primary")
    silent = _silent(view, newest_copy(view))
    if silent:
        return Decision(
            Action.WAIT, f"the cluster record {was}; not writing it again before {', '.join(silent)} answers"
        )
    return Decision(Action.REWRITE, f"the cluster record {was}, and no node has seen a newer one")


def _silent(view: View, own: Record) -> list[str]:
    """Who must answer first: in semisync every node of A, in async every replica that this node knew."""
    if own.durability == "semisync":
        here = {p.state.server_uuid for p in view.peers if p.state is not None}
        return [f"member {m}" for m in own.members if m not in here]
    answering = {p.name for p in view.peers if p.state is not None}
    return sorted({entry.split()[0] for entry in view.known} - answering)


def newest_copy(view: View) -> Record:
    """Return the newest copy of the record by which this node is primary at its own copy's epoch.

    Another server may hold a later version of it: what this primary wrote last, and has not put into its own
    row yet.
    """
    own = view.own
    assert own is not None
    rows = [p.state.row for p in view.peers if p.state is not None and p.state.row is not None]
    copies = [Record.from_json(row.record) for row in rows if row.record and row.epoch == own.epoch]
    same = [copy for copy in copies if (copy.id, copy.primary) == (own.id, own.primary)]
    return max([own, *same], key=lambda copy: copy.version)


def _without_consul(view: View) -> Decision:
    """G5: an async primary goes on only while every known replica is attached to it."""
    server = view.server
    if not server.serves:
        source = server.replication
        if source is not None and source.io_running == "Yes" and source.sql_running and view.file.ready:
            return Decision(Action.REPLICATE, f"replicating, without Consul ({view.why})", confirmed=False)
        return Decision(Action.WAIT, view.why)
    return _without_lock(view, f"no answer from Consul ({view.why})")


def _without_lock(view: View, why: str) -> Decision:
    """What an open primary does while it cannot hold PRIMARY_KEY: nothing there, or no session to hold it with."""
    own, row, server = view.own, view.server.row, view.server
    if own is None or row is None or own.primary != server.server_uuid or row.opened_epoch != own.epoch:
        return Decision(Action.CLOSE, f"{why}, and this server's own copy names another")
    attached = {p.name for p in view.peers if _is_attached(p, server.server_uuid)}
    if own.durability == "semisync" and own.members:
        members = [
            p.name
            for p in view.peers
            if p.name in attached and p.state and p.state.server_uuid in own.members
        ]
        if members:
            return Decision(Action.SERVE, f"{why}, but {members[0]} is attached and acknowledges")
        return Decision(Action.SERVE, f"{why}, and no member is attached", confirmed=False)
    missing = sorted({entry.split()[0] for entry in view.known} - attached)
    if missing:
        reason = f"{why}, and not attached: {', '.join(missing)}; the lease runs out"
        return Decision(Action.SERVE, reason, confirmed=False)
    return Decision(Action.SERVE, f"{why}, but every known replica is attached")


def _is_attached(peer: Peer, primary_uuid: str) -> bool:
    source = peer.state.replication if peer.state else None
    return source is not None and source.source_uuid == primary_uuid and source.io_running == "Yes"


def _has_seen_more(peer: Peer, own: Record) -> bool:
    row = peer.state.row if peer.state else None
    return row is not None and (row.epoch, row.version) > (own.epoch, own.version)


def _is_own_and_empty(view: View) -> bool:
    return view.file.origin == "initialised" and not view.file.ready and not view.server.executed


def _stay_out(view: View, reason: str) -> Decision:
    if not view.server.super_read_only:
        return Decision(Action.CLOSE, reason)
    return Decision(Action.WAIT, reason)
