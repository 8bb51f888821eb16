"""What a diverged node does next, and what a killed primary does first: pure functions (SPEC 7, Return)."""

from __future__ import annotations

from enum import Enum

from manager.discovery.cluster import ClusterView
from manager.gtid import GtidSet
from manager.view import View


def next_step(view: View, extra: GtidSet) -> tuple[bool, str]:
    """Return whether `rescue` is to be run, and how things stand: `extra` are the transactions beyond the primary's.

    They are saved in any case; only then, and if nothing bars it, the node is rebuilt.
    """
    comeback = view.comeback
    note = f" (last attempt: {comeback.note})" if comeback is not None and comeback.note else ""
    if comeback is None or not comeback.has_saved(extra):
        return True, f"stays out until they are saved to the store{note}"
    saved = f"saved as {comeback.folder}"
    barred = bars_a_rebuild(view)
    if barred:
        return False, f"{saved}; stays out: {barred}"
    return True, f"{saved}; it is being rebuilt{note}"


def bars_a_rebuild(view: View) -> str:
    """Return why this node's data must not be replaced now by a copy of the primary, empty if it may.

    A node that was never part of the cluster has nothing that AUTO_REBUILD could spare.
    """
    if view.file.origin == "adopted":
        return "its data directory was adopted, and such a one is never rebuilt"
    spared = view.file.ready or (view.file.origin == "initialised" and view.server.executed)
    if spared and not view.auto_rebuild:
        return "AUTO_REBUILD is no"
    if view.cluster is not None and view.cluster.paused is not None:
        return f"paused {view.cluster.paused}"
    return ""


class Before(Enum):
    """What pre_start does with a server that was killed, before it starts it again."""

    START = "start it as it is"
    WAIT = "wait for the failover that its death causes"
    COMPARE = "ask the new primary what it lacks"


def before_start(
    cluster: ClusterView, *, server_uuid: str, cluster_id: str | None, epoch: int
) -> tuple[Before, str]:
    """Return what to do, and why. `epoch` is that at which this server was the open primary, 0 if it was not.

    Only a primary of a newer epoch, chosen while every member was frozen, says what was not acknowledged.
    """
    record = cluster.record
    if record is None or record.id != cluster_id:
        return Before.START, "there is no record of its cluster"
    if record.durability != "semisync":
        return Before.START, "async: whatever is in the binlog is committed"
    if record.primary == server_uuid:
        if cluster.paused is not None:
            return Before.START, f"no failover comes: paused {cluster.paused}"
        if not record.members:
            return Before.START, "no failover comes: A is empty"
        return Before.WAIT, f"it was the primary of epoch {record.epoch}"
    if not epoch:
        return Before.START, "it was not the primary"
    if record.epoch <= epoch:
        return Before.START, f"the record of epoch {record.epoch} comes from the past"
    return Before.COMPARE, f"{record.primary_name} is the primary of epoch {record.epoch}"
