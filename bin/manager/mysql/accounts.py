"""The accounts and the database that pre_start's settings name.

Made at founding, through the binlog: accounts made without it would not exist on replicas.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterable

from manager.errors import MySQLError
from manager.mysql.connection import Connection, quote_name
from manager.mysql.operations import privileged_writes
from manager.settings import Secret, Settings

LOG = logging.getLogger(__name__)

REPLICATION_PRIVILEGES = "REPLICATION SLAVE, REPLICATION CLIENT, RELOAD, PROCESS"
# What hooks of other nodes do as this account: close and open the server, re-point it, kill connections,
# clone. CONNECTION_ADMIN also keeps its replication alive under offline_mode. Without SYSTEM_USER it could
# neither kill the local hooks' stale guard nor replace the watchdog that they made (1227, measured).
HOOK_PRIVILEGES = (
    "BACKUP_ADMIN, SYSTEM_VARIABLES_ADMIN, REPLICATION_SLAVE_ADMIN, CONNECTION_ADMIN,"
    " SERVICE_CONNECTION_ADMIN, SYSTEM_USER"
)
# An account that is being made bears this mark until it has all of its rights: a run that was cut off goes
# on with its own accounts, and never touches those of others.
_MARK = '{"autopilot": "unfinished"}'
_NO_MARK = '{"autopilot": null}'
_ROOT = "'root'@'localhost'"


def bootstrap_accounts(conn: Connection, settings: Settings, log_password: Callable[[str], None]) -> None:
    """Give a database that we initialised its root password, database and accounts; run again, it converges.

    A generated root password is handed to `log_password` once, before it is set: a run that is killed in
    between leaves root without one, and the next run generates another.
    """
    with privileged_writes(conn):
        _root(conn, settings, log_password)
        _make_missing(conn, settings)


def missing_accounts(conn: Connection, settings: Settings) -> tuple[str, ...]:
    """Make the database and the accounts that an existing database lacks; returns what was made.

    Nothing that exists is changed, whatever its password or rights.
    """
    with privileged_writes(conn):
        return _make_missing(conn, settings)


def _root(conn: Connection, settings: Settings, log_password: Callable[[str], None]) -> None:
    root = conn.row(
        "SELECT authentication_string AS auth FROM mysql.user WHERE User = 'root' AND Host = 'localhost'"
    )
    if root is None or root["auth"]:
        return
    if settings.mysql_root_password is not None:
        conn.run(f"ALTER USER {_ROOT} IDENTIFIED BY %s", (settings.mysql_root_password.value,))
    elif settings.mysql_random_root_password:
        password = secrets.token_urlsafe(18)
        log_password(password)
        expire = " PASSWORD EXPIRE" if settings.mysql_onetime_password else ""
        conn.run(f"ALTER USER {_ROOT} IDENTIFIED BY %s{expire}", (password,))
    else:
        LOG.warning("no MYSQL_ROOT_PASSWORD, and none is to be generated: root@localhost is locked")
        conn.run(f"ALTER USER {_ROOT} IDENTIFIED BY %s ACCOUNT LOCK", (secrets.token_urlsafe(18),))


def _make_missing(conn: Connection, settings: Settings) -> tuple[str, ...]:
    made = []
    database = settings.mysql_database
    if database and not _exists(conn, "information_schema.SCHEMATA WHERE SCHEMA_NAME = %s", database):
        conn.run(f"CREATE DATABASE IF NOT EXISTS {quote_name(database)}")
        made.append(f"database {database}")
    if settings.mysql_user and settings.mysql_password is not None:
        grants = [f"ALL ON {_pattern(conn, database)}.*"] if database else []
        made += _make_account(conn, settings.mysql_user, settings.mysql_password, grants)
    if settings.mysql_repl_user and settings.mysql_repl_password is not None:
        grants = [
            f"{REPLICATION_PRIVILEGES}, CREATE USER ON *.*",
            f"{HOOK_PRIVILEGES} ON *.*",
            "SELECT ON performance_schema.*",
            "SELECT ON mysql.user",
            "ALL ON autopilot.*",
            # A clone lacks the rows of other engines than InnoDB: only this lets it see which tables there are.
            "SHOW VIEW ON *.*",
        ]
        # What the nodes' own replication accounts get from it.
        passed_on = ["REPLICATION SLAVE ON *.*", "CONNECTION_ADMIN ON *.*"]
        made += _make_account(conn, settings.mysql_repl_user, settings.mysql_repl_password, grants, passed_on)
    return tuple(made)


def _make_account(
    conn: Connection, user: str, password: Secret, grants: list[str], passed_on: Iterable[str] = ()
) -> list[str]:
    """Make user@'%' with its grants, unless the user exists with any host that is not the local one.

    What is in `passed_on` it may grant to others.
    """
    unfinished = _exists(
        conn,
        "information_schema.USER_ATTRIBUTES"
        " WHERE USER = %s AND HOST = '%%' AND ATTRIBUTE->>'$.autopilot' = 'unfinished'",
        user,
    )
    known = "mysql.user WHERE User = %s AND Host NOT IN ('localhost', '127.0.0.1', '::1')"
    if not unfinished:
        if _exists(conn, known, user):
            return []
        conn.run("CREATE USER %s@'%%' IDENTIFIED BY %s ATTRIBUTE %s", (user, password.value, _MARK))
    for grant in grants:
        # A name in a grant may hold a percent sign of its own.
        conn.run(f"GRANT {grant.replace('%', '%%')} TO %s@'%%'", (user,))
    for grant in passed_on:
        conn.run(f"GRANT {grant} TO %s@'%%' WITH GRANT OPTION", (user,))
    conn.run("ALTER USER %s@'%%' ATTRIBUTE %s", (user, _NO_MARK))
    return [f"account {user}"]


def _exists(conn: Connection, condition: str, value: str) -> bool:
    return conn.row(f"SELECT 1 FROM {condition} LIMIT 1", (value,)) is not None


def _pattern(conn: Connection, database: str) -> str:
    """The database as a grant names it, where `_` and `%` are wildcards unless partial_revokes is on."""
    partial = conn.value("SELECT @@global.partial_revokes")
    if partial is None:
        raise MySQLError(f"{conn.peer}: no answer to a query of its settings")
    if partial:
        return quote_name(database)
    return quote_name(database.replace("\\", "\\\\").replace("_", "\\_").replace("%", "\\%"))
