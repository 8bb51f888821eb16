"""The accounts and the database that pre_start's settings name.

Made at founding, through the binlog: accounts made without it would not exist on replicas.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterable

from manager.mysql.connection import Connection, quote_name
from manager.mysql.dialect import Dialect
from manager.mysql.operations import privileged_writes
from manager.settings import Secret, Settings

LOG = logging.getLogger(__name__)

REPLICATION_PRIVILEGES = "REPLICATION SLAVE, REPLICATION CLIENT, RELOAD, PROCESS"
# What hooks of other nodes do as this account: close and open the server, re-point it, kill connections,
# clone. CONNECTION_ADMIN also keeps its replication alive under offline_mode. Without SYSTEM_USER it could
# neither kill the local hooks' stale guard nor replace the watchdog that they made (1227, measured).
# Before 8.0 there is only SUPER for all of that; what came later than 8.0 is left out where it is not known.
HOOK_PRIVILEGES = (
    "BACKUP_ADMIN",
    "SYSTEM_VARIABLES_ADMIN",
    "REPLICATION_SLAVE_ADMIN",
    "CONNECTION_ADMIN",
    "SERVICE_CONNECTION_ADMIN",
    "SYSTEM_USER",
)
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


def complete_replication_account(conn: Connection, settings: Settings) -> None:
    """Give MYSQL_REPL_USER, in a database with the accounts of an older series, the rights that it needs here.

    What that series did not know, nobody there could have. One that does not exist is not made.
    """
    user = settings.mysql_repl_user
    if user and conn.row("SELECT 1 FROM mysql.user WHERE User = %s AND Host = '%%'", (user,)):
        _grant(conn, user, _replication_grants(conn, settings), _passed_on(conn))


def _root(conn: Connection, settings: Settings, log_password: Callable[[str], None]) -> None:
    dialect = Dialect.of(conn.version)
    root = conn.row(
        f"SELECT {dialect.stored_password} AS auth FROM mysql.user WHERE User = 'root' AND Host = 'localhost'"
    )
    if root is None or root["auth"]:
        return
    if settings.mysql_root_password is not None:
        conn.run(dialect.set_password(_ROOT), (settings.mysql_root_password.value,))
    elif settings.mysql_random_root_password:
        password = secrets.token_urlsafe(18)
        log_password(password)
        if settings.mysql_onetime_password:
            first, *rest = dialect.expiring(_ROOT)
            conn.run(first, (password,))
            for statement in rest:
                conn.run(statement)
        else:
            conn.run(dialect.set_password(_ROOT), (password,))
    else:
        LOG.warning("no MYSQL_ROOT_PASSWORD, and none is to be generated: root@localhost is locked")
        conn.run(dialect.lock_root(_ROOT), (secrets.token_urlsafe(18),))


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
        grants = _replication_grants(conn, settings)
        user, password = settings.mysql_repl_user, settings.mysql_repl_password
        made += _make_account(conn, user, password, grants, _passed_on(conn))
    return tuple(made)


def _replication_grants(conn: Connection, settings: Settings) -> list[str]:
    grants = [
        f"{REPLICATION_PRIVILEGES}, CREATE USER ON *.*",
        f"{_hook_privileges(conn)} ON *.*",
        "SELECT ON performance_schema.*",
        "SELECT ON mysql.user",
        "ALL ON autopilot.*",
        # A clone lacks the rows of other engines than InnoDB: only this lets it see which tables there are.
        "SHOW VIEW ON *.*",
    ]
    if settings.failover_engine == "mysqlrpladmin":
        grants.append("SELECT ON mysql.slave_master_info")
    return grants


def _passed_on(conn: Connection) -> list[str]:
    """What the nodes' own replication accounts get from it."""
    return ["REPLICATION SLAVE ON *.*", f"{Dialect.of(conn.version).stays} ON *.*"]


def _make_account(
    conn: Connection, user: str, password: Secret, grants: list[str], passed_on: Iterable[str] = ()
) -> list[str]:
    """Make user@'%' with its grants, unless the user exists with any host that is not the local one.

    What is in `passed_on` it may grant to others.
    """
    # An account that is being made bears a mark until it has all of its rights: a run that was cut off goes
    # on with its own accounts, and never touches those of others.
    dialect = Dialect.of(conn.version)
    unfinished = _exists(conn, dialect.unfinished_account, user)
    known = "mysql.user WHERE User = %s AND Host NOT IN ('localhost', '127.0.0.1', '::1')"
    if not unfinished:
        if _exists(conn, known, user):
            return []
        conn.run(dialect.create_marked, (user, password.value))
    _grant(conn, user, grants, passed_on)
    conn.run(dialect.take_mark, (user,))
    return [f"account {user}"]


def _grant(conn: Connection, user: str, grants: Iterable[str], passed_on: Iterable[str]) -> None:
    for grant in grants:
        # A name in a grant may hold a percent sign of its own.
        conn.run(f"GRANT {grant.replace('%', '%%')} TO %s@'%%'", (user,))
    for grant in passed_on:
        conn.run(f"GRANT {grant} TO %s@'%%' WITH GRANT OPTION", (user,))


def _hook_privileges(conn: Connection) -> str:
    """Those of HOOK_PRIVILEGES that the server knows; SUPER where it knows none of them."""
    known = {str(row["Privilege"]).upper() for row in conn.rows("SHOW PRIVILEGES")}
    return ", ".join(name for name in HOOK_PRIVILEGES if name in known) or "SUPER"


def _exists(conn: Connection, condition: str, value: str) -> bool:
    return conn.row(f"SELECT 1 FROM {condition} LIMIT 1", (value,)) is not None


def _pattern(conn: Connection, database: str) -> str:
    """The database as a grant names it, where `_` and `%` are wildcards unless partial_revokes is on."""
    partial = conn.row("SHOW GLOBAL VARIABLES LIKE 'partial_revokes'")  # since 8.0.16
    if partial is not None and partial["Value"] == "ON":
        return quote_name(database)
    return quote_name(database.replace("\\", "\\\\").replace("_", "\\_").replace("%", "\\%"))
