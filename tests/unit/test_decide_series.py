"""Who may replicate from whom, and what may start on whose data."""

from __future__ import annotations

import pytest

from manager.decide.series import cannot_follow, cannot_lead, cannot_take_over, left_behind, oldest


@pytest.mark.parametrize(
    ("replica", "source", "why"),
    [
        ("5.7.22-log", "8.0.15", "MySQL 5.7 cannot follow 8.0: upgrade it"),
        ("8.4.9", "9.7.4-2", "MySQL 8.4 cannot follow 9.7: upgrade it"),
        ("8.0.15", "8.0.40", ""),
        ("9.7.4", "8.0.15", ""),
        ("10.1.0", "9.7.4", ""),
    ],
)
def test_a_replica_is_never_older_than_its_primary(replica: str, source: str, why: str) -> None:
    assert cannot_follow(replica, source) == why


def test_a_hand_over_leaves_nobody_behind() -> None:
    versions = {"node-2": "8.0.15", "node-3": "5.7.22", "node-4": "5.6.24"}
    assert left_behind("node-2", versions) == (
        "node-2 is MySQL 8.0, which cannot be followed by node-3 (MySQL 5.7), node-4 (MySQL 5.6): upgrade first"
    )
    assert left_behind("node-4", versions) == ""
    assert oldest(versions) == {"node-4"}
    assert oldest({}) == frozenset()


def test_who_may_become_the_primary_next() -> None:
    versions = {"node-2": "8.0.15", "node-3": "5.7.22", "node-4": "5.6.24"}
    assert cannot_lead("node-3", versions, "5.7.22") == "", "node-4 is left out as it is"
    assert "cannot be followed by node-3 (MySQL 5.7): upgrade first" in cannot_lead(
        "node-2", versions, "5.7.22"
    )
    assert cannot_lead("node-4", versions, "5.7.22") == "MySQL 5.6 cannot follow 5.7: upgrade it"
    assert cannot_lead("node-2", versions, "8.0.15") == ""


SUPPORTED = [
    ("5.7.22", "5.7.44"),
    ("5.7.44", "8.0.16"),
    ("8.0.15", "8.0.40"),
    ("8.0.40", "8.0.15"),  # mysqld says itself what it makes of that
    ("8.0.40", "8.4.9"),
    ("8.3.0", "8.4.9"),
    ("8.4.9", "9.7.4-2"),
    ("9.3.0", "9.7.4-2"),
    ("9.7.4", "10.0.1"),
]


@pytest.mark.parametrize(("data", "installed"), SUPPORTED)
def test_a_data_directory_that_the_server_takes_over(data: str, installed: str) -> None:
    assert cannot_take_over(data, installed) == ""


@pytest.mark.parametrize(
    ("data", "installed", "why"),
    [
        ("8.0.40", "5.7.44", "5.7 cannot take over a data directory of 8.0: there is no way back"),
        ("5.6.24", "5.7.22", "without mysql_upgrade: start it on an empty one"),
        ("5.7.22", "8.0.15", "without mysql_upgrade: start it on an empty one"),
        ("5.6.24", "8.0.40", "8.0 cannot take over a data directory of 5.6 without 5.7 in between; or"),
        ("5.7.44", "8.4.9", "without 8.0 in between; or"),
        ("8.0.40", "9.7.4-2", "9.7 cannot take over a data directory of 8.0 without 8.4 in between; or"),
        ("8.3.0", "9.0.1", "without 8.4 in between; or"),
    ],
)
def test_one_that_it_does_not(data: str, installed: str, why: str) -> None:
    assert why in cannot_take_over(data, installed)
