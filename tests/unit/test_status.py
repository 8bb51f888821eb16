"""What `status` says of a cluster."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from manager.status import as_text, describe
from tests.unit.worlds import EVERYTHING, B, cluster, gtids, peer, record, replica, server


def report(**changes: Any) -> dict[str, Any]:
    seen = cluster(record=record(**changes))
    return describe(seen, (peer("node-1", server()), peer("node-2", replica())), now=1010, holdoff=60)


@pytest.mark.parametrize(("epoch", "left"), [(1, 0), (2, 50)])
def test_the_hold_off_after_a_promotion(epoch: int, left: int) -> None:
    found = report(epoch=epoch, at=1000)
    assert found["cluster"]["holdoff_s"] == left
    assert ("hold-off 50 s" in as_text(found)) == (epoch == 2)


def test_members_by_name_and_the_last_promotions_with_their_reasons() -> None:
    found = report(durability="semisync", members=(B,), history=("... epoch 2: node-1 (switchover)",))
    assert found["cluster"]["members"] == ["node-2"]
    text = as_text(found)
    assert "members: node-2" in text
    assert "promoted ... epoch 2: node-1 (switchover)" in text


def test_transactions_that_the_primary_lacks_are_errant() -> None:
    ahead = replica(executed=gtids("A:1-10,B:1-2"))
    found = describe(cluster(), (peer("node-1", server()), peer("node-2", ahead)), now=1010, holdoff=60)
    assert {node["node"]: node["errant"] for node in found["nodes"]} == {"mysql-node-1": 0, "mysql-node-2": 2}


def test_what_servers_lack_is_said_once_for_each_kind() -> None:
    old = replace(EVERYTHING, clone=False, tls=False)
    peers = (
        peer("node-1", server(version="5.7.22", capabilities=old)),
        peer("node-2", replica(version="5.7.22", capabilities=old)),
        peer("node-3", replica()),
    )
    found = describe(cluster(), peers, now=1010, holdoff=60)
    assert [node["capabilities"]["clone"] for node in found["nodes"]] == [False, False, True]
    lines = [line for line in as_text(found).splitlines() if "lacks" in line]
    assert lines == ["MySQL 5.7.22 (mysql-node-1, mysql-node-2) lacks clone, tls"]


def test_the_servers_of_a_mixed_cluster() -> None:
    mixed = (peer("node-1", server(version="8.0.15")), peer("node-2", replica()), peer("node-3", None))
    text = as_text(describe(cluster(), mixed, now=1010, holdoff=60))
    assert "MySQL of 2 series: 8.0 (mysql-node-1), 9.7 (mysql-node-2)" in text
    assert "series" not in as_text(report())
