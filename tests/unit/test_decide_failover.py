"""When to fail over and to whom: the table of SPEC 7, row by row."""

from __future__ import annotations

from typing import Any, ClassVar

from manager.decide.failover import Candidate, Choice, Watch, When, at_risk, choose, when
from tests.unit.worlds import (
    A,
    B,
    C,
    closed,
    cluster,
    gtids,
    instances,
    peer,
    record,
    replica,
    row,
    semisync,
    server,
)

REPLICAS = (peer("node-2", replica()), peer("node-3", replica(C)))


def ask(
    primary: Any, *, held: bool, peers: Any = REPLICAS, watch: Watch | None = None, **changes: Any
) -> tuple[When, str]:
    look = cluster(lock_session="session-1" if held else None, instances=instances(None), **changes)
    return when(look, (peer("node-1", primary), *peers), watch or Watch(), lease=10, holdoff=60)


class TestWhen:
    def test_held_and_serving_is_never_a_reason(self) -> None:
        assert ask(server(), held=True) == (When.NOTHING, "node-1 holds PRIMARY_KEY and serves")

    def test_held_and_closed_fails_over_after_a_moment(self) -> None:
        fenced = closed(A, row=row(A, record(), opened=1))
        assert ask(fenced, held=True)[0] is When.WAIT
        assert ask(fenced, held=True, watch=Watch(closed=1.5))[0] is When.GO

    def test_held_and_promoted_but_not_open_is_opened(self) -> None:
        assert ask(closed(A, row=row(A, record(), opened=0)), held=True)[0] is When.FINISH

    def test_held_without_an_answer_freezes_nothing(self) -> None:
        verdict, reason = ask(None, held=True)
        assert verdict is When.WAIT
        assert "Consul has not ended its session" in reason

    def test_free_and_serving_has_its_lease_to_take_it_again(self) -> None:
        assert ask(server(), held=False, watch=Watch(free=9))[0] is When.WAIT
        assert ask(server(), held=False, watch=Watch(free=10.1))[0] is When.HAND_OVER

    def test_no_second_failover_within_the_holdoff_while_it_serves(self) -> None:
        verdict, reason = ask(server(), held=False, watch=Watch(free=20, since_promotion=12))
        assert verdict is When.NOTHING
        assert "promoted 12 s ago" in reason

    def test_free_and_closed_or_silent_fails_over_at_once(self) -> None:
        assert ask(closed(A), held=False)[0] is When.GO
        assert ask(None, held=False) == (When.GO, "node-1 does not answer and PRIMARY_KEY is free")

    def test_a_record_from_the_past_promotes_nobody(self) -> None:
        newer = record(epoch=2, version=9)
        verdict, reason = ask(None, held=False, peers=(peer("node-2", replica(row=row(B, newer))),))
        assert verdict is When.NOTHING
        assert "node-2 has seen a newer one" in reason

    def test_two_healthy_primaries_only_the_one_that_the_record_names_counts(self) -> None:
        two = (peer("node-2", server(B)), peer("node-3", replica(C)))
        assert ask(server(), held=True, peers=two)[0] is When.NOTHING
        assert ask(None, held=True, peers=two)[0] is When.WAIT

    def test_total_loss_changes_nothing_while_nobody_answers(self) -> None:
        silent = (peer("node-2", None), peer("node-3", None))
        assert ask(None, held=True, peers=silent)[0] is When.WAIT
        assert choose(record(), ()).chosen is None
        assert choose(record(durability="semisync", members=(B, C)), ()).chosen is None

    def test_paused(self) -> None:
        assert ask(None, held=False, paused="by mysql-node-1") == (When.NOTHING, "paused: by mysql-node-1")

    def test_no_record_or_no_cluster_yet(self) -> None:
        assert ask(None, held=False, record=None)[0] is When.NOTHING
        assert ask(None, held=False, record=record(state="founding"))[0] is When.NOTHING


def candidate(name: str, executed: str, **changes: Any) -> Candidate:
    fields = {
        "drained": True,
        "priority": 100,
        "session": f"session of {name}",
        "version": "9.7.4",
        "received": gtids(executed),
        "acknowledges": True,
        **changes,
    }
    return Candidate(name=name, uuid=name, executed=gtids(executed), **fields)


class TestChoose:
    def test_the_most_advanced(self) -> None:
        choice = choose(record(), (candidate("n2", "A:1-8"), candidate("n3", "A:1-10")))
        assert choice.chosen is not None
        assert choice.chosen.name == "n3"
        assert choice.catch_up_from is None

    def test_then_priority_then_name(self) -> None:
        even = (candidate("n3", "A:1-10"), candidate("n2", "A:1-10"), candidate("n4", "A:1-10", priority=200))
        assert choose(record(), even).chosen == even[2]
        assert choose(record(), even[:2]).chosen == even[1]

    def test_one_survivor_of_two_nodes(self) -> None:
        assert choose(record(), (candidate("n2", "A:1-3"),)).chosen is not None

    def test_priority_zero_is_never_promoted_but_gives_what_it_has(self) -> None:
        choice = choose(record(), (candidate("n2", "A:1-10", priority=0), candidate("n3", "A:1-7")))
        assert choice.chosen is not None
        assert choice.chosen.name == "n3"
        assert choice.catch_up_from is not None
        assert choice.catch_up_from.name == "n2"
        assert choice.rejected == {"n2": "FAILOVER_PRIORITY is 0"}

    def test_a_diverged_one_is_left_out(self) -> None:
        choice = choose(record(), (candidate("n2", "A:1-10,C:1"), candidate("n3", "A:1-7")))
        assert choice.chosen is not None
        assert choice.chosen.name == "n3"
        assert "never primary" in choice.rejected["n2"]

    def test_an_earlier_primarys_transactions_are_no_errant_ones(self) -> None:
        history = record(primaries=(C, A))
        assert choose(history, (candidate("n2", "A:1-10,C:1-5"),)).chosen is not None

    def test_what_the_founder_began_with_is_not_errant_either(self) -> None:
        adopted = record(base=str(gtids("C:1-5")))
        assert choose(adopted, (candidate("n2", "A:1-10,C:1-5"),)).chosen is not None
        assert choose(adopted, (candidate("n2", "A:1-10,C:1-6"),)).chosen is None

    def test_two_that_each_have_something_more_promote_nobody(self) -> None:
        beside = record(primaries=(A, B))
        choice = choose(beside, (candidate("n2", "A:1-10"), candidate("n3", "A:1-9,B:1")))
        assert choice.chosen is None
        assert "each have transactions" in choice.reason

    def test_not_drained_or_without_a_session(self) -> None:
        assert choose(record(), (candidate("n2", "A:1-10", drained=False),)).chosen is None
        choice = choose(record(), (candidate("n2", "A:1-10", session=None),))
        assert choice.chosen is None
        assert "no live Consul session" in choice.rejected["n2"]

    def test_the_one_that_was_asked_for(self) -> None:
        even = (candidate("n2", "A:1-10"), candidate("n3", "A:1-10"))
        assert choose(record(), even, only="n3").chosen == even[1]
        assert choose(record(), even, only="n3").rejected == {"n2": "n3 was asked for"}


class TestSeries:
    OLD: ClassVar[dict[str, Any]] = {"version": "5.7.22"}
    NEW: ClassVar[dict[str, Any]] = {"version": "8.0.15", "priority": 200}

    def test_among_equals_the_older_one_which_the_other_can_follow(self) -> None:
        even = (candidate("n2", "A:1-10", **self.NEW), candidate("n3", "A:1-10", **self.OLD))
        assert choose(record(), even).chosen == even[1]
        semi = record(durability="semisync", members=("n2", "n3"))
        assert choose(semi, even).chosen == even[1]

    def test_the_newer_one_where_it_alone_has_everything(self) -> None:
        ahead = (candidate("n2", "A:1-10", **self.NEW), candidate("n3", "A:1-9", **self.OLD))
        assert choose(record(), ahead).chosen == ahead[0]
        semi = record(durability="semisync", members=("n2", "n3"))
        assert choose(semi, ahead).chosen == ahead[0]

    def test_an_older_one_never_catches_up_from_a_newer_one(self) -> None:
        held = candidate("n2", "A:1-10", version="8.0.15", priority=0)
        choice = choose(record(), (held, candidate("n3", "A:1-9", **self.OLD)))
        assert choice.chosen is None
        assert choice.rejected["n3"] == "lacks 1 that n2 has: MySQL 5.7 cannot follow 8.0: upgrade it"
        assert choose(record(), (held, candidate("n3", "A:1-9", version="8.0.15"))).catch_up_from == held


class TestChooseAMember:
    SEMISYNC = record(durability="semisync", members=("n2", "n3"))

    def test_one_that_has_executed_what_any_member_received(self) -> None:
        behind = candidate("n2", "A:1-9")
        ahead = candidate("n3", "A:1-10")
        choice = choose(self.SEMISYNC, (behind, ahead))
        assert choice.chosen == ahead
        assert choice.rejected == {"n2": "lacks 1 that a member has received"}

    def test_received_and_never_executed_refuses_everybody(self) -> None:
        stuck = candidate("n2", "A:1-9", received=gtids("A:1-11"))
        assert choose(self.SEMISYNC, (stuck, candidate("n3", "A:1-10"))).chosen is None

    def test_not_while_a_member_is_missing(self) -> None:
        choice = choose(self.SEMISYNC, (candidate("n2", "A:1-10"),))
        assert choice.chosen is None
        assert choice.reason == "1 of 2 members do not answer"

    def test_one_survivor_of_two_nodes_is_enough_if_it_is_all_of_a(self) -> None:
        one = record(durability="semisync", members=("n2",))
        assert choose(one, (candidate("n2", "A:1-10"),)).chosen is not None

    def test_a_survivor_that_has_not_got_through_what_it_received(self) -> None:
        one = record(durability="semisync", members=("n2",))
        behind = candidate("n2", "A:1-9", received=gtids("A:1-10"))
        assert choose(one, (behind,)).rejected == {"n2": "lacks 1 that a member has received"}

    def test_tagged_transactions_are_compared_like_all_others(self) -> None:
        ahead = candidate("n3", "A:1-10:backup:1-2")
        choice = choose(self.SEMISYNC, (candidate("n2", "A:1-10"), ahead))
        assert choice.chosen == ahead
        assert choice.rejected == {"n2": "lacks 2 that a member has received"}

    def test_not_while_a_member_has_restarted(self) -> None:
        restarted = candidate("n3", "A:1-10", acknowledges=False)
        choice = choose(self.SEMISYNC, (candidate("n2", "A:1-10"), restarted))
        assert choice.chosen is None
        assert "n3 has restarted" in choice.reason

    def test_not_while_there_are_no_members(self) -> None:
        alone = record(durability="semisync", members=())
        assert "A is empty" in choose(alone, (candidate("n2", "A:1-10"),)).reason

    def test_one_that_is_no_member_is_not_chosen_however_advanced(self) -> None:
        one = record(durability="semisync", members=("n2",))
        choice = choose(one, (candidate("n2", "A:1-9"), candidate("n3", "A:1-10")))
        assert choice.chosen is not None
        assert choice.chosen.name == "n2"
        assert choice.rejected == {"n3": "not a member"}

    def test_a_person_may_force_it(self) -> None:
        choice = choose(self.SEMISYNC, (candidate("n2", "A:1-9"),), forced=True)
        assert choice.chosen is not None


class TestAtRisk:
    TWO = record(durability="semisync", members=(B, C))
    ON = semisync(replica_on=True)
    CHOICE = Choice(chosen=candidate("node-2", "A:1-10"), reason="")

    def test_nothing_while_every_member_is_here(self) -> None:
        members = (peer("node-2", replica(semisync=self.ON)), peer("node-3", replica(C, semisync=self.ON)))
        assert at_risk(self.TWO, self.CHOICE, (peer("node-1", None), *members)) == []

    def test_members_that_are_away_or_have_restarted(self) -> None:
        assert at_risk(self.TWO, self.CHOICE, (peer("node-2", replica()), peer("node-3", None))) == [
            "1 of 2 members do not answer: what they alone hold",
            "node-2 has restarted and may have forgotten what it acknowledged",
        ]

    def test_in_async_whatever_a_silent_primary_did_not_send(self) -> None:
        assert at_risk(record(), self.CHOICE, (peer("node-1", None), *REPLICAS)) == [
            "node-1 does not answer: what node-2 has not received from it"
        ]

    def test_a_closed_primary_that_has_more_but_not_one_that_serves(self) -> None:
        more = gtids("A:1-12")
        assert at_risk(record(), self.CHOICE, (peer("node-1", closed(A, executed=more)), *REPLICAS)) == [
            "node-1 has 2 transactions that node-2 lacks; its return saves them"
        ]
        assert at_risk(record(), self.CHOICE, (peer("node-1", server(A, executed=more)), *REPLICAS)) == []

    def test_what_is_fetched_from_a_replica_that_may_not_be_promoted(self) -> None:
        more = gtids("A:1-12")
        peers = (
            peer("node-2", replica()),
            peer("node-3", replica(C, executed=more)),
            peer("node-1", closed(A)),
        )
        fetched = Choice(
            chosen=candidate("node-2", "A:1-10"), reason="", catch_up_from=candidate("node-3", "A:1-12")
        )
        assert at_risk(record(), fetched, peers) == []

    def test_nobody_is_chosen(self) -> None:
        assert at_risk(record(), Choice(chosen=None, reason="no"), REPLICAS) == []
