"""Who may acknowledge the primary's commits: one step at a time, as a pure function (SPEC 7, Membership).

A member counts as *good* while its server answers, its variable is ON and its receiver runs from this primary.
One that does not for LOST seconds is removed if another good one is there; if none is, the primary goes alone.
One that is seen with its variable OFF has restarted and cannot acknowledge: it is not waited for.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from manager.decide.series import cannot_follow
from manager.discovery.record import Durability, Record
from manager.mysql.dialect import series
from manager.mysql.state import ServerState
from manager.view import Peer
from manager.watched import Watched

LOST = 4.0
GIVE_UP = 8.0
NEAR = 1


class Step(Enum):
    """What the primary does next about its members."""

    NONE = "nothing"
    ADMIT = "admit"
    REMOVE = "remove"
    ALONE = "go alone"
    SEMI_SYNC = "write semisync into the record"
    ASYNC = "write async into the record"


@dataclass(frozen=True)
class Change:
    """The step, the server_uuid that it is about (ADMIT, REMOVE), and why."""

    step: Step
    reason: str
    uuid: str = ""


def is_good(peer: Peer, primary_uuid: str) -> bool:
    """True if this node looks able to acknowledge. Only a marker proves it."""
    return _receives(peer, primary_uuid) and _variable_on(peer)


def change(
    record: Record,
    primary: ServerState,
    peers: tuple[Peer, ...],
    watched: Watched,
    *,
    wanted: Durability | None,
    most: int,
) -> Change:
    """Return the next step. `wanted` is the DURABILITY setting (None: what the record says), `most` SYNC_MEMBERS."""
    me = primary.server_uuid
    if primary.semisync is None:
        return Change(Step.NONE, "this server has no semi-sync plugins")
    if record.durability == "async":
        if wanted == "semisync":
            return Change(Step.SEMI_SYNC, "DURABILITY=semisync")
        return Change(Step.NONE, "async")
    if wanted == "async":
        if record.members or primary.semisync.source_on:
            return Change(Step.ALONE, "DURABILITY=async")
        return Change(Step.ASYNC, "DURABILITY=async")
    good = {p.state.server_uuid for p in peers if p.state is not None and is_good(p, me)}
    restarted = {
        p.state.server_uuid
        for p in peers
        if p.state is not None and p.state.row is not None and not _variable_on(p)
    }
    sound = [m for m in record.members if m in good]
    if watched.stuck >= LOST and record.members:
        return Change(Step.ALONE, f"no commit has been acknowledged for {watched.stuck:.0f} s")
    for member in record.members:
        if member in good:
            continue
        if member not in restarted and watched.lost.get(member, 0.0) < LOST:
            continue
        why = "has restarted" if member in restarted else f"has been away for {watched.lost[member]:.0f} s"
        if sound:
            return Change(Step.REMOVE, f"{_name(peers, member)} {why}", member)
        if all(_gone(m, good, restarted, watched) for m in record.members):
            return Change(
                Step.ALONE, f"no member is left that can acknowledge ({_name(peers, member)} {why})"
            )
    if not record.members and primary.semisync.source_on and watched.empty >= GIVE_UP:
        return Change(Step.ALONE, f"nobody has been admitted for {watched.empty:.0f} s")
    candidate = _candidate(record, primary, peers)
    promotable = {
        p.state.server_uuid
        for p in peers
        if p.state is not None and p.state.row is not None and p.state.row.priority > 0
    }
    if len(record.members) > most and len(sound) == len(record.members):
        surplus = next((m for m in record.members if m not in promotable), record.members[-1])
        return Change(Step.REMOVE, f"{_name(peers, surplus)} is one more than SYNC_MEMBERS", surplus)
    if candidate is not None and candidate.state is not None:
        uuid = candidate.state.server_uuid
        if len(record.members) < most:
            return Change(Step.ADMIT, f"{candidate.name} is attached and near", uuid)
        # Were no member promotable, nobody could take over: one that is takes another one's place.
        if len(record.members) == most and uuid in promotable and not promotable & set(record.members):
            return Change(Step.ADMIT, f"{candidate.name} may be promoted, and no member may", uuid)
    if not record.members and primary.semisync.source_on and watched.empty >= LOST:
        return Change(Step.ALONE, f"nobody could be admitted for {watched.empty:.0f} s")
    return Change(Step.NONE, f"{len(record.members)} members")


def _gone(member: str, good: set[str], restarted: set[str], watched: Watched) -> bool:
    return member not in good and (member in restarted or watched.lost.get(member, 0.0) >= LOST)


def _candidate(record: Record, primary: ServerState, peers: tuple[Peer, ...]) -> Peer | None:
    """The attached replica that is nearest; first those that may be promoted, then those of the oldest series."""
    attached = [
        p
        for p in peers
        if p.state is not None
        and p.state.server_uuid not in record.members
        and p.state.row is not None
        and p.state.row.cluster_id == record.id
        and _receives(p, primary.server_uuid)
        and p.state.replication is not None
        and p.state.replication.sql_running
        and (p.state.replication.lag or 0) <= NEAR
        and not cannot_follow(p.state.version, primary.version)
    ]
    if not attached:
        return None

    def order(peer: Peer) -> tuple[bool, tuple[int, int], int, str]:
        state = peer.state
        assert state is not None
        assert state.row is not None
        behind = (primary.executed - state.executed).count
        return (state.row.priority == 0, series(state.version), behind, peer.name)

    return min(attached, key=order)


def _receives(peer: Peer, primary_uuid: str) -> bool:
    source = peer.state.replication if peer.state is not None else None
    return source is not None and source.io_running == "Yes" and source.source_uuid == primary_uuid


def _variable_on(peer: Peer) -> bool:
    return peer.state is not None and peer.state.semisync is not None and peer.state.semisync.replica_on


def _name(peers: tuple[Peer, ...], uuid: str) -> str:
    return next(
        (p.name for p in peers if p.state is not None and p.state.server_uuid == uuid), f"member {uuid}"
    )
