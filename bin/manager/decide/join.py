"""May this node's data follow that primary? A pure comparison of GTID sets and origins (SPEC 6, 7)."""

from __future__ import annotations

from enum import Enum

from manager.decide.series import cannot_follow
from manager.discovery.record import Record
from manager.gtid import GtidSet
from manager.mysql.state import ServerState
from manager.view import Peer, View


class Join(Enum):
    """The answer; every other one than YES comes with a reason for people."""

    YES = "yes"
    NOT_NOW = "not now"
    DIVERGED = "diverged"
    NEEDS_SNAPSHOT = "needs a snapshot"


def received(server: ServerState) -> GtidSet:
    """What this server has executed, or holds in its relay log and will execute once its applier runs.

    An applier that says it has applied everything may still list half a transaction as received: that one
    never applies (measured), so it does not count.
    """
    source = server.replication
    if source is None or source.applied_all:
        return server.executed
    return server.executed | source.retrieved


def errant(mine: ServerState, theirs: ServerState) -> GtidSet:
    """What this server has, or will apply, and the primary has not.

    Not counted: the primary's own commits while some of them wait there for an acknowledgement. They are on a
    replica before they are in the primary's executed set (measured); should they be errant after all, the
    primary itself refuses to send (1236).
    """
    extra = received(mine) - theirs.executed
    if theirs.semisync is not None and theirs.semisync.waiting:
        extra = extra.of_sources(extra.uuids - {theirs.server_uuid})
    return extra


def may_join(view: View, record: Record, primary: Peer) -> tuple[Join, str]:
    """Return whether this node may replicate from `primary`, and why.

    The node's own set was read before the primary's, so a healthy replica never looks ahead of it.
    """
    assert primary.state is not None
    mine, theirs = view.server, primary.state
    if theirs.server_uuid != record.primary:
        return Join.NOT_NOW, f"{primary.name} is not the server that the record names"
    if not theirs.serves:
        return Join.NOT_NOW, f"primary {primary.name} is not open"
    if theirs.server_id == mine.server_id:
        return Join.NOT_NOW, f"server_id {mine.server_id} is also that of {primary.name}: change NODE_NAME"
    if why := cannot_follow(mine.version, theirs.version):
        return Join.NOT_NOW, why
    extra = errant(mine, theirs)
    if extra:
        return Join.DIVERGED, f"diverged: {extra.count} transactions that {primary.name} lacks: {extra}"
    lacking = theirs.purged - received(mine)
    if lacking:
        return (
            Join.NEEDS_SNAPSHOT,
            f"{primary.name} has purged {lacking.count} transactions that this node lacks",
        )
    if not view.file.ready and view.file.origin == "initialised" and record.origin != "initialised":
        return (
            Join.NEEDS_SNAPSHOT,
            "the cluster began with rows that are in no binlog: joining needs a snapshot",
        )
    return (
        Join.YES,
        f"and has everything that this node has (behind by {(theirs.executed - mine.executed).count})",
    )
