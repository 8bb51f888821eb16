"""Cutting commits that nobody acknowledged off the end of the last binlog, before mysqld starts (SPEC 7, Return).

In semisync such commits are in the binlog, but only prepared in the engine: without them in the binlog, crash
recovery rolls them back (facts/fencing.md A). A start of mysqld before that would commit them for good. Whether
it really was so is seen after the start: `gtid_executed` is a subset of the primary's, or the node is rebuilt.
"""

from __future__ import annotations

import configparser
import logging
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from manager.comeback import binlog, save, state
from manager.comeback.binlog import Binlog, End
from manager.comeback.state import Comeback, Phase
from manager.decide import comeback as decisions
from manager.decide.comeback import Before
from manager.discovery.cluster import ClusterView
from manager.discovery.record import Record
from manager.errors import AutopilotError, BinlogError, ComebackError, ConsulUnavailable
from manager.gtid import GtidSet
from manager.mysql.state import ServerState
from manager.node import Node
from manager.nodefile import NodeFile
from manager.storage.base import sync_directory
from manager.view import Peer, one_per_address, read_peer
from manager.waiting import Deadline, pause

LOG = logging.getLogger(__name__)

FAILOVER_WAIT = 10.0
PRIMARY_WAIT = 5.0
SAVE_TIME = 20.0
AUTO_CNF = "auto.cnf"


@dataclass(frozen=True, kw_only=True)
class Tail:
    """What is to be cut off: the complete transactions `extra` from byte `start` to `end` of the last binlog.

    There is no transaction before byte `head`.
    """

    file: Path
    head: int
    start: int
    end: int
    extra: GtidSet


def find_tail(datadir: Path, theirs: GtidSet) -> tuple[Tail | None, str]:
    """Return the tail that a primary, which has `theirs`, lacks, or None and the reason. BinlogError: unreadable.

    mysqld must not run.
    """
    paths = binlog.files(datadir)
    if not paths:
        return None, "there is no binlog"
    last = paths[-1]
    if _beyond(last):
        return None, f"there is a newer file than {last.name}, the last one in the index"
    with Binlog(last) as log:
        if not log.head.in_use:
            return None, f"{last.name} was closed cleanly: what it holds is committed"
        older = log.head.previous - theirs
        if older:
            return None, f"{older.count} transactions in older files are lacking there: they are committed"
        known = dict(theirs.parts)
        start = next(
            (at for at, s, n in log.begins() if not any(a <= n <= b for a, b in known.get(s, ()))), None
        )
        if start is None:
            return None, "the primary has everything"
        return _checked(log, last, start, theirs)


def _checked(log: Binlog, path: Path, start: int, theirs: GtidSet) -> tuple[Tail | None, str]:
    """Every transaction of the tail must be one that recovery rolls back once it is not in the binlog."""
    tail = list(log.transactions(start))
    complete = [one for one in tail if one.how is not End.HALF]
    for one in complete:
        gtid = binlog.gtids([(one.source, one.number)])
        if one.how is not End.XID:
            return (
                None,
                f"{gtid or 'a transaction without a GTID'} cannot be rolled back: it ends without an Xid",
            )
        if gtid <= theirs:
            return None, f"the primary has {gtid}, which comes after one that it lacks"
    if not complete:
        return None, "the primary has every complete transaction"
    end = complete[-1].end
    if not log.sound(start, end):
        return None, f"{path.name} is damaged after byte {start}"
    extra = binlog.gtids((one.source, one.number) for one in complete)
    return Tail(file=path, head=log.head.end, start=start, end=end, extra=extra), ""


def _beyond(last: Path) -> bool:
    """True if a file was begun that is not in the index yet: the server died while it changed files."""
    stem, _, number = last.name.rpartition(".")
    numbers = (entry.name.rpartition(".")[2] for entry in last.parent.glob(f"{stem}.[0-9]*"))
    return any(text.isdigit() and int(text) > int(number) for text in numbers)


# --- Before the start of mysqld -----------------------------------------------------------------


def before_start(node: Node) -> None:
    """Wait for the failover that this primary's death causes, and trim if possible; AutopilotError: not done.

    Does nothing for a node that was not the primary when its server was last up. Bounded: 10 s for the failover,
    5 s for the new primary, 20 s for the store.
    """
    datadir = node.settings.mysql_datadir
    comeback = state.read(datadir)
    if comeback is not None and comeback.phase is Phase.TRIMMING:
        _cut(node, comeback)
        return
    file = node.file()
    if comeback is not None and comeback.phase is not Phase.SAVING:
        return
    if file is None or not file.ready or not node.settings.replication or not _was_killed(datadir):
        return
    uuid = server_uuid(datadir)
    found = _newer_primary(node, file, uuid)
    if found is None:
        return
    record, peer, theirs = found
    tail, reason = find_tail(datadir, theirs.executed)
    if tail is None:
        LOG.info("nothing is trimmed: %s", reason)
        return
    LOG.info("%s lacks %d transactions at the end of %s", peer.name, tail.extra.count, tail.file.name)
    started = Comeback(
        phase=Phase.SAVING,
        cluster_id=record.id,
        server_uuid=uuid,
        folder=comeback.folder if comeback is not None else save.folder_name(node, uuid, time.time()),
        extra=str(tail.extra),
        place=comeback.place if comeback is not None else "",
    )
    state.write(datadir, started)
    _save(node, started, tail, record, theirs)
    trimming = started.now(
        Phase.TRIMMING, epoch=record.epoch, source=peer.name, cut_file=tail.file.name, cut_at=tail.start
    )
    state.write(datadir, trimming)
    _cut(node, trimming)


def server_uuid(datadir: Path) -> str:
    """The uuid of the server whose data this is, from its auto.cnf; empty if there is none (yet)."""
    parser = configparser.ConfigParser()
    try:
        parser.read(datadir / AUTO_CNF)
        return parser.get(
            "auto", "server-uuid", fallback=parser.get("auto", "server_uuid", fallback="")
        ).lower()
    except configparser.Error:
        return ""


def _was_killed(datadir: Path) -> bool:
    """True if the last binlog was left open: only then is there something that could be trimmed."""
    try:
        paths = binlog.files(datadir)
        if not paths:
            return False
        with Binlog(paths[-1]) as log:
            return log.head.in_use
    except BinlogError as error:
        LOG.info("nothing can be trimmed: %s", error)
        return False


def _newer_primary(node: Node, file: NodeFile, uuid: str) -> tuple[Record, Peer, ServerState] | None:
    """The open primary of an epoch newer than that at which this server was open; None if there is none in time."""
    deadline = Deadline(FAILOVER_WAIT)
    epoch, told = file.opened_epoch, ""
    while True:
        try:
            cluster = node.discovery.view()
        except ConsulUnavailable as error:
            what, why = (Before.WAIT if epoch else Before.START), str(error)
        else:
            what, why = decisions.before_start(
                cluster, server_uuid=uuid, cluster_id=file.cluster_id, epoch=epoch
            )
            record = cluster.record
            if record is not None and what is Before.COMPARE:
                return _asked(node, cluster, record)
            if record is not None and what is Before.WAIT:
                epoch = record.epoch
        if what is Before.START or deadline.over:
            LOG.info("starting mysqld on what is there: %s", why)
            return None
        if why != told:
            LOG.info("waiting up to %.0f s for a failover: %s", FAILOVER_WAIT, why)
            told = why
        pause(0.2)


def _asked(node: Node, cluster: ClusterView, record: Record) -> tuple[Record, Peer, ServerState] | None:
    """Its state once it serves: whatever a member had received is applied there by then."""
    instance = next((i for i in one_per_address(cluster) if i.name == record.primary_name), None)
    if instance is None:
        LOG.info("%s, the primary of epoch %d, is not registered", record.primary_name, record.epoch)
        return None
    deadline = Deadline(PRIMARY_WAIT)
    while True:
        peer = read_peer(node, instance)
        theirs = peer.state
        if theirs is not None and theirs.server_uuid == record.primary and theirs.serves:
            return record, peer, theirs
        if deadline.over:
            LOG.info("%s, the primary of epoch %d, does not serve: %s", peer.name, record.epoch, peer.error)
            return None
        pause(0.2)


def _save(node: Node, comeback: Comeback, tail: Tail, record: Record, theirs: ServerState) -> None:
    """Store the tail behind the file's head, which mysqlbinlog reads; ComebackError if it takes too long.

    In a thread of its own: a store that hangs must not keep mysqld from its start, which ends this process.
    """
    piece = save.Piece(tail.file, ((0, tail.head), (tail.start, tail.end)))
    facts = save.about(record, theirs, server_uuid=comeback.server_uuid, way="trim")
    failure: list[BaseException] = [ComebackError(f"the store has not taken the tail in {SAVE_TIME:.0f} s")]

    def run() -> None:
        try:
            save.save(node, comeback.folder, tail.extra, [piece], facts)
            failure.clear()
        except AutopilotError as error:
            failure[:] = [error]

    worker = threading.Thread(target=run, name="save", daemon=True)
    worker.start()
    worker.join(SAVE_TIME)
    if failure:
        raise failure[0]


def _cut(node: Node, comeback: Comeback) -> None:
    """Remove the server's identity, whose numbers would be used again, then cut; run again, it converges."""
    datadir = node.settings.mysql_datadir
    path = datadir / comeback.cut_file
    with Binlog(path) as log:
        if not log.head.in_use or binlog.files(datadir)[-1:] != [path]:
            state.write(datadir, comeback.now(Phase.TRIMMED))
            raise ComebackError(
                f"{path.name} is not the file that was to be cut any more: it is left as it is"
            )
    (datadir / AUTO_CNF).unlink(missing_ok=True)
    sync_directory(datadir)
    with open(path, "r+b") as file:
        if os.fstat(file.fileno()).st_size > comeback.cut_at:
            file.truncate(comeback.cut_at)
        os.fsync(file.fileno())
    state.write(datadir, comeback.now(Phase.TRIMMED))
    LOG.warning(
        "trimmed: %s, which %s lacks, cut off the end of %s; they are in the store as %s",
        comeback.extra,
        comeback.source,
        comeback.cut_file,
        comeback.folder,
    )
