"""my.cnf and the init file, written at every start: host name, address and memory may have changed."""

from __future__ import annotations

import hashlib
import ipaddress
import os
import pwd
import secrets
from collections.abc import Collection, Mapping
from pathlib import Path
from string import Template

from manager.errors import ConfigError
from manager.mysql.connection import ADMIN_PORT, LOCAL_ACCOUNT, client_file
from manager.mysql.dialect import Dialect
from manager.mysql.initialise import installed, server_version
from manager.mysql.schema import TABLES
from manager.settings import Settings

TEMPLATE = Path(__file__).resolve().parents[3] / "etc" / "my.cnf.tmpl"
POOL_SHARE = 0.7
SMALLEST_POOL = 5 * 2**20


def render(
    settings: Settings, dialect: Dialect, *, memory_limit_bytes: int, lacking: Collection[str] = ()
) -> str:
    """Return the text of my.cnf for a node that may use `memory_limit_bytes` of memory.

    `lacking` are the plugins, of the dialect's, that are not to be loaded.
    """
    # Several nodes share a host only on loopback addresses; elsewhere the server may listen everywhere.
    loopback = _is_loopback(settings.node_address)
    pool = settings.innodb_buffer_pool_size or int(POOL_SHARE * memory_limit_bytes)
    values = {
        "include": _include(settings.mysql_conf_dir),
        "user": f"user = {settings.mysql_user_os}" if os.geteuid() == 0 else "",
        "datadir": str(settings.mysql_datadir),
        "socket": str(settings.socket),
        "pid_file": str(settings.pid_file),
        "port": str(settings.mysql_port),
        "bind_address": settings.node_address if loopback else "*",
        "admin_address": admin_address(settings),
        "admin_port": str(ADMIN_PORT),
        "report_host": settings.node_address,
        "server_id": str(server_id(settings)),
        "init_file": str(init_file(settings)),
        "buffer_pool": str(max(SMALLEST_POOL, pool)),
        "replica": dialect.replica,
        "source": dialect.source,
        "by_server": _lines(dialect.options(kept_s=2 * settings.backup_ttl + 86400)),
        "defaults": _lines(dialect.defaults),
        "plugins": "\n".join(f"plugin_load_add = {name}" for name in dialect.plugins if name not in lacking),
    }
    return Template(TEMPLATE.read_text()).substitute(values)


def _lines(options: Mapping[str, str]) -> str:
    return "\n".join(f"{name} = {value}" for name, value in options.items())


def write_config(settings: Settings) -> None:
    """Write my.cnf (MYSQL_CONF) for the server that is installed; it holds no secret.

    ConfigError if it cannot be written, there is no server, or a setting asks for more than this server can do.
    """
    version = server_version(settings)
    dialect = Dialect.of(version)
    _check(settings, dialect, version)
    memory = memory_limit()
    _write(settings.mysql_conf, render(settings, dialect, memory_limit_bytes=memory), mode=0o644)
    # Where the plugins are may stand in the user's own files, which my.cnf includes.
    plugins = Path(installed(settings)["plugin-dir"])
    lacking = [name for name in dialect.plugins if not (plugins / name).exists()]
    semisync = dialect.semisync_plugins
    if settings.durability == "semisync" and not set(semisync).isdisjoint(lacking):
        raise ConfigError(
            f"DURABILITY: semisync needs {' and '.join(semisync)}, which MySQL {version} lacks in {plugins}"
        )
    if lacking:
        text = render(settings, dialect, memory_limit_bytes=memory, lacking=lacking)
        _write(settings.mysql_conf, text, mode=0o644)


def _check(settings: Settings, dialect: Dialect, version: str) -> None:
    """Refuse names that the server would cut or not take (facts/mysql.md: 5.6 has 16 characters)."""
    longest = dialect.longest_user
    for name in ("MYSQL_USER", "MYSQL_REPL_USER"):
        if len(getattr(settings, name.lower()) or "") > longest:
            raise ConfigError(f"{name}: must have at most {longest} characters with MySQL {version}")


def init_file(settings: Settings) -> Path:
    """Where the statements are that mysqld runs at each start before it lets anybody in."""
    return settings.run_dir / "init.sql"


def write_init_file(settings: Settings) -> None:
    """Write the init file, for mysqld's user alone; my.cnf must be written already.

    It makes the hooks' own account and schema without the binlog; that works on a database whose passwords
    nobody knows. Then it closes the server, even where a persisted variable (SET PERSIST) would open it;
    last, because super_read_only from my.cnf comes into force only after this file, a SET at once
    (measured). Where the server has no auth_socket, the account gets a new password, which is in
    `client_file` until the next start.
    """
    has = installed(settings)
    dialect = Dialect.of(server_version(settings))
    statements = (
        *(("SET GLOBAL offline_mode = ON",) if "offline-mode" in has else ()),
        "SET SESSION sql_log_bin = 0",
        *dialect.own_account(f"'{LOCAL_ACCOUNT}'@'localhost'", _login(settings, dialect, has)),
        *TABLES,
        f"SET GLOBAL {'super_read_only' if 'super-read-only' in has else 'read_only'} = ON",
    )
    path = init_file(settings)
    _write(path, "".join(f"{statement};\n" for statement in statements), mode=0o600)
    if os.geteuid() == 0:
        try:
            os.chown(path, pwd.getpwnam(settings.mysql_user_os).pw_uid, -1)
        except KeyError:
            raise ConfigError(f"MYSQLD_USER: there is no OS user {settings.mysql_user_os!r}") from None


def _login(settings: Settings, dialect: Dialect, has: Mapping[str, str]) -> str:
    """How the hooks' own account is IDENTIFIED: by the socket, or by a password that is stored for them."""
    file = client_file(settings)
    if (Path(has["plugin-dir"]) / "auth_socket.so").exists():
        file.unlink(missing_ok=True)
        return f"WITH auth_socket AS '{_os_user()}'"
    password = secrets.token_urlsafe(24)
    lines = (f"user = {LOCAL_ACCOUNT}", f"password = {password}", f"socket = {settings.socket}")
    _write(file, "\n".join(["[client]", *lines, ""]), mode=0o600)
    return dialect.with_password(password)


def server_id(settings: Settings) -> int:
    """Return 32 bits of a hash of the node's name, never 0; whoever joins checks it against the primary's."""
    digest = hashlib.sha256(settings.node_name.encode()).digest()
    return int.from_bytes(digest[:4], "big") or 1


def admin_address(settings: Settings) -> str:
    """The loopback address of MySQL's administrative port; the node's own where nodes share a host."""
    return settings.node_address if _is_loopback(settings.node_address) else "127.0.0.1"


def memory_limit(root: Path = Path("/")) -> int:
    """Return, in bytes, the memory this node may use: the cgroup's limit, or the host's if that is less.

    A container sees its own cgroup at the top of the mounted tree; elsewhere the limits of all parents count.
    `root` is where /proc and /sys are.
    """
    limits = [_host_memory(root)]
    for line in _read(root / "proc/self/cgroup").splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0" and not controllers:
            top, name = root / "sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            top, name = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        group = Path(path.lstrip("/"))
        limits += [_limit(top / parent / name) for parent in (group, *group.parents)]
    return min(limits)


def _limit(file: Path) -> int:
    """A cgroup file's number; where it is `max` or the file is missing there is no limit."""
    text = _read(file).strip()
    return int(text) if text.isdigit() and int(text) > 0 else 2**63


def _host_memory(root: Path) -> int:
    for line in _read(root / "proc/meminfo").splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    raise ConfigError("INNODB_BUFFER_POOL_SIZE: the host's memory could not be found out; set it")


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""


def _include(directory: Path) -> str:
    """mysqld refuses to start when a directory that it shall include is missing."""
    return f"!includedir {directory}\n" if directory.is_dir() else ""


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


def _os_user() -> str:
    """The name of the OS user that runs the hooks, whom the server's auth_socket lets in."""
    try:
        name = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        raise ConfigError(
            f"the OS user {os.geteuid()} that runs the hooks has no name in the passwd file"
        ) from None
    return name.replace("\\", "\\\\").replace("'", "''")


def _write(path: Path, text: str, *, mode: int) -> None:
    """Replace the file whole, never readable by more than `mode` allows."""
    temporary = path.with_name(path.name + ".new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with open(descriptor, "w") as file:
            os.fchmod(descriptor, mode)
            file.write(text)
        os.replace(temporary, path)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from None
