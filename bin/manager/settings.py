"""Every setting, in one frozen object made from the environment (SPEC 4).

What there is stands in variables.py. Nothing is read at import time.
"""

from __future__ import annotations

import shutil
import socket
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from manager import secret_source
from manager import setting_values as values
from manager.address import own_address
from manager.errors import ConfigError
from manager.setting_values import Secret
from manager.variables import VARIABLES, Variable

__all__ = ["MANTA", "Secret", "Settings", "load"]


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
    mysql_initdb_dir: Path
    scratch_dir: Path
    mysql_bindir: Path | None
    mysql_user_os: str
    durability: Literal["async", "semisync"] | None
    sync_members: int
    lease: int
    failover_engine: Literal["native", "mysqlrpladmin"]
    failover_priority: int
    failover_holdoff: int
    replica_max_lag: int | None
    auto_rebuild: bool
    snapshot_interval: int
    snapshot_node: str
    snapshot_engine: str | None
    snapshot_rate: int | None
    snapshot_key: tuple[Secret, ...] | None
    snapshot_keep: int | None
    snapshot_keep_days: int | None
    verify_interval: int | None
    pilot: Literal["containerpilot", "consul"]
    metrics_port: int

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
    def last_verify_key(self) -> str:
        """The key that says when a snapshot was verified last."""
        return f"{self.service_name}-last-verify"

    @property
    def restoring_prefix(self) -> str:
        """What the keys begin with that say which snapshots are being restored."""
        return f"{self.service_name}-restoring/"

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
        found = [getattr(self, one.name) for one in fields(self)]
        found += self.snapshot_key or ()
        return tuple(value.value for value in found if isinstance(value, Secret))


MANTA = ("MANTA_URL", "MANTA_USER", "MANTA_PRIVATE_KEY", "MANTA_BUCKET")
# Measured: at `,` and `:` it cuts, outer quotes it takes away, and `'` and `\\` it does not escape.
_NOT_IN_TOOL = ",:'\"\\"
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
    if result["pilot"] is None:
        result["pilot"] = "containerpilot" if shutil.which("containerpilot") else "consul"
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
        text = Path(file).read_text().removesuffix("\n").removesuffix("\r")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError(f"{name}_FILE: cannot read {file}: {reason}") from None
    if not text:  # no secret at all would be another thing: with SNAPSHOT_KEY, no encryption
        raise ConfigError(f"{name}_FILE: {file} is empty")
    return text


def _check_engine(result: Mapping[str, Any]) -> None:
    """What mysqlrpladmin would take for the end of a name or a password, or write into its statements as it is."""
    if result["failover_engine"] != "mysqlrpladmin":
        return
    if result["durability"] == "semisync":
        raise ConfigError("FAILOVER_ENGINE: mysqlrpladmin works with DURABILITY=async only")
    for name, refused in (("MYSQL_REPL_USER", _NOT_IN_TOOL + "@"), ("MYSQL_REPL_PASSWORD", _NOT_IN_TOOL)):
        value = result[name.lower()]
        text = value.value if isinstance(value, Secret) else value or ""
        if not (text.isascii() and text.isprintable()) or set(refused) & set(text):
            raise ConfigError(
                f"{name}: FAILOVER_ENGINE=mysqlrpladmin takes printable ASCII characters but {' '.join(refused)}"
            )


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
    # With none at all there is no store yet, which only what uses it has to know: manta is the default.
    if result["backup_driver"] == "manta":
        given = [name for name in MANTA if result[name.lower()] is not None]
        for name in MANTA if given else ():
            if result[name.lower()] is None:
                raise ConfigError(f"{name} is missing, although {given[0]} is set")
    _check_engine(result)
    service = result["service_name"]
    fixed = {
        "cluster": "the cluster's record",
        "failover": "the failover lock",
        "paused": "the pause",
        "last-verify": "verification",
    }
    taken = {f"{service}-{name}": what for name, what in fixed.items()}
    for name in ("PRIMARY_KEY", "BACKUP_LOCK_KEY", "LAST_BACKUP_KEY", "LAST_BINLOG_KEY"):
        owner = taken.setdefault(result[name.lower()], name)
        if owner != name:
            raise ConfigError(f"{name}: {result[name.lower()]!r} is already the key of {owner}")
