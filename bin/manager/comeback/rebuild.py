"""A new copy of the primary's data beside the old files, and the exchange of the two while mysqld is down.

The old files are kept until the node is a healthy replica again (G3). Every step can be cut off by a kill and
is gone on with by whoever comes next: what has been done is told by `state` and by which files are where.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from manager import nodefile
from manager.comeback import state
from manager.comeback.state import Comeback, Phase
from manager.discovery.cluster import ClusterView
from manager.discovery.record import SnapshotRecord
from manager.errors import ComebackError, SnapshotDamaged, SnapshotError
from manager.gtid import GtidSet
from manager.mysql.connection import Connection
from manager.mysql.initialise import is_database
from manager.mysql.state import ServerState
from manager.node import Node
from manager.nodefile import NodeFile
from manager.snapshot.engines import clone
from manager.snapshot.guarded import restore_here
from manager.snapshot.progress import Pace
from manager.snapshot.room import check_room
from manager.snapshot.verdict import dethrone
from manager.storage.base import sync_directory, sync_tree
from manager.view import Peer

LOG = logging.getLogger(__name__)

NEW = "new"
OLD = "old"
# A node's own configuration, which no copy of another server has: SET PERSIST, certificates.
CARRIED = ("mysqld-auto.cnf", "*.pem")


def beside(datadir: Path) -> Path:
    """Return the directory, not made yet, that can hold the copy and take the old files by renaming them.

    That is one next to the data directory, or a hidden one in it where it is a file system of its own or its
    parent is closed to us (mysqld does not look into hidden directories, measured).
    """
    datadir = datadir.resolve()
    parent = datadir.parent
    same = os.stat(parent).st_dev == os.stat(datadir).st_dev
    if same and not os.path.ismount(datadir) and os.access(parent, os.W_OK):
        return parent / f".{datadir.name}-rebuild"
    return datadir / ".rebuild"


def fetch(node: Node, conn: Connection, cluster: ClusterView, primary: Peer, place: Path) -> str:
    """Fill `place`/new with a copy of the primary: a clone, or the last snapshot; returns where it is from.

    ComebackError or SnapshotError: neither is possible now; what is there then is no copy.
    """
    target = place / NEW
    clone.stop(conn, place)
    _prepare(node, place, target)
    try:
        _clone(node, conn, primary, target)
        source = f"a clone of {primary.name}"
    except SnapshotError as refused:
        snapshot = _usable(cluster, primary.state)
        if snapshot is None:
            raise
        LOG.warning("rebuilding from snapshot %s: %s", snapshot.id, refused)
        _prepare(node, place, target)
        target.mkdir(mode=0o750)
        try:
            restore_here(node, snapshot.id, target)
        except SnapshotDamaged:
            dethrone(node, snapshot.id)
            raise
        source = f"snapshot {snapshot.id}"
    sync_tree(target)
    sync_directory(place)
    return source


def _prepare(node: Node, place: Path, target: Path) -> None:
    owner = os.stat(node.settings.mysql_datadir)
    try:
        if target.exists():
            shutil.rmtree(target)
        place.mkdir(mode=0o700, exist_ok=True)
        if owner.st_uid != os.geteuid():
            os.chown(place, owner.st_uid, owner.st_gid)
    except OSError as error:
        raise ComebackError(f"cannot make room for a copy in {place}: {error.strerror}") from None


def _clone(node: Node, conn: Connection, primary: Peer, target: Path) -> None:
    settings = node.settings
    assert settings.mysql_repl_user is not None
    assert settings.mysql_repl_password is not None
    with node.remote(primary.address, primary.port, timeout=5.0) as there:
        clone.refuse_other_engines(there)
        expected = clone.data_size(there)
    check_room(target.parent, expected, "the file system of", "a copy of the primary")
    donor = clone.Donor(
        host=primary.address,
        port=primary.port,
        user=settings.mysql_repl_user,
        password=settings.mysql_repl_password,
    )
    pace = Pace(None, f"cloning {primary.name}", expected)
    if not target.is_relative_to(settings.mysql_datadir.resolve()):
        clone.copy_into(settings, conn, target, pace, expected, donor=donor)
        return
    # The server refuses to clone into its own data directory: by way of SCRATCH_DIR.
    with node.alone("snapshot"), clone.workspace(settings, conn) as scratch:
        clone.check_space(settings, expected)
        clone.copy_into(settings, conn, scratch / NEW, pace, expected, donor=donor)
        try:
            shutil.copytree(scratch / NEW, target)
        except OSError as error:
            raise ComebackError(f"cannot copy the clone to {target}: {error}") from None


def _usable(cluster: ClusterView, primary: ServerState | None) -> SnapshotRecord | None:
    """The last snapshot, if the primary still has all that it lacks and lacks nothing that it has."""
    snapshot, record = cluster.last_snapshot, cluster.record
    if snapshot is None or record is None or primary is None or snapshot.cluster_id != record.id:
        return None
    taken = GtidSet.parse(snapshot.gtid)
    return snapshot if primary.purged <= taken <= primary.executed else None


# --- The exchange -------------------------------------------------------------------------------


def ready_to_move(comeback: Comeback) -> Comeback:
    """The state in which pre_start exchanges the files; earlier old files, of a rebuild that failed, stay."""
    place = Path(comeback.place)
    number = sum(1 for entry in place.glob(f"{OLD}-*"))
    return comeback.now(Phase.MOVING_OUT, old=f"{OLD}-{number + 1}")


def exchange(node: Node) -> None:
    """Before mysqld starts: put the copy in place of the old files, if that was begun; else nothing.

    Run again after a kill it goes on. ComebackError: a file cannot be moved, so mysqld must not be started.
    """
    datadir = node.settings.mysql_datadir
    comeback = state.read(datadir)
    if comeback is None or comeback.phase not in (Phase.MOVING_OUT, Phase.MOVING_IN):
        return
    place = Path(comeback.place)
    old, new = place / comeback.old, place / NEW
    try:
        if comeback.phase is Phase.MOVING_OUT:
            if not is_database(new):
                _no_copy(datadir, comeback, old)
                return
            old.mkdir(exist_ok=True)
            _move(_contents(datadir), old)
            comeback = comeback.now(Phase.MOVING_IN)
            state.write(datadir, comeback)
        _move(_contents(new), datadir)
        _carry(old, datadir)
    except OSError as error:
        raise ComebackError(
            f"{comeback.phase.value}: {error.filename}: {error.strerror}; mysqld stays down until this works"
        ) from None
    node.write_file(NodeFile(origin="restored", cluster_id=comeback.cluster_id))
    state.write(datadir, comeback.now(Phase.MOVED))
    LOG.warning("the data directory is now %s; the old files are in %s until it runs", comeback.source, old)


def _no_copy(datadir: Path, comeback: Comeback, old: Path) -> None:
    """Somebody took the copy away: start on the old files, unless some of them are moved already."""
    if _contents(old):
        raise ComebackError(f"the copy in {comeback.place} is gone; the old files are in {datadir} and {old}")
    LOG.warning("the copy in %s is gone: starting on the old files", comeback.place)
    state.write(datadir, comeback.now(Phase.SAVED))


def _contents(directory: Path) -> list[Path]:
    """What belongs to the database. None if the directory is not there."""
    return nodefile.contents(directory) if directory.is_dir() else []


def _move(entries: list[Path], target: Path) -> None:
    for entry in entries:
        os.rename(entry, target / entry.name)
    sync_directory(target)
    for parent in {entry.parent for entry in entries}:
        sync_directory(parent)


def _carry(old: Path, datadir: Path) -> None:
    for path in _carried(old):
        if not (datadir / path.name).exists():
            temporary = datadir / f".{path.name}.new"
            shutil.copy2(path, temporary)
            os.replace(temporary, datadir / path.name)
    sync_directory(datadir)


def _carried(old: Path) -> Iterator[Path]:
    for pattern in CARRIED:
        yield from old.glob(pattern)


def clean(comeback: Comeback) -> None:
    """Remove the old files and whatever else is beside the data; only once the node is healthy."""
    if comeback.place:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(comeback.place)
