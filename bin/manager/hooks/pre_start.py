"""`pre_start`: before every start of mysqld. Frees PRIMARY_KEY, renders my.cnf, and sees that there is a
database: the one that is there, a restored snapshot, or an empty one (SPEC 3)."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from manager import first_start, nodefile, process, rpladmin_check
from manager.comeback import rebuild, trim
from manager.decide.series import cannot_take_over, left_behind
from manager.discovery.cluster import ClusterView
from manager.errors import (
    AutopilotError,
    CannotList,
    ConfigError,
    ConsulError,
    ConsulUnavailable,
    ObjectMissing,
    SnapshotDamaged,
    StoreError,
)
from manager.hooks import last, silence
from manager.mysql import config, initialise
from manager.mysql.dialect import series
from manager.mysql.ownership import give_to_mysqld
from manager.node import Node
from manager.nodefile import NodeFile
from manager.promotion import replicas
from manager.snapshot import verify
from manager.snapshot.catalogue import service_snapshots
from manager.snapshot.guarded import restore_here
from manager.snapshot.verdict import dethrone
from manager.view import read_peers
from manager.waiting import Deadline, pause

LOG = logging.getLogger(__name__)

CONSUL_WAIT = 600.0
TRIES = 2


def run(node: Node) -> int:
    """Return 0 when mysqld may be started; AutopilotError with one line otherwise."""
    settings = node.settings
    settings.run_dir.mkdir(parents=True, exist_ok=True)
    with node.alone("pre_start"):
        _refuse_if_running(node)
        node.starts()
        last.forget(settings.run_dir)
        _free_the_key(node)
        first_start.end(settings.run_dir)
        verify.clear(node)
        _check_server(node)
        for name in (settings.socket, Path(f"{settings.socket}.lock"), settings.pid_file):
            name.unlink(missing_ok=True)
        settings.mysql_datadir.mkdir(parents=True, exist_ok=True)
        config.write_config(settings)
        config.write_init_file(settings)
        rpladmin_check.check(settings)
        rebuild.exchange(node)
        _trim(node)
        _prepare(node)
        give_to_mysqld(settings, settings.mysql_datadir, settings.run_dir)
    return 0


def _trim(node: Node) -> None:
    """What cannot be trimmed is started as it is: then it may have diverged, and is rebuilt."""
    try:
        trim.before_start(node)
    except AutopilotError as error:
        LOG.warning("not trimmed: %s", error)


def _refuse_if_running(node: Node) -> None:
    pid = process.pid(node.settings)
    if pid is not None:
        raise AutopilotError(f"mysqld is running (pid {pid}): pre_start is for before its start")


def _free_the_key(node: Node) -> None:
    """A dead mysqld frees PRIMARY_KEY at once: destroy the session, and let the role's check fail."""
    try:
        node.discovery.destroy_session()
        silence.is_down(node)
        file = node.file()
        if file is not None and file.ready:
            node.pilot.advertise("replica", passing=False, note="mysqld is about to start")
        else:
            node.pilot.withdraw()
    except ConsulError as error:
        LOG.warning("could not free this node's session: %s", error)


def _check_server(node: Node) -> None:
    """Refuse a server that cannot have this data, or a primary's that its replicas could not follow any more.

    Of the latter the key is free by now: another node becomes the primary, and then this one may start.
    """
    datadir, file = node.settings.mysql_datadir, node.file()
    if file is None or nodefile.is_building(datadir) or not initialise.is_database(datadir):
        return
    installed = initialise.server_version(node.settings)
    known = [version for version in (file.server, initialise.upgraded_to(datadir)) if version]
    if known and (why := cannot_take_over(max(known, key=series), installed)):
        raise ConfigError(f"MYSQL_DATADIR {datadir}: {why}")
    if file.server and series(file.server) == series(installed):
        return
    try:
        cluster = node.discovery.view()
    except ConsulError as error:
        LOG.warning("not known whether others could follow MySQL %s: %s", installed, error)
        return
    record = cluster.record
    if record is None or record.primary != trim.server_uuid(datadir):
        return
    versions = {
        other.name: other.state.version
        for other in replicas(read_peers(node, cluster), record)
        if other.state and other.state.replication and other.state.replication.source_uuid == record.primary
    }
    if why := left_behind(node.name, {**versions, node.name: installed}):
        raise AutopilotError(f"{why}, or wait until another one is the primary")


def _prepare(node: Node) -> None:
    datadir = node.settings.mysql_datadir
    wanted = nodefile.wanted_snapshot(datadir)
    known = node.file()
    if nodefile.is_building(datadir) and known is not None and known.ready:
        LOG.error("the mark of a half-made data directory is on one that was part of a cluster: it is kept")
        nodefile.end_building(datadir)
    if nodefile.is_building(datadir):
        LOG.warning("this data directory is half-made: beginning again")
        nodefile.empty(datadir)
        if not wanted:
            nodefile.end_building(datadir)
    file = node.file()
    if initialise.is_database(datadir):
        if file is None:
            LOG.info(
                "the data directory holds a database that this cluster did not make: it is left untouched"
            )
            file = NodeFile(origin="adopted")
        if not file.ready and file.cluster_id is None:
            file = _ask_whether_it_may_found(node, file, _wait_for_consul(node))
        node.write_file(file)
        return
    others = nodefile.contents(datadir)
    if others:
        raise ConfigError(
            f"MYSQL_DATADIR {datadir} holds files, but no database ({others[0].name}): empty it"
        )
    _fill(node, wanted)


def _wait_for_consul(node: Node) -> ClusterView:
    deadline = Deadline(CONSUL_WAIT)
    while True:
        try:
            return node.discovery.view()
        except ConsulUnavailable as error:
            if deadline.over:
                raise
            LOG.info("waiting for Consul: %s", error)
            pause(2.0)


def _fill(node: Node, wanted: str) -> None:
    datadir = node.settings.mysql_datadir
    cluster = _wait_for_consul(node)
    had = cluster.last_snapshot
    file = _restore(node, wanted) if wanted else _restore_last(node, cluster)
    if file is None:
        file = _ask_whether_it_may_found(node, NodeFile(origin="initialised"), cluster)
        if had is not None:
            why = f"there was a snapshot, {had.id}, when this node started; founding anew needs a person"
            file = replace(file, may_found=False, why_not_found=file.why_not_found or why)
        nodefile.begin_building(datadir)
        initialise.initialise(node.settings)
        LOG.info("an empty database is initialised")
    node.write_file(file)
    give_to_mysqld(node.settings, datadir)
    nodefile.end_building(datadir)


def _restore_last(node: Node, cluster: ClusterView) -> NodeFile | None:
    """Restore the last snapshot, or if it is damaged the one before it, and so on; None if there is none.

    One that was read in a damaged form twice is named by Consul no longer. That this node is what damages them is
    possible: so it leaves the manifests alone, and after the second one it gives up until its next start.
    """
    datadir = node.settings.mysql_datadir
    for _ in range(TRIES):
        record, snapshot = cluster.record, cluster.last_snapshot
        if snapshot is None or (record is not None and snapshot.cluster_id != record.id):
            return None
        nodefile.begin_building(datadir)
        try:
            return _restore(node, snapshot.id)
        except (SnapshotDamaged, ObjectMissing) as error:
            LOG.error("%s", error)
            nodefile.empty(datadir)
            why = error
        dethrone(node, snapshot.id)
        cluster = _wait_for_consul(node)
    raise why


def _restore(node: Node, snapshot_id: str) -> NodeFile:
    LOG.info("restoring snapshot %s", snapshot_id)
    manifest = restore_here(node, snapshot_id, node.settings.mysql_datadir)
    LOG.info("snapshot %s is restored", snapshot_id)
    return NodeFile(origin="restored", cluster_id=manifest.cluster_id, snapshot=snapshot_id)


def _ask_whether_it_may_found(node: Node, file: NodeFile, cluster: ClusterView) -> NodeFile:
    """Founding is the one thing that waits for the store: an empty Consul proves nothing (SPEC 7, Founding).

    Raises StoreError if the store gives no answer and there is no cluster to join.
    """
    if cluster.record is not None:
        return replace(file, may_found=False, why_not_found="there is a cluster already")
    try:
        names = service_snapshots(node.store, node.settings)
    except CannotList:
        names = []  # what Consul knows has to do (SPEC 7, Founding)
    except StoreError as error:
        raise StoreError(f"founding waits for the store's answer: {error}") from None
    if names:
        service = node.settings.service_name
        why = f"the store holds {len(names)} snapshots of {service}, the newest is {names[0]}"
        LOG.warning("no cluster record in Consul, but %s: this node founds nothing", why)
        return replace(file, may_found=False, why_not_found=f"{why}; founding anew needs a person")
    return replace(file, may_found=True, why_not_found="")
