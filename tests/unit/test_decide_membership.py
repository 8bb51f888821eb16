"""Which membership step is next, and why: SPEC 7's steps, each with what must not happen."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from manager.decide.membership import Change, Step, change
from manager.discovery.record import Record
from manager.watched import Watched
from tests.unit.worlds import B, C, gtids, peer, record, replica, row, semisync, server, source

PRIMARY = server(semisync=semisync(source_on=True))
ALONE = server()
MEMBER_B = peer("node-2", replica(semisync=semisync(replica_on=True)))
MEMBER_C = peer("node-3", replica(C, semisync=semisync(replica_on=True)))
ATTACHED_C = peer("node-3", replica(C))


def members(*uuids: str) -> Record:
    return record(durability="semisync", members=uuids)


def ask(
    now: Record, *peers: Any, primary: Any = PRIMARY, watched: Watched | None = None, **options: Any
) -> Change:
    options = {"wanted": None, "most": 2, **options}
    return change(now, primary, peers, watched or Watched(), **options)


def test_nothing_while_all_are_well() -> None:
    assert ask(members(B, C), MEMBER_B, MEMBER_C) == Change(Step.NONE, "2 members")


class TestAdmit:
    def test_an_attached_and_near_replica(self) -> None:
        assert ask(members(B), MEMBER_B, ATTACHED_C) == Change(Step.ADMIT, "node-3 is attached and near", C)

    def test_the_first_one(self) -> None:
        assert ask(members(), ATTACHED_C, primary=ALONE).step is Step.ADMIT

    def test_none_of_an_older_series_and_the_older_of_two_first(self) -> None:
        older = peer("node-3", replica(C, version="8.4.9"))
        newer = peer("node-2", replica(version="9.7.4"))
        assert ask(members(), older, primary=replace(ALONE, version="9.7.4")).step is Step.NONE
        assert ask(members(), older, newer, primary=replace(ALONE, version="8.4.9")).uuid == C

    def test_no_more_than_sync_members(self) -> None:
        assert ask(members(B), MEMBER_B, ATTACHED_C, most=1).step is Step.NONE

    def test_none_that_is_far_behind_or_not_running(self) -> None:
        for odd in (
            source(lag=30),
            source(io_running="Connecting"),
            source(sql_running=False),
            source(source_uuid=B),
        ):
            assert ask(members(B), MEMBER_B, peer("node-3", replica(C, replication=odd))).step is Step.NONE

    def test_the_nearest_and_those_first_that_may_be_promoted(self) -> None:
        far = peer("node-2", replica(executed=gtids("A:1-5")))
        assert ask(members(), far, ATTACHED_C, primary=ALONE).uuid == C
        never = replica(C, row=replica_row(C, priority=0))
        assert ask(members(), far, peer("node-3", never), primary=ALONE).uuid == B

    def test_not_one_of_another_cluster_that_still_follows(self) -> None:
        other = replica(C, row=replica_row(C, cluster_id="cluster-2"))
        assert ask(members(B), MEMBER_B, peer("node-3", other)).step is Step.NONE

    def test_one_more_while_no_member_may_be_promoted(self) -> None:
        never = peer("node-2", replica(semisync=semisync(replica_on=True), row=replica_row(B, priority=0)))
        assert ask(members(B), never, ATTACHED_C, most=1) == Change(
            Step.ADMIT, "node-3 may be promoted, and no member may", C
        )
        also_never = peer("node-3", replica(C, row=replica_row(C, priority=0)))
        assert ask(members(B), never, also_never, most=1).step is Step.NONE


class TestRemove:
    def test_one_more_than_sync_members_and_first_who_is_never_promoted(self) -> None:
        never = peer("node-2", replica(semisync=semisync(replica_on=True), row=replica_row(B, priority=0)))
        assert ask(members(B, C), never, MEMBER_C, most=1).uuid == B
        assert ask(members(B, C), MEMBER_B, MEMBER_C, most=1) == Change(
            Step.REMOVE, "node-3 is one more than SYNC_MEMBERS", C
        )
        assert ask(members(B, C), never, peer("node-3", None), most=1).step is Step.NONE

    def test_one_that_has_been_away_while_another_is_well(self) -> None:
        gone = Watched(lost={C: 4.2})
        assert ask(members(B, C), MEMBER_B, peer("node-3", None), watched=gone).step is Step.REMOVE
        assert ask(members(B, C), MEMBER_B, peer("node-3", None), watched=gone).uuid == C

    def test_not_at_the_first_slow_answer(self) -> None:
        assert (
            ask(members(B, C), MEMBER_B, peer("node-3", None), watched=Watched(lost={C: 2.0})).step
            is Step.NONE
        )

    def test_one_that_restarted_at_once(self) -> None:
        restarted = ask(members(B, C), MEMBER_B, ATTACHED_C)
        assert restarted == Change(Step.REMOVE, "node-3 has restarted", C)


class TestAlone:
    def test_when_no_member_is_left(self) -> None:
        gone = Watched(lost={B: 4.2, C: 9.0})
        assert ask(members(B, C), peer("node-2", None), peer("node-3", None), watched=gone).step is Step.ALONE

    def test_at_once_when_all_of_them_have_restarted(self) -> None:
        restarted = (peer("node-2", replica(row=replica_row(B))), ATTACHED_C)
        assert ask(members(B, C), *restarted).step is Step.ALONE

    def test_not_while_one_may_still_come_back(self) -> None:
        gone = Watched(lost={B: 1.0, C: 9.0})
        assert ask(members(B, C), peer("node-2", None), peer("node-3", None), watched=gone).step is Step.NONE

    def test_when_members_look_well_and_nothing_is_acknowledged(self) -> None:
        assert ask(members(B, C), MEMBER_B, MEMBER_C, watched=Watched(stuck=4.5)).step is Step.ALONE

    def test_when_nobody_could_be_admitted_after_a_promotion(self) -> None:
        assert ask(members(), peer("node-2", None), watched=Watched(empty=4.5)).step is Step.ALONE
        assert ask(members(), peer("node-2", None), watched=Watched(empty=1.0)).step is Step.NONE
        assert (
            ask(members(), peer("node-2", None), primary=ALONE, watched=Watched(empty=9.0)).step is Step.NONE
        )

    def test_when_admitting_takes_too_long(self) -> None:
        assert ask(members(), ATTACHED_C, watched=Watched(empty=7.0)).step is Step.ADMIT
        assert ask(members(), ATTACHED_C, watched=Watched(empty=8.1)).step is Step.ALONE


class TestDurability:
    def test_to_semisync(self) -> None:
        assert ask(record(), ATTACHED_C, primary=ALONE, wanted="semisync").step is Step.SEMI_SYNC

    def test_to_async_only_once_nobody_is_waited_for(self) -> None:
        assert ask(members(B), MEMBER_B, wanted="async").step is Step.ALONE
        assert ask(members(), MEMBER_B, wanted="async").step is Step.ALONE
        assert ask(members(), MEMBER_B, primary=ALONE, wanted="async").step is Step.ASYNC

    def test_a_server_without_the_plugins(self) -> None:
        assert ask(members(), primary=server(semisync=None), wanted="semisync").step is Step.NONE


def replica_row(uuid: str, **changes: Any) -> Any:
    return replace(row(uuid, record()), **changes)
