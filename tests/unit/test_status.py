"""What `status` says of a cluster."""

from __future__ import annotations

from typing import Any

import pytest

from manager.status import as_text, describe
from tests.unit.worlds import B, cluster, gtids, peer, record, replica, server


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
