"""`on_change` where another node fails over for ever, nobody can be promoted, or two are primaries (127.0.96)."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from manager.discovery.discovery import Discovery
from manager.discovery.record import Record
from manager.errors import AutopilotError
from manager.hooks import on_change
from manager.node import Node
from sandbox import servers
from tests.integration.consul_nodes import make_node

ADDRESS = "127.0.96.1"

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def node(start_consul: Callable[..., servers.Consul], tmp_path: Path) -> Node:
    """One whose server does not run, of a cluster without a record and without a primary."""
    start_consul(ADDRESS, config={"node_name": "node-1"})
    return Node(make_node("mysql", tmp_path / "run", node="node-1", address=ADDRESS).settings)


def test_waiting_for_the_failover_lock_has_an_end(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_change, "TOTAL", 4.0)
    monkeypatch.setattr(on_change, "WAIT_FOR_WINNER", 1.0)
    with Discovery(node.settings).failover_lock("it never ends"):
        begin = time.monotonic()
        with pytest.raises(AutopilotError, match="no healthy primary after 4 s; health runs try again"):
            on_change.run(node)
        assert 4.0 <= time.monotonic() - begin < 12.0
        begin = time.monotonic()
        assert on_change.run(node, witness=True) == 0
        assert time.monotonic() - begin < 8.0


def test_a_failover_that_promotes_nobody_gives_its_lock_back_at_once(node: Node) -> None:
    for _ in range(2):
        assert on_change.run(node) == 1
        assert node.discovery.lock_sessions() == (None, None)


def test_two_healthy_primaries_start_no_failover(node: Node, tmp_path: Path) -> None:
    record = Record.founding(primary="u1", primary_name="node-1", origin="initialised", reason="empty")
    node.discovery.found(record, node.discovery.ensure_session())
    old = make_node("mysql", tmp_path / "old", node="node-2", address=ADDRESS)
    held = node.discovery.view().lock_session
    for one in (node, Node(old.settings)):
        for pilot in (node.pilot, old.pilot):
            pilot.advertise("primary", passing=True, note="it serves")
        shown = [(i.name, i.passing) for i in node.discovery.view().of("primary")]
        assert shown == [("node-1", True), ("node-2", True)]
        assert on_change.run(one) == 0
    assert old.client.read([node.settings.failover_lock_key]) == {}, "somebody has taken the failover lock"
    assert node.discovery.view().lock_session == held is not None
