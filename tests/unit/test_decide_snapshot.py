"""When a snapshot is due, and whose turn it is."""

from __future__ import annotations

from typing import Any

from manager.decide.snapshot import Due, due
from tests.unit.worlds import B, cluster, gtids, instances, record, replica, server, snapshot

SOUND = cluster(last_snapshot=snapshot(), last_binlog="binlog.000002")


def ask(look: Any = SOUND, state: Any = None, **changes: Any) -> Due:
    options: dict[str, Any] = {
        "name": "node-1",
        "session": "session-1",
        "snapshot_node": "primary",
        "ttl": 86400,
        "now": 3000.0,
        **changes,
    }
    return due(look, state or server(), **options)


def test_not_while_the_last_one_is_good() -> None:
    assert ask() == Due(False, "the last snapshot is 1000 s old")


def test_the_first_one() -> None:
    assert ask(cluster()) == Due(True, "there is no snapshot yet")


def test_another_clusters_snapshot_does_not_count() -> None:
    assert ask(cluster(last_snapshot=snapshot(cluster_id="cluster-2"))).take


def test_older_than_backup_ttl() -> None:
    assert ask(ttl=999) == Due(True, "the last snapshot is 1000 s old, BACKUP_TTL is 999")


def test_the_binlog_was_rotated() -> None:
    assert "rotated" in ask(state=server(binlog_file="binlog.000003")).reason


def test_the_last_one_is_not_usable_any_more() -> None:
    verdict = ask(state=server(purged=gtids("A:1-9")))
    assert verdict.take
    assert "not usable" in verdict.reason


def test_only_the_open_primary() -> None:
    assert not ask(cluster(), replica(), name="node-2", session="session-2").take
    assert not ask(cluster(lock_session=None)).take
    assert not ask(cluster(record=record(state="founding"))).take
    assert not ask(cluster(), server(offline_mode=True)).take


def test_a_healthy_replica_where_asked_for() -> None:
    options = {"snapshot_node": "replica"}
    assert ask(cluster(), **options).reason == "node-2 takes the snapshots"
    assert ask(cluster(), replica(B), name="node-2", session="session-2", **options).take
    assert ask(cluster(instances=instances(replicas=())), **options).take
