"""What hooks do for ContainerPilot with Consul, which would never register again what it has once registered."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from manager.errors import SessionInvalid
from sandbox.packages import Packages
from sandbox.processes import wait_for
from tests.integration.consul_nodes import Node, make_node, new_service, request, three_agents


@pytest.fixture(scope="module")
def agents(packages: Packages, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str, str]]:
    with three_agents(packages, tmp_path_factory.mktemp("consul"), 7) as addresses:
        yield addresses


@pytest.fixture
def node(agents: tuple[str, str, str], tmp_path: Path) -> Node:
    return make_node(new_service(), tmp_path, node="node-1", address=agents[1], PILOT="containerpilot")


def checks(node: Node) -> dict[str, str]:
    """The status of this node's services at its agent, by the service's name."""
    found = request(node.settings.node_address, "GET", "agent/checks").values()
    service = node.settings.service_name
    return {one["ServiceName"]: one["Status"] for one in found if one["ServiceName"].startswith(service)}


def services(node: Node) -> dict[str, str]:
    service = node.settings.service_name
    return {name.removeprefix(service): status for name, status in checks(node).items()}


def test_a_demotion_fails_the_primarys_check_at_once_and_removes_nothing(node: Node) -> None:
    node.pilot.advertise("primary", passing=True, note="it serves")
    assert services(node) == {"-node": "passing", "-primary": "passing"}
    node.pilot.advertise("replica", passing=True, note="it follows")
    assert services(node) == {"-node": "passing", "-primary": "critical", "": "passing"}
    node.pilot.withdraw()
    assert services(node) == {"-node": "passing", "-primary": "critical", "": "critical"}


def test_a_failed_check_keeps_what_it_says(node: Node) -> None:
    node.pilot.advertise("primary", passing=False, note="the reason")
    node.pilot.advertise("replica", passing=True, note="")
    outputs = [
        one["Output"]
        for one in request(node.settings.node_address, "GET", "agent/checks").values()
        if one["ServiceName"] == node.settings.primary_service
    ]
    assert outputs == ["the reason"]


@pytest.mark.parametrize("role", ["primary", "replica"])
def test_a_lost_registration_is_made_again_as_containerpilot_had_it(node: Node, role: str) -> None:
    identity = (
        f"{node.settings.primary_service if role == 'primary' else node.settings.replica_service}-node-1"
    )
    node.pilot.advertise(role, passing=True, note="")  # type: ignore[arg-type]
    node.client.deregister(identity)
    node.pilot.advertise(role, passing=True, note="")  # type: ignore[arg-type]
    # What ContainerPilot sends for a service that it once registered.
    update = {"Status": "passing", "Output": "ok"}
    request(node.settings.node_address, "PUT", f"agent/check/update/service:{identity}", update)
    assert services(node)["-primary" if role == "primary" else ""] == "passing"


def test_the_node_service_is_registered_where_it_is_missing_and_the_session_with_it(node: Node) -> None:
    node.client.deregister(node.service_id)
    with pytest.raises(SessionInvalid):
        node.discovery.ensure_session()
    node.pilot.answers(yes=True)
    assert services(node) == {"-node": "passing"}
    assert wait_for(lambda: _has_session(node), 10.0)


def test_a_silent_server_fails_the_node_service_and_ends_the_session(node: Node) -> None:
    session = node.discovery.ensure_session()
    node.pilot.answers(yes=False)
    assert services(node) == {"-node": "critical"}
    assert wait_for(lambda: session not in node.listed(), 10.0)
    node.pilot.answers(yes=True)
    assert services(node) == {"-node": "passing"}


def test_a_silent_server_that_consul_does_not_know_is_fine(node: Node) -> None:
    node.client.deregister(node.service_id)
    node.pilot.answers(yes=False)
    assert services(node) == {}


def _has_session(node: Node) -> bool:
    try:
        return bool(node.discovery.ensure_session())
    except SessionInvalid:
        return False
