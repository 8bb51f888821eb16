"""This node's session, and the locks that a process holds, with a real Consul server and client agents."""

from __future__ import annotations

import fcntl
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from manager.discovery.discovery import Discovery
from manager.discovery.record import Record
from manager.errors import Busy, ConsulError, LockHeld, LockLost, SessionInvalid, TransactionRefused
from sandbox.packages import Packages
from sandbox.processes import wait_for
from tests.integration.consul_nodes import Node, make_node, new_service, request, three_agents


@pytest.fixture(scope="module")
def agents(packages: Packages, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str, str]]:
    with three_agents(packages, tmp_path_factory.mktemp("consul"), 1) as addresses:
        yield addresses


@pytest.fixture
def nodes(agents: tuple[str, str, str], tmp_path: Path) -> tuple[Node, Node]:
    service = new_service()
    return (
        make_node(service, tmp_path / "1", node="node-1", address=agents[1]),
        make_node(service, tmp_path / "2", node="node-2", address=agents[2]),
    )


@pytest.fixture
def node(nodes: tuple[Node, Node]) -> Node:
    return nodes[0]


# --- The node's session -------------------------------------------------------------------------


def test_a_session_is_made_once_and_shared_through_a_private_file(node: Node) -> None:
    session = node.discovery.ensure_session()
    assert Discovery(node.settings).ensure_session() == session
    assert node.listed() == [session]
    assert node.session_file.read_text() == session
    assert node.session_file.stat().st_mode & 0o777 == 0o600
    node.discovery.renew_session()


def test_a_session_has_no_lock_delay_the_least_ttl_and_both_checks(node: Node) -> None:
    session = node.discovery.ensure_session()
    (info,) = request(node.settings.node_address, "GET", f"session/info/{session}")
    assert (info["LockDelay"], info["TTL"], info["Behavior"], info["Node"]) == (0, "10s", "release", "node-1")
    listed = [info.get(name) or [] for name in ("Checks", "NodeChecks", "ServiceChecks")]
    assert set(sum(listed, [])) == {"serfHealth", f"service:{node.service_id}"}


def test_no_session_is_made_on_a_check_that_fails_or_is_missing(node: Node) -> None:
    node.mysqld(answers=False)
    with pytest.raises(SessionInvalid, match="is in critical state"):
        node.discovery.ensure_session()
    node.client.deregister(node.service_id)
    with pytest.raises(SessionInvalid, match="Missing check"):
        node.discovery.ensure_session()
    assert not node.session_file.exists()


def test_a_dying_mysqld_ends_the_session_and_frees_the_lock_at_once(
    node: Node, nodes: tuple[Node, Node]
) -> None:
    other = nodes[1]
    session = node.discovery.ensure_session()
    record = Record.founding(primary="u1", primary_name="node-1", origin="initialised", reason="empty")
    index = node.discovery.found(record, session)
    node.mysqld(answers=False)
    assert wait_for(lambda: other.discovery.view().lock_session is None, 5.0)
    with pytest.raises(SessionInvalid, match="not found"):
        node.discovery.renew_session()
    # Lock delay 0: the successor need not wait.
    other.discovery.promote(record.promoted("u2", "node-2", "dead"), index, other.discovery.ensure_session())


@pytest.mark.parametrize("content", [b"", b"garbled", b"\xff\xfe", b"22222222-2222-2222-2222-222222222222"])
def test_a_cached_id_that_is_none_or_dead_is_replaced(node: Node, content: bytes) -> None:
    node.session_file.write_bytes(content)
    with pytest.raises(SessionInvalid):
        node.discovery.renew_session()
    session = node.discovery.ensure_session()
    assert node.listed() == [session]
    node.discovery.renew_session()


def test_another_nodes_cached_id_is_not_taken_for_ours(nodes: tuple[Node, Node]) -> None:
    one, two = nodes
    theirs = two.discovery.ensure_session()
    one.session_file.write_text(theirs)
    with pytest.raises(SessionInvalid, match="another node's"):
        one.discovery.renew_session()
    assert one.discovery.ensure_session() != theirs
    assert two.listed() == [theirs]


def test_unknown_sessions_under_our_name_are_destroyed(node: Node) -> None:
    first = node.discovery.ensure_session()
    node.session_file.unlink()
    second = node.discovery.ensure_session()
    assert second != first
    assert node.listed() == [second]


def test_destroying_the_session_frees_the_lock_and_leaves_others_alone(nodes: tuple[Node, Node]) -> None:
    one, two = nodes
    one.discovery.destroy_session()
    record = Record.founding(primary="u1", primary_name="node-1", origin="initialised", reason="empty")
    one.discovery.found(record, one.discovery.ensure_session())
    theirs = two.discovery.ensure_session()
    one.discovery.destroy_session()
    assert two.discovery.view().lock_session is None
    assert (one.listed(), two.listed()) == ([], [theirs])
    assert not one.session_file.exists()


def test_hooks_at_the_same_time_make_one_session(node: Node) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = set(pool.map(lambda _: Discovery(node.settings).ensure_session(), range(4)))
    assert [*found] == node.listed()


def test_waiting_for_another_hook_has_an_end(node: Node) -> None:
    with open(node.settings.run_dir / "session.lock", "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(Busy):
            Discovery(node.settings, timeout=0.2).ensure_session()


def test_two_clusters_on_one_consul_have_different_sessions(
    agents: tuple[str, str, str], node: Node, tmp_path: Path
) -> None:
    other = make_node(new_service(), tmp_path / "other", node="node-1", address=agents[1])
    session, theirs = node.discovery.ensure_session(), other.discovery.ensure_session()
    assert (node.listed(), other.listed()) == ([session], [theirs])
    assert dict(node.discovery.view().sessions) == {"node-1": session}


# --- Locks --------------------------------------------------------------------------------------


def test_a_lock_is_held_by_one_and_names_its_holder(nodes: tuple[Node, Node]) -> None:
    one, two = nodes
    with one.discovery.failover_lock("no primary") as lock:
        lock.check()
        lock.step("freeze")
        seen = two.discovery.view()
        assert seen.failover_session == lock.session
        value = json.loads(seen.failover_value or "")
        assert (value["name"], value["reason"], value["step"]) == ("node-1", "no primary", "freeze")
        assert not seen.sessions
        with (
            pytest.raises(LockHeld, match="the failover lock is held by node-1"),
            two.discovery.failover_lock("x"),
        ):
            pass
        with two.discovery.backup_lock() as other:
            assert one.discovery.view().backup_session == other.session
    with two.discovery.failover_lock("again"):
        pass
    assert two.discovery.view().failover_session is None


def test_a_failing_body_releases_the_lock(node: Node) -> None:
    with pytest.raises(RuntimeError, match="body"), node.discovery.failover_lock("x"):
        raise RuntimeError("body")
    assert node.discovery.view().failover_session is None


def test_a_lock_needs_no_running_mysqld(node: Node) -> None:
    node.mysqld(answers=False)
    with node.discovery.failover_lock("x") as lock:
        lock.step("works")


def test_a_lost_lock_is_noticed_and_cannot_disturb_the_next_holder(nodes: tuple[Node, Node]) -> None:
    one, two = nodes
    with one.discovery.failover_lock("first") as lost:
        one.client.destroy_session(lost.session)
        with two.discovery.failover_lock("second") as holder:
            with pytest.raises(LockLost):
                lost.step("too late")
            assert "second" in (one.discovery.view().failover_value or "")

            def noticed() -> bool:
                try:
                    lost.check()
                except LockLost:
                    return True
                return False

            assert wait_for(noticed, 10.0)
            holder.step("undisturbed")
    renewing = [thread for thread in threading.enumerate() if thread.name == "session-renewal"]
    assert wait_for(lambda: not any(thread.is_alive() for thread in renewing), 10.0)


def test_a_held_lock_outlives_the_ttl_and_an_unrenewed_session_does_not(node: Node) -> None:
    """A session that nobody renews ends at twice its TTL; the lock's thread renews its own meanwhile."""
    with node.discovery.failover_lock("slow") as lock:
        unrenewed = node.client.create_session("unrenewed", ())
        assert wait_for(
            lambda: unrenewed not in [one["ID"] for one in node.client.sessions()], 60.0, interval=0.5
        )
        lock.check()
        lock.step("still mine")
        assert node.discovery.view().failover_session == lock.session


# --- Traps of facts/consul.md -------------------------------------------------------------------


def test_an_empty_session_never_becomes_a_plain_write(node: Node) -> None:
    record = Record.founding(primary="u1", primary_name="node-1", origin="initialised", reason="empty")
    for call in (node.discovery.found, lambda *a: node.discovery.retake(a[0], 0, a[1])):
        with pytest.raises(SessionInvalid, match="there is no session"):
            call(record, "")
    assert node.discovery.view().lock_value is None


def test_a_dead_session_takes_no_lock(node: Node) -> None:
    record = Record.founding(primary="u1", primary_name="node-1", origin="initialised", reason="empty")
    session = node.discovery.ensure_session()
    node.client.destroy_session(session)
    with pytest.raises(TransactionRefused, match="invalid session"):
        node.discovery.found(record, session)
    seen = node.discovery.view()
    assert (seen.record, seen.record_index, seen.lock_value) == (None, 0, None)


def test_the_least_ttl_is_what_we_use(node: Node) -> None:
    """10 s is Consul's minimum: one less is refused, so ours cannot be lowered by mistake."""
    with pytest.raises(Exception, match="500"):
        request(node.settings.node_address, "PUT", "session/create", {"Name": "low", "TTL": "9s"})
    node.client.destroy_session(node.client.create_session("ours", ()))


def test_reporting_for_an_unknown_service_is_an_error(node: Node) -> None:
    with pytest.raises(ConsulError):
        node.client.report("nobody", passing=True, note="")
