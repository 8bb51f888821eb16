"""Every setting, in one frozen object made from the environment (SPEC 4).

`VARIABLES` is the one list of what there is: parsing, docs/configuration.md and its test come from it.
Nothing is read at import time.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from manager import secret_source
from manager import setting_values as values
from manager.address import own_address
from manager.errors import ConfigError
from manager.setting_values import Secret

__all__ = ["VARIABLES", "Secret", "Settings", "Variable", "load"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The values of `VARIABLES`, checked; None where a variable has no default and is not set."""

    mysql_user: str | None
    mysql_password: Secret | None
    mysql_database: str | None
    mysql_repl_user: str | None
    mysql_repl_password: Secret | None
    mysql_root_password: Secret | None
    mysql_random_root_password: bool
    mysql_onetime_password: bool
    innodb_buffer_pool_size: int | None
    service_name: str
    consul: str
    consul_port: int
    consul_agent: bool
    consul_client_address: str
    consul_http_token: Secret | None
    consul_http_ssl: bool
    consul_cacert: str | None
    log_level: str
    autopilot_log: Path | None
    primary_key: str
    backup_lock_key: str
    last_backup_key: str
    last_binlog_key: str
    backup_name: str
    backup_ttl: int
    session_name: str
    backup_driver: str
    storage_dir: Path | None
    manta_url: str | None
    manta_user: str | None
    manta_subuser: str | None
    manta_role: str | None
    manta_key_id: str | None
    manta_private_key: Secret | None
    manta_bucket: str | None
    aws_access_key: str | None
    aws_secret_access_key: Secret | None
    aws_region: str
    aws_bucket: str | None
    aws_endpoint_url: str | None
    node_name: str
    node_address: str
    mysql_port: int
    mysql_datadir: Path
    run_dir: Path
    mysql_conf: Path
    mysql_conf_dir: Path
    scratch_dir: Path
    mysql_bindir: Path | None
    mysql_user_os: str
    durability: Literal["async", "semisync"] | None
    sync_members: int
    lease: int
    failover_engine: str
    failover_priority: int
    failover_holdoff: int
    replica_max_lag: int | None
    auto_rebuild: bool
    snapshot_interval: int
    snapshot_node: str
    pilot: str

    @property
    def record_key(self) -> str:
        """The key of the cluster's record (SPEC 7)."""
        return f"{self.service_name}-cluster"

    @property
    def failover_lock_key(self) -> str:
        """The key that whoever runs a failover has locked."""
        return f"{self.service_name}-failover"

    @property
    def paused_key(self) -> str:
        """The key that is there while automatic action is paused."""
        return f"{self.service_name}-paused"

    @property
    def node_title(self) -> str:
        """How this node is shown to people."""
        return f"mysql-{self.node_name}"

    @property
    def primary_service(self) -> str:
        """The service under which the primary is found."""
        return f"{self.service_name}-primary"

    @property
    def replica_service(self) -> str:
        """The service under which replicas are found."""
        return self.service_name

    @property
    def node_service(self) -> str:
        """The service of every node, passing while its mysqld answers whatever its role."""
        return f"{self.service_name}-node"

    @property
    def consul_http(self) -> tuple[str, int]:
        """Host and port of the Consul API that hooks talk to: the node's own agent if it has one."""
        return (self.consul_client_address if self.consul_agent else self.consul), self.consul_port

    @property
    def consul_scheme(self) -> str:
        """`https` towards a server with CONSUL_HTTP_SSL; the node's own agent is reached without TLS."""
        return "https" if self.consul_http_ssl and not self.consul_agent else "http"

    @property
    def replication(self) -> bool:
        """True if the account that replicas and remote hooks need is configured."""
        return self.mysql_repl_user is not None and self.mysql_repl_password is not None

    @property
    def socket(self) -> Path:
        """mysqld's socket."""
        return self.run_dir / "mysqld.sock"

    @property
    def pid_file(self) -> Path:
        """mysqld's pid file."""
        return self.run_dir / "mysqld.pid"

    @property
    def secrets(self) -> tuple[str, ...]:
        """The text of every secret that is set, for the log's redaction."""
        found = (getattr(self, one.name) for one in fields(self))
        return tuple(value.value for value in found if isinstance(value, Secret))


@dataclass(frozen=True)
class Variable:
    """One variable: its default (expanded like a value; empty = none), what it is for, how it is parsed.

    `computed` is what the documentation says instead of a default that is found out at run time;
    `attribute` the field of `Settings`, by default the name in lower case.
    """

    name: str
    default: str
    help: str
    parse: Callable[[str], Any] = values.text
    computed: str = ""
    attribute: str = ""

    @property
    def secret(self) -> bool:
        """True if the value is taken verbatim, never shown, and may come from the file `NAME_FILE`."""
        return self.parse in (values.secret, values.replication_secret)

    @property
    def field(self) -> str:
        """The name of the value in `Settings`."""
        return self.attribute or self.name.lower()


_V = Variable
VARIABLES: tuple[Variable, ...] = (
    _V("MYSQL_USER", "", "application user with all rights on MYSQL_DATABASE", values.user),
    _V("MYSQL_PASSWORD", "", "the application user's password", values.secret),
    _V("MYSQL_DATABASE", "", "the application's database, created if missing", values.schema),
    _V("MYSQL_REPL_USER", "", "account for replication and for hooks on other nodes", values.user),
    _V("MYSQL_REPL_PASSWORD", "", "its password, at most 32 characters", values.replication_secret),
    _V("MYSQL_ROOT_PASSWORD", "", "root's password; wins over the next two", values.secret),
    _V("MYSQL_RANDOM_ROOT_PASSWORD", "yes", "generate root's password and print it once", values.boolean),
    _V("MYSQL_ONETIME_PASSWORD", "yes", "the generated password expires at its first use", values.boolean),
    _V(
        "INNODB_BUFFER_POOL_SIZE",
        "",
        "megabytes, or a number with K, M or G",
        values.size,
        computed="70 % of the memory limit",
    ),
    _V("SERVICE_NAME", "mysql", "name of the cluster and of its services in Consul", values.service),
    _V("CONSUL", "consul", "Consul server, `host` or `host:port` (8500)", values.endpoint),
    _V("CONSUL_AGENT", "no", "this node runs its own Consul agent, and hooks talk to it", values.boolean),
    _V("CONSUL_CLIENT_ADDRESS", "127.0.0.1", "address on which that agent serves its API", values.host),
    _V("CONSUL_HTTP_TOKEN", "", "ACL token for Consul", values.secret),
    _V(
        "CONSUL_HTTP_SSL",
        "no",
        "speak TLS with the server CONSUL (not with the node's own agent)",
        values.boolean,
    ),
    _V("CONSUL_CACERT", "", "file with the certificate authority of Consul's certificate", values.file),
    _V("LOG_LEVEL", "DEBUG", "DEBUG, INFO, WARNING, ERROR or CRITICAL", values.level),
    _V("AUTOPILOT_LOG", "", "file to which hooks write their log (set by the pilot)", values.path),
    _V("PRIMARY_KEY", "${SERVICE_NAME}-primary", "Consul key: which node is primary", values.key),
    _V(
        "BACKUP_LOCK_KEY",
        "${SERVICE_NAME}-backup-running",
        "Consul key: lock of the snapshot task",
        values.key,
    ),
    _V("LAST_BACKUP_KEY", "${SERVICE_NAME}-last-backup", "Consul key: the last snapshot", values.key),
    _V(
        "LAST_BINLOG_KEY",
        "${SERVICE_NAME}-last-binlog",
        "Consul key: the binlog at the last snapshot",
        values.key,
    ),
    _V(
        "BACKUP_NAME",
        "${SERVICE_NAME}-backup-%Y-%m-%dT%H-%M-%SZ",
        "name of a snapshot, with directives of strftime, UTC; a suffix is added if there are none",
        values.backup_name,
    ),
    _V("BACKUP_TTL", "86400", "seconds after which a new snapshot is due", values.whole(1)),
    _V("SESSION_NAME", "mysql-primary-lock", "beginning of the names of Consul sessions", values.text),
    _V("BACKUP_DRIVER", "manta", "`manta`, `s3`, `local` or `module:Class`", values.driver),
    _V("STORAGE_DIR", "", "directory of the driver `local`", values.path),
    _V("MANTA_URL", "", "Manta's URL", values.url),
    _V("MANTA_USER", "", "Manta's account", values.text),
    _V("MANTA_SUBUSER", "", "user under that account", values.text),
    _V("MANTA_ROLE", "", "role to take", values.text),
    _V("MANTA_KEY_ID", "", "md5 fingerprint of the key", values.text),
    _V("MANTA_PRIVATE_KEY", "", "private key in PEM with its newlines as `#`", values.secret),
    _V("MANTA_BUCKET", "", "directory for snapshots; must exist", values.text),
    _V("AWS_ACCESS_KEY", "", "S3 access key; both unset: the usual AWS credential chain", values.text),
    _V("AWS_SECRET_ACCESS_KEY", "", "S3 secret key", values.secret),
    _V("AWS_REGION", "us-east-1", "S3 region (`us-standard` is an alias of the default)", values.region),
    _V("AWS_BUCKET", "", "S3 bucket; must exist", values.text),
    _V("AWS_ENDPOINT_URL", "", "URL of an S3-compatible store", values.url),
    _V("NODE_NAME", "", "name of this node", values.node, computed="host name"),
    _V(
        "NODE_ADDRESS",
        "",
        "address that other nodes use",
        values.host,
        computed="address of the interface towards Consul",
    ),
    _V("MYSQL_PORT", "3306", "port of mysqld", values.whole(1, 65535)),
    _V("MYSQL_DATADIR", "/var/lib/mysql", "data directory", values.path),
    _V("RUN_DIR", "/var/run/mysqld", "socket, pid file, locks", values.path),
    _V("MYSQL_CONF", "/etc/my.cnf", "configuration file that hooks write", values.path),
    _V("MYSQL_CONF_DIR", "/etc/mysql/conf.d", "`*.cnf` files of your own, read before it", values.path),
    _V("SCRATCH_DIR", "/tmp/backup", "working space for snapshots", values.path),
    _V("MYSQL_BINDIR", "", "directory of MySQL's programs", values.path, computed="PATH"),
    _V(
        "MYSQLD_USER",
        "mysql",
        "OS user of mysqld if hooks run as root",
        values.text,
        attribute="mysql_user_os",
    ),
    _V(
        "DURABILITY",
        "",
        "`async`, or `semisync`: no single fault loses an acknowledged write",
        values.one_of("async", "semisync"),
        computed="`semisync` where the server has the plugins",
    ),
    _V("SYNC_MEMBERS", "2", "replicas that may acknowledge commits (semisync)", values.whole(1, 9)),
    _V(
        "LEASE",
        "10",
        "seconds after which a primary that nobody looks after closes itself",
        values.whole(5, 3600),
    ),
    _V(
        "FAILOVER_ENGINE",
        "native",
        "only `native` for now",
        values.one_of("native", later={"mysqlrpladmin": "mysqlrpladmin is not implemented yet; use native"}),
    ),
    _V("FAILOVER_PRIORITY", "100", "among equals the higher one is promoted; 0 = never", values.whole(0)),
    _V(
        "FAILOVER_HOLDOFF", "60", "seconds without another failover while the primary serves", values.whole(0)
    ),
    _V(
        "REPLICA_MAX_LAG",
        "",
        "seconds of lag up to which a replica is healthy",
        values.whole(1),
        computed="no limit",
    ),
    _V("AUTO_REBUILD", "yes", "rebuild a diverged node once its extra data is in the store", values.boolean),
    _V(
        "SNAPSHOT_INTERVAL",
        "20",
        "seconds between two looks of the pilot at whether a snapshot is due",
        values.whole(1, 3600),
    ),
    _V(
        "SNAPSHOT_NODE",
        "primary",
        "`primary`, or `replica` if there is a healthy one",
        values.one_of("primary", "replica"),
    ),
    _V(
        "PILOT",
        "consul",
        "only `consul` (the Consul agent) for now",
        values.one_of("consul", later={"containerpilot": "ContainerPilot is not supported yet; use consul"}),
    ),
)
_PAIRS = (
    ("MYSQL_USER", "MYSQL_PASSWORD"),
    ("MYSQL_REPL_USER", "MYSQL_REPL_PASSWORD"),
)


def load(environ: Mapping[str, str]) -> Settings:
    """Return the settings in `environ`, with those of SECRETS before all others.

    ConfigError names the variable that is missing or wrong. AutopilotError: the callable of SECRETS failed.
    """
    names = {**environ, **secret_source.call(values.clean(environ.get("SECRETS", "")))}
    names["SERVICE_NAME"] = _text(_variable("SERVICE_NAME"), names)
    result: dict[str, Any] = {one.field: _value(one, names) for one in VARIABLES}
    result["consul"], result["consul_port"] = result["consul"]
    if result["node_name"] is None:
        result["node_name"] = _parsed(_variable("NODE_NAME"), socket.gethostname())
    if result["node_address"] is None:
        result["node_address"] = own_address(result["consul"], result["consul_port"])
    _check_together(result)
    return Settings(**result)


def _variable(name: str) -> Variable:
    return next(one for one in VARIABLES if one.name == name)


def _value(variable: Variable, names: Mapping[str, str]) -> Any:
    text = _secret_text(variable.name, names) if variable.secret else _text(variable, names)
    return _parsed(variable, text) if text else None


def _parsed(variable: Variable, text: str) -> Any:
    try:
        return variable.parse(text)
    except ValueError as error:
        raise ConfigError(f"{variable.name}: {error}") from None


def _text(variable: Variable, names: Mapping[str, str]) -> str:
    given = values.clean(names.get(variable.name, ""))
    return values.expand(given or variable.default, names).strip()


def _secret_text(name: str, names: Mapping[str, str]) -> str:
    """Return the secret verbatim, or its file's content without the newline with which editors end it."""
    file = values.clean(names.get(f"{name}_FILE", ""))
    if not file:
        return names.get(name, "")
    if names.get(name):
        raise ConfigError(f"{name} and {name}_FILE are both set; use one of them")
    try:
        return Path(file).read_text().removesuffix("\n").removesuffix("\r")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError(f"{name}_FILE: cannot read {file}: {reason}") from None


def _check_together(result: Mapping[str, Any]) -> None:
    for one, other in _PAIRS:
        for present, absent in ((one, other), (other, one)):
            if result[present.lower()] is not None and result[absent.lower()] is None:
                raise ConfigError(f"{absent} is missing, although {present} is set")
    if result["mysql_user"] is not None and result["mysql_user"] == result["mysql_repl_user"]:
        raise ConfigError("MYSQL_REPL_USER must not be the same account as MYSQL_USER")
    # The other way round it is the usual AWS chain, whose AWS_ACCESS_KEY_ID is not ours.
    if result["aws_access_key"] is not None and result["aws_secret_access_key"] is None:
        raise ConfigError("AWS_SECRET_ACCESS_KEY is missing, although AWS_ACCESS_KEY is set")
    if result["backup_driver"] == "s3" and result["aws_bucket"] is None:
        raise ConfigError("AWS_BUCKET is missing, although BACKUP_DRIVER is s3")
    if result["backup_driver"] == "local" and result["storage_dir"] is None:
        raise ConfigError("STORAGE_DIR is missing, although BACKUP_DRIVER is local")
    service = result["service_name"]
    fixed = {"cluster": "the cluster's record", "failover": "the failover lock", "paused": "the pause"}
    taken = {f"{service}-{name}": what for name, what in fixed.items()}
    for name in ("PRIMARY_KEY", "BACKUP_LOCK_KEY", "LAST_BACKUP_KEY", "LAST_BINLOG_KEY"):
        owner = taken.setdefault(result[name.lower()], name)
        if owner != name:
            raise ConfigError(f"{name}: {result[name.lower()]!r} is already the key of {owner}")
