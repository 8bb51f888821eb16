"""What one health run does next, and the sentence that says why: each case of SPEC 7 by name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from manager.decide.health import Action, decide, newest_copy
from manager.first_start import FirstStart, Phase
from manager.nodefile import NodeFile
from manager.watched import Watched
from tests.unit.worlds import (
    A,
    B,
    C,
    channel,
    closed,
    cluster,
    gtids,
    instances,
    peer,
    record,
    replica,
    row,
    server,
    snapshot,
    source,
    view,
)

EMPTY = NodeFile(origin="initialised", may_found=True)


def empty(**changes: Any) -> Any:
    """A view of node-2 with a freshly initialised database on an empty Consul."""
    nothing = cluster(
        record=None,
        record_index=0,
        lock_session=None,
        lock_value=None,
        instances=tuple(i for i in instances(None, replicas=())),
    )
    fresh = closed(B, executed=gtids(""), row=None)
    return view("node-2", **{"file": EMPTY, "server": fresh, "cluster": nothing, **changes})


def expect(seen: Any, action: Action, reason: str) -> None:
    decision = decide(seen)
    assert decision.action is action, decision
    assert reason in decision.reason


class TestPrimary:
    def test_serves(self) -> None:
        expect(view(), Action.SERVE, "primary at epoch 1")

    def test_opens_after_a_promotion_that_nobody_has_opened(self) -> None:
        promoted = record(epoch=2, version=3, primary=B, primary_name="node-2", primaries=(A, B))
        held = cluster(
            record=promoted,
            lock_session="session-2",
            lock_value='{"name": "node-2", "address": "127.0.9.2", "port": 3306}',
        )
        expect(view("node-2", server=replica(), cluster=held), Action.OPEN, "names it at epoch 2")

    def test_opened_at_an_older_epoch_opens_again_first(self) -> None:
        again = record(epoch=3, version=5)
        seen = view(server=server(row=row(A, again, opened=1)), cluster=cluster(record=again))
        expect(seen, Action.OPEN, "epoch 3")

    def test_takes_the_lock_again_with_a_touch_when_its_session_died(self) -> None:
        expect(view(cluster=cluster(lock_session=None)), Action.RETAKE, "PRIMARY_KEY is free")

    def test_closes_when_somebody_else_holds_the_lock(self) -> None:
        held = cluster(
            lock_session="session-2", lock_value='{"name": "node-2", "address": "127.0.9.2", "port": 3306}'
        )
        expect(view(cluster=held), Action.CLOSE, "node-2 holds PRIMARY_KEY")

    def test_does_nothing_without_a_session_of_its_own(self) -> None:
        mine = closed(A)
        free = cluster(lock_session=None)
        expect(view(session=None, server=mine, cluster=free), Action.WAIT, "no Consul session")
        expect(view(session=None), Action.WAIT, "no Consul session")

    def test_goes_on_without_a_session_while_its_replicas_are_attached(self) -> None:
        """Consul back empty: until the agent has joined it there is no session to take PRIMARY_KEY with."""
        known = frozenset({"node-2 127.0.9.2 3306"})
        for record_now in (record(), None):
            free = cluster(record=record_now, lock_session=None)
            attached = view(session=None, cluster=free, known=known, peers=(peer("node-2", replica()),))
            expect(attached, Action.SERVE, "every known replica is attached")
            assert decide(attached).confirmed
            missing = view(session=None, cluster=free, known=known)
            expect(missing, Action.SERVE, "not attached: node-2")
            assert not decide(missing).confirmed

    def test_thawed_after_a_promotion_it_closes_although_the_lock_is_free(self) -> None:
        newer = record(epoch=2, version=3, primary=B, primary_name="node-2", primaries=(A, B))
        seen = view(cluster=cluster(record=newer, lock_session=None, instances=instances(None)))
        expect(seen, Action.CLOSE, "epoch 2 belongs to node-2")

    def test_closed_for_its_stop_it_neither_opens_nor_takes_the_lock(self) -> None:
        """A clean shutdown acknowledges what nobody has: what pre_stop has closed stays closed."""
        closed_at_its_epoch = view(server=closed(A, row=row(A, record(), opened=1)))
        expect(closed_at_its_epoch, Action.OPEN, "holds PRIMARY_KEY")
        expect(replace(closed_at_its_epoch, stopping=True), Action.WAIT, "is being stopped")
        free = replace(closed_at_its_epoch, cluster=cluster(lock_session=None), stopping=True)
        expect(free, Action.WAIT, "is being stopped")

    def test_without_the_plugins_it_leaves_a_cluster_that_has_members_to_them(self) -> None:
        two = record(durability="semisync", members=(B, C))
        bare = closed(A, semisync=None, row=row(A, two, opened=1))
        expect(view(server=bare, cluster=cluster(record=two)), Action.WAIT, "no semi-sync plugins")
        alone = record(durability="semisync")
        bare = closed(A, semisync=None, row=row(A, alone, opened=1))
        expect(view(server=bare, cluster=cluster(record=alone)), Action.OPEN, "holds PRIMARY_KEY")

    def test_writes_its_new_address_into_the_lock(self) -> None:
        moved = cluster(lock_value='{"name": "node-1", "address": "127.0.9.77", "port": 3306}')
        expect(view(cluster=moved), Action.RETAKE, "address has changed")


class TestRestartedPrimary:
    """semisync, with members: its binlog may hold commits that nobody acknowledged."""

    SEMISYNC = record(durability="semisync", members=(B, C), version=5)
    MINE = closed(A, row=row(A, SEMISYNC, opened=1))

    def seen(self, other: Any, waited: float = 0.0) -> Any:
        peers = (peer("node-2", other), peer("node-3", None))
        look = cluster(record=self.SEMISYNC)
        return view(server=self.MINE, cluster=look, peers=peers, watched=Watched(restarting=waited))

    def test_opens_once_a_member_has_received_everything(self) -> None:
        expect(self.seen(replica()), Action.OPEN, "node-2 has received everything")
        only_received = replica(executed=gtids("A:1-7"), replication=source(applied_all=False))
        expect(self.seen(only_received), Action.OPEN, "node-2 has received everything")

    def test_waits_for_it(self) -> None:
        behind = replica(executed=gtids("A:1-9"), replication=source(retrieved=gtids("A:1-9")))
        expect(self.seen(behind, 3.0), Action.WAIT, "waiting for a member")

    def test_goes_alone_after_eight_seconds(self) -> None:
        expect(self.seen(None, 8.5), Action.ALONE, "no member has received everything")

    def test_after_a_promotion_nobody_is_waited_for(self) -> None:
        promoted = record(durability="semisync", epoch=2, version=6)
        seen = view(server=closed(A, row=row(A, promoted, opened=1)), cluster=cluster(record=promoted))
        expect(seen, Action.OPEN, "epoch 2")


class TestReplica:
    def test_attaches_again_when_its_account_is_locked(self) -> None:
        locked = replica(replication=source(io_running="Connecting", io_errno=3118, io_error="locked"))
        expect(
            view("node-2", server=locked, primary=peer("node-1", server())), Action.FOLLOW, "attaching again"
        )

    def test_replicates(self) -> None:
        expect(view("node-2", server=replica()), Action.REPLICATE, "replica of node-1")

    def test_follows_the_primary_after_comparing(self) -> None:
        behind = closed(executed=gtids("A:1-4"))
        seen = view("node-2", server=behind, primary=peer("node-1", server()))
        expect(seen, Action.FOLLOW, "behind by 6")

    def test_follows_a_primary_whose_address_changed(self) -> None:
        old = replica(replication=source(source_host="127.0.9.77", io_running="Connecting"))
        expect(
            view("node-2", server=old, primary=peer("node-1", server())),
            Action.FOLLOW,
            "node-1 is the primary",
        )

    def test_diverged_stays_out_with_the_reason(self) -> None:
        odd = closed(executed=gtids("A:1-10,B:1-2"))
        expect(
            view("node-2", server=odd, primary=peer("node-1", server())),
            Action.COME_BACK,
            "diverged: 2 transactions",
        )

    def test_extra_transactions_in_the_relay_log_count_as_diverged(self) -> None:
        odd = closed(
            replication=source(
                retrieved=gtids("A:1-12"), applied_all=False, io_running="No", sql_running=False
            )
        )
        expect(
            view("node-2", server=odd, primary=peer("node-1", server())),
            Action.COME_BACK,
            "diverged: 2 transactions",
        )

    def test_starts_a_stopped_replication_only_after_comparing(self) -> None:
        stopped = closed(replication=source(io_running="No", sql_running=False))
        expect(view("node-2", server=stopped, primary=peer("node-1", server())), Action.START, "is stopped")
        expect(view("node-2", server=stopped, primary=peer("node-1", None)), Action.WAIT, "does not answer")

    def test_replicates_under_its_own_account_where_that_can_be_cut_off(self) -> None:
        foreign = source(io_running="No", sql_running=False, source_user="repl")
        expect(
            view("node-2", server=closed(replication=foreign), primary=peer("node-1", server())),
            Action.FOLLOW,
            "as repl",
        )
        without = closed(replication=foreign, semisync=None)
        expect(view("node-2", server=without, primary=peer("node-1", server())), Action.START, "is stopped")

    def test_says_why_replication_fails(self) -> None:
        failed = replica(replication=source(sql_running=False, sql_error="1062 duplicate"))
        expect(view("node-2", server=failed, primary=peer("node-1", server())), Action.WAIT, "1062 duplicate")

    def test_starts_a_receiver_that_a_freeze_stopped_while_it_could_not_connect(self) -> None:
        frozen = replica(replication=source(io_running="No", io_errno=2003, io_error="cannot connect"))
        expect(view("node-2", server=frozen, primary=peer("node-1", server())), Action.START, "is stopped")
        purged = replica(replication=source(io_running="No", io_errno=13114, io_error="purged"))
        expect(view("node-2", server=purged, primary=peer("node-1", server())), Action.WAIT, "fails: purged")

    def test_a_row_in_the_status_is_not_enough(self) -> None:
        connecting = replica(replication=source(io_running="Connecting"))
        expect(view("node-2", server=connecting, primary=peer("node-1", server())), Action.WAIT, "connecting")

    def test_both_threads_running_from_elsewhere_are_not_enough(self) -> None:
        old = replica(replication=source(source_host="127.0.9.77"))
        expect(view("node-2", server=old, primary=peer("node-1", server())), Action.FOLLOW, "is the primary")
        another = replica(replication=source(source_uuid=C))
        expect(view("node-2", server=another), Action.WAIT, "from a server that is not node-1")

    def test_too_far_behind(self) -> None:
        slow = replica(replication=source(lag=90))
        expect(view("node-2", server=slow, max_lag=60), Action.WAIT, "90 s behind")
        unknown = replica(replication=source(lag=None))
        expect(view("node-2", server=unknown, max_lag=60), Action.WAIT, "None s behind")

    def test_never_stays_writable(self) -> None:
        expect(view("node-2", server=server(B)), Action.CLOSE, "belongs to node-1")

    def test_starts_a_failover_while_there_is_no_primary(self) -> None:
        alone = view(
            "node-2", server=replica(), cluster=cluster(lock_session=None, instances=instances(None))
        )
        expect(alone, Action.WAIT, "no healthy primary")
        assert decide(alone).failover
        newcomer = view(
            "node-2",
            server=closed(),
            file=EMPTY,
            cluster=cluster(lock_session=None, instances=instances(None)),
        )
        assert not decide(newcomer).failover

    def test_two_advertised_primaries_the_lock_holder_is_followed(self) -> None:
        two = (*instances("node-1"), *(i for i in instances("node-3") if i.service == "primary"))
        expect(view("node-2", server=replica(), cluster=cluster(instances=two)), Action.REPLICATE, "node-1")

    def test_same_server_id_is_refused(self) -> None:
        twin = closed(server_id=server().server_id)
        expect(view("node-2", server=twin, primary=peer("node-1", server())), Action.WAIT, "server_id")

    def test_another_clusters_data_stays_out(self) -> None:
        foreign = NodeFile(origin="restored", cluster_id="cluster-2")
        expect(view("node-2", server=closed(), file=foreign), Action.WAIT, "belongs to cluster cluster-2")


class TestJoiningFromEmpty:
    def test_follows_from_the_beginning(self) -> None:
        seen = empty(cluster=cluster(), primary=peer("node-1", server()))
        expect(seen, Action.FOLLOW, "behind by 10")

    def test_purged_transactions_need_a_snapshot(self) -> None:
        purged = server(purged=gtids("A:1-3"))
        without = empty(cluster=cluster(), primary=peer("node-1", purged))
        expect(without, Action.COME_BACK, "it gets a copy of the primary")
        foreign = cluster(last_snapshot=snapshot(cluster_id="cluster-2"))
        expect(
            empty(cluster=foreign, primary=peer("node-1", purged)), Action.COME_BACK, "a copy of the primary"
        )
        too_old = cluster(last_snapshot=snapshot(gtid=str(gtids("A:1-2"))))
        expect(
            empty(cluster=too_old, primary=peer("node-1", purged)), Action.COME_BACK, "a copy of the primary"
        )
        with_snapshot = cluster(last_snapshot=snapshot())
        expect(
            empty(cluster=with_snapshot, primary=peer("node-1", purged)), Action.BEGIN_ANEW, "has purged 3"
        )

    def test_an_adopted_founders_rows_are_in_no_binlog(self) -> None:
        adopted = cluster(record=record(origin="adopted"))
        seen = empty(cluster=adopted, server=closed(executed=gtids(""), row=row(B, adopted.record)))
        expect(
            view("node-2", file=EMPTY, server=seen.server, cluster=adopted, primary=peer("node-1", server())),
            Action.COME_BACK,
            "rows that are in no binlog",
        )

    def test_an_adopted_data_directory_never_joins(self) -> None:
        seen = view(
            "node-2", server=closed(), file=NodeFile(origin="adopted"), primary=peer("node-1", server())
        )
        expect(seen, Action.WAIT, "adopted data directory never joins")

    def test_without_a_replication_account_one_node_works_alone(self) -> None:
        expect(empty(cluster=cluster(), replication_configured=False), Action.WAIT, "MYSQL_REPL_USER")


class TestFounding:
    def test_founds(self) -> None:
        expect(empty(), Action.FOUND, "no cluster exists")

    def test_waits_for_a_session(self) -> None:
        expect(empty(session=None), Action.WAIT, "no Consul session")

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"last_snapshot": snapshot()}, "a snapshot is registered"),
            (
                {"instances": instances(None, replicas=("node-3",))},
                "initialised nodes are registered: node-3",
            ),
            ({"lock_session": "session-3"}, "PRIMARY_KEY is held"),
        ],
    )
    def test_founds_nothing_where_a_cluster_may_have_been(self, change: dict[str, Any], reason: str) -> None:
        base = empty()
        nothing = cluster(
            **{**{f: getattr(base.cluster, f) for f in base.cluster.__dataclass_fields__}, **change}
        )
        expect(empty(cluster=nothing), Action.WAIT, reason)

    def test_founds_nothing_when_the_store_has_snapshots(self) -> None:
        known = NodeFile(origin="initialised", may_found=False, why_not_found="the store holds 2 snapshots")
        expect(empty(file=known), Action.WAIT, "the store holds 2 snapshots")

    def test_a_restored_node_founds_nothing(self) -> None:
        expect(empty(file=NodeFile(origin="restored", cluster_id="cluster-1")), Action.WAIT, "needs a person")

    def test_the_founder_sets_up_and_opens(self) -> None:
        founding = record(state="founding", version=1)
        mine = closed(A, executed=gtids(""), row=row(A, founding))
        expect(view(file=EMPTY, server=mine, cluster=cluster(record=founding)), Action.BOOTSTRAP, "founds")

    @pytest.mark.parametrize(
        ("phase", "action", "reason"),
        [
            (Phase.WANTED, Action.FIRST_START, "has first-start scripts"),
            (Phase.RUNNING, Action.WAIT, "running 10-schema.sql"),
            (Phase.FAILED, Action.WAIT, "10-schema.sql. Mend it and restart this node"),
            (Phase.CUT_OFF, Action.BEGIN_ANEW, "cut off at 10-schema.sql"),
        ],
    )
    def test_the_founder_opens_only_after_its_scripts(
        self, phase: Phase, action: Action, reason: str
    ) -> None:
        founding = record(state="founding", version=1)
        mine = closed(A, executed=gtids("A:1-3"), row=row(A, founding))
        first = FirstStart(phase, "10-schema.sql")
        expect(
            view(file=EMPTY, server=mine, cluster=cluster(record=founding), first_start=first), action, reason
        )

    @pytest.mark.parametrize("change", [{"base": "A:1-5"}, {"origin": "adopted"}, {"origin": "snapshot"}])
    def test_an_empty_node_takes_no_founding_over_that_has_data(self, change: dict[str, Any]) -> None:
        founding = record(state="founding", version=1, **change)
        fresh = closed(B, executed=gtids(""), row=row(B, founding))
        gone = view("node-2", file=EMPTY, server=fresh, cluster=cluster(record=founding, lock_session=None))
        expect(gone, Action.WAIT, "only an empty node goes on")

    @pytest.mark.parametrize("phase", [Phase.RUNNING, Phase.FAILED, Phase.CUT_OFF])
    def test_a_founder_that_was_replaced_during_its_scripts_begins_anew(self, phase: Phase) -> None:
        taken = record(state="founding", epoch=2, version=2, primary=B, primary_name="node-2", primaries=(B,))
        late = server(A, executed=gtids("A:1-5"), row=row(A, record(state="founding", version=1)))
        held = cluster(record=taken, lock_session="session-2")
        seen = view(file=EMPTY, server=late, cluster=held, first_start=FirstStart(phase, "10-schema.sql"))
        expect(seen, Action.BEGIN_ANEW, "node-2 founds the cluster")

    def test_a_founder_that_lost_its_session_goes_on(self) -> None:
        founding = record(state="founding", version=1)
        mine = closed(A, executed=gtids(""), row=row(A, founding))
        expect(
            view(file=EMPTY, server=mine, cluster=cluster(record=founding, lock_session=None)),
            Action.RETAKE,
            "free",
        )

    def test_another_empty_node_takes_over_once_the_founder_is_gone(self) -> None:
        founding = record(state="founding", version=1)
        fresh = closed(B, executed=gtids(""), row=row(B, founding))
        gone = view("node-2", file=EMPTY, server=fresh, cluster=cluster(record=founding, lock_session=None))
        expect(gone, Action.TAKE_OVER, "node-1 is gone")
        alive = view("node-2", file=EMPTY, server=fresh, cluster=cluster(record=founding))
        expect(alive, Action.WAIT, "node-1 is founding")

    def test_the_first_founder_back_late_is_diverged(self) -> None:
        taken = record(epoch=2, version=3, primary=B, primary_name="node-2", primaries=(B,))
        late = closed(A, executed=gtids("A:1-5"), row=row(A, record(state="founding", version=1)))
        new = server(B, executed=gtids("B:1-9"), row=row(B, taken, opened=2))
        held = cluster(
            record=taken,
            instances=instances("node-2", replicas=()),
            lock_session="session-2",
            lock_value='{"name": "node-2", "address": "127.0.9.2", "port": 3306}',
        )
        seen = view(file=EMPTY, server=late, cluster=held, primary=peer("node-2", new))
        expect(seen, Action.COME_BACK, "diverged: 5 transactions")


class TestConsulFromThePast:
    EMPTY_CONSUL = cluster(
        record=None,
        record_index=0,
        lock_session=None,
        lock_value=None,
        instances=instances(None, replicas=()),
    )

    def test_the_open_primary_writes_the_record_again(self) -> None:
        expect(
            view(cluster=self.EMPTY_CONSUL, peers=(peer("node-2", replica()),)),
            Action.REWRITE,
            "open primary",
        )

    def test_an_older_record_is_written_again_too(self) -> None:
        own = record(version=9)
        seen = view(server=server(row=row(A, own, opened=1)), cluster=cluster(lock_session=None))
        expect(seen, Action.REWRITE, "older than the one this server has seen")

    def test_not_where_another_node_has_seen_more(self) -> None:
        newer = record(epoch=2, version=4, primary=B, primary_name="node-2", primaries=(A, B))
        seen = view(
            cluster=self.EMPTY_CONSUL, peers=(peer("node-2", server(B, row=row(B, newer, opened=2))),)
        )
        expect(seen, Action.CLOSE, "node-2 has seen a newer one")

    def test_a_later_version_of_its_own_epoch_on_a_replica_is_what_counts(self) -> None:
        later = record(version=3)
        seen = view(cluster=self.EMPTY_CONSUL, peers=(peer("node-2", replica(row=row(B, later))),))
        expect(seen, Action.REWRITE, "open primary")
        assert newest_copy(seen) == later

    def test_a_replica_waits_for_the_primary(self) -> None:
        seen = view("node-2", server=replica(), cluster=self.EMPTY_CONSUL)
        expect(seen, Action.WAIT, "waiting for node-1")

    def test_a_closed_primary_waits_for_the_nodes_it_knew(self) -> None:
        known = frozenset({"node-2 127.0.9.2 3306", "node-3 127.0.9.3 3306"})
        mine = closed(A, row=row(A, record(), opened=1))
        one = (peer("node-2", replica()), peer("node-3", None))
        expect(
            view(server=mine, cluster=self.EMPTY_CONSUL, known=known, peers=one),
            Action.WAIT,
            "before node-3 answers",
        )
        both = (peer("node-2", replica()), peer("node-3", replica(C)))
        expect(
            view(server=mine, cluster=self.EMPTY_CONSUL, known=known, peers=both),
            Action.REWRITE,
            "no node has seen",
        )

    def test_never_founds_beside_a_cluster_it_has_seen(self) -> None:
        seen = empty(server=closed(B, executed=gtids(""), row=row(B, record())))
        expect(seen, Action.WAIT, "waiting for node-1")


class TestConsulAway:
    def test_an_async_primary_goes_on_while_every_known_replica_is_attached(self) -> None:
        known = frozenset({"node-2 127.0.9.2 3306"})
        seen = view(cluster=None, why="no leader", known=known, peers=(peer("node-2", replica()),))
        expect(seen, Action.SERVE, "every known replica is attached")
        assert decide(seen).confirmed

    def test_else_its_lease_runs_out(self) -> None:
        known = frozenset({"node-2 127.0.9.2 3306", "node-3 127.0.9.3 3306"})
        connecting = replica(C, replication=source(io_running="Connecting"))
        elsewhere = replica(C, replication=source(source_uuid=B))
        for other in (None, connecting, elsewhere):
            lost = (peer("node-2", replica()), peer("node-3", other))
            seen = view(cluster=None, why="no leader", known=known, peers=lost)
            expect(seen, Action.SERVE, "not attached: node-3")
            assert not decide(seen).confirmed

    def test_a_semisync_primary_goes_on_while_a_member_is_attached(self) -> None:
        own = record(durability="semisync", members=(B,), version=5)
        known = frozenset({"node-2 127.0.9.2 3306", "node-3 127.0.9.3 3306"})
        mine = server(row=row(A, own, opened=1))
        one = (peer("node-2", replica()), peer("node-3", None))
        seen = view(server=mine, cluster=None, why="no leader", known=known, peers=one)
        expect(seen, Action.SERVE, "node-2 is attached and acknowledges")
        none = view(server=mine, cluster=None, why="no leader", known=known, peers=(peer("node-2", None),))
        assert not decide(none).confirmed

    def test_a_replica_goes_on(self) -> None:
        expect(
            view("node-2", server=replica(), cluster=None, why="refused"), Action.REPLICATE, "without Consul"
        )

    @pytest.mark.parametrize("fault", [{"io_running": "Connecting"}, {"sql_running": False}])
    def test_a_replica_whose_replication_does_not_run_is_none(self, fault: dict[str, Any]) -> None:
        stopped = replica(replication=source(**fault))
        expect(view("node-2", server=stopped, cluster=None, why="refused"), Action.WAIT, "refused")

    def test_a_closed_server_stays_closed(self) -> None:
        expect(view(server=closed(A), cluster=None, why="refused"), Action.WAIT, "refused")


class TestSeries:
    OLDER = "MySQL 5.7 cannot follow 9.7: upgrade it"

    def test_an_older_server_does_not_join_whatever_else_it_has(self) -> None:
        for executed in ("A:1-9", "A:1-10,B:1"):
            old = closed(B, version="5.7.22", executed=gtids(executed))
            expect(view("node-2", server=old, primary=peer("node-1", server())), Action.WAIT, self.OLDER)

    def test_it_leaves_a_primary_that_has_become_newer(self) -> None:
        old = replica(version="5.7.22")
        seen = view("node-2", server=old, primary=peer("node-1", server()))
        expect(seen, Action.LEAVE, self.OLDER)
        expect(replace(seen, server=replica()), Action.REPLICATE, "replica of node-1")
        expect(view("node-2", server=old), Action.REPLICATE, "replica of node-1")


class TestChannels:
    def test_a_replica_has_none_that_runs(self) -> None:
        seen = view("node-2", server=replica(channels=(channel("C:1-5"),)))
        expect(seen, Action.PART, "a replica has all from node-1, and nothing by the channel moving_in")
        stopped = replica(channels=(channel("C:1-5", runs=False),))
        expect(view("node-2", server=stopped), Action.REPLICATE, "replica of node-1")

    def test_a_former_primary_is_closed_before_and_compared_after(self) -> None:
        former = server(B, channels=(channel("C:1-5"),))
        expect(view("node-2", server=former), Action.CLOSE, "belongs to node-1")
        expect(view("node-2", server=replace(former, super_read_only=True)), Action.PART, "moving_in")

    def test_the_primary_keeps_its_own(self) -> None:
        expect(view(server=server(channels=(channel("C:1-5"),))), Action.SERVE, "primary at epoch 1")
