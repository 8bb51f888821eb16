"""Carrying out the membership steps, each in the order of `docs/failover.md`, which says what a cut-off leaves.

Run by the health of the primary, and by the runner of a failover for the primary that it has just opened.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from manager.decide.membership import Change, Step
from manager.discovery.discovery import Discovery
from manager.discovery.record import Record
from manager.errors import AutopilotError, MySQLError, TransactionRefused
from manager.mysql import semisync
from manager.mysql.connection import Connection
from manager.mysql.guard import guard
from manager.node import Node
from manager.stale import stale_guard_taken
from manager.view import Peer, View
from manager.waiting import Deadline

LOG = logging.getLogger(__name__)

MARKER_TIME = 2.0
CUT_TIME = 2.0
STEP_TIME = 3.0


@dataclass(kw_only=True)
class Primary:
    """An open primary whose guard is held on `conn`. `record` and `index` follow each write of the record.

    `connect` makes another connection to the same server, for markers: one that is not acknowledged in time
    leaves its connection waiting.
    """

    discovery: Discovery
    conn: Connection
    connect: Callable[[], Connection]
    record: Record
    index: int
    session: str

    def marker(self) -> bool:
        """True if a marker was acknowledged within 2 s."""
        with self.connect() as conn:
            return semisync.marker(conn, seconds=MARKER_TIME)

    def write(self, record: Record) -> None:
        """Replace the record as the holder of PRIMARY_KEY; ConsulUnavailable: it may land later."""
        self.index = self.discovery.update(record, self.index, self.session)
        self.record = record

    def check(self) -> None:
        """TransactionRefused if the record has changed since the guard was taken."""
        if self.discovery.view().record_index != self.index:
            raise TransactionRefused("another version of the record")


def carry_out(node: Node, primary: Primary, change: Change, view: View) -> None:
    """Do one step; what goes wrong is one of our errors, and the next run looks again."""
    if change.step is Step.NONE:
        return
    LOG.info("%s: %s", change.step.value, change.reason)
    if change.step is Step.ADMIT:
        peer = next(p for p in view.peers if p.state is not None and p.state.server_uuid == change.uuid)
        with (
            node.remote(peer.address, peer.port, timeout=STEP_TIME) as there,
            stale_guard_taken(there, view.cluster),
            guard(there),
        ):
            primary.check()
            admit(primary, there, change.uuid)
        LOG.info("%s is a member now", peer.name)
    elif change.step is Step.REMOVE:
        remove(primary, change.uuid)
    elif change.step is Step.ALONE:
        go_alone(primary, harmless=not_acknowledging(view.peers))
    elif change.step is Step.SEMI_SYNC:
        primary.write(primary.record.with_members((), "semisync"))
    else:
        primary.write(primary.record.with_members((), "async"))


def not_acknowledging(peers: Iterable[Peer]) -> frozenset[str]:
    """The accounts of nodes whose variable was seen OFF: their receivers were started so, and acknowledge nothing."""
    return frozenset(
        semisync.account(p.state.server_uuid)
        for p in peers
        if p.state is not None and p.state.semisync is not None and not p.state.semisync.replica_on
    )


def admit(primary: Primary, there: Connection, uuid: str) -> None:
    """Let an attached replica, whose guard is held on `there`, acknowledge; a marker proves that it does.

    Raises AutopilotError, with everything undone, if A was empty and nothing was acknowledged.
    """
    if primary.record.members:
        primary.write(primary.record.with_members((*primary.record.members, uuid)))
        semisync.set_replica(there, on=True)
        semisync.restart_receiver(there)
        if not primary.marker():
            LOG.warning("a marker after an admission was not acknowledged in time")
        return
    admit_first(primary, there, uuid, lambda: semisync.restart_receiver(there))


def admit_first(primary: Primary, there: Connection, uuid: str, receive: Callable[[], None]) -> None:
    """Admit while A is empty: `receive` lets the replica, whose switch is ON by then, start to receive.

    AutopilotError, with everything undone, if nothing was acknowledged.
    """
    # Another admission's record may be on its way still: refused from now on, before anybody can acknowledge.
    primary.write(primary.record.touched())
    was_on = semisync.source_on(primary.conn)
    # Only the one being admitted may acknowledge. Nobody else is spared: who was seen OFF may be let on by a
    # runner that holds his guard and not ours.
    _cut_off(primary, spare=frozenset({semisync.account(uuid)}))
    semisync.set_source(primary.conn, on=True)
    semisync.set_replica(there, on=True)
    try:
        receive()
        acknowledged = primary.marker()
    except MySQLError as error:
        LOG.warning("admission: %s", error)
        acknowledged = False
    if acknowledged:
        primary.write(primary.record.with_members((uuid,)))
        return
    semisync.cut_off(primary.conn, {semisync.account(uuid): False}, Deadline(CUT_TIME))
    primary.write(primary.record.touched())
    if not was_on:
        semisync.set_source(primary.conn, on=False)
    raise AutopilotError(f"not admitted: no acknowledgement within {MARKER_TIME:.0f} s")


def remove(primary: Primary, uuid: str) -> None:
    """Take a member out of A: only once it surely acknowledges nothing, and the others hold everything."""
    semisync.cut_off(primary.conn, {semisync.account(uuid): False}, Deadline(CUT_TIME))
    if not primary.marker():
        raise AutopilotError("not removed yet: the other members have not acknowledged a marker")
    rest = tuple(m for m in primary.record.members if m != uuid)
    primary.write(primary.record.with_members(rest))


def go_alone(primary: Primary, *, harmless: frozenset[str]) -> None:
    """Cut everybody off who could acknowledge, empty A, and only then let commits pass without them."""
    if primary.record.members or semisync.source_on(primary.conn):
        members = {semisync.account(m) for m in primary.record.members}
        _cut_off(primary, spare=harmless - members)
        primary.write(primary.record.with_members(()))
    semisync.set_source(primary.conn, on=False)


def _cut_off(primary: Primary, *, spare: frozenset[str]) -> None:
    # The locked ones too: a run that was cut off may have locked an account and not ended its connections.
    users = {user: locked for user, locked in semisync.accounts(primary.conn).items() if user not in spare}
    semisync.cut_off(primary.conn, users, Deadline(CUT_TIME))
