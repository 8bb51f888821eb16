"""Which words a server is spoken to in, and what its answers say that it has."""

from __future__ import annotations

from dataclasses import fields

import pytest

from manager.errors import MySQLError
from manager.mysql.dialect import MODERN, V56, V57, V80, Capabilities, Dialect


@pytest.mark.parametrize(
    ("version", "dialect"),
    [
        ("5.6.24-log", V56),
        ("5.7.22", V57),
        ("8.0.15", V80),
        ("8.3.0", V80),
        ("8.4.0", MODERN),
        ("9.7.4-2", MODERN),
        ("10.0.1", MODERN),
    ],
)
def test_words_go_by_the_version(version: str, dialect: Dialect) -> None:
    assert Dialect.of(version) is dialect


@pytest.mark.parametrize("version", ["5.5.62", "4.1.22", "unknown"])
def test_what_is_older_is_refused(version: str) -> None:
    with pytest.raises(MySQLError, match=r"is not supported: 5\.6 or later is needed"):
        Dialect.of(version)


def test_a_change_of_the_source_in_both_languages() -> None:
    options = {"HOST": "a", "AUTO_POSITION": 1, "GET_PUBLIC_KEY": 1}
    old, values = V80.change(options)
    words = "CHANGE MASTER TO MASTER_HOST = %s, MASTER_AUTO_POSITION = %s, GET_MASTER_PUBLIC_KEY = %s"
    assert old == f"{words} FOR CHANNEL ''"
    assert V56.change(options)[0] == words
    assert values == ["a", 1, 1]
    new, _ = MODERN.change(options)
    assert new.startswith(
        "CHANGE REPLICATION SOURCE TO SOURCE_HOST = %s, SOURCE_AUTO_POSITION = %s, GET_SOURCE_"
    )


@pytest.mark.parametrize("dialect", [MODERN, V80, V57])
def test_no_channel_is_started_but_our_own(dialect: Dialect) -> None:
    for statement in (dialect.start_replica, dialect.start_applier, dialect.start_receiver):
        assert statement.endswith(" FOR CHANNEL ''")


@pytest.mark.parametrize(
    ("kept_s", "days"), [(1, "1"), (3 * 86400, "3"), (99 * 86400, "99"), (99 * 86400 + 1, "0")]
)
def test_binlogs_are_kept_for_whole_days_before_8_0(kept_s: int, days: str) -> None:
    assert V57.options(kept_s=kept_s)["expire_logs_days"] == days
    assert V80.options(kept_s=kept_s)["binlog_expire_logs_seconds"] == str(kept_s)


def test_a_bare_server_lacks_everything() -> None:
    found = Capabilities.of(V56, {"have_ssl": "DISABLED", "ssl_cert": "", "performance_schema": "ON"}, [])
    assert found.lacking == tuple(one.name for one in fields(Capabilities))


@pytest.mark.parametrize(
    ("dialect", "variables", "has"),
    [
        (V57, {"rpl_semi_sync_master_wait_point": "", "rpl_semi_sync_slave_enabled": ""}, {"semisync"}),
        (V57, {"rpl_semi_sync_slave_enabled": ""}, set()),
        # 5.6 has the plugins without AFTER_SYNC, and names of another age prove nothing.
        (MODERN, {"rpl_semi_sync_master_wait_point": "", "rpl_semi_sync_slave_enabled": ""}, set()),
        (V80, {"have_ssl": "YES"}, {"tls"}),
        (V80, {"have_ssl": "DISABLED", "ssl_cert": "server-cert.pem"}, set()),
        (MODERN, {"ssl_cert": "server-cert.pem"}, {"tls"}),
        (V57, {"super_read_only": "OFF", "offline_mode": "ON"}, {"super_read_only", "offline_mode"}),
    ],
)
def test_what_variables_say(dialect: Dialect, variables: dict[str, str], has: set[str]) -> None:
    found = Capabilities.of(dialect, variables, [])
    assert {one.name for one in fields(Capabilities) if getattr(found, one.name)} == has


def test_what_names_say() -> None:
    names = ["clone", "auth_socket", "replication_applier_status_by_worker"]
    found = Capabilities.of(MODERN, {"performance_schema": "ON"}, names)
    assert (found.clone, found.auth_socket, found.performance_schema) == (True, True, True)
    assert not Capabilities.of(MODERN, {"performance_schema": "OFF"}, names).performance_schema
