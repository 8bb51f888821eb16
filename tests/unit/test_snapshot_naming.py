from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manager.errors import ConfigError
from manager.settings import Settings, load
from manager.snapshot.naming import fixed_prefix, is_ours, manifest_name, snapshot_name

NOON = datetime(2026, 3, 4, 12, 5, 6, tzinfo=UTC)


def settings(**environment: str) -> Settings:
    return load({"NODE_NAME": "n", "NODE_ADDRESS": "127.0.0.1", **environment})


def test_the_default_name() -> None:
    assert snapshot_name(settings(), NOON) == "mysql-backup-2026-03-04T12-05-06Z"
    assert (
        snapshot_name(settings(SERVICE_NAME="shop"), NOON.timestamp()) == "shop-backup-2026-03-04T12-05-06Z"
    )


def test_the_time_is_utc() -> None:
    elsewhere = NOON.astimezone(timezone(timedelta(hours=-7)))
    assert snapshot_name(settings(), elsewhere) == snapshot_name(settings(), NOON)


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ("nightly", "nightly-2026-03-04T12-05-06Z"),
        ("a%%b", "a%b-2026-03-04T12-05-06Z"),
        ("daily-%Y%m%d", "daily-20260304-2026-03-04T12-05-06Z"),
        ("exact-%j%H%M%S", "exact-063120506"),
    ],
)
def test_a_name_that_would_come_again_gets_a_suffix(template: str, name: str) -> None:
    assert snapshot_name(settings(BACKUP_NAME=template), NOON) == name
    assert is_ours(settings(BACKUP_NAME=template), name)


@pytest.mark.parametrize("template", [".hidden-%S", "ümläut-%S", "two words %S"])
def test_names_that_cannot_be_stored_are_wrong_configuration(template: str) -> None:
    with pytest.raises(ConfigError, match="BACKUP_NAME"):
        snapshot_name(settings(BACKUP_NAME=template), NOON)


@given(
    st.sampled_from(["mysql", "shop", "mysql-backup"]),
    st.sampled_from(["", "x-%j-%H%M%S", "nightly", "%A-%B-%M%S", "%Y%m%d%%%H%M%S", "n.%y+%I%p"]),
    st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)),
)
def test_every_name_is_recognised(service: str, template: str, at: datetime) -> None:
    own = settings(SERVICE_NAME=service, BACKUP_NAME=template)
    name = snapshot_name(own, at)
    assert is_ours(own, name)
    assert is_ours(own, manifest_name(name))
    assert name.startswith(fixed_prefix(own))
    assert name != snapshot_name(own, at + timedelta(seconds=1))


@pytest.mark.parametrize(
    "name",
    [
        "mysql-backup-",
        "mysql-backup-backup-2026-03-04T12-05-06Z",
        "mysql-backup-2026-03-04T12-05-06Z.manifest.json.more",
        "my-mysql-backup-2026-03-04T12-05-06Z",
        "mysql-backup-2026-03-04T12-05-06Z/part",
        "mysql-backup-latest",
    ],
)
def test_names_of_others_are_not_taken_for_ours(name: str) -> None:
    assert not is_ours(settings(), name)
