"""The one list of settings: parsing, docs/configuration.md and its test come from it (SPEC 4)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from manager import setting_values as values


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
        return self.parse in (values.secret, values.replication_secret, values.age_keys)

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
        values.size(5),  # MySQL's least
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
    _V("MANTA_USER", "", "Manta's account", values.manta_name),
    _V("MANTA_SUBUSER", "", "user under that account", values.manta_name),
    _V("MANTA_ROLE", "", "roles to take, with commas between them", values.manta_roles),
    _V("MANTA_KEY_ID", "", "md5 fingerprint of the key; the key is checked against it", values.fingerprint),
    _V(
        "MANTA_PRIVATE_KEY",
        "",
        "private key in PEM or OpenSSH format with its newlines as `#`: RSA, or ECDSA with P-256",
        values.secret,
    ),
    _V(
        "MANTA_BUCKET",
        "",
        "directory for snapshots, such as `/me/stor/mysql`; must exist",
        values.manta_directory,
    ),
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
    _V(
        "MYSQL_INITDB_DIR",
        "/etc/mysql/initdb.d",
        "`.sql`, `.sql.gz` and `.sh` files that the founding node runs once, in the order of their names",
        values.path,
    ),
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
        "what re-points replicas in a failover: `native`, or `mysqlrpladmin` (async, MySQL 5.6, Python 2.7)",
        values.one_of("native", "mysqlrpladmin"),
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
        "SNAPSHOT_ENGINE",
        "",
        "what makes snapshots: `xtrabackup`, `clone` or `mydumper`",
        values.one_of("xtrabackup", "clone", "mydumper"),
        computed="the first of these that can copy the server",
    ),
    _V(
        "SNAPSHOT_RATE",
        "",
        "megabytes a second, or with K/M/G, that a snapshot reads at most",
        values.size(1),
        computed="no limit",
    ),
    _V(
        "SNAPSHOT_KEY",
        "",
        "age's secret keys, with white space between them; the first encrypts snapshots, all decrypt",
        values.age_keys,
        computed="no encryption",
    ),
    _V(
        "SNAPSHOT_KEEP",
        "",
        "remove all but so many of the newest snapshots",
        values.whole(1, 100000),
        computed="all",
    ),
    _V(
        "SNAPSHOT_KEEP_DAYS",
        "",
        "keep those that are younger, whatever SNAPSHOT_KEEP says; alone: remove the others",
        values.whole(1, 36500),
        computed="no limit",
    ),
    _V(
        "VERIFY_INTERVAL",
        "",
        "seconds after which a snapshot is verified again, by a replica if there is one",
        values.whole(60),
        computed="never",
    ),
    _V(
        "PILOT",
        "",
        "what runs the hooks: `containerpilot`, or `consul` (a Consul agent under supervisord)",
        values.one_of("containerpilot", "consul"),
        computed="`containerpilot` if its program is in PATH",
    ),
    _V("METRICS_PORT", "9090", "port of the node's metrics for Prometheus", values.whole(1, 65535)),
)
