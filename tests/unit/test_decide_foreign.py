"""Which transactions of other servers the record takes for the cluster's own; X is the server that moves in."""

from __future__ import annotations

from manager.decide.failover import choose
from manager.decide.foreign import base
from manager.gtid import LAST_NUMBER, GtidSet
from manager.mysql.semisync import account
from tests.unit.test_decide_failover import candidate
from tests.unit.worlds import A, B, C, channel, gtids, record, server

X = C
MOVING = server(executed=gtids("A:1-10,C:1-5"), channels=(channel("C:2-6"),))
DONE = server(executed=gtids("A:1-10,C:1-7"), channels=(channel("C:2-7", runs=False),))
WHOLE = gtids(f"C:1-{LAST_NUMBER}")


def test_nothing_changes_in_a_cluster_that_gets_nothing_from_elsewhere() -> None:
    for begun in ("", "A:1-3", "A:1-3,C:1-4"):
        primary = server(executed=gtids("A:1-10") | gtids(begun))
        assert base(record(base=str(gtids(begun))), primary, ()) == gtids(begun)


def test_what_may_still_come_counts_while_its_channel_runs_and_no_longer() -> None:
    open_end = base(record(base=str(gtids("C:1"))), MOVING, ())
    assert open_end == WHOLE
    assert base(record(base=str(open_end)), MOVING, ()) == open_end, "it would be written again and again"
    closed = base(record(base=str(open_end)), DONE, ())
    assert closed == gtids("C:1-7")
    assert base(record(base=str(closed)), DONE, ()) == closed


def test_another_primary_takes_it_back_to_what_it_has_itself() -> None:
    promoted = record(base=str(WHOLE), primary=B, primaries=(A, B), epoch=2)
    primary = server(B, executed=gtids("A:1-10,C:1-4"))
    assert base(promoted, primary, ()) == gtids("C:1-4")


def test_a_node_of_the_cluster_has_no_open_end() -> None:
    """Neither a former primary nor a replica, which has an account: what is written on one later is errant."""
    assert base(record(), MOVING, {account(X)}) == gtids("C:1-5")
    assert base(record(primaries=(X, A)), MOVING, ()) == GtidSet()
    assert base(record(), MOVING, {account(B)}) == WHOLE


def test_what_a_person_gave_the_primary_counts_exactly() -> None:
    """An errant transaction of node-2 that was done on the primary as well: one more is errant all the same."""
    repaired = base(record(), server(executed=gtids("A:1-10,B:1")), ())
    assert repaired == gtids("B:1")
    now = record(base=str(repaired))
    assert choose(now, (candidate("n2", "A:1-10,B:1"),)).chosen is not None
    refused = choose(now, (candidate("n2", "A:1-10,B:1-2"),))
    assert refused.chosen is None
    assert refused.rejected["n2"] == f"diverged: transactions of servers that were never primary: {B}:2"


def test_tags() -> None:
    tagged = server(executed=gtids("A:1-10,C:blue:1"), channels=(channel("C:blue:1-2"),))
    assert base(record(), tagged, ()) == gtids(f"C:blue:1-{LAST_NUMBER}")
