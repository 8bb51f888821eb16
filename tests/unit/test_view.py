"""What a look at Consul takes for a node, and which nodes it asks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from manager.discovery.cluster import instances as read_instances
from manager.view import one_per_address, primary_instance
from tests.unit.worlds import cluster, instances


def entry(*checks: tuple[str, str]) -> dict[str, Any]:
    """An entry of Consul's health endpoint with these checks and their states."""
    return {
        "Node": {"Node": "mysql-node-1", "Address": "127.0.9.1"},
        "Service": {"ID": "mysql-node-1", "Address": "127.0.9.1", "Port": 3306},
        "Checks": [{"CheckID": check, "Status": status, "Output": ""} for check, status in checks],
    }


def passing(*checks: tuple[str, str]) -> bool:
    """What the view says of an instance with these checks."""
    return read_instances("replica", "mysql", [entry(*checks)])[0].passing


def test_an_instance_passes_if_its_agent_and_its_role_do() -> None:
    assert passing(("serfHealth", "passing"), ("service:mysql-node-1", "passing"))
    assert not passing(("serfHealth", "critical"), ("service:mysql-node-1", "passing"))
    assert not passing(("serfHealth", "passing"), ("service:mysql-node-1", "warning"))


def test_a_registration_without_an_agent_never_passes() -> None:
    assert not passing(("service:mysql-node-1", "passing"))


def test_of_two_nodes_at_one_address_the_passing_one_is_there() -> None:
    sound = instances()
    gone = replace(sound[1], name="node-0", passing=False)
    names = [i.name for i in one_per_address(cluster(instances=(gone, *sound)))]
    assert names == ["node-1", "node-2", "node-3"]


def test_while_neither_passes_the_one_with_a_session_is_there() -> None:
    starting = tuple(replace(i, passing=False) for i in instances())
    gone = replace(starting[1], name="node-9")
    names = [i.name for i in one_per_address(cluster(instances=(*starting, gone)))]
    assert names == ["node-1", "node-2", "node-3"]


def test_who_is_advertised_is_the_primary_only_while_the_lock_is_held() -> None:
    advertised = primary_instance(cluster())
    assert advertised is not None
    assert advertised.name == "node-1"
    assert primary_instance(cluster(lock_session=None)) is None


def test_of_two_that_advertise_themselves_the_lock_holder_is_the_primary() -> None:
    two = (*instances("node-3"), *(i for i in instances("node-1") if i.service == "primary"))
    advertised = primary_instance(cluster(instances=two))
    assert advertised is not None
    assert advertised.name == "node-1"
