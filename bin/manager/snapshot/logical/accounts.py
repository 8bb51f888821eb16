"""The accounts of one server, made again on another, with their passwords and rights.

The tables behind them differ between series, and so do the statements; so they are read into fields that every series
knows, as far as it has them. Passwords stay hashes; a snapshot holds no more than the server's own files do.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

from manager.errors import MySQLError, SnapshotError
from manager.mysql.connection import LOCAL_ACCOUNT, Connection, quote_name

LOG = logging.getLogger(__name__)

# Each server makes these itself.
_OWN = tuple(
    (name, "localhost") for name in ("mysql.sys", "mysql.session", "mysql.infoschema", LOCAL_ACCOUNT)
)
NATIVE = "mysql_native_password"
# semisync.account, cut to the 16 characters of 5.6 there.
_OF_A_NODE = re.compile(r"ap_([0-9a-f]{29}|[0-9a-f]{13})")
_LIMITS = {
    "max_questions": "MAX_QUERIES_PER_HOUR",
    "max_updates": "MAX_UPDATES_PER_HOUR",
    "max_connections": "MAX_CONNECTIONS_PER_HOUR",
    "max_user_connections": "MAX_USER_CONNECTIONS",
}
_WITH_OPTION = re.compile(r" WITH (GRANT|ADMIN) OPTION( MAX_[A-Z_]+ \d+)*$")
# A right outlives the table or routine that it was given for.
_OBJECT_IS_GONE = frozenset({1146, 1305})


@dataclass(frozen=True, kw_only=True)
class Account:
    """An account; `auth` is what its plugin checks a password against.

    `tls` is empty, ANY, X509 or SPECIFIED, then with `cipher`, `issuer` and `subject`. `limits` go by the names of
    their options. `lifetime` is in days: 0 for ever, None as the server says. `reuse` are the number of passwords
    and of days before one may be used again. `grants` are pairs of a statement up to its TO, and its end;
    `proxies` are those that it may act for: user, host, and whether it may pass that on.
    """

    user: str
    host: str
    plugin: str
    auth: str
    tls: str
    cipher: str
    issuer: str
    subject: str
    limits: dict[str, int]
    expired: bool
    lifetime: int | None
    locked: bool
    reuse: list[int | None]
    current_required: str | None
    grants: list[list[str]]
    proxies: list[list[str]]
    default_roles: list[list[str]]


def read_accounts(conn: Connection) -> list[Account]:
    """Return all accounts but the server's and the hooks' own; SnapshotError if the rights of one cannot be read.

    Left out too are the nodes' replication accounts: each primary makes its own, without the binlog.
    """
    rows = conn.rows("SELECT * FROM mysql.user ORDER BY User, Host")
    proxies = conn.rows("SELECT * FROM mysql.proxies_priv ORDER BY Proxied_user, Proxied_host")
    roles = []
    if conn.value(
        "SELECT COUNT(*) FROM information_schema.TABLES"
        " WHERE TABLE_SCHEMA = 'mysql' AND TABLE_NAME = 'default_roles'"
    ):
        roles = conn.rows("SELECT * FROM mysql.default_roles ORDER BY DEFAULT_ROLE_USER, DEFAULT_ROLE_HOST")
    return [
        _account(conn, row, proxies, roles)
        for row in rows
        if (_text(row["User"]), _text(row["Host"])) not in _OWN
        and not _OF_A_NODE.fullmatch(_text(row["User"]))
    ]


def _account(
    conn: Connection, row: dict[str, Any], proxies: list[dict[str, Any]], roles: list[dict[str, Any]]
) -> Account:
    user, host = _text(row["User"]), _text(row["Host"])
    reuse = [row.get("Password_reuse_history"), row.get("Password_reuse_time")]
    return Account(
        user=user,
        host=host,
        plugin=_text(row["plugin"]) or NATIVE,
        auth=_text(row.get("Password")) or _text(row["authentication_string"]),
        tls=_text(row["ssl_type"]),
        cipher=_text(row["ssl_cipher"]),
        issuer=_text(row["x509_issuer"]),
        subject=_text(row["x509_subject"]),
        limits={option: int(row[column]) for column, option in _LIMITS.items() if row[column]},
        expired=row["password_expired"] == "Y",
        lifetime=row.get("password_lifetime"),
        locked=row.get("account_locked") == "Y",
        reuse=[None if value is None else int(value) for value in reuse],
        current_required=row.get("Password_require_current"),
        grants=_grants(conn, user, host),
        proxies=[
            [_text(each["Proxied_user"]), _text(each["Proxied_host"]), "yes" if each["With_grant"] else ""]
            for each in proxies
            if (_text(each["User"]), _text(each["Host"])) == (user, host)
        ],
        default_roles=[
            [_text(each["DEFAULT_ROLE_USER"]), _text(each["DEFAULT_ROLE_HOST"])]
            for each in roles
            if (_text(each["USER"]), _text(each["HOST"])) == (user, host)
        ],
    )


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value or "")


def _grants(conn: Connection, user: str, host: str) -> list[list[str]]:
    found = []
    for row in conn.rows("SHOW GRANTS FOR %s@%s", (user, host)):
        line = str(next(iter(row.values())))
        if line.startswith("GRANT PROXY ON "):
            continue  # the names in it are not quoted: from the table
        found.append(split_grant(line, user, host))
    return found


def split_grant(line: str, user: str, host: str) -> list[str]:
    """Return a line of SHOW GRANTS as what stands before TO, and its WITH option or nothing. Pure.

    The name between them is no SQL up to 5.7 (measured: a quote in it is not escaped), and 5.6 has the hash of the
    password, limits and more behind it. SnapshotError if that is not what the line looks like.
    """
    for name in (f"{quote_name(user)}@{quote_name(host)}", f"'{user}'@'{host}'"):
        head, found, tail = line.rpartition(f" TO {name}")
        if found:
            option = _WITH_OPTION.search(tail)
            return [head, f" WITH {option[1]} OPTION" if option else ""]
    raise SnapshotError(f"the rights of the account {user!r}@{host!r} cannot be read")


def replace_accounts(conn: Connection, accounts: Sequence[Account]) -> None:
    """Make a new server's accounts what `accounts` are, its own and the hooks' aside.

    A right to a table or a routine that is gone, or that this server has no more, is left out, with a warning.
    SnapshotError, naming the account, if it cannot be made as it was.
    """
    known = frozenset(str(row["Privilege"]).upper() for row in conn.rows("SHOW PRIVILEGES"))
    for row in conn.rows("SELECT User AS user, Host AS host FROM mysql.user"):
        if (row["user"], row["host"]) not in _OWN:
            conn.run("DROP USER %s@%s", (row["user"], row["host"]))
    # Rights come when all are there: one may be to another account.
    for account in accounts:
        _run(conn, account, *_creation(account, conn.version))
    for account in accounts:
        grants = [[known_rights(head, known), end] for head, end in account.grants]
        for sql, values in _rights(replace(account, grants=grants), conn.version):
            _run(conn, account, sql, values)
    conn.run("FLUSH NO_WRITE_TO_BINLOG PRIVILEGES")


def known_rights(head: str, known: Collection[str]) -> str:
    """Return the beginning of a GRANT without the dynamic privileges that are not `known`, with a warning. Pure.

    They came with 8.0, and some have gone since. Only their names have underscores; USAGE stands for none at all.
    """
    listed = re.fullmatch(r"GRANT ([A-Z_ ,]+) ON \*\.\*", head)
    names = re.split(r", ?", listed[1]) if listed else []
    gone = [name for name in names if "_" in name and name not in known]
    if not gone:
        return head
    LOG.warning("this server has no right %s", ", ".join(gone))
    return f"GRANT {', '.join(name for name in names if name not in gone) or 'USAGE'} ON *.*"


def _creation(account: Account, version: str) -> tuple[str, list[object]]:
    name: list[object] = [account.user, account.host]
    if version.startswith("5.6"):
        # WITH .. AS would leave a native account without a password.
        if account.plugin == NATIVE and account.auth:
            return "CREATE USER %s@%s IDENTIFIED BY PASSWORD %s", [*name, account.auth]
        sql, values = _identified(account)
        return f"CREATE USER %s@%s {sql}", [*name, *values]
    sql, values = _identified(account)
    required, more = _requirement(account)
    lifetime = {None: "DEFAULT", 0: "NEVER"}.get(account.lifetime, f"INTERVAL {account.lifetime} DAY")
    words = [
        f"CREATE USER %s@%s {sql}{required}{_limits(account)}",
        f"PASSWORD EXPIRE {lifetime}",
        f"ACCOUNT {'LOCK' if account.locked else 'UNLOCK'}",
    ]
    history, days = account.reuse
    if history is not None:
        words.append(f"PASSWORD HISTORY {history}")
    if days is not None:
        words.append(f"PASSWORD REUSE INTERVAL {days} DAY")
    if account.current_required is not None:
        words.append(f"PASSWORD REQUIRE CURRENT{'' if account.current_required == 'Y' else ' OPTIONAL'}")
    return " ".join(words), [*name, *values, *more]


def _identified(account: Account) -> tuple[str, list[object]]:
    if account.auth:
        return "IDENTIFIED WITH %s AS %s", [account.plugin, account.auth]
    return "IDENTIFIED WITH %s", [account.plugin]


def _requirement(account: Account) -> tuple[str, list[object]]:
    if account.tls != "SPECIFIED":
        return {"": "", "ANY": " REQUIRE SSL", "X509": " REQUIRE X509"}[account.tls], []
    given = {"CIPHER": account.cipher, "ISSUER": account.issuer, "SUBJECT": account.subject}
    parts = {word: value for word, value in given.items() if value}
    return " REQUIRE " + " AND ".join(f"{word} %s" for word in parts), list(parts.values())


def _limits(account: Account) -> str:
    if not account.limits:
        return ""
    return " WITH " + " ".join(f"{option} {number}" for option, number in account.limits.items())


def _rights(account: Account, version: str) -> list[tuple[str, list[object]]]:
    name: list[object] = [account.user, account.host]
    statements = [(f"{head.replace('%', '%%')} TO %s@%s{option}", name) for head, option in account.grants]
    # GRANT PROXY is for those alone who may be that account themselves: the hooks may not.
    statements += [
        (
            "INSERT INTO mysql.proxies_priv (User, Host, Proxied_user, Proxied_host, With_grant, Grantor, Timestamp)"
            " VALUES (%s, %s, %s, %s, %s, '', CURRENT_TIMESTAMP)",
            [*name, user, host, int(bool(passed_on))],
        )
        for user, host, passed_on in account.proxies
    ]
    if version.startswith("5.6"):
        required, values = _requirement(account)
        if required or account.limits:
            sql = f"GRANT USAGE ON *.* TO %s@%s{required}{_limits(account)}"
            statements.append((sql, [*name, *values]))
    if account.default_roles:
        marks = ", ".join(["%s@%s"] * len(account.default_roles))
        roles = [part for role in account.default_roles for part in role]
        statements.append((f"ALTER USER %s@%s DEFAULT ROLE {marks}", [*name, *roles]))
    if account.expired:
        statements.append(("ALTER USER %s@%s PASSWORD EXPIRE", name))
    return statements


def _run(conn: Connection, account: Account, sql: str, values: Sequence[object]) -> None:
    who = f"the account {account.user!r}@{account.host!r}"
    try:
        conn.run(sql, values)
    except MySQLError as error:
        if error.errno not in _OBJECT_IS_GONE:
            raise SnapshotError(f"{who} cannot be made here: {error}") from None
        LOG.warning("%s keeps no right to what is gone: %s", who, error)
