"""What a diverged node does: saved in any case, rebuilt only if nothing bars it, and a sentence for people."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from manager.comeback.state import Comeback, Phase
from manager.decide.comeback import Before, before_start
from manager.decide.health import FINAL, Action, Decision, decide
from manager.decide.join import errant
from manager.mysql.state import SemisyncState
from manager.nodefile import NodeFile
from tests.unit.worlds import A, B, closed, cluster, gtids, peer, record, row, server, source, view

EXTRA = "B:7-8"
SAVING = Comeback(
    phase=Phase.SAVING, cluster_id="cluster-1", server_uuid=B, folder="the-folder", extra=str(gtids(EXTRA))
)
SAVED = SAVING.now(Phase.SAVED)
ADOPTED = NodeFile(origin="adopted", cluster_id="cluster-1", ready=True)


def diverged(**changes: Any) -> Decision:
    """What node-2 does, an old primary that is back with two transactions that node-1 lacks."""
    mine = closed(B, executed=gtids(f"A:1-9,{EXTRA}"))
    return decide(view("node-2", server=mine, primary=peer("node-1", server()), **changes))


def test_it_is_saved_first() -> None:
    decision = diverged()
    assert decision.action is Action.COME_BACK
    assert "diverged: 2 transactions that node-1 lacks" in decision.reason
    assert "stays out until they are saved to the store" in decision.reason
    assert decision.action in FINAL


@pytest.mark.parametrize(
    "bar", [{"file": ADOPTED}, {"auto_rebuild": False}, {"cluster": cluster(paused="by node-3: upgrade")}]
)
def test_it_is_saved_even_if_it_must_not_be_rebuilt(bar: dict[str, Any]) -> None:
    assert diverged(**bar).action is Action.COME_BACK
    assert diverged(comeback=SAVING, **bar).action is Action.COME_BACK


def test_what_the_last_attempt_failed_with_is_told() -> None:
    decision = diverged(comeback=replace(SAVING, note="no S3 server answers"))
    assert decision.action is Action.COME_BACK
    assert "until they are saved to the store (last attempt: no S3 server answers)" in decision.reason


@pytest.mark.parametrize(
    "phase", [Phase.SAVED, Phase.COPIED, Phase.MOVING_OUT, Phase.MOVED, Phase.TRIMMING, Phase.TRIMMED]
)
def test_then_it_is_rebuilt(phase: Phase) -> None:
    decision = diverged(comeback=SAVED.now(phase))
    assert decision.action is Action.COME_BACK
    assert "saved as the-folder; it is being rebuilt" in decision.reason


def test_not_if_there_is_more_than_was_saved() -> None:
    decision = diverged(comeback=replace(SAVED, extra=str(gtids("B:7"))), auto_rebuild=False)
    assert decision.action is Action.COME_BACK
    assert "until they are saved" in decision.reason


@pytest.mark.parametrize(
    ("bar", "reason"),
    [
        ({"file": ADOPTED}, "its data directory was adopted, and such a one is never rebuilt"),
        ({"auto_rebuild": False}, "AUTO_REBUILD is no"),
        ({"cluster": cluster(paused="by node-3: upgrade")}, "paused by node-3: upgrade"),
    ],
)
def test_what_bars_a_rebuild(bar: dict[str, Any], reason: str) -> None:
    decision = diverged(comeback=SAVED, **bar)
    assert decision.action is Action.WAIT
    assert f"saved as the-folder; stays out: {reason}" in decision.reason


def test_a_first_founder_back_late_has_diverged() -> None:
    founder = closed(B, executed=gtids("B:1-4"), row=row(B, record(epoch=1, primary=B)))
    taken_over = cluster(record=record(epoch=2, version=3))
    decision = decide(
        view("node-2", server=founder, cluster=taken_over, primary=peer("node-1", server(A, row=None)))
    )
    assert decision.action is Action.COME_BACK
    assert "diverged: 4 transactions" in decision.reason


def test_a_subset_just_follows_whatever_was_before() -> None:
    mine = closed(B, executed=gtids("A:1-9"))
    seen = view("node-2", server=mine, primary=peer("node-1", server()), comeback=SAVED.now(Phase.TRIMMED))
    assert decide(seen).action is Action.FOLLOW


# --- Before a killed server starts ---------------------------------------------------------------

SEMISYNC = record(durability="semisync", epoch=3, members=(B,))
PROMOTED = record(durability="semisync", epoch=4, primary=B, primary_name="node-2", primaries=(A, B))


@pytest.mark.parametrize(
    ("seen", "epoch", "what", "reason"),
    [
        ({"record": SEMISYNC}, 3, Before.WAIT, "it was the primary of epoch 3"),
        ({"record": SEMISYNC}, 0, Before.WAIT, "it was the primary"),  # opened by a runner, killed at once
        ({"record": replace(SEMISYNC, members=())}, 3, Before.START, "A is empty"),
        ({"record": SEMISYNC, "paused": "by node-2: work"}, 3, Before.START, "paused by node-2: work"),
        ({"record": record(epoch=3)}, 3, Before.START, "async"),
        ({"record": PROMOTED}, 3, Before.COMPARE, "node-2 is the primary of epoch 4"),
        ({"record": PROMOTED, "paused": "by node-2: work"}, 3, Before.COMPARE, "node-2 is the primary"),
        ({"record": PROMOTED}, 0, Before.START, "it was not the primary"),
        ({"record": PROMOTED}, 4, Before.START, "comes from the past"),
        ({"record": PROMOTED}, 5, Before.START, "comes from the past"),
        ({"record": replace(PROMOTED, id="another")}, 3, Before.START, "no record of its cluster"),
        ({"record": None}, 3, Before.START, "no record of its cluster"),
        ({"record": replace(PROMOTED, durability="async")}, 3, Before.START, "async"),
    ],
)
def test_before_a_killed_server_starts(seen: dict[str, Any], epoch: int, what: Before, reason: str) -> None:
    decision, why = before_start(cluster(**seen), server_uuid=A, cluster_id="cluster-1", epoch=epoch)
    assert (decision, reason in why) == (what, True), why


# --- Commits that wait are on a replica first ---------------------------------------------------

WAITING = SemisyncState(source_on=True, replica_on=False, waiting=True, acknowledged=5)
QUIET = replace(WAITING, waiting=False)


def test_a_waiting_commit_of_the_primary_is_no_divergence() -> None:
    ahead = closed(B, executed=gtids("A:1-11"))
    assert not errant(ahead, server(semisync=WAITING))
    assert errant(ahead, server(semisync=QUIET)) == gtids("A:11")
    assert errant(ahead, server()) == gtids("A:11")


def test_what_others_wrote_is_one_even_then() -> None:
    assert errant(closed(B, executed=gtids("A:1-11,B:3")), server(semisync=WAITING)) == gtids("B:3")


def test_what_is_received_counts() -> None:
    mine = closed(B, executed=gtids("A:1-9"), replication=source(retrieved=gtids("B:5"), applied_all=False))
    assert errant(mine, server()) == gtids("B:5")
