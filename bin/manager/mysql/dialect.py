"""What differs between MySQL versions: statements, options and columns, in one place.

Words go by the version (facts/mysql.md and facts/mysql-57-80.md: the old ones up to 8.3, the new ones from
8.4). What a server *has* does not: builds of one version differ, so each is asked (`Capabilities`).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, replace

from manager.errors import MySQLError

OLDEST = (5, 6)
LONGEST_EXPIRY = 2**32 - 1


def series(version: str) -> tuple[int, int]:
    """Return the series in a server's version text, as (8, 0); MySQLError if it is no version or too old. Pure."""
    match = re.match(r"(\d+)\.(\d+)", version)
    if not match or (int(match[1]), int(match[2])) < OLDEST:
        raise MySQLError(f"MySQL {version} is not supported: {OLDEST[0]}.{OLDEST[1]} or later is needed")
    return int(match[1]), int(match[2])


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """What a server has of all that servers differ in, as it says itself.

    `semisync`: both plugins, with AFTER_SYNC (5.6's have only AFTER_COMMIT). `performance_schema`: it is on, and
    tells of replication (5.6's does not).
    """

    super_read_only: bool
    offline_mode: bool
    clone: bool
    semisync: bool
    auth_socket: bool
    tls: bool
    performance_schema: bool

    @property
    def lacking(self) -> tuple[str, ...]:
        """The names of what the server does not have."""
        return tuple(one.name for one in fields(self) if not getattr(self, one.name))

    @classmethod
    def of(cls, dialect: Dialect, variables: Mapping[str, str], names: Collection[str]) -> Capabilities:
        """Return what the answers to `VARIABLES` and `NAMES` say. Pure."""
        prefix = dialect.semisync
        return cls(
            super_read_only="super_read_only" in variables,
            offline_mode="offline_mode" in variables,
            clone="clone" in names,
            semisync=f"{prefix.source}_wait_point" in variables and f"{prefix.replica}_enabled" in variables,
            auth_socket="auth_socket" in names,
            # 8.4 and later have no have_ssl any more; without a certificate they offer no TLS.
            tls=variables.get("have_ssl", "YES" if variables.get("ssl_cert") else "NO") == "YES",
            performance_schema=variables.get("performance_schema") == "ON" and PROGRESS_TABLE in names,
        )


_UNFINISHED = 4_010_203_041
PROGRESS_TABLE = "replication_applier_status_by_worker"
VARIABLES = (
    "SHOW GLOBAL VARIABLES WHERE Variable_name IN ('super_read_only', 'offline_mode', 'have_ssl', 'ssl_cert',"
    " 'performance_schema', 'rpl_semi_sync_source_wait_point', 'rpl_semi_sync_replica_enabled',"
    " 'rpl_semi_sync_master_wait_point', 'rpl_semi_sync_slave_enabled')"
)
NAMES = (
    "SELECT PLUGIN_NAME AS name FROM information_schema.PLUGINS"
    " WHERE PLUGIN_NAME IN ('clone', 'auth_socket') AND PLUGIN_STATUS = 'ACTIVE' UNION ALL"
    " SELECT TABLE_NAME FROM information_schema.TABLES"
    f" WHERE TABLE_SCHEMA = 'performance_schema' AND TABLE_NAME = '{PROGRESS_TABLE}'"
)


@dataclass(frozen=True, kw_only=True)
class ReplicaColumns:
    """Names of the columns of the replica's status."""

    source_host: str
    source_port: str
    source_user: str
    source_uuid: str
    source_log_file: str
    io_running: str
    sql_running: str
    sql_state: str
    lag: str


@dataclass(frozen=True, kw_only=True)
class SemisyncNames:
    """Beginnings of the names of semi-sync's variables and status."""

    source: str
    replica: str
    source_status: str


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """The words of one family of servers.

    `replica` and `source` are what options are named by. `user_statements`: CREATE USER IF NOT EXISTS, ALTER USER
    with a password or a lock (5.7). `account_attributes`: accounts bear comments (8.0.21). `password_plugin`: what
    checks a password by default. `source_changes_beneath_applier`: CHANGE MASTER while the applier runs (5.7).
    `retrieved_holds_halves`: Retrieved_Gtid_Set names a transaction before it is complete (5.6).
    `applying_column`: the workers' table names the transaction that is being applied (8.0). `public_key`: a replica
    may ask the source for the key that an account without TLS needs (8.0). `stays`: the privilege that keeps a
    connection under offline_mode. `stored_password`: the column of mysql.user, or what stands for it.

    What is changed or started is the one channel that is ours (`own_channel`: else refused where there are several,
    measured). What is stopped or forgotten are all: a replica that got something by another channel as well would
    diverge. `stop_channel` stops one of the others, whose name is bound (5.7).
    """

    replica: str
    source: str
    user_statements: bool
    account_attributes: bool
    password_plugin: str
    longest_user: int
    source_changes_beneath_applier: bool
    retrieved_holds_halves: bool
    applying_column: bool
    public_key: bool
    stays: str
    stored_password: str
    replica_status: str
    replicas: str
    replicas_uuid: str
    binlog_status: str
    own_channel: str
    stop_channel: str
    start_replica: str
    start_applier: str
    start_receiver: str
    stop_receiver: str
    stop_applier: str
    reset_replica: str
    reset_binlogs: str
    change_source: str
    option_prefix: str
    event_disabled_here: str
    columns: ReplicaColumns
    semisync: SemisyncNames

    @classmethod
    def of(cls, version: str) -> Dialect:
        """Return the dialect of a server's version text; MySQLError for a version that is not supported."""
        of = series(version)
        if of < (8, 0):
            return V57 if of >= (5, 7) else V56
        return MODERN if of >= (8, 4) else V80

    def change(self, options: Mapping[str, object]) -> tuple[str, list[object]]:
        """Return the statement, and its bound values, that sets the given options of the source.

        The options go by their names without prefix: HOST, PORT, AUTO_POSITION, GET_PUBLIC_KEY ...
        """
        clauses = ", ".join(f"{self._option(name)} = %s" for name in options)
        return f"{self.change_source} {clauses}{self.own_channel}", list(options.values())

    def options(self, *, kept_s: int) -> dict[str, str]:
        """Return the lines of my.cnf that not every server takes. Binlogs are kept for `kept_s` seconds."""
        if self.option_prefix == "SOURCE":
            return {
                "binlog_expire_logs_auto_purge": "ON",
                "binlog_expire_logs_seconds": str(min(LONGEST_EXPIRY, kept_s)),
                "replica_preserve_commit_order": "ON",
            }
        tables = {"master_info_repository": "TABLE", "relay_log_info_repository": "TABLE"}
        if self.applying_column:
            return {
                **tables,
                "loose_binlog_expire_logs_auto_purge": "ON",
                "binlog_expire_logs_seconds": str(min(LONGEST_EXPIRY, kept_s)),
                "slave_parallel_type": "LOGICAL_CLOCK",
                "slave_preserve_commit_order": "ON",
            }
        # Days, 99 at most; 0: for ever. One applier: nobody could tell that several hold half a transaction.
        days = -(-kept_s // 86400)
        return {
            **tables,
            "expire_logs_days": str(days if days <= 99 else 0),
            "slave_parallel_workers": "0",
        }

    @property
    def plugins(self) -> tuple[str, ...]:
        """The files of the plugins that are loaded where they are there."""
        return ("auth_socket.so", "mysql_clone.so", *self.semisync_plugins)

    @property
    def semisync_plugins(self) -> tuple[str, str]:
        """The files of the two plugins without which there is no semi-sync."""
        return f"semisync_{self.source}.so", f"semisync_{self.replica}.so"

    @property
    def defaults(self) -> dict[str, str]:
        """The lines of my.cnf with defaults that go by the server; the user's own files win over them."""
        if self.option_prefix == "MASTER" and self.applying_column:
            return {"secure_file_priv": "NULL", "slave_parallel_workers": "4"}  # as of 8.4 by itself
        if self.user_statements:
            return {"secure_file_priv": "NULL"}
        # 5.6.24 takes NULL for a name, and does not start. Of its performance_schema, 400 MB, the hooks read nothing.
        return {"performance_schema": "OFF"}

    def set_password(self, account: str) -> str:
        """Return the statement that sets an account's password, whose value is bound."""
        if self.user_statements:
            return f"ALTER USER {account} IDENTIFIED BY %s"
        # A replica of 5.7 would hash once more what SET PASSWORD leaves in the binlog (measured).
        return f"GRANT USAGE ON *.* TO {account} IDENTIFIED BY %s"

    def lock_root(self, account: str) -> str:
        """Return the statement that locks an account out with a password, bound, that nobody knows."""
        return self.set_password(account) + (" ACCOUNT LOCK" if self.user_statements else "")

    def expiring(self, account: str) -> tuple[str, ...]:
        """Return the statements, the first with the password bound, that set a password which has expired."""
        if self.user_statements:
            return (f"{self.set_password(account)} PASSWORD EXPIRE",)
        return (self.set_password(account), f"ALTER USER {account} PASSWORD EXPIRE")

    @property
    def unfinished_account(self) -> str:
        """The condition that finds the account %s@'%' while it lacks some of its rights.

        It bears a mark: an attribute, or where there are none a limit that nobody else would choose.
        """
        if self.account_attributes:
            return (
                "information_schema.USER_ATTRIBUTES"
                " WHERE USER = %s AND HOST = '%%' AND ATTRIBUTE->>'$.autopilot' = 'unfinished'"
            )
        return f"mysql.user WHERE User = %s AND Host = '%%' AND max_updates = {_UNFINISHED}"

    @property
    def create_marked(self) -> str:
        """The statement that makes the account %s@'%' with the password %s and the mark of an unfinished one."""
        if self.account_attributes:
            return """CREATE USER %s@'%%' IDENTIFIED BY %s ATTRIBUTE '{"autopilot": "unfinished"}'"""
        head = "CREATE USER" if self.user_statements else "GRANT USAGE ON *.* TO"
        return f"{head} %s@'%%' IDENTIFIED BY %s WITH MAX_UPDATES_PER_HOUR {_UNFINISHED}"

    @property
    def take_mark(self) -> str:
        """The statement that takes the mark from the account %s@'%'."""
        if self.account_attributes:
            return """ALTER USER %s@'%%' ATTRIBUTE '{"autopilot": null}'"""
        head = "ALTER USER" if self.user_statements else "GRANT USAGE ON *.* TO"
        return f"{head} %s@'%%' WITH MAX_UPDATES_PER_HOUR 0"

    def let_in(self, grants: str) -> tuple[str, ...]:
        """Return the statements that make or unlock %(user)s@'%' with %(password)s and `grants`, in this order."""
        if not self.user_statements:
            return (f"GRANT {grants} ON *.* TO %(user)s@'%%' IDENTIFIED BY %(password)s",)
        return (
            "CREATE USER IF NOT EXISTS %(user)s@'%%' IDENTIFIED BY %(password)s",
            f"GRANT {grants} ON *.* TO %(user)s@'%%'",
            "ALTER USER %(user)s@'%%' IDENTIFIED BY %(password)s ACCOUNT UNLOCK",
        )

    def own_account(self, account: str, login: str) -> tuple[str, ...]:
        """Return the statements that make `account`, which may exist, one with all rights.

        `login` is the rest of IDENTIFIED; the statements are for the init file.
        """
        if not self.user_statements:
            return (f"GRANT ALL ON *.* TO {account} IDENTIFIED {login} REQUIRE NONE WITH GRANT OPTION",)
        return (
            f"CREATE USER IF NOT EXISTS {account} IDENTIFIED {login}",
            f"ALTER USER {account} IDENTIFIED {login} REQUIRE NONE PASSWORD EXPIRE NEVER ACCOUNT UNLOCK",
            f"GRANT ALL ON *.* TO {account} WITH GRANT OPTION",
        )

    def with_password(self, password: str) -> str:
        """Return what follows IDENTIFIED for an account with a password, which needs no quoting."""
        if not self.user_statements:
            return f"BY '{password}'"
        return f"WITH {self.password_plugin} BY '{password}'"

    def _option(self, name: str) -> str:
        if name == "GET_PUBLIC_KEY":
            return f"GET_{self.option_prefix}_PUBLIC_KEY"
        return f"{self.option_prefix}_{name}"


MODERN = Dialect(
    replica="replica",
    source="source",
    user_statements=True,
    account_attributes=True,
    password_plugin="caching_sha2_password",
    longest_user=32,
    source_changes_beneath_applier=True,
    retrieved_holds_halves=False,
    applying_column=True,
    public_key=True,
    stays="CONNECTION_ADMIN",
    stored_password="authentication_string",
    replica_status="SHOW REPLICA STATUS",
    replicas="SHOW REPLICAS",
    replicas_uuid="Replica_UUID",
    binlog_status="SHOW BINARY LOG STATUS",
    start_replica="START REPLICA FOR CHANNEL ''",
    start_applier="START REPLICA SQL_THREAD FOR CHANNEL ''",
    start_receiver="START REPLICA IO_THREAD FOR CHANNEL ''",
    stop_receiver="STOP REPLICA IO_THREAD",
    stop_applier="STOP REPLICA SQL_THREAD",
    own_channel=" FOR CHANNEL ''",
    stop_channel="STOP REPLICA FOR CHANNEL %s",
    reset_replica="RESET REPLICA ALL",
    reset_binlogs="RESET BINARY LOGS AND GTIDS",
    change_source="CHANGE REPLICATION SOURCE TO",
    option_prefix="SOURCE",
    event_disabled_here="REPLICA_SIDE_DISABLED",
    columns=ReplicaColumns(
        source_host="Source_Host",
        source_port="Source_Port",
        source_user="Source_User",
        source_uuid="Source_UUID",
        source_log_file="Source_Log_File",
        io_running="Replica_IO_Running",
        sql_running="Replica_SQL_Running",
        sql_state="Replica_SQL_Running_State",
        lag="Seconds_Behind_Source",
    ),
    semisync=SemisyncNames(
        source="rpl_semi_sync_source", replica="rpl_semi_sync_replica", source_status="Rpl_semi_sync_source"
    ),
)
V80 = replace(
    MODERN,
    replica="slave",
    source="master",
    account_attributes=False,
    replica_status="SHOW SLAVE STATUS",
    replicas="SHOW SLAVE HOSTS",
    replicas_uuid="Slave_UUID",
    binlog_status="SHOW MASTER STATUS",
    start_replica="START SLAVE FOR CHANNEL ''",
    start_applier="START SLAVE SQL_THREAD FOR CHANNEL ''",
    start_receiver="START SLAVE IO_THREAD FOR CHANNEL ''",
    stop_receiver="STOP SLAVE IO_THREAD",
    stop_applier="STOP SLAVE SQL_THREAD",
    stop_channel="STOP SLAVE FOR CHANNEL %s",
    reset_replica="RESET SLAVE ALL",
    reset_binlogs="RESET MASTER",
    change_source="CHANGE MASTER TO",
    option_prefix="MASTER",
    event_disabled_here="SLAVESIDE_DISABLED",
    columns=ReplicaColumns(
        source_host="Master_Host",
        source_port="Master_Port",
        source_user="Master_User",
        source_uuid="Master_UUID",
        source_log_file="Master_Log_File",
        io_running="Slave_IO_Running",
        sql_running="Slave_SQL_Running",
        sql_state="Slave_SQL_Running_State",
        lag="Seconds_Behind_Master",
    ),
    semisync=SemisyncNames(
        source="rpl_semi_sync_master", replica="rpl_semi_sync_slave", source_status="Rpl_semi_sync_master"
    ),
)
V57 = replace(
    V80,
    password_plugin="mysql_native_password",
    applying_column=False,
    public_key=False,
    stays="SUPER",
)
V56 = replace(
    V57,
    own_channel="",
    start_replica="START SLAVE",
    start_applier="START SLAVE SQL_THREAD",
    start_receiver="START SLAVE IO_THREAD",
    user_statements=False,
    longest_user=16,
    stored_password="CONCAT(Password, COALESCE(authentication_string, ''))",
    source_changes_beneath_applier=False,
    retrieved_holds_halves=True,
)
