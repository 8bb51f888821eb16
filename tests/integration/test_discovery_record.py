"""The view, the record's transactions, the role services, and what a restored Consul does."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from manager.discovery.cluster import Instance
from manager.discovery.discovery import Discovery
from manager.discovery.record import Record, SnapshotRecord
from manager.errors import ConsulUnavailable, LockLost, RecordError, SessionInvalid, TransactionRefused
from manager.pilot.consul import agent_config
from manager.settings import load
from sandbox import servers
from sandbox.packages import ROOT, Packages
from sandbox.processes import Process, wait_for
from tests.integration.consul_nodes import Node, make_node, new_service, request, three_agents

FAILED = 4  # serf's number for a member that is gone


@pytest.fixture(scope="module")
def agents(packages: Packages, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str, str]]:
    with three_agents(packages, tmp_path_factory.mktemp("consul"), 2) as addresses:
        yield addresses


@pytest.fixture
def nodes(agents: tuple[str, str, str], tmp_path: Path) -> tuple[Node, Node]:
    service = new_service()
    one = make_node(service, tmp_path / "1", node="node-1", address=agents[1])
    two = make_node(service, tmp_path / "2", node="node-2", address=agents[2])
    assert wait_for(lambda: len(one.discovery.view().of("node")) == 2, 10.0)
    return one, two


@pytest.fixture
def founded(nodes: tuple[Node, Node]) -> tuple[Node, Node, Record, int]:
    """A cluster in which node-1 is primary at epoch 1."""
    one, two = nodes
    session = one.discovery.ensure_session()
    index = one.discovery.found(founding(), session)
    record = founding().opened()
    return one, two, record, one.discovery.update(record, index, session)


def founding(uuid: str = "u1", name: str = "node-1") -> Record:
    return Record.founding(
        primary=uuid, primary_name=name, origin="initialised", reason="empty", id="c", at=1
    )


# --- The view -----------------------------------------------------------------------------------


def test_the_view_of_nothing(nodes: tuple[Node, Node]) -> None:
    seen = nodes[0].discovery.view()
    assert (seen.record, seen.record_index, seen.lock_session, seen.lock_value) == (None, 0, None, None)
    assert (seen.failover_session, seen.backup_session, dict(seen.sessions)) == (None, None, {})
    assert (seen.last_snapshot, seen.snapshot_fault, seen.last_binlog) == (None, None, None)
    assert [(one.service, one.name, one.passing) for one in seen.instances] == [
        ("node", "node-1", True),
        ("node", "node-2", True),
    ]


def test_the_view_of_a_cluster(founded: tuple[Node, Node, Record, int]) -> None:
    one, two, record, index = founded
    seen = two.discovery.view()
    session = one.discovery.ensure_session()
    assert (seen.record, seen.record_index, seen.lock_session) == (record, index, session)
    assert json.loads(seen.lock_value or "") == {
        "name": "node-1",
        "address": one.settings.node_address,
        "port": 3306,
    }
    assert dict(seen.sessions) == {"node-1": session}


def test_a_key_that_only_begins_like_ours_is_not_ours(founded: tuple[Node, Node, Record, int]) -> None:
    one, two, record, _ = founded
    request(one.settings.node_address, "PUT", f"kv/{one.settings.record_key}2", b"other")
    assert two.discovery.view().record == record


def test_a_damaged_record_is_an_error_and_a_damaged_snapshot_entry_is_not(nodes: tuple[Node, Node]) -> None:
    one = nodes[0]
    request(one.settings.node_address, "PUT", f"kv/{one.settings.last_backup_key}", b"\xff")
    seen = one.discovery.view()
    assert seen.last_snapshot is None
    assert seen.snapshot_fault == "the last snapshot's entry in Consul is damaged: it is no JSON object"
    request(one.settings.node_address, "PUT", f"kv/{one.settings.record_key}", b"node-1")
    with pytest.raises(RecordError, match="the cluster's record in Consul is damaged"):
        one.discovery.view()


def test_a_failing_check_of_the_machine_hides_nothing(nodes: tuple[Node, Node]) -> None:
    """With `passing` Consul leaves such a node's services out; the view shows them as not passing."""
    one, two = nodes
    address = one.settings.node_address
    one.pilot.advertise("primary", passing=True, note="")
    assert wait_for(lambda: len(two.discovery.view().of("primary")) == 1, 10.0)
    request(address, "PUT", "agent/check/register", {"ID": "disk", "Name": "disk", "TTL": "600s"})
    try:
        assert wait_for(lambda: not two.discovery.view().of("primary")[0].passing, 10.0)
        assert {(i.service, i.passing) for i in two.discovery.view().instances if i.name == "node-1"} == {
            ("primary", False),
            ("node", False),
        }
    finally:
        request(address, "PUT", "agent/check/deregister/disk")


# --- Transactions -------------------------------------------------------------------------------


def test_only_one_founds(nodes: tuple[Node, Node]) -> None:
    one, two = nodes
    one.discovery.found(founding(), one.discovery.ensure_session())
    with pytest.raises(TransactionRefused, match="lock is already held"):
        two.discovery.found(founding("u2", "node-2"), two.discovery.ensure_session())
    one.discovery.destroy_session()
    with pytest.raises(TransactionRefused, match="-cluster"):
        two.discovery.found(founding("u2", "node-2"), two.discovery.ensure_session())
    seen = two.discovery.view()
    assert (seen.record, seen.lock_session) == (founding(), None)


def test_a_dead_founder_is_replaced(nodes: tuple[Node, Node]) -> None:
    one, two = nodes
    index = one.discovery.found(founding(), one.discovery.ensure_session())
    record = founding().taken_over(primary="u2", primary_name="node-2", reason="node-1 is gone")
    with pytest.raises(TransactionRefused):
        two.discovery.retake(record, index, two.discovery.ensure_session())
    one.discovery.destroy_session()
    two.discovery.retake(record, index, two.discovery.ensure_session())
    with pytest.raises(TransactionRefused):
        one.discovery.update(founding().opened(), index, one.discovery.ensure_session())
    assert two.discovery.view().record == record


def test_an_update_needs_the_lock_and_the_index(founded: tuple[Node, Node, Record, int]) -> None:
    one, two, record, index = founded
    session = one.discovery.ensure_session()
    with pytest.raises(TransactionRefused, match="check-session"):
        two.discovery.update(record.touched(), index, two.discovery.ensure_session())
    new = one.discovery.update(record.touched(), index, session)
    assert new > index
    with pytest.raises(TransactionRefused, match="index"):
        one.discovery.update(record.touched(), index, session)


def test_a_touch_stops_what_was_on_its_way(founded: tuple[Node, Node, Record, int]) -> None:
    one, two, record, index = founded
    two.discovery.touch(record.touched(), index)
    with pytest.raises(TransactionRefused):
        one.discovery.update(record.touched(), index, one.discovery.ensure_session())
    seen = one.discovery.view()
    assert seen.record == record.touched()
    assert seen.lock_session == one.discovery.ensure_session()


def test_a_primary_with_a_new_session_takes_the_lock_again(founded: tuple[Node, Node, Record, int]) -> None:
    one, _, record, index = founded
    one.discovery.destroy_session()
    session = one.discovery.ensure_session()
    one.discovery.retake(record.touched(), index, session)
    seen = one.discovery.view()
    assert (seen.lock_session, seen.record) == (session, record.touched())


def test_a_primary_writes_a_lost_record_again(founded: tuple[Node, Node, Record, int]) -> None:
    one, _, record, _ = founded
    request(one.settings.node_address, "DELETE", f"kv/{one.settings.record_key}")
    one.discovery.retake(record.touched(), 0, one.discovery.ensure_session())
    assert one.discovery.view().record == record.touched()


def test_a_promotion_is_refused_while_the_old_session_holds_the_lock(
    founded: tuple[Node, Node, Record, int],
) -> None:
    one, two, record, index = founded
    promoted = record.promoted("u2", "node-2", "test")
    with pytest.raises(TransactionRefused, match="already held"):
        two.discovery.promote(promoted, index, two.discovery.ensure_session())
    assert one.discovery.view().record == record


def test_a_promotion_after_fencing_moves_lock_and_record_in_one(
    founded: tuple[Node, Node, Record, int],
) -> None:
    one, two, record, index = founded
    old, new = one.discovery.ensure_session(), two.discovery.ensure_session()
    promoted = record.promoted("u2", "node-2", "test")
    # The runner is node-1 here, and the chosen node is node-2: its name and address stand in the lock.
    one.discovery.promote(promoted, index, new, unlock_session=old)
    seen = one.discovery.view()
    assert (seen.record, seen.lock_session) == (promoted, new)
    assert json.loads(seen.lock_value or "") == {
        "name": "node-2",
        "address": two.settings.node_address,
        "port": 3306,
    }
    with pytest.raises(TransactionRefused, match="check-session"):
        one.discovery.update(record.touched(), seen.record_index, old)


def test_a_refused_promotion_leaves_the_old_primary_its_lock(founded: tuple[Node, Node, Record, int]) -> None:
    one, two, record, index = founded
    old, new = one.discovery.ensure_session(), two.discovery.ensure_session()
    promoted = record.promoted("u2", "node-2", "test")
    two.discovery.touch(record.touched(), index)
    with pytest.raises(TransactionRefused):
        two.discovery.promote(promoted, index, new, unlock_session=old)
    two.client.destroy_session(new)
    with pytest.raises(TransactionRefused, match="invalid session"):
        two.discovery.promote(promoted, two.discovery.view().record_index, new, unlock_session=old)
    seen = two.discovery.view()
    assert (seen.record, seen.lock_session) == (record.touched(), old)


def test_a_promotion_of_an_unregistered_node_is_refused(founded: tuple[Node, Node, Record, int]) -> None:
    one, _, record, index = founded
    with pytest.raises(TransactionRefused, match="node-9 is not registered"):
        one.discovery.promote(record.promoted("u9", "node-9", "test"), index, one.discovery.ensure_session())


# --- Snapshots ----------------------------------------------------------------------------------

SNAPSHOT = SnapshotRecord(
    id="b1",
    path="backups/b1",
    cluster_id="c",
    gtid="u1:1-5",
    size=7,
    sha256="00",
    server_version="9.7.4",
    at=100,
    binlog="mysql-bin.000002",
)


def test_a_snapshot_is_recorded_with_its_binlog_in_one_write_under_the_lock(nodes: tuple[Node, Node]) -> None:
    one, two = nodes
    with one.discovery.backup_lock() as lock:
        one.discovery.record_snapshot(SNAPSHOT, lock)
    seen = two.discovery.view()
    assert (seen.last_snapshot, seen.last_binlog) == (SNAPSHOT, "mysql-bin.000002")
    keys = two.client.read([two.settings.last_backup_key, two.settings.last_binlog_key])
    assert len({key.index for key in keys.values()}) == 1


def test_without_the_lock_no_snapshot_is_recorded(nodes: tuple[Node, Node]) -> None:
    one, two = nodes
    with one.discovery.backup_lock() as lock:
        one.client.destroy_session(lock.session)
        with two.discovery.backup_lock(), pytest.raises(LockLost):
            one.discovery.record_snapshot(SNAPSHOT, lock)
    seen = two.discovery.view()
    assert (seen.last_snapshot, seen.last_binlog) == (None, None)


# --- Advertising --------------------------------------------------------------------------------


def test_a_role_is_advertised_and_replaces_the_other(nodes: tuple[Node, Node]) -> None:
    one, two = nodes
    here = {"name": "node-1", "address": one.settings.node_address, "port": 3306}

    def roles() -> tuple[Instance, ...]:
        return tuple(
            replace(i, note="", entry=("", "")) for i in two.discovery.view().instances if i.service != "node"
        )

    def becomes(*wanted: Instance) -> bool:
        return wait_for(lambda: roles() == wanted, 10.0)

    one.pilot.advertise("replica", passing=False, note="not yet")
    assert becomes(Instance(service="replica", passing=False, **here))
    one.pilot.advertise("replica", passing=True, note="follows")
    assert becomes(Instance(service="replica", passing=True, **here))
    one.pilot.advertise("primary", passing=True, note="promoted")
    assert becomes(Instance(service="primary", passing=True, **here))
    # The note travels with a change of state, else within the agent's check_update_interval.
    one.pilot.advertise("primary", passing=False, note="stopping")
    assert wait_for(lambda: [i.note for i in two.discovery.view().of("primary")] == ["stopping"], 10.0)
    one.pilot.withdraw()
    one.pilot.withdraw()
    assert becomes()


def test_a_role_moves_with_the_nodes_address(nodes: tuple[Node, Node], tmp_path: Path) -> None:
    one, two = nodes
    one.pilot.advertise("primary", passing=True, note="")
    moved = make_node(
        one.settings.service_name,
        tmp_path / "moved",
        node="node-1",
        address=one.settings.node_address,
        MYSQL_PORT="3307",
    )
    moved.pilot.advertise("primary", passing=True, note="")
    assert wait_for(lambda: [i.port for i in two.discovery.view().of("primary")] == [3307], 10.0)


def test_a_role_change_keeps_the_session(founded: tuple[Node, Node, Record, int]) -> None:
    one = founded[0]
    one.pilot.advertise("replica", passing=False, note="")
    one.pilot.advertise("primary", passing=True, note="")
    one.pilot.withdraw()
    one.discovery.renew_session()


# --- A restored Consul --------------------------------------------------------------------------


def test_a_restored_consul_brings_dead_sessions_back_and_the_node_clears_its_own(
    packages: Packages, tmp_path: Path
) -> None:
    address = "127.0.42.29"
    with servers.consul_server(packages, tmp_path / "server", address=address, durable=True):
        node = make_node("restored", tmp_path / "run", node="node-1", address=address)
        assert wait_for(lambda: len(node.discovery.view().of("node")) == 1, 10.0)
        dead = node.discovery.ensure_session()
        index = node.discovery.found(founding(), dead)
        backup = request(address, "GET", "snapshot")
        node.discovery.destroy_session()
        session = node.discovery.ensure_session()
        later = founding().touched()
        node.discovery.retake(later, index, session)

        request(address, "PUT", "snapshot", backup)
        assert wait_for(lambda: node.discovery.view().record == founding(), 10.0)
        seen = node.discovery.view()
        # The record comes from the past, the lock is held by a session that was destroyed, ours is gone.
        assert (seen.lock_session, seen.record_index) == (dead, index)
        assert seen.record is not None
        assert seen.record.older_than(later.epoch, later.version)
        with pytest.raises(SessionInvalid):
            node.discovery.renew_session()
        new = node.discovery.ensure_session()
        assert node.listed() == [new]
        assert node.discovery.view().lock_session is None
        node.discovery.retake(later, node.discovery.view().record_index, new)
        assert node.discovery.view().record == later


def test_an_agent_is_brought_to_a_consul_that_came_back_with_nothing(
    packages: Packages, tmp_path: Path
) -> None:
    """By the program of the pilot that runs it. By itself it takes 13 s and more to find it (measured)."""
    server, address = "127.0.42.26", "127.0.42.27"
    environ = {
        "PATH": f"{packages.consul.parent}:{os.environ['PATH']}",
        "PILOT": "consul",
        "CONSUL": server,
        "CONSUL_AGENT": "1",
        "CONSUL_CLIENT_ADDRESS": address,
        "NODE_NAME": "node-1",
        "NODE_ADDRESS": address,
        "RUN_DIR": str(tmp_path / "run"),
    }
    settings = load(environ)
    settings.run_dir.mkdir()
    # Its hooks do nothing, with success: the server answers.
    (settings.run_dir / "consul.json").write_text(json.dumps(agent_config(settings, ["true"])))
    discovery = Discovery(settings)

    def is_known() -> bool:
        with contextlib.suppress(ConsulUnavailable):
            return [one.passing for one in discovery.view().of("node")] == [True]
        return False

    def is_lost() -> bool:
        members = request(address, "GET", "agent/members")
        return [one["Status"] for one in members if one["Name"] == "consul"] == [FAILED]

    with contextlib.ExitStack() as stack:
        first = stack.enter_context(servers.consul_server(packages, tmp_path / "first", address=server))
        command = [str(packages.python), str(ROOT / "bin" / "pilot.py"), "agent"]
        stack.callback(Process(command, log=tmp_path / "agent.log", env=environ).kill)
        assert wait_for(is_known, 30.0), (tmp_path / "agent.log").read_text()
        first.process.kill()
        assert wait_for(is_lost, 20.0)
        stack.enter_context(servers.consul_server(packages, tmp_path / "second", address=server))
        assert wait_for(lambda: not is_lost(), 10.0)
        assert wait_for(is_known, 30.0)
        assert discovery.view().record is None
