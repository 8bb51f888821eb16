"""When to fail over, and to whom: pure functions of what a runner has read (SPEC 7's table and order)."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from manager.decide.series import cannot_follow
from manager.discovery.cluster import ClusterView
from manager.discovery.record import Record
from manager.gtid import GtidSet
from manager.mysql.dialect import series
from manager.view import Peer

CLOSED_GRACE = 1.0
"""Seconds for which a closed holder of PRIMARY_KEY must stay closed: it may be about to open."""


class When(Enum):
    """What the runner of a failover does now."""

    NOTHING = "nothing"
    WAIT = "wait"
    FINISH = "open the node that was promoted already"
    HAND_OVER = "close the old primary, let replicas catch up, promote"
    GO = "fail over"


@dataclass(frozen=True, kw_only=True)
class Watch:
    """How long a runner has seen the same thing, in seconds: the table of SPEC 7 waits for some of it."""

    free: float = 0.0
    closed: float = 0.0
    since_promotion: float = 1e9


def when(
    cluster: ClusterView, peers: tuple[Peer, ...], watch: Watch, *, lease: float, holdoff: float
) -> tuple[When, str]:
    """Return what to do, and why. `peers` holds every node, the runner's own included."""
    record = cluster.record
    if record is None:
        return When.NOTHING, "there is no cluster record"
    if record.state != "open":
        return When.NOTHING, "the cluster is still being founded"
    if cluster.paused is not None:
        return When.NOTHING, f"paused: {cluster.paused}"
    seen_more = [p.name for p in peers if _has_seen_more(p, record)]
    if seen_more:
        return When.NOTHING, f"the record comes from the past: {', '.join(seen_more)} has seen a newer one"
    old = next((p for p in peers if p.state is not None and p.state.server_uuid == record.primary), None)
    held = cluster.lock_session is not None
    if old is None or old.state is None:
        if held:
            return When.WAIT, f"{record.primary_name} does not answer; Consul has not ended its session yet"
        return When.GO, f"{record.primary_name} does not answer and PRIMARY_KEY is free"
    if old.state.serves:
        return _serving(record, held, watch, lease=lease, holdoff=holdoff)
    opened = old.state.row.opened_epoch if old.state.row is not None else 0
    if held and opened < record.epoch:
        return When.FINISH, f"{record.primary_name} was promoted at epoch {record.epoch} and is not open yet"
    if held and watch.closed < CLOSED_GRACE:
        return When.WAIT, f"{record.primary_name} holds PRIMARY_KEY and is closed"
    return When.GO, f"{record.primary_name} answers, but is closed"


def _serving(record: Record, held: bool, watch: Watch, *, lease: float, holdoff: float) -> tuple[When, str]:
    if held:
        return When.NOTHING, f"{record.primary_name} holds PRIMARY_KEY and serves"
    if watch.since_promotion < holdoff:
        return (
            When.NOTHING,
            f"{record.primary_name} serves and was promoted {watch.since_promotion:.0f} s ago (hold-off)",
        )
    if watch.free < lease:
        return When.WAIT, f"{record.primary_name} serves and may take PRIMARY_KEY again for {lease:.0f} s"
    return When.HAND_OVER, f"{record.primary_name} serves, but has not taken PRIMARY_KEY for {lease:.0f} s"


def _has_seen_more(peer: Peer, record: Record) -> bool:
    row = peer.state.row if peer.state else None
    return row is not None and (row.epoch, row.version) > (record.epoch, record.version)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A frozen replica after its applier has drained; `version` is its server's, `session` its live Consul session.

    `received` is `executed` and what its relay log holds beyond that; `acknowledges` tells whether its semi-sync
    variable is ON: one that restarted has it OFF, and may have forgotten what it acknowledged.
    """

    name: str
    uuid: str
    version: str
    executed: GtidSet
    received: GtidSet
    acknowledges: bool
    drained: bool
    priority: int
    session: str | None


@dataclass(frozen=True, kw_only=True)
class Choice:
    """`chosen` is None if nobody can be promoted. `catch_up_from` is who has what the chosen node lacks."""

    chosen: Candidate | None
    reason: str
    catch_up_from: Candidate | None = None
    rejected: dict[str, str] = field(default_factory=dict)


def errant(executed: GtidSet, record: Record) -> GtidSet:
    """Transactions of servers that were never a primary of this cluster and that it did not begin with."""
    beyond = executed - GtidSet.parse(record.base)
    return beyond.of_sources(beyond.uuids - set(record.primaries))


def choose(
    record: Record, candidates: tuple[Candidate, ...], *, only: str | None = None, forced: bool = False
) -> Choice:
    """Choose who becomes primary, by the durability that the record names (SPEC 7).

    async: the most advanced of those that have not diverged, then of the oldest series (whoever is older than the
    primary cannot follow it), then by FAILOVER_PRIORITY, then by name. semisync: such a node of A that has executed
    everything that any node of A has received; nobody unless every node of A is here and can acknowledge.
    """
    if record.durability == "semisync" and not forced:
        return _choose_member(record, candidates, only)
    rejected: dict[str, str] = {}
    sound: list[Candidate] = []
    for candidate in candidates:
        foreign = errant(candidate.executed, record)
        if foreign:
            rejected[candidate.name] = f"diverged: transactions of servers that were never primary: {foreign}"
        elif not candidate.drained:
            rejected[candidate.name] = "its applier did not get through what it had received"
        else:
            sound.append(candidate)
    if not sound:
        return Choice(chosen=None, reason="no replica can be promoted", rejected=rejected)
    best = min(sound, key=_most_advanced)
    beside = [c.name for c in sound if not c.executed <= best.executed]
    if beside:
        reason = f"{best.name} and {', '.join(beside)} each have transactions that the other lacks"
        return Choice(chosen=None, reason=reason, rejected=rejected)
    able: list[Candidate] = []
    for candidate in sound:
        lacks = (best.executed - candidate.executed).count
        if why := _unfit(candidate, only):
            rejected[candidate.name] = why
        elif lacks and (why := cannot_follow(candidate.version, best.version)):
            rejected[candidate.name] = f"lacks {lacks} that {best.name} has: {why}"
        else:
            able.append(candidate)
    if not able:
        return Choice(chosen=None, reason="no replica may be promoted", rejected=rejected)
    chosen = min(able, key=_most_advanced)
    lacks = (best.executed - chosen.executed).count
    if lacks:
        reason = f"{chosen.name} is the most advanced that may be promoted, and {best.name} has {lacks} more"
        return Choice(chosen=chosen, reason=reason, catch_up_from=best, rejected=rejected)
    return Choice(chosen=chosen, reason=f"{chosen.name} is the most advanced", rejected=rejected)


def _most_advanced(candidate: Candidate) -> tuple[int, tuple[int, int], int, str]:
    return -candidate.executed.count, series(candidate.version), -candidate.priority, candidate.name


def _unfit(candidate: Candidate, only: str | None) -> str:
    """Return why a node is not promoted although it has all that is needed; nothing if it may be."""
    if candidate.priority == 0:
        return "FAILOVER_PRIORITY is 0"
    if candidate.session is None:
        return "it has no live Consul session"
    return f"{only} was asked for" if only not in (None, candidate.name) else ""


def _choose_member(record: Record, candidates: tuple[Candidate, ...], only: str | None) -> Choice:
    here = {c.uuid: c for c in candidates}
    if not record.members:
        return Choice(chosen=None, reason="A is empty: only the old primary surely has what it acknowledged")
    missing = [m for m in record.members if m not in here]
    if missing:
        return Choice(chosen=None, reason=f"{len(missing)} of {len(record.members)} members do not answer")
    members = [here[m] for m in record.members]
    restarted = [c.name for c in members if not c.acknowledges]
    if restarted:
        return Choice(
            chosen=None,
            reason=f"{', '.join(restarted)} has restarted and may have forgotten what it acknowledged",
        )
    everything = GtidSet.parse("")
    for member in members:
        everything |= member.received
    rejected = {c.name: "not a member" for c in candidates if c.uuid not in record.members}
    able: list[Candidate] = []
    for member in members:
        if not everything <= member.executed:
            rejected[member.name] = f"lacks {(everything - member.executed).count} that a member has received"
        elif why := _unfit(member, only):
            rejected[member.name] = why
        else:
            able.append(member)
    if not able:
        return Choice(chosen=None, reason="no member may be promoted", rejected=rejected)
    chosen = min(able, key=lambda c: (series(c.version), -c.priority, c.name))
    return Choice(
        chosen=chosen, reason=f"{chosen.name} has everything that a member received", rejected=rejected
    )


def at_risk(record: Record, choice: Choice, peers: tuple[Peer, ...]) -> list[str]:
    """Return, a line each, what may be lost by this choice now; nothing if the members hold it all.

    A primary that serves is no part of it: it is closed first, and the chosen node receives what it has.
    """
    chosen = choice.chosen
    if chosen is None:
        return []
    has = chosen.executed | choice.catch_up_from.executed if choice.catch_up_from else chosen.executed
    states = {p.name: p.state for p in peers if p.state is not None}
    here = {state.server_uuid for state in states.values()}
    lines = []
    for name, state in sorted(states.items()):
        count = (state.executed - has).count
        if count and not (state.serves and state.server_uuid == record.primary):
            lines.append(f"{name} has {count} transactions that {chosen.name} lacks; its return saves them")
    if record.durability == "semisync" and record.members:
        silent = [member for member in record.members if member not in here]
        if silent:
            lines.append(
                f"{len(silent)} of {len(record.members)} members do not answer: what they alone hold"
            )
        for name, state in sorted(states.items()):
            acknowledges = state.semisync is not None and state.semisync.replica_on
            if state.server_uuid in record.members and not acknowledges:
                lines.append(f"{name} has restarted and may have forgotten what it acknowledged")
    elif record.primary not in here:
        lines.append(f"{record.primary_name} does not answer: what {chosen.name} has not received from it")
    return lines
